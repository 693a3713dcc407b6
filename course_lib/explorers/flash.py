"""`FlashExplorer`: attention tile by tile, with the online softmax of one row (chapter 7).

`online_trace` is the recorder behind it: the plain loop of FlashAttention, which keeps the three
running numbers of every row after every tile. It is written to be watched, not to be fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from course_lib.attention import attention, scores
from course_lib.example import TOKENS, K, Q, V
from course_lib.explorers.base import (
    MOST_TOKENS,
    Explorer,
    State,
    labels,
    listed,
    numbers,
    token,
    whole,
)
from course_lib.figures.palette import BLOCKED, INK, MUTED, RULE, VISIBLE, WEIGHT_SCALE
from course_lib.figures.plot import Figure, legend_below
from course_lib.masks import Mask, Tile, causal
from course_lib.validate import Array, check_count

Floats = NDArray[np.float64]

#: Entries of a value vector that are shown; the others are computed all the same.
_ENTRIES = 8


@dataclass(frozen=True)
class OnlineTrace:
    """Every state of the online softmax; entry j + 1 of an axis is the state after key block j.

    Attributes:
        tiles: `Tile` of each block of queries and keys, [I, J].
        order: the (query block, key block) pairs in the order of their visits; EMPTY ones are
            not among them.
        scores: scaled dot products, -inf where blocked, [T, T].
        m: running maximum of each row, [T, J + 1]; -inf before the first visible key.
        l: running sum of exp(score - m), [T, J + 1].
        acc: running sum of exp(score - m) times the value, [T, J + 1, d_v].
        output: acc / l at the end, [T, d_v]; zeros for a row that sees nothing.
    """

    tiles: NDArray[np.int8]
    order: tuple[tuple[int, int], ...]
    scores: Floats
    m: Floats
    l: Floats  # noqa: E741 (its name in the papers)
    acc: Floats
    output: Floats


def online_trace(
    q: Array, k: Array, v: Array, mask: Mask | None = None, block_q: int = 2, block_k: int = 2
) -> OnlineTrace:
    """Attention by tiles, with every intermediate state kept.

    Source: T. Dao et al., "FlashAttention", 2022, arXiv:2205.14135, algorithm 1, with the loop
    order and the late division of T. Dao, "FlashAttention-2", 2023, arXiv:2307.08691,
    algorithm 1; the online sum is from M. Milakov and N. Gimelshein, 2018, arXiv:1805.02867.

    Args:
        q: queries, floating, [T, d].
        k: keys, [T, d].
        v: values, [T, d_v].
        mask: a rule that holds no batch; `causal()` if not given.
        block_q: queries a tile, at least 1.
        block_k: keys a tile, at least 1.

    Returns:
        The trace, in NumPy float64; its output equals that of `attention`.

    Raises:
        TypeError: if an array is not floating, or `mask` no `Mask`.
        ValueError: if shapes do not fit, or the mask holds the data of a batch.
    """
    mask = causal() if mask is None else mask
    q, k, v = _arrays(q=q, k=k, v=v)
    _check_mask(mask, len(q))
    tiles = mask.tiles(len(q), block_q=block_q, block_k=block_k)
    s = np.where(_matrix(mask, len(q)), scores(q, k), -np.inf)  # [T, T]
    blocks = tiles.shape[1]
    m = np.full((len(q), blocks + 1), -np.inf)
    l = np.zeros((len(q), blocks + 1))  # noqa: E741
    acc = np.zeros((len(q), blocks + 1, v.shape[1]))
    order = []
    for i in range(len(tiles)):
        rows = slice(i * block_q, (i + 1) * block_q)
        for j in range(blocks):
            keys = slice(j * block_k, (j + 1) * block_k)
            state = m[rows, j], l[rows, j], acc[rows, j]
            if tiles[i, j] != Tile.EMPTY:  # an empty tile is neither loaded nor computed
                order.append((i, j))
                state = _update(*state, s[rows, keys], v[keys])
            m[rows, j + 1], l[rows, j + 1], acc[rows, j + 1] = state
    total = l[:, -1:]
    output = acc[:, -1] / np.where(total == 0, 1.0, total)
    return OnlineTrace(tiles, tuple(order), s, m, l, acc, output)


def _update(m: Floats, l: Floats, acc: Floats, s: Floats, v: Floats) -> tuple[Floats, ...]:  # noqa: E741
    """The online softmax over one tile: running numbers of R rows, scores [R, N], values [N, d]."""
    new = np.maximum(m, s.max(axis=1))  # [R]
    peak = np.where(np.isinf(new), 0.0, new)  # a row that has seen nothing: exp(-inf) = 0
    factor = np.exp(m - peak)  # what was summed under the old maximum, under the new one
    p = np.exp(s - peak[:, None])  # [R, N]
    return new, l * factor + p.sum(axis=1), acc * factor[:, None] + p @ v


class FlashExplorer(Explorer):
    """The tiles of attention in the order of their visits, and one row's running numbers.

    >>> e = FlashExplorer()  # the running example, causal, tiles of 2 by 2
    >>> e.row = "sat"
    >>> e.step = 3

    Args:
        tokens: T labels; those of the running example if none of tokens, q, k, v is given, else
            "0", "1", ...
        q: queries, floating, [T, d], at most 64.
        k: keys, [T, d].
        v: values, [T, d_v].
        mask: a rule; `causal()` if not given.
        block_q: queries a tile, 1..T; 2 if not given.
        block_k: keys a tile, 1..T; likewise.
        row: the query to follow, by position or text; the last one if not given.
        step: how many tiles have been visited.

    Raises:
        TypeError: if q, k, v are not floating arrays of one kind, or `mask` no `Mask`.
        ValueError: if shapes do not fit or a value is out of range.
    """

    script = "flash"
    row = State(0, token())
    step = State(0, whole(0, lambda explorer: len(explorer.trace.order)))

    def __init__(
        self,
        tokens: Sequence[Any] | None = None,
        q: Array | None = None,
        k: Array | None = None,
        v: Array | None = None,
        mask: Mask | None = None,
        *,
        block_q: int | None = None,
        block_k: int | None = None,
        row: int | str | None = None,
        step: int = 0,
    ) -> None:
        given = [x is not None for x in (q, k, v)]
        if any(given) and not all(given):
            raise ValueError("q, k, v: expected all three or none; got some")
        if not any(given):
            q, k, v, tokens = Q, K, V, TOKENS if tokens is None else tokens
        arrays = _arrays(q=q, k=k, v=v)
        self.tokens = labels(range(len(arrays[0])) if tokens is None else tokens)
        if len(self.tokens) != len(arrays[0]):
            raise ValueError(
                f"tokens: expected {len(arrays[0])}, one a query; got {len(self.tokens)}"
            )
        block_q, block_k = (
            min(2, len(self.tokens)) if block is None else block for block in (block_q, block_k)
        )
        for name, block in (("block_q", block_q), ("block_k", block_k)):
            if check_count(name, block, 1) > len(self.tokens):
                raise ValueError(f"{name}: expected at most {len(self.tokens)}; got {block}")
        mask = causal() if mask is None else mask
        self.trace = online_trace(*arrays, mask, block_q, block_k)
        self._block_q, self._block_k, self._v = block_q, block_k, arrays[2]
        full, _ = attention(*arrays, _matrix(mask, len(self.tokens)), empty_rows="zeros")
        self._gap = float(np.abs(full - self.trace.output).max())
        self._cards = [self._row_cards(r) for r in range(len(self.tokens))]
        data = {
            "tokens": self.tokens,
            "blocks": [block_q, block_k],
            "order": [list(tile) for tile in self.trace.order],
            "scores": numbers(self.trace.scores),
            "names": ["max m", "sum l", *(f"acc {d}" for d in range(arrays[2].shape[1]))][
                : 2 + _ENTRIES
            ],
            "steps": [self._step_words(s) for s in range(len(self.trace.order) + 1)],
            "rows": self._cards,
            "waiting": [
                f"Row {name} has met no tile yet."
                if cards
                else f"Row {name} sees nothing: its tiles are all skipped, its output is 0."
                for name, cards in zip(self.tokens, self._cards, strict=True)
            ],
            "mask": repr(mask),
        }
        super().__init__(data, row=len(self.tokens) - 1 if row is None else row, step=step)

    def words(self) -> str:
        """The tile, and what it did to the row."""
        met = [card for card in self._cards[self.row] if card["visit"] <= self.step]
        row = met[-1]["words"] if met else self.data["waiting"][self.row]
        return f"{self.data['steps'][self.step]} {row}"

    def picture(self) -> str:
        """All tiles with the order of their visits, and all steps of the row."""
        return flash_view(self.trace, self.tokens, self.row, self._block_q, self._block_k, [
            card["words"] for card in self._cards[self.row]
        ])._repr_html_()  # fmt: skip

    # --- inside ------------------------------------------------------------------------------

    def _row_cards(self, r: int) -> list[dict[str, Any]]:
        """What each visited tile does to row r: before, factor, what is added, after, words."""
        t, size, cards = self.trace, self._block_k, []
        visits = [(n, j) for n, (i, j) in enumerate(t.order, 1) if i == r // self._block_q]
        for n, j in visits:
            s, v = (x[j * size : (j + 1) * size] for x in (t.scores[r], self._v))
            peak = 0.0 if np.isinf(t.m[r, j + 1]) else t.m[r, j + 1]
            p = np.exp(s - peak)
            cards.append(
                {
                    "visit": n,
                    "before": _column(t.m[r, j], t.l[r, j], t.acc[r, j]),
                    "factor": float(np.exp(t.m[r, j] - peak)),
                    "added": _column(s.max(), p.sum(), p @ v),
                    "after": _column(t.m[r, j + 1], t.l[r, j + 1], t.acc[r, j + 1]),
                    "words": self._card_words(r, j, n == visits[-1][0]),
                }
            )
        return cards

    def _card_words(self, r: int, j: int, last: bool) -> str:
        t, name = self.trace, self.tokens[r]
        old, new = t.m[r, j], t.m[r, j + 1]
        if np.isinf(new):
            return f"Row {name} sees nothing here: its sum stays 0."
        if np.isinf(old):
            change = f"the maximum starts at {_number(new)}"
        elif new > old:
            change = (
                f"the maximum rises from {_number(old)} to {_number(new)}, so what was summed "
                f"before is multiplied by exp({_number(old)} - {_number(new)}) = "
                f"{_number(np.exp(old - new))}"
            )
        else:
            change = f"the maximum stays {_number(new)}, so nothing is rescaled"
        words = f"Row {name}: {change}; the sum is now {_number(t.l[r, j + 1])}."
        if last:
            close = self._gap < 1e-9
            words += (
                f" Last tile of the row: accumulator / sum = {_vector(t.output[r])}, "
                f"{'equal to' if close else 'NOT equal to'} the full softmax."
            )
        return words

    def _step_words(self, step: int) -> str:
        order, tiles = self.trace.order, self.trace.tiles
        skipped = int((tiles == Tile.EMPTY).sum())
        if step == 0:
            because = ", because nobody may see anything in them" if skipped else ""
            return (
                f"Nothing is computed yet: {len(order)} of {tiles.size} tiles to visit, "
                f"{skipped} skipped{because}."
            )
        i, j = order[step - 1]
        queries = self.tokens[i * self._block_q : (i + 1) * self._block_q]
        keys = self.tokens[j * self._block_k : (j + 1) * self._block_k]
        kind = "all visible" if tiles[i, j] == Tile.FULL else "masked cell by cell"
        return (
            f"Tile {step} of {len(order)} ({kind}): queries {_range(queries)}, keys {_range(keys)}."
        )


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
    _draw_tiles(left, trace, tokens, row, block_q, block_k)
    visited = [j for i, j in trace.order if i == row // block_q]
    lines = [["keys", "max m", "sum l", "factor"]]
    for j in visited:
        keys = tokens[j * block_k : (j + 1) * block_k]
        m, new = trace.m[row, j : j + 2]
        factor = "" if np.isinf(m) or np.isinf(new) else _number(np.exp(m - new))
        name = keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"
        lines.append([name, _number(new), _number(trace.l[row, j + 1]), factor])
    shown = lines[:9]
    table = right.table(shown, loc="upper center", cellLoc="right", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.35)
    for cell in table.get_celld().values():
        cell.get_text().set_parse_math(False)
    right.set_axis_off()
    right.set_title(f"row {tokens[row]}, tile by tile", fontsize=10.5, parse_math=False)
    legend_below(canvas, [
        Patch(facecolor=VISIBLE, edgecolor=RULE, label="full tile"),
        Patch(facecolor=WEIGHT_SCALE[1], edgecolor=RULE, label="partial tile"),
        Patch(facecolor=BLOCKED, edgecolor=RULE, hatch="////", label="empty, skipped"),
    ])  # fmt: skip
    canvas.tight_layout()
    tiles = trace.tiles
    alt = (
        f"{tiles.shape[0]} by {tiles.shape[1]} tiles of {block_q} queries and {block_k} keys: "
        f"{int((tiles == Tile.FULL).sum())} full, {int((tiles == Tile.PARTIAL).sum())} partial, "
        f"{int((tiles == Tile.EMPTY).sum())} empty and skipped; the others carry the number of "
        f"their visit. {' '.join(words[:8])}"
    )
    return Figure(canvas, alt)


def _draw_tiles(
    ax: Axes, trace: OnlineTrace, tokens: Sequence[str], row: int, block_q: int, block_k: int
) -> None:
    n = len(tokens)
    visit = {tile: number for number, tile in enumerate(trace.order, 1)}
    faces = {Tile.EMPTY: BLOCKED, Tile.PARTIAL: WEIGHT_SCALE[1], Tile.FULL: VISIBLE}
    for (i, j), tile in np.ndenumerate(trace.tiles):
        x, y = j * block_k, i * block_q
        wide, high = min(block_k, n - x), min(block_q, n - y)
        hatch = "////" if tile == Tile.EMPTY else None
        ax.add_patch(Rectangle((x, y), wide, high, facecolor=faces[Tile(tile)], edgecolor=RULE,
                               hatch=hatch))  # fmt: skip
        ink = "#FFFFFF" if tile == Tile.FULL else INK
        text = visit.get((i, j), "")
        ax.text(x + wide / 2, y + high / 2, text, ha="center", va="center", fontsize=9, color=ink)
    ax.add_patch(Rectangle((0, row), n, 1, fill=False, edgecolor=INK, linewidth=2))
    ax.set_xlim(0, n)
    ax.set_ylim(n, 0)
    ax.set_aspect("equal")
    every = -(-n // 16)
    literal = {"fontsize": 8, "parse_math": False}  # a dollar in a token is no formula
    ax.set_xticks(np.arange(0, n, every) + 0.5, list(tokens)[::every], **literal)
    ax.set_yticks(np.arange(0, n, every) + 0.5, list(tokens)[::every], **literal)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("key", color=MUTED, fontsize=9)
    ax.xaxis.set_label_position("top")
    ax.set_ylabel("query", color=MUTED, fontsize=9)


# --- checks --------------------------------------------------------------------------------------


def _arrays(**arrays: Array) -> tuple[Floats, ...]:
    """The arrays as NumPy float64, checked to be [T, d] with one T."""
    found = []
    for name, array in arrays.items():
        if hasattr(array, "detach"):
            array = array.detach().cpu()
            array = array.double().numpy() if array.is_floating_point() else array.numpy()
        if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
            kind = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"{name}: expected a floating NumPy array or torch tensor; got {kind}")
        if array.ndim != 2 or 0 in array.shape or (found and len(array) != len(found[0])):
            raise ValueError(
                f"{name}: expected shape [T, d] with the T of q; got {list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers; got NaN or infinity")
        found.append(array.astype(np.float64))
    if found[0].shape[1] != found[1].shape[1]:
        raise ValueError(f"k: expected {found[0].shape[1]} entries as q; got {found[1].shape[1]}")
    if len(found[0]) > MOST_TOKENS:
        raise ValueError(f"q: expected at most {MOST_TOKENS} queries; got {len(found[0])}")
    return tuple(found)


def _check_mask(mask: Any, n: int) -> None:
    if not isinstance(mask, Mask):
        raise TypeError(f"mask: expected a Mask; got {type(mask).__name__}")
    if mask.batch is not None:
        raise ValueError(f"mask: {mask} holds the data of a batch of {mask.batch}; show one rule")
    if mask.least_keys > n:
        raise ValueError(f"mask: {mask} needs at least {mask.least_keys} keys; got {n}")


def _matrix(mask: Mask, n: int) -> NDArray[np.bool_]:
    return mask.tensor(n).cpu().numpy()


def _column(m: float, l: float, acc: Floats) -> list[Any]:  # noqa: E741
    return numbers([m, l, *acc[:_ENTRIES]])


def _number(x: float) -> str:
    return "-inf" if np.isinf(x) else f"{round(float(x), 4) + 0.0:.4f}"


def _range(names: Sequence[str]) -> str:
    return listed(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"


def _vector(values: Floats) -> str:
    shown = ", ".join(map(_number, values[:_ENTRIES]))
    return f"[{shown}{', ...' if len(values) > _ENTRIES else ''}]"
