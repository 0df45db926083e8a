"""The parts of a record: what was measured in one cell, field by field.

`basisbench.results.record` puts them together. Every description is the definition of its number: meaning, unit, sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from basisbench.results.schema import (
    PRINTABLE,
    Count,
    Frozen,
    Hash,
    Name,
    NotNegative,
    Positive,
    Rounded,
    RoundedRow,
    Text,
)


def expect_length(value: tuple[object, ...], length: int | None, other: str) -> None:
    """Refuse a list whose length contradicts another field; an absent field has its own error already."""
    if length is not None and len(value) != length:
        raise ValueError(f"{len(value)} values, but {other} has or counts {length}")


class Group(Frozen):
    """One aligned group: pairs of one token length whose positions play the same roles."""

    key: Name = Field(description="key of the group, the same in both splits")
    attribution_pairs: Positive = Field(description="pairs used in the attribution split")
    evaluation_pairs: Positive = Field(description="pairs used in the evaluation split")
    positions: Positive = Field(description="tokens per prompt, the beginning-of-sequence token included")
    tokens: tuple[Text, ...] = Field(
        default=(), description="the tokens of the first clean evaluation prompt as text; empty in records of schema 1"
    )
    nodes: Positive = Field(description="nodes ranked in this group, ranked error nodes included")
    error_nodes: Count = Field(
        description="error nodes among them; 0 unless the error policy is coordinates, rotated or node"
    )
    scored_nodes: Count | None = Field(
        default=None,
        description="nodes with a score other than zero; beyond them the order is random. Null in records of schema 1",
    )

    @field_validator("error_nodes", "scored_nodes")
    @classmethod
    def _within_nodes(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and "nodes" in info.data and value > info.data["nodes"]:
            raise ValueError(f"{value} {str(info.field_name).replace('_', ' ')} among {info.data['nodes']} nodes")
        return value

    @field_validator("tokens")
    @classmethod
    def _one_per_position(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value:
            expect_length(value, info.data.get("positions"), "positions")
        return value


class Counts(Frozen):
    """How large the space of nodes is."""

    nodes_mean: NotNegative = Field(description="ranked nodes, mean over groups weighted by evaluation pairs")
    nodes_max: Positive = Field(description="ranked nodes of the largest group; the last size of the curve")
    layers: Positive = Field(description="layers that the basis covers")
    units_per_layer: tuple[Positive, ...] = Field(description="units of each layer, in layer order")
    area_end: Positive | None = Field(
        default=None,
        description="circuit size at which areas end, the same for all bases of a family: units of the family's widest "
        "raw-neuron site x layers x positions of the largest group. Null in records of schema 1",
    )

    @field_validator("units_per_layer")
    @classmethod
    def _one_per_layer(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        expect_length(value, info.data.get("layers"), "layers")
        return value


class Dropped(Frozen):
    """Candidate pairs left out, counted by reason."""

    attribution: Mapping[Text, Count] = Field(description="reason to number of pairs, attribution split")
    evaluation: Mapping[Text, Count] = Field(description="reason to number of pairs, evaluation split")


class Endpoints(Frozen):
    """The two ends that normalise a curve, in logits per evaluation example."""

    full: RoundedRow = Field(
        min_length=1, description="F(M): metric of the unhooked model, answer logit minus foil logit"
    )
    empty: RoundedRow = Field(description="F(0): metric with every node and every error of the family at its reference")
    accuracy: float = Field(ge=0, le=1, description="share of examples with F(M) > 0: the answer beats the foil")
    empty_at: Literal["output", "nodes"] | None = Field(
        default=None,
        description="where F(0) was taken: at the family's outputs, the same for all of its bases even where a norm "
        "lies between node and output (mean, counterfactual), or at the basis' own nodes (zero); null before 0.3.0",
    )
    gate_empty: RoundedRow | None = Field(
        default=None,
        description="F(0) at the family's outputs, which the gates are decided on; null where `empty` is that already",
    )
    family_empty: Rounded | None = Field(
        default=None,
        description="mean F(0) with the family ablated in all layers of the model; null unless layers are restricted",
    )

    @field_validator("empty", "gate_empty")
    @classmethod
    def _one_per_example(cls, value: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        full = info.data.get("full")
        if value is not None:
            expect_length(value, None if full is None else len(full), "endpoints.full")
        return value

    @field_validator("accuracy")
    @classmethod
    def _agrees_with_full(cls, value: float, info: ValidationInfo) -> float:
        full = info.data.get("full")
        if full is not None:
            share = sum(metric > 0 for metric in full) / len(full)
            if not math.isclose(share, value, abs_tol=1e-4):
                raise ValueError(f"{value:g} given, but a share of {share:g} of endpoints.full is above 0")
        return value


class Curve(Frozen):
    """Metric values at each circuit size; rows are sizes, columns are evaluation examples, in logits."""

    sizes: tuple[Count, ...] = Field(
        min_length=2, description="circuit sizes k in nodes: 0 first, strictly increasing, the largest group's all last"
    )
    feature_nodes: tuple[NotNegative, ...] = Field(
        description="unit nodes in the circuit, mean over groups weighted by evaluation pairs"
    )
    error_nodes: tuple[NotNegative, ...] = Field(
        description="error nodes in the circuit, mean over groups weighted by evaluation pairs"
    )
    units: tuple[NotNegative, ...] = Field(
        description="distinct (layer, unit) in the circuit, mean over groups weighted by evaluation pairs"
    )
    all_units: tuple[Count, ...] | None = Field(
        default=None, description="distinct (layer, unit) in the circuits of all groups together; null in schema 1"
    )
    circuit: tuple[RoundedRow, ...] = Field(
        description="[size][example] metric with only the circuit live, everything else at its reference"
    )
    complement: tuple[RoundedRow | None, ...] = Field(
        description="[size][example] metric with the circuit at its reference and everything else live; null at sizes "
        "that bisection added"
    )
    kl: tuple[NotNegative, ...] | None = Field(
        default=None,
        description="KL(full model || circuit) over the vocabulary at the last position, nats, mean over examples; "
        "null when the suite does not ask for it",
    )

    @field_validator("sizes")
    @classmethod
    def _increasing_from_zero(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value[0] != 0:
            raise ValueError(f"the first size must be 0, found {value[0]}")
        for before, after in pairwise(value):
            if after <= before:
                raise ValueError(f"sizes must increase strictly, found {after} after {before}")
        return value

    @field_validator("feature_nodes", "error_nodes", "units", "all_units", "kl", "circuit", "complement")
    @classmethod
    def _one_per_size(cls, value: tuple[object, ...] | None, info: ValidationInfo) -> tuple[object, ...] | None:
        sizes = info.data.get("sizes")
        if value is not None:
            expect_length(value, None if sizes is None else len(sizes), "curve.sizes")
        return value


class SubsetCheck(Frozen):
    """Metric when a half of the complement is ablated, against circuits that win by cancellation.

    A faithful circuit leaves the metric where it is, whichever half of the rest is live.
    """

    size: Count = Field(description="circuit size k in nodes")
    draws: tuple[Rounded, ...] = Field(
        min_length=1, description="mean metric over examples, in logits, one value per random half"
    )
    adversarial: tuple[Rounded, Rounded] | None = Field(
        default=None,
        description="the same with the halves live that were searched for: the lowest metric that was found, and the "
        "highest; null where the suite does not ask for it",
    )

    @field_validator("adversarial")
    @classmethod
    def _lower_first(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"the lower one stands first, found {value[0]:g} before {value[1]:g}")
        return value


class Guard(Frozen):
    """How well a dictionary fits the task's own prompts; measured on the attribution split, both sides.

    Without the beginning-of-sequence token, and without positions before `training.first_position`.
    """

    fvu: tuple[NotNegative, ...] = Field(
        description="fraction of variance unexplained per layer: squared error over squared distance from one mean "
        "over all positions; 0 is perfect, 1 is no better than that mean"
    )
    l0: tuple[NotNegative, ...] = Field(description="mean number of active units per position, per layer")
    slope: tuple[Rounded, ...] | None = Field(
        default=None,
        description="calibration slope per layer, least squares of the activation on its reconstruction, both without "
        "their means: 1 is calibrated, below 1 the decoder writes too much. Null in records of schema 1",
    )
    loss_recovered: Rounded | None = Field(
        default=None,
        description="loss recovered: of the rise in next-token cross-entropy when the write sites of all layers are at "
        "their mean, the share that does not occur when they are at their reconstruction. Null in records of schema 1, "
        "and where the rise is not above zero",
    )


class TopNode(Frozen):
    """A node near the top of the ranking."""

    group: Name = Field(description="key of the aligned group that it was scored in")
    layer: Count = Field(description="layer, from 0")
    position: Count | None = Field(description="token position, from 0; null when the granularity is unit")
    role: Text | None = Field(description="role of the position, for example subject; null as above")
    unit: Count | Literal["error"] = Field(description='index of the unit in its layer, or "error"')
    coordinate: Count | None = Field(
        default=None,
        description="of an error node, which coordinate of the write site it is; null for a unit, and where the whole "
        "error is one node",
    )
    score: Rounded = Field(description="effect on the metric of moving it off its clean value, in logits")


class SuiteTasks(Frozen):
    """The suite that a cell was run for, as it was run."""

    name: Name = Field(description="name of the suite")
    tasks: tuple[Name, ...] = Field(min_length=1, description="its tasks, which medians are taken over")


class Seconds(Frozen):
    """Wall-clock seconds per phase; work shared between cells is counted in each of them."""

    load: NotNegative = Field(description="loading the dictionary and reading its reference values")
    gradients: NotNegative = Field(description="the gradient fields that the method asked for")
    scoring: NotNegative = Field(description="projecting fields, or measuring, to node scores; ranking")
    curve: NotNegative = Field(description="ablated forward passes at every size, circuit and complement")


class Cost(Frozen):
    """What the cell took."""

    seconds: Seconds = Field(description="wall-clock seconds per phase")
    forward_equivalents: NotNegative = Field(
        description="passes over one pair that scoring needed; a backward pass counts as two forward ones"
    )
    dictionary_bytes: Count = Field(description="bytes of weights that the basis brings along; 0 for neurons")
    peak_memory_bytes: Count = Field(description="peak resident memory of the process, or the device allocator's peak")
    device: Name = Field(description="device of the model, for example cpu or cuda:0")


class Training(Frozen):
    """How the dictionaries of the basis were trained, as far as those say who made them."""

    first_position: Count = Field(
        description="position of a context from which on they were trained (the start of SAELens's `seqpos_slice`): "
        "`guard` leaves out what stands before it; circuits have nodes there all the same",
    )
    tokens: Positive | None = Field(
        default=None, description="tokens that each dictionary was trained on, the fewest of all layers; null if unsaid"
    )
    kind: Annotated[str, Field(max_length=200, pattern=PRINTABLE)] = Field(
        default="", description='kind of dictionary, for example "SAE" or "transcoder"; empty if unsaid'
    )
    text: Text = Field(default="", description="what they read, as the card beside them names it; empty without a card")
    text_digest: Hash | None = Field(default=None, description="digest of that text; null without a card")
    digest: Hash | None = Field(
        default=None,
        description="digest of everything that shaped the weights, by the card: the same for all snapshots of a "
        "training; null without a card",
    )


class Tuning(Frozen):
    """How the model was fine-tuned from another one: what `basisbench tune` left in the checkpoint's configuration."""

    start: Hash = Field(description="digest of the weights before tuning")
    tokens: Positive = Field(description="tokens of text that it was tuned on")
    text: Text = Field(default="", description="what it read, as its card names it")
    text_digest: Hash | None = Field(default=None, description="digest of that text")
    digest: Hash | None = Field(
        default=None, description="digest of everything that shaped the weights: the same for all snapshots of a tuning"
    )


class WeightsFile(Frozen):
    """The single file that a model was read from."""

    name: Name = Field(description="name of the file")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="SHA-256 digest of its bytes")
    quantisation: Name = Field(description="type of its weights as its makers call it, for example Q4_K_M")


class Environment(Frozen):
    """Where the cell ran."""

    packages: Mapping[Name, Text] = Field(description="package name to installed version")
    python: Name = Field(description="version of Python")
    platform: Name = Field(description="operating system and architecture")
    processor: Text = Field(description="name of the processor; empty when the system does not tell")
    threads: Positive = Field(description="threads that torch used")
    device_name: Text = Field(description="name of the accelerator; empty on a CPU")
    dtype: Name = Field(description="dtype of the model's weights, for example float32")
