"""Memory of this process and of its device: what is free, what was taken at most, what can be given back."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CONTROL_GROUP = Path("/proc/self/cgroup")
_CONTROL_FILES = {
    1: (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
}
"""By version of Linux's control groups: where they are, and the files of limit and use."""


def give_memory_back() -> None:
    """Collect garbage and return freed memory to the system, where the C library can: large weights were dropped."""
    gc.collect()
    trim_memory()


def bit_sum(tensors: Iterable[Tensor]) -> int:
    """Return the sum of the bits of all values, read as whole numbers: a change of any of them changes it."""
    import torch

    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return sum(int(each.detach().view(whole[each.element_size()]).sum(dtype=torch.int64)) for each in tensors)


def trim_memory() -> None:
    """Return freed memory to the system, where the C library can; it keeps holes for blocks that fit them."""
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


_SHARE_FOR_WEIGHTS = 0.5
"""Share of the memory that is free for the weights of a basis; activations and coordinates need the rest."""


def room_for_weights(device: str) -> int:
    """Return how many bytes the weights of a basis may take on a device.

    Args:
        device: for example "cpu" or "cuda:0".
    """
    return int(_SHARE_FOR_WEIGHTS * free_memory(device))


def free_memory(device: str) -> int:
    """Return how many bytes can still be taken on a device.

    On a GPU that is what its driver says, and what this process holds without using it. Elsewhere it is the least of
    what the machine, the control group (a container, a batch job) and the limit of this process leave.
    """
    import psutil
    import torch

    if device.startswith("cuda"):
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    left: list[int] = [psutil.virtual_memory().available, *_left_in_control_groups()]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        left.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(left))


def _left_in_control_groups() -> Iterator[int]:
    """Yield what each control group around this process leaves; cached files count as free, they can be given up."""
    lines: list[str] = []
    with suppress(OSError):
        lines = _CONTROL_GROUP.read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, own = line.split(":", 2)
        version = 2 if not controllers else 1 if "memory" in controllers.split(",") else None
        if version is None:
            continue
        root, limit, taken, cached = _CONTROL_FILES[version]
        group = root / own.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            with suppress(OSError, ValueError):  # absent at the root, and "max" where there is no limit
                most, now = (int((folder / name).read_text(encoding="ascii")) for name in (limit, taken))
                counts = dict(row.split() for row in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
                yield most - now + int(counts.get(cached, 0))


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory, where the system allows it."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # only Linux can; elsewhere the peak is that of the process so far
        _CLEAR.write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int:
    """Return peak memory in bytes: the device allocator's, or the resident memory of this process."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
