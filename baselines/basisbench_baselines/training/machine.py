"""The machine that a training ran on, for its card."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from basisbench.runs.environment import processor_name

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "sae_lens", "transformer_lens", "numpy")


def describe_machine() -> dict[str, object]:
    """Return processor, cores, threads, system and package versions."""
    import torch

    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {package: version(package) for package in _PACKAGES},
    }
