"""Wrong answers to the exercises of chapter 4, by name, with what a tutor would say (teachers only)."""

import math

import numpy as np
import torch

from course_tools.exercise_bank.claims import Misconception

# --- 4.1 multi_head_causal_attention --------------------------------------------------------------


def _softmax(scores, axis=-1):
    with np.errstate(all="ignore"):
        powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
        return powers / powers.sum(axis=axis, keepdims=True)


def _split(x, n_heads):
    """[B, T, C] -> [B, H, T, d]."""
    batch, length, _ = x.shape
    return x.reshape(batch, length, n_heads, -1).swapaxes(1, 2)


def _merge(y):
    """[B, H, T, d] -> [B, T, C]."""
    batch, heads, length, d = y.shape
    return y.swapaxes(1, 2).reshape(batch, length, heads * d)


def _attend(q, k, v, visible=None, scale=None):
    visible = np.tri(q.shape[-2], dtype=bool) if visible is None else visible
    scale = math.sqrt(q.shape[-1]) if scale is None else scale
    return _softmax(np.where(visible, q @ k.swapaxes(-1, -2) / scale, -np.inf)) @ v


def _layer(x, w_qkv, w_out, n_heads, split=_split, merge=_merge, attend=_attend):
    """The right layer with one part replaced."""
    q, k, v = (split(part, n_heads) for part in np.split(x @ w_qkv, 3, axis=-1))
    return merge(attend(q, k, v)) @ w_out


def _split_by_reshape(x, n_heads):
    return x.reshape(len(x), n_heads, x.shape[1], -1)


def _merge_by_reshape(y):
    return y.reshape(len(y), y.shape[2], -1)


def split_reshaped(x, w_qkv, w_out, n_heads):
    return _layer(x, w_qkv, w_out, n_heads, split=_split_by_reshape)


def split_viewed(x, w_qkv, w_out, n_heads):
    B, T, C = x.shape
    q, k, v = (torch.tensor(x) @ torch.tensor(w_qkv)).split(C, dim=2)
    q, k, v = (t.contiguous().view(B, n_heads, T, C // n_heads) for t in (q, k, v))
    s = (q @ k.mT / (C // n_heads) ** 0.5).masked_fill(torch.ones(T, T).tril() == 0, -torch.inf)
    return (s.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C) @ torch.tensor(w_out)


def merge_reshaped(x, w_qkv, w_out, n_heads):
    return _layer(x, w_qkv, w_out, n_heads, merge=_merge_by_reshape)


def merge_viewed(x, w_qkv, w_out, n_heads):
    B, T, C = x.shape
    q, k, v = (torch.tensor(x) @ torch.tensor(w_qkv)).split(C, dim=2)
    q, k, v = (t.view(B, T, n_heads, C // n_heads).transpose(1, 2) for t in (q, k, v))
    s = (q @ k.mT / (C // n_heads) ** 0.5).masked_fill(torch.ones(T, T).tril() == 0, -torch.inf)
    return (s.softmax(-1) @ v).contiguous().view(B, T, C) @ torch.tensor(w_out)


def both_reshaped(x, w_qkv, w_out, n_heads):
    return _layer(x, w_qkv, w_out, n_heads, split=_split_by_reshape, merge=_merge_by_reshape)


def both_viewed(x, w_qkv, w_out, n_heads):
    B, T, C = x.shape
    q, k, v = (torch.tensor(x) @ torch.tensor(w_qkv)).split(C, dim=2)
    q, k, v = (t.contiguous().view(B, n_heads, T, C // n_heads) for t in (q, k, v))
    s = (q @ k.mT / (C // n_heads) ** 0.5).masked_fill(torch.ones(T, T).tril() == 0, -torch.inf)
    return (s.softmax(-1) @ v).view(B, T, C) @ torch.tensor(w_out)


def interleaved(x, w_qkv, w_out, n_heads):
    def split(x, n_heads):
        batch, length, _ = x.shape
        return x.reshape(batch, length, -1, n_heads).transpose(0, 3, 1, 2)

    def merge(y):
        batch, heads, length, d = y.shape
        return y.transpose(0, 2, 3, 1).reshape(batch, length, heads * d)

    return _layer(x, w_qkv, w_out, n_heads, split=split, merge=merge)


def merged_interleaved(x, w_qkv, w_out, n_heads):
    def merge(y):
        batch, heads, length, d = y.shape
        return y.transpose(0, 2, 3, 1).reshape(batch, length, heads * d)

    return _layer(x, w_qkv, w_out, n_heads, merge=merge)


def thirds_by_head(x, w_qkv, w_out, n_heads):
    batch, length, width = x.shape
    qkv = (x @ w_qkv).reshape(batch, length, n_heads, 3, width // n_heads)
    q, k, v = qkv.transpose(3, 0, 2, 1, 4)
    return _merge(_attend(q, k, v)) @ w_out


def keys_first(x, w_qkv, w_out, n_heads):
    k, q, v = (_split(part, n_heads) for part in np.split(x @ w_qkv, 3, axis=-1))
    return _merge(_attend(q, k, v)) @ w_out


def keys_first_torch(x, w_qkv, w_out, n_heads):
    B, T, C = x.shape
    q, k, v = (torch.tensor(x) @ torch.tensor(w_qkv)).chunk(3, dim=-1)
    q, k, v = (t.reshape(B, T, n_heads, -1).transpose(1, 2) for t in (q, k, v))
    s = k @ q.mT / math.sqrt(q.shape[-1])
    p = s.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
    return (p @ v).transpose(1, 2).reshape(B, T, C) @ torch.tensor(w_out)


def values_first(x, w_qkv, w_out, n_heads):
    v, k, q = (_split(part, n_heads) for part in np.split(x @ w_qkv, 3, axis=-1))
    return _merge(_attend(q, k, v)) @ w_out


def one_head(x, w_qkv, w_out, n_heads):
    return _layer(x, w_qkv, w_out, 1)


def one_head_torch(x, w_qkv, w_out, n_heads):
    q, k, v = (torch.tensor(x) @ torch.tensor(w_qkv)).chunk(3, dim=-1)
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return y @ torch.tensor(w_out)


def root_of_width(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        return _attend(q, k, v, scale=math.sqrt(q.shape[-1] * q.shape[1]))

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def root_of_width_torch(x, w_qkv, w_out, n_heads):
    B, T, C = x.shape
    q, k, v = (torch.tensor(x) @ torch.tensor(w_qkv)).chunk(3, dim=-1)
    q, k, v = (t.reshape(B, T, n_heads, -1).transpose(1, 2) for t in (q, k, v))
    s = (q @ k.mT * C**-0.5).masked_fill(torch.ones(T, T).tril() == 0, -torch.inf)
    return (s.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C) @ torch.tensor(w_out)


def not_scaled(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        return _attend(q, k, v, scale=1)

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def divided_by_d(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        return _attend(q, k, v, scale=q.shape[-1])

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def no_mask(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        return _attend(q, k, v, visible=True)

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def no_mask_torch(x, w_qkv, w_out, n_heads):
    B, T, C = x.shape
    q, k, v = (torch.tensor(x) @ torch.tensor(w_qkv)).chunk(3, dim=-1)
    q, k, v = (t.reshape(B, T, n_heads, -1).transpose(1, 2) for t in (q, k, v))
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return y.transpose(1, 2).reshape(B, T, C) @ torch.tensor(w_out)


def mask_transposed(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        return _attend(q, k, v, visible=np.tri(q.shape[-2], dtype=bool).T)

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def inverted(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        return _attend(q, k, v, visible=~np.tri(q.shape[-2], dtype=bool))

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def diagonal_blocked(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        return _attend(q, k, v, visible=np.tri(q.shape[-2], k=-1, dtype=bool))

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def one_ahead(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        return _attend(q, k, v, visible=np.tri(q.shape[-2], k=1, dtype=bool))

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def mask_after_softmax(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        return np.tril(_softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]))) @ v

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def mask_after_softmax_torch(x, w_qkv, w_out, n_heads):
    B, T, C = x.shape
    q, k, v = (torch.tensor(x) @ torch.tensor(w_qkv)).chunk(3, dim=-1)
    q, k, v = (t.reshape(B, T, n_heads, -1).transpose(1, 2) for t in (q, k, v))
    p = (q @ k.mT / math.sqrt(C // n_heads)).softmax(dim=-1)
    p = p.masked_fill(torch.ones(T, T).tril() == 0, 0.0)
    return (p @ v).transpose(1, 2).reshape(B, T, C) @ torch.tensor(w_out)


def softmax_over_queries(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        visible = np.tri(q.shape[-2], dtype=bool)
        return _softmax(np.where(visible, scores, -np.inf), axis=-2) @ v

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def softmax_over_heads(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        visible = np.tri(q.shape[-2], dtype=bool)
        return np.where(visible, _softmax(scores, axis=1), 0.0) @ v

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def no_output_weights(x, w_qkv, w_out, n_heads):
    return _layer(x, w_qkv, np.eye(len(w_out)), n_heads)


def output_weights_transposed(x, w_qkv, w_out, n_heads):
    return _layer(x, w_qkv, w_out.T, n_heads)


def output_weights_transposed_torch(x, w_qkv, w_out, n_heads):
    B, T, C = x.shape
    q, k, v = (torch.tensor(x) @ torch.tensor(w_qkv)).chunk(3, dim=-1)
    q, k, v = (t.reshape(B, T, n_heads, -1).transpose(1, 2) for t in (q, k, v))
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return torch.nn.functional.linear(y.transpose(1, 2).reshape(B, T, C), torch.tensor(w_out))


def heads_attend_to_heads(x, w_qkv, w_out, n_heads):
    batch, length, width = x.shape
    parts = np.split(x @ w_qkv, 3, axis=-1)
    q, k, v = (part.reshape(batch, length, n_heads, -1) for part in parts)  # [B, T, H, d]
    return _attend(q, k, v).reshape(batch, length, width) @ w_out


def across_sentences(x, w_qkv, w_out, n_heads):
    """The axis of sentences in place of the axis of tokens."""
    return _layer(x.swapaxes(0, 1), w_qkv, w_out, n_heads).swapaxes(0, 1)


def first_sentence_for_all(x, w_qkv, w_out, n_heads):
    y = _layer(x[:1], w_qkv, w_out, n_heads)
    return np.broadcast_to(y, x.shape)


def heads_averaged(x, w_qkv, w_out, n_heads):
    def merge(y):
        return np.tile(y.mean(axis=1), n_heads)

    return _layer(x, w_qkv, w_out, n_heads, merge=merge)


def no_maximum(x, w_qkv, w_out, n_heads):
    def attend(q, k, v):
        with np.errstate(all="ignore"):
            powers = np.tril(np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])))
            return powers / powers.sum(axis=-1, keepdims=True) @ v

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


def residual_added(x, w_qkv, w_out, n_heads):
    return x + _layer(x, w_qkv, w_out, n_heads)


def input_changed(x, w_qkv, w_out, n_heads):
    w_qkv[:, : len(w_qkv)] /= math.sqrt(len(w_qkv) // n_heads)

    def attend(q, k, v):
        return _attend(q, k, v, scale=1)

    return _layer(x, w_qkv, w_out, n_heads, attend=attend)


LAYERS = [
    Misconception(
        "4.1",
        "split by reshape alone",
        split_reshaped,
        "The shape is right, the numbers are in the wrong places: your first head holds all "
        "numbers of the first tokens, instead of the first numbers of all tokens. "
        "A reshape only re-cuts what lies in memory; what moves an axis?",
        variants=[split_viewed],
    ),
    Misconception(
        "4.1",
        "merge by reshape alone",
        merge_reshaped,
        "Splitting is right. But when the heads are glued together again, the row of a token gets "
        "numbers of other tokens, later ones among them. "
        "Which two axes stand in the wrong order when you reshape?",
        variants=[merge_viewed],
    ),
    Misconception(
        "4.1",
        "split and merge by reshape alone",
        both_reshaped,
        "Two errors that undo each other's shape: nothing leaks, but your heads are pieces of the "
        "sentence rather than pieces of the vectors, and late tokens never see early ones. "
        "A reshape only re-cuts what lies in memory.",
        variants=[both_viewed],
    ),
    Misconception(
        "4.1",
        "heads interleaved",
        interleaved,
        "Your head 0 owns every H-th column, instead of d columns that lie side by side. "
        "In `reshape(..., a, b)`, which of the two indices moves faster?",
    ),
    Misconception(
        "4.1",
        "heads interleaved in the merge",
        merged_interleaved,
        "Splitting is right. In the merge, the numbers of the heads are shuffled like two decks of "
        "cards; they should lie side by side, head after head.",
    ),
    Misconception(
        "4.1",
        "queries, keys and values inside each head",
        thirds_by_head,
        "You cut the 3C columns into heads first and each head into q, k and v. "
        "Some libraries store their weights so; the task says which third is what.",
    ),
    Misconception(
        "4.1",
        "keys and queries swapped",
        keys_first,
        "The cell in row i, column j of the scores should compare query i with key j; yours "
        "compares key i with query j.",
        variants=[keys_first_torch],
    ),
    Misconception(
        "4.1",
        "values and queries swapped",
        values_first,
        "What you average are the queries. In which order do the three thirds of x @ w_qkv come?",
    ),
    Misconception(
        "4.1",
        "one head only",
        one_head,
        "Your result is that of a single head of width C. Where does n_heads come in?",
        variants=[one_head_torch],
    ),
    Misconception(
        "4.1",
        "scaled by the root of C",
        root_of_width,
        "Your weights are too flat: you scale by the width of the whole layer. "
        "How many products are summed in one score of one head?",
        variants=[root_of_width_torch],
    ),
    Misconception(
        "4.1",
        "not scaled",
        not_scaled,
        "Your weights are too sharp. What is done to the scores before the mask?",
    ),
    Misconception(
        "4.1",
        "divided by d instead of its root",
        divided_by_d,
        "Your weights are too flat. The variance of a dot product grows like d; what brings its "
        "spread back to 1?",
    ),
    Misconception(
        "4.1",
        "no mask",
        no_mask,
        "Every token sees the whole sentence, so what it is to predict lies open before it. "
        "Which of the five steps is missing?",
        variants=[no_mask_torch],
    ),
    Misconception(
        "4.1",
        "mask transposed",
        mask_transposed,
        "Each token sees itself and its future. Rows are queries: which columns stay open?",
    ),
    Misconception(
        "4.1",
        "polarity inverted",
        inverted,
        "Each token sees only what comes after it, and the last one nothing at all: NaN. "
        "What does True mean in your mask, and in the function that applies it?",
    ),
    Misconception(
        "4.1",
        "diagonal blocked",
        diagonal_blocked,
        "No token sees itself, and the first sees nothing: NaN. Is using oneself a look ahead?",
    ),
    Misconception(
        "4.1",
        "one position ahead",
        one_ahead,
        "Each token sees the next one, which it is to predict. Your triangle is a diagonal off.",
    ),
    Misconception(
        "4.1",
        "mask after softmax",
        mask_after_softmax,
        "The future has no weight, but its scores were in the sum that each row was divided by, so "
        "the past shares less than 1.",
        variants=[mask_after_softmax_torch],
    ),
    Misconception(
        "4.1",
        "softmax over the wrong axis",
        softmax_over_queries,
        "Your columns sum to 1, not your rows. A query shares its attention among keys.",
    ),
    Misconception(
        "4.1",
        "softmax over the heads",
        softmax_over_heads,
        "Your heads compete: for each pair of tokens the weights of all heads sum to 1. "
        "Axis 1 is not the keys when there are four axes.",
    ),
    Misconception(
        "4.1",
        "output weights forgotten",
        no_output_weights,
        "You return the merged heads, as they are. One argument of the function is not used yet.",
    ),
    Misconception(
        "4.1",
        "output weights transposed",
        output_weights_transposed,
        "Everything is right up to the last product. "
        "`nn.Linear` stores its weight transposed; here vectors are rows.",
        variants=[output_weights_transposed_torch],
    ),
    Misconception(
        "4.1",
        "heads attend to heads",
        heads_attend_to_heads,
        "Your scores have shape [B, T, H, H]: inside each token, heads look at heads. "
        "`@` works on the last two axes; which two should they be?",
    ),
    Misconception(
        "4.1",
        "attention across sentences",
        across_sentences,
        "Your sentences look at each other, and tokens of one sentence do not. "
        "Which axis holds the tokens?",
    ),
    Misconception(
        "4.1",
        "first sentence for all",
        first_sentence_for_all,
        "All sentences get the result of the first. In which line do you lose the others?",
    ),
    Misconception(
        "4.1",
        "heads averaged",
        heads_averaged,
        "You average the heads. They are to be laid side by side, so that none of their numbers is "
        "lost.",
    ),
    Misconception(
        "4.1",
        "no maximum subtracted",
        no_maximum,
        "Large scores give NaN: exp(1000) is inf, and inf / inf is NaN. "
        "What may be taken from all scores of a row without changing its weights?",
    ),
    Misconception(
        "4.1",
        "input added",
        residual_added,
        "You added x to the result, as a Transformer block does. "
        "The task asks for the attention layer alone.",
    ),
    Misconception(
        "4.1",
        "input changed",
        input_changed,
        "The result is right, but afterwards the caller's weights are other ones. "
        "`/=` works in place.",
    ),
]

# --- 4.2 causal_and_padding -----------------------------------------------------------------------


def _real(lengths, total, side):
    slot = np.arange(total)
    return slot >= total - lengths[:, None] if side == "left" else slot < lengths[:, None]


def _mask(real, not_later=None):
    """The right mask from which slots are real."""
    total = real.shape[-1]
    not_later = np.tri(total, dtype=bool) if not_later is None else not_later
    seen = real[:, None, None, :] & not_later
    return np.where(real[:, None, :, None], seen, np.eye(total, dtype=bool))


def sides_swapped(lengths, total, side):
    return _mask(_real(lengths, total, "right" if side == "left" else "left"))


def sides_swapped_loops(lens, n, side):
    out = np.zeros((len(lens), 1, n, n), dtype=bool)
    for b, length in enumerate(lens):
        words = range(length) if side == "left" else range(n - length, n)
        for i in range(n):
            for j in range(n):
                out[b, 0, i, j] = i == j or (i in words and j in words and j <= i)
    return out


def left_ignored(lengths, total, side):
    return _mask(_real(lengths, total, "right"))


def right_ignored(lengths, total, side):
    return _mask(_real(lengths, total, "left"))


def padding_on_queries(lengths, total, side):
    real = _real(lengths, total, side)
    itself = np.eye(total, dtype=bool)
    return (real[:, None, :, None] & np.tri(total, dtype=bool)) | itself


def padding_on_queries_torch(lens, n, side):
    at, lens = torch.arange(n), torch.tensor(lens)[:, None]
    real = at >= n - lens if side == "left" else at < lens
    m = real.unsqueeze(1).unsqueeze(3) & torch.ones(n, n).tril().bool()
    return m | torch.eye(n).bool()


def rows_of_padding_read(lengths, total, side):
    real = _real(lengths, total, side)
    seen = real[:, None, None, :] & np.tri(total, dtype=bool)
    return seen | np.eye(total, dtype=bool)


def rows_of_padding_read_torch(lens, n, side):
    at, lens = torch.arange(n), torch.tensor(lens)[:, None]
    real = at >= n - lens if side == "left" else at < lens
    m = real[:, None, None] & (at <= at[:, None])
    return m | (at == at[:, None])


def rows_of_padding_empty(lengths, total, side):
    real = _real(lengths, total, side)
    both = real[:, None, None, :] & real[:, None, :, None]
    return both & np.tri(total, dtype=bool)


def rows_of_padding_empty_loops(lens, n, side):
    out = np.zeros((len(lens), 1, n, n), dtype=bool)
    for b, length in enumerate(lens):
        words = range(n - length, n) if side == "left" else range(length)
        for i in words:
            for j in words:
                out[b, 0, i, j] = j <= i
    return out


def keys_only(lengths, total, side):
    return _real(lengths, total, side)[:, None, None, :] & np.tri(total, dtype=bool)


def keys_only_torch(lens, n, side):
    at, lens = torch.arange(n), torch.tensor(lens)[:, None]
    real = at >= n - lens if side == "left" else at < lens
    return real[:, None, None, :] & torch.ones(n, n, dtype=torch.bool).tril()


def not_causal(lengths, total, side):
    return _mask(_real(lengths, total, side), np.ones((total, total), dtype=bool))


def not_causal_torch(lens, n, side):
    at, lens = torch.arange(n), torch.tensor(lens)[:, None]
    real = at >= n - lens if side == "left" else at < lens
    m = real[:, None, None, :] & real[:, None, :, None]
    return m | torch.eye(n, dtype=torch.bool)


def causal_only(lengths, total, side):
    return np.broadcast_to(np.tri(total, dtype=bool), (len(lengths), 1, total, total))


def future_only(lengths, total, side):
    return _mask(_real(lengths, total, side), np.tri(total, dtype=bool).T)


def diagonal_of_words_blocked(lengths, total, side):
    return _mask(_real(lengths, total, side), np.tri(total, k=-1, dtype=bool))


def padding_inverted(lengths, total, side):
    return ~_mask(_real(lengths, total, side))


def padding_inverted_torch(lens, n, side):
    return ~torch.tensor(_mask(_real(lens, n, side)))


def lengths_as_padding(lengths, total, side):
    return _mask(_real(total - lengths, total, side))


def one_slot_short(lengths, total, side):
    return _mask(_real(np.maximum(lengths - 1, 0), total, side))


def one_slot_long(lengths, total, side):
    return _mask(_real(np.minimum(lengths + 1, total), total, side))


def three_axes(lengths, total, side):
    return _mask(_real(lengths, total, side))[:, 0]


def first_length_for_all(lengths, total, side):
    return _mask(_real(np.full_like(lengths, lengths[0]), total, side))


def longest_as_total(lengths, total, side):
    return _mask(_real(lengths, lengths.max(), side))


def zeros_and_ones(lengths, total, side):
    return _mask(_real(lengths, total, side)).astype(np.float64)


def additive(lengths, total, side):
    return np.where(_mask(_real(lengths, total, side)), 0.0, -np.inf)


def lengths_changed(lengths, total, side):
    mask = _mask(_real(lengths, total, side))
    lengths -= total
    return mask


def blocked_by_either(lengths, total, side):
    """Causal or real: the two rules joined the wrong way."""
    real = _real(lengths, total, side)
    seen = real[:, None, None, :] | np.tri(total, dtype=bool)
    return np.where(real[:, None, :, None], seen, np.eye(total, dtype=bool))


PADDING = [
    Misconception(
        "4.2",
        "sides swapped",
        sides_swapped,
        "Your sentences stand at the wrong end of their rows. "
        "`side` says where the padding is; where does that leave the words?",
        variants=[sides_swapped_loops],
    ),
    Misconception(
        "4.2",
        "padding always on the right",
        left_ignored,
        "Padding on the right is handled. With padding on the left your mask is the same.",
    ),
    Misconception(
        "4.2",
        "padding always on the left",
        right_ignored,
        "Padding on the left is handled. With padding on the right your mask is the same.",
    ),
    Misconception(
        "4.2",
        "padding on the query axis only",
        padding_on_queries,
        "The rows of padded slots are closed, but the words still look at padded keys. "
        "Who must not be looked at: on which axis is that?",
        variants=[padding_on_queries_torch],
    ),
    Misconception(
        "4.2",
        "padded rows read the sentence",
        rows_of_padding_read,
        "With padding on the right, padded slots attend to the sentence before them. "
        "The chapter's mask allows that; this task asks for more. What may a padded slot see?",
        variants=[rows_of_padding_read_torch],
    ),
    Misconception(
        "4.2",
        "padded rows are empty",
        rows_of_padding_empty,
        "A padded slot attends to nothing, not even to itself. "
        "What does softmax make of an empty row, and who reads that in the next layer?",
        variants=[rows_of_padding_empty_loops],
    ),
    Misconception(
        "4.2",
        "only the keys are masked",
        keys_only,
        "The words are right. The padded rows are not: with padding on the left they are empty, "
        "with padding on the right they read the sentence.",
        variants=[keys_only_torch],
    ),
    Misconception(
        "4.2",
        "not causal",
        not_causal,
        "Padding is right, but the words see later words. Two rules are asked for, and only one of "
        "them is about padding.",
        variants=[not_causal_torch],
    ),
    Misconception(
        "4.2",
        "padding ignored",
        causal_only,
        "This is the causal mask, the same for every sentence. Where do the lengths come in?",
    ),
    Misconception(
        "4.2",
        "causal part transposed",
        future_only,
        "Each word sees itself and the words after it. Rows are queries: in the row of a word, which "
        "columns stay open, those on its left or those on its right?",
    ),
    Misconception(
        "4.2",
        "words do not see themselves",
        diagonal_of_words_blocked,
        "No word sees itself, and the first word of each sentence sees nothing. "
        "Is using oneself a look ahead?",
    ),
    Misconception(
        "4.2",
        "polarity inverted",
        padding_inverted,
        "Every cell is the opposite of what it should be. What does True mean here?",
        variants=[padding_inverted_torch],
    ),
    Misconception(
        "4.2",
        "lengths taken as the number of padded slots",
        lengths_as_padding,
        "`lengths` counts the words of a sentence; you read it as the number of padded slots.",
    ),
    Misconception(
        "4.2",
        "one slot too few",
        one_slot_short,
        "One word of each sentence is treated as padding. Count slots from 0 and compare again.",
    ),
    Misconception(
        "4.2",
        "one slot too many",
        one_slot_long,
        "One padded slot of each sentence is treated as a word. Is it < or <=, > or >=?",
    ),
    Misconception(
        "4.2",
        "three axes",
        three_axes,
        "The cells are right, but the axis of heads is missing. Against scores [B, H, T, T] your B "
        "would meet the heads.",
    ),
    Misconception(
        "4.2",
        "first length for all",
        first_length_for_all,
        "All sentences get the mask of the first. The sentences differ in length: which axis of the "
        "result should tell them apart?",
    ),
    Misconception(
        "4.2",
        "longest sentence as total",
        longest_as_total,
        "Your T is the length of the longest sentence; `total` may be larger than that.",
    ),
    Misconception(
        "4.2",
        "zeros and ones instead of bool",
        zeros_and_ones,
        "The cells are right, but they are numbers. As a float mask, SDPA would add your ones and "
        "zeros to the scores and block nothing.",
    ),
    Misconception(
        "4.2",
        "float mask where bool is asked",
        additive,
        "You return a bias of 0 and -inf, to be added to scores. It says the same, in another "
        "convention; the task asks for the boolean mask.",
    ),
    Misconception(
        "4.2",
        "input changed",
        lengths_changed,
        "The mask is right, but afterwards the caller's lengths are other ones. "
        "`-=` and `+=` work in place.",
    ),
    Misconception(
        "4.2",
        "rules joined with or",
        blocked_by_either,
        "A word sees a slot if it is not later or holds a word; both at once are asked for.",
    ),
]

# --- 4.3 document_mask ----------------------------------------------------------------------------


def same_document_only(ids):
    return ids[:, None] == ids[None, :]


def same_document_only_loops(numbers):
    n = len(numbers)
    return np.array([[numbers[i] == numbers[j] for j in range(n)] for i in range(n)])


def order_only(ids):
    return np.tri(len(ids), dtype=bool)


def runs_only(ids):
    runs = np.cumsum(np.r_[0, ids[1:] != ids[:-1]])
    return (runs[:, None] == runs) & np.tri(len(ids), dtype=bool)


def runs_only_loops(ids):
    n = len(ids)
    out = np.zeros((n, n), dtype=bool)
    for i in range(n):
        j = i
        while j >= 0 and ids[j] == ids[i]:
            out[i, j] = True
            j -= 1
    return out


def first_to_last(ids):
    """From the first slot of the document on, whatever stands between."""
    first = np.array([np.flatnonzero(ids == one)[0] for one in ids])
    slot = np.arange(len(ids))
    return (slot >= first[:, None]) & (slot <= slot[:, None])


def ids_in_order(ids):
    return ids[None, :] <= ids[:, None]


def ids_in_order_too(ids):
    return (ids[None, :] <= ids[:, None]) & np.tri(len(ids), dtype=bool)


def other_documents(ids):
    return (ids != ids[:, None]) & np.tri(len(ids), dtype=bool)


def document_inverted(ids):
    return ~((ids == ids[:, None]) & np.tri(len(ids), dtype=bool))


def document_inverted_torch(ids):
    t = torch.tensor(ids)
    return ~((t[:, None] == t) & torch.ones(len(t), len(t), dtype=torch.bool).tril())


def document_transposed(ids):
    return (ids == ids[:, None]) & np.tri(len(ids), dtype=bool).T


def document_transposed_torch(ids):
    t = torch.tensor(ids)
    return torch.triu(t[:, None] == t[None, :])


def document_no_diagonal(ids):
    return (ids == ids[:, None]) & np.tri(len(ids), k=-1, dtype=bool)


def document_no_diagonal_loops(ids):
    return np.array(
        [[j < i and ids[i] == ids[j] for j in range(len(ids))] for i in range(len(ids))]
    )


def document_or(ids):
    return (ids == ids[:, None]) | np.tri(len(ids), dtype=bool)


def truthy_ids(ids):
    """Multiplies ids instead of comparing them: document 0 disappears."""
    return ((ids[:, None] * ids) == ids[:, None] ** 2) & np.tri(len(ids), dtype=bool) & (ids != 0)


def document_counts(ids):
    return ((ids == ids[:, None]) & np.tri(len(ids), dtype=bool)).astype(int)


def document_bias(ids):
    return np.where((ids == ids[:, None]) & np.tri(len(ids), dtype=bool), 0.0, -np.inf)


def ids_as_slots(ids):
    slot = np.arange(len(ids))
    return (ids == slot[:, None]) & np.tri(len(ids), dtype=bool)


DOCUMENTS = [
    Misconception(
        "4.3",
        "not causal",
        same_document_only,
        "Documents are kept apart, but a slot sees later slots of its own document.",
        variants=[same_document_only_loops],
    ),
    Misconception(
        "4.3",
        "documents ignored",
        order_only,
        "This is the causal mask: slots see other documents. Where do the ids come in?",
    ),
    Misconception(
        "4.3",
        "pieces taken as documents",
        runs_only,
        "A document that was interrupted does not see its own beginning. "
        "You compare neighbours; when do two slots belong together?",
        variants=[runs_only_loops],
    ),
    Misconception(
        "4.3",
        "everything since the document began",
        first_to_last,
        "A slot sees what stands between the pieces of its document too. "
        "To be later than the first slot of a document is not to belong to it.",
    ),
    Misconception(
        "4.3",
        "ids compared by size",
        ids_in_order,
        "You ask which id is smaller. The ids are names: does document 3 come before document 7?",
        variants=[],
    ),
    Misconception(
        "4.3",
        "documents with smaller ids visible",
        ids_in_order_too,
        "A slot sees earlier documents whose id happens to be smaller. Ids are names, not an order.",
    ),
    Misconception(
        "4.3",
        "other documents instead of its own",
        other_documents,
        "A slot sees the other documents and not its own: your comparison is the wrong way round.",
    ),
    Misconception(
        "4.3",
        "polarity inverted",
        document_inverted,
        "Every cell is the opposite of what it should be. What does True mean here?",
        variants=[document_inverted_torch],
    ),
    Misconception(
        "4.3",
        "causal part transposed",
        document_transposed,
        "A slot sees itself and later slots of its document. Rows are queries: in the row of a slot, "
        "which columns stay open?",
        variants=[document_transposed_torch],
    ),
    Misconception(
        "4.3",
        "diagonal blocked",
        document_no_diagonal,
        "No slot sees itself, so the first of each document sees nothing. "
        "Is using oneself a look ahead?",
        variants=[document_no_diagonal_loops],
    ),
    Misconception(
        "4.3",
        "rules joined with or",
        document_or,
        "A slot sees what is earlier or in its document; both at once are asked for.",
    ),
    Misconception(
        "4.3",
        "document 0 forgotten",
        truthy_ids,
        "Document 0 sees nothing. 0 is a name like any other; somewhere your code takes it for "
        "False or for nothing.",
    ),
    Misconception(
        "4.3",
        "zeros and ones instead of bool",
        document_counts,
        "The cells are right, but they are numbers, and numbers are read as a bias that is added to "
        "the scores. The task asks for bool.",
    ),
    Misconception(
        "4.3",
        "float mask where bool is asked",
        document_bias,
        "You return a bias of 0 and -inf, to be added to scores. It says the same, in another "
        "convention; the task asks for the boolean mask.",
    ),
    Misconception(
        "4.3",
        "ids compared with slot numbers",
        ids_as_slots,
        "You compare the id of a key with the position of the query. "
        "Compare like with like: an id with an id.",
    ),
]

# --- 4.4 for_multihead_attention ------------------------------------------------------------------


def _flat(mask):
    return mask.reshape(-1, *mask.shape[-2:]) if mask.ndim == 4 else mask


def polarity_kept(mask):
    return _flat(mask).copy()


def polarity_kept_torch(mask):
    return torch.tensor(mask).flatten(0, -3) if mask.ndim > 2 else torch.tensor(mask)


def heads_first(mask):
    return ~_flat(mask.swapaxes(0, 1)) if mask.ndim == 4 else ~mask


def heads_first_loops(mask):
    if mask.ndim == 2:
        return ~mask
    return np.stack([~mask[b, h] for h in range(mask.shape[1]) for b in range(len(mask))])


def four_axes_kept(mask):
    return ~mask


def four_axes_kept_torch(mask):
    return torch.logical_not(torch.tensor(mask))


def as_it_was(mask):
    return mask.copy()


def as_it_was_torch(mask):
    return torch.tensor(mask)


def always_three_axes(mask):
    return ~mask.reshape(-1, *mask.shape[-2:])


def always_three_axes_torch(mask):
    t = torch.tensor(mask)
    return ~t.reshape(-1, t.shape[-2], t.shape[-1])


def first_head_for_all(mask):
    return ~np.repeat(mask[:, 0], mask.shape[1], axis=0) if mask.ndim == 4 else ~mask


def first_head_repeated(mask):
    return ~np.tile(mask[:, 0], (mask.shape[1], 1, 1)) if mask.ndim == 4 else ~mask


def one_mask_a_sentence(mask):
    return ~mask[:, 0] if mask.ndim == 4 else ~mask


def queries_and_keys_swapped(mask):
    return ~_flat(mask.swapaxes(-1, -2))


def queries_and_keys_swapped_torch(mask):
    return ~torch.tensor(mask).mT.flatten(0, -3) if mask.ndim > 2 else ~torch.tensor(mask).mT


def recut(mask):
    """reshape by shapes alone: rows of different heads are mixed."""
    if mask.ndim == 2:
        return ~mask
    batch, heads, n_queries, n_keys = mask.shape
    mixed = mask.transpose(0, 2, 1, 3).reshape(batch * heads, n_queries, n_keys)
    return ~mixed


def bias(mask):
    return np.where(_flat(mask), 0.0, -np.inf)


def bias_torch(mask):
    return torch.zeros(_flat(mask).shape).masked_fill(~torch.tensor(_flat(mask)), -torch.inf)


def ones_and_zeros(mask):
    return 1 - _flat(mask).astype(int)


def minus_on_bytes(mask):
    return ~_flat(mask).astype(np.uint8)


def inverted_in_place(mask):
    np.logical_not(mask, out=mask)
    return _flat(mask).copy()


def inverted_twice(mask):
    return _flat(~~mask).copy() if mask.ndim == 4 else ~mask


def future_blocked(mask):
    rows, columns = mask.shape[-2:]
    return np.broadcast_to(~np.tri(rows, columns, dtype=bool), _flat(mask).shape)


MODULE = [
    Misconception(
        "4.4",
        "polarity kept",
        polarity_kept,
        "The shape is right, but every cell still means what it meant before. "
        "The module reads True as blocked: with this mask it would see exactly what it must not.",
        variants=[polarity_kept_torch],
    ),
    Misconception(
        "4.4",
        "heads outside, sentences inside",
        heads_first,
        "The order is head 0 of all sentences, then head 1. "
        "The module expects all heads of sentence 0 first; with yours, sentences get the masks of "
        "their neighbours.",
        variants=[heads_first_loops],
    ),
    Misconception(
        "4.4",
        "four axes kept",
        four_axes_kept,
        "The cells are right, but the module takes at most three axes.",
        variants=[four_axes_kept_torch],
    ),
    Misconception(
        "4.4",
        "returned as it was",
        as_it_was,
        "This is the mask that came in. The module reads True the other way round, and it takes at "
        "most three axes.",
        variants=[as_it_was_torch],
    ),
    Misconception(
        "4.4",
        "two axes made three",
        always_three_axes,
        "With batch and heads it is right. "
        "A mask of two axes should stay as it is: [1, T_q, T_k] fits only one sentence with one "
        "head.",
        variants=[always_three_axes_torch],
    ),
    Misconception(
        "4.4",
        "first head for all",
        first_head_for_all,
        "All heads of a sentence get the mask of its first head. They may differ.",
    ),
    Misconception(
        "4.4",
        "first heads laid end to end",
        first_head_repeated,
        "You took the first head's masks and laid copies of the whole batch behind each other, so "
        "sentences get each other's masks, and the other heads' masks are lost.",
    ),
    Misconception(
        "4.4",
        "one mask a sentence",
        one_mask_a_sentence,
        "You return B masks; the module wants one for each head of each sentence.",
    ),
    Misconception(
        "4.4",
        "queries and keys swapped",
        queries_and_keys_swapped,
        "Your rows are keys now. Both conventions have the queries as rows; only True changes its "
        "meaning.",
        variants=[queries_and_keys_swapped_torch],
    ),
    Misconception(
        "4.4",
        "rows of different heads mixed",
        recut,
        "The shape is right, but rows of different heads stand in one mask. "
        "Before you reshape, which two axes must be neighbours, and in which order?",
    ),
    Misconception(
        "4.4",
        "float mask where bool is asked",
        bias,
        "A bias of 0 and -inf is another convention of the same module. "
        "The task asks for the boolean one.",
        variants=[bias_torch],
    ),
    Misconception(
        "4.4",
        "zeros and ones instead of bool",
        ones_and_zeros,
        "The cells are right, but they are numbers, and numbers are read as a bias that is added to "
        "the scores. The task asks for bool.",
    ),
    Misconception(
        "4.4",
        "~ on bytes",
        minus_on_bytes,
        "Your cells are 254 and 255: `~` turns over all eight bits of a byte, and both results "
        "count as True. It is a negation for bool only.",
    ),
    Misconception(
        "4.4",
        "input changed",
        inverted_in_place,
        "The result is right, but the caller's mask is inverted as well. "
        "An operation with `out=` or an assignment works in place.",
    ),
    Misconception(
        "4.4",
        "inverted twice",
        inverted_twice,
        "Two axes are right; with batch and heads the mask is inverted twice, so not at all.",
    ),
    Misconception(
        "4.4",
        "a causal mask of its own",
        future_blocked,
        "You block the future, whatever the mask said. Any mask may come in; translate what is there.",
    ),
]

# --- 4.5 SHAPES: values ---------------------------------------------------------------------------

_RIGHT = {
    "q": (2, 3, 7, 4),
    "k_transposed": (2, 3, 4, 7),
    "scores": (2, 3, 7, 7),
    "causal_mask": (1, 1, 7, 7),
    "padding_mask": (2, 1, 1, 7),
    "weights": (2, 3, 7, 7),
    "output": (2, 3, 7, 5),
    "merged": (2, 7, 15),
}

SHAPES = [
    Misconception(
        "4.5",
        "heads after tokens",
        {
            **_RIGHT,
            "q": (2, 7, 3, 4),
            "k_transposed": (2, 7, 4, 3),
            "scores": (2, 7, 3, 3),
            "weights": (2, 7, 3, 3),
            "output": (2, 7, 3, 5),
        },
        "With the heads behind the tokens, `q @ k_transposed` compares heads with heads. "
        "The last two axes of q have to be one head's table: a row for each token.",
        variants=[{**_RIGHT, "q": (2, 7, 3, 4)}],
    ),
    Misconception(
        "4.5",
        "heads not cut out",
        {
            **_RIGHT,
            "q": (2, 3, 7, 12),
            "k_transposed": (2, 3, 12, 7),
            "output": (2, 3, 7, 15),
            "merged": (2, 7, 45),
        },
        "Your heads hold all numbers of a token each. d_k = 4 is given a head.",
    ),
    Misconception(
        "4.5",
        "no axis of heads",
        {
            **_RIGHT,
            "q": (2, 7, 12),
            "k_transposed": (2, 12, 7),
            "scores": (2, 7, 7),
            "weights": (2, 7, 7),
            "output": (2, 7, 15),
        },
        "There is no axis of heads in your scores. One grid a sentence would be one head.",
    ),
    Misconception(
        "4.5",
        "keys not transposed",
        {**_RIGHT, "k_transposed": (2, 3, 7, 4)},
        "A [7, 4] table cannot be multiplied by a [7, 4] table from the right. "
        "Which axis of the keys has to meet the 4 numbers of a query?",
    ),
    Misconception(
        "4.5",
        "all axes of the keys reversed",
        {**_RIGHT, "k_transposed": (4, 7, 3, 2)},
        "You turned all four axes of the keys round. Sentences and heads stay where they are.",
    ),
    Misconception(
        "4.5",
        "scores of numbers, not of tokens",
        {**_RIGHT, "scores": (2, 3, 4, 4), "weights": (2, 3, 4, 4)},
        "Your scores have a row for each of the 4 numbers of a vector. "
        "A score belongs to a pair of tokens: which axis disappears in the product?",
    ),
    Misconception(
        "4.5",
        "mask copied for every head",
        {**_RIGHT, "causal_mask": (2, 3, 7, 7)},
        "That causal mask fits, but it holds six copies of the same thing. "
        "Would a cell of it be another one for another sentence, or another head?",
        variants=[{**_RIGHT, "causal_mask": (2, 1, 7, 7)}, {**_RIGHT, "causal_mask": (1, 3, 7, 7)}],
    ),
    Misconception(
        "4.5",
        "padding on the query axis",
        {**_RIGHT, "padding_mask": (2, 1, 7, 1)},
        "This padding mask closes rows: it says who may not look. "
        "Padding is about who may not be looked at. Which axis is that?",
    ),
    Misconception(
        "4.5",
        "padding mask as large as the grid",
        {**_RIGHT, "padding_mask": (2, 1, 7, 7)},
        "That padding mask fits, but all its rows are the same: "
        "whether a key is padding does not depend on who asks.",
        variants=[
            {**_RIGHT, "padding_mask": (2, 3, 7, 7)},
            {**_RIGHT, "padding_mask": (2, 3, 1, 7)},
        ],
    ),
    Misconception(
        "4.5",
        "one padding mask for all sentences",
        {**_RIGHT, "padding_mask": (1, 1, 1, 7)},
        "Your padding mask is the same for both sentences. Are they padded alike?",
    ),
    Misconception(
        "4.5",
        "masks without all four axes",
        {**_RIGHT, "causal_mask": (7, 7), "padding_mask": (2, 7)},
        "Write all four axes of the masks, with a 1 where nothing changes. "
        "Aligned on the right, [2, 7] would be read as two queries.",
        variants=[{**_RIGHT, "causal_mask": (7, 7)}, {**_RIGHT, "padding_mask": (2, 7)}],
    ),
    Misconception(
        "4.5",
        "values as long as keys",
        {**_RIGHT, "output": (2, 3, 7, 4), "merged": (2, 7, 12)},
        "Your output has vectors of length 4, that of the keys. "
        "What is averaged in the last step, and how long is it?",
        variants=[{**_RIGHT, "merged": (2, 7, 12)}, {**_RIGHT, "output": (2, 3, 7, 4)}],
    ),
    Misconception(
        "4.5",
        "heads added instead of laid side by side",
        {**_RIGHT, "merged": (2, 7, 5)},
        "Merged, your three heads take no more room than one. They are laid side by side.",
    ),
    Misconception(
        "4.5",
        "merged without moving the heads back",
        {**_RIGHT, "merged": (2, 3, 35)},
        "Merged, there should be one vector a token: which axis goes into the last one?",
    ),
]

MISCONCEPTIONS: list[Misconception] = [*LAYERS, *PADDING, *DOCUMENTS, *MODULE, *SHAPES]
