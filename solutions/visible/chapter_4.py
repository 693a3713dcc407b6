"""Visible checks and concept questions of chapter 4 (teachers' side; students get their data)."""

import numpy as np

from course_lib.checks.script import Call, Case
from course_tools.exercise_bank.load import Question, Visible, VisibleClaim

NOTEBOOK = "notebooks/04_batching.ipynb"

# --- 4.1 multi_head_causal_attention --------------------------------------------------------------

_rng = np.random.default_rng(41)


def _layer(batch, length, n_heads, d):
    """Entries with one decimal: short in the data and in messages."""
    width = n_heads * d
    shapes = (batch, length, width), (width, 3 * width), (width, width)
    return [*(np.round(_rng.normal(size=shape) * 0.8, 1) for shape in shapes), n_heads]


TWO_HEADS, THREE_HEADS, ONE_SENTENCE = _layer(2, 3, 2, 3), _layer(3, 4, 3, 2), _layer(1, 5, 2, 2)
LOUD = [100 * ONE_SENTENCE[0], *ONE_SENTENCE[1:]]

LAYER = Visible(
    "4.1",
    [
        VisibleClaim("one sentence, two heads",
                     [Case([Call(ONE_SENTENCE)], "B = 1, T = 5, H = 2, d = 2")], "close"),
        VisibleClaim("two sentences, two heads",
                     [Case([Call(TWO_HEADS)], "B = 2, T = 3, H = 2, d = 3")], "close"),
        VisibleClaim("three sentences, three heads",
                     [Case([Call(THREE_HEADS)], "B = 3, T = 4, H = 3, d = 2")], "close"),
        VisibleClaim("scores in the thousands",
                     [Case([Call(LOUD)], "the first, with x a hundred times as large")], "close"),
        VisibleClaim("no digits are thrown away",
                     [Case([Call(ONE_SENTENCE)], "float64 comes in")], "property:keeps_precision"),
    ],
    again=f"{NOTEBOOK}#Heads:-splitting-and-merging",
)  # fmt: skip

# --- 4.2 causal_and_padding -----------------------------------------------------------------------


def _padding(lengths, total, side):
    note = f"lengths {lengths} of {total}, padding on the {side}"
    return Case([Call([np.array(lengths), total, side])], note)


PADDING = Visible(
    "4.2",
    [
        VisibleClaim("padding on the right", [_padding([3, 1], 4, "right")], "mask",
                     labels=("0", "1", "2", "3")),
        VisibleClaim("padding on the left", [_padding([3, 1], 4, "left")], "mask",
                     labels=("0", "1", "2", "3")),
        VisibleClaim("nothing to pad, and nothing but padding",
                     [_padding([2, 0, 3], 3, "left"), _padding([2, 0, 3], 3, "right")], "mask",
                     labels=("0", "1", "2")),
    ],
    again=f"{NOTEBOOK}#Sentences-of-different-lengths:-padding",
)  # fmt: skip

# --- 4.3 document_mask ----------------------------------------------------------------------------


def _ids(*ids):
    return Case([Call([np.array(ids)])], f"ids {list(ids)}")


DOCUMENTS = Visible(
    "4.3",
    [
        VisibleClaim("two documents, one after the other", [_ids(2, 2, 2, 1, 1)], "mask",
                     labels=("0", "1", "2", "3", "4")),
        VisibleClaim("documents in pieces", [_ids(7, 7, 3, 7)], "mask",
                     labels=("0", "1", "2", "3")),
        VisibleClaim("any integers as ids", [_ids(0, 5, 0, -4, 5)], "mask",
                     labels=("0", "1", "2", "3", "4")),
    ],
    again=f"{NOTEBOOK}#No-padding-at-all:-packing",
)  # fmt: skip

# --- 4.4 for_multihead_attention ------------------------------------------------------------------

PLAIN = np.array([[1, 0, 0], [1, 1, 0]], dtype=bool)
BY_HEAD = np.array(
    [
        [[[1, 0, 0], [1, 1, 0]], [[0, 0, 1], [1, 0, 1]], [[1, 1, 1], [0, 1, 0]]],
        [[[0, 1, 0], [0, 1, 1]], [[1, 0, 1], [1, 1, 1]], [[0, 0, 1], [0, 0, 0]]],
    ],
    dtype=bool,
)  # [2, 3, 2, 3]

MODULE = Visible(
    "4.4",
    [
        VisibleClaim("a mask of two axes", [Case([Call([PLAIN])], "shape [2, 3]")],
                     labels=("0", "1", "2")),
        VisibleClaim("a mask for each head of each sentence",
                     [Case([Call([BY_HEAD])], "shape [2, 3, 2, 3]")], labels=("0", "1", "2")),
        VisibleClaim("a single sentence", [Case([Call([BY_HEAD[:1]])], "shape [1, 3, 2, 3]")],
                     labels=("0", "1", "2")),
    ],
    again=f"{NOTEBOOK}#Sentences-of-different-lengths:-padding",
)  # fmt: skip

# --- 4.5 SHAPES -----------------------------------------------------------------------------------

SHAPES = Visible(
    "4.5",
    [
        VisibleClaim("tuples of ints under the eight names", [Case(calls=())],
                     "property:eight_shapes"),
        VisibleClaim("shapes that fit each other", [Case(calls=())], "property:shapes_fit"),
        VisibleClaim("every shape", [Case(calls=())]),
    ],
    again=f"{NOTEBOOK}#The-shape-flow",
)  # fmt: skip

VISIBLE: list[Visible] = [LAYER, PADDING, DOCUMENTS, MODULE, SHAPES]

QUESTIONS: list[Question] = [
    Question("4.A", "b", {
        "a": "This is the common wrong answer. The copy would be right and a waste: 64 sentences, 32 heads and 2048 tokens make 8 GiB of it, where 4 MiB do.",
        "b": "Yes, both halves: the shapes fit, with stride 0 and no copy, and it is *right*, because who may see whom is the same in every sentence and every head.",
        "c": "It reads the same cells for every sentence, because that is what an axis of length 1 means. Nothing is left out.",
        "d": "How threads share the work has nothing to do with the shapes.",
    }),
    Question("4.B", "c", {
        "a": "There would be one if B and H differed (and B were not 1). Here the lengths fit.",
        "b": "Broadcasting adds axes on the left only, so yours became [1, B, T, T]: B meets the heads.",
        "c": "Yes. Aligned on the right, the axis of sentences meets the axis of heads, and 8 equals 8. Give the mask all four axes: [B, 1, T, T].",
        "d": "Nothing is left out; each of the eight is used, by the wrong reader.",
    }),
    Question("4.C", "b", {
        "a": "Each query has a result of its own: its axis is still there in the output, [B, H, T, d].",
        "b": "Yes. The last axis of the weights, the keys, meets the tokens of v: each query collects from all keys.",
        "c": "Heads never meet here. They meet in the product with the output weights.",
        "d": "If sentences were summed over, they would read each other.",
    }),
    Question("4.D", "c", {
        "a": "The shape is right. That is what makes the mistake so common.",
        "b": "It goes down, below what an honest model can reach: the row of a token gets numbers of later tokens.",
        "c": "Yes. An output that stands before the changed token moves. Test with a full table: no cell too many, none missing.",
        "d": "The mask is perfect. It did its work before the merge.",
    }),
    Question("4.E", "b", {
        "a": "What a padded query computes is read by nobody, if the padded keys are masked.",
        "b": "Yes. The mask compares slots with slots, but the embedding must know that the first word is the first: slot minus left padding.",
        "c": "If the difference is larger than rounding, it is a bug. A sentence does not know how long its neighbours are.",
        "d": "With the padded keys masked, no filler can be told from another; if it can, that is the bug.",
    }),
    Question("4.F", "b", {
        "a": "The two read True in opposite ways, so with one tensor they cannot both be causal.",
        "b": "Yes. The tensor is True above the diagonal. The module reads that as blocked; the function reads it as visible, so that each token sees only its future, and the last nothing.",
        "c": "The function reads True as may attend, and this tensor is True where the future is.",
        "d": "Above the diagonal is the future, and one of them does block it.",
    }),
]  # fmt: skip
