"""From a rule on positions to what a kernel loops over: lists of full and of partial tiles.

`Mask.tiles` says which blocks of the matrix are EMPTY, PARTIAL or FULL. A kernel wants that as
lists: for each block of queries, the blocks of keys that are full (no mask arithmetic) and those
that are partial, with the cells of each partial tile. Most partial tiles of a regular rule look
alike (all the diagonal tiles of a causal mask do), so each pattern is kept once.
Chapter 7; the idea of two lists is FlexAttention's (J. Dong et al., 2024, arXiv:2412.05496).
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from course_lib.masks import Mask, Tile
from course_lib.validate import check_count


@dataclass(frozen=True)
class TileLists:
    """For each line of tiles (a block of queries, or of keys): its full and its partial tiles.

    Line i owns the entries `starts[i]` to `starts[i + 1]` of the lists (compressed sparse rows).

    Attributes:
        full_starts: int32 [lines + 1].
        full: int32 [number of full tiles], the other index of each.
        partial_starts: int32 [lines + 1].
        partial: int32 [number of partial tiles], the other index of each.
        pattern: int32 [number of partial tiles], which pattern of the plan it shows.
    """

    full_starts: torch.Tensor
    full: torch.Tensor
    partial_starts: torch.Tensor
    partial: torch.Tensor
    pattern: torch.Tensor


@dataclass(frozen=True)
class TilePlan:
    """What the kernels need to know about a mask at one tile size.

    Attributes:
        batch: number of sequences with their own lists, or 1 if all share them.
        by_query: the lists of each block of queries, [batch * query blocks] lines.
        by_key: the lists of each block of keys, [batch * key blocks] lines.
        patterns: int8 [patterns, block_q, block_k], 1 = may attend; cells beyond the sequence 0.
        visited: tiles that are not empty, over all sequences.
        tiles: all tiles, over all sequences.
    """

    batch: int
    by_query: TileLists
    by_key: TileLists
    patterns: torch.Tensor
    visited: int
    tiles: int


_PLANS: WeakKeyDictionary[Mask, dict[tuple[Any, ...], TilePlan]] = WeakKeyDictionary()


def tile_plan(
    mask: Mask,
    n_queries: int,
    n_keys: int,
    *,
    block_q: int,
    block_k: int,
    device: torch.device | str = "cpu",
) -> TilePlan:
    """The plan for the last `n_queries` of `n_keys` positions; kept as long as the mask lives.

    Making one costs about what `mask.tiles` does (it looks at every cell, on the CPU), so keep
    and reuse the mask object where the same rule is applied again and again.

    Args:
        mask: the rule.
        n_queries: number of queries; they stand at the last positions.
        n_keys: number of keys, at least `n_queries`.
        block_q: queries a tile.
        block_k: keys a tile.
        device: where the lists shall live.

    Raises:
        ValueError: if there are more queries than keys or a count is below 1.
    """
    sizes = {"n_queries": n_queries, "n_keys": n_keys, "block_q": block_q, "block_k": block_k}
    for name, size in sizes.items():
        check_count(name, size, 1)
    if n_queries > n_keys:
        raise ValueError(f"n_queries: expected at most n_keys = {n_keys}; got {n_queries}")
    known = _PLANS.setdefault(mask, {})
    key = (n_queries, n_keys, block_q, block_k, str(device))
    if key not in known:
        known[key] = _make(mask, n_queries, n_keys, block_q, block_k, device)
    return known[key]


def _make(
    mask: Mask, n_queries: int, n_keys: int, block_q: int, block_k: int, device: torch.device | str
) -> TilePlan:
    q_pos = np.arange(n_keys - n_queries, n_keys)
    kinds = mask.tiles(q_pos, n_keys, block_q=block_q, block_k=block_k)
    kinds = kinds.reshape(-1, *kinds.shape[-2:])  # [batch, query blocks, key blocks]
    if n_keys % block_k:  # a last block that the keys do not fill has cells to blank out
        last = kinds[..., -1]
        last[last == Tile.FULL] = Tile.PARTIAL
    patterns: dict[bytes, int] = {}
    pattern_of = np.full(kinds.shape, -1, np.int32)
    for i in range(kinds.shape[1]):
        needed = np.flatnonzero((kinds[:, i] == Tile.PARTIAL).any(axis=0))
        if len(needed) == 0:
            continue
        rows = q_pos[i * block_q : (i + 1) * block_q]
        columns = np.concatenate([_block(int(j), block_k, n_keys) for j in needed])
        cells = mask.matrix(rows, columns)
        cells = cells.cpu().numpy() if isinstance(cells, torch.Tensor) else cells
        cells = cells.reshape(-1, len(rows), len(columns))
        for at, j in enumerate(needed):
            for b in np.flatnonzero(kinds[:, i, j] == Tile.PARTIAL):
                tile = np.zeros((block_q, block_k), np.int8)
                part = cells[b, :, at * block_k : (at + 1) * block_k]
                tile[: part.shape[0], : part.shape[1]] = part
                pattern_of[b, i, j] = patterns.setdefault(tile.tobytes(), len(patterns))
    stack = b"".join(patterns) or bytes(block_q * block_k)  # never an empty tensor
    tiles = np.frombuffer(stack, np.int8).reshape(-1, block_q, block_k)
    return TilePlan(
        batch=len(kinds),
        by_query=_lists(kinds, pattern_of, device),
        by_key=_lists(kinds.swapaxes(1, 2), pattern_of.swapaxes(1, 2), device),
        patterns=torch.from_numpy(tiles.copy()).to(device),
        visited=int((kinds != Tile.EMPTY).sum()),
        tiles=kinds.size,
    )


def _block(index: int, size: int, length: int) -> NDArray[np.int64]:
    """Positions of one block of keys."""
    return np.arange(index * size, min((index + 1) * size, length))


def _lists(
    kinds: NDArray[np.int8], pattern_of: NDArray[np.int32], device: torch.device | str
) -> TileLists:
    """The lists of each line of `kinds` [batch, lines, others]."""
    lines = kinds.reshape(-1, kinds.shape[-1])
    full, partial = lines == Tile.FULL, lines == Tile.PARTIAL

    def tensor(values: NDArray[np.int64]) -> torch.Tensor:
        array = np.asarray(values, np.int32)
        return torch.from_numpy(array if array.size else np.zeros(1, np.int32)).to(device)

    def starts(which: NDArray[np.bool_]) -> torch.Tensor:
        return tensor(np.concatenate([[0], np.cumsum(which.sum(axis=1))]))

    return TileLists(
        full_starts=starts(full),
        full=tensor(np.nonzero(full)[1]),
        partial_starts=starts(partial),
        partial=tensor(np.nonzero(partial)[1]),
        pattern=tensor(pattern_of.reshape(lines.shape)[partial]),
    )
