"""What a caller of `course_lib.cache` can get wrong, answered before anything is written."""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib.validate import check_count


def check_entries(k: Tensor, v: Tensor) -> None:
    """Refuse what are no keys and values of one dtype and device.

    Raises:
        TypeError: if one is no floating tensor, or their dtypes differ.
        ValueError: if their devices differ.
    """
    for name, tensor in (("k", k), ("v", v)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name}: expected a floating tensor; got {kind}")
    if v.dtype != k.dtype:
        raise TypeError(f"v: expected the dtype of k, {k.dtype}; got {v.dtype}")
    if v.device != k.device:
        raise ValueError(f"v: expected the device of k, {k.device}; got {v.device}")
    if k.ndim < 2:
        raise ValueError(f"k: expected shape [..., T, D], T > 0; got {list(k.shape)}")


def check_following(positions: Sequence[int] | Tensor | None, length: int, n: int) -> None:
    """Refuse positions of n new entries that do not follow the `length` that are held.

    Raises:
        TypeError: if they are not integers, one a new position.
        ValueError: if they do not follow.
    """
    if positions is None:
        return
    array = torch.as_tensor(positions)
    if array.is_floating_point() or array.ndim != 1:
        raise TypeError(f"positions: expected integers, one a new position; got {positions!r}")
    if array.tolist() != list(range(length, length + n)):
        raise ValueError(
            f"positions: expected {length}..{length + n - 1}, which follow the {length} held; "
            f"got {array.tolist()}"
        )


def check_fit(
    k: Tensor,
    v: Tensor,
    held_k: Tensor | None,
    held_v: Tensor | None,
    length: int,
    room: int | None,
) -> None:
    """Refuse keys and values that do not fit those held.

    Args:
        k: new keys, shape [..., T, D].
        v: new values.
        held_k: keys held, or None if there are none.
        held_v: values held.
        length: how many are held.
        room: how many more fit; None if there is no limit.

    Raises:
        TypeError: if the dtype is not the one held.
        ValueError: if shapes or devices do not fit, or there is no room.
    """
    shape = list(k.shape)
    if len(shape) < 2 or shape[-2] == 0:
        raise ValueError(f"k: expected shape [..., T, D], T > 0; got {shape}")
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"v: expected one value a key, {[*shape[:-1], 'Dv']}; got {list(v.shape)}")
    if room is not None and shape[-2] > room:
        raise ValueError(
            f"k: expected at most {room} more positions (capacity {length + room}, {length} "
            f"held); got {shape[-2]}"
        )
    if held_k is not None and held_v is not None:
        _check_like("k", k, held_k)
        _check_like("v", v, held_v)


def _check_like(name: str, new: Tensor, held: Tensor) -> None:
    if new.dtype != held.dtype:
        raise TypeError(f"{name}: expected the dtype held, {held.dtype}; got {new.dtype}")
    if new.device != held.device:
        raise ValueError(f"{name}: expected the device held, {held.device}; got {new.device}")
    if new.shape[:-2] != held.shape[:-2] or new.shape[-1] != held.shape[-1]:
        raise ValueError(
            f"{name}: expected shape {[*held.shape[:-2], 'T', held.shape[-1]]} as held (batch, "
            f"heads, T, entries); got {list(new.shape)}"
        )


def check_no_gradient(k: Tensor, v: Tensor) -> None:
    """Refuse gradients: buffers are overwritten in place, which gradients do not survive.

    Raises:
        ValueError: if they would be recorded.
    """
    if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
        raise ValueError(
            "k: expected no gradient history, because the buffer is overwritten in place; "
            "use torch.no_grad(), or a ConcatCache"
        )


def check_crop(length: int, held: int, first: int = 0, window: int = 1) -> int:
    """A length that a cache can be cropped to.

    Args:
        length: what was asked for.
        held: how many positions are held.
        first: for a ring, the lowest position that has not been overwritten.
        window: for a ring, how many positions a query may see.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is out of range, or what the next query needs has been overwritten.
    """
    length = check_count("length", length, 0)
    if length > held:
        raise ValueError(f"length: expected at most {held} (held); got {length}")
    if length and max(0, length - window + 1) < first:
        raise ValueError(
            f"length: expected at least {first + window - 1}, because positions before {first} "
            f"have been overwritten (give the ring spare slots); got {length}"
        )
    return length
