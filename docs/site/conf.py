"""Sphinx configuration of the book; `build.py` writes the pages and calls Sphinx.

Nothing is executed and nothing is loaded from a network, neither now nor by the built pages.
"""

import re
from pathlib import Path

from course_lib import __version__

HERE = Path(__file__).parent
printing = tags.has("print")  # noqa: F821  (Sphinx puts `tags` here)

project = "Causal attention"
author = "the course's authors"
copyright = "the course's authors: text and figures CC BY 4.0, code MIT"
version = release = __version__
language = "en"

extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinxcontrib.bibtex"]
if not printing:
    extensions += ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
nitpicky = False

# --- notebooks: as they were saved
nb_execution_mode = "off"
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

# --- mathematics: MathJax from a package of the registry, copied by `build.py`
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}
mathjax_options = {"defer": "defer"}

# --- what the chapters cite
bibtex_bibfiles = ["../references.bib"]
bibtex_default_style = "plain"

# --- the library's pages
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # written out, NumPy's ArrayLike is ten lines long
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"

# --- pages
exclude_patterns = ["static"]  # `build.py` has it copied as it is
html_title = "Causal attention"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_last_updated_fmt = None
html_permalinks_icon = "#"
if printing:
    html_theme = "basic"
    templates_path = [str(HERE / "print")]
    html_static_path = [str(HERE / "print")]
    html_css_files = ["print.css"]
    html_js_files = ["book.js"]
    html_permalinks = False
    pygments_style = "a11y-high-contrast-light"
else:
    html_theme = "sphinx_book_theme"
    html_static_path = [str(HERE / "static")]
    html_css_files = ["palette.css", "site.css"]
    html_js_files = ["scrolling.js"]
    html_theme_options = {
        "use_download_button": False,
        "use_fullscreen_button": False,
        "show_toc_level": 2,
        "home_page_in_toc": True,
        "pygments_light_style": "a11y-high-contrast-light",
        "pygments_dark_style": "a11y-high-contrast-dark",
        "navigation_with_keys": False,
        "navbar_start": [],
        "navbar_center": [],
        "navbar_end": [],
        "navbar_persistent": [],
    }


def setup(app):  # noqa: ANN001, ANN201, D103
    if not printing:
        app.connect("autodoc-process-docstring", _from_markdown)


def _from_markdown(app, what, name, obj, options, lines):  # noqa: ANN001, ANN202
    """Docstrings are written as Markdown: plurals like `Arc`s, and tables, shown as they stand."""
    lines[:] = [re.sub(r"`([^`]+)`(?=\w)", r"`\1`\\ ", line) for line in lines]
    inside = False
    for i, line in reversed(list(enumerate(lines))):
        row = line.startswith("|")
        if row:
            lines[i] = f"    {line}"
        elif inside:
            lines[i + 1 : i + 1] = ["::", ""]
        inside = row
