"""Fonts for tokens in any script: a font of the system where matplotlib's own lacks a sign.

What matplotlib brings (DejaVu Sans) has Latin, Greek, Cyrillic, Arabic and more, but no Chinese,
Japanese, Korean or Indic signs and few emoji. Where no font of the system has them either, boxes
are drawn, and the figure says which signs they stand for.
"""

import unicodedata
import warnings
from functools import cache

from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontEntry, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

OWN = "DejaVu Sans"


def lay_out(canvas: Canvas) -> None:
    """Give every text a font that has its signs, then the panels the room that they need."""
    choose_fonts(canvas)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph|Tight layout|Matplotlib currently", UserWarning)
        canvas.tight_layout()


def choose_fonts(canvas: Canvas) -> str:
    """Give every text of a figure the fonts that it needs beside matplotlib's own.

    Returns:
        The signs that no font of this system has, in order; usually none.
    """
    missing, own = set(), _signs_of(findfont(OWN))
    for text in canvas.findobj(Text):
        strange = {sign for sign in text.get_text() if ord(sign) not in own}
        fonts = {sign: font_with(sign) for sign in strange if _is_drawn(sign)}
        missing |= {sign for sign, font in fonts.items() if font is None}
        found = sorted({font for font in fonts.values() if font is not None})
        if found:
            text.set_fontfamily([*text.get_fontfamily(), *found])
    return "".join(sorted(missing))


def _is_drawn(sign: str) -> bool:
    """Whether a sign has a shape: not so blanks, joiners of emoji and choices between shapes."""
    return unicodedata.category(sign)[0] not in "CZ" and not 0xFE00 <= ord(sign) <= 0xFE0F


@cache
def font_with(sign: str) -> str | None:
    """A font family of the system that has a sign, upright and of normal weight if there is one."""

    def rank(font: FontEntry) -> tuple[bool, int, str]:
        return font.style != "normal", abs(_weight(font) - 400), font.name

    for font in sorted(fontManager.ttflist, key=rank):
        if not font.name.startswith("Last Resort") and ord(sign) in _signs_of(font.fname):
            return font.name
    return None


def _weight(font: FontEntry) -> int:
    return font.weight if isinstance(font.weight, int) else 400


@cache
def _signs_of(file: str) -> frozenset[int]:
    """The code points that a font file has; none if it cannot be read."""
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
