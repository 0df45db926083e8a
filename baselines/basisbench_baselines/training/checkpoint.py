"""Checkpoints that survive being killed: one safetensors file each, replaced in one step, no pickles.

The state of a phase is a dictionary of tensors and a JSON object; both lie in one file (the JSON in the
safetensors header), so that a kill can never leave tensors of one moment beside the counters of another.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError, whole_message
from basisbench.results.record import write_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_STATE = "state"


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside `path` and move it there in one step, flushed to disk before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Write a folder beside its place, and move it there once it is whole.

    Raises:
        BasisBenchError: it cannot be written.
    """
    from safetensors import SafetensorError

    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(temporary)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch tells of a full disk by a RuntimeError
        raise BasisBenchError(f"{folder}: cannot be written: {whole_message(error)}") from error
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def write_json(path: Path, value: object) -> None:
    """Write indented JSON in one step."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that this project wrote.

    Raises:
        BasisBenchError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BasisBenchError(f"{path}: not valid JSON ({error}); delete the file to build it again") from error


def is_finished(out: Path, marks: Sequence[Path], fingerprint: str, last: str) -> bool:
    """Tell whether a folder holds a training, finished.

    Args:
        out: the folder.
        marks: files with its fingerprint, that of the unfinished training first, then its card.
        fingerprint: digest of everything that shapes the weights.
        last: what the card has among `measured` once it is finished.

    Raises:
        BasisBenchError: it holds something else, or another training.
    """
    if out.exists() and not out.is_dir():
        raise BasisBenchError(f"--out {out}: is a file; choose a folder")
    for path in marks:
        if path.exists():
            if read_json(path).get("fingerprint") != fingerprint:
                raise BasisBenchError(
                    f"--out {out}: holds another training (other text, model or settings); choose another "
                    "folder, or give what it was begun with"
                )
            return path == marks[-1] and last in read_json(path)["measured"]
    if out.exists() and (strange := sorted(path.name for path in out.iterdir())):
        raise BasisBenchError(f"--out {out}: holds '{strange[0]}', which no training makes; choose an empty folder")
    return False


def save_state(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, object]) -> None:
    """Save tensors and a JSON state as one file, in one step."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    metadata = {_STATE: json.dumps(state)}
    replace_file(path, lambda temporary: save_file(contiguous, temporary, metadata=metadata))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Load what `save_state` wrote; None when there is no such file.

    Raises:
        BasisBenchError: the file is there but was not written by `save_state`.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})[_STATE])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 -- not a mapping
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise BasisBenchError(f"{path}: not a checkpoint of this build ({error}); delete it to start again") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors: `<parameter index>.<slot>`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{slot}": tensor for index, slots in state.items() for slot, tensor in slots.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer back the state that `optimizer_tensors` took from its twin."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put `prefix.` before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the names that begin with `prefix.` and drop it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
