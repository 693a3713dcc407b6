"""The explorers' stylesheet: colours from `palette`, as CSS variables and classes (all chapters).

Light by default; dark where JupyterLab, Colab or VS Code says so, or the system where none of
them says anything. A weight from 0 to 1 has one of 21 classes `cx-w0` to `cx-w20`, a difference
from -1 to 1 one of `cx-d0` to `cx-d20`; each class carries its own readable ink, so JavaScript
never computes a colour.
"""

from collections.abc import Sequence
from importlib.resources import files

from course_lib.figures.palette import DARK, LIGHT, Theme

#: Steps of a colour scale, both ends included.
LEVELS = 21
#: Where a page says that it is dark.
_DARK_HOSTS = ('[data-jp-theme-light="false"]', 'html[theme="dark"]', ".vscode-dark")
#: Where a page says nothing, and the system's setting decides.
_SILENT = "html:not([theme]) body:not([data-jp-theme-light], .notebook_app, .vscode-light)"


def stylesheet() -> str:
    """All the CSS of all explorers."""
    fixed = files("course_lib.explorers").joinpath("static/explorer.css").read_text("utf-8")
    dark = "\n".join(_rules(DARK, tuple(f"{host} .cx" for host in _DARK_HOSTS)))
    system = "\n".join(_rules(DARK, (f"{_SILENT} .cx",)))
    light = "\n".join(_rules(LIGHT, (".cx",)))
    # The fixed part stands first: the classes of a scale must win over the plain cell.
    return f"{fixed}\n{light}\n{dark}\n@media (prefers-color-scheme: dark) {{\n{system}\n}}\n"


def scale(stops: Sequence[str], levels: int = LEVELS) -> list[str]:
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


def _rules(theme: Theme, hosts: Sequence[str]) -> list[str]:
    variables = {
        "paper": theme.paper,
        "ink": theme.ink,
        "muted": theme.muted,
        "rule": theme.rule,
        "line": theme.line,
        "focus": theme.focus,
        "visible": theme.visible,
        "on-visible": ink_on(theme.visible),
        "blocked": theme.blocked,
        "on-blocked": theme.ink,
        "hatch": theme.rule,
        "leak": theme.leak,
    }
    lines = [
        f"{', '.join(hosts)} {{ color-scheme: {theme.name}; "
        + " ".join(f"--cx-{name}: {colour};" for name, colour in variables.items())
        + " }"
    ]
    for letter, stops in (("w", theme.weights), ("d", theme.differences)):
        for level, colour in enumerate(scale(stops)):
            where = ", ".join(f"{host} .cx-{letter}{level}" for host in hosts)
            lines.append(f"{where} {{ background: {colour}; color: {ink_on(colour)}; }}")
    return lines


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (x / 255 for x in _rgb(colour))
    ]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
