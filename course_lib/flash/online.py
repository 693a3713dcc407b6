"""The online softmax, tile by tile, with every state kept: FlashAttention to watch (chapter 7).

`online_trace` is the plain loop that `FlashExplorer` and its picture show. It is written to be
read, not to be fast; `tiled` holds the version that does not keep its states.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from course_lib.attention import scores
from course_lib.masks import Mask, Tile, causal
from course_lib.validate import Array

Floats = NDArray[np.float64]
#: m, l and acc of some rows.
State = tuple[Floats, Floats, Floats]


@dataclass(frozen=True)
class OnlineTrace:
    """Every state of the online softmax; entry j + 1 of an axis is the state after key block j.

    Attributes:
        tiles: `Tile` of each block of queries and keys, [I, J].
        order: the (query block, key block) pairs in the order of their visits; EMPTY ones are
            not among them.
        scores: scaled dot products, -inf where blocked, [T, T].
        m: running maximum of each row, [T, J + 1]; -inf before the first visible key.
        l: running sum of exp(score - m), [T, J + 1].
        acc: running sum of exp(score - m) times the value, [T, J + 1, d_v].
        output: acc / l at the end, [T, d_v]; zeros for a row that sees nothing.
    """

    tiles: NDArray[np.int8]
    order: tuple[tuple[int, int], ...]
    scores: Floats
    m: Floats
    l: Floats  # noqa: E741 (its name in the papers)
    acc: Floats
    output: Floats


def online_trace(
    q: Array, k: Array, v: Array, mask: Mask | None = None, block_q: int = 2, block_k: int = 2
) -> OnlineTrace:
    """Attention by tiles, with every intermediate state kept.

    Source: T. Dao et al., "FlashAttention", 2022, arXiv:2205.14135, algorithm 1, with the loop
    order and the late division of T. Dao, "FlashAttention-2", 2023, arXiv:2307.08691,
    algorithm 1; the online sum is from M. Milakov and N. Gimelshein, 2018, arXiv:1805.02867.

    Args:
        q: queries, floating, [T, d].
        k: keys, [T, d].
        v: values, [T, d_v].
        mask: a rule that holds no batch; `causal()` if not given.
        block_q: queries a tile, at least 1.
        block_k: keys a tile, at least 1.

    Returns:
        The trace, in NumPy float64; its output equals that of `attention`.

    Raises:
        TypeError: if an array is not floating, or `mask` no `Mask`.
        ValueError: if shapes do not fit, or the mask holds the data of a batch.
    """
    mask = causal() if mask is None else mask
    q, k, v = as_floats(q=q, k=k, v=v)
    _check_mask(mask, len(q))
    tiles = mask.tiles(len(q), block_q=block_q, block_k=block_k)
    s = np.where(mask.tensor(len(q)).cpu().numpy(), scores(q, k), -np.inf)  # [T, T]
    blocks = tiles.shape[1]
    m = np.full((len(q), blocks + 1), -np.inf)
    l = np.zeros((len(q), blocks + 1))  # noqa: E741
    acc = np.zeros((len(q), blocks + 1, v.shape[1]))
    order: list[tuple[int, int]] = []
    for i in range(len(tiles)):
        rows = slice(i * block_q, (i + 1) * block_q)
        for j in range(blocks):
            keys = slice(j * block_k, (j + 1) * block_k)
            state = m[rows, j], l[rows, j], acc[rows, j]
            if tiles[i, j] != Tile.EMPTY:  # an empty tile is neither loaded nor computed
                order.append((i, j))
                state = _update(*state, s[rows, keys], v[keys])
            m[rows, j + 1], l[rows, j + 1], acc[rows, j + 1] = state
    total = l[:, -1:]
    output = acc[:, -1] / np.where(total == 0, 1.0, total)
    return OnlineTrace(tiles, tuple(order), s, m, l, acc, output)


def _update(m: Floats, l: Floats, acc: Floats, s: Floats, v: Floats) -> State:  # noqa: E741
    """The online softmax over one tile: running numbers of R rows, scores [R, N], values [N, d]."""
    new = np.maximum(m, s.max(axis=1))  # [R]
    peak = np.where(np.isinf(new), 0.0, new)  # a row that has seen nothing: exp(-inf) = 0
    factor = np.exp(m - peak)  # what was summed under the old maximum, under the new one
    p = np.exp(s - peak[:, None])  # [R, N]
    return new, l * factor + p.sum(axis=1), acc * factor[:, None] + p @ v


# --- checks --------------------------------------------------------------------------------------


def as_floats(**arrays: Array) -> tuple[Floats, ...]:
    """Queries, keys and values as NumPy float64.

    Args:
        arrays: q and k, [T, d], and v, [T, d_v], floating, NumPy or torch, by name.

    Returns:
        Copies, in the same order.

    Raises:
        TypeError: if an array is not floating.
        ValueError: if a shape does not fit, or a number is not finite.
    """
    found: list[Floats] = []
    for name, array in arrays.items():
        if hasattr(array, "detach"):
            array = array.detach().cpu()
            array = array.double().numpy() if array.is_floating_point() else array.numpy()
        if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
            kind = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"{name}: expected a floating NumPy array or torch tensor; got {kind}")
        if array.ndim != 2 or 0 in array.shape or (found and len(array) != len(found[0])):
            raise ValueError(
                f"{name}: expected shape [T, d] with the T of q; got {list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers; got NaN or infinity")
        found.append(array.astype(np.float64))
    if found[0].shape[1] != found[1].shape[1]:
        raise ValueError(f"k: expected {found[0].shape[1]} entries as q; got {found[1].shape[1]}")
    return tuple(found)


def _check_mask(mask: Any, n: int) -> None:
    if not isinstance(mask, Mask):
        raise TypeError(f"mask: expected a Mask; got {type(mask).__name__}")
    if mask.batch is not None:
        raise ValueError(f"mask: {mask} holds the data of a batch of {mask.batch}; show one rule")
    if mask.least_keys > n:
        raise ValueError(f"mask: {mask} needs at least {mask.least_keys} keys; got {n}")
