"""Flash attention in Triton, ready to use: checks, choice of tiles, autograd (chapter 7).

The kernels themselves are in `triton_forward`, `triton_backward` and `triton_decode`. This module
imports triton; without a GPU, set TRITON_INTERPRET=1 before the first import of triton, and keep
the sizes small (the interpreter takes about a millisecond a tile).

What has been run where: the interpreter in the tests; compiled for sm_75, sm_80 and sm_90 without
a device in the tests (both with triton 3.7.1). By hand with 3.6.0: the interpreter under NumPy 2.1
and the compiler under NumPy 2.5 and torch 2.11. By hand with both: every candidate of the two
passes for heads of 64 and 128 compiled, and the way from a call to its launch walked with a
stand-in for CUDA's driver. By hand with 3.7.1: the bfloat16 kernels compiled for sm_100 and
sm_120. On a GPU by `benchmarks/flash_gpu.py`, if benchmarks/results/ has its file.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, SupportsFloat

import torch
import triton
from torch.autograd.function import FunctionCtx, once_differentiable
from triton.runtime import errors

from course_lib.flash.tile_plan import TileLists, tile_plan
from course_lib.flash.triton_backward import delta_kernel, keys_kernel, queries_kernel
from course_lib.flash.triton_decode import merge_kernel, split_kernel
from course_lib.flash.triton_forward import CAUSAL, FULL, TILES, forward_kernel
from course_lib.masks import Mask, causal, full
from course_lib.validate import check_count

#: Whether the kernels run in Triton's interpreter (decided when they were defined).
INTERPRETED = not isinstance(forward_kernel, triton.JITFunction)

#: Head dimensions that the kernels take.
HEAD_DIMS = (16, 32, 64, 128)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

#: Keys and values of a group of heads that shall fit in L2 at once, bytes.
_L2_BUDGET = 32 * 2**20
_LOG2E = math.log2(math.e)
_NOTHING_FITS = "no tile size works on this device; use scaled_dot_product_attention instead"
#: Programs of the decoding kernel that fit on one processor of Hopper: by shared memory and by
#: registers (tests/course_lib/flash/test_triton.py asks the compiler).
_PROGRAMS_A_PROCESSOR = 3
#: Log-sum-exps are stored in lines of a multiple of this, so that no load of them needs a mask;
#: so no tile may be longer.
_PAD = 128


def check_tile(name: str, size: int) -> None:
    """Refuse a side of a tile that Triton cannot multiply, or that is longer than a line's padding.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is not a power of two from 16 to 128.
    """
    if check_count(name, size, 16) != _power_of_two(size) or size > _PAD:
        raise ValueError(f"{name}: expected a power of two from 16 to {_PAD}; got {size}")


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True)
class Config:
    """One way to cut and to run a kernel.

    Attributes:
        block_q: queries a tile, a power of two from 16 to 128.
        block_k: keys a tile, likewise.
        warps: groups of 32 threads that share a tile.
        stages: tiles of keys on their way from memory at once.
        tma: load with TMA descriptors (Hopper and later), which also frees registers.
        dq_atomic: the keys kernel adds dQ to memory itself (backward).
    """

    block_q: int
    block_k: int
    warps: int = 4
    stages: int = 2
    tma: bool = False
    dq_atomic: bool = False

    def __post_init__(self) -> None:
        for name in ("block_q", "block_k"):
            check_tile(name, getattr(self, name))
        if check_count("warps", self.warps, 1) not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"warps: expected a power of two of at most 32; got {self.warps}")
        check_count("stages", self.stages, 1)


#: What was chosen for (pass, device, dtype, head dimension, and what else matters): see `choose`.
CHOSEN: dict[tuple, Config] = {}
#: What was tried for it: median milliseconds, or why it does not work here.
TRIED: dict[tuple, dict[Config, float | str]] = {}
#: Try all candidates on a GPU from this many keys on; below, the first that fits is taken.
TUNE_FROM = 1024


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask | None = causal(),  # noqa: B008  (a Mask never changes)
    *,
    scale: float | None = None,
    config: Config | None = None,
    backward_config: Config | None = None,
) -> torch.Tensor:
    """Attention by the tuned kernels; equal to `course_lib.attention.attention`, with gradients.

    The T x T matrix is never made: memory grows with T. Half precision multiplies in half and
    adds in float32; float32 multiplies in float32 (no TF32). On Hopper and later the gradient of q
    may be summed in another order each time, where that is faster; not so after
    `torch.use_deterministic_algorithms(True)`. A row that may attend to nothing
    gives zeros, and zero gradients. A NaN in a key that is blocked stays out of the output; one in
    a blocked *value* does not, if a visited tile holds it (0 * NaN is NaN, as in `attention`).

    Args:
        q: queries, [B, H, Tq, D], float16, bfloat16 or float32; D one of 16, 32, 64, 128.
        k: keys, [B, Hkv, Tk, D], same dtype and device; Hkv divides H (GQA: query head h uses
            key head h // (H / Hkv)); Tk >= Tq, the queries are the last Tq positions.
        v: values, [B, Hkv, Tk, D].
        mask: a rule; None for standard attention. `causal()` and None compare positions in the
            kernel; any other rule goes through its tile map, which is made on the CPU once for
            each mask object and shape, so keep the object.
        scale: positive factor of the dot products; 1 / sqrt(D) if not given.
        config: tiles of the forward pass; chosen (on a GPU: tried out) if not given.
        backward_config: tiles of the backward pass, likewise.

    Returns:
        [B, H, Tq, D], in the dtype of q.

    Raises:
        TypeError: wrong types or dtypes.
        ValueError: shapes, devices or a scale that do not fit; a CPU tensor without the
            interpreter.
        RuntimeError: if no tile size fits this device.
    """
    scale = _check(q, k, v, mask, scale)
    for name, given in (("config", config), ("backward_config", backward_config)):
        if given is not None and not isinstance(given, Config):
            raise TypeError(f"{name}: expected a Config or None; got {type(given).__name__}")
    if q.numel() == 0:
        return q + 0 * (k.sum() + v.sum())  # empty, and the gradients of keys and values are zero
    if INTERPRETED and q.dtype == torch.bfloat16:
        # The interpreter has no bfloat16 arithmetic (triton-lang/triton#4972, #11584).
        inputs = (x.float() for x in (q, k, v))
        return _Flash.apply(*inputs, mask, scale, config, backward_config).to(q.dtype)
    return _Flash.apply(q, k, v, mask, scale, config, backward_config)


def flash_decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    lengths: torch.Tensor | None = None,
    scale: float | None = None,
    splits: int | None = None,
    block_k: int | None = None,
) -> torch.Tensor:
    """Causal attention of a few new queries against a long cache, the keys split over the GPU.

    Forward only. The queries are the last Tq positions of their sequence.

    Args:
        q: [B, H, Tq, D], with H / Hkv * Tq at most 128.
        k: the cache, [B, Hkv, Tk, D].
        v: likewise.
        lengths: integer [B], how many slots of the cache are filled in each sequence (between Tq
            and Tk); all of them if not given. On a GPU their values are not looked at, which would
            make it wait: there one above Tk counts as Tk, and the first queries of a sequence with
            one below Tq see nothing.
        scale: positive factor of the dot products; 1 / sqrt(D) if not given.
        splits: pieces of the keys, at least 1; enough to fill the GPU if not given.
        block_k: keys a tile, a power of two from 16 to 128; the largest that is known to fit the
            device if not given.

    Returns:
        [B, H, Tq, D], in the dtype of q.

    Raises:
        TypeError: wrong types or dtypes.
        ValueError: as `flash_attention`; too many rows for one tile; `lengths` that does not fit;
            inputs that want a gradient.
        RuntimeError: if no tile size fits this device.
    """
    scale = _check(q, k, v, None, scale)
    n_rows = q.shape[1] // k.shape[1] * q.shape[2]
    if n_rows > 128:
        raise ValueError(
            "q: expected at most 128 rows that share keys (queries times heads a key head); "
            f"got {n_rows}; use flash_attention"
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError(
            "q: expected inputs that need no gradient, since flash_decode has no backward pass; "
            "call it under torch.no_grad(), or use flash_attention"
        )
    if lengths is not None:
        _check_lengths(lengths, q, k.shape[2])
    if splits is not None:
        check_count("splits", splits, 1)
    if block_k is not None:
        check_tile("block_k", block_k)
    if q.numel() == 0:
        return q.clone()
    dtype = q.dtype
    if INTERPRETED and dtype == torch.bfloat16:
        q, k, v = q.float(), k.float(), v.float()
    q, k, v = (_dense_rows(x) for x in (q, k, v))
    o = torch.empty_like(q, memory_format=torch.contiguous_format)

    def run(config: Config) -> None:
        _run_decode(q, k, v, o, lengths, scale, splits, config)

    rows = max(16, _power_of_two(n_rows))
    key = ("decode", str(q.device), q.dtype, q.shape[3], rows, block_k)
    with on_device(q.device):
        if key in CHOSEN:
            run(CHOSEN[key])
        else:
            capability = torch.cuda.get_device_capability(q.device) if q.is_cuda else None
            cores = has_tensor_cores(capability, q.dtype)
            tried = decode_candidates(rows, q.shape[3], block_k, tensor_cores=cores)
            CHOSEN[key] = _first_that_fits(tried, run)
    return o.to(dtype)


def has_tensor_cores(capability: tuple[int, int] | None, dtype: torch.dtype) -> bool:
    """Whether products run on matrix units: not in float32, and for Triton not before 8.0."""
    return dtype != torch.float32 and (capability is None or capability[0] >= 8)


def decode_candidates(
    rows: int, D: int, block_k: int | None = None, *, tensor_cores: bool = True
) -> list[Config]:
    """Tiles of the decoding kernel, the one to prefer first; `rows` stands for its queries.

    Fast memory ranges from 64 KB (T4) to 227 KB (Hopper), so the list goes down to almost none.
    Without tensor cores each thread multiplies for itself, out of its registers: a tile that is
    too large for them spills kilobytes a thread, so tiles are small and share more threads.
    """
    warps = 4 if tensor_cores else 8
    smaller: list[int] = []
    if block_k is None:
        if INTERPRETED:
            block_k = 16
        elif tensor_cores:
            block_k = (128 if D <= 64 else 64) // (2 if rows > 64 else 1)
        else:
            block_k = min(64, max(16, 2**16 // (rows * D)))
        smaller = [size for size in (64, 32, 16) if size < block_k]
    return [
        *(Config(rows, block_k, warps, stages) for stages in (3, 2, 1)),
        *(Config(rows, size, warps, 1) for size in smaller),
    ]


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
        splits = splits_that_fill(lines, blocks, _PROGRAMS_A_PROCESSOR * _processors(q.device))
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
        *o.stride()[:3], D=D, PIECES=min(16, _power_of_two(splits)), num_warps=4,
    )  # fmt: skip


@lru_cache(maxsize=256)  # asked at every step of decoding
def splits_that_fill(lines: int, blocks: int, at_once: int) -> int:
    """Into how many pieces to split the keys so that the GPU is busy to the end.

    Programs run in waves of `at_once`; a last wave of a few programs takes as long as a full one.
    More splits than needed cost memory traffic, so the fewest that come within 5% of the best.

    Args:
        lines: programs without a split, sequences times key heads.
        blocks: tiles of keys in a line, the most that it can be split into.
        at_once: programs that the GPU holds at a time.
    """

    def time(splits: int) -> float:
        tiles = -(-blocks // splits)  # the longest piece
        pieces = -(-blocks // tiles)  # those that are not empty
        return -(-lines * pieces // at_once) * tiles

    most = max(1, min(blocks, 4 * at_once // lines))
    times = {splits: time(splits) for splits in range(1, most + 1)}
    return min(splits for splits, took in times.items() if took <= 1.05 * min(times.values()))


# --- the two passes ------------------------------------------------------------------------------


class _Flash(torch.autograd.Function):
    """Forward and backward as one differentiable operation."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: Mask | None,
        scale: float,
        config: Config | None,
        backward_config: Config | None,
    ) -> torch.Tensor:
        o, lse2 = forward(q, k, v, mask, scale, config)
        ctx.save_for_backward(q, k, v, o, lse2)
        ctx.mask, ctx.scale, ctx.config = mask, scale, backward_config
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, do: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, o, lse2 = ctx.saved_tensors
        gradients = backward(do, q, k, v, lse2, row_delta(o, do), ctx.mask, ctx.scale, ctx.config)
        return (*gradients, None, None, None, None)


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

    def run(config: Config) -> None:
        _run_forward(q, k, v, o, lse2, mask, scale, config)

    with on_device(q.device):
        choose("forward", run, q, k, mask, config)
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
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One backward pass without checks: (dq, dk, dv), from lse2 and `row_delta`."""
    do, q, k, v = (_dense_rows(x) for x in (do, q, k, v))
    dk = torch.empty_like(k, memory_format=torch.contiguous_format)
    dv = torch.empty_like(v, memory_format=torch.contiguous_format)
    dq = torch.empty_like(q, memory_format=torch.contiguous_format)

    def run(config: Config) -> None:
        _run_backward(do, q, k, v, lse2, delta, dq, dk, dv, mask, scale, config)

    with on_device(q.device):
        choose("backward", run, q, k, mask, config)
    return dq, dk, dv


def _run_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse2: torch.Tensor,
    mask: Mask | None,
    scale: float,
    config: Config,
) -> None:
    batch, heads, n_queries, D = q.shape
    kv_heads, n_keys = k.shape[1], k.shape[2]
    mode, lists, lines = _mask_arguments(mask, q, k, config, by_query=True)
    tma = config.tma and all(_fits_tma(x) for x in (q, k, v))
    sources = _sources((q, k, v), config, tma)
    forward_kernel[(-(-n_queries // config.block_q) * batch * heads,)](
        *sources, o, lse2, *lists,
        n_queries, lse2.shape[2], n_keys, heads, kv_heads, batch,
        _heads_a_group(q, k, heads), scale * _LOG2E,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *o.stride()[:3], lines,
        D=D, BLOCK_Q=config.block_q, BLOCK_K=config.block_k, MODE=mode, PRECISION="ieee",
        TMA=tma, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip


def _run_backward(
    do: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse2: torch.Tensor,
    delta: torch.Tensor,
    dq: torch.Tensor,
    dk: torch.Tensor,
    dv: torch.Tensor,
    mask: Mask | None,
    scale: float,
    config: Config,
) -> None:
    batch, heads, n_queries, D = q.shape
    kv_heads, n_keys = k.shape[1], k.shape[2]
    mode, lists, lines = _mask_arguments(mask, q, k, config, by_query=False)
    strides = [n for x in (q, k, v, do) for n in x.stride()[:3]]
    same = dict(D=D, MODE=mode, PRECISION="ieee", num_warps=config.warps, num_stages=config.stages)
    sizes = (n_queries, lse2.shape[2], n_keys, heads, kv_heads, batch)
    tma = config.tma and all(_fits_tma(x) for x in (q, k, v, do))
    same["TMA"] = tma
    dq_sum = dq
    if config.dq_atomic:
        dq_sum = dq.new_zeros((*lse2.shape, D), dtype=torch.float32)
    keys_kernel[(-(-n_keys // config.block_k) * batch * kv_heads,)](
        *_sources((q, k, v, do), config, tma), lse2, delta, dk, dv, dq_sum, *lists, *sizes,
        _heads_a_group(k, q, kv_heads), scale, scale * _LOG2E, *strides, lines,
        BLOCK_Q=config.block_q, BLOCK_K=config.block_k, DQ_ATOMIC=config.dq_atomic, **same,
    )  # fmt: skip
    if config.dq_atomic:
        dq.copy_(dq_sum[:, :, :n_queries])
        return
    # For dQ the roles swap: what was the long side of the tile is now its block of queries.
    turned = replace(config, block_q=config.block_k, block_k=config.block_q)
    mode, lists, lines = _mask_arguments(mask, q, k, turned, by_query=True)
    queries_kernel[(-(-n_queries // turned.block_q) * batch * heads,)](
        *_sources((q, k, v, do), turned, tma), lse2, delta, dq, *lists, *sizes,
        _heads_a_group(q, k, heads), scale, scale * _LOG2E, *strides, lines,
        BLOCK_Q=turned.block_q, BLOCK_K=turned.block_k, **same,
    )  # fmt: skip


def _mask_arguments(
    mask: Mask | None, q: torch.Tensor, k: torch.Tensor, config: Config, *, by_query: bool
) -> tuple[int, tuple[torch.Tensor, ...], int]:
    """MODE, the six list pointers, and the lines of the lists a sequence."""
    mode = mode_of(mask)
    if mode != TILES:
        return mode, (q,) * 6, 0  # never read
    n_queries, n_keys = q.shape[2], k.shape[2]
    blocks = {"block_q": config.block_q, "block_k": config.block_k}
    plan = tile_plan(mask, n_queries, n_keys, **blocks, device=q.device)
    side: TileLists = plan.by_query if by_query else plan.by_key
    lists = (side.full_starts, side.full, side.partial_starts, side.partial, side.pattern)
    lines = -(-n_queries // config.block_q) if by_query else -(-n_keys // config.block_k)
    return mode, (*lists, plan.patterns), lines if plan.batch > 1 else 0


def mode_of(mask: Mask | None) -> int:
    """FULL or CAUSAL where the kernel can do without lists, else TILES.

    `full()` is taken by its name and then looked at: one that only calls itself full is not.
    """
    if mask is None:
        return FULL
    if mask.is_causal:
        return CAUSAL
    if repr(mask) == repr(full()) and mask.batch is None and mask.length is None:
        probe = [0, 1, 2, 3, 62, 63, 64, 65, 127, 128, 4095, 4096]
        return FULL if bool(mask.matrix(probe).all()) else TILES
    return TILES


# --- the choice of tiles -------------------------------------------------------------------------


def candidates(
    which: str, capability: tuple[int, int] | None, D: int, dtype: torch.dtype
) -> list[Config]:
    """Tile sizes worth trying, the safest guess first.

    Args:
        which: "forward" or "backward".
        capability: of the device; None for the interpreter.
        D: head dimension.
        dtype: of the inputs.
    """
    if capability is None:
        return [Config(16, 16)] if which == "forward" else [Config(16, 32)]
    table = _FORWARD if which == "forward" else _BACKWARD
    size = "float32" if dtype == torch.float32 else "small" if D <= 64 else "large"
    major = max(7, min(capability[0], 9))
    found = list(table[major, size])
    if capability[0] > 9:  # some of these have less than half of Hopper's fast memory
        found += [config for config in table[8, size] if config not in found]
    if torch.are_deterministic_algorithms_enabled():
        found = [config for config in found if not config.dq_atomic]
    return found


def _configs(*rows: tuple[int, int, int, int, str]) -> tuple[Config, ...]:
    return tuple(
        Config(q, k, w, n, tma="tma" in how, dq_atomic="atomic" in how) for q, k, w, n, how in rows
    )


#: (block_q, block_k, warps, stages, options) by compute capability and size. The order is a guess
#: from what the compiler reports without a device (registers, spills, shared memory). On Hopper:
#: - 8 warps are two groups that multiply by turns; 4 warps want two or three programs a processor;
#: - with 2 stages the next tile is fetched during the second product only, with 3 during a whole
#:   step, so 8 warps, alone on their processor, want 3;
#: - 128 x 128 with 4 warps leaves the assembler so few registers that matrix instructions wait
#:   for each other; 128 x 64 is as much as fits.
#: Without tensor cores (float32, and everything before 8.0) a tile lives in registers: 8 warps
#: where 4 would spill hundreds of bytes a thread.
_FORWARD: dict[tuple[int, str], tuple[Config, ...]] = {
    (9, "large"): _configs(
        (128, 128, 8, 3, "tma"), (128, 64, 4, 2, "tma"), (64, 64, 4, 3, "tma"),
        (128, 64, 8, 3, "tma"), (128, 128, 8, 2, "tma"), (128, 64, 8, 3, ""), (64, 64, 4, 3, ""),
    ),
    (9, "small"): _configs(
        (64, 128, 4, 2, "tma"), (128, 64, 4, 3, "tma"), (128, 128, 8, 3, "tma"),
        (64, 128, 4, 3, "tma"), (64, 64, 4, 3, "tma"), (128, 64, 4, 3, ""), (64, 64, 4, 3, ""),
    ),
    (9, "float32"): _configs((32, 32, 4, 1, ""), (16, 32, 4, 1, "")),
    (8, "large"): _configs(
        (128, 32, 4, 3, ""), (64, 64, 4, 2, ""), (128, 64, 8, 2, ""), (64, 32, 4, 2, "")
    ),
    (8, "small"): _configs((128, 64, 4, 3, ""), (64, 64, 4, 3, ""), (128, 32, 4, 3, "")),
    (8, "float32"): _configs((32, 32, 4, 1, ""), (16, 32, 4, 1, "")),
    (7, "large"): _configs((32, 32, 8, 1, ""), (16, 32, 4, 1, ""), (16, 32, 2, 1, "")),
    (7, "small"): _configs((32, 32, 4, 1, ""), (16, 32, 4, 1, "")),
    (7, "float32"): _configs((32, 32, 4, 1, ""), (16, 16, 2, 1, "")),
}  # fmt: skip
#: For dK and dV, whose block of keys stays; for dQ the two sides swap.
_BACKWARD: dict[tuple[int, str], tuple[Config, ...]] = {
    (9, "large"): _configs(
        (64, 128, 8, 2, "tma"), (64, 128, 8, 3, "tma"), (64, 64, 4, 2, "tma"),
        (32, 128, 8, 3, "tma"), (64, 128, 8, 2, "tma atomic"), (32, 64, 4, 2, ""),
    ),
    (9, "small"): _configs(
        (64, 128, 8, 2, "tma"), (64, 64, 4, 2, "tma"), (64, 128, 8, 3, "tma"),
        (64, 128, 8, 2, "tma atomic"), (64, 64, 4, 2, ""),
    ),
    (9, "float32"): _configs((32, 32, 8, 1, ""), (16, 32, 8, 1, ""), (16, 32, 4, 1, "")),
    (8, "large"): _configs(
        (32, 64, 4, 2, ""), (32, 128, 8, 2, ""), (32, 64, 4, 1, ""), (32, 32, 4, 1, "")
    ),
    (8, "small"): _configs((32, 128, 4, 2, ""), (64, 64, 4, 2, ""), (32, 64, 4, 2, "")),
    (8, "float32"): _configs((32, 32, 8, 1, ""), (16, 32, 8, 1, ""), (16, 32, 4, 1, "")),
    (7, "large"): _configs((16, 32, 8, 1, ""), (16, 16, 4, 1, ""), (16, 16, 2, 1, "")),
    (7, "small"): _configs((32, 32, 8, 1, ""), (16, 32, 8, 1, ""), (16, 32, 4, 1, "")),
    (7, "float32"): _configs((16, 16, 4, 1, ""),),
}  # fmt: skip


def choose(
    which: str,
    run: Callable[[Config], None],
    q: torch.Tensor,
    k: torch.Tensor,
    mask: Mask | None,
    config: Config | None = None,
) -> Config:
    """Run once, with the given config, the one chosen before, or the fastest of the candidates.

    Raises:
        RuntimeError: if no candidate fits the device.
    """
    if config is not None:
        run(config)
        return config
    capability = torch.cuda.get_device_capability(q.device) if q.is_cuda else None
    n_keys, D = k.shape[2], q.shape[3]
    size = n_keys.bit_length() if n_keys >= TUNE_FROM else 0
    same_bits = torch.are_deterministic_algorithms_enabled()
    key = (which, str(q.device), q.dtype, D, mode_of(mask), size, same_bits)
    if key not in CHOSEN:
        tried = candidates(which, capability, D, q.dtype)
        if size and q.is_cuda:
            TRIED[key] = _times(tried, run)
            CHOSEN[key] = _fastest(TRIED[key])
        else:
            CHOSEN[key] = _first_that_fits(tried, run)
    run(CHOSEN[key])
    return CHOSEN[key]


def _first_that_fits(tried: Iterable[Config], run: Callable[[Config], None]) -> Config:
    reasons = []
    for config in tried:
        reason = _reason_against(config, run)
        if reason is None:
            return config
        reasons.append(reason)
    raise RuntimeError(f"{_NOTHING_FITS} ({'; '.join(reasons)})")


def _fastest(tried: Mapping[Config, float | str]) -> Config:
    """The config with the smallest time."""
    times = {config: found for config, found in tried.items() if isinstance(found, float)}
    if not times:
        raise RuntimeError(f"{_NOTHING_FITS} ({'; '.join(map(str, tried.values()))})")
    return min(times, key=times.__getitem__)


def _times(
    tried: Iterable[Config], run: Callable[[Config], None], repeats: int = 5, launches: int = 3
) -> dict[Config, float | str]:
    """Median milliseconds of each config by CUDA events, or why it does not work.

    The GPU first sleeps for about a millisecond, in which Python queues all launches: short
    kernels would else be told apart by the time to launch them.
    """
    found: dict[Config, float | str] = {}
    for config in tried:
        reason = _reason_against(config, run)
        if reason is not None:
            found[config] = reason
            continue
        times = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(2_000_000)
            begin.record()
            for _ in range(launches):
                run(config)
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / launches)
        found[config] = sorted(times)[repeats // 2]
    return found


def _reason_against(config: Config, run: Callable[[Config], None]) -> str | None:
    """Why a config does not work on this device or with this compiler; None if it does.

    Only what is known before a kernel starts counts; a failure of a running kernel is an error.
    """
    try:
        run(config)
    except (errors.OutOfResources, errors.PTXASError, triton.CompilationError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0][:100]
    except RuntimeError as error:
        if "PassManager" not in str(error):
            raise
        return str(error)[:100]
    return None


# --- small things --------------------------------------------------------------------------------


def _heads_a_group(q: torch.Tensor, k: torch.Tensor, heads: int) -> int:
    """Heads that are worked on side by side, so that what they read again and again fits in L2."""
    batch, other_heads, length, D = k.shape
    one = 2 * length * D * k.element_size()  # keys and values (or queries and dO) of one head
    group = max(1, _L2_BUDGET // one) * heads // min(heads, other_heads)
    return max(1, min(group, batch * heads))


def _dense_rows(x: torch.Tensor) -> torch.Tensor:
    """A tensor whose rows are stored in one piece; any other strides are fine."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _fits_tma(x: torch.Tensor) -> bool:
    """TMA wants 16-byte steps, and no axis that repeats itself."""
    steps = [n * x.element_size() for n in x.stride()[:3]]
    aligned = x.data_ptr() % 16 == 0 and all(step % 16 == 0 for step in steps)
    return aligned and all(step > 0 for step in steps)


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
    padded = -(-q.shape[2] // _PAD) * _PAD
    if padded == q.shape[2]:
        return q.new_empty((*q.shape[:2], padded), dtype=torch.float32)
    return q.new_full((*q.shape[:2], padded), value, dtype=torch.float32)


def on_device(device: torch.device) -> AbstractContextManager:
    """Where to launch: Triton takes the current GPU, whichever one the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def _check(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask | None, scale: float | None
) -> float:
    """Refuse what the kernels cannot do; returns the scale."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name}: expected a torch tensor; got {type(x).__name__}")
        if x.dtype not in DTYPES:
            raise TypeError(f"{name}: expected float16, bfloat16 or float32; got {x.dtype}")
        if x.dtype != q.dtype:
            raise TypeError(f"{name}: expected the dtype of q, {q.dtype}; got {x.dtype}")
        if x.device != q.device:
            raise ValueError(f"{name}: expected device {q.device}, where q is; got {x.device}")
        if x.ndim != 4:
            raise ValueError(f"{name}: expected shape [B, heads, T, D]; got {list(x.shape)}")
    if q.device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f"q: expected a CUDA tensor; got one on {q.device}. "
            "To run on a CPU, set TRITON_INTERPRET=1 before triton is imported"
        )
    if (
        q.is_cuda
        and q.dtype == torch.bfloat16
        and torch.cuda.get_device_capability(q.device)[0] < 8
    ):
        raise TypeError("q: expected float16 or float32 on this GPU, which has no bfloat16")
    _check_shapes(q, k, v)
    if mask is not None and not isinstance(mask, Mask):
        raise TypeError(
            f"mask: expected a course_lib.masks.Mask or None; got {type(mask).__name__}"
        )
    if mask is not None and mask.batch not in (None, q.shape[0]):
        raise ValueError(
            f"mask: expected data of {q.shape[0]} sequences, the batch of q; got {mask.batch}"
        )
    if mask is not None and mask.least_keys > k.shape[2]:
        raise ValueError(
            f"mask: expected at least {mask.least_keys} keys, the prefix of {mask}; "
            f"got {k.shape[2]}"
        )
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    if isinstance(scale, bool) or not isinstance(scale, SupportsFloat):
        raise TypeError(f"scale: expected a number; got {type(scale).__name__}")
    scale = float(scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"scale: expected a finite number above 0; got {scale}")
    return scale


def _check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    batch, heads, n_queries, D = q.shape
    if D not in HEAD_DIMS:
        raise ValueError(f"q: expected a head dimension of 16, 32, 64 or 128; got {D}")
    if k.shape[0] != batch or k.shape[3] != D:
        raise ValueError(
            f"k: expected shape [{batch}, Hkv, Tk, {D}] to fit q {list(q.shape)}; "
            f"got {list(k.shape)}"
        )
    if v.shape != k.shape:
        raise ValueError(f"v: expected the shape of k, {list(k.shape)}; got {list(v.shape)}")
    if k.shape[1] == 0 or heads % k.shape[1]:
        raise ValueError(f"k: expected a number of heads that divides {heads}; got {k.shape[1]}")
    if n_queries > k.shape[2]:
        raise ValueError(
            f"q: expected at most as many queries as keys, {k.shape[2]}; got {n_queries} "
            "(the queries are the last positions)"
        )


def _check_lengths(lengths: torch.Tensor, q: torch.Tensor, n_keys: int) -> None:
    if not isinstance(lengths, torch.Tensor) or lengths.dtype not in (torch.int32, torch.int64):
        kind = getattr(lengths, "dtype", type(lengths).__name__)
        raise TypeError(f"lengths: expected an int32 or int64 tensor; got {kind}")
    if lengths.shape != q.shape[:1] or lengths.device != q.device:
        raise ValueError(
            f"lengths: expected shape [{q.shape[0]}] on {q.device}; "
            f"got {list(lengths.shape)} on {lengths.device}"
        )
    looking_is_free = INTERPRETED or not q.is_cuda  # it would stop a GPU at every step
    if looking_is_free and len(lengths):
        low, high = int(lengths.min()), int(lengths.max())
        if low < q.shape[2] or high > n_keys:
            raise ValueError(
                f"lengths: expected from {q.shape[2]} (the queries) to {n_keys} (the cache); "
                f"got {low} to {high}"
            )
