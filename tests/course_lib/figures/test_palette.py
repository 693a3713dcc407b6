"""The palette: meanings that stay apart for everybody, text that can be read on every colour."""

import re
from itertools import combinations, pairwise

import matplotlib.colors
import numpy as np
import pytest

from course_lib.explorers.style import LEVELS
from course_lib.figures.palette import (
    DARK,
    LIGHT,
    SERIES,
    contrast,
    css_variables,
    ink_on,
    scale,
)
from course_lib.figures.plot import lines

#: G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, "A Physiologically-based Model for Simulation
#: of Color Vision Deficiency", 2009, table 1, severity 1.0 (for linear RGB).
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "none": np.eye(3),
}


def lab(colour, blindness):
    """CIE L*a*b* of a colour as a person with this kind of vision sees it."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (to_xyz @ linear) / [0.9505, 1.0, 1.089]
    fx, fy, fz = (t ** (1 / 3) if t > 216 / 24389 else t * 841 / 108 + 4 / 29 for t in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
def test_text_can_be_read_on_every_colour(theme):
    for ink in (theme.ink, theme.muted):
        assert contrast(ink, theme.paper) >= 4.5
    assert contrast(theme.ink, theme.blocked) >= 4.5
    fills = [theme.visible, *scale(theme.weights, LEVELS), *scale(theme.differences, LEVELS)]
    assert min(contrast(ink_on(fill), fill) for fill in fills) >= 4.5
    for edge in (theme.line, theme.focus, theme.leak, theme.visible):
        assert contrast(edge, theme.paper) >= 3, edge  # what must be seen but not read


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
def test_meanings_stay_apart_for_the_colour_blind(theme, blindness):
    def apart(a, b):
        return np.linalg.norm(lab(a, blindness) - lab(b, blindness))

    # About 2 can just be seen side by side; 20 is another colour.
    meanings = [theme.visible, theme.blocked, theme.leak]
    assert min(apart(a, b) for a, b in combinations(meanings, 2)) > 20
    assert min(apart(theme.paper, colour) for colour in (theme.visible, theme.leak)) > 20
    assert apart(theme.rule, theme.blocked) > 10, "blocked and paper: a hatch tells them apart"
    assert apart(scale(theme.differences, LEVELS)[4], scale(theme.differences, LEVELS)[16]) > 30


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
def test_more_weight_always_means_more_contrast(theme):
    steps = [contrast(colour, theme.paper) for colour in scale(theme.weights, LEVELS)]
    assert steps[0] == 1 and all(a < b for a, b in pairwise(steps))


def test_the_scale_is_the_one_that_the_figures_use():
    figures = matplotlib.colors.LinearSegmentedColormap.from_list("w", LIGHT.weights)
    ours = np.array([matplotlib.colors.to_rgb(c) for c in scale(LIGHT.weights, LEVELS)])
    theirs = figures(np.linspace(0, 1, len(ours)))[:, :3]
    assert np.abs(ours - theirs).max() < 2 / 255


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_lines_have_colours_of_their_own_that_the_colour_blind_tell_apart(blindness):
    meanings = (LIGHT.visible, LIGHT.blocked, LIGHT.leak)
    seen = {colour: lab(colour, blindness) for colour in (*SERIES, *meanings)}
    for a, b in combinations(seen, 2):
        if not {a, b} <= {*meanings}:
            assert np.linalg.norm(seen[a] - seen[b]) > 20, (a, b)


def test_lines_can_be_seen_on_white_and_told_apart_in_grey():
    assert all(contrast(colour, "#FFFFFF") >= 3 for colour in SERIES)  # WCAG 2.2, 1.4.11
    drawn = lines({str(i): ([1, 2], [i, i]) for i in range(5)}, "x", "y", markers=True)
    curves = drawn.canvas.axes[0].get_lines()
    assert [line.get_color() for line in curves] == list(SERIES)
    for what in ("get_marker", "_dash_pattern"):  # two ways, each enough by itself
        found = [getattr(line, what) for line in curves]
        assert len({str(f() if callable(f) else f) for f in found}) == 5, what


def test_css_has_every_colour_of_a_theme_by_one_name():
    light, dark = (css_variables("--course-", theme) for theme in (LIGHT, DARK))
    names = [re.findall(r"(--course-[\w-]+): #[0-9A-F]{6};", css) for css in (light, dark)]
    assert names[0] == names[1] and "--course-on-visible" in names[0]
    assert f"--course-leak: {LIGHT.leak};" in light and f"--course-leak: {DARK.leak};" in dark
    both = css_variables("--course-", LIGHT, DARK)
    assert f"--course-leak: light-dark({LIGHT.leak}, {DARK.leak});" in both
