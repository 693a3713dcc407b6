"""Explorers: parts of a chapter that a reader can touch (chapters 2, 3, 5 to 7).

`base` holds what all share, `page` makes of them what a notebook keeps, `bridge` lets Python and
the views follow each other, `style` has the colours, `static/` the JavaScript and the CSS.
"""

from course_lib.explorers.base import Explorer
from course_lib.explorers.compare import CompareExplorer
from course_lib.explorers.flash import FlashExplorer
from course_lib.explorers.generation import GenerationExplorer
from course_lib.explorers.mask import MaskExplorer
from course_lib.explorers.mask_builder import MaskBuilder
from course_lib.explorers.walk import CodeWalk

__all__ = [
    "CodeWalk",
    "CompareExplorer",
    "Explorer",
    "FlashExplorer",
    "GenerationExplorer",
    "MaskBuilder",
    "MaskExplorer",
]
