"""`course build`: the same bytes every time, small diffs, and a check that says which cell."""

import json
import shutil

import nbformat
import pytest

from course_lib import __version__
from course_tools.build.notebooks import MACHINE_NOTE, assemble, build, pin_mismatches
from course_tools.cli import main
from course_tools.project import Chapter, configure_address, load_project
from tests.helpers.paths import ROOT

SOURCE = """\
# %% [markdown]
# # 9. A small chapter
#
# One sentence.
# Another sentence.

# %%
print("seven:", 3 + 4)

# %% [markdown]
# ## A second heading

# %%
3 * 4

# %% tags=["nbval-ignore-output"]
import time
print(time.time())
"""


def lay_out(tmp_path):
    """A working copy with one small chapter, not built."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    head = text[: text.index("[[tool.course.chapters]]")]
    (tmp_path / "pyproject.toml").write_text(
        head + '[[tool.course.chapters]]\nname = "09_small"\ntitle = "A small chapter"\n'
        'minutes = 5\nquestion = "Does it build?"\n',
        "utf-8",
    )
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    (tmp_path / "README.md").write_text(
        "# T\n<!-- chapters: written by `course build` -->\n<!-- end -->\n", "utf-8"
    )
    (tmp_path / "notebooks" / "source").mkdir(parents=True)
    (tmp_path / "notebooks" / "source" / "09_small.py").write_text(SOURCE, "utf-8")
    return load_project(tmp_path)


def notebook_file(course):
    return course.root / "notebooks" / "09_small.ipynb"


def edit_source(course, old, new):
    file = course.root / "notebooks" / "source" / "09_small.py"
    text = file.read_text("utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), "utf-8")


@pytest.fixture
def course(tmp_path):
    return lay_out(tmp_path)


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    course = lay_out(tmp_path_factory.mktemp("course"))
    assert build(course) == []
    return course.root


@pytest.fixture
def built(built_once, tmp_path):
    """A copy of a built working copy, to be spoilt at will."""
    shutil.copytree(built_once, tmp_path, dirs_exist_ok=True)
    return load_project(tmp_path)


def test_building_twice_gives_the_same_bytes_and_the_check_agrees(built):
    first = notebook_file(built).read_bytes()
    assert build(built, check=True) == []
    notebook_file(built).unlink()  # also from nothing, so cell ids are no accident
    build(built)
    assert notebook_file(built).read_bytes() == first


def test_changing_one_sentence_changes_one_line_of_the_notebook(built):
    before = notebook_file(built).read_text("utf-8").splitlines()
    edit_source(built, "One sentence.", "One better sentence.")
    build(built)
    after = notebook_file(built).read_text("utf-8").splitlines()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_the_check_says_which_cell_drifted_from_its_source(built, capsys):
    edit_source(built, "3 * 4", "3 * 5")
    before = notebook_file(built).read_bytes()
    problems = build(built, check=True)
    assert problems == [
        "09_small.ipynb: cell 5 (a-second-heading-2): source differs",
        "09_small.ipynb: cell 5 (a-second-heading-2): outputs differs",
    ]
    assert notebook_file(built).read_bytes() == before, "a check changes nothing"


def test_the_quick_check_runs_no_cell_and_compares_sources(built, capsys, monkeypatch):
    monkeypatch.chdir(built.root)
    monkeypatch.setattr("course_tools.build.notebooks.execute", None)
    assert main(["build", "--check-sources"]) == 0
    edit_source(built, "3 * 4", "3 * 5")
    assert main(["build", "--check-sources"]) == 1
    assert "cell 5 (a-second-heading-2): source differs" in capsys.readouterr().out
    assert main(["build", "--check-sources", "09_small"]) == 2


def test_the_check_notices_a_forged_output_and_a_missing_cell(built):
    file = notebook_file(built)
    notebook = json.loads(file.read_text("utf-8"))
    notebook["cells"][3]["outputs"][0]["text"] = ["seven: 8\n"]
    file.write_text(json.dumps(notebook), "utf-8")
    assert build(built, check=True) == [
        "09_small.ipynb: cell 3 (9-a-small-chapter-4): outputs differs"
    ]
    del notebook["cells"][3]
    file.write_text(json.dumps(notebook), "utf-8")
    assert "only new: 9-a-small-chapter-4" in build(built, check=True)[0]


def test_the_check_notices_another_layout_of_the_same_notebook(built):
    file = notebook_file(built)
    file.write_text(json.dumps(json.loads(file.read_text("utf-8"))), "utf-8")
    assert "layout differs" in build(built, check=True)[0]


def test_the_check_notices_a_chapter_that_was_never_built(course):
    assert "not built yet" in build(course, check=True)[0]


def test_badge_setup_and_readme_point_at_the_configured_address(built):
    configure_address(built, "https://github.com/someone/their-course")
    course = load_project(built.root)
    assert build(course, check=True) != []
    build(course)
    notebook = nbformat.read(notebook_file(course), 4)
    colab = f"github/someone/their-course/blob/v{__version__}/notebooks/09_small.ipynb"
    assert colab in notebook.cells[1].source
    assert f"their-course/archive/refs/tags/v{__version__}.zip" in notebook.cells[2].source
    readme = (course.root / "README.md").read_text("utf-8")
    assert colab in readme and "Does it build?" in readme
    assert build(course, check=True) == []


@pytest.mark.parametrize(
    "address", ["http://github.com/a/b", "https://github.com/a", "https://github.com/a/b/c", 'x"y']
)
def test_a_bad_address_is_refused_and_nothing_changes(course, address):
    before = (course.root / "pyproject.toml").read_bytes()
    with pytest.raises(ValueError, match=r"address: expected https://github\.com/OWNER/NAME"):
        configure_address(course, address)
    assert (course.root / "pyproject.toml").read_bytes() == before


def test_what_depends_on_the_machine_is_not_saved(built):
    cells = nbformat.read(notebook_file(built), 4).cells
    assert cells[2].outputs[0].text == cells[6].outputs[0].text == MACHINE_NOTE
    assert cells[6].execution_count is not None


def test_a_failing_cell_stops_the_build_and_keeps_the_old_file(built):
    before = notebook_file(built).read_bytes()
    edit_source(built, "3 * 4", "3 / 0")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        build(built)
    assert notebook_file(built).read_bytes() == before
    left = sorted(file.name for file in (built.root / "notebooks").iterdir())
    assert left == ["09_small.ipynb", "source"], "no half-written file stays behind"


def test_in_ci_another_environment_is_a_problem(built, monkeypatch):
    file = built.root / "constraints.txt"
    file.write_text(file.read_text("utf-8").replace("numpy==", "numpy==0.1."), "utf-8")
    monkeypatch.delenv("CI", raising=False)
    assert build(built, check=True) == []
    monkeypatch.setenv("CI", "true")
    assert "CI must run in the pinned environment: numpy is" in build(built, check=True)[0]


def test_saving_in_jupyterlab_leaves_no_stray_source_behind(built):
    """Jupytext is installed beside JupyterLab and would pair notebooks if it were told to."""
    from jupytext.config import load_jupytext_config

    shutil.copy(ROOT / "pyproject.toml", built.root)
    config = load_jupytext_config(str(notebook_file(built)))
    assert not config.default_formats(str(notebook_file(built)))


def test_another_environment_is_said_to_be_one(tmp_path):
    pins = tmp_path / "constraints.txt"
    pins.write_text("numpy==0.1\nno-such-package==1.0\n", "utf-8")
    assert any("numpy is" in line and "pinned: 0.1" in line for line in pin_mismatches(pins))
    assert not any("no-such-package" in line for line in pin_mismatches(pins))


def test_a_cell_that_only_draws_is_folded_everywhere_and_says_what_it_shows():
    chapter = Chapter("09_small", "A small chapter", "?")
    figure = '# %% tags=["figure"]\n# @title Seven\n7\n'
    untitled = figure.replace("# @title Seven\n", "")
    notebook = assemble(f"# %% [markdown]\n# # 9\n\n{figure}", chapter, load_project(ROOT))
    meta = notebook.cells[-1].metadata
    assert meta == {
        "tags": ["figure", "hide-input"],  # the site and the book
        "jupyter": {"source_hidden": True},  # JupyterLab
        "cellView": "form",  # Colab
    }
    with pytest.raises(ValueError, match=r"09_small: expected '# @title \.\.\.' first"):
        assemble(f"# %% [markdown]\n# # 9\n\n{untitled}", chapter, load_project(ROOT))


def test_a_lesson_and_what_goes_deeper_lead_to_each_other(tmp_path):
    course = lay_out(tmp_path)
    (tmp_path / "notebooks" / "source" / "more").mkdir()
    more = tmp_path / "notebooks" / "source" / "more" / "09_small_more.py"
    more.write_text(SOURCE.replace("9. A small chapter", "More"), "utf-8")
    with (tmp_path / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write('[[tool.course.more]]\nname = "09_small_more"\ntitle = "More"\nquestion = "?"\n')
    course = load_project(tmp_path)
    build(course)
    lesson, deeper = (nbformat.read(tmp_path / f"{c.page}.ipynb", 4) for c in course.notebooks)
    assert "[More](more/09_small_more.ipynb)" in lesson.cells[1].source
    assert "[A small chapter](../09_small.ipynb)" in deeper.cells[1].source
    assert "blob/v" in deeper.cells[1].source, "on Colab a notebook stands alone"
    assert "more/09_small_more.ipynb" in (tmp_path / "README.md").read_text("utf-8")
    assert build(course, check=True) == []


def test_a_source_without_a_title_is_refused():
    chapter = Chapter("09_small", "A small chapter", "?")
    with pytest.raises(ValueError, match="09_small: expected a markdown cell with the title"):
        assemble("# %%\n1 + 1\n", chapter, load_project(ROOT))


def test_the_command_reports_wrong_use_in_one_line(built, monkeypatch, capsys):
    monkeypatch.chdir(built.root)
    assert main(["build", "10_nothing"]) == 2
    assert "names: expected some of 09_small; got 10_nothing" in capsys.readouterr().err
    assert main(["configure", "--address", "nowhere"]) == 2
    monkeypatch.chdir("/")
    assert main(["build"]) == 2
    assert "no course found" in capsys.readouterr().err
