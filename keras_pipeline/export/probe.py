"""Ask the page, in a real browser, about stored photos, through its own classifier.js and worker."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # an optional dependency
    from playwright.sync_api import Browser, Page

PROBE = Path(__file__).parent / "probe.js"
TIMEOUT_MS = 600_000
SOFTWARE = re.compile("swiftshader|llvmpipe|software|basic render", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Renderer:
    """The hardware that a backend runs on, or its emulation."""

    name: str
    software: bool  # no graphics card behind it


class Probe:
    """A page opened for one backend."""

    def __init__(self, browser: Browser, page: Page, url: str, folder: Path):
        self._browser, self._page, self._url, self._folder = browser, page, url, folder
        self._numbers = itertools.count()
        page.evaluate(PROBE.read_text(encoding="utf-8"))

    @classmethod
    @contextlib.contextmanager
    def opened(cls, browser: Browser, url: str, folder: Path, requests: list[str]) -> Iterator[Probe]:
        """Open the page in a context of its own; yield its Probe.

        Args:
            browser: of `open_browser`.
            url: of the page's folder, with a slash at its end.
            folder: served one level above `url`; photos are put there.
            requests: the URLs that the page requests are appended to it.
        """
        context = browser.new_context()
        try:
            context.on("request", lambda request: requests.append(request.url))
            page = context.new_page()
            page.set_default_timeout(TIMEOUT_MS)
            page.goto(f"{url}index.html")
            yield cls(browser, page, url, folder)
        finally:
            context.close()

    def renderer(self, backend: str) -> Renderer | None:
        """Return the backend's renderer; None where this browser can't run the backend at all."""
        name = self._call("renderer", backend)
        return None if name is None else Renderer(name, backend in ("wasm", "cpu") or bool(SOFTWARE.search(name)))

    def load(self, backend: str) -> dict:
        """Load the model on a backend; return {load_ms, first_ms, classes}."""
        return self._call("load", {"page": self._url, "backend": backend})

    def tensors(self) -> int:
        """Return the number of tensors that the page holds."""
        return self._call("tensors")

    def answers(self, task: str, files: list[bytes], classes: int) -> dict:
        """Return the page's answers {probabilities float32 [N, C], ms, conclusive, names, refused, each [N]}.

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

    def peak_memory_mb(self) -> float | None:
        """Return the peak memory of the page's process in MB (10^6 bytes), including its share of the browser.

        None where the system doesn't report it.
        """
        session = self._browser.new_browser_cdp_session()
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        session.detach()
        peaks = [_peak_kib(process["id"]) for process in processes if process["type"] == "renderer"]
        return max((peak for peak in peaks if peak), default=0) * 1024 / 1e6 or None

    def _call(self, name: str, argument: object = None) -> Any:
        return self._page.evaluate(f"argument => globalThis.probe.{name}(argument)", argument)


def _peak_kib(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(match[1]) if match else None
    return None
