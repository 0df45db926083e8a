"""Read tensors from the kinds of files that dictionaries are published in; nothing in them is ever run.

safetensors, NumPy's `.npz` without pickled objects, and PyTorch's `.pt` with `weights_only=True`.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisError, whole_message

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(path: Path, device: str) -> dict[str, Tensor]:
    """Return the tensors of a file by name; on "meta" their shapes and types alone.

    Raises:
        BasisError: the file needs code to be run, or holds something else than tensors by name.
    """
    if path.suffix == ".npz":
        return _read_npz(path, device)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, device)
    return _read_pickle(path, device)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a safetensors file by name, from its header alone.

    Raises:
        BasisError: it is no such file.
    """
    from safetensors import SafetensorError

    try:
        return tensor_shapes(path)
    except (OSError, SafetensorError) as error:
        raise BasisError(f"{path} is not a safetensors file that can be read: {whole_message(error)}") from error


def tensor_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return what `read_shapes` does; what safetensors raises goes up."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 -- not a mapping


def _read_safetensors(path: Path, device: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    if device == "meta":
        return {name: _shaped(shape) for name, shape in tensor_shapes(path).items()}
    with safe_open(path, framework="pt", device=device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping


def _read_npz(path: Path, device: str) -> dict[str, Tensor]:
    import numpy as np
    import torch

    if device != "meta":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]).to(device) for name in arrays}
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shapes[name.removesuffix(".npy")] = _shaped(read(file)[0])
    return shapes


def _read_pickle(path: Path, device: str) -> dict[str, Tensor]:
    import torch

    try:
        found: Any = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise BasisError(
            f"{path.name} holds more than tensors, and reading it could run code; save its state_dict() alone"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("sae"), Mapping):
        found = found["sae"]  # lm-saes: {"sae": ..., "version": ...}
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise BasisError(f"{path.name} holds no tensors by name")
    return tensors


def _shaped(shape: Any) -> Tensor:
    import torch

    return torch.empty(tuple(shape), device="meta")
