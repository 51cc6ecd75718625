"""The command line: commands, steps and their options; docs/commands.md is made from it.

python -m keras_pipeline.commands > docs/commands.md
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from keras_pipeline.core.redaction import redact
from keras_pipeline.phases.steps import BY_NAME, PHASES, STEPS

PROG = "python -m keras_pipeline"
DEMO = "configs/demo.yaml"
PHOTOS = "configs/photos.yaml"  # of `demo --images` with pretrained weights
EXIT_CODES = "0 done; 1 a gate was missed, or a leak; 2 usage or config; 3 source, disk, network or a broken artefact."
FORCE: dict[str, Any] = {"action": "store_true", "help": "run although up to date"}
DRY_RUN: dict[str, Any] = {"action": "store_true", "help": "only say what would run, and what it would take"}
NOT_BEAMS = frozenset({"--config", "--set", "--json", "--force", "--dry-run"})  # options that Beam has not
# Options of single steps, by the names in the table of steps.
FLAGS: dict[str, dict[str, Any]] = {
    "split": {"choices": ("train", "val", "calibration", "test"), "help": "which photos to judge it on (test)"},
    "refetch-older-records": {
        "action": "store_true",
        "help": "also fetch photos again whose records follow an older rule; what fails keeps its old record",
    },
    "runner": {"choices": ("local", "beam"), "help": "who does the work: this machine, or Apache Beam"},
    "beam-args": {"nargs": argparse.REMAINDER, "metavar": "…", "help": "Beam's own options; must come last"},
    "profile-input": {"action": "store_true", "help": "images/s of each stage of the input; trains nothing"},
    "sample-id": {"metavar": "ID", "help": "the train photo to look at; without it, an id that exists is named"},
    "live": {"action": "store_true", "help": "short for --set phase4.distill.live=true: teachers answer live"},
    "type": {"choices": ("fp16", "int8", "int8-qat", "none"), "help": "short for --set phase6.quantization=TYPE"},
    "photos": {"metavar": "DIR", "help": "short for --set phase6.photos=DIR: photos as they were taken"},
    "browser": {
        "choices": ("chromium", "firefox", "webkit"),
        "nargs": "+",
        "help": "short for --set phase6.browsers=[…]: one or more to compare in",
    },
    "verdict": {"metavar": "FILE", "help": "only take a device's verdict, of `serve --probe`, into the report"},
    "all": {"action": "store_true", "help": "short for --set phase6.validation_photos=null: all test photos"},
    "manifest": {"metavar": "FILE", "help": "needs no --config; default: the experiment's own"},
    "force": FORCE,
}


class _Once(argparse._StoreAction):
    """Store a value, and refuse none and another one: either is a mistake that would cost hours if it passed."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if values == "":
            parser.error(f"{option_string}: received '', expected a value; give one, or leave the option out")
        first = parser.given.setdefault(self.dest, values)
        if option_string and first != values:
            parser.error(f"{option_string}: received {first} and {values}, expected one of them; leave the other out")
        super().__call__(parser, namespace, values, option_string)


class Parser(argparse.ArgumentParser):
    """argparse's, which names what a misspelt word may mean."""

    def __init__(self, **settings: Any) -> None:
        """Take argparse's settings. Options can't be shortened: the next version may add another that begins so."""
        super().__init__(**settings | {"allow_abbrev": False})
        self.given: dict[str, Any] = {}  # values by their option, also of a phase by its step
        for name in (None, "store"):
            self.register("action", name, _Once)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; a misspelt option is told before the one that it was meant to be is missed."""
        args = list(sys.argv[1:] if args is None else args)
        if self.prog == PROG and args and args[0].startswith("--") and args[0] != "--help":
            option = args[0].partition("=")[0]
            self.error(f"received {option} before the command, expected the command first; put options behind it")
        if not self._subparsers:
            words = [word.partition("=")[0] for word in _before(args, "--", "--beam-args")]
            self._refuse(word for word in words if word.startswith("--") and word not in self._option_string_actions)
        found, rest = super().parse_known_args(args, namespace)
        self._refuse(rest)
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Exit with 2; a misspelt `--set` may be followed by a password."""
        super().error(redact(message))

    def _refuse(self, words: Iterable[str]) -> None:
        steps = {step.name: step.title for step in reversed(STEPS)}
        for word in words:
            if word in steps and "--from" in self._option_string_actions:
                titles = [f"{phase} {word}" for phase in (self.given.get("first"), self.given.get("last"))]
                meant = next((step.title for step in STEPS if step.title in titles), steps[word])
                self.error(
                    f"received {word} as a word of its own, expected a phase and its step in quotes; write '{meant}'"
                )
            if re.match(r"[\w.]+\s*=", word):
                self.error(
                    f"received {word} without an option before it, expected --set before each key; write --set {word}"
                )
            options = [name for name, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS]
            meant, known = _meant(word, options), ", ".join(name for name in options if name.startswith("--"))
            self.error(f"received {word}{meant}, expected one of {known}; correct it, or leave it out")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = list(map(str, action.choices or ()))
        if choices and value not in choices:
            received = f"received {value!r}{_meant(value, choices)}, expected one of {', '.join(choices)}; correct it"
            raise argparse.ArgumentError(action, received)


def _before(words: list[str], *ends: str) -> list[str]:
    """Return the words before the first of `ends`."""
    return words[: next((i for i, word in enumerate(words) if word.partition("=")[0] in ends), None)]


def _meant(word: str, names: list[str]) -> str:
    close = difflib.get_close_matches(word.partition("=")[0], names, 1, 0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def parser() -> Parser:
    """The whole command line; see `reference` too."""
    whole = Parser(prog=PROG, description=EXIT_CODES)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for phase, (_, help_text) in PHASES.items():
        _phase(commands, phase, help_text)
    for name, help_text in (
        ("run", "everything that isn't up to date"),
        ("demo", "the same on drawn photos, or on yours"),
    ):
        command = _command(commands, name, help_text, needs_config=name == "run")
        command.add_argument("--from", dest="first", metavar="P", help="phase or 'phase step' to begin with")
        command.add_argument("--until", dest="last", metavar="P", help="phase or 'phase step' to end with")
        command.add_argument("--force", **FORCE)
        command.add_argument("--dry-run", **DRY_RUN)
        if name == "demo":
            command.set_defaults(config=DEMO)
            command.add_argument("--images", metavar="DIR", help="a folder of photos instead of drawn ones")
            command.add_argument(
                "--labels",
                metavar="CSV",
                help="image (a path below DIR, with its suffix), latin_name[, region, observation_id]",
            )
            command.add_argument(
                "--weights",
                metavar="FILE",
                help="MobileNetV2's ImageNet weights (.weights.h5), with --images; default: download, if possible",
            )
    command = _command(commands, "load", "put public files into the collection: GBIF, iNaturalist, Pl@ntNet, JSON")
    command.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="Darwin Core archive, iNaturalist's CSV or API answer, Pl@ntNet-300K's metadata, JSON lines",
    )
    command.add_argument(
        "--into-existing",
        action="store_true",
        help="also into a collection that `load` did not make; nothing is deleted",
    )
    _command(commands, "status", "what is done, stale, broken or missing")
    _command(commands, "report", "write report.html again")
    command = _command(commands, "serve", "serve the page on loopback")
    command.add_argument("--port", type=_port, default=8000, metavar="N", help="8000; 0: any free")
    command.add_argument(
        "--probe", action="store_true", help="a page that checks the visiting device instead; ends after an hour"
    )
    command.add_argument("--host", metavar="ADDRESS", help="of this machine, for other devices; goes with --probe")
    command.add_argument("--cert", type=Path, metavar="PEM", help="your own certificate, for HTTPS; goes with --probe")
    command.add_argument("--key", type=Path, metavar="PEM", help="its key, unless it is in the same file")
    command = _command(commands, "classify", "name photos with the SavedModel")
    command.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    command.add_argument("--region", metavar="NAME", help="where it grew wild, if region priors are shipped")
    _command(commands, "doctor", "what this machine has: GPU, browser, MongoDB, disk, versions")
    return whole


def _phase(commands: argparse._SubParsersAction[Parser], phase: str, help_text: str) -> None:
    """A phase and its steps. Without a step, the options are the phase's; both places take the common ones."""
    command = _command(commands, phase, help_text, needs_config=False)  # it may stand behind the step
    command.add_argument("--force", **FORCE)
    command.add_argument("--dry-run", **DRY_RUN)
    steps = command.add_subparsers(dest="step", metavar="STEP", help="none: all that belong to `run`")
    for step in (step for step in [*STEPS, *BY_NAME] if step.phase == phase):
        # What is not given here must not hide what was given before the step's name.
        added = steps.add_parser(step.name, help=step.help, description=step.help, argument_default=argparse.SUPPRESS)
        added.given = command.given
        _common(added, set_as="more_set")
        # A step by name takes neither, unless it says so: parsed, so that `run.phase` can say it before or behind it.
        for flag, settings in (("force", FORCE), ("dry-run", DRY_RUN)):
            if flag not in step.flags:
                hidden = {} if step.outputs else {"help": argparse.SUPPRESS}
                added.add_argument(f"--{flag}", **settings | hidden)
        for flag in step.flags:
            added.add_argument(f"--{flag}", **FLAGS[flag])


def _command(
    commands: argparse._SubParsersAction[Parser], name: str, help_text: str, *, needs_config: bool = True
) -> Parser:
    command = commands.add_parser(name, help=help_text, description=help_text)
    _common(command, required=needs_config)
    command.set_defaults(set=[], more_set=[], step=None, flags={})
    return command


def _common(command: argparse.ArgumentParser, *, required: bool = False, set_as: str = "set") -> None:
    command.add_argument("--config", required=required, metavar="YAML", help="experiment")
    command.add_argument(
        "--set", dest=set_as, action="append", type=_setting, metavar="A.B=VALUE", help="override a config key"
    )
    command.add_argument("--json", action="store_true", help="result as JSON on stdout, messages on stderr")


def _setting(text: str) -> str:
    key, separator, value = text.partition("=")
    return f"{key.strip()}{separator}{value}"  # a blank before the = can't be seen in a message


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"received {text}, expected a number from 0 to 65535")
    return int(text)


HEAD = """# Every command

Made from the parser in `keras_pipeline/commands.py` by
`python -m keras_pipeline.commands > docs/commands.md`; a test compares. Every command is
`python -m keras_pipeline COMMAND`. Exit codes: {codes}

Each command takes `--config YAML` (the experiment; `demo` has one of its own), `--set A.B=VALUE`
(override a config key; repeatable, with other keys) and `--json` (the result as JSON on stdout,
messages on stderr).
A phase without a step runs all its steps, except those marked "by name only". A phase's `--force`
and `--dry-run` go with its steps too, before or behind their names; a step "by name only" takes
them only where its options list them.
"""
COMMON = frozenset({"help", "config", "set", "more_set", "json"})


def reference() -> str:
    """Markdown: every command and step with the options of its own."""
    return "\n".join([HEAD.format(codes=EXIT_CODES), *_sections(parser())])


def _sections(whole: argparse.ArgumentParser) -> Iterator[str]:
    for name, command in _choices(whole).items():
        yield f"## {name}\n\n{command.description}\n"
        yield from _options(command)
        steps = _choices(command)
        by_name = {step.name for step in BY_NAME if step.phase == name}
        if steps:
            yield "| step | what it does | options of its own |"
            yield "| --- | --- | --- |"
            for step, added in steps.items():
                in_all = frozenset() if step in by_name else frozenset({"force", "dry_run"})
                own = "; ".join(f"`{_usage(action)}`: {action.help}" for action in _own(added, in_all))
                only = " (by name only)" * (step in by_name)
                yield f"| `{step}`{only} | {added.description} | {own} |"
            yield ""


def _options(command: argparse.ArgumentParser) -> Iterator[str]:
    own = list(_own(command))
    for action in own:
        yield f"- `{_usage(action)}`: {action.help or action.dest}"
    if own:
        yield ""


def _own(command: argparse.ArgumentParser, besides: frozenset[str] = frozenset()) -> Iterator[argparse.Action]:
    for action in command._actions:
        hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction)
        if action.dest not in COMMON | besides and not hidden:
            yield action


def _usage(action: argparse.Action) -> str:
    value = action.metavar or (" or ".join(map(str, action.choices)) if action.choices else "")
    return " ".join(filter(None, [*action.option_strings[-1:], str(value) if action.nargs != 0 else ""]))


def _choices(command: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action.choices for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    return found[0] if found else {}


if __name__ == "__main__":
    print(reference(), end="")
