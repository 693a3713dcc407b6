# %% [markdown]
# # 7. Flash on GPU
#
# For 32,768 tokens and 32 heads, the matrix of weights of *one* layer fills 69 GB in half precision, and yet models of that length run.
# They never make the matrix.
# This chapter computes exact attention tile by tile, first by hand, then in NumPy, in torch, and in a GPU kernel, and finds out what that saves and what it does not.

# %% [markdown]
# ## What you will be able to do
#
# - Say why a kernel that does *the same* operations can be many times faster: count bytes, and read a roofline.
# - Compute a softmax whose numbers arrive in pieces, and find the three classic mistakes in somebody else's.
# - Count the tiles that a mask costs, and say what "causal is twice as fast" is worth at your length.
# - Read, run and test a Flash kernel in Triton, forward and backward, on a computer without a GPU.
# - Find out which kernel your call of `scaled_dot_product_attention` really takes, and why.
#
# **Before you start.** [Chapter 3](03_mask_before_softmax.ipynb) (the five steps, stable softmax) and [chapter 6](06_prefix_lm.ipynb) (tiles: EMPTY, PARTIAL, FULL).
# For the section on gradients you should know what a chain rule is.
# No GPU is needed: Triton brings an interpreter, and what needs a GPU says so.

# %%
import time
import tracemalloc
import warnings

import numpy as np
import torch
import torch.nn.functional as F

from course_lib.flash import triton_device

ON_GPU = torch.cuda.is_available()
device, where = triton_device()  # must be asked before Triton is imported
try:
    import triton
    import triton.language as tl
except ImportError:  # there are no wheels for macOS and Windows

    class triton:  # so that kernels can be written down, though not run
        jit = staticmethod(lambda function: function)

    class tl:
        constexpr = None


HAVE_TRITON = hasattr(triton, "cdiv")

from course_lib.attention import attention
from course_lib.costs import (
    attention_bytes,
    attention_flops,
    causal_tile_share,
    matrix_bytes,
    roofline,
)
from course_lib.example import TOKENS, K, Q, V
from course_lib.explorers import FlashExplorer
from course_lib.figures.flash import (
    gpu_view,
    recorded,
    roofline_view,
    speed_view,
    steps_view,
    walk_view,
)
from course_lib.flash import (
    available_kernels,
    sdpa_kernel_used,
    tiled_attention_numpy,
    tiled_attention_torch,
)
from course_lib.gpt import GPT, GPTConfig
from course_lib.leaks import LeakError, assert_causal
from course_lib.lesson import expected_error, table
from course_lib.masks import Tile, causal, full, prefix_lm, sinks, sliding_window
from course_lib.trace import trace

torch.set_num_threads(1)

# %% [markdown]
# ## The matrix is the problem
#
# Attention as in chapter 3 makes a matrix of scores and a matrix of weights, T by T for each head.
#
# **Predict.** A model with 32 heads, numbers of 2 bytes.
# How many gigabytes is one such matrix at 1,024 tokens, and at 32,768?

# %%
print("tokens     one matrix of 32 heads     Q, K, V and output together (d = 128)")
for n in (1024, 4096, 32_768, 131_072):
    matrix, rest = matrix_bytes(n, 32, bytes_per_value=2), attention_bytes(n, 128, 32)
    print(f"{n:>7,}  {matrix / 1e9:>14.3f} GB  {rest / 1e9:>26.3f} GB")

# %% [markdown]
# Everything that goes in and comes out grows with T; the matrix grows with its square, and it is only a step on the way.
# One of our source documents says that causal attention needs $O(N^2)$ memory like any other.
# That is true of the five steps as chapter 3 writes them down, not of attention.
#
# ### Bytes, not operations
#
# Memory that is *kept* is one cost.
# The other is memory that is *moved*: a processor can only multiply what it has fetched.
# For one head of size $d$ the two products take $4T^2d$ operations, however they are organised.
# The five steps also write the scores, read them, write the weights and read them again, $4T^2$ numbers; without the matrix, $4Td$ numbers are enough.
#
# The ratio, operations for each byte moved, is the **arithmetic intensity**.

# %%
for n in (1024, 4096, 16_384):
    flops = attention_flops(n, 128)
    with_matrix, without = (attention_bytes(n, 128, tiled=way) for way in (False, True))
    print(
        f"T = {n:>6,}: {flops / with_matrix:>5.0f} operations a byte with the matrix, "
        f"{flops / without:>5.0f} without"
    )

# %% [markdown]
# With the matrix, the intensity stays below $d/2 = 64$ however long the text: twice as many operations, twice as many bytes.
# Without it, it is $T/2$.
#
# What is it good for?
# A machine that can do $P$ operations and move $W$ bytes a second reaches at most $\min(P, \text{intensity} \cdot W)$.
# Drawn over the intensity, that is a slope and a flat top: the **roofline** (Williams et al., 2009).
#
# **Predict.** An H200 is sold with 989 TFLOP/s (dense bfloat16) and 4.8 TB/s.
# Which share of its peak can attention with the matrix reach, at best?

# %%
machines = {  # peak operations a second, bytes a second: NVIDIA's data sheets, not measured here
    "H200 SXM, bf16": (989e12, 4.8e12),
    "A100 SXM 80 GB, bf16": (312e12, 2.039e12),
    "T4, fp16": (65e12, 0.32e12),
}
for name, (peak, bandwidth) in machines.items():
    reach = roofline(64, peak, bandwidth) / peak
    print(f"{name:<21} ridge at {peak / bandwidth:>3.0f} operations a byte; at 64: {reach:.0%}")

# %%
n, d = 4096, 128
roofline_view(
    machines,
    {
        "one new query on a cache": attention_flops(1, d, cached=n) / (2 * 2 * (n + 1) * d),
        "T = 4,096 with the matrix": attention_flops(n, d) / attention_bytes(n, d, tiled=False),
        "T = 4,096 without": attention_flops(n, d) / attention_bytes(n, d),
    },
    "What the data sheets allow",
)

# %% [markdown]
# With the matrix, all three machines wait for memory most of the time, and the figure is generous: it forgets the mask, and a softmax in several passes.
# Without it, the roof is the peak.
# So there is something to gain by moving less, **even if not one operation is saved**.
#
# The line on the left is a step of generation: one query reads the whole cache and does one operation a byte.
# There the slope is the limit, and no way of computing can change it; chapter 5 drew the consequence, fewer bytes in the cache.
#
# There is a reason to doubt that the matrix can be avoided, though.
# A softmax divides by the sum of the *whole* row, and subtracts its maximum first.
# How could one start before the row is complete?

# %% [markdown]
# ## A softmax in pieces
#
# Take the row of "on" from the running example; it may see four keys.
# We look at them two at a time: first The and cat, then sat and on.

# %%
walk = trace(Q, K, V, causal(), TOKENS)
row = TOKENS.index("on")
print(table(walk.scaled[row : row + 1, :4], rows=["scores of on"], columns=TOKENS[:4]))

# %% [markdown]
# After the first two keys we know a maximum, $m = 0.5$, a sum $\ell = e^{0.5 - 0.5} + e^{0.5 - 0.5} = 2$, and a weighted sum of values $a = v_{The} + v_{cat}$.
#
# **Predict.** Then comes a score of 1.
# The new maximum is 1, so everything should have been computed with $e^{s - 1}$ and was computed with $e^{s - 0.5}$.
# By which factor do you mend $\ell$ and $a$, without looking at the old scores again?
#
# <details><summary>Answer</summary>
#
# By $e^{0.5 - 1}$, since $e^{s - 0.5} \cdot e^{0.5 - 1} = e^{s - 1}$.
# One factor a row mends all that was summed, and its exponent is *the old maximum minus the new one*.
#
# </details>
#
# In general, with $s_j$ and $v_j$ the scores and values of the next tile:
#
# $$m' = \max(m, \max_j s_j) \qquad \ell' = e^{m - m'}\,\ell + \sum_j e^{s_j - m'} \qquad a' = e^{m - m'}\,a + \sum_j e^{s_j - m'}\,v_j$$
#
# At the end the output is $a / \ell$.
# That is the *online softmax* (Milakov and Gimelshein, 2018).


# %%
def one_row(s, values, tile, running_max=max, show=False):
    """Softmax(s) @ values, looking at `tile` scores at a time."""
    m, total, acc = -np.inf, s.dtype.type(0), np.zeros(values.shape[1], s.dtype)
    for start in range(0, len(s), tile):
        part = s[start : start + tile]
        new_m = running_max(m, part.max())
        shrink = np.exp(m - new_m)  # 0 the first time: exp(-inf)
        p = np.exp(part - new_m)
        total = shrink * total + p.sum()
        acc = shrink * acc + p @ values[start : start + tile]
        if show:
            print(f"m {m:>4} -> {new_m:<4} old sums times {shrink:.4f}; "
                  f"sum {total:.4f}, acc {table(acc)}")  # fmt: skip
        m = new_m
    return acc / total


by_hand = one_row(walk.scaled[row, :4], V[:4], 2, show=True)
print("output of on:  ", table(by_hand))
print("in one piece:  ", table(walk.output[row]))
print(
    f"by hand, first entry: 1 / (2 + e^-0.5 + e^0.5) = {1 / (2 + np.exp(-0.5) + np.exp(0.5)):.4f}"
)

# %% [markdown]
# Nothing is approximated, and apart from rounding the order does not matter.
# A maximum, a sum and one vector are all that a query has to remember of any number of keys.
#
# ### Three ways to get the maximum wrong
#
# The maximum looks harmless, because in exact arithmetic *any* number can be subtracted.
# Each of the following has been met in kernels that people use.
#
# **Predict.** What does each do to the row below it? (All numbers in float32, where $e^{-104}$ is 0 and $e^{89}$ is infinite.)

# %%
values = np.eye(4, dtype=np.float32)


def forgets_the_old_maximum(m, tile_max):
    return tile_max


def as_in_the_book(m, tile_max):
    return max(m, tile_max)


def zero_if_nothing_was_seen(m, tile_max):
    new_m = max(m, tile_max)
    return new_m if new_m > -np.inf else np.float32(0)


cases = {
    "falls by 200": np.float32([200, 200, 0, 0]),
    "first tile blocked": np.float32([-np.inf, -np.inf, 1, 1]),
    "blocked, then low": np.float32([-np.inf, -np.inf, -200, -200]),
}
with np.errstate(all="ignore"):
    for way in (forgets_the_old_maximum, as_in_the_book, zero_if_nothing_was_seen):
        for name, s in cases.items():
            result = one_row(s, values, 2, way)
            verdict = "right" if np.isclose(result.sum(), 1) else "WRONG"
            print(f"{way.__name__:<25} {name:<19} {table(result, digits=2)}  {verdict}")

# %% [markdown]
# 1. *Forgetting the old maximum* is right as long as the numbers stay small, because the factor mends whatever was subtracted. When scores fall, the factor explodes: infinity divided by infinity. It stood in the example of a kernel language ([tilelang#1148](https://github.com/tile-ai/tilelang/pull/1148)).
# 2. The book's formula fails when **the first tile is blocked as a whole**: $-\infty - (-\infty)$ is NaN. Under a causal mask, walking from left to right, that never happens, since a row's first key is visible; with a sliding window it does. People who add a window to a causal kernel find this out ([FlagAttention#25](https://github.com/flagos-ai/FlagAttention/issues/25), [vllm#4405](https://github.com/vllm-project/vllm/pull/4405)).
# 3. The obvious repair puts 0 in place of the missing maximum, *and keeps it as the maximum*. If all real scores are far below 0, everything underflows, and 0/0 follows. A version of FlashAttention for Hopper, which walks from right to left, did so, and whole heads of such tokens came out as zeros ([flash-attention#2082](https://github.com/Dao-AILab/flash-attention/issues/2082)); another library started from -50,000 instead of $-\infty$, with the same end for rows that lie below ([flashinfer#4267](https://github.com/flashinfer-ai/flashinfer/issues/4267)).
#
# The right repair subtracts 0 while nothing has been seen, but does not *remember* it.
# You will see it below as `shift`.

# %% [markdown]
# ## Tiles
#
# One row at a time would still read all keys once a query.
# So a block of queries walks over the keys together: it loads a tile of keys and values once, and uses it for all its queries.
# The mask of chapter 6 says which tiles are worth visiting.
#
# **Predict.** The running example in tiles of 2 by 2: five queries make three rows of tiles, of three tiles each.
# How many of the nine are never visited?
# For "on": which tile changes its running maximum for the last time?
# Step through.

# %%
FlashExplorer(row="on")

# %% [markdown]
# With more tokens than a tile or two, the pattern is easier to see; the numbers are the order of visits.

# %%
walk_view(causal(), 16, block_q=4, block_k=4, title="causal(), 16 tokens in tiles of 4 by 4")

# %% [markdown]
# **Predict.** With $n$ rows of tiles, how many does the causal mask need, as a share of all $n^2$?
# What is that for 1 row, 4 rows, 64 rows?
#
# <details><summary>Answer</summary>
#
# Row $i$ (from 1) needs $i$ tiles, so $1 + 2 + \dots + n = n(n+1)/2$ of $n^2$: a share of exactly $\frac{n + 1}{2n}$.
# Of these, $n$ lie on the diagonal and are PARTIAL.
#
# </details>

# %%
for blocks in (1, 2, 4, 16, 64):
    tiles = causal().tiles(16 * blocks, block_q=16, block_k=16)
    counted = np.mean(tiles != Tile.EMPTY)
    print(f"{blocks:>3} rows of tiles: {counted:.4f} of the work, (n + 1) / 2n = "
          f"{causal_tile_share(blocks):.4f}; {np.sum(tiles == Tile.PARTIAL)} partial")  # fmt: skip

# %% [markdown]
# "The causal mask halves the work" is a limit.
# A short text in large tiles saves little, a single tile nothing.
# Half of each diagonal tile is computed for nothing, so smaller tiles waste less, and large ones make better use of what they load: a kernel's author has to choose.

# %% [markdown]
# ## Tiled attention from scratch
#
# Everything is there now: a block of queries, the maximum, sum and vector of each, and the mask's verdict on each tile.
# No line mentions "causal"; any rule will do.


# %%
def tiled(q, k, v, mask, tile=16):
    """Attention of one head, [Tq, d], [Tk, d], [Tk, d_v] -> [Tq, d_v] and logsumexp [Tq]."""
    n_queries, n_keys = len(q), len(k)
    q_pos = np.arange(n_keys - n_queries, n_keys)  # the queries are the last positions
    out, lse = np.zeros((n_queries, v.shape[1]), q.dtype), np.empty(n_queries, q.dtype)
    for i in range(0, n_queries, tile):
        rows = slice(i, i + tile)
        q_tile = q[rows] / np.sqrt(q.shape[1])  # scale once, not once a tile
        m = np.full(len(q_tile), -np.inf)
        total, acc = np.zeros(len(q_tile)), np.zeros((len(q_tile), v.shape[1]))
        for j in range(0, n_keys, tile):
            keys = slice(j, j + tile)
            visible = mask.matrix(q_pos[rows], np.arange(n_keys)[keys])  # [Bq, Bk]
            if not visible.any():
                continue  # EMPTY: no loads, no products
            s = q_tile @ k[keys].T  # [Bq, Bk], all that exists of the matrix
            if not visible.all():
                s = np.where(visible, s, -np.inf)  # PARTIAL
            new_m = np.maximum(m, s.max(axis=1))
            shift = np.where(new_m == -np.inf, 0, new_m)  # nothing seen yet: subtract 0
            p = np.exp(s - shift[:, None])
            shrink = np.exp(m - shift)
            total = shrink * total + p.sum(axis=1)
            acc = shrink[:, None] * acc + p @ v[keys]
            m = new_m  # and not shift
        seen = total > 0
        out[rows] = acc / np.where(seen, total, 1)[:, None]  # rows that see nothing stay 0
        with np.errstate(divide="ignore"):
            lse[rows] = np.where(seen, m + np.log(total), -np.inf)
    return out, lse


rng = np.random.default_rng(0)
q, k, v = (rng.normal(size=(83, 8)) for _ in range(3))  # 83 is no multiple of anything
for rule in (
    causal(),
    full(),
    prefix_lm(20),
    causal() & (sliding_window(7) | sinks(2)),
    sliding_window(5),
    ~full(),
):
    right = attention(q, k, v, rule, empty_rows="zeros")[0]
    print(f"{rule!s:<44} equal: {np.allclose(tiled(q, k, v, rule)[0], right, rtol=1e-12)}")
right = attention(q[-9:], k, v, causal())[0]
print("nine queries after 74 cached keys:           equal:",
      np.allclose(tiled(q[-9:], k, v, causal())[0], right))  # fmt: skip
print("the sentence:", np.allclose(tiled(Q, K, V, causal(), 2)[0], walk.output))

# %% [markdown]
# The function returns a second thing, the logarithm of each row's sum, $L = m + \ln \ell$.
# It is one number a row, and from it any weight can be had again: $p_{ij} = e^{s_{ij} - L_i}$.
# The backward pass will live on it.
#
# Does the tester of chapter 1 find a leak?
# And what if we forget the mask on the PARTIAL tiles, which are few?


# %%
def unmasked_diagonal(q, k, v, tile=4):
    """Skips EMPTY tiles, and computes the others as if they were FULL."""
    rounded_up = (np.arange(len(q)) // tile + 1) * tile
    visible = np.arange(len(k))[None, :] < rounded_up[:, None]
    return attention(q, k, v, visible)[0]


x = rng.normal(size=(10, 4))
assert_causal(lambda x: tiled(x, x, x, causal(), 4)[0], x)
print("tiled: no leak found")
with expected_error(LeakError):
    assert_causal(lambda x: unmasked_diagonal(x, x, x), x)

# %% [markdown]
# ### The library's version
#
# `tiled_attention_numpy` is the same walk, made fast: heads and batches, heads that share keys (chapter 5), one buffer that is used again and again, neighbouring tiles merged into one larger product, the mask read once for all heads.
# `tiled_attention_torch` does it in torch and has gradients.

# %%
q4, k4, v4 = (
    rng.normal(size=(2, 6, 50, 8)),
    rng.normal(size=(2, 2, 50, 8)),
    rng.normal(size=(2, 2, 50, 8)),
)  # 6 query heads on 2 key heads
shared = [x.repeat(3, axis=1) for x in (k4, v4)]
right = attention(q4, *shared, causal())[0]
ours = tiled_attention_numpy(q4, k4, v4, causal(), block=16)
in_torch = tiled_attention_torch(*(torch.from_numpy(x) for x in (q4, k4, v4)), block=16)
print("NumPy equal:", np.allclose(ours, right), " torch equal:", np.allclose(in_torch, right))

# %% [markdown]
# ## What it costs, row by row
#
# The source documents compare standard and causal attention in a table.
# Here is ours, with the kernel that makes the difference as a column of its own.
# The bytes were counted above; the other rows are measured below.
#
# | | five steps, no mask | five steps, causal | tiled, causal |
# |---|---|---|---|
# | operations | $4T^2d$ | $4T^2d$: blocked scores are computed, then thrown away | $\frac{n+1}{2n} \cdot 4T^2d$ |
# | time | $O(T^2 d)$ | $O(T^2 d)$ | $O(T^2 d)$ |
# | memory beyond in- and outputs | $O(T^2)$ | $O(T^2)$ | $O(T)$: two numbers a row, and tiles of fixed size |
# | bytes moved, at least | $O(T^2)$ | $O(T^2)$ | $O(Td)$ if keys fit in fast memory, else $O(T^2 d^2 / M)$ for fast memory of $M$ numbers (Dao et al., 2022) |
# | parameters | none | none | none |
# | can keep a cache (chapters 5 and 6) | no | yes | yes |
#
# **Operations.** PyTorch counts the operations of the products as they are made.

# %%
from torch.utils.flop_counter import FlopCounterMode


def operations(run, *arguments):
    with FlopCounterMode(display=False) as counter:
        run(*arguments)
    return counter.get_total_flops()


def five_steps(q, k, v, mask):
    return attention(q, k, v, mask)[0]


def in_tiles(q, k, v, mask):
    return tiled_attention_torch(q, k, v, mask, block=64)


lengths, sizes = np.array([128, 256, 512, 1024]), np.array([8, 16, 32])
counted = {}
for name, run, mask in (
    ("five steps, no mask", five_steps, full()),
    ("five steps, causal", five_steps, causal()),
    ("tiled, causal", in_tiles, causal()),
):
    counted[name] = [
        operations(run, *(torch.zeros(1, 1, t, 16),) * 3, mask) for t in lengths.tolist()
    ]
    by_size = [operations(run, *(torch.zeros(1, 1, 128, d),) * 3, mask) for d in sizes.tolist()]
    power = np.polyfit(np.log(sizes), np.log(by_size), 1)[0]
    numbers = "  ".join(f"{x / 1e6:>8.3f}" for x in counted[name])
    print(f"{name:<20} {numbers}   grows as d^{power:.1f}")
print("(millions, at T =", *lengths.tolist(), end=")\n")
shares = np.array(counted["tiled, causal"]) / counted["five steps, no mask"]
wanted = [causal_tile_share(t // 64) for t in lengths.tolist()]
print(
    "tiled over five steps:", table(shares), " as (n + 1) / 2n says:", np.allclose(shares, wanted)
)

# %% [markdown]
# So three sentences from the documents need an object.
#
# - "Causal masking does not add new computation": true, and in five steps it removes none either.
# - "About 50% fewer operations": in the limit of many tiles, and only for a kernel that skips.
# - "The mask is $O(N^2)$ to construct": a *matrix* is. A kernel that knows its rule compares positions in the diagonal tiles and constructs nothing. (So does our CPU version. Any other rule it asks about every pair, once for all heads and one row of tiles at a time, and keeps nothing of it.)
#
# **Memory.** Python can say how much was allocated at the worst moment of a call.


# %%
def peak_bytes(run, *arguments):
    """The most that NumPy held at one time during a call, its result included."""
    tracemalloc.start()
    run(*arguments)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


peaks = {"five steps": [], "tiled": []}
for n in (512, 1024, 2048):
    a = rng.normal(size=(n, 16))
    peaks["five steps"].append(peak_bytes(five_steps, a, a, a, causal()))
    peaks["tiled"].append(peak_bytes(tiled, a, a, a, causal(), 64))
growth = {name: np.array(x[1:]) / x[:-1] for name, x in peaks.items()}
print("when T doubles, five steps take", table(growth["five steps"], digits=1), "times as much")
print("and tiles at most twice:", bool((growth["tiled"] < 2.1).all()))
print("at T = 2,048 five steps need over 100 times as much:",
      peaks["five steps"][-1] > 100 * peaks["tiled"][-1])  # fmt: skip

# %% [markdown]
# **Parameters.** A mask is computed, not learnt.

# %%
config = GPTConfig(vocab_size=24, context=32, layers=2, heads=2, width=16)
for mask in (causal(), full()):
    model = GPT(config, np.random.default_rng(0), mask=mask)
    print(f"{mask!s:<9} {sum(p.numel() for p in model.parameters()):,} parameters")

# %% [markdown]
# **The cache.** Whether old outputs survive a new token depends on the mask alone, and not on how it is computed.

# %%
for mask in (full(), causal()):
    for name, run in (("five steps", attention), ("tiled", tiled)):
        before, after = (run(q[:n], k[:n], v[:n], mask)[0] for n in (40, 41))
        print(f"{mask!s:<9} {name:<10} 40 outputs survive token 41: "
              f"{np.allclose(before, after[:40])}")  # fmt: skip

# %% [markdown]
# **Time.** Counts are the same everywhere; times are not, so we show a recorded run and let you make your own.
# The recorded one is from `benchmarks/attention.py`: float32, one thread, eight heads of size 64.

# %%
result = recorded("attention")
speed_view(result)

# %% [markdown]
# Times of several runs on the same day differ by some percent, and other processors have other ratios.
# With that in mind:

# %%
ratios = result["ratios"]
print("relative to SDPA's causal kernel (time), at T =", *result["times"])
for name in ("tiled_numpy", "tiled_torch", "sdpa_mask", "naive_numpy", "naive_torch"):
    numbers = "  ".join(f"{ratios[f'{name}_over_sdpa_{n}']:>5.2f}" for n in result["times"])
    print(f"  {name:<12} {numbers}")
masked = [
    t["sdpa mask"]["median_ms"] / t["sdpa full"]["median_ms"] for t in result["times"].values()
]
print("SDPA with a boolean mask over SDPA without one (time)")
print("               " + "  ".join(f"{x:>5.2f}" for x in masked))
print("causal over full (time)")
for name in ("tiled_numpy", "tiled_torch", "sdpa"):
    numbers = "  ".join(f"{ratios[f'{name}_causal_over_full_{n}']:>5.2f}" for n in result["times"])
    print(f"  {name:<12} {numbers}")
tile = result["shape"]["tile"]
shares = [causal_tile_share(int(n) // tile) for n in result["times"]]
print(f"  tiles of {tile} " + "  ".join(f"{x:>5.2f}" for x in shares))

# %% [markdown]
# - A walk over tiles *in NumPy* comes close to PyTorch's fused kernel and leaves NumPy with the matrix far behind: the naive way does about twice the arithmetic, the rest is the way to memory and back. (NumPy and torch multiply with different libraries, which is one reason why "tiled torch" need not be the faster of the two.)
# - The same fused kernel with a boolean mask instead of `is_causal=True` takes longer than with no mask at all: it is given a matrix, and a matrix does not say where it is empty. So the source that calls `is_causal=True` "even faster than the general masked version" is right.
# - Causal over full follows the share of tiles, plus what a call costs in any case, which shows in short texts. "Close to 2x" is a matter of length.
#
# On your machine, at one length (this cell's numbers are not compared):

# %% tags=["nbval-ignore-output"]
q32, k32, v32 = (torch.from_numpy(rng.normal(size=(1, 8, 1024, 64)).astype(np.float32))
                 for _ in range(3))  # fmt: skip
arrays = [x.numpy() for x in (q32, k32, v32)]
runs = {
    "five steps, NumPy": lambda: attention(*arrays, causal()),
    "tiled, NumPy": lambda: tiled_attention_numpy(*arrays, causal()),
    "tiled, torch": lambda: tiled_attention_torch(q32, k32, v32, causal()),
    "SDPA, causal": lambda: F.scaled_dot_product_attention(q32, k32, v32, is_causal=True),
    "SDPA, no mask": lambda: F.scaled_dot_product_attention(q32, k32, v32),
}
best = dict.fromkeys(runs, np.inf)
for _ in range(3):  # taking turns, so that other work on the machine hits all alike
    for name, run in runs.items():
        begin = time.perf_counter()
        run()
        best[name] = min(best[name], 1000 * (time.perf_counter() - begin))
for name, ms in best.items():
    print(f"{name:<18} {ms:7.1f} ms")

# %% [markdown]
# ## The way back
#
# Training needs gradients, and the formulas for them contain the weights, T by T.
# Autograd, led through the five steps, keeps the matrix for that.
# FlashAttention computes it **again**, tile by tile, from $q$, $k$ and the one number a row $L$.
#
# With $P$ the weights, $O$ the output, $dO$ its gradient and $\sigma$ the scale:
#
# $$dV = P^\top dO \qquad dP = dO\,V^\top \qquad dS = P \circ (dP - D) \qquad dQ = \sigma\, dS\,K \qquad dK = \sigma\, dS^\top Q$$
#
# $D$ is the part that comes from the softmax: for each row $D_i = \sum_j P_{ij}\,dP_{ij}$, a sum over *all* keys.
# That would again need the whole row at once.
#
# **Predict.** Insert $dP_{ij} = dO_i \cdot v_j$ and exchange the sums. What is $D_i$ in terms of the output?
#
# <details><summary>Answer</summary>
#
# $D_i = \sum_j P_{ij}\, dO_i \cdot v_j = dO_i \cdot \sum_j P_{ij} v_j = dO_i \cdot O_i$: a dot product of two vectors that we have.
#
# </details>


# %%
def tiled_backward(q, k, v, out, lse, grad, mask, tile=16):
    """Gradients of q, k and v; the weights are made again, one tile at a time."""
    scale, n = 1 / np.sqrt(q.shape[1]), len(q)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    delta = (grad * out).sum(axis=1, keepdims=True)  # D, [T, 1]
    for i in range(0, n, tile):
        for j in range(0, n, tile):
            rows, keys = slice(i, i + tile), slice(j, j + tile)
            visible = mask.matrix(np.arange(n)[rows], np.arange(n)[keys])
            if not visible.any():
                continue
            p = np.exp(q[rows] @ k[keys].T * scale - lse[rows, None])  # weights at once, no max
            p = np.where(visible, p, 0)
            dv[keys] += p.T @ grad[rows]
            ds = p * (grad[rows] @ v[keys].T - delta[rows]) * scale
            dq[rows] += ds @ k[keys]
            dk[keys] += ds.T @ q[rows]
    return dq, dk, dv


grad = rng.normal(size=v.shape)  # what comes from above
leaves = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
for rule in (causal(), full(), sliding_window(5)):
    out, lse = tiled(q, k, v, rule)
    ours = tiled_backward(q, k, v, out, lse, grad, rule)
    by_torch = torch.autograd.grad(attention(*leaves, rule)[0], leaves, torch.from_numpy(grad))
    equal = [np.allclose(a, b) for a, b in zip(ours, by_torch, strict=True)]
    print(f"{rule!s:<18} dq, dk, dv equal to autograd's: {equal}")

# %% [markdown]
# Forward a tile costs two products, backward five: 2.5 times as many operations, though one of the five computes what was known before.
# It pays nevertheless: Dao et al. (2022, figure 2) report for forward and backward together more operations, far fewer bytes, and less time.


# %%
def forward_and_back():
    leaf = torch.zeros(1, 1, 512, 16, requires_grad=True)
    tiled_attention_torch(leaf, leaf, leaf, causal(), block=64).sum().backward()


with torch.no_grad():
    forward = operations(in_tiles, *(torch.zeros(1, 1, 512, 16),) * 3, causal())
print("backward over forward:", (operations(forward_and_back) - forward) / forward)

# %% [markdown]
# ### A backward pass that believed in causality
#
# The fused attention tutorial of Triton, from which many kernels descend, had a switch `causal`.
# The forward pass obeyed it; the backward pass always computed the causal gradient ([triton#4541](https://github.com/triton-lang/triton/issues/4541), with a repair offered in [#5241](https://github.com/triton-lang/triton/pull/5241)).
# Its own test ran with `causal=True` only.
#
# **Predict.** Which of the three gradients are wrong if the forward pass had no mask?
# Will the loss still go down in training?

# %%
out, lse = tiled(q, k, v, full())
right = tiled_backward(q, k, v, out, lse, grad, full())
shipped = tiled_backward(q, k, v, out, lse, grad, causal())  # the switch is ignored
for name, a, b in zip(("dq", "dk", "dv"), right, shipped, strict=True):
    cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    print(f"{name}: equal {np.allclose(a, b)}, cosine with the right one {cosine:.2f}")


class AsShipped(torch.autograd.Function):
    """Forward without a mask, backward causal."""

    @staticmethod
    def forward(ctx, q, k, v):
        out, lse = (torch.from_numpy(x) for x in tiled(q.numpy(), k.numpy(), v.numpy(), full()))
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad):
        arrays = [x.numpy() for x in (*ctx.saved_tensors, grad)]
        return tuple(torch.from_numpy(x) for x in tiled_backward(*arrays, causal()))


few = [x.detach()[:5].clone().requires_grad_() for x in leaves]
with expected_error(RuntimeError):
    torch.autograd.gradcheck(AsShipped.apply, few)
print("ours passes:", torch.autograd.gradcheck(lambda *x: tiled_attention_torch(*x, full()), few))

# %% [markdown]
# All three are wrong, and all three point roughly the right way: nothing crashes, and a loss may well go down.
# `gradcheck` compares with finite differences and finds it at once, if it is run for *every* mask that the forward pass knows.
#
# One more trap, of the test itself.
# A kernel's output is NaN throughout; the test keeps the largest error, starting from 0:

# %%
largest = 0.0
for error in (float("nan"), float("nan")):
    largest = max(largest, error)
print("largest error:", largest, "-> passed" if largest < 1e-4 else "-> failed")
with expected_error(AssertionError):
    assert all(error < 1e-4 for error in (float("nan"), float("nan"))), "an error is not below 1e-4"

# %% [markdown]
# It passed: every comparison with NaN is false, and `max` keeps what it has.
# In just this way the check of a CUDA tutorial accepted a formula from which a reader had cut a term, and whose running sum was always 0: its `fmaxf` takes NaN for nothing ([CUDATutorial#69](https://github.com/PaddleJitLab/CUDATutorial/issues/69)).
# Ask "is the error below the bound?" and not "did I see one above it?".

# %% [markdown]
# ## On a GPU
#
# A GPU has on the order of a hundred processors, each with a little fast memory of its own (up to 228 KB on [Hopper](https://docs.nvidia.com/cuda/hopper-tuning-guide/)) and all sharing a large slow one.
# A **program** of a kernel runs on one of them.
# Triton (Tillet et al., 2019) lets us write that program in Python, in terms of blocks of numbers: `tl.load` fetches a block from slow memory, `tl.dot` multiplies two, `tl.store` writes one back.
# There is no loop over the rows of queries: each block of queries *is* a program, and they all run at once.
#
# Compare with `tiled` line by line.
# Two things are new: addresses are computed by hand, and loads outside the arrays must be masked.

# %%
import math


@triton.jit
def causal_flash_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr,  # where [heads, T, D] tensors begin, rows one after another
    n_queries, n_keys, scale,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one head walk over the keys that they may see."""
    row = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)  # [BLOCK_Q] rows of q
    q_pos = row + (n_keys - n_queries)  # absolute: the queries are the last positions
    head = tl.program_id(1).to(tl.int64)  # 64 bits: head * n_keys * D can pass 2**31
    d = tl.arange(0, D)

    q_at = head * n_queries * D + row[:, None] * D + d[None, :]  # [BLOCK_Q, D] addresses
    q = tl.load(q_ptr + q_at, mask=row[:, None] < n_queries, other=0.0)

    peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)  # running maximum of each row
    total = tl.zeros([BLOCK_Q], tl.float32)  # running sum of exp(score - peak)
    acc = tl.zeros([BLOCK_Q, D], tl.float32)  # running sum of exp(score - peak) * value

    last_visible = tl.program_id(0) * BLOCK_Q + BLOCK_Q - 1 + (n_keys - n_queries)
    for start in range(0, tl.minimum(last_visible + 1, n_keys), BLOCK_K):  # empty tiles: never
        k_pos = start + tl.arange(0, BLOCK_K)  # [BLOCK_K]
        k_at = head * n_keys * D + k_pos[:, None] * D + d[None, :]  # [BLOCK_K, D]
        inside = k_pos[:, None] < n_keys
        k = tl.load(k_ptr + k_at, mask=inside, other=0.0)
        v = tl.load(v_ptr + k_at, mask=inside, other=0.0)

        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [BLOCK_Q, BLOCK_K]
        s = tl.where(k_pos[None, :] <= q_pos[:, None], s, float("-inf"))  # the rule

        new_peak = tl.maximum(peak, tl.max(s, axis=1))
        p = tl.exp(s - new_peak[:, None])  # exactly 0 where blocked
        shrink = tl.exp(peak - new_peak)  # what was summed under the old maximum
        total = total * shrink + tl.sum(p, axis=1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        peak = new_peak

    o = acc / total[:, None]
    tl.store(o_ptr + q_at, o.to(o_ptr.dtype.element_ty), mask=row[:, None] < n_queries)


def causal_flash(q, k, v, block_q=16, block_k=16):
    """q [H, Tq, D], k and v [H, Tk, D] -> [H, Tq, D]; the queries are the last Tq positions.

    D, block_q and block_k are powers of two of at least 16, and Tq is at most Tk.
    float32 or float16; in the interpreter not bfloat16, whose products it gets wrong.
    """
    heads, n_queries, D = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    o = torch.empty_like(q)
    programs = (triton.cdiv(n_queries, block_q), heads)
    causal_flash_kernel[programs](
        q, k, v, o, n_queries, k.shape[1], 1 / math.sqrt(D),
        D=D, BLOCK_Q=block_q, BLOCK_K=block_k,
    )  # fmt: skip
    return o


# %% [markdown]
# Without a GPU that Triton supports, its interpreter runs the same program with NumPy: right, and very slowly, so we use small sizes.

# %% tags=["nbval-ignore-output"]
print(where if HAVE_TRITON else "Triton is not installed here, so its kernels cannot run.")

# %% [markdown]
# **Predict.** Of the lines above, which one makes the kernel causal, and which one makes it *cheap* to be causal?


# %%
def normal(*shape):
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32)).to(device)


def agrees(output, q, k, v, mask):
    """Whether a float32 result is that of attention in float64, to 1e-4."""
    exact = attention(*(x.double() for x in (q, k, v)), mask, empty_rows="zeros")[0]
    return bool((output.double() - exact).abs().max() < 1e-4)


if HAVE_TRITON:
    for n_queries, n_keys in ((32, 32), (45, 45), (7, 50)):
        qt, kt, vt = normal(2, n_queries, 16), normal(2, n_keys, 16), normal(2, n_keys, 16)
        right = agrees(causal_flash(qt, kt, vt), qt, kt, vt, causal())
        print(f"{n_queries} queries, {n_keys} keys: equal to attention in float64: {right}")
else:
    print("Triton is not installed here, so the kernel cannot run; everything below works.")

# %% [markdown]
# Equal outputs on random data say little about leaks (the future could enter with a tiny weight).
# The tester changes one input at a time and looks at what moves.


# %%
def kernel_on_one_sequence(x):
    return causal_flash(x[None], x[None], x[None])[0]


if HAVE_TRITON:
    assert_causal(kernel_on_one_sequence, normal(20, 16), trials=1)
    print("kernel: no leak found in 20 positions")
else:
    print("(needs Triton)")

# %% [markdown]
# The rule is one line, `k_pos <= q_pos`; the bound of the loop makes it cheap: empty tiles are never visited.
#
# ### The length that is no multiple of the tile
#
# 45 keys in tiles of 16 leave 3 keys over the edge.
# The kernel loads zeros for them, and a key of zeros has a score of 0, which is not "blocked": $e^0 = 1$.
#
# **Predict.** Where does our kernel deal with that? What would happen in a copy of it *without* a mask?


# %%
def forgets_the_edge(q, k, v, mask, tile=16):
    """What a kernel computes that pads keys with zeros and asks only the rule."""
    more = -len(k) % tile
    k, v = (np.concatenate([x, np.zeros((more, x.shape[1]))]) for x in (k, v))
    visible = mask.matrix(np.arange(len(q)), len(k))
    return attention(q, k, v, visible)[0]


for n in (80, 83):
    for rule in (causal(), full()):
        wrong = (
            forgets_the_edge(q[:n], k[:n], v[:n], rule) - attention(q[:n], k[:n], v[:n], rule)[0]
        )
        print(f"T = {n}, {rule!s:<8} largest error {np.abs(wrong).max():.4f}")

# %% [markdown]
# Under the causal rule the keys beyond the edge are "in the future" of every real query: the mask hides the mistake.
# With a length that is a multiple of 16 there is no edge.
# Only the fourth case shows it, and tests with round numbers and `causal=True` never will.
# Missing checks of bounds are among the commonest faults of these kernels: [tokamax#316](https://github.com/openxla/tokamax/issues/316) (gradients that are NaN), [jax#27224](https://github.com/jax-ml/jax/issues/27224) (right only where the length is a multiple of the block).
#
# ### From the teaching kernel to the library's
#
# `course_lib.flash.flash_attention` does the same walk.
# What it does in addition, and what each step is for:
#
# | step | why |
# |---|---|
# | FULL tiles without mask arithmetic: the comparison stands behind a branch in the forward pass's one loop over the tiles (a second loop for the PARTIAL ones in the backward pass, and with lists of tiles) | no score is compared where nothing is blocked, and in one loop the flow of tiles from memory does not stop before the diagonal |
# | `exp2` with $\sigma \log_2 e$ folded into one factor | the hardware's instruction is $2^x$; one multiplication less for every score |
# | products in half precision, sums in float32 | tensor cores; see "Half precision" |
# | lists of tiles from `Mask.tiles` | any rule, and the same skipping as for causal |
# | long rows of tiles first | row $i$ of a causal mask has $i$ tiles; starting with the longest keeps all processors busy to the end |
# | TMA descriptors, on Hopper and later | the hardware finds the addresses of a whole tile and its edges, which leaves registers for the sums |
# | tile sizes tried out on the device | the best depend on the size of a head, the precision and the GPU |
# | a backward pass in two kernels | one walks along the rows and sums $dQ$, one along the columns and sums $dK$, $dV$: no two programs add to the same place (on Hopper and later the second may also add to $dQ$, atomically, if that proves faster there) |
# | a kernel for decoding | with one query there is one row of tiles: the *keys* are split over programs, and the pieces are joined by the same rescaling |
#
# What each is worth can only be measured on a GPU; see the last section.
# That they compute the right thing can be checked anywhere:

# %%
if HAVE_TRITON:
    from course_lib.flash import flash_attention, flash_decode

    qg, kg, vg = normal(1, 4, 40, 16), normal(1, 2, 40, 16), normal(1, 2, 40, 16)
    ks, vs = (x.repeat_interleave(2, dim=1) for x in (kg, vg))
    for rule in (causal(), None, causal() & sliding_window(9), prefix_lm(11)):
        right = agrees(flash_attention(qg, kg, vg, rule), qg, ks, vs, rule)
        print(f"{rule!s:<30} 4 heads on 2: {right}")

    sources = [x.clone().requires_grad_() for x in (qg, ks, vs)]
    copies = [x.detach().double().requires_grad_() for x in sources]
    weights = normal(1, 4, 40, 16)
    (flash_attention(*sources, causal()) * weights).sum().backward()
    (attention(*copies, causal())[0] * weights).sum().backward()
    close = [
        bool((a.grad - b.grad).abs().max() < 1e-4) for a, b in zip(sources, copies, strict=True)
    ]
    print("gradients of q, k, v right:", close)
    one = flash_decode(qg[:, :, -1:], kg, vg)
    print("one query on a cache of 40:", agrees(one, qg[:, :, -1:], ks, vs, causal()))
else:
    print("(needs Triton)")

# %% [markdown]
# ## Which kernel ran?
#
# In practice you will call `F.scaled_dot_product_attention`, a front door with several kernels behind it.
# It takes the first one that can do what you ask, and says nothing.
#
# **Predict.** You wanted the fused kernel. Which of these calls do not get it on a CPU?
# (a) `is_causal=True`; (b) a boolean mask; (c) dropout; (d) values shorter than keys; (e) no batch axis.

# %%
x = torch.from_numpy(rng.normal(size=(1, 2, 16, 8)))
calls = {
    "(a) is_causal=True": ((x, x, x), {"is_causal": True}),
    "(b) a boolean mask": ((x, x, x), {"attn_mask": causal().tensor(16)}),
    "(c) dropout": ((x, x, x), {"is_causal": True, "dropout_p": 0.1}),
    "(d) shorter values": ((x, x, x[..., :4]), {"is_causal": True}),
    "(e) [T, d], no batch": ((x[0, 0], x[0, 0], x[0, 0]), {"is_causal": True}),
}
for name, (tensors, options) in calls.items():
    print(f"{name:<21} {sdpa_kernel_used(*tensors, **options)}")

# %% [markdown]
# The last three fall back to the five steps, matrix and all, and the only symptom is time and memory.
# Two ways to know:
#
# - look at the operations that were dispatched, as `sdpa_kernel_used` does (a profiler shows the same names);
# - *demand* a kernel: with `with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):` a call that cannot have it is an error instead of a slow success.

# %%
from torch.nn.attention import SDPBackend, sdpa_kernel

with sdpa_kernel([SDPBackend.FLASH_ATTENTION]), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    F.scaled_dot_product_attention(x, x, x, is_causal=True)
    print("(a) runs")
    with expected_error(RuntimeError):
        F.scaled_dot_product_attention(x, x, x[..., :4], is_causal=True)

# %% [markdown]
# What a CPU has, tried out just now:

# %%
for kernel in available_kernels("cpu"):
    if kernel.name != "Triton":  # its line depends on the machine
        print(kernel)

# %% [markdown]
# `available_kernels()` without an argument tries what *your* machine has, with Triton, and repeats torch's own reasons where a kernel is missing.
# The order in which SDPA prefers them is not always the order of speed, so a benchmark against "SDPA" should name the kernel that it beat.
#
# ### FlexAttention
#
# SDPA knows two masks that are cheap, none and causal; any other is a matrix.
# FlexAttention (Dong et al., 2024; chapter 6) takes the *rule*, finds the tiles, and compiles a kernel that skips the empty ones.
# Compiling costs seconds for the first call and for each new rule or shape, so it pays in training and not in a notebook: we run it uncompiled, where it is right and holds the matrix.

# %%
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

rule = causal() & (sliding_window(6) | sinks(2))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns that it is not compiled
    block_mask = create_block_mask(rule.mask_mod, 1, 1, 16, 16, device="cpu", BLOCK_SIZE=4)
    flexible = flex_attention(x, x, x, block_mask=block_mask)
print("equal to course_lib:", torch.allclose(flexible, attention(x, x, x, rule)[0]))
print(
    "equal to our tiles: ", torch.allclose(flexible, tiled_attention_torch(x, x, x, rule, block=4))
)
share = np.mean(rule.tiles(16, block_q=4, block_k=4) != Tile.EMPTY)
print(f"tiles that a compiled kernel would visit: {share:.0%}")

# %% [markdown]
# ## Half precision
#
# GPU kernels read 16-bit numbers: half the bytes, and tensor cores that multiply them many times as fast.
# float16 has more digits, bfloat16 more range.
#
# **Predict.** Which of these survive: a score of 70,000 in float16; $1 + 1/256$ in bfloat16; the sum of 4,096 ones in float16, added one by one?

# %%
for dtype in (torch.float16, torch.bfloat16):
    ones, total = torch.ones(4096, dtype=dtype), torch.zeros((), dtype=dtype)
    for one in ones:
        total += one
    print(f"{dtype!s:<15} 70,000 -> {torch.tensor(70_000.0).to(dtype).item():<8g} "
          f"1 + 1/256 -> {torch.tensor(1 + 1 / 256).to(dtype).item():<10.4f} "
          f"sum of 4,096 ones -> {total.item():g}")  # fmt: skip

# %% [markdown]
# So kernels multiply in half and **add in float32**: scores, maximum, sum and accumulator.
# The last stop is the sum $\ell$, which grows with T; bfloat16 gets stuck at 256.
# What does it do to the result?
# Our tiles read half precision, compute in float32, and round once at the end; `all in half` rounds after every step.


# %%
def all_in_half(q, k, v, mask):
    s = (q @ k.mT) * q.shape[-1] ** -0.5  # rounded
    s = s.masked_fill(~mask.tensor(q.shape[-2]), -torch.inf)
    e = torch.exp(s - s.amax(-1, keepdim=True))  # rounded
    total = torch.zeros_like(e[..., :1])
    for column in e.split(1, dim=-1):
        total += column  # rounded after every key
    return (e / total) @ v


big = [torch.from_numpy(rng.normal(size=(1, 1, 1024, 32))) for _ in range(3)]
for dtype in (torch.float16, torch.bfloat16):
    half = [t.to(dtype) for t in big]
    exact = attention(*(t.double() for t in half), causal())[0]  # of the rounded inputs
    errors = [
        ((output.double() - exact).abs().max() / exact.abs().max()).item()
        for output in (tiled_attention_torch(*half, causal()), all_in_half(*half, causal()))
    ]
    within, worse = errors[0] < torch.finfo(dtype).eps, errors[1] > 3 * errors[0]
    print(f"{dtype!s:<15} sums in float32: within one rounding: {within}")
    print(f"{'':<15} all in half: more than 3 times as far off: {worse}")

# %% [markdown]
# The error of one rounding is the price of the format; the point is that sums must not add to it.
#
# **On a T4**, the GPU of Colab's free tier (compute capability 7.5).
# None of this has been run by us on a T4; it is what the makers document.
#
# - No tensor cores for bfloat16: use float16. `torch.cuda.is_bf16_supported()` says yes because it counts emulation; ask `is_bf16_supported(including_emulation=False)`.
# - The kernels of [FlashAttention-2](https://github.com/Dao-AILab/flash-attention) and so SDPA's flash kernel want compute capability 8.0 or more, and so does cuDNN's; what is left is EFFICIENT_ATTENTION, which is tiled as well, and MATH.
# - [Triton](https://github.com/triton-lang/triton#compatibility) supports NVIDIA GPUs from 8.0 on. A kernel may compile for a T4; we promise neither that nor its speed.
# - Fast memory is smaller, so large tiles of large heads do not fit.
#
# Everything else of this chapter runs there as on a CPU.

# %% [markdown]
# ## How fast is it on a GPU?
#
# Published numbers first, because they say how far a kernel in Triton can get.
# These are from the FlashAttention-3 paper (Shah et al., 2024; H100 SXM5 80 GB, forward, causal, bfloat16 or float16, $d = 128$), in TFLOP/s; we have not repeated them.
#
# | tokens | FlashAttention-2 | Triton | cuDNN | FlashAttention-3 |
# |---|---|---|---|---|
# | 4,096 | 319 | 353 | 518 | 579 |
# | 8,192 | 333 | 369 | 529 | 602 |
# | 16,384 | 335 | 378 | 539 | 616 |
#
# Two remarks on reading such a table.
# The operations are counted as $4 T^2 d$ a head, *halved* for causal (backward: times 2.5); the exact causal count is a little larger.
# And FlashAttention-2 leaves more than half of this GPU unused: new hardware wants new kernels.

# %%
n = 4096
exact, halved = attention_flops(n, 128, causal=True), attention_flops(n, 128) / 2
print(f"exact causal count over half: {exact / halved:.4f}")
for name, tflops in {"FlashAttention-2": 335, "Triton": 378, "cuDNN": 539, "FA-3": 616}.items():
    print(f"{name:<17} {tflops / 989:.0%} of the data sheet's peak at 16,384 tokens")

# %% [markdown]
# And the kernels of this course, beside the others and step by step:

# %%
gpu_result = recorded("flash_gpu")
if gpu_result is None:
    print("No run on a GPU has been recorded yet, so there is no number to show.")
    print("On a machine with one, `python benchmarks/flash_gpu.py` records it.")
gpu_view(gpu_result) if gpu_result and (gpu_result["forward"] or gpu_result["backward"]) else None

# %%
steps_view(gpu_result) if gpu_result and gpu_result.get("steps") else None

# %% [markdown]
# ## Pause and recall
#
# Answer before you open.
#
# <details><summary>1. Flash attention is faster. Does it compute less?</summary>
#
# Without a mask, no: the same products, and backward even one more.
# It moves fewer bytes.
# With a causal mask it also skips tiles, and computes $(n+1)/2n$ of them.
#
# </details>
#
# <details><summary>2. Is it an approximation?</summary>
#
# No.
# The online softmax is exact; only the order of additions differs.
#
# </details>
#
# <details><summary>3. The running maximum goes from 3 to 5. What happens to the sum and to the accumulator?</summary>
#
# Both are multiplied by $e^{3 - 5}$.
# Forgetting the accumulator, or the wrong sign, $e^{5-3}$, are the common mistakes.
#
# </details>
#
# <details><summary>4. Tiles of 128, a causal text of 256 tokens. How much work is saved?</summary>
#
# A quarter: $n = 2$, and $3/4$ of the tiles are visited.
# "Half" is the common wrong answer.
#
# </details>
#
# <details><summary>5. Why is a first tile that is blocked as a whole dangerous?</summary>
#
# The running maximum is $-\infty$, and $-\infty - (-\infty)$ is NaN.
# Subtract 0 as long as nothing was seen, and keep $-\infty$ as the maximum.
#
# </details>
#
# <details><summary>6. What does the forward pass keep for the backward pass?</summary>
#
# $q$, $k$, $v$, the output, and one number a row: the logarithm of the sum.
# The weights are made again.
#
# </details>
#
# <details><summary>7. Your kernel agrees with the reference for T = 512 and T = 1,024, causal. What has not been tested?</summary>
#
# A length that is no multiple of the tile; no mask; a rule that blocks whole tiles at the start; more keys than queries; gradients; rows that see nothing; large and very negative scores; half precision; and whether NaN would fail the test.
#
# </details>
#
# <details><summary>8. You pass <code>tril</code> as a mask instead of <code>is_causal=True</code>. Same result?</summary>
#
# The same numbers, in about the time of no mask at all: the kernel cannot know which tiles are empty.
# (With as many queries as keys. Otherwise the two differ, chapter 5.)
#
# </details>
#
# <details><summary>9. Does any of this speed up generation with a cache?</summary>
#
# Not by much: one query does one operation a byte, and the bytes of the cache must be read.
# What helps is to split the keys over processors, and to have fewer bytes.
#
# </details>

# %% [markdown]
# ## Summary
#
# - The T x T matrix costs memory and, above all, traffic: with it, attention does at most $d/2$ operations a byte (in 16 bits), and no modern GPU is at its peak there.
# - Online softmax: keep $m$, $\ell$ and $a$; when the maximum moves, multiply by $e^{m - m'}$. Exact.
# - EMPTY tiles are skipped, FULL ones need no mask, PARTIAL ones do. Causal visits exactly $(n+1)/2n$.
# - Backward: keep $L$, make the weights again, $D_i = dO_i \cdot O_i$. Five products for two.
# - A kernel is a program for one block of queries. Its bugs hide behind round lengths, causal masks and tests that NaN passes.
# - SDPA is a front door: name the kernel that you want, or find out which one you got.
#
# **Next:** [appendix C](C_when_one_gpu_is_not_enough.ipynb) spreads one sequence over several machines with the same running maximum, sum and vector; [appendix A](A_mask_bug_museum.ipynb) collects the bugs of all chapters.

# %% [markdown]
# ## References
#
# - T. Dao et al., [FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness](https://arxiv.org/abs/2205.14135), 2022; T. Dao, [FlashAttention-2](https://arxiv.org/abs/2307.08691), 2023; J. Shah et al., [FlashAttention-3](https://arxiv.org/abs/2407.08608), 2024.
# - M. Milakov and N. Gimelshein, [Online normalizer calculation for softmax](https://arxiv.org/abs/1805.02867), 2018; M. N. Rabe and C. Staats, [Self-attention Does Not Need $O(n^2)$ Memory](https://arxiv.org/abs/2112.05682), 2021.
# - S. Williams, A. Waterman and D. Patterson, [Roofline: An Insightful Visual Performance Model for Multicore Architectures](https://doi.org/10.1145/1498765.1498785), Communications of the ACM 52 (4), 2009.
# - P. Tillet, H. T. Kung and D. Cox, [Triton: An Intermediate Language and Compiler for Tiled Neural Network Computations](https://doi.org/10.1145/3315508.3329973), 2019.
# - J. Dong et al., [Flex Attention](https://arxiv.org/abs/2412.05496), 2024.
# - Data sheets: NVIDIA [H200](https://www.nvidia.com/en-us/data-center/h200/) (its 1,979 TFLOP/s are with sparsity; half of it without), [A100](https://www.nvidia.com/en-us/data-center/a100/), [T4](https://www.nvidia.com/en-us/data-center/tesla-t4/).
# - Running maxima gone wrong: [tilelang#1148](https://github.com/tile-ai/tilelang/pull/1148), [FlagAttention#25](https://github.com/flagos-ai/FlagAttention/issues/25), [vllm#4405](https://github.com/vllm-project/vllm/pull/4405), [flash-attention#2082](https://github.com/Dao-AILab/flash-attention/issues/2082), [flashinfer#4267](https://github.com/flashinfer-ai/flashinfer/issues/4267).
# - Gradients, edges and tests: [triton#4541](https://github.com/triton-lang/triton/issues/4541), [triton#5241](https://github.com/triton-lang/triton/pull/5241), [tokamax#316](https://github.com/openxla/tokamax/issues/316), [jax#27224](https://github.com/jax-ml/jax/issues/27224), [CUDATutorial#69](https://github.com/PaddleJitLab/CUDATutorial/issues/69).
#
# One last cell, for those who have a GPU: it checks the kernels there and times them.

# %% tags=["gpu"]
if ON_GPU:
    capability = torch.cuda.get_device_capability()
    kernels_run = HAVE_TRITON and device.type == "cuda"
    good_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if good_bf16 else torch.float16
    print(torch.cuda.get_device_name(), capability, "torch", torch.__version__, dtype)
    for kernel in available_kernels("cuda"):
        print(kernel)
    qh, kh, vh = (torch.randn(1, 16, 4096, 128, device="cuda", dtype=dtype) for _ in range(3))
    exact = attention(*(t[:, :1].double() for t in (qh, kh, vh)), causal())[0]

    def demanded(kind):
        with sdpa_kernel([kind]):
            return F.scaled_dot_product_attention(qh, kh, vh, is_causal=True)

    candidates = {f"SDPA {k.name}": lambda k=k: demanded(k)
                  for k in (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION,
                            SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)}  # fmt: skip
    candidates["SDPA as it chooses"] = lambda: F.scaled_dot_product_attention(
        qh, kh, vh, is_causal=True
    )
    if kernels_run:
        candidates["course_lib"] = lambda: flash_attention(qh, kh, vh, causal())
    for name, run in candidates.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        try:
            error = (run()[:, :1].double() - exact).abs().max().item()
        except RuntimeError as reason:
            print(f"{name:<25} does not run: {str(reason).splitlines()[0]}")
            continue
        megabytes = (torch.cuda.max_memory_allocated() - before) / 1e6
        times = []
        for _ in range(20):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(2_000_000)  # the GPU waits while Python queues the call
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
        ms = float(np.median(times[5:]))
        tflops = attention_flops(4096, 128, 16) / 2 / ms / 1e9
        print(f"{name:<25} {ms:8.3f} ms {tflops:4.0f} TFLOP/s {megabytes:7.0f} MB, "
              f"largest error {error:.0e}")  # fmt: skip
else:
    print("This cell needs a GPU.")
