"""The printed book: one long page becomes a PDF with contents, page numbers and bookmarks.

Chromium prints twice: page numbers are known only after the first time, and the contents and the
references to answers name them.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import DictionaryObject, NameObject, TextStringObject

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def print_pdf(page: Path, out: Path) -> None:
    """Print an HTML file, laid out by `print/book.js` and `print/print.css`.

    Args:
        page: the file; nothing that it needs may lie on a network.
        out: the PDF.

    Raises:
        FileNotFoundError: if no Chromium is on the PATH.
        ValueError: if an entry of the contents is on no page.
    """
    browser_path = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if browser_path is None:
        raise FileNotFoundError(
            "make pdf needs a Chromium on the PATH (Debian: apt-get install chromium)"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.resolve().as_uri(), wait_until="load")
        tab.evaluate("layBook()")
        _print(tab, out)
        tab.evaluate(f"namePages({json.dumps(_pages(out))})")
        _print(tab, out)
        _finish(out, tab.evaluate("bookmarks()"))
        browser.close()


def _print(tab: Page, out: Path) -> None:
    tab.pdf(path=out, prefer_css_page_size=True, print_background=True, outline=True, tagged=True)


def _pages(file: Path) -> dict[str, int]:
    """Where each target of a link is: its id -> page, counted from 1."""
    reader = PdfReader(file)
    found = {}
    for name, place in reader.named_destinations.items():
        page = reader.get_destination_page_number(place)
        if page is None or page < 0:
            raise ValueError(f"{file}: {name} is on no page")
        found[name.lstrip("/")] = page + 1
    return found


def _finish(file: Path, headings: list[str]) -> None:
    """Name the bookmarks as the headings are, and write the file anew, compressed."""
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it counts the objects it has added
    writer = PdfWriter(clone_from=file)
    writer.pdf_header = PdfReader(file).pdf_header
    marks = list(_outline(writer.root_object["/Outlines"]))
    if len(marks) != len(headings):
        raise ValueError(f"{file}: {len(headings)} headings, but {len(marks)} bookmarks")
    for mark, heading in zip(marks, headings, strict=True):
        mark[NameObject("/Title")] = TextStringObject(heading)
    writer.add_metadata({"/Subject": "A course on causal attention"})
    writer.write(file)


def _outline(parent: DictionaryObject) -> Iterator[DictionaryObject]:
    """All bookmarks below one, in the order of the pages."""
    child = parent.get("/First")
    while child is not None:
        mark = child.get_object()
        yield mark
        yield from _outline(mark)
        child = mark.get("/Next")
