"""Claims about the sections on the real model: what they show, with it, without it, and built."""

import copy
import json
import re

import numpy as np
import pytest
import torch

from course_lib import real_lesson
from course_lib.attention_kernels import fused
from course_lib.generation import generate
from course_lib.gguf_file import read_gguf
from course_lib.lesson import BUILD
from course_lib.llama_weights import from_gguf
from course_lib.masks import causal, full, sliding_window
from course_lib.pretrained import load
from course_lib.real_lesson import CAT, PARAGRAPH, greedy, mean_loss, on_real_model
from course_lib.tokenizer import Tokenizer
from tests.helpers.gguf_models import write_model
from tests.helpers.paths import ROOT

TEXT = "the cat sat on the cat"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small model with random weights, and its tokenizer."""
    file = read_gguf(write_model(tmp_path_factory.mktemp("gguf") / "m.gguf"))
    return from_gguf(file), Tokenizer(file.metadata)


# --- losses and texts ----------------------------------------------------------------------------


def test_the_loss_is_the_mean_surprise_of_each_next_token(small):
    model, tokenizer = small
    tokens = tokenizer.encode(TEXT)
    logits = model(torch.tensor([tokens]))[0].log_softmax(-1)
    surprise = [-logits[t, word].item() for t, word in enumerate(tokens[1:])]
    assert mean_loss(model, tokenizer, TEXT) == pytest.approx(np.mean(surprise), rel=1e-5)


def test_another_mask_or_kernel_gives_another_loss(small):
    model, tokenizer = small

    def blind(q, k, v, mask):
        return fused(q, k, v, torch.ones_like(mask))

    open_eyes = mean_loss(model.with_mask(full()), tokenizer, TEXT)
    assert open_eyes != mean_loss(model, tokenizer, TEXT)
    assert mean_loss(model, tokenizer, TEXT, attend=blind) == pytest.approx(open_eyes, rel=1e-5)


@pytest.mark.parametrize("cached", [True, False])
def test_greedy_writes_what_generate_writes(cached, small):
    model, tokenizer = small
    prompt = tokenizer.encode(TEXT)
    wanted = generate(model, prompt, 12, temperature=0)[len(prompt) :]
    assert greedy(model, tokenizer, TEXT, 12, cached=cached) == tokenizer.decode(wanted)


def test_texts_side_by_side_are_what_each_is_alone_unless_the_padding_is_forgotten(small):
    model, tokenizer = small
    prompts = [TEXT, "12", "the"]
    alone = [greedy(model, tokenizer, p, 10) for p in prompts]
    assert greedy(model, tokenizer, prompts, 10) == alone
    assert greedy(model, tokenizer, prompts, 10, padded=False)[1:] != alone[1:]
    # Rotary positions: where a text stands does not matter, a jump inside it does.
    slots = greedy(model, tokenizer, prompts, 10, positions=lambda slots, padding: slots)
    assert slots == alone
    jump = greedy(
        model, tokenizer, prompts, 10,
        positions=lambda slots, padding: slots + 1000 * (len(slots) == 1),
    )  # fmt: skip
    assert jump != alone


# --- with the model, without it, and while the course is built -----------------------------------


@pytest.fixture
def records(small, tmp_path, monkeypatch):
    """The small model in place of the real one, and a folder for what is recorded."""
    monkeypatch.setattr(real_lesson, "_RECORDS", tmp_path / "records")
    monkeypatch.setattr(real_lesson, "_is_here", lambda: True)
    monkeypatch.setattr(real_lesson, "load", lambda: small)
    monkeypatch.delenv(BUILD, raising=False)
    return tmp_path / "records"


def shown(model, tokenizer):
    array = np.array([1.2322, 2.0])
    return {"loss": 3.14159, "text": "a b", 3: [array, (torch.tensor([7]), -0.001)], "none": None}


ROUNDED = {"loss": 3.14, "text": "a b", "3": [[1.23, 2.0], [[7], 0.0]], "none": None}


def test_with_the_model_a_cell_shows_what_it_computes_rounded(records):
    assert on_real_model("05_kv_cache/shown", shown) == ROUNDED
    assert not records.exists(), "only course build records"


def test_without_the_model_it_shows_what_was_recorded_and_how_to_get_it(
    records, monkeypatch, capsys
):
    monkeypatch.setenv(BUILD, "write")
    assert on_real_model("05_kv_cache/shown", shown) == ROUNDED
    monkeypatch.delenv(BUILD)
    monkeypatch.setattr(real_lesson, "_is_here", lambda: False)
    capsys.readouterr()
    assert on_real_model("05_kv_cache/shown", None) == ROUNDED
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "python -m course_lib.pretrained" in said
    with pytest.raises(FileNotFoundError, match="Nothing recorded stands in for '05_kv_cache/x'"):
        on_real_model("05_kv_cache/x", shown)


def test_the_course_is_not_built_without_the_model(records, monkeypatch):
    monkeypatch.setenv(BUILD, "write")
    on_real_model("1/shown", shown)
    monkeypatch.setattr(real_lesson, "_is_here", lambda: False)
    with pytest.raises(FileNotFoundError, match="python -m course_lib"):
        on_real_model("1/shown", shown)


def test_checking_notices_a_result_that_is_not_the_recorded_one(records, monkeypatch):
    monkeypatch.setenv(BUILD, "write")
    on_real_model("05_kv_cache/a", lambda *_: 1.5)
    on_real_model("05_kv_cache/b", lambda *_: "text")
    monkeypatch.setenv(BUILD, "check")
    assert on_real_model("05_kv_cache/a", lambda *_: 1.5) == 1.5
    with pytest.raises(ValueError, match="05_kv_cache/b: the record is another; run `course build"):
        on_real_model("05_kv_cache/b", lambda *_: "other text")
    assert json.loads((records / "05_kv_cache.json").read_text()) == {"a": 1.5, "b": "text"}


def test_building_refuses_numbers_that_rounding_could_tip_over(records, monkeypatch):
    monkeypatch.setenv(BUILD, "write")
    for close in (4.1850001, 4.1843, -0.0057, [1.0, {"x": 0.5059}]):
        with pytest.raises(ValueError, match=r"from a rounding boundary; take another text"):
            on_real_model("1/close", lambda *_, close=close: close)
        on_real_model("1/drawn", lambda *_, close=close: close, printed=False)
    assert on_real_model("1/far", lambda *_: 4.1863) == 4.19
    monkeypatch.delenv(BUILD)
    assert on_real_model("1/close", lambda *_: 4.1850001) == 4.19, "readers may try what they like"


def test_building_refuses_texts_in_which_two_words_were_nearly_equal(small, monkeypatch):
    model, tokenizer = copy.deepcopy(small[0]), small[1]
    model.head.weight.copy_(model.head.weight[:1].expand_as(model.head.weight))
    monkeypatch.setenv(BUILD, "check")
    with pytest.raises(ValueError, match="two words came as close as 0"):
        greedy(model, tokenizer, TEXT, 3)
    monkeypatch.delenv(BUILD)
    assert greedy(model, tokenizer, TEXT, 3)


# --- what is recorded ----------------------------------------------------------------------------


def test_every_record_belongs_to_a_cell_and_every_cell_has_one():
    used = set()
    for source in (ROOT / "notebooks" / "source").rglob("*.py"):
        used |= set(re.findall(r"on_real_model\(\s*\"([^\"]+)\"", source.read_text("utf-8")))
    files = sorted((ROOT / "course_lib" / "real_results").glob("*.json"))
    kept = {f"{f.stem}/{key}" for f in files for key in json.loads(f.read_text("utf-8"))}
    assert kept == used


def test_the_paragraph_and_the_sentence_are_read_as_the_notes_say():
    """On the real model: the rule costs 4.30 nats, no rule .78, a window 5.75, a sink 4.51."""
    model, tokenizer = load()
    assert len(tokenizer.encode(CAT)) == 15
    assert 100 <= len(tokenizer.encode(PARAGRAPH)) <= 115
    masks = {4.30: causal(), 0.78: full(), 5.75: sliding_window(16)}
    for loss, mask in masks.items():
        assert mean_loss(model.with_mask(mask), tokenizer, PARAGRAPH) == pytest.approx(
            loss, abs=4e-3
        )
