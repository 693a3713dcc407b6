"""The shape flow of batched attention as a figure (chapter 4).

The shapes are not written down: they follow from the sizes by the rules of matrix products and
broadcasting, and the description in words is computed from them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from course_lib.figures.palette import INK, MUTED, RULE
from course_lib.figures.plot import Figure

_AXES = ("B", "H", "T", "T")
#: Tensors with one vector a position; the others hold one number a pair of positions.
_VECTORS = ("Q", "K", "V", "output")
#: Centre of every box, in units of the drawing (11 wide, 10 high).
_PLACES = {
    "Q": (3.3, 9.2),
    "K": (6.6, 9.2),
    "scores": (4.95, 7.1),
    "mask": (1.6, 5.1),
    "masked scores": (4.95, 5.1),
    "weights": (4.95, 3.1),
    "V": (9.3, 3.1),
    "output": (4.95, 0.9),
}
#: (from, to): what happens on the way; written once for the arrows that meet.
_ARROWS = {
    ("Q", "scores"): "",
    ("K", "scores"): "Q @ K.transpose(-2, -1) / sqrt(d)",
    ("scores", "masked scores"): "-inf where the mask is False",
    ("mask", "masked scores"): "",
    ("masked scores", "weights"): "softmax over the last axis",
    ("weights", "output"): "weights @ V",
    ("V", "output"): "",
}


def flow_shapes(
    batch: int, heads: int, length: int, head_dim: int, mask: Sequence[int] | None = None
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of batched self-attention, in the order in which they are made.

    Args:
        batch: number of sequences B.
        heads: number of heads H.
        length: number of positions T.
        head_dim: numbers a position and head, d.
        mask: shape of the mask; [1, 1, T, T] if not given.

    Returns:
        Name -> shape, for Q, K, V, scores, mask, masked scores, weights and output.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is below 1, or the mask does not broadcast to [B, H, T, T].
    """
    sizes = {"batch": batch, "heads": heads, "length": length, "head_dim": head_dim}
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
            raise TypeError(f"{name}: expected an integer; got {type(size).__name__}")
        if size < 1:
            raise ValueError(f"{name}: expected at least 1; got {size}")
    vectors = (batch, heads, length, head_dim)
    square = (batch, heads, length, length)
    mask = (1, 1, length, length) if mask is None else tuple(mask)
    try:
        fits = np.broadcast_shapes(mask, square) == square
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"mask: expected a shape that broadcasts to {list(square)}; got {list(mask)}"
        )
    return {
        "Q": vectors,
        "K": vectors,
        "V": vectors,
        "scores": square,
        "mask": mask,
        "masked scores": square,
        "weights": square,
        "output": vectors,
    }


def shape_flow(
    batch: int, heads: int, length: int, head_dim: int, mask: Sequence[int] | None = None
) -> Figure:
    """From Q, K and V to the output, with the shape at every station.

    Boxes with a dark border hold one number a pair of positions; the dashed one is the mask.

    Args:
        batch: as for `flow_shapes`.
        heads: as for `flow_shapes`.
        length: as for `flow_shapes`.
        head_dim: as for `flow_shapes`.
        mask: as for `flow_shapes`.

    Returns:
        The figure; its alt text is computed from the shapes.

    Raises:
        TypeError: as for `flow_shapes`.
        ValueError: as for `flow_shapes`.
    """
    shapes = flow_shapes(batch, heads, length, head_dim, mask)
    canvas = Canvas(figsize=(7.6, 6.6))
    ax = canvas.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, 11)
    ax.set_ylim(0, 10)
    ax.set_axis_off()
    for (start, end), action in _ARROWS.items():
        _draw_arrow(ax, start, end, action)
    for name, shape in shapes.items():
        _draw_box(ax, name, _letters(name, shape), shape)
    note = _stretch(shapes["mask"], shapes["scores"])
    x, y = _PLACES["mask"]
    ax.text(x, y - 0.85, f"({note})", ha="center", va="top", fontsize=8.5, color=MUTED)
    return Figure(canvas, _describe(shapes, note))


def _letters(name: str, shape: tuple[int, ...]) -> str:
    """The axes of a tensor by name; a stretched axis of the mask is written 1."""
    if name in _VECTORS:
        return "[B, H, T, d]"
    axes = _AXES[-len(shape) :] if shape else ()
    if name == "mask":
        axes = tuple("1" if size == 1 else axis for axis, size in zip(axes, shape, strict=True))
    return f"[{', '.join(axes)}]"


def _stretch(mask: tuple[int, ...], square: tuple[int, ...]) -> str:
    """Over which axes broadcasting stretches the mask."""
    full = (1,) * (4 - len(mask)) + mask
    names = ("B", "H", "query axis", "key axis")
    over = [n for n, size, wanted in zip(names, full, square, strict=True) if size != wanted]
    return f"stretched over {', '.join(over)}: no copy" if over else "used as it is"


def _draw_box(ax: Axes, name: str, letters: str, shape: tuple[int, ...]) -> None:
    x, y = _PLACES[name]
    wide, high = 2.6, 1.25
    square = name not in _VECTORS
    ax.add_patch(
        FancyBboxPatch(
            (x - wide / 2, y - high / 2),
            wide,
            high,
            boxstyle="round,pad=0,rounding_size=0.15",
            facecolor="#FFFFFF",
            edgecolor=INK if square else RULE,
            linewidth=1.8,
            linestyle="--" if name == "mask" else "-",
        )
    )
    ax.text(x, y + 0.33, name, ha="center", va="center", fontsize=10.5, color=INK, weight="bold")
    ax.text(x, y - 0.03, letters, ha="center", va="center", fontsize=9, color=MUTED)
    sizes = f"[{', '.join(map(str, shape))}]"
    ax.text(x, y - 0.38, sizes, ha="center", va="center", fontsize=9, color=INK)


def _draw_arrow(ax: Axes, start: str, end: str, action: str) -> None:
    """From the border of one box to the border of the other."""
    (x0, y0), (x1, y1) = _PLACES[start], _PLACES[end]
    sideways = y0 == y1
    tail = (x0 + 1.3, y0) if sideways else (x0, y0 - 0.65)
    if sideways:
        tip = (x1 - 1.3, y1)
    elif abs(x0 - x1) > 3:  # from the far right into the side of the box
        tip = (x1 + 1.35, y1)
    else:
        tip = (x1 + 0.35 * (x0 - x1), y1 + 0.68)
    ax.add_patch(
        FancyArrowPatch(tail, tip, arrowstyle="-|>", mutation_scale=13, color=INK, linewidth=1.1)
    )
    if action:
        ax.text(
            max(x1, tip[0]) + 0.25 + (0.55 if start == "K" else 0),
            (y0 + y1) / 2,
            action,
            ha="left",
            va="center",
            fontsize=9,
            color=INK,
            family="monospace",
        )


def _describe(shapes: Mapping[str, tuple[int, ...]], note: str) -> str:
    said = {name: f"{name} [{', '.join(map(str, shape))}]" for name, shape in shapes.items()}
    return (
        f"Shape flow of attention. {said['Q']} times the transpose of {said['K']} gives "
        f"{said['scores']}; the {said['mask']} ({note}) sets blocked cells to minus infinity, "
        f"which gives {said['masked scores']}; softmax over the last axis gives "
        f"{said['weights']}; times {said['V']} gives {said['output']}."
    )
