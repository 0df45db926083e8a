"""Checks that what a record says about its cost can be true: bounds that no machine beats.

The bounds are far from what is measured, so that faster machines pass too: they catch numbers that were left out or
made up, not those that were embellished. `basisbench verify` is for these.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from basisbench.results.record import Record

SHORTEST_CURVE = 1e-4
"""Seconds. A curve takes at least one pass through a model; started from Python, that takes milliseconds."""

SHORTEST_PROMPT = 1e-8
"""Seconds that a circuit takes on one example. The two-core reference takes 10 microseconds and more on the pocket
model; a device that is a hundred times as fast takes a hundred nanoseconds."""

LONGEST = 3.2e7
"""Seconds of a phase: a year."""

FEWEST_PASSES = MappingProxyType({"ixg": 3.0, "relp": 3.0, "ig": 1.0, "ig_inputs": 3.0})
"""Forward equivalents per attribution pair of the built-in gradient methods: a pass forward and one backward; `ig` runs
only the part of the model behind each site, which is little of a deep model for its last layers."""

MOST_PASSES = 1e12
"""Forward equivalents of a cell."""

SMALLEST_PROCESS = 16 * 2**20
"""Bytes that a process with torch in it takes; on a device it is the allocator's peak that counts, and may be small."""

MOST_BYTES = 2**50
"""Bytes of memory or of weights: a pebibyte."""

MOST_THREADS = 2**16


def implausible(record: Record) -> Iterator[str]:
    """Yield what cannot be true of a record's cost: the field, a colon, what was expected and found.

    Args:
        record: a record that was read without an error.
    """
    cost, seconds = record.cost, record.cost.seconds
    points = sum(1 for size in record.curve.sizes if size not in (0, record.curve.sizes[-1]))
    least = max(SHORTEST_CURVE, SHORTEST_PROMPT * 2 * points * len(record.endpoints.full))
    if seconds.curve < least:
        yield f"cost.seconds.curve: found {seconds.curve:g}, but no machine takes less than {least:g} s for this"
    for name in type(seconds).model_fields:
        if getattr(seconds, name) > LONGEST:
            yield f"cost.seconds.{name}: found {getattr(seconds, name):g}, more than a year"
    if seconds.gradients + seconds.scoring <= 0:
        yield "cost.seconds.scoring: found 0, as cost.seconds.gradients: scores and their order take time"
    pairs = sum(group.attribution_pairs for group in record.groups)
    passes = FEWEST_PASSES.get(record.cell.method, 0.0) * pairs
    if cost.forward_equivalents < passes:
        yield (
            f"cost.forward_equivalents: found {cost.forward_equivalents:g}, but {record.cell.method} takes at least "
            f"{passes:g} for {pairs} pairs"
        )
    if cost.forward_equivalents > MOST_PASSES:
        yield f"cost.forward_equivalents: found {cost.forward_equivalents:g}, expected at most {MOST_PASSES:g}"
    if record.cell.method in ("ixg", "relp", "ig", "ig_inputs") and seconds.gradients <= 0:
        yield f"cost.seconds.gradients: found 0, but {record.cell.method} needs gradients"
    on_processor = cost.device.partition(":")[0] == "cpu"
    memory = max(SMALLEST_PROCESS, cost.dictionary_bytes) if on_processor else 1
    if cost.peak_memory_bytes < memory:
        yield f"cost.peak_memory_bytes: found {cost.peak_memory_bytes}, but at least {memory} were in use"
    for name in ("peak_memory_bytes", "dictionary_bytes"):
        if getattr(cost, name) > MOST_BYTES:
            yield f"cost.{name}: found {getattr(cost, name)}, more than any machine has"
    if record.environment.threads > MOST_THREADS:
        yield f"environment.threads: found {record.environment.threads}, more than any machine has"
