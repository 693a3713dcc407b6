# %% [markdown]
# # 5. The KV cache: exercises
#
# You build the parts that a model generates with: attention from a cache, two places to keep keys and values, the bill for the memory, and the loop that writes a text.
# All belong to [chapter 5](../notebooks/05_kv_cache.ipynb), and none is spelled out there.
#
# In every exercise arrays come in as NumPy arrays; you may answer with NumPy arrays or torch tensors.
# Leave the arrays that you are given as they are.

# %%
import numpy as np

from course_lib.checks import ask, check

# %% [markdown]
# ## 5.1 One token at a time
#
# A sentence comes in word by word.
# For each position, append its key and its value to what you keep, then let its query attend to everything kept so far, itself included.
# Scores are divided by $\sqrt{d}$, as always.
#
# | | | |
# |---|---|---|
# | in | `q`, `k` | floats `[T, d]`, one row a position, T at least 1 |
# | in | `v` | floats `[T, dv]`; `dv` may differ from `d` |
# | out | | floats `[T, dv]`: row t is the output at position t |
#
# Two things go beyond the loop in the chapter:
#
# - Scores may be in the thousands, of either sign. The outputs must be finite all the same.
# - There is never a T x T table. With 600 positions, the check allows 1.5 MB on top of the inputs.
#
# <details><summary>Hint 1</summary>
#
# At step t only one query is at work, so its scores are a vector with t + 1 entries.
# Which rows of `k` does it need?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# $e^{1000}$ is infinite in any float.
# Softmax gives the same weights if you subtract the same number from all scores of a row; which number makes the largest power $e^0$?
#
# </details>


# %% exercise="5.1" answer="cached_outputs" points=2 minutes=10 difficulty=1 path="stretch"
def cached_outputs(q, k, v):
    """Attention, one position at a time: [T, d], [T, d], [T, dv] -> [T, dv]."""
    ### BEGIN SOLUTION
    k_kept, v_kept = np.empty((0, len(k.T))), np.empty((0, len(v.T)))
    outputs = np.empty(v.shape)
    for t, query in enumerate(q):
        k_kept = np.concatenate([k_kept, k[t : t + 1]])  # [t + 1, d]
        v_kept = np.concatenate([v_kept, v[t : t + 1]])
        scores = k_kept @ query / np.sqrt(len(query))  # [t + 1]
        weights = np.exp(scores - scores.max())
        outputs[t] = weights @ v_kept / weights.sum()
    return outputs
    ### END SOLUTION


# %% tags=["check"]
check("5.1", cached_outputs)

# %% [markdown]
# ## 5.2 A chunk against a cache
#
# One step of a real model: a chunk of M new positions arrives, C positions are already in the cache, and heads share keys (grouped-query attention).
# Return the attention output of the chunk, and the cache as it is after the chunk.
#
# | | | |
# |---|---|---|
# | in | `q_new` | floats `[H, M, d]`: M new queries for each of H query heads, M at least 1 |
# | in | `k_new`, `v_new` | floats `[G, M, d]` and `[G, M, dv]`: G key heads, and G divides H |
# | in | `k_cache`, `v_cache` | floats `[G, C, d]` and `[G, C, dv]`: positions 0 to C - 1; C may be 0 |
# | out | `output` | floats `[H, M, dv]` |
# | out | `k_cache`, `v_cache` | floats `[G, C + M, d]` and `[G, C + M, dv]` |
#
# The three results are a tuple, in this order.
# The new positions are C, C + 1, ..., C + M - 1, and attention is causal: a query sees its own position and all earlier ones.
# Query heads that are neighbours share a key head: with H = 6 and G = 2, heads 0, 1, 2 read key head 0, and heads 3, 4, 5 read key head 1.
# With G = H every head has its own keys.
# Scores are divided by $\sqrt{d}$ and may be in the thousands.
#
# <details><summary>Hint 1</summary>
#
# Draw the mask for C = 2 and M = 3: three rows, five columns.
# Write the *position* of each query beside its row before you fill in a cell.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `np.repeat([0, 1], 3)` and `np.tile([0, 1], 3)` hold the same numbers in different orders.
# Which is the order of the six heads above?
# And which of your arrays should grow by it: what you compute with, or what you return?
#
# </details>


# %% exercise="5.2" answer="attend_chunk" points=4 minutes=20 difficulty=3 path="core"
def attend_chunk(q_new, k_new, v_new, k_cache, v_cache):
    """One chunk of causal attention from a cache -> (output, k_cache, v_cache)."""
    ### BEGIN SOLUTION
    heads, new, d = q_new.shape
    groups, cached, _ = k_cache.shape
    k = np.concatenate([k_cache, k_new], axis=1)  # [G, C + M, d]
    v = np.concatenate([v_cache, v_new], axis=1)

    reads = np.arange(heads) * groups // heads  # the key head of each query head
    scores = q_new @ k[reads].mT / np.sqrt(d)  # [H, M, C + M]
    q_pos = np.arange(cached, cached + new)
    k_pos = np.arange(cached + new)
    scores = np.where(k_pos <= q_pos[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights = weights / weights.sum(axis=2, keepdims=True)
    return weights @ v[reads], k, v
    ### END SOLUTION


# %% tags=["check"]
check("5.2", attend_chunk)

# %% [markdown]
# ## 5.3 A buffer that is allocated once
#
# Write the cache that servers use: all the memory is taken at the beginning, and nothing is copied twice.
#
# - `StaticCache(capacity)`: room for `capacity` positions, at least 1.
# - `append(k, v)`: keep T more positions, T at least 1. `k` is `[H, T, d]`, `v` is `[H, T, dv]`, floats of one dtype. H, d, dv and the dtype are first seen at the first `append`, and stay the same after it. Returns nothing.
# - `view()`: the tuple `(k, v)` of what is held, `[H, S, d]` and `[H, S, dv]`, where S is the number of positions appended so far, in the order in which they came. It is only called once something is held.
#
# And three promises:
#
# - If a chunk does not fit, `append` raises `ValueError`, and the cache is **exactly as it was**: nothing of the chunk is in it, and a smaller chunk that fits is still welcome.
# - What is held does not change when the caller later writes other numbers into the arrays that were handed in. (Loops that reuse their arrays do just that.)
# - Two buffers, of the dtype of the first chunk, are all the memory that it takes: no second copy of them at any time, not in `append` and not in `view`. (Copies of the new chunk are fine.)
#
# <details><summary>Hint 1</summary>
#
# You know the capacity at once, but H, d, dv and the dtype only when the first chunk arrives.
# When can the buffers be made?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Ask whether the chunk fits before you change anything at all.
# And note that a slice of an array is a window into it, not a copy: that is what `view` wants, and what the caller's arrays must not become.
#
# </details>


# %% exercise="5.3" answer="StaticCache" points=4 minutes=15 difficulty=2 path="core"
class StaticCache:
    """Keys and values of up to `capacity` positions, in buffers that are made once."""

    def __init__(self, capacity):
        ### BEGIN SOLUTION
        self.capacity = capacity
        self.length = 0
        self.k = None
        ### END SOLUTION

    def append(self, k, v):
        """Keep k [H, T, d] and v [H, T, dv]; ValueError if they do not fit."""
        ### BEGIN SOLUTION
        end = self.length + k.shape[1]
        if end > self.capacity:
            raise ValueError("the chunk does not fit into the cache")
        if self.k is None:  # a slot that is read before it is written to will show as NaN
            self.k, self.v = (
                np.full_like(x, np.nan, shape=(len(x), self.capacity, x.shape[2])) for x in (k, v)
            )
        self.k[:, self.length : end] = k
        self.v[:, self.length : end] = v
        self.length = end
        ### END SOLUTION

    def view(self):
        """(k, v) of what is held, without copying."""
        ### BEGIN SOLUTION
        return self.k[:, : self.length], self.v[:, : self.length]
        ### END SOLUTION


# %% tags=["check"]
check("5.3", StaticCache)

# %% [markdown]
# ## 5.4 A ring
#
# With a sliding window of `window` positions, older ones are never asked for again.
# Write a cache that keeps the last `window` positions and forgets the others.
#
# - `RingCache(window)`, `window` at least 1.
# - `append(k, v)`: T more positions, T at least 1, and T may be *larger than the window*. Shapes as in 5.3: `[H, T, d]` and `[H, T, dv]`. Returns nothing, and never overflows.
# - `view()`: the tuple `(k, v)` of the positions held, **oldest first**. As long as fewer than `window` positions have come in, it holds just those. It is only called once something is held.
#
# The order is where this differs from the ring in the chapter, whose `view` shows slots as they lie in memory.
#
# What is held does not change when the caller writes into the arrays that were handed in.
# Memory does not grow with the length of the text.
#
# <details><summary>Hint 1</summary>
#
# Let a window of 3 run on paper for seven positions.
# Which slot does each position go to, and where does the oldest one lie at the end?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# If you know how many positions have come in, you know which positions are held.
# If you know a position, you know its slot.
#
# </details>


# %% exercise="5.4" answer="RingCache" points=3 minutes=15 difficulty=2 path="stretch"
class RingCache:
    """Keys and values of the last `window` positions."""

    def __init__(self, window):
        ### BEGIN SOLUTION
        self.window = window
        self.seen = 0
        self.k = None
        ### END SOLUTION

    def append(self, k, v):
        """Keep the last positions of all so far; k is [H, T, d] and v [H, T, dv]."""
        ### BEGIN SOLUTION
        if self.k is None:
            self.k, self.v = (
                np.full_like(x, np.nan, shape=(len(x), self.window, x.shape[2])) for x in (k, v)
            )
        for t in range(k.shape[1]):
            slot = self.seen % self.window
            self.k[:, slot] = k[:, t]
            self.v[:, slot] = v[:, t]
            self.seen += 1
        ### END SOLUTION

    def view(self):
        """(k, v) of the positions held, oldest first."""
        ### BEGIN SOLUTION
        positions = np.arange(self.seen - self.window, self.seen)
        slots = positions[positions >= 0] % self.window
        return self.k[:, slots], self.v[:, slots]
        ### END SOLUTION


# %% tags=["check"]
check("5.4", RingCache)

# %% [markdown]
# ## 5.5 The bill
#
# How many bytes do the keys and values of a model take?
# Write the function, so that you can check the next model card that you read.
#
# All six arguments are integers:
#
# - `layers` of the model, each with its own attention;
# - `kv_heads`, the heads that have keys and values *of their own* (under grouped-query attention there are fewer of them than query heads);
# - `head_dim`, the numbers in one key, and in one value;
# - `tokens` held for each text (0 is possible);
# - `batch`, the number of texts;
# - `bytes_per_value`: 4 for float32, 2 for bfloat16, 1 for 8-bit.
#
# Return the exact number of bytes, an `int`, for caches of any size.
#
# <details><summary>Hint 1</summary>
#
# Start with one token in one layer and one head.
# What is kept of it?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Test yourself on GPT-2 small: 12 layers, 12 heads, head size 64.
# The chapter's table says 36 KiB a token in bfloat16, and 1 KiB is 1,024 bytes.
#
# </details>


# %% exercise="5.5" answer="kv_cache_bytes" points=2 minutes=5 difficulty=1 path="core"
def kv_cache_bytes(layers, kv_heads, head_dim, tokens, batch, bytes_per_value):
    """Bytes of the keys and values of all layers, an int."""
    ### BEGIN SOLUTION
    return 2 * layers * kv_heads * head_dim * tokens * batch * bytes_per_value
    ### END SOLUTION


# %% tags=["check"]
check("5.5", kv_cache_bytes)

# %% [markdown]
# ## 5.6 The loop that writes
#
# Here is a model that keeps its own cache: `step(tokens)` takes the token numbers that follow on everything it has been fed so far, as a list of ints, and returns the logits after the last of them, a NumPy array `[V]`.
# It never forgets, and you cannot take anything back.
#
# Write `generate(step, prompt, n)`: continue the prompt by n tokens, always taking the token with the largest logit.
#
# | | | |
# |---|---|---|
# | in | `step` | the model, with an empty cache |
# | in | `prompt` | a list of at least one int; leave it as it is |
# | in | `n` | how many new tokens, at least 0 |
# | out | | a list of the n *new* ints, without the prompt |
#
# The check keeps an account of what the model is fed: **every token of the prompt exactly once and in order, then every new token exactly once, except the last one**, which nobody needs to read.
# You may feed the prompt in one call or in several.
#
# <details><summary>Hint 1</summary>
#
# After the prompt has been fed, you hold logits.
# What do you know then, and what does the model not know yet?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Keep two things apart: what has been written, and what has not been fed yet.
# The second is the prompt at first, and a single token ever after.
#
# </details>


# %% exercise="5.6" answer="generate" points=3 minutes=10 difficulty=2 path="stretch"
def generate(step, prompt, n):
    """The n tokens that follow the prompt, greedily; a list of ints."""
    ### BEGIN SOLUTION
    written, unread = [], prompt
    for _ in range(n):
        logits = step(unread)
        unread = [np.argmax(logits)]
        written.extend(unread)
    return written
    ### END SOLUTION


# %% tags=["check"]
check("5.6", generate)

# %% [markdown]
# ## 5.A Why does BERT have no KV cache?
#
# A causal model stores keys and values while it writes.
# BERT, with the same layers and no mask, cannot do so when a sentence grows. Why not?
#
# - **a.** BERT's keys are larger, because they describe the whole sentence.
# - **b.** In BERT, each new word changes what all earlier words have become, so their stored keys would be out of date from the second layer on.
# - **c.** BERT has no queries for single words.
# - **d.** It could; nobody needs it, because BERT does not write.

# %% tags=["check"]
ask("5.A", "")  # your letter

# %% [markdown]
# ## 5.B "O(1) instead of O(n)"
#
# One of the course's sources says that the cache makes generation "O(1) per step instead of O(n)", another that it goes "from O(t²) to O(t)".
# What is true of one step at position t, with a cache?
#
# - **a.** The step is O(1): one token goes in, one comes out.
# - **b.** The step computes O(1) new keys and values, and its attention takes O(t).
# - **c.** Everything in the step is O(t).
# - **d.** Its attention takes O(t²), but with a small constant.

# %% tags=["check"]
ask("5.B", "")  # your letter

# %% [markdown]
# ## 5.C One query and is_causal=True
#
# 900 keys are cached, one query arrives, and a colleague calls PyTorch's `scaled_dot_product_attention(q, k, v, is_causal=True)` with the 901 keys.
# Which keys does the query see?
#
# - **a.** All 901, as it should.
# - **b.** Key 0 only.
# - **c.** Key 900 only, which is itself.
# - **d.** None: the call is an error.

# %% tags=["check"]
ask("5.C", "")  # your letter

# %% [markdown]
# ## 5.D Is the mask unnecessary at inference?
#
# "At inference the mask is unnecessary, because future tokens do not exist yet."
# When is that safe to believe?
#
# - **a.** Always: generation has no future.
# - **b.** When exactly one token is fed to a cache that holds the rest, with no padding and no window.
# - **c.** When the model was trained with the mask, because it has learned not to look.
# - **d.** In the prompt, but not after it.

# %% tags=["check"]
ask("5.D", "")  # your letter

# %% [markdown]
# ## 5.E "93% smaller"
#
# A source writes out the cache of DeepSeek-V3 with 128 key heads, and says that latent attention makes it 93% smaller.
# The 93.3% come from the DeepSeek-V2 paper. What do they compare?
#
# - **a.** Latent attention with multi-head attention of the same model.
# - **b.** DeepSeek-V2 as it is deployed with DeepSeek 67B, an older model with 8 key heads and more layers.
# - **c.** 8-bit numbers with 32-bit numbers.
# - **d.** A context of 128,000 tokens with one of 8,000.

# %% tags=["check"]
ask("5.E", "")  # your letter

# %% [markdown]
# ## 5.F Two tokens ahead
#
# DeepSeek-V3 also learns to predict the token after the next.
# The output in row t of that module depends on tokens 0 to t + 1. Does it break the autoregressive contract?
#
# - **a.** Yes: row t may depend on tokens up to t only.
# - **b.** No, because the module is only used in training, where the contract does not hold.
# - **c.** No: row t predicts token t + 2, and uses only tokens before that one.
# - **d.** Only if the latent cache is used at the same time.

# %% tags=["check"]
ask("5.F", "")  # your letter
