"""`known-skip`: what layer 0 writes is read in layer 3, and nothing that bears on the answer happens in between.

1. Layer 0: attention copies the thing's word to the last position, where a neuron per kind fires and writes a feature.
2. Layers 1 and 2 carry something else; some of their neurons read the features of the kinds.
3. Layer 3, at the last position: a neuron per kind fires where that feature is above a half, and the logits read it.

Beside it stand three cross-layer transcoders. All of them give every layer's MLP output exactly, at every position, and
have as many active units where it counts; they differ in what they say happens:

- "true": every unit is a neuron, and writes at its own layer alone;
- "shortcut": the answers of layer 3 are written by units of layer 0, so that the answer takes one step and not two;
- "detour": they are written by units of layer 1, which read the features of the kinds there: a step in a layer that has
  none.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch

from basisbench_baselines.known import ANSWER_FEATURES, ANSWER_UNITS, KIND_UNITS, Story
from basisbench_baselines.known.circuit import WORDS, Circuit, Mlp, axis, bias, direction, save_circuit
from basisbench_baselines.known.lexicon import Lexicon, read_lexicon
from basisbench_baselines.known.neurons import NEURONS, answer_neurons, answers_and_others, kind_neurons, layer_of
from basisbench_baselines.training.cross_layer_files import CrossLayerWeights, save_cross_layer

LAYERS = 4
_ANSWERING = LAYERS - 1
"""The layer whose neurons give the answer."""


def build_known_skip(folder: Path, story: Story) -> None:
    """Write the model, its transcoders and one of its cross-layer transcoders."""
    from basisbench_baselines.known.dictionaries import save_transcoders

    circuit = known_skip()
    save_circuit(circuit, folder / "model")
    save_transcoders(folder / "dictionaries" / "transcoder", circuit.mlps)
    hooks = "blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out"
    save_cross_layer(folder / "dictionaries" / "clt", cross_layer(circuit, story), hooks, "known-skip")


def known_skip() -> Circuit:
    """Return the circuit."""
    lexicon, rng = read_lexicon(), Random(0)
    first = layer_of(kind_neurons(lexicon, KIND_UNITS), rng, lexicon, reads_features=False)
    between = [layer_of({}, rng, lexicon, reads_features=True) for _ in range(_ANSWERING - 1)]
    last = layer_of(answer_neurons(ANSWER_UNITS), rng, lexicon, reads_features=True)
    return Circuit(lexicon, (first, *between, last), answers_and_others(lexicon, rng), {0: WORDS})


def cross_layer(circuit: Circuit, story: Story) -> CrossLayerWeights:
    """Return a cross-layer transcoder that gives the outputs of all layers exactly.

    Args:
        circuit: the model.
        story: who writes the answers; units that do so in place of the neurons come last in their layer.
    """
    encoders, decoders = [], []
    for layer, mlp in enumerate(circuit.mlps):
        decoder = torch.zeros(NEURONS, LAYERS - layer, mlp.down.shape[1])
        decoder[:, 0] = mlp.down
        encoders.append(mlp.gate)
        decoders.append(decoder)
    if story != "true":
        decoders[_ANSWERING][list(ANSWER_UNITS)] = 0
        teller = 0 if story == "shortcut" else 1
        reads = _of_words(circuit.lexicon) if story == "shortcut" else _of_features(circuit.mlps[_ANSWERING])
        writes = torch.zeros(len(reads), LAYERS - teller, reads.shape[1])
        writes[:, _ANSWERING - teller] = torch.stack([direction(feature) for feature in ANSWER_FEATURES])
        encoders[teller] = torch.cat([encoders[teller], reads])
        decoders[teller] = torch.cat([decoders[teller], writes])
    biases, thresholds = (tuple(torch.zeros(len(encoder)) for encoder in encoders) for _ in range(2))
    written = tuple(torch.zeros(encoder.shape[1]) for encoder in encoders)
    return CrossLayerWeights(tuple(encoders), biases, thresholds, tuple(decoders), written)


def _of_words(lexicon: Lexicon) -> torch.Tensor:
    """Return what fires on the things of a kind as the answer does: both thresholds in one."""
    return torch.stack([axis(*lexicon.ids(*things), value=2) + bias(-1) for things in lexicon.things.values()])


def _of_features(answering: Mlp) -> torch.Tensor:
    """Return what the neurons of the answers read."""
    return answering.gate[list(ANSWER_UNITS)]
