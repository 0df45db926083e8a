"""Made-up records that fill every field: two aligned groups, divergences, subset checks, top nodes, sources."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from basisbench.results.metrics import sizes_grid
from basisbench.results.record import Record
from basisbench.types import ErrorPolicy, Granularity
from helpers.synthetic_records import synthetic_record

WEIGHTS = (4, 2)
"""Evaluation pairs of the two groups."""


def rich_record(
    basis: str = "transcoder",
    *,
    error_policy: ErrorPolicy = "node",
    granularity: Granularity = "position",
    kl: bool = True,
) -> Record:
    """Return a small record that keeps every rule, made from a synthetic one.

    Args:
        basis: a key of `synthetic_records.BASES`.
        error_policy: as in the cell.
        granularity: as in the cell.
        kl: whether divergences are stored.
    """
    base = synthetic_record(
        "ioi", basis, "relp", examples=sum(WEIGHTS), error_policy=error_policy, granularity=granularity
    )
    content: dict[str, Any] = base.model_dump()
    long = base.groups[0].positions
    layers, width = base.counts.layers, base.counts.units_per_layer[0]
    ranked = base.guard is not None and error_policy == "node"
    groups = []
    for key, pairs, positions in zip(("plain:1,1", "night:3,1"), WEIGHTS, (long, long - 3), strict=True):
        places = 1 if granularity == "unit" else positions
        errors = layers * places if ranked else 0
        groups.append(
            {
                "key": key,
                "attribution_pairs": 50,
                "evaluation_pairs": pairs,
                "positions": positions,
                "nodes": layers * width * places + errors,
                "error_nodes": errors,
            }
        )
    totals = [group["nodes"] for group in groups]
    sizes = sizes_grid(max(totals))

    def pooled(values: list[float]) -> float:
        return sum(value * weight for value, weight in zip(values, WEIGHTS, strict=True)) / sum(WEIGHTS)

    kept = [[min(size, total) for total in totals] for size in sizes]
    share = [group["error_nodes"] / group["nodes"] for group in groups]
    errors = [[count * part for count, part in zip(row, share, strict=True)] for row in kept]
    features = [[count - error for count, error in zip(*rows, strict=True)] for rows in zip(kept, errors, strict=True)]
    units = [pooled([min(count, layers * width) for count in row]) for row in features]
    full, empty = np.array(base.endpoints.full), np.array(base.endpoints.empty)
    rows = {name: np.array(getattr(base.curve, name))[: len(sizes)] for name in ("circuit", "complement")}
    ends = [0, *np.cumsum(WEIGHTS)]
    for total, (start, stop) in zip(totals, pairwise(ends), strict=True):
        whole = np.array(sizes) >= total
        rows["circuit"][whole, start:stop] = full[start:stop]
        rows["complement"][whole, start:stop] = empty[start:stop]
    content |= {
        "cell": {**content["cell"], "kl": kl, "subset_sizes": (20, max(totals)), "subset_draws": 3},
        "groups": groups,
        "counts": {
            "nodes_mean": pooled([float(total) for total in totals]),
            "nodes_max": max(totals),
            "layers": layers,
            "units_per_layer": (width,) * layers,
        },
        "dropped": {"attribution": {"word of several tokens": 3}, "evaluation": {}},
        "curve": {
            "sizes": sizes,
            "feature_nodes": tuple(map(pooled, features)),
            "error_nodes": tuple(map(pooled, errors)),
            "units": tuple(units),
            "circuit": tuple(map(tuple, rows["circuit"].tolist())),
            "complement": tuple(map(tuple, rows["complement"].tolist())),
            "kl": tuple(3.0 / (1 + size) ** 1.2 for size in sizes) if kl else None,
        },
        "subset_checks": (
            {"size": 20, "draws": (1.5, 2.5, 0.5)},
            {"size": max(totals), "draws": (float(rows["circuit"][-1].mean()),) * 3},
        ),
        "top_nodes": tuple(
            {
                "group": "all groups" if granularity == "unit" else groups[index % 2]["key"],
                "layer": index % layers,
                "position": None if granularity == "unit" else index % (long - 3),
                "role": None if granularity == "unit" else "indirect object",
                "unit": "error" if ranked and index == 3 else 7 * index,
                "score": 3.14159 / (1 + index) * (-1) ** index,
            }
            for index in range(8)
        ),
        "sources": {"org/dictionaries": "0123456789abcdef" * 2},
    }
    content["endpoints"]["empty_at"] = "output"
    return Record.model_validate(content)
