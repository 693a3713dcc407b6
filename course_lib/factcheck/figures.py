"""Tables and the figure of appendix B: claims, verdicts and what they rest on."""

import html
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.figure import Figure as Canvas

from course_lib.factcheck.finding import Finding
from course_lib.factcheck.record import (
    DOCUMENTS,
    VERDICTS,
    Claim,
    Disagreement,
    Verdict,
    load_claims,
    load_references,
)
from course_lib.figures.palette import BLOCKED, INK, LEAK, RULE, VISIBLE, WEIGHT_SCALE
from course_lib.figures.plot import Figure

#: Colour and hatch of each verdict: apart for the colour-blind, and in grey.
_LOOKS: dict[Verdict, tuple[str, str]] = {
    "holds": (VISIBLE, ""),
    "wrong": (LEAK, "xx"),
    "depends": (WEIGHT_SCALE[1], "//"),
    "cited": (BLOCKED, ""),
    "not knowable": ("#FFFFFF", ".."),
}
_CELL = "text-align:left;vertical-align:top;white-space:normal"


class Page:
    """A table with words in its cells: HTML where that can be shown, plain text elsewhere.

    Args:
        caption: what the table shows.
        columns: names of the columns.
        rows: as many cells each as there are columns.
        folded: show the caption only, until somebody opens it.
    """

    def __init__(
        self,
        caption: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        folded: bool = False,
    ) -> None:
        self.caption, self.columns, self.folded = caption, tuple(columns), folded
        self.rows = [tuple(row) for row in rows]
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"rows: expected {len(self.columns)} cells each; got {row!r}")

    def __repr__(self) -> str:
        lines = [self.caption]
        for row in self.rows:
            cells = (f"{c}: {_plain(v)}" for c, v in zip(self.columns, row, strict=True) if v)
            lines += textwrap.wrap(" | ".join(cells), 110, subsequent_indent="    ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="{_CELL}">{_safe(c)}</th>' for c in self.columns)
        body = "".join(
            "<tr>"
            + f'<th scope="row" style="{_CELL}">{_safe(row[0])}</th>'
            + "".join(f'<td style="{_CELL}">{_safe(cell)}</td>' for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        caption = f'<caption style="{_CELL}">{_safe(self.caption)}</caption>'
        name = html.escape(self.caption, quote=True)
        inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        # A wide table scrolls inside a region of its own, which the keyboard can reach.
        region = f'<div role="region" aria-label="{name}" tabindex="0" style="overflow-x:auto">'
        if not self.folded:
            return f"{region}<table>{caption}{inner}</div>"
        summary = f"<summary>{_safe(self.caption)}</summary>"
        return f'<details>{summary}{region}<table aria-label="{name}">{inner}</div></details>'


def claims_page(
    claims: Iterable[Claim],
    findings: Mapping[str, Finding],
    caption: str,
    *,
    folded: bool = False,
) -> Page:
    """Claims with their verdicts and evidence.

    Args:
        claims: what to show, in this order.
        findings: id -> what was computed (claims that are not computed need none).
        caption: what the table shows.
        folded: show the caption only, until somebody opens it.
    """
    columns = ["claim", "in our words", "verdict", "evidence", "what is right, or when"]
    rows: list[tuple[str, ...]] = [
        (c.id, c.says, findings[c.id].verdict if c.check else c.verdict, *_evidence(c, findings))
        for c in claims
    ]
    if not any(row[-1] for row in rows):  # nothing to add to any of them
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Page(caption, columns, rows, folded)


def disagreements_page(disagreements: Iterable[Disagreement], caption: str) -> Page:
    """Where documents contradict each other, and who is right when."""
    return Page(
        caption,
        ("question", "one side", "other side", "who is right, and when"),
        ((d.question, *(f"{s} ({', '.join(ids)})" for s, ids in d.sides), d.answer)
         for d in disagreements),
    )  # fmt: skip


def counts(verdicts: Mapping[str, Verdict]) -> dict[str, dict[Verdict, int]]:
    """How often each verdict was given: document -> verdict -> number of claims."""
    return {
        number: {
            v: sum(verdicts[c.id] == v for c in load_claims().values() if c.document == number)
            for v in VERDICTS
        }
        for number in DOCUMENTS
    }


def verdicts_view(verdicts: Mapping[str, Verdict]) -> Figure:
    """The verdicts of each document, as bars of a hundred percent.

    Args:
        verdicts: id of each claim -> its verdict.
    """
    table = counts(verdicts)
    canvas = Canvas(figsize=(7.4, 3.0))
    ax = canvas.subplots()
    for y, row in enumerate(table.values()):
        left, total = 0.0, sum(row.values())
        for verdict, n in row.items():
            color, hatch = _LOOKS[verdict]
            ax.barh(
                y, n / total, left=left, color=color, hatch=hatch, edgecolor=RULE, height=0.7,
                label=verdict if y == 0 else None,
            )  # fmt: skip
            if n:
                ax.text(
                    left + n / total / 2, y, str(n), ha="center", va="center", fontsize=8.5,
                    color=INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2},
                )  # fmt: skip
            left += n / total
    names = [
        f"{number} {DOCUMENTS[number].name} ({sum(row.values())})" for number, row in table.items()
    ]
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"], fontsize=9)
    ax.invert_yaxis()
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(length=0)
    canvas.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=len(VERDICTS),
        frameon=False,
        fontsize=9,
    )
    canvas.tight_layout()
    words = (
        f"{number} {DOCUMENTS[number].name}: "
        + ", ".join(f"{n} {verdict}" for verdict, n in row.items() if n)
        for number, row in table.items()
    )
    return Figure(
        canvas, f"Verdicts of each document, as shares of its claims. {'; '.join(words)}."
    )


def _evidence(claim: Claim, findings: Mapping[str, Finding]) -> tuple[str, str]:
    """What the verdict rests on, and what is to be added."""
    if claim.check:
        return findings[claim.id].computed, claim.right
    if claim.verdict == "cited":
        says = {"yes": "agrees", "no": "differs", "in part": "agrees in part"}[claim.agrees]
        return f"{_cited(claim)}: {says} (looked up: {claim.checked})", claim.right
    return claim.why + (f" ({_cited(claim)})" if claim.cite else ""), claim.right


def _cited(claim: Claim) -> str:
    """Authors, year and place of everything that a claim cites."""
    references = load_references()
    return "; ".join(" ".join(filter(None, references[key])) for key in claim.cite)


def _plain(text: str) -> str:
    """Without arXiv numbers and addresses: authors and year lead to the bibliography."""
    return re.sub(r" (?:arXiv:\d{4}\.\d{5}|https://[^\s;:)]+)", "", text)


def _safe(text: str) -> str:
    """Escaped, with arXiv numbers and addresses as links."""
    linked = r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>'
    text = re.sub(r"arXiv:(\d{4}\.\d{5})", linked, html.escape(text, quote=True))
    return re.sub(r'(?<!")(https://[^\s;:)<"]+)', r'<a href="\1">its page</a>', text)
