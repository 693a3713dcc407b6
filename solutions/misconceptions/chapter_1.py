"""Wrong answers to the exercises of chapter 1, and what a tutor says about them (teachers only)."""

import math

import numpy as np
import torch

from course_tools.exercise_bank.claims import Misconception

# --- 1.1 sequence_log_prob ---------------------------------------------------------------------


def _log_softmax(logits, axis=-1):
    with np.errstate(all="ignore"):
        shifted = logits - np.max(logits, axis=axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def no_shift(logits, tokens):
    log_p = _log_softmax(logits)
    return float(sum(log_p[t, tokens[t]] for t in range(1, len(tokens))))


def no_shift_torch(logits, tokens):
    scores = torch.from_numpy(logits[1:])
    return -torch.nn.functional.cross_entropy(
        scores, torch.from_numpy(tokens[1:]), reduction="sum"
    ).item()


def no_shift_at_all(logits, tokens):
    return float(_log_softmax(logits)[np.arange(len(tokens)), tokens].sum())


def shifted_backwards(logits, tokens):
    log_p = _log_softmax(logits)
    return float(sum(log_p[t, tokens[t - 1]] for t in range(1, len(tokens))))


def mean_not_sum(logits, tokens):
    n = max(len(tokens) - 1, 1)
    log_p = _log_softmax(logits[:-1])
    return float(log_p[np.arange(len(tokens) - 1), tokens[1:]].sum() / n)


def mean_torch(logits, tokens):
    if len(tokens) == 1:
        return 0.0
    return -torch.nn.functional.cross_entropy(
        torch.from_numpy(logits[:-1]), torch.from_numpy(tokens[1:])
    ).item()


def loss_not_log_prob(logits, tokens):
    log_p = _log_softmax(logits[:-1])
    return -float(log_p[np.arange(len(tokens) - 1), tokens[1:]].sum())


def probability_not_log(logits, tokens):
    log_p = _log_softmax(logits[:-1])
    return float(np.exp(log_p[np.arange(len(tokens) - 1), tokens[1:]].sum()))


def logits_summed(logits, tokens):
    return float(logits[np.arange(len(tokens) - 1), tokens[1:]].sum())


def logits_summed_loop(logits, tokens):
    total = 0.0
    for position, word in enumerate(tokens[1:]):
        total = total + logits[position][word]
    return total


def bits(logits, tokens):
    log_p = _log_softmax(logits[:-1])
    return float(log_p[np.arange(len(tokens) - 1), tokens[1:]].sum() / math.log(2))


def wrong_axis(logits, tokens):
    log_p = _log_softmax(logits[:-1], axis=0) if len(tokens) > 1 else logits[:-1]
    return float(log_p[np.arange(len(tokens) - 1), tokens[1:]].sum())


def first_word_too(logits, tokens):
    """Adds a factor for word 0 from the first row."""
    log_p = _log_softmax(logits)
    return float(log_p[0, tokens[0]] + sum(log_p[t - 1, tokens[t]] for t in range(1, len(tokens))))


def overflow(logits, tokens):
    with np.errstate(all="ignore"):
        p = np.exp(logits[:-1])
        p = p / p.sum(axis=1, keepdims=True)
        return float(np.log(p[np.arange(len(tokens) - 1), tokens[1:]]).sum())


def overflow_loop(logits, tokens):
    total = 0.0
    with np.errstate(all="ignore"):
        for t in range(len(tokens) - 1):
            powers = [np.exp(s) for s in logits[t]]
            total += np.log(powers[tokens[t + 1]] / sum(powers))
    return total


# --- 1.2 shift -----------------------------------------------------------------------------------


def identical(tokens):
    return tokens[..., :-1], tokens[..., :-1]


def reversed_shift(tokens):
    return tokens[..., 1:], tokens[..., :-1]


def reversed_shift_torch(tokens):
    words = torch.as_tensor(tokens)
    return words.narrow(-1, 1, words.shape[-1] - 1), words.narrow(-1, 0, words.shape[-1] - 1)


def first_axis(tokens):
    return tokens[:-1], tokens[1:]


def rolled(tokens):
    if isinstance(tokens, torch.Tensor):
        return tokens, torch.roll(tokens, -1, dims=-1)
    return tokens, np.roll(tokens, -1, axis=-1)


def rolled_by_hand(tokens):
    join = torch.cat if isinstance(tokens, torch.Tensor) else np.concatenate
    return tokens, join((tokens[..., 1:], tokens[..., :1]), -1)


def shifted_twice(tokens):
    return tokens[..., :-2], tokens[..., 2:]


def lengths_differ(tokens):
    return tokens, tokens[..., 1:]


def first_word_kept(tokens):
    return tokens[..., :-1], tokens


# --- 1.3 influence -------------------------------------------------------------------------------

TRIES = 60


def _measured(fn, x, draw, moved, tries=TRIES):
    rng = np.random.default_rng(3)
    before = fn(x)
    found = np.zeros((len(x), len(x)), dtype=bool)
    for j in range(len(x)):
        for _ in range(tries):
            changed = x.copy()
            changed[j] = draw(rng, x[j])
            found[:, j] |= moved(fn(changed), before)
    return found


def _fresh(rng, row):
    return rng.normal(size=row.shape)


def _apart(after, before):
    return (np.abs(after - before) > 1e-9).any(axis=1)


def transposed_influence(fn, x):
    return _measured(fn, x, _fresh, _apart).T


def transposed_loop(fn, x):
    generator = torch.Generator().manual_seed(1)
    base, n = fn(x), len(x)
    out = [[False] * n for _ in range(n)]
    for source in range(n):
        for _ in range(40):
            y = x.copy()
            y[source] = torch.randn(x.shape[1], generator=generator).double().numpy()
            z = fn(y)
            for target in range(n):
                if max(abs(z[target] - base[target])) > 1e-8:
                    out[source][target] = True
    return np.array(out)


def changes_pile_up(fn, x):
    rng = np.random.default_rng(3)
    before, changed = fn(x), x.copy()
    found = np.zeros((len(x), len(x)), dtype=bool)
    for j in range(len(x)):
        for _ in range(TRIES):
            changed[j] = rng.normal(size=x.shape[1])
            found[:, j] |= _apart(fn(changed), before)
    return found


def writes_into_x(fn, x):
    rng = np.random.default_rng(3)
    before = fn(x)
    found = np.zeros((len(x), len(x)), dtype=bool)
    for j in range(len(x)):
        for _ in range(TRIES):
            x[j] = rng.normal(size=x.shape[1])
            found[:, j] |= _apart(fn(x), before)
    return found


def too_few_tries(fn, x):
    return _measured(fn, x, _fresh, _apart, tries=1)


def too_few_tries_torch(fn, x):
    base = torch.as_tensor(fn(x))
    rows = []
    for j in range(len(x)):
        y = torch.as_tensor(x.copy())
        y[j] = torch.randn(x.shape[1], generator=torch.Generator().manual_seed(j))
        rows.append(((torch.as_tensor(fn(y.numpy())) - base).abs() > 1e-9).any(dim=1))
    return torch.stack(rows, dim=1)


def small_steps(fn, x):
    return _measured(fn, x, lambda rng, row: row + 1e-3 * rng.normal(size=row.shape), _apart)


def small_steps_fixed(fn, x):
    """Finite differences."""
    base, n = fn(x), len(x)
    found = np.zeros((n, n), dtype=bool)
    for j in range(n):
        for c in range(x.shape[1]):
            nudged = x.copy()
            nudged[j, c] += 1e-4
            found[:, j] |= np.abs((fn(nudged) - base) / 1e-4).max(axis=1) > 1e-6
    return found


def zeroing(fn, x):
    return _measured(fn, x, lambda rng, row: np.zeros_like(row), _apart, tries=1)


def zeroing_loop(fn, x):
    columns = []
    for j in range(len(x)):
        blank = np.array([row * (i != j) for i, row in enumerate(x)])
        columns.append([bool(np.any(a != b)) for a, b in zip(fn(blank), fn(x), strict=True)])
    return np.array(columns).T


def sums_compared(fn, x):
    return _measured(fn, x, _fresh, lambda a, b: np.abs(a.sum(axis=1) - b.sum(axis=1)) > 1e-9)


def default_allclose(fn, x):
    def moved(after, before):
        return ~np.isclose(after, before).all(axis=1)

    return _measured(fn, x, _fresh, moved)


def exact_comparison(fn, x):
    return _measured(fn, x, _fresh, lambda a, b: (a != b).any(axis=1))


def assumed_causal(fn, x):
    return _measured(fn, x, _fresh, _apart) & np.tri(len(x), dtype=bool)


def triangle(fn, x):
    return np.tri(len(x), dtype=bool)


def diagonal_assumed(fn, x):
    return _measured(fn, x, _fresh, _apart) | np.eye(len(x), dtype=bool)


def future_only(fn, x):
    return np.triu(_measured(fn, x, _fresh, _apart), 1)


def first_number_changed(fn, x):
    def draw(rng, row):
        row = row.copy()
        row[0] = rng.normal()
        return row

    return _measured(fn, x, draw, _apart)


def same_number_added(fn, x):
    return _measured(fn, x, lambda rng, row: row + 2 * rng.normal(), _apart)


def first_output_number(fn, x):
    return _measured(fn, x, _fresh, lambda a, b: np.abs(a[:, 0] - b[:, 0]) > 1e-9)


def all_numbers_must_move(fn, x):
    return _measured(fn, x, _fresh, lambda a, b: (np.abs(a - b) > 1e-9).all(axis=1))


# --- 1.4 entropy_floor ---------------------------------------------------------------------------


def _entropy(p, log=np.log):
    return -(p * log(np.where(p > 0, p, 1))).sum(axis=-1)


def _floor(transition, start, length, log=np.log):
    total, p = _entropy(start, log), start
    for _ in range(length - 1):
        total = total + p @ _entropy(transition, log)
        p = p @ transition
    return total


def in_bits(transition, start, length):
    return float(_floor(transition, start, length, np.log2) / length)


def total_not_mean(transition, start, length):
    return float(_floor(transition, start, length))


def first_word_given(transition, start, length):
    """The floor of a model that is given the first word."""
    return float((_floor(transition, start, length) - _entropy(start)) / max(length - 1, 1))


def first_word_free(transition, start, length):
    return float((_floor(transition, start, length) - _entropy(start)) / length)


def one_word_too_many(transition, start, length):
    return float(_floor(transition, start, length + 1) / (length + 1))


def pasts_ignored(transition, start, length):
    """Entropy of each word on its own, as if nothing before it were known."""
    total, p = 0.0, start
    for _ in range(length):
        total += _entropy(p)
        p = p @ transition
    return float(total / length)


def pasts_ignored_torch(transition, start, length):
    p, step = torch.as_tensor(start), torch.as_tensor(transition)
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(length):
        total -= torch.special.xlogy(p, p).sum()
        p = p @ step
    return (total / length).item()


def rows_equally_often(transition, start, length):
    rest = (length - 1) * _entropy(transition).mean()
    return float((_entropy(start) + rest) / length)


def always_the_start(transition, start, length):
    """Weights the rows by `start` at every position."""
    return float((_entropy(start) + (length - 1) * (start @ _entropy(transition))) / length)


def always_the_start_loop(transition, start, length):
    total = _entropy(start)
    for _ in range(1, length):
        for a, weight in enumerate(start):
            for b in range(len(start)):
                if transition[a, b] > 0:
                    total -= weight * transition[a, b] * math.log(transition[a, b])
    return total / length


def in_the_long_run(transition, start, length):
    """The entropy rate: what is left for a text without end."""
    p = start
    average = np.zeros_like(start)
    for _ in range(4000):
        average += p / 4000
        p = p @ transition
    return float(average @ _entropy(transition))


def columns_for_rows(transition, start, length):
    total, p = _entropy(start), start
    for _ in range(length - 1):
        total += p @ _entropy(transition.T)
        p = transition @ p
    return float(total / length)


def stepped_backwards(transition, start, length):
    total, p = _entropy(start), start
    for _ in range(length - 1):
        total += p @ _entropy(transition)
        p = transition @ p
    return float(total / length)


def stepped_too_early(transition, start, length):
    total, p = _entropy(start), start
    for _ in range(length - 1):
        p = p @ transition
        total += p @ _entropy(transition)
    return float(total / length)


def not_a_number(transition, start, length):
    def entropy(p):
        with np.errstate(all="ignore"):
            return -(p * np.log(p)).sum(axis=-1)

    total, p = entropy(start), start
    for _ in range(length - 1):
        total += p @ entropy(transition)
        p = p @ transition
    return float(total / length)


def not_a_number_torch(transition, start, length):
    p, step = torch.tensor(start), torch.tensor(transition)
    total = -(p * p.log()).sum()
    for _ in range(length - 1):
        total -= (p * (step * step.log()).sum(dim=1)).sum()
        p = p @ step
    return (total / length).item()


MISCONCEPTIONS = [
    # 1.1
    Misconception("1.1", "no shift", no_shift,
        "You ask row t about word t, a word that the model had read already when it gave that row. Which word is row t an opinion about?",
        variants=[no_shift_torch]),
    Misconception("1.1", "no shift, first word included", no_shift_at_all,
        "You ask every row about the word at its own position, and you count as many factors as there are words. Row t is an opinion about a later word, and the first word is given: how many factors are left?"),
    Misconception("1.1", "shifted backwards", shifted_backwards,
        "You ask row t about the word before it. That one lies in the past of the row; a model predicts the other way."),
    Misconception("1.1", "mean instead of sum", mean_not_sum,
        "That is the mean log-probability of a word, as a training loss reports it (with its sign turned). The probability of a text is a product: what does the logarithm make of a product?",
        variants=[mean_torch]),
    Misconception("1.1", "loss instead of log-probability", loss_not_log_prob,
        "The size is right, the sign is not: a loss is *minus* the log-probability. A probability is at most 1, so which sign does its logarithm have?"),
    Misconception("1.1", "probability instead of its logarithm", probability_not_log,
        "That is the probability itself. For a text of a thousand words it would round to 0, which is why the exercise asks for its logarithm."),
    Misconception("1.1", "logits not normalised", logits_summed,
        "You add up logits. They are scores, not log-probabilities: add 1 to all of a row and no probability changes, but your answer does. What is missing between a score and a log-probability?",
        variants=[logits_summed_loop]),
    Misconception("1.1", "bits for nats", bits,
        "You measure in bits. The exercise asks for the natural logarithm."),
    Misconception("1.1", "softmax over the wrong axis", wrong_axis,
        "Your softmax compares the scores of one word at different positions. At each position, different *words* compete: along which axis do the probabilities add up to 1?"),
    Misconception("1.1", "first word counted", first_word_too,
        "You count a factor for word 0 as well. Nothing has been read before it, so no row is about it, and the task says that it is given."),
    Misconception("1.1", "exp overflows", overflow,
        "This works for small scores, but exp(1000) is infinite in floating point, and infinity divided by infinity is NaN. A softmax does not change if you subtract one number from all scores of its row. Which number keeps exp small?",
        variants=[overflow_loop]),
    # 1.2
    Misconception("1.2", "targets equal inputs", identical,
        "Inputs and targets are the same words. A model can satisfy that by copying what it reads; what should it predict instead?"),
    Misconception("1.2", "shifted backwards", reversed_shift,
        "Each target is the word *before* its input. The model would be trained to say what it has read a moment ago.",
        variants=[reversed_shift_torch]),
    Misconception("1.2", "shifted along the first axis", first_axis,
        "For a single text this is right. In a batch [B, T], however, the first axis counts texts: you drop whole texts and pair each with its neighbour. Which axis is time?"),
    Misconception("1.2", "rolled around", rolled,
        "Your last target is the first word of the text, carried round the corner. Nobody knows the word after the last one. How many predictions can a text of T words check?",
        variants=[rolled_by_hand]),
    Misconception("1.2", "shifted twice", shifted_twice,
        "Each target is two words after its input. This happens in practice when the data are shifted and the loss shifts them once more; here the loss does not."),
    Misconception("1.2", "last word still an input", lengths_differ,
        "The last word is still among your inputs, but no target belongs to it, so the two do not match in length."),
    Misconception("1.2", "first word still a target", first_word_kept,
        "The first word is still among your targets, but nothing comes before it from which it could be predicted; the two do not match in length."),
    # 1.3
    Misconception("1.3", "transposed", transposed_influence,
        "Your matrix has inputs as rows. The task puts outputs into rows: row i says what output i reads.",
        variants=[transposed_loop]),
    Misconception("1.3", "changes pile up", changes_pile_up,
        "When you come to a position, the positions before it are still changed from earlier tries. So outputs move that do not depend on this one. What should each try start from?"),
    Misconception("1.3", "input overwritten", writes_into_x,
        "You write into x itself. The caller's data are gone, and every later try starts from an x that is changed already."),
    Misconception("1.3", "too few tries", too_few_tries,
        "One try a position is not enough: the promise says that a dependence shows in a third of the tries, perhaps not more. After n tries, how likely is it that you have missed one?",
        variants=[too_few_tries_torch]),
    Misconception("1.3", "steps too small", small_steps,
        "You nudge the inputs a little. A switch that is far from its threshold does not notice, and a saturated function does not either. The promise is about fresh random numbers, not about small steps.",
        variants=[small_steps_fixed]),
    Misconception("1.3", "set to zero", zeroing,
        "You replace a position by zeros. What if it was zero before, or if the function does the same with zero as with what was there? One special value is a poor witness.",
        variants=[zeroing_loop]),
    Misconception("1.3", "sums compared", sums_compared,
        "You compare the sum of each output's numbers. One of them can rise by as much as another falls, and probabilities always do: then the sum stays where it was."),
    Misconception("1.3", "threshold too coarse", default_allclose,
        "A weak dependence moves an output by a millionth, and the usual tolerances of np.isclose or np.allclose call that equal. Which size does the promise name?"),
    Misconception("1.3", "rounding taken for influence", exact_comparison,
        "You call any difference an influence, also one in the sixteenth digit. Arithmetic rounds; the promise says up to which size."),
    Misconception("1.3", "future assumed blocked", assumed_causal,
        "Your answer has no True above the diagonal, whatever the function does. You are to find out whether it looks ahead, not to assume that it does not."),
    Misconception("1.3", "hard-coded triangle", triangle,
        "You return the same triangle for every function. That is what an honest causal model would show; this function is another one, and only trying tells."),
    Misconception("1.3", "own position assumed", diagonal_assumed,
        "Your diagonal is always True. A function that only looks back by one step does not read its own position; try it like all the others."),
    Misconception("1.3", "past left out", future_only,
        "You look for leaks only: everything on and below the diagonal is False. The task asks for all dependences, allowed ones too."),
    Misconception("1.3", "one number of the position changed", first_number_changed,
        "You change only one of the C numbers of a position. A function may read another one."),
    Misconception("1.3", "same number added to all", same_number_added,
        "You add the same number to everything at a position. A function of differences does not notice that; draw each number afresh."),
    Misconception("1.3", "one output number compared", first_output_number,
        "You look at one of the D numbers of each output. The influence may show in another."),
    Misconception("1.3", "all output numbers must move", all_numbers_must_move,
        "You ask whether *all* numbers of an output move. One that moves is enough to betray the influence."),
    # 1.4
    Misconception("1.4", "bits for nats", in_bits,
        "You measure in bits. Nats need the natural logarithm."),
    Misconception("1.4", "total instead of mean", total_not_mean,
        "That is the entropy of the whole text. The task asks for it a word: divided by what?"),
    Misconception("1.4", "first word not predicted", first_word_given,
        "This is the floor of a model that is given the first word, as in the lesson. Here that word has to be predicted too, from nothing."),
    Misconception("1.4", "first word for free", first_word_free,
        "You divide by all words, but the first one costs nothing in your sum. What is the uncertainty before anything has been read?"),
    Misconception("1.4", "one word too many", one_word_too_many,
        "You count one position more than the text has. Check length = 1: how many words are predicted, and from what?"),
    Misconception("1.4", "past ignored", pasts_ignored,
        "You take the entropy of each word by itself, as if the reader did not know the word before. A model that keeps the contract may use its past: how uncertain is the next word *given* the last?",
        variants=[pasts_ignored_torch]),
    Misconception("1.4", "all rows equally often", rows_equally_often,
        "You average the rows of the table with equal weights. Some words occur more often than others, so their rows count more."),
    Misconception("1.4", "start used at every position", always_the_start,
        "You weight the rows by `start` at every position. That is right for the second word; where is the text after two steps?",
        variants=[always_the_start_loop]),
    Misconception("1.4", "long run instead of this length", in_the_long_run,
        "That is the entropy rate, for a text without end. This text begins with `start` and has `length` words, so the first positions count."),
    Misconception("1.4", "rows and columns swapped", columns_for_rows,
        "You read the table the other way round. transition[a, b] is the probability of b *after* a: which of the two adds up to 1, a row or a column?"),
    Misconception("1.4", "stepped backwards", stepped_backwards,
        "Texts of one or two words are right, longer ones are not: you move the distribution on with `transition @ p`, which sums over the *next* word. Which sum gives the probability of b after all possible a?"),
    Misconception("1.4", "one step too early", stepped_too_early,
        "You move the distribution on before you use it. The second word's uncertainty depends on where the *first* word is."),
    Misconception("1.4", "NaN from 0 log 0", not_a_number,
        "Your sum contains 0 times log 0, which NumPy makes NaN. A word that never comes adds nothing to the uncertainty: count it as 0.",
        variants=[not_a_number_torch]),
]  # fmt: skip
