"""From the archive of benchmarks/on_gpu.sh to benchmarks/results, which chapter 7 draws."""

import json
import tarfile
from pathlib import Path
from typing import Any

#: The records that the script leaves, and the benchmark that each calls itself.
RECORDS = ("flash_gpu", "gpu_correct", "gpu_rules", "gpu_decisions", "gpu_model")
_MOST_BYTES = 5_000_000


def gpu_results(archive: Path, folder: Path) -> list[str]:
    """Write the records of an archive into a folder of results; all of them or none.

    Args:
        archive: OUT/on_gpu.tar.gz.
        folder: benchmarks/results.

    Returns:
        One line for each record: what it is of, and what failed in it.

    Raises:
        FileNotFoundError: if there is no such archive.
        ValueError: if it is no archive of that script, holds no record, or is of a dry run.
    """
    try:
        with tarfile.open(archive) as tar:
            found = {name: _record(tar, name) for name in RECORDS}
    except tarfile.TarError as error:
        raise ValueError(
            f"{archive}: expected the archive of benchmarks/on_gpu.sh: {error}"
        ) from None
    records = {name: record for name, record in found.items() if record is not None}
    if not records:
        raise ValueError(f"{archive}: expected one of {', '.join(RECORDS)}; got none")
    for name, record in records.items():
        if record.get("dry_run") is not False:
            raise ValueError(f"{archive}: {name} is of a dry run, whose numbers mean nothing")
    lines = []
    for name, record in records.items():
        new = folder / f"{name}.new"
        new.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        new.replace(folder / f"{name}.json")
        failed = record.get("failed") or {}
        told = f"{len(failed)} FAILED: {', '.join(failed)}" if failed else "nothing failed"
        lines.append(f"{name}: {record['hardware']['device']}, {record['date']}, {told}")
    return lines


def _record(tar: tarfile.TarFile, name: str) -> dict[str, Any] | None:
    """One record of the archive, or None if that part has not run."""
    try:
        member = tar.getmember(f"{name}.json")
    except KeyError:
        return None
    if not member.isfile() or member.size > _MOST_BYTES:
        raise ValueError(f"{name}.json: expected a file of at most {_MOST_BYTES} bytes")
    file = tar.extractfile(member)
    try:
        record = json.loads(file.read()) if file else None
    except ValueError as error:
        raise ValueError(f"{name}.json: expected JSON; got {error}") from None
    if not isinstance(record, dict) or record.get("benchmark") != name:
        raise ValueError(f"{name}.json: expected the record of {name}")
    return record
