"""Small helpers that every notebook uses: labelled tables, expected errors, progress bars."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

Item = TypeVar("Item")

#: Set by `course build` and by the tests: saved notebooks hold no progress bars.
QUIET = "COURSE_QUIET"
#: Set by `course build`: "write" records what the real model gives, "check" compares it.
BUILD = "COURSE_BUILD"


def table(
    values: ArrayLike | torch.Tensor,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    digits: int = 4,
) -> str:
    """A matrix as labelled text; integers and booleans stay whole, -inf is written `-inf`.

    Args:
        values: shape [R, C], or [C] for a single row; a NumPy or torch array.
        rows: R labels; none if not given.
        columns: C labels; none if not given.
        digits: decimals of floating values.

    Returns:
        The table, without a trailing newline.

    Raises:
        ValueError: if `values` has more than two axes or the labels do not fit.
    """
    array = values.detach().cpu() if isinstance(values, torch.Tensor) else values
    if isinstance(array, torch.Tensor):
        array = array.double().numpy() if array.is_floating_point() else array.numpy()
    array = np.asarray(array)
    if array.ndim not in (1, 2):
        raise ValueError(f"values: expected shape [R, C] or [C]; got {list(array.shape)}")
    array = np.atleast_2d(array)
    for name, labels, n in (("rows", rows, len(array)), ("columns", columns, array.shape[1])):
        if labels is not None and len(labels) != n:
            raise ValueError(f"{name}: expected {n} labels; got {len(labels)}")
    cells = [[_number(x, digits) for x in row] for row in array]
    if columns is not None:
        cells.insert(0, [str(c) for c in columns])
    names = [] if rows is None else [str(r) for r in rows]
    if rows is not None and columns is not None:
        names.insert(0, "")
    width = max((len(c) for row in cells for c in row), default=0)
    left = max((len(n) for n in names), default=0)
    lines = []
    for i, row in enumerate(cells):
        label = f"{names[i]:<{left}}  " if names else ""
        lines.append((label + "  ".join(f"{c:>{width}}" for c in row)).rstrip())
    return "\n".join(lines)


def listed(names: Sequence[str], last: str = " and ") -> str:
    """Names in one sentence: "The, cat and sat", or "nothing" if there are none.

    Args:
        names: what to list.
        last: what stands before the last name; ", " for a plain enumeration.
    """
    *first, end = names or ["nothing"]
    return f"{', '.join(first)}{last}{end}" if first else end


def _number(x: np.generic, digits: int) -> str:
    if isinstance(x, (np.bool_, np.integer)):
        return str(int(x))
    if isinstance(x, np.floating):
        # + 0.0 turns -0.0 into 0.0, whose sign would differ between processors.
        return f"{round(float(x), digits) + 0.0:.{digits}f}" if np.isfinite(x) else f"{x:g}"
    return str(x)


@contextmanager
def expected_error(*kinds: type[BaseException]) -> Iterator[None]:
    """Run code that is meant to fail and print its error in one line.

    Used where a notebook shows a mistake: the page stays readable, and Run All goes on.

    Args:
        kinds: the exceptions that are expected; any `Exception` if none is given.

    Raises:
        AssertionError: if the code does not fail, because then the lesson is wrong.
    """
    wanted = kinds or (Exception,)
    try:
        yield
    except wanted as error:
        message = str(error).splitlines() or [""]
        print(f"{type(error).__name__}: {message[0]}")
    else:
        raise AssertionError("this cell was expected to fail, but it ran")


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """`items` with a progress bar, which works in notebooks and is silent in saved ones.

    Args:
        items: what to iterate over.
        description: a few words that name the work.
        total: number of items, if `items` has no length.

    Returns:
        The same items.
    """
    quiet = os.environ.get(QUIET, "0") not in ("", "0")
    return tqdm(items, desc=description, total=total, disable=quiet, leave=False)
