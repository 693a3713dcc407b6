"""A small picture of the matrix that a student returned, with the wrong cells framed."""

import html
from collections.abc import Sequence

import numpy as np

from course_lib.figures.palette import BLOCKED, INK, LEAK, RULE, VISIBLE

_CELL = (
    "min-width:2.6em;height:1.4em;padding:3px 6px;text-align:center;font-size:12px;"
    "font-family:ui-monospace,monospace;"
)


class Picture:
    """A labelled grid: HTML in notebooks, text elsewhere.

    Args:
        values: [R, C], what was returned.
        wrong: [R, C] bool, the cells to frame.
        labels: names of positions; numbers if they do not fit.
        note: the inputs, in words.
    """

    def __init__(
        self, values: np.ndarray, wrong: np.ndarray, labels: Sequence[str] = (), note: str = ""
    ) -> None:
        self.values, self.wrong = values, wrong
        self.what = "What you return" + (f" ({note})" if note else "")
        square = values.shape[0] == values.shape[1]
        self.rows = _names(values.shape[0], labels, square)
        self.columns = _names(values.shape[1], labels, square)

    @property
    def alt(self) -> str:
        """The picture in words."""
        cells = [f"row {self.rows[i]} column {self.columns[j]}" for i, j in np.argwhere(self.wrong)]
        more = f" and {len(cells) - 8} more" if len(cells) > 8 else ""
        r, c = self.values.shape
        return f"{self.what}, {r} by {c}. Wrong: {', '.join(cells[:8])}{more}."

    def __repr__(self) -> str:
        cells = [[_cell(x) for x in row] for row in self.values]
        marks = np.where(self.wrong, "*", " ")
        width = max(len(t) for row in cells for t in row)
        width = max(width, *(len(c) for c in self.columns))
        left = max(len(r) for r in self.rows)
        lines = [f"{self.what}; * = wrong:"]
        lines.append(" " * left + "".join(f"  {c:>{width}} " for c in self.columns))
        for name, row, line in zip(self.rows, cells, marks, strict=True):
            body = "".join(f"  {t:>{width}}{m}" for t, m in zip(row, line, strict=True))
            lines.append(f"{name:<{left}}{body}")
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        head = "".join(_header(name, "col") for name in self.columns)
        body = "".join(
            f"<tr>{_header(name, 'row')}"
            + "".join(_data(x, bool(w)) for x, w in zip(row, wrong, strict=True))
            + "</tr>"
            for name, row, wrong in zip(self.rows, self.values, self.wrong, strict=True)
        )
        caption = html.escape(f"{self.what}; wrong cells are framed")
        return (
            f'<table role="img" aria-label="{html.escape(self.alt)}" '
            'style="border-collapse:separate;border-spacing:2px;margin:4px 0 4px 1em">'
            '<caption style="caption-side:top;white-space:nowrap;text-align:left;font-size:12px">'
            f"{caption}</caption>"
            f"<tr><td></td>{head}</tr>{body}</table>"
        )


def _names(n: int, labels: Sequence[str], square: bool) -> list[str]:
    """Names of positions; four numbers a token are not four tokens."""
    fits = n == len(labels) or (square and n < len(labels))
    return [str(x) for x in labels[:n]] if fits else list(map(str, range(n)))


def _cell(x: np.generic) -> str:
    if isinstance(x, np.bool_):
        return "T" if x else "."
    if isinstance(x, np.integer):
        return str(int(x))
    value = float(x)
    return f"{value + 0.0:.2f}" if abs(value) < 1e4 else f"{value:.2g}"


def _header(name: str, scope: str) -> str:
    return f'<th scope="{scope}" style="{_CELL}font-weight:normal">{html.escape(name)}</th>'


def _data(x: np.generic, wrong: bool) -> str:
    paper, ink = "#FFFFFF", INK
    if isinstance(x, np.bool_):
        paper, ink = (VISIBLE, "#FFFFFF") if x else (BLOCKED, INK)
    edge = f"3px solid {LEAK}" if wrong else f"1px solid {RULE}"
    text = ("1" if x else "") if isinstance(x, np.bool_) else _cell(x)
    return f'<td style="{_CELL}background:{paper};color:{ink};border:{edge}">{text}</td>'
