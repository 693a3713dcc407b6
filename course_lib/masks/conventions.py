"""To and from every mask convention in the wild (chapter 2, the Rosetta table).

The course's own form is boolean, True = may attend. Libraries disagree:

| who | form | a visible cell holds |
|---|---|---|
| `F.scaled_dot_product_attention` | bool or additive | True, or 0 |
| `nn.MultiheadAttention(attn_mask=...)` | bool or additive | False, or 0 |
| `nn.MultiheadAttention(key_padding_mask=...)` | bool [B, T] | False |
| Hugging Face `attention_mask` | integer [B, T] | 1 |
| additive bias | float | 0 |

Every function checks what it is given and changes nothing in place.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from course_lib.validate import Array, is_torch

#: Fills in use for "blocked": -inf, the lowest float, -1e9, -1e4. Anything as low counts.
BLOCKING_BIAS = -1e4


def to_sdpa(mask: Array) -> Array:
    """Boolean mask (True = may attend) for `F.scaled_dot_product_attention`: itself, checked."""
    return _boolean("mask", mask)


def from_sdpa(attn_mask: Array) -> Array:
    """From what SDPA takes as `attn_mask` (boolean, or additive float) to True = may attend."""
    if _is_boolean(attn_mask):
        return attn_mask
    return from_additive(attn_mask)


def to_additive(mask: Array, dtype: DTypeLike | torch.dtype) -> Array:
    """Boolean mask to an additive bias: 0 = may attend, -inf = blocked.

    The lowest float, a common fill in place of -inf, blocks as well as long as little is added to
    it: in float32 lowest - 20,001 is lowest still, in float16 lowest - 16 is -inf, and lowest +
    lowest is -inf in every type. Where a row has nothing but lowest, softmax spreads its weight
    evenly over all keys.

    Args:
        mask: bool, any shape, True = may attend.
        dtype: floating dtype of the library of `mask`.

    Returns:
        A new array of the same shape.
    """
    mask = _boolean("mask", mask)
    if is_torch(mask) != isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: expected one of the library of the mask; got {dtype!r}")
    is_floating = (
        dtype.is_floating_point
        if isinstance(dtype, torch.dtype)
        else np.issubdtype(np.dtype(dtype), np.floating)
    )
    if not is_floating:
        raise TypeError(f"dtype: expected a floating dtype, which can hold -inf; got {dtype}")
    if isinstance(dtype, torch.dtype):
        blocked = torch.as_tensor(~mask)
        return torch.zeros_like(blocked, dtype=dtype).masked_fill(blocked, -torch.inf)
    return np.where(mask, 0.0, -np.inf).astype(dtype)


def from_additive(bias: Array) -> Array:
    """Additive bias to boolean: 0 is visible; -inf, or anything up to -1e4, is blocked.

    Raises:
        TypeError: if `bias` is not floating.
        ValueError: if it holds another value (a position bias such as ALiBi is no mask).
    """
    if not _is_floating(bias):
        raise TypeError(f"bias: expected a floating array (0 / -inf); got {_kind(bias)}")
    visible, blocked = bias == 0, bias <= BLOCKING_BIAS
    if not bool((visible | blocked).all()):
        odd = bias[~(visible | blocked)].flatten()[0]
        raise ValueError(
            f"bias: expected 0 (may attend) or at most {BLOCKING_BIAS:g} (blocked) everywhere; "
            f"got {float(odd):g}"
        )
    return visible


def to_multihead_attention(mask: Array, n_heads: int | None = None) -> Array:
    """Boolean mask to `nn.MultiheadAttention`'s `attn_mask`, where True means *blocked*.

    Args:
        mask: bool [Tq, Tk], or [B, 1, Tq, Tk] with `n_heads` given; True = may attend.
        n_heads: number of heads H; needed for a batched mask, which the module wants as
            [B * H, Tq, Tk].

    Returns:
        A new boolean array, True = blocked.
    """
    mask = _boolean("mask", mask)
    if mask.ndim == 2:
        return ~mask
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(f"mask: expected shape [Tq, Tk] or [B, 1, Tq, Tk]; got {list(mask.shape)}")
    if n_heads is None:
        raise ValueError("n_heads: needed for a batched mask; got None")
    blocked = ~mask[:, 0]  # [B, Tq, Tk]
    if is_torch(blocked):
        return blocked.repeat_interleave(n_heads, 0)
    return blocked.repeat(n_heads, 0)


def from_multihead_attention(attn_mask: Array, n_heads: int | None = None) -> Array:
    """`nn.MultiheadAttention`'s `attn_mask` (True = blocked, or additive) to True = may attend.

    Args:
        attn_mask: [Tq, Tk], or [B * H, Tq, Tk] with `n_heads` given.
        n_heads: number of heads H.

    Returns:
        Bool [Tq, Tk], or [B, 1, Tq, Tk] if all heads share their mask.

    Raises:
        ValueError: if the heads of a sequence do not share one mask.
    """
    visible = ~attn_mask if _is_boolean(attn_mask) else from_additive(attn_mask)
    if visible.ndim == 2:
        return visible
    if visible.ndim != 3 or not n_heads or visible.shape[0] % n_heads:
        raise ValueError(
            "attn_mask: expected shape [Tq, Tk], or [B * H, Tq, Tk] with n_heads = H > 0; "
            f"got {list(visible.shape)} with n_heads={n_heads}"
        )
    split = visible.reshape(visible.shape[0] // n_heads, n_heads, *visible.shape[1:])
    if bool((split ^ split[:, :1]).any()):
        raise ValueError("attn_mask: the heads of a sequence have different masks")
    return split[:, :1]


def to_key_padding(valid: Array) -> Array:
    """Real tokens [B, T] (True = real) to `key_padding_mask`, where True means *ignore*."""
    return ~_boolean("valid", valid)


def from_key_padding(mask: Array) -> Array:
    """Key padding to real tokens [B, T], True = real.

    Args:
        mask: `nn.MultiheadAttention`'s boolean `key_padding_mask` (True = ignore), or Hugging
            Face's integer `attention_mask` (1 = real). The dtype tells them apart.

    Raises:
        TypeError: for any other dtype.
        ValueError: if an integer mask holds anything but 0 and 1.
    """
    if _is_boolean(mask):
        return ~mask
    if _is_floating(mask) or not hasattr(mask, "dtype"):
        raise TypeError(
            "mask: expected booleans (True = ignore) or integers (1 = real token); "
            f"got {_kind(mask)}"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask: an integer padding mask holds 0 and 1 only")
    return mask == 1


def _boolean(name: str, mask: Array) -> Array:
    if not _is_boolean(mask):
        raise TypeError(f"{name}: expected booleans, True = may attend; got {_kind(mask)}")
    return mask


def _is_boolean(mask: Any) -> bool:
    return getattr(mask, "dtype", None) in (np.dtype(bool), torch.bool)


def _is_floating(array: Any) -> bool:
    if isinstance(array, torch.Tensor):
        return array.is_floating_point()
    return isinstance(array, np.ndarray) and np.issubdtype(array.dtype, np.floating)


def _kind(array: Any) -> str:
    return f"dtype {array.dtype}" if hasattr(array, "dtype") else type(array).__name__
