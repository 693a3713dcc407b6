"""The static mask builder: its numbers are the rule's own."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from course_lib.figures import palette
from course_lib.figures.cells import PARTIAL
from course_lib.figures.masks import builder_view, visited_share
from course_lib.masks import Tile, causal, full, prefix_lm, sinks, sliding_window

RULES = {
    "causal": causal(),
    "prefix": prefix_lm(6),
    "window": sliding_window(4),
    "both": causal() & (sliding_window(4) | sinks(1)),
    "full": full(),
}


def test_the_same_rules_give_the_same_bytes_and_another_rule_gives_others():
    first, second = (builder_view(RULES, 16, 4).png() for _ in range(2))
    assert first == second
    assert first != builder_view({**RULES, "window": sliding_window(5)}, 16, 4).png()


def test_the_words_count_cells_tiles_and_savings():
    alt = builder_view({"causal": causal()}, 16, 4).alt
    assert "Masks of 16 positions above and their tiles of 4 by 4 below." in alt
    assert "causal: 53% of the cells visible; 6 tiles full, 4 partial, 6 empty" in alt
    assert "so 38% of the work is saved" in alt


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.sampled_from(sorted(RULES)))
def test_the_words_agree_with_cells_counted_one_by_one(n, block, name):
    mask = RULES[name]
    cells = np.array([[bool(mask.matrix([q], [k])[0, 0]) for k in range(n)] for q in range(n)])
    seen = {"full": 0, "partial": 0, "empty": 0}
    for q in range(0, n, block):
        for k in range(0, n, block):
            tile = cells[q : q + block, k : k + block]
            seen["full" if tile.all() else "partial" if tile.any() else "empty"] += 1
    alt = builder_view({name: mask}, n, block).alt
    assert f"{cells.mean():.0%} of the cells visible" in alt
    for kind, number in seen.items():
        assert re.search(rf"\b{number} (tiles )?{kind}\b", alt), (kind, number, alt)


def test_every_rule_has_its_two_panels_and_lines_wrap():
    figure = builder_view(RULES, 8, 2, per_line=2)
    shown = [ax for ax in figure.canvas.axes if ax.axison]
    assert len(figure.canvas.axes) == 2 * 3 * 2 and len(shown) == 2 * len(RULES)
    assert sum("saved" in ax.get_title() for ax in shown) == len(RULES)


def test_the_drawn_cells_are_the_matrix():
    figure = builder_view({"prefix": prefix_lm(2)}, 5, 2)
    (cells,) = figure.canvas.axes[0].images
    visible = np.isclose(cells.get_array(), to_rgb(palette.VISIBLE), atol=0.01).all(axis=-1)
    assert np.array_equal(visible, prefix_lm(2).matrix(5))


def test_the_share_of_work_is_that_of_tiles_not_of_cells():
    tiles = np.array([[Tile.FULL, Tile.EMPTY], [Tile.PARTIAL, Tile.FULL]])
    assert visited_share(tiles) == 0.75
    for blocks in (1, 2, 7):  # causal: (n + 1) / 2n of n x n tiles
        tiles = causal().tiles(3 * blocks, block_q=3, block_k=3)
        assert visited_share(tiles) == pytest.approx((blocks + 1) / (2 * blocks), abs=1e-12)


def test_empty_partial_and_full_tiles_stay_apart_in_grey():
    grey = [
        np.dot((0.2126, 0.7152, 0.0722), np.array(to_rgb(c)) ** 2.2)
        for c in (palette.BLOCKED, PARTIAL, palette.VISIBLE)
    ]
    empty, partial, complete = grey
    assert empty - partial > 0.1 and partial - complete > 0.1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: builder_view({}, 4, 2), ValueError, "rules: expected at least one"),
        (lambda: builder_view({"a": np.eye(4)}, 4, 2), TypeError, "rules: expected a Mask for 'a'"),
        (lambda: builder_view({"a": prefix_lm([1, 2])}, 4, 2), ValueError, "batch of 2"),
        (lambda: builder_view(RULES, 0, 2), ValueError, "n: expected at least 1; got 0"),
        (lambda: builder_view(RULES, 4, 0), ValueError, "block: expected at least 1; got 0"),
        (lambda: builder_view(RULES, 4, 2, per_line=0), ValueError, "per_line: expected"),
        (lambda: visited_share(np.zeros((0, 3), np.int8)), ValueError, "tiles: expected at least"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
