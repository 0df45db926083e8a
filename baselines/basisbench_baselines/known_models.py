"""Models whose circuits are known because they were built: their names, and the nodes that compute the answer.

Their weights are set by code when a model is loaded, those of `known-trained` apart, which was trained to have its
answer in named neurons and ships with the package (docs/ground-truth.md).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from basisbench.types import ModelSpec, TrueNodes
from basisbench_baselines.known import ANSWER_FEATURES, ANSWER_UNITS, KIND_FEATURES, KIND_UNITS, Story

Node = tuple[int, str, int]

_TASK = "known_kind"
_ROLE_OF_THING, _ROLE_OF_ANSWER = "thing", "last"


def _nodes(layer: int, role: str, units: tuple[int, ...]) -> tuple[Node, ...]:
    return tuple((layer, role, unit) for unit in units)


def _known_neurons(folder: Path) -> None:
    from basisbench_baselines.known.neurons import build_known_neurons

    build_known_neurons(folder)


def _known_trained(folder: Path) -> None:
    from basisbench_baselines.known.interchange import build_known_trained

    build_known_trained(folder)


def _known_directions(folder: Path) -> None:
    from basisbench_baselines.known.directions import build_known_directions

    build_known_directions(folder)


def _known_skip(folder: Path, story: Story = "true") -> None:
    from basisbench_baselines.known.skip import build_known_skip

    build_known_skip(folder, story)


_SHORTCUT, _DETOUR = partial(_known_skip, story="shortcut"), partial(_known_skip, story="detour")

_IN_NEURONS = (
    *_nodes(0, _ROLE_OF_THING, KIND_UNITS),
    *_nodes(2, _ROLE_OF_ANSWER, ANSWER_UNITS),
)

_IN_DIRECTIONS = (
    *_nodes(0, _ROLE_OF_THING, KIND_FEATURES),
    *_nodes(2, _ROLE_OF_ANSWER, ANSWER_FEATURES),
)

_SKIPPING = (
    *_nodes(0, _ROLE_OF_ANSWER, KIND_UNITS),
    *_nodes(3, _ROLE_OF_ANSWER, ANSWER_UNITS),
)
_SKIPS = tuple(zip(_SKIPPING[:4], _SKIPPING[4:], strict=True))


def _skipping(*bases: str) -> tuple[TrueNodes, ...]:
    return tuple(TrueNodes(_TASK, basis, _SKIPPING, _SKIPS) for basis in bases)


PROVIDES: tuple[ModelSpec, ...] = (
    ModelSpec(
        "known-neurons",
        "",
        "built: eight named MLP neurons compute the answer of known_kind",
        build=_known_neurons,
        truth=tuple(TrueNodes(_TASK, basis, _IN_NEURONS) for basis in ("mlp_act", "transcoder")),
    ),
    ModelSpec(
        "known-trained",
        "",
        "trained by interchange intervention: eight named MLP neurons carry the answer of known_kind",
        build=_known_trained,
        truth=(TrueNodes(_TASK, "mlp_act", _IN_NEURONS),),
    ),
    ModelSpec(
        "known-directions",
        "",
        "built: eight directions compute the answer of known_kind, each spread over many neurons",
        build=_known_directions,
        truth=tuple(TrueNodes(_TASK, basis, _IN_DIRECTIONS) for basis in ("transcoder", "sae_mlp_out")),
    ),
    ModelSpec(
        "known-skip",
        "",
        "built: neurons of layer 3 read what layer 0 writes; an exact cross-layer transcoder that says so",
        build=_known_skip,
        truth=_skipping("mlp_act", "transcoder", "clt"),
    ),
    ModelSpec(
        "known-skip-shortcut",
        "",
        "known-skip with an exact cross-layer transcoder that writes the answer from layer 0",
        build=_SHORTCUT,
        truth=_skipping("clt"),
    ),
    ModelSpec(
        "known-skip-detour",
        "",
        "known-skip with an exact cross-layer transcoder that writes the answer from layer 1",
        build=_DETOUR,
        truth=_skipping("clt"),
    ),
)
