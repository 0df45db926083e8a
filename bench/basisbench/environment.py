"""Where a cell ran, and how much memory it took."""

from __future__ import annotations

import ctypes
import gc
import platform
import resource
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from basisbench.record_parts import Environment

if TYPE_CHECKING:
    from basisbench.model import Model

_PACKAGES = ("torch", "transformers", "transformer_lens", "sae_lens", "datasets", "numpy", "tokenizers")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


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


def give_memory_back() -> None:
    """Collect garbage and return freed memory to the system, where the C library can: large weights were dropped."""
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Return freed memory to the system, where the C library can; it keeps holes for blocks that fit them."""
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_peak_memory(model: Model) -> None:
    """Start a new measurement of peak memory, where the system allows it."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        return
    with suppress(OSError):  # only Linux can; elsewhere the peak is that of the process so far
        _CLEAR.write_text("5", encoding="ascii")


def peak_memory(model: Model) -> int:
    """Return peak memory in bytes: the device allocator's, or the resident memory of this process."""
    import torch

    if model.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(model.device))
    with suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
