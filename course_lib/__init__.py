"""The shared library of the course on causal attention.

Read it floor by floor; imports only go down:

1. `example`, `masks`: the running sentence and the one idea, a rule on positions.
2. `attention`, `language`: the five steps, and a toy language whose entropy is known exactly.
3. `gpt`, `training`, `generation`, `leaks`: a small model, and how to catch one that peeks.
4. `plot`, `lesson`, `codewalk`: pictures and small helpers of the notebooks.
5. `build`, `cli`: what authors and teachers run.
"""

__version__ = "0.1.0"
