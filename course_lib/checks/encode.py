"""What `course build` writes into `checks/data`: cases and outcomes as JSON (see `codec`).

Arrays above `LARGE` entries are kept as a sample, so that a check at a real size ships as a few
numbers. Floats of outputs are rounded to eight digits (six in float32), so that the files do not
depend on the processor.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from course_lib.checks.codec import Reader, Writer
from course_lib.checks.script import Outcome, Problem

#: More entries than this and an output is sampled at `SAMPLE` places.
LARGE = 360
SAMPLE = 120
#: A longer log of callbacks says nothing about the thought behind them and is left out.
LONG_LOG = 50


@dataclass(frozen=True)
class ArraySample:
    """A large array by its shape and evenly spread entries of it."""

    shape: tuple[int, ...]
    entries: np.ndarray


def sample_array(array: np.ndarray) -> ArraySample:
    """The sample of a large array that the data files keep."""
    return ArraySample(array.shape, array.reshape(-1)[sample_positions(array.size)])


def sample_positions(size: int) -> np.ndarray:
    """Where a large array of so many entries is sampled."""
    return np.linspace(0, size - 1, SAMPLE).astype(int)


class _Exact(Writer):
    def array(self, array: np.ndarray) -> dict[str, Any]:
        entries = array.reshape(-1).tolist()
        if array.dtype.kind == "f":  # the fewest digits that give a number back in its own dtype
            entries = [float(str(x)) for x in array.flat]
        data = [self.tree(x) for x in entries]
        return {"array": str(array.dtype), "shape": list(array.shape), "data": data}


class _Rounded(_Exact):
    digits = 8

    def array(self, array: np.ndarray) -> dict[str, Any]:
        if array.size > LARGE:
            sample = sample_array(array)
            return {"sample": list(sample.shape), "entries": self.array(sample.entries)}
        self.digits = 6 if array.dtype in (np.float32, np.float16) else 8
        tree = super().array(array)
        self.digits = 8
        return tree

    def number(self, x: float) -> float:
        return float(f"{x:.{self.digits - 1}e}") + 0.0  # no negative zero


class _Stored(Reader):
    def array(self, tree: dict[str, Any]) -> np.ndarray | ArraySample:
        match tree:
            case {"sample": shape, "entries": entries}:
                return ArraySample(tuple(shape), decode(entries))
            case {"array": dtype, "shape": shape, "data": flat}:
                numbers = [x if isinstance(x, (int, float)) else float(x["float"]) for x in flat]
                return np.array(numbers, dtype=dtype).reshape(shape)
        raise ValueError("unexpected JSON")


def encode(value: Any) -> Any:
    """A case or a plain value as what JSON can hold; numbers stay exact.

    Args:
        value: made of the classes of `script`, arrays, numbers, strings and containers.
    """
    return _Exact().tree(value)


def decode(data: Any) -> Any:
    """What `encode` made, back again (an `ArraySample` for a large array)."""
    return _Stored(trusted=True).value(data)


def encode_outcome(outcome: Outcome) -> Any:
    """An outcome without its machine-dependent parts, floats rounded; for `decode`."""
    problem, asked = outcome.problem, outcome.callbacks
    kept = Outcome(
        list(outcome.values),
        tuple(outcome.changed),
        problem and Problem(problem.kind, error_summary(problem)),
        asked if sum(map(len, asked.values())) <= LONG_LOG else {},
    )
    return _Rounded().tree(kept)


def error_summary(problem: Problem) -> str:
    """Of an exception its class and first words, which do not depend on names and numbers."""
    return " ".join(problem.text.split()[:4]) if problem.kind == "raised" else ""
