# %% [markdown]
# # 3. Mask before softmax
#
# Attention is five steps, and the mask is the third.
# In this chapter you compute all five by hand on our five tokens, check every number, and then swap two of the steps to see exactly what breaks.

# %% [markdown]
# ## What you will be able to do
#
# - Compute causal attention for The, cat, sat, on, mat by hand, to four digits.
# - Say what goes wrong if the mask comes after softmax, and when renormalising saves you and when it does not.
# - Choose the number that stands for $-\infty$, in float32, bfloat16 and float16.
# - Decide what a row that may attend to nothing should give, and keep its gradient finite.
#
# **Before you start.** [Chapter 2](02_tril_mask.ipynb): rows are queries, columns are keys, True means may attend.

# %%
import numpy as np
import torch
import torch.nn.functional as F

from course_lib.example import FOUR_SCORES, PUBLISHED, TOKENS, K, Q, V, position
from course_lib.lesson import expected_error, table
from course_lib.masks import causal

# %% [markdown]
# ## The formula and its symbols
#
# $$\text{output} = \operatorname{softmax}\!\left(\operatorname{mask}\!\left(\frac{Q K^\top}{\sqrt{d_k}}\right)\right) V
# \qquad \operatorname{mask}(S)_{ij} = \begin{cases} S_{ij} & j \le i \\ -\infty & j > i \end{cases}$$
#
# | symbol | shape | here | meaning |
# |---|---|---|---|
# | $Q$ | $[T, d_k]$ | [5, 4] | queries: what each token looks for |
# | $K$ | $[T, d_k]$ | [5, 4] | keys: what each token can be found by |
# | $V$ | $[T, d_v]$ | [5, 4] | values: what each token hands over |
# | $K^\top$ | $[d_k, T]$ | [4, 5] | the keys as columns |
# | $Q K^\top$ | $[T, T]$ | [5, 5] | raw scores: row $i$, column $j$ is query $i$ times key $j$ |
# | $\sqrt{d_k}$ | number | 2 | keeps the spread of the scores independent of $d_k$ |
# | mask | $[T, T] \to [T, T]$ | | leaves visible scores alone, sets blocked ones to $-\infty$ |
# | softmax | $[T, T] \to [T, T]$ | | makes each row non-negative with sum 1 |
# | output | $[T, d_v]$ | [5, 4] | for each query a weighted mean of the visible values |
#
# The numbers are small on purpose.
# Keep a pencil at hand: everything below can be checked with it.

# %%
entries = ["d0", "d1", "d2", "d3"]
for name, matrix in (("Q", Q), ("K", K), ("V", V)):
    print(name)
    print(table(matrix, rows=TOKENS, columns=entries, digits=1), end="\n\n")

# %% [markdown]
# ## Five steps
#
# **Step 1: dot products.**
# The query of "sat" is [1, 1, 1, 0] and the key of "cat" is [1, 0, 1, 0], so their dot product is 1 + 0 + 1 + 0 = 2.
#
# **Predict** the score of "cat" (query) with "The" (key) before you look.

# %%
raw = Q @ K.T  # [5, 4] @ [4, 5] -> [5, 5]
print(table(raw, rows=TOKENS, columns=TOKENS, digits=2))

# %% [markdown]
# **Step 2: scale.**
# Divide by $\sqrt{d_k} = \sqrt 4 = 2$.
# If the entries of queries and keys are independent with mean 0 and variance 1, a dot product of $d_k$ of them has variance $d_k$; dividing by $\sqrt{d_k}$ brings it back to 1.

# %%
scaled = raw / np.sqrt(K.shape[1])
print(table(scaled, rows=TOKENS, columns=TOKENS, digits=3))

# %% [markdown]
# **Step 3: mask.**
# Every blocked score becomes $-\infty$.

# %%
visible = causal().matrix(5)
masked = np.where(visible, scaled, -np.inf)
print(table(masked, rows=TOKENS, columns=TOKENS, digits=3))

# %% [markdown]
# **Step 4: softmax.**
# In each row, raise $e$ to every score and divide by the row's sum.
# Since $e^{-\infty} = 0$, blocked cells add nothing to the sum and get nothing from it.
#
# **Predict**, without a calculator: which weight does "The" get in its own row?
# Does "cat" look more at "The" or at itself?
# Which row is the same as if there were no mask?

# %%
powers = np.exp(masked)
weights = powers / powers.sum(axis=1, keepdims=True)
print(table(weights, rows=TOKENS, columns=TOKENS))

# %% [markdown]
# - "The" has only itself, so its weight is 1, whatever its score.
# - "cat" gives 0.8176 to "The", because their score is 1.5 against 0 for itself: $e^{1.5} / (e^{1.5} + e^0) = 4.482 / 5.482$.
# - "mat" is last, may attend to everything, and is not touched by the mask.
#
# **Step 5: the weighted sum of the values.**

# %%
output = weights @ V  # [5, 5] @ [5, 4] -> [5, 4]
print(table(output, rows=TOKENS, columns=entries))

# %% [markdown]
# The first four values are unit vectors, so the first four rows of the output repeat their weights, and you can read off who was heard.
# Entries d2 and d3 of "cat" are exactly zero: what "sat" and "on" would have contributed never arrives.
#
# These tables are published in the document on which this example is based.
# Do ours agree with every printed digit?

# %%
computed = dict(raw=raw, scaled=scaled, masked=masked, weights=weights, output=output)
for name, ours in computed.items():
    print(f"{name:<8} agrees to 4 digits: {np.array_equal(np.round(ours, 4), PUBLISHED[name])}")

# %% [markdown]
# ## The row of "sat", with everything written out
#
# This is the exercise to do with a pencil.
# Cover the lower half, compute the three weights, and compare.

# %%
from course_lib.trace import trace

sentence = trace(Q, K, V, causal(), TOKENS)
print(sentence.explain("sat"))

# %% [markdown]
# **Try it.** Change "sat" to "on" above, but compute its row first.
# "on" sees four tokens; its scaled scores are 0.5, 0.5, 0 and 1.

# %% [markdown]
# ## The same in a few lines, twice
#
# Here are the five steps as one function, for NumPy and for torch.


# %%
def causal_attention(q, k, v):
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])  # [T, T]
    mask = np.tril(np.ones(scores.shape, dtype=bool))
    scores = np.where(mask, scores, -np.inf)
    scores = scores - scores.max(axis=-1, keepdims=True)  # see "Stable softmax" below
    weights = np.exp(scores)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return weights @ v  # [T, T] @ [T, d_v]


def causal_attention_torch(q, k, v):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # [T, T]
    mask = torch.ones(scores.shape, dtype=torch.bool).tril()
    scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(dim=-1)
    return weights @ v


q, k, v = (torch.tensor(x) for x in (Q, K, V))
print("NumPy gives our table:", np.allclose(causal_attention(Q, K, V), output))
print("torch gives our table:", np.allclose(causal_attention_torch(q, k, v), output))

# %% [markdown]
# `course_lib.attention` is the same five steps with checks, batches and the corner cases of this chapter.
# And PyTorch has all of it in one call, the one to use in earnest, because it picks a fused kernel, one program that does all five steps (chapter 7).

# %%
from course_lib.attention import attention

fused = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
print("course_lib agrees:", np.allclose(attention(Q, K, V, causal())[0], output))
print("SDPA agrees:      ", np.allclose(fused, output))

# %% [markdown]
# **Code walk.** What does each line make?
# The explorer below holds a recording of a real run of both functions, so the code and the values cannot disagree.
# Click a line, or press "Next", to see what it reads and what it makes; "Follow" marks one token in every table.
#
# **Predict.** Follow "sat".
# In which line do "on" and "mat" leave its row, and from which line on does its row sum to 1?

# %%
from course_lib.codewalk import walk
from course_lib.explorers import CodeWalk

runs = walk(causal_attention, Q, K, V), walk(causal_attention_torch, q, k, v)
CodeWalk(*runs, tokens=TOKENS, row="sat")

# %% [markdown]
# The line with $-\infty$ takes them out, and only the softmax after it makes the row sum to 1.
# The NumPy version takes that softmax apart into three lines: watch the largest score of each row become 0, and its power 1.

# %% [markdown]
# ## What the mask takes away
#
# Standard attention is the same computation without step 3.
# Side by side, the framed cells are what the mask will take away.
# Point at a cell to see both weights and what they are shares of; "output vectors" shows what the loss does to the outputs, term by term.
#
# **Predict.** Which token's output changes most when the mask is applied, and which not at all?

# %%
from course_lib.explorers import CompareExplorer

CompareExplorer(TOKENS, Q, K, V, row="cat")

# %% [markdown]
# Here is the largest change of any entry of each output:

# %%
standard = trace(Q, K, V, None, TOKENS)
change = np.abs(sentence.output - standard.output).max(axis=1)
print(table(change, columns=TOKENS))
same_weights = np.array_equal(standard.weights[-1], sentence.weights[-1])
print("weights of the last row unchanged, to the last bit:", same_weights)

# %% [markdown]
# In this sentence, the earlier a token stands, the more it loses.
# "The" loses most: with the mask it can only repeat itself.
# That is not a defect.
# At that point of the sentence nothing else has been said.

# %% [markdown]
# ## The wrong order: softmax first
#
# Suppose we take the softmax of the *unmasked* row and zero the blocked weights afterwards.
# This is not a straw man: it has shipped in a widely used vision library, which has mended it since
# ([timm#2236](https://github.com/huggingface/pytorch-image-models/pull/2236)).
#
# One row is enough to see the difference.
# Four scores, of which the last is blocked:

# %%
row_visible = np.array([True, True, True, False])


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


shifted = FOUR_SCORES - FOUR_SCORES.max()
powers = np.exp(shifted)
print("scores:            ", table(FOUR_SCORES))
print("minus the largest: ", table(shifted))
print("powers of e:       ", table(powers))
print(f"sum of the visible three: {powers[:3].sum():.4f}; of all four: {powers.sum():.4f}")
print()

mask_first = softmax(np.where(row_visible, FOUR_SCORES, -np.inf))
mask_last = np.where(row_visible, softmax(FOUR_SCORES), 0.0)
print("mask, then softmax:", table(mask_first), "  sum", f"{mask_first.sum():.4f}")
print("softmax, then mask:", table(mask_last), "  sum", f"{mask_last.sum():.4f}")

# %% [markdown]
# The first row divides by the visible sum, the second by the sum of all four.
# So the second no longer sums to 1: the blocked score took 0.2369 of the weight with it.
# That much is plain to see.
#
# **Predict.** The blocked weights are zero in both cases.
# Does the wrong order also let the *future* leak into the past?
# To find out, change the key of "mat", the last token, and see whether the output of any earlier token moves.


# %%
def mask_after_softmax(q, k, v):
    weights = softmax(q @ k.T / np.sqrt(q.shape[-1]))
    return np.where(visible, weights, 0.0) @ v


other_K = K.copy()
other_K[position("mat")] = [3, 3, 3, 3]  # another last word

for name, function in (("mask first", causal_attention), ("mask last", mask_after_softmax)):
    moved = np.abs(function(Q, other_K, V) - function(Q, K, V)).max(axis=1)
    print(f"{name:<11} outputs move by  {table(moved, columns=TOKENS).splitlines()[1]}")

# %% [markdown]
# With the mask first, four tokens do not move at all; only "mat" itself may.
# With the mask last, *every* token feels the last word.
# The zeroed weight is gone from the sum on top, but its score is still in the denominator underneath.
# So the wrong order does two kinds of harm: rows that sum to less than 1, and a **leak of the future through the denominator**.
# The second is the serious one, because a model can learn to read it.

# %% [markdown]
# ## Does renormalising mend it?
#
# One can divide the row by its new sum afterwards.
# On paper this is exactly right: if $Z$ is the full denominator and $Z_v$ the visible part,
#
# $$\frac{e^{s_j}/Z}{\sum_{\text{visible}} e^{s_k}/Z} = \frac{e^{s_j}}{Z_v},$$
#
# and the leak cancels with $Z$.
# A well-known summarisation model does it this way ([pointer-generator#88](https://github.com/abisee/pointer-generator/issues/88)).
#
# **Predict.** Two visible scores, 0 and 1, and one blocked score $g$.
# The right weights are 0.269 and 0.731, whatever $g$ is.
# For which $g$ does the renormalised row go wrong in float32, and how?


# %%
def renormalised(scores, visible):
    weights = torch.softmax(scores, dim=-1) * visible
    return weights / weights.sum(dim=-1, keepdim=True)


keep = torch.tensor([True, True, False])
gaps = (0, 10, 50, 100, 104, 110)
for dtype in (torch.float64, torch.float32, torch.float16):
    rows = torch.stack([renormalised(torch.tensor([0, 1, g], dtype=dtype), keep) for g in gaps])
    print(str(dtype).removeprefix("torch."))
    print(table(rows[:, :2], rows=[f"g = {g}" for g in gaps], digits=3))

# %% [markdown]
# When the blocked score stands far above the visible ones, the visible weights after the first softmax are $e^{-g}$ and $e^{1-g}$.
# The smallest positive float32 is about $10^{-45} \approx e^{-103}$.
# Near $g = 100$ the two weights have only a few bits left, at 104 one of them is rounded to zero, and at 110 both are: 0/0.
# In float16 it happens far sooner.
# The information was destroyed before the renormalisation came to fetch it.
#
# Mask first, and $g$ does not matter at all.
# For the same reason the maximum that we subtract for stability must be the maximum of the *visible* scores: subtract 110 from the scores 0 and 1 and their powers vanish too.

# %% [markdown]
# ## Stable softmax
#
# Why subtract a maximum at all?
# Because $e^x$ overflows: at $x \approx 89$ in float32, at $x \approx 710$ in float64.
# Subtracting the same number from every score of a row changes nothing on paper, since it cancels in the fraction, and with the maximum the largest power is $e^0 = 1$.

# %%
scores = np.array([1000.0, 999.0])
with np.errstate(over="ignore", invalid="ignore"):
    naive = np.exp(scores) / np.exp(scores).sum()
print("naive: ", table(naive))
print("stable:", table(softmax(scores)))

# %% [markdown]
# ## Which number stands for minus infinity?
#
# Published code uses $-\infty$, the lowest float of the dtype, $-10^9$ and $-10^4$.
# One of the documents behind this course recommends $-10^9$ as "more numerically stable".
# Let us test that instead of arguing.
#
# First: can each dtype hold the number at all?

# %%
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    name, lowest = str(dtype).removeprefix("torch."), torch.finfo(dtype).min
    converted = torch.tensor(-1e9).to(dtype).item()
    print(f"{name:<9} lowest number {lowest:<11.4g} -1e9 becomes {converted:.4g}")

with expected_error(RuntimeError):
    torch.zeros(2, dtype=torch.float16).masked_fill(torch.tensor([False, True]), -1e9)

# %% [markdown]
# float16 ends at -65,504, so $-10^9$ does not fit: converted it silently becomes $-\infty$, and filled in it is an error, which users of half precision met again and again ([fairseq#3575](https://github.com/facebookresearch/fairseq/issues/3575), [apex#1105](https://github.com/NVIDIA/apex/issues/1105)).
#
# So people chose $-10^4$, which fits everywhere.
#
# **Predict.** Two visible scores of -20,000 and -20,001, and one blocked cell filled with $-10^4$.
# Where does the weight go?

# %%
low = torch.tensor([-20_000.0, -20_001.0, 0.0])
blocked = torch.tensor([False, False, True])
for fill in (-1e4, -1e9, torch.finfo(torch.float32).min, -torch.inf):
    print(f"fill {fill:<12.4g}", table(torch.softmax(low.masked_fill(blocked, fill), dim=-1)))

# %% [markdown]
# All of it goes to the blocked cell, because $-10^4$ is the *largest* number in the row.
# Hugging Face has replaced this constant in its models ([transformers#17306](https://github.com/huggingface/transformers/pull/17306)).
#
# The lowest float of the dtype survives that, but it must not be added to anything, least of all to itself, as happens when a causal and a padding bias meet:

# %%
lowest = torch.tensor(torch.finfo(torch.float16).min, dtype=torch.float16)
print("lowest + lowest:", (lowest + lowest).item())

bias_by_arithmetic = (1 - torch.tensor([1.0, 1.0, 0.0])) * -torch.inf
print("(1 - visible) * -inf:", bias_by_arithmetic.tolist())

# %% [markdown]
# The second line shows a trap of $-\infty$ itself: a bias made by arithmetic multiplies 0 by $\infty$ at every *visible* cell, and 0 times infinity is NaN.
# Select with a boolean (`where`, `masked_fill`) instead of calculating.
#
# Our verdict: keep the mask boolean for as long as you can, and when it has to become a number, let that number be $-\infty$.
# A finite fill is an approximation whose error depends on the scores and the dtype; $-\infty$ is exact, and a plain softmax answers a row of nothing but $-\infty$ with NaN, which you notice.
# There is one place where $-\infty$ asks for thought, and it comes next.

# %% [markdown]
# ## A row that may attend to nothing
#
# Pad a batch on the left, combine the causal mask with the padding mask, and the first rows of a short sentence have nothing to attend to: their own token is padding, and so is everything before it.
# What is the softmax of a row of nothing but $-\infty$?
#
# **Predict** for each: `torch.softmax` with $-\infty$, `torch.softmax` with the lowest float, SDPA, and `course_lib`.

# %%
nothing = torch.zeros(1, 3, dtype=torch.bool)
flat = torch.zeros(1, 3)
values = torch.tensor([[1.0], [2.0], [6.0]])

lowest = torch.finfo(torch.float32).min
one_query, three_keys = torch.ones(1, 1), torch.ones(3, 1)
sdpa = F.scaled_dot_product_attention  # its own name is long

with_infinity = torch.softmax(flat.masked_fill(~nothing, -torch.inf), dim=-1)
with_lowest = torch.softmax(flat.masked_fill(~nothing, lowest), dim=-1)
from_sdpa = sdpa(one_query[None], three_keys[None], values[None], attn_mask=nothing)[0]
ours, _ = attention(one_query, three_keys, values, nothing, empty_rows="zeros")

print("softmax, -inf:   ", table(with_infinity @ values), "  from weights", table(with_infinity))
print("softmax, lowest: ", table(with_lowest @ values), "  from weights", table(with_lowest))
print("SDPA:            ", table(from_sdpa))
print("course_lib:      ", table(ours))

# %% [markdown]
# Four implementations, three answers.
# NaN spreads: a padded row that nobody reads becomes the NaN of the next layer's keys, and there everybody reads it.
# The mean of *all* values is worse, for it looks healthy and contains every blocked token.
# Zero is the only answer that is both finite and honest: attending to nothing brings nothing.
# PyTorch's SDPA gave NaN here until version 2.5, after years of reports ([pytorch#103749](https://github.com/pytorch/pytorch/issues/103749), [pytorch#41508](https://github.com/pytorch/pytorch/issues/41508)).
#
# An empty row is also what an inverted mask looks like.
# So `course_lib` returns zeros only if you ask for them:

# %%
with expected_error(ValueError):
    attention(q, k, v, ~causal().tensor(5))

# %% [markdown]
# ## Gradients
#
# The mask has no parameters, but it decides where gradients flow.
# If the output at "sat" does not depend on "on" and "mat", then its gradient with respect to their keys and values is exactly zero.
# The gradient is also a leak detector, as in chapter 1: one row a query, one column a key, and the size of the gradient in the cell.

# %%
from course_lib.figures.plot import Grid, grids


def sensitivity(function):
    """[T, T]: the largest derivative of any entry of output i by any entry of key or value j."""
    jacobians = torch.autograd.functional.jacobian(lambda k, v: function(q, k, v), (k, v))
    by_token = [j.abs().amax(dim=(1, 3)) for j in jacobians]  # each [T, d, T, d] -> [T, T]
    return torch.stack(by_token).amax(dim=0).numpy()


def late_mask(q, k, v):
    weights = (q @ k.T / 2).softmax(dim=-1)
    return weights.masked_fill(~torch.tensor(visible), 0.0) @ v


right_order, wrong_order = sensitivity(causal_attention_torch), sensitivity(late_mask)
print("future gradient, mask first:", bool((right_order[~visible] != 0).any()))
print("future gradient, mask last: ", bool((wrong_order[~visible] != 0).any()))

grids(
    [
        Grid(
            right_order, TOKENS, TOKENS, "gradient, mask first", leak=~visible & (right_order > 0)
        ),
        Grid(wrong_order, TOKENS, TOKENS, "gradient, mask last", leak=~visible & (wrong_order > 0)),
    ]
)

# %% [markdown]
# The upper triangle is exactly zero on the left and nowhere zero on the right.
# That is the leak through the denominator again, this time as something that training can exploit.
#
# Within a row, the gradient of softmax has a simple form: with weights $p$ and upstream gradient $g$, it is $p_j\,(g_j - \sum_k p_k g_k)$.
# A blocked cell has $p_j = 0$, so it receives 0 and contributes 0.

# %%
row = torch.tensor(scaled[2], requires_grad=True)
upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
p = row.masked_fill(torch.tensor(~visible[2]), -torch.inf).softmax(dim=-1)
p.backward(upstream)
by_formula = p * (upstream - (p * upstream).sum())
print("autograd:  ", table(row.grad))
print("by formula:", table(by_formula))

# %% [markdown]
# **Predict.** One row of a batch is empty.
# You add a bias of $-\infty$, take the softmax, and replace the NaN by zero afterwards.
# The output is fine.
# Is the gradient?


# %%
def patched(scores, visible):
    """Add the bias, softmax, then wipe the NaN away: the forward pass looks right."""
    bias = torch.zeros_like(scores).masked_fill(~visible, -torch.inf)
    return torch.nan_to_num(torch.softmax(scores + bias, dim=-1))


def clean(scores, visible):
    from course_lib.attention import masked_softmax

    return masked_softmax(scores, visible, empty_rows="zeros")


some_rows = torch.tensor([[True, True], [False, False]])
for function in (patched, clean):
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    result = function(scores, some_rows)
    result[:, 0].sum().backward()
    print(f"{function.__name__:<8} output {result.tolist()[1]}  gradient {scores.grad.tolist()[1]}")

# %% [markdown]
# Wiping the NaN from the output does not wipe it from the gradient: the softmax inside still divided 0 by 0, and its derivative is NaN.
# `masked_softmax` never forms 0/0, so both directions are clean.

# %% [markdown]
# ## Pause and recall
#
# <details><summary>1. Why is −∞ put in before softmax and not a zero after it?</summary>
#
# Softmax divides by the sum over the row.
# If a blocked score takes part in that sum, the visible weights no longer add up to 1, and they depend on the blocked token: the future leaks through the denominator.
# "Nothing breaks, because zeros are harmless" is the common wrong answer.
#
# </details>
#
# <details><summary>2. Somebody masks after softmax and renormalises. Is that wrong?</summary>
#
# On paper it is the same.
# In floating point it fails when a blocked score is far above the visible ones: their weights underflow, to a wrong ratio first and to 0/0 then.
# In float32 that takes a gap of about 100, in float16 far less.
#
# </details>
#
# <details><summary>3. When is the output of causal attention equal to that of standard attention?</summary>
#
# In the last row always, because the last query may attend to everything.
# In other rows only by accident.
#
# </details>
#
# <details><summary>4. Your loss is NaN since you began to pad on the left. What do you look for?</summary>
#
# Rows that may attend to nothing.
# Either give them zeros with a softmax that knows about them, or make sure that nobody reads them, in the backward pass too.
#
# </details>
#
# <details><summary>5. By hand: the scores are 0, ln 2 and ln 5, and the last is blocked. What are the weights?</summary>
#
# The powers are 1 and 2, so the weights are 1/3, 2/3 and 0.
#
# </details>

# %%
print(table(softmax(np.where([True, True, False], np.log([1.0, 2.0, 5.0]), -np.inf))))

# %% [markdown]
# ## Summary
#
# - scores, scale, mask, softmax, weighted sum, in this order. The mask costs no parameters and changes one step.
# - After softmax it is too late: rows lose weight, and the future leaks through the denominator. Renormalising is right on paper and fails in floating point.
# - Keep masks boolean; if a number is needed, $-\infty$. Every finite fill has a dtype or a score that defeats it.
# - A row with nothing to attend to should give zero, in the forward and in the backward pass, and only if you meant it.
#
# **Next:** [chapter 4, batching](04_batching.ipynb), where the same 5 by 5 mask serves a tensor of shape [B, H, T, T] without being copied.

# %% [markdown]
# ## References
#
# - A. Vaswani et al., [Attention Is All You Need](https://arxiv.org/abs/1706.03762), 2017, equation 1 and section 3.2.1 (the scale).
# - Mask after softmax: [timm#2236](https://github.com/huggingface/pytorch-image-models/pull/2236), [pointer-generator#88](https://github.com/abisee/pointer-generator/issues/88).
# - Fill values: [fairseq#3575](https://github.com/facebookresearch/fairseq/issues/3575), [apex#1105](https://github.com/NVIDIA/apex/issues/1105), [transformers#17306](https://github.com/huggingface/transformers/pull/17306).
# - Empty rows: [pytorch#103749](https://github.com/pytorch/pytorch/issues/103749), [pytorch#41508](https://github.com/pytorch/pytorch/issues/41508), and the change that came with PyTorch 2.5, [pytorch#133882](https://github.com/pytorch/pytorch/pull/133882).
