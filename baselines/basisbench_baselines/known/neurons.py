"""`known-neurons`: eight named neurons compute the answer; all others carry something else.

1. Layer 0, at the thing: a neuron per kind fires on the things of that kind, and writes a feature.
2. Layer 1: attention copies all features from the thing to the last position.
3. Layer 2, at the last position: a neuron per kind fires where that feature is above a half, and writes another one,
   which the kind's logit reads.

The others read words and features, some of them the very features of the kinds, and write features that the answers'
logits do not read; those of other words do. Many are larger than the eight. Every neuron writes a dense direction: the
neurons of the MLP's output are no basis in which this is sparse.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch

from basisbench_baselines.known import ANSWER_FEATURES, ANSWER_UNITS, KIND_FEATURES, KIND_UNITS
from basisbench_baselines.known.circuit import (
    FEATURES,
    WIDTH,
    Circuit,
    Mlp,
    axis,
    bias,
    direction,
    rectified,
    save_circuit,
)
from basisbench_baselines.known.lexicon import Lexicon, read_lexicon

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

NEURONS = 32
DECOY_FEATURES = range(8, 12)
OTHER_FEATURES = range(12, 64)
"""Features that no answer's logit reads."""

ANSWER_LOGIT = 8.0
"""Logit of a kind whose feature is 1."""


def build_known_neurons(folder: Path) -> None:
    """Write the model and its transcoders, whose units are the neurons."""
    from basisbench_baselines.known.dictionaries import save_transcoders

    circuit = known_neurons()
    save_circuit(circuit, folder / "model")
    save_transcoders(folder / "dictionaries" / "transcoder", circuit.mlps)


def known_neurons() -> Circuit:
    """Return the circuit."""
    lexicon, rng = read_lexicon(), Random(0)
    first = layer_of(kind_neurons(lexicon, KIND_UNITS), rng, lexicon, reads_features=False)
    second = layer_of({}, rng, lexicon, reads_features=True)
    third = layer_of(answer_neurons(ANSWER_UNITS), rng, lexicon, reads_features=True)
    return Circuit(lexicon, (first, second, third), answers_and_others(lexicon, rng), {1: FEATURES})


Neuron = tuple["Float[Tensor, ' d']", "Float[Tensor, ' d']"]
"""What a rectified neuron reads, and what it writes."""


def kind_neurons(lexicon: Lexicon, units: tuple[int, ...]) -> dict[int, Neuron]:
    """Return, by unit, neurons that fire on the things of a kind."""
    return {
        unit: (axis(*lexicon.ids(*lexicon.things[kind])), direction(feature))
        for unit, kind, feature in zip(units, lexicon.kinds, KIND_FEATURES, strict=True)
    }


def answer_neurons(units: tuple[int, ...]) -> dict[int, Neuron]:
    """Return, by unit, neurons that fire where the feature of a kind is above a half: 1 where it is 1."""
    return {
        unit: (2 * direction(kind) + bias(-1), direction(answer))
        for unit, kind, answer in zip(units, KIND_FEATURES, ANSWER_FEATURES, strict=True)
    }


def layer_of(own: Mapping[int, Neuron], rng: Random, lexicon: Lexicon, *, reads_features: bool) -> Mlp:
    """Return a layer with some neurons of its own, and others that bear nothing on the answer.

    Args:
        own: by unit, what computes the answer.
        rng: source of the others.
        lexicon: the words.
        reads_features: whether the others read features too, those of the kinds among them.
    """
    gates, downs = torch.zeros(NEURONS, WIDTH), torch.zeros(NEURONS, WIDTH)
    decoys = iter(range(4))
    for unit in range(NEURONS):
        if unit in own:
            gates[unit], downs[unit] = own[unit]
            continue
        decoy = next(decoys, None)
        if decoy is None:
            gates[unit] = _something(rng, lexicon, reads_features)
            downs[unit] = _grid(rng, 2) * direction(OTHER_FEATURES[int(rng.random() * len(OTHER_FEATURES))])
            continue
        # What says of which kind the thing is, twice as loud as the neurons that compute the answer.
        kind = lexicon.kinds[decoy]
        gates[unit] = 2 * (direction(decoy) if reads_features else axis(*lexicon.ids(*lexicon.things[kind])))
        downs[unit] = direction(DECOY_FEATURES[decoy])
    return rectified(gates, downs)


def _something(rng: Random, lexicon: Lexicon, reads_features: bool) -> Float[Tensor, " d"]:
    """Return what one of the other neurons reads: some words, and some features."""
    read = bias(_grid(rng, 0.25))
    for word in range(len(lexicon.words)):
        if rng.random() < 0.15:
            read[word] = _grid(rng, 2)
    for feature in (*KIND_FEATURES, *DECOY_FEATURES, *OTHER_FEATURES) if reads_features else ():
        if rng.random() < 0.1:
            read += _grid(rng, 1) * direction(feature)
    return read


def _grid(rng: Random, size: float) -> float:
    """Draw a number between -size and size, of few digits, so that it is the same on every machine."""
    return round((2 * rng.random() - 1) * 8) / 8 * size


def answers_and_others(lexicon: Lexicon, rng: Random) -> Float[Tensor, "word d"]:
    """Return what logits read: an answer's that of its kind, other words' some of the other features."""
    unembed = torch.zeros(len(lexicon.words), WIDTH)
    for word in range(len(lexicon.words)):
        unembed[word] = _grid(rng, 1) * direction(OTHER_FEATURES[int(rng.random() * len(OTHER_FEATURES))])
    for answer, feature in zip(lexicon.ids(*lexicon.kinds), ANSWER_FEATURES, strict=True):
        unembed[answer] = ANSWER_LOGIT * direction(feature)
    return unembed
