"""The tuned Flash kernel, forward (chapter 7 walks here from the teaching version).

What it adds to the teaching version, and why:
- exp2 instead of exp, with log2(e) folded into the scale: one multiplication less a score;
- full tiles without mask arithmetic, which stands behind a branch. The branch is in the one loop
  over all tiles: with a second loop for the partial ones the flow of tiles from memory would stop
  and start again, more registers are needed, and without TMA the assembler then makes matrix
  instructions wait for each other (its note C7515). Lists of tiles have two loops all the same;
- any rule, by the lists of `tile_plan`; the causal one needs no lists, it compares positions;
- grouped heads (GQA), queries that come after a cache, any length, any strides;
- heavy tiles first within groups of heads whose keys fit in L2, so that no processor is left with
  the longest row of tiles at the end;
- TMA descriptors on Hopper, ordinary pointers elsewhere;
- values loaded before keys: the compiler puts a barrier between a copy into shared memory and the
  next product that reads that memory, unless one stands there already. With the keys first, triton
  3.7 puts it between the softmax and the second product, where it makes the two groups of warps
  march in step; this way it stands at the top of the loop, and one group's softmax can run beside
  the other's products.

Sources: T. Dao et al., FlashAttention, 2022, arXiv:2205.14135, algorithm 1; T. Dao,
FlashAttention-2, 2023, arXiv:2307.08691, section 3.1; the heavy-first order within groups is that
of FlashAttention-3's causal scheduler (J. Shah et al., 2024, arXiv:2407.08608).

This module imports triton. Without a GPU, TRITON_INTERPRET=1 must be set before that.
"""

# Arguments of a kernel have no Python types; constexpr marks what is known when it is compiled.
# ruff: noqa: ANN001, ANN201, ANN202, SIM108

import triton
import triton.language as tl

#: What MODE says about the mask.
FULL, CAUSAL, TILES = 0, 1, 2
#: Numbers that change from call to call. Triton would compile a kernel again for each that is 1 or
#: a multiple of 16; these are only compared with, or used outside the loops, where that gains
#: nothing.
COUNTS = [
    "n_queries", "n_keys", "n_heads", "n_kv_heads", "n_sequences", "heads_a_group", "n_parts",
    "list_stride_b", "n_splits", "n_rows",
]  # fmt: skip


@triton.jit
def tile_at(
    source, b, h, start, n_rows, stride_b, stride_h, stride_t,
    D: tl.constexpr, ROWS: tl.constexpr, CHECK: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Rows start..start+ROWS of head h of sequence b, [ROWS, D]; rows beyond the end are 0."""
    if TMA:
        tile = source.load([b, h, start, 0]).reshape([ROWS, D])
    else:
        first = source + b.to(tl.int64) * stride_b + h.to(tl.int64) * stride_h
        first += start.to(tl.int64) * stride_t  # 64 bits here, 32 within the tile
        row = tl.arange(0, ROWS)
        at = first + row[:, None] * stride_t + tl.arange(0, D)[None, :]
        if CHECK:
            tile = tl.load(at, mask=(start + row < n_rows)[:, None], other=0.0)
        else:
            tile = tl.load(at)
    return tile


@triton.jit
def heavy_first(n_tiles, n_heads, heads_a_group, CAUSAL_ORDER: tl.constexpr):
    """Which (tile, head) this program works on.

    Programs start in the order of their number. Groups of heads one after another, so that a
    group's keys stay in L2; within a group the last tiles, which see most keys, first.
    """
    number = tl.program_id(0)
    in_full_groups = n_tiles * heads_a_group
    group = number // in_full_groups
    width = tl.minimum(heads_a_group, n_heads - group * heads_a_group)
    rest = number - group * in_full_groups
    tile = rest // width
    if CAUSAL_ORDER:
        tile = n_tiles - 1 - tile
    return tile, group * heads_a_group + rest % width


@triton.jit
def _update(peak, total, acc, s, v, scale2, GUARD: tl.constexpr, PRECISION: tl.constexpr):
    """One step of the online softmax, in units of log2(e): exp2 does the rest.

    s [BLOCK_Q, BLOCK_K] is not yet scaled, and -inf where blocked.
    """
    new_peak = tl.maximum(peak, tl.max(s, axis=1) * scale2)
    if GUARD:  # rows that have seen nothing yet: -inf - -inf is NaN
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    else:
        base = new_peak
    p = tl.math.exp2(s * scale2 - base[:, None])  # a fused multiply-add and one exp2
    shrink = tl.math.exp2(peak - base)
    total = total * shrink + tl.sum(p, axis=1)
    acc = acc * shrink[:, None]
    acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    return new_peak, total, acc


@triton.jit(do_not_specialize=COUNTS)
def forward_kernel(
    q_source, k_source, v_source, o_ptr, lse_ptr,
    full_starts, full_list, partial_starts, partial_list, pattern_list, patterns,
    n_queries, padded_queries, n_keys, n_heads, n_kv_heads, n_sequences, heads_a_group, scale2,
    q_stride_b, q_stride_h, q_stride_t, k_stride_b, k_stride_h, k_stride_t,
    v_stride_b, v_stride_h, v_stride_t, o_stride_b, o_stride_h, o_stride_t,
    list_stride_b,  # lines of the lists a sequence; 0 if all sequences share them
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, MODE: tl.constexpr,
    PRECISION: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Attention of BLOCK_Q queries of one head; writes o and, in units of log2, its log-sum-exp.

    A row that sees nothing gets o = 0 and lse = +inf: exp2(score - inf) = 0 in the backward pass.
    """
    n_tiles = tl.cdiv(n_queries, BLOCK_Q)
    tile, bh = heavy_first(n_tiles, n_heads * n_sequences, heads_a_group, MODE == 1)
    b, h = bh // n_heads, bh % n_heads
    kv = h // (n_heads // n_kv_heads)
    first = tile * BLOCK_Q
    row = first + tl.arange(0, BLOCK_Q)
    offset = n_keys - n_queries  # the queries are the last positions
    q = tile_at(
        q_source, b, h, first, n_queries, q_stride_b, q_stride_h, q_stride_t,
        D, BLOCK_Q, True, TMA,
    )  # fmt: skip
    peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, D], tl.float32)

    if MODE == 2:
        line = b * list_stride_b + tile
        begin, end = tl.load(full_starts + line), tl.load(full_starts + line + 1)
        for n in range(begin, end):
            start = tl.load(full_list + n) * BLOCK_K
            v = tile_at(
                v_source, b, kv, start, n_keys, v_stride_b, v_stride_h, v_stride_t,
                D, BLOCK_K, False, TMA,
            )  # fmt: skip
            k = tile_at(
                k_source, b, kv, start, n_keys, k_stride_b, k_stride_h, k_stride_t,
                D, BLOCK_K, False, TMA,
            )  # fmt: skip
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            peak, total, acc = _update(peak, total, acc, s, v, scale2, False, PRECISION)
        begin, end = tl.load(partial_starts + line), tl.load(partial_starts + line + 1)
        in_tile = tl.arange(0, BLOCK_Q)[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
        for n in range(begin, end):
            start = tl.load(partial_list + n) * BLOCK_K
            cells = patterns + tl.load(pattern_list + n).to(tl.int64) * (BLOCK_Q * BLOCK_K)
            visible = tl.load(cells + in_tile) != 0
            v = tile_at(
                v_source, b, kv, start, n_keys, v_stride_b, v_stride_h, v_stride_t,
                D, BLOCK_K, True, TMA,
            )  # fmt: skip
            k = tile_at(
                k_source, b, kv, start, n_keys, k_stride_b, k_stride_h, k_stride_t,
                D, BLOCK_K, True, TMA,
            )  # fmt: skip
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            s = tl.where(visible, s, float("-inf"))
            peak, total, acc = _update(peak, total, acc, s, v, scale2, True, PRECISION)
    else:
        if MODE == 1:
            full_end = (first + offset + 1) // BLOCK_K * BLOCK_K  # all before the first query
            end = tl.minimum(first + BLOCK_Q + offset, n_keys)
        else:
            full_end = n_keys // BLOCK_K * BLOCK_K
            end = n_keys
        for start in range(0, end, BLOCK_K):
            start = tl.multiple_of(start, BLOCK_K)
            v = tile_at(
                v_source, b, kv, start, n_keys, v_stride_b, v_stride_h, v_stride_t,
                D, BLOCK_K, True, TMA,
            )  # fmt: skip
            k = tile_at(
                k_source, b, kv, start, n_keys, k_stride_b, k_stride_h, k_stride_t,
                D, BLOCK_K, True, TMA,
            )  # fmt: skip
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            if start >= full_end:  # all threads agree: a branch, not arithmetic
                k_pos = start + tl.arange(0, BLOCK_K)
                if MODE == 1:
                    visible = k_pos[None, :] <= (row + offset)[:, None]
                else:
                    visible = (k_pos < n_keys)[None, :] & (row >= 0)[:, None]
                s = tl.where(visible, s, float("-inf"))
            peak, total, acc = _update(peak, total, acc, s, v, scale2, False, PRECISION)

    dead = total == 0.0
    o = acc * (1.0 / tl.where(dead, 1.0, total))[:, None]  # one division a row
    lse = tl.where(dead, float("inf"), peak + tl.math.log2(tl.where(dead, 1.0, total)))
    inside = row < n_queries
    o_first = o_ptr + b.to(tl.int64) * o_stride_b + h.to(tl.int64) * o_stride_h
    o_first += first.to(tl.int64) * o_stride_t
    at = o_first + tl.arange(0, BLOCK_Q)[:, None] * o_stride_t + tl.arange(0, D)[None, :]
    tl.store(at, o.to(o_ptr.dtype.element_ty), mask=inside[:, None])
    tl.store(lse_ptr + bh.to(tl.int64) * padded_queries + row, lse, mask=inside)
