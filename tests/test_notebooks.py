"""What every notebook must be, apart from right (nbval sees to that)."""

import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from course_tools.project import load_project
from tests.helpers.paths import ROOT

PROJECT = load_project(ROOT)
NOTEBOOKS = sorted(f for f in (ROOT / "notebooks").rglob("*.ipynb") if f.parent.name[0] != ".")
SOURCES = sorted((ROOT / "notebooks" / "source").rglob("*.py"))
NAMES = [file.stem for file in NOTEBOOKS]

#: Widgets that nbval cannot compare and that can hang an execution.
BANNED = re.compile(r"\b(interact|interactive|interactive_output|Output|clear_output)\(")


def cells(file, kind="code"):
    return [c for c in nbformat.read(file, 4).cells if c.cell_type == kind]


def test_every_listed_chapter_is_built_and_every_notebook_is_listed():
    for files, paths in (
        (NOTEBOOKS, [f"{notebook.page}.ipynb" for notebook in PROJECT.notebooks]),
        (SOURCES, [notebook.source for notebook in PROJECT.notebooks]),
    ):
        assert {file.relative_to(ROOT).as_posix() for file in files} == set(paths)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=NAMES)
def test_every_code_cell_was_executed_in_order(file):
    counts = [c.execution_count for c in cells(file) if "gpu" not in c.metadata.get("tags", [])]
    assert counts == list(range(1, len(counts) + 1)), "nbval never compares a null count"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=NAMES)
def test_no_output_is_an_error_or_goes_to_stderr(file):
    for cell in cells(file):
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", (cell.id, output.text)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=NAMES)
def test_no_widget_state_is_saved(file):
    notebook = nbformat.read(file, 4)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}, "GitHub refuses widget state"
    for cell in cells(file):
        for output in cell.outputs:
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


@pytest.mark.parametrize("file", NOTEBOOKS, ids=NAMES)
def test_every_picture_has_words(file):
    for cell in cells(file):
        for output in cell.outputs:
            data = output.get("data", {})
            assert not any(kind.startswith("image/") for kind in data), f"{cell.id}: no alt text"
            for image in re.findall(r"<img[^>]*>", data.get("text/html", "")):
                assert re.search(r'alt="[^"]{20,}"', image), cell.id
    for cell in cells(file, "markdown"):
        assert not re.search(r"!\[\]\(", cell.source), f"{cell.id}: a picture without words"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=NAMES)
def test_printed_numbers_have_at_most_four_decimals(file):
    for cell in cells(file):
        for output in cell.outputs:
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"\d\.\d{5,}", text), cell.id


@pytest.mark.parametrize("file", SOURCES, ids=[f.name for f in SOURCES])
def test_a_chapter_has_the_parts_that_every_chapter_has(file):
    text = file.read_text("utf-8")
    for part in ("What you will be able to do", "Before you start", "**Predict", "recall",
                 "## Summary", "**Next:**", "## References"):  # fmt: skip
        assert part in text, part
    too_long = [line for line in text.splitlines() if len(line) > 100 and line[0] != "#"]
    assert not too_long, "a code line that JupyterLab cuts off"
    assert "`" not in "".join(re.findall(r"<summary>.*?</summary>", text)), "use <code> in HTML"
    assert text.count("<details>") == text.count("</details>") >= 3
    assert not BANNED.search(text)


def test_an_explorer_adds_at_most_60_kb_to_its_picture():
    grown = []
    for cell in (cell for file in NOTEBOOKS for cell in cells(file)):
        for output in cell.outputs:
            html = output.get("data", {}).get("text/html", "")
            if html.startswith("<div data-explorer="):
                picture = html.partition("\n<style>")[0]
                grown.append(_bytes_in_a_notebook(html) - _bytes_in_a_notebook(picture))
    assert len(grown) >= 6 and max(grown) <= 60_000, grown


def _bytes_in_a_notebook(text):
    output = nbformat.v4.new_output("display_data", {"text/html": text})
    cell = nbformat.v4.new_code_cell(outputs=[output])
    return len(nbformat.writes(nbformat.v4.new_notebook(cells=[cell])).encode())


# --- does the net catch? -------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path):
    """Run nbval, set up as in this repo, on notebooks in a scratch folder."""
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "nbval_sanitize.cfg", tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "notebooks").mkdir()

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, "notebooks"],
            cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    run.folder = tmp_path / "notebooks"
    return run


def small_notebook(*code_and_output):
    notebook = nbformat.v4.new_notebook()
    for number, (code, outputs, *tags) in enumerate(code_and_output, 1):
        cell = nbformat.v4.new_code_cell(code, execution_count=number, outputs=outputs)
        cell.metadata["tags"] = list(tags)
        notebook.cells.append(cell)
    return notebook


def value(text, number=1):
    return [nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=number)]


def test_one_changed_digit_in_a_copy_of_a_notebook_fails_nbval(net):
    """The first half of chapter 3, as built; then one digit of it changed."""
    notebook = nbformat.read(ROOT / "notebooks" / "03_mask_before_softmax.ipynb", 4)
    notebook.cells = [c for c in notebook.cells if c.cell_type == "code"][:9]
    text = nbformat.writes(notebook)
    assert "0.8176  0.1824" in text
    copy = net.folder / "copy.ipynb"
    copy.write_text(text, "utf-8")
    assert "9 passed" in net().stdout
    copy.write_text(text.replace("0.8176  0.1824", "0.8176  0.1825", 1), "utf-8")
    result = net()
    assert result.returncode == 1
    assert "1 failed, 8 passed" in result.stdout and "0.1825" in result.stdout


def test_a_changed_word_of_alt_text_fails_nbval_and_changed_pixels_do_not(net):
    show = "from course_lib.figures.plot import grid\ngrid([[1.0]], ['a'], ['b'], title='one')"
    from course_lib.figures.plot import grid

    figure = grid([[1.0]], ["a"], ["b"], title="one")
    html, pixels = figure._repr_html_(), "base64,AAAA"
    for name, page in {
        "right": html,
        "pixels": html[: html.index("base64,")] + pixels + '">',
        "words": html.replace("one.", "two."),
    }.items():
        output = value(repr(figure))
        output[0]["data"]["text/html"] = page
        nbformat.write(small_notebook((show, output)), net.folder / f"{name}.ipynb")
    outcome = net("-rA").stdout
    assert "PASSED notebooks/right.ipynb" in outcome and "PASSED notebooks/pixels.ipynb" in outcome
    assert "FAILED notebooks/words.ipynb" in outcome


def test_a_trailing_semicolon_hides_a_value_as_in_jupyter(net):
    nbformat.write(small_notebook(("x = 3; x;", []), ("x", value("3", 2))), net.folder / "s.ipynb")
    assert net().returncode == 0
    nbformat.write(small_notebook(("x = 3; x;", value("3"))), net.folder / "s.ipynb")
    assert net().returncode == 1


def test_cells_for_a_gpu_are_skipped_without_one_and_only_they_may_be(net, monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a CUDA device to be absent")
    monkeypatch.setenv("CI", "true")
    nbformat.write(
        small_notebook(("1 / 0", [], "gpu"), ("1", value("1", 2))), net.folder / "g.ipynb"
    )
    result = net()
    assert result.returncode == 0 and "1 passed, 1 skipped" in result.stdout
    nbformat.write(
        small_notebook(("1", value("1")), ("2", [], "nbval-skip")), net.folder / "g.ipynb"
    )
    assert net().returncode == 1, "with CI=true any other skip is a failure"


def test_kernels_run_with_plain_cpu_instructions_and_quiet_bars(net):
    code = "import os, torch\n" + "\n".join(
        f"print(os.environ[{name!r}])" for name in ("ATEN_CPU_CAPABILITY", "COURSE_QUIET")
    )
    code += "\nprint(torch.backends.cpu.get_cpu_capability())"
    wanted = nbformat.v4.new_output("stream", name="stdout", text="default\n1\nDEFAULT\n")
    nbformat.write(small_notebook((code, [wanted])), net.folder / "e.ipynb")
    result = net()
    assert result.returncode == 0, result.stdout
