"""The first file that runs in a sandbox (copied there): give up rights, then serve the grader.

It stands alone, next to the few modules that `staging_dir` copies. What it gives up, in this order:
the view of the disk (`COURSE_CHROOT`), the network where a namespace may be had, root, and the
system calls of `FORBIDDEN`.
"""

import contextlib
import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

#: The one folder that can be written to, if any can.
SCRATCH = "/scratch"
#: System calls that fail with EPERM, by machine: reading other processes, sockets, memory that no
#: limit on a process counts, mounts, and parts of the kernel that nobody needs.
FORBIDDEN: dict[str, dict[str, int]] = {
    "x86_64": {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438,
        "kcmp": 312, "socket": 41, "memfd_create": 319, "memfd_secret": 447, "shmget": 29,
        "msgget": 68, "semget": 64, "mq_open": 240, "bpf": 321, "perf_event_open": 298,
        "userfaultfd": 323, "io_uring_setup": 425, "add_key": 248, "request_key": 249,
        "keyctl": 250, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166,
        "pivot_root": 155, "chroot": 161, "name_to_handle_at": 303, "open_by_handle_at": 304,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
        "fspick": 433, "mount_setattr": 442,
    },
    "aarch64": {
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438,
        "kcmp": 272, "socket": 198, "memfd_create": 279, "memfd_secret": 447, "shmget": 194,
        "msgget": 186, "semget": 190, "mq_open": 180, "bpf": 280, "perf_event_open": 241,
        "userfaultfd": 282, "io_uring_setup": 425, "add_key": 217, "request_key": 218,
        "keyctl": 219, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39,
        "pivot_root": 41, "chroot": 51, "name_to_handle_at": 264, "open_by_handle_at": 265,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
        "fspick": 433, "mount_setattr": 442,
    },
}  # fmt: skip
#: System calls whose arguments are looked at: `clone` may make no namespace, so `clone3`, whose
#: arguments cannot be seen, is "not there"; a pair of sockets is of streams (`SOCK_STREAM`), since
#: one of datagrams can send to any socket of the machine that has a name.
LOOKED_AT = {
    "x86_64": {"clone": 56, "clone3": 435, "socketpair": 53},
    "aarch64": {"clone": 220, "clone3": 435, "socketpair": 199},
}
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x00020000, 0x08000000, 0x40000000
#: All CLONE_NEW* that clone takes.
_NAMESPACES = 0x7E020000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 1 << 14, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22


def give_up_rights(libc: ctypes.CDLL) -> None:
    """Become the sandbox's user, where we are still root."""
    user = int(os.environ["COURSE_SANDBOX_UID"])
    if user == 0 or os.geteuid() != 0:
        return
    root = os.environ.pop("COURSE_CHROOT", "")
    if root:  # a container may forbid namespaces: see `SeparateUser.promise`
        libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC)
        if libc.unshare(_CLONE_NEWNS) == 0:
            mount_scratch(libc, root, user)
        os.chroot(root)
        os.chdir(SCRATCH)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    os.umask(0o077)
    libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def mount_scratch(libc: ctypes.CDLL, root: str, user: int) -> None:
    """A folder in memory for a user, seen by this process and those that it starts."""
    libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    options = f"size={os.environ['COURSE_DISK']},nr_inodes=20000,mode=700,uid={user},gid={user}"
    flags = _MS_NOSUID | _MS_NODEV
    libc.mount(b"scratch", (root + SCRATCH).encode(), b"tmpfs", flags, options.encode())


def forbid_calls(libc: ctypes.CDLL) -> None:
    """Make the calls of `FORBIDDEN` fail, for this process and all that it will start."""
    machine = platform.machine()
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if machine not in FORBIDDEN:
        return
    text = seccomp_filter(machine)

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    program = Program(len(text) // 8, text)
    libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)


def seccomp_filter(machine: str) -> bytes:
    """The classic BPF program for `forbid_calls` (linux/seccomp.h, linux/filter.h).

    Args:
        machine: "x86_64" or "aarch64".
    """
    load, equal, at_least, any_bit, keep_bits, leave = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    allow, refuse, absent, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
    first, second = 16, 24  # where the arguments stand
    special, numbers = LOOKED_AT[machine], sorted(FORBIDDEN[machine].values())
    steps = [(load, 0, 0, 4), (equal, 1, 0, _AUDIT[machine]), (leave, 0, 0, kill), (load, 0, 0, 0)]
    steps += [(equal, 0, 1, special["clone3"]), (leave, 0, 0, absent)]
    steps += [(equal, 0, 4, special["clone"]), (load, 0, 0, first), (any_bit, 0, 1, _NAMESPACES)]
    steps += [(leave, 0, 0, refuse), (leave, 0, 0, allow)]
    steps += [(equal, 0, 5, special["socketpair"]), (load, 0, 0, second), (keep_bits, 0, 0, 0xF)]
    steps += [(equal, 1, 0, 1), (leave, 0, 0, refuse), (leave, 0, 0, allow)]
    # The second table of x86 (x32) starts at 1 << 30; no program of ours calls it.
    steps.append((at_least, len(numbers) + 1, 0, 1 << 30))
    for i, number in enumerate(numbers):
        steps.append((equal, len(numbers) - i, 0, number))
    steps += [(leave, 0, 0, allow), (leave, 0, 0, refuse)]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


if __name__ == "__main__":
    _libc = ctypes.CDLL(None, use_errno=True)
    _sizes = -1
    with contextlib.suppress(OSError):  # opened here: a chroot has no /proc
        _sizes = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    give_up_rights(_libc)
    if os.environ.get("COURSE_UNSAFE") != "1":
        forbid_calls(_libc)
    sys.path.insert(0, os.environ.pop("COURSE_STAGE", "") or str(Path(__file__).parents[3]))
    from course_tools.sandbox.inside.worker import main

    main(int(os.environ.pop("COURSE_LINE")), _sizes)
