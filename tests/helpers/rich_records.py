"""Made-up records that fill every field: two aligned groups, divergences, subset checks, top nodes, sources."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from basisbench.results.bisection import next_sizes
from basisbench.results.metrics import sizes_grid
from basisbench.results.record import Record
from basisbench.types import Ablation, ErrorPolicy, Granularity
from helpers.synthetic_records import WIDEST, faithfulness, synthetic_record

WEIGHTS = (4, 2)
"""Evaluation pairs of the two groups."""

WRITE_WIDTH = 128
"""Coordinates of a write site."""


def rich_record(
    basis: str = "transcoder",
    *,
    error_policy: ErrorPolicy = "coordinates",
    granularity: Granularity = "position",
    ablation: Ablation = "mean",
    layers: tuple[int, ...] | None = None,
    kl: bool = True,
) -> Record:
    """Return a small record that keeps every rule, made from a synthetic one.

    Args:
        basis: a key of `synthetic_records.BASES`.
        error_policy: as in the cell.
        granularity: as in the cell.
        ablation: as in the cell.
        layers: as in the cell; four of them.
        kl: whether divergences are stored.
    """
    base = synthetic_record(
        "ioi",
        basis,
        "relp",
        examples=sum(WEIGHTS),
        error_policy=error_policy,
        granularity=granularity,
        ablation=ablation,
        layers=layers,
    )
    content: dict[str, Any] = base.model_dump()
    long = base.groups[0].positions
    depth, width = base.counts.layers, base.counts.units_per_layer[0]
    ranked = base.guard is not None and error_policy in ("node", "coordinates", "rotated")
    by_coordinate = ranked and error_policy != "node"
    groups = []
    for key, pairs, positions in zip(("plain:1,1", "night:3,1"), WEIGHTS, (long, long - 3), strict=True):
        places = 1 if granularity == "unit" else positions
        errors = depth * places * (WRITE_WIDTH if by_coordinate else 1) if ranked else 0
        nodes = depth * width * places + errors
        groups.append(
            {
                "key": key,
                "attribution_pairs": 50,
                "evaluation_pairs": pairs,
                "positions": positions,
                "tokens": tuple(f" token{place}" for place in range(positions)),
                "nodes": nodes,
                "error_nodes": errors,
                "scored_nodes": nodes * 3 // 4,
            }
        )
    totals = [group["nodes"] for group in groups]
    full, empty = np.array(base.endpoints.full), np.array(base.endpoints.empty)
    ends = [0, *np.cumsum(WEIGHTS)]
    scored = min(group["scored_nodes"] for group in groups)
    grid = sorted({*sizes_grid(max(totals)), scored})

    def row_of(size: int, *, complement: bool = False) -> tuple[float, ...]:
        """A curve that climbs, with noise: no size but the ends is like another."""
        noise = np.random.default_rng(size + 10**6 * complement).normal(0, 0.3, len(full))
        share = 1 / (1 + (30 / max(size, 0.1)) ** 1.1)
        values = empty + (1 - share if complement else share) * (full - empty) + noise
        for total, (start, stop) in zip(totals, pairwise(ends), strict=True):
            if size == 0 or size >= total:
                values[start:stop] = (full if (size >= total) != complement else empty)[start:stop]
        return tuple(values.tolist())

    circuit = {size: row_of(size) for size in grid}
    while more := next_sizes({k: faithfulness(row, full, empty) for k, row in circuit.items()}, scored):
        circuit |= {size: row_of(size) for size in more}
    sizes = sorted(circuit)

    def pooled(values: list[float]) -> float:
        return sum(value * weight for value, weight in zip(values, WEIGHTS, strict=True)) / sum(WEIGHTS)

    kept = [[min(size, total) for total in totals] for size in sizes]
    share = [group["error_nodes"] / group["nodes"] for group in groups]
    errors = [[count * part for count, part in zip(counts, share, strict=True)] for counts in kept]
    features = [[count - error for count, error in zip(*rows, strict=True)] for rows in zip(kept, errors, strict=True)]
    units = [[min(count, depth * width) for count in counts] for counts in features]
    whole = float(np.mean(circuit[sizes[-1]]))
    content |= {
        "cell": {**content["cell"], "kl": kl, "subset_sizes": (20, max(totals)), "subset_draws": 3, "subset_blocks": 4},
        "groups": groups,
        "counts": {
            "nodes_mean": pooled([float(total) for total in totals]),
            "nodes_max": max(totals),
            "layers": depth,
            "units_per_layer": (width,) * depth,
            "area_end": depth * (1 if granularity == "unit" else long) * WIDEST[base.cell.family],
        },
        "dropped": {"attribution": {"word of several tokens": 3}, "evaluation": {}},
        "curve": {
            "sizes": tuple(sizes),
            "feature_nodes": tuple(map(pooled, features)),
            "error_nodes": tuple(map(pooled, errors)),
            "units": tuple(map(pooled, units)),
            "all_units": tuple(int(np.ceil(max(counts))) for counts in units),
            "circuit": tuple(circuit[size] for size in sizes),
            "complement": tuple(row_of(size, complement=True) if size in grid else None for size in sizes),
            "kl": tuple(3.0 / (1 + size) ** 1.2 for size in sizes) if kl else None,
        },
        "subset_checks": (
            {"size": 20, "draws": (1.5, 2.5, 0.5), "adversarial": (-0.5, 4.5)},
            {"size": max(totals), "draws": (whole,) * 3, "adversarial": (whole, whole)},
        ),
        "error_share": 0.31415 if ranked else None,
        "suite": {"name": "everything", "tasks": ("sva_simple", "ioi")},
        "top_nodes": tuple(
            {
                "group": "all groups" if granularity == "unit" else groups[index % 2]["key"],
                "layer": index % depth if layers is None else layers[index % depth],
                "position": None if granularity == "unit" else index % (long - 3),
                "role": None if granularity == "unit" else "indirect object",
                "unit": "error" if ranked and index == 3 else 7 * index,
                "coordinate": 11 if by_coordinate and index == 3 else None,
                "score": 3.14159 / (1 + index) * (-1) ** index,
            }
            for index in range(8)
        ),
        "sources": {"org/dictionaries": "0123456789abcdef" * 2},
    }
    return Record.model_validate(content)
