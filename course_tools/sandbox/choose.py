"""Which back end locks submissions in here: the strongest that passes its self-test."""

import sys
from pathlib import Path

from course_tools.sandbox.backends import Backend, Bubblewrap, SeparateUser, Unsafe
from course_tools.sandbox.cgroups import Cgroup, SandboxError
from course_tools.sandbox.selftest import failures


def choose(unsafe: bool, *closed: Path) -> Backend:
    """The strongest back end that passes its self-test here.

    Args:
        unsafe: take `Unsafe` instead, without any test.
        closed: folders that submissions must not be able to read, such as the teacher's; the home
            folder is one of them anyway.

    Raises:
        SandboxError: if none passes; the message says what to install or allow.
    """
    if unsafe:
        return Unsafe()
    reasons: list[str] = []
    for backend in (Bubblewrap(), SeparateUser()):
        wrong = backend.missing()
        if wrong is None:
            found = failures(backend, [Path.home(), *closed])
            if not found:
                backend.limits_note = Cgroup.kind()
                for reason in reasons:
                    print(f"not used {reason}", file=sys.stderr)
                return backend
            wrong = f"its self-test failed ({'; '.join(found)})"
        backend.close()
        reasons.append(f"- {backend.name}: {wrong}")
    raise SandboxError(
        "submissions are strangers' programs, and none of the ways to lock them in works here:\n"
        + "\n".join(reasons)
        + "\nTo grade files that you trust without any protection, add --unsafe."
    )
