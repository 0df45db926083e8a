"""What a mutation of a record's file is, the paths in a record's content, and what the definitions say of a leaf.

1. A kind of mutation takes a record's content and a generator, and returns bytes and a verdict.
2. A verdict is `ACCEPT`, or the path of the field that the refusal must name, or `ANY` where bytes were broken so that
   no field is left to name.

Leaves are told apart by what the definitions say of them: *hashed* ones are part of the cell's id, *checked* ones
follow from others, *free* ones are measured and may be anything within bounds.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any, TypeAlias

Path: TypeAlias = "tuple[str | int, ...]"

ACCEPT = "accept"
ANY = "any"


@dataclass(frozen=True)
class Mutation:
    """A changed file.

    Attributes:
        data: what the file holds.
        verdict: `ACCEPT`, `ANY`, or the path of the field at fault.
        by_name: a refusal may also say that the file has another cell's name: a field of the cell's id was changed.
        content: what a file that is accepted must hold, where that is not what it held before.
    """

    data: bytes
    verdict: str
    by_name: bool = False
    content: Any = None


Kind: TypeAlias = Callable[[Any, Random], Mutation]


# --- paths ---


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every number, text, truth value and null."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    elif not isinstance(value, dict | list):
        yield path


def objects(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every object."""
    if isinstance(value, dict):
        yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from objects(item, (*path, key))


def at(content: Any, path: Path) -> Any:
    """Return what lies at a path."""
    for step in path:
        content = content[step]
    return content


def replaced(content: Any, path: Path, value: Any) -> Any:
    """Return a copy in which one place holds something else; all else is shared."""
    if not path:
        return value
    copied = copy.copy(content)
    copied[path[0]] = replaced(content[path[0]], path[1:], value) if path[1:] else value
    return copied


def written(path: Path) -> str:
    """Write a path as messages do: `curve.circuit[3][17]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def pattern(path: Path) -> str:
    """Write a path with its indices left out: `curve.circuit[][]`."""
    return re.sub(r"\[\d+\]", "[]", written(path))


def dumped(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


# --- what the definitions say of a leaf ---

MAPPINGS = ("dropped.attribution", "dropped.evaluation", "environment.packages", "sources", "clusters")
OPTIONAL_FREE = ("sources", "curve.kl", "subset_checks", "control", "suite", "guard.loss_recovered", "error_share")
"""Keys with a default that no id depends on."""

OPTIONAL_NULL = (
    "curve.kl",
    "identities.code",
    "endpoints.gate_empty",
    "endpoints.family_empty",
    "top_nodes[].coordinate",
    "training",
    "tuning",
    "weights_file",
)
"""Keys that say the same where they are left out as where they are null."""

DEFAULTS = {
    "ablation": "mean",
    "error_policy": "coordinates",
    "score_reference": "ablation",
    "score_split": "attribution",
    "attribution_draw": 0,
    "bos": "auto",
    "metric": "logit",
    "ties": "random",
    "granularity": "position",
    "seed": 0,
    "ranking": "absolute",
    "sizes": "1-2-5, bisected",
    "kl": False,
    "layers": None,
    "subset_blocks": 0,
}
"""What the fields of a cell that may be left out say then."""

FREE_TEXTS = ("environment.python", "environment.platform", "environment.processor", "environment.device_name")


def is_hashed(path: Path) -> bool:
    """Tell whether the cell's id depends on a leaf."""
    return path[0] in ("cell", "identities", "basisbench")


def fixed_rows(content: Any, name: str) -> set[int]:
    """Return the rows of a curve that equal an endpoint in every group: the last, and the first where it is not run."""
    count = len(content["curve"]["sizes"])
    return {count - 1} if name == "circuit" and content["cell"]["kl"] else {0, count - 1}


def measured_rows(content: Any) -> list[int]:
    """Return the rows that no group fixes: more than no node, fewer than the smallest group has."""
    smallest = min(group["nodes"] for group in content["groups"])
    return [index for index, size in enumerate(content["curve"]["sizes"]) if 0 < size < smallest]


def grid_of(content: Any) -> set[int]:
    """Return the sizes at which every curve is measured: 1-2-5 steps, all nodes, and the last one that scores order."""
    nodes = max(group["nodes"] for group in content["groups"])
    steps = {factor * 10**power for factor in (1, 2, 5) for power in range(12)}
    bounds = [group["scored_nodes"] for group in content["groups"] if group["scored_nodes"] < group["nodes"]]
    return {0, nodes, *(step for step in steps if step < nodes), *([min(bounds)] if bounds else [])}


def sizes_follow(content: Any) -> bool:
    """Tell whether a curve's sizes are those that its numbers ask for: bisection again, slowly, in exact fractions."""
    curve, endpoints = content["curve"], content["endpoints"]

    def total(values: list[float]) -> Fraction:
        return sum(map(Fraction, values), Fraction(0))

    full, empty = total(endpoints["full"]), total(endpoints["empty"])
    values = {
        size: (total(row) - empty) / (full - empty) for size, row in zip(curve["sizes"], curve["circuit"], strict=True)
    }
    measured = grid_of(content)
    bounds = [group["scored_nodes"] for group in content["groups"] if group["scored_nodes"] < group["nodes"]]
    scored = min(bounds, default=max(measured))
    while True:
        wanted = set()
        for threshold in (0.8, 0.9):
            reached = [size for size in measured if values[size] >= Fraction(threshold)]
            if not reached or min(reached) == 0 or min(reached) > scored:
                continue
            first = min(reached)
            before = max(size for size in measured if size < first)
            if first > before + 1 and 100 * first > 105 * before:
                wanted.add(round((before * first) ** 0.5))
        if not wanted:
            return measured == set(curve["sizes"])
        if not wanted <= values.keys():
            return False
        measured |= wanted
