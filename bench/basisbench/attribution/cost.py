"""What shared work cost, so that every cell is charged in full for what it used, whichever cell came first."""

from __future__ import annotations

import time
from dataclasses import dataclass

from basisbench.models.model import Model


@dataclass(frozen=True)
class Spent:
    """What a piece of shared work cost.

    Attributes:
        seconds: wall-clock seconds.
        forward_equivalents: passes over one pair; a backward pass counts as two forward ones.
    """

    seconds: float = 0.0
    forward_equivalents: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.forward_equivalents + other.forward_equivalents)


class Ledger:
    """Which shared work a cell used, and what it cost when it was done."""

    def __init__(self) -> None:
        self._costs: dict[str, Spent] = {}
        self._used: set[str] = set()
        self._fresh: set[str] = set()

    def start(self) -> None:
        """Begin a cell: forget what was used and what was done; costs are kept."""
        self._used.clear()
        self._fresh.clear()

    def use(self, key: str) -> None:
        """Note that the cell used a piece of shared work."""
        self._used.add(key)

    def pay(self, key: str, cost: Spent) -> None:
        """Note what a piece of shared work cost."""
        self._costs[key] = cost
        self._fresh.add(key)

    def fresh(self) -> Spent:
        """Return the cost of the shared work that was done in this cell, rather than found ready."""
        return sum((self._costs[key] for key in self._fresh), Spent())

    def total(self, prefix: str) -> Spent:
        """Return the cost of the used work whose key starts with `prefix`."""
        return sum((self._costs[key] for key in self._used if key.startswith(prefix)), Spent())


def now(model: Model) -> float:
    """Return the time in seconds once all work queued on the model's device is done."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
