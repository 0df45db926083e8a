"""A slow evaluator for cross-layer transcoders, and tiny ones in circuit-tracer's layout, written by hand.

One prompt at a time, plain hooks on the Hugging Face model, explicit loops over layers, positions and units, float64.
Models have three layers, so that a layer is written by several others and one layer's units travel past another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.circuits.group import GroupPair
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.protocols import CrossLayerBasis
from basisbench.types import ModelSpec, Pairs, Scores
from helpers import oracle
from helpers.oracle import Node, Where

LAYERS, UNITS = 3, (22, 19, 16)
_LLAMA: Mapping[str, Where] = {
    "mlp.hook_in": ("model.layers.{layer}.mlp", "in"),
    "hook_resid_mid": ("model.layers.{layer}.post_attention_layernorm", "in"),
}
_GEMMA: Mapping[str, Where] = {**_LLAMA, "hook_resid_mid": ("model.layers.{layer}.pre_feedforward_layernorm", "in")}
READS: Mapping[str, Mapping[str, Where]] = {
    "llama": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "gpt2": {
        "mlp.hook_in": ("transformer.h.{layer}.mlp", "in"),
        "hook_resid_mid": ("transformer.h.{layer}.ln_2", "in"),
    },
    "neox": {"mlp.hook_in": ("gpt_neox.layers.{layer}.mlp", "in")},
}
"""Where the input hooks lie, from the modules' own `forward`; circuit-tracer's `utils/tl_nnsight_mapping.py` names the
same places. A block that runs attention and MLP side by side has no residual stream between them."""

_storage = tempfile.TemporaryDirectory(prefix="basisbench-cross-layer-")


@dataclass(frozen=True, eq=False)
class Files:
    """What circuit-tracer's files hold, per layer.

    Attributes:
        read: hook within the block that is encoded.
        w_enc: encoder, ``unit d``.
        b_enc: encoder bias.
        threshold: thresholds; None for ReLU.
        w_dec: decoder, ``unit target d``.
        b_dec: bias of each layer's reconstruction.
    """

    read: str
    w_enc: tuple[Tensor, ...]
    b_enc: tuple[Tensor, ...]
    threshold: tuple[Tensor, ...] | None
    w_dec: tuple[Tensor, ...]
    b_dec: tuple[Tensor, ...]

    def encode(self, layer: int, x: Tensor) -> Tensor:
        """Activations of a layer's units."""
        before = x @ self.w_enc[layer].T + self.b_enc[layer]
        limit = torch.zeros(()) if self.threshold is None else self.threshold[layer]
        return torch.where(before > limit, before, 0.0)

    def direction(self, source: int, unit: int, target: int) -> Tensor:
        """What a unit writes at a layer, per unit of its activation."""
        return self.w_dec[source][unit, target - source]

    def rebuilt(self, target: int, units: Sequence[Tensor]) -> Tensor:
        """The reconstruction at a layer, from the units of this layer and all before it."""
        output = self.b_dec[target].clone()
        for source in range(target + 1):
            output = output + units[source] @ self.w_dec[source][:, target - source]
        return output

    def save(self, folder: Path, **config: str) -> Path:
        """Write the files as `CrossLayerTranscoder.to_safetensors` of circuit-tracer does (commit 4bb8c0e)."""
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(len(self.w_enc)):
            encoder = {f"W_enc_{i}": self.w_enc[i], f"b_enc_{i}": self.b_enc[i], f"b_dec_{i}": self.b_dec[i]}
            if self.threshold is not None:
                encoder[f"threshold_{i}"] = self.threshold[i]
            save_file(encoder, folder / f"W_enc_{i}.safetensors")
            save_file({f"W_dec_{i}": self.w_dec[i].contiguous()}, folder / f"W_dec_{i}.safetensors")
        values = {
            "model_name": "tiny", "model_kind": "cross_layer_transcoder",
            "feature_input_hook": self.read, "feature_output_hook": "hook_mlp_out",
        }  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(values | config), encoding="utf-8")
        return folder


@cache
def slow_model(architecture: str) -> oracle.Naive:
    """Load the three-layer model by itself."""
    from transformers import AutoModelForCausalLM

    body = AutoModelForCausalLM.from_pretrained(oracle.checkpoint(architecture, LAYERS), dtype=torch.float64)
    return oracle.Naive(architecture, body.eval().requires_grad_(False))


def read_place(architecture: str, read: str, layer: int) -> Where:
    """Return where an input hook lies in the Hugging Face model."""
    module, end = READS[architecture][read]
    return module.format(layer=layer), end


@cache
def files(architecture: str, read: str = "mlp.hook_in", jump: bool = True) -> Files:
    """Make a random cross-layer transcoder whose decoders are fitted to random prompts: better than nothing."""
    generator = torch.Generator().manual_seed(len(architecture) + len(read) + jump)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    width = oracle.D_MODEL
    parts = Files(
        read,
        tuple(draw(units, width) * width**-0.5 for units in UNITS),
        tuple(0.3 * draw(units) for units in UNITS),
        tuple(0.1 + 0.3 * draw(units).abs() for units in UNITS) if jump else None,
        tuple(draw(units, LAYERS - layer, width) for layer, units in enumerate(UNITS)),
        tuple(0.3 * draw(width) for _ in UNITS),
    )
    slow = slow_model(architecture)
    prompts = torch.randint(2, 31, (80, 6), generator=generator)
    # Whichever test comes first, and however it asks: other weights for another call would be another transcoder.
    with oracle.in_double_precision():
        seen = [slow.watched(prompt, _places(architecture, read)) for prompt in prompts]
    codes = [parts.encode(layer, torch.cat([one[f"read {layer}"] for one in seen])) for layer in range(LAYERS)]
    for target in range(LAYERS):
        design = torch.cat(codes[: target + 1], 1)
        wanted = torch.cat([one[f"write {target}"] for one in seen]) - parts.b_dec[target]
        gram = design.T @ design + torch.eye(design.shape[1], dtype=torch.float64)
        rows = torch.linalg.solve(gram, design.T @ wanted)
        for source, part in enumerate(rows.split(UNITS[: target + 1])):
            parts.w_dec[source][:, target - source] = part
    return parts


def _places(architecture: str, read: str) -> dict[str, Where]:
    slow = slow_model(architecture)
    reads = {f"read {layer}": read_place(architecture, read, layer) for layer in range(LAYERS)}
    return reads | {f"write {layer}": slow.where("mlp_out", layer) for layer in range(LAYERS)}


@cache
def folder(architecture: str, read: str = "mlp.hook_in", jump: bool = True) -> Path:
    """Save that cross-layer transcoder."""
    return files(architecture, read, jump).save(Path(_storage.name) / f"{architecture}-{read}-{jump}")


@cache
def model(architecture: str, dtype: str = "float64", read: str = "mlp.hook_in", jump: bool = True) -> Model:
    """Load the three-layer model through the harness, with its cross-layer transcoder."""
    path, dictionaries = oracle.checkpoint(architecture, LAYERS), {"clt": folder(architecture, read, jump)}
    return load_model(ModelSpec(f"tiny-{architecture}", str(path), "three layers", dictionaries), dtype=dtype)


def build(loaded: Model) -> CrossLayerBasis:
    """Build the basis through the registry."""
    from basisbench.registry import load_registry

    basis = load_registry().get("basis", "clt").build(loaded)
    assert isinstance(basis, CrossLayerBasis)
    return basis


@cache
def basis(architecture: str, dtype: str = "float64", read: str = "mlp.hook_in", jump: bool = True) -> CrossLayerBasis:
    """Build the basis of that model."""
    return build(model(architecture, dtype, read, jump))


@cache
def contexts(architecture: str, dtype: str = "float64", read: str = "mlp.hook_in") -> tuple[GroupPair, ...]:
    """Return the two groups of the oracle on the three-layer model."""
    groups, loaded = oracle.two_groups(), model(architecture, dtype, read)
    return tuple(
        GroupPair(GroupContext(loaded, first, 0), GroupContext(loaded, second, 0))
        for first, second in zip(groups.attribution, groups.evaluation, strict=True)
    )


@dataclass(frozen=True)
class Values:
    """Coordinates and errors of a prompt, or the reference values: per layer, ``pos unit`` and ``pos d``."""

    units: list[Tensor]
    errors: list[Tensor]


@dataclass(frozen=True, eq=False)
class Slow:
    """The slow evaluator of one cross-layer transcoder on one model."""

    architecture: str
    parts: Files

    @property
    def plain(self) -> oracle.Naive:
        """The model."""
        return slow_model(self.architecture)

    def values(self, prompt: Any) -> Values:
        """Coordinates and errors of one prompt."""
        return _values(self, tuple(int(token) for token in prompt))

    def reference(self, ablation: str, attribution: Pairs, evaluation: Pairs, index: int) -> Values:
        """What the nodes outside the circuit of evaluation pair `index` are set to."""
        if ablation == "counterfactual":
            return self.values(evaluation.counterfactual[index])
        found = [self.values(prompt) for prompt in attribution.counterfactual]
        scale = 0.0 if ablation == "zero" else 1.0 / len(found)
        layers = range(LAYERS)
        return Values(
            [scale * sum((one.units[layer] for one in found[1:]), found[0].units[layer]) for layer in layers],
            [scale * sum((one.errors[layer] for one in found[1:]), found[0].errors[layer]) for layer in layers],
        )

    def logits(self, prompt: Any, circuit: set[Node], reference: Values) -> Tensor:
        """The last logits with every node outside the circuit at its reference, everything else live in this pass."""
        live: list[Tensor] = []
        mixed: list[Tensor] = []

        def read(x: Tensor, layer: int) -> None:
            assert len(live) == layer
            f = self.parts.encode(layer, x[0])
            live.append(f)
            kept = [[(layer, position, unit) in circuit for unit in range(f.shape[1])] for position in range(len(f))]
            mixed.append(torch.where(torch.tensor(kept), f, reference.units[layer]))

        def write(y: Tensor, layer: int) -> Tensor:
            error = y[0] - self.parts.rebuilt(layer, live)
            rows = [
                oracle.kept_error(circuit, layer, position, error[position], reference.errors[layer][position])
                for position in range(len(error))
            ]
            return (self.parts.rebuilt(layer, mixed) + torch.stack(rows)).unsqueeze(0)

        edits: dict[Where, Callable[[Tensor], Tensor | None]] = {}
        for layer in range(LAYERS):
            place = read_place(self.architecture, self.parts.read, layer)
            edits[place] = lambda x, layer=layer: read(x, layer)
            edits[self.plain.where("mlp_out", layer)] = lambda y, layer=layer: write(y, layer)
        return self.plain.logits(prompt, edits)[0]

    def metrics(self, attribution: Pairs, evaluation: Pairs, ablation: str, circuits: Sequence[set[Node]]) -> Tensor:
        """The metric of each circuit on each evaluation pair, one run each; ``circuit pair``."""
        rows = torch.zeros(len(circuits), len(evaluation), dtype=torch.float64)
        for index in range(len(evaluation)):
            reference = self.reference(ablation, attribution, evaluation, index)
            for row, circuit in enumerate(circuits):
                logits = self.logits(evaluation.clean[index], circuit, reference)
                rows[row, index] = self.plain.metric(evaluation, index, logits)
        return rows


@cache
def _values(slow: Slow, prompt: tuple[int, ...]) -> Values:
    seen = slow.plain.watched(prompt, _places(slow.architecture, slow.parts.read))
    units = [slow.parts.encode(layer, seen[f"read {layer}"]) for layer in range(LAYERS)]
    errors = [seen[f"write {layer}"] - slow.parts.rebuilt(layer, units) for layer in range(LAYERS)]
    return Values(units, errors)


@cache
def slow(architecture: str, read: str = "mlp.hook_in") -> Slow:
    """Return the slow evaluator."""
    return Slow(architecture, files(architecture, read))


def random_scores(length: int, seed: int, policy: str = "coordinates") -> Scores:
    """Draw scores with many ties, of the nodes that there are under an error policy."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * 10).round() / 10

    names = oracle.error_names(policy)
    errors = tuple(draw(length, len(names)) for _ in UNITS) if names else None
    return Scores(tuple(draw(length, units) for units in UNITS), errors)


def nodes(length: int, policy: str = "coordinates") -> list[Node]:
    """Return every node under an error policy: by layer, position and unit, errors after the units."""
    found: list[Node] = []
    for layer in range(LAYERS):
        for position in range(length):
            found += [(layer, position, unit) for unit in range(UNITS[layer])]
            found += [(layer, position, name) for name in oracle.error_names(policy)]
    return found


def score_of_nodes(scores: Scores, policy: str = "coordinates") -> dict[Node, float]:
    """Return scores by node."""
    found: dict[Node, float] = {}
    names = oracle.error_names(policy)
    for layer, position, unit in nodes(len(scores.units[0]), policy):
        if isinstance(unit, str):
            assert scores.errors is not None
            found[layer, position, unit] = float(scores.errors[layer][position, names.index(unit)])
        else:
            found[layer, position, unit] = float(scores.units[layer][position, unit])
    return found
