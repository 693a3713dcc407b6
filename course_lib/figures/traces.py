"""Static views of the interactive parts: what GitHub, paper and a screen reader see.

Chapters 2 and 3 show them; every number comes from a `Trace`, so none is computed twice.
"""

from typing import Any

import numpy as np

from course_lib.figures.plot import Figure, Grid, grids
from course_lib.lesson import listed
from course_lib.trace import Trace


def mask_view(trace: Trace, token: str | int) -> Figure:
    """One query under the mask: what it may attend to, its scores and its weights.

    Args:
        trace: the computation to show.
        token: the query to frame, by text or position.

    Returns:
        Three grids side by side (mask, scaled scores, weights), the row of the query framed.
    """
    i = trace.row(token)
    names = trace.tokens
    panels = [
        Grid(trace.mask, names, names, "who may attend to whom", kind="mask", mark_row=i),
        Grid(
            trace.scaled, names, names, "scaled scores", kind="scores", mask=trace.mask, mark_row=i
        ),
        Grid(trace.weights, names, names, "attention weights", mask=trace.mask, mark_row=i),
    ]
    seen = [n for n, visible in zip(names, trace.mask[i], strict=True) if visible]
    blocked = [n for n, visible in zip(names, trace.mask[i], strict=True) if not visible]
    numbers = ", ".join(
        f"{n} score {s:.2f} weight {w:.2f}"
        for n, s, w, visible in zip(
            names, trace.scaled[i], trace.weights[i], trace.mask[i], strict=True
        )
        if visible
    )
    alt = (
        f"Three {len(names)} by {len(names)} grids with the row of {names[i]!r} framed. It may "
        f"attend to {listed(seen, ', ')}; blocked: {listed(blocked, ', ')}. In its row: {numbers}."
    )
    return grids(panels, alt=alt)


def compare_view(standard: Trace, causal: Trace) -> Figure:
    """Standard and causal attention side by side: weights and outputs, and their difference.

    Args:
        standard: the trace without a mask.
        causal: the trace of the same q, k, v with one.

    Returns:
        Two lines of three grids.

    Raises:
        ValueError: if the traces are not of the same tokens.
    """
    if standard.tokens != causal.tokens or standard.output.shape != causal.output.shape:
        raise ValueError("causal: expected a trace of the tokens and shapes of `standard`")
    names = causal.tokens
    entries = [f"d{j}" for j in range(causal.output.shape[1])]
    output: dict[str, Any] = {"column_axis": "output entry"}
    panels = [
        Grid(standard.weights, names, names, "standard weights", leak=~causal.mask),
        Grid(causal.weights, names, names, "causal weights", mask=causal.mask),
        Grid(causal.weights - standard.weights, names, names, "causal - standard", "difference"),
        Grid(standard.output, names, entries, "standard output", **output),
        Grid(causal.output, names, entries, "causal output", **output),
        Grid(
            causal.output - standard.output, names, entries, "causal - standard", "difference",
            **output,
        ),
    ]  # fmt: skip
    gap = np.abs(causal.output - standard.output).max(axis=1)
    same = [n for n, g in zip(names, gap, strict=True) if g < 1e-9]
    most = int(gap.argmax())
    alt = (
        "Weights and outputs of standard and of causal attention, and their differences. "
        f"Standard attention gives {standard.weights[~causal.mask].sum():.2f} of its weight, "
        f"summed over all rows, to the future; causal gives none. The output of {names[most]} "
        f"changes most, by {gap[most]:.2f}; unchanged: {listed(same, ', ')}."
    )
    return grids(panels, alt=alt)
