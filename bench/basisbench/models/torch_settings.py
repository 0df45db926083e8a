"""PyTorch's settings of the whole process: what a plug-in changes of them is put back and told.

Nothing here imports torch: a plug-in file is loaded before anything that needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from basisbench.errors import BasisBenchError


def torch_settings() -> dict[str, Any]:
    """Return the settings that change results or time, by name; empty where torch is not loaded."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "gradients enabled": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


class SettingsChangedError(BasisBenchError):
    """Settings of PyTorch were changed for all that runs in the process; they are put back by now."""


@contextmanager
def unchanged_settings(whose: str) -> Iterator[None]:
    """Put PyTorch's settings back after the block, whatever happens in it.

    Args:
        whose: what may change them, for the message.

    Raises:
        SettingsChangedError: the block has left a setting changed, be it that it failed besides.
    """
    before = torch_settings()
    try:
        yield
    finally:
        now = torch_settings()
        if now and not before:  # the block has loaded torch, whose number of threads nobody knows before
            before = {**now, **_at_first(sys.modules["torch"])}
        changed = [f"{name} is {now[name]}, was {before[name]}" for name in now if now[name] != before[name]]
        if changed:
            _put_back(before)
            told = f"{whose} changed PyTorch's settings for all others: {'; '.join(changed)}; put them back"
            raise SettingsChangedError(told)


def _at_first(torch: Any) -> dict[str, Any]:
    return {
        "gradients enabled": True,
        "default type": torch.float32,
        "default device": torch.device("cpu"),
        "deterministic algorithms": False,
    }


def _put_back(settings: dict[str, Any]) -> None:
    torch: Any = sys.modules["torch"]
    torch.set_grad_enabled(settings["gradients enabled"])
    torch.set_default_dtype(settings["default type"])
    if torch.get_default_device() != settings["default device"]:
        torch.set_default_device(settings["default device"])
    torch.use_deterministic_algorithms(settings["deterministic algorithms"])
    torch.set_num_threads(settings["threads"])
