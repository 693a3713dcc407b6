"""Attention of one or a few queries against a long cache, spread over the whole GPU (chapter 7).

One decoding step has one query a head, so a kernel that gives each block of queries one program
would keep most of the GPU idle while a few programs read the whole cache. Here the keys are split
too: each program reads one piece and leaves an output and a log-sum-exp, and a second, small
kernel merges the pieces. Heads that share keys (GQA) are rows of one tile, so that the cache is
read once. The step is limited by memory bandwidth: time >= bytes of keys and values / bandwidth.

Source: T. Dao, D. Haziza, F. Massa, G. Sizov, "Flash-Decoding for long-context inference", 2023,
https://crfm.stanford.edu/2023/10/12/flashdecoding.html. This module imports triton.
"""

# Arguments of a kernel have no Python types; constexpr marks what is known when it is compiled.
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl

from course_lib.flash.triton_forward import COUNTS, tile_at


@triton.jit(do_not_specialize=COUNTS)
def split_kernel(
    q_ptr, k_ptr, v_ptr, part_ptr, lse_ptr, lengths_ptr,
    n_splits, n_queries, n_keys, n_kv_heads, heads_a_kv, keys_a_split, scale2,
    q_stride_b, q_stride_h, q_stride_t, k_stride_b, k_stride_h, k_stride_t,
    v_stride_b, v_stride_h, v_stride_t,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
):  # fmt: skip
    """One piece of the keys for all queries of the heads that share one key-value head.

    Writes part [B * Hkv, splits, rows, D] and lse2 [B * Hkv, splits, rows], float32; a row that
    sees nothing of this piece gets -inf.
    """
    split, b_kv = tl.program_id(0) % n_splits, tl.program_id(0) // n_splits
    b, kv = b_kv // n_kv_heads, b_kv % n_kv_heads
    length = n_keys
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths_ptr + b).to(tl.int32), n_keys)  # never beyond the cache
    row = tl.arange(0, ROWS)  # query t of head g of the group is row g * n_queries + t
    n_rows = heads_a_kv * n_queries
    h = kv * heads_a_kv + row // n_queries
    t = row % n_queries
    q_pos = length - n_queries + t
    in_d, in_k = tl.arange(0, D), tl.arange(0, BLOCK_K)
    q_at = q_ptr + b.to(tl.int64) * q_stride_b + h.to(tl.int64) * q_stride_h + t * q_stride_t
    q = tl.load(q_at[:, None] + in_d[None, :], mask=(row < n_rows)[:, None], other=0.0)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    begin = split * keys_a_split
    for start in range(begin, tl.minimum(begin + keys_a_split, length), BLOCK_K):
        start = tl.multiple_of(start, BLOCK_K)
        k_pos = start + in_k
        k = tile_at(
            k_ptr, b, kv, start, length, k_stride_b, k_stride_h, k_stride_t,
            D, BLOCK_K, True, False,
        )  # fmt: skip
        v = tile_at(
            v_ptr, b, kv, start, length, v_stride_b, v_stride_h, v_stride_t,
            D, BLOCK_K, True, False,
        )  # fmt: skip
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale2
        s = tl.where(k_pos[None, :] <= q_pos[:, None], s, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(s, axis=1))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        p = tl.math.exp2(s - base[:, None])
        shrink = tl.math.exp2(peak - base)
        total = total * shrink + tl.sum(p, axis=1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
        peak = new_peak
    dead = total == 0.0
    part = acc / tl.where(dead, 1.0, total)[:, None]
    lse = tl.where(dead, float("-inf"), peak + tl.math.log2(tl.where(dead, 1.0, total)))
    out = (b_kv * n_splits + split).to(tl.int64) * n_rows + row
    tl.store(part_ptr + out[:, None] * D + in_d[None, :], part, mask=(row < n_rows)[:, None])
    tl.store(lse_ptr + out, lse, mask=row < n_rows)


@triton.jit(do_not_specialize=COUNTS)
def merge_kernel(
    part_ptr, lse_ptr, o_ptr, n_splits, n_rows, n_queries, n_kv_heads, heads_a_kv,
    o_stride_b, o_stride_h, o_stride_t, D: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """One row of the output: the pieces' outputs, weighted by exp2 of their lse2.

    PIECES at a time: fetching them one after another would wait for memory once a piece.
    """
    row, b_kv = tl.program_id(0) % n_rows, tl.program_id(0) // n_rows
    b, kv = b_kv // n_kv_heads, b_kv % n_kv_heads
    in_d = tl.arange(0, D)
    peak = float("-inf")
    total = 0.0
    acc = tl.zeros([D], tl.float32)
    for first in range(0, n_splits, PIECES):
        split = first + tl.arange(0, PIECES)
        there = split < n_splits
        at = (b_kv * n_splits + split).to(tl.int64) * n_rows + row
        lse = tl.load(lse_ptr + at, mask=there, other=float("-inf"))
        part = tl.load(part_ptr + at[:, None] * D + in_d[None, :], mask=there[:, None], other=0.0)
        new_peak = tl.maximum(peak, tl.max(lse, axis=0))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        shrink, weight = tl.math.exp2(peak - base), tl.math.exp2(lse - base)
        total = total * shrink + tl.sum(weight, axis=0)
        acc = acc * shrink + tl.sum(part * weight[:, None], axis=0)
        peak = new_peak
    o = acc / tl.where(total == 0.0, 1.0, total)
    h, t = kv * heads_a_kv + row // n_queries, row % n_queries
    at = o_ptr + b.to(tl.int64) * o_stride_b + h.to(tl.int64) * o_stride_h + t * o_stride_t
    tl.store(at + in_d, o.to(o_ptr.dtype.element_ty))
