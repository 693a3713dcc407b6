"""The visual language of the course, defined once: figures, explorers, site and feedback use it.

Three colours carry meaning everywhere: visible, blocked, and leaked from the future. They come
from the Okabe-Ito palette, which people with the common kinds of colour blindness can tell apart
(M. Okabe and K. Ito, "Color Universal Design", 2008). Blocked cells also carry a hatch, and the
weight scale goes from light to dark, so that both survive a black-and-white printer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

#: A key that the query may attend to.
VISIBLE = "#0072B2"
#: A key that the mask blocks.
BLOCKED = "#E3E3E3"
#: Information that came from the future although it must not.
LEAK = "#D55E00"
#: Lines of a plot, in the order in which they are handed out: none of the three colours above, at
#: least 3:1 against white, apart for the colour-blind. Dashes and marks tell them apart in grey.
SERIES = ("#332288", "#CC79A7", "#000000", "#882255", "#4B0055")
#: Owners of parts that are all alike, as the ranks of appendix C: none of the colours above that
#: mean something.
RANKS = ("#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#000000")
#: Text and rules.
INK = "#222222"
MUTED = "#6B6B6B"
#: Lines between cells, and the hatch of blocked ones.
RULE = "#BDBDBD"
#: The sequential scale of attention weights, from 0 to 1.
WEIGHT_SCALE = ("#FFFFFF", "#9CC9E3", VISIBLE, "#00263D")
#: The diverging scale of differences, from -1 over 0 to 1.
DIFFERENCE_SCALE = ("#7A3300", LEAK, "#FFFFFF", VISIBLE, "#00263D")


@dataclass(frozen=True)
class Theme:
    """The colours above as a page needs them, for a light or for a dark background.

    Attributes:
        name: "light" or "dark".
        paper: the background.
        ink: text.
        muted: text that matters less.
        rule: lines between cells, and the hatch of blocked ones.
        line: the edges of controls, which must be seen (3:1 against the paper).
        focus: the ring around what the keyboard is on.
        visible: see `VISIBLE`.
        blocked: see `BLOCKED`.
        leak: see `LEAK`.
        weights: see `WEIGHT_SCALE`.
        differences: see `DIFFERENCE_SCALE`.
    """

    name: str
    paper: str
    ink: str
    muted: str
    rule: str
    line: str
    focus: str
    visible: str
    blocked: str
    leak: str
    weights: tuple[str, ...]
    differences: tuple[str, ...]


LIGHT = Theme(
    name="light", paper="#FFFFFF", ink=INK, muted=MUTED, rule=RULE, line="#767676",
    focus="#CC79A7", visible=VISIBLE, blocked=BLOCKED, leak=LEAK,
    weights=WEIGHT_SCALE, differences=DIFFERENCE_SCALE,
)  # fmt: skip
#: The same hues; the scales run from the dark paper to light, so that "more" still stands out.
DARK = Theme(
    name="dark", paper="#1B1B1B", ink="#EDEDED", muted="#ADADAD", rule="#5E5E5E", line="#8C8C8C",
    focus="#F0A6CE", visible="#56B4E9", blocked="#383838", leak="#FF8A3D",
    weights=("#1B1B1B", "#0C4468", "#56B4E9", "#E2F3FD"),
    differences=("#FFE0C7", "#E8731F", "#1B1B1B", "#2F8FCB", "#D6EEFC"),
)  # fmt: skip


def css_variables(prefix: str, theme: Theme, dark: Theme | None = None) -> str:
    """The colours of a theme as CSS: "--course-paper: #FFFFFF; --course-ink: #222222; ...".

    Args:
        prefix: what the names begin with, such as "--course-".
        theme: light or dark; what paper has, if `dark` is given.
        dark: what a page has whose `color-scheme` is dark; the same variables serve both then.
    """
    names = ("paper", "ink", "muted", "rule", "line", "focus", "visible", "blocked", "leak")

    def colours(one: Theme) -> dict[str, str]:
        found = {name: getattr(one, name) for name in names}
        found |= {"on-visible": ink_on(one.visible), "on-blocked": one.ink, "hatch": one.rule}
        return found | {"partial": one.weights[1], "on-partial": ink_on(one.weights[1])}

    values = colours(theme)
    if dark is not None:
        values = {name: light_dark(values[name], other) for name, other in colours(dark).items()}
    return " ".join(f"{prefix}{name}: {value};" for name, value in values.items())


def light_dark(light: str, dark: str) -> str:
    """A colour in CSS that follows the page's `color-scheme`."""
    return light if light == dark else f"light-dark({light}, {dark})"


def scale(stops: Sequence[str], levels: int) -> list[str]:
    """Colours at even steps along a scale of evenly spaced stops, ends included.

    Args:
        stops: at least two colours "#RRGGBB".
        levels: how many colours, at least two.

    Returns:
        `levels` colours "#RRGGBB", linear in sRGB between the stops, as in matplotlib.
    """
    found = []
    for level in range(levels):
        place = level / (levels - 1) * (len(stops) - 1)
        i = min(int(place), len(stops) - 2)
        mixed = [
            a + (b - a) * (place - i)
            for a, b in zip(_rgb(stops[i]), _rgb(stops[i + 1]), strict=True)
        ]
        found.append("#" + "".join(f"{round(c):02X}" for c in mixed))
    return found


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours, from 1 to 21 (WCAG 2.2, relative luminance)."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def ink_on(background: str) -> str:
    """Black or white, whichever is easier to read on a colour."""
    return max("#FFFFFF", "#000000", key=lambda ink: contrast(ink, background))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (x / 255 for x in _rgb(colour))
    ]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
