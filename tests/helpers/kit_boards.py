"""The board sketches of the class kit, computed: what `<!-- board: ... -->` names in its pages.

`docs/teaching/chapters/*.md` show these texts; `test_class_kit.py` compares them. Masks come from
`course_lib.masks`; the numbers from `course_lib.attention`, `costs`, `cache` and `flash.ring`.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from course_lib import masks
from course_lib.cache import RingCache
from course_lib.costs import kv_cache_bytes
from course_lib.example import TOKENS, K, Q, V
from course_lib.flash import ring as rings
from course_lib.masks import Tile, causal, not_padding
from course_lib.trace import trace


def board(expression: str) -> str:
    """The sketch that a page names."""
    names = {name: getattr(masks, name) for name in masks.__all__} | {"np": np} | BOARDS
    return eval(expression, names)


def _table(columns: list[str], rows: dict[str, list[str]], width: int) -> str:
    side = max(map(len, rows))
    lines = [" " * side + "".join(name.rjust(width) for name in columns)]
    lines += [name.ljust(side) + "".join(c.rjust(width) for c in row) for name, row in rows.items()]
    return "\n".join(lines)


def sat_row() -> str:
    """Query "sat", from its scaled scores to its weights."""
    run = trace(Q, K, V, causal(), TOKENS)
    powers = np.exp(run.masked[2])
    steps = {"scaled": run.scaled[2], "masked": run.masked[2], "powers": powers}
    steps["weights"] = run.weights[2]
    assert np.allclose(powers / powers.sum(), run.weights[2])
    return _table(list(TOKENS), {name: [f"{x:.4f}" for x in row] for name, row in steps.items()}, 8)


def row_by_hand() -> str:
    """Powers 1, 2, 5, the last blocked, in the right order and in two wrong ones."""
    powers = [1, 2, 5]
    first = [Fraction(1, 3), Fraction(2, 3), Fraction(0)]
    rows = {
        "first key": [str(first[0]), f"{powers[0]}/{sum(powers)}", "1/4"],
        "second key": [str(first[1]), f"{powers[1]}/{sum(powers)}", "2/4"],
        "blocked key": [str(first[2]), "0", "1/4"],
    }
    scores = np.log(powers)
    visible = np.array([True, True, False])
    right = np.exp(np.where(visible, scores, -np.inf))
    zeroed = np.exp(np.where(visible, scores, 0.0))
    assert np.allclose(right / right.sum(), [float(x) for x in first])
    assert np.allclose(zeroed / zeroed.sum(), [1 / 4, 2 / 4, 1 / 4])
    lines = [" " * 14 + " mask first   mask last   blocked set to 0"]
    lines += [f"{name:<14}{a:>9}{b:>12}{c:>19}" for name, (a, b, c) in rows.items()]
    return "\n".join(lines)


def padded_left() -> str:
    """Three words in five slots, padding in front; a padded row sees its own slot."""
    valid = np.array([[False, False, True, True, True]])
    seen = (causal() & not_padding(valid)).matrix(5)[0, 0] | np.eye(5, dtype=bool)
    return "\n".join(" ".join("#" if cell else "." for cell in row) for row in seen)


def ring(window: int, words: int) -> str:
    """Which position each slot of a ring cache holds, word by word."""
    cache, lines = RingCache(window), []
    for t in range(words):
        cache.append(torch.full((1, 1, 1, 1), float(t)), torch.full((1, 1, 1, 1), float(t)))
        slots = {int(p) % window: str(int(p)) for p in cache.positions}
        lines.append(f"word {t:>3}   " + " ".join(slots.get(s, ".") for s in range(window)))
    return "\n".join(lines)


def bill() -> str:
    """A small KV cache in bytes."""
    sizes = (2, 4, 8, 10, 1, 2)
    return f"2 (K and V) x {' x '.join(map(str, sizes))} = {kv_cache_bytes(*sizes)} bytes"


def printed_formula(n: int, prefix: int) -> str:
    """The wrong rule that a source prints: i < P or j <= i. Shown on purpose."""
    return "\n".join(
        " ".join("#" if i < prefix or j <= i else "." for j in range(n)) for i in range(n)
    )


def running_softmax(m: int, total: int, score: int) -> str:
    """One step of the online softmax on a block with a single score."""
    new = max(m, score)
    factor = math.exp(m - new)
    old = total * factor
    return "\n".join([
        f"new maximum   {new}",
        f"old sum       {total} x e^({m} - {new}) = {total} x {factor:.4f} = {old:.4f}",
        f"new block     e^({score} - {new}) = {math.exp(score - new):.0f}",
        f"new sum       {old + math.exp(score - new):.4f}",
    ])  # fmt: skip


def tile_picture(n: int, block: int) -> str:
    """Kinds of tiles of the causal mask."""
    letter = {Tile.EMPTY: ".", Tile.PARTIAL: "P", Tile.FULL: "F"}
    kinds = causal().tiles(n, block_q=block, block_k=block)
    return "\n".join(" ".join(letter[Tile(kind)] for kind in row) for row in kinds)


def ring_work(world: int) -> str:
    """Tiles a rank, contiguous and zigzag; long parts, so that a diagonal tile is a half."""
    n = 2 * 4096
    work: dict[str, list[float]] = {}
    for split in ("contiguous", "zigzag"):
        work[split] = [
            sum(rings.pairs_in(rings.visit_for(r, s, n, split)) for s in range(world)) / n**2
            for r in range(world)
        ]
    rows = {f"rank {r}": [f"{work[s][r]:.1f}" for s in work] for r in range(world)}
    lines = [" " * 13 + "contiguous   zigzag"]
    return "\n".join([*lines, *(f"{k:<13}{a:>10}{b:>9}" for k, (a, b) in rows.items())])


BOARDS: dict[str, Any] = {
    f.__name__: f
    for f in (
        sat_row, row_by_hand, padded_left, ring, bill, printed_formula, running_softmax,
        tile_picture, ring_work,
    )
}  # fmt: skip
