"""Claims about free running: it is the chain rule run forward, seeded, and refuses bad requests."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.cache import RingCache, StaticCache
from course_lib.generation import generate, left_pad, stream
from course_lib.gpt import GPT, GPTConfig, evaluating
from course_lib.masks import causal, prefix_lm, same_document, sliding_window
from course_lib.sampling import Sampling, choose, probabilities

CONFIG = GPTConfig(vocab_size=5, context=8, layers=1, heads=1, width=8)


def model(masking: str = "always") -> GPT:
    """A model with strong opinions."""
    gpt = GPT(CONFIG, np.random.default_rng(0), masking=masking)
    with torch.no_grad():
        gpt.head.weight.mul_(50)
    return gpt


def test_each_new_word_is_drawn_from_the_last_row_of_logits() -> None:
    gpt, prompt = model(), torch.tensor([[1, 2], [3, 0]])
    text = generate(gpt, prompt, 5, temperature=0)
    assert text.shape == (2, 7) and torch.equal(text[:, :2], prompt)
    for t in range(2, 7):
        assert torch.equal(text[:, t], gpt(text[:, :t])[:, -1].argmax(dim=-1))


def test_free_running_samples_the_distribution_that_the_chain_rule_gives() -> None:
    """Frequencies of all 25 two-word continuations against the product of conditionals."""
    gpt, n = model(), 20_000
    text = generate(gpt, np.full((n, 1), 2), 2, rng=np.random.default_rng(0)).numpy()
    seen = np.bincount(text[:, 1] * 5 + text[:, 2], minlength=25) / n
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    full = torch.cat([torch.full((25, 1), 2), pairs], dim=1)
    log_p = torch.log_softmax(gpt(full), dim=-1)
    expected = (log_p[range(25), 0, pairs[:, 0]] + log_p[range(25), 1, pairs[:, 1]]).exp()
    assert expected.sum().item() == pytest.approx(1.0)
    bound = 4 * np.sqrt(expected.detach().numpy() / n)
    assert (np.abs(seen - expected.detach().numpy()) < bound).all()
    assert np.ptp(seen) > 0.05  # a uniform sampler would not do


def test_a_seed_gives_the_same_text_and_another_seed_another() -> None:
    first, again, other = (
        generate(model(), [[1]] * 20, 7, rng=np.random.default_rng(s)) for s in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_lower_temperature_means_likelier_words() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(5000, 3)
    share = [
        (choose(logits, Sampling(t), np.random.default_rng(0)) == 2).double().mean().item()
        for t in (0.2, 1.0, 5.0)
    ]
    exact = [torch.softmax(logits[0] / t, dim=-1)[2].item() for t in (0.2, 1.0, 5.0)]
    assert share == pytest.approx(exact, abs=0.03)
    assert (choose(logits, Sampling(0)) == 2).all()


def test_a_word_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]])
    words = choose(logits.expand(2000, 5), Sampling(), np.random.default_rng(0))
    assert set(words.tolist()) == {1, 3}


class Loaded:
    """A generator whose every draw is the same number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value)


def test_the_largest_draw_still_gives_a_word() -> None:
    """Ten times 0.1 adds up to a little less than 1 in floating point."""
    top = Loaded(float(np.nextafter(1.0, 0.0)))
    assert choose(torch.zeros(1, 10), Sampling(), top).item() == 9


def test_the_smallest_draw_gives_no_forbidden_word() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0]])
    assert choose(logits, Sampling(), Loaded(0.0)).item() == 1


def test_a_prompt_may_be_one_text_or_many() -> None:
    gpt = model()
    one = generate(gpt, [1, 2], 3, temperature=0)
    many = generate(gpt, np.array([[1, 2]]), 3, temperature=0)
    assert one.shape == (5,) and torch.equal(one, many[0])
    assert generate(gpt, [1, 2], 0, temperature=0).tolist() == [1, 2]


def test_bad_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"top_k: expected an integer; got 1\.5"):
        generate(model(), [1], 1, rng=np.random.default_rng(0), top_k=1.5)
    with pytest.raises(TypeError, match="stop: expected word numbers"):
        generate(model(), [1], 1, temperature=0, stop=["."])
    plain = torch.nn.Sequential(torch.nn.Embedding(5, 5))
    assert generate(plain, [1], 2, temperature=0).shape == (3,)
    with pytest.raises(TypeError, match="such as a GPT, to use a cache or padding; got Sequential"):
        generate(plain, [1], 2, temperature=0, cache="static")


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_is_run_in_evaluation_mode_and_given_back_as_it_was(mode: bool) -> None:
    gpt, modes = model().train(mode), []
    gpt.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    generate(gpt, [1, 2], 2, temperature=0)
    assert modes == [False, False] and gpt.training is mode


def test_the_context_can_be_filled_to_the_last_position() -> None:
    assert generate(model(), [1], 8, temperature=0).shape == (9,)
    with pytest.raises(ValueError, match=r"at most 8 new words after a prompt of 1 .* got 9"):
        generate(model(), [1], 9, temperature=0)


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([], ValueError, r"a model needs a first word.* got \[0\]"),
        ([[]], ValueError, r"got \[1, 0\]"),
        (np.zeros((0, 3), int), ValueError, r"prompt: expected .* B, T > 0 .* got \[0, 3\]"),
        (3, ValueError, r"got \[\]"),
        ([0.5], TypeError, "expected integers"),
        ([True], TypeError, "expected integers"),
        ([0] * 9, ValueError, "at most 0 new words"),
        ([[1, 2], [3]], ValueError, "texts of different lengths need left_pad"),
    ],
)
def test_bad_prompts_are_refused(prompt: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        generate(model(), prompt, 1, temperature=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": -1, "temperature": 0}, "n: expected at least 0"),
        ({"n": 1, "temperature": -0.5}, "temperature: expected at least 0"),
        ({"n": 1, "temperature": float("nan")}, "temperature: expected at least 0"),
        ({"n": 1}, "rng: expected a NumPy Generator"),
        ({"n": 1, "top_p": 0.0}, r"top_p: expected a number in \(0, 1\]; got 0.0"),
        ({"n": 1, "top_p": 1.5}, r"top_p: expected a number in \(0, 1\]; got 1.5"),
        ({"n": 1, "top_p": float("nan")}, "top_p: expected"),
        ({"n": 1, "top_k": 0}, "top_k: expected at least 1; got 0"),
        ({"n": 1, "temperature": 0, "chunk": 2}, "chunk: expected a cache to keep the chunks in"),
        ({"n": 1, "temperature": 0, "chunk": 0, "cache": "static"}, "chunk: expected at least 1"),
        ({"n": 1, "temperature": 0, "cache": "ring"}, "cache: expected None, 'concat', 'static'"),
        ({"n": 1, "temperature": 0, "padding": [1]}, "expected at least one real word in each"),
        ({"n": 1, "temperature": 0, "padding": [0, 0]}, "one number of at least 0 for each of 1"),
        ({"n": 1, "temperature": 0, "padding": np.zeros(0, int)}, r"each of 1 sequences; got \[\]"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model(), [1], **options)


# --- with a cache ------------------------------------------------------------------------------

configs = st.builds(
    lambda kv, positions: GPTConfig(
        7, 16, layers=2, heads=4, width=8, kv_heads=kv, positions=positions
    ),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(["learned", "rotary"]),
)


def sharp(config: GPTConfig, seed: int, **options: object) -> GPT:
    """A model whose attention and opinions are strong."""
    gpt = GPT(config, np.random.default_rng(seed), **options)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(10.0 if parameter.ndim > 1 else 1.0)
    return gpt


@given(
    configs,
    st.sampled_from(["concat", "static"]),
    st.integers(1, 3),  # texts
    st.integers(1, 10),  # words of the prompt
    st.integers(0, 7),  # new words
    st.sampled_from([None, 1, 2, 3, 50]),
    st.sampled_from([0, 0.7, 1.0]),
    st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_a_cache_changes_no_word(config, kind, batch, length, n, chunk, temperature, seed) -> None:
    gpt = sharp(config, seed)
    prompt = np.random.default_rng(seed).integers(0, 7, size=(batch, length))
    plain, cached = (
        generate(gpt, prompt, n, temperature=temperature, rng=np.random.default_rng(1), **options)
        for options in ({}, {"cache": kind, "chunk": chunk})
    )
    assert torch.equal(plain, cached)


@given(
    configs,
    st.sampled_from([None, "concat", "static"]),
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=1, max_size=4),
    st.sampled_from([None, 1, 3]),
    st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_texts_in_a_padded_batch_go_on_as_they_would_alone(config, kind, prompts, chunk, seed):
    gpt = sharp(config, seed)
    tokens, padding = left_pad(prompts, pad=seed % 7)
    options = {"cache": kind, "chunk": chunk if kind else None}
    together = generate(gpt, tokens, 6, temperature=0, padding=padding, **options)
    for text, pad, prompt in zip(together, padding, prompts, strict=True):
        assert text[pad:].tolist() == generate(gpt, prompt, 6, temperature=0).tolist()


def test_each_word_is_fed_once() -> None:
    gpt, sizes = model(), []
    gpt.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[1]))
    generate(gpt, [1, 2, 3], 4, temperature=0)
    generate(gpt, [1, 2, 3], 4, temperature=0, cache="static")
    generate(gpt, [1, 2, 3], 4, temperature=0, cache="concat", chunk=2)
    assert sizes == [3, 4, 5, 6, 3, 1, 1, 1, 2, 1, 1, 1, 1]


def test_a_cache_of_ones_own_may_hold_the_beginning_of_the_text() -> None:
    gpt = model()
    whole = generate(gpt, [1, 2, 3], 5, temperature=0)
    cache = gpt.new_cache("static")
    first = generate(gpt, [1, 2, 3], 2, temperature=0, cache=cache)
    assert cache[0].length == 4  # all words but the last
    rest = generate(gpt, first[-1:], 3, temperature=0, cache=cache)
    assert torch.equal(torch.cat([first[:-1], rest]), whole)


def test_a_ring_writes_what_the_sliding_window_would() -> None:
    gpt = sharp(GPTConfig(7, 64, layers=2, heads=2, width=8), 0, mask=sliding_window(4))
    ring = [RingCache(4) for _ in range(2)]
    cached = generate(gpt, [1, 2, 3, 4, 5, 6], 50, temperature=0, cache=ring, chunk=3)
    assert torch.equal(cached, generate(gpt, [1, 2, 3, 4, 5, 6], 50, temperature=0))
    assert len(set(cached.tolist())) > 2 and ring[0].view()[0].shape[-2] == 4


def test_a_request_that_cannot_be_met_leaves_the_cache_as_it_was() -> None:
    gpt = model()
    for cache, message in (
        ([StaticCache(5)], "at most 2 new words after a prompt of 4 .*the cache's capacity is 5"),
        (gpt.new_cache("static"), "at most 5 new words .*the model's context is 8"),
    ):
        with evaluating(gpt):
            gpt(torch.tensor([[1, 2]]), cache=cache)
        with pytest.raises(ValueError, match=message):
            generate(gpt, [3, 4], 6, temperature=0, cache=cache)
        assert cache[0].length == 2
    cheater = model("never")
    with pytest.raises(ValueError, match="only the mask keeps past keys from changing"):
        generate(cheater, [1], 2, temperature=0, cache="static")


def test_the_smallest_layer_and_the_data_of_the_rule_say_how_much_fits() -> None:
    gpt = sharp(GPTConfig(7, 16, heads=2, width=8), 0)
    small = [StaticCache(9), StaticCache(5)]
    generate(gpt, [1, 2, 3], 1, temperature=0, cache=small)
    with pytest.raises(ValueError, match=r"at most 2 new words .*the cache's capacity is 5"):
        stream(gpt, [4], 3, temperature=0, cache=small)
    ids = sharp(GPTConfig(7, 16, heads=2, width=8), 0, mask=causal() & same_document([0] * 6))
    with pytest.raises(ValueError, match=r"at most 3 new words .*length of the rule's data is 6"):
        stream(ids, [1, 2, 3, 4], 4, temperature=0)
    assert generate(ids, [1, 2, 3, 4], 3, temperature=0, cache="static").shape == (7,)


@pytest.mark.parametrize("kind", ["concat", "static", "ring"])
def test_a_text_that_is_given_up_halfway_leaves_a_cache_that_goes_on(kind: str) -> None:
    """It holds the words that had been fed, in all layers, and nothing of the step that broke."""
    gpt = sharp(GPTConfig(7, 16, heads=2, width=8), 0, mask=sliding_window(3))
    cache, fed = gpt.new_cache(kind, 3 if kind == "ring" else None), []
    whole = generate(gpt, [1, 2, 3, 4, 5], 8, temperature=0)

    def stop(_module: object, inputs: tuple) -> None:
        fed.append(inputs)
        if len(fed) == 4:
            raise KeyboardInterrupt

    handle = gpt.blocks[1].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        generate(gpt, [1, 2, 3, 4, 5], 8, temperature=0, cache=cache)
    handle.remove()
    assert [layer.length for layer in cache] == [7, 7]  # the prompt and two words
    rest = generate(gpt, whole[7:8], 5, temperature=0, cache=cache)
    assert torch.equal(rest, whole[7:])


def test_a_prefill_that_would_fail_at_its_second_chunk_is_refused_before_the_first() -> None:
    four_together = causal() | same_document([0] * 4 + list(range(1, 13)))
    gpt = sharp(GPTConfig(7, 16, heads=2, width=8), 0, mask=four_together)
    cache = gpt.new_cache()
    with pytest.raises(ValueError, match="feed those positions in one chunk"):
        generate(gpt, [1, 2, 3, 4, 5], 2, temperature=0, cache=cache, chunk=3)
    assert [layer.length for layer in cache] == [0, 0]
    cached = generate(gpt, [1, 2, 3, 4, 5], 6, temperature=0, cache=cache, chunk=4)
    assert torch.equal(cached, generate(gpt, [1, 2, 3, 4, 5], 6, temperature=0))


# --- streaming and stopping --------------------------------------------------------------------


def test_a_stream_yields_the_words_of_generate_one_by_one() -> None:
    gpt = model().train()
    for prompt in ([1, 2], [[1, 2], [3, 0]]):
        words = stream(gpt, prompt, 5, temperature=0, cache="static")
        first = next(words)
        assert gpt.training and torch.is_grad_enabled()  # between two words all is as before
        whole = torch.stack([first, *words], dim=-1)
        assert torch.equal(whole, generate(gpt, prompt, 5, temperature=0)[..., 2:])


def test_a_stream_refuses_at_once_and_not_at_its_first_word() -> None:
    with pytest.raises(ValueError, match="temperature"):
        stream(model(), [1], 3, temperature=-1)


@pytest.mark.parametrize("cache", [None, "static"])
def test_a_stop_word_ends_a_text_and_the_others_go_on(cache: str | None) -> None:
    gpt, prompt, stop = model(), np.full((40, 1), 1), {3}
    free, stopped = (
        generate(gpt, prompt, 6, rng=np.random.default_rng(0), stop=words, cache=cache).tolist()
        for words in (set(), stop)
    )
    ends = []
    for before, after in zip(free, stopped, strict=True):
        end = next((t for t in range(1, 7) if before[t] in stop), 6)
        assert after[: end + 1] == before[: end + 1]  # until it ends, nothing is different
        assert set(after[end:]) == {after[end]}  # then it repeats its stop word
        ends.append(end)
    assert len(set(ends)) > 2  # some ended while others went on
    assert any(b[e + 1 :] != a[e + 1 :] for b, a, e in zip(free, stopped, ends, strict=True))


def test_generation_stops_when_all_texts_have_ended() -> None:
    gpt = model()
    free = generate(gpt, [1, 2], 6, temperature=0)[2:].tolist()
    word = free[2]
    text = generate(gpt, [1, 2], 6, temperature=0, stop=[word])
    assert text[2:].tolist() == free[: free.index(word) + 1]


def test_a_progress_bar_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with_bar = generate(model(), [1, 2], 4, temperature=0, description="writing")
    assert "writing" in capsys.readouterr().err
    assert torch.equal(with_bar, generate(model(), [1, 2], 4, temperature=0))
    assert capsys.readouterr().err == ""


# --- top-k and top-p ---------------------------------------------------------------------------

logit_rows = st.lists(st.floats(-5, 5), min_size=2, max_size=12).map(lambda x: torch.tensor([x]))


@given(logit_rows, st.integers(1, 12), st.floats(0.2, 3))
@settings(deadline=None)
def test_top_k_keeps_the_k_likeliest_in_proportion(logits, k, temperature) -> None:
    whole = probabilities(logits, Sampling(temperature))
    kept = probabilities(logits, Sampling(temperature, top_k=k))
    alive = kept > 0
    k = min(k, logits.shape[-1])
    assert alive.sum() >= k  # more only if they tie
    assert (whole[~alive].max() if (~alive).any() else -1) < whole[alive].min()
    assert alive.sum() == k or (whole[alive] == whole[alive].min()).sum() > alive.sum() - k
    torch.testing.assert_close(kept[alive], whole[alive] / whole[alive].sum())


@given(logit_rows, st.floats(0.01, 1))
@settings(deadline=None)
def test_top_p_keeps_the_fewest_words_that_reach_p(logits, top_p) -> None:
    whole = probabilities(logits, Sampling())[0]
    kept = probabilities(logits, Sampling(top_p=top_p))[0]
    alive = kept > 0
    assert whole[alive].sum() >= top_p - 1e-9
    assert whole[alive].sum() - whole[alive].min() < top_p + 1e-9  # one fewer is not enough
    assert (whole[~alive].max() if (~alive).any() else -1) <= whole[alive].min()
    torch.testing.assert_close(kept[alive], whole[alive] / whole[alive].sum())


def test_filters_follow_each_other_and_greedy_ignores_them() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    both = probabilities(logits, Sampling(top_k=2, top_p=0.6))  # .625 of the top two: one word
    assert both.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    words = choose(logits.expand(500, 4), Sampling(top_p=0.75), np.random.default_rng(0))
    assert set(words.tolist()) == {0, 1}
    assert choose(logits, Sampling(0, top_k=3)).item() == 0


def test_what_top_p_has_filtered_out_is_never_drawn() -> None:
    """Not even by the largest draw, which a sum of rounded numbers may not reach."""

    class Largest:
        def random(self, size: tuple) -> np.ndarray:
            return np.full(size, np.nextafter(1.0, 0.0))

    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 300)))
    words = choose(logits, Sampling(top_p=0.5), Largest())
    kept = probabilities(logits, Sampling(top_p=0.5))
    assert (kept.gather(1, words[:, None]) > 0).all()


def test_left_pad_ends_texts_together() -> None:
    tokens, padding = left_pad([[1, 2, 3], [4]], pad=9)
    assert tokens.tolist() == [[1, 2, 3], [9, 9, 4]] and padding.tolist() == [0, 2]
    for bad in ([], [[1], []]):
        with pytest.raises(ValueError, match="at least one text, and none empty"):
            left_pad(bad)


def test_a_text_that_ends_inside_its_prefix_is_refused_with_and_without_a_cache():
    config = GPTConfig(vocab_size=7, context=12, layers=2, heads=2, width=8)
    model = GPT(config, np.random.default_rng(0), mask=prefix_lm(4))
    with pytest.raises(ValueError, match="at least the 4 positions of the prefix"):
        model(torch.zeros(1, 3, dtype=torch.long))
    for kind in (None, "concat", "static"):
        with pytest.raises(ValueError, match="at least the 4 positions of the prefix"):
            generate(model, [1, 2], 4, temperature=0, cache=kind)
    assert len(generate(model, [1, 2, 3, 4], 4, temperature=0, cache="static")) == 8


def test_requests_that_would_fail_half_way_fail_at_once_and_change_nothing():
    config = GPTConfig(vocab_size=7, context=12, layers=2, heads=2, width=8)
    model = GPT(config, np.random.default_rng(0))
    ring = model.new_cache("ring", 3)
    with pytest.raises(ValueError, match="see position 0, which the cache has dropped"):
        stream(model, [1, 2], 6, temperature=0, cache=ring)
    with pytest.raises(ValueError, match=r"prompt: expected word numbers in 0\.\.6; got 1\.\.99"):
        stream(model, [1, 2, 99], 2, temperature=0, cache=ring, chunk=1)
    with pytest.raises(ValueError, match="padding: expected one number"):
        stream(model, [1, 2], 2, temperature=0, padding=[-1])
    with pytest.raises(TypeError, match="chunk: expected an integer"):
        stream(model, [1, 2], 2, temperature=0, cache=ring, chunk=1.5)
    with pytest.raises(TypeError, match="n: expected an integer"):
        stream(model, [1, 2], 2.5, temperature=0)
    assert [c.length for c in ring] == [0, 0]
    windowed = GPT(config, np.random.default_rng(0), mask=sliding_window(3))
    whole = generate(windowed, [1, 2], 6, temperature=0)
    assert torch.equal(generate(windowed, [1, 2], 6, temperature=0, cache=ring), whole)


@pytest.mark.parametrize(
    ("logits", "temperature"), [([0.0, float("nan")], 1.0), ([1.0, 2.0], 1e-309)]
)
def test_what_makes_no_distribution_is_refused(logits, temperature):
    with pytest.raises(ValueError, match="logits: expected numbers that make a distribution"):
        choose(torch.tensor([logits]), Sampling(temperature), np.random.default_rng(0))
