"""The weights that a `GPT` starts with."""

import numpy as np
import torch
from torch import nn


def initialise(model: nn.Module, layers: int, rng: np.random.Generator) -> None:
    """Matrices normal with deviation 0.02, biases 0, as in GPT-2.

    What is added to the residual stream is scaled down by the number of additions (GPT-2 report,
    section 2.3), so that its size does not grow with depth. NumPy draws in float64, so that a
    seed gives the same model on every processor.

    Args:
        model: a `GPT`; its weights are overwritten.
        layers: number of its blocks.
        rng: source of randomness.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data.fill_(1.0 if "norm" in name and "weight" in name else 0.0)
            continue
        scale = 0.02
        if name.endswith(("attention.out.weight", "down.weight")):
            scale /= (2 * layers) ** 0.5
        values = rng.normal(0.0, scale, size=tuple(parameter.shape))
        parameter.data.copy_(torch.from_numpy(values))
