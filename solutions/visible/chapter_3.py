"""Visible checks and concept questions of chapter 3 (teachers' side; students get their data)."""

import numpy as np

from course_lib.checks.script import Call, Case
from course_lib.example import TOKENS, K, Q, V
from course_tools.exercise_bank.load import Question, Visible, VisibleClaim

NOTEBOOK = "notebooks/03_mask_before_softmax.ipynb"
THE_VALUE = [Case(calls=())]

# --- 3.1, 3.2, 3.4: values ------------------------------------------------------------------------

ON_WEIGHTS = Visible(
    "3.1",
    [
        VisibleClaim("five weights: 0 for the blocked, sum 1", THE_VALUE, "property:row_of_on"),
        VisibleClaim("the right weights", THE_VALUE, labels=TOKENS),
    ],
    again=f'{NOTEBOOK}#The-row-of-"sat",-with-everything-written-out',
)

ROW = Visible(
    "3.2",
    [
        VisibleClaim("five weights: 0 for the blocked, sum 1", THE_VALUE, "property:row_by_hand"),
        VisibleClaim("the right weights", THE_VALUE),
    ],
    again=f"{NOTEBOOK}#Stable-softmax",
)

SCORES = Visible(
    "3.4",
    [
        VisibleClaim(
            "healthy to look at, and wrong by 0.1 or more",
            THE_VALUE,
            "property:silent_renormalisation",
        )
    ],
    again=f"{NOTEBOOK}#Does-renormalising-mend-it?",
)

# --- 3.3 masked_softmax ---------------------------------------------------------------------------

PLAIN_SCORES = np.array([[2.0, 1, 4, 3], [0.5, -1, 0, 2], [1, 3, -2, 0.25], [0, 1, 2, -1]])
PLAIN_MASK = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]], dtype=bool)
MANY_SCORES = np.array(
    [
        [[[0, 1, 2], [1.5, 0, -1]], [[2, 0.5, 1], [0, 0, 3]]],
        [[[1, -1, 0], [0.5, 2, 2]], [[-2, 1, 1], [3, 1, 0]]],
    ]
)
ONE_MASK_A_SENTENCE = np.array(
    [[[[1, 0, 1], [1, 1, 0]]], [[[0, 1, 1], [1, 0, 1]]]], dtype=bool
)  # [2, 1, 2, 3]
EMPTY_MASK = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]], dtype=bool)
LARGE = np.array([[1000.0, 1001, 7], [-2e4, -20_001, 0], [-4e9, -3e9, 0]])
HUGE_BLOCKED = np.array([[0.0, 1, 900], [2, 2, 3e4]])
FIRST_TWO = np.array([True, True, False])
RUBBISH = np.array([[0.0, 1, np.nan], [2, 1, np.inf]])
BROKEN = np.array([[1.0, np.nan, 2], [0, 1, 2]])


def _softmax_claim(says, scores, mask, note, **more):
    return VisibleClaim(says, [Case([Call([scores, mask])], note)], "close", **more)


SOFTMAX = Visible(
    "3.3",
    [
        _softmax_claim("rows with masks of their own", PLAIN_SCORES, PLAIN_MASK, "4 rows"),
        _softmax_claim("leading axes, the mask broadcast over the heads",
                       MANY_SCORES, ONE_MASK_A_SENTENCE, "scores [2, 2, 2, 3], mask [2, 1, 2, 3]"),
        _softmax_claim("a row that sees nothing gets zeros", PLAIN_SCORES[:3, :3], EMPTY_MASK,
                       "row 1 sees nothing"),
        _softmax_claim("very large and very low scores", LARGE, FIRST_TWO,
                       "scores near 1000, -20,000 and -4,000,000,000"),
        _softmax_claim("a huge score in a blocked cell", HUGE_BLOCKED, FIRST_TWO,
                       "900 and 30,000 in the blocked cells"),
        _softmax_claim("NaN and inf in blocked cells", RUBBISH, FIRST_TWO,
                       "NaN and inf in the blocked cells"),
        _softmax_claim("a NaN in a visible score stays visible", BROKEN, np.ones((2, 3), bool),
                       "a NaN in row 0, everything visible"),
        VisibleClaim("no digits are thrown away",
                     [Case([Call([PLAIN_SCORES, PLAIN_MASK])], "float64 comes in")],
                     "property:keeps_precision"),
    ],
    again=f"{NOTEBOOK}#A-row-that-may-attend-to-nothing",
)  # fmt: skip

# --- 3.5 causal_attention -------------------------------------------------------------------------

_rng = np.random.default_rng(35)


def _drawn(*shape):
    """Entries with one decimal: short in the data and in messages."""
    return np.round(_rng.normal(size=shape), 1)


FOUR = [_drawn(4, 3), _drawn(4, 3), _drawn(4, 2)]
HEADS = [_drawn(2, 2, 3, 4), _drawn(2, 1, 3, 4), _drawn(2, 1, 3, 2)]
LOUD = [
    np.array([[1.0, 0], [0, 1], [1, 1]]),
    np.array([[2000.0, 0], [1999, 3], [9000, 3000]]),
    np.array([[1.0], [2], [3]]),
]

ATTENTION = Visible(
    "3.5",
    [
        VisibleClaim("weights: nothing for the future, rows that sum to 1",
                     [Case([Call([Q, K, V])], "The cat sat on mat")], "property:causal_weights"),
        VisibleClaim("the five tokens of the chapter", [Case([Call([Q, K, V])], "The cat sat on mat")],
                     "close", labels=TOKENS),
        VisibleClaim("other sizes", [Case([Call(FOUR)], "T = 4, d_k = 3, d_v = 2")], "close"),
        VisibleClaim("leading axes, also broadcast ones",
                     [Case([Call(HEADS)], "q [2, 2, 3, 4], k [2, 1, 3, 4], v [2, 1, 3, 2]")],
                     "close"),
        VisibleClaim("scores in the thousands", [Case([Call(LOUD)], "keys up to 9000")], "close"),
        VisibleClaim("no digits are thrown away", [Case([Call(FOUR)], "float64 comes in")],
                     "property:keeps_precision"),
    ],
    results=("output", "weights"),
    again=f"{NOTEBOOK}#Five-steps",
)  # fmt: skip

VISIBLE: list[Visible] = [ON_WEIGHTS, ROW, SOFTMAX, SCORES, ATTENTION]

QUESTIONS: list[Question] = [
    Question("3.A", "b", {
        "a": "This is the common wrong answer. The zeros are harmless, the sum is not: the blocked scores were in it, so the visible weights add up to less than 1 and change with every blocked score.",
        "b": "Yes. The sum of a row is where the future gets in. Out of the sum, it is out of everything.",
        "c": "A product with 0 after softmax gives exact zeros too. What it does not give is right weights beside them.",
        "d": "A softmax takes as long over a row of infinities as over any other.",
    }),
    Question("3.B", "c", {
        "a": "It did leak, before the division. The new sum holds the same denominator, and in the quotient it cancels.",
        "b": "Dividing by the sum makes it 1.",
        "c": "Yes, in exact arithmetic the two are equal. In floating point they are not: a blocked score far above the visible ones rounds their weights away before you divide again.",
        "d": "Where nothing is masked, the new sum is 1, and dividing by 1 changes nothing.",
    }),
    Question("3.C", "c", {
        "a": "An output has the length of a value and a row of weights the length of the sentence; that they look alike here is special to this example.",
        "b": "The mask changes which weights are 0. It copies nothing.",
        "c": "Yes. A weighted sum of unit vectors has the weights as its entries. \"mat\" adds its own value, 0.5 in every entry, weighted with 0.2430: 0.1892 + 0.1215 gives the 0.3108 of the table, up to the last digit.",
        "d": "With other values of length 4 it would not be so.",
    }),
    Question("3.D", "c", {
        "a": "Arithmetic with infinities is defined: e to the power of minus infinity is exactly 0. Only a row of nothing else gives 0/0.",
        "b": "float16 ends at -65,504. There, -1e9 is an error when it is filled in, and minus infinity when it is converted.",
        "c": "Yes. And an empty row becomes a uniform one with -1e9, which looks healthy and attends to everything that was blocked.",
        "d": "-1e4 fits float16, and it is higher than some real scores; then all the weight goes to the blocked cells.",
    }),
    Question("3.E", "b", {
        "a": "Softmax itself does that, whatever the scores.",
        "b": "Yes. A sum of 64 independent products of variance 1 has variance 64 and standard deviation 8. With scores that far apart almost all weight falls on one key, and the gradient of softmax almost vanishes.",
        "c": "64 is the variance. The standard deviation is its root.",
        "d": "Overflow is prevented by subtracting the row's maximum. Scaling makes it rarer and prevents nothing.",
    }),
    Question("3.F", "b", {
        "a": "The first token sees itself only; without a mask it sees everything. It is the one that loses most.",
        "b": "Yes. The last query may attend to every key, so its row is the same to the last bit. For the others it would be an accident.",
        "c": "Only one end of the sentence sees all of it.",
        "d": "In the last row of a causal mask nothing is blocked.",
    }),
    Question("3.G", "b", {
        "a": "It shows that the table is wrong, but not that your friend is: a mask after softmax can well leave 0.4 in the first row.",
        "b": "Yes. Softmax makes a row of sum 1, and where nothing is zeroed afterwards it stays 1. The last row says 0.65, so no softmax made this table, masked early or late.",
        "c": "A mask after softmax can leave any sum below 1 in a row with blocked cells.",
        "d": "Ask of each row what a mask after softmax would do to it. There is one to which it does nothing.",
    }),
]  # fmt: skip
