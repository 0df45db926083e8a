"""What a run computes, step by step: a model, pairs, the score of every node, a circuit, and what the circuit is worth.

1. `load_model` and `load_pairs` give one task on one model: aligned groups of pairs in two splits.
2. `score` gives every node of a basis a score, per aligned group (`NodeScores`).
3. `NodeScores.circuit(k)` takes the k nodes of the largest |score| of each group (`Circuit`).
4. `Circuit.evaluate` ablates everything else, and then the circuit itself (`Evaluation`).

Scores are saved as safetensors, circuits as JSON; both say which cell they belong to, as a record does. Every number is
computed by what `basisbench.run` uses, and is the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from basisbench.attribution.context import seeded_generator
from basisbench.circuits.curve import GroupMeasurement
from basisbench.circuits.ranking import Ranking, node_name, rank
from basisbench.errors import BasisBenchError, RecordError, hold
from basisbench.models.load import load_model as _load
from basisbench.protocols import BasisSpec, Method
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig, Identities, write_whole
from basisbench.results.record_fields import TopNode
from basisbench.results.schema import Frozen, Positive, VersionOne, describe_problem
from basisbench.results.score_file import read_scores, write_scores
from basisbench.runs.cell_record import pooled_error_share
from basisbench.runs.cells import shared_layers
from basisbench.runs.model_names import find_model
from basisbench.runs.plugin_failure import check_widths
from basisbench.runs.session import Session, open_session
from basisbench.runs.suite import read_layers
from basisbench.types import WITHOUT_ERROR_NODES, Ablation, Bos, ErrorPolicy, Metric, ScoreReference, Scores

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from basisbench.circuits.curve import GroupCurve
    from basisbench.circuits.group import GroupPair
    from basisbench.models.model import Model
    from basisbench.protocols import Basis, Task

PathLike = str | os.PathLike[str]


def load_model(name: str, *, device: str = "cpu", dtype: str | None = None) -> Model:
    """Load a model.

    Args:
        name: a listed name, a repository ORG/NAME[@REVISION] or a folder.
        device: torch device, for example "cuda:0"; "auto" spreads the layers over all GPUs.
        dtype: type of the weights, for example "bfloat16"; the checkpoint's own when None.

    Raises:
        BasisBenchError: there is no such model, or it cannot be had or used.
    """
    hold("name", name, isinstance(name, str), "a model's name, repository or folder")
    return _load(find_model(name, load_registry()), device=device, dtype=dtype)


def load_pairs(
    task: str | Task,
    model: Model,
    *,
    attribution: int = 100,
    evaluation: int = 100,
    seed: int = 0,
    bos: Bos = "auto",
    metric: Metric = "logit",
) -> Session:
    """Make the pairs of a task for a model's tokenizer, as aligned groups in two splits.

    Args:
        task: name of a registered task, or a task.
        model: a loaded model.
        attribution: pairs wanted for scores and reference values.
        evaluation: pairs wanted for what circuits are worth.
        seed: order of the candidates, and of random scores.
        bos: whether a beginning-of-sequence token stands in front of prompts: where the tokenizer adds one, "always",
            "never".
        metric: what answers are worth: "logit" of one token, or "logprob" of several.

    Returns:
        The pairs on the model: `.attribution` and `.evaluation` are sequences of aligned groups, each with token ids
        `clean` and `counterfactual` of shape (pair, pos), `answers` (pair, answer) and `foils` (pair, foil).

    Raises:
        BasisBenchError: there is no such task, or an argument is of a wrong type or below its least value.
        TaskError: no pair survives the tokenizer.
    """
    from basisbench.models.model import Model

    hold("model", model, isinstance(model, Model), "a loaded model (load_model)")
    for name, count in (("attribution", attribution), ("evaluation", evaluation)):
        hold(name, count, isinstance(count, Integral) and count >= 1, "a whole number of pairs, at least 1")
    hold("seed", seed, isinstance(seed, Integral), "a whole number")
    found = load_registry().get("task", task) if isinstance(task, str) else task
    return open_session(
        model, found, attribution_pairs=attribution, evaluation_pairs=evaluation, seed=seed, bos=bos, metric=metric
    )


def score(
    pairs: Session,
    basis: str | BasisSpec,
    method: str | Method,
    *,
    ablation: Ablation = "mean",
    error_policy: ErrorPolicy = "coordinates",
    score_reference: ScoreReference = "ablation",
    layers: str | Sequence[int] | None = None,
) -> NodeScores:
    """Score every node of a basis in every aligned group of the attribution split.

    Args:
        pairs: what `load_pairs` returns.
        basis: name of a registered basis, or a spec.
        method: name of a registered method, or a method.
        ablation: reference of the nodes outside a circuit.
        error_policy: what happens to what the basis does not reconstruct.
        score_reference: what nodes move to when they are scored.
        layers: layers that the basis is restricted to, for example "10-20" or [12]; all that it covers when None.

    Raises:
        BasisError: the basis cannot be built, or explains nothing on these prompts.
        BasisBenchError: the method gives no score for some node, or one that is no finite number.
    """
    spec = load_registry().get("basis", basis) if isinstance(basis, str) else basis
    way = load_registry().get("method", method) if isinstance(method, str) else method
    hold("pairs", pairs, isinstance(pairs, Session), "what load_pairs returns")
    hold("basis", basis, isinstance(spec, BasisSpec), "a name or a BasisSpec")
    hold("method", method, isinstance(way, Method) and not isinstance(way, type), "a name or a method")
    first = pairs.attribution[0]
    kept = shared_layers([spec], pairs.model.layers, read_layers(layers))[spec.family]
    cell = _cell(
        model=pairs.model.name,
        task=first.task,
        task_version=first.version,
        basis=spec.name,
        family=spec.family,
        method=way.name,
        ablation=ablation,
        error_policy=error_policy,
        score_reference=score_reference,
        seed=pairs.seed,
        bos=pairs.bos,
        metric=pairs.metric,
        attribution_pairs=pairs.attribution.pair_count,
        evaluation_pairs=pairs.evaluation.pair_count,
        layers=kept,
    )
    built = pairs.basis(spec, kept).basis
    contexts = [group.attribution for group in pairs.groups]
    keys = [context.pairs.group for context in contexts]
    pairs.fit(spec, built, kept)
    identities = pairs.identity(spec, way, kept)
    scores = pairs.scores(built, way, cell)
    for group, found in zip(pairs.groups, scores, strict=True):
        check_widths(found.units, found.errors, way, built, group.reference_of_few(built, ablation), error_policy)
    return NodeScores(
        cell=cell,
        identities=identities,
        layers=tuple(site.layer for site in built.sites),
        roles={context.pairs.group: context.pairs.roles for context in contexts},
        groups=dict(zip(keys, scores, strict=True)),
    )


def _cell(**fields: Any) -> CellConfig:
    try:
        return CellConfig(**fields)
    except ValidationError as error:
        raise BasisBenchError(describe_problem(error)) from error


@dataclass(frozen=True, eq=False)
class NodeScores:
    """The score of every node of a basis: the effect on the metric of moving it off its clean value, in logits.

    Attributes:
        cell: the question that the scores belong to.
        identities: digests of the model, the dictionary and the pairs.
        layers: the layer of each site, in the order of the tensors in `groups`.
        roles: role of each position, by aligned group.
        groups: by aligned group, `units`, a tensor (pos, unit) per layer, and `errors`, one of (pos, error) per layer
            or None.
    """

    cell: CellConfig
    identities: Identities
    layers: tuple[int, ...]
    roles: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, Scores]

    def circuit(self, k: int) -> Circuit:
        """Return the circuit of the k nodes of the largest |score| of each aligned group.

        Args:
            k: nodes per group, at least 1; where a group has fewer, all of them.
        """
        if not isinstance(k, Integral) or k < 1:
            raise BasisBenchError(f"k: a circuit has at least 1 node, found {k!r:.60}")
        nodes = [
            TopNode(
                group=key,
                layer=self.layers[index],
                position=position,
                role=self.roles[key][position],
                unit=name,
                coordinate=coordinate,
                score=value,
            )
            for key, scores in self.groups.items()
            for index, position, unit, value in rank(
                scores,
                policy=self.cell.error_policy,
                ties=seeded_generator(self.cell.seed, self.cell.task, key, "ties"),
            ).top(k)
            for name, coordinate in [node_name(unit, self.cell.error_policy)]
        ]
        return Circuit(schema_version=1, cell=self.cell, identities=self.identities, k=int(k), nodes=tuple(nodes))

    def error_share(self, pairs: Session) -> float | None:
        """Return the share of attribution in errors, as a record has it: over groups, weighted by evaluation pairs.

        Args:
            pairs: what `load_pairs` returned, the pairs of these scores.

        Returns:
            Sum of |score| over error nodes, over that of all nodes; None where no errors are ranked (an exact basis,
            the policies `keep` and `ablate`), and where no node has a score.

        Raises:
            BasisBenchError: the pairs are others.
        """
        hold("pairs", pairs, isinstance(pairs, Session), "what load_pairs returns")
        if pairs.data_hash != self.identities.data:
            raise BasisBenchError("scores of other pairs: give those that they were taken on")
        counts = [group.evaluation.pair_count for group in pairs.groups]
        keys = [group.evaluation.group for group in pairs.groups]
        return pooled_error_share([rank(self.groups[key], policy=self.cell.error_policy) for key in keys], counts)

    def save(self, path: PathLike) -> None:
        """Write the scores as safetensors: `GROUP/layer N/units` (pos, unit), `GROUP/layer N/errors` (pos, error)."""
        write_scores(path, self.cell, self.identities, self.layers, self.roles, self.groups)

    @classmethod
    def load(cls, path: PathLike) -> NodeScores:
        """Read what `save` wrote.

        Raises:
            RecordError: the file cannot be read, or holds something else.
        """
        return cls(*read_scores(path))


class Circuit(Frozen):
    """The k nodes of the largest |score| of each aligned group."""

    schema_version: VersionOne = Field(description="version of this schema; superseded, never edited")
    cell: CellConfig = Field(description="the question that the scores belong to")
    identities: Identities = Field(description="digests of the model, the dictionary and the pairs")
    k: Positive = Field(description="nodes per aligned group; a group that has fewer has all of its nodes")
    nodes: tuple[TopNode, ...] = Field(description="the nodes, group by group, best first")

    def save(self, path: PathLike) -> None:
        """Write the circuit as JSON."""
        write_whole(path, f"{self.model_dump_json(indent=1)}\n")

    @classmethod
    def load(cls, path: PathLike) -> Circuit:
        """Read what `save` wrote.

        Raises:
            RecordError: the file cannot be read, or a field is wrong; the message names the field.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except ValidationError as error:
            raise RecordError(f"{path}: {describe_problem(error)}") from error
        except OSError as error:
            raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from error

    def evaluate(
        self, pairs: Session, *, ablation: Ablation | None = None, basis: BasisSpec | None = None
    ) -> Evaluation:
        """Measure the circuit and its complement on the evaluation split.

        Args:
            pairs: what `load_pairs` returns: of the circuit's task and model, not necessarily the same pairs.
            ablation: reference of what is left out; the circuit's own when None.
            basis: spec of a basis that is not registered.

        Raises:
            BasisBenchError: the circuit is of another task, model or dictionary, or names a node that is not there.
        """
        import numpy as np

        hold("pairs", pairs, isinstance(pairs, Session), "what load_pairs returns")
        cell = _cell(**{**dict(self.cell), "ablation": ablation or self.cell.ablation})
        spec = basis or load_registry().get("basis", cell.basis)
        hold("basis", spec, isinstance(spec, BasisSpec), "a BasisSpec")
        self.check(pairs, spec)
        built = pairs.basis(spec, cell.layers).basis
        curves = [self._measured(cell, built, group) for group in pairs.groups]
        parts = [(curve.full, curve.empty, curve.circuit[0], curve.complement[0] or []) for curve in curves]
        return Evaluation(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def _measured(self, cell: CellConfig, basis: Basis, group: GroupPair) -> GroupCurve:
        measurement = GroupMeasurement(cell, basis, group, self.ranking(basis, group))
        measurement.measure([self.k], complements=True)
        return measurement.curve([self.k], [self.k])

    def check(self, pairs: Session, spec: BasisSpec) -> None:
        """Refuse pairs, a model or a dictionary that the circuit was not made for.

        Raises:
            BasisBenchError: says which, and what the circuit was made for.
        """
        here, first = pairs.identity(spec, layers=self.cell.layers), pairs.attribution[0]
        for what, found, own in (
            ("basis", spec.name, self.cell.basis),
            ("task", f"{first.task} version {first.version}", f"{self.cell.task} version {self.cell.task_version}"),
            ("weights of the model", here.model, self.identities.model),
            ("weights of the dictionary", here.dictionary, self.identities.dictionary),
        ):
            if found != own:
                raise BasisBenchError(f"circuit of {what} {own}: cannot be evaluated with {found}")

    def ranking(self, basis: Basis, group: GroupPair) -> Ranking:
        """Return a ranking of the group's nodes that begins with those of the circuit.

        Raises:
            BasisBenchError: the basis does not have some node, or the group lacks nodes.
        """
        import torch

        key, length = group.attribution.pairs.group, group.attribution.pairs.length
        reference, policy = group.reference_of_few(basis, self.cell.ablation), self.cell.error_policy
        units = tuple(torch.zeros(length, part.shape[-1]) for part in reference.units)
        errors = None
        if reference.errors is not None and policy not in WITHOUT_ERROR_NODES:
            errors = tuple(torch.zeros(length, 1 if policy == "node" else part.shape[-1]) for part in reference.errors)
        index = {site.layer: place for place, site in enumerate(basis.sites)}
        nodes = [node for node in self.nodes if node.group == key]
        for place, node in enumerate(nodes):
            try:
                row = (errors if node.unit == "error" else units)[index[node.layer]]  # type: ignore[index]
                row[node.position, (node.coordinate or 0) if node.unit == "error" else node.unit] = len(nodes) - place
            except (IndexError, KeyError, TypeError) as error:
                raise BasisBenchError(
                    f"circuit: basis '{basis.name}' has no node at layer {node.layer}, position {node.position}, unit "
                    f"{node.unit} in the group '{key}'"
                ) from error
        ranking = rank(Scores(units, errors), policy=self.cell.error_policy)
        if int(ranking.scores.count_nonzero()) != min(self.k, ranking.nodes):
            raise BasisBenchError(
                f"circuit: expected {self.k} distinct nodes in the aligned group '{key}', found {len(nodes)}"
            )
        return ranking


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a circuit is worth: the metric of each evaluation pair, answer logit minus foil logit.

    Attributes:
        full: F(M), the unhooked model.
        empty: F(0), every node and every error of the family at its reference.
        circuit: F(C), only the circuit live.
        complement: F(not C), only the circuit at its reference.
    """

    full: Float[np.ndarray, " pair"]
    empty: Float[np.ndarray, " pair"]
    circuit: Float[np.ndarray, " pair"]
    complement: Float[np.ndarray, " pair"]

    @property
    def faithfulness(self) -> float:
        """(F(C) - F(0)) / (F(M) - F(0)) of the means; 1 is ideal, NaN where F(M) is F(0)."""
        return self._normalised(self.circuit)

    @property
    def completeness(self) -> float:
        """(F(not C) - F(0)) / (F(M) - F(0)) of the means; 0 is ideal, NaN where F(M) is F(0)."""
        return self._normalised(self.complement)

    def _normalised(self, values: Float[np.ndarray, " pair"]) -> float:
        empty, gap = float(self.empty.mean()), float(self.full.mean() - self.empty.mean())
        return (float(values.mean()) - empty) / gap if gap else math.nan
