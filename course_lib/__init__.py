"""The shared library of the course on causal attention.

Read it floor by floor; imports only go down (import-linter holds that: `pyproject.toml`):

1. `example`, `masks`: the running sentence, and the one idea, a mask is a rule on positions;
   `validate` checks arguments.
2. `attention`, `trace`, `cache`, `rotary`, `sampling`, `costs`, `language`, `gguf_file`,
   `tokenizer`: the five steps and every table on the way, what is kept between them and what they
   cost, and a toy language whose entropy is known exactly.
3. `gpt` and `llama`, on what `decoder` says of both: a small model and a real one.
4. `training`, `generation`, `gpt2`, `pretrained`, `leaks`, `flash`, `lesson`: what is done with
   them, how to catch a model that peeks, attention without its matrix, and helpers of the
   notebooks.
5. `figures`: pictures, one module a topic.
6. `explorers`, `codewalk`, `checks`, `colab`, `factcheck`: what readers touch, what exercises and
   setup cells call, and the claims of appendix B.

What only authors and teachers run is not in here.
"""

__version__ = "0.1.0"
