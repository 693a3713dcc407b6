"""Tokens in any script: drawn with a font of the system, or said to be missing."""

import warnings

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from course_lib.figures import fonts
from course_lib.figures.plot import grid

#: A sign for "book", the Hindi letter ka with a vowel, and a cat.
BOOK, KA, CAT = "\u672c", "\u0915\u093f", "\U0001f408"


@pytest.fixture
def install(tmp_path):
    """Install a font that has these signs, as squares, for one test."""
    before = list(fontManager.ttflist)

    def do(name, signs):
        names = [".notdef", *(f"u{ord(sign):05X}" for sign in signs)]
        pen = TTGlyphPen(None)
        for at, to in (((0, 0), pen.moveTo), ((0, 700), pen.lineTo), ((700, 700), pen.lineTo)):
            to(at)
        pen.closePath()
        font = FontBuilder(1000)
        font.setupGlyphOrder(names)
        font.setupCharacterMap({ord(sign): f"u{ord(sign):05X}" for sign in signs})
        font.setupGlyf(dict.fromkeys(names, pen.glyph()))
        font.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
        font.setupHorizontalHeader(ascent=800, descent=-200)
        font.setupNameTable({"familyName": name, "styleName": "Regular"})
        font.setupOS2()
        font.setupPost()
        font.save(tmp_path / f"{name}.ttf")
        fontManager.addfont(tmp_path / f"{name}.ttf")
        fonts.font_with.cache_clear()

    yield do
    fontManager.ttflist[:] = before
    fonts.font_with.cache_clear()


def families(figure, token):
    return [t.get_fontfamily() for t in figure.canvas.findobj(Text) if token in t.get_text()]


def one_cell(*names):
    return grid([[1.0] * len(names)], ["row"], names)


def test_a_token_is_drawn_with_a_font_of_the_system_that_has_its_signs(install):
    missing = one_cell(BOOK, KA, "plain")
    install("Of Books", BOOK)
    install("Of Hindi", KA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each sign that it cannot draw
        figure = one_cell(BOOK, KA, "plain")
        assert figure.png() != missing.png()
    assert figure.note == ""
    assert all(found[-1] == "Of Books" for found in families(figure, BOOK))
    assert all(found[-1] == "Of Hindi" for found in families(figure, KA))
    assert all(len(found) == 1 for found in families(figure, "plain"))


def test_what_no_font_has_is_said_in_the_words_and_below_the_picture(install):
    install("Of Books", BOOK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = one_cell(BOOK, f"{CAT}\ufe0f\u200d", "cat")
        said = f"No font on this computer has {CAT}."
        assert shown.alt.endswith(said) and shown._repr_html_().endswith(f"<small>{said}</small>")


def test_latin_text_is_drawn_as_ever_and_nothing_is_said():
    figure = one_cell("cat", "caf\u00e9", "\u2212\u221e")
    assert figure.note == "" and "<small>" not in figure._repr_html_()
    assert {tuple(f) for f in families(figure, "ca")} == {("sans-serif",)}
