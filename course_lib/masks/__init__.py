"""The one idea of the course as code: a mask is a rule on positions (chapters 2 to 7).

A `Mask` answers one question: may the query at position q attend to the key at position k?
Dense matrices, additive biases, tile maps, FlexAttention predicates and pictures are all derived
from that answer, so no mask is ever written twice.

>>> from course_lib.masks import causal
>>> causal().matrix(3).astype(int)
array([[1, 0, 0],
       [1, 1, 0],
       [1, 1, 1]])

One convention, everywhere: boolean, True = may attend (as in `F.scaled_dot_product_attention`);
rows are queries, columns are keys; positions are absolute, so a query that comes after 900 cached
keys is at position 900. Each sequence of a ragged batch may have positions of its own, [B, T].

`rule` holds `Mask` itself, `builtin` the rules with names, `conventions` the way to and from
every other convention in the wild.
"""

from course_lib.masks.builtin import (
    causal,
    full,
    not_padding,
    open_rows,
    prefix_lm,
    same_document,
    sinks,
    sliding_window,
    tree,
)
from course_lib.masks.conventions import (
    from_additive,
    from_key_padding,
    from_multihead_attention,
    from_sdpa,
    to_additive,
    to_key_padding,
    to_multihead_attention,
    to_sdpa,
)
from course_lib.masks.rule import Mask, Tile, check_mask

__all__ = [
    "Mask",
    "Tile",
    "causal",
    "check_mask",
    "from_additive",
    "from_key_padding",
    "from_multihead_attention",
    "from_sdpa",
    "full",
    "not_padding",
    "open_rows",
    "prefix_lm",
    "same_document",
    "sinks",
    "sliding_window",
    "to_additive",
    "to_key_padding",
    "to_multihead_attention",
    "to_sdpa",
    "tree",
]
