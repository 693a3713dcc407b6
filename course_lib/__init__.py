"""The shared library of the course on causal attention.

Read it floor by floor; imports only go down:

1. `example`, `masks`, `validate`: the running sentence, the one idea (a mask is a rule on
   positions), and the argument checks that all share.
2. `attention`, `trace`, `cache`, `costs`, `language`: the five steps, what is kept between them and
   what they cost, and a toy language whose entropy is known exactly.
3. `gpt`, `training`, `generation`, `leaks`, `audit`, `lesson`: a small model, and how to catch one
   that peeks; helpers of the notebooks. `sources`: the claims of appendix B, and their checks.
4. `plot`, `views` (one module a chapter where it needs its own), `codewalk`: pictures.
5. `checks`, `colab`: what exercises and setup cells call; for authors and teachers only, `build`,
   `grading`, `links`, `cli`.
"""

__version__ = "0.1.0"
