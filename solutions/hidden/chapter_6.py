"""Hidden checks of chapter 6: the prefix mask, its weights, windows, targets, valid caches.

Inputs are fresh for every seed. What is right is computed here; the scripts hold inputs only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course_lib.checks.script import Call, Case, Outcome
from course_lib.example import K, Q, V
from course_lib.masks import causal, full, prefix_lm, sinks, sliding_window
from course_lib.trace import trace
from course_tools.exercise_bank.assertions import (
    as_array,
    as_tuple,
    close,
    equal,
    returns_bool,
    unchanged,
)
from course_tools.exercise_bank.claims import Claim, Hidden, WrongError

Rng = np.random.Generator
Array = Any


# --- 6.1 the prefix mask -------------------------------------------------------------------------


def _in_between(rng: Rng) -> list[Case]:
    sizes = [(n, int(rng.integers(2, n - 1))) for n in rng.integers(6, 20, size=3).tolist()]
    return [Case([Call(size)], "n = {}, p = {}".format(*size)) for size in [*sizes, (5, 2)]]


def _ends(rng: Rng) -> list[Case]:
    n = int(rng.integers(6, 12))
    sizes = [(n, 0), (n, 1), (n, n), (n, n - 1), (1, 0), (1, 1)]
    return [Case([Call(size)], "n = {}, p = {}".format(*size)) for size in sizes]


def _batches(rng: Rng) -> list[Case]:
    cases = []
    for n, texts in ((7, 3), (4, 4), (6, 1), (3, 5)):
        p = rng.integers(0, n + 1, size=texts)
        p[0] = n // 2
        cases.append(Case([Call((n, p))], f"n = {n}, p = {p.tolist()}"))
    return cases


def _masks(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> list[tuple[Array, int, str]]:
    found = []
    for case, outcome in zip(cases, outcomes, strict=True):
        n, p = case.calls[0].args
        found.append((returns_bool(outcome.values[0], (n, n)), p, case.note))
    return found


def _prefix_is_open(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for mask, p, note in _masks(cases, outcomes):
        if not mask[:, :p].all():
            raise WrongError(f"not every token sees the whole prefix ({note})")


def _suffix_is_causal(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for mask, p, note in _masks(cases, outcomes):
        if mask[:p, p:].any():
            raise WrongError(f"a token of the prefix sees something after the prefix ({note})")
        equal(mask[p:, p:], causal().matrix(len(mask) - p), f"the part after the prefix ({note})")


def _ends_are_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for mask, p, note in _masks(cases, outcomes):
        rule = full() if p == len(mask) else prefix_lm(p)
        equal(mask, rule.matrix(len(mask)), f"the mask ({note})")


def _batches_are_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        n, p = case.calls[0].args
        what = f"the masks ({case.note})"
        got = returns_bool(outcome.values[0], (len(p), 1, n, n), what)
        equal(got, np.stack([prefix_lm(int(one)).matrix(n)[None] for one in p]), what)
    unchanged(outcomes)


PREFIX = Hidden(
    "6.1",
    [
        Claim("everybody sees the whole prefix", _in_between, _prefix_is_open),
        Claim("the prefix sees nothing after it, the rest is causal", _in_between,
              _suffix_is_causal),
        Claim("right at both ends", _ends, _ends_are_right),
        Claim("several prefixes at once", _batches, _batches_are_right, 2),
    ],
)  # fmt: skip


# --- 6.2 the weights -----------------------------------------------------------------------------


def _value(rng: Rng) -> list[Case]:
    return [Case([], "the value")]


def _table_for(index: int) -> Callable[[Sequence[Case], Sequence[Outcome]], None]:
    def judge(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
        p = index + 2
        tables = as_array(outcomes[0].values[0], (2, 5, 5), "number", "PREFIX_WEIGHTS")
        want = trace(Q, K, V, prefix_lm(p)).weights
        close(tables[index], want, f"the table for p = {p}", rtol=0, atol=2e-4)

    return judge


WEIGHTS = Hidden(
    "6.2",
    [
        Claim("the weights with the prefix 'The cat'", _value, _table_for(0)),
        Claim("the weights with the prefix 'The cat sat'", _value, _table_for(1)),
    ],
)


# --- 6.3 a window with sinks ---------------------------------------------------------------------


def _windows(rng: Rng) -> list[Case]:
    sizes = [(int(n), int(rng.integers(2, n - 1))) for n in rng.integers(6, 16, size=3)]
    sizes += [(6, 1), (5, 9), (4, 4), (1, 1), (1, 3)]
    return [Case([Call(size)], "n = {}, width = {}".format(*size)) for size in sizes]


def _with_sinks(rng: Rng) -> list[Case]:
    n = int(rng.integers(9, 14))
    sizes = [(n, 3, 2), (n, 1, 4), (n, 4, 1), (n, 2, 0), (5, 2, 8), (6, 9, 2), (7, 1, 7)]
    return [Case([Call(size)], "n = {}, width = {}, sinks = {}".format(*size)) for size in sizes]


def _windows_are_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        n, width, *more = case.calls[0].args
        rule = causal() & (sliding_window(width) | sinks(more[0] if more else 0))
        got = returns_bool(outcome.values[0], (n, n), f"the mask ({case.note})")
        equal(got, rule.matrix(n), f"the mask ({case.note})")


def _no_future(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        n = case.calls[0].args[0]
        mask = returns_bool(outcome.values[0], (n, n))
        if (mask & ~causal().matrix(n)).any():
            raise WrongError(f"a token sees its future ({case.note})")
        if not mask.diagonal().all():
            raise WrongError(f"a token does not see itself ({case.note})")


WINDOW = Hidden(
    "6.3",
    [
        Claim("the window has just its width", _windows, _windows_are_right, 2),
        Claim("the first tokens stay in view", _with_sinks, _windows_are_right),
        Claim("each token sees itself and never its future",
              lambda rng: [*_windows(rng), *_with_sinks(rng)], _no_future),
    ],
)  # fmt: skip


# --- 6.4 targets ---------------------------------------------------------------------------------


def _batch(rng: Rng, length: int, p: Sequence[int], dtype: str = "int64") -> Case:
    tokens = rng.integers(0, 50, size=(len(p), length)).astype(dtype)
    return Case([Call((tokens, np.array(p, dtype)))], f"texts of {length} tokens, p = {list(p)}")


def _ordinary(rng: Rng) -> list[Case]:
    length = int(rng.integers(7, 12))
    return [
        _batch(rng, length, rng.integers(1, length, size=4).tolist()),
        _batch(rng, 9, [2, 7, 5], "int32"),
        _batch(rng, 6, [3]),
    ]


def _extremes(rng: Rng) -> list[Case]:
    return [_batch(rng, 5, [0, 5, 1, 4]), _batch(rng, 2, [2, 0, 1]), _batch(rng, 4, [4, 4])]


def _pairs_are_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        tokens, _ = case.calls[0].args
        inputs, targets, _ = as_tuple(outcome.values[0], 3)
        for name, got, want in (
            ("inputs", inputs, tokens[:, :-1]),
            ("targets", targets, tokens[:, 1:]),
        ):
            equal(as_array(got, want.shape, "int", f"{name} ({case.note})"), want,
                  f"{name} ({case.note})")  # fmt: skip
    unchanged(outcomes)


def _keep_is_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        tokens, p = case.calls[0].args
        texts, length = tokens.shape
        what = f"keep ({case.note})"
        keep = returns_bool(as_tuple(outcome.values[0], 3)[2], (texts, length - 1), what)
        counted = keep.sum(axis=1)
        answers = np.minimum(length - p, length - 1)  # the first token is never a target
        if (counted != answers).any():
            raise WrongError(f"the number of targets that count is wrong ({case.note})")
        equal(keep, np.arange(1, length) >= p[:, None], what)
    unchanged(outcomes)


TARGETS = Hidden(
    "6.4",
    [
        Claim("targets are the tokens that follow the inputs",
              lambda rng: [*_ordinary(rng), *_extremes(rng)], _pairs_are_right),
        Claim("all tokens of the answers count, and no others", _ordinary, _keep_is_right, 2),
        Claim("also without a prompt, and without an answer", _extremes, _keep_is_right),
    ],
)  # fmt: skip


# --- 6.5 valid entries ---------------------------------------------------------------------------


def _random_mask(rng: Rng, n: int, density: float) -> Array:
    return (rng.random((n, n)) < density) | np.eye(n, dtype=bool)


def _grow(rng: Rng, old: Array, m: int, flips: int, peeks: int) -> Array:
    """A mask on m tokens: the old one with some cells flipped and some views of new tokens."""
    n = len(old)
    new = _random_mask(rng, m, 0.5)
    new[:n, :n], new[:n, n:] = old, False
    for _ in range(flips):
        i = int(rng.integers(n))
        j = int((i + rng.integers(1, n)) % n)  # never the diagonal
        new[i, j] = ~new[i, j]
    for _ in range(peeks if m > n else 0):
        new[rng.integers(n), rng.integers(n, m)] = True
    return new


def _models(
    *, layers: Sequence[int], flips: int, peeks: int, density: float
) -> Callable[[Rng], list[Case]]:
    def cases(rng: Rng) -> list[Case]:
        found = []
        for number in layers:
            for more in (0, 3):
                n = int(rng.integers(6, 10))
                old = _random_mask(rng, n, density)
                new = _grow(rng, old, n + more, flips, peeks)
                note = f"{n} tokens, then {n + more}; {number} layers"
                found.append(Case([Call((old, new, number))], note))
        return found

    return cases


def _known_rules(rng: Rng) -> list[Case]:
    n, more = int(rng.integers(5, 8)), int(rng.integers(1, 4))
    changes = [
        (causal(), causal(), n, n + more),
        (prefix_lm(3), prefix_lm(3), n, n + more),
        (prefix_lm(2), prefix_lm(4), n, n + more),
        (prefix_lm(2), prefix_lm(n + more), n, n + more),
        (prefix_lm(0), prefix_lm(1), n, n),
        (sliding_window(2), sliding_window(3), n, n + more),
        (causal(), sliding_window(3), n, n + more),
        (full(), full(), n, n),
        (full(), full(), n, n + more),
    ]
    cases = [
        Case([Call((old.matrix(a), new.matrix(b), 4))], f"{old} on {a} tokens, {new} on {b}")
        for old, new, a, b in changes
    ]
    peek = causal().matrix(n + more)
    peek[n // 2, -1] = True
    return [*cases, Case([Call((causal().matrix(n), peek, 4))], "one token sees the very last")]


def _still_right(old: Array, new: Array, layers: int) -> Array:
    """What is computed afresh, symbolically: each state is named by what it was made of."""
    names_old: list[Any] = list(range(len(old)))
    names_new: list[Any] = list(range(len(new)))
    numbers: dict[Any, int] = {}
    rows = []
    for _ in range(layers):
        rows.append([a == b for a, b in zip(names_old, names_new[: len(old)], strict=True)])

        def layer(names: list[Any], mask: Array) -> list[Any]:
            made = []
            for i in range(len(names)):
                seen = (names[i], frozenset((j, names[j]) for j in np.flatnonzero(mask[i])))
                made.append(numbers.setdefault(seen, len(numbers) + len(new)))
            return made

        names_old, names_new = layer(names_old, old), layer(names_new, new)
    return np.array(rows)


def _valid_is_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        old, new, layers = case.calls[0].args
        got = returns_bool(outcome.values[0], (layers, len(old)), f"the result ({case.note})")
        want = _still_right(old, new, layers)
        if (got & ~want).any():
            layer = int(np.argwhere(got & ~want)[0][0])
            raise WrongError(f"a key of layer {layer} is called right and is not ({case.note})")
        if (want & ~got).any():
            layer = int(np.argwhere(want & ~got)[0][0])
            raise WrongError(f"a key of layer {layer} is given up and is right ({case.note})")
    unchanged(outcomes)


VALID = Hidden(
    "6.5",
    [
        Claim("layer 0 and layer 1, for masks of any kind",
              _models(layers=(1, 2, 2), flips=2, peeks=1, density=0.4), _valid_is_right),
        Claim("deeper layers: stale keys spread to whoever reads them",
              _models(layers=(3, 5), flips=1, peeks=1, density=0.2), _valid_is_right, 2),
        Claim("only cells among the old tokens change",
              _models(layers=(4,), flips=1, peeks=0, density=0.25), _valid_is_right),
        Claim("causal, prefix and window masks", _known_rules, _valid_is_right),
    ],
)  # fmt: skip

HIDDEN = [PREFIX, WEIGHTS, WINDOW, TARGETS, VALID]
