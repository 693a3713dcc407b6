# %% [markdown]
# # 6. Prefix-LM and the algebra of masks
#
# A prompt is all there before the first word of the answer is written, so why should its first word not see its last?
# This chapter opens the mask for the prompt and keeps it shut for the answer, learns to combine masks like sets, and finds out what each of them costs: in tiles, in cache, and in what a model can learn.

# %% [markdown]
# ## What you will be able to do
#
# - Write the prefix mask for any prompt length, say what it is at both ends, and refute a wrong formula that passes the test at both ends.
# - Build masks from rules with `&`, `|` and `~`, and predict which rearrangements change them.
# - Count the tiles that a mask costs, and say why a mask with few visible cells can still save nothing.
# - Decide from the mask alone where a KV cache may be cut and when it must be thrown away.
# - Train on the answer only, starting at the right row, and say for which tasks a two-way prompt pays.
#
# **Before you start.** [Chapter 2](02_tril_mask.ipynb) (a mask is a rule on positions) and [chapter 3](03_mask_before_softmax.ipynb) (how weights come about).
# The section on caches needs the idea of [chapter 5](05_kv_cache.ipynb), and the experiments use the small GPT of [chapter 1](01_contract.ipynb).

# %%
import warnings
from itertools import combinations

import numpy as np
import torch

from course_lib.attention import attention
from course_lib.example import TOKENS, K, Q, V
from course_lib.figures.masks import visited_share
from course_lib.figures.plot import Grid, grids, lines
from course_lib.gpt import GPT, GPTConfig
from course_lib.leaks import LeakError, assert_causal
from course_lib.lesson import expected_error, table
from course_lib.masks import (
    Mask,
    Tile,
    causal,
    full,
    not_padding,
    open_rows,
    prefix_lm,
    same_document,
    sinks,
    sliding_window,
)
from course_lib.trace import trace
from course_lib.training import evaluate, shift, token_losses, train

torch.set_num_threads(1)  # the models are so small that more threads only wait for each other

# %% [markdown]
# ## The prompt may look both ways
#
# Say that "The cat" is given and the model has to write "sat on mat".
# The first $P = 2$ tokens are the **prefix**, the others the **suffix**.
# Nobody will ever ask the model to predict "cat": it is in the prompt.
# So it gives nothing away if "The" may look at "cat".
# The suffix is written word by word, so there the contract of chapter 1 holds as before.
#
# **Predict.** Take a pencil: write down the five rows of the mask for $P = 2$.
# Compare with the causal mask: how many cells have changed?

# %%
by_hand = np.array(
    [
        [1, 1, 0, 0, 0],  # The sees The, cat   (one cell more than before)
        [1, 1, 0, 0, 0],  # cat sees The, cat
        [1, 1, 1, 0, 0],  # sat sees the prefix and itself
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ],
    dtype=bool,
)
print("cells that differ from causal:", int((by_hand != causal().matrix(5)).sum()))

# %% [markdown]
# One cell.
# Now as a rule: a key is visible if it lies in the prefix, **or** if it is not later than the query.
#
# $$k < P \quad\text{or}\quad k \le q$$


# %%
def prefix_rule(q_pos, k_pos, prefix):
    return (k_pos < prefix) | (k_pos <= q_pos)


positions = np.arange(5)
queries, keys = positions[:, None], positions[None, :]  # [5, 1] and [1, 5]
from_rule = prefix_rule(queries, keys, prefix=2)  # [5, 5]
print("the rule agrees with the pencil:", np.array_equal(from_rule, by_hand))
print("course_lib agrees:              ", np.array_equal(prefix_lm(2).matrix(5), by_hand))
print(prefix_lm(2).describe())

# %% [markdown]
# **Predict.** What is the mask at the two ends, $P = 0$ and $P = N$?
# And is there anything between 0 and 2?

# %%
print("P = 0 is causal:", np.array_equal(prefix_lm(0).matrix(5), causal().matrix(5)))
print("P = 1 is causal:", np.array_equal(prefix_lm(1).matrix(5), causal().matrix(5)))
print("P = 5 is full:  ", np.array_equal(prefix_lm(5).matrix(5), full().matrix(5)))

grids(
    [
        Grid(prefix_lm(p).matrix(5), TOKENS, TOKENS, f"P = {p}", kind="mask")
        for p in (0, 2, 5)
    ]
)  # fmt: skip

# %% [markdown]
# With no prefix the model is causal, with nothing but prefix it is bidirectional like BERT.
# $P = 1$ is causal as well: everybody may see key 0 anyway.

# %% [markdown]
# ## A formula that passes at both ends and is wrong
#
# One of the documents behind this course prints the mask as "1 if $i < P$ or $j \le i$", where $i$ is the row and $j$ the column.
# It adds that this becomes causal for $P = 0$ and standard attention for $P = N$, which is true.
#
# **Predict.** What does the printed formula make of row 0 for $P = 2$?
# For which $P$ from 0 to 5 does it agree with ours?

# %%
printed = Mask(lambda q, k: (q < 2) | (k <= q), "printed(2)", "everything, from inside the prefix")

agree = [
    p for p in range(6) if np.array_equal((queries < p) | (keys <= queries), prefix_lm(p).matrix(5))
]
print("row 0 of the printed formula:", table(printed.matrix(5)[0]))
print("row 0 of ours:               ", table(prefix_lm(2).matrix(5)[0]))
print("they agree for P =", agree)

grids(
    [
        Grid(prefix_lm(2).matrix(5), TOKENS, TOKENS, "k < P or k <= q", kind="mask"),
        Grid(
            printed.matrix(5), TOKENS, TOKENS, "as printed: q < P or k <= q", kind="mask",
            leak=printed.matrix(5) & ~prefix_lm(2).matrix(5),
        ),
    ]
)  # fmt: skip

# %% [markdown]
# The printed formula asks where the *query* stands and opens whole rows: "The" and "cat" see the suffix.
# The right one asks where the *key* stands and opens columns.
# At both ends there is no cell left in which they could differ, so a test at the ends cannot tell them apart.
# Test a rule in the middle.
#
# Does it matter?
# Row $P - 1$, "cat", has to predict "sat", and the printed formula shows it "sat".
# Worse, every row of the suffix reads the prefix, so through "The" and "cat" all of them can read ahead.
# The tester of chapter 1 takes the rule that a model *should* obey and looks for a pair that breaks it.

# %%
sentence = torch.arange(5)[None]  # word numbers of The cat sat on mat, [1, 5]
sizes = GPTConfig(vocab_size=5, context=5, layers=2, heads=2, width=16)
right = GPT(sizes, np.random.default_rng(0), mask=prefix_lm(2))
wrong = GPT(sizes, np.random.default_rng(0), mask=printed)

assert_causal(right, sentence, tokens=TOKENS, allowed=prefix_lm(2))
print("k < P or k <= q: no leak found")
with expected_error(LeakError):
    assert_causal(wrong, sentence, tokens=TOKENS, allowed=prefix_lm(2))

# %% [markdown]
# The contract of a prefix-LM reads: output $t$ may depend on inputs $0 \dots \max(t, P - 1)$.
# For $t \ge P - 1$, which are the rows that predict the suffix, that is the old contract, unchanged.

# %% [markdown]
# ## With numbers
#
# The running example under the prefix mask.
# "The" has the scaled scores 0 for itself and 1 for "cat" (chapter 3).
#
# **Predict.** Which two weights does it get, and which other rows of the table change?

# %%
with_prefix, plain = (trace(Q, K, V, mask, TOKENS) for mask in (prefix_lm(2), causal()))
print(table(with_prefix.weights, rows=TOKENS, columns=TOKENS))
changed = np.abs(with_prefix.weights - plain.weights).max(axis=1) > 1e-12
print("rows that changed:", [t for t, c in zip(TOKENS, changed, strict=True) if c])
print("by hand: 1 / (1 + e) =", f"{1 / (1 + np.e):.4f}")

standard = trace(Q, K, V, None, TOKENS)
print("P = 0 gives the causal weights:  ", np.array_equal(
    trace(Q, K, V, prefix_lm(0)).weights, plain.weights))  # fmt: skip
print("P = 5 gives the standard weights:", np.array_equal(
    trace(Q, K, V, prefix_lm(5)).weights, standard.weights))  # fmt: skip

# %% [markdown]
# Only "The" changes: weights $1/(1+e)$ and $e/(1+e)$.
# "sat", "on" and "mat" could see both prefix tokens before, and their scores are what they were.
# So in a *single* layer the prefix mask does nothing for the suffix.
# In a second layer it does: the suffix then reads a "The" that has read "cat".
# Keep this in mind for the experiment.
#
# **Opening one row** is another thing.
# Suppose only "sat" may look both ways:

# %%
opened = causal() | open_rows([2])
print(table(trace(Q, K, V, opened, TOKENS).weights[2:3], rows=["sat, open"], columns=TOKENS))
print(table(plain.weights[2:3], rows=["sat, causal"], columns=TOKENS))

# %% [markdown]
# Its row is that of standard attention: the weight of 1 spreads over five keys instead of three.
# But "sat" has to predict "on", and now sees it.
# Had "on" and "mat" been part of a prompt, the same cells would be harmless, because nobody would be asked for "on".
# Whether a cell leaks depends on which rows are asked for what.

# %% [markdown]
# ## The algebra of masks
#
# A mask is a set of pairs (query, key).
# Sets have an algebra: intersection `&`, union `|`, complement `~`.
# These are the rules with names; `describe` says each in words.

# %%
documents = same_document([0, 0, 0, 1, 1, 1, 1, 2])
real = not_padding([False, False, True, True, True, True, True, True])
for rule in (causal(), prefix_lm(3), sliding_window(3), sinks(1), documents, real):
    print(rule.describe())

# %% [markdown]
# Two of them come from practice.
# A **sliding window** keeps attention short: each token sees itself and the width - 1 tokens before it.
# **Sinks** are the first tokens, left visible to everyone: a model that was trained with full attention and then gets a plain window breaks down once the first tokens leave it, and keeping a few of them mends it (Xiao et al., 2024).
#
# **Predict.** Draw on paper, for 8 tokens: `causal() & (sliding_window(3) | sinks(1))`, and `causal() & documents`.

# %%
streaming = causal() & (sliding_window(3) | sinks(1))
for rule in (streaming, causal() & documents):
    print(rule)
    print(rule.draw(8), end="\n\n")

# %% [markdown]
# Read `&` as "both must allow it" and `|` as "one is enough".
# The library combines the predicates first and asks for a matrix only then.
# The composition knows its own description:

# %%
print(streaming.describe())

# %% [markdown]
# **Predict.** Which named rule is `causal() | sinks(2)`?
# And which of these seven equations hold? (We try 1 to 12 tokens.)

# %%
a, b, c = causal(), sliding_window(3), sinks(2)


def same(left, right, sizes=range(1, 13)):
    return all(np.array_equal(left.matrix(n), right.matrix(n)) for n in sizes)


laws = {
    "causal | sinks(2)    = prefix_lm(2)": (a | c, prefix_lm(2)),
    "causal & window(3)   = window(3)": (a & b, b),
    "a & b                = b & a": (a & b, b & a),
    "a & (b | c)          = (a & b) | (a & c)": (a & (b | c), (a & b) | (a & c)),
    "~(a | b)             = ~a & ~b": (~(a | b), ~a & ~b),
    "a & (b | c)          = (a & b) | c": (a & (b | c), (a & b) | c),
    "a & b | c            = (a & b) | c": (a & b | c, (a & b) | c),
}
for law, (left, right_side) in laws.items():
    print(f"{law:<44}{same(left, right_side)}")

# %% [markdown]
# - A prefix is nothing new: it is causal *or* sinks. The sinks of a streaming model and the prefix of a prefix-LM are the same columns; what differs is the causal rule, joined by `&` in one case and by `|` in the other.
# - The window is causal already, so "causal and window" adds nothing.
# - The next three are the laws of sets: order does not matter, `&` distributes over `|`, and De Morgan.
# - The sixth fails. **Brackets matter where `&` and `|` meet.**
# - The last one shows a trap: Python binds `&` more tightly than `|`, so without brackets you get the second form.
#
# How wrong is the second form?
# The algebra can say it itself: the future that a rule lets in is `rule & ~causal()`.

# %%
careless = causal() & sliding_window(3) | sinks(2)
future = careless & ~causal()
print(future)
print(future.draw(8))

# %% [markdown]
# One cell: query 0 sees key 1, the word that it has to predict.
# In a text of thousands of words that is easy to overlook.
#
# Brackets in the wrong place have shipped.
# PaliGemma puts an image and a question into a two-way prefix, and its port to Hugging Face built the mask in this order: forbid the padding, then open the prefix
# ([transformers#35855](https://github.com/huggingface/transformers/issues/35855), mended for training in [#35859](https://github.com/huggingface/transformers/pull/35859)).
#
# **Predict.** Two tokens of padding on the left, then a prefix of three, then a suffix.
# What does each order say about the columns of the padding?

# %%
shipped = (causal() & real) | sinks(5)  # forbid padding, then open the first five slots
mended = (causal() | sinks(5)) & real  # open the prefix, then forbid padding
for name, rule in (("as shipped", shipped), ("mended", mended)):
    print(f"{name}: {rule}")
    print(rule.draw(8))
    print("queries that see padding:", int(rule.matrix(8)[:, :2].any(axis=1).sum()), end="\n\n")

# %% [markdown]
# In the order of the bug every query sees both pads; in the other order none does.
# A rule of thumb: what must *never* be seen (padding, other documents) is joined last, with `&`, around everything else.
#
# **Prompts of different lengths** in one batch need one $P$ each; the mask then has shape [B, 1, T, T], as in chapter 4.

# %%
print(prefix_lm([1, 3]).matrix(5).shape)
print(prefix_lm([1, 3]).draw(5))

# %% [markdown]
# ## Off by one at the far end of the window
#
# What is a window of 3?
# In this course, as in the configurations of Hugging Face's models, the width counts the token itself: three keys.
# The fused FlashAttention kernel asks a different question: how many keys to the *left*, besides the token itself ([its README](https://github.com/Dao-AILab/flash-attention)).
# So whoever passes the width straight on gets one key too many.
#
# **Predict.** How many keys does each query see in either reading?

# %%
too_wide = Mask(lambda q, k: (k <= q) & (q - k <= 3), "left=3")
print("sliding_window(3):", sliding_window(3).matrix(8).sum(axis=1))
print("q - k <= 3:       ", too_wide.matrix(8).sum(axis=1))

with expected_error(AssertionError):
    widest = too_wide.matrix(8).sum(axis=1).max()
    assert widest == 3, f"a window of 3 shows {widest} keys"

# %% [markdown]
# The first three rows agree, so a test on a text no longer than the window sees nothing.
# This has shipped again and again:
# in Hugging Face transformers ([#39408](https://github.com/huggingface/transformers/issues/39408)), in MLX ([mlx-lm#390](https://github.com/ml-explore/mlx-lm/pull/390)), as two back ends of vLLM that disagreed about the same model ([vllm#3385](https://github.com/vllm-project/vllm/issues/3385)), in Megatron Bridge for four model families at once ([#2656](https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/2656)).
#
# One key too many among thousands sounds harmless.
# It is not when prompt and generation disagree: the one-file reference code of Mistral 7B masks the prompt with $q - k \le W$, which is $W + 1$ keys, and generates from a buffer that holds $W$
# ([one_file_ref.py](https://github.com/mistralai/mistral-inference/blob/215fc80d4a00177854b51a93fd3d455094f0e085/one_file_ref.py); the paper's words, positions "between $i - W$ and $i$", can be read as $W + 1$ as well).
# Then, in a text longer than $W$, the same token gets one state if it is part of the prompt and another if the model wrote it.
# On our example, the output of "mat" for $W = 3$:

# %%
in_the_prompt = attention(Q, K, V, too_wide)[0][-1:]
generated = attention(Q[-1:], K[-3:], V[-3:])[0]  # a buffer of 3 needs no mask
by_the_rule = attention(Q, K, V, sliding_window(3))[0][-1:]
print(
    table(
        np.vstack([in_the_prompt, generated, by_the_rule]),
        rows=["as prompt, q - k <= W", "generated, buffer of W", "sliding_window(W)"],
        columns=["d0", "d1", "d2", "d3"],
    )
)

# %% [markdown]
# The other way to go wrong is to build the window from row numbers instead of positions.
# With five keys in the cache and one new query, row 0 *is* position 5.

# %%
print("row number as position:", table(sliding_window(3).matrix([0], 6)))
print("true position:         ", table(sliding_window(3).matrix([5], 6)))

# %% [markdown]
# Masks sliced or built from local row numbers, and buffers whose pointer was not reset, are behind
# [LLMs-from-scratch#697](https://github.com/rasbt/LLMs-from-scratch/pull/697), [LLMs-from-scratch#925](https://github.com/rasbt/LLMs-from-scratch/pull/925) and [lalamo#200](https://github.com/trymirai/lalamo/pull/200).
#
# How far can a model with windows look back?
# Through two layers a query reads keys that have read keys.
# "Sees through two layers" is the product of the mask with itself.

# %%
for rule in (sliding_window(3), prefix_lm(2), causal()):
    once = rule.matrix(12).astype(int)
    twice = (once @ once) > 0
    oldest = [int(seen[11].argmax()) for seen in (once, twice)]
    print(f"{rule!s:<18} oldest key of query 11: {oldest[0]}, through two layers: {oldest[1]};  "
          f"same mask: {np.array_equal(twice, once > 0)}")  # fmt: skip

once = sliding_window(3).matrix(12).astype(int)
print(
    "two windows of 3 make one of 5:", np.array_equal(once @ once > 0, sliding_window(5).matrix(12))
)

# %% [markdown]
# Each layer adds width - 1 = 2 positions of reach: two layers of `sliding_window(3)` are one of `sliding_window(5)`.
# The causal and the prefix mask reproduce themselves, so they bound what a model of any depth can see.
# (That is why the leak tester above could use the mask itself as the contract.)

# %% [markdown]
# ## Tiles: what a mask costs
#
# Fused kernels work in square tiles, often 64 or 128 queries by as many keys (chapter 7).
# For the kernel there are three kinds of tile:
#
# - **EMPTY**: nobody sees anything. Skip it: no loads, no multiplications.
# - **FULL**: everybody sees everything. Compute it without looking at the mask.
# - **PARTIAL**: compute it and apply the mask cell by cell.
#
# The work is proportional to the tiles that are not empty.
#
# **Predict.** Sixteen tokens in tiles of 4 by 4, causal: how many tiles of each kind?
# And for a window of 4?

# %%
for rule in (causal(), sliding_window(4), streaming, prefix_lm(6)):
    tiles = rule.tiles(16, block_q=4, block_k=4)
    kinds = {kind.name.lower(): int((tiles == kind).sum()) for kind in Tile}
    print(f"{rule!s:<44}{kinds}  work saved {1 - visited_share(tiles):.2f}")
print(causal().tiles(16, block_q=4, block_k=4))  # 0 empty, 1 partial, 2 full

# %% [markdown]
# Now build masks yourself: 32 tokens in tiles of 4.
# Each rule is joined to everything above it, so the order makes the brackets; point at a cell to see what every rule says about it.
# (A saved page shows the examples of the list instead.)
#
# **Predict.** Move `causal` up by one place.
# Which mask of this chapter is that, and how many cells more does it show?
# Then start from "causal | documents": does it save more of the work than "causal & documents", or less?

# %%
from course_lib.explorers import MaskBuilder

MaskBuilder(["sliding_window(6)", "or sinks(2)", "and causal()"])

# %%
for terms in (
    ["sliding_window(6)", "or sinks(2)", "and causal()"],
    ["sliding_window(6)", "and causal()", "or sinks(2)"],
    ["causal()", "and same_document(3)"],
    ["causal()", "or same_document(3)"],
):
    print(MaskBuilder(terms).words())

# %% [markdown]
# It is the careless mask from above, and again one cell betrays it.
# Now the two with documents.
# With `&` the packed documents are sealed off from each other.
# With `|` each document looks both ways *within itself* and sees all earlier ones: think of the turns of a conversation. We will need that one for the cache.
#
# **Predict.** A mask shows only every fourth key: a quarter of the causal cells.
# How much work does it save?

# %%
strided = causal() & Mask(lambda q, k: (q - k) % 4 == 0, "every fourth")
for name, rule in (("causal", causal()), ("every fourth", strided), ("window", sliding_window(8))):
    tiles = rule.tiles(32, block_q=4, block_k=4)
    cells, work = rule.matrix(32).mean(), visited_share(tiles)
    print(f"{name:<14} {cells:.2f} of the cells, {work:.2f} of the work")

# %% [markdown]
# None beyond the causal half: every tile at or below the diagonal still has a visible cell.
# A kernel saves tiles, not cells.
# Windows and documents are cheap because their cells lie together.
#
# The savings of a window grow with the length of the text.
# With realistic tiles of 128:

# %%
print("tokens   causal   window of 1,024   (work relative to no mask)")
for n in (2048, 4096, 8192):
    shares = [
        visited_share(rule.tiles(n, block_q=128, block_k=128))
        for rule in (causal(), sliding_window(1024))
    ]
    print(f"{n:<9}{shares[0]:<9.3f}{shares[1]:.3f}")

# %% [markdown]
# The causal share tends to one half (chapter 7 has the formula).
# That of the window halves, nearly, each time the length doubles: the work grows with the length, not with its square.

# %% [markdown]
# ## FlexAttention from the same rule
#
# PyTorch's FlexAttention is built on the same idea: it takes the predicate, finds the tiles with `create_block_mask`, and compiles a kernel that skips the empty ones (Dong et al., 2024).
# Our rules hand it their predicate as `mask_mod`.
# Does it find our tiles?

# %%
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

for rule in (causal(), prefix_lm(6), streaming, causal() & same_document(np.arange(16) // 6)):
    block_mask = create_block_mask(rule.mask_mod, None, None, 16, 16, device="cpu", BLOCK_SIZE=4)
    tiles = rule.tiles(16, block_q=4, block_k=4)
    visited = np.array_equal(block_mask.to_dense()[0, 0].bool().numpy(), tiles != Tile.EMPTY)
    full_ones = int(block_mask.full_kv_num_blocks.sum()) == int((tiles == Tile.FULL).sum())
    print(f"{rule!s:<44} visits our tiles: {visited}, as many full: {full_ones}")

# %% [markdown]
# And does it compute the same outputs?
# We call it without compiling, so it runs slowly and builds the whole matrix, which at this size does no harm.
# With six keys in the cache the queries stand at positions 6 to 15, and `mask_mod_at` says so.

# %%
rng = np.random.default_rng(0)
q, k, v = (torch.tensor(rng.normal(size=(1, 1, 16, 4))) for _ in range(3))  # [B, H, T, D]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns that it is not compiled
    block_mask = create_block_mask(streaming.mask_mod, 1, 1, 16, 16, device="cpu", BLOCK_SIZE=4)
    whole = flex_attention(q, k, v, block_mask=block_mask)
    later = create_block_mask(
        streaming.mask_mod_at(range(6, 16)), 1, 1, 10, 16, device="cpu", BLOCK_SIZE=4
    )
    cached = flex_attention(q[:, :, 6:], k, v, block_mask=later)
print("equal to course_lib:", torch.allclose(whole, attention(q, k, v, streaming)[0]))
print("with a cache:       ", torch.allclose(cached, whole[:, :, 6:]))

# %% [markdown]
# ## What a prefix does to a cache
#
# Chapter 5 rests on one sentence: the states of old tokens never change, because they may not see new ones.
# With a prefix, the first token *does* see later ones.
# How much of the cache survives?
#
# Here is a stack of two attention layers with random weights, which keeps the keys and values of each layer.
# Two layers are needed to see anything: the keys of the first layer depend on nothing but the token.

# %%
WIDTH = 8
rng = np.random.default_rng(1)
x = rng.normal(size=(5, WIDTH))  # five tokens
layers = rng.normal(0, WIDTH**-0.5, size=(2, 3, WIDTH, WIDTH))  # W_q, W_k, W_v of two layers
nothing = [(np.zeros((0, WIDTH)), np.zeros((0, WIDTH)))] * 2  # an empty cache


def feed(new, cache, mask):
    """New tokens [n, C] through both layers; returns their outputs and the longer cache."""
    longer = []
    for (w_q, w_k, w_v), (keys, values) in zip(layers, cache, strict=True):
        keys = np.concatenate([keys, new @ w_k])
        values = np.concatenate([values, new @ w_v])
        slots = np.arange(len(keys) - len(new), len(keys))  # the queries stand last
        new = new + attention(new @ w_q, keys, values, mask.matrix(slots, len(keys)))[0]
        longer.append((keys, values))
    return new, longer


def in_pieces(cuts, mask):
    """Feed the five tokens in pieces that end at `cuts`."""
    outputs, cache = [], nothing
    for piece in np.split(x, cuts):
        output, cache = feed(piece, cache, mask)
        outputs.append(output)
    return np.concatenate(outputs)


# %% [markdown]
# **Predict.** The prefix is "The cat sat", $P = 3$.
# We feed the five tokens in pieces: all at once, the prefix first and then one by one, or everything one by one.
# Which of the three agree?

# %%
mask = prefix_lm(3)
at_once = in_pieces([], mask)
ways = {"prefix, then one by one": [3, 4], "all one by one": [1, 2, 3, 4]}
errors = [np.abs(in_pieces(cuts, mask) - at_once).max(axis=1) for cuts in ways.values()]
print("largest error of a state, compared with all at once")
print(table(errors, rows=list(ways), columns=TOKENS))

# %% [markdown]
# One by one is wrong everywhere, although each call used the right mask.
# When "The" was fed alone, "cat" and "sat" were not there to be seen, and a matrix cannot complain about keys that do not exist yet.
# "sat" itself, the last token of the prefix, is wrong as well, since its second layer reads the wrong "The" and "cat".
#
# The rule could complain, because it knows its prefix; given the rule instead of a matrix, the library does.

# %%
with expected_error(ValueError):
    attention(x[:1], x[:1], x[:1], mask)

# %% [markdown]
# When may a sequence be cut at $n$?
# Exactly when none of the first $n$ queries may see a key at $n$ or later: the block of the mask above and to the right of the cut is EMPTY.
# That is one line of code, and we can check it against all cuts and all combinations of cuts.


# %%
def safe_cuts(mask, length):
    return [n for n in range(1, length) if not mask.matrix(n, length)[:, n:].any()]


turns = causal() | same_document([0, 0, 1, 1, 1])  # two turns, each two-way in itself
every_split = [cuts for size in range(5) for cuts in combinations([1, 2, 3, 4], size)]
for rule in (causal(), sliding_window(2), prefix_lm(3), turns, full()):
    safe = safe_cuts(rule, 5)
    at_once = in_pieces([], rule)
    right_splits = [s for s in every_split if np.allclose(in_pieces(list(s), rule), at_once)]
    predicted = [s for s in every_split if set(s) <= set(safe)]
    print(f"{rule!s:<36} safe cuts {safe!s:<14} {len(right_splits):>2} of 16 splits right, "
          f"as predicted: {right_splits == predicted}")  # fmt: skip

# %% [markdown]
# So the cache does work with a prefix: **prefill the whole prefix in one go, then go on causally.**
# (One of the documents says that without a causal mask the cache would be invalid. With a full mask that is so; in general it depends on where the mask has its corners.)
#
# ### A prefix that grows
#
# Now a conversation.
# Turn one: the user says "The cat" ($P = 2$), the model answers "sat".
# Turn two: the user adds "on mat", and the program makes everything said so far the new prefix, $P = 5$.
# The keys of the first three tokens are still in the cache.
#
# **Predict.** Are they still right: in the first layer, in the second?

# %%
_, turn_one = feed(x[:2], nothing, prefix_lm(2))
_, turn_one = feed(x[2:3], turn_one, prefix_lm(2))

reused, _ = feed(x[3:], turn_one, prefix_lm(5))  # wrong: keeps what turn one computed
fresh, cache = feed(x, nothing, prefix_lm(5))  # right: starts again

for layer, ((old, _), (new, _)) in enumerate(zip(turn_one, cache, strict=True), 1):
    print(f"layer {layer}: the kept keys are off by up to {np.abs(new[:3] - old).max():.4f}")
print("error of the outputs at 'on' and 'mat':", table(np.abs(reused - fresh[3:]).max(axis=1)))

# %% [markdown]
# The first layer is fine, and everything above it is not: "The" now has to have seen "on" and "mat".
# **A prefix that grows invalidates the whole cache**, every old token in every layer but the first.
# A causal model would have kept all of it.
# In a chat this price of the prefix is paid at every turn.
#
# There are three honest ways out: start again (above, right but slow); leave the prefix as it was and treat all that follows causally; or let every turn look both ways *within itself*, with the rule `causal() | same_document(turns)`, whose safe cuts are the ends of the turns.

# %%
later_causal, _ = feed(x[3:], turn_one, prefix_lm(2))
print("prefix left at 2: ", np.allclose(later_causal, in_pieces([], prefix_lm(2))[3:]))

by_turns = causal() | same_document([0, 0, 1, 2, 2])  # user, model, user
cache = nothing
for piece in np.split(x, [2, 3]):
    output, cache = feed(piece, cache, by_turns)
print("two-way in a turn:", np.allclose(output, in_pieces([], by_turns)[3:]))

# %% [markdown]
# Both agree with a pass over everything at once, under *their* mask.
# They are not the same model as one whose prefix grows, so whoever wants to generate this way has to train this way.
#
# The trouble is real: in Hugging Face transformers, ways of generating that feed prompt and generated tokens together failed for PaliGemma, because a forward pass could no longer tell where the prompt ended; since 2025 the boundary must be passed along ([transformers#40917](https://github.com/huggingface/transformers/pull/40917)).

# %% [markdown]
# ## Loss on the suffix only
#
# Row $t$ of the output predicts token $t + 1$.
# The suffix begins with token $P$, so its first prediction stands in **row $P - 1$**, the last row of the prefix.
# Rows before that must not be trained on: they see their targets.
#
# For the experiments we need a language of prompts and answers.
# Six boxes stand in a row, and each holds a slip with the number of a box.
# The prompt lists the six slips, then comes a question mark.
# The answer is a list as well: where do you end up if you start at box 0, 1, ... 5 and follow the slips?
# Following one link is copying the prompt; following three is a little treasure hunt.

# %%
BOXES = 6
ASK = BOXES  # the word number of "?"
P = BOXES + 1  # six slips and the question mark


def hunt(links):
    """draw(n, rng) -> n texts [n, 13]: six slips, "?", and where so many links lead."""

    def draw(n, rng):
        slips = rng.integers(0, BOXES, (n, BOXES))
        answers = slips
        for _ in range(links - 1):
            answers = np.take_along_axis(slips, answers, axis=1)
        return np.concatenate([slips, np.full((n, 1), ASK), answers], axis=1)

    return draw


text = hunt(3)(1, np.random.default_rng(7))[0]
print("slips  ", text[:BOXES])
print("answers", text[P:])
start = 0
path = [start]
for _ in range(3):
    path.append(int(text[path[-1]]))
print("from box 0:", " -> ".join(map(str, path)))


# %%
def loss_from(row):
    """The mean loss of rows `row`, `row` + 1, ...: targets from token row + 1 on."""

    def loss(model, tokens):
        inputs, targets = shift(tokens)
        return token_losses(model(inputs)[:, row:], targets[:, row:]).mean()

    return loss


suffix_loss = loss_from(P - 1)


def experiment(mask, links, *, seed=0, layers=2, steps=400, loss=suffix_loss):
    """Train a small GPT under `mask`; returns its losses on 1,000 fresh texts and its history."""
    config = GPTConfig(vocab_size=BOXES + 1, context=2 * BOXES, layers=layers, heads=2, width=24)
    model = GPT(config, np.random.default_rng(seed), mask=mask)
    history = train(
        model,
        hunt(links),
        steps=steps,
        batch_size=32,
        rng=np.random.default_rng(100 + seed),
        loss=loss,
        learning_rate=1e-2,
    )
    return evaluate(model, hunt(links), n=1000, rng=np.random.default_rng(7)), history


# %% [markdown]
# The slips are drawn at random, so no honest model can predict them: each costs at least $\ln 6 \approx 1.79$ nats.
#
# **Predict.** Copying, with the prefix mask.
# One model is trained on all rows, one from row $P - 1$ on, one from row $P$ on, which is off by one.
# What does each lose on a slip, on the first answer, and on the other answers?

# %%
held_out = {}
for name, row in (("all rows", 0), ("from P - 1", P - 1), ("from P", P)):
    result, _ = experiment(prefix_lm(P), links=1, loss=loss_from(row))
    by_row = result.by_position
    held_out[name] = [by_row[: P - 2].mean(), by_row[P - 1], by_row[P:].mean()]
columns = ["slip", "first", "others"]
print(table(list(held_out.values()), rows=list(held_out), columns=columns, digits=2))
print(f"floor of a slip: ln 6 = {np.log(6):.2f}")

# %% [markdown]
# - *All rows*: the slips cost next to nothing, far below their floor. That is the leak of chapter 1: the rows of the prefix see the slips that they are asked for. A mean over all rows would look splendid.
# - *From $P - 1$*: the answers are learnt. What the untrained rows say about slips is nonsense, and nobody asks them.
# - *From $P$*: the first answer is never trained, and comes out worse than guessing. In use, the first word of every answer would be wrong.
#
# The last mistake has shipped too, in the code with which BigScience trained its prefix-LMs; the repair says just this, that the last token of the prefix is responsible for the first of the suffix ([Megatron-DeepSpeed#167](https://github.com/bigscience-workshop/Megatron-DeepSpeed/pull/167)).

# %% [markdown]
# ## Does looking both ways help?
#
# Same model (two layers, width 24), same starting weights, same batches, same number of steps; only the mask of the prompt differs.
# Three seeds each.
#
# **Predict.** For copying: which mask gives the lower loss on the answers?
# For three links?
# Think of box 0 in the text above, whose slip says 5.
# In a causal prompt, can the state of box 0 know what lies in box 5?

# %%
masks = {"causal": causal(), "prefix": prefix_lm(P)}
losses, curves, results = {}, {}, {}
for links in (1, 3):
    for name, mask in masks.items():
        runs = [experiment(mask, links, seed=seed) for seed in range(3)]
        losses[links, name] = [result.losses[:, P - 1 :].mean() for result, _ in runs]
        curves[links, name], results[links, name] = runs[0][1], runs[0][0]

print("loss on the answers, nats a word")
print(
    table(
        list(losses.values()),
        rows=[f"{links} link{'s' * (links > 1)}, {name}" for links, name in losses],
        columns=["seed 0", "seed 1", "seed 2"],
        digits=2,
    )
)
gap = min(losses[3, "causal"]) - max(losses[3, "prefix"])
print(f"3 links: the worst prefix run beats the best causal run by {gap:.2f} nats")

# %%
lines(
    {f"3 links, {name}": curves[3, name].smoothed(20) for name in masks}
    | {f"1 link, {name}": curves[1, name].smoothed(20) for name in masks},
    "training step",
    "nats a word of the answer",
    "The two-way prompt pays for following, not for copying",
    alt="Training loss on the answers, nats a word, seed 0. "
    + " ".join(
        f"{links} link{'s' * (links > 1)}, {name}: {means[0]:.2f} over the first 20 steps, "
        f"{means[9]:.2f} around step 200, {means[-1]:.2f} at the end."
        for (links, name), means in ((key, run.smoothed(20)[1]) for key, run in curves.items())
    ),
)

# %% [markdown]
# For copying the mask of the prompt makes no difference: row $P - 1 + i$ fetches slip $i$, and slip $i$ is the same with or without context.
# For three links, the two-way model solves the task and the causal one, in the same number of steps, is far from it.
#
# Why?
# Two layers can make two fetches in a row.
# Starting at box $i$, three are needed: the slip $j$ in box $i$, the slip $k$ in box $j$, the slip in box $k$.
# A two-way prompt can prepare the third: in layer 1, while the answer row fetches $j$, box $j$ itself fetches what lies in box $k$.
# A causal prompt can do so only if box $k$ stands *before* box $j$.
# If that is the reason, the loss of the causal model must sit where the last link leads forward.

# %%
tokens, answer_losses = results[3, "causal"].tokens, results[3, "causal"].losses[:, P - 1 :]
slips = tokens[:, :BOXES]
box_j = slips  # the slip in box i, for every start i
box_k = np.take_along_axis(slips, box_j, axis=1)
forward = box_k > box_j
for name, where in (("forward", forward), ("back, or to itself", ~forward)):
    print(f"last link leads {name:<19}{where.mean():.0%} of the answers, "
          f"{answer_losses[where].mean():.2f} nats each")  # fmt: skip

# %% [markdown]
# It does.
# Two more checks on the explanation.
#
# **Predict.** With *one* layer, which mask wins?
# And if the causal model gets five times as many steps?

# %%
one_layer = {
    name: experiment(mask, 3, layers=1)[0].losses[:, P - 1 :].mean() for name, mask in masks.items()
}
for name, loss in one_layer.items():
    print(f"one layer, {name}: {loss:.4f}")

patient, _ = experiment(causal(), 3, steps=2000)
patient_losses = patient.losses[:, P - 1 :]
print(f"two layers, causal, 2,000 steps: {patient_losses.mean():.2f}")
print(f"  where the last link leads forward: {patient_losses[forward].mean():.2f}")
print(f"  elsewhere:                         {patient_losses[~forward].mean():.2f}")

# %% [markdown]
# With one layer the two losses agree to the last printed digit, as they must: the answers read the prompt once, before it has read anything.
#
# With patience the causal model nearly gets there, and what remains are forward links.
# So the causal mask does not make the task impossible.
# A detour exists, though we have not checked that the model takes it: box $j$ cannot see a later box $k$, but box $k$ can see that an earlier box points at it.
# What the two-way prompt buys here is an easier way, found in a fraction of the steps.
# Our claim is no larger than the experiment: a tiny model, one task made to show the effect, and one where there is none.
#
# In large models the picture is mixed.
# In the T5 study (Raffel et al., 2020, section 3.2) the prefix-LM did better after fine-tuning than a causal model of the same size, and an encoder-decoder, with the same cost and twice the weights, did best when trained to denoise.
# Wang et al. (2022) trained models of 5 billion weights: straight after pretraining, the causal decoder did best without examples; after multitask fine-tuning, models with two-way input trained by masking did.

# %% [markdown]
# ## Who really uses what
#
# | model | what its authors report | mask of this chapter |
# |---|---|---|
# | T5 (2020) | the *study* compares encoder-decoder, causal LM and prefix-LM; the *model* T5 is an encoder-decoder | `full()` in the encoder, `causal()` in the decoder |
# | GLM (2022) | Part A (the corrupted text) looks both ways, Part B (the blanks) is written one token at a time and sees A | `prefix_lm(P)` |
# | UL2 (2022) | a mixture of objectives, one of which is prefix-LM; decoder-only and encoder-decoder variants | `prefix_lm(P)` in part of the training |
# | PaLM 2 (2023) | a tuned mixture of objectives, citing UL2; no details of its architecture | not knowable |
# | PaliGemma (2024) | image and question look both ways, the answer is causal | `prefix_lm(P)` |
# | Mistral 7B, v0.1 (2023) | sliding window, W = 4,096 | `sliding_window(W)`, but see above about W |
# | Gemma 2 (2024) | every other layer local, window 4,096; the others global | `sliding_window(4096)` and `causal()`, alternating |
# | Gemma 3 (2025) | five local layers, window 1,024, to one global | the same, 5 to 1 |
# | gpt-oss (2025) | every other layer local, window 128, and a learned sink in the softmax | `sliding_window(128)` and `causal()`, alternating |
#
# One of our source documents says that "T5, UL2, PaLM 2 in certain modes" use the prefix mask.
# T5 studied it and then did something else; UL2 fits; for PaLM 2 the report does not say.
# Two remarks on the last row: the reference code of gpt-oss blocks $q - k \ge 128$, so its window is our `sliding_window(128)`; and its sink is a number in the softmax and not a token, so it is not our `sinks(1)`.

# %% [markdown]
# ## Pause and recall
#
# Answer before you open.
#
# <details><summary>1. Write the prefix rule. Which rows and which columns does P open?</summary>
#
# $k < P$ or $k \le q$.
# It opens the first $P$ *columns*.
# "Rows inside the prefix see everything" is the common wrong answer, and the printed formula that goes with it; rows of the prefix see the prefix and nothing of the suffix.
#
# </details>
#
# <details><summary>2. Your prefix mask is right for P = 0 and for P = N. What do you know?</summary>
#
# Nearly nothing: the wrong formula passes both.
# Test a $P$ in between, and look at row 0.
#
# </details>
#
# <details><summary>3. What is the difference between <code>causal() | sinks(4)</code> and <code>causal() & (sliding_window(8) | sinks(4))</code>?</summary>
#
# The first is `prefix_lm(4)`: the first four tokens see each other, in both directions.
# The second stays causal, sees at most eight recent keys, and keeps the first four in view.
#
# </details>
#
# <details><summary>4. A mask hides nine cells in ten. How much time does a tiled kernel save?</summary>
#
# It depends on where they are.
# If the visible cells lie together (a window, documents), nearly nine tenths; if they are scattered, nothing.
#
# </details>
#
# <details><summary>5. A server wants to prefill a prefix-LM's prompt of 3,000 tokens in chunks of 1,024. May it?</summary>
#
# No.
# The first chunk would have to see the others.
# The prefix has to go in as a whole; only after it may one cut anywhere.
# (Or the model is trained with a rule whose corners are where the chunks end.)
#
# </details>
#
# <details><summary>6. A user adds a sentence to a prompt whose cache you kept. Causal model, and prefix-LM?</summary>
#
# Causal: all old keys are still right; feed the new tokens.
# Prefix-LM with everything in the prefix: only the first layer's keys are still right; start again.
#
# </details>
#
# <details><summary>7. The prompt has 100 tokens. Which rows of the logits enter the loss?</summary>
#
# Rows 99 and up: row 99 predicts token 100, the first of the answer.
# Starting at row 100 leaves the first word of the answer untrained.
#
# </details>
#
# <details><summary>8. Why can a one-layer model not profit from a two-way prompt?</summary>
#
# What the answer reads of the prompt are keys and values of the first layer, and these depend on single tokens only.
# The mask changes what prompt states *become*, and that is read from the second layer on.
#
# </details>

# %% [markdown]
# ## Summary
#
# - Prefix-LM: $k < P$ or $k \le q$. $P = 0$ is causal, $P = N$ is full, and only what lies between tests your formula. The contract binds the suffix as before.
# - Masks are sets of pairs: `&`, `|`, `~`, with the laws of sets. Mind the brackets, and join what must never be seen last.
# - A window of width $W$ shows $W$ keys, itself included; say so, and test on a text longer than $W$.
# - A kernel pays for tiles that are not empty, not for visible cells.
# - A cache may be cut where the block above and to the right of the cut is empty. A prefix goes in as a whole, and one that grows costs the cache.
# - The loss begins at row $P - 1$. A two-way prompt helps where parts of the prompt must be combined with what comes later, and does nothing for copying.
#
# **Next:** [chapter 7, Flash on GPU](07_flash_on_gpu.ipynb) takes the tiles seriously: the same attention, computed tile by tile, without ever holding the matrix.

# %% [markdown]
# ## References
#
# - C. Raffel et al., [Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer](https://arxiv.org/abs/1910.10683), 2020 (T5); section 3.2 compares architectures and masks.
# - T. Wang et al., [What Language Model Architecture and Pretraining Objective Work Best for Zero-Shot Generalization?](https://arxiv.org/abs/2204.05832), 2022.
# - Z. Du et al., [GLM: General Language Model Pretraining with Autoregressive Blank Infilling](https://arxiv.org/abs/2103.10360), 2022; Y. Tay et al., [UL2: Unifying Language Learning Paradigms](https://arxiv.org/abs/2205.05131), 2022; R. Anil et al., [PaLM 2 Technical Report](https://arxiv.org/abs/2305.10403), 2023.
# - L. Beyer et al., [PaliGemma: A Versatile 3B VLM for Transfer](https://arxiv.org/abs/2407.07726), 2024, and [its model card](https://github.com/google-research/big_vision/blob/main/big_vision/configs/proj/paligemma/README.md).
# - A. Q. Jiang et al., [Mistral 7B](https://arxiv.org/abs/2310.06825), 2023; Gemma Team, [Gemma 2](https://arxiv.org/abs/2408.00118), 2024, and [Gemma 3](https://arxiv.org/abs/2503.19786), 2025; OpenAI, [gpt-oss model card](https://arxiv.org/abs/2508.10925), 2025, and [reference code](https://github.com/openai/gpt-oss/blob/main/gpt_oss/torch/model.py).
# - G. Xiao et al., [Efficient Streaming Language Models with Attention Sinks](https://arxiv.org/abs/2309.17453), 2024.
# - J. Dong et al., [Flex Attention](https://arxiv.org/abs/2412.05496), 2024.
# - Windows off by one: [transformers#39408](https://github.com/huggingface/transformers/issues/39408), [mlx-lm#390](https://github.com/ml-explore/mlx-lm/pull/390), [vllm#3385](https://github.com/vllm-project/vllm/issues/3385), [Megatron-Bridge#2656](https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/2656).
# - Prefix masks gone wrong: [transformers#35859](https://github.com/huggingface/transformers/pull/35859), [transformers#40917](https://github.com/huggingface/transformers/pull/40917), [Megatron-DeepSpeed#167](https://github.com/bigscience-workshop/Megatron-DeepSpeed/pull/167).
