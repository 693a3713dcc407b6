"""The model that a command line names: a class of transformers, a factory, a saved folder."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

#: Sizes of a tiny model, by the names that configurations of transformers give them.
TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def find_target(text: str) -> Any:
    """The model of a target, in evaluation mode.

    Args:
        text: "transformers:LlamaForCausalLM" (a tiny one with random weights), "module:name" (a
            model, a function, or a class or function without arguments that makes one), or the
            folder of a model that transformers has saved.

    Returns:
        What `audit` takes.

    Raises:
        ValueError: if there is no such model; the message says what was looked for.
        ModuleNotFoundError: if a module or transformers is missing.
    """
    if Path(text).is_dir():
        model = import_module("transformers").AutoModelForCausalLM.from_pretrained(text)
        return model.eval()
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise ValueError(
            "target: expected transformers:CLASS, module:name or the folder of a saved model; "
            f"got {text!r}"
        )
    found = getattr(import_module(module), name, None)
    if found is None:
        raise ValueError(f"target: {module} has no {name}")
    if module == "transformers":
        return tiny(found)
    made = found if isinstance(found, nn.Module) or not _is_factory(found) else found()
    return made.eval() if isinstance(made, nn.Module) else made


def tiny(model_class: Any) -> nn.Module:
    """A small model of a class of transformers, random weights from seed 0, evaluation mode.

    Args:
        model_class: such as `transformers.LlamaForCausalLM`.

    Raises:
        ValueError: if the class has no configuration.
    """
    config_class = getattr(model_class, "config_class", None)
    if config_class is None:
        raise ValueError(f"target: expected a model class of transformers; got {model_class!r}")
    default = config_class()
    config = config_class(**{name: n for name, n in TINY.items() if hasattr(default, name)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config).eval()


def _is_factory(found: Any) -> bool:
    """A class, or a function that can be called without arguments."""
    code = getattr(found, "__code__", None)
    wanted = 0 if code is None else code.co_argcount - len(found.__defaults__ or ())
    return isinstance(found, type) or (code is not None and wanted == 0)
