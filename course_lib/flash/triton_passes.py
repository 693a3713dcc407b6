"""From tensors to launches of the Flash kernels: the two passes, and decoding (chapter 7).

Shapes are not checked here; `triton_attention` does that. This module imports triton; without a
GPU, TRITON_INTERPRET=1 must be set before that.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from course_lib.flash.tile_plan import TileLists, tile_plan
from course_lib.flash.triton_backward import delta_kernel, keys_kernel, queries_kernel
from course_lib.flash.triton_decode import merge_kernel, split_kernel
from course_lib.flash.triton_forward import TILES, forward_kernel
from course_lib.flash.triton_tuning import (
    INTERPRETED,
    LINE,
    BackwardConfig,
    Config,
    choose,
    choose_decode,
    mode_of,
    power_of_two,
    splits_that_fill,
)
from course_lib.masks import Mask

#: What is read again and again shall fit in L2 at once, bytes; FlashAttention-3's scheduler keeps
#: the same room for keys and values (hopper/tile_scheduler.hpp).
_L2_BUDGET = 32 * 2**20
_LOG2E = math.log2(math.e)
#: Programs of the decoding kernel that fit on one processor of Hopper: by shared memory and by
#: registers (tests/benchmarks/test_compiled.py asks the compiler).
PROGRAMS_A_PROCESSOR = 3


class Flash(torch.autograd.Function):
    """Forward and backward as one differentiable operation."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: Mask | None,
        scale: float,
        config: Config | None,
        backward_config: BackwardConfig | None,
    ) -> torch.Tensor:
        """The output [B, H, Tq, D]; what `backward` needs is kept."""
        o, lse2 = forward(q, k, v, mask, scale, config)
        ctx.save_for_backward(q, k, v, o, lse2)
        ctx.mask, ctx.scale, ctx.config = mask, scale, backward_config
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of q, k and v."""
        q, k, v, o, lse2 = ctx.saved_tensors
        gradients = backward(do, q, k, v, lse2, row_delta(o, do), ctx.mask, ctx.scale, ctx.config)
        return (*gradients, None, None, None, None)


# --- the two passes ------------------------------------------------------------------------------


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask | None,
    scale: float,
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One forward pass without checks: (o [B, H, Tq, D], lse2 float32 [B, H, padded Tq]).

    lse2 is the log-sum-exp in units of log2; +inf for a row that sees nothing or is not there.
    """
    q, k, v = (_dense_rows(x) for x in (q, k, v))
    o = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse2 = line_a_head(q, math.inf)
    batch, heads, n_queries, D = q.shape
    kv_heads, n_keys = k.shape[1], k.shape[2]
    fits_tma = _fit_tma(q, k, v)

    def run(config: Config) -> None:
        mode, lists, lines = _mask_arguments(mask, q, k, config, by_query=True)
        tma = config.tma and fits_tma
        forward_kernel[(-(-n_queries // config.block_q) * batch * heads,)](
            *_sources((q, k, v), config, tma), o, lse2, *lists,
            n_queries, lse2.shape[2], n_keys, heads, kv_heads, batch,
            _lines_in_l2(2 * k[0].nbytes // heads, batch * heads), scale * _LOG2E,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *o.stride()[:3], lines,
            D=D, BLOCK_Q=config.block_q, BLOCK_K=config.block_k, MODE=mode, PRECISION="ieee",
            TMA=tma, num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip

    with on_device(q.device):
        choose("forward", run, q, k, mask, fits_tma, config)
    return o, lse2


def row_delta(o: torch.Tensor, do: torch.Tensor) -> torch.Tensor:
    """rowsum(dO * O), float32 [B, H, padded Tq]; 0 in rows that are not there."""
    o, do = _dense_rows(o), _dense_rows(do)
    batch, heads, n_queries, D = o.shape
    delta = line_a_head(o, 0.0)
    block_q = 16 if INTERPRETED else 64
    with on_device(o.device):
        delta_kernel[(-(-n_queries // block_q) * batch * heads,)](
            o, do, delta, n_queries, delta.shape[2], heads, *o.stride()[:3], *do.stride()[:3],
            D=D, BLOCK_Q=block_q,
        )  # fmt: skip
    return delta


def backward(
    do: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse2: torch.Tensor,
    delta: torch.Tensor,
    mask: Mask | None,
    scale: float,
    config: BackwardConfig | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One backward pass without checks: (dq, dk, dv), from lse2 and `row_delta`."""
    do, q, k, v = (_dense_rows(x) for x in (do, q, k, v))
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    rows = (q, k, v, do, lse2, delta)

    def run(config: BackwardConfig) -> None:
        if config.queries is None:
            dq_sum = dq.new_zeros((*lse2.shape, q.shape[3]), dtype=torch.float32)
            _run_keys(rows, dk, dv, dq_sum, mask, scale, config.keys, dq_atomic=True)
            dq.copy_(dq_sum[:, :, : q.shape[2]])
        else:
            _run_keys(rows, dk, dv, dq, mask, scale, config.keys, dq_atomic=False)
            _run_queries(rows, dq, mask, scale, config.queries)

    with on_device(q.device):
        choose("backward", run, q, k, mask, _fit_tma(q, k, v, do), config)
    return dq, dk, dv


def _run_keys(
    rows: Sequence[torch.Tensor],
    dk: torch.Tensor,
    dv: torch.Tensor,
    dq: torch.Tensor,
    mask: Mask | None,
    scale: float,
    config: Config,
    *,
    dq_atomic: bool,
) -> None:
    """dK and dV; dQ too with `dq_atomic`, where dq is float32 zeros [B, H, padded Tq, D]."""
    q, k, lse2 = rows[0], rows[1], rows[4]
    batch, heads, n_queries, D = q.shape
    kv_heads, n_keys = k.shape[1], k.shape[2]
    mode, lists, lines = _mask_arguments(mask, q, k, config, by_query=False)
    tma = config.tma and _fit_tma(*rows[:4])
    blocks = -(-n_keys // config.block_k)
    parts = parts_that_fill(blocks * batch * kv_heads, heads // kv_heads, _processors(q.device))
    dk_sum, dv_sum = dk, dv
    if parts > 1:
        shape = (batch, kv_heads, parts, n_keys, D)
        dk_sum, dv_sum = (dk.new_empty(shape, dtype=torch.float32) for _ in range(2))
    keys_kernel[(blocks * batch * kv_heads * parts,)](
        *_sources(rows[:4], config, tma), *rows[4:], dk_sum, dv_sum, dq, *lists,
        n_queries, lse2.shape[2], n_keys, heads, kv_heads, batch,
        _lines_in_l2(2 * q[0].nbytes // (kv_heads * parts), batch * kv_heads * parts), parts,
        scale, scale * _LOG2E, *(n for x in rows[:4] for n in x.stride()[:3]), lines,
        D=D, BLOCK_Q=config.block_q, BLOCK_K=config.block_k, MODE=mode, PRECISION="ieee",
        DQ_ATOMIC=dq_atomic, TMA=tma, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    if parts > 1:
        dk.copy_(dk_sum.sum(2))
        dv.copy_(dv_sum.sum(2))


def _run_queries(
    rows: Sequence[torch.Tensor], dq: torch.Tensor, mask: Mask | None, scale: float, config: Config
) -> None:
    """DQ, one program a block of queries."""
    q, k, lse2 = rows[0], rows[1], rows[4]
    batch, heads, n_queries, D = q.shape
    mode, lists, lines = _mask_arguments(mask, q, k, config, by_query=True)
    tma = config.tma and _fit_tma(*rows[:4])
    queries_kernel[(-(-n_queries // config.block_q) * batch * heads,)](
        *_sources(rows[:4], config, tma), *rows[4:], dq, *lists,
        n_queries, lse2.shape[2], k.shape[2], heads, k.shape[1], batch,
        _lines_in_l2(2 * k[0].nbytes // heads, batch * heads),
        scale, scale * _LOG2E, *(n for x in rows[:4] for n in x.stride()[:3]), lines,
        D=D, BLOCK_Q=config.block_q, BLOCK_K=config.block_k, MODE=mode, PRECISION="ieee",
        TMA=tma, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip


def parts_that_fill(programs: int, group: int, processors: int) -> int:
    """Among how many programs the query heads of a group are dealt out, a divisor of the group.

    The fewest that give every processor two programs. FlashAttention-2 always takes the whole group
    (dk_expanded in csrc/flash_attn/flash_api.cpp); each part costs a float32 sum in memory.
    """
    divisors = [n for n in range(1, group + 1) if group % n == 0]
    return next((n for n in divisors if programs * n >= 2 * processors), group)


# --- decoding ------------------------------------------------------------------------------------


def decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: torch.Tensor | None,
    scale: float,
    splits: int | None = None,
    block_k: int | None = None,
) -> torch.Tensor:
    """A few queries against a cache, without checks: o [B, H, Tq, D]."""
    q, k, v = (_dense_rows(x) for x in (q, k, v))
    o = torch.empty_like(q, memory_format=torch.contiguous_format)

    def run(config: Config) -> None:
        _run_decode(q, k, v, o, lengths, scale, splits, config)

    with on_device(q.device):
        choose_decode(run, q, k, block_k)
    return o


def _run_decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lengths: torch.Tensor | None,
    scale: float,
    splits: int | None,
    config: Config,
) -> None:
    """The pieces, then their sum."""
    batch, heads, n_queries, D = q.shape
    kv_heads, n_keys = k.shape[1], k.shape[2]
    lines, group = batch * kv_heads, heads // kv_heads
    n_rows = group * n_queries
    blocks = -(-n_keys // config.block_k)
    if splits is None:
        splits = splits_that_fill(lines, blocks, PROGRAMS_A_PROCESSOR * _processors(q.device))
    keys_a_split = -(-blocks // splits) * config.block_k
    splits = -(-n_keys // keys_a_split)  # those that are not empty
    part = q.new_empty((lines, splits, n_rows, D), dtype=torch.float32)
    lse = q.new_empty((lines, splits, n_rows), dtype=torch.float32)
    # One axis of programs: the others end at 65,535, which sequences times heads can pass.
    split_kernel[(splits * lines,)](
        q, k, v, part, lse, q if lengths is None else lengths.contiguous(),
        splits, n_queries, n_keys, kv_heads, group, keys_a_split, scale * _LOG2E,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        D=D, ROWS=config.block_q, BLOCK_K=config.block_k,
        PRECISION="ieee", HAS_LENGTHS=lengths is not None,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    merge_kernel[(n_rows * lines,)](
        part, lse, o, splits, n_rows, n_queries, kv_heads, group,
        *o.stride()[:3], D=D, PIECES=min(16, power_of_two(splits)), num_warps=4,
    )  # fmt: skip


# --- small things --------------------------------------------------------------------------------


def _mask_arguments(
    mask: Mask | None, q: torch.Tensor, k: torch.Tensor, config: Config, *, by_query: bool
) -> tuple[int, tuple[torch.Tensor, ...], int]:
    """MODE, the six list pointers, and the lines of the lists a sequence."""
    mode = mode_of(mask)
    if mask is None or mode != TILES:
        return mode, (q,) * 6, 0  # never read
    n_queries, n_keys = q.shape[2], k.shape[2]
    blocks = {"block_q": config.block_q, "block_k": config.block_k}
    plan = tile_plan(mask, n_queries, n_keys, **blocks, device=q.device)
    side: TileLists = plan.by_query if by_query else plan.by_key
    lists = (side.full_starts, side.full, side.partial_starts, side.partial, side.pattern)
    lines = -(-n_queries // config.block_q) if by_query else -(-n_keys // config.block_k)
    return mode, (*lists, plan.patterns), lines if plan.batch > 1 else 0


def _lines_in_l2(read_by_each: int, lines: int) -> int:
    """Lines that are worked on side by side, so that what they read again and again fits in L2.

    Args:
        read_by_each: bytes that the programs of one line read over and over; those that several
            lines share are dealt out among them.
        lines: heads, or parts of heads, of all sequences.
    """
    return max(1, min(_L2_BUDGET // max(1, read_by_each), lines))


def _dense_rows(x: torch.Tensor) -> torch.Tensor:
    """A tensor whose rows are stored in one piece; any other strides are fine."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _fit_tma(*tensors: torch.Tensor) -> bool:
    """TMA wants 16-byte steps, and no axis that repeats itself."""

    def fits(x: torch.Tensor) -> bool:
        steps = [n * x.element_size() for n in x.stride()[:3]]
        return x.data_ptr() % 16 == 0 and all(step > 0 and step % 16 == 0 for step in steps)

    return all(map(fits, tensors))


def _sources(tensors: Sequence[torch.Tensor], config: Config, tma: bool) -> list[Any]:
    """q, k, v and perhaps dO as the kernels take them: tensors, or descriptors of their tiles."""
    if not tma:
        return list(tensors)
    from triton.tools.tensor_descriptor import TensorDescriptor

    rows = (config.block_q, config.block_k, config.block_k, config.block_q)
    return [
        TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, n, x.shape[3]])
        for x, n in zip(tensors, rows, strict=False)
    ]


def line_a_head(q: torch.Tensor, value: float) -> torch.Tensor:
    """float32 [B, H, Tq rounded up], filled where no kernel will write."""
    padded = -(-q.shape[2] // LINE) * LINE
    if padded == q.shape[2]:
        return q.new_empty((*q.shape[:2], padded), dtype=torch.float32)
    return q.new_full((*q.shape[:2], padded), value, dtype=torch.float32)


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Where to launch: Triton takes the current GPU, whichever one the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count
