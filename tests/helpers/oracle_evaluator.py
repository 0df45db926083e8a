"""A slow evaluator that owes nothing to the code under test.

`Naive` runs one prompt at a time through the Hugging Face model with plain PyTorch hooks. Module names are
written by hand, circuits are Python sets of `(layer, position, unit)`, with a name in the place of the unit for an
error node (`error_names`), and every mean and every choice is an explicit loop. From BasisBench it uses the data types
alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basisbench.types import Pairs
from helpers.oracle_sites import SITES, Where

POST_NORMS = ("gemma2", "gemma3")
"""With a norm between the projection and what is added to the residual stream."""

ABLATIONS = ("mean", "counterfactual", "zero")
POLICIES = ("coordinates", "rotated", "node", "keep", "ablate")
LAYERS, D_MODEL, D_MLP, VOCABULARY = 2, 16, 20, 31
EXACT = ("mlp_act", "mlp_out", "mlp_act_rotated", "attn_z", "attn_out", "resid")
DICTIONARIES = ("sae_mlp_out", "transcoder", "sae_attn_out", "sae_resid")
BASES = EXACT + DICTIONARIES
FAMILIES = {
    "mlp": ("mlp_act", "mlp_out", "mlp_act_rotated", "sae_mlp_out", "transcoder"),
    "attn": ("attn_z", "attn_out", "sae_attn_out"),
    "resid": ("resid", "sae_resid"),
}
FAMILY = {basis: family for family, bases in FAMILIES.items() for basis in bases}
FAMILY_OUTPUT = {"mlp": "mlp_out", "attn": "attn_out", "resid": "resid_post"}

READS = {
    "mlp_act": "mlp_act",
    "mlp_out": "mlp_out",
    "mlp_act_rotated": "mlp_act",
    "attn_z": "attn_z",
    "attn_out": "attn_out",
    "resid": "resid_post",
    "sae_mlp_out": "mlp_out",
    "sae_attn_out": "attn_out",
    "sae_resid": "resid_post",
    "transcoder": "mlp_in",
}
WRITES = {**READS, "transcoder": "mlp_out"}
KINDS = {
    "sae_mlp_out": ("standard", "topk"),
    "sae_attn_out": ("topk", "jumprelu"),
    "sae_resid": ("jumprelu", "standard"),
    "transcoder": ("transcoder", "jumprelu_transcoder"),
}
"""SAELens architecture of each layer's dictionary."""


Node = tuple[int, int, int | str]
"""(layer, position, unit), or (layer, position, one of `error_names`)."""


def error_names(policy: str) -> list[str]:
    """Return the error nodes of one layer and position of a dictionary: it writes `D_MODEL` numbers."""
    if policy in ("keep", "ablate"):
        return []
    kinds = {"coordinates": "error", "rotated": "rotated error"}
    return ["error"] if policy == "node" else [f"{kinds[policy]} {index}" for index in range(D_MODEL)]


@cache
def rotation(layer: int) -> Tensor:
    """Return the axes of `rotated` errors of a layer as rows.

    The columns of a Gaussian matrix, whose seed is the layer, made orthonormal one after the other. The harness has the
    seed and the generator in common with this, and nothing else.
    """
    columns = torch.randn(
        D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(layer), dtype=torch.float64
    ).T.clone()
    for index in range(D_MODEL):
        for _again in range(2):  # what rounding has left the first time
            for before in range(index):
                columns[index] -= (columns[index] @ columns[before]) * columns[before]
        columns[index] /= columns[index].norm()
    return columns.T


def kept_error(circuit: set[Node], layer: int, position: int, live: Tensor, reference: Tensor) -> Tensor:
    """Return the reference of an error, moved to the live error along what the circuit keeps of it."""
    if (layer, position, "error") in circuit:
        return live
    moved = reference.clone()
    kept = [index for index in range(D_MODEL) if (layer, position, f"error {index}") in circuit]
    moved[kept] = live[kept]
    for index in range(D_MODEL):
        if (layer, position, f"rotated error {index}") in circuit:
            axis = rotation(layer)[index]
            moved += (axis @ (live - reference)) * axis
    return moved


@dataclass(frozen=True)
class NaiveBasis:
    """A basis as two functions of one layer's vectors, with the names of the ends it reads and writes.

    Attributes:
        read: kind of site that is encoded.
        write: kind of site that is written.
        encode: (layer, vectors) to coordinates.
        decode: (layer, coordinates) to vectors.
        units: number of units, per layer.
        has_error: whether there are error nodes.
    """

    read: str
    write: str
    encode: Callable[[int, Tensor], Tensor]
    decode: Callable[[int, Tensor], Tensor]
    units: tuple[int, ...]
    has_error: bool

    def direction(self, layer: int, unit: int) -> Tensor:
        """What one unit writes, per unit of its activation."""
        one = torch.zeros(self.units[layer], dtype=torch.float64)
        nothing = self.decode(layer, one)
        one = one.clone()
        one[unit] = 1.0
        return self.decode(layer, one) - nothing


@dataclass(frozen=True)
class Values:
    """Coordinates and errors of one prompt, or the reference values: per layer, ``pos unit`` and ``pos d``."""

    units: list[Tensor]
    errors: list[Tensor]


@dataclass(frozen=True, eq=False)
class Naive:
    """One Hugging Face model, one prompt at a time."""

    architecture: str
    body: nn.Module

    def where(self, kind: str, layer: int = 0) -> Where:
        """Return the module and end of a kind of site."""
        module, end = SITES[self.architecture][kind]
        return module.format(layer=layer), end

    @contextmanager
    def hooked(self, edits: Mapping[Where, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
        """Run an edit on the activation at each place; it gets and returns a batch of one prompt."""
        handles = []
        try:
            for (name, end), edit in edits.items():
                module = self.body.get_submodule(name)
                if end == "in":

                    def before(_: nn.Module, inputs: tuple[Any, ...], edit: Any = edit) -> Any:
                        new = edit(inputs[0])
                        return None if new is None else (new, *inputs[1:])

                    handles.append(module.register_forward_pre_hook(before))
                else:

                    def after(_: nn.Module, __: Any, output: Any, edit: Any = edit) -> Any:
                        old = output[0] if isinstance(output, tuple) else output
                        new = edit(old)
                        if new is None:
                            return None
                        return (new, *output[1:]) if isinstance(output, tuple) else new

                    handles.append(module.register_forward_hook(after))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def logits(self, prompt: Any, edits: Mapping[Where, Callable[[Tensor], Tensor | None]] | None = None) -> Tensor:
        """Return the last logits of one prompt (or of a few, run with the same edits), before any final soft-cap."""
        tokens = torch.as_tensor(np.asarray(prompt), dtype=torch.long)
        if tokens.ndim == 1:
            tokens = tokens.unsqueeze(0)
        seen: list[Tensor] = []
        with self.hooked({**(edits or {}), ("lm_head", "out"): lambda output: seen.append(output)}):
            self.body(input_ids=tokens, use_cache=False)
        return seen[0][:, -1]

    def width(self, kind: str) -> int:
        """Return how many numbers there are at a kind of site."""
        return self.watched([2], {"": self.where(kind)})[""].shape[1]

    def metric(self, pairs: Pairs, index: int, logits: Tensor) -> Tensor:
        """Return mean answer logit minus mean foil logit of pair `index`."""
        answers, foils = pairs.answers[index], pairs.foils[index]
        answer = sum((logits[..., int(token)] for token in answers), torch.zeros(())) / len(answers)
        foil = sum((logits[..., int(token)] for token in foils), torch.zeros(())) / len(foils)
        return answer - foil

    def watched(self, prompt: Any, places: Mapping[str, Where]) -> dict[str, Tensor]:
        """Return the activations of one prompt at some places, ``pos d`` each."""
        seen: dict[Where, Tensor] = {}

        def note(activation: Tensor, place: Where) -> None:
            seen[place] = activation[0].detach()

        self.logits(prompt, {place: lambda x, place=place: note(x, place) for place in places.values()})
        return {key: seen[place] for key, place in places.items()}

    def values(self, twin: NaiveBasis, prompt: Any) -> Values:
        """Return coordinates and errors of one prompt in every layer; the same tensors when asked again."""
        return _values(self, twin, tuple(int(token) for token in prompt))

    def reference(self, twin: NaiveBasis, ablation: str, attribution: Pairs, evaluation: Pairs, index: int) -> Values:
        """Return what the nodes outside the circuit of evaluation pair `index` are set to."""
        if ablation == "counterfactual":
            return self.values(twin, evaluation.counterfactual[index])
        total: Values | None = None
        for prompt in attribution.counterfactual:
            found = self.values(twin, prompt)
            if total is None:
                total = found
            else:
                total = Values(
                    [old + new for old, new in zip(total.units, found.units, strict=True)],
                    [old + new for old, new in zip(total.errors, found.errors, strict=True)],
                )
        assert total is not None
        scale = 0.0 if ablation == "zero" else 1.0 / len(attribution.counterfactual)
        return Values([value * scale for value in total.units], [value * scale for value in total.errors])

    def circuit(self, twin: NaiveBasis, prompt: Any, circuit: set[Node], reference: Values) -> Tensor:
        """Return the last logits with every node outside the circuit at its reference, everything else live."""
        live: dict[int, Tensor] = {}

        def read(activation: Tensor, layer: int) -> None:
            live[layer] = twin.encode(layer, activation[0])

        def write(activation: Tensor, layer: int) -> Tensor:
            vectors = activation[0]
            if twin.read == twin.write:
                live[layer] = twin.encode(layer, vectors)
            coordinates = live.pop(layer)
            error = vectors - twin.decode(layer, coordinates)
            rows = []
            for position in range(len(vectors)):
                kept = torch.tensor([(layer, position, unit) in circuit for unit in range(twin.units[layer])])
                mixed = torch.where(kept, coordinates[position], reference.units[layer][position])
                row = twin.decode(layer, mixed)
                if twin.has_error:
                    row = row + kept_error(circuit, layer, position, error[position], reference.errors[layer][position])
                rows.append(row)
            return torch.stack(rows).unsqueeze(0)

        edits: dict[Where, Callable[[Tensor], Tensor | None]] = {}
        for layer in range(LAYERS):
            if twin.read != twin.write:
                edits[self.where(twin.read, layer)] = lambda x, layer=layer: read(x, layer)
            edits[self.where(twin.write, layer)] = lambda x, layer=layer: write(x, layer)
        return self.logits(prompt, edits)[0]


@cache
def _values(slow: Naive, twin: NaiveBasis, prompt: tuple[int, ...]) -> Values:
    layers, kinds = range(LAYERS), (twin.read, twin.write)
    seen = slow.watched(prompt, {f"{kind} {layer}": slow.where(kind, layer) for kind in kinds for layer in layers})
    units = [twin.encode(layer, seen[f"{twin.read} {layer}"]) for layer in layers]
    errors = [seen[f"{twin.write} {layer}"] - twin.decode(layer, units[layer]) for layer in layers]
    return Values(units, errors)


def all_nodes(twin: NaiveBasis, length: int, policy: str = "coordinates") -> list[Node]:
    """Return every node under an error policy: by layer, position and unit, errors after the units."""
    nodes: list[Node] = []
    for layer, position in itertools.product(range(LAYERS), range(length)):
        nodes += [(layer, position, unit) for unit in range(twin.units[layer])]
        if twin.has_error:
            nodes += [(layer, position, name) for name in error_names(policy)]
    return nodes


def naive_circuits(
    slow: Naive,
    twin: NaiveBasis,
    attribution: Pairs,
    evaluation: Pairs,
    ablation: str,
    circuits: Sequence[set[Node]],
) -> Tensor:
    """Return the metric of each circuit on each evaluation pair, one run each; ``circuit pair``."""
    rows = torch.zeros(len(circuits), len(evaluation), dtype=torch.float64)
    for index in range(len(evaluation)):
        reference = slow.reference(twin, ablation, attribution, evaluation, index)
        for row, circuit in enumerate(circuits):
            logits = slow.circuit(twin, evaluation.clean[index], circuit, reference)
            rows[row, index] = slow.metric(evaluation, index, logits)
    return rows


def ranked(scores: Mapping[Node, float], order: Sequence[Node]) -> list[Node]:
    """Return the nodes from largest to smallest absolute score; ties stay in the given order."""
    place = {node: index for index, node in enumerate(order)}
    return sorted(scores, key=lambda node: (-abs(scores[node]), place[node]))


def with_free_errors(circuit: set[Node], policy: str, length: int) -> set[Node]:
    """Add the error nodes that a policy keeps whatever the circuit."""
    if policy != "keep":
        return circuit
    return circuit | {(layer, position, "error") for layer in range(LAYERS) for position in range(length)}
