"""What a GPU measured becomes the course's results, whole or not at all."""

import io
import json
import tarfile

import pytest

from course_tools.gpu_results import RECORDS, gpu_results


def archive(path, **records):
    """An archive of records, each given as what differs from a good one."""
    with tarfile.open(path, "w:gz") as tar:
        for name, change in records.items():
            record = {
                "benchmark": name, "dry_run": False, "date": "2026-12-01",
                "hardware": {"device": "a GPU"}, "failed": {}, **change,
            }  # fmt: skip
            data = change["raw"] if "raw" in change else json.dumps(record).encode()
            member = tarfile.TarInfo(f"{name}.json")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_the_records_are_written_and_what_failed_is_said(tmp_path):
    made = archive(
        tmp_path / "a.tar.gz", flash_gpu={"ratios": {"x": 1}}, gpu_rules={"failed": {"one": "why"}}
    )
    lines = gpu_results(made, tmp_path)
    assert lines[0] == "flash_gpu: a GPU, 2026-12-01, nothing failed"
    assert lines[1].endswith("1 FAILED: one")
    assert json.loads((tmp_path / "flash_gpu.json").read_text())["ratios"] == {"x": 1}
    assert {p.name for p in tmp_path.glob("*.json")} == {"flash_gpu.json", "gpu_rules.json"}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({}, "expected one of flash_gpu"),
        ({"flash_gpu": {}, "gpu_model": {"dry_run": True}}, "gpu_model is of a dry run"),
        ({"flash_gpu": {"benchmark": "another"}}, "expected the record of flash_gpu"),
        ({"flash_gpu": {}, "gpu_rules": {"raw": b"[1]"}}, "expected the record of gpu_rules"),
        ({"flash_gpu": {"raw": b"{"}}, "expected JSON"),
    ],
    ids=str,
)
def test_an_archive_that_is_no_measurement_changes_nothing(tmp_path, records, message):
    made = archive(tmp_path / "a.tar.gz", **records)
    with pytest.raises(ValueError, match=message):
        gpu_results(made, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_what_is_no_archive(tmp_path):
    (tmp_path / "a.tar.gz").write_text("text")
    with pytest.raises(ValueError, match=r"expected the archive of benchmarks/on_gpu\.sh"):
        gpu_results(tmp_path / "a.tar.gz", tmp_path)
    assert len(RECORDS) == 5
