"""What judges of several chapters share: read an outcome's value, compare it, say what is wrong.

Every function raises `WrongError` with a sentence that names no expected value.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from course_lib.checks.compare import as_array as _as_array
from course_lib.checks.compare import format_number
from course_lib.checks.script import Outcome
from course_tools.exercise_bank.claims import WrongError

Kind = Literal["bool", "int", "float", "number"]
_KINDS = {"bool": "b", "int": "iu", "float": "f", "number": "iuf"}


def as_array(
    value: Any, shape: Sequence[int] | None, kind: Kind, what: str = "the result"
) -> np.ndarray:
    """A returned value as an array of the shape and kind that the task asks for.

    Args:
        value: an array, a number or nested lists of numbers.
        shape: as asked for; None accepts any.
        kind: "bool", "int", "float" or "number" (int or float).
        what: names it in the message.

    Returns:
        The array. Lists become arrays; dtypes are left as they are.

    Raises:
        WrongError: if it is something else.
    """
    array = _as_array(value)
    if array is None:
        raise WrongError(f"{what} is a {type(value).__name__}; the task asks for an array")
    if shape is not None and array.shape != tuple(shape):
        raise WrongError(f"{what} has shape {list(array.shape)}; expected {list(shape)}")
    if array.size and array.dtype.kind not in _KINDS[kind]:
        raise WrongError(f"{what} has dtype {array.dtype}; the task asks for {kind}")
    return array


def as_tuple(value: Any, n: int, what: str = "the result") -> Sequence[Any]:
    """A returned tuple (or list) of n results.

    Raises:
        WrongError: if it is something else.
    """
    if not isinstance(value, (tuple, list)) or len(value) != n:
        raise WrongError(f"{what}: expected {n} values, `return a, b`; got {_kind(value)}")
    return value


def as_number(value: Any, kind: Kind = "number", what: str = "the result") -> float:
    """A returned number, also as an array with a single entry.

    Raises:
        WrongError: if it is something else.
    """
    array = _as_array(value)
    if array is None or array.size != 1:
        raise WrongError(f"{what} is {_kind(value)}; the task asks for a number")
    if array.dtype.kind not in _KINDS[kind]:
        raise WrongError(f"{what} has dtype {array.dtype}; the task asks for {kind}")
    return array.reshape(-1)[0].item()


def returns_bool(value: Any, shape: Sequence[int], what: str = "the mask") -> np.ndarray:
    """A boolean matrix; says why a mask of numbers is not one.

    Raises:
        WrongError: if it is something else.
    """
    array = as_array(value, shape, "number" if _kind_of(value) in "iuf" else "bool", what)
    if array.dtype != bool and array.size:
        raise WrongError(f"{what} has dtype {array.dtype}; masks are bool, True = may attend")
    return array


def close(
    got: Any, want: Any, what: str = "the result", rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """Same shape and values within tolerances; NaN equals NaN, infinities equal themselves.

    Raises:
        WrongError: naming how many entries and which one first, with the student's value only.
    """
    target = np.asarray(want)
    array = as_array(got, target.shape, "number", what)
    fits = np.isclose(
        array.astype(np.float64), target.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True
    )
    _say_where(array, ~fits, what)


def equal(got: Any, want: Any, what: str = "the result") -> None:
    """Same shape and exactly the same entries.

    Raises:
        WrongError: as `close`.
    """
    target = np.asarray(want)
    kind: Kind = "bool" if target.dtype == bool else "number"
    array = as_array(got, target.shape, kind, what)
    _say_where(array, array != target, what)


def unchanged(outcomes: Sequence[Outcome]) -> None:
    """No call wrote into its arguments.

    Raises:
        WrongError: naming the first argument that changed.
    """
    for outcome in outcomes:
        if outcome.changed:
            raise WrongError(f"{outcome.changed[0]} was changed: the input must stay as it was")


def _say_where(array: np.ndarray, wrong: np.ndarray, what: str) -> None:
    if not wrong.any():
        return
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    at = f" first at {list(place)}, where you return {format_number(array[place])}" if place else ""
    raise WrongError(f"{what}: {int(wrong.sum())} of {wrong.size} entries are wrong,{at}")


def _kind_of(value: Any) -> str:
    array = _as_array(value)
    return "b" if array is None else array.dtype.kind


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
