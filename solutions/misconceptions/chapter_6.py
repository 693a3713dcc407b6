"""Wrong answers to the exercises of chapter 6 (prefix-LM, windows), and what a tutor says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from course_tools.exercise_bank.claims import Misconception

Array = Any

# --- 6.1 the prefix mask -------------------------------------------------------------------------


def _prefix(rule: Callable[[Array, Array, Array, int], Array]) -> Callable[..., Array]:
    """6.1 with another rule; `rule(q, k, p, n)` broadcasts."""

    def prefix_lm_mask(n: int, p: Any) -> Array:
        q_pos, k_pos = np.arange(n)[:, None], np.arange(n)
        p = np.asarray(p)
        shape = (len(p), 1, n, n) if p.ndim else (n, n)
        return np.broadcast_to(
            rule(q_pos, k_pos, p[:, None, None, None] if p.ndim else p, n), shape
        ).copy()

    return prefix_lm_mask


_right = _prefix(lambda q, k, p, n: (k < p) | (k <= q))


def _rows_by_slices(n: int, p: Any) -> Array:
    def one(p: int) -> Array:
        mask = torch.tril(torch.ones(n, n, dtype=torch.bool))
        mask[:p] = True
        return mask

    return one(p) if np.ndim(p) == 0 else torch.stack([one(int(x)) for x in p])[:, None]


def _rows_by_loops(n: int, p: Any) -> Array:
    if np.ndim(p):
        return np.array([[_rows_by_loops(n, int(x))] for x in p])
    return np.array([[i < p or j <= i for j in range(n)] for i in range(n)])


def _without_head_axis(n: int, p: Any) -> Array:
    mask = _right(n, p)
    return mask[:, 0] if np.ndim(p) else mask


def _heads_first(n: int, p: Any) -> Array:
    mask = _right(n, p)
    return mask.swapaxes(0, 1) if np.ndim(p) else mask


def _one_prefix(pick: Callable[[Array], Any]) -> Callable[..., Array]:
    def prefix_lm_mask(n: int, p: Any) -> Array:
        if np.ndim(p) == 0:
            return _right(n, p)
        return np.repeat(_right(n, pick(np.asarray(p)))[None, None], len(p), axis=0)

    return prefix_lm_mask


def _per_row(n: int, p: Any) -> Array:
    if np.ndim(p) == 0:
        return _right(n, p)
    p = np.asarray(p)
    q_pos, k_pos = np.arange(n)[:, None], np.arange(n)
    return (k_pos < p[:, None]) | (k_pos <= q_pos)


def _hard_coded(n: int, p: Any) -> Array:
    rows = ["11100", "11100", "11100", "11110", "11111"]
    mask = np.array([[c == "1" for c in row] for row in rows])
    return np.broadcast_to(mask, (len(p), 1, 5, 5)).copy() if np.ndim(p) else mask


def _block_by_slices(n: int, p: Any) -> Array:
    if np.ndim(p):
        return np.stack([_block_by_slices(n, int(x))[None] for x in p])
    mask = np.zeros((n, n), dtype=bool)
    mask[:p, :p] = True
    mask[p:, p:] = np.tri(n - p, dtype=bool)
    return mask


PREFIX = [
    Misconception(
        "6.1",
        "prefix rows opened to the suffix",
        _prefix(lambda q, k, p, n: (q < p) | (k <= q)),
        "Rows of the prefix see everything, also the suffix, which is what the model has to "
        "predict. You have asked where the *query* stands. A prefix is something that is "
        "looked at: which of the two has to lie in it?",
        [_rows_by_slices, _rows_by_loops],
    ),
    Misconception(
        "6.1",
        "prefix ignored",
        _prefix(lambda q, k, p, n: (k <= q) & (p >= 0)),
        "This is the causal mask, whatever the prefix is. "
        "In the prefix, the first token may see the last.",
    ),
    Misconception(
        "6.1",
        "prefix as bidirectional everywhere",
        _prefix(lambda q, k, p, n: (p > 0) | (k <= q)),
        "As soon as there is a prefix, your whole mask is open, and the suffix sees its own "
        "future. Only the prefix is known beforehand.",
        [lambda n, p: _prefix(lambda q, k, p, n: (k >= 0) & (p > 0) | (k <= q))(n, p)],
    ),
    Misconception(
        "6.1",
        "prefix hidden from the suffix",
        _prefix(lambda q, k, p, n: (k < p) & (q < p) | (k <= q) & (k >= p)),
        "Prefix and suffix do not see each other at all, like two documents in one row. "
        "The suffix answers the prefix: what must it see?",
        [_block_by_slices],
    ),
    Misconception(
        "6.1",
        "and for or",
        _prefix(lambda q, k, p, n: (k < p) & (k <= q)),
        "A key is visible here only if it is in the prefix *and* not later than the query, so "
        "the suffix does not even see itself. Which of the two conditions is enough?",
    ),
    Misconception(
        "6.1",
        "prefix one too long",
        _prefix(lambda q, k, p, n: (k <= p) | (k <= q)),
        "One column too many is open. A prefix of p tokens has the positions 0 to p - 1.",
    ),
    Misconception(
        "6.1",
        "prefix one too short",
        _prefix(lambda q, k, p, n: (k < p - 1) | (k <= q)),
        "One column too few is open: the last token of the prefix is not seen by the others. "
        "Which position does it have?",
    ),
    Misconception(
        "6.1",
        "transposed",
        _prefix(lambda q, k, p, n: (q < p) | (q <= k)),
        "Rows and columns are exchanged: your row i says who may look at token i. "
        "Rows are queries here, the ones who look.",
    ),
    Misconception(
        "6.1",
        "polarity inverted",
        _prefix(lambda q, k, p, n: ~((k < p) | (k <= q))),
        "True and False are exchanged. In this course True means: may attend.",
    ),
    Misconception(
        "6.1",
        "diagonal blocked",
        _prefix(lambda q, k, p, n: (k < p) | (k < q)),
        "Tokens of your suffix do not see themselves.",
    ),
    Misconception(
        "6.1",
        "float mask",
        lambda n, p: _right(n, p).astype(float),
        "The right cells, but as numbers. A mask of 0 and 1 in floats is *added* to the scores "
        "by many libraries and then blocks nothing. Which dtype holds yes and no?",
        [lambda n, p: torch.as_tensor(_right(n, p)).float()],
    ),
    Misconception(
        "6.1",
        "added to the scores",
        lambda n, p: np.where(_right(n, p), 0.0, -np.inf),
        "That is the form that is added to scores: 0 and minus infinity. "
        "The task asks for the boolean one.",
    ),
    Misconception(
        "6.1",
        "hard-coded 5x5",
        _hard_coded,
        "Your answer does not depend on `n` or `p`: it fits one text only.",
    ),
    Misconception(
        "6.1",
        "no axis for the heads",
        _without_head_axis,
        "For one prefix you are right. For several, an axis is missing: without it, `[B, n, n]` "
        "meets scores `[B, H, n, n]` from the right, and B is taken for H.",
    ),
    Misconception(
        "6.1",
        "batch in the place of the heads",
        _heads_first,
        "The texts are on the second axis, where the heads should be.",
    ),
    Misconception(
        "6.1",
        "one prefix for all",
        _one_prefix(lambda p: p[0]),
        "All texts of the batch get the prefix of the first one.",
    ),
    Misconception(
        "6.1",
        "longest prefix for all",
        _one_prefix(lambda p: p.max()),
        "All texts of the batch get the longest prefix, so those with a shorter one see a part "
        "of what they should predict.",
    ),
    Misconception(
        "6.1",
        "mask broadcast over the wrong axis",
        _per_row,
        "For several prefixes you compare one prefix with each *row* of a single mask. "
        "It goes through without an error if there happen to be as many texts as tokens. "
        "Write the shapes below each other.",
    ),
]


# --- 6.2 the weights -----------------------------------------------------------------------------

_Q = np.array([[1, 0, 1, 0], [0, 2, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]], dtype=float)
_K = np.array(
    [[0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0.5, 0.5]], dtype=float
)


def _weights(
    rule: Callable[[Array, Array, int], Array] = lambda q, k, p: (k < p) | (k <= q),
    *,
    prefixes: tuple[int, int] = (2, 3),
    scale: float = 2.0,
    axis: int = 1,
    after: bool = False,
    left: Array = _Q,
    right: Array = _K,
) -> Array:
    """6.2 with one thought changed."""
    q_pos, k_pos = np.arange(5)[:, None], np.arange(5)
    tables = []
    for p in prefixes:
        seen = np.broadcast_to(rule(q_pos, k_pos, p), (5, 5))
        powers = np.exp(left @ right.T / scale)
        whole = powers if after else powers * seen
        tables.append(powers * seen / whole.sum(axis=axis, keepdims=True))
    return np.stack(tables)


WEIGHTS = [
    Misconception(
        "6.2",
        "prefix ignored",
        _weights(lambda q, k, p: k <= q),
        "Both tables are the causal one. With a prefix of two, 'The' may look at 'cat'.",
    ),
    Misconception(
        "6.2",
        "prefix rows opened to the suffix",
        _weights(lambda q, k, p: (q < p) | (k <= q)),
        "Your tokens of the prefix give weight to the suffix. They see the prefix, and no more.",
    ),
    Misconception(
        "6.2",
        "no mask",
        _weights(lambda q, k, p: k >= 0),
        "Every token sees every other one here. Where is the mask?",
    ),
    Misconception(
        "6.2",
        "prefix hidden from the suffix",
        _weights(lambda q, k, p: (k < p) & (q < p) | (k <= q) & (k >= p)),
        "Your tokens after the prefix give it no weight. They may see all of it.",
    ),
    Misconception(
        "6.2",
        "prefix one too long",
        _weights(prefixes=(3, 4)),
        "Your prefixes are one token too long: with p = 2, it is 'The cat'.",
    ),
    Misconception(
        "6.2",
        "prefix one too short",
        _weights(prefixes=(1, 2)),
        "Your prefixes are one token too short: with p = 2, it is 'The cat'.",
    ),
    Misconception(
        "6.2",
        "tables in the wrong order",
        _weights(prefixes=(3, 2)),
        "Both tables are right. The one for p = 2 comes first.",
    ),
    Misconception(
        "6.2",
        "no 1/sqrt(d)",
        _weights(scale=1.0),
        "The right cells have weight, but the weights are too sharp: a division is missing "
        "between the dot products and the softmax.",
    ),
    Misconception(
        "6.2",
        "scaled by d",
        _weights(scale=4.0),
        "The right cells have weight, but the weights are too even. Divide by the root of d.",
    ),
    Misconception(
        "6.2",
        "softmax over the wrong axis",
        _weights(axis=0),
        "Your columns add up to 1, and your rows do not. Each query hands out one unit of weight.",
    ),
    Misconception(
        "6.2",
        "mask after softmax",
        _weights(after=True),
        "Rows with blocked keys add up to less than 1: those keys took their share before you "
        "set it to zero.",
    ),
    Misconception(
        "6.2",
        "queries and keys exchanged",
        _weights(left=_K, right=_Q),
        "Your scores are mirrored: row i should be query i with all keys.",
    ),
]


# --- 6.3 a window with sinks ---------------------------------------------------------------------


def _window(rule: Callable[..., Array]) -> Callable[..., Array]:
    def sliding_window_mask(n: int, width: int, sinks: int = 0) -> Array:
        q_pos, k_pos = np.arange(n)[:, None], np.arange(n)
        return np.broadcast_to(rule(q_pos, k_pos, width, sinks), (n, n)).copy()

    return sliding_window_mask


_right_window = _window(lambda q, k, w, s: (k <= q) & ((q - k < w) | (k < s)))


def _too_wide_in_loops(n: int, width: int, sinks: int = 0) -> Array:
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        mask[i, max(0, i - width) : i + 1] = True
        mask[i, : min(sinks, i + 1)] = True
    return mask


def _too_wide_by_bands(n: int, width: int, sinks: int = 0) -> Array:
    square = np.ones((n, n), dtype=bool)
    band = np.tril(square) & np.triu(square, -width)
    return band | (np.tril(square) & (np.arange(n) < sinks))


def _careless_brackets(n: int, width: int, sinks: int = 0) -> Array:
    i, j = torch.arange(n)[:, None], torch.arange(n)
    return (j <= i) & (i - j < width) | (j < sinks)


def _open_sinks_by_slice(n: int, width: int, sinks: int = 0) -> Array:
    mask = _right_window(n, width)
    mask[:, :sinks] = True
    return mask


WINDOW = [
    Misconception(
        "6.3",
        "window off by one: one too wide",
        _window(lambda q, k, w, s: (k <= q) & ((q - k <= w) | (k < s))),
        "A row in the middle of your mask shows one key too many. "
        "The width counts the token itself, so how far back is the last one?",
        [_too_wide_in_loops, _too_wide_by_bands],
    ),
    Misconception(
        "6.3",
        "window off by one: one too narrow",
        _window(lambda q, k, w, s: (k <= q) & ((q - k < w - 1) | (k < s))),
        "Your rows show one key too few: the width counts the token itself, once.",
    ),
    Misconception(
        "6.3",
        "sinks opened to the future",
        _window(lambda q, k, w, s: (k <= q) & (q - k < w) | (k < s)),
        "The first tokens see sinks that come after them: their own future. "
        "Which of your conditions must hold whatever the others say? Mind the brackets: "
        "in Python & binds more tightly than |.",
        [_careless_brackets, _open_sinks_by_slice],
    ),
    Misconception(
        "6.3",
        "future seen",
        _window(lambda q, k, w, s: (abs(q - k) < w) | (k < s) & (k <= q)),
        "Your window looks in both directions. Which half of it is the future?",
    ),
    Misconception(
        "6.3",
        "no window",
        _window(lambda q, k, w, s: k <= q),
        "This is the causal mask: the last token still sees the whole text.",
    ),
    Misconception(
        "6.3",
        "sinks ignored",
        _window(lambda q, k, w, s: (k <= q) & (q - k < w)),
        "The window is right, but the first tokens go out of sight as all others do.",
    ),
    Misconception(
        "6.3",
        "sinks as rows",
        _window(lambda q, k, w, s: (k <= q) & ((q - k < w) | (q < s))),
        "You have opened the first *rows*. A sink is a token that others look at: "
        "is that a query or a key?",
    ),
    Misconception(
        "6.3",
        "sinks and window at once",
        _window(lambda q, k, w, s: (k <= q) & (q - k < w) & ((k < s) | (s == 0))),
        "A key has to be recent *and* a sink in your mask. One of the two is enough.",
    ),
    Misconception(
        "6.3",
        "one sink too many",
        _window(lambda q, k, w, s: (k <= q) & ((q - k < w) | (k <= s))),
        "One key too many stays in view at the beginning of the text. "
        "With no sinks at all there should be none.",
    ),
    Misconception(
        "6.3",
        "first token only",
        _window(lambda q, k, w, s: (k <= q) & ((q - k < w) | ((k == 0) & (s > 0)))),
        "Only token 0 stays in view. `sinks` says how many do.",
    ),
    Misconception(
        "6.3",
        "sinks taken from the window",
        _window(lambda q, k, w, s: (k <= q) & ((q - k < max(w - s, 1)) | (k < s))),
        "Your window gets shorter when there are sinks. They come on top of it.",
    ),
    Misconception(
        "6.3",
        "token does not see itself",
        _window(lambda q, k, w, s: (k < q) & ((q - k <= w) | (k < s))),
        "Your tokens do not see themselves. They do, and that counts as one of the window's keys.",
    ),
    Misconception(
        "6.3",
        "window from the beginning",
        _window(lambda q, k, w, s: (k <= q) & (k < max(w, s))),
        "Your mask shows the first tokens of the text, whoever asks. A window slides along.",
    ),
    Misconception(
        "6.3",
        "blocks, not a window",
        _window(lambda q, k, w, s: (k <= q) & ((q // w == k // w) | (k < s))),
        "You have cut the text into blocks. A token at the beginning of a block should still see "
        "the ones just before it.",
    ),
    Misconception(
        "6.3",
        "transposed",
        _window(lambda q, k, w, s: (q <= k) & ((k - q < w) | (q < s))),
        "Rows and columns are exchanged: rows are queries, the ones who look.",
    ),
    Misconception(
        "6.3",
        "polarity inverted",
        _window(lambda q, k, w, s: ~((k <= q) & ((q - k < w) | (k < s)))),
        "True and False are exchanged. In this course True means: may attend.",
    ),
    Misconception(
        "6.3",
        "float mask",
        lambda n, width, sinks=0: _right_window(n, width, sinks).astype(float),
        "The right cells, but as numbers. The task asks for bool.",
        [lambda n, width, sinks=0: torch.as_tensor(_right_window(n, width, sinks)).float()],
    ),
    Misconception(
        "6.3",
        "hard-coded width",
        _window(lambda q, k, w, s: (k <= q) & ((q - k < 3) | (k < s))),
        "Your window has the same width whatever `width` says.",
    ),
]


# --- 6.4 targets ---------------------------------------------------------------------------------


def _targets(keep: Callable[[Array, Array], Array]) -> Callable[..., tuple[Array, Array, Array]]:
    """6.4 with another idea of what counts; `keep(rows [T - 1], p [B, 1])`."""

    def suffix_targets(tokens: Array, p: Array) -> tuple[Array, Array, Array]:
        rows = np.arange(tokens.shape[1] - 1)
        kept = np.broadcast_to(keep(rows, p[:, None]), (len(tokens), len(rows))).copy()
        return tokens[:, :-1], tokens[:, 1:], kept

    return suffix_targets


_right_targets = _targets(lambda t, p: t + 1 >= p)


def _off_by_one_in_loops(tokens: Array, p: Array) -> tuple[Array, Array, Array]:
    keep = np.zeros((tokens.shape[0], tokens.shape[1] - 1), dtype=bool)
    for b, prompt in enumerate(p):
        keep[b, prompt:] = True
    return tokens[:, :-1], tokens[:, 1:], keep


def _off_by_one_in_torch(tokens: Array, p: Array) -> tuple[Array, Array, Array]:
    tokens, p = torch.as_tensor(tokens), torch.as_tensor(p)
    is_suffix = torch.arange(tokens.shape[1]) >= p[:, None]
    return tokens[:, :-1], tokens[:, 1:], is_suffix[:, :-1]


def _counts_from_the_end(tokens: Array, p: Array) -> tuple[Array, Array, Array]:
    keep = np.zeros((len(tokens), tokens.shape[1] - 1), dtype=bool)
    for b in range(len(tokens)):
        keep[b, p[b] - 1 :] = True
    return tokens[:, :-1], tokens[:, 1:], keep


def _counts_from_the_end_in_torch(tokens: Array, p: Array) -> tuple[Array, Array, Array]:
    tokens = torch.as_tensor(tokens)
    keep = torch.zeros(tokens.shape[0], tokens.shape[1] - 1, dtype=torch.bool)
    for row, prompt in zip(keep, p.tolist(), strict=True):
        row[prompt - 1 :] = True
    return tokens[:, :-1], tokens[:, 1:], keep


def _as_long_as_the_text(tokens: Array, p: Array) -> tuple[Array, Array, Array]:
    keep = np.arange(tokens.shape[1]) >= p[:, None]
    return tokens[:, :-1], tokens[:, 1:], keep


def _ignore_index(tokens: Array, p: Array) -> tuple[Array, Array, Array]:
    inputs, targets, keep = _right_targets(tokens, p)
    return inputs, np.where(keep, targets, -100), keep


def _in_place(tokens: Array, p: Array) -> tuple[Array, Array, Array]:
    inputs, targets, keep = _right_targets(tokens.copy(), p)
    p -= 1
    return inputs, targets, keep


TARGETS = [
    Misconception(
        "6.4",
        "first answer token not trained",
        _targets(lambda t, p: t >= p),
        "The first token of each answer is left out. You start at the row where that token is "
        "*read*. In which row is it *predicted*?",
        [_off_by_one_in_loops, _off_by_one_in_torch],
    ),
    Misconception(
        "6.4",
        "last prompt token trained",
        _targets(lambda t, p: t + 2 >= p),
        "One token of the prompt counts as a target too, and the row that predicts it can see "
        "it. Look at the target of your first kept row: is it part of the answer?",
    ),
    Misconception(
        "6.4",
        "all rows kept",
        _targets(lambda t, p: (t >= 0) & (p >= 0)),
        "Everything counts, also the tokens of the prompt. The rows that predict those can see "
        "them, so their loss is worth nothing.",
    ),
    Misconception(
        "6.4",
        "prompt kept, answer dropped",
        _targets(lambda t, p: t + 1 < p),
        "True and False are exchanged: you train on the prompt and leave the answer out.",
    ),
    Misconception(
        "6.4",
        "p = 0 counted from the end",
        _counts_from_the_end,
        "For a prompt of length 0 you keep the last row only. "
        "A slice that starts at -1 starts at the end.",
        [_counts_from_the_end_in_torch],
    ),
    Misconception(
        "6.4",
        "one prompt length for all",
        _targets(lambda t, p: t + 1 >= p[:1]),
        "All texts are treated as if they had the first one's prompt.",
    ),
    Misconception(
        "6.4",
        "longest prompt for all",
        _targets(lambda t, p: t + 1 >= p.max()),
        "All texts are treated as if they had the longest prompt, so a part of the other "
        "answers is left out.",
    ),
    Misconception(
        "6.4",
        "one entry a token, not a target",
        _as_long_as_the_text,
        "`keep` has one entry for each token of the text. There is one target less than that: "
        "`keep` belongs to the targets.",
    ),
    Misconception(
        "6.4",
        "targets not shifted",
        lambda tokens, p: (tokens[:, :-1], tokens[:, :-1], _right_targets(tokens, p)[2]),
        "Each row is asked for the token that it has just read. That is easy to learn, and of no "
        "use. What should it predict?",
    ),
    Misconception(
        "6.4",
        "shifted the wrong way",
        lambda tokens, p: (tokens[:, 1:], tokens[:, :-1], _right_targets(tokens, p)[2]),
        "Inputs and targets are exchanged: your model reads a token and has to say the one "
        "*before* it.",
    ),
    Misconception(
        "6.4",
        "targets overwritten",
        _ignore_index,
        "`keep` is right, but you have also written a marker into the targets. "
        "The task wants them as they are; what is left out is said by `keep` alone.",
    ),
    Misconception(
        "6.4",
        "keep is not bool",
        lambda tokens, p: (*_right_targets(tokens, p)[:2], _right_targets(tokens, p)[2] * 1.0),
        "`keep` holds the right places as numbers. The task asks for bool.",
        [
            lambda tokens, p: (
                *_right_targets(tokens, p)[:2],
                torch.as_tensor(_right_targets(tokens, p)[2]).float(),
            )
        ],
    ),
    Misconception(
        "6.4",
        "first answer token only",
        _targets(lambda t, p: t + 1 == np.maximum(p, 1)),
        "Only one token of each answer counts. All of them do.",
    ),
    Misconception(
        "6.4",
        "last token only",
        _targets(lambda t, p: (t == t.max()) & (p <= t.max() + 1)),
        "Only the last token of each text counts. All tokens of the answer do.",
    ),
    Misconception(
        "6.4",
        "mutated input",
        _in_place,
        "The result is right, but the caller's array of prompt lengths has changed: something "
        "like `p -= 1` works on the array itself.",
    ),
]


# --- 6.5 valid entries ---------------------------------------------------------------------------


def _changed(old: Array, new: Array) -> Array:
    n = len(old)
    return (new[:n, :n] != old).any(axis=1) | new[:n, n:].any(axis=1)


def _layers(
    changed: Callable[[Array, Array], Array] = _changed,
    spread: Callable[[Array, Array], Array] = lambda seen, stale: (seen & stale).any(axis=1),
    first: Callable[[Array], Array] = lambda changed: np.zeros_like(changed),
) -> Callable[..., Array]:
    """6.5 with another idea of what makes a key go stale, or of how it spreads."""

    def valid_entries(old_mask: Array, new_mask: Array, layers: int) -> Array:
        differs = changed(old_mask, new_mask)
        stale = [first(differs)]
        for _ in range(layers - 1):
            stale.append(differs | spread(old_mask, stale[-1]))
        return ~np.stack(stale)

    return valid_entries


def _same_row_only(old: Array, new: Array, layers: int) -> Array:
    n = len(old)
    wider = torch.zeros(n, len(new), dtype=torch.bool)
    wider[:, :n] = torch.as_tensor(old)
    same = (wider == torch.as_tensor(new)[:n]).all(dim=1)
    return torch.stack([torch.ones(n, dtype=torch.bool), *[same] * (layers - 1)])


def _all_or_nothing(old: Array, new: Array, layers: int) -> Array:
    fine = not _changed(old, new).any()
    return np.array([[layer == 0 or fine] * len(old) for layer in range(layers)])


def _nothing_changes(old: Array, new: Array, layers: int) -> Array:
    return np.ones((layers, len(old)), dtype=bool)


def _all_lost(old: Array, new: Array, layers: int) -> Array:
    return np.repeat(np.arange(layers)[:, None] == 0, len(old), axis=1)


def _for_the_new_text(old: Array, new: Array, layers: int) -> Array:
    valid = _layers()(old, new, layers)
    more = np.zeros((layers, len(new) - len(old)), dtype=bool)
    return np.concatenate([valid, more], axis=1)


VALID = [
    Misconception(
        "6.5",
        "stale keys do not spread",
        _layers(spread=lambda seen, stale: np.zeros(len(stale), dtype=bool)),
        "In layer 1 you are right. Higher up, you only ask whether a token sees the same tokens "
        "as before. It may see the same ones and read something else, if they have changed.",
        [_same_row_only],
    ),
    Misconception(
        "6.5",
        "one layer too early",
        _layers(first=lambda changed: changed),
        "You throw away keys of layer 0, and are a layer ahead in all rows after it. What are "
        "the keys of layer 0 computed from, and does the mask have a part in it?",
        [lambda old, new, layers: _layers()(old, new, layers + 1)[1:]],
    ),
    Misconception(
        "6.5",
        "new tokens not looked for",
        _layers(changed=lambda old, new: (new[: len(old), : len(old)] != old).any(axis=1)),
        "You compare the old part of the masks only. An old token that now sees one of the *new* "
        "tokens has changed too.",
    ),
    Misconception(
        "6.5",
        "only the new tokens looked for",
        _layers(changed=lambda old, new: new[: len(old), len(old) :].any(axis=1)),
        "You only ask who sees new tokens. What an old token sees among the *old* ones can "
        "have changed as well.",
    ),
    Misconception(
        "6.5",
        "columns for rows",
        _layers(
            changed=lambda old, new: (
                (new[: len(old), : len(old)] != old).any(axis=0)
                | new[: len(old), len(old) :].any(axis=1)
            )
        ),
        "You compare columns: by whom a token *is seen*. Its own state is made of what it sees.",
    ),
    Misconception(
        "6.5",
        "seeing less does no harm",
        _layers(
            changed=lambda old, new: (
                (new[: len(old), : len(old)] & ~old).any(axis=1)
                | new[: len(old), len(old) :].any(axis=1)
            )
        ),
        "You notice when a token sees more than it did. If it sees *less*, its state changes "
        "just as well.",
    ),
    Misconception(
        "6.5",
        "seeing more does no harm",
        _layers(changed=lambda old, new: (old & ~new[: len(old), : len(old)]).any(axis=1)),
        "You notice when a token sees less than it did. If it sees *more*, its state changes "
        "just as well: the weights of a softmax are shared out among all that it sees.",
    ),
    Misconception(
        "6.5",
        "all or nothing",
        _all_or_nothing,
        "As soon as one token is affected, you give up all of them. "
        "Some states may depend on none of what has changed.",
    ),
    Misconception(
        "6.5",
        "nothing ever changes",
        _nothing_changes,
        "You keep everything. The tokens are the same, but above layer 0 a state is made of "
        "what a token *sees*, and that can have changed.",
    ),
    Misconception(
        "6.5",
        "only layer 0 is kept",
        _all_lost,
        "You keep layer 0 and nothing else. If the mask shows the old tokens what it showed "
        "before, as a causal one does when the text grows, more than that is still right.",
    ),
    Misconception(
        "6.5",
        "all later tokens lost",
        _layers(spread=lambda seen, stale: np.cumsum(stale) > 0),
        "Once a token has changed, you give up all that come after it. "
        "Only those that look at it can notice.",
    ),
    Misconception(
        "6.5",
        "spreads in the wrong direction",
        _layers(spread=lambda seen, stale: stale | (seen & stale[:, None]).any(axis=0)),
        "A change spreads in your answer from a token to those that it looks at. "
        "Information flows the other way.",
    ),
    Misconception(
        "6.5",
        "tokens that did not exist",
        _for_the_new_text,
        "You return a column for every token of the longer text. "
        "Only the n old ones have cached keys.",
    ),
    Misconception(
        "6.5",
        "polarity inverted",
        lambda old, new, layers: ~_layers()(old, new, layers),
        "True and False are exchanged: True should mark what is still right.",
    ),
]

MISCONCEPTIONS = [*PREFIX, *WEIGHTS, *WINDOW, *TARGETS, *VALID]
