"""The generation explorer: its numbers are the models'."""

import json
import re

import numpy as np
import pytest
import torch

from course_lib.explorers import GenerationExplorer
from course_lib.generation import generate
from course_lib.gpt import GPT, GPTConfig
from course_lib.language import toy
from course_lib.masks import sliding_window

# --- the explorer --------------------------------------------------------------------------------


def test_what_it_says_about_the_recorded_models():
    e = GenerationExplorer(step=4)
    assert 'The honest model writes. At position 4, "sofa"' in e.words()
    assert "Cache: 5 positions x 1,536 bytes = 7,680 bytes" in e.words()
    assert "1 computed in this step, 5 so far (without a cache 15)" in e.words()
    e.cheat = True
    assert "No cache: of 4 earlier keys and values 4 are no longer" in e.words()
    e.task = "reads"
    assert "and 7 words of the future, the answer among them" in e.words()
    assert 'Asked for "mat": probability 1.00 (the language: 0.70)' in e.words()
    e.cheat = False
    assert "future" not in e.words()
    e.step = 0
    assert 'Asked for "cat": probability 0.30 (the language: 0.30)' in e.words()


def test_bars_are_the_model_s_probabilities_and_add_up():
    e = GenerationExplorer()
    for who, tasks in e.data["models"].items():
        for task, shown in tasks.items():
            for s, step in enumerate(shown["steps"]):
                p = torch.tensor(e.runs[who][task].logits[s]).softmax(-1).numpy()
                names, values, exact, asked = zip(*step["bars"], strict=True)
                assert sum(values) == pytest.approx(1) and sum(asked) == 1
                for name, value in zip(names[:-1], values, strict=False):
                    assert value == pytest.approx(p[e.vocabulary.index(name)])
                if exact[0] is not None:
                    assert sum(exact) == pytest.approx(1)
    assert json.dumps(e.data, allow_nan=False)


@pytest.fixture(scope="module")
def own():
    sizes = GPTConfig(24, 16, layers=2, heads=4, width=16, kv_heads=2)
    return GPT(sizes, np.random.default_rng(5), dtype=torch.float32)


def test_own_models_write_what_generate_writes_and_cost_what_a_cache_costs(own):
    e = GenerationExplorer(own, [0, 3, 1], cheater=own.with_masking("never"), n=5, seed=7)
    text = generate(own, [0, 3, 1], 5, rng=np.random.default_rng(7), cache="static").numpy()
    np.testing.assert_array_equal(e.run.tokens, text)
    cache = own.new_cache("concat")
    with torch.no_grad():
        own(torch.from_numpy(text[None, :7]), cache=cache)
    e.step = 4
    assert f"= {sum(c.nbytes for c in cache):,} bytes" in e.words()
    assert "Cache: 7 positions" in e.words() and "(without a cache 25)" in e.words()
    e.step = 0
    assert "3 computed in this step, 3 so far (without a cache 3)" in e.words()
    e.cheat, e.step = True, 2
    assert "No cache" in e.words()
    assert e.training is None and e.data["training"] is None


def test_with_one_layer_even_a_cheater_could_keep_its_keys():
    one = GPT(GPTConfig(24, 16, layers=1), np.random.default_rng(0), masking="never")
    assert "Cache: 4 positions" in GenerationExplorer(one, [0], n=4, step=3).words()


def test_a_window_shows_in_what_the_model_sees():
    narrow = GPT(GPTConfig(24, 16), np.random.default_rng(0), mask=sliding_window(2))
    e = GenerationExplorer(narrow, toy().encode("The cat"), n=8, language=toy(), step=7)
    assert e.data["models"]["honest"]["writes"]["steps"][7]["sees"] == [7, 8]
    e.task = "reads"
    assert e.data["models"]["honest"]["reads"]["visible"][3] == [0, 0, 1, 1, 0, 0, 0, 0]


def test_own_words_text_and_temperature(own):
    e = GenerationExplorer(
        own, [1], n=3, words=[f"w{i}" for i in range(24)], reads=[5, 6, 7, 8, 9], temperature=0
    )
    assert [e.run.tokens[i + 1] for i in range(3)] == e.run.logits.argmax(-1).tolist()
    e.task = "reads"
    assert 'At position 0, "w5"' in e.words() and 'Asked for "w6"' in e.words()


def test_state_is_checked_and_kept(own):
    e = GenerationExplorer()
    for name, bad, message in (
        ("step", 12, "expected a whole number from 0 to 11; got 12"),
        ("task", "sleeps", "expected one of writes, reads; got 'sleeps'"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: {message}"):
            setattr(e, name, bad)
    with pytest.raises(TypeError, match=r"^cheat: expected True or False; got int"):
        e.cheat = 1
    assert (e.step, e.task, e.cheat) == (0, "writes", False)
    alone = GenerationExplorer(own, [0], n=2)
    with pytest.raises(ValueError, match=r"^cheat: expected False, because no cheater was given"):
        alone.cheat = True


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt": [0]}, ValueError, "prompt: expected a model with it"),
        ({"words": ["a"]}, ValueError, "words: expected a model with it"),
        ({"text": 3}, ValueError, r"text: expected 0\.\.2; got 3"),
        ({"n": 13}, ValueError, r"n: expected 1\.\.12; got 13"),
        ({"n": 0}, ValueError, "n: expected at least 1; got 0"),
        ({"model": "gpt"}, TypeError, "model: expected a GPT; got str"),
        ({"model": True, "cheater": 3}, TypeError, "model: expected a GPT; got bool"),
    ],
)
def test_errors_name_the_argument(options, error, message):
    with pytest.raises(error, match=message):
        GenerationExplorer(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "prompt: expected word numbers with a model; got None"),
        ({"prompt": [[0]]}, ValueError, "prompt: expected one text"),
        ({"prompt": []}, ValueError, "prompt: expected one text"),
        ({"prompt": [0], "n": 25}, ValueError, "prompt: expected one text .* n=25"),
        ({"prompt": [0], "n": 17}, ValueError, "n: expected at most 16 new words"),
        ({"prompt": [0], "n": 4, "reads": [1, 2]}, ValueError, "reads: expected at least n"),
        ({"prompt": [0], "n": 4, "words": ["a"]}, ValueError, "words: expected 24 labels; got 1"),
        ({"prompt": [0], "cheater": 3}, TypeError, "cheater: expected a GPT; got int"),
        ({"prompt": [0.5]}, TypeError, "prompt: expected integers"),
    ],
)
def test_errors_about_own_models_name_the_argument(own, options, error, message):
    with pytest.raises(error, match=message):
        GenerationExplorer(own, **options)


def test_the_static_view_has_words():
    saved = GenerationExplorer(step=3).picture()
    keys, curves = re.findall(r'<img alt="([^"]*)"', saved)
    assert "the cheater, if it kept keys" in keys and "21 read although now wrong" in keys
    assert "The cheater writes: The near near the mat near" in saved
    assert "0.0349" in curves and "96.9%" in curves
