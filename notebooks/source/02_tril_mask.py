# %% [markdown]
# # 2. The tril mask
#
# Chapter 1 ended with a rule: position $t$ may use only positions up to $t$.
# This chapter turns the rule into a matrix, in four ways that must agree, and then meets the people who read that matrix the other way round.

# %% [markdown]
# ## What you will be able to do
#
# - Write the causal mask for any number of tokens from memory, and say what each row and each column means.
# - Build it with `np.tril`, with `torch.triu`, and by comparing positions, and say which off-by-one error does which damage.
# - Place the corner of a mask that is not square, as generation with a cache needs it.
# - Translate a mask between the conventions of PyTorch and Hugging Face, and test the translation instead of trusting it.
#
# **Before you start.** You need matrix shapes and NumPy indexing.
# Chapter 1 explains why the rule exists; you can read this one without it.

# %%
import numpy as np
import torch
import torch.nn.functional as F

from course_lib.attention import attention
from course_lib.example import TOKENS, K, Q, V
from course_lib.lesson import expected_error, table

# %% [markdown]
# ## Rows ask, columns answer
#
# Our sentence has five tokens: The, cat, sat, on, mat.
# Attention compares every token with every token, so there are 25 comparisons, and they fit in a 5 by 5 matrix.
# One agreement makes the rest of the course readable:
#
# - a **row** is a *query*: the token that is looking;
# - a **column** is a *key*: the token that is looked at;
# - a cell holds 1 (True) if the query **may attend** to the key, and 0 (False) if that is forbidden.
#
# **Predict.** Take a pencil.
# Which cells of the row "sat" hold a 1?
# Then write down all five rows before you open the answer.
#
# <details><summary>Answer</summary>
#
# "sat" stands at position 2, so it may use positions 0, 1 and 2: The, cat and itself.
# Its row is 1 1 1 0 0.
# Each row has one more 1 than the row above it, and the last row is all 1.
#
# </details>
#
# The next cell is the first of our four ways: the matrix from memory.

# %%
by_hand = np.array(
    [
        [1, 0, 0, 0, 0],  # The sees The
        [1, 1, 0, 0, 0],  # cat sees The, cat
        [1, 1, 1, 0, 0],  # sat sees The, cat, sat
        [1, 1, 1, 1, 0],  # on  sees The, cat, sat, on
        [1, 1, 1, 1, 1],  # mat sees the whole sentence
    ],
    dtype=bool,
)
print(table(by_hand, rows=TOKENS, columns=TOKENS))

# %% [markdown]
# All the 1s lie on the diagonal or below it.
# Such a matrix is called *lower triangular*, and that is where the name "tril mask" comes from.
# It is lower triangular because of the order in which we number things: later tokens have higher row numbers, earlier tokens have lower column numbers, and "may use only what is not later" is "column at most row".
#
# **Predict.** How many of the 25 cells are visible?
# And how many of $n^2$, for $n$ tokens?

# %%
for n in (1, 2, 5, 100):
    print(n, "tokens:", np.tri(n, dtype=bool).sum(), "visible cells, n(n+1)/2 =", n * (n + 1) // 2)

# %% [markdown]
# Row $i$ has $i + 1$ visible cells, so there are $1 + 2 + \dots + n = n(n+1)/2$ of them, a little more than half.
# The other, blocked half will matter in chapter 7: what nobody may see need not be computed.

# %% [markdown]
# ## Three more ways to write it
#
# **With `np.tril`**, which keeps the lower triangle of a matrix of ones and puts zeros above it.

# %%
with_tril = np.tril(np.ones((5, 5), dtype=bool))

# %% [markdown]
# **With `torch.triu`**, which keeps the upper triangle.
# Much published code builds the *blocked* cells this way, so we negate.
# `diagonal=1` starts one step above the main diagonal, which leaves the diagonal itself unblocked.

# %%
blocked = torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1)
with_triu = ~blocked

# %% [markdown]
# **By comparing positions.**
# This is the rule itself, with no triangle in it: the key's position is at most the query's.
# A column of query positions against a row of key positions gives all 25 comparisons at once.

# %%
positions = np.arange(5)
by_positions = positions[None, :] <= positions[:, None]  # [1, 5] <= [5, 1] -> [5, 5]

print("np.tril agrees:   ", np.array_equal(with_tril, by_hand))
print("torch.triu agrees:", np.array_equal(with_triu.numpy(), by_hand))
print("positions agree:  ", np.array_equal(by_positions, by_hand))

# %% [markdown]
# Four ways, one matrix.
# The last way looks like the clumsiest.
# It is the one we will keep, and the section on masks that are not square shows why.

# %% [markdown]
# ## Is a token allowed to see itself?
#
# The second argument of `tril` says which diagonal is the last to be kept.
# Three choices are easy to confuse: -1, 0 and 1.
#
# **Predict.** For each of the three: what does the first row look like, and is anything wrong with it?

# %%
for diagonal in (-1, 0, 1):
    print(f"np.tril(ones, {diagonal}):")
    print(table(np.tril(np.ones((5, 5), dtype=bool), diagonal), rows=TOKENS, columns=TOKENS))
    print()

# %% [markdown]
# - With **1**, "The" may see "cat". That is the very token it has to predict: a leak, and a silent one, because the training loss only looks better.
# - With **-1**, nobody sees itself, and "The" sees nothing at all. There is no sensible average over nothing: a plain softmax, which turns scores into weights, answers with NaN, which you notice; PyTorch's ready-made attention, `F.scaled_dot_product_attention` (SDPA for short), answers with zeros, which you do not (chapter 3 shows both).
# - With **0**, every token sees itself. That is no leak, because the output at a position predicts the *next* token: "cat" goes in at position 1, and what position 1 has to guess is "sat".
#
# So the diagonal is 0.

# %% [markdown]
# ## The other silent error: rows and columns swapped
#
# Nothing in a 5 by 5 matrix of booleans says which axis is the query.
#
# **Predict.** If somebody transposes the mask, who sees too much, and who too little?

# %%
print(table(by_hand.T, rows=TOKENS, columns=TOKENS))

# %% [markdown]
# Now "The" sees the whole sentence and "mat" only itself: each token sees itself and its *future*.
# The matrix still has 15 ones, its diagonal is still all 1, and no shape has changed, so no error is raised.
# That is why the course fixes one agreement and tests it: rows are queries, columns are keys, True means may attend.

# %% [markdown]
# ## When the mask is not square
#
# During generation the model has processed some tokens already and kept their keys (chapter 5).
# One new query then meets five keys, and the mask has shape [1, 5].
#
# **Predict.** The new query is "mat", at position 4.
# It comes after everything else, so what should its row be?
# And what does `np.tril` make of a 1 by 5 matrix of ones?

# %%
print("np.tril:     ", table(np.tril(np.ones((1, 5), dtype=bool))))
query_positions, key_positions = np.array([4]), np.arange(5)
print("by position: ", table(key_positions[None, :] <= query_positions[:, None]))

# %% [markdown]
# `tril` counts from the top left corner, so it believes that the only query stands at position 0, and it hides four of five keys.
# Unless it is told (`np.tril(..., k=S - T)` for T queries at the end of S keys), a triangle cannot know where the query stands.
# Comparing positions cannot make this mistake, because the position is what it compares.
#
# This bug is real and widespread.
# One of the documents that this course started from applies `tril(ones(T, S))` to a cached model in just this way.
# PyTorch's own `is_causal=True` puts its corner at the top left too, which its users have reported again and again
# ([pytorch#103082](https://github.com/pytorch/pytorch/issues/103082), [pytorch#108108](https://github.com/pytorch/pytorch/issues/108108)), while MLX puts it at the bottom right ([mlx#2835](https://github.com/ml-explore/mlx/issues/2835)).
# Let us see it happen: the last query against all five keys, with values that show where the weight goes.
# (Chapter 3 explains the formula; here it is enough that every token has a query, a key and a value, three short lists of numbers, and that the output for a query is a weighted mean of the values of the keys that it may see.)

# %%
q, k = torch.tensor(Q), torch.tensor(K)
unit_values = torch.eye(5, dtype=torch.float64)  # the output of a query is then its weights

one_query = F.scaled_dot_product_attention(q[None, -1:], k[None], unit_values[None], is_causal=True)
whole = F.scaled_dot_product_attention(q[None], k[None], unit_values[None], is_causal=True)
print("'mat' alone:            ", table(one_query[0]))
print("'mat' in the whole pass:", table(whole[0, -1:]))

# %% [markdown]
# The same token, the same keys, two different answers; the first one attends to "The" and to nothing else.
# No error, no warning.
# Chapter 5 lets a model generate this way and measures the damage.

# %% [markdown]
# ## A mask is a rule, not a matrix
#
# Here is the idea on which the course's library stands.
# We do not store matrices.
# We store the rule, a function of two positions, and derive every matrix from it.


# %%
def may_attend(q_pos, k_pos):
    return k_pos <= q_pos


def matrix(rule, q_pos, k_pos):
    return rule(q_pos[:, None], k_pos[None, :])


print(table(matrix(may_attend, np.arange(5), np.arange(5))))

# %% [markdown]
# `course_lib.masks` is this idea with the corners finished: it takes counts or positions, NumPy or torch, checks what it is given, and knows many rules besides the causal one.

# %%
from course_lib.masks import Mask, causal

rule = causal()
print(rule.describe())
print("same square matrix:", np.array_equal(rule.matrix(5), by_hand))
print("one query at position 4:", table(rule.matrix([4], 5)))
print("two queries at 3 and 4:")
print(table(rule.matrix([3, 4], 5), rows=["on", "mat"], columns=TOKENS))

# %% [markdown]
# PyTorch has names for the two corners, and SDPA takes them as masks.
# Both are our one rule, asked at different positions.
# We compare which weights are above zero.

# %%
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

batch = (q[None, None, -2:], k[None, None], unit_values[None, None])  # two queries, five keys
for corner, positions in ((causal_upper_left(2, 5), [0, 1]), (causal_lower_right(2, 5), [3, 4])):
    weights = F.scaled_dot_product_attention(*batch, attn_mask=corner)[0, 0]
    same = torch.equal(weights > 0, rule.tensor(positions, 5))
    print(f"{corner.variant.name}: our rule with queries at {positions}: {same}")

# %% [markdown]
# Rules combine with `&`, `|` and `~`, and you can write your own as a function of two positions.
# Chapter 6 makes much of this; here is a taste.

# %%
every_second = Mask(lambda q, k: (q - k) % 2 == 0, "every second position")
print((causal() & every_second).draw(6))

# %% [markdown]
# **Try it.** Change the rule above so that a token sees itself and the one token before it, and nothing else.
#
# <details><summary>One way</summary>
#
# `Mask(lambda q, k: (q - k >= 0) & (q - k < 2), "window of two")`, which the library calls `sliding_window(2)`.
#
# </details>

# %% [markdown]
# ## Look around
#
# Here is everything so far in one place that you can touch (run the cell first; on GitHub and on paper you see a still picture).
#
# - Click a token, or walk along the sentence with the arrow keys: its row lights up, and the line above the grid says in words what it may attend to.
# - "Rows built" starts from an empty grid and builds the mask row by row.
# - "Show" switches from the mask to the scores and to the weights that come out; how scores become weights is the story of chapter 3.
# - Point at a cell, or walk to it, and the numbers behind it are written out.
#
# **Predict.** Before you click: which tokens turn grey when you choose "cat"?
# And in the view "weights", which row is the only one that has no grey cell?

# %%
from course_lib.explorers import MaskExplorer

explorer = MaskExplorer(TOKENS, Q, K, V, row="sat")
explorer

# %% [markdown]
# The explorer is a Python object, and what you click in it Python knows.
# It works the other way round too: `explorer.row = "mat"` moves the picture above.
# (On Colab show it again to see that; in VS Code it plays by itself, and Python does not hear of it.)
# Choose a token, then run the next cell again.

# %%
print(explorer.words())

# %% [markdown]
# **Try it.** Give it another rule, `MaskExplorer(TOKENS, Q, K, mask=every_second)`, or tokens and arrays of your own.

# %% [markdown]
# ## Who means what: three dialects
#
# So far True has meant *may attend*.
# That is the convention of SDPA, and of this course.
# It is not everybody's.
#
# | dialect | a visible cell holds | a blocked cell holds |
# |---|---|---|
# | boolean, True = may attend (SDPA) | True | False |
# | boolean, True = blocked (`nn.MultiheadAttention`) | False | True |
# | additive bias (both accept it) | 0 | $-\infty$ |
#
# The additive form needs no agreement about True: it is added to the scores, and $e^{-\infty} = 0$.

# %%
print(table(rule.bias(5), rows=TOKENS, columns=TOKENS, digits=0))

# %% [markdown]
# **Predict.** We hand our mask (True = may attend) to `nn.MultiheadAttention`, which reads True as *blocked*.
# What will each token attend to?
# What happens to the last one?

# %%
torch.manual_seed(0)
module = torch.nn.MultiheadAttention(4, num_heads=1, batch_first=True, dtype=torch.float64)
x = torch.tensor(Q)[None]  # any input will do: [1, 5, 4]

_, weights = module(x, x, x, attn_mask=rule.tensor(5))
print(table(weights[0] > 0, rows=TOKENS, columns=TOKENS))
for need_weights in (True, False):
    output, _ = module(x, x, x, attn_mask=rule.tensor(5), need_weights=need_weights)
    print(f"need_weights={need_weights}: output of the last row", table(output[0, -1], digits=1))

# %% [markdown]
# Every token sees only its future, and the last one has none.
# If you ask for the weights, its row is NaN, and that gives the mistake away.
# If you do not, as `nn.TransformerEncoderLayer` does not, the row is zeros, perfectly ordinary numbers, and nothing shows.
#
# The mistake is made in the other direction too: a mask with True = blocked goes to SDPA, which reads True as *may attend*.

# %%
output = F.scaled_dot_product_attention(q[None], k[None], unit_values[None], attn_mask=blocked)[0]
print(table(output > 0, rows=TOKENS, columns=TOKENS))
print("NaN anywhere:", bool(output.isnan().any()))

# %% [markdown]
# Again every token sees only its future, and the last row is zeros.
# Nothing complains, and in training the loss will look wonderful, because the model reads the answer.
# This is just what one of the most popular courses on language models shipped: `torch.triu(...).bool()` as SDPA's mask
# ([LLMs-from-scratch#1061](https://github.com/rasbt/LLMs-from-scratch/issues/1061)).
# Its repair, [#1062](https://github.com/rasbt/LLMs-from-scratch/pull/1062), came with the right test: change a future token, and no earlier output may move.
# An inverted mask for SDPA also had to be mended in Hugging Face's Llama 4 ([transformers#38094](https://github.com/huggingface/transformers/pull/38094)).
#
# The remedy is to convert on purpose, at the border, once.

# %%
from course_lib.masks import to_multihead_attention

_, weights = module(x, x, x, attn_mask=to_multihead_attention(rule.tensor(5)))
print(table(weights[0] > 0, rows=TOKENS, columns=TOKENS))

# %% [markdown]
# ## The Rosetta table, run live
#
# Tables of conventions go stale, so ours is a program.
# Each entry translates the same rule into one convention, runs the real function, and reads off from its weights which cells were visible.
# To read weights off an attention function that returns only outputs, we give it unit vectors as values, as above.

# %%
from course_lib.masks import to_additive, to_key_padding, to_sdpa

visible = rule.tensor(5)


def sdpa_weights(**options):
    return F.scaled_dot_product_attention(q[None], k[None], unit_values[None], **options)[0]


def module_weights(**options):
    return module(x, x, x, **options)[1][0]


conventions = {
    "SDPA, boolean": (to_sdpa(visible), lambda m: sdpa_weights(attn_mask=m)),
    "SDPA, additive": (to_additive(visible, q.dtype), lambda m: sdpa_weights(attn_mask=m)),
    "nn.MultiheadAttention, boolean": (
        to_multihead_attention(visible),
        lambda m: module_weights(attn_mask=m),
    ),
    "nn.MultiheadAttention, additive": (
        to_additive(visible, x.dtype),
        lambda m: module_weights(attn_mask=m),
    ),
    "nn.Transformer's own helper": (
        torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64),
        lambda m: module_weights(attn_mask=m),
    ),
    "this course": (visible, lambda m: attention(q, k, unit_values, m)[1]),
}

print(f"{'convention':<34}{'sat->cat':>10}{'sat->on':>10}   reads it as causal")
for name, (mask, weights_with) in conventions.items():
    seen, unseen = (str(mask[cell].item()) for cell in ((2, 1), (2, 3)))
    right = torch.equal(weights_with(mask) > 0, visible)
    print(f"{name:<34}{seen:>10}{unseen:>10}   {right}")

# %% [markdown]
# The two columns in the middle show what the mask holds at a visible cell (sat may attend to cat) and at a blocked one (sat may not attend to on).
# Read down them: True, 0.0 and False all mean "visible" to somebody.
#
# Padding has a dialect of its own: one value a *token*, not one a pair.
# Hugging Face's `attention_mask` holds 1 for a real token; `key_padding_mask` of `nn.MultiheadAttention` holds True for one to ignore.

# %%
from course_lib.masks import from_key_padding

real = torch.tensor([[True, True, True, False, False]])  # three words, two of padding
print("Hugging Face attention_mask: ", real.int().tolist()[0])
print("key_padding_mask:            ", to_key_padding(real).tolist()[0])
print("and back:                    ", from_key_padding(to_key_padding(real)).tolist()[0])

# %% [markdown]
# One more trap sits between two arguments of SDPA.
# If you pass a mask *and* `is_causal=True`, the documentation calls it an error, but not every backend notices.
# Here we ask for the one that does.

# %%
from torch.nn.attention import SDPBackend, sdpa_kernel

with sdpa_kernel(SDPBackend.MATH), expected_error(RuntimeError):
    F.scaled_dot_product_attention(
        q[None], k[None], unit_values[None], attn_mask=visible, is_causal=True
    )

# %% [markdown]
# FlexAttention (chapter 6) takes neither matrix nor flag but the predicate itself, which it calls `mask_mod`.
# Our rule already is one:

# %%
mod = rule.mask_mod  # mask_mod(batch, head, query_index, key_index) -> bool
print("may 'sat' attend to 'cat'?", mod(0, 0, 2, 1), "   to 'on'?", mod(0, 0, 2, 3))

# %% [markdown]
# ## What a mask costs
#
# A mask has no parameters and learns nothing; it is a function of positions.
# Stored as a matrix it does cost memory, and the cost grows with the square of the length.
#
# **Predict.** A context of 32,768 tokens: how large is the boolean matrix, at one byte a cell?
# How large the additive one, in float32?

# %%
for n in (1_024, 32_768, 131_072):
    print(f"{n:>8,} tokens: boolean {n * n / 2**30:7.3f} GiB, float32 {4 * n * n / 2**30:7.3f} GiB")

# %% [markdown]
# The rule `k <= q` costs nothing at any length.
# That is the second reason to keep the rule and not the matrix; chapter 7 lives off it.

# %% [markdown]
# ## Pause and recall
#
# Answer aloud before you unfold.
#
# <details><summary>1. Why is the causal mask lower triangular?</summary>
#
# A query at position q may attend to keys at positions k with k ≤ q.
# Rows are queries and columns are keys, both numbered in order, so the allowed cells are those with column ≤ row: the diagonal and what is below it.
# It is not because triangular matrices are fast.
#
# </details>
#
# <details><summary>2. What exactly goes wrong when query row 2 can see key column 3?</summary>
#
# Position 2 has to predict the token at position 3.
# If it can attend to that token, it can copy the answer.
# The training loss falls, and the model has learnt a task that does not exist at generation time, where token 3 has not been written.
#
# </details>
#
# <details><summary>3. Which diagonal does a causal mask keep last, and what do the neighbours do?</summary>
#
# The main one, 0.
# With 1 every token sees the one that it must predict, silently; with -1 the first token sees nothing: its row becomes NaN, or in SDPA zeros.
#
# </details>
#
# <details><summary>4. You have 900 cached keys and one new query. What is the mask?</summary>
#
# The query is at position 900 and there are now 901 keys, its own included.
# All 901 are at or before it, so the row is all True.
# `tril` of a 1 by 901 matrix, and `is_causal=True`, would leave only the first.
#
# </details>
#
# <details><summary>5. A function takes a boolean mask, and its documentation does not say what True means. What do you do?</summary>
#
# Run it: give it a mask that blocks one cell, and unit vectors as values, and look at which weight is zero.
# That is one line of the Rosetta table.
#
# </details>

# %% [markdown]
# ## Summary
#
# - The causal mask lets query q attend to key k exactly if k ≤ q. Rows are queries, columns are keys, True means may attend.
# - Memory, `tril`, `triu` and comparing positions give the same square matrix. Comparing positions gets rectangular ones right too; a triangle needs to be told the offset.
# - Off by one above the diagonal leaks in silence; off by one below leaves the first token nothing, which is NaN or zeros.
# - Polarity differs between libraries. Convert at the border, and test by reading off the weights.
#
# **Next:** [chapter 3, mask before softmax](03_mask_before_softmax.ipynb), where the mask meets the scores, and where it matters *when* they meet.

# %% [markdown]
# ## References
#
# - A. Vaswani et al., [Attention Is All You Need](https://arxiv.org/abs/1706.03762), 2017, section 3.2.3: the decoder's mask.
# - PyTorch documentation of [scaled_dot_product_attention](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html) and [MultiheadAttention](https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html).
# - The alignment of `is_causal`: [pytorch#103082](https://github.com/pytorch/pytorch/issues/103082), [pytorch#108108](https://github.com/pytorch/pytorch/issues/108108), [pytorch#126873](https://github.com/pytorch/pytorch/issues/126873), [mlx#2835](https://github.com/ml-explore/mlx/issues/2835).
# - Inverted masks: [LLMs-from-scratch#1061](https://github.com/rasbt/LLMs-from-scratch/issues/1061), [transformers#38094](https://github.com/huggingface/transformers/pull/38094).
# - J. Dong et al., [Flex Attention: A Programming Model for Generating Optimized Attention Kernels](https://arxiv.org/abs/2412.05496), 2024.
