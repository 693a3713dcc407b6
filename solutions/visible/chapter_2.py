"""Visible checks and concept questions of chapter 2 (teachers' side; students get their data)."""

import numpy as np

from course_lib.checks.script import Call, Case, DType, Tensor
from course_lib.masks import causal
from course_tools.exercise_bank.load import Question, Visible, VisibleClaim

NOTEBOOK = "notebooks/02_tril_mask.ipynb"

MATRIX = Visible(
    "2.1",
    [
        VisibleClaim("five rows of five", [Case([])], "property:five_rows_of_five"),
        VisibleClaim("each row: who may be seen", [Case([])]),
    ],
    again=f"{NOTEBOOK}#Rows-ask,-columns-answer",
)

CAUSAL = Visible(
    "2.2",
    [
        VisibleClaim("five tokens", [Case([Call([5])], "n = 5")], "mask"),
        VisibleClaim("other numbers of tokens", [Case([Call([n])], f"n = {n}") for n in (1, 2, 7)],
                     "mask"),
        VisibleClaim("no tokens", [Case([Call([0])], "n = 0")], "mask"),
    ],
    again=f"{NOTEBOOK}#Three-more-ways-to-write-it",
)  # fmt: skip


def _at(q_pos, k_pos, note):
    return Case([Call([np.array(q_pos, dtype=np.int64), np.array(k_pos, dtype=np.int64)])], note)


#: Rows and columns are places here, not the tokens of the example.
PLACES = tuple("0123456")

AT = Visible(
    "2.3",
    [
        VisibleClaim("all tokens", [_at(range(4), range(4), "queries and keys at 0 to 3")], "mask", labels=PLACES),
        VisibleClaim("one new query", [_at([4], range(5), "the query at 4, keys at 0 to 4")], "mask", labels=PLACES),
        VisibleClaim("the middle of a text",
                     [_at([2, 3], range(6), "queries at 2 and 3, keys at 0 to 5")], "mask", labels=PLACES),
        VisibleClaim("any order",
                     [_at([4, 0], [4, 0, 3], "queries at 4 and 0, keys at 4, 0, 3"),
                      _at([7, 3, 5], [6, 9, 5, 2], "queries at 7, 3, 5, keys at 6, 9, 5, 2")],
                     "mask", labels=PLACES),
        VisibleClaim("no queries", [_at([], [0, 1], "no queries, two keys")], "mask", labels=PLACES),
    ],
    again=f"{NOTEBOOK}#When-the-mask-is-not-square",
)  # fmt: skip

HOLES = np.array([[True, False, False], [True, True, False], [False, False, False]])
STRIPS = np.array([[[True, False, True, True]], [[False, True, True, False]]])


def _bias(mask, library, name):
    given = Tensor(mask) if library == "torch" else mask
    return Case(
        [Call([given, DType(library, name)])], f"{library}.{name}, shape {list(mask.shape)}"
    )


BIAS = Visible(
    "2.4",
    [
        VisibleClaim("a causal mask in NumPy", [_bias(causal().matrix(4), "numpy", "float32")]),
        VisibleClaim("any mask, any shape", [_bias(HOLES, "numpy", "float64"),
                                             _bias(STRIPS, "numpy", "float64")]),
        VisibleClaim("torch, half precision too", [_bias(HOLES, "torch", "float32"),
                                                   _bias(STRIPS, "torch", "float16")]),
        VisibleClaim("the dtype that was asked for", [_bias(HOLES, "numpy", "float16"),
                                                      _bias(HOLES, "torch", "float32")],
                     "property:dtype_as_asked"),
    ],
    again=f"{NOTEBOOK}#Who-means-what:-three-dialects",
)  # fmt: skip

WINDOW = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=bool)
HEADS = np.stack([WINDOW, causal().matrix(4), ~WINDOW])[:, None]

OPEN_ROW = Visible(
    "2.5",
    [
        VisibleClaim("a causal mask", [Case([Call([causal().matrix(5), 2])], "five tokens, row 2")],
                     "mask"),
        VisibleClaim("another mask",
                     [Case([Call([WINDOW, 2])], "a sliding window, row 2"),
                      Case([Call([np.zeros((2, 5), dtype=bool), 0])], "2 queries, 5 keys, row 0")],
                     "mask", labels=("0", "1", "2", "3", "4")),
        VisibleClaim("axes in front", [Case([Call([HEADS, 1])], "shape [3, 1, 4, 4], row 1")],
                     "mask", labels=("0", "1", "2", "3")),
    ],
    again=f"{NOTEBOOK}#A-mask-is-a-rule,-not-a-matrix",
)  # fmt: skip

ROW_WEIGHTS = Visible(
    "2.6",
    [
        VisibleClaim("five weights that add up to 1", [Case([])], "property:five_weights"),
        VisibleClaim('the weights of "sat"', [Case([])]),
    ],
    again=f"{NOTEBOOK}#Look-around",
)

VISIBLE = [MATRIX, CAUSAL, AT, BIAS, OPEN_ROW, ROW_WEIGHTS]

QUESTIONS = [
    Question("2.A", "b", {
        "a": "Speed is a welcome by-product (chapter 7 skips the blocked half), not the reason. A mask has to say who may see whom.",
        "b": "Yes. Column at most row means key not later than query, and those cells are the diagonal and everything below it. With rows and columns swapped, the same rule would be an upper triangle.",
        "c": "Softmax needs no blocked cell; the last row of the mask has none.",
        "d": "Scores are not symmetric: what \"sat\" looks for in \"cat\" is not what \"cat\" looks for in \"sat\".",
    }),
    Question("2.B", "c", {
        "a": "Softmax makes every row add up to 1, whichever cells are open.",
        "b": "Position 3 has seen its own word in any case, and it predicts word 4. The open cell lies in row 2: whose view is that?",
        "c": "Yes. Position 2 has to predict word 3. The answer lies before it, so it learns to copy it, and at generation, where word 3 does not exist yet, it has nothing to copy.",
        "d": "One cell is enough for one position to read its answer, in every text. Its training loss falls to almost nothing.",
    }),
    Question("2.C", "c", {
        "a": "That is the triangle counted from the top left corner: it takes the new query for the first token of the text, and hides 900 keys from it.",
        "b": "A token does see itself: it has been said, and what it predicts comes after it.",
        "c": "Yes. The query is at position 900, the keys at 0 to 900, and none of them is later.",
        "d": "The mask looks at positions only.",
    }),
    Question("2.D", "b", {
        "a": "That is what it would be for nn.MultiheadAttention, where True means blocked. This function reads True as may attend.",
        "b": "Yes: the strict upper triangle is opened. Nothing complains, and the last row, which sees nothing, comes out as zeros. Exactly this was shipped by a popular course.",
        "c": "No error: an empty row comes out as zeros, without a word.",
        "d": "Boolean masks are not ignored; they are what the function documents, with True = may attend.",
    }),
    Question("2.E", "c", {
        "a": "There is nothing to learn at a position: whether a key is later than a query is known beforehand.",
        "b": "That is the number of visible cells (1,024 times 1,025, halved), but none of them is a weight.",
        "c": "Yes, none. Stored as a matrix it costs memory, as a rule not even that.",
        "d": "All heads share the rule, and it has no weights.",
    }),
]  # fmt: skip
