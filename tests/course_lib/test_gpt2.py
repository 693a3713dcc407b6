"""Claims about GPT-2: the same logits and words as Hugging Face's, and where its attention goes.

No test needs the hub: what `from_pretrained` reads is a small model with random weights, saved to
a folder as the real one is.
"""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.figures.sinks import sink_view
from course_lib.generation import generate
from course_lib.gpt import GPT, GPTConfig, evaluating
from course_lib.gpt2 import UnavailableError, from_pretrained, load_gpt2, sink_share
from course_lib.masks import causal
from tests.helpers.paths import ROOT

MUSEUM = ROOT / "notebooks" / "source" / "A_mask_bug_museum.py"

transformers = pytest.importorskip("transformers")


def hugging_face(seed: int = 0, heads: int = 4, layers: int = 2) -> torch.nn.Module:
    """A small GPT-2 with random weights, biases and norms included; made without a network."""
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=32, n_embd=32, n_layer=layers, n_head=heads,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * noise + (parameter.ndim == 1))
    return model


def words(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(50, (batch, length), generator=torch.Generator().manual_seed(seed))


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 3), st.integers(1, 32), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_logits_are_those_of_hugging_face(heads, batch, length, seed) -> None:
    theirs = hugging_face(seed, heads)
    ours = load_gpt2(theirs.state_dict(), heads=heads, dtype=torch.float64)
    tokens = words(batch, length, seed)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-9, atol=1e-9)


@given(
    st.sampled_from([None, "concat", "static"]),
    st.sampled_from([None, 1, 3]),
    st.integers(1, 8),
    st.integers(0, 2**32),
)
@settings(max_examples=30, deadline=None)
def test_greedy_words_are_those_of_hugging_face(cache, chunk, length, seed) -> None:
    theirs = hugging_face(seed)
    ours = load_gpt2(theirs.state_dict(), heads=4, dtype=torch.float64)
    prompt = words(3, length, seed)
    expected = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),  # else it takes every word 0 for padding
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )
    text = generate(ours, prompt, 12, temperature=0, cache=cache, chunk=chunk if cache else None)
    assert torch.equal(text, expected)


def test_greedy_words_of_a_left_padded_batch_are_those_of_hugging_face() -> None:
    theirs = hugging_face()
    ours = load_gpt2(theirs.state_dict(), heads=4, dtype=torch.float64)
    prompt, padding = words(3, 6), torch.tensor([0, 2, 5])
    real = (torch.arange(6) >= padding[:, None]).long()
    expected = theirs.generate(
        prompt, attention_mask=real, max_new_tokens=10, do_sample=False, pad_token_id=0
    )
    text = generate(ours, prompt, 10, temperature=0, padding=padding, cache="static")
    assert torch.equal(text, expected)


def test_the_loaded_model_owns_its_weights() -> None:
    theirs = hugging_face()
    ours = load_gpt2(theirs.state_dict(), heads=4, dtype=torch.float64)
    with evaluating(ours):
        before = ours(words(1, 5))
        for parameter in theirs.parameters():
            parameter.data.zero_()
        assert torch.equal(ours(words(1, 5)), before)
    assert ours.head.weight is ours.token_embedding.weight and not ours.training


def test_weights_of_the_bare_model_and_old_buffers_are_welcome() -> None:
    theirs = hugging_face()
    whole = load_gpt2(theirs.state_dict(), heads=4)
    state = dict(theirs.transformer.state_dict())
    state["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    state["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    with evaluating(whole):
        assert torch.equal(load_gpt2(state, heads=4)(words(1, 5)), whole(words(1, 5)))


def test_the_number_of_heads_is_never_guessed() -> None:
    """No shape tells it, and another number that divides the width gives other logits silently."""
    theirs = hugging_face()
    with pytest.raises(TypeError, match="heads"):
        load_gpt2(theirs.state_dict())
    with evaluating(theirs):
        logits = theirs(words(1, 9)).logits
        other = load_gpt2(theirs.state_dict(), heads=2, dtype=torch.float64)(words(1, 9))
    assert not torch.allclose(logits, other)


def test_what_is_not_a_gpt_2_is_refused() -> None:
    state = hugging_face().state_dict()
    with pytest.raises(ValueError, match=r"expected a matrix wte\.weight"):
        load_gpt2({}, heads=4)
    cut = {name: w for name, w in state.items() if "h.1.ln_2.bias" not in name}
    with pytest.raises(ValueError, match=r"missing \['h\.1\.ln_2\.bias'\], unknown none"):
        load_gpt2(cut, heads=4)
    with pytest.raises(ValueError, match=r"missing none, unknown \['h\.0\.attn\.rotary'\]"):
        load_gpt2({**state, "transformer.h.0.attn.rotary": torch.ones(2)}, heads=4)
    untied = {**state, "lm_head.weight": state["lm_head.weight"] + 1}
    with pytest.raises(ValueError, match="a tied head"):
        load_gpt2(untied, heads=4)
    transposed = {n: w.T if "c_attn.weight" in n else w for n, w in state.items()}
    with pytest.raises(
        ValueError, match=r"c_attn\.weight: expected shape \[96, 32\]; got \[32, 96\]"
    ):
        load_gpt2(transposed, heads=4)
    with pytest.raises(ValueError, match="heads: expected a divisor of width 32; got 5"):
        load_gpt2(state, heads=5)


# --- from a folder, as from the hub --------------------------------------------------------------


def save(folder: Path, **options) -> Path:
    """What `save_pretrained` writes: a small GPT-2 with random weights, and a BPE tokenizer."""
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        ["The cat sat on the mat. The door of the kitchen stood open."],
        vocab_size=300, min_frequency=1, show_progress=False,
    )  # fmt: skip
    bpe.save_model(str(folder))
    tokenizer = transformers.GPT2Tokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")
    )
    tokenizer.save_pretrained(folder)
    sizes = {"n_positions": 256, "n_embd": 32, "n_layer": 3, "n_head": 4, **options}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=None, **sizes
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise + (parameter.ndim == 1))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("gpt2"))


def test_a_saved_gpt_2_is_read_whole(folder) -> None:
    real = from_pretrained(folder, dtype=torch.float64)
    tokens = real.encode("The cat sat on\n the $x$")
    assert tokens.dtype == torch.long and tokens.shape[0] == 1
    assert real.pieces(tokens)[:4] == ["The", "_cat", "_sat", "_on"]
    assert "".join(real.pieces(tokens)) == r"The_cat_sat_on\n_the_$x$"
    assert not real.model.training and not real.theirs.training
    assert real.model.config.heads == 4  # not one of 64 numbers each, which the shapes suggest
    with torch.no_grad():
        logits, weights = real.model(tokens, return_weights=True)
        torch.testing.assert_close(logits, real.theirs(tokens).logits, rtol=1e-9, atol=1e-9)
        real.theirs.set_attn_implementation("eager")  # the one that returns its weights
        theirs = real.theirs(tokens, output_attentions=True).attentions
    np.testing.assert_allclose(sink_share(weights), sink_share(theirs), atol=1e-9)


def test_a_text_that_does_not_fit_is_refused(folder) -> None:
    real = from_pretrained(folder)
    for text, count in (("", 0), ("cat " * 257, r"\d{3}")):
        with pytest.raises(ValueError, match=f"text: expected 1 to 256 tokens; got {count}"):
            real.encode(text)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"activation_function": "relu"}, "expected activation_function=gelu_new.*got relu"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=False"),
        ({"layer_norm_epsilon": 1e-3}, "expected layer_norm_epsilon=1e-05"),
        ({"n_inner": 64}, "expected n_inner=128.*got 64"),
    ],
)
def test_other_settings_are_refused_and_not_computed_wrongly(tmp_path, option, message) -> None:
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=1, **option)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path) -> None:
    transformers.LlamaConfig(hidden_size=32, num_attention_heads=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="source: expected a model of type gpt2; got llama"):
        from_pretrained(tmp_path)


def test_what_cannot_be_had_says_so_in_one_line(tmp_path, monkeypatch) -> None:
    with pytest.raises(UnavailableError, match="could not be loaded") as caught:
        from_pretrained(tmp_path)  # an empty folder
    assert "\n" not in str(caught.value)

    def no_network(*_arguments, **_options):
        raise OSError("We couldn't connect to the hub.\nCheck your internet connection.")

    monkeypatch.setattr(transformers.GPT2Config, "get_config_dict", no_network)
    with pytest.raises(UnavailableError, match=r"gpt2 could not be loaded: We .*hub\.$"):
        from_pretrained()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnavailableError, match="transformers is not installed"):
        from_pretrained()


# --- attention sinks -----------------------------------------------------------------------------


def test_the_share_leaves_out_the_first_query_which_has_no_choice() -> None:
    own = np.eye(4)  # each position attends to itself only
    first = np.zeros((4, 4))
    first[:, 0] = 1
    even = causal().matrix(4) / np.arange(1, 5)[:, None]
    np.testing.assert_allclose(
        sink_share([np.stack([own, first, even])]), [[0, 1, np.mean([1 / 2, 1 / 3, 1 / 4])]]
    )


def test_shares_are_the_mean_over_the_batch_in_any_packing() -> None:
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.normal(size=(2, 5, 3, 7, 7))).softmax(dim=-1)  # [L, B, H, T, T]
    share = sink_share(weights)
    assert share.shape == (2, 3)
    np.testing.assert_allclose(share, sink_share(list(weights.numpy())))
    np.testing.assert_allclose(share, np.mean([sink_share(weights[:, b]) for b in range(5)], 0))
    np.testing.assert_allclose(sink_share(weights.bfloat16()), share, atol=2e-3)


def with_a_sink(layer: int, head: int) -> GPT:
    """A model in which one head always asks for what position 0 alone has."""
    model = GPT(GPTConfig(vocab_size=50, context=32, layers=3, heads=4), np.random.default_rng(0))
    with torch.no_grad():
        model.position_embedding.weight[0, 0] = 10
        qkv, row = model.blocks[layer].attention.qkv, head * model.config.head_dim
        qkv.bias[row], qkv.weight[model.config.width + row, 0] = 8, 1
    return model.eval()


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (1, 2), (2, 3)])
def test_a_sink_built_by_hand_is_found_where_it_is_and_nowhere_else(layer, head) -> None:
    model = with_a_sink(layer, head)
    with torch.no_grad():
        share = sink_share(model(words(2, 24), return_weights=True)[1])
    assert share[layer, head] > 0.99
    share[layer, head] = 0
    even = np.mean([1 / n for n in range(2, 25)])
    assert np.abs(share[share > 0] - even).max() < 0.02 and (share > 0).sum() == 11


def test_the_picture_shows_each_share_at_its_layer_and_head() -> None:
    share = np.array([[0.1, 0.26], [0.9, 0.0], [0.5, 1.0]])
    figure = sink_view({"$x$": share, "other": share[:, ::-1]}, even={"$x$": 0.3})
    assert figure.png() == sink_view({"$x$": share, "other": share[:, ::-1]}, {"$x$": 0.3}).png()
    ax = figure.canvas.axes[0]
    found = {tuple(t.get_position()[::-1]): t.get_text() for t in ax.texts}
    middles = {(i + 0.5, j + 0.5): f"{x:.2f}" for (i, j), x in np.ndenumerate(share)}
    assert found == middles
    light = [sum(cell.get_facecolor()[:3]) for cell in ax.patches]
    assert (np.argsort(light) == np.argsort(-share.ravel())).all(), "more is darker"
    assert figure.alt.startswith(
        "$x$: share of attention on the first position in 3 layers of 2 heads. Mean of each layer, "
        "from layer 0: 0.18, 0.45, 0.75. Largest: 1.00, layer 2, head 1; smallest: 0.00. "
        "Spread evenly it would be 0.30."
    )
    assert not sink_view({"many": np.ones((2, 13))}).canvas.axes[0].texts, "too small for numbers"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sink_share([]), "weights: expected at least one layer"),
        (lambda: sink_share([np.ones((2, 3))]), r"got \[2, 3\] in layer 0"),
        (lambda: sink_share([np.ones((1, 1, 1))]), r"T > 1.*got \[1, 1, 1\]"),
        (lambda: sink_share([np.ones((1, 2, 3)) / 3]), r"got \[1, 2, 3\]"),
        (lambda: sink_share([np.eye(3)[None], np.eye(2)[None]]), "shape of layer 0.*in layer 1"),
        (lambda: sink_share([np.ones((1, 3, 3))]), "rows that sum to 1"),
        (lambda: sink_view({}), "shares: expected at least one panel"),
        (lambda: sink_view({"a": [0.5]}), r"shape \[layers, heads\], for 'a'; got shape \[1\]"),
        (lambda: sink_view({"a": [[1.5]]}), "from 0 to 1.5"),
        (lambda: sink_view({"a": [[np.nan]]}), "numbers from 0 to 1"),
        (lambda: sink_view({"a": [[0.5]]}, even={"b": 0.1}), r"even: .*\['b'\]"),
    ],
)
def test_what_is_no_attention_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- the section of appendix A -------------------------------------------------------------------


def section_cells() -> list[str]:
    """The code of the imports and of the optional section, as the notebook has it."""
    cells = re.split(r"^# %%(.*)\n", MUSEUM.read_text("utf-8"), flags=re.MULTILINE)[1:]
    code = [text for kind, text in zip(cells[::2], cells[1::2], strict=True) if not kind]
    start = next(i for i, text in enumerate(code) if text.startswith("ONLINE = "))
    return [code[0], *code[start:]]


def test_the_optional_section_is_off_in_the_repo() -> None:
    assert "ONLINE = False" in section_cells()[1]


def test_the_optional_section_runs_from_beginning_to_end(folder, capsys, monkeypatch) -> None:
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    scope: dict = {}
    for cell in section_cells():
        cell = cell.replace("ONLINE = False", "ONLINE = True")
        exec(cell.replace("SOURCE = GPT2", f"SOURCE = {str(folder)!r}"), scope)
    told = capsys.readouterr().out
    assert "skipped" not in told and "GPT-2 in our GPT: no leak found" in told
    assert float(re.search(r"largest difference (\S+)", told)[1]) < 1e-3
    table = [line.split() for line in told.splitlines() if line.startswith(("_cat", "mean"))]
    assert all(np.isfinite([float(x) for x in row[1:]]).all() for row in table) and len(table) > 3
    assert told.count("'The cat sat on the mat. It") == 2, "two texts with the same beginning"
    sinks, head = shown
    assert sinks.alt.startswith("GPT-2: share of attention") and "without the mask:" in sinks.alt
    assert head.alt.startswith("layer ") and "The: The 1.00;" in head.alt
    share, _ = scope["sinks_of"](scope["real"].model, scope["tokens"])
    assert f"Largest: {share.max():.2f}" in sinks.alt


def test_without_the_weights_every_cell_says_so(tmp_path, capsys) -> None:
    for online, words_told in (("False", "ONLINE is False"), ("True", "could not be loaded")):
        scope: dict = {}
        for cell in section_cells():
            cell = cell.replace("ONLINE = False", f"ONLINE = {online}")
            exec(cell.replace("SOURCE = GPT2", f"SOURCE = {str(tmp_path)!r}"), scope)
        told = capsys.readouterr().out.splitlines()
        assert words_told in told[0] and told[1:] == ["skipped: no GPT-2 was loaded"] * 5
