# %% [markdown]
# # 3. Mask before softmax: exercises
#
# Two rows by hand, two functions, and a row of four numbers that defeats a popular shortcut.
# Everywhere: rows are queries, columns are keys, and True in a mask means *may attend*.
# Array arguments are NumPy arrays; you may return NumPy arrays or torch tensors, as you like.
# Answers need NumPy or torch and nothing else, and they leave their arguments as they were.

# %%
import numpy as np
import torch

from course_lib.checks import ask, check

# %% [markdown]
# ## 3.1 "on" asks another question
#
# In the chapter, the query of "on" was [0, 0, 1, 1], and you found its weights and its output in the tables.
# Now let "on" ask with **[0, 0, 1, 2]**.
# The keys are those of the chapter, $d_k = 4$, and the mask is the causal one:
#
# | position | token | key |
# |---|---|---|
# | 0 | The | [0, 1, 0, 1] |
# | 1 | cat | [1, 0, 1, 0] |
# | 2 | sat | [1, 1, 0, 0] |
# | 3 | on | [0, 0, 1, 1] |
# | 4 | mat | [1, 0, 0.5, 0.5] |
#
# Compute by hand, with a pocket calculator for the powers of $e$, the weights that "on" now gives to The, cat, sat, on and mat, in this order.
#
# **What goes out:** `ON_WEIGHTS`, five numbers (a list or an array), right to four decimals.
#
# <details><summary>Hint 1</summary>
#
# Five steps, in the order of the chapter; the last of them, the sum of the values, is not asked for.
# Write down all five dot products first, also the one that you will not need.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The five dot products add up to 7.5.
# Powers that you may want: $e^{0.5} = 1.64872$, $e = 2.71828$, $e^{1.5} = 4.48169$, $e^2 = 7.38906$, $e^3 = 20.08554$.
# Not all of them are needed.
#
# </details>

# %% exercise="3.1" answer="ON_WEIGHTS" points=2 minutes=8 difficulty=1 path="stretch"
### BEGIN SOLUTION
# Dot products 2, 1, 0, 3, 1.5; divided by sqrt(4) = 2; "mat" comes later and is blocked.
powers = np.exp([1.0, 0.5, 0.0, 1.5])
ON_WEIGHTS = [*(powers / powers.sum()), 0.0]
### END SOLUTION

# %% tags=["check"]
check("3.1", ON_WEIGHTS)

# %% [markdown]
# ## 3.2 A masked row, without a calculator
#
# Five scaled scores of one query, and its row of a mask (not a causal one this time):
#
# | key | 0 | 1 | 2 | 3 | 4 |
# |---|---|---|---|---|---|
# | score | 1000 + ln 6 | 1000 + ln 3 | 1000 + ln 20 | 1000 | 1000 + ln 10 |
# | may attend | yes | yes | no | yes | no |
#
# A program that takes $e$ to the power of these numbers as they stand will fail.
# You can do it in your head.
#
# **What goes out:** `ROW`, the five weights (a list or an array), right to four decimals.
#
# <details><summary>Hint 1</summary>
#
# Which number may you subtract from every score of a row without changing its weights?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $e^{\ln 6} = 6$, and $e^0$ is not 0.
#
# </details>

# %% exercise="3.2" answer="ROW" points=2 minutes=6 difficulty=1 path="core"
### BEGIN SOLUTION
# Take 1000 from every score: the visible powers are 6, 3 and 1, and their sum is 10.
ROW = [6 / 10, 3 / 10, 0, 1 / 10, 0]
### END SOLUTION

# %% tags=["check"]
check("3.2", ROW)

# %% [markdown]
# ## 3.3 A softmax that knows about masks
#
# Write the softmax over the visible keys of each row, so that it holds in the corners too.
#
# **What comes in:** `scores`, a floating array (float32 or float64) of shape [..., T_q, T_k], or [T_k] for a single row; `mask`, a bool array that broadcasts to that shape, True = may attend.
# The mask is any mask, not only the causal one.
#
# **What goes out:** the weights, in the shape of `scores`, in its dtype or a wider one.
# Softmax runs along the last axis.
#
# The corners, all of which are checked:
#
# - A blocked cell gets exactly 0, and what stood in it makes no difference, be it huge, inf or NaN.
# - A row with nothing to attend to gets zeros, never NaN.
# - A NaN in a *visible* score must not be hidden: all visible weights of its row are NaN. (Its blocked cells may hold NaN or 0. Other rows are not affected.)
# - Visible scores may be any finite numbers of the dtype, so 1000 must not overflow, and a fixed fill like $-10^9$ is not low enough: rows of scores near $-10^{30}$ come too. The lowest number of the dtype or $-\infty$ will do.
# - A visible score of $-\infty$ gets weight 0, if a finite one is visible beside it.
#
# For example, scores [2, 1, 4, 3] with the last one blocked give [0.1142, 0.0420, 0.8438, 0].
#
# <details><summary>Hint 1</summary>
#
# Before softmax, each row subtracts its maximum.
# The maximum of what?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A row of nothing but $-\infty$ comes out of a plain softmax as NaN, all of it blocked.
# Which cells may you set to 0 at the end without hiding a NaN that must be seen?
#
# </details>


# %% exercise="3.3" answer="masked_softmax" points=4 minutes=15 difficulty=2 path="core"
def masked_softmax(scores, mask):
    """Softmax along the last axis over the cells where `mask` is True.

    scores: floating [..., T_q, T_k]; mask: bool, broadcasts to scores, True = may attend.
    Returns weights of the shape of scores; a row with nothing visible is all 0.
    """
    ### BEGIN SOLUTION
    scores, blocked = torch.tensor(scores), ~torch.tensor(mask)
    weights = scores.masked_fill(blocked, -torch.inf).softmax(dim=-1)  # NaN in an empty row
    return weights.masked_fill(blocked, 0.0)  # a NaN in a visible cell stays
    ### END SOLUTION


# %% tags=["check"]
check("3.3", masked_softmax)

# %% [markdown]
# ## 3.4 A row that renormalising gets wrong, silently
#
# Some code takes the softmax of the whole row, zeroes the blocked weights and divides by what is left.
# The cell below this text does so for four scores, of which the last is blocked, and shows a row on which it is right.
# The chapter breaks it in two ways: with NaN, which everybody notices, and with wrong numbers that look healthy.
# Find a row of the second kind, under tighter rules.
#
# **What goes out:** `SCORES`, four numbers (a list or an array), with
#
# - each of them between -60 and 60;
# - `renormalised(SCORES)` free of NaN and inf, adding up to 1 and 0 at the blocked cell, so that it looks healthy; and yet
# - at least one of its three visible weights wrong by **0.1 or more**.
#
# "Wrong" means against the true weights: softmax over the three visible scores alone, computed without rounding trouble.
# The mask is `VISIBLE`: the last cell is blocked.
# The check computes in float32 like the cell below, with every power of e rounded correctly.
#
# <details><summary>Hint 1</summary>
#
# The smallest positive float32 is about $1.4 \cdot 10^{-45}$.
# What does the visible part of the row look like just after the first softmax, if one score stands far above the others?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Too small a gap, and nothing is lost; too large, and everything is, which gives NaN.
# Between the two lies a narrow window.
# Put the blocked score at 60, print `renormalised` for a few rows, and let the visible scores differ.
#
# </details>

# %%
VISIBLE = np.array([True, True, True, False])


def renormalised(scores):
    """The shortcut, in float32: softmax of all four, blocked weight to 0, divided by the rest."""
    scores = np.asarray(scores, dtype=np.float32)
    p = np.exp(scores - scores.max())
    p = p / p.sum()
    p = np.where(VISIBLE, p, np.float32(0))
    return p / p.sum()


print(renormalised([2, 1, 4, 3]))

# %% exercise="3.4" answer="SCORES" points=3 minutes=12 difficulty=3 path="stretch"
### BEGIN SOLUTION
# After the first softmax the visible weights are e^-103, e^-104 and e^-105: the first is rounded to
# the smallest float32 there is, and the others to 0. Renormalised, the first takes all.
SCORES = [-43.0, -44.0, -45.0, 60.0]
### END SOLUTION

# %% tags=["check"]
check("3.4", SCORES)

# %% [markdown]
# ## 3.5 Causal attention
#
# All five steps as one function, for one sentence or any number of them at once.
#
# **What comes in:** `q` and `k`, floating arrays of shape [..., T, d_k], and `v` of shape [..., T, d_v], of one dtype (float32 or float64).
# There are as many queries as keys, so query i stands at position i.
# There may be no leading axes, or one, or several, and they may broadcast: q of shape [2, 3, T, d_k] with k and v of shape [2, 1, T, ...].
#
# **What goes out:** the pair `(output, weights)`, in this order: output [..., T, d_v] and weights [..., T, T], in the dtype of q or a wider one.
# Blocked weights are exactly 0.
# Scores are divided by $\sqrt{d_k}$; they may be in the thousands.
# In float32 we allow for rounding.
#
# <details><summary>Hint 1</summary>
#
# `k.T` reverses *all* axes.
# What you want is to swap the last two.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Here no row is empty, so a plain softmax along the last axis is enough, if it subtracts the largest score of each row first.
# A mask of shape [T, T] broadcasts over any leading axes.
#
# </details>

# %% exercise="3.5" answer="causal_attention" points=4 minutes=12 difficulty=2 path="core"
import math


def causal_attention(q, k, v):
    """Scaled dot-product attention in which position i attends to positions 0..i.

    q, k: [..., T, d_k]; v: [..., T, d_v]. Returns (output [..., T, d_v], weights [..., T, T]).
    """
    ### BEGIN SOLUTION
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # [..., T, T]
    position = np.arange(q.shape[-2])
    visible = position <= position[:, None]  # [T, T]: key not later than query
    scores = np.where(visible, scores, -np.inf)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = powers / powers.sum(axis=-1, keepdims=True)  # [..., T, T]
    return weights @ v, weights
    ### END SOLUTION


# %% tags=["check"]
check("3.5", causal_attention)

# %% [markdown]
# # Questions
#
# No points.
# Answer first, read the explanation then: each option has one.

# %% [markdown]
# ## 3.A Before, not after
#
# Why does $-\infty$ go in *before* softmax, rather than a zero after it?
#
# - **a** It makes no difference: a zero is a zero, and zeros are harmless.
# - **b** Because softmax divides by the sum of the whole row, so a blocked score must be out of that sum.
# - **c** Because softmax cannot give exact zeros in any other way.
# - **d** Because softmax is faster on a row with fewer finite entries.

# %% tags=["check"]
ask("3.A", "")  # your letter

# %% [markdown]
# ## 3.B After all
#
# A colleague masks after softmax, then divides each row by its new sum.
# In exact arithmetic, what is wrong with the weights?
#
# - **a** The future still leaks through the denominator.
# - **b** The rows do not sum to 1.
# - **c** Nothing.
# - **d** The last row is wrong, because it had nothing to mask.

# %% tags=["check"]
ask("3.B", "")  # your letter

# %% [markdown]
# ## 3.C Reading off the weights
#
# On the example, the output of "on" repeats its first four weights: [0.2350, 0.2350, 0.1425, 0.3875].
# The output of "mat" does not repeat its own.
# Why?
#
# - **a** Outputs are always equal to weights; the table rounds "mat" badly.
# - **b** "on" is masked and "mat" is not, and the mask copies weights to the output.
# - **c** The values of The, cat, sat and on are the four unit vectors; "mat" also hears itself, whose value is not.
# - **d** $d_k$ happens to be 4.

# %% tags=["check"]
ask("3.C", "")  # your letter

# %% [markdown]
# ## 3.D A stable number
#
# "`float('-inf')` works, but it is more numerically stable to use -1e9."
# What do you reply?
#
# - **a** True: arithmetic with infinities is undefined.
# - **b** True in float16, where range is scarce.
# - **c** False: $-\infty$ gives exact zeros at any scores in any dtype. -1e9 does not fit float16, and takes the weight where visible scores lie below it. A row with nothing visible needs care with either.
# - **d** False: -1e4 is the stable choice, it fits every dtype.

# %% tags=["check"]
ask("3.D", "")  # your letter

# %% [markdown]
# ## 3.E The square root
#
# Entries of queries and keys are independent, with mean 0 and variance 1, and $d_k = 64$.
# What does dividing by $\sqrt{d_k}$ do?
#
# - **a** It makes the rows of weights sum to 1.
# - **b** It brings the standard deviation of the scores from 8 back to 1, so that softmax does not start out nearly one-hot, with hardly any gradient.
# - **c** It brings the standard deviation of the scores from 64 back to 1.
# - **d** It prevents overflow in exp.

# %% tags=["check"]
ask("3.E", "")  # your letter

# %% [markdown]
# ## 3.F The same as without a mask
#
# For which tokens is causal attention the same as standard attention, whatever the numbers?
#
# - **a** The first.
# - **b** The last.
# - **c** Both ends.
# - **d** None: a mask always changes something.

# %% tags=["check"]
ask("3.F", "")  # your letter

# %% [markdown]
# ## 3.G A printed pattern
#
# A document prints a "learned attention pattern with the causal mask applied", whose rows sum to 0.4, 0.6, 0.65, 0.6 and 0.65.
# A friend says: that is mask-after-softmax.
# Which row refutes it?
#
# - **a** The first: with one visible cell it could only be 1.
# - **b** The last: there nothing is masked, so even with the mask in the wrong place it would sum to 1.
# - **c** The third, which has the most blocked and visible cells in balance.
# - **d** None; the friend is right.

# %% tags=["check"]
ask("3.G", "")  # your letter
