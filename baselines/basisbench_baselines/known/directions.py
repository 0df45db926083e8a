"""`known-directions`: the answer lies in directions, more of them than the stream has axes, that are no neurons.

It computes what `known-neurons` does, in features of other neurons:

1. Layer 0, at the thing: a feature per kind; beside them 120 features of single words, two each. All 128 are written in
   64 axes: a feature overlaps with half of the others by an eighth, and what reads it reads some of these too.
2. The neurons of layers 0 and 1 are a rotation of the features: each neuron holds a part of every feature, a feature an
   equal part of all 128 neurons.
3. Layer 2, at the last position: the feature of each answer, where that of its kind is above a half, is spread evenly
   over 16 neurons. Layer 1, and the other half of layer 2, write features of the word at hand.

The dictionaries hold the true features: the transcoder reads them where they are computed and is exact; the sparse
autoencoder must read them off what is written, through the overlaps.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch

from basisbench_baselines.known import ANSWER_FEATURES, KIND_FEATURES
from basisbench_baselines.known.circuit import (
    FEATURES,
    WIDTH,
    Circuit,
    Mlp,
    axis,
    bias,
    direction,
    hadamard,
    rectified,
    save_circuit,
)
from basisbench_baselines.known.lexicon import Lexicon, read_lexicon
from basisbench_baselines.known.neurons import ANSWER_LOGIT, answer_neurons, kind_neurons

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

UNITS = 128
"""Features, and as many neurons."""

SPREAD = 16
"""Neurons that an answer is spread over."""

_OTHERS = range(8, UNITS)
_LOUDNESS = 0.375
"""Value of a feature of a single word; that of a kind is 1."""


def build_known_directions(folder: Path) -> None:
    """Write the model, its transcoders and its sparse autoencoders."""
    from basisbench_baselines.known.dictionaries import save_autoencoders, save_transcoders

    lexicon = read_lexicon()
    features = true_features(lexicon)
    save_circuit(known_directions(lexicon), folder / "model")
    save_transcoders(folder / "dictionaries" / "transcoder", features)
    directions = torch.stack([direction(feature) for feature in range(UNITS)])
    # Above all that the overlaps of three features amount to, below the value of any.
    save_autoencoders(folder / "dictionaries" / "sae_mlp_out", directions, layers=len(features), threshold=0.21)


def known_directions(lexicon: Lexicon) -> Circuit:
    """Return the circuit."""
    first, second, third = true_features(lexicon)
    unembed = torch.zeros(len(lexicon.words), WIDTH)
    for answer, feature in zip(lexicon.ids(*lexicon.kinds), ANSWER_FEATURES, strict=True):
        unembed[answer] = ANSWER_LOGIT * direction(feature)
    return Circuit(lexicon, (rotated(first), rotated(second), _spread(third)), unembed, {1: FEATURES})


def true_features(lexicon: Lexicon) -> tuple[Mlp, Mlp, Mlp]:
    """Return each layer as rectified features: unit i writes direction i."""
    kinds, answers = kind_neurons(lexicon, KIND_FEATURES), answer_neurons(ANSWER_FEATURES)
    layers = []
    for layer, own in enumerate((kinds, {}, answers)):
        gates = _word_features(lexicon, layer)
        for unit, (gate, _) in own.items():
            gates[unit] = gate
        layers.append(rectified(gates, torch.stack([direction(unit) for unit in range(UNITS)])))
    first, second, third = layers
    # Half of the third layer's neurons are for the answers, the other half for as many features.
    third.gate[UNITS // 2 + 8 :] = 0
    return first, second, third


def _word_features(lexicon: Lexicon, seed: int) -> Float[Tensor, "unit d"]:
    """Return what reads the features of single words: two for each word."""
    order = sorted(_OTHERS, key=[Random(f"{seed}/{unit}").random() for unit in range(UNITS)].__getitem__)
    gates = torch.zeros(UNITS, WIDTH)
    for word in range(len(lexicon.words)):
        for turn in (2 * word, 2 * word + 1):
            gates[order[turn % len(order)]] += axis(word, value=_LOUDNESS)
    return gates


def rotated(features: Mlp) -> Mlp:
    """Return neurons that compute features which never are negative, each neuron a part of every feature.

    Args:
        features: as rectified units, whose number is a power of two. Rows of the rotation are multiplied by 1/8 where
            they read and by what is left where they write, so that all weights are exact.
    """
    # Columns in disorder: in order, the rotation would undo that of the directions, and neurons would write axes.
    order = sorted(range(len(features.gate)), key=[Random(f"column {i}").random() for i in range(UNITS)].__getitem__)
    rotation = hadamard(len(features.gate))[:, order]
    reads, writes = rotation / 8, rotation * (8 / len(rotation))
    return Mlp(bias(1).expand_as(features.gate), reads @ features.gate, writes @ features.down)


def _spread(features: Mlp) -> Mlp:
    """Return neurons of which each answer has sixteen, and a rotation of the other features the rest."""
    signs = torch.tensor([1.0, -1.0]).repeat(SPREAD // 2)[:, None]
    answers = [
        Mlp(
            features.gate[feature].expand(SPREAD, -1),
            signs * bias(1),
            signs * features.down[feature] / SPREAD,
        )
        for feature in ANSWER_FEATURES
    ]
    kept = slice(8, UNITS // 2 + 8)
    rest = rotated(Mlp(features.gate[kept], features.up[kept], features.down[kept]))
    return Mlp(*(torch.cat(parts) for parts in zip(*((p.gate, p.up, p.down) for p in (*answers, rest)), strict=True)))
