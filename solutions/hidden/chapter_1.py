"""Hidden checks of chapter 1: the contract (teachers only)."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from course_lib.checks.script import Call, Callback, Case, Outcome, Tensor
from course_tools.exercise_bank.assertions import (
    as_array,
    as_number,
    as_tuple,
    returns_bool,
    unchanged,
)
from course_tools.exercise_bank.claims import Claim, Hidden, WrongError

Cases = Sequence[Case]
Outcomes = Sequence[Outcome]

# --- 1.1 sequence_log_prob ---------------------------------------------------------------------


def log_prob(logits: np.ndarray, tokens: np.ndarray) -> float:
    """Log-probability of the words after the first."""
    rows = logits[:-1]
    picked = rows[np.arange(len(rows)), tokens[1:]]
    return float((picked - np.logaddexp.reduce(rows, axis=1)).sum())


def text_case(rng, length, words, scale=2.0, note="", offset=0.0):
    """Logits whose last row is NaN, and a text."""
    logits = rng.normal(size=(length, words)) * scale + offset
    logits[-1] = np.nan
    return Case([Call([logits, rng.integers(words, size=length)])], note)


def log_prob_cases(rng):
    """Texts of many lengths."""
    sizes = ((2, 2), (3, 7), (5, 3), (9, 5), (40, 11), (6, 1))
    return [text_case(rng, t, v, note=f"{t} words of {v}") for t, v in sizes]


def log_prob_large(rng):
    """Scores that overflow exp, of either sign, and widely spread."""
    return [
        text_case(rng, 6, 5, 3.0, "scores near 2000", 2000.0),
        text_case(rng, 6, 5, 3.0, "scores near -2000", -2000.0),
        text_case(rng, 6, 5, 700.0, "scores far apart"),
    ]


def judge_log_prob(cases: Cases, outcomes: Outcomes) -> None:
    """The same number, and the inputs as they were."""
    for case, outcome in zip(cases, outcomes, strict=True):
        got = as_number(outcome.values[0], "number", "the log-probability")
        want = log_prob(*case.calls[0].args)
        if not math.isclose(got, want, rel_tol=1e-9, abs_tol=1e-9):
            raise WrongError(f"{case.note}: the log-probability {got:.6g} is not right")
    unchanged(outcomes)


def edge_cases(rng):
    """One word; an impossible word in the text; impossible words elsewhere."""
    first = np.full((1, 4), np.nan)
    impossible = rng.normal(size=(5, 4))
    tokens = rng.integers(4, size=5)
    impossible[2, tokens[3]] = -np.inf
    elsewhere = rng.normal(size=(5, 4))
    elsewhere[1, (tokens[2] + 1) % 4] = -np.inf
    return [
        Case([Call([first, np.array([2])])], "one word"),
        Case([Call([impossible, tokens])], "an impossible word"),
        Case([Call([elsewhere, tokens])], "a word that is not said is impossible"),
    ]


def judge_edges(cases: Cases, outcomes: Outcomes) -> None:
    """0, -inf, and a plain number."""
    for case, outcome in zip(cases, outcomes, strict=True):
        got = as_number(outcome.values[0], "number", "the log-probability")
        want = log_prob(*case.calls[0].args)
        if not (got == want or abs(got - want) < 1e-9):
            raise WrongError(f"{case.note}: {got:.6g} is not right")


def every_text(rng):
    """All texts of four words that begin with the same one."""
    logits = rng.normal(size=(4, 3)) * 2
    logits[-1] = np.nan
    texts = itertools.product(range(3), repeat=3)
    return [Case([Call([logits, np.array([1, *rest])]) for rest in texts])]


def judge_distribution(cases: Cases, outcomes: Outcomes) -> None:
    """Probabilities of all continuations add up to 1."""
    numbers = [as_number(v, "number", "the log-probability") for v in outcomes[0].values]
    total = sum(math.exp(min(number, 50)) for number in numbers)
    if not math.isclose(total, 1.0, rel_tol=1e-9):
        raise WrongError(
            "the probabilities of all texts that go on from one word add up to "
            f"{total:.4g}, and not to 1"
        )


LOG_PROB = Hidden(
    "1.1",
    [
        Claim("the log-probability of a text, of any length", log_prob_cases, judge_log_prob, 2),
        Claim("large scores do no harm", log_prob_large, judge_log_prob),
        Claim("one word gives 0, an impossible one -inf", edge_cases, judge_edges),
        Claim("all continuations together have probability 1", every_text, judge_distribution),
    ],
)

# --- 1.2 shift -----------------------------------------------------------------------------------


def one_text(rng):
    """Texts [T] of several lengths, NumPy and torch."""
    texts = [rng.integers(100, size=n) for n in (1, 2, 3, 10)]
    return [Case([Call([wrap(text)])], f"{len(text)} words") for text in texts
            for wrap in (np.array, Tensor)]  # fmt: skip


def many_texts(rng):
    """Batches, with one more axis too."""
    shapes = ((3, 5), (5, 3), (1, 4), (4, 1), (2, 3, 6), (4, 4))
    arrays = [rng.integers(1000, size=shape) for shape in shapes]
    return [Case([Call([wrap(array)])], f"shape {list(array.shape)}") for array in arrays
            for wrap in (np.array, Tensor)]  # fmt: skip


def judge_shift(cases: Cases, outcomes: Outcomes) -> None:
    """At every position the target is the next word."""
    for case, outcome in zip(cases, outcomes, strict=True):
        inputs, targets = as_tuple(outcome.values[0], 2)
        given = case.calls[0].args[0]
        tokens = given.value if isinstance(given, Tensor) else given
        shape = (*tokens.shape[:-1], tokens.shape[-1] - 1)
        inputs = as_array(inputs, shape, "int", f"{case.note}: inputs")
        targets = as_array(targets, shape, "int", f"{case.note}: targets")
        for t in range(shape[-1]):
            if (inputs[..., t] != tokens[..., t]).any():
                raise WrongError(f"{case.note}: input {t} is not word {t} of the text")
            if (targets[..., t] != tokens[..., t + 1]).any():
                raise WrongError(f"{case.note}: target {t} is not the word after input {t}")
    unchanged(outcomes)


SHIFT = Hidden(
    "1.2",
    [
        Claim("of one text, each target is the next word", one_text, judge_shift),
        Claim("of many texts too, each by itself", many_texts, judge_shift),
    ],
)

# --- 1.3 influence -------------------------------------------------------------------------------


def pairs_case(rng, length, kinds, share=0.45, channels=3, note="", zeros=False):
    """A function with random influences of the given kinds, and an input."""
    found = rng.random((length, length)) < share
    rules = [(int(i), int(j), kinds[int(rng.integers(len(kinds)))]) for i, j in np.argwhere(found)]
    x = np.clip(rng.normal(size=(length, channels)), -1.2, 1.2)
    if zeros:
        x[rng.integers(length)] = 0.0
    return Case([Call([Callback("pairs", {"length": length, "rules": rules}), x])], note)


def plain_functions(rng):
    """Linear functions: any pattern, with one number a position and with several."""
    cases = [pairs_case(rng, n, ["linear"], channels=c, note=f"{n} positions")
             for n, c in ((1, 1), (2, 3), (4, 1), (5, 2))]  # fmt: skip
    nothing = Callback("pairs", {"length": 3, "rules": []})
    return [*cases, Case([Call([nothing, rng.normal(size=(3, 2))])], "no influence at all")]


def hidden_numbers(rng):
    """Influence that sits in one number of many, or cancels in sums and differences."""
    kinds = ["second", "last", "difference", "opposite"]
    return [pairs_case(rng, n, kinds, note=f"{n} positions") for n in (5, 6)]


def switches(rng):
    """Switches, saturation, even functions; a position that is zero already."""
    cases = [pairs_case(rng, 5, kinds, note=kinds[0], zeros=True)
             for kinds in (["switch"], ["saturating"], ["square", "linear"])]  # fmt: skip
    far = pairs_case(rng, 4, ["switch"], 0.6, note="switches far from their threshold")
    call = far.calls[0]
    call.args[1][:, 0] = -1.1
    return [*cases, far]


def weak(rng):
    """Weak influence, and rounding that is none."""
    return [
        pairs_case(rng, 5, ["weak"], note="weak influence"),
        pairs_case(rng, 5, ["rounding", "linear"], 0.6, note="rounding beside influence"),
        pairs_case(rng, 3, ["rounding"], 0.7, note="rounding only"),
        pairs_case(rng, 5, ["weak", "rounding", "linear"], 0.7, note="all of it"),
    ]


def truth(case: Case) -> np.ndarray:
    """Which outputs read which inputs."""
    callback = case.calls[0].args[0].params
    found = np.zeros((callback["length"], callback["length"]), dtype=bool)
    for i, j, kind in callback["rules"]:
        found[i, j] |= kind != "rounding"
    return found


def judge_influence(cases: Cases, outcomes: Outcomes) -> None:
    """The right pairs, x as it was, not too many calls."""
    for case, outcome in zip(cases, outcomes, strict=True):
        want = truth(case)
        got = returns_bool(outcome.values[0], want.shape, f"{case.note}: the result")
        if (got != want).any():
            i, j = (int(n) for n in np.argwhere(got != want)[0])
            said = "depends" if got[i, j] else "does not depend"
            raise WrongError(
                f"{case.note}: you say that output {i} {said} on input {j}: it is not so"
            )
        if len(outcome.callbacks.get("pairs", ())) > 10_000:
            raise WrongError(f"{case.note}: fn was called more than 10,000 times")
    unchanged(outcomes)


INFLUENCE = Hidden(
    "1.3",
    [
        Claim("plain dependences, in any pattern", plain_functions, judge_influence),
        Claim("one number of many is enough", hidden_numbers, judge_influence),
        Claim("switches and saturated functions", switches, judge_influence),
        Claim("weak dependences found, rounding not", weak, judge_influence),
    ],
)

# --- 1.4 entropy_floor ---------------------------------------------------------------------------


def chain_case(rng, size, length, zeros=0.0, note=""):
    """A random language; some of its entries are 0."""
    table = rng.dirichlet(np.full(size, 0.7), size=size + 1)
    keep = rng.random(table.shape) >= zeros
    keep[np.arange(size + 1), rng.integers(size, size=size + 1)] = True
    table = np.where(keep, table, 0.0)
    table /= table.sum(axis=1, keepdims=True)
    return Case([Call([table[1:], table[0], length])], note or f"{size} words, length {length}")


def chains(rng):
    """Languages without zeros, and lengths 1 to 30."""
    return [chain_case(rng, s, n) for s, n in ((2, 1), (2, 2), (3, 3), (5, 7), (4, 30), (1, 5))]


def sparse_chains(rng):
    """Words that never come, also as the first one."""
    sizes = ((3, 2), (5, 6), (6, 12))
    note = "a language with zeros, length {}"
    return [chain_case(rng, s, n, 0.5, note.format(n)) for s, n in sizes]


def by_all_texts(rng):
    """Lengths so short that every text can be listed."""
    return [chain_case(rng, 3, n, 0.3) for n in (1, 2, 4)]


def certain(rng):
    """A language that goes round in a circle: only its first word is uncertain."""
    size = 4
    order = rng.permutation(size)
    circle = np.zeros((size, size))
    circle[order, np.roll(order, 1)] = 1.0
    sure, start = np.zeros(size), np.full(size, 1 / size)
    sure[2] = 1.0
    return [
        Case([Call([circle, sure, 6])], "nothing uncertain"),
        Case([Call([circle, start, 6])], "only the first word is uncertain"),
    ]


def entropy(p: np.ndarray) -> float:
    """Nats; 0 log 0 is 0."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def floor(transition, start, length) -> float:
    """Nats a word, position by position."""
    total, p = entropy(start), start
    for _ in range(length - 1):
        total += sum(p[a] * entropy(transition[a]) for a in range(len(p)))
        p = p @ transition
    return total / length


def listed(transition, start, length) -> float:
    """The same from the list of all texts."""
    total = 0.0
    for text in itertools.product(range(len(start)), repeat=length):
        steps = (transition[a, b] for a, b in itertools.pairwise(text))
        p = start[text[0]] * math.prod(steps)
        total -= p * math.log(p) if p > 0 else 0.0
    return total / length


def judge_floor(cases: Cases, outcomes: Outcomes, reference=floor) -> None:
    """The same number to nine digits, and the tables as they were."""
    for case, outcome in zip(cases, outcomes, strict=True):
        got = as_number(outcome.values[0], "number", "the floor")
        if not math.isclose(got, reference(*case.calls[0].args), rel_tol=1e-9, abs_tol=1e-10):
            raise WrongError(f"{case.note}: {got:.6g} nats a word is not right")
    unchanged(outcomes)


def judge_listed(cases: Cases, outcomes: Outcomes) -> None:
    """As the list of all texts says."""
    judge_floor(cases, outcomes, listed)


FLOOR = Hidden(
    "1.4",
    [
        Claim("the floor, at any length", chains, judge_floor, 2),
        Claim("words that never come", sparse_chains, judge_floor),
        Claim("as the list of all texts says", by_all_texts, judge_listed),
        Claim("nothing uncertain, nothing to pay", certain, judge_floor),
    ],
)

HIDDEN = [LOG_PROB, SHIFT, INFLUENCE, FLOOR]
