"""`phase6 validate --verdict FILE`: judge what a device has reported, for the report; no gate depends on it."""

from __future__ import annotations

from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import read_json, write_json
from keras_pipeline.core.hashing import file_hash
from keras_pipeline.export import device_judgement, device_verdict
from keras_pipeline.export.saved_model import load_classifier
from keras_pipeline.export.tfjs import FILE_LIST
from keras_pipeline.export.verdict import DEVICES


def take_in(run: Run, file: Path) -> dict:
    """Judge a verdict and add it to those on this page; the same file once.

    Raises:
        ValueError: it is no verdict, or one on another page.
    """
    verdict = device_verdict.read(file)
    bundle, store = run.path("web"), run.path("equivalence").with_name(DEVICES)
    found = device_judgement.judge(verdict, bundle, load_classifier(run.path("saved_model")))
    found = {"file_sha256": file_hash(file), **found}
    page = file_hash(bundle / FILE_LIST)
    kept = read_json(store) if store.exists() else {}
    others = kept.get("verdicts", []) if kept.get("list_sha256") == page else []  # those on an older page are outdated
    others = [each for each in others if each["file_sha256"] != found["file_sha256"]]
    write_json(store, {"list_sha256": page, "verdicts": [*others, found]})
    print(f"{found['device']['user_agent']}: {'the same answers' if found['agrees'] else 'OTHER ANSWERS:'}")
    print(*(f"  {reason}" for reason in found["reasons"]), *_backends(found), sep="\n")
    return found


def _backends(found: dict) -> list[str]:
    return [
        f"  {each['name']} ({each['renderer']}): {each['n']} photos, {each['same_top1']} with the same species"
        for each in found["backends"]
    ]
