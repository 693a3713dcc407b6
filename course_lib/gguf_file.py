"""What a GGUF file holds: settings, vocabulary, and weights, de-quantised one at a time.

GGUF is the format of llama.cpp (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): one
file with everything that a model needs. The package `gguf`, of the same authors, reads it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: What an environment without the packages of the extra `real` is told.
NEEDS = "a real model needs the packages gguf and tokenizers: pip install gguf tokenizers"
_ROWS = 1024


@dataclass(frozen=True)
class GGUFFile:
    """An open file; no weight is in memory until it is asked for.

    Attributes:
        path: where it lies.
        metadata: every setting by its name in the file, such as "llama.block_count".
        tensors: name -> what `gguf` knows of each weight (type, shape, place in the file).
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Any]

    def weight(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """One weight, de-quantised: a matrix has the shape [out, in], as in `nn.Linear`.

        Raises:
            KeyError: if the file has no such weight.
        """
        from gguf import dequantize

        kept = self.tensors[name]
        # Read, not mapped, and a few rows at a time: what memory it takes is that of the result.
        raw = np.fromfile(self.path, kept.data.dtype, kept.data.size, offset=kept.data_offset)
        rows = raw.reshape(kept.data.shape)
        weight = torch.empty([int(n) for n in reversed(kept.shape)], dtype=dtype)
        for i in range(0, len(rows), _ROWS):
            part = dequantize(rows[i : i + _ROWS], kept.tensor_type)
            weight[i : i + _ROWS] = torch.from_numpy(part)
        return weight


def read_gguf(path: str | Path) -> GGUFFile:
    """Open a GGUF file.

    Args:
        path: where it lies.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if the package `gguf` is not installed.
        ValueError: if it is no GGUF file, or one that is cut off.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: expected a GGUF file; {path} is not there")
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{NEEDS} ({error.name} is missing)") from None
    try:
        reader = _plain(GGUFReader)(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # the parser raises what it stumbles over: index, value, key errors
        raise ValueError(
            f"path: expected a whole GGUF file; {path} is another kind or cut off ({error})"
        ) from None
    return GGUFFile(path, metadata, {tensor.name: tensor for tensor in reader.tensors})


def _plain(reader: type[Any]) -> type[Any]:
    """`GGUFReader`, which cuts its file into 200,000 pieces, with an array in place of a memmap.

    A piece of a memmap takes three times the time and the memory of a piece of an array.
    """
    data = property(
        lambda self: self._data,
        lambda self, mapped: setattr(self, "_data", np.asarray(mapped)),
    )
    return type("Reader", (reader,), {"data": data})
