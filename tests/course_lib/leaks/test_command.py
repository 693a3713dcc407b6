"""The command: what it takes for a target, what it answers, how it exits."""

import subprocess
import sys

import pytest
import torch

from course_lib.leaks.__main__ import main
from course_lib.leaks.targets import find_target
from course_tools import cli
from tests.helpers.paths import ROOT

MODELS = """
import torch

EMBEDDING = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double()

def running_mean(tokens):
    x = EMBEDDING[tokens]
    return x.cumsum(1) / torch.arange(1, x.shape[1] + 1).double()[:, None]

def mean(tokens):
    x = EMBEDDING[tokens]
    return x - x.mean(1, keepdim=True)

def factory():
    return running_mean
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "audited_models.py").write_text(MODELS, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("audited_models", None)


@pytest.mark.parametrize("command", [main, lambda words: cli.main(["audit", *words])])
def test_a_causal_function_passes_and_a_leaking_one_does_not(here, capsys, command):
    assert command(["audited_models:running_mean", "--vocab-size", "9"]) == 0
    assert "pass  future influence" in capsys.readouterr().out
    assert command(["audited_models:mean", "--vocab-size", "9"]) == 1
    assert "output 0" in capsys.readouterr().out
    assert command(["audited_models:factory", "--vocab-size", "9"]) == 0


def test_a_class_of_transformers_is_made_tiny_and_a_saved_folder_is_read(tmp_path):
    model = find_target("transformers:LlamaForCausalLM")
    assert sum(w.numel() for w in model.parameters()) < 10**5 and not model.training
    model.save_pretrained(tmp_path)
    again = find_target(str(tmp_path))
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing", "target: expected transformers:CLASS, module:name or the folder"),
        ("math:cow", "target: math has no cow"),
        ("no_such_module:x", "No module named 'no_such_module'"),
        ("transformers:pipeline", "target: expected a model class of transformers"),
    ],
)
def test_what_cannot_be_tested_is_said_in_one_line(target, message, capsys):
    assert main([target]) == 2
    assert message in capsys.readouterr().err


def test_it_runs_as_a_module():
    words = [sys.executable, "-m", "course_lib.leaks", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "TARGET" in done.stdout
