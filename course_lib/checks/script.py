"""Scripts: what a check asks an answer to do, as plain data (exercises of every chapter).

A check never holds on to a student's objects. It writes a script (call the answer with these
arrays, or make an object and call its methods), has it run, in this process or in a sandbox, and
compares the plain values that come back. Visible checks, hidden checks and the tests of both
speak this one language.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

#: What a script may pass and what may come back: these, and tuples, lists and dicts of them.
PLAIN = (np.ndarray, np.generic, bool, int, float, str, type(None))


@dataclass(frozen=True)
class Callback:
    """An argument that is a function of ours, by its name in the register of `callbacks`.

    The answer may call it; its calls are counted where the answer cannot reach the count.

    Args:
        kind: name in `course_lib.checks.callbacks.REGISTER`.
        params: plain arguments of the factory there.
    """

    kind: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """An argument that is handed over as a torch tensor rather than a NumPy array."""

    value: np.ndarray


@dataclass(frozen=True)
class DType:
    """An argument that is a dtype, `library` "numpy" or "torch", `name` like "float32"."""

    library: str
    name: str


@dataclass(frozen=True)
class Drawn:
    """A large array by its recipe: standard normal numbers, times `scale`, cast to `dtype`.

    Args:
        seed: of `numpy.random.default_rng`.
        shape: of the array.
        dtype: NumPy's name of a float type.
        scale: factor.
        period: so many numbers are drawn, and come again and again; 0 draws them all. For arrays
            of many megabytes.
    """

    seed: int
    shape: Sequence[int]
    dtype: str = "float32"
    scale: float = 1.0
    period: int = 0

    def array(self) -> np.ndarray:
        """The array itself, a new one each time."""
        shape = tuple(self.shape)
        numbers = np.random.default_rng(self.seed).standard_normal(self.period or shape)
        numbers = (numbers * self.scale).astype(self.dtype)
        return np.resize(numbers, shape) if self.period else numbers


@dataclass(frozen=True)
class Call:
    """One step of a script.

    Args:
        args: plain values, `Tensor`, `DType`, `Drawn`, `Callback`, or nested lists and tuples of
            them.
        kwargs: likewise, by name.
        method: None calls the answer itself (a class makes an object); else this method of the
            object that an earlier call saved as `on`.
        on: see `method`.
        save: keep the result under this name for later calls and return None in its place.
        overwrite_args: overwrite the arrays that were passed once the call is back, as a caller
            does who reuses its buffers.
        catch: an exception of this call does not end the script; its value is then the tuple
            ("raised", NAME), NAME being the first built-in exception among its classes.
        again: places of arguments for which the answer gets the very objects of the call before,
            whatever it made of them: lists, for one, which nobody else can look at.
        pick: of each array that comes back, only these positions of axis 1; all if None.
    """

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None
    on: str = "object"
    save: str | None = None
    overwrite_args: bool = False
    catch: bool = False
    again: Sequence[int] = ()
    pick: Sequence[int] | None = None


@dataclass(frozen=True)
class Case:
    """A script with the words that name it to the student.

    Args:
        calls: the steps, in order. The answer is the value itself when there is none: an
            exercise that asks for a number, a matrix or a choice.
        note: "n = 4", "the first chunk of three tokens".
        seconds: wall-clock limit.
        memory_mb: limit on what the calls may allocate on top of their arguments, in MB
            (10**6 bytes), None for the ordinary limit of the process.
        room_mb: limit on all that the process takes beyond its arguments, its own affairs
            included. A sandbox keeps it from outside (a control group, or else the limits of a
            process), so that no code can lie about it; here it is not kept.
    """

    calls: Sequence[Call]
    note: str = ""
    seconds: float = 10.0
    memory_mb: float | None = None
    room_mb: float | None = None


@dataclass(frozen=True)
class Problem:
    """Why a script stopped.

    Attributes:
        kind: "not done", "raised", "interrupted", "not plain", "memory", "time", "missing" (a part
            of the answer), "absent" (all of it), "died".
        text: the same in a line of words.
        call: the step.
    """

    kind: str
    text: str
    call: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came back from a script, as plain values.

    Attributes:
        values: one for each call that returned (None for saved ones); the answer itself, alone,
            if the script has no calls.
        changed: the arguments that a call changed, as "argument 0 of call 1".
        problem: None if the script ran to its end.
        callbacks: how each callback was used: name of the kind to a list of plain records (one
            for each call of it, in order).
        peak_bytes: most memory allocated through NumPy and Python above the start, if measured.
    """

    values: Sequence[Any] = ()
    changed: Sequence[str] = ()
    problem: Problem | None = None
    callbacks: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    peak_bytes: int | None = None


class NotPlainError(TypeError):
    """A returned value is not made of arrays, numbers, strings, None and containers of them."""


def to_plain(value: Any) -> Any:
    """A returned value as plain data: tensors become arrays (bfloat16 as float32), tuples stay.

    Args:
        value: what an answer returned.

    Returns:
        The same value made of `PLAIN` types, tuples, lists and dicts; arrays are copies, and
        subclasses of ndarray become plain arrays.

    Raises:
        NotPlainError: naming the type that is not plain.
    """
    try:
        return _plain(value)
    except NotPlainError:
        raise
    except RecursionError:
        raise NotPlainError("a container that holds itself") from None
    except Exception as error:
        message = f"a {type(value).__name__} that has no plain form ({error})"
        raise NotPlainError(message) from None


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise NotPlainError("an array of Python objects (rows of unequal length?)")
        return np.array(value, subok=False)
    if isinstance(value, (tuple, range)):  # torch.Size and named tuples too
        return tuple(_plain(item) for item in value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, PLAIN):
        return value
    raise NotPlainError(f"a {type(value).__name__}")


#: Makes the function that a `Callback` names, for one call of an answer.
MakeCallback = Callable[[Callback], Callable[..., Any]]
