"""The limited process in which untrusted files are read (started by `reader`).

Archives, notebooks, their code and YAML are parsed here and nowhere else. Each request runs in a
fork of its own, under limits of the kernel on time and memory; what it answers is JSON of limited
length. A fork is cheap, because neither NumPy nor torch is loaded here.
"""

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from course_tools.grading import archives, platforms, read_notebook

#: Seconds of computing, and bytes of memory beyond what the process holds, of one request.
CPU_SECONDS, MEMORY = 10, 600 * 10**6
#: Most bytes of an answer.
MAX_ANSWER = 16 * 10**6
_LENGTH = struct.Struct(">Q")


def main() -> None:
    """Serve requests on standard input until it ends; the first one says what can be asked."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    functions: dict[str, Callable[..., Any]] = {"submitters": platforms.gradescope_submitters}
    setup = json.loads(receive(requests) or b"{}")
    _limit_memory()
    try:
        source = archives.open_source(Path(setup["source"]))
        known = read_notebook.Known.from_json(setup["known"])
        functions["listing"] = source.listing
        functions["read"] = lambda names: archives.read_files(source, names, known)
        functions["submitters"] = lambda name: platforms.gradescope_submitters(source.text(name))
        send(answers, b'{"value": null}')
    except Exception as error:
        send(answers, _error(error))
        return
    while (request := receive(requests)) is not None:
        asked = json.loads(request)
        send(answers, in_fork(functions[asked["do"]], asked["with"]))


def in_fork(function: Callable[..., Any], arguments: dict[str, Any]) -> bytes:
    """What a function gives, as JSON: {"value": ...} or {"error": "why not"}."""
    out, end = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.close(out)
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            _limit_memory()
            with open(end, "wb") as stream:  # noqa: PTH123 (a pipe)
                stream.write(_answer(function, arguments))
        os._exit(0)
    os.close(end)
    with open(out, "rb") as stream:  # noqa: PTH123
        answer = stream.read(MAX_ANSWER + 1)
    if len(answer) > MAX_ANSWER:
        os.kill(child, signal.SIGKILL)
        answer = b'{"error": "there is too much in it"}'
    _, status = os.waitpid(child, 0)
    if answer:
        return answer
    ended = os.waitstatus_to_exitcode(status)
    late = ended in (-signal.SIGXCPU, -signal.SIGKILL)
    return json.dumps({"error": "it takes too long to read" if late else "cannot be read"}).encode()


def _answer(function: Callable[..., Any], arguments: dict[str, Any]) -> bytes:
    try:
        return json.dumps({"value": function(**arguments)}).encode()
    except BaseException as error:
        return _error(error)


def _error(error: BaseException) -> bytes:
    if isinstance(error, MemoryError):
        why = "it needs too much memory to read"
    else:
        why = str(error) if isinstance(error, ValueError) else f"cannot be read ({error!r})"
    return json.dumps({"error": why[:300]}).encode()


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def send(stream: BinaryIO, data: bytes) -> None:
    """One message: its length, then itself."""
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """The next message, None at the end."""
    head = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else None


if __name__ == "__main__":
    main()
