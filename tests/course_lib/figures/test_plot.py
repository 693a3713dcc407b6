"""Figures: the same bytes for the same data, words for those who cannot see them, safe colours."""

import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from course_lib.example import TOKENS, K, Q, V
from course_lib.figures import palette
from course_lib.figures.cache import Key, cache_view
from course_lib.figures.plot import Figure, grid, grids, lines
from course_lib.figures.traces import compare_view, mask_view
from course_lib.masks import causal
from course_lib.trace import trace

CAUSAL = trace(Q, K, V, causal(), TOKENS)
STANDARD = trace(Q, K, V, None, TOKENS)


def some_figures():
    return [
        grid(CAUSAL.weights, TOKENS, TOKENS, mask=CAUSAL.mask, title="weights"),
        grid(causal().matrix(40), range(40), range(40), kind="mask"),
        grid(CAUSAL.masked, TOKENS, TOKENS, kind="scores"),
        lines({"loss": ([1, 2, 3], [3.0, 2.0, 1.0])}, "step", "nats", hlines={"floor": 0.8}),
        mask_view(CAUSAL, "sat"),
        compare_view(STANDARD, CAUSAL),
    ]


def test_the_same_data_gives_the_same_bytes():
    for first, second in zip(some_figures(), some_figures(), strict=True):
        assert first.png() == second.png() == second.png()


def test_bytes_do_not_depend_on_the_last_digits():
    noisy = CAUSAL.weights * (1 + 1e-12)
    assert grid(noisy, TOKENS, TOKENS).png() == grid(CAUSAL.weights, TOKENS, TOKENS).png()
    x, y = [1, 2, 3], np.array([1 / 3, 2 / 3, 1.0])
    noise = y * (1 + 1e-12)
    assert lines({"a": (x, y)}, "x", "y").png() == lines({"a": (x, noise)}, "x", "y").png()


def test_different_data_gives_a_different_picture():
    assert (
        grid(CAUSAL.weights, TOKENS, TOKENS).png() != grid(STANDARD.weights, TOKENS, TOKENS).png()
    )


def test_every_figure_is_an_img_with_alt_text_that_is_also_its_repr():
    for figure in some_figures():
        html = figure._repr_html_()
        alt = re.search(r'<img alt="([^"]+)"', html)
        assert alt and len(alt[1]) > 20
        assert repr(figure).startswith("Figure: ")
        assert "data:image/png;base64," in html


def drawn(figure):
    """What stands in the cells of the first panel: {(row, column): (face, text)}, and frames."""
    ax = figure.canvas.axes[0]
    boxes = [p for p in ax.patches if p.get_fill()]
    faces = {(int(p.get_y()), int(p.get_x())): to_hex(p.get_facecolor()) for p in boxes}
    texts = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in ax.texts}
    frames = [
        (to_hex(p.get_edgecolor()), round(p.get_y()), round(p.get_x()), round(p.get_width()))
        for p in ax.patches
        if not p.get_fill()
    ]
    return {cell: (faces[cell], texts.get(cell, "")) for cell in faces}, frames


def test_each_cell_is_drawn_in_its_row_and_column_with_its_meaning():
    mask = np.array([[True, False], [True, True]])
    cells, frames = drawn(
        grid([[0.0, 0.3], [0.25, 1.0]], "ab", "xy", mask=mask, mark_row=1, leak=~mask)
    )
    assert cells[0, 1] == (palette.BLOCKED.lower(), "")
    assert cells[0, 0] == ("#ffffff", "0.00")
    assert cells[1, 0][1] == "0.25" and cells[1, 1] == (palette.WEIGHT_SCALE[-1].lower(), "1.00")
    assert frames == [(palette.LEAK.lower(), 0, 1, 1), (palette.INK.lower(), 1, 0, 2)]
    cells, _ = drawn(grid(mask, "ab", "xy", kind="mask"))
    assert cells[0, 1] == (palette.BLOCKED.lower(), "")
    assert cells[1, 0] == (palette.VISIBLE.lower(), "1")


def test_the_legend_names_the_colours_that_are_used_and_no_others():
    def legend(figure):
        found = figure.canvas.legends
        patches = found[0].get_patches() if found else []
        names = [t.get_text() for t in found[0].get_texts()] if found else []
        return {n: to_hex(p.get_facecolor()) for n, p in zip(names, patches, strict=True)}

    colours = {"may attend": palette.VISIBLE.lower(), "blocked": palette.BLOCKED.lower()}
    assert legend(grid(causal().matrix(3), "abc", "abc", kind="mask")) == colours
    assert legend(grid(np.ones((2, 2), bool), "ab", "ab", kind="mask")) == {
        "may attend": palette.VISIBLE.lower()
    }
    leaking = grid(np.eye(2), "ab", "ab", leak=np.eye(2, dtype=bool))
    assert list(legend(leaking)) == ["future leaks"]
    assert legend(grid(np.eye(2), "ab", "ab")) == {}


def test_labels_may_be_numbers():
    assert grid(causal().matrix(2), range(2), range(2), kind="mask").alt == (
        "0 sees 0; 1 sees 0 and 1."
    )


def test_alt_text_is_escaped_and_required():
    figure = grid([[1.0]], ['"a"'], ["<b>"])
    assert "&quot;a&quot;" in figure._repr_html_() and "<b>" not in figure._repr_html_()
    with pytest.raises(ValueError, match="alt: expected a description"):
        Figure(figure.canvas, " ")


def test_the_words_of_a_mask_say_who_sees_whom():
    alt = grid(causal().matrix(3), TOKENS[:3], TOKENS[:3], kind="mask").alt
    assert alt == "The sees The; cat sees The and cat; sat sees The, cat and sat."


def test_the_words_of_the_views_carry_the_numbers():
    alt = mask_view(CAUSAL, "sat").alt
    assert "may attend to The, cat, sat; blocked: on, mat" in alt and "weight 0.38" in alt
    alt = compare_view(STANDARD, CAUSAL).alt
    future = STANDARD.weights[np.triu_indices(5, 1)].sum()
    assert f"gives {future:.2f} of its weight" in alt and "unchanged: mat" in alt


def texts(figure):
    """Every piece of text in a figure, legends included."""
    return figure.canvas.findobj(Text)


@pytest.mark.parametrize("token", [r"$\frac$", "$x$", "US$ 5", "$"])
def test_a_dollar_in_a_token_is_a_dollar(token):
    """Also where it is no formula at all, which used to stop the whole figure."""
    names = [token, "cat"]
    short = trace(Q[:2], K[:2], V[:2], causal(), names)
    for figure in (
        grid(np.eye(2), names, names, title=token, row_axis=token, column_axis=token),
        mask_view(short, token),
        compare_view(short, short),
        lines({token: ([1, 2], [1.0, 2.0])}, token, token, token, hlines={f"{token} at": 1.5}),
        cache_view({token: [[Key.COMPUTED, Key.ABSENT]]}, [token], names),
    ):
        assert figure.png()
        mine = [text for text in texts(figure) if token in text.get_text()]
        assert mine and not any(text.get_parse_math() for text in mine)
        assert token in figure.alt or "grid" in figure.alt or "keys" in figure.alt


def test_the_signs_that_are_formulas_stay_formulas():
    """A logarithmic axis labels its ticks with formulas; an explorer once showed their source."""
    written = {"series": ([1, 2], [0.01, 10.0])}
    figure = lines(written, "x", "y", logy=True)
    figure.png()
    ticks = figure.canvas.axes[0].get_yticklabels()
    assert any("$" in t.get_text() for t in ticks) and all(t.get_parse_math() for t in ticks)


def test_infinity_in_a_cell_is_still_drawn_as_a_sign():
    figure = grid([[-np.inf]], ["a"], ["b"], kind="scores")
    assert r"$-\infty$" in [t.get_text() for t in figure.canvas.axes[0].texts if t.get_parse_math()]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grid(np.eye(2), ["a"], ["b", "c"]), r"values: expected shape \[1, 2\]"),
        (lambda: grid(np.eye(2), "ab", "ab", mask=np.eye(3)), "mask: expected the shape of values"),
        (lambda: grids([]), "panels: expected at least one"),
        (lambda: mask_view(CAUSAL, "dog"), "token: .*'dog'"),
        (lambda: compare_view(trace(Q[:3], K[:3], V[:3]), CAUSAL), "causal: expected a trace"),
    ],
)
def test_bad_figures_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
