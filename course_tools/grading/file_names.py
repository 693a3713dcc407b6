"""Safe names of files for the names of people (`course grade`)."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

#: Most letters of a name, and names that Windows keeps for itself.
_LONGEST, _RESERVED = 80, re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def file_names(names: Sequence[str]) -> dict[str, str]:
    """A safe file name for each name: ASCII, short, no two alike where case does not count.

    A name that had to be changed carries a mark made from the whole of it, so that the same
    student has the same file in every run.
    """
    plain = {name: _safe(name) for name in names}
    taken = Counter(file.casefold() for file in plain.values())
    return {
        name: file if taken[file.casefold()] == 1 else _marked(file, name)
        for name, file in plain.items()
    }


def _safe(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    file = re.sub(r"[^A-Za-z0-9_-]+", "_", letters).strip("_-") or "student"
    if file == name and len(file) <= _LONGEST and not _RESERVED.fullmatch(file):
        return file
    return _marked(file, name)


def _marked(file: str, name: str) -> str:
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{file[:_LONGEST]}-{mark}"
