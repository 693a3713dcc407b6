"""What students see at once in the exercises of chapter 6: claims, small cases, explanations."""

import numpy as np

from course_lib.checks.script import Call, Case
from course_lib.masks import Mask, causal, full, prefix_lm, same_document, sliding_window
from course_tools.exercise_bank.load import Question, Visible, VisibleClaim

TOKENS = ("The", "cat", "sat", "on", "mat")


# --- 6.1 -----------------------------------------------------------------------------------------


def _one(n: int, p: int) -> Case:
    return Case([Call((n, p))], f"n = {n}, p = {p}")


def _many(n: int, *p: int) -> Case:
    return Case([Call((n, np.array(p)))], f"n = {n}, p = {list(p)}")


PREFIX = Visible(
    "6.1",
    [
        VisibleClaim(
            "the prefix sees itself in both directions, and nothing after it",
            [_one(5, 3), _one(5, 2), _one(7, 4)],
            compare="mask",
        ),
        VisibleClaim(
            "no prefix is causal; nothing but prefix is full",
            [_one(4, 0), _one(4, 1), _one(3, 3), _one(1, 1)],
            compare="mask",
        ),
        VisibleClaim(
            "several prefixes give [B, 1, n, n]",
            [_many(4, 1, 3), _many(3, 2, 0, 3), _many(5, 3)],
            compare="mask",
        ),
    ],
    again="notebooks/06_prefix_lm.ipynb#A-formula-that-passes-at-both-ends-and-is-wrong",
)


# --- 6.2 -----------------------------------------------------------------------------------------

_VALUE = Case([])

WEIGHTS = Visible(
    "6.2",
    [
        VisibleClaim("two tables of five rows and five columns", [_VALUE], "property:two_tables"),
        VisibleClaim("weights, and each row adds up to 1", [_VALUE], "property:rows_of_weights"),
        VisibleClaim("the weights under the prefix mask", [_VALUE], "close", labels=TOKENS),
    ],
    again="notebooks/06_prefix_lm.ipynb#With-numbers",
)


# --- 6.3 -----------------------------------------------------------------------------------------


def _window(n: int, width: int, sinks: int | None = None) -> Case:
    if sinks is None:
        return Case([Call((n, width))], f"n = {n}, width = {width}")
    return Case([Call((n, width, sinks))], f"n = {n}, width = {width}, sinks = {sinks}")


WINDOW = Visible(
    "6.3",
    [
        VisibleClaim(
            "a window of `width` keys, the token itself included",
            [_window(6, 2), _window(8, 4), _window(4, 1)],
            compare="mask",
        ),
        VisibleClaim("a window wider than the text is causal", [_window(3, 5)], compare="mask"),
        VisibleClaim(
            "the first tokens stay in view, and nobody sees the future",
            [_window(8, 3, 2), _window(7, 2, 3), _window(3, 1, 5), _window(6, 5, 1)],
            compare="mask",
        ),
    ],
    again="notebooks/06_prefix_lm.ipynb#Off-by-one-at-the-far-end-of-the-window",
)


# --- 6.4 -----------------------------------------------------------------------------------------


def _batch(p: list[int], length: int) -> Case:
    """Texts that count on, so that a shift is seen at a glance."""
    tokens = 10 * np.arange(1, len(p) + 1)[:, None] + np.arange(length)
    return Case([Call((tokens, np.array(p)))], f"{len(p)} texts of {length} tokens, p = {p}")


TARGETS = Visible(
    "6.4",
    [
        VisibleClaim(
            "inputs, targets, and the answer's targets kept",
            [_batch([2, 4, 3], 6)],
            compare="equal",
        ),
        VisibleClaim(
            "no prompt keeps everything, nothing but prompt keeps nothing",
            [_batch([1, 0, 5], 5), _batch([2, 0, 1], 2)],
            compare="equal",
        ),
    ],
    results=("inputs", "targets", "keep"),
    again="notebooks/06_prefix_lm.ipynb#Loss-on-the-suffix-only",
)


# --- 6.5 -----------------------------------------------------------------------------------------


def _grown(old: Mask, new: Mask, n: int, m: int, layers: int) -> Case:
    note = f"{old} on {n} tokens, then {new} on {m}; {layers} layers"
    return Case([Call((old.matrix(n), new.matrix(m), layers))], note)


_CHAIN = Mask(
    lambda q, k: (k <= q) & (q - k < 2) | (q == 0) & (k == 2), "a window of 2, row 0 open"
)

_LESS = Mask(lambda q, k: (k <= q) & ~((q == 2) & (k == 0)), "causal, but 0 hidden from 2")

VALID = Visible(
    "6.5",
    [
        VisibleClaim(
            "a causal text that grows keeps its cache",
            [_grown(causal(), causal(), 3, 5, 3)],
        ),
        VisibleClaim(
            "layer 0 is made from the tokens; layer 1 from what each token sees",
            [
                _grown(causal(), full(), 3, 3, 2),
                _grown(prefix_lm(2), prefix_lm(4), 4, 6, 2),
                _grown(causal(), sliding_window(2), 5, 5, 2),
                _grown(full(), full(), 3, 4, 2),
            ],
        ),
        VisibleClaim(
            "above that, what is stale spreads to whoever reads it",
            [
                _grown(causal(), _LESS, 5, 5, 3),
                _grown(sliding_window(2), _CHAIN, 5, 6, 4),
                _grown(prefix_lm(2), prefix_lm(5), 6, 6, 3),
                _grown(
                    causal() & same_document([0, 0, 1, 1, 1]),
                    causal() & same_document([0, 0, 0, 1, 1]),
                    5,
                    5,
                    3,
                ),
                _grown(causal(), full(), 2, 4, 1),
            ],
        ),
    ],
    again="notebooks/06_prefix_lm.ipynb#What-a-prefix-does-to-a-cache",
)

VISIBLE = [PREFIX, WEIGHTS, WINDOW, TARGETS, VALID]


# --- concept questions ---------------------------------------------------------------------------

QUESTIONS = [
    Question(
        "6.A",
        "b",
        {
            "a": "At both ends they agree, and that proves little: with P = 0 or P = N there is "
            "no cell left in which they could differ. Fill in row 0 for P = 2.",
            "b": "The formula asks whether the *query* is in the prefix, and opens whole rows: "
            "row 0 becomes 11111 where it should be 11000. And since the answer reads the "
            "prefix, all of it can now read ahead. The right rule asks for the key: j < P or "
            "j ≤ i.",
            "c": "The prefix comes first, so j ≤ i lets the answer see it.",
            "d": "That is what the right rule does. Fill in row 0 of the printed one, column 4.",
        },
    ),
    Question(
        "6.B",
        "c",
        {
            "a": "Python reads it as (causal & window) | sinks, so tokens 0 to 2 see sinks that "
            "come after them.",
            "b": "A key would have to be recent and a sink at the same time. Long texts would "
            "soon see nothing.",
            "c": "Recent or a sink, and in any case not in the future. "
            "What must hold always is joined last, with &, around everything else.",
            "d": "That is the prefix mask of length 4: no window, and the sinks see each other.",
        },
    ),
    Question(
        "6.C",
        "c",
        {
            "a": "That was shown for the causal mask, where no token needs a later one.",
            "b": "The rows are right, but a mask cannot show keys that have not been computed.",
            "c": "A cache can be cut only where nobody before the cut sees anything after it. A "
            "prefix has no such place inside. It has to go in as a whole.",
            "d": "They can: once the prefix is in, the answer is causal and its keys never change.",
        },
    ),
    Question(
        "6.D",
        "a",
        {
            "a": "The keys and values of the only layer are made from single tokens. The mask "
            "changes what the prompt's own states become, and nobody reads those. It takes a "
            "second layer for a two-way prompt to be of use.",
            "b": "Understood by the states *after* the layer. What does the answer read?",
            "c": "Nothing of the answer is visible to the prompt, and the prompt is given.",
            "d": "Rows of the answer are the same under both masks.",
        },
    ),
    Question(
        "6.E",
        "b",
        {
            "a": "T5, the model, is an encoder-decoder: a bidirectional encoder with no mask, and "
            "a decoder that reads it.",
            "b": "Raffel et al. (2020) compare architectures and masks and choose; Tay et al. "
            "(2022) mix objectives; the PaLM 2 report cites UL2's mixture and gives no details. "
            "'Some models, e.g.' is easily written, and harder to look up.",
            "c": "T5's and UL2's papers do, at length.",
            "d": "PaLM 2's report is the one that does not say.",
        },
    ),
]
