"""Figures with alt text, in the course's one visual language (every chapter).

Each function returns a `Figure` that a notebook shows as its last expression. It is made with
matplotlib's object interface (no pyplot, no global state), so the same data gives the same PNG
bytes; and it carries a description in words, computed from the data, for screen readers, for
nbval to compare, and for anyone whose picture does not load.
"""

import base64
import html
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, TwoSlopeNorm, to_hex
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from course_lib.figures.cells import HATCH, draw_cell, draw_frame, draw_leak, label_cells
from course_lib.figures.fonts import choose_fonts, lay_out
from course_lib.figures.palette import (
    BLOCKED,
    DIFFERENCE_SCALE,
    INK,
    LEAK,
    RULE,
    SERIES,
    VISIBLE,
    WEIGHT_SCALE,
)
from course_lib.lesson import listed

Kind = Literal["mask", "scores", "weights", "difference"]

_DPI = 110
_CELL = 0.5  # inches a grid cell
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKS = "osD^v"
_WEIGHTS = LinearSegmentedColormap.from_list("course_weights", WEIGHT_SCALE)
_DIFFERENCES = LinearSegmentedColormap.from_list("course_differences", DIFFERENCE_SCALE)


class Figure:
    """A picture and its description.

    Args:
        canvas: the matplotlib figure.
        alt: what the picture shows, in words.
    """

    def __init__(self, canvas: Canvas, alt: str) -> None:
        if not alt.strip():
            raise ValueError("alt: expected a description of the figure; got an empty text")
        missing = choose_fonts(canvas)
        self.note = f"No font on this computer has {', '.join(missing)}." if missing else ""
        self.canvas, self.alt = canvas, " ".join([*alt.split(), *self.note.split()])

    def png(self) -> bytes:
        """The picture as PNG, the same bytes for the same data."""
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph|Matplotlib currently", UserWarning)  # `note`
            self.canvas.savefig(
                buffer, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None}
            )
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the picture as a PNG file."""
        Path(path).write_bytes(self.png())

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"

    def _repr_html_(self) -> str:
        png = self.png()
        # PNG keeps its size at bytes 16 to 24; showing it at CSS resolution keeps text readable.
        width = round(int.from_bytes(png[16:20], "big") * 96 / _DPI)
        data = base64.b64encode(png).decode("ascii")
        return (
            f'<img alt="{html.escape(self.alt)}" width="{width}" '
            f'style="max-width:100%;height:auto" src="data:image/png;base64,{data}">'
            + (f"<br><small>{html.escape(self.note)}</small>" if self.note else "")
        )


@dataclass(frozen=True)
class Grid:
    """One panel: a matrix of cells, query rows and key columns.

    Attributes:
        values: [R, C] numbers (booleans for kind "mask"); NaN cells stay empty.
        rows: R labels.
        columns: C labels.
        title: one line above the panel.
        kind: "mask" (visible or blocked), "scores" (numbers without colour), "weights"
            (sequential scale from 0 to 1) or "difference" (diverging scale from -1 to 1).
        mask: [R, C] bool, True = may attend; blocked cells are drawn hatched.
        leak: [R, C] bool, True = drawn with the colour of a leak from the future.
        mark_row: a row to frame, or None.
        digits: decimals in the cells.
        row_axis: what the rows are.
        column_axis: what the columns are.
    """

    values: ArrayLike
    rows: Sequence[str]
    columns: Sequence[str]
    title: str = ""
    kind: Kind = "weights"
    mask: ArrayLike | None = None
    leak: ArrayLike | None = None
    mark_row: int | None = None
    digits: int = 2
    row_axis: str = "query"
    column_axis: str = "key"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(map(str, self.rows)))
        object.__setattr__(self, "columns", tuple(map(str, self.columns)))
        shape = np.shape(self.values)
        if shape != (len(self.rows), len(self.columns)):
            raise ValueError(
                f"values: expected shape [{len(self.rows)}, {len(self.columns)}] "
                f"to fit the labels; got {list(shape)}"
            )
        for name in ("mask", "leak"):
            given = getattr(self, name)
            if given is not None and np.shape(given) != shape:
                raise ValueError(
                    f"{name}: expected the shape of values, {list(shape)}; "
                    f"got {list(np.shape(given))}"
                )


def grid(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    alt: str | None = None,
    **fields: Any,
) -> Figure:
    """One grid; `fields` are those of `Grid`, `alt` is computed from the data if not given."""
    return grids([Grid(values, rows, columns, **fields)], alt=alt)


def grids(panels: Sequence[Grid], alt: str | None = None, per_line: int = 3) -> Figure:
    """Several grids side by side, with one legend of the colours that they use.

    Args:
        panels: the grids.
        alt: description; put together from the panels if not given.
        per_line: panels in a line before the next line begins.

    Returns:
        The figure.
    """
    if not panels:
        raise ValueError("panels: expected at least one grid; got none")
    columns = min(len(panels), per_line)
    lines = -(-len(panels) // columns)
    wide = max(len(p.columns) for p in panels)
    high = max(len(p.rows) for p in panels)
    cell = _CELL if wide <= 8 else max(0.16, 5.0 / wide)
    canvas = Canvas(figsize=(columns * (wide * cell + 0.8), lines * (high * cell + 0.95)))
    axes = np.atleast_1d(canvas.subplots(lines, columns, squeeze=False)).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        _draw_grid(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    handles = _grid_legend(panels)
    legend_below(canvas, handles)
    lay_out(canvas)
    return Figure(canvas, " ".join(map(describe_grid, panels)) if alt is None else alt)


def weight_fill(x: float) -> str:
    """The colour of a weight from 0 to 1 on the sequential scale, "#RRGGBB"."""
    return to_hex(_WEIGHTS(Normalize(0, 1)(np.clip(x, 0, 1))))


def legend_below(canvas: Canvas, handles: Sequence[Patch]) -> None:
    """One line of colours and their meanings under all panels; nothing if there are none."""
    if handles:
        canvas.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=len(handles),
            frameon=False,
            fontsize=9,
        )


def describe_grid(panel: Grid) -> str:
    """The words of one panel: for a mask what each row sees, else the size and the largest cell."""
    title = f"{panel.title}. " if panel.title else ""
    if panel.kind == "mask":
        rows = (
            f"{row} sees {listed([c for c, on in zip(panel.columns, line, strict=True) if on])}"
            for row, line in zip(panel.rows, np.asarray(panel.values, bool), strict=True)
        )
        if len(panel.rows) <= 8:
            return f"{title}{'; '.join(rows)}."
        share = np.mean(np.asarray(panel.values, bool))
        return f"{title}{len(panel.rows)} by {len(panel.columns)} mask, {share:.1%} visible."
    values = np.array(panel.values, dtype=float)
    if panel.mask is not None:
        values = np.where(panel.mask, values, np.nan)
    lines = []
    for i, (row, line) in enumerate(zip(panel.rows, values, strict=True)):
        shown = [
            f"{c} {x:.{panel.digits}f}"
            for c, x in zip(panel.columns, line, strict=True)
            if np.isfinite(x)
        ]
        if panel.mark_row in (None, i):
            lines.append(f"{row}: {', '.join(shown) or 'nothing visible'}")
    if len(lines) > 8 or len(panel.columns) > 8:
        return f"{title}{len(panel.rows)} by {len(panel.columns)} grid of {panel.kind}."
    return f"{title}{'; '.join(lines)}."


def lines(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    *,
    hlines: Mapping[str, float] | None = None,
    logx: bool = False,
    logy: bool = False,
    markers: bool = False,
    alt: str | None = None,
) -> Figure:
    """Curves with a legend; each has its own colour, dash pattern and (if any) marks.

    Names, labels and title are drawn as they are: a `$` in them starts no formula.

    Args:
        series: name -> (x values, y values).
        xlabel: name of the x axis, with its unit.
        ylabel: name of the y axis, with its unit.
        title: one line above.
        hlines: name -> height of a horizontal reference line.
        logx: logarithmic x axis.
        logy: logarithmic y axis.
        markers: draw the points too.
        alt: description; first and last value of each curve if not given.

    Returns:
        The figure.
    """
    canvas = Canvas(figsize=(6.4, 3.8))
    ax = canvas.subplots()
    for i, (name, (x, y)) in enumerate(series.items()):
        ax.plot(
            x,
            _significant(y),
            label=name,
            color=SERIES[i % len(SERIES)],
            linestyle=_DASHES[i % len(_DASHES)],
            linewidth=1.8,
            marker=_MARKS[i % len(_MARKS)] if markers else None,
            markersize=4,
        )
    for i, (name, height) in enumerate((hlines or {}).items()):
        gaps = (0, (1 + 3 * i, 1 + i))  # dotted, then ever longer dashes
        ax.axhline(height, color=INK, linewidth=1, linestyle=gaps, label=name)
    ax.set_xlabel(xlabel, parse_math=False)
    ax.set_ylabel(ylabel, parse_math=False)
    if logx:
        ax.set_xscale("log")
    if logy:
        ax.set_yscale("log")
    ax.set_title(title, loc="left", fontsize=11, parse_math=False)
    ax.grid(color=BLOCKED, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    for text in ax.legend(frameon=False, fontsize=9).get_texts():
        text.set_parse_math(False)
    lay_out(canvas)
    if alt is None:
        ends = [
            f"{name} goes from {np.ravel(y)[0]:.3g} to {np.ravel(y)[-1]:.3g}"
            for name, (_, y) in series.items()
        ]
        ends += [f"{name} is at {height:.3g}" for name, height in (hlines or {}).items()]
        alt = f"{title}. {ylabel} against {xlabel}: {'; '.join(ends)}."
    return Figure(canvas, alt)


def _significant(values: ArrayLike, digits: int = 5) -> NDArray[np.float64]:
    """Values rounded to significant digits, so that PNG bytes do not depend on the processor."""
    return np.array([float(f"{x:.{digits}g}") for x in np.ravel(np.asarray(values, dtype=float))])


# --- the parts of a grid -----------------------------------------------------------------------


def _draw_grid(ax: Axes, panel: Grid) -> None:
    values = np.array(panel.values, dtype=float)
    blocked = np.zeros(values.shape, bool) if panel.mask is None else ~np.asarray(panel.mask, bool)
    if panel.kind == "mask":
        blocked = values == 0
    leak = np.zeros(values.shape, bool) if panel.leak is None else np.asarray(panel.leak, bool)
    big = len(panel.columns) > 12
    for (i, j), x in np.ndenumerate(values):
        # Rounded, so that the last bits of a processor cannot move a colour by one step.
        face = _face(panel.kind, round(float(x), 4), bool(blocked[i, j]))
        text = "" if big else _cell_text(panel, x, bool(blocked[i, j]))
        hatched = bool(blocked[i, j]) and not big
        draw_cell(ax, (i, j), face, text, hatched=hatched, line=0.0 if big else 0.8)
        if leak[i, j]:
            draw_leak(ax, i, j)
    if panel.mark_row is not None:
        draw_frame(ax, (panel.mark_row, 0), size=(1, values.shape[1]))
    label_cells(
        ax, panel.rows, panel.columns, row_axis=panel.row_axis, column_axis=panel.column_axis,
        title=panel.title,
    )  # fmt: skip


def _face(kind: Kind, x: float, blocked: bool) -> str:
    if kind == "mask":
        return BLOCKED if blocked else VISIBLE
    if blocked or np.isnan(x):
        return BLOCKED
    if kind == "scores":
        return "#FFFFFF" if np.isfinite(x) else BLOCKED
    if kind == "difference":
        return to_hex(_DIFFERENCES(TwoSlopeNorm(0, -1, 1)(np.clip(x, -1, 1))))
    return weight_fill(x)


def _cell_text(panel: Grid, x: float, blocked: bool) -> str:
    if panel.kind == "mask":
        return "" if blocked else "1"
    if blocked or np.isnan(x):
        return ""
    if not np.isfinite(x):
        return "$-\\infty$" if x < 0 else "$\\infty$"
    return f"{x + 0.0:.{panel.digits}f}"


def _grid_legend(panels: Sequence[Grid]) -> list[Patch]:
    handles = []
    if any(p.kind == "mask" for p in panels):
        handles.append(Patch(facecolor=VISIBLE, edgecolor=RULE, label="may attend"))
    if any(_has_blocked(p) for p in panels):
        handles.append(Patch(facecolor=BLOCKED, edgecolor=RULE, hatch=HATCH, label="blocked"))
    if any(p.leak is not None and np.any(p.leak) for p in panels):
        handles.append(Patch(facecolor="none", edgecolor=LEAK, linewidth=3, label="future leaks"))
    return handles


def _has_blocked(panel: Grid) -> bool:
    shown: NDArray[np.bool_] = (
        np.asarray(panel.values, bool)
        if panel.kind == "mask"
        else np.asarray(np.ones(np.shape(panel.values)) if panel.mask is None else panel.mask, bool)
    )
    return not shown.all()
