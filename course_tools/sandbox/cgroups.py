"""What one submission may use, and the control groups that see to it (cgroup v1 and v2).

Where no group can be made, the limits of each process (rlimits) have to do, which reports say.
"""

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class SandboxError(RuntimeError):
    """No sandbox can be had; the message says what to install or allow."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Attributes:
        memory_mb: memory of all its processes together.
        processes: processes and threads at once.
        disk_mb: the folder that it may write to.
        cores: processors that all its processes together keep busy.
    """

    memory_mb: int = 2048
    processes: int = 128
    disk_mb: int = 64
    cores: float = 1.0


_GROUP = "course-"
#: Files with limits on memory of version 2 and of version 1, in the order in which they shrink.
_MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")


class Cgroup:
    """A group with limits on memory and processes (version 1 or 2), one a sandbox.

    Args:
        folders: its folders, one a controller.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._wide: dict[Path, str] | None = None

    def narrow(self, room: int | None, clean: int) -> None:
        """Limit memory to what is in use now and so much more, then as at the beginning again.

        Args:
            room: bytes; None for the limits that the group was made with.
            clean: bytes that may be in use; what else is counts against `room`, so that nothing
                that was left behind before makes it larger.

        Raises:
            OSError: if the kernel refuses.
        """
        files = self._files(*_MEMORY_LIMITS)
        if self._wide is None:
            self._wide = {file: file.read_text("utf-8").strip() for file in files}
        if room is None:
            for file in reversed(files):  # memory with swap cannot be less than memory
                file.write_text(self._wide[file], "utf-8")
            return
        most = min(self.memory_in_use(), clean) + room
        for file in files:
            file.write_text(str(most), "utf-8")

    def memory_in_use(self) -> int:
        """Bytes that it holds, without pages of files that lie on a disk: the kernel drops them."""
        used = self._files("memory.current", "memory.usage_in_bytes")[0]
        lines = (used.parent / "memory.stat").read_text("utf-8").splitlines()
        stat = {name: int(number) for name, number in (line.split() for line in lines)}
        cached = stat.get("file", stat.get("cache", 0)) - stat.get("shmem", 0)
        return int(used.read_text("utf-8")) - cached

    def processor_seconds(self) -> float | None:
        """What all its processes took, ended ones included; None where nobody counts."""
        for file in self._files("cpuacct.usage", "cpu.stat"):
            text = file.read_text("utf-8").split()
            if file.name == "cpuacct.usage":
                return int(text[0]) / 1e9
            if "usage_usec" in text:
                return int(text[text.index("usage_usec") + 1]) / 1e6
        return None

    def _files(self, *names: str) -> list[Path]:
        """Those of the files that there are, by their place among the names."""
        return [f / name for name in names for f in self.folders if (f / name).exists()]

    @classmethod
    def make(cls, limits: Limits) -> "Cgroup | None":
        """A new group, or None where none can be made."""
        name = f"{_GROUP}{os.getpid()}-{uuid.uuid4().hex[:12]}"
        for maker in (cls._version_2, cls._version_1):
            made: list[Path] = []
            try:
                maker(name, limits, made)
                return cls(made)
            except (OSError, KeyError, ValueError):
                for folder in made:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
        return None

    @classmethod
    def kind(cls) -> str:
        """How memory and processes are limited here, in words for reports."""
        group = cls.make(Limits())
        if group is None:
            return (
                "memory and processes are limited by rlimits only, which is weaker: each process "
                "has the limit, not all together"
            )
        group.remove()
        version = 1 if len(group.folders) > 1 else 2
        return f"memory and processes are limited by a control group (cgroup v{version})"

    @staticmethod
    def _version_2(name: str, limits: Limits, made: list[Path]) -> None:
        root = Path("/sys/fs/cgroup")
        own = root / Path("/proc/self/cgroup").read_text("utf-8").rpartition("::")[2].strip("/\n")
        places = dict.fromkeys((own, own.parent if own != root else root, root))
        for base in places:  # a group that holds processes itself can have no groups with limits
            with contextlib.suppress(OSError):
                ready = (base / "cgroup.subtree_control").read_text("utf-8").split()
                if {"memory", "pids"} <= set(ready):
                    folder = base / name
                    folder.mkdir()
                    made.append(folder)
                    (folder / "memory.max").write_text(str(limits.memory_mb * 10**6), "utf-8")
                    (folder / "pids.max").write_text(str(limits.processes), "utf-8")
                    share = f"{int(limits.cores * 100_000)} 100000"
                    for file, value in (("memory.swap.max", "0"), ("cpu.max", share)):
                        with contextlib.suppress(OSError):  # no swap, or the controller is not on
                            (folder / file).write_text(value, "utf-8")
                    _sweep(base)
                    return
        raise OSError("the controllers for memory and pids are not delegated")

    @staticmethod
    def _version_1(name: str, limits: Limits, made: list[Path]) -> None:
        own = dict(
            line.split(":", 2)[1:]
            for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines()
        )
        most, share = limits.memory_mb * 10**6, int(limits.cores * 100_000)
        settings = {
            "memory": {"memory.limit_in_bytes": most, "memory.memsw.limit_in_bytes": most},
            "pids": {"pids.max": limits.processes},
            "cpu": {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": share},
            "cpuacct": {},
        }
        for controller, values in settings.items():
            base = Path("/sys/fs/cgroup", controller, own.get(controller, "/").strip("/"))
            if not base.is_dir():  # the container sees its own group as the root
                base = Path("/sys/fs/cgroup", controller)
            try:
                (base / name).mkdir()
            except FileExistsError:  # two controllers with one folder
                pass
            except OSError:
                if controller in ("memory", "pids"):
                    raise
                continue
            else:
                made.append(base / name)
                _sweep(base)
            for file, value in values.items():
                optional = controller == "cpu" or "memsw" in file
                with contextlib.suppress(*([OSError] if optional else [])):
                    (base / name / file).write_text(str(value), "utf-8")

    def remove(self) -> None:
        """End what is left in it and remove it."""
        for folder in self.folders:
            for attempt in range(500):
                with contextlib.suppress(OSError, ValueError):
                    for line in (folder / "cgroup.procs").read_text("utf-8").split():
                        os.kill(int(line), signal.SIGKILL)
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.002 if attempt < 50 else 0.02)


def _sweep(base: Path) -> None:
    """Remove empty groups of graders that were killed."""
    for old in base.glob(f"{_GROUP}*-*"):
        owner = old.name.removeprefix(_GROUP).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            with contextlib.suppress(OSError):
                old.rmdir()  # only an empty one can be removed
