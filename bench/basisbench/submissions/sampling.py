"""Which cells and which circuit sizes are run again.

1. Cells are drawn at random, each as likely as any other: in the order of a hash of seed and cell id, the first n.
2. In each cell every size is run, unless fewer are asked for. Then the sizes around each place where the curve first
   reaches a threshold, or settles, are always taken, for `nodes_to_80` and the like hang on them; the others are drawn
   in the same way. An alteration at a size that was not drawn is not seen.

A hash, not a generator, so that the same seed draws the same ones under every version of Python. Nothing here imports
torch.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from typing import Literal

from basisbench.results.bisection import THRESHOLDS, faithfulness_of, first_reaching
from basisbench.results.record import Record


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


def sample_sizes(record: Record, points: int | Literal["all"], seed: int) -> tuple[int, ...]:
    """Draw sizes of a record's curve.

    Args:
        record: whose curve it is.
        points: how many to draw, those that summaries hang on among them, or all sizes.
        seed: seed of the draw.

    Returns:
        Sizes between 0 and all nodes, increasing; every one of them where there are no more, and more than asked for
        where summaries hang on more.
    """
    inner = record.curve.sizes[1:-1]
    if points == "all":
        return inner
    deciding = set(_deciding(record)) & {*inner}
    drawn = [int(size) for size in _shuffled(map(str, inner), f"{seed} {record.id}") if int(size) not in deciding]
    return tuple(sorted([*deciding, *drawn[: max(0, points - len(deciding))]]))


def detection(share: float, cells: int) -> float:
    """Return the probability that at least one of the drawn cells is forged: 1 - (1 - p)^n.

    Drawing without replacement, as here, finds a little more.

    Args:
        share: p, share of the folder's cells that are forged.
        cells: n, cells drawn.
    """
    return 1.0 - (1.0 - share) ** cells


def _deciding(record: Record) -> Iterator[int]:
    """Yield the two sizes between which the curve first reaches each threshold, and those between which it settles."""
    sizes, endpoints = record.curve.sizes, record.endpoints
    faithfulness = [faithfulness_of(row, endpoints.full, endpoints.empty) for row in record.curve.circuit]
    for threshold in THRESHOLDS:
        first = first_reaching(faithfulness, threshold)
        outside = [place for place, value in enumerate(faithfulness) if abs(value - 1) > 1 - threshold]
        for place in (len(sizes) if first is None else first, outside[-1] + 1 if outside else 0):
            yield from sizes[max(0, place - 1) : place + 1]


def _shuffled(names: Iterable[str], seed: int | str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode("utf-8", "replace")).digest())
