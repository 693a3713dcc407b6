"""Claims about the toy language: its numbers are exact, and only proper automata are accepted."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.language import Arc, Language, toy


@st.composite
def languages(draw: st.DrawFn) -> Language:
    """Random unifilar automata of up to 4 states over up to 4 words, all states reached."""
    n_states = draw(st.integers(1, 4))
    words = [f"w{i}" for i in range(draw(st.integers(2, 4)))]
    arcs = []
    for state in range(n_states):
        said = draw(st.lists(st.sampled_from(words), min_size=1, unique=True))
        weights = [draw(st.integers(1, 9)) for _ in said]
        # The first word leads on, so that every state is reached from state 0.
        targets = [(state + 1) % n_states]
        targets += [draw(st.integers(0, n_states - 1)) for _ in said[1:]]
        for word, weight, target in zip(said, weights, targets, strict=True):
            arcs.append(Arc(f"s{state}", word, weight / sum(weights), f"s{target}"))
    return Language(arcs, start="s0")


def every_text(language: Language, length: int) -> np.ndarray:
    """All sequences of words of a length, legal or not, shape [V**length, length]."""
    return np.array(list(itertools.product(range(len(language.words)), repeat=length)))


def test_the_running_sentence_is_in_the_language() -> None:
    language = toy()
    assert len(language.words) == 24
    assert language.legal(language.encode("The cat sat on the mat ."))


def test_the_verb_must_agree_with_a_noun_four_words_back() -> None:
    language = toy()
    assert language.legal(language.encode("The cat near the mat is hungry ."))
    wrong = language.encode("The cat near the mat are hungry .")
    assert not language.legal(wrong)
    assert language.first_error(wrong) == 5


@given(languages(), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_probabilities_of_all_texts_add_up_to_one(language: Language, length: int) -> None:
    log_p = language.log_prob(every_text(language, length)).sum(axis=-1)
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-12)


@given(languages(), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_entropies_of_the_positions_add_up_to_the_entropy_of_the_text(
    language: Language, length: int
) -> None:
    """The chain rule, against a sum over every possible text."""
    log_p = language.log_prob(every_text(language, length)).sum(axis=-1)
    possible = log_p[np.isfinite(log_p)]
    joint = -(np.exp(possible) * possible).sum()
    assert language.entropy(length).sum() == pytest.approx(joint, abs=1e-12)


@given(languages())
@settings(max_examples=20, deadline=None)
def test_entropy_of_each_position_is_the_mean_surprise_over_every_text(language: Language) -> None:
    texts = every_text(language, 4)
    log_p = language.log_prob(texts)
    p = np.exp(log_p.sum(axis=-1))
    surprise = (p[:, None] * -np.where(np.isfinite(log_p), log_p, 0.0)).sum(axis=0)
    assert language.entropy(4) == pytest.approx(surprise, abs=1e-12)


def test_the_floor_by_two_routes() -> None:
    """Sum over the distribution of states, and mean exact log-probability of a large sample."""
    language = toy()
    tokens = language.sample(100_000, 25, np.random.default_rng(0))
    per_text = -language.log_prob(tokens)[:, 1:].mean(axis=1)
    standard_error = per_text.std(ddof=1) / len(per_text) ** 0.5
    assert standard_error < 0.001
    assert abs(per_text.mean() - language.min_loss(25)) < 3 * standard_error


def test_samples_are_legal_and_have_the_stated_frequencies() -> None:
    language = toy()
    tokens = language.sample(20_000, 25, np.random.default_rng(1))
    assert language.legal(tokens).all()
    # Share of each word at position 3, against the exact distribution of states.
    expected = language.state_probabilities(4)[3] @ language.emission
    seen = np.bincount(tokens[:, 3], minlength=24) / len(tokens)
    assert np.abs(seen - expected).max() < 4 * 0.5 / len(tokens) ** 0.5


def test_a_seed_gives_the_same_texts_and_another_seed_others() -> None:
    first, again, other = (toy().sample(50, 20, np.random.default_rng(s)) for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_illegal_word_has_probability_zero_and_so_has_all_that_follows() -> None:
    language = toy()
    tokens = language.encode("The cat cat sat .")
    assert language.first_error(tokens) == 2
    log_p = language.log_prob(tokens)
    assert np.isfinite(log_p[:2]).all() and np.isneginf(log_p[2:]).all()
    following = language.next_word(tokens)
    assert np.isnan(following[2:]).all() and following[:2].sum(axis=-1) == pytest.approx(1.0)


def test_next_word_agrees_with_log_prob() -> None:
    language = toy()
    tokens = language.sample(50, 12, np.random.default_rng(5))
    following = language.next_word(tokens)[:, :-1]
    picked = np.take_along_axis(following, tokens[:, 1:, None], axis=-1)[..., 0]
    assert np.log(picked) == pytest.approx(language.log_prob(tokens)[:, 1:])


def test_first_error_of_a_legal_text_is_its_length() -> None:
    language = toy()
    tokens = language.sample(7, 9, np.random.default_rng(0))
    assert (language.first_error(tokens) == 9).all()


def test_filling_in_agrees_with_bayes_over_every_text() -> None:
    arcs = [("s", "a", 0.9, "s"), ("s", "b", 0.1, "t"), ("t", "a", 0.3, "t"), ("t", "b", 0.7, "s")]
    language = Language(arcs, start="s")
    texts = every_text(language, 4)
    joint = np.exp(language.log_prob(texts).sum(axis=-1))
    given = language.encode("a b b a")
    match = (texts[:, [0, 2, 3]] == given[[0, 2, 3]]).all(axis=1)
    expected = [joint[match & (texts[:, 1] == w)].sum() for w in range(2)]
    assert language.fill_in(given, 1) == pytest.approx(np.array(expected) / np.sum(expected))


def test_knowing_both_sides_leaves_less_uncertainty_than_knowing_the_past() -> None:
    language = toy()
    tokens = language.sample(200, 12, np.random.default_rng(0))
    surprise = [-np.log(language.fill_in(text, 6)[text[6]]) for text in tokens]
    assert np.mean(surprise) < 0.7 * language.entropy(12)[6]


def test_pairs_are_the_ones_that_occur() -> None:
    language = toy()
    tokens = language.sample(20_000, 30, np.random.default_rng(0))
    seen = np.zeros((24, 24), dtype=bool)
    seen[tokens[:, :-1], tokens[:, 1:]] = True
    assert np.array_equal(seen, language.pairs())


def test_encoding_and_decoding_are_inverse_and_torch_is_welcome() -> None:
    language = toy()
    text = "A small dog slept ."
    assert language.decode(language.encode(text)) == text
    assert language.decode(torch.from_numpy(language.encode(text))) == text
    assert language.legal(torch.from_numpy(language.encode(text))[None]).all()


GOOD = [("s", "a", 0.5, "s"), ("s", "b", 0.5, "s")]


@pytest.mark.parametrize(
    ("arcs", "start", "message"),
    [
        ([], "s", "at least one"),
        ([("s", "a", 0.5, "s"), ("s", "b", 0.4, "s")], "s", r"add up to 1; got 0\.9"),
        ([("s", "a", 0.0, "s"), ("s", "b", 1.0, "s")], "s", r"\(0, 1\]; got 0\.0"),
        ([("s", "a", float("nan"), "s")], "s", "got nan"),
        ([("s", "a", 1.0, "t")], "s", "none out of 't'"),
        ([*GOOD, ("t", "a", 1.0, "s")], "s", "not 't'"),
        (GOOD, "t", "start: expected one of the states s; got 't'"),
    ],
)
def test_improper_automata_are_refused(arcs: list, start: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Language(arcs, start)


@pytest.mark.parametrize("word", ["New York", "", " a", "a\n"])
def test_words_with_spaces_are_refused_because_texts_are_cut_at_spaces(word: str) -> None:
    with pytest.raises(ValueError, match="arcs: expected words without spaces"):
        Language([Arc("s", word, 1.0, "s")], start="s")


def test_an_automaton_whose_words_do_not_tell_the_state_is_refused() -> None:
    """Two states after the same word: the formula of the entropy would be wrong."""
    arcs = [("s", "a", 0.5, "s"), ("s", "a", 0.5, "t"), ("t", "b", 1.0, "t")]
    with pytest.raises(ValueError, match="the words tell the state; got two for 'a'"):
        Language(arcs, "s")


@pytest.mark.parametrize("arc", [("s", "a", 1.0), ("s", "a", "1", "s"), ["s", "a", 1.0, "s"], 3])
def test_arcs_of_the_wrong_form_are_refused(arc: object) -> None:
    with pytest.raises(TypeError, match="arcs: expected"):
        Language([arc], "s")


@pytest.mark.parametrize(
    ("tokens", "error"),
    [([0.5], TypeError), ([24], ValueError), ([-1], ValueError), ([], TypeError), (3, ValueError)],
)
def test_bad_tokens_are_refused(tokens: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="tokens: expected"):
        toy().log_prob(tokens)


def test_bad_requests_are_refused() -> None:
    language, rng = toy(), np.random.default_rng(0)
    with pytest.raises(ValueError, match="got 'zebra'"):
        language.encode("The zebra sat .")
    with pytest.raises(ValueError, match="at least 1; got 0 and 5"):
        language.sample(0, 5, rng)
    with pytest.raises(ValueError, match="length: expected at least 2"):
        language.min_loss(1)
    with pytest.raises(ValueError, match=r"position: expected 0\.\.2"):
        language.fill_in(language.encode("The cat sat"), 3)
    with pytest.raises(ValueError, match="no word fits"):
        language.fill_in(language.encode("cat cat cat"), 2)
