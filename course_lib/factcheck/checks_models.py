"""Checks of appendix B that need a model: caches, writing, and the experiment of chapter 1, small.

`experiment` trains one model with the mask and one without (three seconds together); every claim
about cheating is settled by the same pair.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_lib.attention import attention
from course_lib.example import K, Q, V
from course_lib.factcheck.checks_rules import draw, gap
from course_lib.factcheck.finding import Finding, check, either, in_cases
from course_lib.factcheck.record import Claim, parse
from course_lib.generation import generate
from course_lib.gpt import GPT, GPTConfig, Masking, evaluating
from course_lib.language import Language, toy
from course_lib.leaks import influence
from course_lib.masks import Mask, causal, full
from course_lib.training import evaluate, train

LENGTH = 16  # words that the small models read
SIZE = 8  # numbers a position in the layers without words


# --- layers and models ---------------------------------------------------------------------------


def deep(x: Tensor, layers: int, mask: Mask) -> list[Tensor]:
    """The states [T, C] before each of some attention layers, and after the last.

    Keys, values and queries are fixed random projections of the states; each layer adds its
    output to them, as in a Transformer.
    """
    states = [x]
    for layer in range(layers):
        q, k, v = _projected(states[-1], layer)
        states.append(states[-1] + attention(q, k, v, mask)[0])
    return states


def one_at_a_time(x: Tensor, layers: int) -> Tensor:
    """The same layers fed token by token with a cache, and no mask anywhere."""
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(layers)]
    rows = []
    for token in x.split(1):
        for layer in range(layers):
            q, k, v = _projected(token, layer)
            kept[layer].append((k, v))
            keys, values = (torch.cat(parts) for parts in zip(*kept[layer], strict=True))
            token = token + attention(q, keys, values)[0]
        rows.append(token)
    return torch.cat(rows)


def _projected(x: Tensor, layer: int) -> tuple[Tensor, ...]:
    return tuple(x @ draw(SIZE, SIZE, seed=10 * layer + i) / math.sqrt(SIZE) for i in range(3))


def small_model() -> GPT:
    """Two layers, random weights large enough that attention is far from uniform."""
    return GPT(GPTConfig(24, 32, layers=2, heads=2, width=16), np.random.default_rng(0)).eval()


def some_words(n: int) -> Tensor:
    """A text of the toy language, [1, n]."""
    return torch.from_numpy(toy().sample(1, n, np.random.default_rng(7)))


# --- is the mask needed, is the cache -----------------------------------------------------------


@check
def mask_at_inference(_: Claim) -> Finding:
    """Four ways to feed a text without a mask, against the masked model."""
    x = draw(6, SIZE)
    one, two = deep(x, 1, causal()), deep(x, 2, causal())
    return in_cases(
        {
            "unneeded, one token at a time with a cache": gap(one_at_a_time(x, 2), two[-1]) < 1e-9,
            "unneeded, text fed again, one layer": gap(deep(x, 1, full())[-1][-1], one[-1][-1])
            < 1e-9,
            "unneeded, text fed again, two layers": gap(deep(x, 2, full())[-1][-1], two[-1][-1])
            < 1e-9,
            "unneeded, prompt in one piece": gap(deep(x, 2, full())[1], two[1]) < 1e-9,
        }
    )


@check
def cache_is_a_choice(_: Claim) -> Finding:
    """The same text written with and without a cache, and the tokens fed for it."""
    model, prompt = small_model(), some_words(4)
    with_cache, without = _fed(model, prompt, "static"), _fed(model, prompt, None)
    same = torch.equal(with_cache[0], without[0])
    return in_cases(
        {
            "needed for the right text": not same,
            "needed for less work": sum(with_cache[1]) < sum(without[1]),
        },
        f"Tokens fed for 10 new ones: {sum(with_cache[1])} with, {sum(without[1])} without.",
    )


def _fed(
    model: GPT, prompt: Tensor, kept: Literal["static"] | None, n: int = 10
) -> tuple[Tensor, list[int]]:
    """What is written, and how many tokens went through the model at each step."""
    counts: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _m, inputs, _k: counts.append(inputs[0].shape[1]), with_kwargs=True
    )
    try:
        return generate(model, prompt, n, temperature=0, cache=kept), counts
    finally:
        hook.remove()


@check
def whole_text_each_step(_: Claim) -> Finding:
    """Tokens fed in three steps, from a prompt of one."""
    model, prompt = small_model(), some_words(1)
    without, kept = _fed(model, prompt, None, 3)[1], _fed(model, prompt, "static", 3)[1]
    return in_cases(
        {"without a cache": without == [1, 2, 3], "with a cache": kept == [1, 2, 3]},
        f"Fed {without} and {kept}.",
    )


@check
def step_constant(_: Claim) -> Finding:
    """Operations of one cached step at three contexts, counted by PyTorch as they happen."""
    model = GPT(GPTConfig(24, 512, layers=2, heads=2, width=16), np.random.default_rng(0)).eval()
    contexts, rest, products = (128, 256, 512), [], []
    for t in contexts:
        kept = model.new_cache("static", t)
        text = some_words(t)
        with evaluating(model), sdpa_kernel(SDPBackend.MATH):
            model(text[:, :-1], cache=kept)
            with FlopCounterMode(display=False) as counter:
                model(text[:, -1:], cache=kept)
        counted = {op.__name__: n for op, n in counter.get_flop_counts()["Global"].items()}
        products.append(counted.pop("bmm"))  # a batch of heads
        rest.append(sum(counted.values()))
    return in_cases(
        {
            "everything but attention": len(set(rest)) == 1,
            "products of attention": len(set(products)) == 1,
        },
        f"At contexts {', '.join(map(str, contexts))}: {rest} and {products} operations.",
    )


@check
def only_the_last_logits(_: Claim) -> Finding:
    """Writing by hand from the last row, and whether older rows ever change."""
    model, text = small_model(), some_words(3)
    start, older = text, []
    with evaluating(model):
        for _step in range(5):
            logits = model(text)
            older.append(logits[:, :3])
            text = torch.cat([text, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    same = torch.equal(text, generate(model, start, 5, temperature=0))
    moved = max(gap(o, older[0]) for o in older)
    return either(
        same and moved < 1e-9, f"same text as generate; logits of old positions move by {moved:.4f}"
    )


@check
def parallel_and_sequential_agree(_: Claim) -> Finding:
    """Logits of all positions at once, against each prefix fed alone."""
    model, text = small_model(), some_words(6)
    with evaluating(model):
        at_once = model(text)[0]
        alone = torch.cat([model(text[:, : t + 1])[0, -1:] for t in range(6)])
    return either(gap(at_once, alone) < 1e-9, f"largest difference {gap(at_once, alone):.4f}")


@check
def cache_keeps_the_rule(_: Claim) -> Finding:
    """A text fed in chunks of 3, 1 and 4 with a cache, against all at once."""
    model, text = small_model(), some_words(8)
    kept = model.new_cache("static", 8)
    with evaluating(model):
        parts = torch.cat([model(part, cache=kept) for part in text.split([3, 1, 4], 1)], 1)
        far = gap(parts, model(text))
    return either(far < 1e-9, f"largest difference {far:.4f}")


@check
def a_mistake_reaches_everything_after(_: Claim) -> Finding:
    """Which outputs change when one token does."""
    reach = influence(small_model(), some_words(7), vocab_size=24)
    return either(
        np.array_equal(reach, causal().matrix(7)),
        f"{int((reach & causal().matrix(7)).sum())} of 28 outputs at or after the change, "
        f"{int((reach & ~causal().matrix(7)).sum())} before it",
    )


def _states_moved(n: int, mask: Mask, layer: int) -> int:
    """Positions before the last whose state before a layer changes when token n is appended."""
    x = draw(n, SIZE)
    before, after = deep(x[:-1], layer, mask)[layer], deep(x, layer, mask)[layer][:-1]
    return int(((before - after).abs().amax(dim=1) > 1e-9).sum())


@check
def unchanged_at_step(claim: Claim) -> Finding:
    """What the 1000th token changes in the states that the second layer's q, k, v are made of."""
    step, old = (int(x) for x in parse(claim.printed)[0])
    moved = _states_moved(step, causal(), 1)
    return either(
        moved == 0 and old == step - 1,
        f"with the mask {moved} of {old} change; without it {_states_moved(step, full(), 1)}",
    )


@check
def keys_never_change(_: Claim) -> Finding:
    """States before the third layer, appending a token."""
    moved = _states_moved(20, causal(), 2)
    return either(moved == 0, f"{moved} of 19 old keys change in layer 3")


@check
def cache_without_a_mask(_: Claim) -> Finding:
    """The same without the mask, layer by layer."""
    moved = [_states_moved(20, full(), layer) for layer in (0, 1)]
    return in_cases(
        {"in the first layer": moved[0] > 0, "in the second layer": moved[1] > 0},
        f"Old keys that change: {moved[0]} and {moved[1]} of 19.",
    )


@check
def last_row_of_one_layer(_: Claim) -> Finding:
    """The last row of the weights, running example."""
    far = gap(attention(Q, K, V, causal())[1][-1], attention(Q, K, V, full())[1][-1])
    return either(far < 1e-12, f"largest difference {far:.4f}")


@check
def last_position_of_a_model(_: Claim) -> Finding:
    """The last output of one layer and of two, with and without the mask."""
    x = draw(6, SIZE)
    far = [gap(deep(x, n, causal())[-1][-1], deep(x, n, full())[-1][-1]) for n in (1, 2)]
    return in_cases(
        {"one layer": far[0] < 1e-9, "two layers": far[1] < 1e-9},
        f"Differences {far[0]:.2f} and {far[1]:.2f}.",
    )


@check
def latent_attention_is_causal(_: Claim) -> Finding:
    """Keys and values made from a vector of 3 numbers a token; who influences whom."""

    def latent(x: Tensor) -> Tensor:
        c = x @ draw(SIZE, 3, seed=1)  # [T, 3]: all that a cache would keep
        k, v = c @ draw(3, SIZE, seed=2), c @ draw(3, SIZE, seed=3)
        return attention(x @ draw(SIZE, SIZE, seed=4), k, v, causal())[0]

    reach = influence(latent, draw(6, SIZE))
    leaks = int((reach & ~causal().matrix(6)).sum())
    return either(leaks == 0, f"{leaks} of 15 future pairs leak")


@check
def two_tokens_ahead_is_causal(_: Claim) -> Finding:
    """A second head at position i that also reads token i + 1, and predicts token i + 2."""

    def second_head(x: Tensor) -> Tensor:
        state = deep(x, 1, causal())[-1]
        following = torch.cat([x[1:], torch.zeros(1, SIZE, dtype=x.dtype)])
        return deep(state + following @ draw(SIZE, SIZE, seed=9), 1, causal())[-1]

    reach = influence(second_head, draw(7, SIZE))
    allowed = Mask(lambda q, k: k <= q + 1, "k <= q + 1").matrix(7)
    leaks = int((reach & ~allowed).sum())
    return either(leaks == 0, f"outputs that see token i + 2 or later: {leaks}")


@check
def no_parameters(claim: Claim) -> Finding:
    """Parameters of a model with its mask and without."""
    said = parse(claim.printed)[0][0]
    model = small_model()
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, model.with_masking("never"))]
    return either(counts[0] - counts[1] == said, f"{counts[0]:,} with, {counts[1]:,} without")


# --- the experiment ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A model of the toy language and what became of it.

    Attributes:
        loss: held-out loss, nats a word.
        last: the same at the last position, which has no next word among its inputs.
        early: training loss around step 60.
        grammatical: share of 200 texts, written freely, without a mistake.
        looks_ahead: largest mean weight that a head gives to the next position.
    """

    loss: float
    last: float
    early: float
    grammatical: float
    looks_ahead: float


@cache
def experiment(masking: Masking) -> Trained:
    """Train a model of one layer, with the mask ("always") or without ("never").

    The language is that of chapter 1, with its exact entropy; the model is smaller than there.
    """
    language = toy()

    def texts(n: int, rng: np.random.Generator) -> np.ndarray:
        return language.sample(n, LENGTH + 1, rng)

    config = GPTConfig(24, LENGTH, layers=1, heads=2, width=32)
    model = GPT(config, np.random.default_rng(0), masking=masking)
    history = train(
        model, texts, steps=250, batch_size=24, rng=np.random.default_rng(1), learning_rate=1e-2,
        description=f"masking: {masking}",
    )  # fmt: skip
    held_out = evaluate(model, texts, n=2000, rng=np.random.default_rng(2))
    first = torch.from_numpy(texts(200, np.random.default_rng(3))[:, :1])
    written = generate(model, first, LENGTH - 1, rng=np.random.default_rng(4)).numpy()
    with evaluating(model):
        _, weights = model(torch.from_numpy(held_out.tokens[:50, :-1]), return_weights=True)
    ahead = weights[0].diagonal(offset=1, dim1=-2, dim2=-1).mean(dim=(0, 2))  # [H]
    return Trained(
        loss=held_out.mean,
        last=float(held_out.by_position[-1]),
        early=float(np.mean(history.losses[55:65])),
        grammatical=float(language.legal(written).mean()),
        looks_ahead=float(ahead.max()),
    )


@cache
def filling_in() -> float:
    """Mean entropy of a word given all the others of its text, nats, by exact enumeration."""
    language = toy()
    texts = language.sample(40, LENGTH + 1, np.random.default_rng(5))
    entropies = [
        _entropy(language.fill_in(text, position))
        for text in texts
        for position in range(1, LENGTH + 1)
    ]
    return float(np.mean(entropies))


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


@check
def cheating_and_collapse(_: Claim) -> Finding:
    """Loss against the exact floor, and writing, with and without the mask."""
    honest, cheat = experiment("always"), experiment("never")
    floor = toy().min_loss(LENGTH + 1)
    good = cheat.loss < 0.5 * floor and cheat.early < honest.early
    return either(
        good and cheat.grammatical < 0.1 < 0.8 < honest.grammatical,
        f"floor {floor:.2f} nats; honest {honest.loss:.2f}, {honest.grammatical:.0%} grammatical; "
        f"unmasked {cheat.loss:.2f}, {cheat.grammatical:.0%}; loss at step 60 "
        f"{honest.early:.2f} and {cheat.early:.2f}",
    )


@check
def task_without_mask(_: Claim) -> Finding:
    """If it learned p(word | all others), its loss could not be below that entropy."""
    cheat, bound = experiment("never"), filling_in()
    return either(
        cheat.loss > bound,
        f"entropy given all other words {bound:.2f} nats; loss without the mask {cheat.loss:.2f}",
    )


@check
def filling_in_is_not_degenerate(_: Claim) -> Finding:
    """The entropy given all others, against the floor of the honest task and against zero."""
    bound, floor = filling_in(), toy().min_loss(LENGTH + 1)
    return in_cases(
        {"easier": bound < floor, "degenerate": bound < 0.05},
        f"{bound:.2f} nats against {floor:.2f}.",
    )


@check
def looks_at_the_next_token(_: Claim) -> Finding:
    """Mean attention to position i + 1."""
    cheat, honest = experiment("never"), experiment("always")
    return either(
        cheat.looks_ahead > 0.5,
        f"one head gives {cheat.looks_ahead:.2f} of its weight to the next position; "
        f"with the mask {honest.looks_ahead:.2f}",
    )


@check
def copying_is_nearly_free(_: Claim) -> Finding:
    """Loss where the answer is visible, and at the last position, where it is not."""
    cheat = experiment("never")
    elsewhere = (cheat.loss * LENGTH - cheat.last) / (LENGTH - 1)
    return either(
        elsewhere < 0.05,
        f"{elsewhere:.2f} nats where the answer can be seen, {cheat.last:.2f} at the last position",
    )


@check
def only_the_mask(_: Claim) -> Finding:
    """The layer with its mask open; and what a model that only loses its mask has learned."""
    q, k, v = (draw(5, 4, seed=i) for i in range(3))
    standard = (q @ k.T / 2).softmax(-1) @ v
    return in_cases(
        {
            "the attention layer": gap(attention(q, k, v, full())[0], standard) < 1e-12,
            "the model (without the mask it fills in words)": experiment("never").loss
            > filling_in(),
        }
    )


@check
def text_without_a_mask(_: Claim) -> Finding:
    """The unmasked model; and counts of which word follows which two, from which one can draw."""
    language, rng = toy(), np.random.default_rng(0)
    follows = _counts(language, rng)
    texts = language.sample(200, 2, rng)
    while texts.shape[1] < LENGTH:
        p = np.array([follows[a, b] / follows[a, b].sum() for a, b in texts[:, -2:]])
        drawn = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)
        texts = np.concatenate([texts, drawn[:, None]], axis=1)
    share = float(language.legal(texts).mean())
    cheat = experiment("never").grammatical
    return in_cases(
        {
            "attention, trained on whole texts without a mask, cannot": cheat < 0.1,
            "a table of counts, without attention or mask, cannot": share < 0.1,
        },
        f"Grammatical texts: {cheat:.0%} and {share:.0%}.",
    )


def _counts(language: Language, rng: np.random.Generator) -> np.ndarray:
    """[V, V, V]: how often word c follows words a, b in 2,000 texts."""
    size = len(language.words)
    counts = np.zeros((size, size, size))
    texts = language.sample(2000, LENGTH + 1, rng)
    np.add.at(counts, (texts[:, :-2], texts[:, 1:-1], texts[:, 2:]), 1)
    return counts


@check
def leak_in_a_series(_: Claim) -> Finding:
    """Forecasts of pure noise by least squares, with the true value among the inputs or not."""
    noise = np.random.default_rng(0).normal(size=2000)
    past = np.stack([noise[i : i + 1990] for i in range(9)], axis=1)
    target = noise[9:1999]

    def error(inputs: np.ndarray) -> float:
        weights, *_rest = np.linalg.lstsq(inputs[:1000], target[:1000])
        return float(np.mean((inputs[1000:] @ weights - target[1000:]) ** 2))

    honest, leaky = error(past), error(np.column_stack([past, target]))
    return either(
        leaky < 0.01 < 0.8 < honest,
        f"squared error of noise of variance 1: {honest:.2f} honest, {leaky:.2f} with the leak",
    )
