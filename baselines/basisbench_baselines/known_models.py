"""Models whose circuits are known because they were built: their names, and the nodes that compute the answer.

Their weights are set by code when a model is loaded; nothing is trained, downloaded or shipped (docs/ground-truth.md).
"""

from __future__ import annotations

from pathlib import Path

from basisbench.types import ModelSpec, TrueNodes

Node = tuple[int, str, int]

_TASK = "known_kind"
_ROLE_OF_THING, _ROLE_OF_ANSWER = "thing", "last"


def _nodes(layer: int, role: str, units: tuple[int, ...]) -> tuple[Node, ...]:
    return tuple((layer, role, unit) for unit in units)


def _known_neurons(folder: Path) -> None:
    from basisbench_baselines.known.neurons import build_known_neurons

    build_known_neurons(folder)


_IN_NEURONS = (
    *_nodes(0, _ROLE_OF_THING, (5, 13, 18, 27)),
    *_nodes(2, _ROLE_OF_ANSWER, (3, 9, 21, 30)),
)

PROVIDES: tuple[ModelSpec, ...] = (
    ModelSpec(
        "known-neurons",
        "",
        "built: eight named MLP neurons compute the answer of known_kind, all others carry something else",
        build=_known_neurons,
        truth=tuple(TrueNodes(_TASK, basis, _IN_NEURONS) for basis in ("mlp_act", "transcoder")),
    ),
)
