"""Claims about the contract tester: it finds every planted leak, names it, and never cries wolf."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from course_lib.gpt import GPT, GPTConfig
from course_lib.leaks import LeakError, assert_causal, influence, influence_strength
from course_lib.masks import Mask, prefix_lm, sliding_window

T = 5
NAMES = ("The", "cat", "sat", "on", "mat")
FUTURE_PAIRS = [(i, j) for i in range(T) for j in range(i + 1, T)]
METHODS = ("perturbation", "gradient")


def vectors(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random embeddings, shape [2, T, 3]."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(2, T, 3))).to(dtype)


def words(seed: int = 0, length: int = T) -> Tensor:
    """Random word numbers of 7, shape [2, length]."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 7, size=(2, length)))


def gpt(seed: int = 0, **options: object) -> GPT:
    """A small GPT with one layer, so that a leak stays where it is planted."""
    model = GPT(GPTConfig(7, T, layers=1, heads=1, width=6), np.random.default_rng(seed), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20.0 if parameter.ndim > 1 else 1.0)
    return model


# --- the four ways to leak, planted at one pair of positions -------------------------------------


def leaky_attention(i: int, j: int) -> tuple[nn.Module, Tensor]:
    """A mask with one cell too many."""
    return gpt(mask=Mask(lambda q, k: (k <= q) | ((q == i) & (k == j)), "planted")), words()


def leaky_positions(i: int, j: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A positional code that is scaled by what stands at another position."""
    code = torch.from_numpy(np.random.default_rng(1).normal(size=(T, 3)))
    at_i = torch.arange(T)[:, None] == i

    def fn(x: Tensor) -> Tensor:
        size = x[:, j].mean(dim=-1)[:, None, None]
        return torch.tanh(x + code * torch.where(at_i, 1 + 0.1 * size, 1.0))

    return fn, vectors()


def leaky_normalisation(i: int, j: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Statistics over the past, of which one row takes in a later position."""
    weight = torch.ones(T, T, dtype=torch.float64).tril()
    weight[i, j] = 1.0
    weight = weight / weight.sum(dim=1, keepdim=True)

    def fn(x: Tensor) -> Tensor:
        mean = weight @ x
        variance = weight @ x**2 - mean**2
        return (x - mean) / (variance.clamp(min=0) + 0.1).sqrt()

    return fn, vectors()


def leaky_convolution(i: int, j: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A causal convolution, of which one row has a tap into the future."""
    taps = np.random.default_rng(2).normal(size=T)
    kernel = np.array([[taps[r - c] if c <= r else 0.0 for c in range(T)] for r in range(T)])
    kernel[i, j] = 0.5
    matrix = torch.from_numpy(kernel)
    return lambda x: torch.relu(matrix @ x) + 0.1 * (matrix @ x), vectors()


PLANTERS = [leaky_attention, leaky_positions, leaky_normalisation, leaky_convolution]


@pytest.mark.parametrize("by", METHODS)
@pytest.mark.parametrize(("i", "j"), FUTURE_PAIRS)
@pytest.mark.parametrize("plant", PLANTERS)
def test_a_leak_at_any_single_pair_is_found_and_named(
    plant: Callable, i: int, j: int, by: str
) -> None:
    fn, x = plant(i, j)
    with pytest.raises(LeakError) as caught:
        assert_causal(fn, x, tokens=NAMES, by=by)
    assert (caught.value.output, caught.value.inputs) == (i, (j,))
    expected = f"output {i} ({NAMES[i]!r}) changes when input {j} ({NAMES[j]!r}) does"
    assert str(caught.value).startswith(expected) and "more pair" not in str(caught.value)


@pytest.mark.parametrize("by", METHODS)
@pytest.mark.parametrize(("i", "j"), FUTURE_PAIRS)
def test_a_leak_of_one_part_in_a_million_is_found_in_double_precision(
    i: int, j: int, by: str
) -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.cumsum(dim=1)
        return y + 1e-6 * torch.eye(T, dtype=y.dtype)[i][:, None] * x[:, j : j + 1]

    with pytest.raises(LeakError) as caught:
        assert_causal(fn, vectors(), by=by)
    assert (caught.value.output, caught.value.inputs) == (i, (j,))


# --- honest models ------------------------------------------------------------------------------


def causal_convolution(rng: np.random.Generator, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    kernel = torch.from_numpy(rng.normal(size=(3, 3, 2))).to(dtype)

    def fn(x: Tensor) -> Tensor:
        padded = nn.functional.pad(x.transpose(1, 2), (1, 0))
        return torch.tanh(nn.functional.conv1d(padded, kernel)).transpose(1, 2)

    return fn


def recurrent(rng: np.random.Generator, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(int(rng.integers(2**31)))
    layer = nn.GRU(3, 4, batch_first=True).to(dtype)
    return lambda x: layer(x)[0]


def running_normalisation(
    rng: np.random.Generator, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    scale = float(rng.uniform(0.5, 2.0))

    def fn(x: Tensor) -> Tensor:
        count = torch.arange(1, x.shape[1] + 1, dtype=dtype)[:, None]
        mean = x.cumsum(dim=1) / count
        return scale * (x - mean) / (1 + mean.abs())

    return fn


def fourier_convolution(rng: np.random.Generator, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Causal by construction; but rounding spreads over the whole sequence."""
    taps = torch.from_numpy(rng.normal(size=(16,))).to(dtype)

    def fn(x: Tensor) -> Tensor:
        size = 2 * x.shape[1]
        spectrum = torch.fft.rfft(x, n=size, dim=1)
        kernel = torch.fft.rfft(taps[: x.shape[1]], n=size)[:, None]
        return torch.fft.irfft(spectrum * kernel, n=size, dim=1)[:, : x.shape[1]]

    return fn


HONEST = [causal_convolution, recurrent, running_normalisation, fourier_convolution]


def test_no_false_alarm_on_1000_random_honest_models_and_inputs() -> None:
    rng = np.random.default_rng(0)
    for k in range(1000):
        dtype = (torch.float32, torch.float64)[k % 2]
        by = METHODS[(k // 2) % 2]
        length = int(rng.integers(1, 7))
        if k % 5 == 0:
            heads = int(rng.integers(1, 3))
            config = GPTConfig(7, 6, layers=int(rng.integers(1, 3)), heads=heads, width=4 * heads)
            fn = GPT(config, rng, dtype=dtype)
            with torch.no_grad():
                for parameter in fn.parameters():
                    parameter.mul_(float(rng.uniform(1, 40)) if parameter.ndim > 1 else 1.0)
            x = torch.from_numpy(rng.integers(0, 7, size=(2, length)))
        else:
            fn = HONEST[k % 5 - 1](rng, dtype)
            values = rng.normal(scale=10.0 ** rng.integers(-2, 3), size=(2, length, 3))
            x = torch.from_numpy(values).to(dtype)
        assert_causal(fn, x, by=by, trials=1, rng=rng, vocab_size=7)


def test_an_honest_model_uses_all_of_the_past_and_the_map_shows_it() -> None:
    for by in METHODS:
        assert np.array_equal(influence(gpt(), words(), by=by), np.tri(T, dtype=bool))


@given(st.integers(0, 2**32), st.integers(1, T))
@settings(max_examples=20, deadline=None)
def test_in_one_layer_influence_is_the_mask(seed: int, width: int) -> None:
    mask = sliding_window(width)
    model, x = gpt(seed, mask=mask), words(seed)
    for by in METHODS:
        found = influence(model, x, by=by, rng=np.random.default_rng(seed), vocab_size=7)
        assert np.array_equal(found, mask.matrix(T))


def test_in_two_layers_influence_reaches_two_steps_of_the_mask() -> None:
    config = GPTConfig(7, T, layers=2, heads=1, width=6)
    model = GPT(config, np.random.default_rng(0), mask=sliding_window(2))
    assert np.array_equal(influence(model, words(), by="gradient"), sliding_window(3).matrix(T))


# --- leaks seen in the wild ----------------------------------------------------------------------


def test_a_mask_applied_after_softmax_leaks_through_the_denominator() -> None:
    def attend(x: Tensor) -> Tensor:
        weights = torch.softmax(x @ x.transpose(1, 2), dim=-1) * torch.ones(T, T).tril()
        return weights.to(x.dtype) @ x

    def renormalised(x: Tensor) -> Tensor:
        weights = torch.softmax(x @ x.transpose(1, 2), dim=-1) * torch.ones(T, T).tril()
        return (weights / weights.sum(dim=-1, keepdim=True)).to(x.dtype) @ x

    for by in METHODS:
        with pytest.raises(LeakError, match=r"output 0 \('The'\) changes when input 1 \('cat'\)"):
            assert_causal(attend, vectors(), tokens=NAMES, by=by)
        assert_causal(renormalised, vectors(), by=by)


def test_a_mask_applied_only_in_training_is_caught_in_evaluation() -> None:
    with pytest.raises(LeakError, match=r"in evaluation mode\); 9 more pairs leak"):
        assert_causal(gpt(masking="training").train(), words())


def test_batch_norm_leaks_in_training_only_and_its_statistics_are_left_alone() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x.transpose(1, 2)).transpose(1, 2)

    model = Normalised()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with pytest.raises(LeakError, match="in training mode"):
        assert_causal(model, vectors())
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_a_symmetric_convolution_reads_one_step_ahead() -> None:
    layer = nn.Conv1d(1, 1, kernel_size=3, padding="same", dtype=torch.float64)

    def smooth(series: Tensor) -> Tensor:
        return layer(series[None])[0]

    with pytest.raises(LeakError, match=r"^output 0 changes when input 1 does; 3 more pairs leak$"):
        assert_causal(smooth, vectors()[0, :, 0])


def test_a_leak_that_needs_two_changes_is_found() -> None:
    def both(x: np.ndarray) -> np.ndarray:
        alarm = (x[3] == 6) and (x[4] == 6)
        return x + 100.0 * alarm * (np.arange(T) == 1)

    x = np.array([0, 1, 2, 3, 4])
    assert not np.triu(influence(both, x, vocab_size=7, trials=20), 1).any()
    with pytest.raises(LeakError, match="output 1 changes when inputs 2, 3, 4 change together"):
        assert_causal(both, x, vocab_size=7, trials=200)


def test_becoming_not_a_number_is_a_change() -> None:
    def fn(x: np.ndarray) -> np.ndarray:
        return np.where((np.arange(T) == 0) & (x[4] != 4), np.nan, 1.0)

    with pytest.raises(LeakError, match="output 0 changes when input 4 does"):
        assert_causal(fn, np.arange(T))


# --- what each method can see --------------------------------------------------------------------


def test_the_gradient_misses_a_hard_decision_and_perturbation_does_not() -> None:
    def fn(x: Tensor) -> Tensor:
        return x * torch.where(x[:, -1:, :1] > 0, 2.0, 1.0)

    assert influence(fn, vectors(), trials=8)[0, -1]
    assert not influence(fn, vectors(), by="gradient")[0, -1]


def test_the_gradient_sees_through_outputs_that_add_up_to_a_constant() -> None:
    def fn(x: Tensor) -> Tensor:
        return torch.softmax(x.flip(1), dim=-1)

    assert np.array_equal(influence(fn, vectors(), by="gradient"), np.eye(T, dtype=bool)[::-1])


def test_strength_by_gradient_is_the_derivative() -> None:
    matrix = np.random.default_rng(0).normal(size=(T, T))

    def fn(x: Tensor) -> Tensor:
        return torch.from_numpy(matrix) @ x

    x = torch.from_numpy(np.random.default_rng(1).normal(size=T))
    directions = np.random.default_rng(2).normal(size=(T, 1))
    strength = influence_strength(fn, x, by="gradient", trials=1, rng=np.random.default_rng(2))
    assert strength == pytest.approx(np.abs(matrix * directions))

    # Of several entries of an input, the one that matters most counts.
    first_entry = influence_strength(
        lambda v: fn(v[:, 0]),
        x[:, None].repeat(1, 4),
        by="gradient",
        trials=1,
        rng=np.random.default_rng(2),
    )
    assert first_entry == pytest.approx(strength)


def test_strength_by_perturbation_is_the_largest_change() -> None:
    x = np.array([0, 1, 0])
    strength = influence_strength(lambda t: np.cumsum(t * 3.0), x)
    assert np.array_equal(strength, 3.0 * np.tri(3))


# --- inputs of every kind ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(T,), (T, 2), (3, T, 2)])
@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_inputs_of_every_shape(
    shape: tuple[int, ...], library: Callable, dtype: type
) -> None:
    x = library(np.random.default_rng(0).normal(size=shape).astype(dtype))
    axis = 1 if len(shape) == 3 else 0
    for by in METHODS if isinstance(x, Tensor) else METHODS[:1]:
        assert np.array_equal(influence(lambda v: v.cumsum(axis), x, by=by), np.tri(T, dtype=bool))


@pytest.mark.parametrize("shape", [(T,), (3, T)])
def test_gradients_through_an_embedding_of_every_shape(shape: tuple[int, ...]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word = nn.Embedding(9, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.word(tokens).cumsum(-2)

    x = torch.from_numpy(np.random.default_rng(0).integers(0, 9, size=shape))
    assert np.array_equal(influence(Model(), x, by="gradient"), np.tri(T, dtype=bool))


@pytest.mark.parametrize("shape", [(T,), (3, T)])
@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_integer_inputs_of_every_shape(shape: tuple[int, ...], library: Callable) -> None:
    x = library(np.random.default_rng(0).integers(0, 9, size=shape))
    assert np.array_equal(influence(lambda v: v.cumsum(-1), x), np.tri(T, dtype=bool))


def test_half_precision_is_welcome() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        assert_causal(lambda v: v * 2, vectors(dtype=dtype))
        with pytest.raises(LeakError):
            assert_causal(lambda v: v + v.flip(1), vectors(dtype=dtype))


def test_a_batch_shows_a_leak_that_only_one_of_its_texts_has() -> None:
    def fn(x: Tensor) -> Tensor:
        return torch.where(torch.arange(2)[:, None, None] == 1, x.flip(1), x)

    for by in METHODS:
        assert np.array_equal(
            influence(fn, vectors(), by=by), np.eye(T, dtype=bool) | np.eye(T, dtype=bool)[::-1]
        )


def test_nothing_is_left_changed() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    model[2].eval()
    x = words()
    kept, state = x.clone(), torch.random.get_rng_state()
    for by in METHODS:
        assert_causal(model, x, by=by)
    assert [part.training for part in model] == [True, True, False]
    assert torch.equal(x, kept) and torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[0]._forward_hooks


def test_what_may_be_seen_can_be_given() -> None:
    assert_causal(gpt(mask=prefix_lm(3)), words(), allowed=prefix_lm(3))
    with pytest.raises(LeakError, match="output 0 changes when input 2 does"):
        assert_causal(gpt(mask=prefix_lm(3)), words(), allowed=prefix_lm(2))
    # A forecast of each value from those before it must not even depend on the value itself.
    with pytest.raises(LeakError, match="output 0 changes when input 0 does; 4 more pairs leak"):
        assert_causal(lambda v: v, vectors(), allowed=np.tri(T, k=-1, dtype=bool))


# --- refusals ------------------------------------------------------------------------------------


def test_a_function_that_is_not_deterministic_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="expected the same output for the same input"):
        influence(lambda x: x + rng.normal(size=x.shape), np.ones(3))


@pytest.mark.parametrize(
    ("fn", "x", "options", "error", "message"),
    [
        (lambda x: x, [1, 2], {}, TypeError, "x: expected a NumPy array or a torch tensor"),
        (lambda x: x, np.array([True]), {}, TypeError, "expected integers or floating"),
        (lambda x: x, np.ones((2, 3, 4, 5)), {}, ValueError, r"got \[2, 3, 4, 5\]"),
        (lambda x: x, np.ones((2, 3, 4), int), {}, ValueError, r"\[T\] or \[B, T\]"),
        (lambda x: x, np.ones((2, 0, 4)), {}, ValueError, "at least one position"),
        (lambda x: x, np.ones(4, int), {}, ValueError, "at least 2 words"),
        (lambda x: (x, x), np.ones(3), {}, TypeError, "one array or tensor; got tuple"),
        (lambda x: x.sum(), np.ones(3), {}, TypeError, "one array or tensor; got float64"),
        (lambda x: x[:2], np.ones(3), {}, ValueError, r"shape \[3, ...\].* got \[2\]"),
        (lambda x: x, np.ones(3), {"by": "magic"}, ValueError, "got 'magic'"),
        (lambda x: x, np.ones(3), {"trials": 0}, ValueError, "trials: expected at least 1"),
        (lambda x: x, np.ones(3), {"by": "gradient"}, TypeError, "expected a torch tensor"),
        (lambda x: x.double(), words(), {"by": "gradient"}, TypeError, "nn.Embedding"),
        (
            lambda x: x.detach(),
            vectors(),
            {"by": "gradient"},
            TypeError,
            "that can be differentiated",
        ),
    ],
)
def test_what_cannot_be_tested_is_refused(
    fn: Callable, x: object, options: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        influence(fn, x, **options)


def test_labels_and_allowed_must_fit() -> None:
    with pytest.raises(ValueError, match="tokens: expected 5 labels; got 2"):
        assert_causal(lambda v: v, vectors(), tokens=["a", "b"])
    with pytest.raises(ValueError, match=r"allowed: expected shape \[5, 5\]; got \[3, 3\]"):
        assert_causal(lambda v: v, vectors(), allowed=np.ones((3, 3), dtype=bool))
    with pytest.raises(TypeError, match="allowed: expected booleans"):
        assert_causal(lambda v: v, vectors(), allowed=np.ones((5, 5)))


# --- where testers go wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("constant", [-1e9, torch.finfo(torch.float32).min, -torch.inf])
def test_a_huge_constant_channel_does_not_hide_a_leak(constant: float) -> None:
    def leaky(v: torch.Tensor) -> torch.Tensor:
        return torch.cat([v.flip(1), torch.full_like(v, constant)], dim=-1)

    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, T, 2))).float()
    with pytest.raises(LeakError, match="output 0 changes"):
        assert_causal(leaky, x)


def test_rounding_around_zero_is_no_leak() -> None:
    kernel = np.random.default_rng(0).normal(size=T)

    def convolution(v: np.ndarray) -> np.ndarray:
        """Causal, but computed by FFT, which spreads rounding over all positions."""
        n = 2 * len(v)
        return np.fft.irfft(np.fft.rfft(v, n) * np.fft.rfft(kernel, n), n)[: len(v)]

    assert_causal(convolution, np.zeros(T))
    assert_causal(convolution, np.random.default_rng(1).normal(size=T))


def test_a_second_embedding_is_watched_too() -> None:
    class TwoEmbeddings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.honest, self.leaky = nn.Embedding(5, 3), nn.Embedding(5, 3)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.honest(tokens).cumsum(1) + self.leaky(tokens).flip(1)

    tokens = torch.arange(T)[None] % 5
    for by in METHODS:
        with pytest.raises(LeakError):
            assert_causal(TwoEmbeddings(), tokens, by=by)


def test_gradients_and_outputs_that_say_nothing_are_refused() -> None:
    def honest(v: torch.Tensor) -> torch.Tensor:
        return v.cumsum(0) + torch.sqrt(0 * v.cumsum(0))  # the root's derivative at 0 is infinite

    assert_causal(honest, torch.ones(T, 2))
    with pytest.raises(ValueError, match="fn: expected finite gradients"):
        influence(honest, torch.ones(T, 2), by="gradient")
    with pytest.raises(ValueError, match="fn: expected an output that can be compared; got NaN"):
        influence(lambda v: v * np.nan, np.ones(T))
    with pytest.raises(TypeError, match="fn: expected real numbers; got complex"):
        influence(lambda v: v + 1j * v[::-1], np.arange(T, dtype=float))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": float("nan")}, "tolerance: expected a finite number of at least 0; got nan"),
        ({"tolerance": -1.0}, "tolerance: expected a finite number"),
        ({"rng": 0}, "rng: expected a NumPy Generator; got int"),
        ({"trials": 1.5}, "trials: expected an integer; got float"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        influence(np.cumsum, np.arange(T, dtype=float), **options)
