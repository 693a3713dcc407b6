"""Arguments on loan: they lie in memory that an answer shares with the sandbox's first process.

That process, which runs no student's line, hands the calls of a script out one by one, looks at
each argument when the exercise is over, and overwrites those that a script says are overwritten.
So whether an answer wrote into its arguments is seen from outside and not reported by the answer.
"""

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from course_lib.checks.script import Call, Case, Drawn, Tensor

_ALIGNED = 64
_OVERWRITTEN = 77


class Loan:
    """Room for the arguments of an exercise; a fork has it in common with its parent.

    Args:
        size: bytes, as `room` says.
    """

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
        self._memory = mmap.mmap(-1, max(size, _ALIGNED), flags=flags)
        self._free = 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The next place, for an array; nothing is written.

        Both processes ask for the same places in the same order.
        """
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return np.empty(shape, dtype)
        at, self._free = self._free, self._free + _rounded(size)
        return np.ndarray(shape, dtype, buffer=self._memory, offset=at)


@dataclass
class _Lent:
    """An argument of a call that was handed out.

    Attributes:
        case: index of the script.
        name: as `Outcome.changed` names it.
        places: where its arrays lie.
        was: what it is made of.
        overwritten: the script has it overwritten once the call is done.
        seen: the same has happened, and before it the argument was looked at.
    """

    case: int
    name: str
    places: Sequence[np.ndarray]
    was: Any
    overwritten: bool
    seen: bool = False
    changed: bool = False

    def look(self) -> None:
        pairs = zip(self.places, arrays(self.was), strict=True)
        self.changed |= not all(_same(place, array) for place, array in pairs)


class Scripts:
    """What the first process does: hand out calls and look at their arguments.

    Args:
        cases: the scripts of one exercise.
        loan: where arguments go.
    """

    def __init__(self, cases: Sequence[Case], loan: Loan) -> None:
        self._cases, self._loan = cases, loan
        self._case, self._step = -1, 0
        self._lent: list[_Lent] = []

    def begin(self) -> None:
        """The answer begins the next script."""
        self._done()
        self._case, self._step = self._case + 1, 0

    def call(self) -> Call | None:
        """The next call of the script, its arguments in their places; None after the last."""
        self._done()
        inside = 0 <= self._case < len(self._cases)
        calls = self._cases[self._case].calls if inside else ()
        if self._step >= len(calls):
            return None
        call, number = calls[self._step], self._step
        self._step += 1
        given = [(str(i), value) for i, value in enumerate(call.args)]
        given += [(repr(name), value) for name, value in call.kwargs.items()]
        for name, value in given:
            places = []
            for array in arrays(value):
                places.append(self._loan.take(array.shape, array.dtype))
                places[-1][...] = array
            if places:
                what = f"argument {name} of call {number}"
                self._lent.append(_Lent(self._case, what, places, value, call.scribble))
        return replace(call, scribble=False)

    def changed(self) -> list[tuple[int, str]]:
        """(index of the script, name) of each argument that is no longer as it was."""
        for lent in self._lent:
            if not lent.seen:
                lent.look()
        return [(lent.case, lent.name) for lent in self._lent if lent.changed]

    def _done(self) -> None:
        """The call that was handed out last is done: overwrite what the script says."""
        for lent in reversed(self._lent):
            if lent.seen or not lent.overwritten:
                return
            lent.look()
            lent.seen = True
            for place in lent.places:
                place[...] = _OVERWRITTEN


class Steps:
    """The other end: the calls of a script, each asked for when the one before is done.

    Args:
        count: of calls.
        ask: gives the next one.
    """

    def __init__(self, count: int, ask: Callable[[], Call]) -> None:
        self._count, self._ask = count, ask

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Call]:
        for _ in range(self._count):
            yield self._ask()


def arrays(value: Any) -> Iterator[np.ndarray]:
    """The arrays that an argument stands for, in the order in which `run_script` makes them."""
    match value:
        case np.ndarray():
            yield value
        case Tensor():
            yield value.value
        case Drawn():
            yield value.array()
        case list() | tuple():
            for item in value:
                yield from arrays(item)
        case dict():
            for item in value.values():
                yield from arrays(item)


def room(value: Any) -> int:
    """Bytes that the arrays of arguments, calls or scripts take on loan."""
    match value:
        case np.ndarray():
            return _rounded(value.nbytes)
        case Tensor():
            return _rounded(value.value.nbytes)
        case Drawn():
            return _rounded(math.prod(value.shape) * np.dtype(value.dtype).itemsize)
        case list() | tuple():
            return sum(map(room, value))
        case dict():
            return sum(map(room, value.values()))
        case Call():
            return room(value.args) + room(dict(value.kwargs))
        case Case():
            return room(value.calls)
    return 0


def _rounded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """To the bit: NaN equals itself."""
    flat = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return np.array_equal(*flat)
