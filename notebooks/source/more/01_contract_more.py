# %% [markdown]
# # More on the contract
#
# The lesson made one promise, output $t$ depends on inputs $0 \dots t$, and caught a model that broke it.
# Here are the tasks that do *not* have this contract, with the numbers that show why, and some that have it although no word is in sight.

# %% [markdown]
# ## What you will be able to do
#
# - Say why BERT needs no causal mask, and why its probabilities cannot be multiplied to write a text.
# - Draw the line between what a translator may see of its source and of its target, and test it.
# - Find the same leak in a forecast of a time series, where there is no attention at all.
#
# **Before you start.** You have read the lesson: the toy language, the floor, the honest model and the cheater.

# %%
import numpy as np
import torch

from course_lib.attention import attention
from course_lib.example import TOKENS
from course_lib.figures.plot import lines
from course_lib.gpt import GPT, GPTConfig
from course_lib.language import Language, toy
from course_lib.leaks import LeakError, assert_causal, influence
from course_lib.lesson import table
from course_lib.masks import causal
from course_lib.training import evaluate, standard_error, train

torch.set_num_threads(1)  # the model is so small that more threads only wait for each other
LENGTH = 24  # words that a model reads, and words that it predicts

language = toy()
floor = language.min_loss(LENGTH + 1)

# %% [markdown]
# The cheater of the lesson once more: a small GPT that never masks, trained on the same texts (half a minute).

# %%
config = GPTConfig(vocab_size=24, context=LENGTH, layers=2, heads=4, width=48)


def draw(n, rng):
    """Fresh texts, drawn anew every time."""
    return language.sample(n, LENGTH + 1, rng)


model = GPT(config, np.random.default_rng(0), masking="never")
how = dict(steps=500, batch_size=64, learning_rate=5e-3, description="training the cheater")
train(model, draw, rng=np.random.default_rng(1), **how)
cheater = evaluate(model.eval(), draw, n=2000, rng=np.random.default_rng(2))
print(f"floor {floor:.4f}, loss of the cheater {cheater.mean:.4f}")

# %% [markdown]
# ## Encoders solve another task
#
# In 2023 the PyTorch tutorial on language models lost its mask, "because an encoder needs none" (the lesson tells the story).
# The change had a true idea in it.
# The mistake was to go by the name of the module and not by the task.
#
# BERT (Devlin et al., 2019) selects 15% of the words of a text and predicts them from both sides; most of them are replaced by a blank, one in ten by a random word, and one in ten is left alone.
# The pure form of the task is $p(x_i \mid \text{all others})$.
# Nothing leaks there, because the word itself is not in the input.
# It is a different question with a different answer, and for our language we can compute both exactly.

# %%
question = language.encode("The cat near the mat is hungry .")
candidates = ["sat", "slept", "is", "are"]
columns = language.encode(candidates)
rows = [language.next_word(question)[4, columns], language.fill_in(question, 5)[columns]]
print("p(word 5) in: The cat near the mat ___ hungry .")
print(table(rows, rows=["given the past", "given both sides"], columns=candidates))

texts = language.sample(300, LENGTH + 1, np.random.default_rng(6))
both_sides = np.array(
    [[-np.log(language.fill_in(text, i)[text[i]]) for i in range(1, LENGTH + 1)] for text in texts]
)
print()
print(f"mean surprise given the past  {floor:.4f} (exact)")
se = standard_error(both_sides.mean(axis=1))
print(f"mean surprise given all other {both_sides.mean():.4f}, standard error {se:.4f}")
print(f"loss of our cheater           {cheater.mean:.4f}")

# %% [markdown]
# Filling in is easier than continuing, and it has a floor of its own.
# Note where the cheater stands: far below *that* floor too.
# It does not solve BERT's task; with the shift, the word it is asked for is itself among its inputs, and its task is to copy.
#
# Fill-in probabilities are fine for understanding a text that is there.
# Multiplied, they do not give the probability of a text, so one pass from left to right cannot use them to write.
# (Redrawing the words of a text again and again, each given all others, is another way to write: Gibbs sampling.)
# In the following language of two words the second repeats the first nine times in ten.
#
# **Predict.** Multiply, for each of the four texts, $p(\text{first} \mid \text{second})$ and $p(\text{second} \mid \text{first})$.
# Do the four products add up to 1?

# %%
echo = Language(
    [
        ("start", "a", 0.5, "said a"),
        ("start", "b", 0.5, "said b"),
        ("said a", "a", 0.9, "end"),
        ("said a", "b", 0.1, "end"),
        ("said b", "b", 0.9, "end"),
        ("said b", "a", 0.1, "end"),
        ("end", "a", 1.0, "end"),
    ],
    start="start",
)
every = [echo.encode(f"{first} {second}") for first in "ab" for second in "ab"]
chain = [np.exp(echo.log_prob(text).sum()) for text in every]
fill = [echo.fill_in(text, 0)[text[0]] * echo.fill_in(text, 1)[text[1]] for text in every]
print(table([chain, fill], rows=["chain rule", "fill-in"], columns=[echo.decode(t) for t in every]))
print(f"sum over all texts: {sum(chain):.4f} and {sum(fill):.4f}")

# %% [markdown]
# **Cross-attention has no causal mask either.**
# A translator reads a source sentence and writes a target sentence; the target's positions attend to the source.
# Here the whole source is known before the first target word is written, so all of it may be seen.
# (A translator of live speech does not know it, and masks the source too.)
# The contract binds the target only.

# %%
rng = np.random.default_rng(7)
english, french = TOKENS, ("Le", "chat", "s'assit", "sur", "le")
source, target = rng.normal(size=(5, 8)), rng.normal(size=(5, 8))


def decoder(source, target):
    """One layer of a translator: look back at the target, then at all of the source."""
    target = target + attention(target, target, target, causal().matrix(5, 5))[0]
    return target + attention(target, source, source)[0]  # no mask


print("what the outputs depend on, in the source:")
print(table(influence(lambda s: decoder(s, target), source), rows=french, columns=english))
print("and in the target:")
print(table(influence(lambda t: decoder(source, t), target), rows=french, columns=french))
assert_causal(lambda t: decoder(source, t), target, tokens=french)

# %% [markdown]
# ## The same contract elsewhere
#
# Whenever something is predicted that comes later, the contract is there, with or without attention.
# Here is a series that nobody can forecast exactly: $x_{t+1} = 0.9\, x_t + e_{t+1}$, where the $e$ are independent with variance 1.
# The best forecast from the past is $0.9\, x_t$, since among all functions of the past the conditional mean has the least expected squared error; what remains is the variance of $e$, so the floor of the mean squared error is 1.
#
# We fit two linear forecasts of $x_{t+1}$ on the first half of a long series and test them on the second half.
# One uses the last three values.
# The other uses a window of three that is *centred* on $t$: the values that a convolution with `padding="same"` or a centred moving average has in its hands.

# %%
rng = np.random.default_rng(8)
noise = rng.normal(size=20_000)
series = np.zeros(20_000)
for t in range(1, len(series)):
    series[t] = 0.9 * series[t - 1] + noise[t]


def window(values, offsets):
    """Values at t + offset for every t, zeros beyond the ends: [T] -> [T, offsets]."""
    padded = np.pad(values, 2)
    return np.stack([padded[2 + o : 2 + o + len(values)] for o in offsets], axis=1)


half, forecasts = 10_000, {}
for name, offsets in {"past": (-2, -1, 0), "centred": (-1, 0, 1)}.items():
    seen = window(series, offsets)
    fitted = np.linalg.lstsq(seen[: half - 1], series[1:half], rcond=None)[0]
    forecasts[name] = lambda values, o=offsets, w=fitted: window(values, o) @ w
    print(f"{name:<8} weights", table(fitted.round(3) + 0.0, digits=3).strip())
    squared = (forecasts[name](series)[half:-1] - series[half + 1 :]) ** 2
    se = standard_error(squared)
    print(f"{name:<8} mean squared error {squared.mean():.4f}, standard error {se:.4f} (floor 1)")

for name, forecast in forecasts.items():
    print(f"{name:<8} ", end="")
    try:
        assert_causal(forecast, series[:6])
        print("no complaint")
    except LeakError as error:
        print(error)

# %% tags=["figure"]
# @title The series and its two forecasts
shown = slice(half, half + 40)
lines(
    {
        "series": (np.arange(1, 41), series[half + 1 : half + 41].round(2)),
        "forecast from a centred window": (
            np.arange(1, 41),
            forecasts["centred"](series)[shown].round(2),
        ),
        "forecast from the past": (np.arange(1, 41), forecasts["past"](series)[shown].round(2)),
    },
    "time",
    "value",
    "Too good to be true: a forecast that hits pure noise",
)

# %% [markdown]
# The centred window gives all its weight to the value that was to be forecast, and its forecast lies exactly on the series.
# A mean squared error of 0 for noise of variance 1 is the cheater's 0.03 nats in other clothes; such leaks have spoilt published results in many sciences (Kapoor and Narayanan, 2023).
#
# Where you will meet the contract:
#
# | field | what is predicted | example | source |
# |---|---|---|---|
# | text | next word | GPT, GPT-2, GPT-3: decoder-only stacks of 12, 48 and 96 layers | Radford et al., 2018, 2019; Brown et al., 2020 |
# | code | next token | Codex, a GPT trained further on code | Chen et al., 2021 |
# | code, in the middle of a file | next token, after the text is rearranged so that the gap comes last; the mask stays | fill-in-the-middle | Bavarian et al., 2022 |
# | audio | next sample or audio token | WaveNet (causal convolutions, no attention), AudioLM, MusicLM | van den Oord et al., 2016; Borsos et al., 2022; Agostinelli et al., 2023 |
# | time series | next value or patch of values | TimesFM, Lag-Llama | Das et al., 2024; Rasul et al., 2023 |
#
# A little history.
# Networks with a causal order are older than the Transformer: MADE (2015) masks weights, PixelRNN and WaveNet (2016) mask or shift convolutions.
# The Transformer (Vaswani et al., 2017, section 3.2.3) masks the self-attention of its *decoder*, so that position $i$ depends on outputs before $i$ only, and leaves its encoder and its cross-attention open.
# Liu et al. (January 2018) dropped the encoder; GPT (June 2018) trained such a decoder, 12 layers of it, on plain text.
# GPT-2 (1.5 billion weights) and GPT-3 (175 billion) made it larger.
# How the models behind closed interfaces are built is not published in such detail.

# %% [markdown]
# ## Pause and recall
#
# Answer before you open.
#
# <details><summary>1. BERT's loss is lower than a next-word model's on the same texts. Is BERT the better model?</summary>
#
# The two losses answer two questions.
# Filling in has a floor of its own, below that of continuing, because more is known.
#
# </details>
#
# <details><summary>2. Which of the two attentions of a translator's decoder is causal, and over what?</summary>
#
# The one over the target: output $t$ may use target words $0 \dots t$.
# The one over the source has no causal mask; the whole source is known before the first word is written.
#
# </details>
#
# <details><summary>3. A moving average is centred on each day, and a model forecasts the next day from it with an error of nearly zero. What happened?</summary>
#
# The average of day $t$ holds day $t + 1$, which is the answer.
# Use a window that ends at $t$.
#
# </details>

# %% [markdown]
# ## Summary
#
# - Filling in and continuing are different tasks with different floors. Fill-in probabilities do not multiply to the probability of a text.
# - In a translator the contract binds the target; the source is open.
# - Wherever something later is predicted, the contract is there. A centred window breaks it without any attention, and the same tester finds it.
#
# **Next:** back to [the contract](../01_contract.ipynb), or on to [chapter 2, the tril mask](../02_tril_mask.ipynb).

# %% [markdown]
# ## References
#
# - A. Vaswani et al., [Attention Is All You Need](https://arxiv.org/abs/1706.03762), 2017.
# - P. J. Liu et al., [Generating Wikipedia by Summarizing Long Sequences](https://arxiv.org/abs/1801.10198), 2018: a decoder without an encoder.
# - A. Radford et al., [Improving Language Understanding by Generative Pre-Training](https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf), 2018 (GPT), and [Language Models are Unsupervised Multitask Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf), 2019 (GPT-2).
# - T. B. Brown et al., [Language Models are Few-Shot Learners](https://arxiv.org/abs/2005.14165), 2020 (GPT-3).
# - J. Devlin et al., [BERT](https://arxiv.org/abs/1810.04805), 2019.
# - M. Germain et al., [MADE](https://arxiv.org/abs/1502.03509), 2015; A. van den Oord et al., [Pixel Recurrent Neural Networks](https://arxiv.org/abs/1601.06759), 2016, and [WaveNet](https://arxiv.org/abs/1609.03499), 2016.
# - M. Chen et al., [Evaluating Large Language Models Trained on Code](https://arxiv.org/abs/2107.03374), 2021 (Codex); M. Bavarian et al., [Efficient Training of Language Models to Fill in the Middle](https://arxiv.org/abs/2207.14255), 2022.
# - Z. Borsos et al., [AudioLM](https://arxiv.org/abs/2209.03143), 2022; A. Agostinelli et al., [MusicLM](https://arxiv.org/abs/2301.11325), 2023.
# - A. Das et al., [A Decoder-Only Foundation Model for Time-Series Forecasting](https://arxiv.org/abs/2310.10688), 2024 (TimesFM); K. Rasul et al., [Lag-Llama](https://arxiv.org/abs/2310.08278), 2023.
# - S. Kapoor and A. Narayanan, [Leakage and the Reproducibility Crisis in Machine-Learning-Based Science](https://doi.org/10.1016/j.patter.2023.100804), 2023.
