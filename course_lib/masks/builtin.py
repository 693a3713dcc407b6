"""The rules with names (chapter 2: causal; chapter 4: padding, documents; chapter 6: the rest)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from course_lib.masks.rule import Mask, lookup
from course_lib.validate import Array, as_array, check_count, is_integer


def full() -> Mask:
    """Every query may attend to every key: standard, bidirectional attention."""
    return Mask(lambda q, k: (q >= 0) & (k >= 0), "full()", "every key")


def causal() -> Mask:
    """k <= q: a query may attend to its own position and to earlier ones.

    Source: A. Vaswani et al., "Attention Is All You Need", 2017, section 3.2.3.
    """
    mask = Mask(lambda q, k: k <= q, "causal()", "its own position and earlier ones")
    mask.never_ahead = mask.is_causal = True
    return mask


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
        mask.least_keys = length
        return mask
    data, device = _data("prefix", prefix, dims=(1,))
    if len(data) and int(data.min()) < 0:
        raise ValueError(f"prefix: expected at least 0; got {int(data.min())}")
    return Mask.per_sequence(
        lambda b, q, k: (k < lookup(data, k)[b]) | (k <= q),
        "prefix_lm(prefix)",
        words,
        batch=len(data),
        length=None,
        device=device,
        least_keys=int(data.max()) if len(data) else 0,
    )


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
    return mask


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
    return Mask(lambda q, k: (k < n) & (q >= 0), f"sinks({n})", words)


def same_document(ids: Sequence[Any] | Array) -> Mask:
    """Query and key belong to the same document of a packed sequence.

    Args:
        ids: integer document number of each position, shape [T] or [B, T].
    """
    data, device = _data("ids", ids, dims=(1, 2))
    return _per_position(
        data,
        device,
        lambda at, q, k: at(q) == at(k),
        "same_document(ids)",
        "keys of its own document",
    )


def not_padding(valid: Sequence[Any] | Array) -> Mask:
    """The key is a real token, not padding. The rule looks at keys only.

    A padded query under `causal() & not_padding(valid)` may have nothing to attend to: its row
    is then all False.

    Args:
        valid: bool, True = real token, shape [T] or [B, T].
    """
    data, device = _data("valid", valid, dims=(1, 2), boolean=True)
    return _per_position(
        data, device, lambda at, q, k: at(k) & (q >= 0), "not_padding(valid)", "real tokens"
    )


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
    data, device = _data("parents", parents, dims=(1,))
    parent = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else data
    ancestor = np.eye(len(parent), dtype=bool)
    for child, above in enumerate(parent):
        if not -1 <= above < child:
            raise ValueError(
                f"parents: position {child} needs -1 or an earlier position; got {above}"
            )
        if above >= 0:
            ancestor[child] |= ancestor[above]
    return Mask.per_sequence(
        lambda _b, q, k: lookup(ancestor, q)[q, k],
        "tree(parents)",
        "itself and its ancestors",
        batch=None,
        length=len(parent),
        device=device,
    )


def open_rows(rows: Sequence[int] | Array) -> Mask:
    """The query is one of `rows`: those rows see everything. Compose: `causal() | open_rows([2])`.

    Args:
        rows: integer positions of the queries to open, shape [R].
    """
    data, device = _data("rows", rows, dims=(1,))
    if len(data) and int(data.min()) < 0:
        raise ValueError(f"rows: expected positions of at least 0; got {int(data.min())}")

    def rule(_b: Any, q: Any, k: Any) -> Any:
        hit = q < 0
        for row in data:
            hit = hit | (q == int(row))
        return hit & (k >= 0)

    shown = ", ".join(str(int(row)) for row in data)
    return Mask.per_sequence(
        rule,
        f"open_rows([{shown}])",
        f"every key if it stands at {shown or 'no position'}",
        batch=None,
        length=None,
        device=device,
    )


def _per_position(
    data: Array, device: torch.device | None, rule: Any, expression: str, words: str
) -> Mask:
    """A rule that looks up `data` ([T] or [B, T]) at positions with `at(positions)`."""
    batched = data.ndim == 2

    def with_batch(b: Any, q: Any, k: Any) -> Any:
        def at(positions: Any) -> Any:
            values = lookup(data, positions)
            return values[b, positions] if batched else values[positions]

        return rule(at, q, k)

    return Mask.per_sequence(
        with_batch,
        expression,
        words,
        batch=data.shape[0] if batched else None,
        length=data.shape[-1],
        device=device,
    )


def _data(
    name: str, values: Sequence[Any] | Array, *, dims: tuple[int, ...], boolean: bool = False
) -> tuple[Array, torch.device | None]:
    """A private copy of per-sequence data, checked, and its device if it is a tensor."""
    if isinstance(values, torch.Tensor):
        array: Array = values.detach().clone()
    else:
        array = as_array(name, values)
        if array.size == 0 and not isinstance(values, np.ndarray):
            array = array.astype(bool if boolean else np.int64)
    wanted = "boolean (True = real token)" if boolean else "integer"
    right = array.dtype in (np.dtype(bool), torch.bool) if boolean else is_integer(array)
    if not right:
        raise TypeError(f"{name}: expected {wanted} values; got dtype {array.dtype}")
    if array.ndim not in dims:
        shapes = " or ".join("[T]" if d == 1 else "[B, T]" for d in dims)
        raise ValueError(f"{name}: expected shape {shapes}; got {list(array.shape)}")
    return array, array.device if isinstance(array, torch.Tensor) else None
