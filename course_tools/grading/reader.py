"""Reads untrusted files in a limited process beside the grader (`reader_child`).

The grader never parses an archive, a notebook, code or YAML of a student itself: what does so can
be stopped, may use so much time and memory and no more, and answers in JSON of limited length.
"""

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from course_tools.grading.archives import Listing, Record
from course_tools.grading.read_notebook import Known

#: Seconds until an answer must be there, far beyond what the child's own limits allow.
_SECONDS = 90.0
_MAX_ANSWER = 20 * 10**6
_START = (
    "import sys; sys.path[:0] = [{root!r}]; from course_tools.grading.reader_child import main;"
    " main()"
)


class UnreadableError(ValueError):
    """What cannot be read; the message says why, for people."""


class Reader:
    """A limited process for one folder or archive; it is started again where it had to be ended.

    Args:
        source: a folder, a zip file or a single file.
        known: the exercises and lessons, by which notebooks are told apart.
    """

    def __init__(self, source: Path, known: Known) -> None:
        self.source, self.known = source, known
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and all that it started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with self._process:  # closes its pipes and waits
                pass
            self._process = None

    def listing(self) -> Listing:
        """What is in it, by names only.

        Raises:
            UnreadableError: if that cannot be read.
        """
        return Listing.from_json(self._ask("listing"))

    def read(self, names: Sequence[str]) -> list[Record]:
        """What files hold, archives among them unpacked.

        Args:
            names: of one student's files, as `listing` gives them.

        Raises:
            UnreadableError: if that takes too long, or too much memory, or comes out malformed.
        """
        try:
            return [Record.from_json(one) for one in self._ask("read", names=list(names))]
        except (TypeError, KeyError, AttributeError) as error:
            raise UnreadableError(f"cannot be read ({type(error).__name__})") from None

    def submitters(self, name: str) -> dict[str, Any]:
        """What a file of Gradescope's says: folder -> {"time", "people"}; see `platforms`."""
        return self._ask("submitters", name=name)

    def _ask(self, what: str, **arguments: Any) -> Any:
        if self._process is None:
            self._start()
        return self._exchange({"do": what, "with": arguments})

    def _start(self) -> None:
        root = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START.format(root=root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={}, start_new_session=True,
        )  # fmt: skip
        try:
            self._exchange({"source": str(self.source), "known": self.known.to_json()})
        except UnreadableError:
            self.close()
            raise

    def _exchange(self, message: dict[str, Any]) -> Any:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        data = json.dumps(message).encode()
        end = time.monotonic() + _SECONDS
        try:
            process.stdin.write(struct.pack(">Q", len(data)) + data)
            process.stdin.flush()
            (size,) = struct.unpack(">Q", self._take(8, end))
            if size > _MAX_ANSWER:
                raise UnreadableError("there is too much in it")
            answer = json.loads(self._take(size, end))
        except (OSError, ValueError, RecursionError, struct.error) as error:
            self.close()
            known = isinstance(error, UnreadableError)
            raise error if known else UnreadableError("cannot be read") from None
        if not isinstance(answer, dict) or "value" not in answer:
            raise UnreadableError(str(answer.get("error", "cannot be read"))[:300])
        return answer["value"]

    def _take(self, size: int, end: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        line, data = self._process.stdout.fileno(), bytearray()
        while len(data) < size:
            if not select.select([line], [], [], max(0.0, end - time.monotonic()))[0]:
                raise UnreadableError("it takes too long to read")
            part = os.read(line, min(size - len(data), 1 << 20))
            if not part:
                raise OSError("it ended")
            data += part
        return bytes(data)
