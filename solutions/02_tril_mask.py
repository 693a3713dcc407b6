# %% [markdown]
# # 2. The tril mask: exercises
#
# [Chapter 2](../notebooks/02_tril_mask.ipynb) in your own code.
# One agreement holds in all exercises: rows are queries, columns are keys, and True means *may attend*.
# Run a check as often as you like: it explains what it sees, and nothing is counted but your last answer.
# Your answers may use NumPy and torch, but nothing from `course_lib`.

# %%
import numpy as np
import torch

from course_lib.checks import ask, check

# %% [markdown]
# ## 2.1 From memory
#
# Write the causal mask for five tokens (The, cat, sat, on, mat) as `MATRIX`, digit by digit, without looking it up and without a function that makes triangles.
#
# - `MATRIX`: five rows of five numbers, 1 = may attend, 0 = blocked; a list of lists, a NumPy array or a torch tensor, of integers or booleans.
#
# <details><summary>Hint 1</summary>
#
# Go row by row, and ask of each token: which tokens of the sentence have been said when it is its turn?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# You can count what you have written: "mat" comes last, so how many cells of its row are open?
# And "The"?
#
# </details>

# %% exercise="2.1" answer="MATRIX" points=1 minutes=3 difficulty=1 path="stretch"
### BEGIN SOLUTION
MATRIX = [
    [1, 0, 0, 0, 0],
    [1, 1, 0, 0, 0],
    [1, 1, 1, 0, 0],
    [1, 1, 1, 1, 0],
    [1, 1, 1, 1, 1],
]
### END SOLUTION

# %% tags=["check"]
check("2.1", MATRIX)

# %% [markdown]
# ## 2.2 For any number of tokens
#
# Write `causal_mask(n)`.
#
# - `n`: an integer of at least 0.
# - returns booleans of shape [n, n] (NumPy or torch): True = may attend. For `n = 0` that is shape [0, 0].
#
# The type matters: the functions that take masks read True and False, and some of them read 1.0 and 0.0 as numbers to be *added* to the scores.
#
# <details><summary>Hint 1</summary>
#
# Chapter 2 has four ways. Take the one that you understand best, and look at `n = 2` on paper.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Whatever you build, look at its `dtype`, and at row 0: the first token has to see something, and not the second token.
#
# </details>


# %% exercise="2.2" answer="causal_mask" points=2 minutes=5 difficulty=1 path="core"
def causal_mask(n):
    """The causal mask of n tokens: bool [n, n], True = may attend."""
    ### BEGIN SOLUTION
    positions = np.arange(n)
    return positions <= positions[:, None]  # keys along the columns, queries along the rows
    ### END SOLUTION


# %% tags=["check"]
check("2.2", causal_mask)

# %% [markdown]
# ## 2.3 At any positions
#
# The queries and keys that meet need not be all tokens of a text, nor stand in order.
# A cache has keys that were computed long ago, one that works as a ring has them in turned order, and a batch of questions may skip positions.
# What decides is always the position in the text.
#
# Write `causal_mask_at(q_pos, k_pos)`.
#
# - `q_pos`: NumPy integers, shape [Tq]: the position in the text of each query. Any integers of at least 0, in any order, gaps and repeats allowed.
# - `k_pos`: NumPy integers, shape [Tk]: the position of each key, likewise.
# - returns booleans of shape [Tq, Tk] (NumPy or torch): True where the query may attend to the key. Tq and Tk may be 0.
#
# For example, the query at position 4 may attend to every one of the keys at positions 4, 0, 3, and the query at position 0 to the second of them only.
#
# <details><summary>Hint 1</summary>
#
# Take one query and one key. You know their positions. May the query attend?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# An array of shape [Tq, 1] meets one of shape [1, Tk], and NumPy compares every pair.
#
# </details>


# %% exercise="2.3" answer="causal_mask_at" points=2 minutes=6 difficulty=2 path="core"
def causal_mask_at(q_pos, k_pos):
    """Who may attend to whom, by position: integers [Tq] and [Tk] -> bool [Tq, Tk]."""
    ### BEGIN SOLUTION
    return k_pos <= q_pos[:, None]  # [Tk] against [Tq, 1]
    ### END SOLUTION


# %% tags=["check"]
check("2.3", causal_mask_at)

# %% [markdown]
# ## 2.4 As something to add
#
# The additive form of a mask is added to the scores before softmax: it leaves the score of a visible cell as it is, and makes that of a blocked cell $-\infty$.
#
# Write `to_bias(mask, dtype)`.
#
# - `mask`: booleans of any shape, True = may attend; a NumPy array or a torch tensor.
# - `dtype`: the floating type of the result, of the same library: `np.float16`, `np.float32`, `np.float64`, or `torch.float16`, `torch.bfloat16`, `torch.float32`, `torch.float64`.
# - returns an array of the library and shape of `mask` and of type `dtype`: 0 where visible, -inf where blocked (exactly, not a large negative number).
#
# Leave `mask` as it was.
#
# <details><summary>Hint 1</summary>
#
# Do not multiply by infinity: what is `0 * -inf`?
# Choose between two values instead.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `np.where` and `torch.where` choose. To know which library you hold, ask `isinstance(mask, torch.Tensor)`.
# Then look at the `dtype` of what you return.
#
# </details>


# %% exercise="2.4" answer="to_bias" points=2 minutes=8 difficulty=2 path="stretch"
def to_bias(mask, dtype):
    """The additive form of a mask: bool [...] -> dtype [...], 0 = visible and -inf = blocked."""
    ### BEGIN SOLUTION
    if isinstance(mask, torch.Tensor):
        return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -torch.inf)
    return np.where(mask, 0, -np.inf).astype(dtype)
    ### END SOLUTION


# %% tags=["check"]
check("2.4", to_bias)

# %% [markdown]
# ## 2.5 One token with a view of everything
#
# Suppose that "sat" should see the whole sentence, while all other tokens stay as they are.
# (A summary token at the end of a document is a case from practice.)
#
# Write `open_row(mask, row)`.
#
# - `mask`: booleans of shape [..., Tq, Tk], True = may attend, a NumPy array: any mask, not only a causal one, with any axes (batch, heads, or none) in front.
# - `row`: an integer, from 0 to Tq - 1: the query that may see everything.
# - returns a mask of the same shape in which that query may attend to every key, in every sequence and head, and all others are as before.
#
# Leave `mask` as it was: somebody else may be using it.
#
# <details><summary>Hint 1</summary>
#
# Which axis counts the queries? It is not always the first one.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `a[..., i, :]` is row i of each of the last two axes, whatever comes before them.
# A change to a copy does not change the original.
#
# </details>


# %% exercise="2.5" answer="open_row" points=2 minutes=6 difficulty=2 path="stretch"
def open_row(mask, row):
    """A copy of the mask in which one query sees all keys: bool [..., Tq, Tk] -> the same shape."""
    ### BEGIN SOLUTION
    opened = mask.copy()
    opened[..., row, :] = True
    return opened
    ### END SOLUTION


# %% tags=["check"]
check("2.5", open_row)

# %% [markdown]
# ## 2.6 What "sat" then attends to
#
# Take the example of the course.
# The scaled scores of the query "sat" are, for the keys The, cat, sat, on, mat:
#
# $$0.5 \qquad 1 \qquad 1 \qquad 0.5 \qquad 0.75$$
#
# Under the causal mask its weights are 0.2327, 0.3837, 0.3837, 0, 0.
# Now open its row, as in 2.5.
# Which weights does "sat" give to the five tokens?
# (Softmax: $w_j = e^{s_j} / \sum_k e^{s_k}$, over the keys that the query may see.)
#
# - `ROW_WEIGHTS`: five numbers, right to three decimals; a list, a NumPy array or a torch tensor. You may let NumPy do the sum.
#
# Before you compute: which of the three old weights will shrink, and will any two of them change their ratio?
#
# <details><summary>Hint 1</summary>
#
# The row is open, so no score is left out, and nothing is multiplied by a mask.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Five exponentials, their sum, five divisions. Do the results add up to 1?
#
# </details>

# %% exercise="2.6" answer="ROW_WEIGHTS" points=2 minutes=6 difficulty=1 path="stretch"
### BEGIN SOLUTION
powers = np.exp([0.5, 1, 1, 0.5, 0.75])
ROW_WEIGHTS = powers / powers.sum()
### END SOLUTION

# %% tags=["check"]
check("2.6", ROW_WEIGHTS)

# %% [markdown]
# ## 2.A Why a triangle?
#
# Why is the causal mask a *lower triangular* matrix?
#
# - **a.** Because triangular matrices are faster to multiply.
# - **b.** Because rows are queries, columns are keys, both are numbered in the order of the text, and a query may attend to itself and to what came before it.
# - **c.** Because softmax needs at least one blocked cell in each row.
# - **d.** Because the score matrix is symmetric, so that one half of it is enough.

# %% tags=["check"]
ask("2.A", "")  # your letter

# %% [markdown]
# ## 2.B One open cell too many
#
# A mask is right in every cell but one: query row 2 may see key column 3.
# What exactly goes wrong in training?
#
# - **a.** Row 2 no longer adds up to 1.
# - **b.** Position 3 sees the word that it has to predict.
# - **c.** Position 2 sees the word at position 3, and that is the word that it has to predict.
# - **d.** Nothing that one could measure: it is one cell of many.

# %% tags=["check"]
ask("2.B", "")  # your letter

# %% [markdown]
# ## 2.C Nine hundred keys in the cache
#
# 900 tokens have been processed and their keys are kept.
# One new token comes; its own key is added.
# What is its row of the mask?
#
# - **a.** `np.tril(np.ones((1, 901)))`: one 1 and 900 zeros.
# - **b.** 900 ones and a 0, since a token must not see itself.
# - **c.** All 901 ones: every key is at or before its position.
# - **d.** It depends on what the token is.

# %% tags=["check"]
ask("2.C", "")  # your letter

# %% [markdown]
# ## 2.D Somebody else's mask
#
# A colleague builds `mask = torch.triu(torch.ones(5, 5), diagonal=1).bool()` and hands it to `F.scaled_dot_product_attention` as `attn_mask`.
# What happens?
#
# - **a.** Causal attention: the future is blocked.
# - **b.** Each token sees only its future, without an error, because this function reads True as *may attend*.
# - **c.** An error: the last row is empty.
# - **d.** The mask is ignored, since it is not a floating array.

# %% tags=["check"]
ask("2.D", "")  # your letter

# %% [markdown]
# ## 2.E What does a mask learn?
#
# How many weights does a causal mask add to a model with a context of 1,024 tokens?
#
# - **a.** 1,024, one a position.
# - **b.** 524,800, one for each visible cell.
# - **c.** None: it is a function of positions, and nothing in it is trained.
# - **d.** One for each head.

# %% tags=["check"]
ask("2.E", "")  # your letter
