"""Attention tile by tile on a CPU, in NumPy and in torch (chapter 7).

The matrix of weights is never held: a block of queries walks over the keys, tile by tile, and keeps
for each query a running maximum m, a running sum l of exp(score - m), and a running weighted sum
of values. Tiles that the mask leaves EMPTY are skipped, FULL ones are computed without looking at
the mask, PARTIAL ones are masked cell by cell. Neighbouring tiles that are not EMPTY are merged
into one product, because a few large products are faster than many small ones.

Sources: M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax", 2018,
arXiv:1805.02867; T. Dao et al., "FlashAttention", 2022, arXiv:2205.14135, algorithms 1 and 4.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from course_lib.masks import Mask, Tile, causal, full
from course_lib.validate import Array, check_count

#: Queries and keys a tile, and the most keys of one product of merged tiles. Measured: smaller
#: tiles lose time in calls; larger ones compute more for nothing along the edge of a mask.
BLOCK = 128
_WIDTH = 2048
#: Keys whose tiles are looked at together.
_SPAN = 2048
_LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class KeySpan:
    """Keys `start` to `stop` of one row of tiles, to be computed in one product.

    Attributes:
        start: the first key.
        stop: one past the last key.
        blocked: for each PARTIAL tile, its columns of the product and its blocked cells, bool
            [Bq, columns], True = to be filled with -inf.
    """

    start: int
    stop: int
    blocked: tuple[tuple[slice, Any], ...] = ()


def tiled_attention_numpy(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    mask: Mask | None = causal(),  # noqa: B008 - a rule never changes
    *,
    block: int = BLOCK,
    scale: float | None = None,
    q_pos: Sequence[int] | NDArray[np.integer] | None = None,
    return_lse: bool = False,
) -> Any:
    """Attention in tiles, in NumPy: the output of `attention`, without its matrix of weights.

    Args:
        q: queries, floating, shape [..., Hq, Tq, d], or [Tq, d].
        k: keys, same dtype, shape [..., Hk, Tk, d]; Hk divides Hq, and heads h * Hq / Hk up to
            (h + 1) * Hq / Hk - 1 share key head h (grouped-query attention).
        v: values, same dtype, shape [..., Hk, Tk, d_v].
        mask: the rule; None for full attention. A rule with data of B sequences needs q of
            shape [B, Hq, Tq, d].
        block: queries and keys a tile, at least 1.
        scale: finite factor of the dot products; 1 / sqrt(d) if not given.
        q_pos: absolute positions of the queries; the last Tq of the keys' if not given.
        return_lse: also return the logarithm of each row's sum of exponentials.

    Returns:
        Output [..., Hq, Tq, d_v] in the dtype of q; rows that see nothing are zero. Half precision
        is computed in float32. With `return_lse` also float [..., Hq, Tq], -inf for such rows.
        A NaN in a key reaches only the queries that see it; a NaN in a *value* reaches all that
        share a visited tile with it, since its weight there is 0 and 0 * NaN is NaN.

    Raises:
        TypeError: if an array is not floating NumPy of one dtype, or `mask` is no `Mask`.
        ValueError: if shapes do not fit.
    """
    task = _Task(q, k, v, mask, block, scale, q_pos, np.ndarray)
    work = np.float64 if q.dtype == np.float64 else np.float32
    out = np.zeros((*task.q.shape[:-1], v.shape[-1]), q.dtype)
    lse = np.full(task.q.shape[:-1], -np.inf, work)
    buffer = np.empty(min(block, task.n_queries) * task.width, work)
    for b, rows, spans in task.rows_of_tiles():
        for h in range(task.heads):
            kv = h // task.group
            out[b, h, rows], lse[b, h, rows] = _row_numpy(
                task.q[b, h, rows].astype(work) * work(task.scale),
                task.k[b, kv],
                task.v[b, kv],
                spans,
                buffer,
            )
    out = out.reshape(*q.shape[:-1], v.shape[-1])
    return (out, lse.reshape(q.shape[:-1])) if return_lse else out


def _row_numpy(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], spans: list[KeySpan], buffer: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Output [Bq, d_v] and logsumexp [Bq] of one block of scaled queries [Bq, d]."""
    m = np.full((len(q), 1), -np.inf, q.dtype)  # running maximum
    l = np.zeros((len(q), 1), q.dtype)  # noqa: E741 - the papers' name of the running sum
    acc = np.zeros((len(q), v.shape[-1]), q.dtype)  # running weighted sum
    for span in spans:
        width = span.stop - span.start
        s = buffer[: len(q) * width].reshape(len(q), width)
        keys = k[span.start : span.stop].astype(q.dtype, copy=False)
        np.matmul(q, keys.T, out=s)
        for columns, cells in span.blocked:
            np.copyto(s[:, columns], -np.inf, where=cells)
        new_m = np.maximum(m, s.max(axis=1, keepdims=True))
        shift = np.where(new_m == -np.inf, 0, new_m).astype(q.dtype)  # nothing seen yet
        np.subtract(s, shift, out=s)
        p = np.exp(s, out=s)
        shrink = np.exp(m - shift)  # what was summed so far, relative to the new maximum
        l = shrink * l + p @ np.ones((width, 1), q.dtype)  # noqa: E741 - a product sums faster
        acc = shrink * acc + p @ v[span.start : span.stop].astype(q.dtype, copy=False)
        m = new_m
    some = l != 0
    with np.errstate(divide="ignore"):
        lse = np.where(some, np.where(some, m, 0) + np.log(l), -np.inf)
    return acc / np.where(some, l, 1), lse[:, 0]


def tiled_attention_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | None = causal(),  # noqa: B008 - a rule never changes
    *,
    block: int = BLOCK,
    scale: float | None = None,
    q_pos: Sequence[int] | Array | None = None,
    return_lse: bool = False,
) -> Any:
    """Attention in tiles, in torch, with gradients that are computed in tiles as well.

    Args:
        q: queries; this and the other arguments are as for `tiled_attention_numpy`, as tensors.
        k: keys.
        v: values.
        mask: the rule; None for full attention.
        block: queries and keys a tile, at least 1.
        scale: factor of the dot products; 1 / sqrt(d) if not given.
        q_pos: absolute positions of the queries; the last Tq of the keys' if not given.
        return_lse: also return the logarithm of each row's sum of exponentials (no gradient
            flows through it).

    Returns:
        As `tiled_attention_numpy`. Gradients of rows that see nothing are zero. The backward pass
        keeps q, k, v, the output and one number a row, and computes the weights again.

    Raises:
        TypeError: if an array is not a floating tensor of one dtype, or `mask` is no `Mask`.
        ValueError: if shapes or devices do not fit.
    """
    task = _Task(q, k, v, mask, block, scale, q_pos, Tensor)
    out, lse = _Tiled.apply(task.q, task.k, task.v, task)
    out = out.reshape(*q.shape[:-1], v.shape[-1])
    return (out, lse.reshape(q.shape[:-1])) if return_lse else out


class _Tiled(torch.autograd.Function):
    """Forward and backward of all heads; shapes are [B, H, T, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, task: "_Task") -> tuple[Tensor, Tensor]:
        """Output and logsumexp."""
        work = torch.float64 if q.dtype == torch.float64 else torch.float32
        out = q.new_zeros((*q.shape[:-1], v.shape[-1]))
        lse = torch.full(q.shape[:-1], -torch.inf, dtype=work, device=q.device)
        rows_at_once = min(task.block, task.n_queries)
        buffer = torch.empty(rows_at_once * task.width, dtype=work, device=q.device)
        for b, rows, spans in task.rows_of_tiles():
            # exp2 is faster than exp, so the scale also carries log2(e).
            queries = q[b, :, rows].to(work) * (task.scale * _LOG2_E)  # [H, Bq, d]
            state = _State.of_nothing(queries, v.shape[-1])
            keys, values = k[b].unbind(), v[b].unbind()
            for h, (one, remembered) in enumerate(zip(queries, state.heads(), strict=True)):
                kv = h // task.group
                _row_torch(one, keys[kv], values[kv], spans, buffer, remembered)
            out[b, :, rows], lse[b, :, rows] = state.finished()
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.task = task
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of q, k and v; the weights are computed once more, tile by tile."""
        q, k, v, out, lse = ctx.saved_tensors
        task, work = ctx.task, lse.dtype
        dq, dk, dv = (torch.zeros_like(x, dtype=work) for x in (q, k, v))
        delta = (grad.to(work) * out.to(work)).sum(-1, keepdim=True)  # [B, H, Tq, 1]
        for b, rows, spans in task.rows_of_tiles():
            for h in range(task.heads):
                kv = h // task.group
                _row_backward(
                    (q[b, h, rows].to(work), k[b, kv], v[b, kv], grad[b, h, rows].to(work)),
                    (dq[b, h, rows], dk[b, kv], dv[b, kv]),
                    (lse[b, h, rows, None], delta[b, h, rows]),
                    spans,
                    task.scale,
                )
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None


@dataclass(frozen=True)
class _State:
    """What queries remember of the keys that they have seen; scores are in units of log2.

    Attributes:
        m: running maximum, [..., Bq, 1]. That of nothing is the lowest finite number, not -inf:
            it may be subtracted from -inf, and every score is above it, so that rows which have
            seen nothing need no case of their own.
        l: running sum of exp2(score - m), [..., Bq, 1].
        acc: running weighted sum of values, [..., Bq, d_v].
    """

    m: Tensor
    l: Tensor  # noqa: E741 - the papers' name
    acc: Tensor

    @classmethod
    def of_nothing(cls, q: Tensor, d_v: int) -> "_State":
        """The state of queries [..., Bq, d] before the first key."""
        lead = q.shape[:-1]
        lowest = torch.finfo(q.dtype).min
        return cls(q.new_full((*lead, 1), lowest), q.new_zeros((*lead, 1)), q.new_zeros(*lead, d_v))

    def heads(self) -> list["_State"]:
        """Views of one head each."""
        return [_State(*one) for one in zip(self.m, self.l, self.acc, strict=True)]

    def finished(self) -> tuple[Tensor, Tensor]:
        """Output [..., Bq, d_v] and natural logsumexp [..., Bq]."""
        some = self.l != 0
        lse = torch.where(some, (self.m + torch.log2(self.l)) / _LOG2_E, -torch.inf)
        return self.acc / self.l.masked_fill(~some, 1), lse[..., 0]


def _row_torch(
    q: Tensor, k: Tensor, v: Tensor, spans: list[KeySpan], buffer: Tensor, state: _State
) -> None:
    """Let one block of scaled queries [Bq, d] walk over its keys; `state` is changed in place."""
    m, l, acc = state.m, state.l, state.acc  # noqa: E741 - the papers' names
    for number, span in enumerate(spans):
        keys, values = k[span.start : span.stop].to(q.dtype), v[span.start : span.stop].to(q.dtype)
        s = buffer[: len(q) * len(keys)].view(len(q), len(keys))
        torch.mm(q, keys.T, out=s)
        for columns, cells in span.blocked:
            s[:, columns].masked_fill_(cells, -torch.inf)
        new_m = torch.maximum(m, s.amax(dim=1, keepdim=True))
        p = s.sub_(new_m).exp2_()
        if number == 0:  # nothing to shrink yet
            torch.sum(p, dim=1, keepdim=True, out=l)
            torch.mm(p, values, out=acc)
        else:
            shrink = m.sub_(new_m).exp2_()
            l.mul_(shrink).add_(p.sum(dim=1, keepdim=True))
            torch.addmm(acc.mul_(shrink), p, values, out=acc)
        m.copy_(new_m)


def _row_backward(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    gradients: tuple[Tensor, Tensor, Tensor],
    saved: tuple[Tensor, Tensor],
    spans: list[KeySpan],
    scale: float,
) -> None:
    """Add what one block of queries contributes to dq, dk and dv (algorithm 4 of the paper)."""
    q, k, v, do = inputs
    dq, dk, dv = gradients
    lse, delta = saved
    for span in spans:
        keys = slice(span.start, span.stop)
        key, value = k[keys].to(q.dtype), v[keys].to(q.dtype)
        s = (q @ key.T) * scale
        p = torch.exp(s - lse.masked_fill(lse == -torch.inf, 0))
        for columns, cells in span.blocked:
            p[:, columns].masked_fill_(cells, 0)
        ds = p * (do @ value.T - delta) * scale
        dv[keys] += p.T @ do
        dq += ds @ key
        dk[keys] += ds.T @ q


class _Task:
    """Checked arguments, as [B, H, T, d], and the walk over the tiles.

    Attributes:
        q: queries [B, Hq, Tq, d].
        k: keys [B, Hk, Tk, d].
        v: values [B, Hk, Tk, d_v].
        heads: Hq.
        group: query heads that share a key head.
        width: the most keys of one span.
    """

    def __init__(
        self,
        q: Any,
        k: Any,
        v: Any,
        mask: Mask | None,
        block: int,
        scale: float | None,
        q_pos: Any,
        library: type,
    ) -> None:
        _check_arrays(q, k, v, library)
        if mask is not None and not isinstance(mask, Mask):
            raise TypeError(f"mask: expected a Mask or None; got {type(mask).__name__}")
        self.block = check_count("block", block, 1)
        self.all_visible, self.mask = mask is None, full() if mask is None else mask
        self.scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
        if not math.isfinite(self.scale):
            raise ValueError(f"scale: expected a finite number; got {self.scale}")
        self.q, self.k, self.v = (_four_axes(x) for x in (q, k, v))
        _, self.heads, self.n_queries, _ = self.q.shape
        self.n_keys = self.k.shape[2]
        self.group = self.heads // max(self.k.shape[1], 1)
        self.width = max(1, min(max(_WIDTH, block), self.n_keys))
        self.positions = self._positions(q_pos)
        if mask is not None and mask.batch not in (None, len(self.q)):
            raise ValueError(
                f"mask: {mask} holds data of {mask.batch} sequences; got {len(self.q)} in q"
            )
        if mask is not None and mask.least_keys > self.n_keys:
            raise ValueError(
                f"mask: {mask} has a prefix of {mask.least_keys}, longer than the "
                f"{self.n_keys} keys"
            )

    def rows_of_tiles(self) -> Iterator[tuple[int, slice, list[KeySpan]]]:
        """(sequence, queries, spans) of every row of tiles; shared masks are read once."""
        for first in range(0, self.n_queries, self.block):
            rows = slice(first, min(first + self.block, self.n_queries))
            shared = self._spans(rows, None) if self.mask.batch is None else None
            for b in range(len(self.q)):
                yield b, rows, self._spans(rows, b) if shared is None else shared

    def _spans(self, rows: slice, b: int | None) -> list[KeySpan]:
        if self.all_visible:
            kinds = np.full(-(-self.n_keys // self.block), Tile.FULL)
        else:
            kinds = self._kinds(self.positions[rows])
            kinds = kinds[0] if b is None else kinds[b, 0, 0]
        spans: list[KeySpan] = []
        for j in np.flatnonzero(kinds != Tile.EMPTY):
            start, stop = int(j) * self.block, min((int(j) + 1) * self.block, self.n_keys)
            before = spans[-1] if spans else None
            if before and before.stop == start and stop - before.start <= self.width:
                begin, blocked = spans.pop().start, before.blocked
            else:
                begin, blocked = start, ()
            if kinds[j] == Tile.PARTIAL:
                columns = slice(start - begin, stop - begin)
                blocked = (*blocked, (columns, self._blocked(rows, start, stop, b)))
            spans.append(KeySpan(begin, stop, blocked))
        return spans

    def _kinds(self, q_pos: NDArray[np.integer]) -> NDArray[np.int8]:
        """Kinds of the tiles of one row, [1, tiles] or [B, 1, 1, tiles].

        The causal rule is known from the ends of a tile. Any other is asked about every pair (but
        not of later keys, if it never looks ahead), a span of keys at a time and in 32 bits, so
        that what it computes stays in cache.
        """
        if self.mask.is_causal:
            first = np.arange(0, self.n_keys, self.block)  # key of each tile
            last = np.minimum(first + self.block, self.n_keys) - 1
            full, some = last <= q_pos.min(), first <= q_pos.max()
            kinds = np.where(full, Tile.FULL, np.where(some, Tile.PARTIAL, Tile.EMPTY))
            return kinds[None].astype(np.int8)
        span = self.block * max(1, _SPAN // self.block)
        size = {"block_q": max(1, len(q_pos)), "block_k": self.block}
        end = self.n_keys
        if self.mask.never_ahead:
            end = min(end, (int(q_pos.max()) // self.block + 1) * self.block)
        parts = [
            self.mask.tiles(q_pos, self._keys(first, min(first + span, end)), **size)
            for first in range(0, max(end, 1), span)
        ]
        ahead = -(-self.n_keys // self.block) - sum(part.shape[-1] for part in parts)
        return np.concatenate(
            [*parts, np.full((*parts[0].shape[:-1], ahead), Tile.EMPTY, np.int8)], axis=-1
        )

    def _keys(self, start: int, stop: int) -> NDArray[np.int32]:
        return np.arange(start, stop, dtype=np.int32)

    def _blocked(self, rows: slice, start: int, stop: int, b: int | None) -> Any:
        visible = self.mask.matrix(self.positions[rows], self._keys(start, stop))
        blocked = ~(visible if b is None else visible[b, 0])
        if isinstance(self.q, Tensor):
            return torch.as_tensor(blocked, device=self.q.device)
        return blocked.cpu().numpy() if isinstance(blocked, Tensor) else blocked

    def _positions(self, q_pos: Any) -> NDArray[np.integer]:
        if q_pos is None:
            if self.n_queries > self.n_keys and not self.all_visible:
                raise ValueError(
                    "q_pos: needed when there are more queries than keys "
                    f"({self.n_queries} > {self.n_keys}); got None"
                )
            return self._keys(self.n_keys - self.n_queries, self.n_keys)
        positions = q_pos.cpu().numpy() if isinstance(q_pos, Tensor) else np.asarray(q_pos)
        if positions.shape != (self.n_queries,) or positions.dtype.kind not in "iu":
            raise ValueError(
                f"q_pos: expected {self.n_queries} integer positions; "
                f"got shape {list(positions.shape)} of {positions.dtype}"
            )
        return positions


def _four_axes(x: Any) -> Any:
    """[T, d], [H, T, d] or [..., H, T, d] as [B, H, T, d]."""
    lead = (1,) * max(0, 4 - x.ndim)
    return x.reshape(*lead, *x.shape) if x.ndim <= 4 else x.reshape(-1, *x.shape[-3:])


def _check_arrays(q: Any, k: Any, v: Any, library: Any) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        floating = isinstance(x, library) and (
            x.is_floating_point() if library is Tensor else x.dtype.kind == "f"
        )
        if not floating or x.dtype != q.dtype:
            words = "torch tensor" if library is Tensor else "NumPy array"
            got = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"{name}: expected a floating {words} of the dtype of q; got {got}")
        if x.ndim < 2 or x.ndim != q.ndim:
            raise ValueError(f"{name}: expected [..., H, T, d] with the axes of q; got "
                             f"{list(x.shape)}")  # fmt: skip
        if library is Tensor and x.device != q.device:
            raise ValueError(f"{name}: expected device {q.device}, where q is; got {x.device}")
    if q.shape[-1] != k.shape[-1] or q.shape[-1] == 0:
        raise ValueError(f"k: expected vectors of the size of q, {q.shape[-1]}; got {k.shape[-1]}")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"v: expected one value a key, {k.shape[-2]}; got {v.shape[-2]}")
    if q.shape[:-3] != k.shape[:-3] or k.shape[:-2] != v.shape[:-2]:
        raise ValueError(
            "k: expected the batch of q, and the batch and heads of v; got q "
            f"{list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
        )
    if q.ndim > 2 and (k.shape[-3] == 0 or q.shape[-3] % k.shape[-3]):
        raise ValueError(
            f"k: expected a number of heads that divides the {q.shape[-3]} of q; got {k.shape[-3]}"
        )
