"""Explorers: parts of a chapter that a reader can touch (anywidget; chapters 2, 3 and others).

`base` holds what all share, `style` their colours, `static/` the JavaScript and the CSS.
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
