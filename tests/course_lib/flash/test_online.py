"""The online softmax that keeps its states is attention."""

import numpy as np
import pytest

from course_lib.attention import attention
from course_lib.flash.online import online_trace
from course_lib.masks import (
    Tile,
    causal,
    full,
    not_padding,
    prefix_lm,
    same_document,
    sinks,
    sliding_window,
)

MASKS = {
    "causal": causal(),
    "full": full(),
    "prefix": prefix_lm(3),
    "window and sinks": causal() & (sliding_window(2) | sinks(1)),
    "documents": causal() & same_document([0, 0, 1, 1, 1, 2, 2]),
    "rows that see nothing": causal() & not_padding([False, False, True, True, True, True, True]),
}


def arrays(n=7, d=3, d_v=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 3 * rng.normal(size=(n, d)), rng.normal(size=(n, d_v))


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize(("block_q", "block_k"), [(1, 1), (2, 3), (3, 2), (7, 7), (4, 1), (1, 5)])
def test_the_tiles_give_the_full_softmax(mask, block_q, block_k):
    for seed in range(5):
        q, k, v = arrays(seed=seed)
        right, _ = attention(q, k, v, mask, empty_rows="zeros")
        trace = online_trace(q, k, v, mask, block_q, block_k)
        np.testing.assert_allclose(trace.output, right, atol=1e-12)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_after_each_tile_the_running_numbers_are_those_of_the_keys_met_so_far(mask):
    q, k, v = arrays()
    trace = online_trace(q, k, v, mask, 2, 3)
    for j in range(4):
        met = trace.scores[:, : 3 * j]
        peak = met.max(axis=1, initial=-np.inf)
        np.testing.assert_array_equal(trace.m[:, j], peak)
        p = np.exp(met - np.where(np.isinf(peak), 0, peak)[:, None])
        np.testing.assert_allclose(trace.l[:, j], p.sum(axis=1), atol=1e-12)
        np.testing.assert_allclose(trace.acc[:, j], p @ v[: 3 * j], atol=1e-12)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_tiles_are_visited_row_by_row_and_empty_ones_never(mask):
    trace = online_trace(*arrays(), mask, 2, 2)
    assert list(trace.order) == [tuple(at) for at in np.argwhere(trace.tiles != Tile.EMPTY)]
    np.testing.assert_array_equal(trace.tiles, mask.tiles(7, block_q=2, block_k=2))


def test_a_skipped_tile_is_never_computed():
    q, k, v = arrays()
    k[4:], v[4:] = 1e300, 1e300  # would overflow if anybody summed it
    trace = online_trace(q, k, v, causal(), 2, 2)
    right, _ = attention(q[:4], k[:4], v[:4], causal())
    np.testing.assert_allclose(trace.output[:4], right, atol=1e-12)
