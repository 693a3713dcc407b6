"""Claims about training and held-out loss: exact where they can be, seeded, and hard to misuse."""

import numpy as np
import pytest
import torch
from torch import nn

from course_lib.gpt import GPT, GPTConfig
from course_lib.language import Language, toy
from course_lib.training import (
    HeldOut,
    History,
    evaluate,
    next_word_loss,
    shift,
    standard_error,
    token_losses,
    train,
)

LANGUAGE = Language(
    [("s", "a", 0.9, "s"), ("s", "b", 0.1, "t"), ("t", "a", 0.2, "s"), ("t", "b", 0.8, "t")], "s"
)
LENGTH = 9


def draw(n: int, rng: np.random.Generator) -> np.ndarray:
    """Texts of the two-word language."""
    return LANGUAGE.sample(n, LENGTH, rng)


def small(masking: str = "always", seed: int = 0) -> GPT:
    """A model for the two-word language."""
    config = GPTConfig(vocab_size=2, context=LENGTH - 1, layers=2, heads=2, width=16)
    return GPT(config, np.random.default_rng(seed), masking=masking)


class Oracle(nn.Module):
    """Knows the language: its logits are the exact log-probabilities of each next word."""

    def __init__(self, language: Language) -> None:
        super().__init__()
        self.language = language

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(self.language.next_word(tokens.numpy())))


def test_shift_pairs_each_word_with_the_next() -> None:
    inputs, targets = shift(np.array([[5, 6, 7, 8]]))
    assert inputs.tolist() == [[5, 6, 7]] and targets.tolist() == [[6, 7, 8]]
    with pytest.raises(ValueError, match="at least 2 words"):
        shift(np.array([[5]]))


def test_a_plain_list_cannot_be_shifted() -> None:
    with pytest.raises(TypeError, match="tokens: expected an array or a tensor; got list"):
        shift([1, 2, 3])


def test_token_losses_are_minus_log_p_of_the_target() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, 3, 5)))
    targets = torch.from_numpy(rng.integers(0, 5, size=(2, 3)))
    expected = nn.functional.cross_entropy(logits.mT, targets, reduction="none")
    torch.testing.assert_close(token_losses(logits, targets), expected)


@pytest.mark.parametrize("language", [LANGUAGE, toy()])
def test_a_model_that_knows_the_language_has_the_exact_surprise_as_its_loss(
    language: Language,
) -> None:
    held = evaluate(
        Oracle(language),
        lambda n, rng: language.sample(n, 12, rng),
        n=500,
        rng=np.random.default_rng(0),
        batch_size=128,
    )
    assert held.losses == pytest.approx(-language.log_prob(held.tokens)[:, 1:])
    assert abs(held.mean - language.min_loss(12)) < 3 * held.standard_error


def test_no_honest_guess_beats_the_floor_in_expectation() -> None:
    """Cross-entropy = entropy + KL, exactly, for random predictors of the next word."""
    rng = np.random.default_rng(0)
    p = LANGUAGE.emission  # [S, V]: what follows, given the state that the past tells
    weights = LANGUAGE.state_probabilities(LENGTH)[1:]  # [T, S]
    for _ in range(200):
        q = rng.dirichlet([0.5, 0.5], size=p.shape[0])
        expected_loss = (weights @ -(p * np.log(q)).sum(axis=1)).mean()
        divergence = (weights @ (p * np.log(p / q)).sum(axis=1)).mean()
        assert expected_loss == pytest.approx(LANGUAGE.min_loss(LENGTH) + divergence)
        assert expected_loss >= LANGUAGE.min_loss(LENGTH)


def test_training_brings_the_honest_model_to_the_floor_and_the_cheater_far_below() -> None:
    results = {}
    for masking in ("always", "never"):
        model = small(masking)
        rng = np.random.default_rng(1)
        train(model, draw, steps=400, batch_size=64, rng=rng, learning_rate=1e-2)
        results[masking] = evaluate(model, draw, n=2000, rng=np.random.default_rng(2))
    floor, honest, cheater = LANGUAGE.min_loss(LENGTH), results["always"], results["never"]
    assert honest.mean < 1.03 * floor
    assert honest.mean > floor - honest.standard_error
    # The last word is in no input, so even the cheater must pay for it.
    assert cheater.mean < 0.25 * floor  # of few words; the chapter's texts are longer
    last = LANGUAGE.entropy(LENGTH)[-1]
    assert cheater.by_position[-1] > 0.9 * last
    assert cheater.by_position[:-1].max() < 0.1 * last


def test_a_seed_gives_the_same_training_and_another_seed_another() -> None:
    runs = []
    for seed in (1, 1, 2):
        model = small()
        history = train(model, draw, steps=5, batch_size=4, rng=np.random.default_rng(seed))
        runs.append((history.losses, model.head.weight.detach().clone()))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_masking_in_training_only_trains_the_honest_model() -> None:
    """So the bug cannot be seen in the training loss, nor in the weights."""
    honest, odd = small("always"), small("training")
    curves = [
        train(m, draw, steps=5, batch_size=4, rng=np.random.default_rng(1)).losses
        for m in (honest, odd)
    ]
    assert curves[0] == curves[1]
    pairs = zip(honest.parameters(), odd.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("mode", [True, False])
def test_training_and_evaluation_leave_the_mode_as_it_was(mode: bool) -> None:
    model = small().train(mode)
    train(model, draw, steps=1, batch_size=2, rng=np.random.default_rng(0))
    assert model.training is mode
    evaluate(model, draw, n=2, rng=np.random.default_rng(0))
    assert model.training is mode


def test_evaluation_neither_learns_nor_depends_on_the_batch_size() -> None:
    model = small()
    before = model.head.weight.detach().clone()
    a, b = (
        evaluate(model, draw, n=50, rng=np.random.default_rng(0), batch_size=size)
        for size in (7, 50)
    )
    assert a.losses.shape == (50, LENGTH - 1)
    assert a.losses == pytest.approx(b.losses, abs=1e-12)
    assert torch.equal(model.head.weight, before) and model.head.weight.grad is None


def test_each_function_runs_the_model_in_its_own_mode() -> None:
    model, modes = small(), []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    train(model.eval(), draw, steps=1, batch_size=2, rng=np.random.default_rng(0))
    evaluate(model.train(), draw, n=2, rng=np.random.default_rng(0))
    assert modes == [True, False]


def test_another_loss_can_be_trained() -> None:
    model = small()

    def last_word_only(m: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        inputs, targets = shift(tokens)
        return token_losses(m(inputs), targets)[:, -1].mean()

    history = train(
        model, draw, steps=3, batch_size=8, rng=np.random.default_rng(0), loss=last_word_only
    )
    tokens = torch.from_numpy(draw(8, np.random.default_rng(0)))
    assert history.losses[0] == pytest.approx(last_word_only(small(), tokens).item())
    assert history.losses[0] != next_word_loss(small(), tokens).item()


def test_training_stops_when_the_loss_is_no_number() -> None:
    model = small()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="step 0: nan"):
        train(model, draw, steps=3, batch_size=2, rng=np.random.default_rng(0))


def test_the_standard_error_is_that_of_the_texts_and_not_of_the_words() -> None:
    """Words of one text that are all alike must not count as independent."""
    per_text = np.random.default_rng(0).normal(size=100)
    held = HeldOut(np.zeros((100, 11), dtype=np.int64), np.repeat(per_text[:, None], 10, axis=1))
    assert held.standard_error == pytest.approx(per_text.std(ddof=1) / 10)
    assert held.by_position == pytest.approx(np.full(10, per_text.mean()))
    with pytest.raises(ValueError, match=r"shape \[n\], n > 1"):
        standard_error([1.0])


def test_history_is_smoothed_over_whole_blocks() -> None:
    history = History([1.0, 3.0, 5.0, 7.0, 100.0])
    steps, means = history.smoothed(2)
    assert steps.tolist() == [2, 4] and means.tolist() == [2.0, 6.0]
    with pytest.raises(ValueError, match=r"window: expected 1\.\.5; got 6"):
        history.smoothed(6)


def test_bad_requests_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least 1; got 0 and 4"):
        train(small(), draw, steps=0, batch_size=4, rng=rng)
    with pytest.raises(ValueError, match="n: expected at least 2; got 1"):
        evaluate(small(), draw, n=1, rng=rng)
