"""Wrong answers to the exercises of chapter 3, by name, with what a tutor would say (teachers only)."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from course_tools.exercise_bank.claims import Misconception

# --- 3.1 ON_WEIGHTS and 3.2 ROW: values ----------------------------------------------------------

_RAW = np.array([2.0, 1.0, 0.0, 3.0, 1.5])  # the dot products of [0, 0, 1, 2] with the five keys
_SEEN = np.array([True, True, True, True, False])
_QUERIES = np.array([[1, 0, 1, 0], [0, 2, 0, 1], [1, 1, 1, 0], [0, 0, 1, 2], [1, 0, 0, 1.0]])
_KEYS = np.array([[0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0.5, 0.5]])


def _share(scores, visible):
    """Softmax over the visible entries; the others 0."""
    powers = np.where(visible, np.exp(scores - np.max(scores)), 0.0)
    return powers / powers.sum()


_P = np.array([6.0, 3.0, 20.0, 1.0, 10.0])  # the powers of row 3.2, after 1000 is taken off
_MAY = np.array([True, True, False, True, False])
_LOGS = np.log(_P)

VALUES = [
    Misconception(
        "3.1",
        "not scaled",
        _share(_RAW, _SEEN),
        "Your row is sharper than it should be: the largest weight is too large. "
        "Which of the five steps keeps the scores small, and did you take it?",
    ),
    Misconception(
        "3.1",
        "scaled by d_k instead of its root",
        _share(_RAW / 4, _SEEN),
        "Your row is flatter than it should be. "
        "The scores are divided once, to bring their spread back to 1; by what?",
    ),
    Misconception(
        "3.1",
        "no mask",
        _share(_RAW / 2, True),
        '"mat" gets weight in your row. "mat" comes after "on"; at the point where "on" is read, '
        "has it been said yet?",
    ),
    Misconception(
        "3.1",
        "mask after softmax",
        np.where(_SEEN, _share(_RAW / 2, True), 0),
        'Your weights do not sum to 1. "mat" has no weight, and still it took some away from the '
        "others: it was in the sum that you divided by.",
    ),
    Misconception(
        "3.1",
        "neither scaled nor masked",
        _share(_RAW, True),
        'Two of the five steps are missing: "mat" has weight, and the row is too sharp. '
        "Write the five steps down, and tick them off.",
    ),
    Misconception(
        "3.1",
        "not scaled, and mask after softmax",
        np.where(_SEEN, _share(_RAW, True), 0),
        'Your weights do not sum to 1: "mat" was in the sum that you divided by. '
        "And the row is too sharp: a step before softmax is missing.",
    ),
    Misconception(
        "3.1",
        "the old query",
        _share(np.array([1, 1, 0, 2, 1]) / 2, _SEEN),
        'These are the weights of the chapter, where "on" asked with [0, 0, 1, 1]. '
        "Here its query is another one: begin with the dot products.",
    ),
    Misconception(
        "3.1",
        "itself blocked",
        _share(_RAW / 2, np.array([True, True, True, False, False])),
        '"on" has weight 0 on itself in your row. '
        "May a token use itself? Think of which token its output is to predict.",
    ),
    Misconception(
        "3.1",
        "scores shared without exp",
        np.where(_SEEN, _RAW, 0) / 6,
        "You divided the scores by their sum. "
        "That is not softmax: what happens to a score before it is divided, so that even a "
        "negative one gives a weight?",
    ),
    Misconception(
        "3.1",
        "keys and queries swapped",
        _share(_QUERIES @ _KEYS[3] / 2, _SEEN),
        'You compared the key of "on" with the queries of the others. '
        'It is "on" who asks: which of its vectors goes into the product, and which of theirs?',
    ),
    Misconception(
        "3.1",
        "a zero score as zero weight",
        _share(np.array([1, 0.5, -np.inf, 1.5, 0]), _SEEN),
        '"sat" is visible, and in your row it has weight 0. Its score is 0; what is exp(0)?',
    ),
    Misconception(
        "3.1",
        "blocked score set to zero",
        _share(np.array([1, 0.5, 0, 1.5, 0]), True),
        '"mat" has weight in your row, as if its score were 0. '
        "A score of 0 is an ordinary score. Which score leaves nothing after exp?",
    ),
    Misconception(
        "3.1",
        "powers of 2",
        _share(_RAW / 2 * math.log(2), _SEEN),
        "Your weights are in the ratios of powers of 2. Softmax uses another base.",
    ),
    Misconception(
        "3.2",
        "mask after softmax",
        np.where(_MAY, _P, 0) / 40,
        "Your row does not sum to 1. "
        "The blocked cells got no weight, but their powers were in the sum that you divided by.",
    ),
    Misconception(
        "3.2",
        "no mask",
        _P / 40,
        "Blocked cells have weight in your row. Where did the second line of the table come in?",
    ),
    Misconception(
        "3.2",
        "polarity inverted",
        np.where(_MAY, 0, _P) / 30,
        'The weight lies on the cells marked "no". '
        'Read the second line of the table again: is it "may attend" or "is blocked"?',
    ),
    Misconception(
        "3.2",
        "blocked score set to zero",
        np.where(_MAY, _P, 1) / 12,
        "The blocked cells took part as if their score were like that of key 3, which is small "
        "but not nothing. Which score leaves exactly 0 after exp?",
    ),
    Misconception(
        "3.2",
        "a zero score as zero weight",
        np.array([6, 3, 0, 0, 0]) / 9,
        "Key 3 is visible, and its weight is 0 in your row. "
        "After 1000 is taken off, its score is 0; what is exp(0)?",
    ),
    Misconception(
        "3.2",
        "scores shared without exp",
        np.where(_MAY, _LOGS, 0) / (np.log(6) + np.log(3)),
        "You divided the scores by their sum. "
        "In softmax something happens to each score before that.",
    ),
    Misconception(
        "3.2",
        "the large scores shared without exp",
        np.where(_MAY, 1000 + _LOGS, 0) / (3000 + np.log(18)),
        "Three almost equal weights: you divided the scores, 1000 and all, by their sum. "
        "In softmax, what happens to each score before that?",
    ),
    Misconception(
        "3.2",
        "divided by the largest",
        np.where(_MAY, _P, 0) / 6,
        "The largest entry of your row is 1, and the row sums to more than that. "
        "The largest score is subtracted before exp; what are the powers divided by?",
    ),
    Misconception(
        "3.2",
        "a causal row",
        np.array([6, 3, 20, 1, 0]) / 30,
        "Key 2 has weight in your row, and the last key alone has none: that is the causal row of "
        "a fourth token. Here the mask is the one in the table.",
    ),
    Misconception(
        "3.2",
        "overflow",
        np.array([np.nan, np.nan, 0, np.nan, 0]),
        "exp(1000) is more than any float can hold, and inf / inf is NaN. "
        "What may you take from every score of a row without changing the weights?",
    ),
]

# --- 3.3 masked_softmax --------------------------------------------------------------------------


def _softmax(scores, axis=-1):
    with np.errstate(all="ignore"):
        powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
        return powers / powers.sum(axis=axis, keepdims=True)


def _zero_empty(weights, mask):
    """Zeros in rows that see nothing, so that a wrong answer is wrong in one way only."""
    return np.where(mask.any(axis=-1, keepdims=True), weights, 0.0)


def mask_after(scores, mask):
    return np.where(mask, _softmax(scores), 0.0)


def mask_after_torch(s, m):
    p = F.softmax(torch.tensor(s), dim=-1)
    return p.masked_fill(~torch.tensor(m), 0)


def mask_after_loops(scores, mask):
    weights = _softmax(scores)
    may = np.broadcast_to(mask, scores.shape)
    for cell in np.ndindex(scores.shape):
        if not may[cell]:
            weights[cell] = 0.0
    return weights


def renormalised(scores, mask):
    weights = np.where(mask, _softmax(scores), 0.0)
    with np.errstate(all="ignore"):
        return _zero_empty(weights / weights.sum(axis=-1, keepdims=True), mask)


def renormalised_guarded(scores, mask):
    weights = np.where(mask, _softmax(scores), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def renormalised_guarded_torch(s, m):
    p = torch.softmax(torch.tensor(s), -1).masked_fill(~torch.tensor(m), 0)
    total = p.sum(-1, keepdim=True)
    return p / total.masked_fill(total == 0, 1)


def renormalised_torch(s, m):
    p = torch.softmax(torch.tensor(s), -1) * torch.tensor(m)
    return torch.where(torch.tensor(m).any(-1, keepdim=True), p / p.sum(-1, keepdim=True), 0)


def inverted(scores, mask):
    return torch.softmax(torch.tensor(scores).masked_fill(torch.tensor(mask), -torch.inf), -1)


def inverted_zeroed(scores, mask):
    hidden = np.broadcast_to(mask, scores.shape)
    masked = np.where(hidden, -np.inf, scores)
    return np.where(hidden, 0.0, _softmax(masked))


def inverted_where(scores, mask):
    return _softmax(np.where(mask, -np.inf, scores))


def inverted_zeroed_torch(s, m):
    m = torch.tensor(m)
    return torch.tensor(s).masked_fill(m, float("-inf")).softmax(-1).masked_fill(m, 0)


def blocked_as_zero(scores, mask):
    return _zero_empty(_softmax(np.where(mask, scores, 0)), mask)


def blocked_as_zero_torch(s, m):
    m = torch.tensor(m)
    p = torch.softmax(torch.tensor(s).masked_fill(~m, 0), dim=-1)
    return p * m.any(dim=-1, keepdim=True)


def over_queries(scores, mask):
    axis = -2 if scores.ndim > 1 else -1
    weights = _softmax(np.where(mask, scores, -np.inf), axis=axis)
    return np.where(mask, weights, 0.0)


def over_queries_torch(s, m):
    m = torch.tensor(m)
    p = torch.tensor(s).masked_fill(~m, -torch.inf).softmax(dim=max(0, s.ndim - 2))
    return p.masked_fill(~m, 0)


def over_axis_1(scores, mask):
    axis = 1 if scores.ndim > 1 else 0
    return np.where(mask, _softmax(np.where(mask, scores, -np.inf), axis=axis), 0.0)


def over_everything(scores, mask):
    masked = np.where(mask, scores, -np.inf)
    with np.errstate(all="ignore"):
        powers = np.exp(masked - masked.max())
        return np.where(mask, powers / powers.sum(), 0)


def empty_rows_nan(scores, mask):
    return _softmax(np.where(mask, scores, -np.inf))


def empty_rows_nan_torch(s, m):
    return torch.tensor(s).masked_fill(torch.tensor(m) == 0, float("-inf")).softmax(dim=-1)


def empty_rows_uniform(scores, mask):
    return _softmax(np.where(mask, scores, np.finfo(scores.dtype).min))


def empty_rows_uniform_torch(s, m):
    s = torch.tensor(s)
    return s.masked_fill(~torch.tensor(m), torch.finfo(s.dtype).min).softmax(dim=-1)


def fill_too_high(scores, mask):
    return np.where(mask, _softmax(np.where(mask, scores, -1e9)), 0.0)


def fill_too_high_torch(s, m):
    m = torch.tensor(m)
    return torch.tensor(s).masked_fill(~m, -1e9).softmax(-1).masked_fill(~m, 0)


def fill_far_too_high(scores, mask):
    return np.where(mask, _softmax(np.where(mask, scores, -1e4)), 0.0)


def fill_far_too_high_torch(s, m):
    m = torch.tensor(m)
    return torch.tensor(s).masked_fill(~m, -1e4).softmax(-1).masked_fill(~m, 0)


def only_a_fill(scores, mask):
    return _softmax(np.where(mask, scores, -1e9))


def only_a_fill_torch(s, m):
    return F.softmax(torch.tensor(s).masked_fill(torch.tensor(m) == 0, -1e9), dim=-1)


def as_published(scores, mask):
    """The softmax of the course's main source: whatever is not finite becomes -1e9."""
    masked = np.where(mask, scores, -np.inf)
    safe = np.where(np.isfinite(masked), masked, -1e9)
    powers = np.exp(safe - np.max(safe, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)


def as_published_torch(s, m):
    s = torch.tensor(s).masked_fill(~torch.tensor(m), float("-inf"))
    return torch.nan_to_num(s, nan=-1e9, posinf=-1e9, neginf=-1e9).softmax(-1)


def plain(scores, mask):
    with np.errstate(all="ignore"):
        powers = np.exp(np.where(mask, scores, -np.inf))
        return powers / powers.sum(axis=-1, keepdims=True)


def plain_torch(s, m):
    powers = torch.exp(torch.tensor(s).masked_fill(~torch.tensor(m), -torch.inf))
    return powers / powers.sum(dim=-1, keepdim=True)


def no_maximum(scores, mask):
    with np.errstate(all="ignore"):
        powers = np.where(mask, np.exp(scores), 0.0)
        return _zero_empty(powers / powers.sum(axis=-1, keepdims=True), mask)


def no_maximum_loops(scores, mask):
    may = np.broadcast_to(mask, scores.shape)
    result = np.zeros(scores.shape)
    for row in np.ndindex(scores.shape[:-1]):
        with np.errstate(all="ignore"):
            powers = [np.exp(s) if m else 0.0 for s, m in zip(scores[row], may[row], strict=True)]
            if may[row].any():
                result[row] = np.array(powers) / sum(powers)
    return result


def maximum_of_all(scores, mask):
    with np.errstate(all="ignore"):
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        powers = np.where(mask, powers, 0.0)
        return _zero_empty(powers / powers.sum(axis=-1, keepdims=True), mask)


def maximum_of_all_torch(s, m):
    s, m = torch.tensor(s), torch.tensor(m)
    e = torch.exp(s - s.amax(dim=-1, keepdim=True)) * m
    e = e.masked_fill(~m, 0)
    return torch.where(m.any(-1, keepdim=True), e / e.sum(-1, keepdim=True), 0)


def nan_hidden(scores, mask):
    return np.nan_to_num(empty_rows_nan(scores, mask))


def nan_hidden_torch(s, m):
    p = torch.softmax(torch.tensor(s).masked_fill(~torch.tensor(m), -torch.inf), dim=-1)
    return torch.where(torch.isnan(p), 0.0, p)


def nan_as_blocked(scores, mask):
    seen = mask & np.isfinite(scores)
    return np.where(seen, _softmax(np.where(seen, scores, -np.inf)), 0.0)


def bias_by_arithmetic(scores, mask):
    with np.errstate(all="ignore"):
        return _softmax(scores + (1.0 - mask) * -np.inf)


def bias_by_arithmetic_torch(s, m):
    return (torch.tensor(s) + (~torch.tensor(m)).float() * float("-inf")).softmax(-1)


def bias_added(scores, mask):
    with np.errstate(all="ignore"):
        weights = _softmax(scores + np.where(mask, 0.0, -np.inf))
    return np.where(mask, weights, 0.0)


def bias_added_torch(s, m):
    bias = torch.zeros(m.shape).masked_fill(~torch.tensor(m), -torch.inf)
    p = (torch.tensor(s) + bias).softmax(dim=-1)
    return p.masked_fill(~torch.tensor(m), 0)


def own_causal_mask(scores, mask):
    seen = np.tri(*np.atleast_2d(scores).shape[-2:], dtype=bool).reshape(scores.shape[-2:])
    return np.where(seen, _softmax(np.where(seen, scores, -np.inf)), 0.0)


def no_mask(scores, mask):
    return _softmax(scores)


def in_place(scores, mask):
    scores[~np.broadcast_to(mask, scores.shape)] = -np.inf
    return np.where(mask, _softmax(scores), 0.0)


def in_place_torch(s, m):
    t = torch.from_numpy(s)
    t.masked_fill_(~torch.from_numpy(m), -torch.inf)
    return t.softmax(-1).masked_fill(~torch.from_numpy(m), 0)


def scaled_twice(scores, mask):
    scores = scores / np.sqrt(scores.shape[-1])
    return np.where(mask, _softmax(np.where(mask, scores, -np.inf)), 0.0)


def first_row_of_mask(scores, mask):
    if mask.ndim > 1:
        mask = mask[..., :1, :]
    return np.where(mask, _softmax(np.where(mask, scores, -np.inf)), 0.0)


def first_mask_of_batch(scores, mask):
    while mask.ndim > 2:
        mask = mask[0]
    return np.where(mask, _softmax(np.where(mask, scores, -np.inf)), 0.0)


def transposed_mask(scores, mask):
    if mask.ndim > 1 and mask.shape[-1] == mask.shape[-2]:
        mask = mask.swapaxes(-1, -2)
    return np.where(mask, _softmax(np.where(mask, scores, -np.inf)), 0.0)


SOFTMAX = [
    Misconception(
        "3.3",
        "mask after softmax",
        mask_after,
        "Rows with blocked cells sum to less than 1. "
        "The blocked scores were still there when the row was divided by its sum; at which step "
        "should they have left?",
        variants=[mask_after_torch, mask_after_loops],
    ),
    Misconception(
        "3.3",
        "blocked scores leave too late",
        renormalised,
        "Ordinary rows are right, but a huge blocked score turns its row into NaN: it still took "
        "part in something, in a maximum, in a sum, or in a power that was multiplied by 0 "
        "afterwards. 0 / 0 and inf * 0 are both NaN. When should a blocked score leave?",
        variants=[renormalised_torch, maximum_of_all, maximum_of_all_torch],
    ),
    Misconception(
        "3.3",
        "renormalised, and 0/0 made 0",
        renormalised_guarded,
        "Ordinary rows are right, but with a huge blocked score the visible weights are all 0: "
        "the first softmax rounded them away, before you came to divide them again, and your guard "
        "hid it. What should the blocked score never have entered?",
        variants=[renormalised_guarded_torch],
    ),
    Misconception(
        "3.3",
        "polarity inverted",
        inverted,
        "The weight lies exactly on the blocked cells. "
        "What does True mean in this mask, and in the function that you used to fill?",
        variants=[inverted_where],
    ),
    Misconception(
        "3.3",
        "polarity inverted, NaN cleared",
        inverted_zeroed,
        "The weight lies exactly on the blocked cells, and rows in which all is visible are empty. "
        "What does True mean in this mask, and in your code?",
        variants=[inverted_zeroed_torch],
    ),
    Misconception(
        "3.3",
        "blocked scores set to zero",
        blocked_as_zero,
        "Blocked cells get weight, as if their score were 0. "
        "0 is an ordinary score, and exp(0) is 1. Which score leaves nothing after exp?",
        variants=[blocked_as_zero_torch],
    ),
    Misconception(
        "3.3",
        "softmax over the wrong axis",
        over_queries,
        "Your columns sum to 1, not your rows. "
        "A query shares its attention among keys: which axis are the keys on?",
        variants=[over_queries_torch],
    ),
    Misconception(
        "3.3",
        "softmax over axis 1",
        over_axis_1,
        "With two axes all is well, with more the wrong things sum to 1. "
        "Axis 1 is the keys only if there is nothing in front; count from the other end.",
    ),
    Misconception(
        "3.3",
        "softmax over all rows together",
        over_everything,
        "All weights together sum to 1, instead of each row. "
        "A maximum and a sum without an axis take everything they find.",
    ),
    Misconception(
        "3.3",
        "empty rows give NaN",
        empty_rows_nan,
        "A row with nothing to attend to comes out as NaN: 0 / 0. "
        "Attending to nothing should bring nothing.",
        variants=[empty_rows_nan_torch],
    ),
    Misconception(
        "3.3",
        "empty rows are uniform",
        empty_rows_uniform,
        "A row that may attend to nothing attends to everything equally. "
        "If all scores of a row are the same low number, that number cancels; what is left?",
        variants=[empty_rows_uniform_torch],
    ),
    Misconception(
        "3.3",
        "fill not low enough",
        fill_too_high,
        "In a row of very low scores the visible weights are gone: your fill is higher than the "
        "visible scores, so all weight went to blocked cells. Is any fixed number low enough?",
        variants=[fill_too_high_torch],
    ),
    Misconception(
        "3.3",
        "fill of -10,000",
        fill_far_too_high,
        "In rows of low scores the visible weights are gone: -10,000 is higher than they are, so "
        "the weight went to blocked cells. It fits every dtype, but is it low enough?",
        variants=[fill_far_too_high_torch],
    ),
    Misconception(
        "3.3",
        "a fill of -1e9 and nothing more",
        only_a_fill,
        "This is what most published code does, and it fails in two corners: a row that sees "
        "nothing becomes uniform, because the fill is the same everywhere, and in a row of very "
        "low scores the fill is the largest number.",
        variants=[only_a_fill_torch],
    ),
    Misconception(
        "3.3",
        "whatever is not finite becomes -1e9",
        as_published,
        "You replace NaN and infinities by -1e9. So a row that sees nothing becomes uniform, very "
        "low scores lose to the fill, and a visible NaN disappears. "
        "Only the mask knows what is blocked.",
        variants=[as_published_torch],
    ),
    Misconception(
        "3.3",
        "softmax by the formula alone",
        plain,
        "On paper this is softmax. In floats it fails in two corners: exp(1000) is inf, and a row "
        "that sees nothing is 0 / 0.",
        variants=[plain_torch],
    ),
    Misconception(
        "3.3",
        "no maximum subtracted",
        no_maximum,
        "Large scores overflow: exp(1000) is inf, and inf / inf is NaN. "
        "What may be taken from all scores of a row without changing its weights?",
        variants=[no_maximum_loops],
    ),
    Misconception(
        "3.3",
        "NaN hidden",
        nan_hidden,
        "A visible score was NaN, and your weights look healthy. "
        "Somewhere a broken number came in, and now nobody will find out. "
        "You meant to repair empty rows; which cells of them are visible?",
        variants=[nan_hidden_torch],
    ),
    Misconception(
        "3.3",
        "NaN taken as blocked",
        nan_as_blocked,
        "A visible score was NaN, and the row shared its weight among the other cells as if "
        "nothing had happened. Only the mask decides who is blocked.",
    ),
    Misconception(
        "3.3",
        "bias by arithmetic",
        bias_by_arithmetic,
        "Everything is NaN, even where all is visible. "
        "0 times infinity is not 0. Select with a boolean instead of multiplying.",
        variants=[bias_by_arithmetic_torch],
    ),
    Misconception(
        "3.3",
        "bias added to what is blocked",
        bias_added,
        "A blocked cell held NaN or inf, and it spoilt its row: NaN plus -inf is NaN, inf "
        "plus -inf too. What stands in a blocked cell should be replaced, not added to.",
        variants=[bias_added_torch],
    ),
    Misconception(
        "3.3",
        "a causal mask of its own",
        own_causal_mask,
        "You blocked the future, whatever the mask said. "
        "This function is given its mask and should know no other.",
    ),
    Misconception(
        "3.3",
        "mask ignored",
        no_mask,
        "Blocked cells have weight, and the row is the same as without a mask. "
        "Where does your code use `mask`?",
    ),
    Misconception(
        "3.3",
        "input changed",
        in_place,
        "The weights are right, but afterwards the caller's scores are full of -inf. "
        "An assignment into an argument is seen outside.",
        variants=[in_place_torch],
    ),
    Misconception(
        "3.3",
        "scaled in softmax",
        scaled_twice,
        "Your rows are flatter than they should be: the scores were divided once more. "
        "Scaling belongs to the scores and was done before they came here.",
    ),
    Misconception(
        "3.3",
        "first row of the mask for all",
        first_row_of_mask,
        "All rows use the first row's mask. Each query has a row of its own.",
    ),
    Misconception(
        "3.3",
        "first mask of the batch for all",
        first_mask_of_batch,
        "All sentences use the mask of the first. "
        "A mask may have leading axes too; they belong to the same axes of the scores.",
    ),
    Misconception(
        "3.3",
        "mask transposed",
        transposed_mask,
        "Row i of your result obeys column i of the mask. Rows are queries in both.",
    ),
]

# --- 3.4 SCORES: values --------------------------------------------------------------------------

ROWS = [
    Misconception(
        "3.4",
        "gap too small",
        [0.0, 1.0, 2.0, 12.0],
        "On this row renormalising is right, to all the digits that matter: the visible weights "
        "after the first softmax are small, but float32 still has room for them. "
        "How small must they be before it has not?",
        variants=[[-20.0, -21.0, -22.0, 60.0], [-10, -20, -30, 40]],
    ),
    Misconception(
        "3.4",
        "gap too large",
        [-60.0, -59.0, -58.0, 60.0],
        "This row gives NaN: all three visible weights are rounded to 0 by the first softmax. "
        "That is a failure which everybody notices. Ask for a little less.",
        variants=[[-50.0, -51.0, -52.0, 58.0]],
    ),
    Misconception(
        "3.4",
        "high score on a visible cell",
        [60.0, -60.0, -60.0, -60.0],
        "Your row is lopsided, but the large score is visible, so its weight is 1 with or without "
        "the shortcut, and nothing is lost. Which cell has to crush the others?",
        variants=[[-60, -60, 60, -60], [60.0, 59.0, -44.0, 0.0]],
    ),
    Misconception(
        "3.4",
        "visible scores all equal",
        [-43.0, -43.0, -43.0, 60.0],
        "The gap is well chosen: float32 has hardly any digits left for these weights. "
        "But your visible scores are equal, so they are rounded alike, and their shares come out "
        "right. Rounding has to hit them unequally.",
        variants=[[-42.0, -42.0, -42.0, 60.0]],
    ),
    Misconception(
        "3.4",
        "scores out of range",
        [0.0, -1.0, -2.0, 103.0],
        "The right idea, but a score lies outside -60 to 60. "
        "Softmax looks at differences only: what can you do to all four scores?",
        variants=[[1000.0, 999.0, 998.0, 1102.0]],
    ),
    Misconception(
        "3.4",
        "infinite or not a number",
        [0.0, 1.0, 2.0, math.inf],
        "An infinite score, or a NaN, breaks anything. "
        "The point of the exercise is that ordinary numbers suffice.",
        variants=[[math.nan, 0.0, 0.0, 1.0]],
    ),
    Misconception(
        "3.4",
        "one weight crushed, and rightly",
        [-40.0, -50.0, -55.0, 60.0],
        "The gap is well chosen, and weights are rounded to 0 by the shortcut. But it does no harm: "
        "one visible score stands so far above the others that their true weights are almost 0 "
        "too. A weight that matters has to be lost.",
        variants=[[-41.0, -47.0, -60.0, 60.0]],
    ),
]

# --- 3.5 causal_attention ------------------------------------------------------------------------


def _attend(
    q,
    k,
    v,
    *,
    scale=None,
    visible=None,
    softmax=_softmax,
):
    """The right computation with one part replaced."""
    length = q.shape[-2]
    scale = math.sqrt(q.shape[-1]) if scale is None else scale
    visible = np.tri(length, dtype=bool) if visible is None else visible
    scores = q @ k.swapaxes(-1, -2) / scale
    weights = softmax(np.where(visible, scores, -np.inf))
    return weights @ v, weights


def no_mask_attention(q, k, v):
    return _attend(q, k, v, visible=True)


def no_mask_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    a = F.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
    return a @ v, a


def inverted_attention(q, k, v):
    length = q.shape[-2]
    return _attend(q, k, v, visible=~np.tri(length, dtype=bool))


def inverted_attention_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    s = q @ k.mT / math.sqrt(q.shape[-1])
    s = s.masked_fill(torch.ones(s.shape[-2:]).tril() == 1, -torch.inf)
    a = s.softmax(-1)
    return a @ v, a


def transposed_attention(q, k, v):
    return _attend(q, k, v, visible=np.tri(q.shape[-2], dtype=bool).T)


def transposed_attention_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    blocked = torch.ones(q.shape[-2], q.shape[-2]).tril(-1).bool()
    a = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(blocked, -torch.inf).softmax(-1)
    return a @ v, a


def diagonal_blocked(q, k, v):
    return _attend(q, k, v, visible=np.tri(q.shape[-2], k=-1, dtype=bool))


def diagonal_blocked_cleared(q, k, v):
    visible = np.tri(q.shape[-2], k=-1, dtype=bool)
    _, weights = _attend(q, k, v, visible=visible)
    weights = np.where(visible, weights, 0.0)
    return weights @ v, weights


def diagonal_blocked_loops(q, k, v):
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    q, k = (np.broadcast_to(t, lead + t.shape[-2:]) for t in (q, k))
    weights = np.zeros((*lead, q.shape[-2], q.shape[-2]))
    for *b, i in np.ndindex(weights.shape[:-1]):
        if i:
            s = k[(*b,)][:i] @ q[(*b, i)] / math.sqrt(q.shape[-1])
            weights[(*b, i)][:i] = _softmax(s)
    return weights @ v, weights


def diagonal_blocked_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    blocked = torch.triu(torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool))
    a = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(blocked, -torch.inf).softmax(-1)
    return a @ v, a


def one_ahead(q, k, v):
    return _attend(q, k, v, visible=np.tri(q.shape[-2], k=1, dtype=bool))


def one_ahead_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    blocked = torch.triu(torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool), diagonal=2)
    a = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(blocked, -torch.inf).softmax(-1)
    return a @ v, a


def masked_late(q, k, v):
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    weights = np.tril(_softmax(scores))
    return weights @ v, weights


def masked_late_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    a = F.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
    a = a * torch.tril(torch.ones_like(a))
    return a @ v, a


def masked_late_renormalised(q, k, v):
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    weights = np.tril(_softmax(scores))
    with np.errstate(all="ignore"):
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return weights @ v, weights


def masked_late_renormalised_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    a = torch.tril((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1))
    a = a / a.sum(-1, keepdim=True)
    return a @ v, a


def not_scaled(q, k, v):
    return _attend(q, k, v, scale=1.0)


def not_scaled_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    blocked = torch.triu(torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool), diagonal=1)
    a = (q @ k.mT).masked_fill(blocked, -torch.inf).softmax(-1)
    return a @ v, a


def divided_by_d(q, k, v):
    return _attend(q, k, v, scale=q.shape[-1])


def multiplied_by_root(q, k, v):
    return _attend(q, k, v, scale=q.shape[-1] ** -0.5)


def root_of_d_v(q, k, v):
    return _attend(q, k, v, scale=math.sqrt(v.shape[-1]))


def root_of_length(q, k, v):
    return _attend(q, k, v, scale=math.sqrt(q.shape[-2]))


def always_two(q, k, v):
    return _attend(q, k, v, scale=2.0)


def keys_ask(q, k, v):
    return _attend(k, q, v)


def keys_ask_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    s = k @ q.transpose(-1, -2) / math.sqrt(k.shape[-1])
    a = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool).tril(), -torch.inf).softmax(-1)
    return a @ v, a


def columns_sum_to_one(q, k, v):
    return _attend(q, k, v, softmax=lambda scores: _softmax(scores, axis=-2))


def columns_sum_to_one_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    blocked = torch.triu(torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool), diagonal=1)
    a = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(blocked, -torch.inf).softmax(dim=-2)
    return a @ v, a


def axis_one(q, k, v):
    return _attend(q, k, v, softmax=lambda scores: np.nan_to_num(_softmax(scores, axis=1)))


def only_itself(q, k, v):
    weights = np.broadcast_to(np.eye(q.shape[-2]), (q @ k.swapaxes(-1, -2)).shape)
    return weights @ v, weights


def equal_shares(q, k, v):
    tril = np.tri(q.shape[-2])
    weights = tril / tril.sum(axis=-1, keepdims=True)
    weights = np.broadcast_to(weights, (q @ k.swapaxes(-1, -2)).shape)
    return weights @ v, weights


def zero_for_blocked(q, k, v):
    scores = np.tril(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]))
    weights = _softmax(scores)
    return weights @ v, weights


def zero_for_blocked_torch(q, k, v):
    q, k, v = (torch.tensor(t) for t in (q, k, v))
    s = q @ k.mT / math.sqrt(q.shape[-1])
    a = (s * torch.ones(s.shape[-2:]).tril()).softmax(-1)
    return a @ v, a


def weights_first(q, k, v):
    return _attend(q, k, v)[::-1]


def scores_returned(q, k, v):
    output, _ = _attend(q, k, v)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    return output, np.where(np.tri(q.shape[-2], dtype=bool), scores, -np.inf)


def weights_unmasked(q, k, v):
    return _attend(q, k, v)[0], no_mask_attention(q, k, v)[1]


def all_axes_reversed(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    weights = _softmax(np.where(np.tri(q.shape[-2], dtype=bool), scores, -np.inf))
    return weights @ v, weights


def five_tokens(q, k, v):
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    weights = _softmax(np.where(np.tri(5, dtype=bool), scores, -np.inf))
    return weights @ v, weights


def overflowing(q, k, v):
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    with np.errstate(all="ignore"):
        powers = np.tril(np.exp(scores))
        weights = powers / powers.sum(axis=-1, keepdims=True)
        return weights @ v, weights


def overflowing_loops(q, k, v):
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    q, k = (np.broadcast_to(t, lead + t.shape[-2:]) for t in (q, k))
    weights = np.zeros((*lead, q.shape[-2], q.shape[-2]))
    with np.errstate(all="ignore"):
        for *b, i in np.ndindex(weights.shape[:-1]):
            query = q[(*b, i)]
            powers = [np.exp(query @ k[(*b, j)] / len(query) ** 0.5) for j in range(i + 1)]
            weights[(*b, i)][: i + 1] = np.array(powers) / np.sum(powers)
        return weights @ v, weights


def weights_of_the_wrong_side(q, k, v):
    _, weights = _attend(q, k, v)
    return weights.swapaxes(-1, -2) @ v, weights


def values_forgotten(q, k, v):
    _, weights = _attend(q, k, v)
    return weights @ k, weights


def sees_first_only(q, k, v):
    """The corner of a mask broadcast over the rows: all queries see the first key only."""
    visible = np.tri(1, q.shape[-2], dtype=bool)
    return _attend(q, k, v, visible=visible)


def argument_scaled(q, k, v):
    q /= math.sqrt(q.shape[-1])
    return _attend(q, k, v, scale=1.0)


def batch_mixed(q, k, v):
    output, weights = _attend(q, k, v)
    if output.ndim > 2:
        output = np.broadcast_to(output[:1], output.shape)
    return output, weights


ATTENTION = [
    Misconception(
        "3.5",
        "no mask",
        no_mask_attention,
        "Every row gives weight to later positions: there is no mask at all. "
        "Which of the five steps is missing?",
        variants=[no_mask_torch],
    ),
    Misconception(
        "3.5",
        "polarity inverted",
        inverted_attention,
        "Each position sees only what comes after it, not even itself, and the last row is NaN, "
        "because it sees nothing. "
        "Your mask and the function that applies it do not agree on what True means.",
        variants=[inverted_attention_torch],
    ),
    Misconception(
        "3.5",
        "mask transposed",
        transposed_attention,
        "Each position sees itself and its future. "
        "Rows are queries: in the row of query i, which columns stay open?",
        variants=[transposed_attention_torch],
    ),
    Misconception(
        "3.5",
        "diagonal blocked",
        diagonal_blocked,
        "No position sees itself, and the first sees nothing at all: NaN. "
        "Is using oneself a look into the future? The output at position i predicts token i + 1.",
        variants=[diagonal_blocked_torch],
    ),
    Misconception(
        "3.5",
        "diagonal blocked, first row cleared",
        diagonal_blocked_cleared,
        "No position sees itself, and the first has no weights at all. "
        "Is using oneself a look into the future? The output at position i predicts token i + 1.",
        variants=[diagonal_blocked_loops],
    ),
    Misconception(
        "3.5",
        "one position ahead",
        one_ahead,
        "Each position sees one token too many: the very one that it is to predict. "
        "Your triangle begins one diagonal off.",
        variants=[one_ahead_torch],
    ),
    Misconception(
        "3.5",
        "mask after softmax",
        masked_late,
        "The future has weight 0, but your rows do not sum to 1. "
        "Where did the rest go? Look at what the row was divided by.",
        variants=[masked_late_torch],
    ),
    Misconception(
        "3.5",
        "renormalised after softmax",
        masked_late_renormalised,
        "Ordinary numbers come out right. But where a future score is far above the rest, the "
        "weights of the past are rounded away before you divide them again. "
        "What should the future not have taken part in?",
        variants=[masked_late_renormalised_torch],
    ),
    Misconception(
        "3.5",
        "not scaled",
        not_scaled,
        "The right cells are visible, but your rows are too sharp. "
        "Something has to be done to the dot products, and more so the longer the vectors are.",
        variants=[not_scaled_torch],
    ),
    Misconception(
        "3.5",
        "divided by d_k instead of its root",
        divided_by_d,
        "The right cells are visible, but your rows are too flat. "
        "The variance of a dot product grows like d_k; what brings its spread back to 1?",
    ),
    Misconception(
        "3.5",
        "multiplied by the root",
        multiplied_by_root,
        "Your rows are far too sharp: the scores went up where they should go down. "
        "Is it times or divided by?",
    ),
    Misconception(
        "3.5",
        "scaled by d_v",
        root_of_d_v,
        "Your scaling uses the length of the values. "
        "Which vectors are multiplied in a dot product, and how many products are summed?",
    ),
    Misconception(
        "3.5",
        "scaled by the number of tokens",
        root_of_length,
        "Your scaling depends on how many tokens there are. "
        "A score compares two vectors; how many numbers are summed in it?",
    ),
    Misconception(
        "3.5",
        "scaled by 2 always",
        always_two,
        "The example is right, other sizes are not. "
        "In the example the root is 2; where does that number come from?",
    ),
    Misconception(
        "3.5",
        "keys and queries swapped",
        keys_ask,
        "The cell in row i, column j should compare query i with key j; yours compares key i "
        "with query j. In which order do they enter the product?",
        variants=[keys_ask_torch],
    ),
    Misconception(
        "3.5",
        "softmax over the wrong axis",
        columns_sum_to_one,
        "Your columns sum to 1, not your rows. A query shares its attention among keys.",
        variants=[columns_sum_to_one_torch],
    ),
    Misconception(
        "3.5",
        "softmax over axis 1",
        axis_one,
        "For a single sentence all is well; with leading axes the wrong things sum to 1. "
        "Count the axis from the other end.",
    ),
    Misconception(
        "3.5",
        "only itself",
        only_itself,
        "Each position attends to itself and to nothing else, so it learns nothing of the past. "
        "Nothing leaks, but that is not enough: what may a position use?",
    ),
    Misconception(
        "3.5",
        "equal shares",
        equal_shares,
        "The right cells are visible, but they all get the same weight, whatever q and k hold. "
        "Where do the scores come in?",
    ),
    Misconception(
        "3.5",
        "blocked scores set to zero",
        zero_for_blocked,
        "Later positions get weight, as if their score were 0. "
        "0 is an ordinary score, and exp(0) is 1. Which score leaves nothing after exp?",
        variants=[zero_for_blocked_torch],
    ),
    Misconception(
        "3.5",
        "weights and output in the wrong order",
        weights_first,
        "You return (weights, output). The task asks for the output first.",
    ),
    Misconception(
        "3.5",
        "scores returned as weights",
        scores_returned,
        "The output is right. But what you return as weights does not sum to 1 and holds "
        "-inf: is it from before or after softmax?",
    ),
    Misconception(
        "3.5",
        "weights from before the mask",
        weights_unmasked,
        "The output is right. But the weights that you return show the future: they are not those "
        "that made the output.",
    ),
    Misconception(
        "3.5",
        "all axes reversed",
        all_axes_reversed,
        "One sentence works, but with leading axes `.T` reverses all of them, not just the last "
        "two.",
    ),
    Misconception(
        "3.5",
        "hard-coded 5 by 5",
        five_tokens,
        "Five tokens work, other numbers do not. How many tokens there are is written in q.",
    ),
    Misconception(
        "3.5",
        "no maximum subtracted",
        overflowing,
        "Large scores give NaN: exp(1000) is inf, and inf / inf is NaN. "
        "What may be taken from all scores of a row without changing its weights?",
        variants=[overflowing_loops],
    ),
    Misconception(
        "3.5",
        "weights transposed",
        weights_of_the_wrong_side,
        "The weights are right, the output is not: it was summed down the columns of the weights, "
        "so each position collects from those who look at it. "
        "Row i of the output is a mean over the keys of row i.",
    ),
    Misconception(
        "3.5",
        "keys averaged instead of values",
        values_forgotten,
        "The weights are right. But what they average are the keys; what does a token hand over?",
    ),
    Misconception(
        "3.5",
        "one mask row for all queries",
        sees_first_only,
        "All positions see the first token only. Your mask has one row, stretched over all queries; "
        "how many rows should it have?",
    ),
    Misconception(
        "3.5",
        "input changed",
        argument_scaled,
        "The result is right, but afterwards the caller's q is another one. `/=` works in place.",
    ),
    Misconception(
        "3.5",
        "first sentence for all",
        batch_mixed,
        "All sentences get the output of the first. Leading axes should never meet.",
    ),
]

MISCONCEPTIONS: list[Misconception] = [*VALUES, *SOFTMAX, *ROWS, *ATTENTION]


def overflow_times_zero(q, k, v):
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    with np.errstate(all="ignore"):
        powers = np.exp(scores) * np.tri(scores.shape[-1])
        weights = powers / powers.sum(axis=-1, keepdims=True)
        return weights @ v, weights


MISCONCEPTIONS.append(
    Misconception(
        "3.5",
        "no maximum subtracted, masked by a product",
        overflow_times_zero,
        "Large scores give NaN: exp(1000) is inf, and inf / inf is NaN, as is inf * 0. "
        "What may be taken from all scores of a row without changing its weights?",
    )
)
