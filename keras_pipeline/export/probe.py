"""Ask the page, in a real browser, about stored photos, through its own classifier.js and worker."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_pipeline.export.browser import Engine, Page

PROBE = Path(__file__).parent / "probe.js"
SOFTWARE = re.compile("swiftshader|llvmpipe|software|basic render", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Renderer:
    """The hardware that a backend runs on, or its emulation."""

    name: str
    software: bool  # no graphics card behind it


class Probe:
    """A page opened for one backend."""

    def __init__(self, page: Page, url: str, folder: Path):
        self.page, self._url, self._folder = page, url, folder
        self._numbers = itertools.count()
        page.call(f"() => {{ {PROBE.read_text(encoding='utf-8')} }}")

    @classmethod
    @contextlib.contextmanager
    def opened(cls, engine: Engine, url: str, folder: Path, requests: list[str]) -> Iterator[Probe]:
        """Open the page with storage of its own; yield its Probe.

        Args:
            engine: the browser.
            url: of the page's folder, with a slash at its end.
            folder: served one level above `url`; photos are put there.
            requests: the URLs that the page requests are appended to it.

        Raises:
            PageError: where the page does not load. So do all methods where it raises, or gives no answer in time.
        """
        with engine.opened(f"{url}index.html", requests) as page:
            yield cls(page, url, folder)

    def renderer(self, backend: str) -> Renderer | None:
        """Return the backend's renderer; None where this browser can't run the backend at all."""
        name = self._call("renderer", backend)
        return (
            None
            if name is None
            else Renderer(name, backend in ("wasm", "wasm-threads", "cpu") or bool(SOFTWARE.search(name)))
        )

    def load(self, backend: str) -> dict:
        """Load the model on a backend; return {load_ms, first_ms, classes, threads}."""
        return self._call("load", {"page": self._url, "backend": backend})

    def tensors(self) -> int:
        """Return the number of tensors that the page holds."""
        return self._call("tensors")

    def answers(self, task: str, files: list[bytes], classes: int) -> dict:
        """Return the page's answers {probabilities float32 [N, C], ms, conclusive, off_list, names, refused, each [N]}.

        `refused` holds why the page refuses a photo, None where it answers.

        Args:
            task: predict, for tensors, which have no names, or classify, for photos.
            files: N tensors (float32, little-endian, RGB 0..255) or photos.
            classes: C.
        """
        stored = self._folder / f"samples-{next(self._numbers)}.bin"
        stored.write_bytes(b"".join(files))
        argument = {
            "task": task,
            "url": f"{self._url}../{stored.name}",
            "lengths": [len(file) for file in files],
            "classes": classes,
        }
        try:
            answers = self._call("answers", argument)
        finally:
            stored.unlink()
        raw = base64.b64decode(answers.pop("probabilities"))
        return {"probabilities": np.frombuffer(raw, "<f4").reshape(-1, classes), **answers}

    def _call(self, name: str, argument: object = None) -> Any:
        return self.page.call(f"argument => globalThis.probe.{name}(argument)", argument)
