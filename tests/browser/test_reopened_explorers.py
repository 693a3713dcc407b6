"""A saved notebook with explorers, opened again in JupyterLab and in Notebook 7.

The notebooks are the course's own. "Without a kernel" means that the one it was written with is
not there: both applications ask, and are told that there is none.
"""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.browser.exercise_session import CELLS, KERNEL, run_all
from tests.browser.explorer_page import act
from tests.browser.servers import serve
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.browser

CHAPTERS = ("02_tril_mask", "03_mask_before_softmax", "05_kv_cache", "06_prefix_lm",
            "07_flash_on_gpu")  # fmt: skip
APPS = {
    "jupyterlab": ("--LabApp.expose_app_in_browser=True", "lab", "lab/tree"),
    "notebook": ("--JupyterNotebookApp.expose_app_in_browser=True", "tree", "notebooks"),
}
#: What edits a notebook when it is not kept inside: cut, cells above and below, delete, edit, ...
KEYS = ("x", "b", "a", "d", "d", "c", "v", "m", "z", "Enter", "Escape", "ArrowDown", "ArrowUp")


@pytest.fixture(scope="module", params=APPS)
def app(request, tmp_path_factory):
    """The address of a notebook in an application, and what trusts a notebook there."""
    option, start, path = APPS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    for name in CHAPTERS:
        for kind in ("kernel", "trusted", "untrusted"):
            notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
            # What is trusted is a content: the same in another file would be trusted too.
            notebook.metadata.kind = kind
            if kind != "kernel":
                gone = {"name": "gone", "language": "gone", "display_name": "Gone"}
                notebook.metadata.pop("language_info")
                notebook.metadata.kernelspec = gone
            nbformat.write(notebook, folder / f"{name}-{kind}.ipynb")
    trusted = [folder / f"{name}-trusted.ipynb" for name in CHAPTERS]
    subprocess.run(
        [sys.executable, "-m", "jupyter", "trust", *map(str, trusted)], check=True, cwd=folder,
        env={**os.environ, "JUPYTER_DATA_DIR": str(folder / "data")}, capture_output=True,
    )  # fmt: skip

    def command(options):
        return [sys.executable, "-m", request.param, *options, "--IdentityProvider.token=", option]

    with serve(command, folder, start) as address:
        yield f"{address}/{path}"


@pytest.fixture
def opened(chromium, app):
    """Open a chapter: "kernel", or "trusted" or "untrusted" without one."""
    pages = []

    def do(name, kind):
        page = chromium.new_page(viewport={"width": 1280, "height": 1000})
        pages.append(page)
        page.goto(f"{app}/{name}-{kind}.ipynb?reset")  # as if nothing else was ever open
        if kind != "kernel":
            page.locator(".jp-Dialog-button", has_text="No Kernel").click()
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
        page.wait_for_function(f"() => {CELLS}.length > 10")
        return page

    yield do
    for page in pages:
        page.close()


def show_explorers(page):
    """Scroll to the outputs of the explorers, one after another, and yield each."""
    places = page.evaluate(
        f"() => {CELLS}.flatMap((cell, i) => cell.model.type === 'code' &&"
        " cell.model.outputs.toJSON().some((o) =>"
        " [o.data?.['text/html'] ?? ''].flat().join('').includes('data-explorer=')) ? [i] : [])"
    )
    for place in places:
        page.evaluate(
            "async (place) => { const book = window.jupyterapp.shell.currentWidget.content;"
            " book.activeCellIndex = place; await book.scrollToItem(place, 'start'); }",
            place,
        )
        yield page.locator(".jp-Cell.jp-mod-active .jp-OutputArea-output").last


def sources(page):
    """The cells of the notebook as it is now."""
    return page.evaluate(
        f"() => {CELLS}.map((cell) => [cell.model.type, cell.model.sharedModel.source])"
    )


def no_error(page):
    for words in ("Error displaying widget", "model not found", "Javascript Error"):
        assert page.get_by_text(words).count() == 0, words


@pytest.mark.parametrize("name", CHAPTERS)
def test_in_a_trusted_notebook_without_a_kernel_each_explorer_is_live(opened, name):
    page = opened(name, "trusted")
    seen = 0
    for output in show_explorers(page):
        live = output.locator("section.cx")
        live.wait_for(timeout=20_000)
        assert live.locator(".cx-words").inner_text().strip()
        assert output.locator("img:visible, pre:visible").count() == 0, "live, not the picture"
        before = live.inner_text()
        act(live)
        assert live.inner_text() != before, "it does something"
        seen += 1
        if folder := os.environ.get("COURSE_SCREENSHOTS"):
            output.screenshot(path=Path(folder) / f"reopened_{name}_{seen}.png")
    assert seen >= 1
    no_error(page)


@pytest.mark.parametrize("name", CHAPTERS)
def test_in_an_untrusted_notebook_each_explorer_is_its_static_view(opened, name):
    page = opened(name, "untrusted")
    seen = 0
    for output in show_explorers(page):
        output.locator("img[alt], pre").first.wait_for(timeout=20_000)
        assert output.locator("section.cx").count() == 0
        seen += 1
    assert seen >= 1
    no_error(page)


def test_keys_pressed_inside_never_touch_the_notebook(opened):
    for name in CHAPTERS:
        page = opened(name, "trusted")
        before = sources(page)
        for output in show_explorers(page):
            live = output.locator("section.cx")
            live.wait_for(timeout=20_000)
            controls = live.locator("button:enabled, input, select, td[tabindex='0']")
            for enter in (
                controls.first.focus,
                controls.last.focus,
                live.locator(".cx-words").click,
            ):
                enter()
                for key in KEYS:
                    page.keyboard.press(key)
        assert sources(page) == before
        book = "window.jupyterapp.shell.currentWidget.context.model"
        page.evaluate(f"() => {{ {book}.dirty = true; }}")
        page.keyboard.press("ControlOrMeta+s")
        page.wait_for_function(f"() => !{book}.dirty")  # what is meant for the notebook goes there
        page.close()


def test_with_a_kernel_python_and_the_views_follow_each_other(opened):
    page = opened("02_tril_mask", "kernel")
    for run in range(2):
        page.wait_for_function(f"() => {KERNEL}?.status === 'idle'", timeout=60_000)
        if run:  # all that was is gone but what the page shows
            page.evaluate(f"() => {KERNEL}.restart()")
            page.wait_for_function(f"() => {KERNEL}?.status === 'idle'", timeout=60_000)
        run_all(page)
        (output,) = show_explorers(page)
        live = output.locator("section.cx")
        live.get_by_role("radio", name="mat", exact=True).click()
        wait_until(page, "explorer.row == 4")
        assert run_python(page, "print(explorer.words())").startswith("mat may attend")
        run_python(page, "explorer.row = 'cat'; explorer.view = 'weights'")
        live.get_by_text("mat are blocked. Weights:").wait_for()
        assert live.get_by_role("radio", name="weights").is_checked()
    no_error(page)


def run_python(page, code):
    """What a piece of code prints, in the kernel of the notebook."""
    return page.evaluate(
        f"async (code) => {{ const done = {KERNEL}.requestExecute({{ code }}); const out = [];"
        " done.onIOPub = ({ content }) => out.push(content.text ?? content.evalue ?? '');"
        " await done.done; return out.join(''); }",
        code,
    )


def wait_until(page, condition):
    for _ in range(50):
        if run_python(page, f"print({condition})").strip() == "True":
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"not so in the kernel: {condition}")
