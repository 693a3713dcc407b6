"""The shape flow: its shapes are those of a real run, and its words carry them (chapter 4)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.attention import attention, masked_softmax, scores
from course_lib.figures.batching import flow_shapes, shape_flow

sizes = st.tuples(*[st.integers(1, 4)] * 4)


@settings(deadline=None)
@given(sizes)
def test_the_shapes_are_those_of_a_real_run(size):
    batch, heads, length, head_dim = size
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, batch, heads, length, head_dim))
    mask = np.tri(length, dtype=bool)[None, None]
    shapes = flow_shapes(*size)
    assert shapes["mask"] == mask.shape
    assert shapes["Q"] == shapes["K"] == shapes["V"] == q.shape
    assert shapes["scores"] == scores(q, k).shape
    assert shapes["masked scores"] == np.where(mask, scores(q, k), -np.inf).shape
    assert shapes["weights"] == masked_softmax(scores(q, k), mask).shape
    assert shapes["output"] == attention(q, k, v, mask)[0].shape


def test_the_words_carry_every_shape_and_what_is_stretched():
    alt = shape_flow(2, 3, 5, 4).alt
    for part in ("Q [2, 3, 5, 4]", "K [2, 3, 5, 4]", "V [2, 3, 5, 4]", "scores [2, 3, 5, 5]",
                 "mask [1, 1, 5, 5] (stretched over B, H: no copy)",
                 "masked scores [2, 3, 5, 5]", "weights [2, 3, 5, 5]",
                 "output [2, 3, 5, 4]"):  # fmt: skip
        assert part in alt, part


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ((5, 5), "stretched over B, H: no copy"),
        ((2, 1, 5, 5), "stretched over H: no copy"),
        ((2, 1, 1, 5), "stretched over H, query axis: no copy"),
        ((2, 1, 5, 1), "stretched over H, key axis: no copy"),
        ((2, 3, 5, 5), "used as it is"),
    ],
)
def test_the_note_names_the_axes_over_which_the_mask_is_stretched(mask, said):
    assert f"({said})" in shape_flow(2, 3, 5, 4, mask).alt


def test_an_axis_of_one_needs_no_stretching():
    assert "(used as it is)" in shape_flow(1, 1, 5, 4).alt


def texts(figure):
    return [text.get_text() for ax in figure.canvas.axes for text in ax.texts]


def test_the_picture_shows_the_shapes_that_the_words_say():
    drawn = texts(shape_flow(2, 3, 5, 4, (2, 1, 1, 5)))
    assert drawn.count("[2, 3, 5, 4]") == drawn.count("[B, H, T, d]") == 4
    assert drawn.count("[2, 3, 5, 5]") == drawn.count("[B, H, T, T]") == 3
    assert drawn.count("[2, 1, 1, 5]") == drawn.count("[B, 1, 1, T]") == 1


def test_the_same_sizes_give_the_same_bytes_and_others_do_not():
    assert shape_flow(2, 2, 5, 2).png() == shape_flow(2, 2, 5, 2).png()
    assert shape_flow(2, 2, 5, 2).png() != shape_flow(2, 2, 5, 3).png()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((0, 2, 5, 2), ValueError, "batch: expected at least 1; got 0"),
        ((2, 2, 5, -1), ValueError, "head_dim: expected at least 1; got -1"),
        ((2, 2.0, 5, 2), TypeError, "heads: expected an integer; got float"),
        ((2, 2, True, 2), TypeError, "length: expected an integer; got bool"),
        ((2, 3, 5, 2, (2, 5, 5)), ValueError, r"mask: .*\[2, 3, 5, 5\]; got \[2, 5, 5\]"),
        ((1, 1, 5, 2, (2, 1, 5, 5)), ValueError, r"mask: .*\[1, 1, 5, 5\]; got \[2, 1, 5, 5\]"),
        ((2, 2, 5, 2, (1, 2, 2, 5, 5)), ValueError, "mask: expected a shape that broadcasts"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments, kind, message):
    for function in (flow_shapes, shape_flow):
        with pytest.raises(kind, match=message):
            function(*arguments)
