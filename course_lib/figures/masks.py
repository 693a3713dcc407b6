"""Rules side by side: matrix, tiles and the share of work that they cost (chapter 6).

The static view of the mask builder: what GitHub, paper and a screen reader see. Everything is
derived from `Mask.matrix` and `Mask.tiles`, so the picture cannot disagree with the rule.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from numpy.typing import NDArray

from course_lib.figures.cells import TILE_FILLS, draw_cell, tile_legend
from course_lib.figures.fonts import lay_out
from course_lib.figures.palette import BLOCKED, INK, MUTED, RULE, VISIBLE
from course_lib.figures.plot import Figure, legend_below
from course_lib.masks import Mask, Tile

_PANEL = 2.3  # inches


def builder_view(
    rules: Mapping[str, Mask], n: int, block: int, *, per_line: int = 4, alt: str | None = None
) -> Figure:
    """What each rule lets through, cell by cell, and which tiles a kernel has to visit.

    Args:
        rules: title -> rule, at least one; rules with data of a batch have no single matrix.
        n: number of positions, at least 1.
        block: queries and keys a tile, at least 1.
        per_line: rules in a line before the next line begins, at least 1.
        alt: description; the counts of every rule if not given.

    Returns:
        Two panels a rule: its n x n cells above, with lines around the tiles, and its tiles
        below, where EMPTY ones are hatched, PARTIAL ones light and FULL ones dark.

    Raises:
        TypeError: if a rule is no `Mask`.
        ValueError: if there is no rule, one is batched, or a size is below 1.
    """
    _check(rules, n, block, per_line)
    columns = min(len(rules), per_line)
    lines = -(-len(rules) // columns)
    canvas = Canvas(figsize=(columns * _PANEL, lines * (2 * _PANEL + 0.5)))
    axes = canvas.subplots(2 * lines, columns, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    words = []
    for i, (title, mask) in enumerate(rules.items()):
        line, column = divmod(i, columns)
        matrix = np.asarray(mask.matrix(n))
        tiles = mask.tiles(n, block_q=block, block_k=block)
        _draw_cells(axes[2 * line, column], matrix, block, title)
        _draw_tiles(axes[2 * line + 1, column], tiles)
        words.append(f"{title}: {_counts(matrix, tiles)}.")
    legend_below(canvas, _legend())
    lay_out(canvas)
    lead = f"Masks of {n} positions above and their tiles of {block} by {block} below."
    return Figure(canvas, f"{lead} {' '.join(words)}" if alt is None else alt)


def visited_share(tiles: NDArray[np.int8]) -> float:
    """Share of tiles that are not EMPTY: the work of a kernel that skips what nobody may see.

    Args:
        tiles: `Tile` values of any shape, at least one, as from `Mask.tiles`.

    Returns:
        A number from 0 to 1; the share of FLOPs saved is 1 less it.

    Raises:
        ValueError: if there are no tiles.
    """
    if tiles.size == 0:
        raise ValueError("tiles: expected at least one tile; got none")
    return float(np.mean(tiles != Tile.EMPTY))


def _counts(matrix: NDArray[np.bool_], tiles: NDArray[np.int8]) -> str:
    kinds = {kind: int(np.sum(tiles == kind)) for kind in Tile}
    return (
        f"{matrix.mean():.0%} of the cells visible; {kinds[Tile.FULL]} tiles full, "
        f"{kinds[Tile.PARTIAL]} partial, {kinds[Tile.EMPTY]} empty, "
        f"so {1 - visited_share(tiles):.0%} of the work is saved"
    )


def _draw_cells(ax: Axes, matrix: NDArray[np.bool_], block: int, title: str) -> None:
    size = len(matrix)
    faces = np.where(matrix[..., None], to_rgb(VISIBLE), to_rgb(BLOCKED))
    ax.imshow(faces, extent=(0, size, size, 0), interpolation="nearest")
    ax.hlines(range(size), 0, size, color="white", linewidth=0.3)
    ax.vlines(range(size), 0, size, color="white", linewidth=0.3)
    for edge in range(0, size + 1, block):
        ax.plot([edge, edge], [0, size], color=INK, linewidth=1)
        ax.plot([0, size], [edge, edge], color=INK, linewidth=1)
    _frame(ax, size, f"{title}\n{matrix.mean():.0%} of cells")


def _draw_tiles(ax: Axes, tiles: NDArray[np.int8]) -> None:
    for at, tile in np.ndenumerate(tiles):
        draw_cell(ax, at, TILE_FILLS[Tile(int(tile))], hatched=tile == Tile.EMPTY)
    visited = int(np.sum(tiles != Tile.EMPTY))
    _frame(ax, len(tiles), f"{visited} of {tiles.size} tiles\n{1 - visited_share(tiles):.0%} saved")


def _frame(ax: Axes, size: int, title: str) -> None:
    ax.set_axis_on()
    ax.set_xlim(-0.02 * size, 1.02 * size)
    ax.set_ylim(1.02 * size, -0.02 * size)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("key", color=MUTED, fontsize=8)
    ax.set_ylabel("query", color=MUTED, fontsize=8)
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=9)


def _legend() -> list[Patch]:
    full, partial, empty = tile_legend(
        "may attend, full tile", "partial tile", "empty tile, skipped"
    )
    return [full, partial, Patch(facecolor=BLOCKED, edgecolor=RULE, label="blocked"), empty]


def _check(rules: Mapping[str, Mask], n: int, block: int, per_line: int) -> None:
    if not rules:
        raise ValueError("rules: expected at least one rule; got none")
    for title, mask in rules.items():
        if not isinstance(mask, Mask):
            raise TypeError(f"rules: expected a Mask for {title!r}; got {type(mask).__name__}")
        if mask.batch is not None:
            raise ValueError(f"rules: {title!r} has data of a batch of {mask.batch}; show one rule")
    for name, value in (("n", n), ("block", block), ("per_line", per_line)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1; got {value}")
