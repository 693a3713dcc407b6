"""The explorers in the classic notebook with the widget versions that Colab has (opt-in).

`COURSE_CLASSIC=1 make test-browser` builds an environment for it (a minute, 60 MB, needs the
package registry); CI does so always. COURSE_CLASSIC_PYTHON names one that is there already.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.browser.servers import serve
from tests.helpers.paths import ROOT

GIVEN = os.environ.get("COURSE_CLASSIC_PYTHON")
#: What Colab had in August 2026 (docs: googlecolab/backend-info), and the notebook of its time.
PINS = [
    "anywidget==0.9.21",
    "ipykernel==6.17.1",
    "ipython==7.34.0",
    "ipywidgets==7.7.1",
    "notebook==6.5.7",
    "traitlets==5.7.1",
    "setuptools<80",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (GIVEN or os.environ.get("COURSE_CLASSIC") or os.environ.get("CI") == "true"),
        reason="opt-in, because it builds an environment: set COURSE_CLASSIC=1",
    ),
]


@pytest.fixture(scope="module")
def old_python(tmp_path_factory):
    """A Python with Colab's widget versions first, and everything else from this environment."""
    if GIVEN:
        return GIVEN
    folder = tmp_path_factory.mktemp("old") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS], check=True, timeout=600)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout
    rest = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (Path(site.strip()) / "zz_rest.pth").write_text(rest, "utf-8")
    return python


@pytest.fixture(scope="module")
def classic(old_python, tmp_path_factory):
    """The address of a classic notebook server with a copy of the chapters."""
    folder = tmp_path_factory.mktemp("classic")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")

    def command(options):
        return [old_python, "-m", "notebook", *options, "--NotebookApp.token="]

    with serve(command, folder, "tree", COURSE_QUIET="1") as address:
        yield f"{address}/notebooks/notebooks"


@pytest.fixture
def chapter(chromium, classic):
    """Open a chapter and run all of it."""
    page = chromium.new_page(viewport={"width": 1200, "height": 1000})
    page.on("pageerror", lambda error: print(f"page error: {error}"))
    page.on("console", lambda m: print(f"console: {m.text}") if m.type == "error" else None)

    def open_and_run(name):
        page.goto(f"{classic}/{name}.ipynb")
        # What hears of new widgets must be there, and what tells where anywidget's module lies:
        # they carry what Python and a view tell each other.
        ready = (
            "(() => { const n = window.Jupyter?.notebook, k = n?.kernel; return k?.is_connected()"
            " && k.comm_manager?.targets['jupyter.widget'] && k.widget_manager && !n.kernel_busy"
            " && requirejs.s.contexts._.config.map?.['*']?.anywidget; })()"
        )
        page.wait_for_function(ready, timeout=60_000)
        page.evaluate("Jupyter.notebook.clear_all_output()")
        # The saved counts must go too, or all cells look as if they had run already.
        page.evaluate("Jupyter.notebook.get_cells().forEach((c) => c.set_input_prompt?.(null))")
        page.evaluate("Jupyter.notebook.execute_all_cells()")
        done = (
            "Jupyter.notebook.get_cells().every((c) => c.cell_type !== 'code'"
            " || c.input_prompt_number > 0)"
        )
        page.wait_for_function(done, timeout=120_000)
        return page

    yield open_and_run
    page.close()


def test_the_mask_explorer_is_live_and_python_hears_of_a_click(chapter):
    page = chapter("02_tril_mask")
    explorer = page.locator(".output_area .cx")
    explorer.wait_for(timeout=60_000)
    assert page.locator(".output_area img[alt*='framed']:visible").count() == 0, (
        "live, not the picture"
    )
    explorer.get_by_role("radio", name="mat", exact=True).click()
    assert explorer.locator(".cx-words").inner_text().startswith("mat may attend to The")
    page.evaluate(
        """() => {
             const cells = Jupyter.notebook.get_cells();
             cells.find((c) => c.get_text() === "print(explorer.words())").execute();
           }"""
    )
    page.get_by_text("mat may attend to The, cat, sat, on and mat; nothing is blocked.").nth(
        1
    ).wait_for(timeout=60_000)
    if folder := os.environ.get("COURSE_SCREENSHOTS"):
        explorer.screenshot(path=Path(folder) / "classic_mask.png")


def test_the_explorers_of_chapter_3_are_live(chapter):
    page = chapter("03_mask_before_softmax")
    explorers = page.locator(".output_area .cx")
    explorers.nth(1).wait_for(timeout=60_000)
    assert explorers.count() == 2
    walk, compare = explorers.nth(0), explorers.nth(1)
    walk.get_by_role("button", name="Next").click()
    assert walk.locator(".cx-words").inner_text().startswith("Step 1 of")
    compare.get_by_text("output vectors").click()
    shown = compare.locator("table:visible").first
    assert shown.locator("tbody tr").first.locator("td").count() == 4
    if folder := os.environ.get("COURSE_SCREENSHOTS"):
        walk.screenshot(path=Path(folder) / "classic_walk.png")
        compare.screenshot(path=Path(folder) / "classic_compare.png")
