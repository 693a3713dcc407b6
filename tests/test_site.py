"""The web site and the printed book, as `make site` and `make pdf` left them in build/.

`make test-site` builds both and runs this; it is not part of `make test`.
"""

import functools
import http.server
import re
import shutil
import threading
import unicodedata
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from course_tools.project import load_project
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.site

SITE = ROOT / "build" / "site"
BOOK = ROOT / "build" / "causal-attention.pdf"
PROJECT = load_project(ROOT)
CHAPTERS = [notebook.page for notebook in PROJECT.notebooks]
EXERCISES = sorted(f"exercises/{file.stem}" for file in (ROOT / "exercises").glob("*.ipynb"))

#: Serious faults that axe finds in the theme's own parts, and why they stay: (rule, selector).
THEME_FAULTS: dict[tuple[str, str], str] = {}
#: Faults of these weights fail a test.
GRAVE = {"serious", "critical"}
#: Opens what is folded, and leaves one word of each colour in each kind of code: axe takes half a
#: minute for the contrast of a chapter's ten thousand coloured words.
SHORTEN = """() => {
  document.querySelectorAll("article details").forEach((fold) => (fold.open = true));
  const seen = new Set();
  for (const word of document.querySelectorAll(".highlight pre span")) {
    const kind = word.className + " in " + word.closest(".highlight").parentElement.className;
    if (seen.has(kind)) word.replaceWith(...word.childNodes);
    seen.add(kind);
  }
}"""
#: Kinds of elements that load what they name, before anybody clicks.
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What a page names and offers: links, loaded files, anchors, pictures."""

    def __init__(self, file):
        super().__init__()
        self.links, self.loads, self.anchors, self.pictures = [], [], set(), []
        self.titles, self.text, self._skipping, self._article = 0, [], 0, 0
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors.update(x for x in (found.get("id"), found.get("name")) if x)
        self._article += tag == "article"
        self.titles += tag == "h1" and self._article  # the theme has one more, for paper
        self._skipping += tag in ("script", "style")
        if tag == "img":
            self.pictures.append(found)
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if found.get(LOADING.get(tag)) and found.get("rel") not in ("next", "prev", "canonical"):
            self.loads.append(found[LOADING[tag]])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        self._skipping -= tag in ("script", "style")
        self._article -= tag == "article"

    def handle_data(self, data):
        if not self._skipping:
            self.text.append(data)


@functools.cache
def page(file):
    return Page(file)


def files():
    """Every page of the site; the theme leaves templates in _static, which are none."""
    found = sorted(p for p in SITE.rglob("*.html") if "_static" not in p.parts)
    assert found, "there is no site: run `make site`"
    return found


def ours():
    """The pages whose text is the course's, as names."""
    names = [file.relative_to(SITE).with_suffix("").as_posix() for file in files()]
    return [n for n in names if not n.startswith(("_modules/", "genindex", "py-modindex"))]


# --- what is there -------------------------------------------------------------------------------


def test_every_chapter_and_every_exercise_has_a_page_that_the_front_page_links():
    assert len(EXERCISES) >= 7
    links = set(page(SITE / "index.html").links)
    for name in [*CHAPTERS, *EXERCISES, "references"]:
        assert (SITE / f"{name}.html").is_file(), name
        assert f"{name}.html" in links, f"the front page does not lead to {name}"


def test_every_page_has_one_title():
    for name in set(ours()) - {"search"}:  # the theme gives that one a lower heading
        assert page(SITE / f"{name}.html").titles == 1, name


def test_sphinx_had_nothing_to_complain_about_but_docstrings():
    for work in ("site-work", "print-work"):
        lines = (ROOT / "build" / work / "warnings.txt").read_text("utf-8").splitlines()
        assert [line for line in lines if line.strip() and "docstring of" not in line] == []


@pytest.mark.parametrize("name", [*CHAPTERS, *EXERCISES])
def test_a_page_holds_its_notebook_but_not_the_setup(name):
    text = re.sub(r"\s+", " ", "".join(page(SITE / f"{name}.html").text))
    cells = nbformat.read(ROOT / f"{name}.ipynb", as_version=4).cells
    shown, printed = 0, 0
    for cell in cells:
        code = re.sub(r"\s+", " ", cell.source).strip()
        if "setup" in cell.metadata.get("tags", []):
            assert code not in text
        elif cell.cell_type == "code":
            assert code in text, cell.id
            shown += 1
            for output in cell.outputs:
                words = re.sub(r"\s+", " ", output.get("text", "")).strip()
                assert words in text, cell.id
                printed += bool(words)
    assert shown > 4 and printed > 4
    assert PROJECT.colab_url(f"{name}.ipynb") in page(SITE / f"{name}.html").links
    copy = SITE / f"{name}.ipynb"
    assert copy.read_bytes() == (ROOT / f"{name}.ipynb").read_bytes(), "the one to download"


def solved_lines():
    """Lines that only solutions hold: nothing that a student gets contains them."""
    shared = [*(ROOT / "course_lib").rglob("*.py"), *(ROOT / "notebooks" / "source").glob("*.py")]
    public = "\n".join(file.read_text("utf-8") for file in shared)
    for file in (ROOT / "exercises").glob("*.ipynb"):
        public += "\n".join(c.source for c in nbformat.read(file, as_version=4).cells)
    public = re.sub(r"\s+", "", public)
    for file in sorted((ROOT / "solutions").glob("*.py")):
        text = file.read_text("utf-8")
        for body in re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", text, re.DOTALL):
            lines = (re.sub(r"\s+", "", line.partition("  #")[0]) for line in body.splitlines())
            yield from (line for line in lines if len(line) > 24 and line not in public)


def test_no_solution_is_in_the_site_or_in_the_book():
    lines = set(solved_lines())
    assert len(lines) > 50, "the search finds something to look for"
    texts = {file: re.sub(r"\s+", "", "".join(page(file).text)) for file in files()}
    texts |= {file: re.sub(r"\s+", "", file.read_text("utf-8")) for file in SITE.rglob("*.ipynb")}
    texts[BOOK] = re.sub(r"\s+", "", "".join(sheets()))
    for file, text in texts.items():
        found = [line for line in lines if line in text]
        assert not found, f"{file.relative_to(ROOT)} holds {found[0]!r}"
    assert not [p for p in SITE.rglob("*") if p.name in ("solutions", "hidden", "teaching")]


# --- links ---------------------------------------------------------------------------------------


def test_every_internal_link_and_file_resolves():
    checked = 0
    for file in files():
        for target in {*page(file).links, *page(file).loads}:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            assert not parts.scheme, f"{file.relative_to(SITE)}: {target}"
            goal = (file.parent / unquote(parts.path)).resolve() if parts.path else file.resolve()
            assert goal.is_file(), f"{file.relative_to(SITE)}: {target} leads nowhere"
            assert goal.is_relative_to(SITE.resolve()), f"{file.relative_to(SITE)}: {target}"
            if parts.fragment and goal.suffix == ".html":
                anchor = unquote(parts.fragment)
                assert anchor in page(SITE / goal.relative_to(SITE.resolve())).anchors, (
                    f"{file.relative_to(SITE)}: {target} has no such anchor"
                )
            checked += 1
    assert checked > 1000


def test_no_page_loads_anything_from_a_network():
    for file in files():
        for target in page(file).loads:
            scheme = urlsplit(target).scheme
            outside = scheme not in ("", "data") or target.startswith("//")
            assert not outside, f"{file.relative_to(SITE)} loads {target}"


def test_every_picture_has_words():
    seen = 0
    for name in ours():
        for picture in page(SITE / f"{name}.html").pictures:
            assert len(picture.get("alt") or "") > 20, f"{name}: {str(picture)[:200]}"
            seen += 1
    assert seen > 30


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("needs a Chromium on the PATH (Debian: apt-get install chromium)")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address():
    """A server of the site, as readers have it."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Silent, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module", params=["light", "dark"])
def tab(request, chromium, address):
    """A tab in one colour scheme that records requests and errors."""
    context = chromium.new_context(
        viewport={"width": 1200, "height": 900}, color_scheme=request.param
    )
    tab = context.new_page()
    tab.scheme, tab.asked, tab.errors = request.param, [], []
    tab.on("request", lambda r: tab.asked.append(r.url))
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    yield tab
    context.close()


def go(tab, url):
    """Open a page and wait until its formulas are set."""
    tab.goto(url, wait_until="load")
    tab.evaluate("() => window.MathJax?.startup?.promise")


def grave_faults(tab, options):
    """What axe finds and counts as serious or critical, without the theme's own faults."""
    violations = Axe().run(tab, options=options).response["violations"]
    found = [
        (fault["id"], ", ".join(map(str, node["target"])), node["html"][:200])
        for fault in violations
        if fault["impact"] in GRAVE
        for node in fault["nodes"]
    ]
    return [fault for fault in found if fault[:2] not in THEME_FAULTS]


@pytest.mark.parametrize("name", ours() if (SITE / "index.html").is_file() else ["index"])
def test_a_page_is_accessible_offline_and_fits(tab, address, name):
    tab.asked.clear()
    tab.errors.clear()
    tab.set_viewport_size({"width": 1200, "height": 900})
    go(tab, f"{address}/{name}.html")
    assert tab.evaluate("document.documentElement.dataset.theme") == tab.scheme
    tab.wait_for_function("!document.querySelector('.math') || document.querySelector('mjx-math')")
    tab.evaluate(SHORTEN)
    options = {"resultTypes": ["violations"]}
    if tab.scheme == "dark":  # colours are all that differs
        options["runOnly"] = ["color-contrast"]
    assert grave_faults(tab, options) == []
    assert [url for url in tab.asked if not url.startswith((address, "data:"))] == []
    assert tab.errors == []
    assert tab.locator("mjx-merror").count() == 0, "a formula that MathJax cannot read"
    if tab.scheme == "light":
        fits_a_telephone(tab, address, name)
    else:
        papers = tab.evaluate(
            "[...document.images].map((img) => getComputedStyle(img).backgroundColor)"
        )
        assert set(papers) <= {"rgb(255, 255, 255)"}, "figures are drawn for white paper"


def fits_a_telephone(tab, address, name):
    """Nothing sticks out, and what scrolls by itself can be reached with the keyboard."""
    tab.set_viewport_size({"width": 390, "height": 800})
    go(tab, f"{address}/{name}.html")
    wide = tab.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390, "on a telephone the page scrolls sideways"
    assert grave_faults(tab, {"runOnly": ["scrollable-region-focusable"]}) == []


def test_search_finds_the_chapters_of_a_word(tab, address):
    go(tab, f"{address}/search.html?q=prefill")
    tab.wait_for_selector("#search-results li a")
    tab.wait_for_function("/found/i.test(document.querySelector('#search-results').innerText)")
    hits = tab.eval_on_selector_all(
        "#search-results li > a", "links => links.map((a) => a.getAttribute('href'))"
    )
    assert any(hit.startswith("notebooks/05_kv_cache.html") for hit in hits), hits
    go(tab, f"{address}/search.html?q=zzzqqq")
    tab.wait_for_function(
        "/did not match any/.test(document.querySelector('#search-results').innerText)"
    )


def test_the_site_opens_from_a_folder_without_a_server(chromium):
    tab = chromium.new_page()
    asked = []
    tab.on("request", lambda r: asked.append(r.url))
    tab.goto((SITE / "notebooks" / "03_mask_before_softmax.html").as_uri(), wait_until="load")
    tab.evaluate("() => window.MathJax.startup.promise")
    assert tab.locator("mjx-math").count() > 20
    live = tab.locator("section.cx")
    assert live.count() == 2, "explorers play on the site as in a notebook"
    live.nth(1).get_by_role("radio", name="on", exact=True).click()
    assert live.nth(1).locator(".cx-words").inner_text().startswith("on: standard attention gives")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    tab.goto(f"{(SITE / 'search.html').as_uri()}?q=prefill", wait_until="load")
    tab.wait_for_selector("#search-results li a")
    tab.close()


# --- the printed book ----------------------------------------------------------------------------


@functools.cache
def book():
    pypdf = pytest.importorskip("pypdf")
    assert BOOK.is_file(), "there is no book: run `make pdf`"
    return pypdf.PdfReader(BOOK)


@functools.cache
def sheets():
    """The text of each page, without ligatures."""
    return [unicodedata.normalize("NFKC", sheet.extract_text()) for sheet in book().pages]


def bookmarks():
    """Title -> page (from 1) of the highest bookmarks."""
    reader = book()
    return {
        mark.title: reader.get_destination_page_number(mark) + 1
        for mark in reader.outline
        if not isinstance(mark, list)
    }


def test_the_book_is_tagged_titled_and_of_a_handy_size():
    root = book().trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"] and root["/StructTreeRoot"]
    assert root["/Lang"] == "en"
    assert "Causal attention" in book().metadata.title
    assert BOOK.stat().st_size < 20e6
    assert {tuple(map(round, p.mediabox.upper_right)) for p in book().pages} <= {(595, 842)}


def test_the_book_has_every_chapter_and_exercise_in_order():
    marks = bookmarks()
    starts = []
    for chapter in PROJECT.chapters:
        deeper = (more.page for more in PROJECT.deeper(chapter))
        for page in (chapter.page, *deeper, f"exercises/{chapter.name}"):
            file = ROOT / f"{page}.ipynb"
            if file.is_file():
                first = nbformat.read(file, as_version=4).cells[0].source
                title = re.match(r"# (.+)", first)[1].replace('"', "")
                (page_number,) = (n for t, n in marks.items() if re.sub("[“”]", "", t) == title)
                starts.append(page_number)
    assert starts == sorted(set(starts)), "each begins on a page of its own"


def test_the_contents_name_the_pages_where_chapters_stand():
    marks = bookmarks()
    last = min(n for title, n in marks.items() if title.startswith("1. "))
    contents = re.sub(r"\s+", "", "".join(sheets()[: last - 1]))
    assert "page000" not in contents
    for title, number in marks.items():
        if title != "Contents":
            assert re.sub(r"\s+", "", f"{title}{number}") in contents, title


def test_every_page_of_the_book_has_its_number_and_none_is_empty():
    for number, text in enumerate(sheets(), 1):
        assert len(text.strip()) > 40, f"page {number} is empty"
        if number > 1:
            assert re.search(rf"(^|\n)\s*{number}\s*($|\n)", text), f"page {number}"


def test_no_answer_is_left_folded_and_every_reference_names_a_page():
    folds = sum(
        len(re.findall(r"<details>", cell.source))
        for name in [*CHAPTERS, *EXERCISES]
        for cell in nbformat.read(ROOT / f"{name}.ipynb", as_version=4).cells
        if cell.cell_type == "markdown"
    )
    pointers = re.findall(r"(?:Answer|Hint \d): see\s+(\d+),\s+page\s+(\d+)", "\n".join(sheets()))
    assert folds > 100 and len(pointers) == folds
    for entry, number in pointers:
        target = sheets()[int(number) - 1]
        assert re.search(rf"(^|\n){entry}\. ", target), f"page {number} has no answer {entry}"


def test_the_pictures_of_the_book_have_words():
    figures = list(_figures(book().trailer["/Root"]["/StructTreeRoot"]))
    pictures = sum(
        len(re.findall("<img ", output.get("data", {}).get("text/html", "")))
        for name in CHAPTERS
        for cell in nbformat.read(ROOT / f"{name}.ipynb", as_version=4).cells
        for output in cell.get("outputs", [])
    )
    assert pictures > 25 and len(figures) == pictures
    assert all(len(str(figure.get("/Alt", ""))) > 20 for figure in figures)


def _figures(element):
    """Every element of the tag tree that is a picture."""
    todo = [element]
    while todo:
        node = todo.pop().get_object()
        if isinstance(node, list):
            todo.extend(x for x in node if not isinstance(x, int))
        elif hasattr(node, "get"):
            if node.get("/S") == "/Figure":
                yield node
            if "/K" in node and not isinstance(node["/K"], int):
                todo.append(node["/K"])


# --- the making of it ----------------------------------------------------------------------------


def test_every_reference_is_on_its_page_without_tex():
    bibliography = (ROOT / "docs" / "references.bib").read_text("utf-8")
    html = (SITE / "references.html").read_text("utf-8")
    entries = re.findall(r"<li id=.*?</li>", html, re.DOTALL)
    assert len(entries) == len(re.findall(r"^@", bibliography, re.MULTILINE))
    text = "".join(entries)
    assert "Aäron van den Oord" in text.replace("\xa0", " ")
    assert "{" not in text and "\\" not in text
