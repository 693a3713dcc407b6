"""Checks of appendix B: operations, bytes and parameters, counted and not measured."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from course_lib.costs import (
    attention_bytes,
    attention_flops,
    causal_tile_share,
    kv_cache_bytes,
    latent_cache_bytes,
    matrix_bytes,
)
from course_lib.factcheck.finding import Finding, check, either, in_cases
from course_lib.factcheck.record import Claim, parse
from course_lib.gpt import GPT, GPTConfig
from course_lib.masks import Tile, causal, full

_SIZES = (1024, 2048, 4096, 8192)
_D = 64


def exponent(cost: Callable[[int], float]) -> float:
    """The power of n with which a cost grows, fitted over `_SIZES`."""
    return float(np.polyfit(np.log(_SIZES), np.log([cost(n) for n in _SIZES]), 1)[0])


def _is(power: float, value: float) -> bool:
    return abs(value - power) < 0.02


@check
def step_from_square_to_linear(_: Claim) -> Finding:
    """Attention in one step at context t, recomputed and cached."""
    again = exponent(lambda t: attention_flops(t, _D, causal=True))
    kept = exponent(lambda t: attention_flops(1, _D, cached=t - 1))
    return either(
        _is(2, again) and _is(1, kept), f"exponents of t: {again:.2f} recomputed, {kept:.2f} cached"
    )


@check
def time_is_quadratic(_: Claim) -> Finding:
    """Operations of both kinds of attention, in N and in d."""
    powers = [exponent(partial(attention_flops, d=_D, causal=c)) for c in (False, True)]
    in_d = attention_flops(1024, 2 * _D) / attention_flops(1024, _D)
    return either(
        all(_is(2, p) for p in powers) and in_d == 2,
        f"exponents of N: {powers[0]:.2f} and {powers[1]:.2f}; twice d, {in_d:.0f} times the work",
    )


@check
def why_complexity_is_unchanged(_: Claim) -> Finding:
    """Leave the mask's construction out: does the exponent fall?"""
    products_only = exponent(lambda n: attention_flops(n, _D, causal=True))
    share = 4096**2 / attention_flops(4096, _D, causal=True)
    return either(
        products_only < 1.9,
        f"without building any mask the exponent is {products_only:.2f}; "
        f"building it would add {share:.1%} of operations at d = {_D}",
    )


@check
def memory_of_attention(_: Claim) -> Finding:
    """Bytes with the matrix stored, and of what a tiled kernel holds."""
    stored = exponent(lambda n: matrix_bytes(n))
    tiled = exponent(lambda n: attention_bytes(n, _D, tiled=True))  # Q, K, V and the output
    return in_cases(
        {"the matrix is stored": _is(2, stored), "in tiles (FlashAttention)": _is(2, tiled)},
        f"Exponents of N: {stored:.2f} and {tiled:.2f}.",
    )


@check
def standard_is_the_whole(claim: Claim) -> Finding:
    """Tiles of standard attention."""
    said = parse(claim.printed)[0][0] / 100
    share = float((full().tiles(512, block_q=128, block_k=128) == Tile.FULL).mean())
    return either(share == said, f"{share:.0%} of all tiles are needed whole")


@check
def half_of_the_work(claim: Claim) -> Finding:
    """Share of tiles for texts of one block, two, four, sixteen and sixty-four."""
    said = parse(claim.printed)[0][0] / 100
    shares = {n: causal_tile_share(n) for n in (1, 2, 4, 16, 64)}
    return in_cases(
        {f"n = {n}, {share:.1%}": abs(share - said) < 0.05 for n, share in shares.items()}
    )


@check
def upper_triangle_is_partly_computed(_: Claim) -> Finding:
    """Cells above the diagonal in tiles that are visited, for 512 positions in blocks of 128."""
    tiles = causal().tiles(512, block_q=128, block_k=128)
    computed = (
        int((tiles == Tile.PARTIAL).sum()) * 128**2 + int((tiles == Tile.FULL).sum()) * 128**2
    )
    needed = int(causal().matrix(512).sum())
    return either(
        computed == needed,
        f"{computed - needed:,} cells of the future are computed, of {512 * 511 // 2:,}; "
        f"{int((tiles == Tile.EMPTY).sum())} tiles of {tiles.size} are skipped",
    )


@check
def no_new_computation(_: Claim) -> Finding:
    """Parameters, products that are needed, and what a dense implementation holds."""
    n, config = 1024, GPTConfig(24, 32, layers=1, heads=2, width=16)
    model = GPT(config, np.random.default_rng(0))
    masked, open_ = (
        sum(p.numel() for p in m.parameters()) for m in (model, model.with_masking("never"))
    )
    matrix = causal().tensor(n)
    return in_cases(
        {
            "no more parameters": masked <= open_,
            "no more products": attention_flops(n, _D, causal=True) <= attention_flops(n, _D),
            "no further matrix in a dense implementation": matrix.nbytes == 0,
        },
        f"At N = {n} that matrix takes {matrix.nbytes:,} bytes, and filling visits as many cells.",
    )


@check
def cache_of_v3(claim: Claim) -> Finding:
    """The product, as the library computes it."""
    said = parse(claim.printed)[0][0]
    gigabytes = kv_cache_bytes(61, 128, 128, 128_000) / 1e9
    return either(
        said <= gigabytes < 1.2 * said,
        f"{gigabytes:.1f} GB ({gigabytes * 1e9 / 2**30:.1f} GiB), printed: {said:.0f}+ GB",
    )


@check
def ninety_three_percent(claim: Claim) -> Finding:
    """The latent cache against three others, a token."""
    v3, v2 = latent_cache_bytes(61, 512 + 64, 1), latent_cache_bytes(60, 512 + 64, 1)
    same_shape, older = kv_cache_bytes(61, 128, 128, 1), kv_cache_bytes(95, 8, 128, 1)
    said = parse(claim.printed)[0][0] / 100
    saved = {
        "V3 against multi-head of its shape": 1 - v3 / same_shape,
        "V2 against DeepSeek 67B": 1 - v2 / older,
        "V2 in 6 bits against DeepSeek 67B in 16": 1 - v2 * 6 / 16 / older,
    }
    return in_cases(
        {f"{name}, {share:.1%}": abs(share - said) < 0.005 for name, share in saved.items()}
    )


@check
def cache_grows_linearly(_: Claim) -> Finding:
    """Bytes against tokens."""
    power = exponent(lambda n: kv_cache_bytes(61, 128, 128, n))
    return either(
        _is(1, power), f"exponent {power:.2f}; {kv_cache_bytes(61, 128, 128, 1):,} bytes a token"
    )


def _parameters(layers: int, heads: int, width: int, context: int) -> int:
    """Parameters of a model of GPT-2's make, built without memory."""
    with torch.device("meta"):
        config = GPTConfig(50257, context, layers=layers, heads=heads, width=width, tied=True)
        return sum(p.numel() for p in GPT(config, None, dtype=torch.float32).parameters())


@check
def parameters_of_gpt2(claim: Claim) -> Finding:
    """48 layers, 25 heads, width 1600, context 1024; and the number in the report."""
    said = parse(claim.printed)[0][0]
    counted, reported = _parameters(48, 25, 1600, 1024), 1_542_000_000
    return in_cases(
        {
            "counted from the shape": round(counted / 1e9, 1) == said,
            "as the report gives it": round(reported / 1e9, 1) == said,
        },
        f"Counted: {counted / 1e9:.3f} billion.",
    )


@check
def parameters_of_gpt3(claim: Claim) -> Finding:
    """96 layers, 96 heads, width 12288, context 2048."""
    counted = _parameters(96, 96, 12288, 2048)
    return either(
        round(counted / 1e9) == parse(claim.printed)[0][0],
        f"{counted / 1e9:.1f} billion, from the shape",
    )
