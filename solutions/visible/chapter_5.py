"""What students see at once in the exercises of chapter 5: claims, small cases, explanations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from course_lib.checks.script import Call, Callback, Case, Drawn
from course_tools.exercise_bank.load import Question, Visible, VisibleClaim


def _draw(seed: int, *shapes: Sequence[int], scale: float = 1.0) -> list[np.ndarray]:
    """Small round numbers, so that the data file stays readable."""
    rng = np.random.default_rng(seed)
    return [(scale * rng.normal(size=shape)).round(1) for shape in shapes]


# --- 5.1 -----------------------------------------------------------------------------------------


def _sentence(seed: int, t: int, d: int, dv: int, scale: float = 1.0) -> Call:
    q, k, v = _draw(seed, (t, d), (t, d), (t, dv))
    return Call((scale * q, scale * k, v))


ONE_BY_ONE = Visible(
    "5.1",
    [
        VisibleClaim(
            "row t attends to positions 0 to t",
            [
                Case([_sentence(0, 5, 4, 3)], "five tokens, d = 4, dv = 3"),
                Case([_sentence(1, 3, 2, 5)], "three tokens, d = 2, dv = 5"),
                Case([_sentence(2, 1, 3, 2)], "a single token"),
            ],
            compare="close",
        ),
        VisibleClaim(
            "scores in the thousands give finite outputs",
            [Case([_sentence(3, 4, 3, 3, scale=60.0)], "scores up to a few thousand")],
            compare="close",
        ),
        VisibleClaim(
            "there is never a T x T table",
            [
                Case(
                    [Call([Drawn(seed, (600, 4), "float64") for seed in (4, 5, 6)])],
                    "600 positions in 1.5 MB",
                    seconds=30,
                    memory_mb=1.5,
                )
            ],
            compare="property:runs",
        ),
    ],
    again="notebooks/05_kv_cache.ipynb#Step-by-step,-by-hand",
)


# --- 5.2 -----------------------------------------------------------------------------------------


def _chunk(
    seed: int, heads: int, groups: int, cached: int, new: int, scale: float = 1.0, d: int = 4
) -> Call:
    q, k, v, ks, vs = _draw(
        seed,
        (heads, new, d),
        (groups, new, d),
        (groups, new, 2),
        (groups, cached, d),
        (groups, cached, 2),
    )
    return Call((scale * q, scale * k, v, scale * ks, vs))


CHUNK = Visible(
    "5.2",
    [
        VisibleClaim(
            "with an empty cache it is causal attention",
            [Case([_chunk(0, 1, 1, 0, 3)], "C = 0, M = 3, H = G = 1")],
            compare="close",
        ),
        VisibleClaim(
            "a single new query sees all that is cached, and itself",
            [Case([_chunk(1, 1, 1, 3, 1)], "C = 3, M = 1, H = G = 1")],
            compare="close",
        ),
        VisibleClaim(
            "in a chunk, a query sees the cache and the chunk up to itself",
            [Case([_chunk(2, 2, 2, 2, 3)], "C = 2, M = 3, H = G = 2")],
            compare="close",
        ),
        VisibleClaim(
            "neighbouring query heads share a key head",
            [
                Case([_chunk(3, 4, 2, 2, 2)], "H = 4, G = 2, C = 2, M = 2"),
                Case([_chunk(4, 3, 1, 1, 2)], "H = 3, G = 1, C = 1, M = 2"),
            ],
            compare="close",
        ),
        VisibleClaim(
            "scores in the thousands give finite outputs",
            [Case([_chunk(5, 1, 1, 2, 2, scale=60.0)], "C = 2, M = 2, large scores")],
            compare="close",
        ),
    ],
    results=("output", "k_cache", "v_cache"),
    again="notebooks/05_kv_cache.ipynb#The-cached-mask-bug",
)


# --- 5.3 and 5.4 ---------------------------------------------------------------------------------

_VIEW = Call(method="view")


def _append(seed: int, n: int, **options: Any) -> Call:
    """Append n positions of two heads, d = 2, dv = 1; the result is not looked at."""
    k, v = _draw(seed, (2, n, 2), (2, n, 1))
    options.setdefault("save", None if options.get("catch") else "ignored")
    return Call((k, v), method="append", **options)


def _stream(appends: int, each: int) -> list[Call]:
    """Many positions of two heads, d = dv = 64, float32, and a last look at the cache."""
    return [
        *(
            Call(
                [Drawn(2 * i + j, (2, each, 64)) for j in (0, 1)],
                method="append",
                save="ignored",
            )
            for i in range(appends)
        ),
        Call(method="view", save="ignored"),
    ]


def _new(size: int) -> Call:
    return Call((size,), save="object")


def _story(what: str, size: int, *calls: Call) -> Case:
    """A script on one cache, with a note that tells its steps."""
    steps = []
    for call in calls:
        words = call.method if call.method == "view" else f"append {call.args[0].shape[1]}"
        words += " (too many)" if call.catch else ""
        words += ", then 77 written into its arrays" if call.overwrite_args else ""
        steps.append(words)
    return Case([_new(size), *calls], f"{what} {size}; {'; '.join(steps)}")


def _two(size: int) -> Case:
    """Two caches, fed in turn."""
    calls = [
        Call((size,), save="a"),
        Call((size,), save="b"),
        _append(20, 2, on="a"),
        _append(21, 1, on="b"),
        Call(method="view", on="a"),
        Call(method="view", on="b"),
    ]
    return Case(calls, "caches a and b; append 2 to a; append 1 to b; view a; view b")


_TWO_LAYERS = "two caches, one for each of two layers, are two"

STATIC = Visible(
    "5.3",
    [
        VisibleClaim(
            "what goes in comes out, in order",
            [
                _story(
                    "capacity", 5, _append(0, 2), _VIEW, _append(1, 1), _VIEW, _append(2, 2), _VIEW
                )
            ],
            compare="close",
        ),
        VisibleClaim(
            "a chunk that does not fit raises ValueError and changes nothing",
            [
                _story("capacity", 4, _append(3, 3), _append(4, 2, catch=True), _VIEW),
                _story(
                    "capacity",
                    4,
                    _append(3, 3),
                    _append(4, 2, catch=True),
                    _append(5, 1),
                    _VIEW,
                    _append(6, 1, catch=True),
                    _VIEW,
                ),
                _story("capacity", 2, _append(7, 3, catch=True), _append(8, 2), _VIEW),
            ],
            compare="close",
        ),
        VisibleClaim(_TWO_LAYERS, [_two(3)], compare="close"),
        VisibleClaim(
            "writing into the arrays that were handed in does no harm",
            [
                _story(
                    "capacity",
                    4,
                    _append(9, 2, overwrite_args=True),
                    _VIEW,
                    _append(10, 1, overwrite_args=True),
                    _VIEW,
                )
            ],
            compare="close",
        ),
        VisibleClaim(
            "the two buffers are all the memory that it takes",
            [
                Case(
                    [_new(400), *_stream(4, 100)[:-1]],
                    "two buffers for 400 positions in float32 take 0.41 MB",
                    memory_mb=0.77,
                ),
                Case(
                    [_new(400), *_stream(8, 50)[:-1]],
                    "two buffers for 400 positions in float32 take 0.41 MB",
                    memory_mb=0.52,
                ),
                Case(
                    [_new(400), *_stream(8, 50)],
                    "two buffers for 400 positions in float32 take 0.41 MB; with a view at the end",
                    memory_mb=0.52,
                ),
            ],
            compare="property:runs",
        ),
    ],
    results=("k", "v"),
    again="notebooks/05_kv_cache.ipynb#Three-ways-to-keep",
)

RING = Visible(
    "5.4",
    [
        VisibleClaim(
            "before it is full, it holds what has come in",
            [_story("window", 4, _append(0, 2), _VIEW, _append(1, 1), _VIEW)],
            compare="close",
        ),
        VisibleClaim(
            "then it holds the last `window` positions, oldest first",
            [
                _story(
                    "window", 3, *(call for i in range(2, 7) for call in (_append(i, 1), _VIEW))
                ),
                _story(
                    "window", 3, _append(7, 2), _VIEW, _append(8, 2), _VIEW, _append(9, 2), _VIEW
                ),
            ],
            compare="close",
        ),
        VisibleClaim(
            "a chunk may be longer than the window",
            [_story("window", 3, _append(10, 2), _append(11, 5), _VIEW, _append(12, 1), _VIEW)],
            compare="close",
        ),
        VisibleClaim(_TWO_LAYERS, [_two(3)], compare="close"),
        VisibleClaim(
            "writing into the arrays that were handed in does no harm",
            [
                _story(
                    "window",
                    3,
                    _append(13, 2, overwrite_args=True),
                    _VIEW,
                    _append(14, 2, overwrite_args=True),
                    _VIEW,
                )
            ],
            compare="close",
        ),
        VisibleClaim(
            "a long text takes no more memory than a short one",
            [
                Case(
                    [_new(4), *_stream(40, 20)],
                    "window 4; 800 positions, which would take 0.8 MB in all",
                    memory_mb=0.2,
                )
            ],
            compare="property:runs",
        ),
    ],
    results=("k", "v"),
    again="notebooks/05_kv_cache.ipynb#Three-ways-to-keep",
)


# --- 5.5 and 5.6 ---------------------------------------------------------------------------------

#: Odd, and more than 2**53 of them: a float cannot hold the product exactly.
_LARGE = (401, 307, 10009, 10007, 997, 1)

BYTES = Visible(
    "5.5",
    [
        VisibleClaim(
            "a small cache",
            [Case([Call((2, 3, 5, 7, 1, 2))], "2 layers, 3 heads of 5, 7 tokens, 16 bits")],
        ),
        VisibleClaim(
            "several texts, other types, no tokens",
            [
                Case([Call((2, 3, 5, 7, 11, 4))], "the same for 11 texts in float32"),
                Case([Call((4, 1, 8, 100, 3, 1))], "one key head, 3 texts, 8 bits"),
                Case([Call((4, 2, 8, 0, 3, 2))], "no tokens yet"),
            ],
        ),
        VisibleClaim(
            "a very large cache",
            [Case([Call(_LARGE)], "about 20 petabytes")],
        ),
        VisibleClaim(
            "an int, exact to the last byte",
            [Case([Call(_LARGE)], "about 20 petabytes")],
            compare="property:an_int",
        ),
    ],
    again="notebooks/05_kv_cache.ipynb#What-it-costs-to-remember",
)


def _run(seed: int, prompt: list[int], n: int, vocab: int = 23) -> Case:
    note = f"a prompt of {len(prompt)}, {n} new"
    return Case([Call((Callback("step", {"seed": seed, "vocab": vocab}), prompt, n))], note)


_RUNS = [_run(1, [3, 1, 4], 4), _run(2, [5, 9], 1), _run(3, [2], 3), _run(4, [6, 6], 0)]

GENERATE = Visible(
    "5.6",
    [
        VisibleClaim("n new tokens, the likeliest each time", _RUNS),
        VisibleClaim(
            "every token is fed once, and the last one not at all",
            _RUNS,
            compare="property:fed_once",
        ),
    ],
    again="notebooks/05_kv_cache.ipynb#Work-that-is-done-twice",
)

VISIBLE = [ONE_BY_ONE, CHUNK, STATIC, RING, BYTES, GENERATE]


# --- concept questions ---------------------------------------------------------------------------

QUESTIONS = [
    Question(
        "5.A",
        "b",
        {
            "a": "The size of a key is the same in both. "
            "What matters is whether it is still right tomorrow.",
            "b": "Without a mask a state is made of the whole sentence. Add a word, and every "
            "state after the first layer is another one, and so are the keys made from it. Under "
            "the causal mask, states depend on earlier words only, and those have been said.",
            "c": "It has one for each word, like any attention layer.",
            "d": "Nobody needs it, and it would not work either: that is the question.",
        },
    ),
    Question(
        "5.B",
        "b",
        {
            "a": "One token goes in, but its query meets all t keys that are stored.",
            "b": "Both sentences are about something true. One new key and value are computed "
            "(O(1), instead of O(t) without a cache), and one query meets t keys (O(t), instead "
            "of O(t²)). A claim about 'the cost' needs to say the cost of what.",
            "c": "Projections and the small networks work on the new token only: O(1).",
            "d": "One query times t keys makes t products, not t².",
        },
    ),
    Question(
        "5.C",
        "b",
        {
            "a": "It should, and would, if the mask were made from positions.",
            "b": "The flag lays its triangle into the *top left* corner of the 1 x 901 table: "
            "row 0 sees column 0. The output is the value of the first token, there is no error, "
            "and the weights add up to 1. For a single query, leave the flag off; in general, "
            "make the mask from positions.",
            "c": "Not even that one: for the flag, the query stands at position 0.",
            "d": "If only it were. It runs and returns an ordinary vector.",
        },
    ),
    Question(
        "5.D",
        "b",
        {
            "a": "A prompt is fed with many tokens at once, and there the future is in the same "
            "chunk. Drop the mask, and the states of the prompt are not those of training.",
            "b": "Then everything that is held is in the query's past and may be seen. With "
            "several new tokens, with padding or with a window, something has to be hidden.",
            "c": "A model does not 'look' by choice: whatever the softmax is given takes part.",
            "d": "The other way round: the prompt is where many positions are computed together.",
        },
    ),
    Question(
        "5.E",
        "b",
        {
            "a": "That saving is larger: 98.2% for the shape of DeepSeek-V3 (chapter 5 computes it).",
            "b": "The paper compares two whole systems. Latent attention is a part of the "
            "difference; fewer layers and a cache in about 6 bits are the rest. A percentage "
            "without its baseline is not a number.",
            "c": "The number of bits plays a part in it, but 8 against 32 would give 75%.",
            "d": "Both are per token; the length of the text cancels out.",
        },
    ),
    Question(
        "5.F",
        "c",
        {
            "a": "The contract does not speak of row numbers. What does row t *predict*?",
            "b": "The contract holds in training above all: it is there that the future is at "
            "hand to peek at.",
            "c": "A prediction of token s may use tokens before s. For s = t + 2, these are the "
            "tokens up to t + 1. A tester has to know what a row predicts.",
            "d": "How keys are stored has nothing to do with which tokens they know.",
        },
    ),
]
