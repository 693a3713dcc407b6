"""Visible checks and concept questions of chapter 7 (teachers' side; students get their data)."""

import numpy as np

from course_lib.checks.script import Call, Case, Drawn, Tensor
from course_tools.exercise_bank.load import Question, Visible, VisibleClaim

NOTEBOOK = "notebooks/07_flash_on_gpu.ipynb"
INF = np.inf

# --- 7.1 -----------------------------------------------------------------------------------------

VALUES = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
NOTHING = (np.full(2, -INF), np.zeros(2), np.zeros((2, 2)))
#: What two rows hold after the scores [0, 1] and [2, -1] with the values [1, 1] and [0, 2].
STATE = (
    np.array([1.0, 2.0]),
    np.array([1 + np.exp(-1), 1 + np.exp(-3)]),
    np.array([[np.exp(-1), 2 + np.exp(-1)], [1.0, 1 + 2 * np.exp(-3)]]),
)


def _update(state, scores, note):
    return Case([Call([*(np.array(part) for part in state), np.array(scores), VALUES])], note)


HIGH = (STATE[0] + [1000.0, 0.0], STATE[1], STATE[2])
ONLINE = Visible(
    "7.1",
    [
        VisibleClaim("the first block",
                     [_update(NOTHING, [[0.0, 1.0, 2.0], [1.0, -1.0, 0.5]], "nothing seen before")],
                     "close"),
        VisibleClaim("a larger score comes",
                     [_update(STATE, [[3.0, 0.0, 2.0], [4.0, 5.0, -1.0]], "new maxima 3 and 5")],
                     "close"),
        VisibleClaim("no larger score comes",
                     [_update(STATE, [[0.0, -1.0, 0.5], [1.0, 3.0, -2.0]], "one maximum stays at 1")],
                     "close"),
        VisibleClaim("large scores",
                     [_update(HIGH, [[1002.0, 990.0, -3000.0], [-1500.0, 1.0, 2.5]], "scores near 1000")],
                     "close"),
        VisibleClaim("rows that see nothing",
                     [_update(STATE, [[-INF, -INF, -INF], [-INF, 1.0, -INF]],
                              "row 0 sees nothing of this block"),
                      _update(NOTHING, [[-INF, -INF, -INF], [-INF, 1.0, 0.0]],
                              "row 0 has never seen anything")],
                     "close"),
    ],
    results=("m", "l", "acc"),
    again=f"{NOTEBOOK}#A-softmax-in-pieces",
)  # fmt: skip

# --- 7.2 -----------------------------------------------------------------------------------------


def _tiles(n, block, memory=None):
    return Case([Call([n, block])], f"n = {n}, block = {block}", memory_mb=memory)


TILES = Visible(
    "7.2",
    [
        VisibleClaim("block divides n", [_tiles(4, 2), _tiles(12, 3)]),
        VisibleClaim("a smaller last tile", [_tiles(6, 4), _tiles(11, 4)]),
        VisibleClaim("tiles of a single cell", [_tiles(5, 2), _tiles(4, 1)]),
        VisibleClaim("one tile for everything", [_tiles(3, 8)]),
        VisibleClaim("a long text, without its mask", [_tiles(5000, 64, memory=5)]),
    ],
    again=f"{NOTEBOOK}#Tiles",
)

# --- 7.3 -----------------------------------------------------------------------------------------

_RNG = np.random.default_rng(7)
Q = _RNG.normal(size=(7, 4)).round(1)
K = _RNG.normal(size=(7, 4)).round(1)
V = _RNG.normal(size=(7, 3)).round(1)
K_FUTURE, V_FUTURE = K.copy(), V.copy()
K_FUTURE[4:], V_FUTURE[4:] = np.nan, np.nan


def _flash(q, k, v, block, note):
    return Case([Call([q, k, v, block])], note)


def _long(n, block, tiles, width=8):
    """Memory for so many tiles and four arrays of the size of q."""
    arrays = [Drawn(seed, (n, width), "float64") for seed in (1, 2, 3)]
    limit = (tiles * block * block + 4 * n * width) * 8 / 1e6
    return Case([Call([*arrays, block])], f"{n} tokens, block = {block}", memory_mb=round(limit, 3))


FLASH = Visible(
    "7.3",
    [
        VisibleClaim("blocks that divide the text",
                     [_flash(Q[:6], K[:6], V[:6], 2, "6 tokens, block = 2")], "close"),
        VisibleClaim("blocks that do not", [_flash(Q, K, V, 3, "7 tokens, block = 3"),
                                            _flash(Q, K, V, 10, "7 tokens, block = 10")], "close"),
        VisibleClaim("queries at the end of the text",
                     [_flash(Q[:2], K, V, 3, "2 queries, 7 keys, block = 3")], "close"),
        VisibleClaim("large scores", [_flash(Q * 1000, K, V, 3, "queries times 1000")], "close"),
        VisibleClaim("future tiles are not computed",
                     [_flash(Q, K_FUTURE, V_FUTURE, 2, "NaN in keys and values from 4 on")], "close"),
        VisibleClaim("never the scores of all pairs", [_long(1024, 32, 512)], "close"),
        VisibleClaim("never those of a whole row of tiles", [_long(2048, 128, 8)], "close"),
    ],
    again=f"{NOTEBOOK}#Tiled-attention-from-scratch",
)  # fmt: skip

# --- 7.4 -----------------------------------------------------------------------------------------


def _flops(*sizes):
    names = ("n", "d", "heads", "batch", "causal")
    note = ", ".join(f"{name} = {size}" for name, size in zip(names, sizes, strict=True))
    return Case([Call(list(sizes))], note)


FLOPS = Visible(
    "7.4",
    [
        VisibleClaim("one head, no mask", [_flops(4, 3, 1, 1, False)]),
        VisibleClaim("one head, causal", [_flops(3, 5, 1, 1, True), _flops(4, 3, 1, 1, True)]),
        VisibleClaim("heads and sequences", [_flops(5, 2, 3, 1, True), _flops(5, 2, 3, 7, False)]),
        VisibleClaim("a large model, to the last digit", [_flops(1_000_001, 127, 95, 31, True)]),
        VisibleClaim("an integer", [_flops(4, 3, 1, 1, True)], "property:integer"),
    ],
    again=f"{NOTEBOOK}#What-it-costs,-row-by-row",
)

# --- 7.5 -----------------------------------------------------------------------------------------


def _window(n, width, window, note, scale=1.0, poison=None, heads=1):
    rng = np.random.default_rng(n + window)
    q, k, v = (rng.normal(size=(heads, n, width)).astype(np.float32).round(2) for _ in range(3))
    if poison is not None:
        k[:, poison], v[:, poison] = np.nan, np.nan
    arrays = [(q * scale).astype(np.float32), k, v]
    return Case([Call([*map(Tensor, arrays), window])], note)


WINDOW = Visible(
    "7.5",
    [
        VisibleClaim("a window inside one block", [_window(8, 16, 3, "8 tokens, window = 3"),
                                                   _window(8, 16, 1, "8 tokens, window = 1")],
                     "close", atol=1e-4),
        VisibleClaim("a window over several blocks",
                     [_window(22, 16, 18, "22 tokens, window = 18"),
                      _window(33, 16, 18, "33 tokens, window = 18"),
                      _window(33, 16, 3, "33 tokens, window = 3"),
                      _window(18, 16, 60, "18 tokens, window = 60, steep scores", scale=20.0)],
                     "close", atol=1e-4),
        VisibleClaim("two heads", [_window(9, 16, 4, "2 heads, 9 tokens", heads=2)],
                     "close", atol=1e-4),
        VisibleClaim("blocks before the window are not used",
                     [_window(33, 16, 8, "NaN in the first 16 keys", poison=slice(0, 16))],
                     "close", atol=1e-4),
        VisibleClaim("keys behind the queries are not used",
                     [_window(17, 16, 8, "NaN in the last key", poison=slice(16, 17))],
                     "close", atol=1e-4),
    ],
    again=f"{NOTEBOOK}#On-a-GPU",
    needs="triton",
)  # fmt: skip

VISIBLE = [ONLINE, TILES, FLASH, FLOPS, WINDOW]

QUESTIONS = [
    Question("7.A", "b", {
        "a": "Nothing is dropped. The only weights that it leaves out are those that the mask makes 0.",
        "b": "Yes. Rescaling by exp(old maximum - new maximum) is exact algebra; what differs is the order of additions, so the last digits.",
        "c": "It is the same with a mask too: a blocked cell has weight exactly 0 in both.",
        "d": "Every row goes through the same running softmax, the first as well as the last.",
    }),
    Question("7.B", "c", {
        "a": "The average row still has half of all keys to look at, and that grows with N.",
        "b": "It stays O(N²), but not for that reason: a kernel never builds the mask, it compares positions. What is O(N²) is the visible half.",
        "c": "Yes. The visible tiles are n(n + 1)/2 of n², so the saving approaches a factor of two and never more. (Only a rule that opens few cells in each row, like a window, changes the order.)",
        "d": "That is so for an implementation that masks after computing. A kernel with a causal mode leaves empty tiles out.",
    }),
    Question("7.C", "b", {
        "a": "It works in any precision, and plain attention may use the same.",
        "b": "Yes. A GPU can do hundreds of operations in the time in which it fetches one number from main memory. Making scores a second time in fast memory is cheaper than storing and fetching them.",
        "c": "It uses the same exponential (often as a power of 2, which is the same function).",
        "d": "Normalising tile by tile would be wrong: tiles with large scores must weigh more. There is one division a row, at the end.",
    }),
    Question("7.D", "c", {
        "a": "is_causal says what is to be computed, not how. Without a suitable device, dtype or head size another kernel runs, silently.",
        "b": "Older NVIDIA GPUs (a T4, for example) have no Flash kernel in PyTorch; the function then takes another one.",
        "c": "Yes. The function chooses; you can forbid the other choices and listen for the error, or measure.",
        "d": "Flash is exact up to rounding: that cannot tell you anything.",
    }),
    Question("7.E", "a", {
        "a": "Yes: one rule on positions, three uses. (How closed models like GPT-4 or Gemini do it in detail is not published.)",
        "b": "Cached keys all lie in the past of a new token, so there is nothing to block. What must be right is the position of the new query.",
        "c": "After its prefix it generates like any other model, and there the rule holds. And the prefix must not see what comes after it.",
        "d": "Tiles on the diagonal hold both past and future, so the rule is applied inside them.",
    }),
]  # fmt: skip
