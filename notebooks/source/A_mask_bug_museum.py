# %% [markdown]
# # A. The museum of mask bugs
#
# Every bug in this museum shipped: in PyTorch, Keras, Hugging Face transformers, in frameworks that train models with billions of weights.
# Hardly one of them raised an error.
# For each you get the symptom that users saw, the bug in a few lines that run, the one test that would have caught it, the fix, and the place where it was found.
# At the exit, all tests together become one function that you can point at your own model.

# %% [markdown]
# ## What you will be able to do
#
# - Recognise twelve mask bugs by their symptoms, most of which are good numbers.
# - Name, for each, an invariant that it breaks, and test that invariant without knowing the right answer.
# - Run `course_lib.leaks.audit` on a model of your own and read its report, including what it could not test.
# - If you have a network: run GPT-2 in the `GPT` of this course, with and without its mask, and find its attention sinks.
#
# **Before you start.** Chapters [2](02_tril_mask.ipynb) to [5](05_kv_cache.ipynb): masks, softmax, padding, caches.
# The code of the exhibits is ours, cut down until little more than the bug is left; it follows the linked reports, and no line is copied from them.
# Some exhibits you have met in a chapter. Walk past those quickly, and look at the test.

# %%
import importlib.util
import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import display
from torch import nn

from course_lib.figures.plot import Grid, grids
from course_lib.figures.sinks import sink_view
from course_lib.generation import generate
from course_lib.gpt import GPT, GPTConfig
from course_lib.gpt2 import GPT2, UnavailableError, from_pretrained, sink_share
from course_lib.leaks import (
    LeakError,
    assert_causal,
    audit,
    audit_attention,
    influence,
    rewarded_offset,
)
from course_lib.leaks.models import Subject, hugging_face
from course_lib.lesson import table
from course_lib.masks import Mask, causal, not_padding, same_document, sliding_window
from course_lib.training import shift, token_losses

torch.set_num_threads(1)
rng = np.random.default_rng(0)
T = 6


def draw(*shape):
    """Normal numbers in double precision."""
    return torch.from_numpy(rng.normal(size=shape))


def look_for_leaks(name, fn, x, **options):
    """The contract tester of chapter 1, in one line."""
    try:
        assert_causal(fn, x, **options)
        print(f"{name}: no leak found")
    except LeakError as leak:
        print(f"{name}: {leak}")


x = draw(1, T, 8)  # one text: six positions, eight numbers each

# %% [markdown]
# ## 1. The mask that left with the fast path
#
# **Seen.** In June 2026 a user of Keras noticed that a causal `MultiHeadAttention` had stopped being causal.
# Metrics could rise towards perfect, since later time steps gave the earlier ones away.
# It happened with dropout, or when one asked for the attention weights; without either, all was well.
#
# A fused kernel takes a flag, "this is causal", and needs no matrix.
# So the matrix was no longer made.
# But the kernel cannot return weights, and whoever asks for them gets the old path, which knows nothing of the flag.


# %%
def fast_and_slow(x, need_weights=False):
    """Causal self-attention, with a fast path."""
    mask = None  # "the kernel knows that it is causal"
    if not need_weights:
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)
    scores = x @ x.mT / math.sqrt(x.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ x


# %% [markdown]
# **Predict.** You test the layer as you usually call it, and it passes.
# What does the tester say about the same layer when somebody plots its attention weights?

# %%
look_for_leaks("as usual        ", fast_and_slow, x)
look_for_leaks("weights returned", lambda x: fast_and_slow(x, need_weights=True), x)

# %% [markdown]
# PyTorch has the same trap, and calls it a feature: in `nn.MultiheadAttention`, `is_causal=True` is a *hint* that the mask you pass is the causal one.
# Here is a mask that blocks nothing, with a hint that is a lie, in the PyTorch that you are running.

# %%
torch.manual_seed(0)
layer = nn.MultiheadAttention(8, 2, batch_first=True).double()
nothing_blocked = torch.zeros(T, T, dtype=torch.bool)  # in this layer True means blocked
for need_weights in (False, True):
    look_for_leaks(
        f"need_weights={need_weights!s:<5}",
        lambda x, need=need_weights: layer(
            x, x, x, attn_mask=nothing_blocked, is_causal=True, need_weights=need
        )[0],
        x,
    )

# %% [markdown]
# Two answers from one layer: with one setting the hint wins, with the other the mask.
#
# **The test.** Future influence, *for every option that chooses a path*: dropout on and off, weights or not, each backend, training and evaluation.
# The person who reported the Keras bug had it right: change a future key, and look at an earlier output.
#
# **The fix.** Make the mask where the slow path uses it. In PyTorch, `is_causal=True` without a mask became an error there.
#
# **Where.** [keras#23038](https://github.com/keras-team/keras/issues/23038) (Adam-D-Lewis, 2026-06-04), mended by [#23040](https://github.com/keras-team/keras/pull/23040), whose review found the same hole once more.
# [pytorch#99282](https://github.com/pytorch/pytorch/issues/99282) (lendle, 2023-04-17) and [#97214](https://github.com/pytorch/pytorch/pull/97214), which made the flag a hint.

# %% [markdown]
# ## 2. The mask the other way round
#
# **Seen.** A reader of one of the most popular courses on language models looked at a mask for long enough: `triu(...)`, handed to a function in which True means *may attend* (chapter 2 tells the story).
#
# **Predict.** The mask allows exactly what it should block.
# What does the last position attend to, and what comes out there?

# %%
upside_down = torch.triu(torch.ones(T, T, dtype=torch.bool), diagonal=1)


def inverted(x):
    return F.scaled_dot_product_attention(x, x, x, attn_mask=upside_down)


print("who influences whom (1 = row changes when column does)")
print(table(influence(inverted, x).astype(int)))
print("output of the last position:", inverted(x)[0, -1, :4].tolist(), "...")

# %% [markdown]
# Nothing and zeros.
# The row of zeros is the symptom that one can see without any test, if one looks.
#
# **The test.** Future influence. It needs no idea of what the right mask would be.
#
# **The fix.** One `~`, or, better, one convention for the whole project and a conversion at its border (`course_lib.masks.to_multihead_attention` and its like).
#
# **Where.** [LLMs-from-scratch#1061](https://github.com/rasbt/LLMs-from-scratch/issues/1061) (bowenxieoregon, 2026-08-09).
# Hugging Face had it in PaliGemma, but there the model underneath checks the sign of any mask it is handed, and so the bug was an error on the first day: [transformers#31207](https://github.com/huggingface/transformers/pull/31207) (molbap, 2024-06-03). One `if` made the difference.

# %% [markdown]
# ## 3. Masked in training only
#
# **Seen.** A reader of a published forecasting model found this in its cross-attention: `is_causal` was set to `self.training`.
# Training is honest; in evaluation every step of the context is visible, and reported errors are too good (chapter 1 measures how much).


# %%
class Forecaster(nn.Module):
    """One layer of attention over a series."""

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x, is_causal=self.training)


look_for_leaks("in training  ", lambda x: Forecaster().train()(x), x)
look_for_leaks("in evaluation", lambda x: Forecaster().eval()(x), x)
print("the audit finds:", ", ".join(audit(Forecaster(), x).failed))

# %% [markdown]
# **The test.** Two of them: future influence in *both* modes, and agreement of the modes once dropout is set to 0.
# The second has no idea what a mask is, and finds it anyway.
#
# **The fix.** The mask belongs to the model, not to the mode.
#
# **Where.** [Kronos#199](https://github.com/shiyu-coder/Kronos/issues/199) (toughhou, 2025-11-30).

# %% [markdown]
# ## 4. The mask after the softmax
#
# **Seen.** The report names no symptom: somebody had read the code.
# In a widely used library of image models, one kind of layer took the softmax first and masked then.
# Its maintainer wondered how that could have happened.
#
# **Predict.** The blocked weights are exactly zero in this code.
# Can a blocked key still change the output?


# %%
def softmax_first(q, k, v, mask):
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0) @ v


print(audit_attention(softmax_first))

# %% [markdown]
# It can: through the sum that every weight was divided by.
# `audit_attention` takes any function of queries, keys, values and a mask, and runs four tests on it.
# The third line passes, and rightly so: a row that sees nothing comes out as zeros here.
#
# **The test.** Change blocked *keys*.
# Whoever changes blocked values only finds nothing: their weights are zero.
#
# **The fix.** Two lines swap places.
#
# **Where.** [pytorch-image-models#2236](https://github.com/huggingface/pytorch-image-models/pull/2236) (NightMachinery, 2024-07-19).

# %% [markdown]
# ## 5. The wrong corner
#
# **Seen.** Training is fine, and generation with a cache repeats itself: every new word compares itself with the first key only.
# In the first releases of FlashAttention, `causal=True` put the triangle at the top left when there were more keys than queries.
# Serving code switched the flag off by hand for every single new token; PyTorch's `is_causal` is so to this day (chapter 5).


# %%
def forward(x):
    return F.scaled_dot_product_attention(x, x, x, is_causal=True)


def top_left(x, kept, _valid):
    """Some more positions, with the keys of earlier ones."""
    keys = x if kept is None else torch.cat([kept, x], dim=1)
    return F.scaled_dot_product_attention(x, keys, keys, is_causal=True), keys


def by_position(x, kept, _valid):
    keys = x if kept is None else torch.cat([kept, x], dim=1)
    slots = torch.arange(keys.shape[1] - x.shape[1], keys.shape[1])
    mask = causal().tensor(slots, keys.shape[1])
    return F.scaled_dot_product_attention(x, keys, keys, attn_mask=mask), keys


# %% [markdown]
# **Predict.** Does the contract tester find anything in `top_left`?

# %%
series = draw(2, 10, 8)
for step in (top_left, by_position):
    report = audit(Subject(forward, step=step), series)
    print(step.__name__)
    print("\n".join(str(report).splitlines()[i] for i in (0, 2, 3)))

# %% [markdown]
# No: a query that sees too *little* keeps the contract.
#
# **The test.** Chunk split: any way of feeding a text gives the same outputs.
# One position at a time is one of the ways; several with a warm cache is another, which tests with single tokens never try.
#
# **The fix.** Compare absolute positions. FlashAttention moved its corner to the bottom right in version 2.1, and PyTorch then stopped using it where the two would differ ([pytorch#111007](https://github.com/pytorch/pytorch/pull/111007)).
#
# **Where.** [flash-attention#282](https://github.com/Dao-AILab/flash-attention/issues/282) (thomasw21, 2023-06-21); the symptom is described in [pytorch#144858](https://github.com/pytorch/pytorch/issues/144858) (JamesGlare, 2025-01-15).
# Three years later, a standard for exchanging models had to move its corner as well: [onnx#8068](https://github.com/onnx/onnx/pull/8068) (titaiwangms, 2026-06-08).

# %% [markdown]
# ## 6. A window with the sign wrong
#
# **Seen.** A user of the continuous batching in transformers printed the mask of a sliding window, and it let through more keys than the window has.
# It was made of two triangles; the second cut off the wrong end.

# %%
N, WIDTH = 8, 3


def two_triangles(n, width):
    """Visible cells, as they were: -inf above the diagonal, then cut with the sign wrong."""
    blocked = torch.full((n, n), -torch.inf)
    bias = torch.triu(blocked, diagonal=1)  # the causal part
    return torch.tril(bias, diagonal=width) == 0  # meant to block what is too far back


shipped = two_triangles(N, WIDTH).numpy()
wanted = sliding_window(WIDTH).matrix(N)

# %% [markdown]
# **Predict.** `torch.tril` sets to zero what lies above its diagonal.
# In an additive mask, what does a zero mean?
# Draw the top right corner before you look.

# %%
names = [str(t) for t in range(N)]
ahead = shipped & ~causal().matrix(N)
grids(
    [
        Grid(shipped, names, names, "as shipped", kind="mask", leak=ahead),
        Grid(wanted, names, names, "a window of 3", kind="mask"),
    ]
)

# %% [markdown]
# The past is not limited at all, and the far future is open.
# (The report counted keys. That some of them lie in the future is what our reproduction adds.)
# With a text no longer than the window, nobody can tell:


# %%
def through(mask):
    return lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.as_tensor(mask))


for n in (3, 8):
    series = draw(1, n, 8)
    fn = through(two_triangles(n, WIDTH))
    look_for_leaks(f"{n:>2} positions", fn, series, allowed=sliding_window(WIDTH))

# %% [markdown]
# **The test.** Future influence with `allowed=sliding_window(width)`, on a text of more than twice the window.
#
# **The fix.** Subtract the width, and add the two parts instead of cutting one with the other. Or write `k > q - width` and be done.
#
# **Where.** [transformers#41184](https://github.com/huggingface/transformers/issues/41184) (NixGD, 2025-09-27), mended by [#41228](https://github.com/huggingface/transformers/pull/41228) (remi-or, 2025-09-30).
# That the window counts the token itself is a story of its own: [onnxruntime#25927](https://github.com/microsoft/onnxruntime/pull/25927) (aciddelgado, 2025-09-02), and chapter 6.

# %% [markdown]
# ## 7. Two rules in the wrong order
#
# **Seen.** Gemma's newer models read an image both ways and text causally, and most of their layers have a sliding window.
# In transformers, the tokens of an image saw each other over any distance, also in layers with a window.
# Users of vLLM saw the opposite: large images read badly, with text recognition worst of all.
#
# Two rules and a window can be put together in two ways that look alike.

# %%
picture = [0, 1, 1, 1, 1, 1, 2, 3]  # position 0, 6 and 7 are text, 1 to 5 one image
not_far_back = Mask(lambda q, k: q - k < WIDTH, f"at most {WIDTH - 1} back")
one_way = (causal() & not_far_back) | same_document(picture)
other_way = (causal() | same_document(picture)) & not_far_back

# %% [markdown]
# **Predict.** In which of the two may position 5, the end of the image, look at position 1, its beginning?
# And position 1 at position 5?

# %%
first, second = one_way.matrix(N), other_way.matrix(N)
print("5 sees 1:", bool(first[5, 1]), bool(second[5, 1]))
print("1 sees 5:", bool(first[1, 5]), bool(second[1, 5]))
print("cells:   ", int(first.sum()), int(second.sum()))
look_for_leaks("window first", through(first), draw(1, N, 8), allowed=other_way)
look_for_leaks("window last ", through(second), draw(1, N, 8), allowed=other_way)

# %% [markdown]
# `(a & w) | b` is not `(a | b) & w`.
# The second was meant: the window goes outermost, and it limits only how far one may look *back*.
# vLLM had guarded itself by dropping the two-way rule for any image longer than the window; that is the blindness that its users saw.
# And a third project had changed its mask to agree with the wrong one, since that was the reference.
#
# A mask that is *meant* to look ahead somewhere cannot be tested with "no future".
# Write down what you mean as a rule, and test against that.
#
# **The test.** Influence with `allowed=` the intended rule, on a text with an image longer than the window.
# Ask the other way round, too: what is allowed and never has any influence?

# %%
blind = sliding_window(WIDTH).matrix(N)  # an image longer than the window becomes plain text
seen = influence(through(blind), draw(1, N, 8))
print("allowed but without influence:", int((second & ~seen).sum()), "pairs")

# %% [markdown]
# **The fix.** `(causal | image) & window`.
#
# **Where.** [transformers#46850](https://github.com/huggingface/transformers/pull/46850) (douglas-reid, 2026-06-23); [vllm#47217](https://github.com/vllm-project/vllm/pull/47217) (lucianommartins, 2026-06-30), where the intended formula is spelled out; [openvino#35446](https://github.com/openvinotoolkit/openvino/pull/35446) (p-wysocki, 2026-04-21), the one that followed the reference.

# %% [markdown]
# ## 8. Padding, positions and a cache
#
# **Seen.** One prompt at a time: good answers.
# Two prompts of different length in a batch: the longer one good, the shorter one garbage.
# This was unsloth, late in 2025.
#
# Positions of the prompt were counted from its first real word, as they should be.
# Positions of new words were counted in slots of the cache, one number for the whole batch.

# %%
where = draw(32, 8)  # a learned vector for each position


def attend_at(new, keys, valid):
    """Causal attention of the last positions `new` over `keys`, without padding."""
    rule = causal() & not_padding(valid)
    slots = torch.arange(keys.shape[1] - new.shape[1], keys.shape[1])
    mask = rule.tensor(slots, keys.shape[1])[:, 0]  # one layer without heads: [B, T, S]
    return F.scaled_dot_product_attention(new, keys, keys, attn_mask=mask)


def make(slots_for_new_words):
    """A one-layer model with a cache; the argument plants the bug."""

    def chunk(x, kept, valid):
        first = 0 if kept is None else kept.shape[1]
        if valid is None:
            valid = torch.ones(len(x), first + x.shape[1], dtype=torch.bool)
        logical = (valid.long().cumsum(dim=1) - 1).clamp(min=0)[:, first:]
        if slots_for_new_words and kept is not None:
            logical = torch.arange(first, first + x.shape[1]).expand(len(x), -1)
        new = x + where[logical]
        keys = new if kept is None else torch.cat([kept, new], dim=1)
        return attend_at(new, keys, valid), keys

    return Subject(
        forward=lambda x: chunk(x, None, None)[0],
        padded=lambda x, valid: chunk(x, None, valid)[0],
        step=chunk,
    )


# %% [markdown]
# **Predict.** Of these five tests the bug fails one: future influence, cache against full, chunk split, left padding, left padding with a cache.
# Which?

# %%
series = draw(2, 10, 8)
print(audit(make(slots_for_new_words=True), series))
print()
print("with positions from the padding:", audit(make(False), series).failed or "nothing failed")

# %% [markdown]
# Each part was right when tested alone.
#
# **The test.** Left-pad invariance *through the cache*: prefill a padded batch, decode, and compare with the text alone.
#
# **The fix.** Positions from the padding mask, for prompt and new words alike: count the real tokens so far, minus one.
#
# **Where.** [unsloth#3699](https://github.com/unslothai/unsloth/issues/3699) (afspies, 2025-12-09), closed by [#4100](https://github.com/unslothai/unsloth/pull/4100) (mmathew23, 2026-02-24) after several attempts.

# %% [markdown]
# ## 9. The lowest number, twice
#
# **Seen.** Batched generation with OPT in half precision was NaN, for the larger models only, and the NaN began at padded positions.
#
# Minus infinity was thought dangerous, so the lowest number of the type stood in for it.
# Then something was added to it.

# %%
lowest = torch.tensor(torch.finfo(torch.float16).min, dtype=torch.float16)
print("lowest number of float16:", lowest.item())
for score in (-8, -20):
    print(f"a score of {score:>3} added:", (lowest + score).item())

# %% [markdown]
# **Predict.** A padded query may attend to nothing: its own slot is padding, and the rest is future.
# All its scores are about -20, as happens in a trained model.
# What is its softmax?

# %%
row = torch.full((4,), -20.0, dtype=torch.float16)
print("softmax:", (row + lowest).softmax(dim=-1).tolist())


def two_masks(q, k, v, mask):
    """Two additive masks, each made of the lowest number, added up."""
    lowest = torch.finfo(q.dtype).min
    triangle = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(
        ~causal().tensor(q.shape[2]), lowest
    )
    other = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, lowest)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return (scores + (triangle + other)).softmax(dim=-1) @ v


print(audit_attention(two_masks))

# %% [markdown]
# The second way to break it: two masks, one for the future and one for padding, both made of the lowest number.
# Where both block, the sum is minus infinity; where only one blocks, it is the lowest number, which is *more*.
# A row that sees nothing now prefers the cells that only one mask blocks, and attends to them with all its weight.
#
# **The test.** Rows that see nothing, in every dtype that you use.
#
# **The fix.** Combine masks as booleans, fill once. (OPT's repair was a softmax in float32, where there is room below the lowest number of float16.)
#
# **Where.** [transformers#17433](https://github.com/huggingface/transformers/issues/17433) (shijie-wu, 2022-05-26) and [#17437](https://github.com/huggingface/transformers/pull/17437); [transformers#27114](https://github.com/huggingface/transformers/pull/27114) (ArthurZucker, 2023-10-27).
# The sum of two lowest numbers was back in June 2026, with a NaN gradient at step 0: [Automodel#2658](https://github.com/NVIDIA-NeMo/Automodel/pull/2658) (akoumpa).

# %% [markdown]
# ## 10. Nothing to see, so see everything
#
# **Seen.** A fused softmax kernel of apex, used to train large models, did not agree with PyTorch's in rows where everything was masked, and the gradients did not either.
#
# Fill blocked scores with a large negative number, -10000 say. If *all* scores of a row are -10000, softmax makes them equal.
# The backward pass did not keep the mask; it took for blocked whatever had come out as 0.


# %%
def fill_10000(q, k, v, mask):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -10_000.0).softmax(dim=-1) @ v


scores, nobody = draw(1, 4), torch.zeros(1, 4, dtype=torch.bool)
weights = scores.masked_fill(~nobody, -10_000.0).softmax(dim=-1)
print("weights of a row that sees nothing:", weights.tolist()[0])

# %% [markdown]
# **Predict.** Which scores does the backward pass believe to be blocked in this row?
# What should their gradients be, and are they?

# %%
upstream = draw(1, 4)
guessed = weights != 0  # "what is not zero was visible"
gradient = weights * (upstream - (weights * upstream).sum()) * guessed
leaf = scores.clone().requires_grad_()
(leaf.masked_fill(~nobody, -10_000.0).softmax(dim=-1) * upstream).sum().backward()
print("gradients of the scores")
print(table(torch.cat([gradient, leaf.grad]), rows=["mask guessed", "mask kept"]))

# %%
print(audit_attention(fill_10000))

# %% [markdown]
# The output is the mean of all values, the forbidden ones included.
# And -10000 loses a second time, where visible scores are near -20000: the blocked keys win.
#
# **The test.** Rows that see nothing: output and gradient must be finite, *and free of values that the row may not see*.
# A check for NaN finds nothing here.
#
# **The fix.** Zeros for such a row, decided from the mask.
#
# **Where.** [apex#1444](https://github.com/NVIDIA/apex/pull/1444) (kvareddy, 2022-08-03).

# %% [markdown]
# ## 11. Neighbours in a pack
#
# **Seen.** Nothing, apart from a warning.
# To waste no space, short documents are packed into one row, and the attention kernel is told where each begins.
# In axolotl that worked with FlashAttention; with two other backends the documents attended across each other.


# %%
documents = [0, 0, 0, 1, 1, 1]
apart = causal() & same_document(documents)


def packed(x):
    return F.scaled_dot_product_attention(x, x, x, is_causal=True)  # this backend was not told


# %% [markdown]
# **Predict.** Does the contract tester as we used it so far (nothing may depend on the *future*) find this?

# %%
look_for_leaks("against causal      ", packed, x)
look_for_leaks("against the documents", packed, x, allowed=apart)
look_for_leaks("mended              ", through(apart.tensor(T)), x, allowed=apart)

# %% [markdown]
# **The test.** Influence with `allowed=causal() & same_document(ids)`, for *every* backend.
# Or without a rule: a document must get the same outputs in a pack as alone.
#
# **The fix.** Give every backend the document boundaries, or refuse.
#
# **Where.** [axolotl#3796](https://github.com/axolotl-ai-cloud/axolotl/pull/3796) (winglian, 2026-07-03).

# %% [markdown]
# ## 12. Shifted twice, or not at all
#
# **Seen.** Two bugs, mirror images.
# One model learned to copy its input (MBart).
# Others were trained to say the word *after* the next (JetMoe, GIT), and no shape gave it away.
# The mask is innocent: the labels were not where they should be.


# %%
def cross_entropy(logits, tokens):
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def library_loss(logits, labels):
    """A library function that shifts by itself: row t against word t + 1."""
    return cross_entropy(logits[:, :-1], labels[:, 1:])


def shift_first(logits, labels):
    """A model that shifts, and then calls the library."""
    return library_loss(logits[:, :-1], labels[:, 1:])


# %% [markdown]
# **Predict.** Each of the three losses likes one model best: one that says the current word, the next, or the one after that.
# Who likes whom?

# %%
for loss in (cross_entropy, library_loss, shift_first):
    print(f"{loss.__name__:<14} asks for the word at t + {rewarded_offset(loss)}")

# %% [markdown]
# **The test.** Feed logits that are *sure* of a known word, and see which of them costs nothing.
# It needs no model and takes a millisecond.
# Future influence cannot help: the model keeps the contract in all three cases.
#
# **The fix.** One owner of the shift.
#
# Whether a loss shifts must be written where people look: MBart's expected labels that were shifted already, its siblings' did not, and one tutorial served both.
#
# **Where.** [transformers#27517](https://github.com/huggingface/transformers/issues/27517) (ZL92, 2023-11-15: not at all); [#37830](https://github.com/huggingface/transformers/pull/37830) (Phoenix-Shen, 2025-04-28) and [#47394](https://github.com/huggingface/transformers/issues/47394) (Yigtwxx, 2026-07-18), both twice.

# %% [markdown]
# ## The exit: all tests at once
#
# `audit` runs the tests of the museum on a whole model.
# First an honest one: the small GPT of this course.
# Its weights are random but *large*: with the small ones of a fresh model a bug shows more faintly, as we shall see.


# %%
def random_weights(model, seed, size=0.3):
    """Weights from NumPy, normal with deviation `size`; fresh models have 0.02 or so."""
    numbers = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            values = size * numbers.normal(size=tuple(parameter.shape)) + (parameter.ndim == 1)
            parameter.copy_(torch.from_numpy(values))
    return model.double().eval()


ours = random_weights(GPT(GPTConfig(vocab_size=50, context=32), np.random.default_rng(0)), 0)
print(audit(ours))

# %% [markdown]
# A report has one line a test: `pass`, `FAIL`, or `n/a` with the reason.
# What a pass means: on the texts that were tried, up to rounding.
# What it does not mean: that the model is right. A model that ignores its input passes everything.

# %%
print(audit(lambda tokens: torch.zeros(*tokens.shape, 50), vocab_size=50))

# %% [markdown]
# ### Hugging Face's models
#
# The next cells need the package `transformers`, which the course itself does not (Colab has it; on a laptop `pip install transformers`).
# No network: the models are small, and their weights are random.

# %%
transformers = None
if importlib.util.find_spec("transformers") is None:
    print("transformers is not installed: the next cells will say so and do nothing")
else:
    import transformers

    small = {"vocab_size": 50, "bos_token_id": None, "eos_token_id": None}
    gpt2 = random_weights(
        transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=4, **small)
        ),
        1,
    )
    llama = random_weights(
        transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=32,
                **small,
            )
        ),
        2,
    )
    for name, model in (("GPT-2", gpt2), ("Llama", llama)):
        print(name)
        print(audit(model))

# %% [markdown]
# Both pass.
# Now three broken variants, each broken from outside, by how the model is called:
#
# - A: GPT-2 with left padding and an attention mask, but no `position_ids`. That is how a library for looking inside models called it; its short prompts were mispredicted in silence ([nnsight#672](https://github.com/ndif-team/nnsight/issues/672), chapter 4).
# - B: Llama, where new words count slots: room 8, in a real model.
# - C: Llama with its triangle in the top left corner when a cache is warm: room 5.
#
# **Predict.** For each: which lines will say FAIL?
# And would variant A fail for Llama, whose positions are rotations?
#
# <details><summary>Answer</summary>
#
# A fails both tests of left padding.
# Llama would pass: rotary scores depend on the *difference* of two positions, and all of them are late by the same three.
# B fails only with padding *and* a cache: there the difference is wrong.
# C fails wherever a chunk of any size meets a warm cache, so also with padding and a cache.
# None of the three breaks the contract: future influence passes for all.
#
# </details>


# %%
def counts_slots(model):
    """Variant B: positions from the padding at first, later from the slots of the cache."""

    def step(tokens, kept, valid):
        if kept is None or valid is None:
            return hugging_face(model).step(tokens, kept, valid)
        slots = torch.arange(valid.shape[1] - tokens.shape[1], valid.shape[1])
        output = model(
            input_ids=tokens,
            attention_mask=valid.long(),
            position_ids=slots.expand(len(tokens), -1),
            past_key_values=kept,
            use_cache=True,
        )
        return output.logits, output.past_key_values

    return replace(hugging_face(model), step=step)


def corner(model):
    """Variant C: query i of a chunk sees keys 0 to i, whatever was cached before it."""

    def step(tokens, kept, valid):
        if kept is None:
            return hugging_face(model).step(tokens, kept, valid)
        n, first = tokens.shape[1], kept.get_seq_length()
        mask = causal().tensor(n, first + n)  # rows 0..n-1, where first..first+n-1 were meant
        positions = torch.arange(first, first + n)
        if valid is not None:
            positions = (valid.long().cumsum(dim=1) - 1)[:, first:]
        output = model(
            input_ids=tokens,
            attention_mask=mask.expand(len(tokens), 1, -1, -1),
            position_ids=positions.expand(len(tokens), -1),
            past_key_values=kept,
            use_cache=True,
        )
        return output.logits, output.past_key_values

    return replace(hugging_face(model), step=step)


def print_failures(name, subject):
    print(name)
    lines = str(audit(subject)).splitlines()
    print("\n".join(line for line in lines if line.startswith("FAIL")) or "nothing failed")


if transformers is None:
    print("skipped: transformers is not installed")
else:
    print_failures("A: GPT-2 without position_ids", hugging_face(gpt2, positions=False))
    print_failures("   Llama without position_ids", hugging_face(llama, positions=False))
    print_failures("B: Llama, new words count slots", counts_slots(llama))
    print_failures("C: Llama, top left corner", corner(llama))

# %% [markdown]
# Variant B once more, with weights as small as those of a model that has not been trained:

# %%
if transformers is None:
    print("skipped: transformers is not installed")
else:
    fresh = random_weights(transformers.LlamaForCausalLM(llama.config), 2, size=0.02)
    print_failures("B, small weights", counts_slots(fresh))

# %% [markdown]
# The same bug, and next to nothing to see.
# In double precision, with a tolerance of 0.00001 of the largest output, it is still found.
# It is less than half a percent, and rounding a single number to bfloat16 costs up to 0.4%: in half precision, or with a tolerance that somebody raised until the test passed, nobody would find it.

# %% [markdown]
# ### Your own model
#
# Anything that maps tokens to outputs will do: `audit(fn, vocab_size=...)`.
# With more you get more tests:
#
# - `padded(tokens, valid)`: how you pass padding; `valid` is True at real tokens.
# - `step(tokens, state, valid)`: how you feed some more tokens; `state` is what the last call returned, None at first.
# - `allowed`: the rule that you intend, if it is not plainly causal.
#
# Run it once for every option that chooses another path through the code. That was room 1.

# %% [markdown]
# ## A real model, if you have a network
#
# All models so far had random weights.
# This section puts GPT-2, the smallest of them (124 million weights, 12 layers of 12 heads), into the `GPT` of this course: the two compute the same, under other names.
#
# It is the one section of the course that needs the network, and it does nothing until you ask: set `ONLINE` to True and run the cells below.
# That needs `transformers`, downloads 0.55 GB once, and holds the weights three times, some 2 GB of memory in all; a GPU is not needed.
# This page was made without a network, so **no number of GPT-2 stands here**.
# What was tested is the code, on models of GPT-2's design with random weights, a small one and one of full size, saved to a folder and read back.

# %%
ONLINE = False  # True downloads GPT-2 (0.55 GB, once) and runs this section
SOURCE = GPT2  # its name on Hugging Face's hub; or a folder that `save_pretrained` wrote

real = None
if ONLINE:
    try:
        real = from_pretrained(SOURCE)
        print(real.model.config)
    except UnavailableError as reason:
        print("skipped:", reason)
else:
    print("skipped: ONLINE is False")

# %% [markdown]
# The first question is whether it is GPT-2 at all.
# Both are asked about one text; the difference of their logits should be rounding, many digits smaller than the logits themselves.
# Then the contract tester, on the first five tokens.

# %%
TEXT = (
    "The cat sat on the mat. It was raining, and the door of the kitchen stood open. "
    "Nobody had fed the cat since the morning, so the cat looked at the door, then at the rain, "
    "and stayed where it was."
)
NOT_HERE = "skipped: no GPT-2 was loaded"

if real is None:
    print(NOT_HERE)
else:
    tokens = real.encode(TEXT)
    pieces = real.pieces(tokens)
    with torch.no_grad():
        we_say, they_say = real.model(tokens), real.theirs(tokens).logits
    print(f"{len(pieces)} tokens; logits from {they_say.min():.1f} to {they_say.max():.1f}")
    print(f"largest difference {(we_say - they_say).abs().max():.6f}")
    look_for_leaks("GPT-2 in our GPT", real.model, tokens[:, :5])

# %% [markdown]
# ### Without the mask
#
# `with_masking("never")` is a copy with the same weights and no mask: every position may look at the very token that it is asked for.
#
# **Predict.** Does the loss fall to nearly nothing, as that of the cheater in [chapter 1](01_contract.ipynb)?
#
# <details><summary>Answer</summary>
#
# The cheater was *trained* without a mask, and so it learnt to fetch the answer.
# GPT-2 was trained with one.
# Nothing in its weights knows what to do with a key that lies ahead, and all its states become averages that it has never met.
# Chapter 1 measured this on a small model: the loss of the honest model got much worse without its mask.
# See whether GPT-2's does, and by how much; and whether any single token became easier.
#
# </details>

# %%
if real is None:
    print(NOT_HERE)
else:
    unmasked = real.model.with_masking("never")
    inputs, targets = shift(tokens)
    with torch.no_grad():
        losses = [token_losses(m(inputs), targets)[0] for m in (real.model, unmasked)]
    losses = torch.stack(losses, dim=1)
    both = torch.cat([losses, losses.mean(dim=0, keepdim=True)])
    print(table(both, rows=[*pieces[1:], "mean"], columns=["with the mask", "without"]))

# %% [markdown]
# Now both write, and always take the likeliest token.
# The last position sees the same tokens with and without a mask.
#
# **Predict.** So will they write the same?
#
# <details><summary>Answer</summary>
#
# The last position sees the same *tokens*, and from the second layer on other *states*: those of the positions before it have looked ahead.
# There is no reason why the texts should agree, and the one without the mask cannot use a cache (chapter 5): with every new token all of its past changes.
#
# </details>

# %%
if real is None:
    print(NOT_HERE)
else:
    beginning = tokens[:, :12]
    for name, m, cache in (
        ("with the mask", real.model, "static"),
        ("without", unmasked, None),
    ):
        text = generate(m, beginning, 20, temperature=0, cache=cache)
        print(f"{name:<14}", repr(real.tokenizer.decode(text[0].tolist())))

# %% [markdown]
# ### Attention sinks
#
# The weights of a head sum to 1, also when it has nothing to look for.
# Trained models often leave such weight on the first token, whatever that is: an **attention sink** ([Xiao et al., 2024](https://arxiv.org/abs/2309.17453)).
# The causal mask chooses the place: the first token is the only one that *every* query may see.
# That paper shows it in Llama-2-7B, above the two lowest layers in nearly every head, and that a cache which forgets the first tokens ruins the text; chapter 6 keeps them with `sinks(n)`.
#
# `sink_share` measures it: the mean weight on key 0, by layer and head, over all queries but the first.
# First on models of our own, which need no network.
# In one the weights are as fresh as those of any model before training.
# In the other we build a sink by hand, in head 2 of layer 1: position 0 gets one large number, the keys of that head read this number, and its queries always ask for it.
#
# **Predict.** What share does the first position get in the fresh model, with 24 tokens?

# %%
N_TOKENS = 24
some_tokens = torch.from_numpy(np.random.default_rng(0).integers(50, size=(1, N_TOKENS)))


def sinks_of(model, tokens):
    """Shares by layer and head [L, H], and all attention weights."""
    with torch.no_grad():
        _, weights = model(tokens, return_weights=True)
    return sink_share(weights), weights


def spread_evenly(mask):
    """The share of key 0 if each query gave the same weight to all that it may see."""
    even = mask / mask.sum(axis=-1, keepdims=True)
    return sink_share([even[None]]).item()


untrained = GPT(
    GPTConfig(vocab_size=50, context=32, layers=3, heads=4), np.random.default_rng(0)
).eval()
by_hand = untrained.with_masking("always")  # a copy
with torch.no_grad():
    by_hand.position_embedding.weight[0, 0] = 10.0
    qkv = by_hand.blocks[1].attention.qkv  # rows: 48 of queries, 48 of keys, 48 of values
    row = 2 * by_hand.config.head_dim  # the first of head 2
    qkv.bias[row] = 8.0  # a query that always asks
    qkv.weight[by_hand.config.width + row, 0] = 1.0  # a key that answers at position 0

even = spread_evenly(causal().matrix(N_TOKENS))
sink_view(
    {
        "untrained": sinks_of(untrained, some_tokens)[0],
        "a sink by hand": sinks_of(by_hand, some_tokens)[0],
    },
    even={"untrained": even, "a sink by hand": even},
)

# %% [markdown]
# A fresh model has no sinks.
# Its weights are nearly even: the second query gives the first position 1/2, the third 1/3, the last 1/24, and the mean of these 23 numbers is the 0.12 of all its heads.
# The sink by hand took three numbers, and no other head shows it.
#
# Now GPT-2.
# Look for rows that are dark from end to end, for heads that stay light, and for the lowest layers.
# The second panel is the model without its mask; there even means one part in $T$.

# %%
if real is None:
    print(NOT_HERE)
else:
    share, weights = sinks_of(real.model, tokens)
    n = len(pieces)
    figure = sink_view(
        {"GPT-2": share, "without the mask": sinks_of(unmasked, tokens)[0]},
        even={"GPT-2": spread_evenly(causal().matrix(n)), "without the mask": 1 / n},
    )
    display(figure)

# %% [markdown]
# The head with the largest share, on the first eight tokens.
# Is what stands in the first column about the word, or about the place?
# Put another word first in `TEXT`, and see whether the column stays.

# %%
if real is None:
    print(NOT_HERE)
else:
    i, j = np.unravel_index(share.argmax(), share.shape)
    square = weights[i][0, j, :8, :8].numpy()
    display(
        grids(
            [Grid(square, pieces[:8], pieces[:8], f"layer {i}, head {j}", mask=causal().matrix(8))]
        )
    )

# %% [markdown]
# ## Pause and recall
#
# Answer before you unfold.
#
# <details><summary>1. Which of the twelve would "change the future, watch the past" have caught?</summary>
#
# Rooms 1 to 4 and 6, and 7 with the intended rule.
# In 2 and 3 it must be run in the right mode, in 1 on the right path, in 6 on a text longer than the window.
#
# </details>
#
# <details><summary>2. Why does that test not find a triangle in the wrong corner?</summary>
#
# The query sees too little. The contract forbids the future; it does not demand the past.
#
# </details>
#
# <details><summary>3. Your validation loss is excellent. Which rooms do you visit?</summary>
#
# 1, 2, 3 and 12 (labels that were never shifted).
# A loss that is too good is a symptom.
#
# </details>
#
# <details><summary>4. Batch size 1 works, batch size 2 does not. Where do you look?</summary>
#
# Padding: positions (8), fills and rows that see nothing (9, 10).
#
# </details>
#
# <details><summary>5. Your model passes the whole audit with its initial weights and a generous tolerance. Why is that a weak result?</summary>
#
# Small weights make attention nearly uniform, so a wrong position hardly matters and drowns in the tolerance.
# Audit trained weights, or large random ones.
#
# </details>
#
# <details><summary>6. A kernel gives finite numbers for a row that sees nothing. Is that enough?</summary>
#
# No. Room 10 was finite: the mean of everything that it must not see.
#
# </details>
#
# <details><summary>7. Why does the causal mask make the first token, and no other, the natural place for an attention sink?</summary>
#
# It is the only position that every query may see.
# Weights sum to 1, so what a head does not need must go somewhere, and a habit that works for all queries can only be learnt for a key that all of them have.
#
# </details>

# %% [markdown]
# ## Summary
#
# - Mask bugs seldom crash. They show as numbers that are too good, or as garbage in one situation only: a batch, a cache, a long text, the other mode, half precision.
# - Each breaks an invariant that can be tested without a reference: no influence from what is not allowed; the same outputs in any chunks, in front of any padding, in both modes; finite and innocent rows where nothing is visible.
# - Write the intended mask as a rule, and test influence against the rule. "No future" is only the simplest one.
# - Test every path: a bug lives where a flag, a backend or an option takes the other branch.
# - Test long enough texts, large enough weights, batches with padding.
# - A model that was trained with its mask needs it: without it the same weights meet averages they have never seen.
# - `audit`, `audit_attention` and `rewarded_offset` do this for a model, an attention function and a loss, and say what they could not do.
#
# **Next:** [appendix B](B_auditing_the_sources.ipynb) reads texts as this appendix reads code: claim by claim, each with what would settle it.

# %% [markdown]
# ## References
#
# The rooms link to their reports. In one place, by test:
#
# - Future influence: [keras#23038](https://github.com/keras-team/keras/issues/23038), [pytorch#99282](https://github.com/pytorch/pytorch/issues/99282), [LLMs-from-scratch#1061](https://github.com/rasbt/LLMs-from-scratch/issues/1061), [transformers#31207](https://github.com/huggingface/transformers/pull/31207), [Kronos#199](https://github.com/shiyu-coder/Kronos/issues/199), [pytorch-image-models#2236](https://github.com/huggingface/pytorch-image-models/pull/2236).
# - Influence against a rule: [transformers#41184](https://github.com/huggingface/transformers/issues/41184), [transformers#46850](https://github.com/huggingface/transformers/pull/46850), [vllm#47217](https://github.com/vllm-project/vllm/pull/47217), [openvino#35446](https://github.com/openvinotoolkit/openvino/pull/35446), [axolotl#3796](https://github.com/axolotl-ai-cloud/axolotl/pull/3796).
# - Chunks and padding: [flash-attention#282](https://github.com/Dao-AILab/flash-attention/issues/282), [pytorch#144858](https://github.com/pytorch/pytorch/issues/144858), [pytorch#111007](https://github.com/pytorch/pytorch/pull/111007), [onnx#8068](https://github.com/onnx/onnx/pull/8068), [unsloth#3699](https://github.com/unslothai/unsloth/issues/3699), [nnsight#672](https://github.com/ndif-team/nnsight/issues/672).
# - Empty rows and dtypes: [transformers#17433](https://github.com/huggingface/transformers/issues/17433), [transformers#27114](https://github.com/huggingface/transformers/pull/27114), [Automodel#2658](https://github.com/NVIDIA-NeMo/Automodel/pull/2658), [apex#1444](https://github.com/NVIDIA/apex/pull/1444).
# - Labels: [transformers#27517](https://github.com/huggingface/transformers/issues/27517), [transformers#37830](https://github.com/huggingface/transformers/pull/37830), [transformers#47394](https://github.com/huggingface/transformers/issues/47394).
#
# And for the last section:
#
# - A. Radford et al., [Language Models are Unsupervised Multitask Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf), 2019 (GPT-2).
# - G. Xiao et al., [Efficient Streaming Language Models with Attention Sinks](https://arxiv.org/abs/2309.17453), 2024.
