"""The GPU benchmark: a dry run on a CPU, and what becomes of wrong or missing results."""

import json
import math

import pytest
import torch

from tests.helpers.triton import CUDA, poison  # noqa: F401

# isort: split
from benchmarks import flash_gpu as benchmark
from course_lib.figures.flash import gpu_view, steps_view


def run_dry(out, *arguments):
    """Exit status and record of a dry run: every section at tiny sizes, and no number of a GPU."""
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--dry-run", "--no-flex", "--out", str(out), *arguments])
    return ended.value.code, json.loads(out.read_text("utf-8"))


@pytest.mark.skipif(CUDA, reason="the interpreter was not switched on")
def test_the_benchmark_runs_dry_and_its_record_can_be_drawn(tmp_path, capsys):
    status, record = run_dry(tmp_path / "dry.json")
    assert status == 0 and record["dry_run"] and not record["failed"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == record["ratios"]
    for direction in ("forward", "backward"):
        assert {"ours", "ours full", "default"} <= set(record[direction]["d16_T32"])
        assert "cudnn" not in record[direction]["d16_T32"]
    assert "d16_T32 cudnn" in record["left_out"]  # demanded by name, so not replaced by another
    assert record["default_takes"] == {"d16_T32": "FLASH_ATTENTION (CPU)"}
    assert len(record["steps"]["d16_T32"]) == 8 and record["decode"]["gqa_dry"]["ours_ms"] > 0
    for figure in (gpu_view(record), steps_view(record)):
        assert "no GPU, a dry run whose times mean nothing" in figure.alt


@pytest.mark.skipif(CUDA, reason="the interpreter was not switched on")
def test_a_section_that_fails_or_has_no_time_leaves_the_others(tmp_path, monkeypatch):
    def broken(record, **_):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(benchmark, "decode", broken)
    monkeypatch.setattr(benchmark, "one_shape", lambda record, **_: record["ratios"].update(one=1))
    status, record = run_dry(tmp_path / "dry.json")
    assert status == 1 and record["failed"] == {
        "decode": "RuntimeError: an illegal memory access was encountered"
    }
    assert record["ratios"] == {"one": 1} and len(record["steps"]["d16_T32"]) == 8
    status, record = run_dry(tmp_path / "dry.json", "--minutes", "-1")
    assert set(record["left_out"].values()) == {"no time left"} and not record["ratios"]
    assert [path.name for path in tmp_path.iterdir()] == ["dry.json"]  # no half-written file


@pytest.mark.parametrize("way", ["--dry-run", "--quick"])
def test_a_dry_or_quick_run_never_becomes_the_record(capsys, way):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main([way])
    assert "--out: expected another file" in capsys.readouterr().err


def test_a_failure_to_prepare_flex_attention_is_not_ours(monkeypatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(benchmark, "flex_call", no_memory)
    record = {"failed": {}, "left_out": {}}
    benchmark.flex(record, None, D=16, length=32)
    assert list(record["left_out"]) == ["d16_T32 flex"] and not record["failed"]


@pytest.mark.skipif(CUDA, reason="the interpreter was not switched on")
def test_a_wrong_result_of_ours_fails_the_run(tmp_path, monkeypatch, capsys):
    original = benchmark.variants
    # The causal kernel forgets its mask, and the others are right.
    monkeypatch.setattr(
        benchmark, "variants", lambda: original() | {"ours": original()["ours full"]}
    )
    status, record = run_dry(tmp_path / "dry.json")
    assert status == 1 and "is off by" in record["failed"]["d16_T32 ours"]
    assert "ours" not in record["forward"]["d16_T32"] and "default" in record["forward"]["d16_T32"]
    assert "forward_d128_.._over_cudnn: not measured" in capsys.readouterr().out


def test_the_benchmark_finds_a_wrong_result():
    right = torch.ones(3)
    assert benchmark.compare("o", right * 1.01, right, 0.03) == pytest.approx(0.01)
    for wrong in (right * 1.1, right * math.nan):
        with pytest.raises(ValueError, match="dq is off by"):
            benchmark.compare("dq", wrong, right, 0.03)
