"""Claims about reading GGUF files: every stored type, and errors that say what is wrong."""

import sys

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize, quantize

from course_lib.gguf_file import read_gguf
from tests.helpers.gguf_models import SMALL, write_model

#: Bits a weight, from none lost to four kept.
STORED = ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q4_1", "Q4_0"]


@pytest.mark.parametrize("stored", STORED)
def test_a_weight_comes_back_as_it_was_stored(stored, tmp_path):
    kind = GGMLQuantizationType[stored]
    rows = np.random.default_rng(1).normal(size=(2500, 64)).astype(np.float32)  # some slabs of rows
    file = read_gguf(write_model(tmp_path / "m.gguf", kind=kind, extra={"more.weight": rows}))
    found = file.weight("more.weight")
    assert found.dtype == torch.float32 and found.shape == rows.shape
    np.testing.assert_array_equal(found.numpy(), dequantize(quantize(rows, kind), kind))
    assert torch.equal(file.weight("more.weight", torch.bfloat16), found.bfloat16())
    assert file.weight("output_norm.weight").shape == (SMALL.width,)


def test_settings_are_read_under_the_names_of_the_format(tmp_path):
    metadata = read_gguf(write_model(tmp_path / "m.gguf")).metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.attention.head_count_kv"] == SMALL.kv_heads
    assert len(metadata["tokenizer.ggml.tokens"]) == SMALL.vocab_size


def test_what_is_no_whole_gguf_file_is_refused_with_its_path(tmp_path):
    whole = write_model(tmp_path / "m.gguf").read_bytes()
    cases = {
        "empty": b"", "text": b"# not a model\n" * 99, "head": whole[:40], "cut": whole[:-5000],
        "later": whole[:4] + b"\x63" + whole[5:],
    }  # fmt: skip
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"expected a whole GGUF file; .*{name}"):
            read_gguf(path)
    with pytest.raises(FileNotFoundError, match=r"expected a GGUF file; .*nowhere\.gguf"):
        read_gguf(tmp_path / "nowhere.gguf")


def test_without_the_package_the_error_names_it(monkeypatch, tmp_path):
    path = write_model(tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModuleNotFoundError, match="pip install gguf tokenizers"):
        read_gguf(path)
