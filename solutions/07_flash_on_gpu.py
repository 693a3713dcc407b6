# %% [markdown]
# # 7. Flash on GPU: exercises
#
# [Chapter 7](../notebooks/07_flash_on_gpu.ipynb) in your own code: softmax in pieces, tiles counted, attention without the big matrix, and the loop of a GPU kernel.
# No GPU is needed: the kernel of the last exercise runs in Triton's interpreter.
# Run a check as often as you like: it explains what it sees, and nothing is counted but your last answer.
# Your answers may use NumPy and torch (and Triton in 7.5), but nothing from `course_lib`.

# %%
import numpy as np
import torch

from course_lib.checks import ask, check

# %% [markdown]
# ## 7.1 Softmax in pieces
#
# A row of scores arrives in blocks, and no block is kept.
# For each query row we hold three things about all scores seen so far:
#
# - `m`: the largest score,
# - `l`: the sum of `exp(score - m)`,
# - `acc`: the sum of `exp(score - m) * value`, a vector.
#
# When all blocks have been seen, `acc / l` is the output of attention.
#
# Write `online_softmax_update(m, l, acc, scores, values)`, which takes in one more block.
#
# - `m` and `l`: NumPy float64, shape [Tq]; `acc`: shape [Tq, d].
# - `scores`: NumPy float64, shape [Tq, Tk], Tk at least 1: the scores of the new block, scaled already. Blocked cells hold -inf.
# - `values`: NumPy float64, shape [Tk, d].
# - returns the new `(m, l, acc)`, in the same shapes. Leave what came in as it was.
#
# Before the first block, `m` is -inf, and `l` and `acc` are 0.
# A block may show nothing to a row (all its scores are -inf), even the first one: then the row's three things stay exactly as they were, and nothing turns into NaN.
# Scores may be large (1000 and more, of either sign): no `exp` may overflow.
#
# <details><summary>Hint 1</summary>
#
# If the largest score grows from `m` to `new_m`, everything that was summed under `m` has to be measured from `new_m`.
# By which factor does `exp(score - m)` change?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The one dangerous case is `new_m = -inf`: then `score - new_m` is `-inf - -inf`, which is NaN.
# There, subtract some finite number instead: `exp(-inf - 0)` is 0, which is just what you want.
#
# </details>


# %% exercise="7.1" answer="online_softmax_update" points=3 minutes=15 difficulty=2 path="core"
def online_softmax_update(m, l, acc, scores, values):
    """Take one block of scores and values into the running softmax of each row.

    m, l: [Tq]; acc: [Tq, d]; scores: [Tq, Tk]; values: [Tk, d]. Returns the new (m, l, acc).
    """
    ### BEGIN SOLUTION
    new_m = np.maximum(m, scores.max(axis=1))
    base = np.maximum(new_m, np.finfo(float).min)  # nothing seen: any finite number will do
    shrink = np.exp(m - base)  # what was summed under the old maximum
    p = np.exp(scores - base[:, None])
    return new_m, l * shrink + p.sum(axis=1), acc * shrink[:, None] + p @ values
    ### END SOLUTION


# %% tags=["check"]
check("7.1", online_softmax_update)

# %% [markdown]
# ## 7.2 How many tiles?
#
# The scores of `n` tokens under the causal mask are cut into tiles of `block` rows and `block` columns, beginning at the top left.
# If `block` does not divide `n`, the last row and the last column of tiles are smaller: only cells that exist count.
# A tile is
#
# - **full** if all of its cells are visible,
# - **empty** if none is,
# - **partial** otherwise.
#
# Write `count_tiles(n, block)`.
#
# - `n` and `block`: integers of at least 1; `block` may be larger than `n`.
# - returns a dict with the keys `"full"`, `"partial"` and `"empty"`, each an integer.
#
# The mask itself must not be built: for 100,000 tokens it would have ten billion cells.
# (The checks measure the memory that you use.)
#
# <details><summary>Hint 1</summary>
#
# Draw `n = 5, block = 2`. Which tiles does the diagonal cross?
# Look closely at the last one.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# With `r` rows of tiles there are `r * r` tiles, and `r` of them on the diagonal.
# When is a tile on the diagonal not partial?
#
# </details>


# %% exercise="7.2" answer="count_tiles" points=2 minutes=10 difficulty=2 path="core"
def count_tiles(n, block):
    """Tiles of a causal mask: {"full": ..., "partial": ..., "empty": ...}."""
    ### BEGIN SOLUTION
    rows = len(range(0, n, block))
    below = sum(range(rows))  # row i has i tiles below the diagonal; above it are as many
    single = rows if block == 1 else n % block == 1  # diagonal tiles of one cell, its own
    return {"full": below + single, "partial": rows - single, "empty": below}
    ### END SOLUTION


# %% tags=["check"]
check("7.2", count_tiles)

# %% [markdown]
# ## 7.3 Attention without the big matrix
#
# Write `flash_attention(q, k, v, block)`: causal attention, computed tile by tile, in NumPy.
#
# - `q`: NumPy float32 or float64, shape [Tq, d]; `k`: shape [Tk, d]; `v`: shape [Tk, dv], of the same type. Tq is at least 1 and at most Tk.
# - The queries are the *last* Tq of the Tk positions: the last query sees all keys.
# - `block`: an integer of at least 1: rows and columns of a tile. It need not divide anything.
# - returns the output, shape [Tq, dv], floating. Scores are divided by the square root of d.
#
# What makes it *flash*:
#
# - **Memory.** On top of what comes in, at most eight arrays of shape [block, block] (float64) and four of the size of `q` may exist at any time. The checks measure it: neither the scores of all pairs nor those of a whole row of tiles fit.
# - **Work.** A tile in which everything is in the future of its queries is not computed. The checks put NaN into keys and values that no query of a tile may see; they must not come out.
#
# Scores may be large (1000 and more).
#
# <details><summary>Hint 1</summary>
#
# Two loops: over blocks of queries, and inside over blocks of keys.
# Which position in the text has row `i` of `q`?
# Where may the inner loop stop?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The inner loop is 7.1; you may paste your `online_softmax_update` into the answer cell and call it.
# Only tiles that the diagonal crosses need their cells compared, but comparing them always is not wrong.
#
# </details>


# %% exercise="7.3" answer="flash_attention" points=4 minutes=25 difficulty=3 path="stretch"
def flash_attention(q, k, v, block):
    """Causal attention by tiles; q ends the text: [Tq, d], [Tk, d], [Tk, dv] -> [Tq, dv]."""
    ### BEGIN SOLUTION
    offset = len(k) - len(q)  # position of the first query
    outputs = []
    for i in range(0, len(q), block):
        rows = q[i : i + block] / np.sqrt(q.shape[1])
        q_pos = offset + i + np.arange(len(rows))
        m, total, acc = -np.inf, 0.0, 0.0  # NumPy stretches them to the shape of the rows
        for j in range(0, q_pos[-1] + 1, block):
            s = rows @ k[j : j + block].T
            s[j + np.arange(s.shape[1]) > q_pos[:, None]] = -np.inf
            new_m = np.maximum(m, s.max(axis=1, keepdims=True))  # key 0 is seen by all: finite
            s = np.exp(s - new_m)
            shrink = np.exp(m - new_m)
            total = total * shrink + s.sum(axis=1, keepdims=True)
            acc = acc * shrink + s @ v[j : j + block]
            m = new_m
        outputs.append(acc / total)
    return np.concatenate(outputs)
    ### END SOLUTION


# %% tags=["check"]
check("7.3", flash_attention)

# %% [markdown]
# ## 7.4 What a training step costs
#
# The library counts the operations of the forward pass.
# You count a whole training step of one attention layer with Flash: forward *and* backward.
#
# For each head, the forward pass needs two matrix products: $S = Q K^\top$, and $O = P V$ with the weights $P$.
# It does not keep $S$ or $P$, so the backward pass, which gets $dO$ and returns $dQ$, $dK$ and $dV$, makes $S$ once more, and then needs $dV = P^\top dO$, $dP = dO\, V^\top$, $dQ = dS\, K$ and $dK = dS^\top Q$.
#
# Write `attention_flops(n, d, heads, batch, causal)`.
#
# - `n`: tokens; `d`: numbers a head, in queries, keys and values alike; `heads`; `batch`: sequences. All integers of at least 1.
# - `causal`: True or False. If True, only visible pairs of a query and a key cost anything, and they are counted exactly: not as "half of $n^2$".
# - returns an integer: the operations of all these matrix products, a multiplication and the addition that follows counting as two. Softmax, scaling and everything else are left out.
#
# <details><summary>Hint 1</summary>
#
# Take one head and one visible pair of a query and a key.
# What does each of the products do for this pair?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# In every one of the products, a pair costs d multiplications and d additions.
# Count the products once more, and count the visible pairs on paper for n = 3.
#
# </details>


# %% exercise="7.4" answer="attention_flops" points=2 minutes=10 difficulty=2 path="stretch"
def attention_flops(n, d, heads, batch, causal):
    """Operations of one training step, forward and backward, of Flash attention: an integer."""
    ### BEGIN SOLUTION
    pairs = n * (n + 1) // 2 if causal else n * n
    products = 2 + 5  # forward, backward
    return products * 2 * d * pairs * heads * batch
    ### END SOLUTION


# %% tags=["check"]
check("7.4", attention_flops)

# %% [markdown]
# ## 7.5 The loop of a Triton kernel
#
# The cell below holds a kernel for attention with a **sliding window**: a query sees its own token and the `window - 1` tokens before it, and nothing else.
# Everything is there except the loop over the keys.
# One program handles `BLOCK` queries of one head.
#
# Write the loop, in the kernel.
# It finds:
#
# - `q`: [BLOCK, D], the queries of this program; `q_pos`: [BLOCK], their positions; `block`: the number of the program, so that `q_pos` begins at `block * BLOCK`;
# - `k_ptr` and `v_ptr`: where keys and values begin, [heads, n_tokens, D], one row after another; `head`, `d` as `q_at` uses them;
# - `scale`: what the scores are multiplied by; `WINDOW`: at least 1;
# - `peak`, `total`, `acc`: the running softmax (`m`, `l` and `acc` of 7.1), which hold nothing yet. After your loop they must hold everything.
#
# What the answer must do:
#
# - `triton_attention(q, k, v, window)` gets float32 torch tensors [heads, T, D] with D = 16 or 32 and any T of at least 1, and returns the output in the same shape, right to four decimals.
# - Keys that no query of the program sees are not used: neither those behind its last query nor whole blocks before the window of its first. The checks put NaN there.
#
# The lesson's kernel is causal, and its first key is seen by every query.
# Here it is not. What would a row make of a first block in which it sees nothing?
#
# The kernel runs in Triton's interpreter, on the CPU and slowly, because the variable at the top is set before Triton is imported.
# (If you have imported Triton in this session without it, restart the kernel.
# Where there is no Triton, as on macOS and Windows, the check says that it was skipped.)
#
# <details><summary>Hint 1</summary>
#
# Which is the first key that any of the queries `block * BLOCK`, ... sees?
# Which is the last?
# Inside the loop: addresses of keys and values, load, scores, rule, running softmax.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Every query sees itself.
# If the loop begins at the block that holds the queries themselves and walks towards the past, each row has a finite maximum after the first step, and `-inf - -inf` cannot come up.
# (Or guard against it, as in 7.1, with `tl.where`.)
#
# </details>

# %% exercise="7.5" answer="triton_attention" points=4 minutes=30 difficulty=3 path="stretch"
import math
import os
from types import SimpleNamespace

os.environ.setdefault("TRITON_INTERPRET", "1")  # run on the CPU; before the import
try:
    import triton
    import triton.language as tl
except ImportError:
    triton, tl = None, SimpleNamespace(constexpr=int)


def triton_attention(q, k, v, window):
    """Attention over the last `window` tokens: three float32 [heads, T, D] -> [heads, T, D]."""
    heads, n_tokens, D = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    o = torch.empty_like(q)
    programs = (triton.cdiv(n_tokens, 16), heads)
    with np.errstate(invalid="ignore"):  # the interpreter is NumPy; the checks' NaN make it warn
        triton.jit(window_kernel)[programs](
            q, k, v, o, n_tokens, 1 / math.sqrt(D), WINDOW=window, D=D, BLOCK=16
        )
    return o


def window_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    o_ptr,  # [heads, n_tokens, D] each
    n_tokens,
    scale,
    WINDOW: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK queries of one head against the keys in their windows."""
    block, head = tl.program_id(0), tl.program_id(1)
    q_pos = block * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    d = tl.arange(0, D)
    q_at = (head * n_tokens + q_pos[:, None]) * D + d[None, :]  # [BLOCK, D]
    q = tl.load(q_ptr + q_at, mask=q_pos[:, None] < n_tokens, other=0.0)

    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, D], tl.float32)

    ### BEGIN SOLUTION
    first = tl.maximum(block * BLOCK - WINDOW + 1, 0) // BLOCK  # block of the first visible key
    for back in range(block - first + 1):  # from the queries' own block towards the past
        k_pos = (block - back) * BLOCK + tl.arange(0, BLOCK)
        inside = tl.minimum(k_pos, n_tokens - 1)  # beyond the end: blocked, but read from within
        k_at = (head * n_tokens + inside[:, None]) * D + d  # [BLOCK, D]
        k, v = tl.load(k_ptr + k_at), tl.load(v_ptr + k_at)
        s = tl.dot(q, tl.trans(k)) * scale  # [BLOCK, BLOCK]
        ago = q_pos[:, None] - k_pos
        s = tl.where((ago >= 0) & (ago < WINDOW), s, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(s, 1))  # finite: every row sees itself
        p = tl.exp(s - new_peak[:, None])
        shrink = tl.exp(peak - new_peak)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p, v)
        peak = new_peak
    ### END SOLUTION

    o = acc / total[:, None]
    tl.store(o_ptr + q_at, o, mask=q_pos[:, None] < n_tokens)


# %% tags=["check"]
check("7.5", triton_attention)

# %% [markdown]
# ## 7.A Exact or not?
#
# How does the output of Flash attention relate to that of plain attention, which writes the T x T weights to memory?
#
# - **a.** It is an approximation that drops small weights.
# - **b.** It is the same function, up to rounding: softmax is computed in pieces, and the matrix never exists as a whole.
# - **c.** It is the same only without a mask.
# - **d.** It is the same only for the last row.

# %% tags=["check"]
ask("7.A", "")  # your letter

# %% [markdown]
# ## 7.B Half the work, which order of growth?
#
# With a causal mask, a Flash kernel skips the tiles above the diagonal.
# What does that do to the time of attention at length N?
#
# - **a.** It becomes O(N), since each row stops early.
# - **b.** It stays O(N²), because building the mask is O(N²).
# - **c.** It stays O(N²): about half of N² tiles is still a constant times N². What falls is the constant, to (n + 1)/2n for n rows of tiles.
# - **d.** It stays as it was, to the last operation: masked cells are computed and then thrown away.

# %% tags=["check"]
ask("7.B", "")  # your letter

# %% [markdown]
# ## 7.C What was the bottleneck?
#
# Flash attention does *more* operations than plain attention when it trains (it makes the scores twice).
# Why is it faster on a GPU?
#
# - **a.** It uses fewer bits a number.
# - **b.** It moves far fewer bytes: plain attention writes and reads the T x T matrix in the GPU's main memory several times, and waits for that longer than for the arithmetic.
# - **c.** It replaces the exponential by a cheaper function.
# - **d.** It needs no softmax, because the tiles are normalised one by one.

# %% tags=["check"]
ask("7.C", "")  # your letter

# %% [markdown]
# ## 7.D Did Flash run?
#
# You call `F.scaled_dot_product_attention(q, k, v, is_causal=True)` on a GPU.
# How do you know that a Flash kernel ran?
#
# - **a.** It always does, if `is_causal=True`.
# - **b.** It always does, if the GPU is from NVIDIA.
# - **c.** You do not know until you look: the choice depends on device, dtype, head size and mask. Allow one backend only (`sdpa_kernel`) and see whether it complains, or look at the kernels in the profiler.
# - **d.** You compare the outputs: those of Flash differ in the second decimal.

# %% tags=["check"]
ask("7.D", "")  # your letter

# %% [markdown]
# ## 7.E One mask, three optimisations
#
# Which sentence about the causal mask in modern systems is right?
#
# - **a.** It lets Flash skip tiles, it keeps past keys and values unchanged so that a cache stays valid, and a prefix-LM opens it among the tokens of the prefix only.
# - **b.** With a KV cache it must be applied to the cached keys again at every step, or the past leaks.
# - **c.** A prefix-LM needs no mask, because its prefix is known.
# - **d.** Flash makes it unnecessary, because tiles are computed in order.

# %% tags=["check"]
ask("7.E", "")  # your letter
