"""A folder that `SeparateUser` locks a stranger into: Python and its libraries, nothing else.

The files are hard links where the disk allows it (seconds, no room), else copies. All belongs to
root and nothing in it can be written, so nothing can be left behind or filled up; where the worker
may mount, it has a folder in memory at `SCRATCH` (see `start`).
"""

import contextlib
import importlib.metadata
import os
import re
import shutil
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from course_tools.sandbox.inside.start import SCRATCH

_NAME = "course-chroot-"
#: Folders that no answer needs; packages are linked one by one (`_packages`).
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "include", "share", "idlelib"}
_SKIPPED |= {"tkinter", "turtledemo", "lib2to3", "ensurepip"}
#: What the system says about its processors, copied.
_PROCESSORS = [Path("/proc/cpuinfo")]
_PROCESSORS += [Path("/sys/devices/system/cpu", name) for name in ("possible", "present")]
_DEVICES = {"null": (1, 3), "zero": (1, 5), "urandom": (1, 9)}


def build(stage: Path) -> Path:
    """Make such a folder.

    Args:
        stage: the folder from `staging_dir`; it lies in it as /stage.

    Returns:
        The folder; remove it with `shutil.rmtree`.

    Raises:
        OSError: if there is no room or no right to make it.
    """
    base = _base()
    _sweep(base)
    root = Path(tempfile.mkdtemp(prefix=f"{_NAME}{os.getpid()}-", dir=base))
    try:
        root.chmod(0o755)
        for folder in (SCRATCH.lstrip("/"), "dev"):
            (root / folder).mkdir(mode=0o755)
        for source in _wanted():
            _link(source, root)
        if not (root / "tmp").exists():  # Python may live there
            (root / "tmp").symlink_to(SCRATCH)
        shutil.copytree(stage, root / "stage")
        for name, number in _DEVICES.items():
            with contextlib.suppress(OSError):  # some containers forbid devices; the worker copes
                os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(*number))
                (root / "dev" / name).chmod(0o666)
        for file in _PROCESSORS:  # torch's conversions to float16 want to know the processor
            with contextlib.suppress(OSError):
                copy = root / file.relative_to("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
                copy.chmod(0o444)
        for folder, _, _ in os.walk(root):
            Path(folder).chmod(0o755)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return root


def _base() -> Path:
    """A folder on the disk that Python's packages lie on, so that they can be linked."""
    disk = Path(sysconfig.get_path("platlib")).stat().st_dev
    for folder in (Path(tempfile.gettempdir()), Path(sys.prefix)):
        if folder.stat().st_dev == disk and os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.gettempdir())


def _sweep(base: Path) -> None:
    """Remove the folders of graders that were killed."""
    for old in base.glob(f"{_NAME}*-*"):
        owner = old.name.removeprefix(_NAME).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(old, ignore_errors=True)


def _wanted() -> Iterator[Path]:
    """What Python needs: its own folders, the packages, the system's libraries."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for prefix in dict.fromkeys((sys.base_prefix, sys.prefix)):
        place = Path(prefix)
        yield from sorted((place / "bin").glob("python*"))
        yield from (
            p for p in (place / "pyvenv.cfg", place / "lib64") if p.is_symlink() or p.is_file()
        )
        yield from (p for p in (place / "lib" / version,) if p.is_dir())
        yield from _libraries(place / "lib")
    yield from {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    yield from _packages()
    yield Path(sys.executable).resolve()
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"):
        if Path(folder).is_symlink():
            yield Path(folder)
        for part in (Path(folder), *Path(folder).glob("*-linux-*")):
            yield from _libraries(part)
    yield from (p for p in (Path("/etc/ld.so.cache"),) if p.is_file())


def _packages() -> Iterator[Path]:
    """What the course needs, and what that needs in turn."""
    todo, seen = ["numpy", "torch", "triton", "course_lib"], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # of another platform, or optional
            continue
        for line in package.requires or ():
            if "extra ==" not in line:
                todo.append(re.split(r"[^\w.-]", line, maxsplit=1)[0])
        tops = {file.parts[0] for file in package.files or () if file.parts[0] != ".."}
        yield from (Path(str(package.locate_file(top))) for top in sorted(tops - {"__pycache__"}))


def _libraries(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (p for p in sorted(folder.iterdir()) if ".so" in p.name)


def _link(source: Path, root: Path) -> None:
    """Put a file, a link or a folder into the new root, at its own path."""
    target = root / str(source).lstrip("/")
    if not target.parent.resolve().is_relative_to(root.resolve()):
        return  # below an absolute link such as /lib -> /usr/lib: its files are linked there
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink() or source.is_file():
        _one(str(source), str(target))
        if source.is_dir():  # what it points to must be there, if only empty
            (root / str(source.resolve()).lstrip("/")).mkdir(parents=True, exist_ok=True)
        return
    shutil.copytree(
        source, target, symlinks=True, copy_function=_one, dirs_exist_ok=True,
        ignore=lambda _, names: [n for n in names if n in _SKIPPED or n.startswith(_NAME)],
    )  # fmt: skip


def _one(source: str, target: str, *, follow_symlinks: bool = False) -> None:
    """A hard link, or a copy where none can be made; symbolic links stay such."""
    old, new = Path(source), Path(target)
    if os.path.lexists(new):
        return
    if old.is_symlink():
        new.symlink_to(old.readlink())
        return
    public = old.stat().st_mode & stat.S_IROTH
    try:
        if public:
            os.link(old, new)
            return
    except OSError:  # another disk
        pass
    shutil.copyfile(old, new)
    new.chmod(0o755 if old.stat().st_mode & stat.S_IXUSR else 0o644)
