"""From a name to a loaded model: a checkpoint folder or a repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from basisbench.errors import BasisBenchError
from basisbench.model import Model, wrap
from basisbench.protocols import ModelSpec


def load_model(spec: ModelSpec, *, device: str = "cpu", dtype: str | None = None) -> Model:
    """Load a checkpoint and wrap it.

    Args:
        spec: which model; `spec.path` is a folder or a repository id.
        device: torch device, for example "cuda:0".
        dtype: torch type name, for example "bfloat16"; the checkpoint's own when None.

    Raises:
        BasisBenchError: the folder does not hold a checkpoint, or the device does not exist.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(spec.path)
    if path.is_absolute() and not (path / "config.json").is_file():
        raise BasisBenchError(
            f"model '{spec.name}': {path} holds no config.json; expected a Hugging Face checkpoint folder"
        )
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BasisBenchError(f"device '{device}' cannot be used: {reason}") from error
    tokenizer = AutoTokenizer.from_pretrained(spec.path)
    # The attention implementation is the architecture's own default: some refuse a given one.
    with _quiet_loading():
        body = AutoModelForCausalLM.from_pretrained(spec.path, dtype=getattr(torch, dtype) if dtype else "auto")
    nn.Module.to(body, target)  # transformers wraps `to` without type information
    return wrap(body, tokenizer, spec)


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keep transformers' loading bar off, for the run has a progress display of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
