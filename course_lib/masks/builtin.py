"""The rules with names (chapter 2: causal; chapter 4: padding, documents; chapter 6: the rest)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course_lib.masks.rule import Mask, lookup, private_copy
from course_lib.validate import Array, check_count


def full() -> Mask:
    """Every query may attend to every key: standard, bidirectional attention."""
    mask = Mask(lambda q, k: (q >= 0) & (k >= 0), "full()", "every key")
    mask.is_full = True
    return _made_by(mask, full)


def causal() -> Mask:
    """k <= q: a query may attend to its own position and to earlier ones.

    Source: A. Vaswani et al., "Attention Is All You Need", 2017, section 3.2.3.
    """
    mask = Mask(lambda q, k: k <= q, "causal()", "its own position and earlier ones")
    mask.never_ahead = mask.is_causal = True
    return _made_by(mask, causal)


def prefix_lm(prefix: int | Sequence[int] | Array) -> Mask:
    """k < P or k <= q: the first P keys are visible to all, the others causally.

    Rows inside the prefix see the whole prefix and nothing of the suffix.
    Source: C. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified
    Text-to-Text Transformer", JMLR 2020, section 3.2.1.

    Args:
        prefix: P >= 0, or one P a sequence, shape [B] (the matrix is then [B, 1, Tq, Tk]).

    Raises:
        TypeError: if a prefix length is not an integer.
        ValueError: if a prefix length is negative.
    """
    words = "the prefix, its own position and earlier ones"
    if isinstance(prefix, (int, np.integer)):
        length = check_count("prefix", prefix, 0)
        mask = Mask(lambda q, k: (k < length) | (k <= q), f"prefix_lm({length})", words)
        mask.least_keys, mask.never_ahead, mask.is_causal = length, length == 0, length == 0
        return _made_by(mask, prefix_lm, length)
    data = _data("prefix", prefix, "[B]")
    if len(data) and int(data.min()) < 0:
        raise ValueError(f"prefix: expected at least 0; got {int(data.min())}")

    def rule(b: Any, q: Any, k: Any) -> Any:
        return (k < lookup(data, k)[b]) | (k <= q)

    mask = Mask.per_sequence(rule, "prefix_lm(prefix)", words, data, batched=True)
    mask.least_keys = int(data.max()) if len(data) else 0
    return _made_by(mask, prefix_lm, data)


def sliding_window(width: int) -> Mask:
    """q - width < k <= q: its own position and the width - 1 before it.

    The width counts the token itself, so `sliding_window(1)` is self-attention to oneself only.
    Source: A. Q. Jiang et al., "Mistral 7B", 2023, arXiv:2310.06825, section 2.

    Args:
        width: number of visible keys, at least 1.
    """
    width = check_count("width", width, 1)
    before = "nothing else" if width == 1 else f"the {width - 1} before it"
    mask = Mask(
        lambda q, k: (k <= q) & (q - k < width),
        f"sliding_window({width})",
        f"its own position and {before}",
    )
    mask.never_ahead = True
    return _made_by(mask, sliding_window, width)


def sinks(n: int) -> Mask:
    """k < n: the first n keys, whatever the query ("attention sinks").

    Meant to be composed: `causal() & (sliding_window(4) | sinks(1))`.
    Source: G. Xiao et al., "Efficient Streaming Language Models with Attention Sinks",
    ICLR 2024, arXiv:2309.17453.

    Args:
        n: number of sink positions, at least 0.
    """
    n = check_count("n", n, 0)
    words = {0: "no position", 1: "the first position"}.get(n, f"the first {n} positions")
    mask = Mask(lambda q, k: (k < n) & (q >= 0), f"sinks({n})", words)
    return _made_by(mask, sinks, n)


def same_document(ids: Sequence[Any] | Array) -> Mask:
    """Query and key belong to the same document of a packed sequence.

    Args:
        ids: integer document number of each position, shape [T] or [B, T].
    """
    data = _data("ids", ids, "[T]", "[B, T]")

    def rule(b: Any, q: Any, k: Any) -> Any:
        return _at(data, b, q) == _at(data, b, k)

    words = "keys of its own document"
    mask = Mask.per_sequence(rule, "same_document(ids)", words, data, batched=data.ndim == 2)
    mask.q_length = mask.k_length = data.shape[-1]
    return _made_by(mask, same_document, data)


def not_padding(valid: Sequence[Any] | Array) -> Mask:
    """The key is a real token, not padding. The rule looks at keys only, queries may be any.

    A padded query under `causal() & not_padding(valid)` may have nothing to attend to: its row
    is then all False.

    Args:
        valid: bool, True = real token, shape [T] or [B, T].
    """
    data = _data("valid", valid, "[T]", "[B, T]", boolean="True = real token")

    def rule(b: Any, q: Any, k: Any) -> Any:
        return _at(data, b, k) & (q >= 0)

    words = "real tokens"
    mask = Mask.per_sequence(rule, "not_padding(valid)", words, data, batched=data.ndim == 2)
    mask.k_length = data.shape[-1]
    return _made_by(mask, not_padding, data)


def tree(parents: Sequence[int] | Array) -> Mask:
    """The key is the query itself or one of its ancestors in a tree of draft tokens.

    Speculative decoding checks many continuations in one pass this way; a chain
    (`parents[i] = i - 1`) is `causal()`.
    Source: X. Miao et al., "SpecInfer", ASPLOS 2024, arXiv:2305.09781, section 4.

    Args:
        parents: integer parent of each position, shape [T]; -1 for a root, otherwise an
            earlier position.

    Raises:
        ValueError: if a parent is not -1 or an earlier position.
    """
    data = _data("parents", parents, "[T]")
    ancestor = np.eye(len(data), dtype=bool)
    for child, above in enumerate(data.tolist()):
        if not -1 <= above < child:
            raise ValueError(
                f"parents: position {child} needs -1 or an earlier position; got {above}"
            )
        if above >= 0:
            ancestor[child] |= ancestor[above]

    def rule(_b: Any, q: Any, k: Any) -> Any:
        return lookup(ancestor, q)[q, k]

    words = "itself and its ancestors"
    mask = Mask.per_sequence(rule, "tree(parents)", words, data, batched=False)
    mask.q_length = mask.k_length = len(data)
    mask.never_ahead = True
    return _made_by(mask, tree, data)


def open_rows(rows: Sequence[int] | Array) -> Mask:
    """The query is one of `rows`: those rows see everything. Compose: `causal() | open_rows([2])`.

    Args:
        rows: integer positions of the queries to open, shape [R].
    """
    data = _data("rows", rows, "[R]")
    if len(data) and int(data.min()) < 0:
        raise ValueError(f"rows: expected positions of at least 0; got {int(data.min())}")

    def rule(_b: Any, q: Any, k: Any) -> Any:
        hit = q < 0
        for row in data.tolist():
            hit = hit | (q == row)
        return hit & (k >= 0)

    listed = ", ".join(map(str, data.tolist()))
    words = f"every key if it stands at {listed or 'no position'}"
    mask = Mask.per_sequence(rule, f"open_rows([{listed}])", words, data, batched=False)
    return _made_by(mask, open_rows, data)


def _made_by(mask: Mask, make: Callable[..., Mask], *args: Any) -> Mask:
    """Remember what makes this mask again, which is what a pickle of it holds."""
    mask._made_by = (make, args)
    return mask


def _at(data: Array, b: Any, positions: Any) -> Any:
    """The entry of `data` ([T] or [B, T]) at positions of sequence b."""
    values = lookup(data, positions)
    return values[positions] if values.ndim == 1 else values[b, positions]


def _data(name: str, values: Sequence[Any] | Array, *shapes: str, boolean: str = "") -> Array:
    """A private copy of a rule's data, of one of the shapes ("[T]", "[B, T]")."""
    array = private_copy(name, values, boolean=boolean)
    if array.ndim not in [shape.count(",") + 1 for shape in shapes]:
        raise ValueError(f"{name}: expected shape {' or '.join(shapes)}; got {list(array.shape)}")
    return array
