"""Find the numbers of the documents again, and compare them with the committed list (appendix B).

For a maintainer who has the documents:

    python -m course_tools.build.source_numbers FOLDER

prints what is missing or different, and exits with 1 if anything is. The folder holds one text
file a document, whose name begins with its number (000 to 004).
"""

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from course_lib.factcheck.record import DOCUMENTS, load_numbers

#: Digits after an e of a formula that lost its layout; digits with thousands separators; all other
#: digits, with dots and an exponent (5.4824.482 is two numbers glued together, and stays so); and
#: numbers written as words. Signs are left out: in plain text a minus is often a dash.
NUMBER = re.compile(
    r"(?<=e)\d+(?:\.\d+)*"
    r"|\d{1,3}(?:,\d{3})+(?!\d)"
    r"|\d+(?:\.\d+)*(?:e[+-]?\d+)?"
    r"|\b(?:zero|two|three|four|five|six|seven|eight|nine|ten|twelve|twice|half|hundred|thousand)\b",
    re.IGNORECASE,
)


def numbers_of(text: str) -> Iterator[tuple[int, list[str]]]:
    """Lines with numbers in them: (line, counted from 1; its numbers in order)."""
    for line, content in enumerate(text.split("\n"), 1):
        tokens = NUMBER.findall(content)
        if tokens:
            yield line, tokens


def committed(document: str) -> dict[int, list[str]]:
    """The same, from the committed list: line -> numbers."""
    lines: dict[int, list[str]] = {}
    for row in load_numbers():
        if row.document == document:
            lines.setdefault(row.line, []).extend(row.tokens)
    return lines


def differences(folder: Path) -> list[str]:
    """What the documents in a folder and the committed lists disagree on.

    Args:
        folder: where the documents are.

    Returns:
        One line each; empty if nothing differs.

    Raises:
        FileNotFoundError: if a document is not there, or there twice.
    """
    found = []
    for number, document in DOCUMENTS.items():
        files = sorted(folder.glob(f"{number}_*.txt"))
        if len(files) != 1:
            raise FileNotFoundError(
                f"folder: expected one file {number}_*.txt in {folder}; got {len(files)}"
            )
        content = files[0].read_bytes()
        if hashlib.sha256(content).hexdigest() != document.sha256:
            found.append(f"{number}: another text than the one that was audited")
        text = content.decode("utf-8")
        if len(text.split()) != document.words:
            found.append(f"{number}: {len(text.split())} words, {document.words} in the record")
        here, kept = dict(numbers_of(text)), committed(number)
        for line in sorted(here.keys() | kept.keys()):
            if here.get(line, []) != kept.get(line, []):
                found.append(
                    f"{number}, line {line}: {here.get(line, [])} in the text, "
                    f"{kept.get(line, [])} in the list"
                )
    return found


def main(arguments: Sequence[str]) -> int:
    """Compare and print; 1 if anything differs."""
    if len(arguments) != 1:
        print("usage: python -m course_tools.build.source_numbers FOLDER")
        return 2
    found = differences(Path(arguments[0]))
    print("\n".join(found) or "every number of the five documents is in the list")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
