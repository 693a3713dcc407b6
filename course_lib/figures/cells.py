"""Cells and tiles: the one way in which every grid of the course is drawn and labelled.

A cell stands at (row, column), a unit square in data coordinates; rows run down, columns right.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from course_lib.figures.palette import (
    BLOCKED,
    INK,
    LEAK,
    MUTED,
    RULE,
    VISIBLE,
    WEIGHT_SCALE,
    ink_on,
)
from course_lib.masks import Tile

#: What is blocked carries it, so that it stays apart without colour.
HATCH = "////"
#: A tile that must be computed and masked: lighter than a full one, also in grey.
PARTIAL = WEIGHT_SCALE[1]
TILE_FILLS = {Tile.EMPTY: BLOCKED, Tile.PARTIAL: PARTIAL, Tile.FULL: VISIBLE}


def draw_cell(
    ax: Axes,
    at: tuple[float, float],
    fill: str,
    text: str = "",
    *,
    size: tuple[float, float] = (1, 1),
    hatched: bool = False,
    line: float = 0.8,
    points: float = 8.5,
) -> None:
    """One cell, or a tile of many, with its text in the ink that can be read on it.

    Args:
        ax: where.
        at: row and column of its first corner.
        fill: "#RRGGBB".
        text: stands in its middle.
        size: rows and columns that it covers.
        hatched: True = blocked.
        line: width of its edge; 0 for none.
        points: size of the text.
    """
    (row, column), (high, wide) = at, size
    ax.add_patch(
        Rectangle(
            (column, row), wide, high, facecolor=fill, edgecolor=RULE, linewidth=line,
            hatch=HATCH if hatched else None,
        )
    )  # fmt: skip
    if text:
        ax.text(
            column + wide / 2, row + high / 2, text, ha="center", va="center", fontsize=points,
            color=ink_on(fill),
        )  # fmt: skip


def draw_frame(
    ax: Axes, at: tuple[float, float], colour: str = INK, *, size: tuple[float, float] = (1, 1),
    line: float = 2,
) -> None:  # fmt: skip
    """A frame around cells: `INK` says which row is meant."""
    (row, column), (high, wide) = at, size
    ax.add_patch(Rectangle((column, row), wide, high, fill=False, edgecolor=colour, linewidth=line))


def draw_leak(ax: Axes, row: int, column: int) -> None:
    """The mark of a cell that holds what came from the future."""
    draw_frame(ax, (row + 0.06, column + 0.06), LEAK, size=(0.88, 0.88), line=3)


def draw_tiles(
    ax: Axes, kinds: NDArray[np.int8], matrix: NDArray[np.bool_], block_q: int, block_k: int
) -> None:
    """Cells of a mask in tiles, the visited ones with their number: row by row of tiles.

    Args:
        ax: where; a unit is one query and one key.
        kinds: `Tile` of each block, [I, J], as from `Mask.tiles`.
        matrix: [Q, K] bool, True = may attend; what PARTIAL tiles block is drawn.
        block_q: queries a tile.
        block_k: keys a tile.
    """
    visits = 0
    for (i, j), kind in np.ndenumerate(kinds):
        tile, row, column = Tile(int(kind)), i * block_q, j * block_k
        cells = matrix[row : row + block_q, column : column + block_k]
        high, wide = cells.shape
        fill = TILE_FILLS[tile]
        draw_cell(ax, (row, column), fill, size=cells.shape, hatched=tile == Tile.EMPTY)
        if tile == Tile.PARTIAL:
            for q, k in np.argwhere(~cells):
                draw_cell(ax, (row + q, column + k), BLOCKED, line=0.3)
        draw_frame(ax, (row, column), size=cells.shape, line=1.2)
        if tile != Tile.EMPTY:
            visits += 1
            ax.text(
                column + wide / 2, row + high / 2, str(visits), ha="center", va="center",
                fontsize=10, color=ink_on(fill),
                bbox={"facecolor": fill, "edgecolor": "none", "pad": 1.5},  # over any line
            )  # fmt: skip


def tile_legend(full: str, partial: str, empty: str) -> list[Patch]:
    """The three kinds of tiles, with these words."""
    return [
        Patch(facecolor=VISIBLE, edgecolor=RULE, label=full),
        Patch(facecolor=PARTIAL, edgecolor=RULE, label=partial),
        Patch(facecolor=BLOCKED, edgecolor=RULE, hatch=HATCH, label=empty),
    ]


def label_cells(
    ax: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    row_axis: str = "query",
    column_axis: str = "key",
    title: str = "",
    points: float = 9,
    margin: float = 0,
) -> None:
    """Fit the axes to their cells and name rows, columns and axes; of many names, some are shown.

    Args:
        ax: where the cells are.
        rows: a name each.
        columns: a name each.
        row_axis: what the rows are.
        column_axis: what the columns are.
        title: one line above.
        points: size of the names.
        margin: room around the cells, for the lines of their edges.
    """
    high, wide = len(rows), len(columns)
    ax.set_xlim(-margin, wide + margin)
    ax.set_ylim(high + margin, -margin)
    ax.set_aspect("equal")
    step = -(-max(high, wide) // 16)
    # Labels are tokens: a `$` among them is a dollar sign, not the beginning of a formula.
    literal: dict[str, Any] = {"fontsize": points, "parse_math": False}
    ax.set_xticks(np.arange(0, wide, step) + 0.5, list(columns)[::step], **literal)
    ax.set_yticks(np.arange(0, high, step) + 0.5, list(rows)[::step], **literal)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel(column_axis, color=MUTED, **literal)
    ax.set_ylabel(row_axis, color=MUTED, **literal)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10.5, pad=8, parse_math=False)
