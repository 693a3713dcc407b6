"""The explorers' stylesheet: colours from `palette`, as CSS variables and classes (all chapters).

Light by default; dark where JupyterLab, Colab or VS Code says so, or the system where none of
them says anything. A weight from 0 to 1 has one of 21 classes `cx-w0` to `cx-w20`, a difference
from -1 to 1 one of `cx-d0` to `cx-d20`; each class carries its own readable ink, so JavaScript
never computes a colour.
"""

from collections.abc import Sequence
from importlib.resources import files

from course_lib.figures.palette import DARK, LIGHT, Theme, css_variables, ink_on, scale

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


def _rules(theme: Theme, hosts: Sequence[str]) -> list[str]:
    where = ", ".join(hosts)
    lines = [f"{where} {{ color-scheme: {theme.name}; {css_variables(theme, '--cx-')} }}"]
    for letter, stops in (("w", theme.weights), ("d", theme.differences)):
        for level, colour in enumerate(scale(stops, LEVELS)):
            where = ", ".join(f"{host} .cx-{letter}{level}" for host in hosts)
            lines.append(f"{where} {{ background: {colour}; color: {ink_on(colour)}; }}")
    return lines
