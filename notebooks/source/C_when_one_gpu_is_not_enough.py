# %% [markdown]
# # C. When one GPU is not enough
#
# Chapter 7 got rid of the T x T matrix.
# What remains grows with T, and for a long enough text it outgrows any single device all the same.
# This appendix spreads one sequence over several processes, finds out why the causal mask makes the obvious split unfair, and mends it by folding the sequence once.
# Everything runs on a laptop; the same code is meant for GPUs.

# %% [markdown]
# ## What you will be able to do
#
# - Merge attention over two disjoint sets of keys, given the output and one number a row from each, and say why that number is needed.
# - Count the work of each rank under the causal mask for any split, and the time that a ring loses to its slowest member.
# - Explain the zigzag split in one line of arithmetic.
# - Run attention over real processes, forward and backward, and check it against one process.
#
# **Before you start.** [Chapter 3](03_mask_before_softmax.ipynb) (the five steps, softmax that subtracts the maximum).
# The online softmax of chapter 7 helps; we build what we need of it again.
# A *rank* is one process of a group, numbered from 0; on a cluster it usually drives one GPU.

# %%
import numpy as np

from course_lib.attention import attention
from course_lib.costs import kv_cache_bytes
from course_lib.figures.ring import ring_view
from course_lib.flash.processes import launch
from course_lib.flash.ring import positions
from course_lib.flash.ring_demo import one_rank
from course_lib.lesson import expected_error, table
from course_lib.masks import causal

# %% [markdown]
# ## What does not fit
#
# **Predict.** A model has 32 layers and 8 key-value heads of 128 dimensions, as Llama 3 8B does, and numbers of 2 bytes.
# A GPU has 80 GB.
# How many tokens of keys and values fit, if nothing else were on it?

# %%
for tokens in (8_192, 131_072, 1_048_576):
    gigabytes = kv_cache_bytes(32, 8, 128, tokens) / 1e9
    print(f"{tokens:>9} tokens: {gigabytes:6.1f} GB of keys and values")
print(f"80 GB hold {80e9 / kv_cache_bytes(32, 8, 128, 1) / 1000:.0f} thousand tokens")

# %% [markdown]
# Training needs more: activations of every layer wait for the backward pass.
# Splitting heads over GPUs helps up to the number of heads; splitting the batch does not help at all when the batch is one long book.
# What is left to split is the sequence.
#
# Most of a transformer does not mind.
# Norms, projections and small networks work on each position by itself, so each rank can do its own positions.
# Attention minds: a query wants keys that live elsewhere.

# %% [markdown]
# ## Attention over part of the keys
#
# Let the queries stay where they are and look at one piece of the keys at a time.
# Here are 12 keys, cut into two pieces, and three queries that may see all of them.

# %%
rng = np.random.default_rng(0)
q, k, v = (rng.normal(size=(n, 4)) for n in (3, 12, 12))
whole, _ = attention(q, k, v)
left, _ = attention(q, k[:5], v[:5])
right, _ = attention(q, k[5:], v[5:])

# %% [markdown]
# **Predict.** Is the whole output the mean of the two?
# Is it the mean weighted by the number of keys, 5 and 7?

# %%
print("largest error of the mean:         ", f"{np.abs((left + right) / 2 - whole).max():.4f}")
print(
    "largest error of the weighted mean:",
    f"{np.abs((5 * left + 7 * right) / 12 - whole).max():.4f}",
)

# %% [markdown]
# Neither.
# Each piece was divided by *its own* sum of exponentials, and the output does not say how large that sum was.
# If $\ell_1$ and $\ell_2$ are the two sums, then
#
# $$ o = \frac{\ell_1\, o_1 + \ell_2\, o_2}{\ell_1 + \ell_2} . $$
#
# So each piece has to hand over one more number a row.

# %%
sums = [np.exp(q @ part.T / 2).sum(axis=1, keepdims=True) for part in (k[:5], k[5:])]  # 2 = sqrt(4)
merged = (sums[0] * left + sums[1] * right) / (sums[0] + sums[1])
print("merged by the sums is right:", np.allclose(merged, whole))

# %% [markdown]
# ### The mistake
#
# That formula works on paper and on this page.
# Let the scores be larger, as they are in a trained model now and then.


# %%
def with_sums(q, k, v, cut):
    """Attention in two pieces, merged by the plain sums of exponentials."""
    pieces = []
    for part in (slice(None, cut), slice(cut, None)):
        e = np.exp(q @ k[part].T / 2)
        pieces.append((e.sum(axis=1, keepdims=True), attention(q, k[part], v[part])[0]))
    (l1, o1), (l2, o2) = pieces
    return (l1 * o1 + l2 * o2) / (l1 + l2)


with np.errstate(over="ignore", invalid="ignore"):
    print("scores times 1:   ", np.isfinite(with_sums(q, k, v, 5)).all())
    print("scores times 1000:", np.isfinite(with_sums(1000 * q, k, v, 5)).all())

# %% [markdown]
# $e^{710}$ is infinite in double precision, and infinity divided by infinity is NaN; in single precision $e^{89}$ is enough.
# A training framework shipped a merge that was not careful enough: its gradients became NaN after some five hundred steps, with ring attention and not without ([InternEvo#316](https://github.com/InternLM/InternEvo/pull/316)).
#
# The cure is the one of chapter 3: never hold a sum of exponentials, hold its logarithm.
# With $L_i = \log \ell_i$ and $L = \log(e^{L_1} + e^{L_2})$, computed as $\max + \log(1 + e^{-|L_1 - L_2|})$, the weights $e^{L_i - L}$ are at most 1.


# %%
def piece(q, k, v, mask=None):
    """(output, log-sum-exp of the scores) over one set of keys."""
    scores = q @ k.T / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    peak = scores.max(axis=1)
    e = np.exp(scores - peak[:, None])
    return e @ v / e.sum(axis=1, keepdims=True), peak + np.log(e.sum(axis=1))


def merge_pieces(o1, L1, o2, L2):
    """Attention over both sets of keys."""
    L = np.logaddexp(L1, L2)
    return o1 * np.exp(L1 - L)[:, None] + o2 * np.exp(L2 - L)[:, None], L


for factor in (1, 1000):
    one, two = (piece(factor * q, k[s], v[s]) for s in (slice(None, 5), slice(5, None)))
    together, _ = merge_pieces(*one, *two)
    right_answer, _ = attention(factor * q, k, v)
    print(f"scores times {factor:<4}:", np.allclose(together, right_answer))

# %% [markdown]
# Merging is associative and does not mind the order, so pieces may arrive one after another, from anywhere.
# That is all the mathematics of this appendix.

# %% [markdown]
# ## A ring, in one process first
#
# Four ranks share a sequence of 16.
# Each keeps its four queries and sends its keys and values to the next rank, which hands them on in the following step.
# After four steps every rank has had every visitor, and nobody ever held more than two pieces of keys.
# This is *ring attention* ([Liu et al., 2023](https://arxiv.org/abs/2310.01889)).
#
# We play all ranks ourselves, one after another.
# The causal rule compares absolute positions, so the same two lines serve every pair of rank and visitor.

# %%
T, W = 16, 4
q, k, v = (rng.normal(size=(T, 4)) for _ in range(3))
right_answer, _ = attention(q, k, v, causal())


def play_ring(owned):
    """Ring attention in one process; `owned` lists the positions of each rank.

    Returns the output and the pairs that were scored, [rank, step].
    """
    out, pairs = np.zeros_like(q), np.zeros((len(owned), len(owned)), int)
    for rank, mine in enumerate(owned):
        o, L = np.zeros((len(mine), 4)), np.full(len(mine), -np.inf)
        for step in range(len(owned)):
            visitor = owned[(rank - step) % len(owned)]
            mask = causal().matrix(mine, visitor)
            pairs[rank, step] = mask.sum()
            rows = mask.any(axis=1)  # the others see nothing of this visitor
            if rows.any():
                new = piece(q[mine][rows], k[visitor], v[visitor], mask[rows])
                o[rows], L[rows] = merge_pieces(o[rows], L[rows], *new)
        out[mine] = o
    return out, pairs


contiguous = [positions(rank, W, T, "contiguous") for rank in range(W)]
out, pairs = play_ring(contiguous)
print("equal to attention in one go:", np.allclose(out, right_answer))

# %% [markdown]
# **Predict.** Rank 0 owns positions 0 to 3, rank 3 owns 12 to 15.
# How many pairs does each score, in total?
# In which steps does rank 0 do anything at all?

# %%
names = [f"rank {rank}" for rank in range(W)]
steps = [f"step {s}" for s in range(W)]
print(table(np.c_[pairs, pairs.sum(1)], rows=names, columns=[*steps, "all"]))

# %% [markdown]
# Rank 3 works in every step.
# Rank 0 sees nobody but itself: the causal mask hides all its visitors, and it waits for three steps out of four.
#
# Long sequences make the numbers round.
# Count in tiles of one part by one part: a visitor from before is a whole tile, oneself is half a tile, a visitor from after is none.

# %%
work = [rank + 0.5 for rank in range(W)]
print("tiles a rank:", work, " mean:", np.mean(work))
slowest = [0.5] + [1.0] * (W - 1)  # of each step: somebody always has a whole tile
print("the ring takes", sum(slowest), "tile times, with fair work it would take", np.mean(work))
print(f"so {np.mean(work) / sum(slowest):.0%} of the processors' time is used")

# %% [markdown]
# With $W$ ranks the last one does $W - \tfrac12$ tiles, where the mean is $W/2$; without any mask it would be $W$.
# So the causal mask halves the work and saves next to no time: the ranks that it spares wait for the others.
# The first ring implementations had just this, and [an issue of one of them](https://github.com/zhuzilin/ring-flash-attention/issues/2) is where the next idea comes from.

# %% [markdown]
# ## Fold the sequence once
#
# **Predict.** Cut the sequence into $2W$ chunks instead of $W$.
# Chunk $c$ costs $c + \tfrac12$ tiles.
# Give two chunks to each rank so that all pay the same.
#
# <details><summary>Answer</summary>
#
# Pair the cheapest with the dearest: rank $r$ gets chunks $r$ and $2W - 1 - r$.
# They cost $r + \tfrac12 + 2W - 1 - r + \tfrac12 = 2W$ tiles, whatever $r$ is.
#
# </details>

# %%
eight = list(range(2 * W))
ring_view({"Contiguous": [c // 2 for c in eight], "Zigzag": [min(c, 2 * W - 1 - c) for c in eight]})

# %%
zigzag = [positions(rank, W, T, "zigzag") for rank in range(W)]
out, pairs = play_ring(zigzag)
print("rank 1 owns positions", zigzag[1].tolist())
print("equal to attention in one go:", np.allclose(out, right_answer))
print(table(np.c_[pairs, pairs.sum(1)], rows=names, columns=[*steps, "all"]))

# %% [markdown]
# The totals are equal, and more than that, every *step* is equal, so nobody waits for anybody.
#
# **Predict.** Every visit after the first scores exactly half of the square.
# Which half, if the visitor comes from an earlier rank, and which if it comes from a later one?
#
# <details><summary>Answer</summary>
#
# Rank $r$ has an early chunk and a late one.
# An earlier rank's first chunk lies before both, its second after both: all queries see the first half of the keys.
# A later rank's two chunks lie between the two of rank $r$: the second half of the queries sees all keys, the first half none.
# Either way the half is a plain rectangle, with no mask in it.
# Only the visit to oneself needs the causal mask, and a kernel that knows "causal" and "full" is enough.
#
# </details>
#
# Llama 3 was trained with the same two chunks a rank, although its ranks gather all keys first instead of passing them around ([Llama 3](https://arxiv.org/abs/2407.21783), section 3.3.2).
# *Striped attention* ([Brandon et al., 2023](https://arxiv.org/abs/2311.09431)) deals the tokens out like cards: rank $r$ gets $r, r + W, r + 2W, \dots$

# %%
striped = [np.arange(rank, T, W) for rank in range(W)]
out, pairs = play_ring(striped)
print("equal to attention in one go:", np.allclose(out, right_answer))
print(table(np.c_[pairs, pairs.sum(1)], rows=names, columns=[*steps, "all"]))

# %% [markdown]
# Nearly fair: each visit is a triangle, with or without its diagonal.
# The price is that every visit needs a mask, and that tiles become PARTIAL which were FULL or EMPTY.

# %% [markdown]
# ## Real processes
#
# Now four processes that share no memory.
# `launch` starts them (new interpreters, one thread each, joined by PyTorch's gloo backend) and collects what they return; the function that they run must stand in a module, because they have to import it.

# %%
with expected_error(ValueError):
    launch(lambda rank, world: rank, 2)

# %% [markdown]
# `one_rank` cuts out its rows, calls `ring_attention`, and differentiates it.
# Two sequences, four query heads over two key heads, 1,024 positions.

# %%
T = 1024
q, k, v, do = (rng.normal(size=(2, heads, T, 32)) for heads in (4, 2, 2, 4))
ranks = launch(one_rank, W, q, k, v, do, ("contiguous", "zigzag"), 2)
by_split = {parts[0].split: parts for parts in zip(*ranks, strict=True)}

k_all, v_all = (np.repeat(x, 2, axis=1) for x in (k, v))  # each key head serves two query heads
right_answer, _ = attention(q, k_all, v_all, causal())
for split, parts in by_split.items():
    same = all(np.allclose(p.o, right_answer[:, :, p.positions], atol=1e-12) for p in parts)
    print(f"{split:<10} equal to one process: {same}")

# %% [markdown]
# What each rank scored, forward and backward together, for one head:

# %%
counts = np.array([[part.work.pairs for part in parts] for parts in by_split.values()])
print(table(counts, rows=list(by_split), columns=names))
print("largest over mean:", (counts.max(1) / counts.mean(1)).round(2).tolist())

# %% [markdown]
# And the processor time that it took, which depends on your machine:

# %% tags=["nbval-ignore-output"]
seconds = [[part.work.seconds for part in parts] for parts in by_split.values()]
print("milliseconds of computing")
print(table(1000 * np.array(seconds), rows=list(by_split), columns=names, digits=0))

# %% [markdown]
# The time goes with the pairs, roughly: a square that is half masked costs this simple CPU code as much as a full one, so rank 0 of the contiguous split takes more than its share.
# On a GPU, `ring_attention` uses the kernels of chapter 7 for the same blocks, which skip that half.
#
# Communication hides behind computing if it is shorter.
# A rank computes $4 \cdot \frac{n^2}{2} \cdot d$ operations a step and head ($n = T/W$ rows) and sends $2 n d$ numbers, so the ratio of the two grows with $n$: long pieces are good for a ring.

# %%
for n in (1024, 8192, 65536):
    operations, sent = 4 * n * n / 2 * 128, 2 * n * 128 * 2
    print(f"{n:>6} rows a rank: {operations / sent:7.0f} operations for each byte sent")

# %% [markdown]
# ## Backward
#
# The gradient needs no new idea.
# Every rank has the log-sum-exp of its rows over *all* keys, so it can compute the weights of any visitor again, $e^{s - L}$, tile by tile.
# The gradient of its queries stays at home.
# The gradient of a visitor's keys and values is a sum with a term from every rank, so it travels with the visitor, grows at each stop, and is complete when it gets home.
#
# **Predict.** Forward, a piece of keys is passed on $W - 1$ times.
# How often is the gradient of a piece passed on?
#
# <details><summary>Answer</summary>
#
# $W$ times: once more, because it has to come home.
#
# </details>
#
# We check it by a slope: move all inputs a little in a random direction, and compare the change of the output with what the gradients from the four processes predict.

# %%
inputs = {"q": q, "k": k, "v": v}
step = {name: rng.normal(size=x.shape) for name, x in inputs.items()}


def output_at(distance):
    """Attention with all inputs moved, computed in one process."""
    moved = {name: inputs[name] + distance * step[name] for name in inputs}
    keys, values = (np.repeat(moved[name], 2, axis=1) for name in ("k", "v"))
    return attention(moved["q"], keys, values, causal())[0]


slope = ((output_at(1e-5) - output_at(-1e-5)) * do).sum() / 2e-5
for split, parts in by_split.items():
    predicted = sum(
        (getattr(p, f"d{name}") * step[name][:, :, p.positions]).sum()
        for p in parts
        for name in inputs
    )
    print(f"{split:<10} slope {slope:.4f}, from the gradients {predicted:.4f}")

# %% [markdown]
# ## Positions, once more
#
# A rank that counts its own rows from 0 computes the mask of the wrong tokens, and the wrong positional embeddings too.
# With the contiguous split an offset repairs it; with zigzag, positions jump in the middle, and no offset does.
# One framework left the positions at their default, counted from 0 on every rank; without sequence parallelism that had been right ([InternEvo#316](https://github.com/InternLM/InternEvo/pull/316) again, its first item).
# Masks that are rules on absolute positions cannot go wrong this way, as long as somebody passes the right positions:

# %%
T = 16
for split in ("contiguous", "zigzag"):
    mine, visitor = positions(2, W, T, split), positions(1, W, T, split)
    right_mask = causal().matrix(mine, visitor)
    local_mask = causal().matrix(len(mine), len(visitor))
    wrong = int((right_mask != local_mask).sum())
    print(
        f"{split:<10} rank 2, visitor 1: {wrong} of {right_mask.size} cells wrong if counted from 0"
    )

# %% [markdown]
# And the length has to divide: two equal chunks a rank.
# A user of another implementation had 2,999 tokens on four GPUs, and got a mismatch of sizes in the backward pass ([EasyContext#47](https://github.com/jzhang38/EasyContext/issues/47)); here the message says what to do.

# %%
with expected_error(ValueError):
    positions(0, 4, 2999)

# %% [markdown]
# ## Pause and recall
#
# Answer before you unfold.
#
# <details><summary>1. Two ranks each send you an output row. Why can you not merge them?</summary>
#
# Each was divided by its own sum of exponentials.
# Without that sum (or its logarithm) their proportion is unknown.
#
# </details>
#
# <details><summary>2. Eight ranks, contiguous split, causal mask. How much more does the last do than the first?</summary>
#
# 7.5 tiles against 0.5: fifteen times as much, $2W - 1$.
#
# </details>
#
# <details><summary>3. And how much of the eight processors' time is used?</summary>
#
# The ring takes 0.5 + 7 = 7.5 tile times, the mean work is 4: 53%.
#
# </details>
#
# <details><summary>4. Under zigzag, which visits need a mask?</summary>
#
# Only the visit to oneself.
# All others are plain rectangles, half a square each.
#
# </details>
#
# <details><summary>5. Does zigzag help an encoder, which has no causal mask?</summary>
#
# No: there every rank does $W$ full tiles anyway.
# It is the mask that made the split unfair.
#
# </details>
#
# <details><summary>6. You use a sliding window of 4,096 on 65,536 tokens over 4 ranks. Is zigzag a good idea?</summary>
#
# No.
# With contiguous parts each rank needs only its neighbour's last 4,095 keys, and the work is nearly equal.
# Zigzag would have twice as many borders to cross.
#
# </details>

# %% [markdown]
# ## Summary
#
# - Attention over a union of key sets is the average of the parts' outputs, weighted by $e^{L_i - L}$; each part hands over its log-sum-exp $L_i$. Keep logarithms, not sums.
# - In a ring, queries stay and keys travel. Memory a rank is $T/W$, and transfers hide behind computing if pieces are long.
# - Under the causal mask contiguous parts cost 0.5, 1.5, 2.5, ... tiles, and the ring waits for its slowest member in every step: about half of the time is lost.
# - Zigzag gives rank $r$ chunks $r$ and $2W - 1 - r$: equal work in every step, and no masks except at home.
# - Backward, gradients of keys travel with the keys and come home after $W$ hops.
# - Positions are absolute, here more than ever.
#
# **Next:** this is the last page of the course.
# If you came here early, [chapter 6](06_prefix_lm.ipynb) shows what other masks do to tiles; the same count tells you which of them need a fair split.

# %% [markdown]
# ## References
#
# - H. Liu, M. Zaharia, P. Abbeel, [Ring Attention with Blockwise Transformers for Near-Infinite Context](https://arxiv.org/abs/2310.01889), 2023.
# - W. Brandon et al., [Striped Attention: Faster Ring Attention for Causal Transformers](https://arxiv.org/abs/2311.09431), 2023.
# - Z. Zhu, [ring-flash-attention](https://github.com/zhuzilin/ring-flash-attention), with the zigzag proposal in [its issue 2](https://github.com/zhuzilin/ring-flash-attention/issues/2), 2024.
# - A. Grattafiori et al., [The Llama 3 Herd of Models](https://arxiv.org/abs/2407.21783), 2024; section 3.3.2 on context parallelism.
# - M. Milakov, N. Gimelshein, [Online normalizer calculation for softmax](https://arxiv.org/abs/1805.02867), 2018.
# - Merging and positions gone wrong: [InternEvo#316](https://github.com/InternLM/InternEvo/pull/316); lengths that do not divide: [EasyContext#47](https://github.com/jzhang38/EasyContext/issues/47).
