"""The flash explorer: its recorder is attention, and what it says is what happened."""

import json
import re

import numpy as np
import pytest
import torch

from course_lib.example import PUBLISHED, TOKENS, K, Q, V
from course_lib.explorers import FlashExplorer
from course_lib.masks import (
    causal,
    not_padding,
    prefix_lm,
    sinks,
    sliding_window,
)

WINDOW = causal() & (sliding_window(2) | sinks(1))
BLIND = causal() & not_padding([False, False, True, True, True, True, True])


def arrays(n=7, d=3, d_v=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 3 * rng.normal(size=(n, d)), rng.normal(size=(n, d_v))


def test_the_running_example_of_chapter_3_tile_by_tile():
    e = FlashExplorer(row="on", step=3)
    np.testing.assert_allclose(e.trace.output, PUBLISHED["output"], atol=5e-5)
    assert "Tile 3 of 6" in e.words()
    assert "exp(0.5000 - 1.0000) = 0.6065" in e.words()
    assert "[0.2350, 0.2350, 0.1425, 0.3875], equal to the full softmax" in e.words()
    e.step = 0
    assert "6 of 9 tiles to visit, 3 skipped" in e.words()
    assert "has met no tile yet" in e.words()


def test_each_card_adds_up():
    e = FlashExplorer(None, *arrays(), WINDOW, block_q=2, block_k=3)
    for cards in e.data["rows"]:
        for card in cards:
            before, after, added = (np.array(card[x], float) for x in ("before", "after", "added"))
            assert after[0] == max(before[0], added[0])
            np.testing.assert_allclose(before[1:] * card["factor"] + added[1:], after[1:])
    assert json.dumps(e.data, allow_nan=False)


def test_a_sum_that_is_not_the_softmax_would_be_called_so(monkeypatch):
    import course_lib.flash.online as module

    def forgets_to_rescale(m, l, acc, s, v):  # noqa: E741
        new = np.maximum(m, s.max(axis=1))
        p = np.exp(s - new[:, None])
        return new, l + p.sum(axis=1), acc + p @ v

    monkeypatch.setattr(module, "_update", forgets_to_rescale)
    assert "NOT equal to the full softmax" in FlashExplorer(row="on", step=3).words()


def test_a_row_that_sees_nothing_says_so():
    e = FlashExplorer(None, *arrays(), BLIND, row=0)
    e.step = 1
    assert "Row 0 sees nothing: its tiles are all skipped" in e.words()
    wide = FlashExplorer(None, *arrays(), BLIND, block_q=3, row=0, step=1)
    assert "Row 0 sees nothing here: its sum stays 0." in wide.words()
    np.testing.assert_array_equal(e.trace.output[0], 0)


def test_torch_tensors_are_welcome_and_nothing_is_changed():
    q, k, v = (torch.tensor(x, dtype=torch.float32) for x in arrays())
    before = q.clone()
    e = FlashExplorer(list("abcdefg"), q, k, v, row="c")
    assert (e.row, e.step, len(e.trace.order)) == (2, 0, 10)
    assert torch.equal(q, before)


def test_state_is_checked_and_kept():
    e = FlashExplorer()
    seen = []
    e.observe(lambda change: seen.append((change.name, change.new)), ["row", "step"])
    e.row, e.step = "sat", 6
    assert seen == [("row", 2), ("step", 6)]
    for name, bad in (("row", 5), ("row", "dog"), ("step", 7), ("step", -1)):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            setattr(e, name, bad)
    with pytest.raises(TypeError, match=r"^step: expected a whole number; got str"):
        e.step = "3"
    assert (e.row, e.step) == (2, 6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"q": Q}, ValueError, "q, k, v: expected all three or none"),
        ({"q": Q, "k": K[:4], "v": V}, ValueError, r"k: expected shape \[T, d\].*got \[4, 4\]"),
        ({"q": Q, "k": K[:, :3], "v": V}, ValueError, "k: expected 4 entries as q; got 3"),
        ({"q": Q.astype(int), "k": K, "v": V}, TypeError, "q: expected a floating"),
        ({"q": Q * np.nan, "k": K, "v": V}, ValueError, "q: expected finite numbers"),
        ({"tokens": "abc"}, TypeError, "tokens: expected a sequence"),
        ({"tokens": ["a"]}, ValueError, "tokens: expected 5, one a query; got 1"),
        ({"block_q": 0}, ValueError, "block_q: expected at least 1; got 0"),
        ({"block_k": 6}, ValueError, "block_k: expected at most 5; got 6"),
        ({"mask": np.tri(5, dtype=bool)}, TypeError, "mask: expected a Mask; got ndarray"),
        ({"mask": prefix_lm([1, 2])}, ValueError, "holds the data of a batch of 2"),
        ({"mask": prefix_lm(6)}, ValueError, "needs at least 6 keys"),
        ({"step": 7}, ValueError, "step: expected a whole number from 0 to 6; got 7"),
        (dict(zip("qkv", np.zeros((3, 65, 2)), strict=True)), ValueError, "q: expected at most 64"),
    ],
)
def test_errors_name_the_argument(options, error, message):
    with pytest.raises(error, match=message):
        FlashExplorer(**options)


def test_the_static_view_has_words():
    e = FlashExplorer(row="on", step=2)
    (alt,) = re.findall(r'<img alt="([^"]*)"', e.picture())
    assert "4 full, 2 partial, 3 empty and skipped" in alt and "0.6065" in alt


def test_the_largest_explorer_stays_small():
    e = FlashExplorer(None, *arrays(64, 8, 64), block_q=8, block_k=8)
    assert len(json.dumps(e.data)) < 500_000
    assert len(e.data["names"]) == 10 and len(TOKENS) == 5
