"""What a cache holds, step by step, as a figure (chapter 5; the static view of explorer 3)."""

from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from course_lib.figures.cells import HATCH, draw_cell, draw_leak, label_cells
from course_lib.figures.fonts import lay_out
from course_lib.figures.palette import BLOCKED, LEAK, RULE, VISIBLE, WEIGHT_SCALE
from course_lib.figures.plot import Figure, legend_below

_CELL = 0.45  # inches


class Key(IntEnum):
    """What happens to the key of one position in one step of generation."""

    ABSENT = 0  #: the word has not been said
    COMPUTED = 1  #: computed in this step
    KEPT = 2  #: read from the cache
    STALE = 3  #: read from the cache, but no longer what the model would compute


#: fill, hatched, text in the cell, words in the legend
_LOOK = {
    Key.ABSENT: (BLOCKED, True, "", "not said yet"),
    Key.COMPUTED: (VISIBLE, False, "new", "computed in this step"),
    Key.KEPT: (WEIGHT_SCALE[1], False, "kept", "read from the cache"),
    Key.STALE: ("#FFFFFF", False, "stale", "kept, but now wrong"),
}


def cache_view(
    panels: Mapping[str, ArrayLike], steps: Sequence[str], words: Sequence[str]
) -> Figure:
    """Panels side by side: a row a step of generation, a column a position.

    Args:
        panels: title -> integers of `Key`, shape [steps, positions].
        steps: labels of the rows.
        words: labels of the columns.

    Returns:
        The figure; its description counts the cells of each kind.

    Raises:
        ValueError: if there is no panel, a shape does not fit the labels, or a value is no `Key`.
    """
    if not panels:
        raise ValueError("panels: expected at least one; got none")
    grids = {title: _checked(title, grid, steps, words) for title, grid in panels.items()}
    wide, high = len(words) * _CELL + 0.8, len(steps) * _CELL + 0.9
    canvas = Canvas(figsize=(wide * len(grids), high))
    axes = canvas.subplots(1, len(grids), squeeze=False)[0]
    for ax, (title, grid) in zip(axes, grids.items(), strict=True):
        _draw(ax, title, grid, steps, words)
    present = {int(x) for grid in grids.values() for x in np.ravel(grid)}
    used = [key for key in (Key.COMPUTED, Key.KEPT, Key.STALE, Key.ABSENT) if key in present]
    legend_below(canvas, [_patch(key) for key in used])
    lay_out(canvas)
    return Figure(canvas, " ".join(_describe(title, grid) for title, grid in grids.items()))


def _checked(
    title: str, grid: ArrayLike, steps: Sequence[str], words: Sequence[str]
) -> NDArray[np.int64]:
    array = np.asarray(grid)
    if array.shape != (len(steps), len(words)):
        raise ValueError(
            f"panels: expected shape [{len(steps)}, {len(words)}] for {title!r}; "
            f"got {list(array.shape)}"
        )
    if not np.isin(array, list(Key)).all():
        raise ValueError(f"panels: expected values of Key in {title!r}; got others")
    return array.astype(np.int64)


def _draw(
    ax: Axes, title: str, grid: NDArray[np.int64], steps: Sequence[str], words: Sequence[str]
) -> None:
    for (i, j), value in np.ndenumerate(grid):
        fill, hatched, text, _ = _LOOK[Key(int(value))]
        draw_cell(ax, (i, j), fill, text, hatched=hatched, points=7.5)
        if value == Key.STALE:
            draw_leak(ax, i, j)
    label_cells(ax, steps, words, row_axis="", column_axis="key of", title=title)


def _patch(key: Key) -> Patch:
    fill, hatched, _, words = _LOOK[key]
    edge, width = (LEAK, 3) if key == Key.STALE else (RULE, 1)
    return Patch(
        facecolor=fill,
        edgecolor=edge,
        hatch=HATCH if hatched else None,
        linewidth=width,
        label=words,
    )


def _describe(title: str, grid: NDArray[np.int64]) -> str:
    counts = {key: int((grid == key).sum()) for key in Key}
    parts = [f"{counts[Key.COMPUTED]} keys computed in {len(grid)} steps"]
    parts += [f"{counts[Key.KEPT]} read from the cache"] if counts[Key.KEPT] else []
    parts += [f"{counts[Key.STALE]} read although now wrong"] if counts[Key.STALE] else []
    return f"{title}: {', '.join(parts)}."
