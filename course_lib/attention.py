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
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch

from course_lib.masks import Mask, check_mask
from course_lib.masks.rule import Positions
from course_lib.validate import Array, ArrayT, check_choice, check_floating, is_torch

EmptyRows = Literal["error", "zeros"]

#: Dtypes that are computed in float32 inside, as fused kernels do.
_HALF = (torch.float16, torch.bfloat16, np.dtype(np.float16))


def scores(q: ArrayT, k: ArrayT, scale: float | None = None) -> ArrayT:
    """Steps 1 and 2: the dot product of every query with every key, scaled.

    Args:
        q: queries, floating, shape [..., Tq, d_k].
        k: keys, same library and dtype, shape [..., Tk, d_k]; leading axes as for `attention`.
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
    k = _for_each_head("k", k, q)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    with np.errstate(invalid="ignore"):
        return (q @ k.swapaxes(-1, -2)) * factor  # [..., Tq, d_k] @ [..., d_k, Tk]


def masked_softmax(
    scores: ArrayT, mask: Array | None = None, *, empty_rows: EmptyRows = "error"
) -> ArrayT:
    """Steps 3 and 4: softmax over the visible keys of each row.

    Equal to setting blocked scores to -inf and taking the softmax, except in a row with no
    visible key: there 0/0 gives NaN, and this function zeros (if you ask for it). What
    `F.scaled_dot_product_attention` gives there depends on the kernel: zeros on a CPU with torch
    2.13, NaN on Apple's GPUs (pytorch#156707, #167515). A NaN or inf in a *visible* score shows
    up in the result, as it should; in a blocked one it does not.

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
    check_choice("empty_rows", empty_rows, get_args(EmptyRows))
    if scores.ndim < 1:
        raise ValueError("scores: expected shape [..., Tq, Tk]; got a single number")
    xp = torch if is_torch(scores) else np  # both take axis and keepdims
    visible = visible_cells(scores, mask)  # [..., Tq, Tk]
    empty = ~xp.any(visible, axis=-1, keepdims=True)  # [..., Tq, 1]
    if empty_rows == "error" and bool(xp.any(empty)):
        raise ValueError(_empty_row_message(empty))
    if scores.shape[-1] == 0:
        return scores * 0
    dtype, scores = scores.dtype, _at_least_float32(scores)  # a long sum overflows half precision
    masked = xp.where(visible, scores, -xp.inf)
    peak = xp.where(empty, 0.0, xp.amax(masked, axis=-1, keepdims=True))
    with np.errstate(invalid="ignore"):
        e = xp.exp(masked - peak)  # exactly 0 where blocked
        total = xp.sum(e, axis=-1, keepdims=True)
        return _as_dtype(e / xp.where(empty, 1.0, total), dtype)


def attention(
    q: ArrayT,
    k: ArrayT,
    v: ArrayT,
    mask: Mask | Array | None = None,
    *,
    scale: float | None = None,
    score_mod: Callable[[ArrayT], ArrayT] | None = None,
    q_pos: Positions | None = None,
    k_pos: Positions | None = None,
    empty_rows: EmptyRows = "error",
) -> tuple[ArrayT, ArrayT]:
    """All five steps: `scores -> mask -> softmax -> weighted sum`.

    Args:
        q: queries, shape [..., Tq, d_k], floating.
        k: keys, shape [..., Tk, d_k], same library and dtype. Leading axes broadcast, and the
            last of them may be grouped heads: of G keys for H queries, H a multiple of G, each
            serves H / G queries in a row (J. Ainslie et al., "GQA", 2023, arXiv:2305.13245).
        v: values, shape [..., Tk, d_v], likewise.
        mask: a `Mask`, or a boolean array (True = may attend) that broadcasts to
            [..., Tq, Tk], or None.
        scale: factor of the dot products; 1 / sqrt(d_k) if not given.
        score_mod: what a model does to the scaled scores [..., Tq, Tk] before the mask: a soft
            cap, `lambda s: 50 * torch.tanh(s / 50)` (Gemma 2, arXiv:2408.00118), a bias such as
            ALiBi's, `lambda s: s + bias` (O. Press et al., 2022, arXiv:2108.12409), or both.
        q_pos: absolute positions of the queries, for a `Mask`: integers [Tq], or [B, Tq] for a
            ragged batch, whose q is [B, H, Tq, d_k]. By default the queries are the *last* Tq
            positions, which is right with and without a cache.
        k_pos: positions of the keys, [Tk] or [B, Tk]; 0..Tk-1 if not given.
        empty_rows: see `masked_softmax`; the output of an empty row is zero.

    Returns:
        (output [..., Tq, d_v], weights [..., Tq, Tk]), in the dtype of q. Half precision is
        computed in float32 inside, as fused kernels do.

    Raises:
        TypeError: wrong dtypes, mixed libraries, a mask that is not boolean.
        ValueError: shapes that do not fit, an empty row that nobody asked for, positions that
            are not one a query and one a key, a prefix longer than the keys.
    """
    _check_pair("q", q, "k", k)
    _check_pair("k", k, "v", v)
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(
            f"v: expected one value a key; got {v.shape[-2]} values for {k.shape[-2]} keys"
        )
    dtype = q.dtype
    q, k, v = (_at_least_float32(x) for x in (q, k, v))
    s = scores(q, k, scale)  # [..., Tq, Tk]
    if score_mod is not None:
        s = score_mod(s)
    weights = masked_softmax(s, matrix_of(mask, s, q_pos, k_pos), empty_rows=empty_rows)
    with np.errstate(invalid="ignore"):
        output = weights @ _for_each_head("v", v, weights)  # [..., Tq, Tk] @ [..., Tk, d_v]
    return _as_dtype(output, dtype), _as_dtype(weights, dtype)


def matrix_of(
    mask: Mask | Array | None,
    scores: Array,
    q_pos: Positions | None = None,
    k_pos: Positions | None = None,
) -> Array | None:
    """The boolean array behind `mask` for scores [..., Tq, Tk]; see `attention` for positions."""
    n_queries, n_keys = scores.shape[-2:]
    if mask is None or isinstance(mask, (np.ndarray, torch.Tensor)):
        if q_pos is not None or k_pos is not None:
            raise ValueError("q_pos, k_pos: only a Mask has use for positions; mask is not one")
        return mask
    if check_mask("mask", mask).least_keys > n_keys:
        raise ValueError(
            f"mask: {mask} has a prefix of {mask.least_keys}, longer than the {n_keys} keys; "
            "the rows of a prefix see all of it, so it must be there in one go"
        )
    if q_pos is None:
        if n_queries > n_keys or k_pos is not None:
            raise ValueError(
                "q_pos: needed beside k_pos, and where there are more queries than keys "
                f"({n_queries} > {n_keys}); got None"
            )
        q_pos = range(n_keys - n_queries, n_keys)
    k_pos = range(n_keys) if k_pos is None else k_pos
    matrix = mask.tensor(q_pos, k_pos, device=scores.device if is_torch(scores) else "cpu")
    for name, positions, axis in (("q_pos", q_pos, -2), ("k_pos", k_pos, -1)):
        bare = not hasattr(positions, "__len__")  # a count for `matrix`, a position for a reader
        if bare or matrix.shape[axis] != scores.shape[axis]:
            came = f"the number {positions}" if bare else matrix.shape[axis]
            raise ValueError(f"{name}: expected {scores.shape[axis]} positions; got {came}")
    return matrix if is_torch(scores) else matrix.numpy()


def visible_cells(scores: ArrayT, mask: Array | None) -> ArrayT:
    """`mask` checked and stretched to the shape of the scores [..., Tq, Tk]."""
    xp = torch if is_torch(scores) else np
    if mask is None:
        return xp.ones_like(scores, dtype=xp.bool)
    if getattr(mask, "dtype", None) not in (np.dtype(bool), torch.bool):
        raise TypeError(
            "mask: expected a boolean array, True = may attend (course_lib.masks.from_additive "
            "converts a 0 / -inf bias; any other bias is a score_mod); got "
            f"{getattr(mask, 'dtype', type(mask).__name__)}"
        )
    if is_torch(mask) != is_torch(scores):
        raise TypeError("mask: expected the library of the scores (NumPy or torch), not the other")
    try:
        return xp.broadcast_to(mask, scores.shape)
    except (ValueError, RuntimeError):
        raise ValueError(
            f"mask: expected a shape that broadcasts to the scores {list(scores.shape)} "
            f"(queries x keys last); got {list(mask.shape)}"
        ) from None


# --- inside ------------------------------------------------------------------------------------


def _at_least_float32(array: ArrayT) -> ArrayT:
    if array.dtype not in _HALF:
        return array
    return _as_dtype(array, torch.float32 if is_torch(array) else np.float32)


def _as_dtype(array: ArrayT, dtype: Any) -> ArrayT:
    return array.to(dtype) if is_torch(array) else array.astype(dtype, copy=False)


def _for_each_head(name: str, array: ArrayT, other: Array) -> ArrayT:
    """`array` [..., G, T, d] with each grouped head repeated, if `other` [..., H, T, d] has more.

    Raises:
        ValueError: if the leading axes do not fit, with groups or without.
    """
    shape: tuple[int, ...] = tuple(array.shape[:-2])
    wanted: tuple[int, ...] = tuple(other.shape[:-2])
    shared = 1
    if shape and wanted and shape[-1] > 1 and wanted[-1] % shape[-1] == 0:
        shared = wanted[-1] // shape[-1]  # H / G
        shape = (*shape[:-1], wanted[-1])
    try:
        np.broadcast_shapes(shape, wanted)
    except ValueError:
        raise ValueError(
            f"{name}: expected leading axes that broadcast with {list(wanted)}, or heads of which "
            f"each serves as many queries; got {list(array.shape[:-2])}"
        ) from None
    if shared == 1:
        return array
    return array.repeat_interleave(shared, -3) if is_torch(array) else array.repeat(shared, -3)


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
