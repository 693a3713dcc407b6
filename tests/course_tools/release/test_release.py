"""The student tree: complete, runnable on its own, and without anything that only teachers have."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from packaging.requirements import Requirement

from course_lib import __version__
from course_tools.build.notebooks import stale_notebooks
from course_tools.cli import main
from course_tools.grading.shard import shard
from course_tools.project import load_project
from course_tools.release import release as module
from course_tools.release.code_similarity import bodies, copied
from course_tools.release.release import (
    MARKER,
    ReleaseError,
    release,
    secret_parts,
    student_code,
    student_texts,
)
from course_tools.release.student_tree import makefile
from tests.helpers.exercise_bank import bank, numbers
from tests.helpers.paths import ROOT

TEACHERS_FOLDERS = {"solutions", "tests", "source", "hidden", "misconceptions", "grading"}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The real release, once; tests that spoil one make their own."""
    return release(load_project(ROOT), tmp_path_factory.mktemp("r") / "tree", archive=True)


@pytest.fixture(scope="module")
def files(released):
    return {
        path.relative_to(released.out).as_posix(): path.read_bytes()
        for path in released.out.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def secret():
    return secret_parts(ROOT)


@pytest.fixture
def small(monkeypatch):
    """A release of two files, for what happens on disk."""
    tree = {"README.md": b"# A\n", "exercises/01.ipynb": b'{"cells": []}'}
    monkeypatch.setattr(module, "student_files", lambda project: dict(tree))
    monkeypatch.setattr(module, "stale_notebooks", lambda project: [])
    monkeypatch.setattr(module, "secret_parts", lambda root: {})
    return tree


def on_disk(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


# --- what is in it -------------------------------------------------------------------------------


def test_a_student_finds_chapters_exercises_library_and_environment(files):
    project = load_project(ROOT)
    wanted = {"README.md", "LICENSE", "Makefile", "pyproject.toml", "environment.yml"}
    wanted |= {
        ".gitattributes",
        "constraints.txt",
        "docs/images/explorer.png",
        "course_lib/checks/report.py",
        MARKER,
    }
    wanted |= {f"notebooks/{chapter.name}.ipynb" for chapter in project.chapters}
    for source in (ROOT / "solutions").glob("[0-9][0-9]_*.py"):
        wanted |= {f"exercises/{source.stem}.ipynb"}
        wanted |= {f"course_lib/checks/data/chapter_{int(source.stem[:2])}.json"}
    wanted |= {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "course_lib" / "explorers").rglob("*.js")
    }
    assert wanted <= files.keys()
    assert len(wanted) > 25


def test_nothing_of_the_teachers_is_in_it_and_nothing_speaks_of_it(files):
    for path, content in files.items():
        parts = Path(path).parts
        assert not TEACHERS_FOLDERS & set(parts), path
        assert parts[0] != "course_tools", path
        text = content.decode("utf-8", "replace")
        for place in ("solutions/", "misconceptions/", "course_tools", "BEGIN SOLUTION"):
            assert place not in text, f"{path} speaks of {place}"


def test_every_notebook_was_executed(files):
    for path, content in files.items():
        if path.endswith(".ipynb"):
            cells = nbformat.reads(content.decode(), 4).cells
            assert all(c.execution_count for c in cells if c.cell_type == "code"), path


def test_every_link_of_the_tree_stays_in_the_tree(files):
    for path, content in files.items():
        if path.endswith(".ipynb"):
            cells = nbformat.reads(content.decode(), 4).cells
            text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        elif path.endswith(".md"):
            text = content.decode()
        else:
            continue
        for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
            target = unquote(target.partition("#")[0])
            if target and not re.match(r"[a-z]+:", target):
                place = os.path.normpath(Path(path).parent / target)
                assert Path(place).as_posix() in files, f"{path}: {target} leads nowhere"


def test_its_project_files_hold_the_facts_of_ours_and_no_tools_of_teachers(files):
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    theirs = tomllib.loads(files["pyproject.toml"].decode())
    for fact in ("name", "version", "dependencies", "requires-python", "license"):
        assert theirs["project"][fact] == ours[fact]
    extras = {name: ours["optional-dependencies"][name] for name in ("real", "lab")}
    assert theirs["project"]["optional-dependencies"] == extras
    assert "scripts" not in theirs["project"] and "course" not in theirs["tool"]
    packages = yaml.safe_load(files["environment.yml"])["dependencies"]
    ours_too = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    assert set(packages[:-1]) < set(ours_too[:-1])
    by_pip, of_ours = (map(_requirement, one[-1]["pip"]) for one in (packages, ours_too))
    assert set(by_pip) <= set(of_ours)
    named = {line.split()[0] for line in packages[2:-1]}
    assert {"pytorch", "jupyterlab", "anywidget"} <= named
    assert not {"pytest", "jupytext", "ruff"} & named
    readme = files["README.md"].decode()
    assert "make lab" in readme and "make test" not in readme and "@" not in readme.split("```")[0]


def _requirement(line):
    return line if line.startswith("-e") else Requirement(line)


def test_a_makefile_without_the_rules_of_the_lab_is_refused():
    with pytest.raises(ValueError, match="Makefile: expected a rule for lab"):
        makefile("SHELL := /bin/sh\n\ntest:\n\ttrue\n")


# --- nothing solved ------------------------------------------------------------------------------


def test_no_solution_wrong_answer_or_hidden_check_is_in_exercises_or_checks(files, secret):
    sources = student_code(files)
    assert len(sources) > 15
    for source in sources.values():
        ast.parse(source)  # what is not Python would be passed over
    assert sum(map(len, secret.values())) > 1000
    assert copied(secret, sources) == []


def test_no_answer_or_hidden_check_is_quoted_in_a_task_or_a_tutors_sentence(files, secret):
    answers = {name: parts for name, parts in secret.items() if "misconceptions" not in name}
    assert len(answers) > 15
    texts = student_texts(files)
    assert len(texts) > 300
    assert copied(answers, texts) == []


class _Renamed(ast.NodeTransformer):
    """Every variable, argument, function and class by another name."""

    def __init__(self, tree):
        nodes = list(ast.walk(tree))
        self.own = {n.arg for n in nodes if isinstance(n, ast.arg)}
        self.own |= {
            n.id for n in nodes if isinstance(n, ast.Name) and n.ctx.__class__ is ast.Store
        }
        self.own |= {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        self.own -= {n.asname or n.name for n in nodes if isinstance(n, ast.alias)}

    def generic_visit(self, node):
        for field in ("id", "arg", "name"):
            name = getattr(node, field, None)
            if name in self.own and not isinstance(node, (ast.keyword, ast.alias)):
                setattr(node, field, f"my_{name}")
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            node.names = [f"my_{name}" for name in node.names]
        return super().generic_visit(node)


def disguised(source):
    tree = ast.parse(source)
    return ast.unparse(_Renamed(tree).visit(tree))


@pytest.mark.parametrize("number", numbers())
def test_each_solution_would_be_recognised_under_other_names(number, secret):
    facts = bank().exercises[number]
    planted = disguised(f"{facts.imports}\n{facts.source}")
    found = copied(secret, {"exercises/x.ipynb": planted})
    assert any("of solutions/0" in line for line in found), f"{number}: nobody would notice"


@pytest.mark.parametrize("kind", ["hidden", "misconceptions", "accepted"])
def test_each_hidden_check_and_wrong_answer_would_be_recognised(kind, secret):
    for file in sorted((ROOT / "solutions" / kind).glob("chapter_*.py")):
        text = file.read_text("utf-8")
        assert secret[f"solutions/{kind}/{file.name}"]
        forms = {part.form for part in bodies(text)}
        assert forms == {part.form for part in bodies(disguised(text))}, file.name
        assert len(forms) >= 20


RIGHT = """
import numpy as np

def causal_mask(n):
    ### BEGIN SOLUTION
    shape = (n, n)
    rows = np.zeros(shape, dtype=bool)
    for i in range(n):
        rows[i, : i + 1] = True
    return rows
    ### END SOLUTION
"""


@pytest.mark.parametrize(
    "text",
    [
        RIGHT.replace("rows", "m").replace("(n)", "(size)").replace("n, n", "size, size"),
        RIGHT.replace("import numpy as np", "import numpy").replace("np.", "numpy."),
        RIGHT.replace("    rows =", '    """Doc."""\n    rows: np.ndarray ='),
        "import numpy as np\nn = 5\ns = (n, n)\nrows = np.zeros(s, dtype=bool)\n"
        "for i in range(n):\n    rows[i, : i + 1] = True\nprint(rows)",
    ],
    ids=["names", "import", "docstring and types", "as a cell, in part"],
)
def test_other_names_imports_and_comments_hide_nothing(text):
    parts = {"s": bodies(RIGHT, ("### BEGIN", "### END"))}
    assert copied(parts, {"x": text})
    assert not copied(parts, {"x": text.replace("i + 1", "i + 2").replace("zeros", "ones")})


def test_code_outside_the_marks_and_stubs_are_no_secret():
    given = "def f(a):\n    b = a.sum(axis=-1, keepdims=True)\n    ### BEGIN\n"
    given += "    return a / b\n    ### END\n"
    parts = {"s": bodies(given, ("### BEGIN", "### END"), at_least=1)}
    stub = "def f(a):\n    b = a.sum(axis=-1, keepdims=True)\n    raise NotImplementedError('x')\n"
    assert not copied(parts, {"x": stub}) and copied(parts, {"x": given})


@pytest.mark.parametrize("where", ["code", "fence", "backticks", "json", "module"])
def test_a_release_that_would_give_an_answer_away_is_refused(where, small, tmp_path, monkeypatch):
    answer = "np.tril(np.ones((n, n), dtype=bool))"
    parts = bodies(f"import numpy as np\ndef f(n):\n    return {answer}")
    monkeypatch.setattr(module, "secret_parts", lambda root: {"solutions/02.py": parts})
    code = {"cell_type": "code", "source": ["import numpy as np\n", f"x = {answer}"]}
    fence = {"cell_type": "markdown", "source": f"```python\nimport numpy as np\ny = {answer}\n```"}
    spoilt = {
        "code": {"exercises/02.ipynb": json.dumps({"cells": [code]}).encode()},
        "fence": {"exercises/02.ipynb": json.dumps({"cells": [fence]}).encode()},
        "json": {"course_lib/checks/data/c.json": json.dumps({"a": [f"Try `{answer}`."]}).encode()},
        "module": {
            "course_lib/checks/x.py": f"import numpy as np\nF = lambda k: {answer}".encode()
        },
        "backticks": {
            "exercises/02.ipynb": json.dumps(
                {"cells": [{"cell_type": "markdown", "source": f"It is `{answer}`."}]}
            ).encode()
        },
    }[where]
    monkeypatch.setattr(module, "student_files", lambda project: small | spoilt)
    with pytest.raises(ReleaseError, match=r"holds line 3 of solutions/02\.py"):
        release(load_project(ROOT), tmp_path / "out", archive=True)
    assert list(tmp_path.iterdir()) == []


def test_a_release_that_names_the_place_of_a_secret_is_refused(small, tmp_path, monkeypatch):
    spoilt = small | {"course_lib/a.py": b"from course_tools.exercise_bank import load\n"}
    monkeypatch.setattr(module, "student_files", lambda project: spoilt)
    with pytest.raises(ReleaseError, match=r"course_lib/a\.py: speaks of 'course_tools'"):
        release(load_project(ROOT), tmp_path / "out")


def test_a_notebook_that_somebody_solved_in_place_is_noticed(tmp_path):
    for folder in ("solutions", "exercises"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "README.md", tmp_path)
    project = replace(load_project(ROOT), root=tmp_path, chapters=())
    before = stale_notebooks(project)
    file = tmp_path / "exercises" / "02_tril_mask.ipynb"
    text = file.read_text("utf-8")
    file.write_text(text.replace("MATRIX = None", "MATRIX = [[1]]"), "utf-8")
    (line,) = [line for line in stale_notebooks(project) if line not in before]
    assert line.startswith("exercises/02_tril_mask.ipynb: cell 5 (2-1-from-memory-2): source")


# --- on disk -------------------------------------------------------------------------------------


def test_folder_and_zip_hold_the_same_and_the_zip_is_the_same_every_time(released, files, tmp_path):
    with zipfile.ZipFile(released.archive) as archive:
        names = archive.namelist()
        top = f"causal-attention-course-{__version__}/"
        assert {n.removeprefix(top): archive.read(n) for n in names} == files
        assert {n.split("/")[0] + "/" for n in names} == {top}
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
    assert released.files == len(files)
    again = tmp_path / "again.zip"
    module._write_zip(
        {n.removeprefix(top): files[n.removeprefix(top)] for n in names}, again, top[:-1]
    )
    assert again.read_bytes() == released.archive.read_bytes()


def test_a_second_release_takes_the_place_of_the_first_and_keeps_the_clone(small, tmp_path):
    project, out = load_project(ROOT), tmp_path / "out"
    (out / ".git").mkdir(parents=True)
    (out / ".git" / "config").write_text("mine")
    release(project, out)
    (out / ".venv").mkdir()
    small["new.md"] = b"n"
    del small["README.md"]
    release(project, out)
    assert sorted(p.name for p in out.iterdir()) == [MARKER, ".git", "exercises", "new.md"]
    assert (out / ".git" / "config").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["stranger", "added", "changed", "file"])
def test_a_folder_with_work_of_others_is_left_alone(kind, small, tmp_path):
    project, out = load_project(ROOT), tmp_path / "out"
    if kind == "stranger":
        out.mkdir()
        (out / "thesis.tex").write_text("my life's work")
    elif kind == "file":
        out.write_text("a file")
    else:
        release(project, out)
        (out / ("notes.txt" if kind == "added" else "README.md")).write_text("mine")
    before = on_disk(tmp_path)
    with pytest.raises(ReleaseError) as refused:
        release(project, out, archive=True)
    assert on_disk(tmp_path) == before
    named = {"stranger": "thesis.tex", "added": "notes.txt", "changed": "README.md", "file": "file"}
    assert named[kind] in str(refused.value)


def test_a_foreign_zip_is_left_alone(small, tmp_path):
    (tmp_path / "out.zip").write_bytes(b"somebody's")
    with pytest.raises(ReleaseError, match=r"out\.zip is there and is no release"):
        release(load_project(ROOT), tmp_path / "out", archive=True)
    assert (tmp_path / "out.zip").read_bytes() == b"somebody's"
    assert not (tmp_path / "out").exists()


def test_a_release_that_fails_half_way_leaves_the_old_one(small, tmp_path, monkeypatch):
    project, out = load_project(ROOT), tmp_path / "out"
    (out / ".git").mkdir(parents=True)
    release(project, out)
    before, rename = on_disk(out), Path.rename

    def fails(self, target):
        if self.name == "new":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="disk full"):
        release(project, out)
    assert on_disk(out) == before and (out / ".git").is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_command_says_what_it_wrote_and_why_it_does_not(small, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["release", str(tmp_path / "out"), "--zip"]) == 0
    told = capsys.readouterr().out
    assert "out: 3 files" in told and "out.zip: the same" in told
    (tmp_path / "out" / "README.md").write_text("mine")
    assert main(["release", str(tmp_path / "out")]) == 2
    assert "course release:" in (error := capsys.readouterr().err) and "README.md" in error


# --- it runs on its own --------------------------------------------------------------------------


def alone(tree):
    """The environment of a student who has the tree and no other course_lib."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COURSE")}
    return kept | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def test_every_module_of_the_tree_imports_without_the_teachers_parts(released):
    code = """
import importlib, pathlib, sys
import course_lib
root = pathlib.Path(course_lib.__file__).parent
assert root.parent == pathlib.Path.cwd(), root
for file in sorted(root.rglob("*.py")):
    if "triton_" in file.name:
        continue
    importlib.import_module(".".join(file.relative_to(root.parent).with_suffix("").parts))
assert "course_tools" not in sys.modules
assert not {"jupytext", "nbformat", "nbclient", "pytest", "transformers"} & sys.modules.keys()
"""
    env = alone(released.out) | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=released.out, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_exercise_notebook_runs_in_the_tree_and_says_not_done_yet(released):
    file = released.out / "exercises" / "02_tril_mask.ipynb"
    notebook = nbformat.read(file, 4)
    where = {"metadata": {"path": str(file.parent)}}
    notebook.cells.append(nbformat.v4.new_code_cell("print(course_lib.__file__)"))
    NotebookClient(notebook, timeout=120, resources=where).execute(env=alone(released.out))
    told = {
        c.source: "".join(o.get("text", "") for o in c.outputs)
        for c in notebook.cells
        if c.cell_type == "code"
    }
    assert told["print(course_lib.__file__)"].startswith(str(released.out))
    checks = {source: text for source, text in told.items() if source.startswith("check(")}
    assert len(checks) == 6
    assert all(text.endswith("not done yet\n") for text in checks.values()), checks


def test_make_lab_installs_the_tree_and_opens_its_first_chapter(released):
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", "lab", "LAB_ARGS=--no-browser"],
        cwd=released.out, env=outside, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "pip install --quiet --constraint constraints.txt --editable '.[lab]'" in done.stdout
    last = done.stdout.splitlines()[-1]
    # the whole tree is served, else the exercises beside `notebooks` could not be opened
    assert last == ".venv/bin/jupyter lab --notebook-dir=. --no-browser notebooks/01_contract.ipynb"
    for target in ("test", "build", "test-mutants"):
        refused = subprocess.run(["make", "-n", target], cwd=released.out, capture_output=True)
        assert refused.returncode != 0


@pytest.mark.release
def test_the_real_lab_is_set_up_from_the_zip_and_runs_an_exercise(released, tmp_path):
    """Minutes and a network: `make test-release`."""
    with zipfile.ZipFile(released.archive) as archive:
        archive.extractall(tmp_path)
    (tree,) = tmp_path.iterdir()
    inherited = ("PYTHON", "MAKE")  # from the make that runs this test
    env = {n: value for n, value in os.environ.items() if not n.startswith(inherited)}

    def runs(*command):
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    assert re.search(r"^4\.\d+", runs("make", "lab", "LAB_ARGS=--version"), re.MULTILINE)
    runs(".venv/bin/jupyter", "execute", "--inplace", "exercises/02_tril_mask.ipynb")
    notebook = nbformat.read(tree / "exercises" / "02_tril_mask.ipynb", 4)
    assert str(notebook).count("not done yet") >= 6
    wheels = tmp_path / "wheels"
    pip = (".venv/bin/python", "-m", "pip", "wheel", "--quiet", "--no-deps")
    runs(*pip, "--wheel-dir", str(wheels), str(released.archive))
    (wheel,) = wheels.iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert "course_lib/checks/data/chapter_2.json" in names
    assert "course_lib/results/attention.json" in names
    assert not [name for name in names if "grading" in name or "solutions" in name]
    shutil.rmtree(tree / ".venv")  # a gigabyte


# --- parts of a class ----------------------------------------------------------------------------


def test_every_student_is_in_exactly_one_shard():
    students = [f"student {i} Zoë" for i in range(500)]
    shards = [shard(f"{i}/7") for i in range(7)]
    counts = [sum(takes(s) for s in students) for takes in shards]
    assert all(sum(takes(s) for takes in shards) == 1 for s in students)
    assert sum(counts) == 500 and min(counts) > 30
    assert all(shard("0/1")(s) for s in students)


@pytest.mark.parametrize("text", ["7/7", "0/0", "-1/3", "1", "a/b", "1/3/5", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="shard: expected I/N"):
        shard(text)
