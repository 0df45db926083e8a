"""Describes where a record was made: packages, Python, processor, threads, device."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from basisbench.results.record_fields import Environment

if TYPE_CHECKING:
    from basisbench.models.model import Model

_PACKAGES = ("torch", "transformers", "transformer_lens", "sae_lens", "datasets", "numpy", "tokenizers")


def describe_environment(model: Model) -> Environment:
    """Return versions, machine and types for a model's record."""
    import torch

    accelerator = model.device.type == "cuda"
    return Environment(
        packages=_versions(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        processor=processor_name(),
        threads=torch.get_num_threads(),
        device_name=torch.cuda.get_device_name(model.device) if accelerator else "",
        dtype=str(model.dtype).removeprefix("torch."),
    )


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@cache
def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
