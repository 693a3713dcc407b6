"""What the setup cell of every notebook calls (see `course build`)."""

import platform
import re
from collections.abc import Iterator
from importlib import metadata


def report() -> str:
    """One line with the versions that matter, the GPU if there is one, and what is missing.

    Returns:
        For example "course_lib 0.1.0, Python 3.13.15, NumPy 2.1.3, torch 2.11.0, GPU: Tesla T4".
        The setup cell installs nothing but `course_lib`; where one of its requirements is missing
        or too old, the line ends with the command that mends that.
    """
    import course_lib

    parts = [f"course_lib {course_lib.__version__}", f"Python {platform.python_version()}"]
    missing = list(_missing())
    if not any(line.startswith(("numpy", "torch")) for line in missing):
        import torch  # here, so that importing this module stays instant

        parts += [f"NumPy {metadata.version('numpy')}", f"torch {torch.__version__}"]
        there = torch.cuda.is_available()
        parts.append(f"GPU: {torch.cuda.get_device_name()}" if there else "no GPU")
    if missing:
        wanted = " ".join(f'"{line}"' for line in missing)
        parts.append(f"missing or too old: %pip install {wanted} (then restart the kernel)")
    return ", ".join(parts)


def _missing() -> Iterator[str]:
    """The requirements of `course_lib` that this environment does not meet."""
    try:
        wanted = metadata.requires("course_lib") or []
    except metadata.PackageNotFoundError:  # a folder on the path, not installed
        return
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
