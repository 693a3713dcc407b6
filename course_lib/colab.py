"""What the setup cell of every notebook calls (see `course build`)."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

#: What reads the real model: the extra `real` (a test compares it with pyproject.toml).
REAL = ("gguf>=0.17", "tokenizers>=0.22")


def report() -> str:
    """One line with the versions that matter, the GPU if there is one, and what is missing.

    Returns:
        For example "course_lib 0.1.0, Python 3.13.15, NumPy 2.1.3, torch 2.11.0, GPU: Tesla T4".
        The setup cell installs nothing but `course_lib`; where one of its requirements is missing
        or too old, the line ends with the command that mends that.
    """
    import course_lib

    parts = [f"course_lib {course_lib.__version__}", f"Python {platform.python_version()}"]
    missing = list(_missing(_required()))
    if not any(line.startswith(("numpy", "torch")) for line in missing):
        import torch  # here, so that importing this module stays instant

        parts += [f"NumPy {metadata.version('numpy')}", f"torch {torch.__version__}"]
        there = torch.cuda.is_available()
        parts.append(f"GPU: {torch.cuda.get_device_name()}" if there else "no GPU")
    if missing:
        wanted = " ".join(f'"{line}"' for line in missing)
        parts.append(f"missing or too old: %pip install {wanted} (then restart the kernel)")
    return ", ".join(parts)


def set_up(*, fetch_model: bool, keep_in: str = "") -> str:
    """What the setup cell calls where a notebook has a section "On a real model".

    On Colab it adds the packages that read the model, where they are missing, and fetches the
    model. Elsewhere it changes nothing: `make lab` has done so.

    Args:
        fetch_model: the box of the form that Colab shows.
        keep_in: a folder that outlives the machine, as on a mounted Drive; "": this machine.

    Returns:
        The line of `report`, and whether the model is here.
    """
    from course_lib.pretrained import HOW_TO_GET, VARIABLE, FetchError, fetch, find

    trouble = ""
    if "google.colab" in sys.modules:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *_missing(REAL)]
        if pip[-1] != "--no-deps":
            trouble = subprocess.run(pip, capture_output=True, text=True).stderr
        if fetch_model and not trouble:
            try:
                os.environ[VARIABLE] = str(fetch(keep_in or None))
            except FetchError as error:
                trouble = str(error)
    if trouble:
        return f"{report()}, no real model: {' '.join(trouble.split())}"
    return f"{report()}, {'the real model is here' if find() else HOW_TO_GET}"


def _required() -> list[str]:
    """The requirements of `course_lib`, extras included."""
    try:
        return metadata.requires("course_lib") or []
    except metadata.PackageNotFoundError:  # a folder on the path, not installed
        return []


def _missing(wanted: Iterable[str]) -> Iterator[str]:
    """Those of some requirements that this environment does not meet."""
    for line in wanted:
        plain = re.fullmatch(r"([\w.-]+)>=([\d.]+)", line.replace(" ", ""))
        if plain is None:  # of an extra
            continue
        try:
            version = metadata.version(plain[1])
        except metadata.PackageNotFoundError:
            yield plain[0]
            continue
        if _parts(version) < _parts(plain[2]):
            yield plain[0]


def _parts(version: str) -> tuple[int, ...]:
    """The numbers of a release: those of "2.11.0+cu128" are 2, 11, 0."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()
