"""The visual language of the course, defined once: figures, explorers, site and feedback use it.

Three colours carry meaning everywhere: visible, blocked, and leaked from the future. They come
from the Okabe-Ito palette, which people with the common kinds of colour blindness can tell apart
(M. Okabe and K. Ito, "Color Universal Design", 2008). Blocked cells also carry a hatch, and the
weight scale goes from light to dark, so that both survive a black-and-white printer.
"""

#: A key that the query may attend to.
VISIBLE = "#0072B2"
#: A key that the mask blocks.
BLOCKED = "#E3E3E3"
#: Information that came from the future although it must not.
LEAK = "#D55E00"
#: Lines of a plot, in the order in which they are handed out.
SERIES = (VISIBLE, LEAK, "#009E73", "#CC79A7", "#000000")
#: Text and rules.
INK = "#222222"
MUTED = "#6B6B6B"
#: Lines between cells, and the hatch of blocked ones.
RULE = "#BDBDBD"
#: The sequential scale of attention weights, from 0 to 1.
WEIGHT_SCALE = ("#FFFFFF", "#9CC9E3", VISIBLE, "#00263D")
#: The diverging scale of differences, from -1 over 0 to 1.
DIFFERENCE_SCALE = ("#7A3300", LEAK, "#FFFFFF", VISIBLE, "#00263D")
