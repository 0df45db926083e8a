"""One cell from question to record.

1. A session holds one task on one model: the tokenised pairs of both splits, and per aligned group what all
   bases share (activations, gradient fields, F(M)).
2. A cell scores the nodes of a basis on the attribution split, ranks them, and evaluates circuits of every size
   and their complements on the evaluation split, group by group.
3. The record pools the groups' examples and carries identities, costs and environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from basisbench.attribution.context import GroupContext
from basisbench.attribution.cost import Spent, now
from basisbench.attribution.fit import Fit, measure_fit
from basisbench.circuits.curve import GroupCurve, measure_group
from basisbench.circuits.group import GroupPair
from basisbench.circuits.ranking import Ranking, pooled_scores, rank
from basisbench.models.batching import MemoryExhaustedError, is_out_of_memory
from basisbench.models.memory import peak_memory, reset_peak_memory, trim_memory
from basisbench.models.model import Model
from basisbench.pairs.alignment import load_splits
from basisbench.results.metrics import sizes_grid
from basisbench.results.record import CellConfig, Identities, Record
from basisbench.results.record_fields import Cost, Counts, Curve, Dropped, Endpoints, Group, Guard, Seconds, TopNode
from basisbench.runs.basis_cache import build, keep_less, make_room
from basisbench.runs.cell_record import pooled_curve, pooled_subset_checks
from basisbench.runs.environment import describe_environment
from basisbench.types import PairSet

if TYPE_CHECKING:
    from basisbench.protocols import Basis, BasisSpec, Method, Task

_TOP_NODES = 20
_ATTEMPTS = 4
"""How often a cell is tried when memory runs out where smaller passes do not help at once."""

_ALL_GROUPS = "all groups"


@dataclass(frozen=True, eq=False)
class Session:
    """One task on one model, ready to run cells.

    Attributes:
        model: the model.
        attribution: pairs that scores and mean references come from.
        evaluation: pairs that curves come from.
        groups: the aligned groups, in the order of the record's examples.
        seed: seed of the pairs and of random scores.
    """

    model: Model
    attribution: PairSet
    evaluation: PairSet
    groups: tuple[GroupPair, ...]
    seed: int = 0
    _fingerprints: dict[str, str | None] = field(default_factory=dict)

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 over the tokenised pairs of both splits."""
        digest = hashlib.sha256()
        for pairs in (*self.attribution, *self.evaluation):
            digest.update(f"{pairs.task} {pairs.version} {pairs.split} {pairs.group}".encode())
            for ids in (pairs.clean, pairs.counterfactual, pairs.answers, pairs.foils):
                digest.update(f"{ids.shape}".encode())
                digest.update(ids.astype("<i8").tobytes())
        return digest.hexdigest()

    def identity(self, spec: BasisSpec) -> Identities:
        """Return what a cell with this basis would be run on; nothing is built for it."""
        if spec.name not in self._fingerprints:
            self._fingerprints[spec.name] = spec.fingerprint(self.model.spec)
        return Identities(model=self.model.weights_hash, dictionary=self._fingerprints[spec.name], data=self.data_hash)

    def run(self, cell: CellConfig, spec: BasisSpec, method: Method, *, at: Collection[int] | None = None) -> Record:
        """Run one cell.

        Where memory runs out, passes become smaller (basisbench.models.batching), and what a pass cannot help is tried again
        with smaller passes before it.

        Args:
            cell: what is asked; its model and task are those of the session.
            spec: the basis that the cell names.
            method: the method that the cell names.
            at: evaluate circuits of these sizes only, and of 0 and all nodes; every size of the grid when None. Scores
                and ranking are computed in full all the same.

        Raises:
            BasisError: the basis cannot be built, or explains nothing on the task's prompts.
            MemoryExhaustedError: the cell does not fit into memory.
        """
        key = spec.name, cell.layers
        for _ in range(_ATTEMPTS):
            exhausted = ""
            try:
                return self._measured(cell, spec, method, at)
            except MemoryExhaustedError as error:
                exhausted = str(error)  # not the error, whose traceback holds what the failed pass has made
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            for group in self.groups:
                group.forget_other_bases("")
            # Weights of the basis go before passes become smaller still.
            less = keep_less(self.model, key)
            self.model.batching.release()
            if exhausted and not less:
                raise MemoryExhaustedError(exhausted)
            if not less and not self.model.batching.halve_all():
                break
        raise MemoryExhaustedError(
            f"out of memory on {self.model.device}: basis '{spec.name}' with {self.attribution.pair_count} pairs of "
            f"'{cell.task}' does not fit next to model '{self.model.name}', however small its passes; free memory, "
            "raise the limit of the process, or use --dtype bfloat16, fewer --examples or a narrower basis"
        )

    def _measured(self, cell: CellConfig, spec: BasisSpec, method: Method, at: Collection[int] | None) -> Record:
        """Run one cell as far as memory allows."""
        model = self.model
        for group in self.groups:
            group.forget_other_bases(spec.name)
        make_room(model, (spec.name, cell.layers))
        reset_peak_memory(model.device)
        built = build(model, spec, cell.layers)
        basis = built.basis
        start = now(model)
        fit = None if basis.exact else measure_fit(basis, [group.attribution for group in self.groups])
        references = now(model)

        for group in self.groups:
            group.attribution.ledger.start()
        before = model.meter.forward_equivalents
        rankings = self._rankings(cell, basis, method)
        scored = now(model)
        own_passes = model.meter.forward_equivalents - before
        # Taken now: shared work that the curve is the first to need is no part of the time spent on scoring.
        fresh = sum((group.attribution.ledger.fresh() for group in self.groups), Spent())
        if built.large:
            trim_memory()

        sizes = sizes_of(rankings, at)
        curves = [
            measure_group(cell, basis, group, ranking, sizes)
            for group, ranking in zip(self.groups, rankings, strict=True)
        ]
        finished = now(model)

        fields = sum((group.attribution.ledger.total("field:") for group in self.groups), Spent())
        shared = sum((group.attribution.ledger.total("activations:") for group in self.groups), Spent())
        cost = Cost(
            seconds=Seconds(
                load=built.seconds + references - start,
                gradients=fields.seconds,
                scoring=max(0.0, scored - references - fresh.seconds) + shared.seconds,
                curve=finished - scored,
            ),
            forward_equivalents=max(0.0, own_passes - fresh.forward_equivalents)
            + fields.forward_equivalents
            + shared.forward_equivalents,
            dictionary_bytes=basis.parameter_bytes,
            peak_memory_bytes=peak_memory(model.device),
            device=str(model.device),
        )
        return self._record(cell, spec, fit, rankings, pooled_curve(curves, self._weights, sizes), curves, cost, basis)

    @property
    def _weights(self) -> list[int]:
        return [group.evaluation.pair_count for group in self.groups]

    def _rankings(self, cell: CellConfig, basis: Basis, method: Method) -> list[Ranking]:
        scores = [method.score(group.attribution, basis) for group in self.groups]
        if cell.granularity == "unit":
            pooled = pooled_scores(scores, [group.attribution.pair_count for group in self.groups])
            scores = [pooled] * len(self.groups)
        return [rank(score, policy=cell.error_policy) for score in scores]

    def _record(
        self,
        cell: CellConfig,
        spec: BasisSpec,
        fit: Fit | None,
        rankings: Sequence[Ranking],
        curve: Curve,
        curves: Sequence[GroupCurve],
        cost: Cost,
        basis: Basis,
    ) -> Record:
        weights = self._weights
        full = [value for part in curves for value in part.full]
        empty = [value for part in curves for value in part.empty]
        nodes_mean = sum(ranking.nodes * weight for ranking, weight in zip(rankings, weights, strict=True))
        return Record(
            schema_version=1,
            cell=cell,
            identities=self.identity(spec),
            groups=tuple(
                Group(
                    key=group.attribution.pairs.group,
                    attribution_pairs=group.attribution.pair_count,
                    evaluation_pairs=group.evaluation.pair_count,
                    positions=group.evaluation.pairs.length,
                    nodes=ranking.nodes,
                    error_nodes=ranking.error_nodes,
                )
                for group, ranking in zip(self.groups, rankings, strict=True)
            ),
            counts=Counts(
                nodes_mean=nodes_mean / sum(weights),
                nodes_max=max(ranking.nodes for ranking in rankings),
                layers=len(basis.sites),
                units_per_layer=tuple(places.shape[1] for places in rankings[0].units),
            ),
            dropped=Dropped(attribution=dict(self.attribution.dropped), evaluation=dict(self.evaluation.dropped)),
            endpoints=Endpoints(
                full=tuple(full),
                empty=tuple(empty),
                accuracy=sum(value > 0 for value in full) / len(full),
                empty_at="nodes" if cell.ablation == "zero" else "output",
            ),
            curve=curve,
            subset_checks=pooled_subset_checks(curves, cell.subset_sizes),
            guard=None if fit is None else Guard(fvu=fit.unexplained, l0=fit.active),
            top_nodes=self._top_nodes(cell, rankings, basis),
            cost=cost,
            environment=describe_environment(self.model),
            sources={**self.model.sources, **getattr(basis, "sources", {})},
        )

    def _top_nodes(self, cell: CellConfig, rankings: Sequence[Ranking], basis: Basis) -> tuple[TopNode, ...]:
        by_unit = cell.granularity == "unit"
        nodes = []
        for group, ranking in list(zip(self.groups, rankings, strict=True))[: 1 if by_unit else None]:
            pairs = group.attribution.pairs
            for index, position, unit, score in ranking.top(_TOP_NODES):
                nodes.append(
                    TopNode(
                        group=_ALL_GROUPS if by_unit else pairs.group,
                        layer=basis.sites[index].layer,
                        position=None if by_unit else position,
                        role=None if by_unit else pairs.roles[position],
                        unit="error" if unit < 0 else unit,
                        score=score,
                    )
                )
        return tuple(sorted(nodes, key=lambda node: -abs(node.score))[:_TOP_NODES])


def sizes_of(rankings: Sequence[Ranking], at: Collection[int] | None = None) -> tuple[int, ...]:
    """Return the sizes of a cell's curve: 1-2-5 steps, then all nodes of the largest group.

    Args:
        rankings: one per aligned group.
        at: where given, only these of them, with 0 and all.
    """
    sizes = sizes_grid(max(ranking.nodes for ranking in rankings))
    return sizes if at is None else tuple(size for size in sizes if size in {0, *at, sizes[-1]})


def open_session(model: Model, task: Task, *, attribution_pairs: int, evaluation_pairs: int, seed: int) -> Session:
    """Tokenise a task's pairs for a model and make them ready to run.

    Args:
        model: a loaded model.
        task: the task.
        attribution_pairs: pairs wanted in the attribution split.
        evaluation_pairs: pairs wanted in the evaluation split.
        seed: seed of the pairs and of random scores.

    Raises:
        TaskError: no pair survives the model's tokenizer.
    """
    attribution, evaluation = load_splits(
        task, model.tokenizer, attribution=attribution_pairs, evaluation=evaluation_pairs, seed=seed
    )
    other = {pairs.group: pairs for pairs in attribution}
    groups = tuple(
        GroupPair(GroupContext(model, other[pairs.group], seed), GroupContext(model, pairs, seed))
        for pairs in evaluation
    )
    return Session(model, attribution, evaluation, groups, seed)
