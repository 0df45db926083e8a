"""Checks which circuit sizes a record has: those of the grid, and those that bisection adds to them, no other.

1. The name of the way in which sizes were chosen, `cell.sizes`, says what is expected. Of a name that nobody knows it
   is known only that every complement was measured.
2. The grid follows from the number of nodes. Complements are measured there, and nowhere else.
3. What bisection adds follows from the curve (`basisbench.results.bisection`): it is done again, on the numbers of the
   record. A size that was left out would hide where a threshold is reached, one that was chosen could find a lucky one.
"""

from __future__ import annotations

from collections.abc import Iterator

from basisbench.results.bisection import faithfulness_of, grid_sizes, next_sizes, scored_nodes
from basisbench.results.metrics import sizes_grid
from basisbench.results.record import SIZES, Record

GRID = "1-2-5"
"""Name of the grid alone."""


def violations_of_sizes(record: Record) -> Iterator[str]:
    """Yield every invariant of sizes that a record breaks: the field, a colon, what was expected and found."""
    broken = list(violations_of_grid(record))
    yield from broken
    if not broken and record.cell.sizes == SIZES:
        yield from _violations_of_bisection(record, set(grid_of(record)))


def violations_of_grid(record: Record) -> Iterator[str]:
    """Yield what is wrong with the sizes of the grid and with complements, without which a curve cannot be read."""
    sizes, complement = record.curve.sizes, record.curve.complement
    known = record.cell.sizes in (GRID, SIZES)
    grid = grid_of(record) if known else sizes
    kept = [size for size in sizes if size in grid]
    if len(kept) < len(grid):
        index = next(index for index, size in enumerate(grid) if kept[index : index + 1] != [size])
        nodes = f"{record.counts.nodes_max} nodes, {scored_nodes(record)} of them scored,"
        yield f"curve.sizes[{index}]: the grid {GRID} of {nodes} has {grid[index]} there"
        return
    added = [size for size in sizes if size not in grid]
    if added and record.cell.sizes != SIZES:
        yield f"curve.sizes[{sizes.index(added[0])}]: {added[0]} is no size of the grid {GRID} (cell.sizes)"
        return
    for index, (size, row) in enumerate(zip(sizes, complement, strict=True)):
        if (row is None) != (size in added):
            expected = "null, for bisection added" if size in added else "numbers, for the grid has"
            yield f"curve.complement[{index}]: expected {expected} the size {size} (curve.sizes[{index}])"
            return


def grid_of(record: Record) -> tuple[int, ...]:
    """Return the sizes at which a record's complement is measured: 1-2-5 steps, the most scored nodes, all nodes."""
    nodes = record.counts.nodes_max
    return sizes_grid(nodes) if record.cell.sizes == GRID else grid_sizes(nodes, scored_nodes(record))


def _violations_of_bisection(record: Record, measured: set[int]) -> Iterator[str]:
    """Bisect again, by the record's own numbers."""
    sizes, endpoints = record.curve.sizes, record.endpoints
    faithfulness = {
        size: faithfulness_of(row, endpoints.full, endpoints.empty)
        for size, row in zip(sizes, record.curve.circuit, strict=True)
    }
    scored = scored_nodes(record)
    while wanted := next_sizes({size: faithfulness[size] for size in measured}, scored):
        if missing := [size for size in wanted if size not in faithfulness]:
            yield f"curve.sizes: lacks {missing[0]}, which bisection of this curve needs (cell.sizes is '{SIZES}')"
            return
        measured.update(wanted)
    if more := [size for size in sizes if size not in measured]:
        index = sizes.index(more[0])
        yield f"curve.sizes[{index}]: {more[0]} is no size of the grid, and bisection of this curve does not need it"
