"""Argument checks that the whole library shares.

Each error names the argument, what was expected and what came.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import TypeIs

#: What most functions take: an array of NumPy or a tensor.
Array = NDArray[Any] | torch.Tensor
#: The library that goes in comes out.
ArrayT = TypeVar("ArrayT", NDArray[Any], torch.Tensor)


def is_torch(array: Any) -> "TypeIs[torch.Tensor]":
    """Whether it is a tensor (else it is treated as an array of NumPy)."""
    return isinstance(array, torch.Tensor)


def to_numpy(array: Any) -> NDArray[Any]:
    """The same values in NumPy; bfloat16, which NumPy does not have, becomes float32."""
    if not is_torch(array):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def as_array(name: str, values: Any) -> NDArray[Any]:
    """A new NumPy array; nested lists must have rows of one length."""
    try:
        return np.array(values)
    except ValueError:
        raise ValueError(f"{name}: expected rows of one length; got rows that differ") from None


def is_integer(array: Array) -> bool:
    """Whether the dtype is an integer one (booleans do not count)."""
    if isinstance(array, torch.Tensor):
        return not (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool)
    return np.issubdtype(array.dtype, np.integer)


def check_count(name: str, value: int, least: int) -> int:
    """A checked integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer; got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}; got {value}")
    return int(value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Refuse what is none of the choices.

    Raises:
        ValueError: if it is not.
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}; got {value!r}")


def check_floating(name: str, array: Any) -> None:
    """Refuse what is not a floating array of NumPy or torch.

    Raises:
        TypeError: if it is not.
    """
    if is_torch(array):
        fine = array.is_floating_point()
    else:
        fine = isinstance(array, np.ndarray) and np.issubdtype(array.dtype, np.floating)
    if not fine:
        kind = array.dtype if hasattr(array, "dtype") else type(array).__name__
        raise TypeError(f"{name}: expected a floating NumPy array or torch tensor; got {kind}")
