# %% [markdown]
# # 1. The contract: exercises
#
# [Chapter 1](../notebooks/01_contract.ipynb) in your own code: score a text, shift it, find out what a function reads, and compute the floor of a language.
# Run a check as often as you like: it explains what it sees, and nothing is counted but your last answer.
# Your answers may use NumPy and torch, but nothing from `course_lib`.

# %%
import numpy as np

from course_lib.checks import ask, check

# %% [markdown]
# ## 1.1 How likely is this text?
#
# A model has read a text of $T$ words and gives, at each position, one number for each of the $V$ words of its vocabulary: the *logits*, scores that become probabilities through softmax.
# The row at position $t$ is its opinion about the word at position $t + 1$.
#
# Write `sequence_log_prob(logits, tokens)`: the natural logarithm of the probability of words 1, 2, ..., $T - 1$, given word 0.
#
# - `logits`: NumPy float64, shape [T, V], with T at least 1. They may be large (1000 and more), and an entry may be -inf (a word with probability 0).
# - `tokens`: NumPy integers, shape [T], each from 0 to V - 1.
# - returns one float. A text of one word has nothing to predict: 0.0. A text with an impossible word: -inf.
#
# The last row of the logits is about a word that is not there: it must not matter, whatever it holds (the checks put NaN there).
#
# <details><summary>Hint 1</summary>
#
# By the chain rule, the probability of the text is a product of one factor for each predicted word, so its logarithm is a sum.
# Which row of the logits knows about word 3?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The logarithm of a softmax is `score - log(sum(exp(scores)))`.
# It does not change if you subtract the same number from all scores of a row first; subtract the largest, and `exp` cannot overflow.
#
# </details>


# %% exercise="1.1" answer="sequence_log_prob" points=2 minutes=10 difficulty=2 path="stretch"
def sequence_log_prob(logits, tokens):
    """Log-probability of tokens[1:], given tokens[0].

    logits: float64 [T, V], row t is about word t + 1; tokens: integers [T]. Returns a float.
    """
    ### BEGIN SOLUTION
    rows, words = logits[:-1], tokens[1:]  # row t is about word t + 1
    scores = rows[np.arange(len(words)), words]
    return (scores - np.logaddexp.reduce(rows.T)).sum()  # log(sum(exp(row))), without overflow
    ### END SOLUTION


# %% tags=["check"]
check("1.1", sequence_log_prob)

# %% [markdown]
# ## 1.2 Inputs and targets
#
# Write `shift(tokens)`, which makes the inputs and the targets of next-word prediction out of texts.
#
# - `tokens`: integers, a NumPy array or a torch tensor, shape [..., T]: one text, a batch [B, T] of texts, or more axes in front. T is at least 1.
# - returns `(inputs, targets)`, both integers of shape [..., T - 1], NumPy or torch: at every position, the target is the word that follows the input in the same text.
#
# The loss will compare output $t$ of the model with target $t$, without any further shift.
# Leave `tokens` as it was.
#
# <details><summary>Hint 1</summary>
#
# Take "The cat sat on" and write inputs and targets below each other.
# Which word is never an input, and which is never a target?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Slices can name an axis from the end: `a[..., 2:]` cuts along the last one, however many there are.
#
# </details>


# %% exercise="1.2" answer="shift" points=1 minutes=5 difficulty=1 path="core"
def shift(tokens):
    """Inputs and targets of next-word prediction: [..., T] -> two of [..., T - 1]."""
    ### BEGIN SOLUTION
    return tokens[..., :-1], tokens[..., 1:]
    ### END SOLUTION


# %% tags=["check"]
check("1.2", shift)

# %% [markdown]
# ## 1.3 Who reads whom?
#
# You are given a function of a sequence, and you cannot look inside.
# Find out which outputs depend on which inputs, by trying.
#
# Write `influence(fn, x)`.
#
# - `x`: NumPy float64, shape [T, C]: T positions with C numbers each.
# - `fn(x)`: takes such an array and returns float64 of shape [T, D]. It gives the same output for the same input.
# - returns bool, shape [T, T]: row $i$, column $j$ is True if output $i$ depends on input $j$.
#
# A test by trying needs a promise, and here is yours:
#
# - If output $i$ does **not** depend on input $j$, then a change of `x[j]` moves it by less than $10^{-12}$: rounding.
# - If it **does**, then each time that you replace the whole row `x[j]` by fresh random numbers (normal, mean 0, standard deviation 1), some entry of output $i$ moves by more than $10^{-6}$ with a probability of at least 1/3.
#
# Nothing else is promised.
# The dependence may be weak, or sit in one number of many; it may be a switch that does not notice small steps; outputs may move while their sum stays; and a position need not depend on itself.
# Do not change `x`, and call `fn` at most 10,000 times.
#
# <details><summary>Hint 1</summary>
#
# Change one position, leave all others as they were, and compare all outputs with those of the unchanged `x`.
# That answers one whole column.
# How sure are you after one try?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# One try misses a dependence with a probability of at most 2/3, and $n$ tries with $(2/3)^n$.
# With $n = 10$ that is 1.7%, for *each* of the pairs.
# Any threshold between $10^{-12}$ and $10^{-6}$ tells rounding from influence.
#
# </details>


# %% exercise="1.3" answer="influence" points=4 minutes=20 difficulty=3 path="core"
def influence(fn, x):
    """Which outputs of fn depend on which inputs.

    fn: float64 [T, C] -> [T, D]; x: float64 [T, C]. Returns bool [T, T]: row i, column j is True
    if output i depends on input j.
    """
    ### BEGIN SOLUTION
    columns = []
    for j in range(len(x)):
        outputs = []
        for _ in range(100):  # (2/3)**100 is nothing
            changed = x.copy()
            changed[j] = np.random.standard_normal(x[j].shape)
            outputs.append(fn(changed))
        moved = np.ptp(outputs, axis=0)  # [T, D]: how far each number went
        columns.append([any(~np.isclose(output, b=0)) for output in moved])
    return np.transpose(columns)
    ### END SOLUTION


# %% tags=["check"]
check("1.3", influence)

# %% [markdown]
# ## 1.4 The floor of a language
#
# In this language the next word depends on the last word only.
# There are $S$ words; the first word of a text is drawn from the probabilities `start`, and after word $a$ comes word $b$ with probability `transition[a, b]`.
#
# Write `entropy_floor(transition, start, length)`: the least expected loss, in nats a word, that any model that keeps the contract can reach on texts of `length` words, if **all** of their words are predicted, the first one included (from nothing).
#
# - `transition`: NumPy float64, shape [S, S]; each row adds up to 1; entries may be 0.
# - `start`: NumPy float64, shape [S]; adds up to 1; entries may be 0.
# - `length`: an integer of at least 1.
# - returns one float, at least 0: the mean over the `length` positions.
#
# Compute it exactly; drawing samples would not be close enough for the checks.
#
# <details><summary>Hint 1</summary>
#
# For one position: somebody who knows the words so far is uncertain by the entropy of one row of `transition`.
# Which row, and how often is it that one?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# If `p` holds the probabilities of the words at position $t$, then `p @ transition` holds those at $t + 1$.
# And $0 \log 0$ counts as 0 in an entropy, while NumPy says NaN.
#
# </details>


# %% exercise="1.4" answer="entropy_floor" points=3 minutes=15 difficulty=3 path="stretch"
def entropy_floor(transition, start, length):
    """The entropy of a text, in nats a word.

    transition: float64 [S, S]; start: float64 [S]; length: words a text. Returns a float.
    """

    ### BEGIN SOLUTION
    def entropy(p):
        """Entropy of each row; 0 log 0 is 0."""
        return -(p * np.log(p + (p == 0))).sum(axis=-1)

    total, p = entropy(start), start
    for _ in range(length - 1):
        total += (p * entropy(transition)).sum()
        p = p @ transition
    return total / length
    ### END SOLUTION


# %% tags=["check"]
check("1.4", entropy_floor)

# %% [markdown]
# ## 1.A The contract in one sentence
#
# Which sentence states the contract of a causal language model?
#
# - **a.** Each token may use all tokens, but later ones with small weights.
# - **b.** Token $t$ may use only tokens up to and including position $t$.
# - **c.** Token $t$ may use only tokens before position $t$, and never itself.
# - **d.** The loss of each position may be computed only after that of the position before it.

# %% tags=["check"]
ask("1.A", "")  # your letter

# %% [markdown]
# ## 1.B What if "The" could see "cat"?
#
# In the example of the course, the causal output at "The" is [1, 0, 0, 0]: it has seen itself only.
# Without the mask it is [0.2254, 0.4135, 0.2964, 0.2964], so "cat" and everything after it has gone in.
# A language model is trained that way, without the mask. What follows?
#
# - **a.** Nothing much: "The" simply gets richer context, and predicts "cat" a little better, also when the model writes.
# - **b.** The training loss gets worse, because the future is noise at that position.
# - **c.** Position 0 learns to copy the word on its right; the loss falls, and what the model has learnt is of no use when that word has not been written yet.
# - **d.** The gradient can no longer be computed, because the outputs depend on each other in a circle.

# %% tags=["check"]
ask("1.B", "")  # your letter

# %% [markdown]
# ## 1.C The mask at inference
#
# "At inference the future does not exist yet, so the mask is not needed."
# A model of several layers generates by feeding the whole text so far again for each new word, without a cache.
# Is the sentence true for it?
#
# - **a.** Yes: no position can see a word that has not been written.
# - **b.** No: earlier positions would see words that came after them, their states would change as the text grows, and the next layer of the last position reads those states.
# - **c.** No: without the mask the last position sees words that it must not see.
# - **d.** Yes, because dropout is off at inference.

# %% tags=["check"]
ask("1.C", "")  # your letter

# %% [markdown]
# ## 1.D Teacher forcing and free running
#
# A model gives 5% to a wrong word at position 3.
# What is the difference between training with teacher forcing and writing freely?
#
# - **a.** In training, position 4 reads the true word 3, whatever the model said; when writing, it reads the word that was drawn, wrong ones included.
# - **b.** In training, the model reads its own predictions; when writing, it reads the true text.
# - **c.** There is none, if the causal mask is applied both times.
# - **d.** In training, the positions are computed one after another; when writing, all at once.

# %% tags=["check"]
ask("1.D", "")  # your letter

# %% [markdown]
# ## 1.E Encoder and decoder
#
# "The causal mask is the only difference between BERT and GPT."
# What is the most important thing that this sentence leaves out?
#
# - **a.** BERT has no attention.
# - **b.** They are trained on different tasks: BERT fills in hidden words from both sides, and a model without a mask that predicts the *next* word would just copy it.
# - **c.** BERT masks too, but the lower triangle.
# - **d.** GPT has cross-attention, which needs a mask of its own.

# %% tags=["check"]
ask("1.E", "")  # your letter

# %% [markdown]
# ## 1.F Too good to be true
#
# Your model's held-out loss, on fresh texts, is 0.30 nats below the exact entropy of the language, with a standard error of 0.01.
# What do you conclude?
#
# - **a.** The model is very good: it has understood the language better than entropy does.
# - **b.** It has overfitted.
# - **c.** Bad luck in the held-out texts: such things happen.
# - **d.** Something is broken: most likely some position sees the word that it must predict.

# %% tags=["check"]
ask("1.F", "")  # your letter
