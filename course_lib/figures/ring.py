"""Who computes what when a sequence is spread over ranks, as a figure (appendix C)."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch, Polygon

from course_lib.figures.cells import HATCH, draw_cell, label_cells
from course_lib.figures.fonts import lay_out
from course_lib.figures.palette import BLOCKED, RANKS, RULE
from course_lib.figures.plot import Figure, legend_below

_CELL = 0.36  # inches


def ring_view(panels: Mapping[str, Sequence[int]]) -> Figure:
    """The causal triangle of chunks, each row in the colour of the rank that owns its queries.

    A tile on the diagonal is half visible. Beside each panel stands the work of each rank.

    Args:
        panels: title -> the rank that owns each chunk of the sequence, in order (at most 5 ranks).

    Returns:
        The figure; its description gives the chunks and the tiles of each rank.

    Raises:
        ValueError: if there is no panel or a rank is not 0 to 4.
    """
    if not panels:
        raise ValueError("panels: expected at least one; got none")
    for title, owners in panels.items():
        if not len(owners) or not all(0 <= rank < len(RANKS) for rank in owners):
            raise ValueError(f"panels: {title!r} needs ranks from 0 to {len(RANKS) - 1}")
    chunks = max(map(len, panels.values()))
    canvas = Canvas(figsize=((chunks * _CELL + 1.1) * len(panels), chunks * _CELL + 1.0))
    axes = canvas.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, owners) in zip(axes, panels.items(), strict=True):
        _draw(ax, title, owners)
    ranks = sorted({rank for owners in panels.values() for rank in owners})
    handles = [Patch(facecolor=RANKS[rank], label=f"rank {rank}") for rank in ranks]
    handles.append(Patch(facecolor=BLOCKED, hatch=HATCH, edgecolor=RULE, label="blocked"))
    legend_below(canvas, handles)
    lay_out(canvas)
    return Figure(canvas, " ".join(_describe(*item) for item in panels.items()))


def tiles_of(owners: Sequence[int]) -> dict[int, float]:
    """Tiles of the causal triangle that each rank computes, diagonal ones counted half."""
    work: dict[int, float] = dict.fromkeys(sorted(set(owners)), 0.0)
    for chunk, rank in enumerate(owners):
        work[rank] += chunk + 0.5
    return work


def _draw(ax: Axes, title: str, owners: Sequence[int]) -> None:
    for i, rank in enumerate(owners):
        for j in range(len(owners)):
            if j < i:
                draw_cell(ax, (i, j), RANKS[rank], str(rank), points=8)
            else:
                draw_cell(ax, (i, j), BLOCKED, hatched=True)
        corners = [(i, i), (i, i + 1), (i + 1, i + 1)]
        ax.add_patch(Polygon(corners, facecolor=RANKS[rank], edgecolor=RULE))
    label_cells(
        ax, [f"{i} (rank {rank})" for i, rank in enumerate(owners)],
        list(map(str, range(len(owners)))), row_axis="chunk of queries",
        column_axis="chunk of keys", title=title, points=8,
    )  # fmt: skip


def _describe(title: str, owners: Sequence[int]) -> str:
    """Chunks and tiles of each rank, in words."""
    parts = []
    for rank, tiles in tiles_of(owners).items():
        mine = " and ".join(str(c) for c, owner in enumerate(owners) if owner == rank)
        parts.append(f"rank {rank} owns chunks {mine} and computes {tiles:g} tiles")
    return f"{title}: {'; '.join(parts)}."
