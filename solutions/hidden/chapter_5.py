"""Hidden checks of chapter 5: attention from a cache, caches, bytes, and the loop that writes.

Inputs are fresh for every seed. What is right is computed here, from `course_lib` and from the
inputs; the scripts hold inputs only.

A limit on memory is asked for twice: at a small size, where the meter in the answer's own process
is exact and names the mistake, and at one where what is not allowed is far beyond `room_mb`, which
the sandbox keeps from outside.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from course_lib.attention import attention
from course_lib.checks.callbacks import REGISTER
from course_lib.checks.properties import fed_once
from course_lib.checks.script import Call, Callback, Case, Drawn, Outcome
from course_lib.masks import causal
from course_tools.exercise_bank.assertions import (
    as_array,
    as_number,
    as_tuple,
    close,
    equal,
    unchanged,
)
from course_tools.exercise_bank.claims import Claim, Hidden, WrongError

Rng = np.random.Generator
Array = Any


def _tolerance(array: Array) -> dict[str, float]:
    return {"rtol": 1e-3, "atol": 1e-4} if array.dtype == np.float32 else {}


# --- 5.1 one token at a time ---------------------------------------------------------------------


def _sentence(rng: Rng, t: int, d: int, dv: int, dtype: str = "float64") -> tuple[Array, ...]:
    return tuple(rng.normal(size=shape).astype(dtype) for shape in ((t, d), (t, d), (t, dv)))


def _sentences(rng: Rng) -> list[Case]:
    sizes = [(int(rng.integers(6, 10)), 5, 3, "float64"), (7, 2, 6, "float32"),
             (1, 3, 4, "float64"), (4, 4, 4, "float64")]  # fmt: skip
    return [
        Case([Call(_sentence(rng, t, d, dv, dtype))], f"{t} positions, d = {d}, dv = {dv}, {dtype}")
        for t, d, dv, dtype in sizes
    ]


def _large(rng: Rng) -> list[Case]:
    cases = []
    for sign, words in ((1, "positive"), (-1, "negative")):
        q, k, v = _sentence(rng, 6, 4, 3)
        q, k = 40 * np.abs(q) + 20, sign * (40 * np.abs(k) + 20)
        cases.append(Case([Call((q, k, v))], f"large {words} scores"))
    q, k, v = _sentence(rng, 7, 4, 3)
    return [*cases, Case([Call((80 * q, 80 * k, v))], "scores of thousands, of either sign")]


def _one_by_one_is_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        q, k, v = case.calls[0].args
        want, _ = attention(q, k, v, causal())
        got = as_array(outcome.values[0], want.shape, "float", f"the output ({case.note})")
        if not np.isfinite(got).all():
            raise WrongError(f"the output is not finite ({case.note})")
        close(got, want, f"the output ({case.note})", **_tolerance(q))
    unchanged(outcomes)


def _two_futures(rng: Rng) -> list[Case]:
    q, k, v = _sentence(rng, 8, 3, 2)
    others = [x.copy() for x in (q, k, v)]
    for x in others:
        x[5:] = rng.normal(size=x[5:].shape)
    return [Case([Call((q, k, v))], "a text"), Case([Call(others)], "the same with another end")]


def _same_past(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    one, other = (as_array(o.values[0], (8, 2), "float", "the output") for o in outcomes)
    if not np.allclose(one[:5], other[:5], rtol=1e-7, atol=1e-9):
        raise WrongError("two texts with the same beginning have different outputs there")
    if np.isclose(one[5:], other[5:]).all(axis=1).any():
        raise WrongError("an output did not change although its own query, key and value did")


def _long(rng: Rng) -> list[Case]:
    """600 positions for the meter; 2,400, whose table alone takes 46 MB, for the sandbox."""
    cases = []
    for n, note, limit in ((600, "600 positions in 1.5 MB", {"memory_mb": 1.5}),
                           (2400, "2,400 positions", {"room_mb": 28})):  # fmt: skip
        seeds = rng.integers(10**6, size=3).tolist()
        drawn = [Drawn(s, (n, d), "float64") for s, d in zip(seeds, (4, 4, 3), strict=True)]
        cases.append(Case([Call(drawn)], note, seconds=30, **limit))
    return cases


def _long_is_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        q, k, v = (drawn.array() for drawn in case.calls[0].args)
        got = as_array(outcome.values[0], v.shape, "float", "the output")
        for t in (0, 1, len(q) // 2, len(q) - 1):
            want, _ = attention(q[t : t + 1], k[: t + 1], v[: t + 1])
            close(got[t], want[0], f"row {t} of {len(q)}")


ONE_BY_ONE = Hidden(
    "5.1",
    [
        Claim("each row attends to itself and all before it", _sentences, _one_by_one_is_right, 2),
        Claim("what comes later changes no earlier output", _two_futures, _same_past),
        Claim("large scores give finite, right outputs", _large, _one_by_one_is_right),
        Claim("memory does not grow with the square of the text", _long, _long_is_right, 2),
    ],
)


# --- 5.2 a chunk against a cache -----------------------------------------------------------------


def _text(rng: Rng, heads: int, groups: int, n: int, d: int, dv: int, dtype: str) -> list[Array]:
    shapes = ((heads, n, d), (groups, n, d), (groups, n, dv))
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def _step(text: Sequence[Array], start: int, end: int) -> Case:
    q, k, v = text
    new = (x[:, start:end].copy() for x in (q, k, v))
    old = (x[:, :start].copy() for x in (k, v))
    note = f"{start} cached, {end - start} new, {len(q)} query heads, {len(k)} key heads"
    return Case([Call((*new, *old))], note)


def _steps(*shapes: tuple[int, ...], dtype: str = "float64") -> Callable[[Rng], list[Case]]:
    """Cases for (heads, groups, cached, new), with other widths for each."""

    def cases(rng: Rng) -> list[Case]:
        found = []
        for i, (heads, groups, cached, new) in enumerate(shapes):
            text = _text(rng, heads, groups, cached + new, 3 + i, 5 - i % 3, dtype)
            found.append(_step(text, cached, cached + new))
        return found

    return cases


def _chunk_output(case: Case) -> Array:
    q, k_new, v_new, k_cache, v_cache = case.calls[0].args
    k, v = np.concatenate([k_cache, k_new], axis=1), np.concatenate([v_cache, v_new], axis=1)
    share = len(q) // len(k)
    k, v = np.repeat(k, share, axis=0), np.repeat(v, share, axis=0)
    q_pos = np.arange(k.shape[1] - q.shape[1], k.shape[1])
    return attention(q, k, v, causal().matrix(q_pos, k.shape[1]))[0]


def _chunks_are_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        output = as_tuple(outcome.values[0], 3)[0]
        want = _chunk_output(case)
        close(as_array(output, want.shape, "float", f"the output ({case.note})"), want,
              f"the output ({case.note})", **_tolerance(want))  # fmt: skip
    unchanged(outcomes)


def _cache_grows(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        _, k_new, v_new, k_cache, v_cache = case.calls[0].args
        _, k, v = as_tuple(outcome.values[0], 3)
        for name, got, old, new in (("k", k, k_cache, k_new), ("v", v, v_cache, v_new)):
            want = np.concatenate([old, new], axis=1)
            equal(as_array(got, want.shape, "float", f"{name}_cache after the chunk ({case.note})"),
                  want, f"{name}_cache after the chunk ({case.note})")  # fmt: skip


def _cuts(rng: Rng, n: int) -> list[int]:
    inner = np.sort(rng.choice(np.arange(1, n), size=int(rng.integers(2, 5)), replace=False))
    return [0, *inner.tolist(), n]


_CUT_TEXT = 9


def _two_ways_of_cutting(rng: Rng) -> list[Case]:
    text = _text(rng, 4, 2, _CUT_TEXT, 3, 2, "float64")
    ways = [_cuts(rng, _CUT_TEXT), list(range(_CUT_TEXT + 1)), [0, 5, _CUT_TEXT]]
    return [_step(text, a, b) for way in ways for a, b in pairwise(way)]


def _cutting_changes_nothing(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    texts: list[list[Array]] = []
    for case, outcome in zip(cases, outcomes, strict=True):
        q, *_, k_cache, _ = case.calls[0].args
        output = as_tuple(outcome.values[0], 3)[0]
        if k_cache.shape[1] == 0:
            texts.append([])
        texts[-1].append(as_array(output, (4, q.shape[1], 2), "float", "the output"))
    one, *others = (np.concatenate(parts, axis=1) for parts in texts)
    for other in others:
        if not np.allclose(one, other, rtol=1e-5, atol=1e-7):
            raise WrongError("the same text, cut in other places, gets other outputs")
    _chunks_are_right(cases, outcomes)


def _large_chunks(rng: Rng) -> list[Case]:
    cases = []
    for sign in (1, -1):
        q, k, v = _text(rng, 2, 1, 6, 4, 3, "float64")
        text = [40 * np.abs(q) + 20, sign * (40 * np.abs(k) + 20), v]
        cases.append(_step(text, 3, 6))
    q, k, v = _text(rng, 2, 2, 7, 4, 3, "float64")
    return [*cases, _step([80 * q, 80 * k, v], 4, 7)]


def _finite_and_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        output = as_array(as_tuple(outcome.values[0], 3)[0], None, "float", "the output")
        if not np.isfinite(output).all():
            raise WrongError("the output is not finite when scores are in the thousands")
    _chunks_are_right(cases, outcomes)


_ALL_SHAPES = _steps((2, 2, 0, 4), (3, 1, 5, 1), (2, 2, 3, 4), (6, 2, 4, 3), (4, 4, 0, 1))

CHUNK = Hidden(
    "5.2",
    [
        Claim("an empty cache: causal attention within the chunk",
              _steps((1, 1, 0, 5), (2, 2, 0, 1), (2, 2, 0, 3)), _chunks_are_right),
        Claim("a single query sees the cache and itself",
              _steps((1, 1, 6, 1), (2, 2, 3, 1)), _chunks_are_right),
        Claim("any way of cutting a text into chunks gives the same outputs",
              _two_ways_of_cutting, _cutting_changes_nothing, 2),
        Claim("neighbouring query heads share a key head",
              _steps((6, 2, 3, 2), (6, 3, 0, 3), (4, 1, 2, 1), (2, 2, 1, 2)), _chunks_are_right),
        Claim("the cache that comes back holds old and new, in order", _ALL_SHAPES, _cache_grows,
              2),
        Claim("float32, and scores in the thousands",
              lambda rng: [*_steps((2, 1, 2, 3), dtype="float32")(rng), *_large_chunks(rng)],
              _finite_and_right),
    ],
)  # fmt: skip


# --- 5.3 and 5.4: scripts for caches ----------------------------------------------------------------

_VIEW = "view"


class _Script:
    """A script for one or two caches of equal shapes; judges read the chunks back from its calls.

    Args:
        rng: source of the numbers.
        size: capacity or window.
        names: one object for each.
    """

    def __init__(
        self, rng: Rng, size: int, names: Sequence[str] = ("a",), dtype: str = "float64"
    ) -> None:
        self.rng, self.dtype = rng, dtype
        self.heads, self.d, self.dv = (int(x) for x in rng.permutation([1, 2, 3]))
        self.calls = [Call((size,), save=name) for name in names]

    def append(self, n: int, name: str = "a", **options: Any) -> "_Script":
        k, v = (
            self.rng.normal(size=(self.heads, n, width)).astype(self.dtype)
            for width in (self.d, self.dv)
        )
        options.setdefault("save", None if options.get("catch") else "ignored")
        self.calls.append(Call((k, v), method="append", on=name, **options))
        return self

    def view(self, name: str = "a") -> "_Script":
        self.calls.append(Call(method=_VIEW, on=name))
        return self

    def case(self, note: str) -> Case:
        return Case(self.calls, note)


def _views(case: Case, size: int | None) -> list[tuple[int, Array, Array]]:
    """(step, keys, values) that each view must show.

    Args:
        case: of a `_Script`.
        size: the window of a ring; None for a static cache, whose capacity is in its calls.
    """
    held: dict[str, list[tuple[Array, Array]]] = {}
    found = []
    for step, call in enumerate(case.calls):
        if call.method is None:
            held[str(call.save)] = []
        elif call.method == _VIEW:
            k, v = (np.concatenate([chunk[i] for chunk in held[call.on]], axis=1) for i in (0, 1))
            found.append((step, k, v) if size is None else (step, k[:, -size:], v[:, -size:]))
        elif not call.catch:  # a caught append is one that has to fail
            held[call.on].append(call.args)
    return found


def _shows_what_went_in(case: Case, outcome: Outcome, size: int | None, when: str) -> None:
    for step, k, v in _views(case, size):
        got = as_tuple(outcome.values[step], 2, "view()")
        for name, array, want in zip(("keys", "values"), got, (k, v), strict=True):
            what = f"the {name} in view() {when} ({case.note})"
            equal(as_array(array, want.shape, "float", what), want, what)


def _judge(ring: bool, when: str) -> Callable[[Sequence[Case], Sequence[Outcome]], None]:
    def judge(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
        for case, outcome in zip(cases, outcomes, strict=True):
            size = case.calls[0].args[0] if ring else None
            for call, value in zip(case.calls, outcome.values, strict=True):
                if call.catch and value != ("raised", "ValueError"):
                    got = value[1] if isinstance(value, tuple) else "no error at all"
                    raise WrongError(
                        f"a chunk that does not fit must raise ValueError; got {got} ({case.note})"
                    )
            _shows_what_went_in(case, outcome, size, when)
        unchanged(outcomes)

    return judge


def _fill_and_look(rng: Rng) -> list[Case]:
    sizes = rng.integers(1, 4, size=4).tolist()
    exactly = _Script(rng, sum(sizes))
    for n in sizes:
        exactly.append(n).view()
    roomy = _Script(rng, 20, dtype="float32").append(4).append(1).view().append(1).append(3).view()
    two = _Script(rng, 6, ("a", "b")).append(2).append(3, "b").view().append(4).view("b").view()
    return [
        exactly.case(f"chunks of {sizes} into just so much room"),
        roomy.case("room to spare, float32"),
        two.case("two caches, one for each of two layers"),
        _Script(rng, 1).append(1).view().view().case("capacity 1"),
    ]


def _too_much(rng: Rng) -> list[Case]:
    held = int(rng.integers(2, 5))
    partly = _Script(rng, held + 2).append(held).append(3, catch=True).view()
    partly.append(2).view().append(1, catch=True).view().append(4, catch=True).view()
    first = _Script(rng, 3).append(4, catch=True).append(2).view().append(1).view()
    full = _Script(rng, 2).append(2).append(1, catch=True).append(1, catch=True).view()
    return [
        partly.case("a chunk too large, then one that fits exactly, then more"),
        first.case("the very first chunk is too large"),
        full.case("one position more than fits"),
    ]


def _reused_arrays(rng: Rng) -> list[Case]:
    script = _Script(rng, 8)
    for n in (3, 1, 2):
        script.append(n, overwrite_args=True).view()
    one = _Script(rng, 8).append(5, overwrite_args=True).view()
    return [script.case("the caller reuses its arrays"), one.case("a single chunk")]


def _stream(rng: Rng, size: int, appends: int, each: int, megabytes: float) -> Case:
    """Many positions of two heads, d = dv = 64, float32; what is held is looked at elsewhere."""
    calls = [Call((size,), save="a")]
    for _ in range(appends):
        drawn = [Drawn(int(rng.integers(10**6)), (2, each, 64)) for _ in range(2)]
        calls.append(Call(drawn, method="append", on="a", save="ignored"))
    calls.append(Call(method=_VIEW, on="a", save="ignored"))
    return Case(calls, f"{appends} chunks of {each}", memory_mb=megabytes)


#: Heads, d and dv of large streams: the keys are nearly all of it, so that a second copy of the
#: keys is a second copy of everything, and positions are few.
_LARGE = (2, 1023, 1)


def _large_stream(rng: Rng, size: int, appends: int, each: int, room_mb: float) -> Case:
    """A stream of megabytes, and a few positions of what is held at the end."""
    heads, d, dv = _LARGE
    calls = [Call((size,), save="a")]
    for _ in range(appends):
        drawn = [
            Drawn(int(rng.integers(10**6)), (heads, each, width), period=5003) for width in (d, dv)
        ]
        calls.append(Call(drawn, method="append", on="a", save="ignored"))
    held = min(size, appends * each)
    pick = np.sort(rng.choice(held, size=min(held, 4), replace=False)).tolist()
    calls.append(Call(method=_VIEW, on="a", pick=pick))
    return Case(calls, f"{appends} chunks of {each} large positions", room_mb=room_mb)


def _nothing_more(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    """The limit on memory is most of the claim, and a broken one is a problem, not an outcome."""
    for case, outcome in zip(cases, outcomes, strict=True):
        pick = case.calls[-1].pick
        if pick is None:
            continue
        chunks = [call.args for call in case.calls if call.method == "append"]
        each = chunks[0][0].shape[1]
        first = max(0, len(chunks) * each - case.calls[0].args[0])  # position that is held first
        got = as_tuple(outcome.values[-1], 2, "view()")
        for i, name in enumerate(("keys", "values")):
            drawn = {n: chunks[n][i].array() for n in {(first + at) // each for at in pick}}
            want = [drawn[(first + at) // each][:, (first + at) % each] for at in pick]
            what = f"the {name} in view() ({case.note})"
            shape = (len(want[0]), len(pick), want[0].shape[1])
            equal(as_array(got[i], shape, "float", what), np.stack(want, axis=1), what)


STATIC = Hidden(
    "5.3",
    [
        Claim("what goes in comes out, in order", _fill_and_look, _judge(False, "is wrong"), 2),
        Claim("too much raises ValueError and leaves the cache as it was", _too_much,
              _judge(False, "after a refused chunk"), 2),
        Claim("it keeps numbers of its own, not the caller's arrays", _reused_arrays,
              _judge(False, "after the caller wrote into its arrays")),
        Claim("the two buffers are all the memory that it takes",
              # buffers of 48 MB; a second copy of them takes 96
              lambda rng: [_stream(rng, 400, 8, 50, 0.52), _large_stream(rng, 5860, 20, 293, 70)],
              _nothing_more),
    ],
)  # fmt: skip


def _not_yet_full(rng: Rng) -> list[Case]:
    script = _Script(rng, 6, dtype="float32").append(1).view().append(3).view().append(2).view()
    return [script.case("window 6, up to just full, float32")]


def _round_and_round(rng: Rng) -> list[Case]:
    window = int(rng.integers(3, 6))
    single = _Script(rng, window)
    for _ in range(2 * window + 2):
        single.append(1).view()
    chunks = _Script(rng, 5)
    for n in (2, 3, 2, 4, 1, 5, 3):
        chunks.append(n).view()
    two = _Script(rng, 2, ("a", "b")).append(3).append(1, "b").append(1).view("b").view()
    return [
        single.case(f"window {window}, position by position"),
        chunks.case("window 5, chunks of several sizes"),
        two.case("two rings, one for each of two layers"),
        _Script(rng, 1).append(1).append(2).view().append(1).view().case("window 1"),
    ]


def _long_chunks(rng: Rng) -> list[Case]:
    script = _Script(rng, 3).append(7).view().append(1).view().append(3).view().append(8).view()
    later = _Script(rng, 4).append(2).append(9).view().append(2).view()
    return [script.case("window 3, chunks up to 8"), later.case("window 4, chunks of 2, 9, 2")]


def _reused_in_a_ring(rng: Rng) -> list[Case]:
    script = _Script(rng, 3)
    for n in (2, 1, 4, 3):
        script.append(n, overwrite_args=True).view()
    return [script.case("the caller reuses its arrays")]


RING = Hidden(
    "5.4",
    [
        Claim("before it is full, it holds what has come in", _not_yet_full,
              _judge(True, "of a ring that is not full")),
        Claim("then it holds the last positions, oldest first", _round_and_round,
              _judge(True, "of a ring that has come round"), 2),
        Claim("a chunk may be longer than the window", _long_chunks,
              _judge(True, "after a long chunk")),
        Claim("it keeps numbers of its own, not the caller's arrays", _reused_in_a_ring,
              _judge(True, "after the caller wrote into its arrays")),
        Claim("a long text takes no more memory than a short one",
              # 41 MB in all
              lambda rng: [_stream(rng, 4, 40, 20, 0.2), _large_stream(rng, 4, 40, 125, 16)],
              _nothing_more, 2),
    ],
)  # fmt: skip


# --- 5.5 bytes -----------------------------------------------------------------------------------


def _small_models(rng: Rng) -> list[Case]:
    primes = rng.permutation([3, 5, 7, 11, 13, 17]).tolist()
    others = [[int(x) for x in rng.integers(1, 30, size=6)] for _ in range(3)]
    return [Case([Call(sizes)], "a small model") for sizes in (primes, *others)]


def _huge_models(rng: Rng) -> list[Case]:
    sizes = [401, 307, 10009, 10007 + 2 * int(rng.integers(50)), 997, 1]  # odd, above 2**53
    return [
        Case([Call(sizes)], "a very large cache"),
        Case([Call([9, 5, 7, 0, 3, 2])], "no tokens"),
    ]


def _bytes_are_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        want = 2
        for size in case.calls[0].args:
            want *= size
        if as_number(outcome.values[0], "int", "the number of bytes") != want:
            raise WrongError(f"the number of bytes is wrong ({case.note})")


BYTES = Hidden(
    "5.5",
    [
        Claim("every size counts, once", _small_models, _bytes_are_right, 2),
        Claim("exact for any size, nothing for no tokens", _huge_models, _bytes_are_right),
    ],
)


# --- 5.6 the loop that writes --------------------------------------------------------------------


def _runs(*shapes: tuple[int, int]) -> Callable[[Rng], list[Case]]:
    """Cases for (length of the prompt, new tokens)."""

    def cases(rng: Rng) -> list[Case]:
        found = []
        for length, n in shapes:
            vocab = int(rng.integers(20, 40))
            callback = Callback("step", {"seed": int(rng.integers(10**6)), "vocab": vocab})
            prompt = rng.integers(vocab, size=length).tolist()
            note = f"a prompt of {length}, {n} new"
            found.append(Case([Call((callback, prompt, n))], note))
        return found

    return cases


def _one_prompt_twice(rng: Rng, n: int = 3) -> list[Case]:
    """The same list for two texts: who adds to it reads another prompt the second time."""
    prompt = rng.integers(20, size=4).tolist()
    calls = [
        Call(
            (Callback("step", {"seed": int(rng.integers(10**6)), "vocab": 20}), prompt, n), again=at
        )
        for n, at in ((n, ()), (n, (1,)))
    ]
    return [Case(calls, "one prompt for two texts")]


def _greedy(call: Call) -> list[int]:
    callback, prompt, n = call.args
    step = REGISTER[callback.kind](**callback.params)
    new, unread = [], prompt
    for _ in range(n):
        unread = [int(np.argmax(step(unread)))]
        new += unread
    return new


def _tokens_are_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        for call, value in zip(case.calls, outcome.values, strict=True):
            want = _greedy(call)
            what = f"the list of new tokens ({case.note})"
            equal(as_array(value, (len(want),), "int", what), np.array(want), what)
    unchanged(outcomes)


def _fed_right(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        as_array(outcome.values[0], (case.calls[0].args[2],), "int", "the list of new tokens")
        wrong = fed_once(case, outcome)
        if wrong is not None:
            raise WrongError(wrong)


_SHAPES = ((5, 6), (1, 4), (3, 1), (8, 12))

GENERATE = Hidden(
    "5.6",
    [
        Claim("n new tokens, the likeliest each time",
              lambda rng: [*_runs(*_SHAPES)(rng), *_one_prompt_twice(rng)], _tokens_are_right, 2),
        Claim("every token is fed exactly once, the last one not at all", _runs(*_SHAPES),
              _fed_right, 2),
        Claim("no new tokens, or one",
              lambda rng: [*_runs((4, 0), (1, 0), (2, 1))(rng), *_one_prompt_twice(rng, 1)],
              lambda cases, outcomes: (_tokens_are_right(cases, outcomes),
                                       _fed_right(cases[:3], outcomes[:3]))),
    ],
)  # fmt: skip

HIDDEN = [ONE_BY_ONE, CHUNK, STATIC, RING, BYTES, GENERATE]
