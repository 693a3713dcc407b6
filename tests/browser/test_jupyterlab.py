"""A student opens a chapter in JupyterLab and runs all of it."""

import os
from pathlib import Path

import nbformat
import pytest

from course_lib import explorers
from course_tools.project import load_project
from tests.browser.exercise_session import KERNEL, run_all
from tests.helpers.paths import ROOT

NOTEBOOKS = [ROOT / f"{notebook.page}.ipynb" for notebook in load_project(ROOT).notebooks]
SCREENSHOTS = os.environ.get("COURSE_SCREENSHOTS")  # a folder to look at, if you want one

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("file", NOTEBOOKS, ids=[f.stem for f in NOTEBOOKS])
def test_run_all_cells_ends_without_an_error_and_every_figure_has_words(chromium, lab, file):
    code_cells = [c for c in nbformat.read(file, 4).cells if c.cell_type == "code"]
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"{lab}/tree/{file.relative_to(ROOT).as_posix()}?reset")
    page.wait_for_function(f"() => {KERNEL}?.status === 'idle'", timeout=30_000)
    run_all(page)

    errors, warnings, images, live = set(), set(), {}, set()
    for _ in _scroll(page):
        errors |= _texts(page, "[data-mime-type='application/vnd.jupyter.error']")
        warnings |= _texts(page, "[data-mime-type='application/vnd.jupyter.stderr']")
        images |= _images(page)
        live |= _live_explorers(page)
    if SCREENSHOTS:
        _photograph(page, Path(SCREENSHOTS), file.stem)
    page.close()
    assert not errors
    assert not warnings
    shown = [c for c in code_cells if _explorer(c)]
    assert live == {_explorer(c) for c in shown}, "explorers are live, not their pictures"
    figures = sum("<img alt=" in str(c.get("outputs")) for c in code_cells if c not in shown)
    assert len(images) >= figures and figures + len(shown) > 0
    for alt, width in images.items():
        assert len(alt) > 20 and width > 100, "a figure that is drawn and described"


def _scroll(page):
    """Move through the notebook a screen at a time: JupyterLab draws only what is near."""
    notebook = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer"
    page.eval_on_selector(notebook, "e => e.scrollTop = 0")
    for screen in range(200):
        page.wait_for_timeout(150)
        yield screen
        at_end = page.eval_on_selector(
            notebook,
            "e => { const b = e.scrollTop; e.scrollTop += e.clientHeight * 0.8;"
            " return e.scrollTop === b; }",
        )
        if at_end:
            return
    raise AssertionError("the notebook has no end")


def _texts(page, selector):
    return {element.inner_text() for element in page.query_selector_all(selector)}


def _images(page):
    return {
        image.get_attribute("alt") or "": image.evaluate("e => e.naturalWidth")
        for image in page.query_selector_all(".jp-OutputArea img")
    }


def _explorer(cell):
    """The section name of the explorer that a cell shows, or None."""
    for output in cell.get("outputs", []):
        name = output.get("data", {}).get("text/plain", "").partition(":")[0].split(" of ")[0]
        if name in explorers.__all__:
            words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
            return words.capitalize()
    return None


def _live_explorers(page):
    """The explorers that are drawn and say something."""
    return {
        section.get_attribute("aria-label")
        for section in page.query_selector_all(".jp-OutputArea section.cx")
        if section.query_selector(".cx-words").inner_text().strip()
    }


def _photograph(page, folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    for screen in _scroll(page):
        page.screenshot(path=folder / f"{name}_{screen:02}.png")
