"""What a cache holds, step by step, as a figure (chapter 5; the static view of explorer 3)."""

from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike, NDArray

from course_lib.figures.palette import BLOCKED, INK, LEAK, MUTED, RULE, VISIBLE, WEIGHT_SCALE
from course_lib.figures.plot import Figure, legend_below

_CELL = 0.45  # inches


class Key(IntEnum):
    """What happens to the key of one position in one step of generation."""

    ABSENT = 0  #: the word has not been said
    COMPUTED = 1  #: computed in this step
    KEPT = 2  #: read from the cache
    STALE = 3  #: read from the cache, but no longer what the model would compute


#: fill, hatch, text in the cell, words in the legend
_LOOK = {
    Key.ABSENT: (BLOCKED, "////", "", "not said yet"),
    Key.COMPUTED: (VISIBLE, None, "new", "computed in this step"),
    Key.KEPT: (WEIGHT_SCALE[1], None, "kept", "read from the cache"),
    Key.STALE: ("#FFFFFF", None, "stale", "kept, but now wrong"),
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
    canvas.tight_layout()
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
        fill, hatch, text, _ = _LOOK[Key(value)]
        ax.add_patch(
            Rectangle((j, i), 1, 1, facecolor=fill, edgecolor=RULE, linewidth=0.8, hatch=hatch)
        )
        if value == Key.STALE:
            ax.add_patch(
                Rectangle((j + 0.06, i + 0.06), 0.88, 0.88, fill=False, edgecolor=LEAK, linewidth=3)
            )
        ink = "#FFFFFF" if value == Key.COMPUTED else INK
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7.5, color=ink)
    ax.set_xlim(0, len(words))
    ax.set_ylim(len(steps), 0)
    ax.set_aspect("equal")
    ax.set_xticks(np.arange(len(words)) + 0.5, list(words), fontsize=9, parse_math=False)
    ax.set_yticks(np.arange(len(steps)) + 0.5, list(steps), fontsize=9, parse_math=False)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("key of", color=MUTED, fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10.5, pad=8, parse_math=False)


def _patch(key: Key) -> Patch:
    fill, hatch, _, words = _LOOK[key]
    edge, width = (LEAK, 3) if key == Key.STALE else (RULE, 1)
    return Patch(facecolor=fill, edgecolor=edge, hatch=hatch, linewidth=width, label=words)


def _describe(title: str, grid: NDArray[np.int64]) -> str:
    counts = {key: int((grid == key).sum()) for key in Key}
    parts = [f"{counts[Key.COMPUTED]} keys computed in {len(grid)} steps"]
    parts += [f"{counts[Key.KEPT]} read from the cache"] if counts[Key.KEPT] else []
    parts += [f"{counts[Key.STALE]} read although now wrong"] if counts[Key.STALE] else []
    return f"{title}: {', '.join(parts)}."
