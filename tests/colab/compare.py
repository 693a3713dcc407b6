"""What a notebook showed in the emulated runtime, beside what its saved copy shows."""

import configparser
import re
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

LIVE = "application/vnd.jupyter.widget-view+json"
#: Not compared: the setup cell, live timings, what runs on a GPU only.
_UNCOMPARED = {"nbval-ignore-output", "gpu"}
_SANITIZE = Path(__file__).parents[1] / "nbval_sanitize.cfg"
_EXPLORER = re.compile(r"(\w+Explorer|MaskBuilder|CodeWalk)\b")


def differences(saved: NotebookNode, seen: NotebookNode) -> list[str]:
    """Each line of output that differs from the saved one, with its cell; pictures by their words.

    Args:
        saved: the notebook as it is in the repo.
        seen: the same cells, run in the emulated runtime.
    """
    found = []
    pairs = zip(code_cells(saved), code_cells(seen), strict=True)
    for before, after in pairs:
        if _UNCOMPARED & set(before.metadata.get("tags", [])):
            continue
        lines = [list(_shown(cell)) for cell in (before, after)]
        changed = unified_diff(*lines, lineterm="", n=0)
        found += [
            f"{before.id}: {line}" for line in changed if not line.startswith(("---", "+++", "@@"))
        ]
    return found


def errors(seen: NotebookNode) -> list[str]:
    """Each error that a cell ended in, and each cell that did not run."""
    found = []
    for cell in code_cells(seen):
        if cell.execution_count is None:
            found.append(f"{cell.id}: did not run")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{cell.id}: {output.ename}: {output.evalue}")
    return found


def warnings(seen: NotebookNode) -> list[str]:
    """Each line on stderr that is no progress bar."""
    text = [
        (cell.id, output.text)
        for cell in code_cells(seen)
        for output in cell.outputs
        if output.get("name") == "stderr"
    ]
    lines = ((where, line) for where, each in text for line in re.split(r"[\r\n]+", each))
    return [f"{where}: {line}" for where, line in lines if line.strip() and "%|" not in line]


def explorers(notebook: NotebookNode) -> list[dict[str, Any]]:
    """Each explorer that is shown: its name, and whether it is live and has its static view."""
    found = []
    for output in _outputs(notebook):
        data = output.get("data", {})
        if name := _EXPLORER.match(data.get("text/plain", "")):
            static, _, live = data.get("text/html", "").partition("<script>")
            found.append({"name": name[1], "live": "upgrade(" in live, "static": "<" in static})
    return found


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    for cell in code_cells(notebook):
        yield from cell.outputs


def _shown(cell: NotebookNode) -> Iterator[str]:
    """The lines of a cell's outputs, without what nbval does not compare either."""
    rules = configparser.RawConfigParser()
    rules.read(_SANITIZE, "utf-8")
    for kind, text in _texts(cell):
        for name in rules.sections():
            text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
        for line in text.splitlines():
            yield f"[{kind}] {line}"


def _texts(cell: NotebookNode) -> Iterator[tuple[str, str]]:
    streams: dict[str, str] = {}
    rest = []
    for output in cell.outputs:
        if output.output_type == "stream":
            streams[output.name] = streams.get(output.name, "") + output.text
        elif output.output_type != "error":
            data = output.get("data", {})
            bar = LIVE in data and "text/html" not in data  # a progress bar: saved without it
            rest += [] if bar else [(k, data[k]) for k in ("text/plain", "text/html") if k in data]
    yield from ((kind, text) for kind, text in streams.items() if kind == "stdout")
    yield from rest
