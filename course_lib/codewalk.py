"""Run a function and record what each of its lines makes (chapter 3, the code walk).

The values come from the real run and the code shown is the code that ran, so the two cannot
disagree.
"""

import inspect
import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch

from course_lib.lesson import table


@dataclass(frozen=True)
class Step:
    """One line of the function, when it ran.

    Attributes:
        line: its number, counted from 1 at the function's first line.
        code: its text.
        made: the local variables that it made or changed, by name; `returned` for a return.
    """

    line: int
    code: str
    made: dict[str, Any]


@dataclass(frozen=True)
class Walk:
    """A recorded run; `print(walk)` shows it all.

    Attributes:
        name: the function's name.
        source: its lines.
        inputs: its arguments, by name.
        steps: its lines in the order in which they ran.
        result: what it returned.
    """

    name: str
    source: tuple[str, ...]
    inputs: dict[str, Any]
    steps: tuple[Step, ...]
    result: Any

    def __str__(self) -> str:
        lines = [f"{name} = {summary(value)}" for name, value in self.inputs.items()]
        for step in self.steps:
            lines.append(f"\n{step.line:>2} | {step.code.strip()}")
            for name, value in step.made.items():
                lines.append(f"   {name}: {summary(value)}")
                if _is_small_matrix(value):
                    lines += ["   " + row for row in table(value, digits=4).splitlines()]
        return "\n".join(lines)


def walk(function: Callable[..., Any], *arguments: Any, **named: Any) -> Walk:
    """Call a function and record each line that runs in it, not in what it calls.

    Args:
        function: a Python function whose source is known (defined in a file or a notebook cell).
        arguments: what to call it with.
        named: likewise, by name.

    Returns:
        The recording.

    Raises:
        TypeError: if `function` is not a plain Python function (a generator runs later, and
            cannot be walked).
    """
    if not inspect.isfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(
            f"function: expected a plain Python function; got {type(function).__name__}"
        )
    code = function.__code__
    bound = inspect.signature(function).bind(*arguments, **named)
    bound.apply_defaults()
    recorder = _Recorder(code)
    previous = sys.gettrace()
    sys.settrace(recorder.on_call)
    try:
        result = function(*arguments, **named)
    finally:
        sys.settrace(previous)
    source = tuple(line.rstrip("\n") for line in inspect.getsourcelines(function)[0])
    return Walk(function.__name__, source, dict(bound.arguments), tuple(recorder.steps), result)


def summary(value: Any) -> str:
    """A value in one line: shape and dtype for arrays, the value itself for numbers."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {list(value.shape)}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return repr(value)


def _is_small_matrix(value: Any) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 2 and value.shape[1] <= 8


class _Recorder:
    """Collects steps: a line's effect is known when the next one begins, or the call returns."""

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.steps: list[Step] = []
        self._line: int | None = None
        self._entered = False
        self._before: dict[str, Any] = {}

    def on_call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        if frame.f_code is not self.code or self._entered:
            return None
        self._entered = True
        self._before = _snapshot(frame)
        return self.on_line

    def on_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event in ("line", "return") and self._line is not None:
            returned = {"returned": _copy(argument)} if event == "return" else {}
            self._close(self._line, frame, returned)
        self._line = frame.f_lineno if event == "line" else None
        return self.on_line

    def _close(self, line: int, frame: FrameType, returned: dict[str, Any]) -> None:
        before, now = self._before, _snapshot(frame)
        made = {n: x for n, x in now.items() if n not in before or not _same(before[n], x)}
        text = linecache.getline(self.code.co_filename, line).rstrip("\n")
        number = line - self.code.co_firstlineno + 1
        self.steps.append(Step(number, text, made | returned))
        self._before = now


def _snapshot(frame: FrameType) -> dict[str, Any]:
    """Copies of the local variables: a line that changes one in place is noticed too."""
    return {name: _copy(value) for name, value in frame.f_locals.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*map(_no_nan, (a, b)))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return a is b or (type(a) is type(b) and not hasattr(a, "__array__") and a == b)


def _no_nan(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with every NaN replaced by one number, so that equal copies compare equal."""
    return torch.nan_to_num(tensor, nan=12345.0) if tensor.is_floating_point() else tensor
