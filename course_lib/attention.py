"""Scaled dot-product attention in five steps, for NumPy and torch alike (chapter 3 onwards).

The steps are `scores -> mask -> softmax -> weighted sum`, after
A. Vaswani et al., "Attention Is All You Need", 2017, equation 1:

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V

A NaN or an infinity in the inputs is no error: it shows in what is computed from it, in NumPy as
in torch. A query or key that is not finite shows in the rows that may see it; a value also in the
others, since 0 times infinity is NaN (fused kernels do the same). NumPy's warnings would say it a
second time, so `inf - inf` and `0 * inf` do not warn here.

`attention` runs them; `course_lib.trace` keeps every intermediate table of a small example.
Boolean masks: True = may attend; rows are queries, columns are keys.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch

from course_lib.masks import Mask
from course_lib.validate import Array, check_floating, is_torch

EmptyRows = Literal["error", "zeros"]

#: Dtypes that are computed in float32 inside, as fused kernels do.
_HALF = (torch.float16, torch.bfloat16, np.dtype(np.float16))


def scores(q: Array, k: Array, scale: float | None = None) -> Array:
    """Steps 1 and 2: the dot product of every query with every key, scaled.

    Args:
        q: queries, floating, shape [..., Tq, d_k].
        k: keys, same library and dtype, shape [..., Tk, d_k]; leading axes broadcast.
        scale: factor of the dot products; 1 / sqrt(d_k) if not given.

    Returns:
        Scores, shape [..., Tq, Tk].

    Raises:
        TypeError: if q and k are not floating arrays of one library and dtype.
        ValueError: if the shapes do not fit or d_k is 0.
    """
    _check_pair("q", q, "k", k)
    if q.shape[-1] != k.shape[-1] or q.shape[-1] == 0:
        raise ValueError(
            "k: expected as many entries a vector (at least 1) as q; "
            f"got q {list(q.shape)} and k {list(k.shape)}"
        )
    _check_leading("k", q, k)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    with np.errstate(invalid="ignore"):
        return (q @ k.swapaxes(-1, -2)) * factor  # [..., Tq, d_k] @ [..., d_k, Tk]


def masked_softmax(
    scores: Array, mask: Array | None = None, *, empty_rows: EmptyRows = "error"
) -> Array:
    """Steps 3 and 4: softmax over the visible keys of each row.

    Equal to setting blocked scores to -inf and taking the softmax, except in a row with no
    visible key: there 0/0 gives NaN, and this function zeros (if you ask for it). A NaN or inf in
    a *visible* score shows up in the result, as it should; in a blocked one it does not.

    Args:
        scores: floating, shape [..., Tq, Tk].
        mask: bool, True = may attend, broadcastable to `scores`; None for no mask.
        empty_rows: what to do with a row that may attend to nothing: "error" (most often such a
            row means an inverted mask) or "zeros" (right for padded queries).

    Returns:
        Weights, shape and dtype of `scores`; each row sums to 1, or is all zero if it is empty.

    Raises:
        TypeError: if `scores` is not floating or `mask` not boolean.
        ValueError: if `mask` does not broadcast to `scores`, or for an empty row.
    """
    check_floating("scores", scores)
    if empty_rows not in ("error", "zeros"):
        raise ValueError(f"empty_rows: expected 'error' or 'zeros'; got {empty_rows!r}")
    if scores.ndim < 1:
        raise ValueError("scores: expected shape [..., Tq, Tk]; got a single number")
    xp = _library(scores)
    visible = visible_cells(scores, mask)  # [..., Tq, Tk]
    empty = ~xp.any(visible, axis=-1, keepdims=True)  # [..., Tq, 1]
    if empty_rows == "error" and bool(xp.any(empty)):
        raise ValueError(_empty_row_message(empty))
    if scores.shape[-1] == 0:
        return scores * 0
    dtype = scores.dtype
    if dtype in _HALF:
        scores = _as_float32(scores)  # a long sum of half precision numbers overflows
    masked = xp.where(visible, scores, -xp.inf)
    peak = xp.amax(masked, axis=-1, keepdims=True)
    peak = xp.where(empty, xp.zeros_like(peak), peak)
    with np.errstate(invalid="ignore"):
        e = xp.exp(masked - peak)  # exactly 0 where blocked
        total = xp.sum(e, axis=-1, keepdims=True)
        return _as_dtype(e / xp.where(empty, xp.ones_like(total), total), dtype)


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Mask | Array | None = None,
    *,
    scale: float | None = None,
    q_pos: Sequence[int] | Array | None = None,
    empty_rows: EmptyRows = "error",
) -> tuple[Array, Array]:
    """All five steps: `scores -> mask -> softmax -> weighted sum`.

    Args:
        q: queries, shape [..., Tq, d_k], floating.
        k: keys, shape [..., Tk, d_k], same library and dtype.
        v: values, shape [..., Tk, d_v], same library and dtype.
        mask: a `Mask`, or a boolean array (True = may attend) that broadcasts to
            [..., Tq, Tk], or None.
        scale: factor of the dot products; 1 / sqrt(d_k) if not given.
        q_pos: absolute positions of the queries, for a `Mask`; keys are at 0..Tk-1. By default
            the queries are the *last* Tq positions, which is right with and without a cache.
        empty_rows: see `masked_softmax`; the output of an empty row is zero.

    Returns:
        (output [..., Tq, d_v], weights [..., Tq, Tk]), in the dtype of q. Half precision is
        computed in float32 inside, as fused kernels do.

    Raises:
        TypeError: wrong dtypes, mixed libraries, a mask that is not boolean.
        ValueError: shapes that do not fit, an empty row that nobody asked for, q_pos that does
            not have Tq entries, a prefix longer than the keys.
    """
    _check_pair("q", q, "k", k)
    _check_pair("k", k, "v", v)
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(
            f"v: expected one value a key; got {v.shape[-2]} values for {k.shape[-2]} keys"
        )
    _check_leading("k", q, k)
    _check_leading("v", q, v, k)
    dtype = q.dtype
    if dtype in _HALF:
        q, k, v = (_as_float32(x) for x in (q, k, v))
    s = scores(q, k, scale)  # [..., Tq, Tk]
    weights = masked_softmax(s, matrix_of(mask, s, q_pos), empty_rows=empty_rows)
    with np.errstate(invalid="ignore"):
        output = weights @ v  # [..., Tq, Tk] @ [..., Tk, d_v]
    return _as_dtype(output, dtype), _as_dtype(weights, dtype)


# --- checks ------------------------------------------------------------------------------------


def _library(array: Array) -> ModuleType:
    """The module (NumPy or torch) whose functions work on `array`; both take axis, keepdims."""
    return torch if is_torch(array) else np


def _as_float32(array: Array) -> Array:
    return _as_dtype(array, torch.float32 if is_torch(array) else np.float32)


def _as_dtype(array: Array, dtype: Any) -> Array:
    return array.to(dtype) if is_torch(array) else array.astype(dtype, copy=False)


def matrix_of(
    mask: Mask | Array | None, scores: Array, q_pos: Sequence[int] | Array | None = None
) -> Array | None:
    """The boolean array behind `mask` for scores [..., Tq, Tk]; see `attention` for `q_pos`."""
    n_queries, n_keys = scores.shape[-2:]
    if not isinstance(mask, Mask):
        if q_pos is not None:
            raise ValueError("q_pos: only a Mask has use for positions; mask is not one")
        return mask
    if mask.least_keys > n_keys:
        raise ValueError(
            f"mask: {mask} has a prefix of {mask.least_keys}, longer than the {n_keys} keys; "
            "the rows of a prefix see all of it, so it must be there in one go"
        )
    if q_pos is None:
        if n_queries > n_keys:
            raise ValueError(
                "q_pos: needed when there are more queries than keys "
                f"({n_queries} > {n_keys}); got None"
            )
        q_pos = np.arange(n_keys - n_queries, n_keys)
    if not hasattr(q_pos, "__len__"):
        raise TypeError(f"q_pos: expected {n_queries} positions; got {type(q_pos).__name__}")
    if len(q_pos) != n_queries:
        raise ValueError(f"q_pos: expected {n_queries} positions; got {len(q_pos)}")
    if is_torch(scores):
        return mask.tensor(torch.as_tensor(q_pos, device=scores.device), n_keys)
    matrix = mask.matrix(q_pos, n_keys)
    return matrix.cpu().numpy() if is_torch(matrix) else matrix


def visible_cells(s: Array, mask: Array | None) -> Array:
    """`mask` checked and stretched to the shape of the scores `s`."""
    xp = _library(s)
    if mask is None:
        return xp.ones_like(s, dtype=bool if xp is np else torch.bool)
    if getattr(mask, "dtype", None) not in (np.dtype(bool), torch.bool):
        raise TypeError(
            "mask: expected a boolean array, True = may attend (course_lib.masks.from_additive "
            f"converts a 0 / -inf bias); got {getattr(mask, 'dtype', type(mask).__name__)}"
        )
    if is_torch(mask) != is_torch(s):
        raise TypeError("mask: expected the library of the scores (NumPy or torch), not the other")
    try:
        return xp.broadcast_to(mask, s.shape)
    except (ValueError, RuntimeError):
        raise ValueError(
            f"mask: expected a shape that broadcasts to the scores {list(s.shape)} "
            f"(queries x keys last); got {list(mask.shape)}"
        ) from None


def _empty_row_message(empty: Array) -> str:
    """Name the first empty row; `empty` has shape [..., Tq, 1]."""
    where = torch.nonzero(empty)[0] if is_torch(empty) else np.argwhere(empty)[0]
    *lead, row = [int(i) for i in where][:-1] or [0]
    return (
        f"mask: query row {row}{f' of {lead}' if lead else ''} may attend to no key. "
        "Is the mask inverted? True means may attend. "
        "If empty rows are meant (padded queries), pass empty_rows='zeros'."
    )


def _check_pair(name_a: str, a: Any, name_b: str, b: Any) -> None:
    check_floating(name_a, a)
    check_floating(name_b, b)
    if is_torch(a) != is_torch(b) or a.dtype != b.dtype:
        raise TypeError(
            f"{name_b}: expected the library and dtype of {name_a} "
            f"({type(a).__name__}, {a.dtype}); got {type(b).__name__}, {b.dtype}"
        )
    if is_torch(a) and a.device != b.device:
        raise ValueError(f"{name_b}: expected device {a.device}, where {name_a} is; got {b.device}")
    for name, array in ((name_a, a), (name_b, b)):
        if array.ndim < 2:
            raise ValueError(f"{name}: expected shape [..., T, d]; got {list(array.shape)}")


def _check_leading(name: str, first: Array, array: Array, *others: Array) -> None:
    """The leading axes of `array` must broadcast with those of all the others."""
    given = [tuple(a.shape[:-2]) for a in (first, *others)]
    try:
        np.broadcast_shapes(tuple(array.shape[:-2]), *given)
    except ValueError:
        raise ValueError(
            f"{name}: expected leading axes that broadcast with "
            f"{' and '.join(str(list(shape)) for shape in given)}; got {list(array.shape[:-2])}"
        ) from None
