"""Claims about the tokenizer: the numbers of `transformers` for the same file."""

import sys
from pathlib import Path

import pytest
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from course_lib.gguf_file import read_gguf
from course_lib.pretrained import find, load
from course_lib.tokenizer import Tokenizer
from tests.helpers.gguf_models import write_model

TEXTS = [
    "", " ", "\n", "The cat sat on the mat.", "  two  spaces\n\n\ttabs \r\n", "don't I'LL we've",
    "In 2024 1234 cats, 3.14159 and 1,000,000", "task\n\n1. Edit", "naïve café Straße",
    "½ x² Ⅷ ٣٤ १२३",
    "日本語 中文 한국어", "Привет, мир! שלום مرحبا हिन्दी", "🙂 👩‍👩‍👧 \u200d\ufeff\x00",
    "<|im_start|>user\nhi<|im_end|>\n", "a<|endoftext|>b <file_sep> <|im_start|",
    "def f(x):\n    return x**2",
]  # fmt: skip


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return load()[1]


@pytest.fixture(scope="module")
def theirs():
    r"""What `transformers` reads in the same file, cut as the file says.

    transformers 5.23 passes over `tokenizer.ggml.pre = "smollm"`, which says that digits are cut
    off one by one before anything else (llama.cpp does so): "\n\n1" would become three tokens.
    """
    path = find()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    steps = [pre_tokenizers.Digits(True), tokenizer.backend_tokenizer.pre_tokenizer]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_numbers_are_those_of_transformers(text, ours, theirs):
    numbers = ours.encode(text)
    assert numbers == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(numbers) == theirs.decode(numbers) == text


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_has_the_numbers_of_transformers(ours, theirs, text):
    numbers = ours.encode(text)
    assert numbers == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(numbers) == theirs.decode(numbers)


def test_tokens_are_shown_as_people_read_them(ours):
    assert ours.tokens("The cat on 12 mats") == ["The", " cat", " on", " ", "1", "2", " mats"]
    assert ours.tokens(ours.encode("Hi<|im_end|>")) == ["Hi", "<|im_end|>"]
    pieces = ours.tokens("日")
    assert "".join(pieces) == "日" or "\N{REPLACEMENT CHARACTER}" in pieces


def test_it_knows_its_size_and_its_end(ours, theirs):
    assert len(ours) == 49_152
    assert ours.decode([ours.end]) == "<|im_end|>" == theirs.eos_token


# --- other Llamas --------------------------------------------------------------------------------


def transformers_reading(path: Path):
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
@given(text=st.text(st.sampled_from("the cats 12\n'S\té."), max_size=40))
@settings(max_examples=60, deadline=None)
def test_byte_level_vocabularies_are_cut_by_the_rule_that_the_file_names(
    pre, text, tmp_path_factory
):
    path = made(f"bytes-{pre}", tmp_path_factory, lambda path: write_model(path, pre=pre))
    ours, theirs = Tokenizer(read_gguf(path).metadata), transformers_reading(path)
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ours.encode(text)) == text


@given(text=st.text(st.sampled_from("the cats é"), max_size=40))
@settings(max_examples=60, deadline=None)
def test_sentence_piece_vocabularies_begin_and_decode_as_in_transformers(text, tmp_path_factory):
    path = made("pieces", tmp_path_factory, write_sentence_piece)
    ours, theirs = Tokenizer(read_gguf(path).metadata), transformers_reading(path)
    numbers = ours.encode(text)
    assert numbers == theirs.encode(text), "the beginning of a text is a token of its own"
    assert ours.decode(numbers[1:]) == theirs.decode(numbers[1:])


_MADE: dict[str, Path] = {}


def made(name: str, factory, write) -> Path:
    """A file that is written once for all examples of a test."""
    if name not in _MADE:
        _MADE[name] = factory.mktemp("gguf") / f"{name}.gguf"
        write(_MADE[name])
    return _MADE[name]


def write_sentence_piece(path: Path) -> None:
    """The vocabulary of a Llama 2, small: bytes, characters, and pieces with scores."""
    pieces = [
        "▁",
        "t",
        "h",
        "e",
        "c",
        "a",
        "s",
        "th",
        "the",
        "▁the",
        "at",
        "cat",
        "▁cat",
        "▁t",
        "▁c",
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(pieces))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_a_vocabulary_that_would_be_cut_wrongly_is_refused(tmp_path):
    metadata = read_gguf(write_model(tmp_path / "m.gguf", pre="tekken")).metadata
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.pre: expected one of .* got 'tekken'"):
        Tokenizer(metadata)
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.model: expected .* got 'bert'"):
        Tokenizer(metadata | {"tokenizer.ggml.model": "bert"})


def test_without_the_package_the_error_names_it(monkeypatch, ours):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match="pip install gguf tokenizers"):
        Tokenizer({"tokenizer.ggml.model": "gpt2"})
