"""The lists of appendix B: claims, numbers, and where the documents disagree."""

import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["holds", "wrong", "depends", "cited", "not knowable"]

#: Every verdict that there is; the first three are computed.
VERDICTS: tuple[Verdict, ...] = ("holds", "wrong", "depends", "cited", "not knowable")
COMPUTED = VERDICTS[:3]

_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Document:
    """One of the five.

    Attributes:
        number: "000" to "004".
        name: what we call it.
        words: words of the text as we have it, separated by white space.
        sha256: of the file, so that one can tell whether one has the same text.
    """

    number: str
    name: str
    words: int
    sha256: str


#: number -> document.
DOCUMENTS: dict[str, Document] = {
    d.number: d
    for d in (
        Document(
            "000", "the blog article", 1492,
            "16d08bdda209ba9ecda6dce0f850be797e3257fce69f3c72d958a93f3b564d7f",
        ),
        Document(
            "001", "the short lesson", 576,
            "164b9afc172d35d4cdec30fe60d7ecdc56d3a4340355a585d6865902c1c3225c",
        ),
        Document(
            "002", "the textbook chapter", 5971,
            "2ee25101cb4a9b5c64c6424e2b41a7d5feb0ba09afba39319cb6ceac0ed8eeea",
        ),
        Document(
            "003", "the contract lesson", 989,
            "f0bc493d22b454015816e245aa1d1d48f210a1de0935799313f45b900b0d5865",
        ),
        Document(
            "004", "the REPL post", 761,
            "864a8ea6221077eea8da304ec0aad90525a091db77df6c2525620fafe0b5f78c",
        ),
    )
}  # fmt: skip

#: Numbers that claim nothing, by the key that `numbers.tsv` gives them.
REASONS: dict[str, str] = {
    "place": "number of a part, section, step, chapter, figure, question or list entry",
    "date": "date of the document",
    "reading": "minutes that a reader is told to take",
    "file": "part of the name of a file",
    "name": "part of the name of a model, a paper or a tool",
    "label": "label of a row, a column or an axis",
    "index": "subscript or limit in a formula, settled with the claim about that formula",
    "code": "argument, axis or index in code that is run as a whole by the check of its claim",
    "escape": "part of an escaped character",
    "example": "a value that is called an example",
}


@dataclass(frozen=True)
class Claim:
    """One thing that a document says, in our words.

    Attributes:
        id: document and running number, such as "002.17".
        at: lines of the text as we have it.
        kind: "number", "table", "code", "claim" or "reference".
        says: the claim.
        verdict: what the audit recorded; the tests compare it with what `settle` computes.
        check: name of the function that computes the verdict, or "".
        cite: keys of the bibliography, for "cited" and "not knowable".
        agrees: for "cited", whether the reference says the same: "yes", "no" or "in part".
        checked: for "cited", how far it was looked up: "passage" (seen, through a quotation),
            "abstract", "second-hand", or "earlier chapter" (checked for a chapter of the course).
        why: for "not knowable".
        right: what is right, or when; "" if nothing is to be added.
        expected: for checks of tables, the name of the truth.
        given: rows printed as input of the check.
        printed: rows as printed, digits kept.
    """

    id: str
    at: str
    kind: str
    says: str
    verdict: Verdict
    check: str = ""
    cite: tuple[str, ...] = ()
    agrees: str = ""
    checked: str = ""
    why: str = ""
    right: str = ""
    expected: str = ""
    given: tuple[str, ...] = ()
    printed: tuple[str, ...] = ()
    printed_pairs: tuple[str, ...] = field(default=(), repr=False)

    @property
    def document(self) -> str:
        """The number of its document."""
        return self.id[:3]


@dataclass(frozen=True)
class Number:
    """Numbers of one line of a document, in the order in which they are printed.

    Attributes:
        document: "000" to "004".
        line: line of the text as we have it.
        tokens: the numbers as they occur; glued ones (5.4824.482 for 5.482 and 4.482) stay glued.
        settled_by: id of a claim, or a key of `REASONS`.
    """

    document: str
    line: int
    tokens: tuple[str, ...]
    settled_by: str


@dataclass(frozen=True)
class Disagreement:
    """Where documents contradict each other, or one contradicts itself.

    Attributes:
        question: what they disagree on.
        sides: what is said, and the claims that say it.
        answer: who is right, and when.
    """

    question: str
    sides: tuple[tuple[str, tuple[str, ...]], ...]
    answer: str


@cache
def load_claims() -> dict[str, Claim]:
    """Every claim, id -> claim, in the order of the documents."""
    claims = {}
    for file in sorted(_DATA.glob("claims_*.toml")):
        for entry in tomllib.loads(file.read_text("utf-8"))["claim"]:
            claim = Claim(**{key: _frozen(value) for key, value in entry.items()})
            if claim.id in claims:
                raise ValueError(f"{file.name}: expected each id once; got {claim.id} again")
            claims[claim.id] = claim
    return dict(sorted(claims.items()))


@cache
def load_numbers() -> tuple[Number, ...]:
    """Every number of every document, in their order."""
    rows = []
    for line in (_DATA / "numbers.tsv").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            document, at, tokens, settled_by = line.split("\t")
            rows.append(Number(document, int(at), tuple(tokens.split()), settled_by))
    return tuple(rows)


@cache
def load_references() -> dict[str, tuple[str, str]]:
    """What claims cite: key of the bibliography -> authors and year, where to read it (or "")."""
    lines = (_DATA / "references.tsv").read_text("utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {key: (short, where) for key, short, where in rows}


@cache
def load_disagreements() -> tuple[Disagreement, ...]:
    """Where the documents disagree, and who is right when."""
    text = (_DATA / "disagreements.toml").read_text("utf-8")
    return tuple(
        Disagreement(
            entry["question"],
            tuple((side["says"], tuple(side["claims"])) for side in entry["side"]),
            entry["answer"],
        )
        for entry in tomllib.loads(text)["disagreement"]
    )


def parse(rows: tuple[str, ...]) -> list[NDArray[np.float64]]:
    """Printed rows as numbers, one array a row (rows may differ in length)."""
    return [np.array([float(token) for token in row.split()]) for row in rows]


def decimals(token: str) -> int:
    """How many decimals a printed number has, after its exponent is applied."""
    mantissa, _, exponent = token.lower().partition("e")
    places = len(mantissa.partition(".")[2])
    return places - int(exponent or 0)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
