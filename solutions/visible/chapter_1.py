"""Visible checks and concept questions of chapter 1 (teachers' side; students get their data)."""

import numpy as np

from course_lib.checks.script import Call, Callback, Case, Tensor
from course_tools.exercise_bank.load import Question, Visible, VisibleClaim

NOTEBOOK = "notebooks/01_contract.ipynb"

# --- 1.1 -----------------------------------------------------------------------------------------

SCORES = np.array([[1.0, 2.0, 0.0], [0.5, -1.0, 1.5], [2.0, 0.0, 1.0], [0.0, 0.3, 0.9]])
WORDS = np.array([0, 2, 2, 1])
LAST_IS_NAN = np.where(np.arange(4)[:, None] == 3, np.nan, SCORES)
IMPOSSIBLE = np.array([[0.0, 1.0], [2.0, -np.inf], [0.5, 0.5]])

LOG_PROB = Visible(
    "1.1",
    [
        VisibleClaim("scores a text of four words",
                     [Case([Call([SCORES, WORDS])], "4 words of 3")], "close", atol=1e-7),
        VisibleClaim("does not use the last row",
                     [Case([Call([LAST_IS_NAN, WORDS])], "NaN in the last row")], "close"),
        VisibleClaim("copes with large scores",
                     [Case([Call([SCORES + 1000, WORDS])], "the same, 1000 added")], "close"),
        VisibleClaim("one word, and an impossible word", [
            Case([Call([SCORES[:1], WORDS[:1]])], "one word"),
            Case([Call([IMPOSSIBLE, np.array([0, 0, 1])])], "the last word is impossible")],
            "close"),
    ],
    again=f"{NOTEBOOK}#A-text,-one-word-at-a-time",
)  # fmt: skip

# --- 1.2 -----------------------------------------------------------------------------------------

TEXT = np.array([7, 1, 4, 2, 9])
BATCH = np.array([[7, 1, 4, 2], [3, 8, 5, 6], [0, 9, 11, 10]])

SHIFT = Visible(
    "1.2",
    [
        VisibleClaim("one text", [Case([Call([TEXT])], "[7, 1, 4, 2, 9]")]),
        VisibleClaim("a batch of texts", [Case([Call([BATCH])], "3 texts of 4 words"),
                                          Case([Call([Tensor(BATCH)])], "the same in torch")]),
        VisibleClaim("the shortest text", [Case([Call([TEXT[:1]])], "one word"),
                                           Case([Call([TEXT[:2]])], "two words")]),
    ],
    results=("inputs", "targets"),
    again=f"{NOTEBOOK}#The-shift:-every-word-is-a-target,-and-then-an-input",
)  # fmt: skip

# --- 1.3 -----------------------------------------------------------------------------------------


def _influence(rules, x, note):
    callback = Callback("pairs", {"length": len(x), "rules": rules})
    return Case([Call([callback, x])], note)


X = np.array([[0.3, -0.8], [-1.1, 0.6], [0.0, 0.0], [-0.7, 0.9]])
LOOKS_BACK = [(i, j, "linear") for i in range(4) for j in range(i)]
LOOKS_AHEAD = [(i, i + 1, "linear") for i in range(3)] + [(i, i, "linear") for i in range(4)]
HIDDEN_NUMBERS = [(0, 0, "last"), (3, 0, "second"), (1, 2, "difference"), (2, 1, "opposite"), (3, 3, "linear")]  # fmt: skip
SWITCHES = [(0, 1, "switch"), (2, 0, "saturating"), (3, 3, "switch"), (1, 2, "square"), (0, 2, "linear")]  # fmt: skip
WEAK = [(0, 3, "weak"), (1, 0, "rounding"), (2, 2, "weak"), (3, 1, "rounding"), (3, 2, "linear")]

CASES = {
    "a function that looks back": (LOOKS_BACK, "looks back, never at itself"),
    "a function that looks one step ahead": (LOOKS_AHEAD, "looks at itself and the next"),
    "influence in one number of many": (HIDDEN_NUMBERS, "one number of many"),
    "switches, and a position that is zero": (SWITCHES, "switches"),
    "weak influence, and rounding": (WEAK, "weak, and rounding"),
}
INFLUENCE = Visible(
    "1.3",
    [
        *(VisibleClaim(says, [_influence(rules, X, note)], "mask", labels=("0", "1", "2", "3"))
          for says, (rules, note) in CASES.items()),
        VisibleClaim("tries often enough", [_influence(SWITCHES, X, "switches")],
                     "property:enough_tries"),
    ],
    again=f"{NOTEBOOK}#The-contract-tester",
)  # fmt: skip

# --- 1.4 -----------------------------------------------------------------------------------------

WEATHER = np.array([[0.8, 0.15, 0.05], [0.3, 0.4, 0.3], [0.1, 0.6, 0.3]])
FIRST = np.array([0.2, 0.7, 0.1])
GRAMMAR = np.array([[0.0, 0.7, 0.3], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
SURE = np.array([1.0, 0.0, 0.0])

FLOOR = Visible(
    "1.4",
    [
        VisibleClaim("one word", [Case([Call([WEATHER, FIRST, 1])], "length 1")], "close"),
        VisibleClaim("two words", [Case([Call([WEATHER, FIRST, 2])], "length 2")], "close"),
        VisibleClaim("five words", [Case([Call([WEATHER, FIRST, 5])], "length 5")], "close"),
        VisibleClaim("words that cannot come", [Case([Call([GRAMMAR, SURE, 4])], "a language with zeros")], "close"),
    ],
    again=f"{NOTEBOOK}#How-uncertain-is-the-next-word?",
)  # fmt: skip

VISIBLE = [LOG_PROB, SHIFT, INFLUENCE, FLOOR]

QUESTIONS = [
    Question("1.A", "b", {
        "a": "A small weight on the answer is still the answer: softmax weights feed numbers into the output, and training would learn to make that weight large. The contract forbids, it does not discourage.",
        "b": "Yes. Output t depends on inputs 0 to t: the token itself has been said, and what it has to predict is the one after it.",
        "c": "Too strict. A token may use itself, because position t predicts word t + 1, not word t. (And the first token could use nothing at all.)",
        "d": "That is about the order of computing. In training all positions are computed at once, and their losses too; the contract says what each may *read*.",
    }),
    Question("1.B", "c", {
        "a": "When the model writes, there is no word on the right of the last one, so the richer context is gone just when it is needed.",
        "b": "The other way round: the word on the right *is* the target of position 0, so the loss falls.",
        "c": "Yes. What position 0 has to predict is \"cat\", and \"cat\" lies open before it. Copying is the easiest solution, the loss is wonderful, and nothing about what follows \"The\" has been learnt.",
        "d": "Nothing goes round in a circle: each layer reads the states of the layer below. The gradient is fine; it rewards copying.",
    }),
    Question("1.C", "b", {
        "a": "Position 1 can see word 4 as soon as word 4 has been written and the text is fed again. It never could in training.",
        "b": "Yes. The last position sees everything in any case, but the positions before it see words from their future, so their states change, and the next layer reads them. With a cache, only the newest position is computed, and then there is nothing to block.",
        "c": "The last position may see all that has been written. It is the positions before it for which something changes.",
        "d": "Dropout has nothing to do with who may see whom.",
    }),
    Question("1.D", "a", {
        "a": "Yes. The teacher puts the true word in, whatever was predicted. In free running the model reads what it has said, and an error becomes part of its past.",
        "b": "The other way round: the true text is there in training only.",
        "c": "The mask is the same both times, and what is on the visible side of it is not: true words here, the model's own there.",
        "d": "The other way round: in training all positions can be computed at once, because all words are known and the mask keeps them apart.",
    }),
    Question("1.E", "b", {
        "a": "BERT is made of attention layers; they are unmasked.",
        "b": "Yes. p(word | all others) and p(next word | past) are different questions. BERT hides the words that it asks for; a next-word model without a mask has them in front of it.",
        "c": "BERT lets every position see every other. What it blanks out are words of its *input*.",
        "d": "GPT has no cross-attention. Where there is one, as in a translator, it needs no causal mask over a source that is known in full.",
    }),
    Question("1.F", "d", {
        "a": "On fresh texts no model that keeps the contract can be below the entropy in expectation, however good it is.",
        "b": "Overfitting shows as a loss that is *worse* on fresh texts. These texts are fresh, and the loss is too good.",
        "c": "Thirty standard errors is no luck.",
        "d": "Yes. Fresh texts, a proper softmax: what is left of the theorem's conditions is that the prediction uses the past only. Change one future word and see whether an earlier output moves.",
    }),
]  # fmt: skip
