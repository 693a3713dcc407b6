"""What a sandbox gets to see of the disk: this Python, read-only, and a few modules of ours."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: The first file that runs in a sandbox, below the staging folder.
START = "course_tools/sandbox/inside/start.py"
_ROOT = Path(__file__).parents[2]
#: Modules that the sandbox needs, by their path in the repository; all else stays outside.
_STAGED = [
    *(_ROOT / f"course_lib/checks/{n}.py" for n in ("codec", "error_location", "run", "script")),
    *(_ROOT / "course_tools" / "sandbox" / "inside").glob("*.py"),
]


def python_folders() -> list[Path]:
    """Folders that hold this Python, its packages and the system's libraries."""
    wanted = [Path("/usr"), Path(sys.base_prefix), Path(sys.prefix)]
    wanted += [Path("/etc/ld.so.cache")]
    real: list[Path] = []
    for folder in (p for p in wanted if p.exists()):
        if not any(folder.is_relative_to(one) for one in real):
            real.append(folder)
    return real


@contextlib.contextmanager
def staging_dir() -> Iterator[Path]:
    """A folder with the few modules that the sandbox needs, readable by any user."""
    for old in Path(tempfile.gettempdir()).glob("course-stage-*-*"):  # of graders that were killed
        owner = old.name.split("-")[2]
        if owner.isdigit() and Path("/proc/self").exists() and not Path("/proc", owner).exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"course-stage-{os.getpid()}-"))
    try:
        for file in _STAGED:
            target = folder / file.relative_to(_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        for part in ("course_lib", "course_lib/checks", "course_tools", "course_tools/sandbox"):
            (folder / part / "__init__.py").write_text("", "utf-8")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
