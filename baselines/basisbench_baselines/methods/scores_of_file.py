"""Scores that were made before, by whatever made them: any ranking of the same nodes on the axes of this benchmark.

The file is what `basisbench.score(...).save(FILE)` writes: safetensors with a tensor `GROUP/layer N/units` of the shape
(position, unit) for every aligned group and layer, `GROUP/layer N/errors` for a basis that leaves errors, and the cell
and the digests that they belong to. The digest of the file is part of the identity of every cell that uses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from basisbench.errors import BasisBenchError, RecordError
from basisbench.protocols import Basis, MethodScheme, ScoringContext
from basisbench.types import WITHOUT_ERROR_NODES, Passes, Scores

if TYPE_CHECKING:
    from basisbench.results.record import CellConfig, Identities

PREFIX = "scores"


@dataclass(frozen=True, eq=False)
class ScoresOfFile:
    """Give the scores of a file.

    Attributes:
        name: `scores:` and the file, as it was given.
        made_for: the question and the digests that the scores belong to.
        fingerprint: digest of the file.
        layers: the layer of each site.
        groups: scores by aligned group.
    """

    name: str
    made_for: tuple[CellConfig, Identities]
    fingerprint: str
    layers: tuple[int, ...] = field(repr=False)
    groups: Mapping[str, Scores] = field(repr=False)
    summary: str = "scores that a file holds"
    passes: ClassVar[Passes] = Passes()
    mean_over_pairs: ClassVar[bool] = True  # every part of the pairs gets the same scores

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Return the file's scores of the group.

        Raises:
            BasisBenchError: the file has no such group, or is of other layers or other error nodes.
        """
        layers = tuple(site.layer for site in basis.sites)
        if layers != self.layers:
            raise BasisBenchError(f"method '{self.name}': has scores of layers {self.layers}, the cell of {layers}")
        if context.group not in self.groups:
            known = ", ".join(f"'{key}'" for key in self.groups)
            raise BasisBenchError(
                f"method '{self.name}': has no scores of the aligned group '{context.group}'; it has {known}"
            )
        found = self.groups[context.group]
        policy, made = context.error_policy, self.made_for[0].error_policy
        if found.errors is not None and policy not in WITHOUT_ERROR_NODES and policy != made:
            raise BasisBenchError(
                f"method '{self.name}': has scores of error nodes under the policy {made}, the cell is under {policy}"
            )
        device = context.tokens("clean").device
        errors = None if found.errors is None else tuple(part.to(device) for part in found.errors)
        return Scores(tuple(part.to(device) for part in found.units), errors)


def resolve(name: str) -> ScoresOfFile:
    """Return the method of a file of scores.

    Args:
        name: `scores:FILE`, the file seen from where the command runs.

    Raises:
        RecordError: there is no such file, or it holds something else.
    """
    path = Path(name.partition(":")[2])
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"method '{name}': {path} cannot be read: {reason}; give scores:FILE") from error
    return _read(name, path.resolve(), digest)


@lru_cache(maxsize=8)
def _read(name: str, path: Path, digest: str) -> ScoresOfFile:
    from basisbench.results.score_file import read_scores

    cell, identities, layers, _, groups = read_scores(path)
    return ScoresOfFile(name, (cell, identities), digest, layers, groups)


PROVIDES: tuple[MethodScheme, ...] = (
    MethodScheme(
        PREFIX,
        f"{PREFIX}:FILE",
        "scores of a safetensors file that basisbench.score(...).save wrote: anybody's ranking of nodes",
        resolve,
    ),
)
