"""Wrong answers to the exercises of chapter 5 (the KV cache), and what a tutor says to each.

Most are the right code with one thought changed, so they share its body and take the thought as
a parameter; the variants are written freely.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from course_tools.exercise_bank.claims import Misconception

Array = Any

# --- 5.1 one token at a time ---------------------------------------------------------------------


def _softmax(scores: Array, axis: int = -1) -> Array:
    powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def _row_by_row(
    *,
    keys: Callable[[int, int], slice] = lambda t, n: slice(0, t + 1),
    scale: Callable[[Array, Array, int], float] = lambda q, v, t: np.sqrt(q.shape[1]),
    softmax: Callable[[Array], Array] = _softmax,
    query: Callable[[int], int] = lambda t: t,
) -> Callable[..., Array]:
    """5.1 with another idea of which keys are kept, or of one of the steps."""

    def cached_outputs(q: Array, k: Array, v: Array) -> Array:
        rows = []
        for t in range(len(q)):
            kept = keys(t, len(q))
            scores = k[kept] @ q[query(t)] / scale(q, v, t)
            rows.append(softmax(scores) @ v[kept] if len(scores) else np.zeros(v.shape[1]))
        return np.stack(rows)

    return cached_outputs


def _raw_exp(scores: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp(scores)
        return powers / powers.sum()


def _unnormalised(scores: Array) -> Array:
    return np.exp(scores - scores.max())


def _table_and_mask(q: Array, k: Array, v: Array) -> Array:
    n = len(q)
    scores = q @ k.T / np.sqrt(q.shape[1])
    return _softmax(np.where(np.tri(n, dtype=bool), scores, -np.inf)) @ v


def _table_in_torch(q: Array, k: Array, v: Array) -> Array:
    q, k, v = (torch.as_tensor(x) for x in (q, k, v))
    scores = q @ k.T / q.shape[1] ** 0.5
    blocked = torch.triu(torch.ones(len(q), len(q), dtype=torch.bool), diagonal=1)
    return torch.softmax(scores.masked_fill(blocked, -torch.inf), dim=-1) @ v


def _whole_sentence(q: Array, k: Array, v: Array) -> Array:
    q, k, v = (torch.as_tensor(x) for x in (q, k, v))
    return torch.stack([torch.softmax(k @ row / row.shape[0] ** 0.5, 0) @ v for row in q])


def _newest_only(q: Array, k: Array, v: Array) -> Array:
    out = np.empty_like(v)
    for t, value in enumerate(v):
        key_cache, value_cache = k[t : t + 1], value[None]  # made anew in every turn
        weight = np.exp(key_cache @ q[t] - (key_cache @ q[t]).max())
        out[t] = (weight / weight.sum()) @ value_cache
    return out


def _append_last(q: Array, k: Array, v: Array) -> Array:
    keys: list[Array] = []
    values: list[Array] = []
    out = []
    for query, key, value in zip(q, k, v, strict=True):
        if keys:
            out.append(_softmax(np.array(keys) @ query / len(query) ** 0.5) @ np.array(values))
        else:
            out.append(np.zeros_like(value))
        keys.append(key)
        values.append(value)
    return np.array(out)


ONE_BY_ONE = [
    Misconception(
        "5.1",
        "no mask: the whole sentence seen",
        _row_by_row(keys=lambda t, n: slice(0, n)),
        "Every row looks at all keys, also at those of words that have not come in yet. "
        "At step t, how many keys can there be in your cache?",
        [_whole_sentence],
    ),
    Misconception(
        "5.1",
        "token does not see itself",
        _row_by_row(keys=lambda t, n: slice(0, t)),
        "Each query misses one key: its own. "
        "Look at the order of the two things that happen in a step, appending and attending.",
        [_append_last],
    ),
    Misconception(
        "5.1",
        "cache overwritten",
        _row_by_row(keys=lambda t, n: slice(t, t + 1)),
        "Each output is just the value of its own position, so nothing of the past was in the "
        "cache. Is what you kept still there in the next step, or do you start with an empty "
        "cache each time?",
        [_newest_only],
    ),
    Misconception(
        "5.1",
        "no 1/sqrt(d)",
        _row_by_row(scale=lambda q, v, t: 1.0),
        "The weights are too sharp, as they are when the dot products go straight into the "
        "softmax. One of the five steps of chapter 3 is missing between the two.",
    ),
    Misconception(
        "5.1",
        "scaled twice",
        _row_by_row(scale=lambda q, v, t: q.shape[1]),
        "The weights are too even: the scores look as if they had been divided by d, which is "
        "what happens when the root is taken in two places, or not at all.",
    ),
    Misconception(
        "5.1",
        "scale from the values",
        _row_by_row(scale=lambda q, v, t: np.sqrt(v.shape[1])),
        "The scores are divided by a root, but of the wrong width. "
        "A score is a dot product of a query and a key: how many products are added in it?",
    ),
    Misconception(
        "5.1",
        "scale from the number of keys",
        _row_by_row(scale=lambda q, v, t: np.sqrt(t + 1)),
        "Your scale changes from step to step. "
        "It makes up for the length of the vectors, which stays the same, and has nothing to do "
        "with how many keys there are.",
    ),
    Misconception(
        "5.1",
        "no maximum subtracted",
        _row_by_row(softmax=_raw_exp),
        "With small scores all is well; with scores in the thousands a power of e is infinite, "
        "and infinity divided by infinity is not a number. "
        "What can you subtract from all scores of a row without changing the weights?",
    ),
    Misconception(
        "5.1",
        "weights not normalised",
        _row_by_row(softmax=_unnormalised),
        "Your weights do not add up to 1. The second half of the softmax is missing.",
    ),
    Misconception(
        "5.1",
        "the same query in every step",
        _row_by_row(query=lambda t: 0),
        "The first row is right, and the others ask the first word's question again. "
        "Which query belongs to step t?",
    ),
    Misconception(
        "5.1",
        "T x T table",
        _table_and_mask,
        "The numbers are right, but you make a table of all queries against all keys, and its "
        "memory grows with the square of the text. "
        "With a cache there is one query at a time: how long is its row of scores?",
        [_table_in_torch],
    ),
]


# --- 5.2 a chunk against a cache -----------------------------------------------------------------


def _repeat(x: Array, n: int) -> Array:
    return np.repeat(x, n // len(x), axis=0)


def _in_turn(x: Array, n: int) -> Array:
    return np.tile(x, (n // len(x), 1, 1))


def _by_position(q_pos: Array, k_pos: Array) -> Array:
    return k_pos <= q_pos


def _attend(
    *,
    rule: Callable[[Array, Array], Array] = _by_position,
    first: Callable[[int], int] = lambda c: c,
    heads: Callable[[Array, int], Array] = _repeat,
    join: Callable[[Array, Array], Array] = lambda old, new: np.concatenate([old, new], axis=1),
    scale: Callable[[Array, Array], float] = lambda q, v: np.sqrt(q.shape[2]),
    weights: Callable[[Array, Array], Array] = lambda s, m: _softmax(np.where(m, s, -np.inf)),
    kept: Callable[..., tuple[Array, Array]] = lambda k, v, new, n: (k, v),
) -> Callable[..., tuple[Array, Array, Array]]:
    """5.2 with another idea of one of its parts."""

    def attend_chunk(
        q_new: Array, k_new: Array, v_new: Array, k_cache: Array, v_cache: Array
    ) -> tuple[Array, Array, Array]:
        k, v = join(k_cache, k_new), join(v_cache, v_new)
        n = len(q_new)
        scores = q_new @ heads(k, n).swapaxes(1, 2) / scale(q_new, v_new)
        q_pos = first(k_cache.shape[1]) + np.arange(q_new.shape[1])[:, None]
        mask = np.broadcast_to(rule(q_pos, np.arange(k.shape[1])), scores.shape[1:])
        output = weights(scores, mask) @ heads(v, n)
        return output, *kept(k, v, (k_new, v_new), n)

    return attend_chunk


def _blocked_to_zero(scores: Array, mask: Array) -> Array:
    return _softmax(scores) * mask


def _overflowing(scores: Array, mask: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.where(mask, np.exp(scores), 0.0)
        return powers / powers.sum(axis=-1, keepdims=True)


def _over_queries(scores: Array, mask: Array) -> Array:
    scores = np.where(mask, scores, -np.inf)
    peak = np.where(mask.any(axis=0), scores.max(axis=1, keepdims=True), 0.0)
    powers = np.exp(scores - peak)
    total = powers.sum(axis=1, keepdims=True)
    return powers / np.where(total == 0, 1.0, total)


def _inverted(scores: Array, mask: Array) -> Array:
    empty = mask.all(axis=-1, keepdims=True)
    scores = np.where(~mask | empty, scores, -np.inf)
    return np.where(empty, 0.0, _softmax(scores))


def _no_mask_with_a_cache(
    q_new: Array, k_new: Array, v_new: Array, k_cache: Array, v_cache: Array
) -> tuple[Array, Array, Array]:
    everything = k_cache.shape[1] > 0
    rule = (lambda q, k: k >= 0) if everything else _by_position
    return _attend(rule=rule)(q_new, k_new, v_new, k_cache, v_cache)


def _no_mask_with_a_cache_in_torch(q: Array, k: Array, v: Array, ks: Array, vs: Array) -> Any:
    q, k, v, ks, vs = (torch.as_tensor(x) for x in (q, k, v, ks, vs))
    keys, values = torch.cat([ks, k], 1), torch.cat([vs, v], 1)
    group = q.shape[0] // k.shape[0]
    scores = q @ keys.repeat_interleave(group, 0).mT / q.shape[-1] ** 0.5
    if ks.shape[1] == 0:
        blocked = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(blocked, -torch.inf)
    return scores.softmax(-1) @ values.repeat_interleave(group, 0), keys, values


def _tril_in_torch(q: Array, k: Array, v: Array, past_k: Array, past_v: Array) -> Any:
    q, k, v, past_k, past_v = (torch.as_tensor(x) for x in (q, k, v, past_k, past_v))
    k, v = torch.cat([past_k, k], dim=1), torch.cat([past_v, v], dim=1)
    group = len(q) // len(k)
    scores = q @ k.repeat_interleave(group, 0).transpose(-2, -1) / q.shape[-1] ** 0.5
    causal_mask = torch.tril(torch.ones(q.shape[1], k.shape[1]))
    scores = scores.masked_fill(causal_mask == 0, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v.repeat_interleave(group, 0), k, v


def _is_causal(q: Array, k: Array, v: Array, past_k: Array, past_v: Array) -> Any:
    q, k, v, past_k, past_v = (torch.as_tensor(x) for x in (q, k, v, past_k, past_v))
    k, v = torch.cat([past_k, k], dim=1), torch.cat([past_v, v], dim=1)
    output = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True,
                                            enable_gqa=True)  # fmt: skip
    return output[0], k, v


def _cache_ignored(
    q_new: Array, k_new: Array, v_new: Array, k_cache: Array, v_cache: Array
) -> tuple[Array, Array, Array]:
    empty_k, empty_v = k_cache[:, :0], v_cache[:, :0]
    output, _, _ = _attend()(q_new, k_new, v_new, empty_k, empty_v)
    joined = [np.concatenate(x, axis=1) for x in ((k_cache, k_new), (v_cache, v_new))]
    return output, *joined


def _tiled_in_torch(q: Array, k: Array, v: Array, ks: Array, vs: Array) -> Any:
    q, k, v, ks, vs = (torch.as_tensor(x) for x in (q, k, v, ks, vs))
    k, v = torch.cat((ks, k), 1), torch.cat((vs, v), 1)
    rows = []
    for head in range(q.shape[0]):
        of = head % k.shape[0]
        s = q[head] @ k[of].T / q.shape[-1] ** 0.5
        hidden = torch.ones_like(s, dtype=torch.bool).triu(1 + ks.shape[1])
        rows.append(s.masked_fill(hidden, -torch.inf).softmax(-1) @ v[of])
    return torch.stack(rows), k, v


def _scaled_in_place(
    q_new: Array, k_new: Array, v_new: Array, k_cache: Array, v_cache: Array
) -> tuple[Array, Array, Array]:
    q_new /= np.sqrt(q_new.shape[2]).astype(q_new.dtype)
    return _attend(scale=lambda q, v: 1.0)(q_new, k_new, v_new, k_cache, v_cache)


CHUNK = [
    Misconception(
        "5.2",
        "mask from the top left corner",
        _attend(first=lambda c: 0),
        "With an empty cache you are right. With a filled one, the first new query sees the "
        "first key and nothing else, as if it stood at the beginning of the text. "
        "Row 0 of your chunk is not position 0: which position is it?",
        [_tril_in_torch, _is_causal],
    ),
    Misconception(
        "5.2",
        "no mask with a cache",
        _no_mask_with_a_cache,
        "As soon as something is cached, every new query sees the whole chunk, its own future "
        "included. That does no harm to a chunk of one. In a chunk of three, what may the first "
        "query not see?",
        [_no_mask_with_a_cache_in_torch],
    ),
    Misconception(
        "5.2",
        "no mask at all",
        _attend(rule=lambda q, k: k >= 0),
        "Every query sees every key, also the later ones of its own chunk. "
        "Only a chunk of one new token needs no mask.",
    ),
    Misconception(
        "5.2",
        "diagonal blocked",
        _attend(
            rule=lambda q, k: k < q,
            weights=lambda s, m: _inverted(s, ~m),
        ),
        "Each query sees one key too few: its own. The causal rule lets a token look at itself.",
    ),
    Misconception(
        "5.2",
        "corner off by one",
        _attend(first=lambda c: c + 1),
        "Each query sees one key too many, the one just after it. "
        "If C positions are cached, they are 0 to C - 1. Where does the first new one stand?",
    ),
    Misconception(
        "5.2",
        "cache ignored",
        _cache_ignored,
        "The cache comes back complete, but the new queries have only looked at the new keys. "
        "Which keys should the scores be computed with?",
    ),
    Misconception(
        "5.2",
        "chunk-mates hidden",
        _attend(rule=lambda q, k: (k < q.min()) | (k == q)),
        "Your queries see the cache and themselves, but not the earlier tokens of their own "
        "chunk. Those are in the past too.",
    ),
    Misconception(
        "5.2",
        "cache overwritten",
        _attend(kept=lambda k, v, new, n: new),
        "The output is right, but the cache that you return holds the new chunk only. "
        "What will the next chunk look back at?",
    ),
    Misconception(
        "5.2",
        "K kept but not V",
        _attend(kept=lambda k, v, new, n: (k, v[:, : v.shape[1] - new[1].shape[1]])),
        "The keys that you return have grown by the chunk and the values have not. "
        "The next query will find more keys than values.",
    ),
    Misconception(
        "5.2",
        "new keys in front of the old ones",
        _attend(join=lambda old, new: np.concatenate([new, old], axis=1)),
        "You put the chunk in front of the cache. "
        "The column of a key is its position in the text, for your mask and for the next call, "
        "so the order matters.",
    ),
    Misconception(
        "5.2",
        "GQA heads confused",
        _attend(heads=_in_turn),
        "Each query head has a key head, but some have the wrong one: yours are dealt out like "
        "cards, 0, 1, 0, 1, ... In this exercise neighbours share.",
        [_tiled_in_torch],
    ),
    Misconception(
        "5.2",
        "one key head for all",
        _attend(heads=lambda x, n: np.repeat(x[:1], n, axis=0)),
        "All query heads read key head 0. That is multi-query attention; here there can be "
        "several key heads, each with a share of the query heads.",
    ),
    Misconception(
        "5.2",
        "repeated heads kept",
        _attend(kept=lambda k, v, new, n: (_repeat(k, n), _repeat(v, n))),
        "The output is right, but the cache that you return has one key head for every *query* "
        "head: the copies that you made to compute with. Sharing keys is meant to save that.",
    ),
    Misconception(
        "5.2",
        "no 1/sqrt(d)",
        _attend(scale=lambda q, v: 1.0),
        "The weights are too sharp. A step is missing between the dot products and the softmax.",
    ),
    Misconception(
        "5.2",
        "scale from the values",
        _attend(scale=lambda q, v: np.sqrt(v.shape[2])),
        "The scores are divided by the root of a width, but of the values' width. "
        "Values take no part in a score.",
    ),
    Misconception(
        "5.2",
        "softmax over the wrong axis",
        _attend(weights=_over_queries),
        "Your weights add up to 1 over the queries and not over the keys. "
        "A query has one unit of attention to hand out: along which axis do its keys lie?",
    ),
    Misconception(
        "5.2",
        "mask after softmax",
        _attend(weights=_blocked_to_zero),
        "Rows that cannot see everything have weights that add up to less than 1: the blocked "
        "keys took their share before you set it to zero.",
    ),
    Misconception(
        "5.2",
        "polarity inverted",
        _attend(weights=_inverted),
        "Your queries see just what they should not. "
        "Check what True means at the place where you fill in the minus infinity.",
    ),
    Misconception(
        "5.2",
        "no maximum subtracted",
        _attend(weights=_overflowing),
        "With small scores all is well; with scores in the thousands a power of e is infinite. "
        "What can you subtract from all scores of a row without changing its weights?",
    ),
    Misconception(
        "5.2",
        "mutated input",
        _scaled_in_place,
        "The results are right, but the queries that you were given are no longer what they "
        "were: something like /= or masked_fill_ works on the caller's own array.",
    ),
]


# --- 5.3 the static cache ------------------------------------------------------------------------


class _Static:
    """A right answer whose parts the wrong ones replace."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.k: Array = None
        self.v: Array = None

    def allocate(self, k: Array, v: Array) -> None:
        if self.k is None:
            self.k, self.v = (
                np.zeros((len(x), self.capacity, x.shape[2]), x.dtype) for x in (k, v)
            )

    def put(self, k: Array, v: Array, at: int) -> None:
        end = at + k.shape[1]
        self.k[:, at:end] = k
        self.v[:, at:end] = v

    def check(self, k: Array) -> None:
        if self.length + k.shape[1] > self.capacity:
            raise ValueError("full")

    def append(self, k: Array, v: Array) -> None:
        self.check(k)
        self.allocate(k, v)
        self.put(k, v, self.length)
        self.length += k.shape[1]

    def view(self) -> tuple[Array, Array]:
        return self.k[:, : self.length], self.v[:, : self.length]


class _Overwritten(_Static):
    def append(self, k: Array, v: Array) -> None:
        self.check(k)
        self.allocate(k, v)
        self.put(k, v, 0)
        self.length += k.shape[1]


class _OverwrittenInTorch:
    def __init__(self, capacity: int) -> None:
        self.room, self.used, self.keys = capacity, 0, None

    def append(self, k: Array, v: Array) -> None:
        k, v = torch.as_tensor(k), torch.as_tensor(v)
        if self.used + k.shape[1] > self.room:
            raise ValueError("no room")
        if self.keys is None:
            self.keys = k.new_zeros(k.shape[0], self.room, k.shape[2])
            self.values = v.new_zeros(v.shape[0], self.room, v.shape[2])
        self.keys[:, : k.shape[1]] = k
        self.values[:, : v.shape[1]] = v
        self.used += k.shape[1]

    def view(self) -> tuple[Array, Array]:
        return self.keys[:, : self.used], self.values[:, : self.used]


class _LastChunk(_Static):
    def append(self, k: Array, v: Array) -> None:
        self.check(k)
        self.k, self.v = k.copy(), v.copy()
        self.length += k.shape[1]

    def view(self) -> tuple[Array, Array]:
        return self.k, self.v


class _NoCopy(_Static):
    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.chunks: list[tuple[Array, Array]] = []

    def append(self, k: Array, v: Array) -> None:
        self.check(k)
        self.chunks.append((k, v))
        self.length += k.shape[1]

    def view(self) -> tuple[Array, Array]:
        k, v = zip(*self.chunks, strict=True)
        return np.concatenate(k, axis=1), np.concatenate(v, axis=1)


class _NoCopyInTorch(_NoCopy):
    def append(self, k: Array, v: Array) -> None:
        self.check(k)
        self.chunks.append((torch.from_numpy(k), torch.from_numpy(v)))
        self.length += k.shape[1]

    def view(self) -> tuple[Array, Array]:
        k, v = zip(*self.chunks, strict=True)
        return torch.cat(k, dim=1), torch.cat(v, dim=1)


class _Grows(_Static):
    def append(self, k: Array, v: Array) -> None:
        self.check(k)
        if self.k is None:
            self.k, self.v = k.copy(), v.copy()
        else:
            self.k, self.v = (np.concatenate(pair, axis=1) for pair in ((self.k, k), (self.v, v)))
        self.length += k.shape[1]


class _CopyingView(_Static):
    def view(self) -> tuple[Array, Array]:
        return self.k[:, : self.length].copy(), self.v[:, : self.length].copy()


class _WholeBuffer(_Static):
    def view(self) -> tuple[Array, Array]:
        return self.k, self.v


class _Float64(_Static):
    def allocate(self, k: Array, v: Array) -> None:
        if self.k is None:
            self.k = np.zeros((k.shape[0], self.capacity, k.shape[2]))
            self.v = np.zeros((v.shape[0], self.capacity, v.shape[2]))


class _SharedStatic(_Static):
    held: Array = None  # an attribute of the class, and so of all its objects
    count = 0

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        _SharedStatic.held, _SharedStatic.count = None, 0

    def append(self, k: Array, v: Array) -> None:
        this, end = _SharedStatic, _SharedStatic.count + k.shape[1]
        if end > self.capacity:
            raise ValueError("full")
        if this.held is None:
            this.held = [np.zeros((len(x), self.capacity, x.shape[2]), x.dtype) for x in (k, v)]
        for buffer, new in zip(this.held, (k, v), strict=True):
            buffer[:, this.count : end] = new
        this.count = end

    def view(self) -> tuple[Array, Array]:
        k, v = _SharedStatic.held
        return k[:, : _SharedStatic.count], v[:, : _SharedStatic.count]


class _DropsTheRest(_Static):
    def append(self, k: Array, v: Array) -> None:
        self.allocate(k, v)
        fits = min(k.shape[1], self.capacity - self.length)
        self.put(k[:, :fits], v[:, :fits], self.length)
        self.length += fits


class _HalfWritten(_Static):
    def append(self, k: Array, v: Array) -> None:
        self.allocate(k, v)
        for t in range(k.shape[1]):
            if self.length == self.capacity:
                raise ValueError("full")
            self.put(k[:, t : t + 1], v[:, t : t + 1], self.length)
            self.length += 1


class _CountsFirst(_Static):
    def append(self, k: Array, v: Array) -> None:
        start = self.length
        self.length += k.shape[1]
        if self.length > self.capacity:
            raise ValueError("full")
        self.allocate(k, v)
        self.put(k, v, start)


class _FullTooEarly(_Static):
    def check(self, k: Array) -> None:
        if self.length + k.shape[1] >= self.capacity:
            raise ValueError("full")


class _NoCheck(_Static):
    def check(self, k: Array) -> None:
        pass

    def append(self, k: Array, v: Array) -> None:
        super().append(k, v)
        self.length = min(self.length, self.capacity)


class _NeverFull(_Grows):
    def check(self, k: Array) -> None:
        pass


class _WrapsAround(_Static):
    def append(self, k: Array, v: Array) -> None:
        self.allocate(k, v)
        slots = np.arange(self.length, self.length + k.shape[1]) % self.capacity
        self.k[:, slots], self.v[:, slots] = k, v
        self.length += k.shape[1]


class _StartsAgain(_Static):
    def check(self, k: Array) -> None:
        if self.length + k.shape[1] > self.capacity:
            self.length = 0


class _OtherError(_Static):
    def check(self, k: Array) -> None:
        if self.length + k.shape[1] > self.capacity:
            raise IndexError("full")


class _Asserts(_Static):
    def check(self, k: Array) -> None:
        assert self.length + k.shape[1] <= self.capacity, "full"


class _OneAnAppend(_Static):
    def append(self, k: Array, v: Array) -> None:
        if self.length + 1 > self.capacity:
            raise ValueError("full")
        self.allocate(k, v)
        self.put(k[:, :1], v[:, :1], self.length)
        self.length += 1


class _CountsAppends(_Static):
    def append(self, k: Array, v: Array) -> None:
        self.check(k)
        self.allocate(k, v)
        self.put(k, v, self.length)
        self.length += 1


class _KeysTwice(_Static):
    def put(self, k: Array, v: Array, at: int) -> None:
        self.k[:, at : at + k.shape[1]] = k

    def view(self) -> tuple[Array, Array]:
        return self.k[:, : self.length], self.k[:, : self.length]


class _CapacityPerChunk(_Static):
    def check(self, k: Array) -> None:
        if k.shape[1] > self.capacity:
            raise ValueError("full")

    def allocate(self, k: Array, v: Array) -> None:
        if self.k is None:
            many = 8 * self.capacity
            self.k, self.v = (np.zeros((len(x), many, x.shape[2]), x.dtype) for x in (k, v))


STATIC = [
    Misconception(
        "5.3",
        "cache overwritten",
        _Overwritten,
        "Each chunk goes to the beginning of the buffer, on top of the one before it. "
        "Where does the next free slot begin?",
        [_OverwrittenInTorch],
    ),
    Misconception(
        "5.3",
        "only the last chunk kept",
        _LastChunk,
        "`view` returns the last chunk and nothing of the earlier ones. "
        "Where in `append` does what was held get lost?",
    ),
    Misconception(
        "5.3",
        "cache without copy",
        _NoCopy,
        "After the caller wrote into the arrays that were handed in, your cache showed the new "
        "numbers: you have kept the caller's arrays themselves. "
        "Copy their numbers into memory of your own.",
        [_NoCopyInTorch],
    ),
    Misconception(
        "5.3",
        "grows by concatenation",
        _Grows,
        "All values are right, but each `append` makes new, longer arrays, and while it copies, "
        "the old and the new ones exist at once. You know the capacity: how often does memory "
        "have to be taken?",
    ),
    Misconception(
        "5.3",
        "view makes a copy",
        _CopyingView,
        "All values are right, but `view` copies everything that is held, at every step of a "
        "generation. Ask for a window into the buffer instead.",
    ),
    Misconception(
        "5.3",
        "buffers of float64",
        _Float64,
        "All values are right, but your buffers take twice the memory of what goes into them: "
        "`np.zeros` makes float64 unless you ask for something else. A model in half precision "
        "would pay four times what it has to.",
    ),
    Misconception(
        "5.3",
        "empty slots shown",
        _WholeBuffer,
        "`view` shows the whole buffer, also the slots that nothing has been written to. "
        "A query would attend to those zeros. How many positions are held?",
    ),
    Misconception(
        "5.3",
        "drops what does not fit",
        _DropsTheRest,
        "A chunk that does not fit is cut off without a word. "
        "The model would go on with a hole in its memory, and nobody would know.",
    ),
    Misconception(
        "5.3",
        "half written before the error",
        _HalfWritten,
        "The error comes, but by then a part of the chunk is in the cache. "
        "A caller who catches it and tries a smaller chunk feeds those positions twice. "
        "When do you have to ask whether the chunk fits?",
    ),
    Misconception(
        "5.3",
        "counts before it checks",
        _CountsFirst,
        "The error comes, but the cache has already counted the chunk that it refused. "
        "After a failed call, everything must be as it was, also your counter.",
    ),
    Misconception(
        "5.3",
        "full one position too early",
        _FullTooEarly,
        "A cache with room for `capacity` positions refuses the last of them. "
        "Look at the comparison: is a chunk that fills it exactly too much?",
    ),
    Misconception(
        "5.3",
        "left to NumPy",
        _NoCheck,
        "You rely on NumPy to refuse what does not fit. It often does, but a chunk of *one* "
        "position is stretched to fit any slice, also an empty one: it vanishes without an error.",
    ),
    Misconception(
        "5.3",
        "never full",
        _NeverFull,
        "This cache takes more than `capacity` positions. "
        "Its memory was planned for `capacity`; where is that limit enforced?",
    ),
    Misconception(
        "5.3",
        "wraps around",
        _WrapsAround,
        "When it is full, this cache writes on top of the oldest positions, as a ring does. "
        "A model without a window still needs those; here the caller has to be told.",
    ),
    Misconception(
        "5.3",
        "starts again when full",
        _StartsAgain,
        "When it is full, this cache forgets everything and starts again. "
        "Here the caller has to be told, and nothing may be lost.",
    ),
    Misconception(
        "5.3",
        "another error",
        _OtherError,
        "It does refuse the chunk, but with another kind of error than the task names, so a "
        "caller who is ready for that one is not ready for yours.",
    ),
    Misconception(
        "5.3",
        "assert instead of an error",
        _Asserts,
        "An `assert` raises AssertionError, not what the task names, and it is gone altogether "
        "when Python runs with -O. State the error yourself.",
    ),
    Misconception(
        "5.3",
        "one position an append",
        _OneAnAppend,
        "Of each chunk only the first position is kept. A chunk can have several: which axis "
        "counts them?",
    ),
    Misconception(
        "5.3",
        "counts appends, not positions",
        _CountsAppends,
        "Your counter goes up by one for each `append`, however many positions came in, so the "
        "next chunk lands on top of this one.",
    ),
    Misconception(
        "5.3",
        "K kept but not V",
        _KeysTwice,
        "The keys are right, and in place of the values the keys come back again.",
    ),
    Misconception(
        "5.3",
        "one memory for all caches",
        _SharedStatic,
        "One cache is right, but two of them get in each other's way: what one is given, the "
        "other shows. A model has a cache for each layer. Where do your buffers live: in the "
        "object, or in something that all objects share?",
    ),
    Misconception(
        "5.3",
        "capacity of a chunk",
        _CapacityPerChunk,
        "You compare the capacity with the size of the chunk. "
        "It limits all positions together, those held already included.",
    ),
]


# --- 5.4 the ring --------------------------------------------------------------------------------


class _Ring:
    """A right answer whose parts the wrong ones replace."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.seen = 0
        self.k: Array = None
        self.v: Array = None

    def allocate(self, k: Array, v: Array) -> None:
        if self.k is None:
            self.k, self.v = (np.zeros((len(x), self.window, x.shape[2]), x.dtype) for x in (k, v))

    def append(self, k: Array, v: Array) -> None:
        self.allocate(k, v)
        for t in range(k.shape[1]):
            self.k[:, self.seen % self.window] = k[:, t]
            self.v[:, self.seen % self.window] = v[:, t]
            self.seen += 1

    def slots(self) -> Array:
        return np.arange(max(0, self.seen - self.window), self.seen) % self.window

    def view(self) -> tuple[Array, Array]:
        slots = self.slots()
        return self.k[:, slots], self.v[:, slots]


class _SlotOrder(_Ring):
    def slots(self) -> Array:
        return np.arange(min(self.seen, self.window))


class _SlotOrderInTorch:
    def __init__(self, window: int) -> None:
        self.w, self.next, self.full, self.k = window, 0, False, None

    def append(self, k: Array, v: Array) -> None:
        k, v = torch.as_tensor(k), torch.as_tensor(v)
        if self.k is None:
            self.k = torch.zeros(len(k), self.w, k.shape[2], dtype=k.dtype)
            self.v = torch.zeros(len(v), self.w, v.shape[2], dtype=v.dtype)
        for t in range(k.shape[1]):
            self.k[:, self.next], self.v[:, self.next] = k[:, t], v[:, t]
            self.next = self.next + 1
            if self.next == self.w:
                self.next, self.full = 0, True

    def view(self) -> tuple[Array, Array]:
        end = self.w if self.full else self.next
        return self.k[:, :end], self.v[:, :end]


class _SharedRing(_Ring):
    held: Array = None  # an attribute of the class, and so of all its objects

    def __init__(self, window: int) -> None:
        self.window = window
        _SharedRing.held = None

    def append(self, k: Array, v: Array) -> None:
        old = _SharedRing.held or (k[:, :0], v[:, :0])
        _SharedRing.held = [
            np.concatenate(pair, axis=1)[:, -self.window :].copy()
            for pair in zip(old, (k, v), strict=True)
        ]

    def view(self) -> tuple[Array, Array]:
        return tuple(_SharedRing.held)


class _OneTooMany(_Ring):
    def __init__(self, window: int) -> None:
        super().__init__(window + 1)


class _OneTooManySliced:
    def __init__(self, window: int) -> None:
        self.window, self.k = window, None

    def append(self, k: Array, v: Array) -> None:
        k = k.copy() if self.k is None else np.concatenate([self.k, k], axis=1)
        v = v.copy() if self.k is None else np.concatenate([self.v, v], axis=1)
        start = max(k.shape[1] - 1 - self.window, 0)
        self.k, self.v = k[:, start:].copy(), v[:, start:].copy()

    def view(self) -> tuple[Array, Array]:
        return self.k, self.v


class _OneTooFew(_Ring):
    def slots(self) -> Array:
        first = max(0, self.seen - self.window + 1)
        return np.arange(first, self.seen) % self.window


class _EmptySlots(_Ring):
    def slots(self) -> Array:
        return np.arange(self.seen, self.seen + self.window) % self.window


class _PointerStartsAgain(_Ring):
    def append(self, k: Array, v: Array) -> None:
        self.allocate(k, v)
        for t in range(k.shape[1]):
            self.k[:, t % self.window] = k[:, t]
            self.v[:, t % self.window] = v[:, t]
            self.seen += 1


class _OneAnAppendRing(_Ring):
    def append(self, k: Array, v: Array) -> None:
        super().append(k[:, :1], v[:, :1])


class _FirstOfALongChunk(_Ring):
    def append(self, k: Array, v: Array) -> None:
        super().append(k[:, : self.window], v[:, : self.window])


class _NeverForgets(_Ring):
    def append(self, k: Array, v: Array) -> None:
        self.k = k.copy() if self.k is None else np.concatenate([self.k, k], axis=1)
        self.v = v.copy() if self.v is None else np.concatenate([self.v, v], axis=1)

    def view(self) -> tuple[Array, Array]:
        return self.k[:, -self.window :], self.v[:, -self.window :]


class _ListNeverForgets:
    def __init__(self, window: int) -> None:
        self.window = window
        self.keys: list[Array] = []
        self.values: list[Array] = []

    def append(self, k: Array, v: Array) -> None:
        for t in range(k.shape[1]):
            self.keys.append(k[:, t].copy())
            self.values.append(v[:, t].copy())

    def view(self) -> tuple[Array, Array]:
        last = slice(-self.window, None)
        return np.stack(self.keys[last], axis=1), np.stack(self.values[last], axis=1)


class _LastChunks:
    def __init__(self, window: int) -> None:
        self.window = window
        self.chunks: list[tuple[Array, Array]] = []

    def append(self, k: Array, v: Array) -> None:
        self.chunks = [*self.chunks, (k.copy(), v.copy())][-self.window :]

    def view(self) -> tuple[Array, Array]:
        k, v = zip(*self.chunks, strict=True)
        return np.concatenate(k, axis=1), np.concatenate(v, axis=1)


class _RingWithoutCopy(_LastChunks):
    def append(self, k: Array, v: Array) -> None:
        self.chunks.append((k, v))
        while sum(c[0].shape[1] for c in self.chunks[1:]) >= self.window:
            self.chunks.pop(0)

    def view(self) -> tuple[Array, Array]:
        k, v = super().view()
        return k[:, -self.window :], v[:, -self.window :]


class _Overflows(_Ring):
    def append(self, k: Array, v: Array) -> None:
        if self.seen + k.shape[1] > self.window:
            raise ValueError("full")
        super().append(k, v)


class _TornPairs(_Ring):
    def view(self) -> tuple[Array, Array]:
        return self.k[:, self.slots()], self.v[:, : min(self.seen, self.window)]


class _NewestFirst(_Ring):
    def slots(self) -> Array:
        return super().slots()[::-1]


class _ClearsWhenFull(_Ring):
    def append(self, k: Array, v: Array) -> None:
        self.allocate(k, v)
        for t in range(k.shape[1]):
            if self.seen == self.window:
                self.seen = 0
            self.k[:, self.seen], self.v[:, self.seen] = k[:, t], v[:, t]
            self.seen += 1


class _StopsWhenFull(_Ring):
    def append(self, k: Array, v: Array) -> None:
        room = max(self.window - self.seen, 0)
        self.allocate(k, v)
        super().append(k[:, :room], v[:, :room])


RING = [
    Misconception(
        "5.4",
        "slots as they lie in memory",
        _SlotOrder,
        "The right positions are held, but they come out in the order of the slots. "
        "Once the ring has come round, the oldest position no longer lies in slot 0. Where does "
        "it lie?",
        [_SlotOrderInTorch],
    ),
    Misconception(
        "5.4",
        "ring off by one: one too many",
        _OneTooMany,
        "You keep one position more than the window. "
        "The width counts the token itself: a window of 3 is three keys.",
        [_OneTooManySliced],
    ),
    Misconception(
        "5.4",
        "ring off by one: one too few",
        _OneTooFew,
        "Once the ring is full, the oldest position that it should show is missing. "
        "Count how many positions lie from your first to your last.",
    ),
    Misconception(
        "5.4",
        "empty slots shown",
        _EmptySlots,
        "Before the ring is full, `view` shows slots that nothing has been written to. "
        "A query would attend to those zeros.",
    ),
    Misconception(
        "5.4",
        "pointer starts again",
        _PointerStartsAgain,
        "Each chunk begins at slot 0 again, wherever the last one ended. "
        "A position's slot follows from its place in the whole text, not in its chunk.",
    ),
    Misconception(
        "5.4",
        "one position an append",
        _OneAnAppendRing,
        "Of each chunk only the first position is kept. A chunk can have several.",
    ),
    Misconception(
        "5.4",
        "first part of a long chunk kept",
        _FirstOfALongChunk,
        "If a chunk is longer than the window, you keep the beginning of it. "
        "Which of its positions will the next query ask for?",
    ),
    Misconception(
        "5.4",
        "never forgets",
        _NeverForgets,
        "`view` is right, but everything that ever came in is still stored behind it. "
        "The point of a ring is that a long text takes no more memory than a short one.",
        [_ListNeverForgets],
    ),
    Misconception(
        "5.4",
        "keeps chunks, not positions",
        _LastChunks,
        "You keep the last `window` chunks. The window counts positions.",
    ),
    Misconception(
        "5.4",
        "cache without copy",
        _RingWithoutCopy,
        "After the caller wrote into the arrays that were handed in, your cache showed the new "
        "numbers: you have kept the caller's arrays themselves.",
    ),
    Misconception(
        "5.4",
        "overflows",
        _Overflows,
        "This ring refuses new positions when it is full. "
        "It should make room for them: what may it forget?",
    ),
    Misconception(
        "5.4",
        "keys and values torn apart",
        _TornPairs,
        "The keys are in the order of the text and the values in the order of the slots, so a "
        "key no longer stands beside its own value.",
    ),
    Misconception(
        "5.4",
        "newest first",
        _NewestFirst,
        "The right positions, back to front. The task asks for the oldest first.",
    ),
    Misconception(
        "5.4",
        "forgets everything when full",
        _ClearsWhenFull,
        "When the ring has come round, all that it held is forgotten at once. "
        "A window slides: each new position pushes out one old one.",
    ),
    Misconception(
        "5.4",
        "one memory for all caches",
        _SharedRing,
        "One ring is right, but two of them get in each other's way: what one is given, the "
        "other shows. Where does your memory live: in the object, or in something that all "
        "objects share?",
    ),
    Misconception(
        "5.4",
        "takes nothing more when full",
        _StopsWhenFull,
        "Your cache keeps the *first* positions of the text and ignores what comes after. "
        "A window follows the newest.",
    ),
]


# --- 5.5 bytes -----------------------------------------------------------------------------------


def _bytes(layers: int, heads: int, size: int, tokens: int, batch: int, each: int) -> int:
    return 2 * layers * heads * size * tokens * batch * each


BYTES = [
    Misconception(
        "5.5",
        "K counted but not V",
        lambda *a: _bytes(*a) // 2,
        "Your number is half of the right one. Something is kept in a pair.",
        [
            lambda layers, kv_heads, head_dim, tokens, batch, bytes_per_value: int(
                np.prod([layers, kv_heads, head_dim, tokens, batch, bytes_per_value], dtype=object)
            )
        ],
    ),
    Misconception(
        "5.5",
        "bits for bytes",
        lambda *a: 8 * _bytes(*a),
        "Your number is eight times the right one: `bytes_per_value` is in bytes already.",
    ),
    Misconception(
        "5.5",
        "queries kept too",
        lambda *a: _bytes(*a) // 2 * 3,
        "You count three vectors a token. Which of query, key and value does no later token "
        "ever ask for?",
    ),
    Misconception(
        "5.5",
        "batch forgotten",
        lambda layers, heads, size, tokens, batch, each: _bytes(
            layers, heads, size, tokens, 1, each
        ),
        "Right for a single text. With several, does any of them share its keys with another?",
    ),
    Misconception(
        "5.5",
        "layers forgotten",
        lambda layers, heads, size, tokens, batch, each: _bytes(
            1, heads, size, tokens, batch, each
        ),
        "That is the bill of one layer. Each has its own keys and values.",
    ),
    Misconception(
        "5.5",
        "key heads forgotten",
        lambda layers, heads, size, tokens, batch, each: _bytes(
            layers, 1, size, tokens, batch, each
        ),
        "`head_dim` is the size of one head's key, and there are several heads with keys of "
        "their own.",
    ),
    Misconception(
        "5.5",
        "T x T table counted",
        lambda layers, heads, size, tokens, batch, each: (
            layers * heads * tokens * tokens * batch * each
        ),
        "Your number grows with the square of the tokens: that is the table of attention "
        "weights, which is not kept. What is kept for each token?",
    ),
    Misconception(
        "5.5",
        "size of a value ignored",
        lambda layers, heads, size, tokens, batch, each: _bytes(
            layers, heads, size, tokens, batch, 1
        ),
        "You have counted the numbers that are kept, and not yet the bytes that each takes.",
    ),
    Misconception(
        "5.5",
        "always two bytes",
        lambda layers, heads, size, tokens, batch, each: _bytes(
            layers, heads, size, tokens, batch, 2
        ),
        "Right in bfloat16, but not for other types: one of the arguments has no effect.",
    ),
    Misconception(
        "5.5",
        "gigabytes",
        lambda *a: _bytes(*a) / 1e9,
        "The task asks for bytes, and your number is in a larger unit.",
        [lambda *a: _bytes(*a) / 1_000_000_000],
    ),
    Misconception(
        "5.5",
        "kibibytes",
        lambda *a: _bytes(*a) / 1024,
        "The task asks for bytes, and your number is in a larger unit: it is 1,024 times too "
        "small.",
        [lambda *a: _bytes(*a) / 2**10],
    ),
    Misconception(
        "5.5",
        "a float",
        lambda *a: float(_bytes(*a)),
        "Bytes are counted, so the answer is an int. A float has 53 bits for its digits, and "
        "for a large number it rounds. Is there a division or a decimal point in your product?",
        [lambda *a: 2.0 * _bytes(*a) / 2],
    ),
    Misconception(
        "5.5",
        "pair counted twice",
        lambda *a: 2 * _bytes(*a),
        "Your number is twice the right one. Keys and values make two vectors a token, not four: "
        "`kv_heads` heads have a key and a value each.",
    ),
    Misconception(
        "5.5",
        "added, not multiplied",
        lambda layers, heads, size, tokens, batch, each: (
            2 * (layers + heads + size + tokens + batch) * each
        ),
        "Each layer has all the heads, and each head keeps all the tokens. Sum or product?",
    ),
]


# --- 5.6 generate --------------------------------------------------------------------------------


def _refeeds(step: Any, prompt: list[int], n: int) -> list[int]:
    text = list(prompt)
    for _ in range(n):
        text.append(int(np.argmax(step(text))))
    return text[len(prompt) :]


def _refeeds_recursively(step: Any, prompt: list[int], n: int) -> list[int]:
    if n == 0:
        return []
    word = int(torch.as_tensor(step(prompt)).argmax())
    return [word, *_refeeds_recursively(step, [*prompt, word], n - 1)]


def _last_twice(step: Any, prompt: list[int], n: int) -> list[int]:
    if n > 0:
        step(prompt)
    word, new = prompt[-1], []
    for _ in range(n):
        word = int(np.argmax(step([word])))
        new.append(word)
    return new


def _last_twice_in_a_while(step: Any, prompt: list[int], n: int) -> list[int]:
    written: list[int] = []
    if n:
        for token in prompt:
            step([token])
    while len(written) < n:
        written += [int(step(([*prompt, *written])[-1:]).argmax())]
    return written


def _prompt_not_fed(step: Any, prompt: list[int], n: int) -> list[int]:
    word, new = prompt[-1], []
    for _ in range(n):
        word = int(np.argmax(step([word])))
        new.append(word)
    return new


def _last_word_fed(step: Any, prompt: list[int], n: int) -> list[int]:
    new: list[int] = []
    logits = step(prompt)
    for _ in range(n):
        new.append(int(np.argmax(logits)))
        logits = step(new[-1:])
    return new


def _with_prompt(step: Any, prompt: list[int], n: int) -> list[int]:
    text, unread = list(prompt), list(prompt)
    for _ in range(n):
        unread = [int(np.argmax(step(unread)))]
        text += unread
    return text


def _counted(extra: int) -> Callable[..., list[int]]:
    def generate(step: Any, prompt: list[int], n: int) -> list[int]:
        new, unread = [], list(prompt)
        for _ in range(max(n + extra, 0)):
            unread = [int(np.argmax(step(unread)))]
            new += unread
        return new

    return generate


def _one_look(step: Any, prompt: list[int], n: int) -> list[int]:
    return [int(j) for j in np.argsort(-step(prompt))[:n]] if n else []


def _same_logits(step: Any, prompt: list[int], n: int) -> list[int]:
    return [int(np.argmax(step(prompt)))] * n if n else []


def _prompt_changed(step: Any, prompt: list[int], n: int) -> list[int]:
    start, unread = len(prompt), prompt[:]
    for _ in range(n):
        unread = [int(np.argmax(step(unread)))]
        prompt += unread
    return prompt[start:]


def _smallest(step: Any, prompt: list[int], n: int) -> list[int]:
    new, unread = [], list(prompt)
    for _ in range(n):
        unread = [int(np.argmin(step(unread)))]
        new += unread
    return new


def _without_last(step: Any, prompt: list[int], n: int) -> list[int]:
    new, unread = [], list(prompt[:-1]) or list(prompt)
    for _ in range(n):
        unread = [int(np.argmax(step(unread)))]
        new += unread
    return new


def _logit_not_token(step: Any, prompt: list[int], n: int) -> list[int]:
    new, unread = [], list(prompt)
    for _ in range(n):
        unread = [int(np.max(step(unread)))]
        new += unread
    return new


GENERATE = [
    Misconception(
        "5.6",
        "everything fed again",
        _refeeds,
        "In each step you feed the whole text so far. That is right for a model without a "
        "cache. This one remembers, so it has now read your prompt several times over, and "
        "continues a text that nobody wrote.",
        [_refeeds_recursively],
    ),
    Misconception(
        "5.6",
        "last prompt token fed twice",
        _last_twice,
        "The last token of the prompt goes in twice: once with the prompt, and once more to "
        "start the loop. The logits that you need first are already there after the prompt. "
        "Where did they go?",
        [_last_twice_in_a_while],
    ),
    Misconception(
        "5.6",
        "prompt not fed",
        _prompt_not_fed,
        "The model has only read the last token of the prompt. Its cache was empty when you "
        "began: nobody has told it the rest.",
    ),
    Misconception(
        "5.6",
        "last new token fed too",
        _last_word_fed,
        "The tokens are right, but the model reads one more than it has to: nobody asks what "
        "comes after the last token. How many times must the model be called for n new tokens?",
    ),
    Misconception(
        "5.6",
        "prompt returned too",
        _with_prompt,
        "The new tokens are right, but your list begins with the prompt.",
    ),
    Misconception(
        "5.6",
        "one token short",
        _counted(-1),
        "There is one token less than asked for. The logits after the prompt give a token too.",
    ),
    Misconception(
        "5.6",
        "one token too many",
        _counted(1),
        "There is one token more than asked for. Count the turns of your loop for n = 1.",
    ),
    Misconception(
        "5.6",
        "all tokens from one look",
        _one_look,
        "You took the n likeliest tokens after the prompt. These are n candidates for *one* "
        "place. The second new token depends on the first: the model has to read that first.",
    ),
    Misconception(
        "5.6",
        "new tokens never fed",
        _same_logits,
        "The same token comes again and again, because the model never gets to read what was "
        "chosen.",
    ),
    Misconception(
        "5.6",
        "prompt changed",
        _prompt_changed,
        "The tokens are right, but the caller's list has grown: you have appended to the "
        "`prompt` itself.",
    ),
    Misconception(
        "5.6",
        "smallest logit",
        _smallest,
        "You take the least likely token each time.",
    ),
    Misconception(
        "5.6",
        "logit for token",
        _logit_not_token,
        "You return the largest logit itself. Which *position* in the array has it?",
    ),
    Misconception(
        "5.6",
        "last prompt token not fed",
        _without_last,
        "The model has not read the last token of the prompt, so its first word continues a "
        "shorter text.",
    ),
]

MISCONCEPTIONS = [*ONE_BY_ONE, *CHUNK, *STATIC, *RING, *BYTES, *GENERATE]


def last_query_only(q, k, v):
    return _row_by_row()(np.repeat(q[-1:], len(q), axis=0), k, v)


class FirstChunkKept:
    """Concatenates, which copies, except for the first chunk."""

    def __init__(self, window):
        self.window, self.k, self.v = window, None, None

    def append(self, k, v):
        if self.k is not None:
            k, v = np.concatenate([self.k, k], axis=1), np.concatenate([self.v, v], axis=1)
        self.k, self.v = k[:, -self.window :], v[:, -self.window :]

    def view(self):
        return self.k, self.v


MISCONCEPTIONS += [
    Misconception(
        "5.1",
        "the last query in every step",
        last_query_only,
        "The last output is right and the others are not: each step asks with the query of the "
        "last position. Whose turn is it in step t?",
    ),
    Misconception(
        "5.2",
        "old cache returned",
        _attend(kept=lambda k, v, new, n: tuple(
            a[:, : a.shape[1] - b.shape[1]] for a, b in zip((k, v), new, strict=True))),
        "The output is right, but the cache that you return is the old one, without the chunk. "
        "What will the next chunk look back at?",
    ),
    Misconception(
        "5.4",
        "first chunk without copy",
        FirstChunkKept,
        "What you hold at first is a window into the caller's array: when the caller writes into "
        "it, your cache changes. Later chunks are copied when they are joined, the first is not.",
    ),
    Misconception(
        "5.5",
        "kibibytes, rounded down",
        lambda *a: _bytes(*a) // 1024,
        "The task asks for bytes, and your number is in a larger unit: it is 1,024 times too "
        "small, and what is left over is lost.",
    ),
]  # fmt: skip
