"""Colab: what the setup cell does, and whether the emulation (`make colab`) would notice a fault.

The emulation itself takes minutes and gigabytes; its record and the table of it are tested here.
"""

import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from importlib import metadata

import nbformat
import pytest

from course_lib import colab as module
from course_lib import pretrained
from course_lib.colab import report, set_up
from course_tools.build.notebooks import dress
from course_tools.project import load_project
from tests.colab import compare
from tests.colab.pins import PINS, departures, main, pins
from tests.colab.published import published
from tests.colab.run import README, RECORD, problems, with_table
from tests.helpers.paths import ROOT

ADDRESS = "https://github.com/someone/their-course"
EXPLORER = {"name": "MaskExplorer", "live": True, "static": True}


# --- the setup cell ------------------------------------------------------------------------------


REAL = "from course_lib.real_lesson import greedy"


def setup_cell(address=ADDRESS, *code):
    project = load_project(ROOT)
    object.__setattr__(project, "address", address)
    cells = [nbformat.v4.new_markdown_cell("# T"), *map(nbformat.v4.new_code_cell, code)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    dress(notebook, "t", "badge", project)
    return notebook.cells[2].source


@pytest.fixture
def runs(monkeypatch):
    """Run a setup cell; what it would have run in a shell is in `runs.commands`."""

    def run(source, stderr=""):
        def fake(command, **options):
            run.commands.append(command)
            sys.modules.pop("course_lib", None)  # "installed": no longer forbidden
            return subprocess.CompletedProcess(command, 1 if stderr else 0, "", stderr)

        monkeypatch.setattr(subprocess, "run", fake)
        names = {}
        exec(compile(source, "setup cell", "exec"), names)
        return set(names) - {"__builtins__"}

    run.commands = []
    return run


@pytest.fixture
def without_course_lib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "course_lib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "course_lib", None)


def test_where_the_package_is_the_setup_cell_installs_nothing_and_reports_in_one_line(runs, capsys):
    runs(setup_cell())
    assert runs.commands == []
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and told.startswith("course_lib 0.") and "torch 2." in told


def test_elsewhere_it_installs_the_package_at_its_tag_and_nothing_else(
    runs, without_course_lib, capsys
):
    project = load_project(ROOT)
    runs(setup_cell())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    assert runs.commands == [[*pip, f"{ADDRESS}/archive/refs/tags/{project.tag}.zip"]]
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "hint"),
    [(ADDRESS, "If pip says 404"), ("https://github.com/OWNER/x", "course configure --address")],
)
def test_when_pip_fails_the_cell_says_why_and_what_to_do(
    address, hint, runs, without_course_lib, capsys
):
    with pytest.raises(RuntimeError) as failed:
        runs(setup_cell(address), stderr="ERROR: HTTP error 404 while getting it")
    assert "HTTP error 404 while getting it" in str(failed.value)
    assert hint in str(failed.value).splitlines()[-1]
    assert failed.value.__suppress_context__, "one traceback, not two"
    assert capsys.readouterr().out == ""


def test_the_cell_leaves_no_name_behind_that_a_student_may_want(runs):
    assert runs(setup_cell()) == {"course_lib", "install_course_lib", "report"}


def test_where_a_real_model_is_used_the_cell_offers_it_in_a_form_and_reports_in_one_line(
    runs, capsys
):
    cell = setup_cell(ADDRESS, REAL)
    assert 'fetch_model = True  # @param {type: "boolean"}' in cell
    left = {"course_lib", "install_course_lib", "set_up", "fetch_model", "keep_in"}
    assert runs(cell) == left and runs.commands == [], "on a laptop it fetches nothing"
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.endswith(", the real model is here\n")


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """A runtime without gguf, in which pip and the network only note what they were asked."""
    asked = []

    def version(name, real=metadata.version):
        if name == "gguf":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    def run(command, **options):
        asked.append(command[1:])
        return subprocess.CompletedProcess(command, 0, "", "")

    def fetch(folder):
        asked.append(f"fetch into {folder}")
        if folder == "full":
            raise pretrained.FetchError("full has 3 MB left:\nmake room")
        (tmp_path / "m.gguf").touch()
        return tmp_path / "m.gguf"

    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(module.metadata, "version", version)
    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(pretrained, "fetch", fetch)
    monkeypatch.setenv("COURSE_MODEL", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return asked


GGUF = ["-m", "pip", "install", "--quiet", "--no-deps", "gguf>=0.17"]


def test_on_colab_it_adds_what_reads_the_model_and_fetches_it_once(colab):
    assert set_up(fetch_model=True).endswith(", the real model is here")
    assert colab == [GGUF, "fetch into None"]
    assert set_up(fetch_model=False, keep_in="").endswith(", the real model is here")
    set_up(fetch_model=True, keep_in="/content/drive/MyDrive")
    assert colab[2:] == [GGUF, GGUF, "fetch into /content/drive/MyDrive"]


def test_what_it_adds_is_the_extra_of_pyproject():
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert list(module.REAL) == facts["project"]["optional-dependencies"]["real"]


def test_on_colab_without_the_model_the_line_says_how_to_get_it_or_what_went_wrong(colab):
    assert "python -m course_lib.pretrained" in set_up(fetch_model=False)
    told = set_up(fetch_model=True, keep_in="full")
    assert told.endswith(", no real model: full has 3 MB left: make room") and "\n" not in told


def test_every_notebook_has_this_very_cell():
    address = load_project(ROOT).address
    files = [*ROOT.glob("notebooks/**/[0-9A-Z]*.ipynb"), *ROOT.glob("exercises/*.ipynb")]
    assert len(files) >= 16
    for file in files:
        cells = nbformat.read(file, 4).cells
        wanted = setup_cell(address, *[REAL for c in cells if "course_lib.real_lesson" in c.source])
        assert [c.source for c in cells if "setup" in c.metadata.get("tags", [])] == [wanted], file


def test_a_requirement_that_is_missing_or_too_old_is_named_with_the_command(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "anywidget":
            raise metadata.PackageNotFoundError(name)
        return "4.0" if name == "tqdm" else real(name)

    monkeypatch.setattr(module.metadata, "version", version)
    told = report()
    assert told.endswith('%pip install "anywidget>=0.9.21" "tqdm>=4.67" (then restart the kernel)')
    assert "torch 2." in told and "\n" not in told


def test_every_requirement_is_of_the_kind_that_the_report_understands():
    lines = [line for line in metadata.requires("course_lib") if "extra ==" not in line]
    assert len(lines) >= 6
    assert all(">=" in line and not set(",;<!~") & set(line) for line in lines)
    assert module._parts("2.11.0+cu128") > module._parts("2.11") > module._parts("2.9.1rc1")


def test_a_missing_torch_is_named_too(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(module.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert '%pip install "torch>=2.11"' in report()


# --- the pins ------------------------------------------------------------------------------------

FREEZE = "# Google's\nipykernel==6.17.1\nIPython==7.34.0\ntorch==2.11.0+cu128\nnumpy==2.2.0\n"


def test_pins_are_compared_with_a_freeze_of_colab(tmp_path, capsys):
    ours = "ipython==7.34.0\ntorch==2.11.0\nnumpy==2.1.3\ntriton==3.6.0\n"
    assert departures(ours, FREEZE) == [
        "numpy: pinned 2.1.3, Colab has 2.2.0",
        "triton: pinned 3.6.0, Colab has none",
    ]
    (tmp_path / "freeze").write_text(PINS.read_text("utf-8"), "utf-8")
    assert main([str(tmp_path / "freeze")]) == 0
    assert capsys.readouterr().out == "Colab has what pins.txt says\n"
    (tmp_path / "freeze").write_text(FREEZE, "utf-8")
    assert main([str(tmp_path / "freeze")]) == 1


def test_a_page_that_is_no_freeze_is_refused():
    with pytest.raises(ValueError, match="expected a `pip freeze` of Colab's runtime"):
        departures("numpy==2.1.3", "<html>404</html>")


def test_the_pins_satisfy_what_the_package_requires():
    from packaging.requirements import Requirement

    there = pins(PINS.read_text("utf-8"))
    for line in metadata.requires("course_lib"):
        wanted = Requirement(line)
        if "extra ==" not in line:
            assert wanted.specifier.contains(there[wanted.name]), line


# --- the stand-in for GitHub ---------------------------------------------------------------------


@pytest.fixture
def fetch(tmp_path):
    """Fetch through the stand-in, as pip would."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the stand-in's certificate, and is not here")
    archive = tmp_path / "c.zip"
    archive.write_bytes(b"the release")
    with published(archive, ADDRESS, "v1.0", tmp_path) as env:

        def get(url):
            context = ssl.create_default_context(cafile=env["PIP_CERT"])
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({"https": env["PIP_PROXY"]}),
                urllib.request.HTTPSHandler(context=context),
            )
            with opener.open(url, timeout=10) as answer:
                return answer.geturl(), answer.read()

        get.proxy = env["PIP_PROXY"]
        yield get


def test_the_release_is_found_at_its_tag_as_on_github(fetch):
    url, content = fetch(f"{ADDRESS}/archive/refs/tags/v1.0.zip")
    assert content == b"the release"
    assert url.startswith("https://codeload.github.com/"), "GitHub redirects"


@pytest.mark.parametrize("path", ["archive/refs/tags/v2.0.zip", "archive/refs/heads/main.zip"])
def test_another_tag_is_a_404(path, fetch):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(f"{ADDRESS}/{path}")


def test_every_other_host_is_passed_through_unread(fetch):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo():
            connection, _ = server.accept()
            with connection:
                connection.sendall(connection.recv(100)[::-1])

        threading.Thread(target=echo, daemon=True).start()
        host, port = fetch.proxy.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(f"CONNECT 127.0.0.1:{server.getsockname()[1]} HTTP/1.1\r\n\r\n".encode())
            assert b" 200 " in client.recv(100)
            client.sendall(b"abc")
            assert client.recv(100) == b"cba"


# --- what a run shows ----------------------------------------------------------------------------


def notebook(*outputs, tags=(), count=1):
    cell = nbformat.v4.new_code_cell("x", outputs=list(outputs), execution_count=count)
    cell.id, cell.metadata["tags"] = "cell-1", list(tags)
    return nbformat.v4.new_notebook(cells=[cell])


def printed(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def shown(about=None, **data):
    return nbformat.v4.new_output("display_data", data, metadata=about or {})


def test_one_changed_digit_is_a_difference_and_a_cut_stream_is_not():
    saved = notebook(printed("a 0.1\nb 0.2\n"))
    assert compare.differences(saved, notebook(printed("a 0.1\n"), printed("b 0.2\n"))) == []
    assert compare.differences(saved, notebook(printed("a 0.1\nb 0.3\n"))) == [
        "cell-1: -[stdout] b 0.2",
        "cell-1: +[stdout] b 0.3",
    ]
    assert compare.differences(saved, notebook()) != []


def test_pixels_timings_and_progress_bars_are_no_difference_and_words_are():
    image = (
        '<img alt="{}" width="9" style="max-width:100%;height:auto" src="data:image/png;base64,{}">'
    )
    bar = shown(**{compare.LIVE: {"model_id": "1"}, "text/plain": "0%"})
    saved = notebook(shown(**{"text/html": image.format("one", "AA")}), printed("took 1.5 ms"))
    seen = notebook(bar, shown(**{"text/html": image.format("one", "BB")}), printed("took 2.5 ms"))
    assert compare.differences(saved, seen) == []
    seen = notebook(shown(**{"text/html": image.format("two", "AA")}), printed("took 1.5 ms"))
    assert compare.differences(saved, seen) != []


@pytest.mark.parametrize("tag", ["nbval-ignore-output", "gpu"])
def test_what_depends_on_the_machine_is_not_compared(tag):
    assert compare.differences(notebook(printed("1"), tags=[tag]), notebook(printed("2"))) == []


def test_errors_cells_that_did_not_run_and_warnings_are_named():
    failed = nbformat.v4.new_output("error", ename="KeyError", evalue="'x'", traceback=[])
    assert compare.errors(notebook(failed)) == ["cell-1: KeyError: 'x'"]
    assert compare.errors(notebook(count=None)) == ["cell-1: did not run"]
    seen = notebook(printed("\rtraining: 10%|#  |", "stderr"), printed("old API", "stderr"))
    assert compare.warnings(seen) == ["cell-1: old API"]


def test_an_explorer_must_be_live_and_have_its_static_view():
    plain, live = "MaskExplorer: sat may attend", "<script>upgrade(render, {})</script>"
    both = shown(**{"text/plain": plain, "text/html": f"<p>sat</p>{live}"})
    assert compare.explorers(notebook(both)) == [EXPLORER]
    for html, fault in (("<p>sat</p>", "live"), (live, "static")):
        (found,) = compare.explorers(notebook(shown(**{"text/plain": plain, "text/html": html})))
        assert found == {**EXPLORER, fault: False}


GOOD = {
    "notebook": "notebooks/x", "date": "2026-01-01", "cells": 3, "seconds": 5.0,
    "setup_seconds": 4.0, "report": "course_lib 1, no GPU\n", "added": ["course_lib @ https://x"],
    "removed": [], "errors": [], "explorers": [EXPLORER], "explorers_saved": 1, "warnings": [],
    "differences": [],
}  # fmt: skip


REAL_ROW = {
    "real": True, "report": "course_lib 1, the real model is here\n",
    "added": ["course_lib @ https://x", "gguf==0.19.0"],
}  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        {"added": []},
        {"added": ["course_lib @ https://x", "numpy==2.2"], "removed": ["numpy==2.1.3"]},
        {"removed": ["tqdm==4"]},
        {"errors": ["c: KeyError"]},
        {"warnings": ["c: old"]},
        {"differences": ["c: -1"]},
        {"report": "Note: restart\ncourse_lib 1\n"},
        {"report": ""},
        {"explorers": []},
        {"explorers": [{**EXPLORER, "live": False}]},
        {"explorers": [{**EXPLORER, "static": False}]},
        {**REAL_ROW, "added": ["course_lib @ https://x"]},
        {**REAL_ROW, "report": "course_lib 1, no real model: no network\n"},
    ],
)
def test_each_fault_of_a_run_is_a_problem(fault):
    assert problems(GOOD) == [] == problems({**GOOD, **REAL_ROW})
    assert len(problems({**GOOD, **fault})) == 1


# --- the record ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text("utf-8"))


def test_the_table_in_the_readme_is_the_record(record):
    page = README.read_text("utf-8")
    assert with_table(page, record) == page
    with pytest.raises(ValueError, match="expected one table"):
        with_table("no marks", record)


#: Notebooks that came after the last recorded run.
NOT_RUN_YET = {"notebooks/more/01_contract_more"}


def test_the_record_is_of_every_notebook_and_without_a_fault(record):
    folders = ("notebooks", "exercises", "solutions")
    files = [f for folder in folders for f in sorted((ROOT / folder).rglob("[0-9A-Z]*.ipynb"))]
    names = [f.relative_to(ROOT).with_suffix("").as_posix() for f in files]
    run = [row["notebook"] for row in record["notebooks"]]
    assert run == [name for name in names if name not in NOT_RUN_YET]
    for row in record["notebooks"]:
        assert problems(row) == [], row["notebook"]
        assert row["setup_seconds"] < 15, "what was measured on that day"
        cells = nbformat.read(ROOT / f"{row['notebook']}.ipynb", 4).cells
        shown = compare.explorers(nbformat.v4.new_notebook(cells=cells))
        assert [e["name"] for e in row["explorers"]] == [e["name"] for e in shown], row["notebook"]
    assert sum(len(row["explorers"]) for row in record["notebooks"]) >= 6


def test_the_record_was_made_with_the_pins(record):
    assert record["pins"] == pins(PINS.read_text("utf-8"))
    assert record["versions"]["Python"].startswith("3.13.")
    for name in ("numpy", "matplotlib", "ipython", "ipykernel", "ipywidgets", "anywidget"):
        assert record["versions"][name] == record["pins"][name]
    assert record["versions"]["torch"].split("+")[0] == record["pins"]["torch"]
