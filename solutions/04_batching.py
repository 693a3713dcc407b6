# %% [markdown]
# # 4. Batching: exercises
#
# Four axes, and every one of them can be taken for another.
# You write the whole layer, three masks that a real batch needs, and the shapes of all of it.
# Everywhere: rows are queries, columns are keys, and True in a mask means *may attend*, unless a task says otherwise.
# Array arguments are NumPy arrays; you may return NumPy arrays or torch tensors, as you like.
# Answers need NumPy or torch and nothing else, and they leave their arguments as they were.

# %%
import math

import numpy as np

from course_lib.checks import ask, check

# %% [markdown]
# ## 4.1 A layer with heads
#
# Write causal self-attention with several heads, from the vectors of the tokens to the output of the layer, without `nn.Module` and without biases.
#
# **What comes in:** `x`, floating, shape [B, T, C]; `w_qkv`, shape [C, 3C]; `w_out`, shape [C, C]; all of one dtype (float32 or float64); `n_heads`, an int H that divides C.
#
# **What goes out:** the output, shape [B, T, C], in that dtype or a wider one.
#
# So that two right answers agree:
#
# - Vectors are rows, so `x @ w_qkv` has shape [B, T, 3C]. Its first C columns are the queries, the next C the keys, the last C the values.
# - Each of the three is cut into H pieces of d = C / H columns that lie side by side: head 0 owns the first d columns, head 1 the next d, and so on.
# - In each head, position i attends to positions 0..i, with scores divided by $\sqrt d$.
# - The heads are laid side by side again in the same order, and the result goes through `w_out`: `merged @ w_out`.
#
# Scores may be in the thousands.
# In float32 we allow for rounding.
#
# <details><summary>Hint 1</summary>
#
# Write down the shape after every line.
# On the way to [B, H, T, d], cut the last axis first, and move an axis afterwards.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The way back is the way there in reverse: move, then glue.
# A `reshape` alone, in either direction, gives the right shape and the wrong numbers.
#
# </details>


# %% exercise="4.1" answer="multi_head_causal_attention" points=5 minutes=20 difficulty=3 path="core"
def multi_head_causal_attention(x, w_qkv, w_out, n_heads):
    """Causal self-attention with heads.

    x: [B, T, C]; w_qkv: [C, 3C], queries, keys, values; w_out: [C, C]. Returns [B, T, C].
    """
    ### BEGIN SOLUTION
    batch, length, width = x.shape
    qkv = (x @ w_qkv).reshape(batch, length, 3, n_heads, width // n_heads)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each [B, H, T, d]
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # [B, H, T, T]
    slot = np.arange(length)
    scores = np.where(slot <= slot[:, None], scores, -np.inf)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = powers / powers.sum(axis=-1, keepdims=True)  # [B, H, T, T]
    merged = (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape)  # [B, H, T, d] -> [B, T, C]
    return merged @ w_out
    ### END SOLUTION


# %% tags=["check"]
check("4.1", multi_head_causal_attention)

# %% [markdown]
# ## 4.2 Causal and padding, from the lengths alone
#
# A batch of B sentences of different lengths, each padded to `total` slots.
# Make its mask.
#
# **What comes in:** `lengths`, an integer array of shape [B], each from 0 to `total`; `total`, an int T, at least 1; `side`, the string `"left"` or `"right"`: where the *padding* is.
# With `total = 5` and a length of 3, the sentence stands in slots 2, 3, 4 if `side` is `"left"`, and in slots 0, 1, 2 if it is `"right"`.
#
# **What goes out:** a bool array of shape [B, 1, T, T], True = may attend.
#
# - A slot that holds a token attends to every slot that holds a token and is not later, so to itself too.
# - A padded slot attends to itself and to nothing else, so that no row is empty and no sentence is read by padding.
#
# For the second point the chapter's mask was laxer: look at its picture of padding on the right.
#
# <details><summary>Hint 1</summary>
#
# First find out which slots hold a token: a bool array of shape [B, T], from `lengths[:, None]` and the slot numbers.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# That array is needed twice, once on the axis of the queries, [B, 1, T, 1], and once on the axis of the keys, [B, 1, 1, T].
#
# </details>


# %% exercise="4.2" answer="causal_and_padding" points=3 minutes=15 difficulty=2 path="core"
def causal_and_padding(lengths, total, side):
    """The mask of a padded batch.

    lengths: int [B]; total: slots T; side: "left" or "right", where the padding is.
    Returns bool [B, 1, T, T], True = may attend.
    """
    ### BEGIN SOLUTION
    slot = np.arange(total)
    real = slot < lengths[:, None]  # [B, T]: words first, padding on the right
    if side == "left":
        real = np.fliplr(real)
    query_real, key_real = real[:, None, :, None], real[:, None, None, :]
    not_later = slot <= slot[:, None]  # [T, T]
    itself = slot == slot[:, None]
    return np.where(query_real, key_real & not_later, itself)
    ### END SOLUTION


# %% tags=["check"]
check("4.2", causal_and_padding)

# %% [markdown]
# ## 4.3 Documents that come in pieces
#
# Several documents are packed into one row of T slots.
# The packer was clever and cut them into pieces to fill the row, so the pieces of one document need not stand side by side.
#
# **What comes in:** `ids`, an integer array of shape [T]: the number of the document to which each slot belongs.
# Any integers, in any order, with gaps; equal numbers mean the same document, also when another one stands between its pieces.
#
# **What goes out:** a bool array of shape [T, T], True = may attend: a slot attends to the slots of its own document that are not later, itself among them.
#
# For example, with ids [7, 7, 3, 7] the last row is [1, 1, 0, 1].
#
# <details><summary>Hint 1</summary>
#
# Two rules, both on pairs of slots.
# Each is one comparison of a column with a row.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Whether the ids of two slots are equal says nothing about which comes first, and the other way round.
#
# </details>


# %% exercise="4.3" answer="document_mask" points=2 minutes=8 difficulty=1 path="stretch"
def document_mask(ids):
    """Causal within each document.

    ids: int [T]. Returns bool [T, T], True = may attend.
    """
    ### BEGIN SOLUTION
    return (ids == ids[:, None]) & np.tri(len(ids), dtype=bool)
    ### END SOLUTION


# %% tags=["check"]
check("4.3", document_mask)

# %% [markdown]
# ## 4.4 For a module that reads masks the other way round
#
# `nn.MultiheadAttention` wants its `attn_mask` with **True = blocked**, as [T_q, T_k], or as [B * H, T_q, T_k] if batch or heads differ: all heads of sentence 0 first, then all heads of sentence 1.
# Translate our masks.
#
# **What comes in:** `mask`, a bool array, True = may attend, of shape [T_q, T_k] or [B, H, T_q, T_k].
# It may differ from head to head.
#
# **What goes out:** a new bool array, True = blocked, of shape [T_q, T_k] or [B * H, T_q, T_k].
#
# Of the conventions that the module accepts, this task wants the boolean one, no float bias.
#
# <details><summary>Hint 1</summary>
#
# Two things change, the meaning of True and the number of axes, and they have nothing to do with each other.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The neighbours in memory of a [B, H, T_q, T_k] array: which index moves fastest among the first two?
#
# </details>


# %% exercise="4.4" answer="for_multihead_attention" points=2 minutes=8 difficulty=2 path="stretch"
def for_multihead_attention(mask):
    """Our mask as the `attn_mask` of nn.MultiheadAttention.

    mask: bool [T_q, T_k] or [B, H, T_q, T_k], True = may attend.
    Returns bool [T_q, T_k] or [B * H, T_q, T_k], True = blocked.
    """
    ### BEGIN SOLUTION
    *batch_and_heads, _, _ = mask.shape
    if batch_and_heads:
        mask = np.concatenate(mask)  # sentence after sentence, each with all its heads
    return ~mask
    ### END SOLUTION


# %% tags=["check"]
check("4.4", for_multihead_attention)

# %% [markdown]
# ## 4.5 The shape flow from memory
#
# A layer reads B = 2 sentences of T = 7 tokens and has H = 3 heads.
# Queries and keys have $d_k$ = 4 numbers a head, but values have $d_v$ = 5.
# Sketch the way from the projections to the merged output, and write down the shape at every station.
#
# **What goes out:** `SHAPES`, a dict from these names to tuples of ints:
#
# | name | what it is |
# |---|---|
# | `"q"` | the queries, split into heads, ready for the scores |
# | `"k_transposed"` | the keys as they enter `q @ k_transposed` |
# | `"scores"` | the scores |
# | `"causal_mask"` | the smallest causal mask with all four axes that fits the scores |
# | `"padding_mask"` | the smallest mask with all four axes that hides padded *keys*, sentence by sentence |
# | `"weights"` | the weights after softmax |
# | `"output"` | weights @ v |
# | `"merged"` | the output with its heads laid side by side, three axes |
#
# "Smallest" means: an axis on which the mask does not depend has length 1.
#
# <details><summary>Hint 1</summary>
#
# In a matrix product, the last axis of the left factor meets the last but one of the right factor, and both disappear.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# For each of the two masks, ask four times: would its cells be other ones for another sentence, head, query, key?
#
# </details>

# %% exercise="4.5" answer="SHAPES" points=2 minutes=8 difficulty=1 path="stretch"
### BEGIN SOLUTION
SHAPES = {
    "q": (2, 3, 7, 4),
    "k_transposed": (2, 3, 4, 7),
    "scores": (2, 3, 7, 7),
    "causal_mask": (1, 1, 7, 7),
    "padding_mask": (2, 1, 1, 7),
    "weights": (2, 3, 7, 7),
    "output": (2, 3, 7, 5),
    "merged": (2, 7, 15),
}
### END SOLUTION

# %% tags=["check"]
check("4.5", SHAPES)

# %% [markdown]
# # Questions
#
# No points.
# Answer first, read the explanation then: each option has one.

# %% [markdown]
# ## 4.A One mask, many grids
#
# Why can a mask of shape [1, 1, T, T] work with scores of shape [B, H, T, T]?
#
# - **a** It cannot; it must always be copied to [B, H, T, T] first.
# - **b** Axes of length 1 are repeated by broadcasting without a copy, and the causal rule depends on neither sentence nor head.
# - **c** Because PyTorch reads only the first sentence's mask anyway.
# - **d** Because B and H are 1 inside each thread of the GPU.

# %% tags=["check"]
ask("4.A", "")  # your letter

# %% [markdown]
# ## 4.B Three axes
#
# Your mask has shape [B, T, T] and differs from sentence to sentence.
# The scores have shape [B, H, T, T], with B = H = 8.
# What happens?
#
# - **a** An error about shapes.
# - **b** The right thing: broadcasting adds the axis of heads.
# - **c** No error; mask b is used by head b, in all sentences alike.
# - **d** No error; only the first mask is used.

# %% tags=["check"]
ask("4.B", "")  # your letter

# %% [markdown]
# ## 4.C The grids between
#
# In the flow from Q and K to the output, T stands twice in the shape of the scores, [B, H, T, T].
# Over which axis does the last product, weights @ v, sum?
#
# - **a** The queries.
# - **b** The keys.
# - **c** The heads.
# - **d** The sentences.

# %% tags=["check"]
ask("4.C", "")  # your letter

# %% [markdown]
# ## 4.D Glued without looking
#
# Somebody merges contiguous heads of shape [B, H, T, d] with `y.view(B, T, C)`.
# Which test finds it?
#
# - **a** The shape of the output.
# - **b** The training loss, which goes up.
# - **c** Changing one token and looking which outputs move.
# - **d** Checking that the mask is lower triangular.

# %% tags=["check"]
ask("4.D", "")  # your letter

# %% [markdown]
# ## 4.E Padded on the left
#
# A sentence gives other predictions alone than padded on the left, although the padded keys are masked on the right axis.
# What is missing?
#
# - **a** A mask on the padded queries.
# - **b** Position embeddings that count from the first real token.
# - **c** Nothing; padding always changes the predictions a little.
# - **d** Another filler than word 0.

# %% tags=["check"]
ask("4.E", "")  # your letter

# %% [markdown]
# ## 4.F Which triangle?
#
# For `nn.MultiheadAttention`, a source builds `torch.triu(torch.ones(T, T, dtype=torch.bool), diagonal=1)` and passes it as `attn_mask`.
# For `F.scaled_dot_product_attention` it passes the same tensor.
# Who is causal?
#
# - **a** Both.
# - **b** Only the module.
# - **c** Only the function.
# - **d** Neither.

# %% tags=["check"]
ask("4.F", "")  # your letter
