"""What tiny dictionaries in the exact files of each maker share: how they are drawn, written, and held.

Formulas are written out in `maker_formats` and `maker_scopes`, from the sources that the modules
`dictionaries.makers`, `openmoss` and `circuit_tracer_set` cite, in float64, on the arrays that the files hold.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from helpers.oracle_evaluator import LAYERS

UNITS, K = 24, 5
Rebuild = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """The files of one maker's dictionaries, one per layer.

    Attributes:
        name: of the case.
        files: by path in the repository.
        rebuild: a layer's reconstruction of what it reads.
        read: hook within the block.
        write: hook within the block.
        repository: where it could be published; the folder has the same name.
        pattern: which dictionaries.
    """

    name: str
    files: Mapping[str, bytes]
    rebuild: Rebuild
    read: str
    write: str
    repository: str = "somebody/dictionaries"
    pattern: str = ""

    def write_to(self, folder: Path) -> Path:
        """Write the files below a folder and return theirs."""
        root = folder / self.repository.split("/")[1]
        for name, content in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        return root


@dataclass
class Drawn:
    """Random weights of one dictionary; float64 copies of what is stored."""

    name: str
    stored: dict[str, Tensor] = field(default_factory=dict)

    def draw(self, key: str, *shape: int, positive: bool = False, scale: float = 0.5) -> Tensor:
        """Return new weights as they are stored."""
        generator = torch.Generator().manual_seed(crc32(f"{self.name} {key}".encode()))
        drawn = scale * torch.randn(*shape, generator=generator)
        self.stored[key] = drawn.abs() if positive else drawn
        return self.stored[key]

    def __getitem__(self, key: str) -> Tensor:
        return self.stored[key].double()


def tensors_of(stored: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in stored.items()})


def json_of(content: Any) -> bytes:
    return json.dumps(content).encode()


def pickled(stored: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(stored), buffer)
    return buffer.getvalue()


def zipped(stored: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.numpy() for name, tensor in stored.items()})
    return buffer.getvalue()


def largest(before: Tensor, k: int = K) -> Tensor:
    """Keep the k largest."""
    return before * torch.zeros_like(before).scatter(-1, before.topk(k).indices, 1)


def made(
    name: str, make: Callable[[Drawn, int], tuple[dict[str, bytes], Callable[[Tensor], Tensor]]], **more: Any
) -> Case:
    files: dict[str, bytes] = dict(more.pop("extra", {}))
    formulas = []
    for layer in range(LAYERS):
        written, formula = make(Drawn(f"{name} {layer}"), layer)
        files |= written
        formulas.append(formula)
    return Case(name, files, lambda layer, x: formulas[layer](x), **more)
