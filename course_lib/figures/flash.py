"""Tiles, costs and measured times of tiled attention, as figures (chapter 7).

`walk_view` draws the tiles of a rule in the order in which a kernel visits them, `roofline_view`
what a machine allows, `speed_view` and `gpu_view` what the benchmarks recorded, with the hardware
and the date in the picture. Descriptions are computed from the data that is drawn.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from course_lib.costs import roofline
from course_lib.figures.cells import draw_frame, draw_tiles, label_cells, tile_legend
from course_lib.figures.fonts import lay_out
from course_lib.figures.palette import BLOCKED, INK, MUTED, SERIES, VISIBLE
from course_lib.figures.plot import Figure, legend_below
from course_lib.flash.online import OnlineTrace
from course_lib.masks import Mask, Tile

#: Where recorded runs lie: in the installed package, or in a working copy.
_FOLDERS = (
    Path(__file__).parents[1] / "results",
    Path(__file__).parents[2] / "benchmarks" / "results",
)
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKS = "osD^v"


def recorded(name: str) -> dict[str, Any] | None:
    """A recorded benchmark run, or None if there is none.

    Args:
        name: "attention" for benchmarks/results/attention.json.
    """
    for folder in _FOLDERS:
        file = folder / f"{name}.json"
        if file.exists():
            return json.loads(file.read_text("utf-8"))
    return None


def walk_view(
    mask: Mask,
    n_queries: int,
    n_keys: int | None = None,
    *,
    block_q: int,
    block_k: int,
    title: str | None = None,
) -> Figure:
    """Which tiles a kernel visits, and in which order: each row of tiles from left to right.

    Args:
        mask: a rule without per-sequence data.
        n_queries: number of queries; they are the last positions.
        n_keys: number of keys; as many as queries if not given.
        block_q: queries a tile, at least 1.
        block_k: keys a tile, at least 1.
        title: one line above; the rule if not given.

    Returns:
        The cells, with lines around the tiles; visited tiles carry their number in the order.

    Raises:
        TypeError: if `mask` is no `Mask`.
        ValueError: if the rule is batched, there are more queries than keys, or a size is below 1.
    """
    if not isinstance(mask, Mask):
        raise TypeError(f"mask: expected a Mask; got {type(mask).__name__}")
    if mask.batch is not None:
        raise ValueError(f"mask: {mask} has data of a batch of {mask.batch}; show one rule")
    n_keys = n_queries if n_keys is None else n_keys
    if not 1 <= n_queries <= n_keys:
        raise ValueError(f"n_queries: expected 1 to {n_keys}, the keys; got {n_queries}")
    q_pos = np.arange(n_keys - n_queries, n_keys)
    kinds = mask.tiles(q_pos, n_keys, block_q=block_q, block_k=block_k)
    canvas = Canvas(figsize=(5.0, 4.6 * n_queries / n_keys + 0.7))
    ax = canvas.subplots()
    matrix = np.asarray(mask.matrix(q_pos, n_keys))
    draw_tiles(ax, kinds, matrix, block_q, block_k)
    label_cells(
        ax, list(map(str, q_pos)), list(map(str, range(n_keys))), row_axis="queries",
        column_axis="keys", title=str(mask) if title is None else title, margin=0.1,
    )  # fmt: skip
    words = ("full tile: no mask needed", "partial tile: masked cell by cell", "empty: skipped")
    legend_below(canvas, tile_legend(*words))
    lay_out(canvas)
    counts = {kind: int(np.sum(kinds == kind)) for kind in Tile}
    alt = (
        f"{mask} for {n_queries} queries and {n_keys} keys in tiles of {block_q} by {block_k}: "
        f"{counts[Tile.FULL]} full, {counts[Tile.PARTIAL]} partial, {counts[Tile.EMPTY]} empty. "
        f"{kinds.size - counts[Tile.EMPTY]} of {kinds.size} tiles are visited, each row of tiles "
        "from left to right."
    )
    return Figure(canvas, alt)


def flash_view(
    trace: OnlineTrace,
    tokens: Sequence[str],
    row: int,
    block_q: int,
    block_k: int,
    words: Sequence[str] = (),
) -> Figure:
    """The static view: which tiles are visited in which order, and a row's sum along them.

    Args:
        trace: from `online_trace`.
        tokens: T labels.
        row: the query whose running numbers are listed.
        block_q: as for `online_trace`.
        block_k: as for `online_trace`.
        words: sentences that end the description.

    Returns:
        The figure: tiles on the left, the row's maximum and sum after each key block on the right.
    """
    canvas = Canvas(figsize=(8.2, 3.4))
    left, right = canvas.subplots(1, 2, width_ratios=(1, 1.25))
    draw_tiles(left, trace.tiles, np.isfinite(trace.scores), block_q, block_k)
    draw_frame(left, (row, 0), size=(1, len(tokens)))
    label_cells(left, tokens, tokens, points=8, margin=0.1)
    visited = [j for i, j in trace.order if i == row // block_q]
    lines = [["keys", "max m", "sum l", "factor"]]
    for j in visited:
        keys = tokens[j * block_k : (j + 1) * block_k]
        m, new = trace.m[row, j : j + 2]
        factor = "" if np.isinf(m) or np.isinf(new) else format_number(np.exp(m - new))
        name = keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"
        lines.append([name, format_number(new), format_number(trace.l[row, j + 1]), factor])
    shown = lines[:9]
    table = right.table(shown, loc="upper center", cellLoc="right", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.35)
    for cell in table.get_celld().values():
        cell.get_text().set_parse_math(False)
    right.set_axis_off()
    right.set_title(f"row {tokens[row]}, tile by tile", fontsize=10.5, parse_math=False)
    legend_below(canvas, tile_legend("full tile", "partial tile", "empty, skipped"))
    lay_out(canvas)
    tiles = trace.tiles
    alt = (
        f"{tiles.shape[0]} by {tiles.shape[1]} tiles of {block_q} queries and {block_k} keys: "
        f"{int((tiles == Tile.FULL).sum())} full, {int((tiles == Tile.PARTIAL).sum())} partial, "
        f"{int((tiles == Tile.EMPTY).sum())} empty and skipped; the others carry the number of "
        f"their visit. {' '.join(words[:8])}"
    )
    return Figure(canvas, alt)


def format_number(x: float) -> str:
    """A running number of the online softmax, with four decimals."""
    return "-inf" if np.isinf(x) else f"{round(float(x), 4) + 0.0:.4f}"


def roofline_view(
    machines: Mapping[str, tuple[float, float]], points: Mapping[str, float], title: str = ""
) -> Figure:
    """Rooflines of machines, and where kinds of work stand under them.

    Args:
        machines: name -> (peak in operations a second, bandwidth in bytes a second).
        points: name of a kind of work -> its arithmetic intensity, operations a byte.
        title: one line above.

    Returns:
        The figure: log-log, a roof a machine, a vertical line a kind of work.

    Raises:
        ValueError: if there is no machine, or a number is not above 0.
    """
    if not machines:
        raise ValueError("machines: expected at least one; got none")
    for name, value in points.items():
        if not value > 0:
            raise ValueError(f"points: expected an intensity above 0 for {name!r}; got {value}")
    ridges = [peak / bandwidth for peak, bandwidth in machines.values()]
    least = min([*points.values(), *ridges]) / 3
    most = max([*points.values(), *ridges]) * 4
    x = np.geomspace(least, most, 200)
    canvas = Canvas(figsize=(7.0, 4.6))
    ax = canvas.subplots()
    for i, (name, (peak, bandwidth)) in enumerate(machines.items()):
        roof = [roofline(value, peak, bandwidth) / 1e12 for value in x]
        ax.plot(x, roof, color=SERIES[i % len(SERIES)], ls=_DASHES[i % 5], lw=1.8, label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    for i, (name, value) in enumerate(points.items()):
        ax.axvline(value, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        ax.annotate(
            name, (value, low * (high / low) ** (0.02 + 0.09 * (i % 2))), rotation=90,
            ha="right", va="bottom", fontsize=8.5, color=INK,
            bbox={"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 1, "alpha": 0.85},
        )  # fmt: skip
    ax.set_xlabel("arithmetic intensity, operations a byte")
    ax.set_ylabel("at most, TFLOP/s")
    ax.set_title(title, loc="left", fontsize=11)
    ax.grid(color=BLOCKED, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    canvas.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(machines), frameon=False,
        fontsize=9,
    )  # fmt: skip
    lay_out(canvas)
    roofs = "; ".join(
        f"{name} reaches {peak / 1e12:.4g} TFLOP/s from {peak / bandwidth:.0f} operations a byte on"
        for name, (peak, bandwidth) in machines.items()
    )
    stands = "; ".join(
        f"{name} has {value:.3g}, so at most "
        + ", ".join(
            f"{roofline(value, *machine) / machine[0]:.1%} of the peak of {who}"
            for who, machine in machines.items()
        )
        for name, value in points.items()
    )
    return Figure(canvas, f"{title}. Rooflines: {roofs}. Work: {stands}.")


def speed_view(result: Mapping[str, Any], names: Sequence[str] | None = None) -> Figure:
    """What benchmarks/attention.py recorded: time and extra memory against the length.

    Args:
        result: the recorded run.
        names: variants to show; the six causal ones if not given.

    Returns:
        Two panels; hardware, versions and date stand below the title and in the description.
    """
    names = names or [
        "naive torch", "naive numpy", "sdpa mask", "tiled torch", "tiled numpy", "sdpa",
    ]  # fmt: skip
    lengths = [int(length) for length in result["times"]]
    panels = [
        ("milliseconds, median", {
            name: [result["times"][str(n)][name]["median_ms"] for n in lengths] for name in names
        }),
        ("extra memory, MB", {
            name: [result["extra_mb"][str(n)].get(name) for n in lengths] for name in names
        }),
    ]  # fmt: skip
    canvas = Canvas(figsize=(10.0, 4.2))
    axes = canvas.subplots(1, 2)
    words = []
    for ax, (ylabel, series) in zip(axes, panels, strict=True):
        shown = {n: y for n, y in series.items() if None not in y}
        _draw_series(ax, {n: (lengths, y) for n, y in shown.items()}, "tokens T", ylabel, names)
        ends = (f"{n} from {y[0]:.1f} to {y[-1]:.1f}" for n, y in shown.items())
        words.append(f"{ylabel}: {'; '.join(ends)}.")
    axes[1].set_yscale("symlog", linthresh=1)
    axes[1].set_ylim(bottom=-0.2)
    where = _hardware(result)
    canvas.suptitle(f"Causal attention on a CPU ({where})", fontsize=9.5, x=0.02, ha="left")
    lay_out(canvas)
    alt = f"Recorded: {where}. T from {lengths[0]} to {lengths[-1]}. {' '.join(words)}"
    return Figure(canvas, alt)


def gpu_view(result: Mapping[str, Any]) -> Figure:
    """What benchmarks/flash_gpu.py recorded: a panel a direction and head size, in TFLOP/s.

    Args:
        result: the recorded run; `forward` and `backward` map "d128_T4096" to variants and these
            to "tflops".

    Returns:
        The figure; hardware, versions and date stand above it and in the description.

    Raises:
        ValueError: if the run has no results.
    """
    figures = _gpu_figures(result)
    if not figures:
        raise ValueError("result: expected at least one shape in forward or backward; got none")
    columns = min(2, len(figures))
    lines = -(-len(figures) // columns)
    canvas = Canvas(figsize=(5.2 * columns, 3.9 * lines + 0.3))
    axes = np.atleast_1d(canvas.subplots(lines, columns, squeeze=False)).ravel()
    words = []
    for ax in axes[len(figures) :]:
        ax.set_axis_off()
    for ax, figure in zip(axes, figures, strict=False):
        series = {
            name: ([float(x) for x in points], list(points.values()))
            for name, points in figure["series"].items()
        }
        _draw_series(ax, series, figure["xlabel"], figure["ylabel"], list(series), logy=False)
        ax.set_title(figure["title"], fontsize=10, loc="left")
        ax.set_ylim(bottom=0)
        ends = (f"{n} {y[0]:.1f} to {y[-1]:.1f}" for n, (_, y) in series.items())
        words.append(f"{figure['title']}, {figure['ylabel']}: {'; '.join(ends)}.")
    where = _hardware(result)
    canvas.suptitle(f"Measured on {where}", fontsize=9.5, x=0.02, ha="left")
    lay_out(canvas)
    return Figure(canvas, f"Recorded: {where}. {' '.join(words)}")


def steps_view(result: Mapping[str, Any]) -> Figure:
    """The gain of each step from the teaching kernel to the tuned one, on a recorded GPU.

    Args:
        result: the recorded run; `steps` maps "d128_T16384" to steps, in order, and these to
            "tflops".

    Returns:
        A panel a shape, a bar a step; hardware, versions and date stand above and in the
        description.

    Raises:
        ValueError: if the run has no steps.
    """
    shapes = result.get("steps") or {}
    if not shapes:
        raise ValueError("result: expected at least one shape in steps; got none")
    most = max(map(len, shapes.values()))
    canvas = Canvas(figsize=(5.6 * len(shapes), 0.42 * most + 1.3))
    words = []
    for ax, (shape, steps) in zip(
        canvas.subplots(1, len(shapes), squeeze=False)[0], shapes.items(), strict=True
    ):
        speeds = [found["tflops"] for found in steps.values()]
        bars = ax.barh(list(steps), speeds, color=VISIBLE)
        ax.bar_label(bars, [f"{speed:.1f}" for speed in speeds], padding=3, fontsize=8.5)
        ax.invert_yaxis()
        ax.margins(x=0.15)
        ax.set_xlabel("TFLOP/s")
        ax.set_title(f"forward, causal, {result['dtype']}, {shape}", fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        each = "; ".join(f"{name} {speed:.1f}" for name, speed in zip(steps, speeds, strict=True))
        words.append(f"{shape}, TFLOP/s: {each}.")
    where = _hardware(result)
    canvas.suptitle(f"Measured on {where}", fontsize=9.5, x=0.02, ha="left")
    lay_out(canvas)
    return Figure(canvas, f"Recorded: {where}. {' '.join(words)}")


def _gpu_figures(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Title, axes and series (name -> length -> TFLOP/s) of each panel."""
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for direction in ("forward", "backward"):
        for shape, variants in result.get(direction, {}).items():
            size, length = shape.split("_T")
            series = panels.setdefault(f"{direction}, {result['dtype']}, {size}", {})
            for name, found in variants.items():
                series.setdefault(name, {})[length] = found["tflops"]
    axes = {"xlabel": "tokens T", "ylabel": "TFLOP/s"}
    return [{"title": title, "series": series, **axes} for title, series in panels.items()]


def _draw_series(
    ax: Axes,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    order: Sequence[str],
    logy: bool = True,
) -> None:
    """Curves over lengths; a name has one colour, dash and mark in all panels."""
    colours = (*SERIES, MUTED)
    for name, (x, y) in series.items():
        i = list(order).index(name)
        ax.plot(
            x, y, color=colours[i % 6], ls=_DASHES[i % 5], lw=1.8, marker=_MARKS[i % 5], ms=4.5,
            label=name,
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    if logy:
        ax.set_yscale("log")
    ticks = sorted({value for x, _ in series.values() for value in x})
    ax.set_xticks(ticks, [f"{int(value):,}" for value in ticks])
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(color=BLOCKED, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8.5)


def _hardware(result: Mapping[str, Any]) -> str:
    """One line: device, versions, date."""
    found = result["hardware"]
    device = found.get("device") or f"{found['processor']}, {found['threads']} thread"
    versions = [f"{n} {found[n]}" for n in ("numpy", "torch", "triton") if n in found]
    return ", ".join([device, *versions, result["date"]])
