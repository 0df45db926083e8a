"""What shared work cost, so that every cell is charged in full for what it used, whichever cell came first.

Work may be done in parts of an aligned group (`attribution.parts`): a piece costs what all of its parts cost, each
counted once however often it was done.
"""

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
        self._costs: dict[str, dict[int, Spent]] = {}
        self._used: set[str] = set()
        self._fresh = Spent()

    def start(self) -> None:
        """Begin a cell: forget what was used and what was done; costs are kept."""
        self._used.clear()
        self._fresh = Spent()

    def use(self, key: str) -> None:
        """Note that the cell used a piece of shared work."""
        self._used.add(key)

    def pay(self, key: str, cost: Spent, part: int = 0) -> None:
        """Note what a piece of shared work cost.

        Args:
            key: names the piece.
            cost: of the piece, or of a part of it.
            part: the first pair of the part; a piece is done from its first pair on.
        """
        if part == 0:
            self._costs[key] = {}
        self._costs[key][part] = cost
        self._fresh += cost

    def fresh(self) -> Spent:
        """Return the cost of the shared work that was done in this cell, rather than found ready."""
        return self._fresh

    def total(self, prefix: str) -> Spent:
        """Return the cost of the used work whose key starts with `prefix`."""
        used = (self._costs[key] for key in self._used if key.startswith(prefix))
        return sum((cost for parts in used for cost in parts.values()), Spent())


class PartLedger(Ledger):
    """The ledger of a part of an aligned group: it writes into that of the group.

    Args:
        whole: the group's ledger.
        part: the first pair of the part.
    """

    def __init__(self, whole: Ledger, part: int) -> None:
        self._whole, self._part = whole, part

    def start(self) -> None:
        """Begin a part: nothing is forgotten."""

    def use(self, key: str) -> None:
        """Note that the cell used a piece of shared work."""
        self._whole.use(key)

    def pay(self, key: str, cost: Spent, part: int = 0) -> None:
        """Note what the part of a piece of shared work cost."""
        self._whole.pay(key, cost, self._part + part)

    def fresh(self) -> Spent:
        """Return what the whole group's shared work has cost in this cell."""
        return self._whole.fresh()

    def total(self, prefix: str) -> Spent:
        """Return the same as the whole group's ledger."""
        return self._whole.total(prefix)


def now(model: Model) -> float:
    """Return the time in seconds once all work queued on the model's device is done."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
