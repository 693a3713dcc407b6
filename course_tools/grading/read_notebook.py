"""Reads what is meant to be a notebook, however it was saved (`course grade`).

Browsers, editors and learning platforms strip metadata, change encodings, cut files off and put
other things under the name .ipynb. What can be read is read; what cannot has a status in words.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from course_tools.exercise_bank.load import Bank
from course_tools.grading.extract_answer import Program

#: Most cells of a notebook, and most letters of all its code.
MAX_CELLS, MAX_CODE = 5_000, 1_000_000
#: What a file under a notebook's name may be instead, by how it begins.
_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip file or an office document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x80\x04", "a pickle"),
)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: A heading of an exercise, or the call of its check.
_TITLE = re.compile(r"""^## +(\d+\.\w+) |\bcheck\(\s*["'](\d+\.\w+)""", re.MULTILINE)


class NotANotebookError(ValueError):
    """A file that cannot be read as a notebook; the message is its status."""


def read_cells(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """A notebook in one form, whatever wrote it.

    Args:
        data: the file, of format 3 or 4, in UTF-8, UTF-16, UTF-32 or Latin-1.

    Returns:
        {"cells": [{"cell_type", "metadata", "source"}, ...]}, sources as texts, and the sources of
        the code cells.

    Raises:
        NotANotebookError: if it is no notebook, or one without cells, or far too long.
    """
    tree = _json(data)
    if not isinstance(tree, dict):
        raise NotANotebookError("not a notebook: JSON, but no cells")
    cells = [_cell(cell) for cell in _raw_cells(tree) if isinstance(cell, dict)]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    if not cells:
        raise NotANotebookError("a notebook without cells")
    if len(cells) > MAX_CELLS or sum(map(len, code)) > MAX_CODE:
        raise NotANotebookError(f"too long: {len(cells)} cells, {sum(map(len, code))} letters")
    return {"cells": cells}, code


def lean(notebook: dict[str, Any]) -> bytes:
    """A notebook as from `read_cells`, without what grading does not need, as a file."""
    cells = [{**c, "metadata": {"nbgrader": {"grade_id": _id(c)}}} for c in notebook["cells"]]
    return json.dumps({"nbformat": 4, "cells": cells}).encode()


def chapter_of(
    notebook: dict[str, Any], program: Program | Callable[[], Program], bank: Bank
) -> int | None:
    """Which chapter a notebook answers: by its cells' metadata, else by the names that it defines.

    Args:
        notebook: as from `read_cells`.
        program: its code, or a function that reads it if it is needed.
        bank: the exercises.

    Returns:
        The chapter whose exercises are most, or None. Where names belong to several chapters,
        headings such as "## 5.2 ..." and calls such as check("5.2", ...) decide.
    """
    marked: Counter[int] = Counter()
    for cell in notebook["cells"]:
        match = re.fullmatch(r"answer-(\d+)-(\w+)", _id(cell))
        number = f"{match[1]}.{match[2]}" if match else str(cell["metadata"].get("exercise", ""))
        if number in bank.exercises:
            marked[bank.exercises[number].chapter] += 1
    if marked:
        return max(marked, key=lambda chapter: (marked[chapter], -chapter))
    names = (program() if callable(program) else program).names()
    defined: Counter[int] = Counter()
    for facts in bank.exercises.values():
        if facts.answer in names:
            defined[facts.chapter] += 1
    if not defined:
        return None
    text = "\n".join(cell["source"] for cell in notebook["cells"])
    titles: Counter[int] = Counter()
    for found in re.finditer(
        r"""^## +(\d+\.\w+) |\bcheck\(\s*["'](\d+\.\w+)""", text, re.MULTILINE
    ):
        facts = bank.exercises.get(found[1] or found[2])
        if facts is not None:
            titles[facts.chapter] += 1
    return max(defined, key=lambda chapter: (defined[chapter], titles[chapter], -chapter))


def _json(data: bytes) -> Any:
    if not data.strip():
        raise NotANotebookError("an empty file")
    for start, what in _OTHERS:
        if data.startswith(start):
            raise NotANotebookError(f"not a notebook: {what}")
    text = _decoded(data).lstrip("\ufeff \t\r\n\0")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise NotANotebookError(_not_json(text, error)) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotANotebookError(f"not a notebook ({type(error).__name__})") from None


def _not_json(text: str, error: json.JSONDecodeError) -> str:
    start = text[:200].lower()
    if start.startswith(("<!doctype", "<html", "<?xml", "<")):
        return "not a notebook: a web page"
    if not start.startswith(("{", "[")):
        return "not a notebook: some other text"
    rest = text[error.pos :].strip()
    if not rest or error.msg.startswith("Unterminated"):
        return f"cut off: the file ends in the middle, in line {error.lineno}"
    return f"damaged: it is no longer JSON in line {error.lineno}"


def _decoded(data: bytes) -> str:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    head = data[:200]
    if head.count(0) > len(head) // 4:  # UTF-16 without its mark
        return data.decode("utf-16-be" if head[:1] == b"\0" else "utf-16-le", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _raw_cells(tree: dict[str, Any]) -> list[Any]:
    cells = tree.get("cells")
    if isinstance(cells, list):
        return cells
    sheets = tree.get("worksheets")  # format 3
    if isinstance(sheets, list):
        inside = [s.get("cells") for s in sheets if isinstance(s, dict)]
        return [cell for cells in inside if isinstance(cells, list) for cell in cells]
    raise NotANotebookError("not a notebook: JSON, but no cells")


def _cell(cell: dict[str, Any]) -> dict[str, Any]:
    kind = cell.get("cell_type")
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    metadata = cell.get("metadata")
    return {
        "cell_type": kind if isinstance(kind, str) else "",
        "metadata": metadata if isinstance(metadata, dict) else {},
        # Halves of surrogate pairs are legal in JSON and nowhere else.
        "source": source.encode("utf-8", "replace").decode() if isinstance(source, str) else "",
    }


def _id(cell: dict[str, Any]) -> str:
    """The name that nbgrader's metadata gives a cell, or ""."""
    grading = cell["metadata"].get("nbgrader")
    found = grading.get("grade_id", "") if isinstance(grading, dict) else ""
    return found if isinstance(found, str) else ""
