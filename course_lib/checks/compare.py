"""Where an outcome differs from the right one, in the words of a tutor.

`difference` is for the student: the first thing that is wrong, with the offending cell.
`same_thought` is for diagnosis: whether two outcomes come from one thought, written in two ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from course_lib.checks.encode import (
    LARGE,
    ArraySample,
    error_summary,
    sample_array,
    sample_positions,
)
from course_lib.checks.script import Outcome, Problem

Compare = Literal["equal", "close", "mask"]


@dataclass(frozen=True)
class Rule:
    """How values are compared.

    Attributes:
        compare: "equal" (numbers as they are), "close" (within tolerances), "mask" (bool only).
        rtol: relative tolerance of "close".
        atol: absolute tolerance of "close".
        labels: names of positions, used on every axis that has so many entries.
        results: what the task calls the parts of a tuple that is returned.
    """

    compare: Compare = "equal"
    rtol: float = 1e-4
    atol: float = 1e-5
    labels: Sequence[str] = ()
    results: Sequence[str] = ()


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        text: for the student.
        got: the matrix that was returned, if it can be drawn.
        wrong: bool, the cells of it that differ.
        labels: names of positions.
    """

    text: str
    got: np.ndarray | None = None
    wrong: np.ndarray | None = None
    labels: Sequence[str] = ()


def difference(
    got: Outcome, want: Outcome, rule: Rule, steps: Sequence[str] = ()
) -> Difference | None:
    """The first difference between what came back and what is right; None if there is none.

    Args:
        got: of the student.
        want: of a right answer.
        rule: how to compare.
        steps: what the calls are called in messages; "call 1", "call 2", ... if not given.
    """
    if got.problem is not None:
        meant = want.problem is not None and want.problem.kind == got.problem.kind
        return None if meant else Difference(describe_problem(got.problem))
    if want.problem is not None:
        return Difference(
            "it returns as if all were well; this call is wrong and should raise an error"
        )
    extra = [what for what in got.changed if what not in want.changed]
    if extra:
        return Difference(
            f"{extra[0]} is not what it was before: your code writes into its input. "
            "Work on a copy."
        )
    single = len(got.values) == 1
    for step, (a, b) in enumerate(zip(got.values, want.values, strict=True)):
        name = steps[step] if steps else f"call {step + 1}"
        found = _differs(a, b, rule, "" if single else f"{name}: ")
        if found is not None:
            return found
    return None


def describe_problem(problem: Problem) -> str:
    """A problem in a sentence."""
    if problem.kind == "raised":
        return f"it stops with {problem.text}"
    if problem.kind == "time":
        return f"{problem.text}. Is there a loop that never ends?"
    return problem.text


def same_thought(got: Outcome, other: Outcome, rule: Rule, *, strict: bool) -> bool:
    """Whether two outcomes come from the same thought.

    Args:
        got: of the student.
        other: of a named misconception.
        rule: how to compare values.
        strict: also compare kinds of dtype, changed arguments and the use of callbacks.
    """
    if (got.problem is None) != (other.problem is None):
        return False
    if got.problem is not None and other.problem is not None:
        classes = [error_summary(problem).split()[:1] for problem in (got.problem, other.problem)]
        return got.problem.kind == other.problem.kind and classes[0] == classes[1]
    if strict and (
        bool(got.changed) != bool(other.changed)
        or len(got.values) != len(other.values)
        or (other.callbacks and not _callbacks_match(got, other, rule))
    ):
        return False
    lenient = replace(rule, compare="close")
    return all(
        _values_match(a, b, lenient, strict=strict)
        for a, b in zip(got.values, other.values, strict=True)
    )


def evidence(other: Outcome, want: Outcome, rule: Rule) -> float:
    """How much it tells to return what a mistake returns: its wrong entries, bool ones half."""
    if other.problem is not None or want.problem is not None:
        return 0.0
    lenient = replace(rule, compare="close")
    return sum(
        _wrong_entries(a, b, lenient) for a, b in zip(other.values, want.values, strict=True)
    )


def _wrong_entries(other: Any, want: Any, rule: Rule) -> float:
    if isinstance(want, ArraySample) or isinstance(other, ArraySample):
        return 8.0
    a, b = as_array(other), as_array(want)
    if a is None or b is None:
        if isinstance(want, (tuple, list)) and isinstance(other, (tuple, list)):
            pairs = zip(other, want, strict=False)
            return sum(_wrong_entries(x, y, rule) for x, y in pairs)
        return 4.0 if type(other) is type(want) and other != want else 0.0
    worth = 0.5 if b.dtype.kind == "b" else 4.0
    if a.shape != b.shape:
        return worth * a.size
    return worth * float((~_equal(a, b, rule)).sum())


# --- values --------------------------------------------------------------------------------------


def _differs(got: Any, want: Any, rule: Rule, where: str) -> Difference | None:
    if want is None:
        return None  # a method whose result does not matter, or a saved object
    if _is_error(want):
        if _is_error(got) and got[1] == want[1]:
            return None
        instead = f"it raises {got[1]}" if _is_error(got) else "it goes on as if all were well"
        return Difference(f"{where}{instead}; it should raise {want[1]}")
    if _is_error(got):
        return Difference(f"{where}it raises {got[1]}, and should not")
    if got is None:
        return Difference(f"{where}it returns None. Is a `return` missing?")
    if isinstance(want, dict):
        return _dict_differs(got, want, rule, where)
    if isinstance(want, tuple) and not _is_shape(want):
        return _tuple_differs(got, want, rule, where)
    if isinstance(want, str):
        same = isinstance(got, str) and got == want
        return None if same else Difference(f"{where}you return {got!r}, expected {want!r}")
    return _array_differs(got, want, rule, where)


def _dict_differs(got: Any, want: dict[str, Any], rule: Rule, where: str) -> Difference | None:
    if not isinstance(got, dict):
        return Difference(f"{where}you return {_kind(got)}; expected a dict")
    if got.keys() != want.keys():
        return Difference(
            f"{where}expected the keys {', '.join(want)}; got {', '.join(got) or '{}'}"
        )
    found = (
        _differs(got[key], item, rule, f"{where}entry {key!r}: ") for key, item in want.items()
    )
    return next((f for f in found if f is not None), None)


def _tuple_differs(got: Any, want: tuple[Any, ...], rule: Rule, where: str) -> Difference | None:
    known = len(rule.results) == len(want)
    names = [f"`{rule.results[i]}`" if known else f"result {i + 1}" for i in range(len(want))]
    if not isinstance(got, (tuple, list)) or len(got) != len(want):
        size = f" of {len(got)}" if isinstance(got, (tuple, list)) else ""
        example = ", ".join(rule.results) if known else "a, b"
        return Difference(
            f"{where}expected {len(want)} results, `return {example}`; got {_kind(got)}{size}"
        )
    parts = zip(got, want, names, strict=True)
    found = (_differs(a, b, rule, f"{where}{name}: ") for a, b, name in parts)
    return next((f for f in found if f is not None), None)


def _array_differs(got: Any, want: Any, rule: Rule, where: str) -> Difference | None:
    array = as_array(got)
    if array is None:
        return Difference(f"{where}you return {_kind(got)}; expected {_expected(want)}")
    if isinstance(want, ArraySample):
        shape, want_kind, target = want.shape, want.entries.dtype.kind, want.entries
    else:
        target = np.asarray(want)
        shape, want_kind = target.shape, target.dtype.kind
    if array.shape != tuple(shape):
        return Difference(
            f"{where}you return shape {list(array.shape)}; expected {list(shape)}"
            if shape
            else f"{where}you return shape {list(array.shape)}; expected a single number"
        )
    wrong_kind = _wrong_kind(array, want_kind, rule)
    if wrong_kind:
        return Difference(where + wrong_kind)
    compared = sample_array(array).entries if isinstance(want, ArraySample) else array
    wrong = ~_equal(compared, target, rule)
    if not wrong.any():
        return None
    if isinstance(want, ArraySample):
        sampled = int(np.argmax(wrong))
        at = np.unravel_index(sample_positions(array.size)[sampled], array.shape)
        return Difference(
            f"{where}{_place(tuple(map(int, at)), array.shape, rule.labels)}you return "
            f"{format_number(array[at])}; expected {format_number(target[sampled])} "
            f"(about {wrong.mean():.0%} of the entries differ)"
        )
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    many = f" ({int(wrong.sum())} of {wrong.size} entries differ)" if wrong.size > 1 else ""
    got, wanted = format_number(array[place]), format_number(target[place])
    text = f"you return {got}; expected {wanted}{many}"
    text = f"{where}{_place(place, array.shape, rule.labels)}{text}"
    return Difference(text, *_drawable(array, wrong, place), rule.labels)


def as_array(value: Any) -> np.ndarray | None:
    """Numbers and nested lists of numbers as an array; None for anything else."""
    if isinstance(value, (str, dict)) or value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" else None


def _wrong_kind(array: np.ndarray, want_kind: str, rule: Rule) -> str | None:
    kind = array.dtype.kind
    if rule.compare == "mask" and kind != "b":
        return f"your mask has dtype {array.dtype}; a mask is bool (True = may attend)"
    if want_kind == "b" and kind != "b":
        return f"you return dtype {array.dtype}; expected bool"
    if want_kind in "iuf" and kind == "b":
        return "you return bool; expected numbers"
    if want_kind in "iu" and kind == "f" and array.ndim:
        return f"you return dtype {array.dtype}; expected integers"
    return None


def _equal(a: np.ndarray, b: np.ndarray, rule: Rule) -> np.ndarray:
    if rule.compare == "close" and "f" in (a.dtype.kind + b.dtype.kind):
        x, y = a.astype(np.float64), b.astype(np.float64)
        return np.isclose(x, y, rtol=rule.rtol, atol=rule.atol, equal_nan=True)
    same = a == b
    if a.dtype.kind == "f" and b.dtype.kind == "f":
        same |= np.isnan(a) & np.isnan(b)
    return np.asarray(same)


def _values_match(got: Any, other: Any, rule: Rule, *, strict: bool) -> bool:
    if isinstance(other, dict) or isinstance(got, dict):
        return (
            isinstance(got, dict)
            and isinstance(other, dict)
            and got.keys() == other.keys()
            and all(_values_match(got[k], other[k], rule, strict=strict) for k in other)
        )
    if got is None or other is None or isinstance(got, str) or isinstance(other, str):
        return type(got) is type(other) and got == other
    if isinstance(other, ArraySample):
        array = as_array(got)
        if array is None or array.size <= LARGE or array.shape != other.shape:
            return False
        return bool(_equal(sample_array(array).entries, other.entries, rule).all())
    a, b = as_array(got), as_array(other)
    if a is None or b is None:
        both = isinstance(got, (tuple, list)) and isinstance(other, (tuple, list))
        return (
            both
            and len(got) == len(other)
            and all(
                _values_match(x, y, rule, strict=strict) for x, y in zip(got, other, strict=True)
            )
        )
    if a.shape != b.shape or (strict and _family(a) != _family(b)):
        return False
    return bool(_equal(a, b, rule).all())


def _callbacks_match(got: Outcome, other: Outcome, rule: Rule) -> bool:
    a, b = dict(got.callbacks), dict(other.callbacks)
    if a.keys() != b.keys():
        return False
    return all(_values_match(tuple(a[k]), tuple(b[k]), rule, strict=False) for k in a)


def _family(array: np.ndarray) -> str:
    return "bool" if array.dtype.kind == "b" else "number"


# --- words ---------------------------------------------------------------------------------------


def _is_error(value: Any) -> bool:
    """Whether it stands for an exception that a script caught (`Call.catch`)."""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return isinstance(value[0], str) and value[0] == "raised"


def _is_shape(value: tuple[Any, ...]) -> bool:
    return len(value) > 0 and all(type(item) is int for item in value)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _expected(want: Any) -> str:
    shape = want.shape if isinstance(want, ArraySample) else np.shape(want)
    return f"an array of shape {list(shape)}" if shape else "a number"


def format_number(x: Any) -> str:
    """A number as messages write it, at most four decimals."""
    if isinstance(x, (bool, np.bool_)):
        return str(bool(x))
    if isinstance(x, (int, np.integer)):
        return str(int(x))
    x = float(x)
    if x == 0 or not np.isfinite(x):
        return f"{x + 0.0:g}"
    return f"{x:.4f}" if 1e-3 <= abs(x) < 1e4 else f"{x:.3g}"


def _place(place: tuple[int, ...], shape: tuple[int, ...], labels: Sequence[str]) -> str:
    if not place:
        return ""

    def name(i: int, axis: int) -> str:
        # Four numbers a token are not four tokens: fewer entries than labels only in a square.
        square = len(shape) > 1 and shape[-1] == shape[-2] <= len(labels)
        fits = (square or shape[axis] == len(labels)) and labels[i] != str(i)
        return f"{i} ({labels[i]})" if fits else str(i)

    if len(place) == 1:
        return f"entry {name(place[0], 0)}: "
    text = f"row {name(place[-2], -2)}, column {name(place[-1], -1)}: "
    return f"at {list(place[:-2])}, {text}" if len(place) > 2 else text


def _drawable(
    array: np.ndarray, wrong: np.ndarray, place: tuple[int, ...]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The matrix around the first wrong cell, if it is small enough to be a picture."""
    if array.ndim < 2 or max(array.shape[-2:]) > 12 or array.shape[-2] < 2:
        return None, None
    return array[place[:-2]], wrong[place[:-2]]
