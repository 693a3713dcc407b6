"""All explorers in a plain file, as an export of a notebook has them: nothing else is there."""

import os
from pathlib import Path

import pytest

from course_lib.codewalk import walk
from course_lib.example import TOKENS, K, Q, V
from course_lib.explorers import (
    CodeWalk,
    CompareExplorer,
    FlashExplorer,
    GenerationExplorer,
    MaskBuilder,
    MaskExplorer,
)
from tests.browser.explorer_page import act

pytestmark = pytest.mark.browser


def scaled_scores(q, k):
    scores = q @ k.T
    return scores / 2


def all_six():
    return {
        "mask": MaskExplorer(TOKENS, Q, K, V, row="sat"),
        "compare": CompareExplorer(TOKENS, Q, K, V),
        "walk": CodeWalk(walk(scaled_scores, Q, K), tokens=TOKENS),
        "generation": GenerationExplorer(),
        "builder": MaskBuilder(),
        "flash": FlashExplorer(row="on"),
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file with all six, as an export of a notebook has them."""
    path = tmp_path_factory.mktemp("file") / "explorers.html"
    shown = "".join(e._repr_mimebundle_()["text/html"] for e in all_six().values())
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    path.write_text(f"<!doctype html><html lang='en'><head>{head}<title>explorers</title></head>"
                    f"<body>{shown}</body></html>", "utf-8")  # fmt: skip
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_from_a_file_all_are_live_without_a_request_or_an_error(chromium, file, width):
    page = chromium.new_page(viewport={"width": width, "height": 900})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto(file.as_uri())
    live = page.locator("section.cx")
    assert live.count() == len(all_six())
    for at in range(live.count()):
        before = live.nth(at).inner_text()
        act(live.nth(at))
        assert live.nth(at).inner_text() != before
        if folder := os.environ.get("COURSE_SCREENSHOTS"):
            live.nth(at).screenshot(path=Path(folder) / f"file_{width}_{at}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert not errors
    page.close()


def test_without_scripts_and_on_paper_the_static_views_are_there(chromium, file):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    static = page.locator("[data-explorer]")
    assert static.count() == len(all_six()) and page.locator("section.cx").count() == 0
    for at in range(static.count()):
        assert static.nth(at).locator("img[alt], pre").first.is_visible()
    context.close()
    page = chromium.new_page()
    page.goto(file.as_uri())
    page.emulate_media(media="print")
    for at in range(len(all_six())):
        assert page.locator("[data-explorer]").nth(at).locator("img[alt], pre").first.is_visible()
        assert not page.locator("section.cx").nth(at).is_visible()
    page.close()


def test_a_script_that_fails_leaves_the_static_view(chromium):
    page = chromium.new_page()
    start = "function render(model, host) {"
    page.set_content(MaskExplorer(TOKENS, Q, K, V).live_html().replace(start, f"{start} null.x;"))
    assert page.locator("[data-explorer] img").is_visible()
    assert page.locator("section.cx").count() == 0
    page.close()
