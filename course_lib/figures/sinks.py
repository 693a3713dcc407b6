"""Attention sinks as a heat map, by layer and head (appendix A)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure as Canvas
from numpy.typing import ArrayLike, NDArray

from course_lib.figures.cells import draw_cell, label_cells
from course_lib.figures.palette import WEIGHT_SCALE
from course_lib.figures.plot import Figure, weight_fill

_CELL = 0.42  # inches
_NUMBERED = 12  # most heads whose cells hold their number
_SCALE = ScalarMappable(
    Normalize(0, 1), LinearSegmentedColormap.from_list("course_weights", WEIGHT_SCALE)
)


def sink_view(shares: Mapping[str, ArrayLike], even: Mapping[str, float] | None = None) -> Figure:
    """The share of attention that the first position gets: a cell a head, a row a layer.

    Args:
        shares: title -> shares between 0 and 1, shape [L, H] (see `course_lib.gpt2.sink_share`).
        even: title -> the share if attention were spread evenly, shown beside the title.

    Returns:
        Panels side by side on one scale from 0 to 1; the description gives the mean of every
        layer, the largest share and its head.

    Raises:
        ValueError: if there is no panel, a panel is no [L, H] array of numbers from 0 to 1, or
            `even` has a title that no panel has.
    """
    if not shares:
        raise ValueError("shares: expected at least one panel; got none")
    panels = {title: _checked(title, share) for title, share in shares.items()}
    even = even or {}
    if unknown := even.keys() - panels.keys():
        raise ValueError(f"even: expected titles of panels; got {sorted(unknown)}")
    layers = max(len(share) for share in panels.values())
    heads = max(share.shape[1] for share in panels.values())
    wide = max(2.2, heads * _CELL + 0.8)
    canvas = Canvas(figsize=(wide * len(panels) + 0.8, layers * _CELL + 1.1), layout="constrained")
    axes = canvas.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, share) in zip(axes, panels.items(), strict=True):
        note = f"\n(spread evenly: {even[title]:.2f})" if title in even else ""
        _draw(ax, share, title + note)
    canvas.colorbar(_SCALE, ax=list(axes), label="share of the first position", pad=0.02)
    words = (_describe(title, share, even.get(title)) for title, share in panels.items())
    return Figure(canvas, " ".join(words))


def _checked(title: str, share: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(share, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            f"shares: expected numbers from 0 to 1, shape [layers, heads], for {title!r}; got "
            f"shape {list(array.shape)}, from {np.min(array, initial=0):g} to "
            f"{np.max(array, initial=0):g}"
        )
    return array.round(4)  # so that the last bits of a processor cannot move a colour


def _draw(ax: Axes, share: NDArray[np.float64], title: str) -> None:
    numbered = share.shape[1] <= _NUMBERED
    for (i, j), x in np.ndenumerate(share):
        draw_cell(ax, (i, j), weight_fill(x), f"{x:.2f}" if numbered else "", line=0, points=7.5)
    layers, heads = (list(map(str, range(n))) for n in share.shape)
    label_cells(ax, layers, heads, row_axis="layer", column_axis="head", title=title, points=8)


def _describe(title: str, share: NDArray[np.float64], even: float | None) -> str:
    layer, head = np.unravel_index(share.argmax(), share.shape)
    means = ", ".join(f"{x:.2f}" for x in share.mean(axis=1))
    told = (
        f"{title}: share of attention on the first position in {share.shape[0]} layers of "
        f"{share.shape[1]} heads. Mean of each layer, from layer 0: {means}. Largest: "
        f"{share.max():.2f}, layer {layer}, head {head}; smallest: {share.min():.2f}."
    )
    return told if even is None else f"{told} Spread evenly it would be {even:.2f}."
