"""python -m keras_pipeline <phase> <step>: parse, import what is needed, exit code.

0 done; 1 a gate was missed, or a leak; 2 usage or config; 3 source, disk, network or a broken artefact.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from keras_pipeline.core import quiet

# Here, because the tables of steps live in modules that take too long to import for --help; a test compares them.
PHASE_STEPS = {
    "phase0": ("audit", "validate-urls", "export", "split", "baseline"),
    "phase1": ("train", "evaluate", "logits"),
    "phase2": ("subset", "train", "evaluate", "logits"),
    "phase3": ("combine", "check", "export-npz", "inspect"),
    "phase4": ("distill", "finetune", "evaluate", "plot"),
    "phase5": ("calibrate", "temperature", "threshold"),
    "phase6": ("quantize", "export", "validate"),
    "phase7": ("manifest", "verify", "reproduce"),
}
PHASE_HELP = {
    "phase0": "audit the collection, export TFRecords, split, baseline",
    "phase1": "global teacher",
    "phase2": "regional teacher",
    "phase3": "combined soft labels; export-npz and inspect, for people who want to look, run only by name",
    "phase4": "student: distillation, then fine-tuning",
    "phase5": "calibration and the 'not conclusive' threshold",
    "phase6": "shipped weights, SavedModel, web page, proof in a browser",
    "phase7": "manifest; verify and reproduce run only by name",
}

DEMO = "configs/demo.yaml"
# HDF5 crashes where it lets go of a file that a full disk has left half-written: the error holds on to it to the end.
_kept: list[OSError] = []
_GO_ON = "then the same command goes on where it stopped"
OS_REMEDIES = {
    errno.ENOSPC: f"; free space on that disk, {_GO_ON}",
    errno.EDQUOT: f"; free some of your quota on that disk, {_GO_ON}",
    errno.EFBIG: f"; raise the limit on file size (`ulimit -f`, or the file system's), {_GO_ON}",
    errno.EACCES: "; expected a place that can be read and written: give another one, or the rights",
    errno.EROFS: "; expected a place that can be written to: --set root=DIR gives another one",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m keras_pipeline", description=__doc__.split("\n")[2])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for phase, steps in PHASE_STEPS.items():
        command = _command(commands, phase, PHASE_HELP[phase])
        command.add_argument("step", nargs="?", choices=steps, metavar="STEP", help=f"{', '.join(steps)}; none: all")
        command.add_argument("--force", action="store_true", help="run although up to date")
        command.add_argument(
            "--dry-run", action="store_true", help="only say what would run, and how large it would be"
        )
        command.add_argument(
            "--split", choices=("train", "val", "calibration", "test"), default="test", help="of evaluate (test)"
        )
        if phase in ("phase0", "phase1", "phase2"):
            command.add_argument(
                "--runner", choices=("local", "beam"), default="local", help="of export and logits: who does the work"
            )
            command.add_argument(
                "--beam-args", nargs=argparse.REMAINDER, default=[], metavar="…", help="Beam's own; the last of all"
            )
        if phase in ("phase1", "phase2"):
            command.add_argument(
                "--profile-input",
                action="store_true",
                help="of train: images/s of each stage of the input; trains nothing",
            )
        if phase == "phase3":
            command.add_argument("--sample-id", metavar="ID", help="of inspect: the train photo to look at")
        if phase == "phase4":
            command.add_argument(
                "--live",
                action="store_true",
                help="of distill: as --set phase4.distill.live=true, teachers answer live",
            )
        if phase == "phase7":
            command.add_argument(
                "--manifest", metavar="FILE", help="of reproduce: needs no --config; the experiment's own if not given"
            )
        if phase == "phase6":
            command.add_argument(
                "--photos", metavar="DIR", help="of validate: as --set phase6.photos=DIR, photos as they were taken"
            )
            command.add_argument(
                "--all",
                action="store_true",
                help="of validate: as --set phase6.validation_photos=null, all test photos",
            )
            command.add_argument(
                "--type", choices=("fp16", "int8", "int8-qat", "none"), help="as --set phase6.quantization=TYPE"
            )
    for name, help_text in (
        ("run", "everything that isn't up to date"),
        ("demo", "the same on drawn photos, or on yours"),
    ):
        command = _command(commands, name, help_text, default=DEMO if name == "demo" else None)
        command.add_argument("--from", dest="first", metavar="P", help="phase or 'phase step' to begin with")
        command.add_argument("--until", dest="last", metavar="P", help="phase or 'phase step' to end with")
        command.add_argument("--force", action="store_true", help="run although up to date")
        command.add_argument("--dry-run", action="store_true", help="only say what would run")
        if name == "demo":
            command.add_argument("--images", metavar="DIR", help="a folder of photos instead of drawn ones")
            command.add_argument(
                "--labels",
                metavar="CSV",
                help="image (a path below DIR, with its suffix), latin_name[, region, observation_id]",
            )
    _command(commands, "status", "what is done, stale or missing")
    _command(commands, "report", "write report.html again")
    command = _command(commands, "serve", "serve the page on loopback")
    command.add_argument("--port", type=_port, default=8000, metavar="N", help="8000; 0: any free")
    command = _command(commands, "classify", "name photos with the SavedModel")
    command.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    command.add_argument("--region", metavar="NAME", help="where it grew wild, if region priors are shipped")
    _command(commands, "doctor", "what this machine has: GPU, browser, MongoDB, disk, versions")
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"received {text}, expected a number from 0 to 65535")
    return int(text)


def _command(commands, name: str, help_text: str, default: str | None = None) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help_text, description=help_text)
    # A manifest can stand for it: `_config_of_manifest` asks for one of the two.
    required = default is None and name != "phase7"
    command.add_argument("--config", required=required, default=default, metavar="YAML", help="experiment")
    command.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override a config key")
    command.add_argument("--json", action="store_true", help="result as JSON on stdout, messages on stderr")
    return command


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of child processes too
    if "tensorflow" not in sys.modules and not any(isinstance(each, quiet.QuietImport) for each in sys.meta_path):
        sys.meta_path.insert(0, quiet.QuietImport())
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from keras_pipeline.core.errors import BrokenArtefact, LeakError, SourceError

    try:
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            result, code = _dispatch(options)
    except LeakError as error:
        return _fail(error, 1)
    except (SourceError, BrokenArtefact) as error:
        return _fail(error, 3)
    except OSError as error:
        _kept.append(error)
        return _fail(f"{error}{OS_REMEDIES.get(error.errno, '')}", 3)
    except ValueError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on where it stopped", 130)
    if options.json:
        try:
            print(json.dumps(result, indent=2, ensure_ascii=False), flush=True)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _fail(error: object, code: int) -> int:
    from keras_pipeline.core.redaction import redact

    print(f"error: {redact(str(error))}", file=sys.stderr)
    return code


def _dispatch(options: argparse.Namespace) -> tuple[object, int]:
    """(what --json prints, exit code)"""
    from keras_pipeline.core.artifacts import Run

    config = _config(options)
    run = Run(config, _open_source, getattr(options, "split", "test"), beam=_beam(options))
    if options.command.startswith("phase"):
        return _phase(run, options)
    return COMMANDS[options.command](run, options)


def _beam(options: argparse.Namespace) -> tuple[str, ...] | None:
    if getattr(options, "runner", "local") == "local":
        if getattr(options, "beam_args", []):
            raise ValueError("--beam-args goes with --runner beam")
        return None
    if options.step not in ("export", "logits"):
        raise ValueError(f"--runner beam goes with export and logits, received {options.command} {options.step or ''}")
    return tuple(options.beam_args)


def _config(options: argparse.Namespace):
    from keras_pipeline.core.config import load

    if options.config == DEMO and not Path(DEMO).exists():
        options.config = _installed_demo()
    if not options.config:
        return _config_of_manifest(options)
    images, labels = getattr(options, "images", None), getattr(options, "labels", None)
    if getattr(options, "live", False):
        if options.step not in (None, "distill"):
            raise ValueError(f"--live goes with distill, received {options.command} {options.step}")
        options.set.append("phase4.distill.live=true")
    if getattr(options, "type", None):
        options.set.append(f"phase6.quantization={options.type}")
    if options.command == "phase6":
        for flag, step in (("photos", "validate"), ("all", "validate"), ("type", "quantize")):
            if getattr(options, flag) and options.step not in (None, step):
                raise ValueError(f"--{flag} goes with {step}, received {options.command} {options.step}")
        if options.photos is not None:
            options.set.append(f"phase6.photos={json.dumps(options.photos)}")
        if options.all:
            options.set.append("phase6.validation_photos=null")
    if not (images or labels):
        return load.from_file(options.config, options.set)
    own = [f"source.demo.{key}={json.dumps(value)}" for key, value in (("images", images), ("labels", labels))]
    own.append(f"experiment={json.dumps('demo-' + Path(images or '.').resolve().name)}")
    # The config knows how many photos it draws, and which regions those have; not so of a folder.
    own += ["gates.valid_photos_min=null", "gates.valid_photos_max=null"]
    loaded = load.from_file(options.config, own + options.set)
    return load.from_file(options.config, own + _regional(loaded, options) + options.set)


def _installed_demo() -> str:
    """The copy that an installed package carries, else the place in the sources, which the error then names."""
    from importlib import metadata

    copy = f"share/keras_pipeline/{DEMO}"
    places = [Path(__file__).parents[1] / copy]  # pip's --target
    with contextlib.suppress(metadata.PackageNotFoundError):
        found = metadata.files("keras_pipeline") or ()
        places += [Path(file.locate()).resolve() for file in found if file.match(copy)]
    return next((str(place) for place in places if place.exists()), DEMO)


def _regional(config, options: argparse.Namespace) -> list[str]:
    """What a folder's regions change in the config, as `--set` would: a regional teacher of one of them, or none."""
    from keras_pipeline.core.config.student import REGIONAL_TEACHER
    from keras_pipeline.demo import herbarium
    from keras_pipeline.phases import preflight

    photos = herbarium.regions(Path(options.images), Path(options.labels))
    if config.phase2 is None:
        return []
    region = config.phase2.region
    if not any(each.startswith("phase2.region=") for each in options.set):
        region = preflight.choose_region(config, photos)
    if region is None:
        counted = ", ".join(f"{name} {n:,}" for name, n in photos.items())
        print(f"{options.labels}: no region with photos enough to tell from the rest ({counted}): no regional teacher")
        return ["phase2=null"]
    if region != config.phase2.region:
        print(f"{options.labels}: too few photos of {config.phase2.region}; the regional teacher learns from {region}")
    filters = [
        f"phase3.teachers.{i}.region_filter={json.dumps(region)}"
        for i, member in enumerate(config.phase3.teachers)
        if member.path == REGIONAL_TEACHER and member.region_filter is not None
    ]
    return [f"phase2.region={json.dumps(region)}", *filters]


def _config_of_manifest(options: argparse.Namespace):
    from keras_pipeline.core import manifest
    from keras_pipeline.core.config import load

    if not getattr(options, "manifest", None):
        raise ValueError(f"{options.command}: --config is missing; expected a YAML file, see configs/")
    return load.with_overrides(manifest.read(Path(options.manifest)).config, options.set, options.manifest)


@contextlib.contextmanager
def _open_source(config) -> Iterator[tuple[str, str | None]]:
    """(URI of the MongoDB, base URL of relative photo URLs) while the context is open."""
    source = config.source
    if source.uri != "embedded":
        yield source.uri, source.base_url
        return
    from keras_pipeline.core.artifacts import Run
    from keras_pipeline.demo import embedded, herbarium

    run = Run(config, None)
    folder, photos = run.folder / "source", run.embedded_photos
    if source.demo.images:
        documents = lambda: herbarium.folder_documents(photos, Path(source.demo.labels))  # noqa: E731
    else:
        photos.mkdir(parents=True, exist_ok=True)
        wanted = source.demo.model_dump(include={"species", "photos", "regional_shift"})
        documents = lambda: herbarium.draw(photos, seed=config.seed, **wanted)  # noqa: E731
    with embedded.source(
        folder / "mongo", documents=documents, photos=photos, database=source.database, collection=source.collection
    ) as opened:
        yield opened


def _phase(run, options: argparse.Namespace) -> tuple[object, int]:
    from keras_pipeline.phases import runner

    if options.step and (absent := run.why_not_applicable(options.command)):
        raise ValueError(f"{options.command} {options.step}: not applicable here: {absent}")
    if options.dry_run and options.step in ("export-npz", "inspect", "verify", "reproduce"):
        raise ValueError(f"{options.command} {options.step}: has no --dry-run; leave it out")
    if options.force and options.step in ("export-npz", "inspect", "verify"):
        raise ValueError(f"{options.command} {options.step}: has no --force; leave it out")
    if options.split != "test" and options.step != "evaluate":
        raise ValueError(f"--split {options.split} goes with evaluate, received {options.command} {options.step or ''}")
    if getattr(options, "manifest", None) and options.step != "reproduce":
        raise ValueError(f"--manifest goes with reproduce, received {options.command} {options.step or ''}".rstrip())
    if options.step == "verify":
        checked = runner.verify(run)
        stale = [row["step"] for row in runner.status(run) if row["state"] not in ("done", "not applicable")]
        if stale:
            print(f"not up to date, see `status`: {', '.join(stale)}")
        return {"verified": checked, "not_up_to_date": stale}, 0
    if options.step == "reproduce":
        from keras_pipeline.phases import reproducing

        file = Path(options.manifest) if options.manifest else run.path("manifest")
        result = reproducing.reproduce(run, file, force=options.force)
        return result, int(not result["same"])
    name = f"{options.command} {options.step}" if options.step else options.command
    if getattr(options, "sample_id", None) and options.step != "inspect":
        raise ValueError(f"--sample-id goes with inspect, received {name}")
    if options.step in ("export-npz", "inspect"):
        return _look(run, options), 0
    if getattr(options, "profile_input", False):
        if options.step != "train":
            raise ValueError(f"--profile-input goes with train, received {name}")
        return runner.profile_input(run, options.command), 0
    steps = runner.steps_between(name, name)
    if options.split != "test":
        runner.evaluate_split(run, steps[0])
        return {}, 0
    if options.dry_run:
        rows, _ = _dry_run(run, steps, options.force)
        sizes = runner.estimate(run, steps) if options.step else {}
        print(*(f"{step}: {size}" for step, size in sizes.items()), sep="\n")
        return {"would_run": rows, "estimates": sizes}, 0
    return _gated(run, steps, options.force)


def _look(run, options: argparse.Namespace) -> dict:
    from keras_pipeline.phases import soft_label_views

    if options.step == "export-npz":
        return soft_label_views.export_npz(run)
    if not options.sample_id:
        raise ValueError("inspect needs --sample-id ID, the id of a train photo")
    return soft_label_views.inspect(run, options.sample_id)


def _dry_run(run, steps, force: bool) -> tuple[object, int]:
    from keras_pipeline.core.progress import duration
    from keras_pipeline.phases import cost, runner

    rows = runner.would_run(run, steps, force=force)
    if not rows:
        print("everything is up to date")
        return rows, 0
    print(f"{'step':<22}{'about':>10}{'GB':>9}{'last took':>11}  why")
    for row in rows:
        last = "" if row["last"] is None else duration(row["last"])
        print(f"{row['step']:<22}{duration(row['seconds']):>10}{row['gigabytes']:>9.3f}{last:>11}  {row['reason']}")
    photos, origin = cost.photos(run)
    seconds, gigabytes = (sum(row[key] for row in rows) for key in ("seconds", "gigabytes"))
    print(
        f"together about {duration(seconds)} and {gigabytes:.3g} GB (free {cost.free_bytes(run) / 1e9:.3g} GB) on "
        f"{cost.device().name}, for {photos['train']:,} train photos by {origin}; a forecast"
    )
    runner.check_ahead(run, steps, force=force)
    return rows, 0


def _gated(run, steps, force: bool) -> tuple[object, int]:
    from keras_pipeline.phases import gates, runner

    verdicts = runner.execute(run, steps, force=force)
    for verdict in verdicts:
        print(gates.describe(verdict))
    return {"gates": verdicts}, int(any(verdict["status"] == "missed" for verdict in verdicts))


def _run(run, options: argparse.Namespace) -> tuple[object, int]:
    from keras_pipeline.phases import runner, summary

    steps = runner.steps_between(options.first, options.last)
    if options.dry_run:
        return _dry_run(run, steps, options.force)
    result, code = _gated(run, steps, options.force)
    if run.assists:
        return result, code
    print(f"report: {summary.write(run)}")
    if run.path("web").exists():
        other = "".join(f" --set {each}" for each in options.set if each.startswith(("root=", "experiment=")))
        print(f"page: {run.path('web')}; see it with `python -m keras_pipeline serve --config {options.config}{other}`")
    return result, code


def _demo(run, options: argparse.Namespace) -> tuple[object, int]:
    """`run`, and then the page asked about test photos in a real browser; exit 1 when it names none of them right.

    Of a folder of photos the config is written out, so that `status`, `serve` and the phases can be asked about it.
    """
    if options.images and not options.dry_run:
        from keras_pipeline.core.config import load

        options.config, options.set = load.write(run.folder / "config.yaml", run.config), []
        print(f"config: {options.config}; every other command takes it: --config {options.config}")
    result, code = _run(run, options)
    if options.dry_run or run.assists or not run.path("web").exists():
        return result, code
    from keras_pipeline.phases import page_visit

    visits = page_visit.visit(run)
    for row in visits:
        verdict = "right" if row["answer"] == row["truth"] else "wrong"
        conclusive = "" if row["conclusive"] else ", not conclusive"
        print(f"the page on a test photo of {row['truth']}: {row['answer']} {row['percent']} ({verdict}{conclusive})")
    print(f"screenshot: {run.folder / 'page.png'}")
    named = any(row["answer"] == row["truth"] for row in visits)
    return {**result, "page": visits}, code if named else 1


def _status(run, options: argparse.Namespace) -> tuple[object, int]:
    from keras_pipeline.core.progress import duration
    from keras_pipeline.phases import runner

    rows = runner.status(run)
    print(f"{'step':<22}{'state':<15}{'took':>10}  {'finished':<22}why")
    for row in rows:
        took = "" if row["seconds"] is None else duration(row["seconds"])
        line = f"{row['step']:<22}{row['state']:<15}{took:>10}  {row['finished'] or '':<22}{row['reason'] or ''}"
        print(line.rstrip())
    return rows, 0


def _report(run, options: argparse.Namespace) -> tuple[object, int]:
    from keras_pipeline.phases import runner, summary

    path = summary.write(run, again=True)
    stale = [row["step"] for row in runner.status(run) if row["state"] == "stale"]
    if stale:
        print(f"not up to date, so that its figures may not belong together: {', '.join(stale)}; see `status`")
    print(path)
    return {"report": str(path), "not_up_to_date": stale}, 0


def _serve(run, options: argparse.Namespace) -> tuple[object, int]:
    import threading

    from keras_pipeline.core.static_server import serve_folder

    folder = run.path("web")
    if not (folder / "index.html").exists():
        raise ValueError(f"{folder}: no page yet; run `python -m keras_pipeline run --config {options.config}` first")
    with serve_folder(folder, options.port) as url:
        print(f"{url} (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return {}, 0


def _classify(run, options: argparse.Namespace) -> tuple[object, int]:
    absent = [str(photo) for photo in options.photos if not photo.is_file()]
    if absent:  # said before TensorFlow has taken its seconds
        raise ValueError(f"{', '.join(absent)}: no such file, or a folder or a pipe; expected photos")
    from keras_pipeline.export import saved_model

    answers = saved_model.classify(run.path("saved_model"), options.photos, options.region)
    for answer in answers:
        if "error" in answer:
            print(f"error: {answer['photo']}: {answer['error']}", file=sys.stderr)
            continue
        verdict = answer["latin_name"] if answer["conclusive"] else f"not conclusive ({answer['latin_name']}?)"
        genus = f"; genus {answer['genus']}, {answer['genus_probability']:.1%}" if answer["genus_conclusive"] else ""
        promise = "" if answer["promise"] is None else f"; right in at least {int(100 * answer['promise'])} % of cases"
        print(f"{answer['photo']}: {verdict}, {answer['probability']:.1%}{genus}{promise}")
    return answers, 2 if any("error" in answer for answer in answers) else 0


def _doctor(run, options: argparse.Namespace) -> tuple[object, int]:
    from keras_pipeline.phases import doctor

    rows = doctor.examine(run)
    for row in rows:
        print(f"{'ok' if row['ok'] else 'MISSING':<8}{row['what']}: {row['detail']}")
    return rows, 0 if all(row["ok"] for row in rows) else 3


COMMANDS = {
    "run": _run, "demo": _demo, "status": _status, "report": _report, "serve": _serve, "classify": _classify,
    "doctor": _doctor,
}  # fmt: skip

if __name__ == "__main__":
    code = main()
    if _kept:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
