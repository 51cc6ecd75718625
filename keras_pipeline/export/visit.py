"""Visit the page as a user would: put a photo into its file field, and read the answer off the screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.export.browser import PageError, open_browser, page_errors

if TYPE_CHECKING:  # an optional dependency
    from playwright.sync_api import Page

ANSWER_MS = 60_000


def show_photo(
    bundle_folder: Path,
    photo: Path,
    screenshot: Path | None = None,
    *,
    dark: bool = False,
    size: tuple[int, int] = (1120, 760),
) -> dict:
    """Open the page in headless Chromium, choose the photo and wait for the answer.

    Args:
        bundle_folder: of `write_bundle`.
        photo: any file; the page shows an error message for one that is no photo.
        screenshot: path of a PNG of the whole page with the answer; None takes none.
        dark: whether the visitor prefers dark colours.
        size: width and height of the window, CSS pixels.

    Returns:
        {state: "answered" | "failed", message, verdict, conclusive, species: [{latin_name, percent, probability}]}
        as displayed; `species` is empty when the page failed.

    Raises:
        BrowserMissing: where there is no Chromium.
        OSError: when the page breaks, or does not answer within a minute.
    """
    with serve_folder(bundle_folder) as base, open_browser() as browser:
        page = browser.new_page(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        page.set_default_timeout(ANSWER_MS)
        page.goto(base)
        try:
            with page_errors():
                page.wait_for_selector("body:not([data-state=loading])")
                if page.locator("body[data-state=ready]").count():
                    page.set_input_files("#choose", photo)
                    page.wait_for_selector("body[data-state=answered], body[data-state=failed]")
        except PageError as error:
            raise OSError(f"{bundle_folder}: the page gave no answer for {photo}: {error}") from error
        if screenshot:
            page.screenshot(path=str(screenshot), full_page=True)
        return _read(page)


def _read(page: Page) -> dict:
    state = page.get_attribute("body", "data-state")
    answer = {"state": state, "message": page.inner_text("#status") or page.text_content("#status")}
    if state != "answered":
        return {**answer, "verdict": None, "conclusive": False, "species": []}
    species = [
        {
            "latin_name": row.locator(".name").inner_text(),
            "percent": row.locator(".percent").inner_text(),
            "probability": float(str(row.get_attribute("data-probability"))),
        }
        for row in page.locator("#species li").all()
    ]
    conclusive = page.get_attribute("#answer", "data-conclusive") == "species"
    return {**answer, "verdict": page.inner_text("#verdict"), "conclusive": conclusive, "species": species}
