"""The back ends: each proves itself before it is used, and a start that fails leaves nothing."""

import os
import platform
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from course_lib.checks.script import Call, Case
from course_tools.sandbox import backends, chroot, selftest
from course_tools.sandbox.backends import Backend, Bubblewrap, SeparateUser, Unsafe
from course_tools.sandbox.cgroups import Cgroup, Limits, SandboxError
from course_tools.sandbox.choose import choose
from course_tools.sandbox.inside.start import FORBIDDEN, LOOKED_AT, seccomp_filter
from course_tools.sandbox.session import Session
from course_tools.sandbox.staging import staging_dir
from tests.helpers.attacks import usable

KINDS = usable(Bubblewrap, SeparateUser)


@pytest.mark.parametrize("kind", KINDS)
def test_a_back_end_passes_its_self_test(kind, tmp_path):
    with closing(kind()) as backend:
        assert selftest.failures(backend, [Path.home(), tmp_path]) == []
    assert list(tmp_path.iterdir()) == []


class Leaky(Bubblewrap):
    """Bubblewrap with a hole in its arguments, or in what runs inside."""

    name = "leaky"

    def __init__(self, without=(), file="", was="", becomes=""):
        super().__init__()
        self.without, self.change = without, (file, was, becomes)

    def _bwrap_args(self, limits, shown=()):
        text = "\0".join(super()._bwrap_args(limits, shown))
        for part in self.without:
            assert part in text
            text = text.replace(part, "", 1)
        return [part for part in text.split("\0") if part]

    def plan(self, stage, limits, line, slot):
        file, was, becomes = self.change
        if file:
            inside = stage / "course_tools/sandbox/inside" / file
            assert (was in inside.read_text("utf-8")) or becomes in inside.read_text("utf-8")
            inside.write_text(inside.read_text("utf-8").replace(was, becomes), "utf-8")
        return super().plan(stage, limits, line, slot)


NO_FILTER = {"file": "start.py", "was": '!= "1":\n', "becomes": '== "2":\n'}


@pytest.mark.parametrize(
    ("hole", "words"),
    [
        ({"without": ["--ro-bind\0/proc/sys\0/proc/sys\0--remount-ro\0/proc"]}, "write to /proc"),
        ({"without": ["--unshare-net"], **NO_FILTER}, "reached a listener of the grader (AF_INET)"),
        ({"without": ["--unshare-net"], **NO_FILTER}, "it sent to a socket of the grader"),
        ({"file": "worker.py", "was": "_emptied(os.environ[\"HOME\"])", "becomes": "True"},
         "a file outlived its exercise"),
    ],
)  # fmt: skip
def test_the_self_test_sees_a_hole(hole, words, tmp_path, monkeypatch):
    if Bubblewrap().missing():
        pytest.skip(f"bubblewrap: {Bubblewrap().missing()}")
    monkeypatch.setattr(selftest, "_took", lambda session: [])
    with closing(Leaky(**hole)) as backend:
        assert words in " ".join(selftest.failures(backend, [tmp_path]))


class Open(Unsafe):
    """No walls, but what the unsafe one would do to this machine is left out of the probe."""

    name = "open"


def test_a_back_end_without_walls_fails_it(tmp_path, monkeypatch):
    (tmp_path / "lee.ipynb").write_text("{}")
    monkeypatch.setattr(selftest, "_ask", only_readers(selftest._ask))
    found = " ".join(selftest.failures(Open(), [tmp_path]))
    assert "it read" in found
    assert "environment variable" in found
    assert "AF_INET" in found and "sent to a socket" in found
    assert os.geteuid() != 0 or "it is root outside" in found
    assert "outlived" not in found  # not asked


def only_readers(ask):
    """The probe's questions, with made answers to those that write, signal and fork."""
    made = {"daemon": 1, "alive": False, "left": []}
    readers = ("readable", "variables", "connected", "sent", "owner")
    return lambda session, name, *args: (
        ask(session, name, *args) if name in readers else made.get(name)
    )


def test_the_grader_refuses_where_nothing_passes(monkeypatch):
    monkeypatch.setattr(Bubblewrap, "missing", lambda self: "bubblewrap is not installed")
    monkeypatch.setattr(SeparateUser, "missing", lambda self: None)
    monkeypatch.setattr(
        "course_tools.sandbox.choose.failures", lambda backend, closed: ["it read /secret"]
    )
    with pytest.raises(SandboxError) as error:
        choose(False)
    assert "bubblewrap is not installed" in str(error.value)
    assert "self-test failed (it read /secret)" in str(error.value)
    assert "--unsafe" in str(error.value)


def test_unsafe_is_taken_only_when_asked_for():
    assert isinstance(choose(True), Unsafe)


def test_the_missing_program_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(backends.shutil, "which", lambda name: None)
    assert "apt install bubblewrap" in Bubblewrap().missing()


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="only CI must have bubblewrap")
def test_ci_has_bubblewrap_wherever_namespaces_are_possible():
    tried = subprocess.run(["unshare", "--user", "--map-root-user", "true"], check=False)
    if tried.returncode == 0:
        assert Bubblewrap().missing() is None


class Broken(Backend):
    """Its program complains and ends."""

    name = promise = "broken"
    last = None

    def missing(self):
        return None

    def plan(self, stage, limits, line, slot):
        return ["/bin/sh", "-c", "echo 'no such wall' >&2; exit 3"], {}

    def start(self, stage, limits, slot=0):
        started = super().start(stage, limits, slot)
        Broken.last = started.group.folders if started.group else ()
        return started


def test_a_start_that_fails_says_why_and_leaves_no_group():
    with (
        staging_dir() as stage,
        Session(Broken(), stage, {}) as session,
        pytest.raises(SandboxError, match="no such wall"),
    ):
        session.run("0.0", "f", "f = 1\n", [Case([])])
    assert not any(folder.exists() for folder in Broken.last)


class Nowhere(Broken):
    """It cannot even be begun."""

    def plan(self, stage, limits, line, slot):
        raise OSError("no room")


def test_a_start_that_cannot_begin_leaves_no_group_and_no_descriptor():
    before = open_files(), groups()
    with staging_dir() as stage, pytest.raises(SandboxError, match="no room"):
        Nowhere().start(stage, Limits())
    assert (open_files(), groups()) == before


def open_files():
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


def groups():
    mine = f"course-{os.getpid()}-*"
    return sorted(p for p in Path("/sys/fs/cgroup").rglob(mine)) if Cgroup.make else []


def test_only_a_few_harmless_modules_are_in_the_stage():
    with staging_dir() as stage:
        files = sorted(str(p.relative_to(stage)) for p in stage.rglob("*.py"))
        texts = "".join((stage / file).read_text("utf-8") for file in files)
    assert files == [
        "course_lib/__init__.py",
        "course_lib/checks/__init__.py",
        "course_lib/checks/codec.py",
        "course_lib/checks/error_location.py",
        "course_lib/checks/run.py",
        "course_lib/checks/script.py",
        "course_tools/__init__.py",
        "course_tools/sandbox/__init__.py",
        "course_tools/sandbox/inside/__init__.py",
        "course_tools/sandbox/inside/replay.py",
        "course_tools/sandbox/inside/shared_arguments.py",
        "course_tools/sandbox/inside/start.py",
        "course_tools/sandbox/inside/wire.py",
        "course_tools/sandbox/inside/worker.py",
    ]
    assert "def pairs" not in texts
    assert not stage.exists()


def run_filter(program, machine, number, arguments=(0, 0)):
    """Interpret the BPF program on one system call: the value that it leaves with."""
    steps = [struct.unpack("<HBBI", program[i : i + 8]) for i in range(0, len(program), 8)]
    audit = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
    at, held = 0, 0
    while True:
        code, yes, no, k = steps[at]
        at += 1
        if code == 0x20:
            held = {0: number, 4: audit[machine], 16: arguments[0], 24: arguments[1]}[k]
        elif code == 0x54:
            held &= k
        elif code == 0x06:
            return k
        else:
            at += yes if {0x15: held == k, 0x35: held >= k, 0x45: held & k}[code] else no


@pytest.mark.parametrize("machine", FORBIDDEN)
def test_the_filter_refuses_what_is_listed_and_nothing_else(machine):
    program = seccomp_filter(machine)
    listed, special = set(FORBIDDEN[machine].values()), LOOKED_AT[machine]
    for number in sorted(set(range(500)) - set(special.values())):
        assert run_filter(program, machine, number) == (0x50001 if number in listed else 0x7FFF0000)
    clone, pair = special["clone"], special["socketpair"]
    assert run_filter(program, machine, special["clone3"]) == 0x50026
    assert run_filter(program, machine, clone, (17, 0)) == 0x7FFF0000
    assert run_filter(program, machine, clone, (0x3D0F00, 0)) == 0x7FFF0000, "a thread"
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 1 << 28, 1 << 29, 1 << 30):
        assert run_filter(program, machine, clone, (namespace | 17, 0)) == 0x50001
    for kind, allowed in (
        (1, True),
        (1 | 0x80800, True),
        (2, False),
        (5, False),
        (2 | 0x800, False),
    ):
        assert run_filter(program, machine, pair, (1, kind)) == (0x7FFF0000 if allowed else 0x50001)
    assert run_filter(program, machine, (1 << 30) + 5) == 0x50001
    other = next(m for m in FORBIDDEN if m != machine)
    assert run_filter(program, other, 1) == 0x80000000


@pytest.mark.parametrize("kind", KINDS)
def test_the_filter_is_in_force(kind):
    if platform.machine() not in FORBIDDEN:
        pytest.skip(f"no table of system calls for {platform.machine()}")
    source = "import ctypes\ndef f():\n    return ctypes.CDLL(None).ptrace(0, 0, 0, 0)\n"
    assert outcome_of(kind, source).values == (-1,)


def outcome_of(kind, source):
    with closing(kind()) as backend, staging_dir() as stage, Session(backend, stage, {}) as session:
        return session.run("0.0", "f", source, [Case([Call()])])[0]


def test_the_chroot_holds_python_and_nothing_of_ours(tmp_path):
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can make it")
    with staging_dir() as stage:
        folder = chroot.build(stage)
    try:
        names = {p.name for p in folder.iterdir()}
        assert [p.name for p in (folder / "proc").iterdir()] == ["cpuinfo"]
        assert names <= {"tmp", "scratch", "dev", "proc", "sys", "stage", "lib", "lib64", "usr",
                         "etc", "bin", "opt",
                         *(Path(p).parts[1] for p in (sys.prefix, sys.base_prefix))}  # fmt: skip
        assert [p.name for p in (folder / "etc").iterdir()] in ([], ["ld.so.cache"])
        assert not list(folder.rglob("claims.py"))
        assert not list(folder.rglob("*.ipynb"))
        assert list(folder.rglob("torch/__init__.py"))
    finally:
        chroot.shutil.rmtree(folder)


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_is_narrowed_to_what_it_holds_and_so_much_more(tmp_path, version):
    """By the files of both versions; of version 2 only these, where the machine has version 1."""
    names = {
        1: ["memory.usage_in_bytes", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
        2: ["memory.current", "memory.max"],
    }[version]
    used, *limits = (tmp_path / name for name in names)
    used.write_text("500\n")
    for file in limits:
        file.write_text("2000\n")
    cached = "cache" if version == 1 else "file"
    (tmp_path / "memory.stat").write_text(f"{cached} 200\nshmem 50\n")
    group = Cgroup([tmp_path])
    group.narrow(100, 1000)
    assert {file.read_text() for file in limits} == {"450"}, "pages of files can be dropped"
    group.narrow(100, 300)
    assert {file.read_text() for file in limits} == {"400"}, "what was left before is no room"
    group.narrow(None, 0)
    assert {file.read_text() for file in limits} == {"2000"}


@pytest.mark.parametrize("kind", KINDS)
def test_torch_knows_its_processor(kind):
    """Without it, a conversion to float16 is an error of torch's, and not of the answer."""
    source = "import torch\ndef f():\n    return torch.zeros(5, 5).to(torch.float16)\n"
    assert outcome_of(kind, source).problem is None
