"""The code walk: implementations line by line, with the values of a real run (chapter 3)."""

import ast
import html
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import traitlets

from course_lib.codewalk import Walk, summary
from course_lib.explorers.base import Explorer, State, labels, numbers, token, whole
from course_lib.lesson import listed

#: The largest table that is shown whole.
_SHOWN = 12


class CodeWalk(Explorer):
    """Recorded runs: click a line to see what it read and what it made.

    >>> from course_lib.codewalk import walk
    >>> def double(x):
    ...     y = 2 * x
    ...     return y
    >>> e = CodeWalk(walk(double, 21))
    >>> e.step = 1
    >>> print(e.words())
    double, line 2: reads x and makes y (42).

    Args:
        walks: recordings made by `course_lib.codewalk.walk`, one an implementation.
        tokens: labels of the rows of tables with as many rows (and of the columns of square
            ones); none if not given.
        walk: the recording that is shown, by number.
        step: 0 for the call and its inputs, then one a line in the order in which they ran.
        row: a token whose row is marked in every table, by text or position, or None.

    Raises:
        TypeError: for something that is no recording.
        ValueError: for no recording, or a state out of range.
    """

    script = "walk"
    walk = State(0, whole(0, lambda e: len(e.walks) - 1))
    step = State(0, whole(0, lambda e: len(e.walks[e.walk].steps)))
    row = State(None, token(optional=True))

    def __init__(
        self,
        *walks: Walk,
        tokens: Sequence[Any] = (),
        walk: int = 0,
        step: int = 0,
        row: str | int | None = None,
    ) -> None:
        if not walks:
            raise ValueError("walks: expected at least one recording; got none")
        for each in walks:
            if not isinstance(each, Walk):
                raise TypeError(
                    "walks: expected recordings made by course_lib.codewalk.walk; "
                    f"got {type(each).__name__}"
                )
        self.walks = walks
        self.tokens = labels(tokens) if len(tokens) else ()
        data = {"tokens": self.tokens, "walks": [_recording(w, self.tokens) for w in walks]}
        super().__init__(data, walk=walk, step=step, row=row)

    @traitlets.observe("walk")
    def _start_again(self, _change: Any) -> None:
        if self.step > len(self.walks[self.walk].steps):
            self.step = 0

    def words(self) -> str:
        """The chosen line, what it read and what it made."""
        step = self.data["walks"][self.walk]["steps"][self.step]
        return step["words"]

    def picture(self) -> str:
        """Every line of every recording with the tables that it makes."""
        return "".join(
            f"<p><b>{html.escape(w.name)}</b></p><pre>{html.escape(str(w))}</pre>"
            for w in self.walks
        )

    def __repr__(self) -> str:
        return "\n\n".join(f"CodeWalk of {w.name}\n{w}" for w in self.walks)


def _recording(walk: Walk, tokens: Sequence[str]) -> dict[str, Any]:
    """One recording as JSON: source and steps, the first of which is the call itself."""
    source = textwrap.dedent("\n".join(walk.source)).split("\n")
    reads = names_read("\n".join(source))
    known = dict(walk.inputs)
    start = next(
        i for i, line in enumerate(source, 1) if line.lstrip().startswith(("def ", "async "))
    )
    steps = [_step(walk.name, start, source, {}, known, tokens)]
    for step in walk.steps:
        read = {n: known[n] for n in reads.get(step.line, ()) if n in known}
        steps.append(_step(walk.name, step.line, source, read, step.made, tokens))
        known |= {n: x for n, x in step.made.items() if n != "returned"}
    return {"name": walk.name, "source": source, "steps": steps}


def _step(
    name: str,
    line: int,
    source: Sequence[str],
    read: dict[str, Any],
    made: dict[str, Any],
    tokens: Sequence[str],
) -> dict[str, Any]:
    inputs = not read and source[line - 1].lstrip().startswith("def ")
    kinds = [f"{n} ({summary(x)})" for n, x in made.items() if n != "returned"]
    if inputs:
        words = f"{name} is called with {listed(kinds)}."
    else:
        reads = f"reads {listed(list(read))} and " if read else ""
        does = f"makes {listed(kinds)}"
        if "returned" in made:
            does = f"returns {summary(made['returned'])}"
        words = f"{name}, line {line}: {reads}{does}."
    return {
        "line": line,
        "words": words,
        "inputs": inputs,
        "read": [{"name": n, **_value(x, tokens)} for n, x in read.items()],
        "made": [{"name": n, **_value(x, tokens)} for n, x in made.items()],
    }


def names_read(source: str) -> dict[int, list[str]]:
    """The variables that each line of a function reads, in order: line -> names.

    A statement that spans lines is counted at its first one; of a loop or a branch, only the
    head is.
    """
    found: dict[int, list[str]] = {}
    for statement in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.stmt)):
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        bodies = {"body", "orelse", "finalbody", "handlers", "cases"}
        heads = [value for field, value in ast.iter_fields(statement) if field not in bodies]
        parts = [x for head in heads for x in (head if isinstance(head, list) else [head])]
        nodes = [n for part in parts if isinstance(part, ast.AST) for n in ast.walk(part)]
        loads = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
        if isinstance(statement, ast.AugAssign):  # `x += 1` reads x too
            loads += [n for n in ast.walk(statement.target) if isinstance(n, ast.Name)]
        loads.sort(key=lambda n: (n.lineno, n.col_offset))
        names = found.setdefault(statement.lineno, [])
        names += [n for n in dict.fromkeys(x.id for x in loads) if n not in names]
    return found


def _value(value: Any, tokens: Sequence[str]) -> dict[str, Any]:
    """A value as JSON: a line of text, and a table if it is an array of numbers."""
    shown: dict[str, Any] = {"summary": summary(value)}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.numpy() if value.dtype == torch.bool else value.double().numpy()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.size == 0:
        return shown
    if value.ndim > 2:
        shown["note"] = f"the first of {int(np.prod(value.shape[:-2]))} tables"
        value = value.reshape(-1, *value.shape[-2:])[0]
    table = np.atleast_2d(value)
    if max(table.shape) > _SHOWN:
        shown["note"] = f"the first {min(_SHOWN, len(table))} rows and columns of it"
    rows = tokens if value.ndim == 2 and len(tokens) == len(table) else ()
    square = rows and table.shape[0] == table.shape[1]
    corner = table[:_SHOWN, :_SHOWN]
    return shown | {
        "table": numbers(corner),
        "whole": value.dtype.kind != "f",
        "truth": value.dtype.kind == "b",
        "rows": list(rows[:_SHOWN]),
        "columns": list(tokens[:_SHOWN]) if square else [],
    }
