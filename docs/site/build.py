"""Builds the book: `python docs/site/build.py site` (pages) or `... pdf` (one document to print).

Makefile targets `site` and `pdf` call it. `sources.py` writes what Sphinx reads, `conf.py` says
how it looks, `printing.py` turns the printed pages into a PDF.
"""

import argparse
import shutil
import sys
from pathlib import Path

from printing import print_pdf
from sources import write_sources
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from course_tools.project import Project, load_project

HERE = Path(__file__).parent


def main() -> int:
    """Build what the command line names, and say where it is."""
    parser = argparse.ArgumentParser(description="Build the book of the course.")
    parser.add_argument("what", choices=("site", "pdf"))
    parser.add_argument("--out", type=Path, help="folder of the pages, or file of the PDF")
    chosen = parser.parse_args()
    project = load_project(HERE)
    if chosen.what == "site":
        out = chosen.out or project.root / "build" / "site"
        status = build_site(project, out)
        print(f"The book: {out / 'index.html'}")
    else:
        out = chosen.out or project.root / "build" / "causal-attention.pdf"
        status = build_pdf(project, out)
        print(f"The printed book: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return status


def build_site(project: Project, out: Path) -> int:
    """All pages into the folder `out`, whose former content is deleted; Sphinx's exit status."""
    work = project.root / "build" / "site-work"
    shutil.rmtree(out, ignore_errors=True)
    write_sources(project, work / "source")
    return _sphinx("html", work, out)


def build_pdf(project: Project, out: Path) -> int:
    """The printed book into the file `out`; Sphinx's exit status."""
    work = project.root / "build" / "print-work"
    write_sources(project, work / "source", for_print=True)
    status = _sphinx("singlehtml", work, work / "html")
    out.parent.mkdir(parents=True, exist_ok=True)
    print_pdf(work / "html" / "index.html", out)
    return status


def _sphinx(builder: str, work: Path, out: Path) -> int:
    """Run Sphinx from an empty state; its warnings are also written to `work / "warnings.txt"`."""
    doctrees = work / "doctrees"
    shutil.rmtree(doctrees, ignore_errors=True)
    source = work / "source"
    with (
        (work / "warnings.txt").open("w+", encoding="utf-8") as warnings,
        patch_docutils(HERE),
        docutils_namespace(),
    ):
        app = Sphinx(
            source, HERE, out, doctrees, builder, freshenv=True, status=None, warning=warnings,
            tags=["print"] if builder == "singlehtml" else [],
            confoverrides={"html_extra_path": [str(source / "static")]},
        )  # fmt: skip
        app.build()
        warnings.seek(0)
        sys.stderr.write(warnings.read())
        return app.statuscode


if __name__ == "__main__":
    sys.exit(main())
