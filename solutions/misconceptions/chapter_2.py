"""Wrong answers to the exercises of chapter 2, and what a tutor says about them (teachers only)."""

import numpy as np
import torch

from course_tools.exercise_bank.claims import Misconception

# --- 2.1 MATRIX and 2.2 causal_mask --------------------------------------------------------------


def inverted(n):
    return torch.triu(torch.ones(n, n, dtype=torch.bool), diagonal=1)


def inverted_positions(n):
    i = np.arange(n)
    return i[:, None] < i[None, :]


def inverted_loop(n):
    rows = np.zeros((n, n), dtype=bool)
    for i in range(n):
        for j in range(i + 1, n):
            rows[i, j] = True
    return rows


def transposed(n):
    return np.triu(np.ones((n, n), dtype=bool))


def transposed_positions(n):
    return torch.arange(n)[:, None] <= torch.arange(n)[None, :]


def transposed_loop(n):
    grid = np.full((n, n), False)
    for query in range(n):
        grid[query, query:] = True
    return grid


def diagonal_blocked(n):
    return np.tril(np.ones((n, n), dtype=bool), k=-1)


def diagonal_blocked_torch(n):
    t = torch.arange(n)
    return t.view(1, n) < t.view(n, 1)


def next_visible(n):
    return np.tril(np.ones((n, n), dtype=bool), k=1)


def next_visible_positions(n):
    t = np.arange(n)
    return t <= t[:, None] + 1


def numbers(n):
    return np.tril(np.ones((n, n)))


def numbers_torch(n):
    return torch.ones(n, n).tril()


def additive(n):
    return np.where(np.tri(n, dtype=bool), 0.0, -np.inf)


def additive_torch(n):
    return torch.triu(torch.full((n, n), float("-inf")), diagonal=1)


def always_five(n):
    return np.tri(5, dtype=bool)


def self_only(n):
    return np.eye(n, dtype=bool)


def everything(n):
    return np.ones((n, n), dtype=bool)


def one_short(n):
    return np.tri(max(n - 1, 0), dtype=bool)


def backwards_in_time(n):
    """Rows in the wrong order: the first row sees all."""
    return np.tri(n, dtype=bool)[::-1]


# --- 2.3 causal_mask_at --------------------------------------------------------------------------


def corner_top_left(q_pos, k_pos):
    return np.tri(len(q_pos), len(k_pos), dtype=bool)


def corner_top_left_torch(q_pos, k_pos):
    return torch.ones(len(q_pos), len(k_pos)).tril().bool()


def corner_bottom_right(q_pos, k_pos):
    return np.tri(len(q_pos), len(k_pos), len(k_pos) - len(q_pos), dtype=bool)


def corner_bottom_right_positions(q_pos, k_pos):
    queries = np.arange(len(q_pos)) + len(k_pos) - len(q_pos)
    return np.arange(len(k_pos))[None] <= queries[:, None]


def at_inverted(q_pos, k_pos):
    return k_pos[None, :] > q_pos[:, None]


def at_inverted_torch(q_pos, k_pos):
    return torch.as_tensor(q_pos)[:, None] < torch.as_tensor(k_pos)


def at_transposed(q_pos, k_pos):
    return k_pos[:, None] <= q_pos[None, :]


def at_transposed_loop(q_pos, k_pos):
    grid = np.zeros((len(k_pos), len(q_pos)), dtype=bool)
    for j, k in enumerate(k_pos):
        for i, q in enumerate(q_pos):
            grid[j, i] = k <= q
    return grid


def at_wrong_way(q_pos, k_pos):
    return k_pos[None, :] >= q_pos[:, None]


def at_strict(q_pos, k_pos):
    return k_pos[None, :] < q_pos[:, None]


def at_strict_loop(q_pos, k_pos):
    rows = [[bool(key < query) for key in k_pos] for query in q_pos]
    return np.array(rows, dtype=bool).reshape(len(q_pos), len(k_pos))


def key_places(q_pos, k_pos):
    return np.arange(len(k_pos))[None, :] <= q_pos[:, None]


def query_places(q_pos, k_pos):
    return k_pos[None, :] <= np.arange(len(q_pos))[:, None]


def positions_sorted(q_pos, k_pos):
    return np.sort(k_pos)[None, :] <= np.sort(q_pos)[:, None]


def keys_sorted(q_pos, k_pos):
    return np.sort(k_pos)[None, :] <= q_pos[:, None]


def at_numbers(q_pos, k_pos):
    return (k_pos[None, :] <= q_pos[:, None]).astype(np.float32)


def one_too_far(q_pos, k_pos):
    return k_pos[None, :] <= q_pos[:, None] + 1


# --- 2.4 to_bias ---------------------------------------------------------------------------------


def _dtype(array, dtype):
    return array.to(dtype) if isinstance(array, torch.Tensor) else array.astype(dtype)


def _blank(mask, dtype):
    if isinstance(mask, torch.Tensor):
        return torch.zeros(mask.shape, dtype=dtype)
    return np.zeros(mask.shape, dtype=dtype)


def bias_inverted(mask, dtype):
    bias = _blank(mask, dtype)
    bias[mask] = -float("inf")
    return bias


def bias_inverted_where(mask, dtype):
    xp = torch if isinstance(mask, torch.Tensor) else np
    return _dtype(xp.where(mask, xp.asarray(-xp.inf), xp.asarray(0.0)), dtype)


def bias_product(mask, dtype):
    with np.errstate(invalid="ignore"):
        return (
            (1 - _dtype(mask, dtype)) * _dtype(torch.tensor(-torch.inf), dtype)
            if isinstance(mask, torch.Tensor)
            else ((1 - mask.astype(dtype)) * np.asarray(-np.inf, dtype=dtype)).astype(dtype)
        )


def bias_lowest(mask, dtype):
    bias = _blank(mask, dtype)
    info = torch.finfo if isinstance(mask, torch.Tensor) else np.finfo
    bias[~mask] = info(dtype).min
    return bias


def bias_lowest_where(mask, dtype):
    if isinstance(mask, torch.Tensor):
        return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return np.where(mask, np.asarray(0, dtype), np.finfo(dtype).min).astype(dtype)


def bias_thousands(mask, dtype):
    bias = _blank(mask, dtype)
    bias[~mask] = -1e4
    return bias


def bias_ones(mask, dtype):
    bias = _blank(mask, dtype)
    bias[mask] = 1
    return bias


def bias_cast(mask, dtype):
    return _dtype(mask, dtype)


def bias_one_or_infinity(mask, dtype):
    bias = _blank(mask, dtype) + 1
    bias[~mask] = -float("inf")
    return bias


def bias_positive(mask, dtype):
    bias = _blank(mask, dtype)
    bias[~mask] = float("inf")
    return bias


def bias_other_type(mask, dtype):
    """Double precision, whatever was asked for."""
    wide = torch.float64 if isinstance(mask, torch.Tensor) else np.float64
    bias = _blank(mask, wide)
    bias[~mask] = -float("inf")
    return bias


def bias_of_a_triangle(mask, dtype):
    bias = _blank(mask, dtype)
    rows, columns = mask.shape[-2:] if mask.ndim >= 2 else (1, *mask.shape)
    blocked = ~np.tri(rows, columns, dtype=bool)
    if isinstance(mask, torch.Tensor):
        blocked = torch.from_numpy(blocked)
    bias[..., blocked if mask.ndim >= 2 else blocked[0]] = -float("inf")
    return bias


def bias_in_place(mask, dtype):
    mask[...] = ~mask
    bias = _blank(mask, dtype)
    bias[mask] = -float("inf")
    return bias


# --- 2.5 open_row --------------------------------------------------------------------------------


def opens_column(mask, row):
    opened = mask.copy()
    opened[..., :, row] = True
    return opened


def opens_column_loop(mask, row):
    result = np.array(mask)
    for line in result.reshape(-1, mask.shape[-1]):
        line[row] = True
    return result


def opens_in_place(mask, row):
    mask[..., row, :] = True
    return mask


def opens_in_place_view(mask, row):
    view = mask.swapaxes(-1, -2)
    view[..., row] |= True
    return view.swapaxes(-1, -2)


def opens_first_axis(mask, row):
    opened = mask.copy()
    opened[row] = True
    return opened


def opens_row_and_column(mask, row):
    opened = mask.copy()
    opened[..., row, :] = True
    opened[..., :, row] = True
    return opened


def opens_rows_up_to(mask, row):
    opened = mask.copy()
    opened[..., : row + 1, :] = True
    return opened


def opens_block(mask, row):
    opened = mask.copy()
    opened[..., : row + 1, : row + 1] = True
    return opened


def opens_its_future_only(mask, row):
    opened = mask.copy()
    opened[..., row, row:] = True
    return opened


def closes_row(mask, row):
    opened = mask.copy()
    opened[..., row, :] = False
    return opened


def opens_own_cell(mask, row):
    opened = mask.copy()
    opened[..., row, row] = True
    return opened


def builds_anew(mask, row):
    opened = np.broadcast_to(np.tri(*mask.shape[-2:], dtype=bool), mask.shape).copy()
    opened[..., row, :] = True
    return opened


def only_the_row(mask, row):
    return np.ones_like(mask[..., row, :])


def opens_as_numbers(mask, row):
    opened = mask.astype(float)
    opened[..., row, :] = 1
    return opened


def opens_everything_else(mask, row):
    opened = np.ones_like(mask)
    opened[..., row, :] = mask[..., row, :]
    return opened


def opens_next_row(mask, row):
    """Counts from 1."""
    opened = mask.copy()
    opened[..., row - 1, :] = True
    return opened


# --- 2.6 ROW_WEIGHTS -----------------------------------------------------------------------------

SCORES = np.array([0.5, 1, 1, 0.5, 0.75])


def _softmax(scores):
    powers = np.exp(scores)
    return powers / powers.sum()


CAUSAL = np.append(_softmax(SCORES[:3]), [0.0, 0.0])

MISCONCEPTIONS = [
    # 2.1
    Misconception("2.1", "polarity inverted", inverted(5).int().numpy(),
        "Your 1s stand where the causal mask has its 0s. In this course 1 means *may attend*; you have written down what is blocked, as nn.MultiheadAttention likes it."),
    Misconception("2.1", "transposed", transposed(5).astype(int),
        "Read your first row: \"The\" sees the whole sentence, and \"mat\" in the last row only itself. Rows are queries, the tokens that look."),
    Misconception("2.1", "diagonal blocked", diagonal_blocked(5).astype(int),
        "In your matrix no token sees itself, and \"The\" sees nothing at all. Has a token been said when it is its turn to look?"),
    Misconception("2.1", "next token visible", next_visible(5).astype(int),
        "In your matrix \"The\" sees \"cat\", the very word that it has to predict."),
    Misconception("2.1", "every token sees all", everything(5).astype(int),
        "Nothing is blocked in your matrix. That is the mask of an encoder."),
    Misconception("2.1", "every token sees itself only", self_only(5).astype(int),
        "In your matrix each token sees itself and no other. A language model reads its past."),
    Misconception("2.1", "additive form", additive(5),
        "These are the numbers to *add* to scores: 0 where visible, -inf where blocked. The exercise asks for 1 and 0."),
    Misconception("2.1", "rows in the wrong order", backwards_in_time(5).astype(int),
        "Your rows run from \"mat\" to \"The\". Rows are numbered as the tokens are: the first row belongs to \"The\"."),
    # 2.2
    Misconception("2.2", "polarity inverted", inverted,
        "True stands where the future is: your mask says what is *blocked*. Here True means may attend. (PyTorch has both conventions, which is how popular courses came to ship this mistake.)",
        variants=[inverted_positions, inverted_loop]),
    Misconception("2.2", "transposed", transposed,
        "In your mask each token sees itself and its *future*: row 0 is open to the end. Rows are queries. Which way round did you compare?",
        variants=[transposed_positions, transposed_loop]),
    Misconception("2.2", "diagonal blocked", diagonal_blocked,
        "No token sees itself, and the first one sees nothing: its softmax would have nothing to divide. A token has been said when it looks, and what it predicts is the one after it.",
        variants=[diagonal_blocked_torch]),
    Misconception("2.2", "next token visible", next_visible,
        "Each token sees one step ahead: exactly the word that it has to predict. The training loss would look wonderful. Which diagonal is the last one to keep?",
        variants=[next_visible_positions]),
    Misconception("2.2", "numbers instead of booleans", numbers,
        "The triangle is right, but it is made of numbers. Functions that take a mask read a floating one as something to *add* to the scores, so nothing would be blocked. Look at its dtype.",
        variants=[numbers_torch]),
    Misconception("2.2", "additive form", additive,
        "These are the numbers to add to scores. The exercise asks for booleans.",
        variants=[additive_torch]),
    Misconception("2.2", "always five tokens", always_five,
        "Your mask has five rows for any n."),
    Misconception("2.2", "every token sees itself only", self_only,
        "Each token sees only itself. It may also see what came before it."),
    Misconception("2.2", "every token sees all", everything,
        "Nothing is blocked: every token sees its future."),
    Misconception("2.2", "one token short", one_short,
        "Your mask has one row and one column too few. Every token, the last one too, has a row and a column."),
    Misconception("2.2", "rows in the wrong order", backwards_in_time,
        "Your rows run from the last token to the first. Row i belongs to token i."),
    # 2.3
    Misconception("2.3", "corner at the top left", corner_top_left,
        "You cut a triangle from the top left corner and do not look at the positions at all. It takes the first query for one at position 0: with a cache, all keys but one would be hidden from it.",
        variants=[corner_top_left_torch]),
    Misconception("2.3", "corner at the bottom right", corner_bottom_right,
        "You assume that the queries are the last tokens and the keys all of them, in order. That is often so, but here the positions say where each one stands, and they may say something else.",
        variants=[corner_bottom_right_positions]),
    Misconception("2.3", "polarity inverted", at_inverted,
        "True stands where the key lies in the query's future. That says what is blocked; here True means may attend.",
        variants=[at_inverted_torch]),
    Misconception("2.3", "transposed", at_transposed,
        "Your rows are keys and your columns queries. Rows are queries: the result has shape [Tq, Tk].",
        variants=[at_transposed_loop]),
    Misconception("2.3", "future instead of past", at_wrong_way,
        "Your queries see themselves and what comes *after* them. Which of the two positions has to be the smaller one?"),
    Misconception("2.3", "own position blocked", at_strict,
        "A query may attend to a key at its own position: it is the token itself.",
        variants=[at_strict_loop]),
    Misconception("2.3", "place of the key instead of its position", key_places,
        "You compare with the place of a key in the array (0, 1, 2, ...). What counts is its position in the text, which k_pos holds."),
    Misconception("2.3", "place of the query instead of its position", query_places,
        "You compare with the place of a query in the array (0, 1, 2, ...). What counts is its position in the text, which q_pos holds."),
    Misconception("2.3", "positions sorted", positions_sorted,
        "You sort the positions first. The rows and columns must stay in the order in which the queries and keys came."),
    Misconception("2.3", "keys sorted", keys_sorted,
        "You sort the keys' positions. Column j must be about key j, wherever in the text it stands."),
    Misconception("2.3", "numbers instead of booleans", at_numbers,
        "The cells are right, but they are numbers. Masks are booleans."),
    Misconception("2.3", "next token visible", one_too_far,
        "A query sees one position too far: the token that it has to predict."),
    # 2.4
    Misconception("2.4", "polarity inverted", bias_inverted,
        "You put -inf where the mask is True. True means may attend: the scores of those cells are to stay as they are.",
        variants=[bias_inverted_where]),
    Misconception("2.4", "NaN from 0 times infinity", bias_product,
        "Your visible cells are NaN: 0 times infinity is not 0. Choose between two values instead of multiplying."),
    Misconception("2.4", "large number for -inf", bias_lowest,
        "You fill blocked cells with the most negative number of the type. It is not -inf: a row with nothing visible turns into a mean of everything, silently, and added twice it overflows. The exercise asks for -inf.",
        variants=[bias_lowest_where]),
    Misconception("2.4", "-10000 for -inf", bias_thousands,
        "-10000 is a large number, but not -inf: a score near 20000 would beat it."),
    Misconception("2.4", "1 and 0", bias_ones,
        "You return 1 and 0. Added to the scores that blocks nothing; it only makes visible cells a little more attractive.",
        variants=[bias_cast]),
    Misconception("2.4", "1 added where visible", bias_one_or_infinity,
        "Blocked cells are right, but you add 1 to the visible ones. What must be added to a number to leave it as it is?"),
    Misconception("2.4", "plus infinity", bias_positive,
        "Your blocked cells hold plus infinity, which would give them all the weight. (exp of which infinity is 0?)"),
    Misconception("2.4", "dtype ignored", bias_other_type,
        "The numbers are right, but not their type: the result has to have the dtype that was asked for. Added to float16 scores, a float64 bias turns them all into float64."),
    Misconception("2.4", "mask ignored", bias_of_a_triangle,
        "You return the bias of a causal triangle, whatever the mask says. The mask may be any: causal, padded, windowed."),
    Misconception("2.4", "input overwritten", bias_in_place,
        "Your result is right, but you negate the mask in place. Whoever handed it over still needs it."),
    # 2.5
    Misconception("2.5", "column opened", opens_column,
        "You opened a column: now *every* query may see that key. The exercise opens the view of one query, and queries are rows.",
        variants=[opens_column_loop]),
    Misconception("2.5", "input overwritten", opens_in_place,
        "Your result is right, but you change the mask that came in. If another layer uses it, that layer has a leak now.",
        variants=[opens_in_place_view]),
    Misconception("2.5", "first axis instead of the query axis", opens_first_axis,
        "For a mask [Tq, Tk] this is right. With axes in front, the first one counts sequences or heads, and you have opened the whole mask of one of them. Where is the query axis, counted from the end?"),
    Misconception("2.5", "row and column opened", opens_row_and_column,
        "The row is open, but a column too: others now see this token although it lies in their future. May they?"),
    Misconception("2.5", "all rows up to this one opened", opens_rows_up_to,
        "You opened the rows before it too. Only one query gets the wider view."),
    Misconception("2.5", "opened like a prefix", opens_block,
        "You opened a block, as for the prefix of a prefix-LM: the tokens up to this one see each other, and none sees beyond. The exercise opens one row, to its end."),
    Misconception("2.5", "only its future opened", opens_its_future_only,
        "You opened the cells from the diagonal on. In a causal mask the ones before are open already; in another mask they need not be, and the query is to see *every* key."),
    Misconception("2.5", "row closed", closes_row,
        "Your row is all False, so that query sees nothing. True means may attend."),
    Misconception("2.5", "own cell only", opens_own_cell,
        "You opened a single cell, where the token meets itself. The query is to see every key."),
    Misconception("2.5", "mask built anew", builds_anew,
        "You start from a causal mask of your own. The mask that came in may be another one: padded, windowed, full. The other rows have to stay as they were."),
    Misconception("2.5", "row alone returned", only_the_row,
        "You return the opened row alone. The exercise asks for the whole mask."),
    Misconception("2.5", "numbers instead of booleans", opens_as_numbers,
        "The cells are right, but they are numbers. A mask is made of booleans."),
    Misconception("2.5", "all rows but this one opened", opens_everything_else,
        "It is the other way round: this row stayed as it was, and all others are open."),
    Misconception("2.5", "counted from 1", opens_next_row,
        "You opened the row before the one that was asked for. Rows are counted from 0."),
    # 2.6
    Misconception("2.6", "causal weights", CAUSAL,
        "Those are the weights from before: the row is open now, and the last two tokens get a share."),
    Misconception("2.6", "softmax without exp", SCORES / SCORES.sum(),
        "You divide the scores by their sum. Softmax divides their exponentials: with a negative score your way would give a negative weight."),
    Misconception("2.6", "scores not scaled", _softmax(2 * SCORES),
        "Those are the weights of the dot products before scaling (1, 2, 2, 1, 1.5). The scaled scores stand in the task."),
    Misconception("2.6", "scaled twice", _softmax(SCORES / 2),
        "You divide by the square root of d once more. The scores in the task are scaled already."),
    Misconception("2.6", "not normalised", np.exp(SCORES),
        "Those are the exponentials. Weights add up to 1: divide by the sum."),
    Misconception("2.6", "old sum kept", np.exp(SCORES) / np.exp(SCORES[:3]).sum(),
        "You divide by the sum of the first three exponentials, as if the last two were still blocked. Your numbers add up to more than 1."),
    Misconception("2.6", "equal weights", np.full(5, 0.2),
        "All equal: that is what open cells would get if all scores were the same. They are not."),
    Misconception("2.6", "output instead of weights", np.array([0.2495, 0.3481, 0.3481, 0.2495]),
        "Four numbers: that is the *output* vector of \"sat\", the weighted sum of the values. The exercise asks for the five weights."),
    Misconception("2.6", "base 2", 2**SCORES / (2**SCORES).sum(),
        "You used powers of 2. The exponential of softmax has base e."),
]  # fmt: skip
