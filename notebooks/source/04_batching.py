# %% [markdown]
# # 4. Batching
#
# Real models do not process one sentence with one head; they process 64 sentences with 32 heads, and the sentences have different lengths.
# The rule stays the same, and so does its little matrix.
# What changes is that the matrix now has to meet a tensor with four axes, and axes can be confused without anybody noticing.

# %% [markdown]
# ## What you will be able to do
#
# - Say why a mask of shape [1, 1, T, T] fits scores of shape [B, H, T, T], and prove that nothing is copied.
# - Split a tensor into heads and put it together again, and name the tests that catch the ways of doing it wrong.
# - Batch sentences of different lengths, padded on either side or packed into one row, so that each gives exactly what it gives alone.
# - Build a small GPT from nothing and train it to within 3% of the best loss that any honest model can have.
#
# **Before you start.** Chapters [2](02_tril_mask.ipynb) and [3](03_mask_before_softmax.ipynb): rows are queries, columns are keys, True means may attend, and the mask comes before softmax.
# The training section uses the toy language of chapter 1 and the fact that its entropy is known; a sentence there says what you need.

# %%
import math
import tracemalloc

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.example import TOKENS, K, Q, V
from course_lib.lesson import expected_error, table
from course_lib.masks import causal, not_padding, same_document, sliding_window

torch.set_num_threads(1)  # the models are so small that more threads only wait for each other

# %% [markdown]
# ## From one grid of scores to a batch of them
#
# In chapter 3 there was one sentence and one head, so the scores were a grid of shape [T, T].
# Now let there be a batch of B = 2 sentences, our five words in two orders, and H = 2 heads, each of which gets d = 2 of the 4 numbers of every vector.
# There are B times H = 4 grids.
# The plain way is a loop over them, with chapter 3's function inside.

# %%
order = [3, 4, 0, 1, 2]  # "on mat The cat sat"
batch = [torch.tensor(np.stack([x, x[order]])) for x in (Q, K, V)]  # each [B, T, 4]
q, k, v = (torch.stack([x[..., :2], x[..., 2:]], dim=1) for x in batch)  # each [B, H, T, 2]


def one_head(q, k, v):
    """Chapter 3: q, k, v of shape [T, d]."""
    scores = q @ k.T / math.sqrt(q.shape[-1])  # [T, T]
    scores = scores.masked_fill(~causal().tensor(len(q)), -torch.inf)
    return scores.softmax(dim=-1) @ v  # [T, d]


looped = torch.stack(
    [torch.stack([one_head(q[b, h], k[b, h], v[b, h]) for h in range(2)]) for b in range(2)]
)
print("shape of q:", list(q.shape), "  shape of the output:", list(looped.shape))

# %% [markdown]
# The fast way has no loop.
# `@` multiplies the last two axes and leaves the others alone, `softmax(dim=-1)` works along the keys, and the mask gets two axes of length 1 in front.

# %%
mask = causal().tensor(5)[None, None]  # [1, 1, T, T]

scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [B, H, T, T]
scores = scores.masked_fill(~mask, -torch.inf)  # [B, H, T, T] with [1, 1, T, T]
batched = scores.softmax(dim=-1) @ v  # [B, H, T, d]

print("scores:", list(scores.shape), "  mask:", list(mask.shape), "  output:", list(batched.shape))
print("agrees with the loop:", torch.allclose(batched, looped))

# %% [markdown]
# The line with `masked_fill` combines 100 scores with 25 booleans.
# The rule that allows it is called **broadcasting**, and it is short.
# Write the shapes below each other, aligned on the *right*.
# Two axes fit if they are equal or if one of them is 1; an axis of length 1, or one that is missing on the left, is repeated as often as needed.
#
# **Predict.** Scores have shape [B, H, T, T].
# Which of these masks fit without an error: [T, T], [B, 1, T, T], [B, T, T], [B, T]?
# And does your answer depend on the numbers B, H and T?

# %%
candidates = {
    "[T, T]": lambda B, H, T: (T, T),
    "[1, 1, T, T]": lambda B, H, T: (1, 1, T, T),
    "[B, 1, T, T]": lambda B, H, T: (B, 1, T, T),
    "[B, 1, 1, T]": lambda B, H, T: (B, 1, 1, T),
    "[B, T, T]": lambda B, H, T: (B, T, T),
    "[B, T]": lambda B, H, T: (B, T),
}
sizes = {"B=2 H=3 T=5": (2, 3, 5), "B=3 H=3 T=5": (3, 3, 5), "B=5 H=3 T=5": (5, 3, 5)}


def fits(shape, B, H, T):
    try:
        return np.broadcast_shapes(shape, (B, H, T, T)) == (B, H, T, T)
    except ValueError:
        return False


print(f"{'mask':<14}" + "".join(f"{name:>14}" for name in sizes))
for name, shape in candidates.items():
    verdicts = ("fits" if fits(shape(*size), *size) else "error" for size in sizes.values())
    print(f"{name:<14}" + "".join(f"{verdict:>14}" for verdict in verdicts))

# %% [markdown]
# The last two lines are the trap.
# Broadcasting compares lengths, not meanings.
# When there happen to be as many sentences as heads, a mask of shape [B, T, T] fits, and is read as one mask a *head*.
# When there happen to be as many sentences as tokens, a padding mask of shape [B, T] fits, and is read as [T, T].
# No error, wrong model, and only for some batch sizes.
# So the habit to keep is: **give a mask all four axes**, with a 1 for each that it does not depend on, and test with B, H and T all different.

# %% [markdown]
# ## Nothing is copied
#
# "The mask must always be copied to [B, H, T, T] first" is a common wrong answer to an interview question.
#
# **Predict.** We stretch our 5 by 5 mask of 25 bytes to shape [2, 3, 5, 5].
# How many bytes does the stretched one occupy?

# %%
small = causal().tensor(5)  # 25 booleans, one byte each
stretched = small.expand(2, 3, 5, 5)

print("small:    shape", list(small.shape), "strides", small.stride())
print("stretched: shape", list(stretched.shape), "strides", stretched.stride())
print("numbers it shows:      ", stretched.numel())
print("bytes in its memory:   ", stretched.untyped_storage().nbytes())
print("same address as small: ", stretched.data_ptr() == small.data_ptr())
print("last grid, same address:", stretched[1, 2].data_ptr() == small.data_ptr())

# %% [markdown]
# The **strides** explain it.
# A stride says how many places to move in memory when an index grows by one.
# For the small mask they are (5, 1): next row, five places on; next column, one place on.
# In the stretched one the first two strides are **0**: next sentence, stay where you are; next head, stay where you are.
# All six grids *are* the same 25 bytes.
#
# And what forces a copy?
#
# **Predict** for each line below: view or copy?

# %%
operations = {
    "small[None, None]": lambda: small[None, None],
    "small.expand(2, 3, 5, 5)": lambda: small.expand(2, 3, 5, 5),
    "stretched[:1]": lambda: stretched[:1],
    "stretched.contiguous()": lambda: stretched.contiguous(),
    "stretched.clone()": lambda: stretched.clone(),
    "small.repeat(2, 3, 1, 1)": lambda: small.repeat(2, 3, 1, 1),
    "~stretched": lambda: ~stretched,
    "(~small).expand(2, 3, 5, 5)": lambda: (~small).expand(2, 3, 5, 5),
}
print(f"{'operation':<30}{'shape':<16}{'strides':<18}{'bytes':>6}  memory")
for name, operation in operations.items():
    result = operation()
    memory = result.untyped_storage()
    shared = "shared" if memory.data_ptr() == small.data_ptr() else "new"
    print(
        f"{name:<30}{list(result.shape)!s:<16}{result.stride()!s:<18}{memory.nbytes():>6}  {shared}"
    )

# %% [markdown]
# `clone` and `repeat` promise a tensor with memory of its own, and `contiguous` one whose numbers lie in memory in the order of its axes, so all three copy: 150 bytes.
# So does every *calculation* with a stretched tensor, like `~stretched`, because its result has to be stored somewhere.
# The last line makes a new tensor too, but a small one: 25 bytes, then stretched.
# Calculate first and stretch afterwards.
# Better still, do not stretch by hand at all; the operation that combines mask and scores does it on the fly, one cell at a time.
# To be sure that it does, we measure how much memory it takes at its peak.
# (Python can trace NumPy's memory to the byte; the rules of broadcasting are the same.)

# %%
many_scores = np.zeros((8, 16, 128, 128))  # [B, H, T, T]
one_mask = causal().matrix(128)  # [T, T]


def peak(function):
    """Most memory in use while the function runs, in MiB."""
    tracemalloc.start()
    function()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 2**20


def broadcast():
    return np.where(one_mask, many_scores, -np.inf)


def with_copy():
    return np.where(np.tile(one_mask, (8, 16, 1, 1)), many_scores, -np.inf)


# In whole MiB, because the library's own buffers come to some 0.1 MiB, more or less by version.
print(f"the result alone:            {many_scores.nbytes / 2**20:.0f} MiB")
print(f"mask [T, T], broadcast:      {peak(broadcast):.0f} MiB")
print(f"mask copied to [B, H, T, T]: {peak(with_copy):.0f} MiB")

# %% [markdown]
# At sizes of practice the difference is no longer a matter of taste.

# %%
B, H, T = 64, 32, 2048
long_mask = causal().tensor(T).expand(B, H, T, T)
print(f"memory that it occupies: {long_mask.untyped_storage().nbytes() / 2**20:,.0f} MiB")
print(f"memory of a real copy:   {long_mask.numel() / 2**20:,.0f} MiB")

# %% [markdown]
# A depth-estimation model repeats its mask for every head; a pull request of 2026 works out what that costs, 43 GiB for 32 views, and proposes to delete the one call ([Depth-Anything-3#268](https://github.com/ByteDance-Seed/Depth-Anything-3/pull/268)).
#
# Shared memory has one price: you must not write into it.
# PyTorch refuses the obvious way, but not every way.

# %%
victim = small.clone().expand(2, 3, 5, 5)
with expected_error(RuntimeError):
    victim.logical_not_()

victim[0, 0, 0, 4] = True  # "let The see mat, in sentence 0, head 0 only"
print("grids in which The sees mat:", int(victim[:, :, 0, 4].sum()), "of", 2 * 3)

# %% [markdown]
# One assignment, six grids.
# In 2017 even such an operation in place went through; a developer of AllenNLP found that doubling a 2 stretched to three places gave 16 ([allennlp#605](https://github.com/allenai/allennlp/pull/605)).
# NumPy is stricter, and hands out stretched arrays read-only.

# %% [markdown]
# ## The shape flow
#
# **Predict.** Take a pencil and sketch the way from Q, K and V to the output, with the shape at every station.
# Then compare.
# Boxes with a dark border hold one number for each *pair* of positions, the others one vector for each position; the dashed box is stretched.

# %%
from course_lib.figures.batching import shape_flow

B, H, T, d = q.shape
shape_flow(B, H, T, d, mask=mask.shape)

# %% [markdown]
# T appears twice in the scores, once for the query rows and once for the key columns, and `weights @ V` sums over the second.
# B and H are never summed over: sentences do not see each other, and neither do heads.
# That is a claim about the code, and we will test it.

# %% [markdown]
# ## Heads: splitting and merging
#
# A layer computes queries for all heads at once, as one vector of C = H times d numbers a token: shape [B, T, C].
# Head 0 owns the first d numbers, head 1 the next d, and so on.
# To get [B, H, T, d] takes two moves: cut the last axis in two, then bring the heads to the front.

# %%


def split_heads(x, n_heads):
    B, T, C = x.shape
    x = x.reshape(B, T, n_heads, C // n_heads)  # [B, T, C] -> [B, T, H, d]
    return x.swapaxes(1, 2)  # [B, T, H, d] -> [B, H, T, d]


def merge_heads(x):
    B, H, T, d = x.shape
    x = x.swapaxes(1, 2)  # [B, H, T, d] -> [B, T, H, d]
    return x.reshape(B, T, H * d)  # [B, T, H, d] -> [B, T, C]


print("split as we did by hand above:", torch.equal(split_heads(batch[0], 2), q))
print("merging undoes splitting:     ", torch.equal(merge_heads(q), batch[0]))

# %% [markdown]
# The second move looks like a detour.
# Both ends have the same number of entries, so why not reshape straight to the shape that is wanted?


# %%
def split_by_reshape(x, n_heads):  # wrong
    B, T, C = x.shape
    return x.reshape(B, n_heads, T, C // n_heads)


def merge_by_reshape(x):  # wrong
    B, H, T, d = x.shape
    return x.reshape(B, T, H * d)


print("right shape:", list(split_by_reshape(batch[0], 2).shape), list(merge_by_reshape(q).shape))
print(
    "each undoes the other:", torch.equal(merge_by_reshape(split_by_reshape(batch[0], 2)), batch[0])
)

# %% [markdown]
# The shapes are right, and the round trip is the identity.
#
# **Predict.** What does head 0 get to see after `split_by_reshape`?
# To find out we put names in place of numbers: "cat/1" is a number of token "cat" that belongs to head 1.

# %%
owner = np.array([[f"{token}/{j // 2}" for j in range(4)] for token in TOKENS])[None]  # [1, T, C]
slots = [f"position {t}" for t in range(5)]
for split in (split_heads, split_by_reshape):
    named = split(owner, 2)[0]  # [H, T, d]
    print(split.__name__)
    print(table(np.hstack([named[0], named[1]]), rows=slots, columns=["head 0", "", "head 1", ""]))
    print()

# %% [markdown]
# On top, each head has its own numbers of all five tokens.
# Below, "head 0" holds *all* numbers of The and cat and half of sat, and "head 1" the rest of the sentence.
# A reshape only re-cuts the row of numbers in memory, and in memory the tokens come one after the other.
#
# **Predict.** And the other way round: after a right split and a wrong merge, whose numbers stand in the row of "The"?

# %%
heads = split_heads(owner, 2)
for merge in (merge_heads, merge_by_reshape):
    print(merge.__name__)
    print(table(merge(heads)[0], rows=TOKENS))
    print()

# %% [markdown]
# The row of "The" now holds numbers of "cat", the word that it is to predict.
# No mask can prevent that, because the mask has done its work before the merge.
#
# Does the error message help?
# On the contrary.
# `view`, the strict form of reshape, refuses the *right* order of moves, because after `transpose` the numbers no longer lie in the order that is asked for; it accepts the wrong one.

# %%
with expected_error(RuntimeError):
    q.transpose(1, 2).view(2, 5, 4)  # right, refused: write .reshape, or .contiguous().view
print("wrong, accepted:", list(q.contiguous().view(2, 5, 4).shape))

# %% [markdown]
# Merging by `view` without the transpose was in one of the first PyTorch Transformers within three weeks of the paper ([attention-is-all-you-need-pytorch#7](https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/7)), and it keeps coming back ([opacus#825](https://github.com/meta-pytorch/opacus/pull/825), 2026).
# In one teaching repository it was reported in 2025 and mended in 2026; the training test had passed all the same, and its author explains why ([transformer-from-scratch#6](https://github.com/jsbaan/transformer-from-scratch/pull/6)).
# Splitting by `view` was copied from a blog post into three recommender models ([FuxiCTR#30](https://github.com/reczoo/FuxiCTR/issues/30)); a text classifier does both ([Chinese-Text-Classification-Pytorch#53](https://github.com/649453932/Chinese-Text-Classification-Pytorch/issues/53)).

# %% [markdown]
# ## The layer, and the tests that it must pass
#
# Here is the whole layer.
# How it splits and merges is an argument, so that we can put the wrong ones in.


# %%
class CausalSelfAttention(nn.Module):
    def __init__(self, width, n_heads, split=split_heads, merge=merge_heads):
        super().__init__()
        self.n_heads, self.split, self.merge = n_heads, split, merge
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x, mask=None):
        mask = causal().tensor(x.shape[1]) if mask is None else mask
        q, k, v = (self.split(part, self.n_heads) for part in self.qkv(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [B, H, T, T]
        weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)  # [B, H, T, T]
        return self.out(self.merge(weights @ v))  # [B, H, T, d] -> [B, T, C]


def draw_weights(module, seed, scale):
    """Float64 weights from NumPy, so that a seed gives the same model on every machine."""
    rng = np.random.default_rng(seed)
    module.double()
    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            weight.data.copy_(torch.from_numpy(rng.normal(0.0, scale, size=tuple(weight.shape))))
        elif name.endswith("bias"):
            weight.data.zero_()
    return module


layer = draw_weights(CausalSelfAttention(width=8, n_heads=2), seed=0, scale=0.5)
x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 5, 8)))  # [B, T, C]
print("in:", list(x.shape), "  out:", list(layer(x).shape))

# %% [markdown]
# **Test one: does it agree with others?**
# The library's layer gets the same weights, and PyTorch's fused function the same queries, keys and values.

# %%
from course_lib.gpt import GPT, GPTConfig, SelfAttention

theirs = SelfAttention(GPTConfig(vocab_size=24, context=5, heads=2, width=8)).double()
theirs.load_state_dict(layer.state_dict())
from_library, weights = theirs(x, causal().tensor(5))

parts = (split_heads(part, 2) for part in layer.qkv(x).chunk(3, dim=-1))
from_torch = layer.out(merge_heads(F.scaled_dot_product_attention(*parts, is_causal=True)))

print("course_lib agrees:", torch.allclose(layer(x), from_library))
print("SDPA agrees:      ", torch.allclose(layer(x), from_torch))

# %% [markdown]
# Where there is a second implementation that you trust, this test finds most mistakes.
# Often there is none, and then properties have to do.
#
# **Test two: are heads local?**
# Change the numbers of one head, and see which heads notice.

# %%


def heads_that_notice(split, n_heads=2):
    """[H, H]: row j, column h is True if head h changes when the numbers of head j do."""
    x = torch.zeros(1, 5, 8)
    noticed = []
    for own in torch.arange(8).chunk(n_heads):
        changed = x.clone()
        changed[..., own] += 1
        noticed.append((split(changed, n_heads) != split(x, n_heads)).any(dim=(0, 2, 3)))
    return torch.stack(noticed)


for split in (split_heads, split_by_reshape):
    print(split.__name__, heads_that_notice(split).int().tolist())

# %% [markdown]
# **Test three: the contract.**
# The tester of chapter 1 changes one input at a time and reports which outputs move.
#
# **Predict.** Three layers are wrong: in the split, in the merge, in both.
# All have the causal mask.
# Which of them let a token see the future?

# %%
from course_lib.leaks import LeakError, assert_causal, influence

variants = {
    "right": (split_heads, merge_heads),
    "wrong merge": (split_heads, merge_by_reshape),
    "wrong split": (split_by_reshape, merge_heads),
    "both wrong": (split_by_reshape, merge_by_reshape),
}
layers = {
    name: draw_weights(CausalSelfAttention(8, 2, *how), seed=0, scale=0.5)
    for name, how in variants.items()
}
for name, module in layers.items():
    print(f"{name:<12} shape {list(module(x).shape)}  ", end="")
    try:
        assert_causal(module, x, tokens=TOKENS)
        print("no leak found")
    except LeakError as error:
        print(error)

# %% [markdown]
# All shapes are right.
# Two of the three leak, although their mask is perfect: the rows that it protects are no longer the tokens that we think.
# The third passes.
# So is it right after all?
# Do not ask only what an output must *not* depend on, ask for the whole table of what it depends on.
# In the pictures a blue cell means that the output of its row moves when the input of its column is changed, and a frame that it must not.

# %%
from course_lib.figures.plot import Grid, grids

panels = []
for name, module in layers.items():
    depends = influence(module, x)
    panels.append(
        Grid(depends, TOKENS, TOKENS, name, kind="mask", leak=depends & ~causal().matrix(5),
             row_axis="output", column_axis="input")
    )  # fmt: skip
grids(panels, per_line=2)

# %% [markdown]
# The layer with two errors is causal and half blind.
# They cancel as far as the order of tokens goes, but "head 0" only ever worked on the first half of the sentence and "head 1" on the second, and the token in the middle is shared.
# From "on" onwards, nobody sees "The" or "cat".
# A test for leaks cannot find this, because nothing leaks.
# The test to write is `influence == causal`: no cell too many, and **no cell missing**.

# %%
for name, module in layers.items():
    print(f"{name:<12} exactly causal: {np.array_equal(influence(module, x), causal().matrix(5))}")

# %% [markdown]
# ## A small GPT, from nothing
#
# With the layer in hand, a whole model is some thirty lines more.
# Words and positions become vectors; each block lets tokens look back and then thinks about each token on its own; at the end every position scores the 24 words of the vocabulary.
# `mask` and `positions` are arguments, because the second half of this chapter needs them.


# %%
class Block(nn.Module):
    def __init__(self, width, n_heads, split, merge):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, n_heads, split, merge)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x, mask=None):
        x = x + self.attention(self.norm_1(x), mask)
        return x + self.mlp(self.norm_2(x))


class SmallGPT(nn.Module):
    def __init__(self, n_heads=2, split=split_heads, merge=merge_heads):
        super().__init__()
        vocabulary, context, width, layers = 24, 24, 24, 2
        self.word, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, n_heads, split, merge) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens, mask=None, positions=None):
        positions = torch.arange(tokens.shape[1]) if positions is None else positions
        x = self.word(tokens) + self.position(positions)  # [B, T, C]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))  # [B, T, vocabulary]


print("weights:", sum(weight.numel() for weight in SmallGPT().parameters()))

# %% [markdown]
# It learns the toy language of chapter 1, an endless stream of sentences like "The dogs near the mat are hungry ."
# What matters here: every text is freshly drawn, and the language's entropy is known exactly, so the least loss that an honest model can expect is a number that we can print.
# We call it the **floor**.
# Whoever is clearly below it has read the future.

# %%
from course_lib.language import toy
from course_lib.training import evaluate, train

language, length = toy(), 24
floor = language.min_loss(length + 1)
print(f"floor: {floor:.4f} nats a word; guessing among 24 words: {np.log(24):.4f}")


def draw(n, rng):
    return language.sample(n, length + 1, rng)


def trained(model, name):
    """300 steps on the same 32 fresh texts each, whichever the model; then 2000 texts held out."""
    rng = np.random.default_rng(1)
    history = train(
        model, draw, steps=300, batch_size=32, rng=rng, learning_rate=1e-2, description=name
    )
    return history, evaluate(model, draw, n=2000, rng=np.random.default_rng(2))


# %% [markdown]
# **Predict.** We train the right model and the three wrong ones, with the same first weights and the same texts.
# Rank their losses.
# Which would you notice if you only looked at the loss?

# %%
models, histories, held_out = {}, {}, {}
for name, (split, merge) in variants.items():
    models[name] = draw_weights(SmallGPT(2, split, merge), seed=0, scale=0.02)
    histories[name], held_out[name] = trained(models[name], name)

rows = [[h.mean, h.standard_error, h.mean / floor] for h in held_out.values()]
print(table(rows, rows=list(models), columns=["loss", "std. error", "loss / floor"]))

# %%
from course_lib.figures.plot import lines

lines(
    {name: np.round(history.smoothed(20), 2) for name, history in histories.items()},
    "training step",
    "loss (nats a word)",
    "Training loss on fresh texts",
    hlines={f"floor: {floor:.2f}": round(floor, 2)},
)

# %% [markdown]
# The right model comes within 2% of the floor, and two wrong ones look better.
# They leak, and go far below the floor, which no honest model can (chapter 1).
# With a known floor they are easy to spot; with real text, where nobody knows it, they would pass for progress.
#
# Then look at the fourth.
# It is above the floor, within 3% of it, and passes the leak test.
# It is still half blind; with two heads and a language whose sentences are short it loses only a little.
# The damage grows with the number of heads, because each head sees a smaller piece.

# %%
for name in ("right", "both wrong"):
    model = draw_weights(SmallGPT(8, *variants[name]), seed=0, scale=0.02)
    _, measured = trained(model, f"{name}, eight heads")
    print(f"{name:<12} eight heads: loss / floor = {measured.mean / floor:.4f}")

# %% [markdown]
# So a good loss is not a proof, not even a loss near the optimum.
# That is what the tests of the section before are for.
#
# The library's `GPT` has the same design with its corners finished, and learns as well.
# To compare with the floor more sharply we also subtract the exact surprise of the very texts that were drawn, so that their luck cancels.

# %%
config = GPTConfig(vocab_size=24, context=length, layers=2, heads=2, width=24)
gpt = GPT(config, np.random.default_rng(0))
_, measured = trained(gpt, "course_lib.gpt")

excess = measured.mean + language.log_prob(measured.tokens)[:, 1:].mean()
print(f"loss / floor:             {measured.mean / floor:.4f}")
print(f"excess over exact, share: {excess / floor:.4f}")
print("within 3% of the floor:  ", measured.mean < 1.03 * floor and excess < 0.03 * floor)

# %% [markdown]
# ## What a head learns to look at
#
# Here is one head of the first layer, reading "The dogs near the mat".
# The next word may be "sat", "slept" or "are", and to know that it is not "is", one must look back at the noun.

# %%
words = ["The", "dogs", "near", "the", "mat"]
reading = torch.from_numpy(language.encode(words))[None]  # [1, T]
with torch.no_grad():
    logits, weights = gpt(reading, return_weights=True)  # weights: one [B, H, T, T] a layer

all_heads = torch.cat(weights, dim=1)[0].numpy()  # [4, T, T]: two layers of two heads
on_noun = all_heads[:, 4, 1]
print("weight that 'mat' gives to 'dogs', head by head:", table(on_noun, digits=2))
learned = all_heads[on_noun.argmax()]

# %% [markdown]
# Next to it we put a pattern that one of the documents behind this course prints as "learned", typed in as data.
#
# **Predict.** Before you look at the colours: what must be true of every row of attention weights?

# %%
printed = np.array(
    [
        [0.40, 0.00, 0.00, 0.00, 0.00],
        [0.25, 0.35, 0.00, 0.00, 0.00],
        [0.15, 0.20, 0.30, 0.00, 0.00],
        [0.10, 0.10, 0.15, 0.25, 0.00],
        [0.10, 0.10, 0.10, 0.15, 0.20],
    ]
)
lower = causal().matrix(5)
times = [f"t{i}" for i in range(5)]
grids(
    [
        Grid(learned.round(2), words, words, "a head of our model", mask=lower),
        Grid(printed, times, times, "as printed", mask=lower),
    ]
)

# %%
print("row sums, learned:", table(learned.sum(axis=1), digits=2))
print("row sums, printed:", table(printed.sum(axis=1), digits=2))

# %% [markdown]
# Softmax gives rows that add up to 1, and the printed ones do not; the first row, with one visible cell, could only be 1.
# Is it the bug of chapter 3, a mask applied after softmax?
# No: in the last row nothing is masked, so there even that bug leaves a sum of 1.
# Whatever the printed table shows, no softmax made it.
#
# The learned pattern has a row that can be read: "mat" looks back three places, at "dogs".
# A weight says where a head has looked, not what came of it, and whether attention weights explain a model is disputed ([Jain and Wallace, 2019](https://arxiv.org/abs/1902.10186); [Wiegreffe and Pinter, 2019](https://arxiv.org/abs/1908.04626)).
# So change the noun and see what the model says.

# %%
verbs = ["is", "are"]
columns = language.encode(verbs)
for noun in ("dogs", "dog"):
    text = language.encode(["The", noun, *words[2:]])
    with torch.no_grad():
        said = gpt(torch.from_numpy(text)[None])[0, -1].softmax(dim=-1)[columns]
    both = np.stack([said.numpy(), language.next_word(text)[-1, columns]])
    print(table(both, rows=[f"The {noun} near the mat: model", "exact"], columns=verbs, digits=3))

# %% [markdown]
# ## Sentences of different lengths: padding
#
# A tensor is rectangular and sentences are not.
# The usual way out is to fill the short ones up with some token, on the right or on the left, and to remember which slots, places in a row, hold real tokens.
# From here on we use the right one of our own models.

# %%
model = models["right"].eval()
texts = [language.encode("The cat sat"), language.encode("The dogs near the mat")]


def pad(texts, side, filler=0):
    """Texts of different lengths as one batch: tokens [B, T], and which slots are real [B, T]."""
    widest = max(len(text) for text in texts)
    tokens = np.full((len(texts), widest), filler)
    valid = np.zeros(tokens.shape, dtype=bool)
    for row, text in enumerate(texts):
        first = 0 if side == "right" else widest - len(text)
        tokens[row, first : first + len(text)] = text
        valid[row, first : first + len(text)] = True
    return torch.from_numpy(tokens), torch.from_numpy(valid)


tokens, valid = {}, {}
for side in ("right", "left"):
    tokens[side], valid[side] = pad(texts, side)
    print(f"{side}:")
    for row, real in zip(tokens[side], valid[side], strict=True):
        shown = [language.words[t] if r else "(pad)" for t, r in zip(row, real, strict=True)]
        print("  ", " ".join(shown))

# %% [markdown]
# The filler is word number 0, which happens to be "The".
# That is deliberate: if padding is handled properly, no one can tell what it was.
#
# Padding is information about *keys*: nobody may attend to an empty slot.
# So [B, T] has to become [B, 1, 1, T], with the T on the key axis, and is then combined with the causal rule.
#
# **Predict.** Somebody writes `valid[:, None, :, None]`, shape [B, 1, T, 1].
# It broadcasts just as well.
# What does it block?

# %%
rule = causal().tensor(5)
on_keys = valid["left"][:, None, None, :]  # [B, 1, 1, T]
on_queries = valid["left"][:, None, :, None]  # [B, 1, T, 1]: wrong
short = ["(pad)", "(pad)", "The", "cat", "sat"]
grids(
    [
        Grid((rule & on_keys)[0, 0], short, short, "blocked as keys", kind="mask"),
        Grid((rule & on_queries)[0, 0], short, short, "blocked as queries", kind="mask"),
    ]
)

# %% [markdown]
# On the right, padding is not hidden from anybody.
# The padded *rows* are blocked, which nobody needs, and the real tokens look at the padding.
# This has been in teaching code, as `.unsqueeze(1).unsqueeze(3)` where `.unsqueeze(2)` was meant ([pytorch-seq2seq#96](https://github.com/bentrevett/pytorch-seq2seq/issues/96), [transformer#40](https://github.com/hyunwoongko/transformer/pull/40)), and was asked about in a Keras Transformer ([attention-is-all-you-need-keras#16](https://github.com/lsdefine/attention-is-all-you-need-keras/issues/16)).
# The last two fill with a large finite number, $-10^4$ and $-10^{10}$, so a row that is blocked as a whole does not become NaN but looks ordinary, and nothing complains.
#
# The library's rule puts the axis where it belongs:

# %%
padding_rule = causal() & not_padding(valid["left"])
print(padding_rule.describe())
print("shape:", list(padding_rule.tensor(5).shape))
print("blocks the keys:", torch.equal(padding_rule.tensor(5), rule & on_keys))

# %% [markdown]
# ### Rows with nothing to see
#
# In the picture on the left, the two padded rows are empty: before them there is only padding.
# They are nobody's business, one might think, since no one will read their outputs.
#
# **Predict.** An empty row becomes NaN in our layer (chapter 3).
# Our model has two blocks.
# Which slots are NaN after the first block, and which after the second?

# %%
with torch.no_grad():
    state = model.word(tokens["left"]) + model.position(torch.arange(5))
    for number, block in enumerate(model.blocks, 1):
        state = block(state, padding_rule.tensor(5))
        print(f"NaN after block {number}, sentence 'The cat sat':")
        print(table(state[0].isnan().any(dim=-1)[None], columns=short))

# %% [markdown]
# After the first block the padded slots are NaN.
# In the second they are keys and values.
# Their weight is zero, but **0 times NaN is NaN**, and the whole sentence is lost.
# In August 2026 left-padded batches of a current model were found to end this way: a library had dropped its guard against empty rows, because PyTorch was believed to take care of them by then ([unsloth#9848](https://github.com/unslothai/unsloth/pull/9848)).
#
# There are two ways out.
# Chapter 3's `masked_softmax` gives empty rows zeros.
# Or no row is ever empty: let each token see at least itself, padding or not.
# The second needs no special softmax, so we take it.
# It is one more rule, joined with `|`; `sliding_window(1)` is the rule "itself only".


# %%
def padded_mask(valid):
    itself = sliding_window(1)
    return (causal() & (not_padding(valid) | itself)).tensor(valid.shape[1])  # [B, 1, T, T]


grids(
    [
        Grid(padded_mask(valid["left"])[0, 0], short, short, "padded on the left", kind="mask"),
        Grid(padded_mask(valid["right"])[0, 0], [*short[2:], *short[:2]], [*short[2:], *short[:2]],
             "padded on the right", kind="mask"),
    ]
)  # fmt: skip

# %% [markdown]
# ### The same sentence alone, padded right, padded left
#
# The test for all of this is simple.
# Run each sentence alone, run it in the batch, and compare the predictions at the real slots.
# Before we do, one thing is still missing.
#
# **Predict.** In the batch padded on the left, "The" of the short sentence stands in slot 2.
# Which position embedding does it get, and which one did it get when it was alone?
#
# <details><summary>Answer</summary>
#
# It gets that of position 2 in the batch and that of position 0 alone.
# To the model, "The" as the third word of a text is another thing than "The" as the first.
# It must be told the **logical position**: slot minus the number of padded slots on the left.
# Masks keep working with slots, because they compare slots with slots.
#
# </details>

# %%
slot = torch.arange(5).expand(2, 5)


def logical(valid):
    """Slot minus left padding; padded slots get 0, which nobody will see."""
    return (valid.cumsum(dim=1) - 1).clamp(min=0)


print("logical positions, left: ", logical(valid["left"]).tolist())
print("logical positions, right:", logical(valid["right"]).tolist())

# %%
with torch.no_grad():
    alone = [model(torch.from_numpy(text)[None])[0].softmax(dim=-1) for text in texts]  # [T, 24]


def change(side, mask, positions, filler=0):
    """Largest change of any next-word probability against the sentence alone."""
    batch, real = pad(texts, side, filler)
    with torch.no_grad():
        p = model(batch, mask, positions).softmax(dim=-1)  # [B, T, 24]
    return np.max([(p[b, real[b]] - alone[b]).abs().max() for b in range(len(texts))])


def verdict(change):
    return f"{change:.4f}" + ("  same, to rounding" if change < 1e-12 else "")


left, right = valid["left"], valid["right"]
as_rows = (rule & on_queries) | sliding_window(1).tensor(5)  # the wrong axis, no empty row
trials = {
    "right, causal mask only": ("right", rule, slot),
    "right, padding masked": ("right", padded_mask(right), slot),
    "left,  causal mask only": ("left", rule, slot),
    "left,  padding masked": ("left", padded_mask(left), slot),
    "left,  logical positions": ("left", rule, logical(left)),
    "left,  padding on the wrong axis, logical positions": ("left", as_rows, logical(left)),
    "left,  padding masked, logical positions": ("left", padded_mask(left), logical(left)),
}
for name, trial in trials.items():
    print(f"{name:<53} {verdict(change(*trial))}")

# %% [markdown]
# Padded on the right, the causal mask alone suffices: padding comes after every real token, so it is in everybody's future.
# Padded on the left, it takes both: the padding mask on the right axis *and* the logical positions.
# Each alone is silently wrong.
# With the padding on the wrong axis the number is the same as with no padding mask at all, because in the rows of real tokens the two masks are the same.
#
# Which word is used as filler must make no difference either:

# %%
for filler in (0, 7, 23):
    worst = np.max(
        [
            change(side, padded_mask(valid[side]), logical(valid[side]), filler)
            for side in ("left", "right")
        ]
    )
    print(f"filler {language.words[filler]!r:<8} largest change {verdict(worst)}")

# %% [markdown]
# | | padded right | padded left |
# |---|---|---|
# | padding mask needed for real tokens | no, causality hides it | yes |
# | empty rows | none | one for each padded slot |
# | positions | slot | slot minus left padding |
# | last real token | slot length - 1, different in each row | last slot of every row |
# | good for | training | generation: all sentences continue in the same slot |
#
# Positions that ignore left padding were reported for GPT-2 in Keras ([keras-hub#571](https://github.com/keras-team/keras-hub/issues/571)) and have been found anew in a tool for studying language models, where one padded slot was enough to change most predictions ([nnsight#672](https://github.com/ndif-team/nnsight/issues/672)).
#
# One more thing that the mask does not do: it guards attention, and nobody guards the **loss**.
# Predictions for padded targets have to be left out by hand.

# %%
with torch.no_grad():
    log_p = model(tokens["right"][:, :-1]).log_softmax(dim=-1)  # [B, T - 1, 24]
targets, real = tokens["right"][:, 1:], right[:, 1:]
losses = -log_p.gather(-1, targets[..., None]).squeeze(-1)  # [B, T - 1]
by_sentence = [
    -p[:-1].log().gather(-1, torch.from_numpy(text)[1:, None]).squeeze(-1)
    for p, text in zip(alone, texts, strict=True)
]
print(f"sentences alone, mean a word:    {torch.cat(by_sentence).mean():.4f}")
print(f"batch, mean over real targets:   {losses[real].mean():.4f}")
print(f"batch, mean over all, padding too: {losses.mean():.4f}")

# %% [markdown]
# ### When every head wants its own copy
#
# A mask that differs from sentence to sentence has shape [B, 1, T, T].
# `nn.MultiheadAttention` wants [B * H, T, T], with the heads of sentence 0 first, then the heads of sentence 1.
# There the mask does have to be repeated, and there is a right and a wrong way.
#
# **Predict.** B = 2 sentences, H = 2 heads.
# `repeat` lays copies of the whole block behind each other.
# Which sentence's mask does each of the four get?

# %%
from course_lib.masks import to_multihead_attention

which = torch.tensor([0, 1])  # in place of the masks, the number of their sentence
print("needed:           ", [b for b in range(2) for h in range(2)])
print("repeat:           ", which.repeat(2).tolist())
print("repeat_interleave:", which.repeat_interleave(2).tolist())

mask = padded_mask(left)
by_hand = (~mask[:, 0]).repeat_interleave(2, dim=0)
print("course_lib agrees:", torch.equal(to_multihead_attention(mask, n_heads=2), by_hand))

# %% [markdown]
# With `repeat`, half of the heads use the padding of another sentence, and the result of a sentence depends on its neighbours in the batch.
# With one sentence, or one head, or sentences of equal length, both are the same, so the tests pass ([CLIP4Clip#22](https://github.com/ArrowLuo/CLIP4Clip/issues/22), and in five models at once [lighthouse#77](https://github.com/line/lighthouse/pull/77)).

# %% [markdown]
# ## No padding at all: packing
#
# Padding computes things that nobody wants.
# **Packing** puts several texts one behind the other in one row and keeps them apart with the mask: a query may attend to a key if it is not later *and* in the same document.

# %%
packed = torch.from_numpy(np.concatenate(texts))[None]  # [1, 8]
ids = torch.tensor([[0] * 3 + [1] * 5])  # which document each slot belongs to
packed_words = [language.words[t] for t in packed[0]]
documents = causal() & same_document(ids)
print(documents.describe())
grids([Grid(documents.tensor(8)[0, 0], packed_words, packed_words, "two documents", kind="mask")])

# %% [markdown]
# **Predict.** Two things have to be right for the second text to be treated as if it were alone.
# One is the mask.
# What is the other, and which of the two alone is worth more?

# %%
restarted = torch.cat([torch.arange(len(text)) for text in texts])[None]
print("positions that run on:  ", list(range(8)))
print("positions that restart: ", restarted[0].tolist())
print()


def packed_change(mask, positions):
    with torch.no_grad():
        p = model(packed, mask, positions).softmax(dim=-1)[0]  # [T, 24]
    return np.max([(p[ids[0] == d] - alone[d]).abs().max() for d in range(2)])


running = torch.arange(8)[None]
for name, mask, positions in (
    ("causal mask only, positions run on", causal().tensor(8), running),
    ("causal mask only, positions restart", causal().tensor(8), restarted),
    ("documents kept apart, positions run on", documents.tensor(8), running),
    ("documents kept apart, positions restart", documents.tensor(8), restarted),
):
    print(f"{name:<41} {verdict(packed_change(mask, positions))}")

# %% [markdown]
# Again it takes both, and it is the same pair as with left padding: masks compare slots, embeddings want logical positions.
# The second line is a fix that people try first; it leaves the texts in full view of each other ([nanoVLM#204](https://github.com/huggingface/nanoVLM/pull/204) measures it, [trl#784](https://github.com/huggingface/trl/issues/784) asks).
# Whether a model is harmed by seeing the end of an unrelated text is a separate, empirical question.
# That its result for a text then depends on what it was packed with is not in question.
#
# The mask does not mend the seam of the *targets*.
# The last word of one document would be asked to predict the first of the next:

# %%
seams = (ids[0, 1:] != ids[0, :-1]).nonzero().flatten().tolist()
for t in seams:
    print(
        f"slot {t}: reads {packed_words[t]!r}, is asked for {packed_words[t + 1]!r}: leave it out"
    )

# %% [markdown]
# What is saved?
# Count honestly: the rows that every layer has to process, the cells of the score grids, and the cells that anyone looks at.

# %%
lengths = [len(text) for text in texts]
widest = max(lengths)
visible = [
    int((padded_mask(right) & right[:, None, :, None]).sum()),
    int(documents.tensor(8).sum()),
]
print(f"{'':<10}{'rows':>6}{'score cells':>14}{'visible to real tokens':>26}")
print(f"{'padded':<10}{2 * widest:>6}{2 * widest**2:>14}{visible[0]:>26}")
print(f"{'packed':<10}{sum(lengths):>6}{sum(lengths) ** 2:>14}{visible[1]:>26}")

# %% [markdown]
# Packing saves rows, but a *dense* score grid over the packed row has more cells than the padded batch, not fewer.
# It pays when the empty blocks of that grid are skipped; chapters 6 and 7 show kernels that do.
# In the corpus on which BERT was trained, at 512 tokens a text, about half of all tokens are padding ([Krell et al., 2021](https://arxiv.org/abs/2107.02027)), so the rows alone are worth it.

# %% [markdown]
# ## Three invariances to test in any model
#
# A sentence's result may not depend on its neighbours, on its padding, or on the mode of the model if the model has nothing random in it.

# %%
rng = np.random.default_rng(3)
cut = [text[: rng.integers(4, 21)] for text in language.sample(8, 20, rng)]
batch, real = pad(cut, "left")
shuffle = torch.from_numpy(rng.permutation(8))


def run(tokens, valid):
    with torch.no_grad():
        return model(tokens, padded_mask(valid), logical(valid))


whole = run(batch, real)
exact = {"rtol": 0.0, "atol": 1e-12}
print("shuffled batch, shuffled results:",
      torch.allclose(run(batch[shuffle], real[shuffle]), whole[shuffle], **exact))  # fmt: skip
same = []
for row, text in enumerate(cut):
    lonely = run(torch.from_numpy(text)[None], torch.ones(1, len(text), dtype=torch.bool))[0]
    same.append(torch.allclose(whole[row, real[row]], lonely, **exact))
print("left padding, eight texts:       ", all(same))
print("train() equals eval():           ",
      torch.equal(model.train()(tokens["left"]), model.eval()(tokens["left"])))  # fmt: skip
for training in (True, False):
    depends = influence(model.train(training), tokens["left"], vocab_size=24)
    mode = "train()" if training else "eval() "
    print(f"exactly causal in {mode}:        ", np.array_equal(depends, causal().matrix(5)))

# %% [markdown]
# `allclose`, not `equal`: in a batch of another size the libraries may add numbers in another order, and the last bits may differ ([pytorch#58128](https://github.com/pytorch/pytorch/issues/58128)).
# If the difference is larger than rounding, it is a bug and not "numerics".
#
# The third line looks trivial.
# Here is a layer that fails it.
# PyTorch's fused function takes a rate of dropout, a random deletion of weights that is meant for training only, and as a function it cannot know the mode of your module.


# %%
class Careless(CausalSelfAttention):
    rate = 0.3

    def dropout_rate(self):
        return self.rate

    def forward(self, x, mask=None):
        parts = (split_heads(part, self.n_heads) for part in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(*parts, dropout_p=self.dropout_rate(), is_causal=True)
        return self.out(merge_heads(y))


class Careful(Careless):
    def dropout_rate(self):
        return self.rate if self.training else 0.0


x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 5, 8)))
for kind in (Careless, Careful):
    module = draw_weights(kind(8, 2), seed=0, scale=0.5).eval()
    print(f"{kind.__name__:<9} eval(), twice the same: {torch.equal(module(x), module(x))}")

# %% [markdown]
# PyTorch was asked to change this ([pytorch#124464](https://github.com/pytorch/pytorch/issues/124464)); whoever mended it throughout a vision library calls it a recurring bug ([timm#1978](https://github.com/huggingface/pytorch-image-models/pull/1978)).

# %% [markdown]
# ## Pause and recall
#
# <details><summary>1. Why can a mask of shape [1, 1, T, T] work with scores of shape [B, H, T, T]?</summary>
#
# Shapes are aligned on the right, and an axis of length 1 is repeated as often as needed.
# The repetition costs nothing: those axes get stride 0, so every sentence and every head reads the same T times T cells.
# It is *right* because the causal rule depends on neither the sentence nor the head.
# "It must be copied to [B, H, T, T] first" is the common wrong answer.
#
# </details>
#
# <details><summary>2. Sketch the shape flow from memory, from Q and K to the output.</summary>
#
# Q and K, each [B, H, T, d] → scores [B, H, T, T] → mask [1, 1, T, T], stretched → masked scores [B, H, T, T] → softmax along the last axis → weights [B, H, T, T] → times V [B, H, T, d] → output [B, H, T, d] → transpose and merge → [B, T, C].
#
# </details>
#
# <details><summary>3. Your mask has shape [B, T, T]. When does that raise an error, and when is it worse than an error?</summary>
#
# Against [B, H, T, T] it is aligned on the right, so its B meets the axis of heads.
# If B is neither 1 nor H, there is an error.
# If B equals H it is silently used as one mask a head, for all sentences alike.
#
# </details>
#
# <details><summary>4. Somebody merges heads with <code>y.view(B, T, C)</code>, y being [B, H, T, d] and contiguous. Which test tells?</summary>
#
# Not the shape, and not the loss, which even falls.
# Comparing with another implementation tells, and so does changing one input: with the merge wrong, outputs move that stand before it.
#
# </details>
#
# <details><summary>5. And if the split is wrong in the same way too?</summary>
#
# Then nothing leaks, the loss is only a little too high, and the test for leaks passes.
# What tells is that cells of the influence table are *missing*: later tokens do not depend on the first ones.
#
# </details>
#
# <details><summary>6. Padding on the left, masks right, and results still depend on the padding. What was forgotten?</summary>
#
# Logical positions: slot minus left padding for the position embedding.
# The mask uses slots.
#
# </details>
#
# <details><summary>7. Why is an empty row of a padded query not harmless, although nobody reads its output?</summary>
#
# Somebody does: the next layer, as a key and as a value.
# Its weight is zero there, but zero times NaN is NaN.
#
# </details>

# %% [markdown]
# ## Summary
#
# - A mask with axes of length 1 is stretched by broadcasting with stride 0: no copy, at any batch size. Calculating with a stretched mask, `repeat` and `contiguous` do copy.
# - Broadcasting compares lengths, not meanings. Give a mask all four axes, padding on the key axis, and test with sizes that all differ.
# - Splitting is reshape then transpose, merging transpose then reshape. Three wrong ways keep every shape; two leak, and one goes half blind. Test for what must be seen as well as for what must not.
# - Masks use slots, embeddings use logical positions. With both right, a sentence gives the same alone, padded on either side, and packed.
# - A GPT of some 16 thousand weights comes within 2% of the entropy floor in 300 steps. One that goes far below it has read the future.
#
# **Next:** [chapter 5, the KV cache](05_kv_cache.ipynb), where the model generates one token at a time, and where the position of the query decides whether the mask is right.

# %% [markdown]
# ## References
#
# - A. Vaswani et al., [Attention Is All You Need](https://arxiv.org/abs/1706.03762), 2017, section 3.2.2: heads.
# - PyTorch documentation of [Tensor.expand](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.expand.html) and of [broadcasting](https://docs.pytorch.org/docs/stable/notes/broadcasting.html).
# - M. M. Krell et al., [Efficient Sequence Packing without Cross-contamination](https://arxiv.org/abs/2107.02027), 2021.
# - S. Jain and B. C. Wallace, [Attention is not Explanation](https://arxiv.org/abs/1902.10186), 2019; S. Wiegreffe and Y. Pinter, [Attention is not not Explanation](https://arxiv.org/abs/1908.04626), 2019.
# - Heads: [attention-is-all-you-need-pytorch#7](https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/7), [transformer-from-scratch#6](https://github.com/jsbaan/transformer-from-scratch/pull/6), [opacus#825](https://github.com/meta-pytorch/opacus/pull/825), [FuxiCTR#30](https://github.com/reczoo/FuxiCTR/issues/30), [Chinese-Text-Classification-Pytorch#53](https://github.com/649453932/Chinese-Text-Classification-Pytorch/issues/53).
# - Masks on the wrong axis or in the wrong order: [attention-is-all-you-need-keras#16](https://github.com/lsdefine/attention-is-all-you-need-keras/issues/16), [pytorch-seq2seq#96](https://github.com/bentrevett/pytorch-seq2seq/issues/96), [transformer#40](https://github.com/hyunwoongko/transformer/pull/40), [CLIP4Clip#22](https://github.com/ArrowLuo/CLIP4Clip/issues/22), [lighthouse#77](https://github.com/line/lighthouse/pull/77).
# - Copies: [Depth-Anything-3#268](https://github.com/ByteDance-Seed/Depth-Anything-3/pull/268), [allennlp#605](https://github.com/allenai/allennlp/pull/605).
# - Padding and packing: [unsloth#9848](https://github.com/unslothai/unsloth/pull/9848), [keras-hub#571](https://github.com/keras-team/keras-hub/issues/571), [nnsight#672](https://github.com/ndif-team/nnsight/issues/672), [nanoVLM#204](https://github.com/huggingface/nanoVLM/pull/204), [trl#784](https://github.com/huggingface/trl/issues/784).
# - Modes and batch sizes: [pytorch#124464](https://github.com/pytorch/pytorch/issues/124464), [timm#1978](https://github.com/huggingface/pytorch-image-models/pull/1978), [pytorch#58128](https://github.com/pytorch/pytorch/issues/58128).
