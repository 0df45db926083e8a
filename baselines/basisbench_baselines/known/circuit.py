"""A Llama whose weights are set: where things are in its residual stream, and how its parts are written there.

1. The stream has three parts: one axis per word, which the embedding sets; features, which MLPs write and read; and
   marks: a constant, "a thing stands here", "the answer is due here".
2. The constant is a thousand times larger than anything else, and the gain of every norm is such that what follows
   reads the stream as it is, to less than one part in ten thousand. Its weight divided by a thousand is a bias.
3. Activations are rectified (`hidden_act: relu`): a neuron is `relu(gate . x) * (up . x)`, and with an `up` that reads
   the constant alone `relu(gate . x)`.
4. Features are directions of the stream (`direction`), each of them dense: rows of a Hadamard matrix, and of a second
   one whose rows have an overlap of exactly 1/8 with those of the first (their signs are those of a bent function). All
   entries are multiples of 1/8: sums over them are exact.
5. One head attends from the last position to the thing and adds what 64 axes hold there; from elsewhere it adds the
   mean of what they hold so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from basisbench_baselines.known.lexicon import Lexicon, build_tokenizer, llama_config

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

FEATURE_AXES = HEAD = 64
WORDS, FEATURES = slice(0, 64), slice(64, 128)
CONSTANT, THING, LAST, WIDTH = 128, 129, 130, 136
LARGE = 1000.0
"""Value of the constant."""

_ATTENTION = 30.0
"""Score of the thing before the softmax; that of all else is 0."""


def hadamard(size: int) -> Float[Tensor, "size size"]:
    """Return Sylvester's Hadamard matrix; its size is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def direction(feature: int) -> Float[Tensor, " d"]:
    """Return the direction of one of 128 features in the stream, of length 1.

    The first 64 are orthogonal to each other, and so are the others; one of each has an overlap of 1/8 or -1/8.
    """
    rows = hadamard(FEATURE_AXES) / 8
    numbers = torch.arange(FEATURE_AXES)
    bent = sum((numbers >> bit) & (numbers >> (bit + 3)) & 1 for bit in range(3)) % 2
    found = torch.zeros(WIDTH)
    found[FEATURES] = rows[feature] if feature < FEATURE_AXES else rows[feature - FEATURE_AXES] * (1 - 2 * bent)
    return found


def axis(*places: int, value: float = 1.0) -> Float[Tensor, " d"]:
    """Return the sum of some axes of the stream, times a value."""
    found = torch.zeros(WIDTH)
    found[list(places)] = value
    return found


def bias(value: float) -> Float[Tensor, " d"]:
    """Return what reads a constant."""
    return axis(CONSTANT, value=value / LARGE)


@dataclass(frozen=True, eq=False)
class Mlp:
    """The neurons of a layer.

    Attributes:
        gate: what each reads before it is rectified.
        up: what that is multiplied by.
        down: what each writes.
    """

    gate: Float[Tensor, "neuron d"]
    up: Float[Tensor, "neuron d"]
    down: Float[Tensor, "neuron d"]


def rectified(gate: Float[Tensor, "neuron d"], down: Float[Tensor, "neuron d"]) -> Mlp:
    """Return neurons that are `relu(gate . x)`."""
    return Mlp(gate, bias(1).expand_as(gate), down)


@dataclass(frozen=True, eq=False)
class Circuit:
    """A whole model.

    Attributes:
        lexicon: its words.
        mlps: the neurons of each layer, equally many in all.
        unembed: what the logit of each word reads.
        copying: by layer whose attention does something, the axes that it copies.
    """

    lexicon: Lexicon
    mlps: tuple[Mlp, ...]
    unembed: Float[Tensor, "word d"]
    copying: Mapping[int, slice]


def save_circuit(circuit: Circuit, folder: Path) -> None:
    """Write a circuit as a checkpoint of a Llama, its tokenizer included."""
    from safetensors.torch import save_file

    config = llama_config(
        circuit.lexicon,
        hidden_size=WIDTH,
        intermediate_size=len(circuit.mlps[0].gate),
        num_hidden_layers=len(circuit.mlps),
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=HEAD,
        hidden_act="relu",
    )
    config.save_pretrained(folder)
    weights = {name: tensor.contiguous() for name, tensor in _weights(circuit).items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    build_tokenizer(circuit.lexicon).save_pretrained(folder)


def _weights(circuit: Circuit) -> dict[str, Tensor]:
    """Return the weights by the names that transformers gives them."""
    # A norm divides by LARGE / sqrt(WIDTH), for the constant is all but the whole of the stream's length.
    norm = torch.full((WIDTH,), LARGE / WIDTH**0.5)
    found = {
        "model.embed_tokens.weight": _embedding(circuit.lexicon),
        "model.norm.weight": norm.clone(),
        "lm_head.weight": circuit.unembed,
    }
    for layer, mlp in enumerate(circuit.mlps):
        parts = {"input_layernorm": norm.clone(), "post_attention_layernorm": norm.clone()}
        parts |= {"mlp.gate_proj": mlp.gate, "mlp.up_proj": mlp.up, "mlp.down_proj": mlp.down.T}
        parts |= {f"self_attn.{name}_proj": part for name, part in _attention(circuit.copying.get(layer)).items()}
        found |= {f"model.layers.{layer}.{name}.weight": part for name, part in parts.items()}
    return found


def _embedding(lexicon: Lexicon) -> Float[Tensor, "word d"]:
    words = len(lexicon.words)
    if words > WORDS.stop:
        raise ValueError(f"{words} words have no axes of their own: there are {WORDS.stop}")
    embedding = torch.zeros(words, WIDTH)
    embedding[:, :words] = torch.eye(words)
    embedding[:, CONSTANT] = LARGE
    embedding[lexicon.ids(*(thing for things in lexicon.things.values() for thing in things)), THING] = 1
    embedding[lexicon.ids(lexicon.last), LAST] = 1
    return embedding


def _attention(copied: slice | None) -> dict[str, Tensor]:
    """Return the projections of an attention that copies some axes; of one that writes nothing for None."""
    parts = {name: torch.zeros(HEAD, WIDTH) for name in "qkv"} | {"o": torch.zeros(WIDTH, HEAD)}
    if copied is not None:
        slowest = HEAD // 2 - 1  # of the pairs of axes that a position turns: by less than a hundredth of a degree
        parts["q"][slowest, LAST] = _ATTENTION * HEAD**0.5
        parts["k"][slowest, THING] = 1
        parts["v"][:, copied] = torch.eye(HEAD)
        parts["o"][copied] = torch.eye(HEAD)
    return parts
