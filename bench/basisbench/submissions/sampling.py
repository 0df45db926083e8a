"""Which cells and which circuit sizes are run again.

1. Cells are drawn at random, each as likely as any other: in the order of a hash of seed and cell id, the first n.
2. In each cell the two sizes between which the curve first reaches a faithfulness of 0.8 are always taken, for
   `nodes_to_80` hangs on them; the others are drawn in the same way.

A hash, not a generator, so that the same seed draws the same ones under every version of Python. Nothing here imports
torch.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from basisbench.results.record import Record

REACHED = 0.8
"""Faithfulness whose place on the curve is always looked at."""


def draw_seed() -> int:
    """Return a seed that nobody can foresee."""
    return secrets.randbits(48)


def sample_cells(cells: Iterable[str], count: int | Literal["all"], seed: int) -> tuple[str, ...]:
    """Draw cells.

    Args:
        cells: ids of all cells.
        count: how many to draw, or all of them.
        seed: seed of the draw.

    Returns:
        Ids of the drawn cells, sorted; all of them where there are no more.
    """
    ordered = _shuffled(cells, seed)
    return tuple(sorted(ordered if count == "all" else ordered[:count]))


def sample_sizes(record: Record, points: int, seed: int) -> tuple[int, ...]:
    """Draw sizes of a record's curve.

    Args:
        record: whose curve it is.
        points: how many to draw.
        seed: seed of the draw.

    Returns:
        Sizes between 0 and all nodes, increasing; every one of them where there are no more.
    """
    inner = record.curve.sizes[1:-1]
    drawn = _shuffled(map(str, inner), f"{seed} {record.id}")
    wanted = dict.fromkeys([*(size for size in _around_reached(record) if size in inner), *map(int, drawn)])
    return tuple(sorted(list(wanted)[:points]))


def detection(share: float, cells: int) -> float:
    """Return the probability that at least one of the drawn cells is forged: 1 - (1 - p)^n.

    Drawing without replacement, as here, finds a little more.

    Args:
        share: p, share of the folder's cells that are forged.
        cells: n, cells drawn.
    """
    return 1.0 - (1.0 - share) ** cells


def _around_reached(record: Record) -> Sequence[int]:
    """Return the first size whose faithfulness reaches 0.8 and the one before it; nothing where it is never reached."""
    full, empty = np.mean(record.endpoints.full), np.mean(record.endpoints.empty)
    reached = np.mean(record.curve.circuit, axis=1) - empty >= REACHED * (full - empty)
    if full <= empty or not reached.any():
        return ()
    first = int(reached.argmax())
    return record.curve.sizes[first], *record.curve.sizes[max(0, first - 1) : first]


def _shuffled(names: Iterable[str], seed: int | str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode("utf-8", "replace")).digest())
