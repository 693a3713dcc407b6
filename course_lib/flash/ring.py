"""Ring attention: one sequence spread over several processes (appendix C).

Each rank keeps the queries of its part of the sequence. Keys and values travel around a ring, and
each rank merges what it computes from each visitor by the log-sum-exp of its rows. Nobody ever
holds the whole sequence. The causal rule makes the work depend on the part: with contiguous parts
the last rank does 2W - 1 times what the first does; with the zigzag split (rank r of W gets chunks
r and 2W - 1 - r of 2W) every rank does the same.

The same code runs on gloo processes on a CPU (torch arithmetic) and on NCCL ranks (the Triton
kernels of this package). What has not been run on GPUs: this module, so far.

Sources: H. Liu, M. Zaharia, P. Abbeel, "Ring Attention with Blockwise Transformers for
Near-Infinite Context", 2023, arXiv:2310.01889; the zigzag split:
https://github.com/zhuzilin/ring-flash-attention/issues/2 and A. Grattafiori et al., "The Llama 3
Herd of Models", 2024, arXiv:2407.21783, section 3.3.2.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable

from course_lib.masks import causal
from course_lib.validate import check_count

Split = Literal["zigzag", "contiguous"]


@dataclass
class Work:
    """What one rank did, added up over calls.

    Attributes:
        pairs: visible (query, key) pairs that it scored, of one head of one sequence.
        seconds: processor time that it spent computing (on a GPU: starting kernels).
        waiting: time that it spent waiting for its neighbour.
    """

    pairs: int = 0
    seconds: float = 0.0
    waiting: float = 0.0


@dataclass(frozen=True)
class Visit:
    """A piece of local queries against a piece of a visitor's keys.

    Attributes:
        queries: which local rows.
        keys: which of the visitor's rows.
        causal: whether the block is square and lower triangular; else all of it is visible.
    """

    queries: slice
    keys: slice
    causal: bool


def positions(rank: int, world: int, length: int, split: Split = "zigzag") -> NDArray[np.int64]:
    """The absolute positions that a rank owns, ascending, shape [length / world].

    Raises:
        ValueError: if the length does not divide into equal chunks (2 * world of them for zigzag).
    """
    _check_split(split)
    check_count("rank", rank, 0)
    check_count("world", world, rank + 1)
    check_count("length", length, 1)
    chunks = 2 * world if split == "zigzag" else world
    if length < chunks or length % chunks:
        raise ValueError(
            f"length: expected a multiple of {chunks} (the {split} split over {world} ranks); "
            f"got {length}"
        )
    chunk = length // chunks
    mine = (rank, 2 * world - 1 - rank) if split == "zigzag" else (rank,)
    return np.concatenate([np.arange(c * chunk, (c + 1) * chunk) for c in mine])


def visit_for(rank: int, source: int, n: int, split: Split = "zigzag") -> Visit | None:
    """What rank `rank` computes when the n keys of `source` visit; None if it sees none of them.

    Under zigzag every visit is half a square: a visitor from an earlier rank shows its first
    chunk to all local queries, one from a later rank shows everything to the second chunk.
    """
    whole, first, second = slice(0, n), slice(0, n // 2), slice(n // 2, n)
    if source == rank:
        return Visit(whole, whole, causal=True)
    if split == "zigzag":
        if source < rank:
            return Visit(whole, first, causal=False)
        return Visit(second, whole, causal=False)
    return Visit(whole, whole, causal=False) if source < rank else None


def pairs_in(visit: Visit | None) -> int:
    """How many visible (query, key) pairs a visit has."""
    if visit is None:
        return 0
    rows = visit.queries.stop - visit.queries.start
    columns = visit.keys.stop - visit.keys.start
    return rows * (rows + 1) // 2 if visit.causal else rows * columns


def merge(
    o: torch.Tensor, lse: torch.Tensor, o_new: torch.Tensor, lse_new: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over two disjoint sets of keys from the attention over each.

    Args:
        o: output over the first set, [..., T, D].
        lse: log of the sum of exp(score) over the first set, [..., T]; -inf if it is empty.
        o_new: as `o`, over the second set.
        lse_new: as `lse`.

    Returns:
        (output, lse) over both sets: each output weighted by exp(its lse - lse of both).
    """
    both = torch.logaddexp(lse, lse_new)
    base = torch.where(both == -math.inf, torch.zeros_like(both), both)
    weight, weight_new = torch.exp(lse - base), torch.exp(lse_new - base)
    return o * weight[..., None] + o_new * weight_new[..., None], both


def ring_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    split: Split = "zigzag",
    scale: float | None = None,
    group: dist.ProcessGroup | None = None,
    work: Work | None = None,
) -> torch.Tensor:
    """Causal attention of a sequence that is spread over the ranks of `group`; differentiable.

    Every rank calls it with its own rows (see `positions`) and gets its own rows of the output.

    Args:
        q: local queries, [B, H, T / W, D]. On a CPU float32 or float64; on a GPU what
            `flash_attention` takes.
        k: local keys, [B, Hkv, T / W, D], with Hkv dividing H.
        v: local values, likewise.
        split: how the sequence was cut.
        scale: positive factor of the dot products; 1 / sqrt(D) if not given.
        group: the ranks; all of them if not given. torch.distributed must be initialised.
        work: counts what this rank does, if given.

    Returns:
        [B, H, T / W, D], dtype of q.

    Raises:
        TypeError: dtypes that differ or that the local kernel does not take.
        ValueError: shapes that do not fit, an odd number of rows under zigzag, ranks that
            disagree (they tell each other first; otherwise gloo would end the process).
        RuntimeError: if torch.distributed is not initialised.
    """
    _check(q, k, v, split)
    if not dist.is_initialized():
        raise RuntimeError(
            "ring_attention: call torch.distributed.init_process_group first (for a try on one "
            "machine, course_lib.flash.processes does)"
        )
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    if not 0 < factor < math.inf:
        raise ValueError(f"scale: expected a finite number above 0; got {factor}")
    _check_ranks_agree(q, k, split, factor, group)
    return _Ring.apply(q, k, v, split, factor, group, work or Work())


# --- the ring ------------------------------------------------------------------------------------


class _Ring(torch.autograd.Function):
    """Forward and backward, each one trip of the keys around the ring."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        split: Split,
        scale: float,
        group: dist.ProcessGroup | None,
        work: Work,
    ) -> torch.Tensor:
        attend, _ = _local(q)
        wide = _accumulator(q.dtype)
        o = torch.zeros_like(q, dtype=wide)
        lse = torch.full(q.shape[:3], -math.inf, dtype=wide, device=q.device)
        for visit, keys in _visits(torch.stack([k, v]), split, group, work):
            if visit is None:
                continue
            rows = visit.queries
            visitor = keys[:, :, :, visit.keys]
            begin = _clock()
            o_new, lse_new = attend(q[:, :, rows], visitor[0], visitor[1], visit.causal, scale)
            o[:, :, rows], lse[:, :, rows] = merge(
                o[:, :, rows], lse[:, :, rows], o_new.to(wide), lse_new.to(wide)
            )
            work.seconds += _clock() - begin
            work.pairs += pairs_in(visit)
        out = o.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.split, ctx.scale, ctx.group, ctx.work = split, scale, group, work
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        _, differentiate = _local(q)
        wide = _accumulator(q.dtype)
        delta = (do.to(wide) * out.to(wide)).sum(-1)
        dq = torch.zeros_like(q, dtype=wide)
        # The gradient of a visitor travels with it, and is home after the last step.
        travelling = _Travelling(torch.zeros_like(torch.stack([k, v]), dtype=wide), ctx.group)
        for visit, keys in _visits(torch.stack([k, v]), ctx.split, ctx.group, ctx.work):
            part = None
            if visit is not None:
                rows, columns = visit.queries, visit.keys
                begin = _clock()
                dq_new, dk, dv = differentiate(
                    do[:, :, rows], q[:, :, rows], keys[0, :, :, columns], keys[1, :, :, columns],
                    lse[:, :, rows], delta[:, :, rows], visit.causal, ctx.scale,
                )  # fmt: skip
                dq[:, :, rows] += dq_new.to(wide)
                part = columns, torch.stack([dk, dv]).to(wide)
                ctx.work.seconds += _clock() - begin
                ctx.work.pairs += pairs_in(visit)
            travelling.add_and_send(part)
        dk, dv = travelling.arrived()
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None, None


def _visits(
    keys: torch.Tensor, split: Split, group: dist.ProcessGroup | None, work: Work
) -> Iterator[tuple[Visit | None, torch.Tensor]]:
    """Own keys first, then those of each rank before, around the ring.

    The next visitor is on its way while the present one is used. A visit of which this rank sees
    nothing is None.
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    keys = keys.contiguous()
    for step in range(world):
        source = (rank - step) % world
        coming: torch.Tensor | None = None
        requests: list[dist.Work] = []
        if step + 1 < world:
            coming, requests = _pass_on(keys, group)
        yield visit_for(rank, source, keys.shape[3], split), keys
        begin = time.perf_counter()
        for request in requests:
            request.wait()
        work.waiting += time.perf_counter() - begin
        keys = keys if coming is None else coming


class _Travelling:
    """A sum that visits every rank, one step behind the keys, and comes home."""

    def __init__(self, start: torch.Tensor, group: dist.ProcessGroup | None) -> None:
        self.now, self.group = start, group
        self.requests: list[dist.Work] = []
        self.sent: torch.Tensor | None = None  # kept until it has left

    def add_and_send(self, part: tuple[slice, torch.Tensor] | None) -> None:
        """Add this rank's part to the sum that has arrived, and pass it on."""
        total = self.arrived()
        if part is not None:
            columns, values = part
            total[:, :, :, columns] += values
        self.sent = total
        self.now, self.requests = _pass_on(total, self.group)

    def arrived(self) -> torch.Tensor:
        """The sum that the rank before has sent."""
        for request in self.requests:
            request.wait()
        self.requests = []
        return self.now


def _pass_on(
    tensor: torch.Tensor, group: dist.ProcessGroup | None
) -> tuple[torch.Tensor, list[dist.Work]]:
    """Start sending to the next rank and receiving from the one before."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    if world == 1:
        return tensor, []
    coming = torch.empty_like(tensor)
    after, before = (
        r if group is None else dist.get_global_rank(group, r)
        for r in ((rank + 1) % world, (rank - 1) % world)
    )
    operations = [
        dist.P2POp(dist.isend, tensor, after, group),
        dist.P2POp(dist.irecv, coming, before, group),
    ]
    return coming, dist.batch_isend_irecv(operations)


# --- what one rank computes ----------------------------------------------------------------------


def _local(q: torch.Tensor) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(attend, differentiate) for the device of q."""
    return (_attend_triton, _differentiate_triton) if q.is_cuda else (_attend, _differentiate)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(o, lse) of one block, in torch."""
    s = _scores(q, k, is_causal, scale)  # [B, Hkv, G, Tq, Tk]
    lse = torch.logsumexp(s, dim=-1)
    o = torch.exp(s - lse[..., None]) @ v[:, :, None]
    return o.flatten(1, 2), lse.flatten(1, 2)


def _differentiate(
    do: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse: torch.Tensor,
    delta: torch.Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dq, dk, dv) of one block, from the log-sum-exp over *all* keys."""
    heads = (k.shape[1], q.shape[1] // k.shape[1])
    q5, do5, lse5, delta5 = (x.unflatten(1, heads) for x in (q, do, lse, delta))
    p = torch.exp(_scores(q, k, is_causal, scale) - lse5[..., None])
    dv = (p.mT @ do5).sum(2)
    ds = p * (do5 @ v[:, :, None].mT - delta5[..., None])
    dq = (ds @ k[:, :, None]) * scale
    dk = (ds.mT @ q5).sum(2) * scale
    return dq.flatten(1, 2), dk, dv


def _scores(q: torch.Tensor, k: torch.Tensor, is_causal: bool, scale: float) -> torch.Tensor:
    """Scaled scores [B, Hkv, G, Tq, Tk], -inf where blocked."""
    q5 = q.unflatten(1, (k.shape[1], q.shape[1] // k.shape[1]))
    s = (q5 @ k[:, :, None].mT) * scale
    if is_causal:
        s = s.masked_fill(~causal().tensor(q.shape[2], device=q.device), -math.inf)
    return s


def _attend_triton(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(o, lse) of one block, by the Flash kernel."""
    from course_lib.flash import triton_passes

    o, lse2 = triton_passes.forward(q, k, v, causal() if is_causal else None, scale)
    return o, lse2[:, :, : q.shape[2]] * math.log(2)


def _differentiate_triton(
    do: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse: torch.Tensor,
    delta: torch.Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dq, dk, dv) of one block, by the Flash kernels."""
    from course_lib.flash import triton_passes

    lse2 = triton_passes.line_a_head(q, math.inf)
    lse2[:, :, : q.shape[2]] = lse * math.log2(math.e)
    lines = triton_passes.line_a_head(q, 0.0)
    lines[:, :, : q.shape[2]] = delta
    mask = causal() if is_causal else None
    return triton_passes.backward(do, q, k, v, lse2, lines, mask, scale)


def _clock() -> float:
    """Processor seconds of this thread, so that ranks which share a core do not count each other.

    On a GPU that is the time to start the kernels, not to run them.
    """
    return time.thread_time()


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check_split(split: str) -> None:
    if split not in get_args(Split):
        raise ValueError(f"split: expected one of {', '.join(get_args(Split))}; got {split!r}")


def _check_ranks_agree(
    q: torch.Tensor, k: torch.Tensor, split: str, scale: float, group: dist.ProcessGroup | None
) -> None:
    """Refuse on every rank if one brings another shape, dtype, split or scale."""
    splits, dtypes = get_args(Split), (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    mine = [*q.shape, k.shape[1], dtypes.index(q.dtype), splits.index(split), scale]
    sent = torch.tensor(mine, dtype=torch.float64, device=q.device)
    all_ranks = [torch.empty_like(sent) for _ in range(dist.get_world_size(group))]
    dist.all_gather(all_ranks, sent, group=group)

    def words(values: list[float]) -> str:
        *shape, kv_heads, dtype, cut, factor = values
        return (
            f"{[int(n) for n in shape]} of {dtypes[int(dtype)]}, {int(kv_heads)} key heads, "
            f"{splits[int(cut)]}, scale {factor:.6g}"
        )

    for rank, theirs in enumerate(all_ranks):
        if not torch.equal(theirs, sent):
            raise ValueError(
                "q: expected the same shape, dtype, key heads, split and scale on every rank; "
                f"got {words(mine)} here and {words(theirs.tolist())} on rank {rank}"
            )


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, split: str) -> None:
    _check_split(split)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(f"{name}: expected a floating torch tensor; got {kind}")
        if x.dtype != q.dtype:
            raise TypeError(f"{name}: expected the dtype of q, {q.dtype}; got {x.dtype}")
        if x.ndim != 4:
            raise ValueError(f"{name}: expected shape [B, heads, T / W, D]; got {list(x.shape)}")
    if q.is_cuda and q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(f"q: expected float16, bfloat16 or float32 on a GPU; got {q.dtype}")
    if not q.is_cuda and q.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"q: expected float32 or float64 on a CPU; got {q.dtype}")
    fits = k.shape[0] == q.shape[0] and k.shape[2:] == q.shape[2:]
    if not fits or k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"k: expected [{q.shape[0]}, a divisor of {q.shape[1]}, {q.shape[2]}, {q.shape[3]}] "
            f"to fit q; got {list(k.shape)}"
        )
    if v.shape != k.shape:
        raise ValueError(f"v: expected the shape of k, {list(k.shape)}; got {list(v.shape)}")
    if split == "zigzag" and q.shape[2] % 2:
        raise ValueError(f"q: expected an even number of rows for zigzag; got {q.shape[2]}")
