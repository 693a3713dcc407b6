"""The explorers' colours: from `palette`, as CSS variables and classes (all chapters).

Light by default; dark where JupyterLab, Colab, VS Code or the site says so, or the system where
none of them says anything. A weight from 0 to 1 has one of 21 classes `cx-w0` to `cx-w20`, a
difference from -1 to 1 one of `cx-d0` to `cx-d20`; each class carries its own readable ink, so
JavaScript never computes a colour.
"""

from collections.abc import Iterator

from course_lib.figures.palette import DARK, LIGHT, css_variables, ink_on, light_dark, scale

#: Steps of a colour scale, both ends included.
LEVELS = 21
#: Where a page says that it is dark.
_DARK = (
    '[data-jp-theme-light="false"]',
    'html[theme="dark"]',
    'html[data-theme="dark"]',
    ".vscode-dark",
)
#: Where a page says nothing, and the system's setting decides.
_SILENT = (
    "html:not([theme], [data-theme]) body:not([data-jp-theme-light], .notebook_app, .vscode-light)"
)
#: CSS of the page around an explorer: which scheme it has, and a length that is registered, so
#: that it is computed once and not in each of thousands of cells.
HOSTS = (
    "[data-explorer]{color-scheme:light}"
    f":is({', '.join(_DARK)}) [data-explorer]{{color-scheme:dark}}"
    f"@media(prefers-color-scheme:dark){{{_SILENT} [data-explorer]{{color-scheme:dark}}}}"
    '@property --cx-fine{syntax:"<length>";inherits:true;initial-value:6px}'
)


def colours(code: str) -> str:
    """The CSS of all colours that an explorer's JavaScript uses."""
    lines = [f".cx {{ {css_variables('--cx-', LIGHT, DARK)} }}"]
    scales = (("w", "weightKind", LIGHT.weights, DARK.weights),
              ("d", "differenceKind", LIGHT.differences, DARK.differences))  # fmt: skip
    for letter, user, light, dark in scales:
        if code.count(f"{user}(") > 1:  # once where it is defined
            lines += _scale(letter, light, dark)
    return "\n".join(lines)


def _scale(letter: str, light: tuple[str, ...], dark: tuple[str, ...]) -> Iterator[str]:
    for level, pair in enumerate(zip(scale(light, LEVELS), scale(dark, LEVELS), strict=True)):
        fill, ink = light_dark(*pair), light_dark(*map(ink_on, pair))
        yield f".cx-{letter}{level} {{ background: {fill}; color: {ink}; }}"
