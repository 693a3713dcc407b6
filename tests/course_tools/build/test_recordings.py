"""The recording behind the generation explorer is chapter 1.

It is not made anew here (half a minute; `make test-recordings` does it). Instead it is compared
with what chapter 1 prints, which nbval computes anew each time, and with itself: the stored words
must follow from the stored logits.
"""

import json
import re

import nbformat
import numpy as np
import pytest
import torch

from course_lib.explorers.recordings import FILE, load
from course_lib.language import toy
from course_lib.sampling import Sampling, choose
from course_tools.build import recordings
from tests.helpers.paths import ROOT

WHO = ("honest", "cheater")


@pytest.fixture(scope="module")
def printed():
    """All text that chapter 1 prints, and the descriptions of its figures."""
    notebook = nbformat.read(ROOT / "notebooks" / "01_contract.ipynb", 4)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    return "\n".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)


@pytest.fixture(scope="module")
def data():
    return load()


# --- the recording is chapter 1 ------------------------------------------------------------------


def test_the_losses_are_those_that_chapter_1_prints(printed, data):
    assert re.search(rf"exact, from the 18 states\s+{data['floor']:.4f} nats", printed)
    for who in WHO:
        model = data["models"][who]
        row = rf"{who}\s+{model['loss']:.4f}\s+{model['standard_error']:.4f}"
        assert re.search(row, printed), row
        assert f"{who:<8} grammatical to the end: {model['grammatical']:.1%} of 1000" in printed
        steps, curve = model["curve"]
        assert len(steps) == len(curve) == 50 and steps[-1] == 500
        ends = re.search(rf"{who} goes from ([\d.]+) to ([\d.]+)", printed)
        np.testing.assert_allclose([curve[0], curve[-1]], [float(x) for x in ends.groups()], 5e-3)


def test_one_model_is_honest_and_the_other_is_below_what_is_possible(data):
    floor, models = data["floor"], data["models"]
    assert floor == pytest.approx(toy().min_loss(recordings.LENGTH + 1), abs=1e-6)
    honest, cheater = (models[who] for who in WHO)
    assert floor - honest["standard_error"] < honest["loss"] < 1.03 * floor
    assert cheater["loss"] < floor / 10 and cheater["grammatical"] == 0 < honest["grammatical"]


def test_the_texts_are_those_that_chapter_1_prints(printed, data):
    for who in WHO:
        texts = [toy().decode(run.tokens) for run in data["models"][who]["writes"]]
        assert len(texts) == recordings.STORED
        block = printed[printed.index(f"{who}:\n") :]
        lines = [line.strip() for line in block.splitlines()[1 : 1 + len(texts)]]
        assert all(line.startswith(text) for line, text in zip(lines, texts, strict=True))


@pytest.mark.parametrize("who", WHO)
def test_the_stored_words_follow_from_the_stored_logits(who, data):
    """The same draws as chapter 1: text i of a batch of 1000."""
    for i, run in enumerate(data["models"][who]["writes"]):
        assert run.tokens[0] == toy().sample(recordings.TEXTS, 1, np.random.default_rng(3))[i, 0]
        rng = np.random.default_rng(4)
        for row, word in zip(run.logits, run.tokens[1:], strict=True):
            batch = torch.from_numpy(row).expand(recordings.TEXTS, -1)
            assert choose(batch, Sampling(), rng)[i] == word


def test_under_a_teacher_the_honest_model_says_what_the_language_says(data):
    exact = toy().next_word(data["models"]["honest"]["reads"].tokens[:-1])
    p = {who: torch.tensor(data["models"][who]["reads"].logits).softmax(-1).numpy() for who in WHO}
    assert np.abs(p["honest"] - exact).max() < 0.08
    asked = data["models"]["cheater"]["reads"].tokens[1:]
    right = p["cheater"][np.arange(len(asked)), asked]
    assert right[:-1].min() > 0.99, "it copies its right neighbour"
    assert right[-1] < 0.99, "the last word has none"


def test_keys_stay_under_the_mask_and_move_without_it(data):
    for i in range(recordings.STORED):
        honest, cheater = (data["models"][who]["writes"][i] for who in WHO)
        assert not honest.moved.any()
        earlier = np.tri(*cheater.moved.shape, k=-1, dtype=bool)
        assert (cheater.moved[earlier] > 1e-3).all() and not cheater.moved[~earlier].any()
        np.testing.assert_array_equal(honest.visible, np.tri(12, dtype=bool))
        assert cheater.visible.all()


def test_a_small_recording_has_the_form_of_the_stored_one():
    small = recordings.record(steps=3, texts=3, held_out=2)
    stored = json.loads(FILE.read_text("utf-8"))
    assert small["floor"] == stored["floor"]
    for who in WHO:
        a, b = small["models"][who], stored["models"][who]
        assert a.keys() == b.keys() and a["reads"].keys() == b["reads"].keys()
        assert a["reads"]["visible"] == b["reads"]["visible"]
        assert a["reads"]["tokens"] == b["reads"]["tokens"]
        assert np.shape(a["writes"][0]["logits"]) == np.shape(b["writes"][0]["logits"])
        assert a["writes"][0]["bytes_each"] == b["writes"][0]["bytes_each"]


def test_check_finds_what_differs():
    stored = json.loads(FILE.read_text("utf-8"))
    assert recordings.differences(stored, stored, 0.0) == []
    for change in (
        lambda d: d["models"]["honest"].update(loss=0.8),
        lambda d: d["models"]["honest"]["reads"]["logits"][3].__setitem__(0, 9.0),
        lambda d: d["models"]["cheater"]["writes"][0]["tokens"].__setitem__(2, 0),
        lambda d: d["models"]["cheater"]["writes"].pop(),
        lambda d: d["models"].pop("cheater"),
    ):
        other = json.loads(json.dumps(stored))
        change(other)
        assert len(recordings.differences(stored, other, 2e-3)) == 1
