"""Arguments that an answer shares with the sandbox's first process: they lie in common memory.

That process, which runs no student's line, hands the calls of a script out one by one, looks at
each argument when the exercise is over, and overwrites those that a script says are overwritten.
So whether an answer wrote into its arguments is seen from outside and not reported by the answer.
Where memory is limited, all calls of a script have the same place for their arguments, as if the
caller used one buffer: an answer that keeps them keeps no data, so they are no free memory.
"""

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from course_lib.checks.run import same_bits
from course_lib.checks.script import Call, Case, Drawn, Tensor

_ALIGNED = 64
_OVERWRITTEN = 77


class SharedMemory:
    """Room for the arguments of an exercise; a fork has it in common with its parent.

    Args:
        size: bytes, as `room` says.
        reused: every call has the same room.
    """

    def __init__(self, size: int, *, reused: bool = False) -> None:
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
        self._memory = mmap.mmap(-1, max(size, _ALIGNED), flags=flags)
        self.reused, self._free = reused, 0

    def next_call(self) -> None:
        """Places are for another call from now on."""
        if self.reused:
            self._free = 0

    def place(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The next place, for an array; nothing is written.

        Both processes ask for the same places in the same order.
        """
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return np.empty(shape, dtype)
        at, self._free = self._free, self._free + _rounded(size)
        return np.ndarray(shape, dtype, buffer=self._memory, offset=at)


@dataclass
class _SharedArgument:
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
        self.changed |= not all(same_bits(place, array) for place, array in pairs)


class Scripts:
    """What the first process does: hand out calls and look at their arguments.

    Args:
        cases: the scripts of one exercise.
        memory: where arguments go.
    """

    def __init__(self, cases: Sequence[Case], memory: SharedMemory) -> None:
        self._cases, self._memory = cases, memory
        self._case, self._step = -1, 0
        self._shared: list[_SharedArgument] = []

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
        self._memory.next_call()
        call, number = calls[self._step], self._step
        self._step += 1
        given = [(str(i), value) for i, value in enumerate(call.args)]
        given += [(repr(name), value) for name, value in call.kwargs.items()]
        for name, value in given:
            places = []
            for array in arrays(value):
                places.append(self._memory.place(array.shape, array.dtype))
                places[-1][...] = array
            if places:
                what = f"argument {name} of call {number}"
                self._shared.append(
                    _SharedArgument(self._case, what, places, value, call.overwrite_args)
                )
        return replace(call, overwrite_args=False)

    def changed(self) -> list[tuple[int, str]]:
        """(index of the script, name) of each argument that is no longer as it was."""
        for argument in self._shared:
            if not argument.seen:
                argument.look()
        return [(argument.case, argument.name) for argument in self._shared if argument.changed]

    def _done(self) -> None:
        """The call that was handed out last is done: look at its arguments, and overwrite them."""
        for argument in reversed(self._shared):
            if argument.seen or not (argument.overwritten or self._memory.reused):
                return
            argument.look()
            argument.seen = True
            for place in argument.places:
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
    return (leaf.array() if isinstance(leaf, Drawn) else leaf for leaf in _leaves(value))


def room(cases: Sequence[Case], *, reused: bool = False) -> int:
    """Bytes that the arguments of scripts take in shared memory, see `SharedMemory`."""
    calls = [[list(call.args), dict(call.kwargs)] for case in cases for call in case.calls]
    sizes = [
        sum(_rounded(math.prod(a.shape) * np.dtype(a.dtype).itemsize) for a in _leaves(call))
        for call in calls
    ]
    return max(sizes, default=0) if reused else sum(sizes)


def _leaves(value: Any) -> Iterator[np.ndarray | Drawn]:
    match value:
        case np.ndarray() | Drawn():
            yield value
        case Tensor():
            yield value.value
        case list() | tuple():
            for item in value:
                yield from _leaves(item)
        case dict():
            yield from _leaves(list(value.values()))


def _rounded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
