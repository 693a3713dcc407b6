# %% [markdown]
# # 1. The contract
#
# A language model has one promise to keep: what it says about the next word may depend on the words so far, and on nothing that comes later.
# This chapter shows why the promise is worth a course: you will train the same small model with it and without it, catch the second one cheating by a number that no honest model can reach (except by a luck that you will bound), and then ask both to write.

# %% [markdown]
# ## What you will be able to do
#
# - Say what a language model computes, why its inputs and targets are the same text shifted by one word, and what each position may therefore see.
# - Prove that no model that keeps the promise can beat the entropy of the language, and say under which conditions.
# - Recognise a model that reads the future: by its loss, by its writing, and by a test that names the two positions.
# - Say when the mask is needed at inference, when it is not, and which tasks need no causal mask at all.
#
# **Before you start.** You need probabilities, logarithms and a little PyTorch.
# You need not know what attention is: until chapter 2 it is enough that it lets positions read each other, and that a *mask* says who may read whom.

# %%
import numpy as np
import torch
from torch import nn

from course_lib.figures.plot import Grid, grids, lines
from course_lib.generation import generate
from course_lib.gpt import GPT, GPTConfig
from course_lib.language import toy
from course_lib.leaks import LeakError, assert_causal, influence
from course_lib.lesson import expected_error, table
from course_lib.training import evaluate, shift, standard_error, train

torch.set_num_threads(1)  # the models are so small that more threads only wait for each other

# %% [markdown]
# ## A text, one word at a time
#
# Take any probabilities for texts of words $x_0, x_1, \dots, x_T$.
# By the definition of conditional probability,
#
# $$p(x_0, \dots, x_T) = p(x_0)\; p(x_1 \mid x_0)\; p(x_2 \mid x_0, x_1) \cdots p(x_T \mid x_0, \dots, x_{T-1}).$$
#
# This is the **chain rule**.
# It is no assumption about language: it holds for every distribution, wherever the past has a positive probability, and for every order of the words.
# What it buys is a small task in place of a huge one.
# There are astronomically many texts, but each factor is a distribution over one word of the vocabulary, *given the words before it*.
# A model that learns all the factors knows the probability of every text, and can write: draw the first word, then the second given the first, and so on.
#
# To see it with real numbers we need a language whose probabilities are known.
# Here is one with 24 words, in which "The cat sat on the mat ." is a sentence.
# A text is an endless stream of such sentences.

# %%
language = toy()
print(language)
for text in language.sample(3, 16, np.random.default_rng(0)):
    print(" ", language.decode(text))

# %%
sentence = ["The", "cat", "sat", "on", "the", "mat", "."]
tokens = language.encode(sentence)

factors = [language.emission[0, tokens[0]]]  # p(The): state 0 begins a sentence
for t, following in enumerate(language.next_word(tokens)[:-1]):
    factors.append(following[tokens[t + 1]])  # p(word t+1 | words 0..t)
print(table(factors, columns=sentence))
print(f"product of the factors   {np.prod(factors):.4f}")
print(f"p(text) from the library {np.exp(language.log_prob(tokens).sum()):.4f}")

# %% [markdown]
# "the" is nearly sure after "sat on", and "." is certain after "mat", because there the sentence must end.
# Most of the uncertainty sits in the first words.

# %% [markdown]
# ## The shift: every word is a target, and then an input
#
# A model is trained on all factors of a text at once.
# It reads words $0 \dots T-1$ and must predict words $1 \dots T$: the same text, shifted by one.

# %%
inputs, targets = tokens[:-1], tokens[1:]
for t, (word, target) in enumerate(zip(inputs, targets, strict=True)):
    print(f"position {t}: reads {language.words[word]:<4} must predict {language.words[target]}")

print("course_lib agrees:", all(map(np.array_equal, shift(tokens), (inputs, targets))))

# %% [markdown]
# During training the true words are fed in, whatever the model would have said.
# This is called **teacher forcing** (Williams and Zipser, 1989).
# When the model writes, there is no teacher: each word that it draws is its own next input.
# This is **free running**.
#
# **Predict.** At position 2 the model reads "sat" and must predict "on".
# Which of the positions 0 to 5 may its prediction depend on?
# And at which position does the word "on" come in?
#
# <details><summary>Answer</summary>
#
# On positions 0, 1 and 2: The, cat, and "sat" itself, which has been said and is not what is asked for.
# "on" comes in at position 3.
# So in teacher forcing the answer to every question but the last lies on the table, one position to the right.
# A model that may look there has nothing to learn.
#
# </details>
#
# That is the contract, and the rest of the course is about keeping it:
#
# > **Output $t$ depends on inputs $0 \dots t$ only.**
#
# It is often said with a picture, a student who sees the answer key.
# A picture proves nothing.
# We want a number.

# %% [markdown]
# ## How uncertain is the next word?
#
# If the next word has distribution $p$, the average of $-\log p(\text{word})$ is its **entropy**, $H = -\sum_w p(w) \log p(w)$.
# With natural logarithms it is measured in nats; a fair coin has $\log 2 \approx 0.69$.
# A text has one such number for each position: $H(X_t \mid X_0 \dots X_{t-1})$, averaged over all pasts.
#
# Straight from the definition, it is a sum over every text that is possible.
# For the first four words that can still be done.

# %%


def possible_texts(length):
    """Every text that the language can say, with its probability."""
    texts = [([], 1.0)]
    for _ in range(length):
        longer = []
        for words, p in texts:
            after = language.next_word(words)[-1] if words else language.emission[0]
            longer += [([*words, w], p * after[w]) for w in np.flatnonzero(after)]
        texts = longer
    return texts


texts = possible_texts(4)
by_definition = sum(-p * language.log_prob(words)[3] for words, p in texts)
print(f"{len(texts)} possible texts of 4 words, total probability {sum(p for _, p in texts):.4f}")
print(f"uncertainty of word 3, by definition  {by_definition:.4f} nats")
print(f"uncertainty of word 3, by the library {language.entropy(4)[3]:.4f} nats")

# %% [markdown]
# The number of texts explodes with their length, so the library takes a shortcut that is just as exact.
# Our language is made by a little machine with 18 states.
# In each state it says a word and moves on, and **the word tells where it goes**; it always starts in the same state.
# So whoever has read the words so far knows the state, all pasts that lead to one state have the same next word ahead of them, and the sum over pasts becomes a sum over 18 states.
#
# A second route to the same number is to draw many texts and average their exact $-\log p$.

# %%
LENGTH = 24  # words that a model reads, and words that it predicts

sample = language.sample(20_000, LENGTH + 1, np.random.default_rng(1))
surprise = -language.log_prob(sample)[:, 1:].mean(axis=1)  # word 0 is given
floor = language.min_loss(LENGTH + 1)

print(f"exact, from the 18 states   {floor:.4f} nats a word")
se = standard_error(surprise)
print(f"mean over 20 thousand texts {surprise.mean():.4f}, standard error {se:.4f}")
print(f"a uniform guess of 24 words {np.log(24):.4f}")

# %% [markdown]
# We call the first number the **floor**, and now we earn the name.

# %% [markdown]
# ## The theorem
#
# **Theorem.** Let texts be drawn from $p$.
# Let $q$ be a model such that
#
# 1. it was fixed before the texts were drawn,
# 2. at each position it gives a probability distribution over the next word: no entry negative, sum 1,
# 3. its prediction of $x_t$ is computed from $x_0 \dots x_{t-1}$ only.
#
# Write $x_{\lt t}$ for the words before $x_t$, a capital $X$ for a word that is still to be drawn, and $\mathrm{KL}(p \,\|\, q) = \sum_w p(w) \log \frac{p(w)}{q(w)}$ for the Kullback-Leibler divergence, which measures how far $q$ is from $p$.
# Then the expected loss of the model at every position is
#
# $$\mathbb{E}\left[-\log q(x_t \mid x_{\lt t})\right] \;=\; H(X_t \mid X_{\lt t}) \;+\; \mathbb{E}\left[\mathrm{KL}\big(p(\cdot \mid x_{\lt t}) \,\|\, q(\cdot \mid x_{\lt t})\big)\right] \;\ge\; H(X_t \mid X_{\lt t}).$$
#
# *Proof.* Fix a past $x_{\lt t}$.
# By 1 and 3, $q(\cdot \mid x_{\lt t})$ is then a fixed list of numbers, while $x_t$ is still drawn from $p(\cdot \mid x_{\lt t})$.
# So the expected loss is $-\sum_w p(w) \log q(w) = -\sum_w p(w) \log p(w) + \sum_w p(w) \log \frac{p(w)}{q(w)}$: entropy plus KL divergence.
# KL is never negative: since $\log u \le u - 1$, we have $-\mathrm{KL} = \sum_{p(w) > 0} p(w) \log \frac{q(w)}{p(w)} \le \sum_{p(w) > 0} \left(q(w) - p(w)\right) \le 1 - 1 = 0$, the last step by 2.
# Average over all pasts. $\square$
#
# The conditions are the whole point.
# Turned round, the theorem says: **if the expected loss is below the floor, then one of them is broken.**
# In this chapter every text is drawn fresh, after the model has been trained (condition 1), and the probabilities come out of a softmax (condition 2).
# What is left is condition 3, the contract.
#
# Three remarks for the sceptic.
#
# - The theorem is about the *expected* loss. A mean over finitely many texts can fall below the floor by luck, so a comparison with the floor comes with its standard error, with the text as the unit: words of one text depend on each other.
# - If the model rolls dice of its own, apply the theorem to each outcome of the dice: it holds as long as they know nothing of the texts.
# - Luck can be bounded without any approximation. By the chain rule, the predictions of an honest model multiply to a probability $q(x)$ of all words after the first, given the first, and these add up to 1 over all texts. So $\mathbb{E}\left[q(x)/p(x)\right] = \sum_{x : p(x) > 0} q(x) \le 1$, for one text and (as a product) for any number of independent texts. By Markov's inequality (what is never negative and at most 1 on average is $a$ or more with probability at most $1/a$), the total loss of an honest model is $c$ nats or more below the exact surprise of the texts with probability at most $e^{-c}$.
#
# The identity can be checked to the last digit on any model that is simple enough.
# Here is one that knows the language but hedges: it mixes the truth with a uniform guess.

# %%
p = language.emission  # [18 states, 24 words]
visits = language.state_probabilities(LENGTH + 1)[1:].mean(axis=0)  # how often each state is met


def average(values):
    """Mean over states and words, as they occur in texts; 0 log 0 counts as 0."""
    return (visits[:, None] * np.where(p > 0, p * values, 0.0)).sum()


rows = []
with np.errstate(divide="ignore", invalid="ignore"):
    for hedge in (0.0, 0.01, 0.1, 1.0):
        q = (1 - hedge) * p + hedge / 24
        rows.append([average(-np.log(q)), average(-np.log(p)), average(np.log(p / q))])
print(
    table(
        rows,
        rows=["hedge 0", "hedge 0.01", "hedge 0.1", "hedge 1"],
        columns=["loss", "entropy", "KL"],
    )
)

# %% [markdown]
# ## The experiment
#
# Now the same small GPT twice: 2 layers, 4 heads, 48 numbers a position.
# Both start from the same weights and see the same texts in the same order.
# One applies the causal mask, the other never does; nothing else differs.
# We call them the honest model and the cheater.
# (They compute in float64, so that your digits should be the ones printed here; they agree on every processor setting that we tested.)
#
# **Predict, and write it down.** Which of the two ends with the lower loss?
# Is that loss above or below the floor, and by how much?
# Which one writes better sentences?

# %%
config = GPTConfig(vocab_size=24, context=LENGTH, layers=2, heads=4, width=48)


def draw(n, rng):
    """Fresh texts, drawn anew every time."""
    return language.sample(n, LENGTH + 1, rng)


models, histories, held_out = {}, {}, {}
for name, masking in {"honest": "always", "cheater": "never"}.items():
    model = GPT(config, np.random.default_rng(0), masking=masking)
    histories[name] = train(
        model,
        draw,
        steps=500,
        batch_size=64,
        rng=np.random.default_rng(1),
        learning_rate=5e-3,
        description=f"training the {name} model",
    )
    models[name] = model.eval()
    held_out[name] = evaluate(model, draw, n=2000, rng=np.random.default_rng(2))

print("weights of each model:", sum(w.numel() for w in models["honest"].parameters()))

# %%
last_word = language.entropy(LENGTH + 1)[-1]

lines(
    {name: np.round(history.smoothed(10), 3) for name, history in histories.items()},
    "training step",
    "loss (nats a word)",
    "Training loss on fresh texts",
    hlines={
        f"floor of an honest model: {floor:.3f}": round(floor, 3),
        f"floor of the cheater: {last_word / LENGTH:.3f}": round(last_word / LENGTH, 3),
    },
    logy=True,
)

# %%
measured = [
    [held_out[m].mean, held_out[m].standard_error, held_out[m].mean - floor] for m in models
]
print(table(measured, rows=list(models), columns=["loss", "std. error", "minus floor"]))
honest, cheater = held_out["honest"], held_out["cheater"]
assert floor - honest.standard_error < honest.mean < 1.03 * floor  # within 3%, and not below
assert 10 * cheater.mean < floor  # more than ten times below
print()
print(f"floor                                   {floor:.4f}")
print(f"honest model: loss over floor           {honest.mean / floor:.4f}")
print(f"cheater:      floor over loss           {floor / cheater.mean:.1f}")
print(
    f"cheater:      standard errors below     {(floor - cheater.mean) / cheater.standard_error:.0f}"
)

# %% [markdown]
# The honest model comes within half a percent of the floor and stays above it.
# The cheater is more than twenty times below, over a thousand standard errors.
#
# The comparison gets sharper on the *same* texts, because their exact surprise is known: the luck of the draw cancels.
# For the honest model the difference estimates its KL divergence, the price of not being perfect.

# %%
exact = -language.log_prob(honest.tokens)[:, 1:]
print("same texts for both:", np.array_equal(honest.tokens, cheater.tokens))
for name, held in held_out.items():
    excess = (held.losses - exact).mean(axis=1)
    total = (held.losses - exact).sum() / 1000
    se = standard_error(excess)
    print(f"{name:<8} loss minus exact surprise: {excess.mean():.4f}, standard error {se:.4f}")
    print(f"{'':<8} in total over 2000 texts: {total:.1f} thousand nats")

# %% [markdown]
# By the last of the remarks above, an honest model does what the cheater did with a probability of at most $e^{-40\,000}$.
# It did not get lucky.
# It broke condition 3.
#
# **Predict.** The cheater's loss is small, but not zero.
# Where does the rest come from?
# Look at the loss position by position.

# %% tags=["figure"]
# @title The loss of each predicted word
position = np.arange(1, LENGTH + 1)
lines(
    {
        "honest": (position, np.round(honest.by_position, 2)),
        "cheater": (position, np.round(cheater.by_position, 2)),
        "exact entropy": (position, np.round(language.entropy(LENGTH + 1)[1:], 2)),
    },
    "predicted word",
    "loss (nats)",
    "Loss of each predicted word",
)

# %%
print(f"cheater, words 1 to 23: {cheater.by_position[:-1].mean():.4f} nats a word")
se = standard_error(cheater.losses[:, -1])
print(f"cheater, word 24:       {cheater.by_position[-1]:.4f}, standard error {se:.4f}")
print(f"entropy of word 24:     {last_word:.4f}")
print(f"entropy of word 24, shared among 24 words: {last_word / LENGTH:.4f}")

# %% [markdown]
# The honest curve dips below the entropy here and there, by luck: each of its points is a mean over 2000 words, with a standard error near the one printed for word 24.
#
# The last target is in no input.
# There the cheater is honest against its will, the theorem holds, and it pays the full price.
# Divided among 24 words, that price is the cheater's own floor, and it has reached it.
#
# So look where the loss is, not only how small it is: almost nothing everywhere and the full price at the end is the signature of a missing mask.

# %% [markdown]
# ## Let them write
#
# Both models now get one first word and continue on their own, with the same random numbers.

# %%
first_words = language.sample(1000, 1, np.random.default_rng(3))
written = {
    name: generate(model, first_words, LENGTH, rng=np.random.default_rng(4)).numpy()
    for name, model in models.items()
}
for name, texts in written.items():
    print(f"{name}:")
    for text in texts[:3]:
        print("  ", language.decode(text))

# %%
for name, texts in written.items():
    mistake = language.first_error(texts)  # position of the first forbidden word
    print(
        f"{name:<8} grammatical to the end: {(mistake > LENGTH).mean():.1%} of {len(texts)} texts; "
        f"first new word forbidden: {(mistake == 1).mean():.1%}"
    )

# %% [markdown]
# The model with the twenty times lower loss does not write a single grammatical text.
# Nothing is wrong with its *training*: it has learnt perfectly to copy the word on its right.
# At generation there is no word on its right, and only its very last position has ever been trained to do without one.
#
# Where the copying happens can be seen.
# Here is what one attention head of each model looks at while it reads; a row is the reader, a column is what it reads, and each row adds up to 1.
# We pick the head that gives most weight to the next word.

# %%
reading = torch.from_numpy(tokens[:-1])[None]
panels = []
for name, model in models.items():
    with torch.no_grad():
        _, weights = model(reading, return_weights=True)  # one [1, heads, T, T] a layer
    heads = torch.cat(weights, dim=1)[0].numpy()  # [all heads, T, T]
    on_next = heads.diagonal(1, axis1=1, axis2=2).mean(axis=1)
    best = heads[on_next.argmax()].round(2)
    panels.append(
        Grid(
            best,
            sentence[:-1],
            sentence[:-1],
            title=name,
            mask=np.tri(6, dtype=bool) if name == "honest" else None,
            leak=np.triu(best > 0.1, 1),
        )
    )
    print(f"{name:<8} largest mean weight that a head gives to the next word: {on_next.max():.2f}")
grids(panels)

# %% [markdown]
# ## One wrong word and what follows
#
# A model that writes reads its own mistakes.
# Two questions can be answered with numbers: how soon does a mistake come, and does it breed others?
#
# **How soon.** Feed both models true texts, and add up the probability that they give to words that the grammar forbids there.
# Call it $\varepsilon_t$.
# As long as a text has no mistake, it is a legal text, so if legal prefixes that a model writes are like those of the language, the share of texts without a mistake after $n$ words should be about $\prod_t (1 - \varepsilon_t)$.

# %%
allowed = language.next_word(honest.tokens[:, :-1]) > 0  # [texts, T, words]
for name, model in models.items():
    with torch.no_grad():
        q = torch.softmax(model(torch.from_numpy(honest.tokens[:, :-1])), dim=-1).numpy()
    forbidden = np.where(allowed, 0.0, q).sum(axis=-1).mean(axis=0)  # [T]
    print(
        f"{name:<8} teacher forced, mass on forbidden words: {forbidden.mean():.4f} a word; "
        f"so without a mistake: {np.prod(1 - forbidden):.1%} expected, "
        f"{language.legal(written[name]).mean():.1%} measured"
    )

# %% tags=["figure"]
# @title How long a text stays grammatical
survival = {
    name: (
        np.arange(LENGTH + 1),
        [(language.first_error(texts) > t).mean().round(3) for t in range(LENGTH + 1)],
    )
    for name, texts in written.items()
}
lines(
    survival,
    "words written",
    "share of texts without a mistake",
    "How long a text stays grammatical",
)

# %% [markdown]
# For the honest model the forecast is right: what it does under a teacher is what it does alone.
# For the cheater the same forecast fails completely.
# It looked flawless under the teacher, and the first word that it wrote alone was wrong in nine texts of ten.
# The reason is simple: what a teacher scores are the probabilities of the next word given the past *and whatever else the model may see*.
# Only under the contract is there nothing else, and only then are they the probabilities that the model draws from when it writes.
#
# **Does a mistake breed others?** Take true texts of 11 words, replace the last word by a forbidden one, and let the honest model go on.
# We count impossible pairs: two neighbours that never occur side by side in the language.
# The true texts, continued, are the control.

# %%


def impossible_pairs(wrong):
    """Where impossible pairs occur among the 8 that follow a prompt of 11 words: [texts, 8]."""
    rng = np.random.default_rng(5)
    prompt = language.sample(2000, 11, rng)
    if wrong:
        possible = language.next_word(prompt)[:, -2] > 0  # what may stand at the end of the prompt
        prompt[:, -1] = [rng.choice(np.flatnonzero(~row)) for row in possible]
    text = generate(models["honest"], prompt, 8, rng=rng).numpy()
    return ~language.pairs()[text[:, 10:-1], text[:, 11:]]


found = [impossible_pairs(False), impossible_pairs(True)]
after = np.array([100 * pairs.mean(axis=0) for pairs in found])
print("impossible pairs in percent, by distance from the prompt")
print(
    table(
        after,
        rows=["after a legal word", "after a wrong word"],
        columns=[f"+{i}" for i in range(1, 9)],
        digits=2,
    )
)
for name, pairs in zip(("legal", "wrong"), found, strict=True):
    se = standard_error(100 * pairs.mean(axis=1))
    print(
        f"after a {name} word, mean over the 8: {100 * pairs.mean():.2f}, standard error {se:.2f}"
    )

# %% [markdown]
# Mistakes do breed: several times as many as without the wrong word, most of them at once.
# (The count is a lower bound: a verb that disagrees with a distant noun is a mistake, but no impossible pair.)
# Then the rate falls back to that of the control.
# Do not read the recovery as a law: our sentences are short, and after a full stop everything starts afresh.
# The gap between the texts of training and one's own has a name, *exposure bias*, and a literature (Bengio et al., 2015; Ranzato et al., 2016).
# The mask does not close that gap.
# It makes sure that a wrong past is the *only* gap.

# %% [markdown]
# ## The contract tester
#
# A number below the floor convicts a cheater, but for real text nobody knows the floor.
# The contract itself can be tested on any model, trained or not: **change one input, and see which outputs change.**

# %%
x = torch.from_numpy(tokens)[None]  # [1, T]
changed = x.clone()
changed[0, 4] = language.encode("a")[0]  # "The cat sat on a mat ."

rows = []
for model in models.values():
    with torch.no_grad():
        difference = model(changed) - model(x)  # [1, T, words]
    rows.append(difference.abs().amax(dim=-1)[0])
print("largest change of the logits (the scores before softmax) when word 4 changes")
print(table(torch.stack(rows), rows=list(models), columns=sentence, digits=2))
print("honest, before position 4: exactly 0:", bool((rows[0][:4] == 0).all()))

# %% [markdown]
# Before position 4 nothing changes in the honest model, to the last bit.
# In the cheater everything does.
#
# `influence` does this for every input, with several replacements, and returns a map: row $i$, column $j$ is True if output $i$ changes when input $j$ does.
# By gradient it asks the same question with derivatives.
# Our third patient is a bug from practice: a model that applies the mask `if self.training` (reported, though not confirmed, for one layer of a forecasting model: [Kronos, issue 199](https://github.com/shiyu-coder/Kronos/issues/199)).
# While it is trained it *is* the honest model, update for update, so we can give it the weights that we have.

# %%
models["only in training"] = models["honest"].with_masking("training")

future = np.triu(np.ones((7, 7), dtype=bool), 1)
for name, model in models.items():
    for mode in ("train", "eval"):
        getattr(model, mode)()  # model.train() or model.eval()
        by_change, by_gradient = (influence(model, x, by=by) for by in ("perturbation", "gradient"))
        count, agree = (by_change & future).sum(), np.array_equal(by_change, by_gradient)
        print(f"{name:<16} {mode:<5} leaks: {count:>2} of 21 pairs; both methods agree: {agree}")

# %%
panels, leaks = [], []
for name, model in models.items():
    found = influence(model.eval(), x)
    leaks.append(f"{name}: {(found & future).sum()} of 21 future cells leak")
    panels.append(
        Grid(
            found.astype(float),
            sentence,
            sentence,
            title=f"{name}, eval()",
            digits=0,
            leak=found & future,
            row_axis="output",
            column_axis="input",
        )
    )
grids(
    panels,
    alt=f"Which output depends on which input, in evaluation mode. {'; '.join(leaks)}.",
)

# %% [markdown]
# The bug that masks only in training cannot be seen in the training loss, nor in the weights.
# It shows in evaluation mode only.
# That is why `assert_causal` tests both modes, and says what it found in words that help:

# %%
assert_causal(models["honest"], x, tokens=sentence)
print("honest: no complaint")
for name in ("cheater", "only in training"):
    print(f"{name}: ", end="")
    with expected_error(LeakError):
        assert_causal(models[name], x, tokens=sentence)

# %% [markdown]
# What does such a test prove?
# A leak that it reports is there: two inputs with the same past gave different outputs.
# A leak that it does not report may still be there, for other words than the ones that were tried.
# The two methods are blind in different places: gradients do not see hard decisions, and changing one word at a time does not see a leak that needs two changes at once (so `assert_causal` also changes the whole future together).
# A test is evidence.
# A proof comes from the structure: in our model everything but attention works on each position by itself, and masked attention gives position $t$ a weighted sum over positions $0 \dots t$, with weights computed from their states; so, layer by layer, state $t$ depends on inputs $0 \dots t$ only.

# %% [markdown]
# ## Is the mask needed at inference?
#
# You will read that it is not, "because the future does not exist yet".
# Half of that is true.
#
# Suppose that we generate as above, by feeding the whole text again for each new word, with the honest weights but without the mask.
# The last position sees everything in any case.
# But the positions before it now see words that they never saw in training, and the next layer of the last position reads them.
#
# **Predict.** A text grows from 3 to 7 words.
# What happens to the model's output at position 1, with the mask and without?
# What if the model has one layer only?

# %%
unmasked = models["honest"].with_masking("never").eval()
with torch.no_grad():
    for name, model in {"with the mask": models["honest"], "without": unmasked}.items():
        kept = model(x[:, :3])[0, 1]  # output at position 1 when 3 words are there
        moved = [(model(x[:, :n])[0, 1] - kept).abs().max().item() for n in range(3, 8)]
        print(f"{name:<14} change at position 1:", " ".join(f"{m + 0.0:.2f}" for m in moved))

    one_layer = GPT(GPTConfig(24, LENGTH, layers=1), np.random.default_rng(0))
    same = torch.allclose(
        one_layer(x)[:, -1], one_layer.with_masking("never")(x)[:, -1], atol=1e-12
    )
    print("one layer: last output the same without the mask:", same)

    batch = torch.from_numpy(honest.tokens[:, :12])
    p, q = (torch.softmax(m(batch)[:, -1], dim=-1) for m in (models["honest"], unmasked))
    distance = (p - q).abs().sum(-1).mean() / 2
    print(f"two layers: mean distance of the next-word distributions: {distance:.4f}")

# %% [markdown]
# The distance is the total variation: the largest difference in the probability of any event.
# So without the mask the past is rewritten at every step, and the next word is drawn from another distribution than the trained one, unless there is only one layer.
# How much harm does it do here?

# %%
refed = generate(unmasked, first_words, LENGTH, rng=np.random.default_rng(4)).numpy()
scored = evaluate(models["only in training"], draw, n=2000, rng=np.random.default_rng(2))
good, good_refed = (language.legal(texts).mean() for texts in (written["honest"], refed))
print(f"grammatical texts, with the mask {good:.1%}, without {good_refed:.1%}")
print(f"teacher-forced loss, with the mask {honest.mean:.4f}, without {scored.mean:.4f}")
print(f"standard error of the second       {scored.standard_error:.4f}")

# %% [markdown]
# Two honest results that we did not arrange.
#
# - The writing hardly suffers: this model, with its two layers, gets away with it. There is no theorem that yours will.
# - The teacher-forced loss gets much *worse*. This model can see the answers and has never learnt to use them; the future is noise to it. A held-out loss far above the training loss looks like overfitting, but here every batch was drawn anew, so there was nothing to memorise.
#
# The answer, then: the mask is needed whenever more than one position is computed at once, in training, in scoring, when a prompt is read, and when a text is fed again.
# It is not needed when a single new position is computed against stored keys and values of the past, because then there is nothing to block.
# Those stored values are only valid because the mask kept them from changing (chapter 5).

# %% [markdown]
# ## A real case
#
# For years the official PyTorch tutorial on language modelling trained an `nn.TransformerEncoder`, with a causal mask.
# In June 2023 a change titled "Remove improper src_mask from encoder tutorial" took the mask out, with the reasoning that an encoder needs none ([pull request 2423](https://github.com/pytorch/tutorials/pull/2423)).
# It was reviewed and merged.
# Two weeks later a reader reported that the model was not causal, and another gave the symptom: a perplexity of 2.9 on validation and test data, and no prediction that made any sense ([issue 2478](https://github.com/pytorch/tutorials/issues/2478)).
# The mask came back in November ([pull request 2662](https://github.com/pytorch/tutorials/pull/2662)).
#
# Perplexity is $e^{\text{loss}}$.
# The data was WikiText-2, on which GPT-2 with 1.5 billion weights reported 18.34 without training on it (Radford et al., 2019, table 3; the words are split differently, so compare sizes, not digits).
# That a two-layer model should be six times better after three passes over the data is hard to believe, and it was not so.
# Nobody knows the floor of English, but a score far below every serious system is the same alarm.
#
# Here is the case again, small: the tutorial's kind of model, PyTorch's own encoder with positions and a last linear layer, trained with and without its mask on our language, where the floor is known.
#
# **Predict.** What are the two perplexities, and what does each model write?


# %%
class TutorialModel(nn.Module):
    """An encoder, used to predict the next word."""

    def __init__(self, with_mask, width=32):
        super().__init__()
        torch.manual_seed(0)
        options = dict(dropout=0.0, batch_first=True, dtype=torch.float64)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.word = nn.Embedding(24, width, dtype=torch.float64)
        self.position = nn.Embedding(LENGTH, width, dtype=torch.float64)
        self.decoder = nn.Linear(width, 24, dtype=torch.float64)
        self.with_mask = with_mask

    def forward(self, tokens):
        """[B, T] -> [B, T, 24]."""
        n = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(n, dtype=torch.float64)
        x = self.word(tokens) + self.position(torch.arange(n))
        return self.decoder(self.encoder(x, mask=mask if self.with_mask else None))


print(f"perplexity of the exact floor: {np.exp(floor):.2f}")
tutorial = {"with its mask": TutorialModel(True), "without": TutorialModel(False)}
for name, model in tutorial.items():
    rng = np.random.default_rng(1)
    train(model, draw, steps=300, batch_size=32, rng=rng, learning_rate=5e-3, description=name)
    model.eval()
    held = evaluate(model, draw, n=1000, rng=np.random.default_rng(2))
    texts = generate(model, first_words, LENGTH - 1, rng=np.random.default_rng(4)).numpy()
    low, high = np.exp(held.mean + np.array([-1, 1]) * held.standard_error)
    print(f"{name}: perplexity {np.exp(held.mean):.2f} ({low:.2f} to {high:.2f} within one error), "
          f"grammatical {language.legal(texts).mean():.0%}")  # fmt: skip
    print("  ", language.decode(texts[0]))

# %% [markdown]
# The tutorial's symptom, in miniature: a perplexity near 1 and nonsense for a text.
# Would the contract tester have caught it?
# It needs no training for that, so we ask it about fresh models, whose weights are random.

# %%
with expected_error(LeakError):
    assert_causal(TutorialModel(with_mask=False), x, tokens=sentence)
assert_causal(TutorialModel(with_mask=True), x, tokens=sentence)
print("with the mask: no complaint")

# %% [markdown]
# The test takes a fraction of a second, and among the tutorial's own checks it would have stopped the change.
#
# The mistake is old, and it keeps coming back.
# In 2017, weeks after the Transformer paper, a user of one implementation reported 98% accuracy in translation, nonsense as output, and suspected the mask ([attention-is-all-you-need-pytorch, issue 19](https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/19)).
# In 2026, four model classes of Hugging Face transformers lost their causal mask in a release; it was noticed because the loss on *random* tokens fell to almost zero, and the fix came with a test that changes future tokens and compares what comes before ([issue 48745](https://github.com/huggingface/transformers/issues/48745), [pull request 48760](https://github.com/huggingface/transformers/pull/48760)).
# Random tokens are a toy language with a known floor.

# %% [markdown]
# Not every task has this contract: an encoder such as BERT fills in hidden words from both sides, and a translator may see all of its source.
# And not only language models have it: so does every forecast.
# Both are in [More on the contract](more/01_contract_more.ipynb).

# %% [markdown]
# ## Pause and recall
#
# Answer before you open.
#
# <details><summary>1. What if, in training, "The" could see "cat"?</summary>
#
# Output 0 must predict word 1, and word 1 is "cat".
# The model would learn to copy it and nothing about what follows "The".
# When it writes, position 0 has nothing to copy, so the second word of every text is a wild guess, and every later word is conditioned on it.
#
# </details>
#
# <details><summary>2. Your model's held-out loss is 0.01 nats below the floor, with a standard error of 0.02. Has it cheated?</summary>
#
# That is no evidence: a mean over a finite sample falls half a standard error below its expectation quite often.
# Take more texts, or subtract the exact surprise of the same texts, and run the contract tester.
#
# </details>
#
# <details><summary>3. A model without any mask is trained on the last position only, and asked for the word that follows. Is it a cheater?</summary>
#
# No.
# Its one prediction is a function of the words before the target, so condition 3 holds and the floor binds it.
# Seeing both ways is no sin; seeing the target is.
# What the mask adds is that *every* position can be such an honest last position, so that one pass over a text gives $T$ lessons and not one.
#
# </details>
#
# <details><summary>4. Which condition of the theorem is broken by testing on the training texts?</summary>
#
# The first: the model was fixed after the texts were drawn and depends on them.
# A model that has memorised its texts can go below the floor on them without looking ahead.
#
# </details>
#
# <details><summary>5. Why is the cheater's loss not zero, and what would it be with texts twice as long?</summary>
#
# Its last target is in no input, which costs about $H \approx 0.83$ nats once a text.
# With 48 predicted words that is about half as much a word, 0.017.
#
# </details>
#
# <details><summary>6. A colleague's model has the mask in <code>forward</code>, inside <code>if self.training:</code>. Name two symptoms.</summary>
#
# The training loss is right, and the loss in evaluation mode is another one even on fresh data (here it was far above).
# And the outputs at early positions change when a text grows, so a cache of them would be wrong.
#
# </details>
#
# <details><summary>7. Attention weights of one row, as printed somewhere: 0.25, 0.35, 0, 0, 0. Is that a causal row?</summary>
#
# Its zeros are in the right place for the second row, but the row adds up to 0.6 and not to 1.
# It cannot come out of a softmax over the visible positions.
#
# </details>

# %% [markdown]
# ## Summary
#
# - The chain rule turns a text into next-word questions; teacher forcing asks them all at once, with the answers lying one position to the right. The contract: output $t$ depends on inputs $0 \dots t$ only.
# - Under the contract, expected loss = entropy + KL, so it cannot be below the entropy. Conditions: fresh texts, a normalised prediction, a function of the past.
# - The same model without the mask went more than twenty times below that floor, and not one of its 1,000 texts was grammatical.
# - Scores under a teacher are about the model that writes only if the contract holds. A test of the contract takes seconds: change the future, compare the past, in both modes.
# - The mask is needed wherever several positions are computed at once. Tasks in which the whole input is known (BERT's, or the source of a translation) need none.
#
# **Next:** [chapter 2, the tril mask](02_tril_mask.ipynb). It writes "output $t$ depends on inputs $0 \dots t$" as a matrix, in four ways.

# %% [markdown]
# ## References
#
# - C. E. Shannon, [A Mathematical Theory of Communication](https://doi.org/10.1002/j.1538-7305.1948.tb01338.x), 1948: entropy, and languages made by a machine with states.
# - T. M. Cover and J. A. Thomas, [Elements of Information Theory](https://doi.org/10.1002/047174882X), 2nd edition, 2006: KL divergence and why it is not negative (theorem 2.6.3).
# - R. J. Williams and D. Zipser, [A Learning Algorithm for Continually Running Fully Recurrent Neural Networks](https://doi.org/10.1162/neco.1989.1.2.270), 1989: teacher forcing.
# - A. Vaswani et al., [Attention Is All You Need](https://arxiv.org/abs/1706.03762), 2017.
# - A. Radford et al., [Improving Language Understanding by Generative Pre-Training](https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf), 2018 (GPT), and [Language Models are Unsupervised Multitask Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf), 2019 (GPT-2).
# - S. Bengio et al., [Scheduled Sampling](https://arxiv.org/abs/1506.03099), 2015; M. Ranzato et al., [Sequence Level Training with Recurrent Neural Networks](https://arxiv.org/abs/1511.06732), 2016: a model that reads its own mistakes.
# - The tutorial: [pytorch/tutorials#2423](https://github.com/pytorch/tutorials/pull/2423), [#2478](https://github.com/pytorch/tutorials/issues/2478), [#2662](https://github.com/pytorch/tutorials/pull/2662).
