"""The tuned Flash kernels, backward (chapter 7).

The forward pass keeps no T x T matrix, only each row's log-sum-exp. The backward pass computes
every tile of P = exp(S - lse) again and from it, with delta = rowsum(dO * O):

    dV = P^T dO,   dP = dO V^T,   dS = P * (dP - delta),   dQ = scale dS K,   dK = scale dS^T Q

- `keys_kernel` walks, for one block of keys, over the queries that see it: dK and dV. Where many
  heads share few keys (GQA), the heads of a group are dealt out to several programs, each of which
  leaves a sum of its own; else most of the GPU would be idle.
- `queries_kernel` walks, for one block of queries, over its keys: dQ (and fetches values before
  keys, for the reason given in `triton_forward`).

That makes seven products a tile where five would do: S and dP are computed in both. What they buy
is that no two programs add to one place, so that every run gives the same bits. With DQ_ATOMIC the
first kernel adds its part of dQ to memory itself: five products and no second kernel, at the price
of float32 additions to memory in no fixed order; so it is not chosen after
torch.use_deterministic_algorithms(True).

Sources: T. Dao et al., FlashAttention, 2022, arXiv:2205.14135, algorithm 4; T. Dao,
FlashAttention-2, 2023, arXiv:2307.08691, section 3.2. This module imports triton.
"""

# Arguments of a kernel have no Python types; constexpr marks what is known when it is compiled.
# ruff: noqa: ANN001, ANN201, ANN202, SIM108

import triton
import triton.language as tl

from course_lib.flash.triton_forward import COUNTS, heavy_first, tile_at


@triton.jit(do_not_specialize=COUNTS)
def delta_kernel(
    o_ptr, do_ptr, delta_ptr, n_queries, padded_queries, n_heads,
    o_stride_b, o_stride_h, o_stride_t, do_stride_b, do_stride_h, do_stride_t,
    D: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """delta = rowsum(dO * O), float32 [B * H, padded Tq]."""
    n_tiles = tl.cdiv(n_queries, BLOCK_Q)
    first = tl.program_id(0) % n_tiles * BLOCK_Q
    bh = tl.program_id(0) // n_tiles
    b, h = bh // n_heads, bh % n_heads
    o = tile_at(
        o_ptr, b, h, first, n_queries, o_stride_b, o_stride_h, o_stride_t, D, BLOCK_Q, True, False
    )
    do = tile_at(
        do_ptr, b, h, first, n_queries, do_stride_b, do_stride_h, do_stride_t,
        D, BLOCK_Q, True, False,
    )  # fmt: skip
    row = first + tl.arange(0, BLOCK_Q)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), axis=1)
    tl.store(delta_ptr + bh.to(tl.int64) * padded_queries + row, delta, mask=row < n_queries)


@triton.jit
def _keys_step(
    dk, dv, k, v, q, do, lse, delta, visible, dq_at, scale, scale2,
    MASKED: tl.constexpr, DQ_ATOMIC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile, transposed ([BLOCK_K, BLOCK_Q]) so that dK and dV need no other transpose."""
    s = tl.dot(k, tl.trans(q), input_precision=PRECISION)
    p = tl.math.exp2(s * scale2 - lse[None, :])
    if MASKED:
        p = tl.where(visible, p, 0.0)
    dv = tl.dot(p.to(do.dtype), do, dv, input_precision=PRECISION)
    dp = tl.dot(v, tl.trans(do), input_precision=PRECISION)
    ds = (p * (dp - delta[None, :])).to(q.dtype)
    dk = tl.dot(ds, q, dk, input_precision=PRECISION)
    if DQ_ATOMIC:
        dq = tl.dot(tl.trans(ds), k, input_precision=PRECISION) * scale
        tl.atomic_add(dq_at, dq, sem="relaxed")
    return dk, dv


@triton.jit(do_not_specialize=COUNTS)
def keys_kernel(
    q_source, k_source, v_source, do_source, lse_ptr, delta_ptr, dk_ptr, dv_ptr, dq_ptr,
    full_starts, full_list, partial_starts, partial_list, pattern_list, patterns,
    n_queries, padded_queries, n_keys, n_heads, n_kv_heads, n_sequences, heads_a_group, n_parts,
    scale, scale2,
    q_stride_b, q_stride_h, q_stride_t, k_stride_b, k_stride_h, k_stride_t,
    v_stride_b, v_stride_h, v_stride_t, do_stride_b, do_stride_h, do_stride_t,
    list_stride_b,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, MODE: tl.constexpr,
    PRECISION: tl.constexpr, DQ_ATOMIC: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """dK and dV of BLOCK_K keys of one key-value head, from one of n_parts of its query heads.

    dk and dv [B, Hkv, n_parts, Tk, D] and dq are contiguous. Under a causal rule the first keys are
    seen by most queries, so ascending is heavy first.
    """
    n_tiles = tl.cdiv(n_keys, BLOCK_K)
    n_sums = n_kv_heads * n_sequences * n_parts
    tile, b_kv_part = heavy_first(n_tiles, n_sums, heads_a_group, False)
    b_kv, part = b_kv_part // n_parts, b_kv_part % n_parts
    b, kv = b_kv // n_kv_heads, b_kv % n_kv_heads
    first = tile * BLOCK_K
    k_pos = first + tl.arange(0, BLOCK_K)
    in_q, in_d = tl.arange(0, BLOCK_Q), tl.arange(0, D)
    offset = n_keys - n_queries
    k = tile_at(
        k_source, b, kv, first, n_keys, k_stride_b, k_stride_h, k_stride_t, D, BLOCK_K, True, TMA
    )
    v = tile_at(
        v_source, b, kv, first, n_keys, v_stride_b, v_stride_h, v_stride_t, D, BLOCK_K, True, TMA
    )
    dk = tl.zeros([BLOCK_K, D], tl.float32)
    dv = tl.zeros([BLOCK_K, D], tl.float32)
    heads_a_part = n_heads // (n_kv_heads * n_parts)
    line = b * list_stride_b + tile
    if MODE == 2:
        partial_begin = tl.load(partial_starts + line)
        partial_end = tl.load(partial_starts + line + 1)
        full_begin, full_end = tl.load(full_starts + line), tl.load(full_starts + line + 1)
    else:
        n_q_tiles = tl.cdiv(n_queries, BLOCK_Q)
        if MODE == 1:
            # Tiles that hold the diagonal of this block, then those that see all of it.
            partial_begin = tl.maximum(first - offset, 0) // BLOCK_Q
            partial_end = tl.cdiv(tl.maximum(first + BLOCK_K - 1 - offset, 0), BLOCK_Q)
            partial_end = tl.minimum(partial_end, n_q_tiles)
            full_begin = tl.minimum(tl.maximum(partial_begin, partial_end), n_q_tiles)
        else:
            # Only a last block that the keys do not fill has anything to blank out.
            partial_begin = 0
            partial_end = tl.where(first + BLOCK_K > n_keys, n_q_tiles, 0)
            full_begin = partial_end
        full_end = n_q_tiles
    for g in range(0, heads_a_part):
        h = (kv * n_parts + part) * heads_a_part + g
        head = (b * n_heads + h).to(tl.int64)
        for n in range(partial_begin, partial_end):
            if MODE == 2:
                start = tl.load(partial_list + n) * BLOCK_Q
                cells = patterns + tl.load(pattern_list + n).to(tl.int64) * (BLOCK_Q * BLOCK_K)
                in_tile = in_q[None, :] * BLOCK_K + tl.arange(0, BLOCK_K)[:, None]
                visible = tl.load(cells + in_tile) != 0
            else:
                start = n * BLOCK_Q
                if MODE == 1:
                    visible = k_pos[:, None] <= (start + in_q + offset)[None, :]
                else:
                    visible = (k_pos < n_keys)[:, None] & (in_q >= 0)[None, :]
            q = tile_at(
                q_source, b, h, start, n_queries, q_stride_b, q_stride_h, q_stride_t,
                D, BLOCK_Q, True, TMA,
            )  # fmt: skip
            do = tile_at(
                do_source, b, h, start, n_queries, do_stride_b, do_stride_h, do_stride_t,
                D, BLOCK_Q, True, TMA,
            )  # fmt: skip
            padded = head * padded_queries + start + in_q
            lse = tl.load(lse_ptr + padded)
            delta = tl.load(delta_ptr + padded)
            dq_at = dq_ptr + (head * padded_queries + start) * D  # 64 bits here, 32 in the tile
            dq_at += in_q[:, None] * D + in_d[None, :]
            dk, dv = _keys_step(
                dk, dv, k, v, q, do, lse, delta, visible, dq_at, scale,
                scale2, True, DQ_ATOMIC, PRECISION,
            )  # fmt: skip
        for n in range(full_begin, full_end):
            if MODE == 2:
                start = tl.load(full_list + n) * BLOCK_Q
            else:
                start = n * BLOCK_Q
            q = tile_at(
                q_source, b, h, start, n_queries, q_stride_b, q_stride_h, q_stride_t,
                D, BLOCK_Q, True, TMA,
            )  # fmt: skip
            do = tile_at(
                do_source, b, h, start, n_queries, do_stride_b, do_stride_h, do_stride_t,
                D, BLOCK_Q, True, TMA,
            )  # fmt: skip
            padded = head * padded_queries + start + in_q
            lse = tl.load(lse_ptr + padded)
            delta = tl.load(delta_ptr + padded)
            dq_at = dq_ptr + (head * padded_queries + start) * D
            dq_at += in_q[:, None] * D + in_d[None, :]
            dk, dv = _keys_step(
                dk, dv, k, v, q, do, lse, delta, None, dq_at, scale, scale2,
                False, DQ_ATOMIC, PRECISION,
            )  # fmt: skip
    at = (b_kv_part.to(tl.int64) * n_keys + k_pos)[:, None] * D + in_d[None, :]
    inside_keys = (k_pos < n_keys)[:, None]
    tl.store(dk_ptr + at, (dk * scale).to(dk_ptr.dtype.element_ty), mask=inside_keys)
    tl.store(dv_ptr + at, dv.to(dv_ptr.dtype.element_ty), mask=inside_keys)


@triton.jit
def _queries_step(
    dq, q, do, k, v, lse, delta, visible, scale2, MASKED: tl.constexpr, PRECISION: tl.constexpr
):
    """One tile of dQ, [BLOCK_Q, BLOCK_K]."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    p = tl.math.exp2(s * scale2 - lse[:, None])
    if MASKED:
        p = tl.where(visible, p, 0.0)
    dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
    ds = (p * (dp - delta[:, None])).to(k.dtype)
    return tl.dot(ds, k, dq, input_precision=PRECISION)


@triton.jit(do_not_specialize=COUNTS)
def queries_kernel(
    q_source, k_source, v_source, do_source, lse_ptr, delta_ptr, dq_ptr,
    full_starts, full_list, partial_starts, partial_list, pattern_list, patterns,
    n_queries, padded_queries, n_keys, n_heads, n_kv_heads, n_sequences, heads_a_group,
    scale, scale2,
    q_stride_b, q_stride_h, q_stride_t, k_stride_b, k_stride_h, k_stride_t,
    v_stride_b, v_stride_h, v_stride_t, do_stride_b, do_stride_h, do_stride_t,
    list_stride_b,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, MODE: tl.constexpr,
    PRECISION: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """dQ of BLOCK_Q queries of one head, walking over their keys as the forward pass does."""
    n_tiles = tl.cdiv(n_queries, BLOCK_Q)
    tile, bh = heavy_first(n_tiles, n_heads * n_sequences, heads_a_group, MODE == 1)
    b, h = bh // n_heads, bh % n_heads
    kv = h // (n_heads // n_kv_heads)
    first = tile * BLOCK_Q
    row = first + tl.arange(0, BLOCK_Q)
    inside = row < n_queries
    in_k = tl.arange(0, BLOCK_K)
    offset = n_keys - n_queries
    q = tile_at(
        q_source, b, h, first, n_queries, q_stride_b, q_stride_h, q_stride_t, D, BLOCK_Q, True, TMA
    )
    do = tile_at(
        do_source, b, h, first, n_queries, do_stride_b, do_stride_h, do_stride_t,
        D, BLOCK_Q, True, TMA,
    )  # fmt: skip
    rows = bh.to(tl.int64) * n_queries + row
    padded = bh.to(tl.int64) * padded_queries + row
    lse = tl.load(lse_ptr + padded)
    delta = tl.load(delta_ptr + padded)
    dq = tl.zeros([BLOCK_Q, D], tl.float32)
    line = b * list_stride_b + tile
    if MODE == 2:
        full_begin, full_end = tl.load(full_starts + line), tl.load(full_starts + line + 1)
        partial_begin = tl.load(partial_starts + line)
        partial_end = tl.load(partial_starts + line + 1)
    else:
        full_begin = 0
        if MODE == 1:
            full_end = (first + offset + 1) // BLOCK_K
            partial_end = tl.cdiv(tl.minimum(first + BLOCK_Q + offset, n_keys), BLOCK_K)
        else:
            full_end = n_keys // BLOCK_K
            partial_end = tl.cdiv(n_keys, BLOCK_K)
        partial_begin = full_end
    for n in range(full_begin, full_end):
        if MODE == 2:
            start = tl.load(full_list + n) * BLOCK_K
        else:
            start = n * BLOCK_K
        v = tile_at(
            v_source, b, kv, start, n_keys, v_stride_b, v_stride_h, v_stride_t,
            D, BLOCK_K, False, TMA,
        )  # fmt: skip
        k = tile_at(
            k_source, b, kv, start, n_keys, k_stride_b, k_stride_h, k_stride_t,
            D, BLOCK_K, False, TMA,
        )  # fmt: skip
        dq = _queries_step(dq, q, do, k, v, lse, delta, None, scale2, False, PRECISION)
    for n in range(partial_begin, partial_end):
        if MODE == 2:
            start = tl.load(partial_list + n) * BLOCK_K
            cells = patterns + tl.load(pattern_list + n).to(tl.int64) * (BLOCK_Q * BLOCK_K)
            in_tile = tl.arange(0, BLOCK_Q)[:, None] * BLOCK_K + in_k[None, :]
            visible = tl.load(cells + in_tile) != 0
        else:
            start = n * BLOCK_K
            if MODE == 1:
                visible = (start + in_k)[None, :] <= (row + offset)[:, None]
            else:
                visible = (start + in_k < n_keys)[None, :] & (row >= 0)[:, None]
        v = tile_at(
            v_source, b, kv, start, n_keys, v_stride_b, v_stride_h, v_stride_t,
            D, BLOCK_K, True, TMA,
        )  # fmt: skip
        k = tile_at(
            k_source, b, kv, start, n_keys, k_stride_b, k_stride_h, k_stride_t,
            D, BLOCK_K, True, TMA,
        )  # fmt: skip
        dq = _queries_step(dq, q, do, k, v, lse, delta, visible, scale2, True, PRECISION)
    at = rows[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(dq_ptr + at, (dq * scale).to(dq_ptr.dtype.element_ty), mask=inside[:, None])
