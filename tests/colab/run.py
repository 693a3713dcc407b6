"""Open every notebook as Colab would: alone in a folder, in a fresh runtime, Run All.

`python -m tests.colab.run` is `make colab`; `--subset` is what CI runs. What is checked: no cell
fails, the setup cell adds `course_lib` and nothing else, every explorer is live and has its static
view, and what is printed is what the saved notebook shows. Exit status 1 if anything is not so.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from course_tools.project import load_project
from course_tools.release.release import release
from tests.helpers.paths import ROOT

from . import compare
from .pins import PINS, pins
from .published import published
from .runtime import Runtime

RECORD = Path(__file__).with_name("result.json")
README = Path(__file__).with_name("README.md")
#: Short ones, with an explorer each but the last, for every part of the emulation.
SUBSET = ("notebooks/02_tril_mask", "exercises/02_tril_mask")
_RUN_ALL = Path(__file__).with_name("run_all.py")
_TABLE = re.compile(r"(<!-- result: written by `make colab` -->\n).*?(<!-- end -->)", re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; see `--help`."""
    options = _options(arguments)
    runtime = Runtime(options.home, subset=options.subset)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        project = load_project(ROOT)
        released = release(project, scratch / "students", archive=True)
        print(f"== the runtime: {runtime.folder}", flush=True)
        runtime.make()
        certificate = scratch / "certificate"
        certificate.mkdir()
        names = options.only or (SUBSET if options.subset else _all(released.out))
        with published(released.archive, project.address, project.tag, certificate) as pip:
            rows = []
            for path in names:
                place = ROOT if path.startswith("solutions/") else released.out
                row = visit(runtime, place / f"{path}.ipynb", scratch, pip)
                rows.append({"notebook": path, "date": f"{datetime.now(UTC):%Y-%m-%d}", **row})
                print(_line(rows[-1]), flush=True)
        kept = _kept(_all(released.out), rows) if options.only else rows
    if options.record:
        result = {**_about(runtime), "notebooks": kept}
        RECORD.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
        README.write_text(with_table(README.read_text("utf-8"), result), "utf-8")
    wrong = [f"{row['notebook']}: {line}" for row in rows for line in problems(row)]
    print("\n".join(wrong) or f"{len(rows)} notebooks, as saved")
    return 1 if wrong else 0


def visit(runtime: Runtime, notebook: Path, scratch: Path, pip: dict[str, str]) -> dict[str, Any]:
    """Run one notebook in a runtime without course_lib, and say what happened.

    Args:
        runtime: made already.
        notebook: as published.
        scratch: a folder for what is written.
        pip: variables with which pip finds the release.

    Returns:
        A row of the record.
    """
    runtime.forget_what_was_added()
    shutil.rmtree(scratch / "cache", ignore_errors=True)
    before = runtime.freeze()
    content = scratch / "content"  # Colab's name for where a kernel starts
    shutil.rmtree(content, ignore_errors=True)
    content.mkdir()
    shutil.copy(notebook, content)
    out = scratch / "seen.ipynb"
    done = subprocess.run(
        [str(runtime.python), str(_RUN_ALL), str(content / notebook.name), str(out)],
        cwd=content, env=runtime.environment(scratch) | pip, capture_output=True, text=True,
    )  # fmt: skip
    if not out.is_file():
        raise RuntimeError(f"{notebook.name} could not be run at all: {done.stderr}")
    saved, seen = nbformat.read(notebook, 4), nbformat.read(out, 4)
    out.unlink()
    after = runtime.freeze()
    cells = compare.code_cells(seen)
    return {
        "cells": len(cells),
        "seconds": round(sum(cell.metadata.get("seconds", 0) for cell in cells), 1),
        "setup_seconds": round(cells[0].metadata.get("seconds", 0), 1),
        "report": _text(cells[0]),
        "real": "set_up" in cells[0].source,
        "added": sorted(set(after) - set(before)),
        "removed": sorted(set(before) - set(after)),
        "errors": compare.errors(seen),
        "explorers": compare.explorers(seen),
        "explorers_saved": len(compare.explorers(saved)),
        "warnings": compare.warnings(seen),
        "differences": compare.differences(saved, seen),
    }


def problems(row: dict[str, Any]) -> list[str]:
    """What of a row is not as it must be."""
    found = [*row["errors"], *row["warnings"], *row["differences"]]
    installed = [re.split("==| @ ", line)[0] for line in row["added"]]
    real = row.get("real", False)  # with a section on the real model, which gguf reads
    if installed != (["course_lib", "gguf"] if real else ["course_lib"]) or row["removed"]:
        found.append(f"pip freeze: added {row['added']}, removed {row['removed']}")
    if row["report"].count("\n") != 1 or not row["report"].startswith("course_lib "):
        found.append(f"the setup cell said {row['report']!r}")
    if real and not row["report"].endswith(", the real model is here\n"):
        found.append("the setup cell did not fetch the real model")
    whole = [e for e in row["explorers"] if e["live"] and e["static"]]
    if not len(whole) == len(row["explorers"]) == row["explorers_saved"]:
        found.append(f"explorers: {row['explorers_saved']} saved, shown {row['explorers']}")
    return found


def with_table(page: str, result: dict[str, Any]) -> str:
    """A page with the table of a record between its two marks.

    Raises:
        ValueError: if the page has not the marks once.
    """
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"Run with {versions} on {result['machine']}.",
        "",
        "| notebook | run on | code cells | seconds | of it the setup cell | explorers | amiss |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["notebooks"]:
        amiss = "; ".join(problems(row)) or "nothing"
        lines.append(
            f"| {row['notebook']} | {row['date']} | {row['cells']} | {row['seconds']} "
            f"| {row['setup_seconds']} | {len(row['explorers'])} | {amiss} |"
        )
    new, found = _TABLE.subn(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], page)
    if found != 1:
        raise ValueError(f"expected one table between its marks; found {found}")
    return new


# --- parts ---------------------------------------------------------------------------------------


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--subset", action="store_true", help="a short run, without Colab's torch")
    parser.add_argument("--home", type=Path, help="where the runtime lives (5 GB)")
    parser.add_argument("--only", nargs="+", help="such as notebooks/05_kv_cache")
    parser.add_argument(
        "--record", action="store_true",
        help="write result.json and README's table; with --only, those rows of them",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.record and options.subset:
        parser.error("--record: what is recorded is the whole runtime's")
    kind = "subset" if options.subset else "whole"
    options.home = options.home or ROOT / ".colab" / kind
    return options


def _all(tree: Path) -> list[str]:
    """What is published, and the solutions: their checks must accept them on Colab too."""
    places = (tree, "notebooks"), (tree, "exercises"), (ROOT, "solutions")
    return [
        file.relative_to(top).with_suffix("").as_posix()
        for top, folder in places
        for file in sorted((top / folder).rglob("[0-9A-Z]*.ipynb"))
    ]


def _kept(names: list[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the record as it is, but these instead of older ones of the same notebooks."""
    old = json.loads(RECORD.read_text("utf-8"))["notebooks"] if RECORD.is_file() else []
    every = {row["notebook"]: row for row in [*old, *rows]}
    return [every[name] for name in names if name in every]


def _about(runtime: Runtime) -> dict[str, Any]:
    names = ["torch", "triton", "numpy", "matplotlib", "ipython", "ipykernel", "ipywidgets"]
    ask = f"from importlib.metadata import version; print(*map(version, {[*names, 'anywidget']}))"
    versions = dict(zip([*names, "anywidget"], runtime.ask(ask).split(), strict=True))
    python = runtime.ask("import platform; print(platform.python_version())")
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, no GPU",
        "versions": {"Python": python, **versions},
        "pins": pins(PINS.read_text("utf-8")),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor()
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return name[1] if name else platform.processor()


def _text(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def _line(row: dict[str, Any]) -> str:
    wrong = problems(row)
    state = "as saved" if not wrong else f"{len(wrong)} departures"
    return f"{row['notebook']}: {row['seconds']} s, setup {row['setup_seconds']} s, {state}"


if __name__ == "__main__":
    sys.exit(main())
