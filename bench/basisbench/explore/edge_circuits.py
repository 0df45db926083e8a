"""The edges between the nodes of a circuit, step by step: their scores, the best of them, and what these are worth.

1. `edges` scores every edge between the nodes of a circuit, from the tokens, and into the logits (`Edges`).
2. `Edges.best(k)` lists the k edges of the largest |score| of each aligned group (`results.edge_file.EdgeList`).
3. `Edges.curve` measures circuits of edges of every size on the evaluation split (`EdgeCurve`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.attribution.cost import now
from basisbench.attribution.edge_scores import EdgeScores, choose_nodes, edge_scores
from basisbench.circuits.edge_curve import EdgeRanking, GroupEdges, edge_curve, rank_edges
from basisbench.circuits.edge_pass import edge_pass
from basisbench.circuits.ranking import node_unit
from basisbench.errors import BasisBenchError, hold
from basisbench.explore.steps import Circuit
from basisbench.models.memory import peak_memory, reset_peak_memory
from basisbench.protocols import BasisSpec
from basisbench.registry import load_registry
from basisbench.results.bootstrap import Estimate, estimate_rows, resample_weights
from basisbench.results.edge_file import Edge, EdgeList, GroupEdgeList
from basisbench.results.gates import Gate, judge
from basisbench.results.metrics import Normalised, estimate, normalise
from basisbench.runs.cell_record import clusters_of_groups
from basisbench.runs.session import Session

if TYPE_CHECKING:
    from basisbench.attribution.chosen_nodes import ChosenNodes
    from basisbench.circuits.group import GroupPair
    from basisbench.protocols import Basis


def edges(circuit: Circuit, pairs: Session, method: str = "relp", *, basis: BasisSpec | None = None) -> Edges:
    """Score the edges between the nodes of a circuit, from the tokens to them, and into the logits.

    Args:
        circuit: the nodes (`NodeScores.circuit`).
        pairs: what `load_pairs` returns: of the circuit's task and model. Scores are taken on the attribution split.
        method: "relp", "ixg", "ig_inputs" or "path_patching", which is exact and takes two passes an edge
            (`attribution.edge_scores`).
        basis: spec of a basis that is not registered.

    Raises:
        BasisBenchError: the circuit is of another task, model or dictionary; there is no such method; or under the
            circuit's error policy errors are not in nodes of one coordinate each.
    """
    hold("circuit", circuit, isinstance(circuit, Circuit), "a Circuit")
    hold("pairs", pairs, isinstance(pairs, Session), "a Session")
    cell = circuit.cell
    spec = basis or load_registry().get("basis", cell.basis)
    circuit.check(pairs, spec)
    built = pairs.basis(spec, cell.layers).basis
    model = pairs.model
    reset_peak_memory(model.device)
    before, start = model.meter.forward_equivalents, now(model)
    by_key = {group.attribution.pairs.group: group for group in pairs.groups}
    found = {
        key: edge_scores(group.attribution, _chosen(circuit, built, group), method) for key, group in by_key.items()
    }
    passes = model.meter.forward_equivalents - before
    cost = EdgeCost(now(model) - start, passes, peak_memory(model.device), model.device.type)
    rankings = {
        key: rank_edges(found[key], group.attribution.generator("ties of edges")) for key, group in by_key.items()
    }
    roles = {key: group.attribution.pairs.roles for key, group in by_key.items()}
    return Edges(circuit, method, found, rankings, cost, spec, roles)


def _chosen(circuit: Circuit, basis: Basis, group: GroupPair) -> ChosenNodes:
    """Begin the circuit's cell on an aligned group, and return the circuit's nodes in it."""
    cell = circuit.cell
    for context in (group.attribution, group.evaluation):
        context.start(cell.ablation, cell.score_reference, cell.error_policy, means=group.attribution)
    circuit.ranking(basis, group)  # refuses nodes that the basis does not have
    index = {site.layer: place for place, site in enumerate(basis.sites)}
    nodes = [
        (index[node.layer], node.position or 0, node_unit(node.unit, node.coordinate))
        for node in circuit.nodes
        if node.group == group.attribution.pairs.group
    ]
    return choose_nodes(group.attribution, basis, nodes)


@dataclass(frozen=True)
class EdgeCost:
    """What scoring took.

    Attributes:
        seconds: of wall-clock time.
        forward_equivalents: forward passes of one prompt; a backward pass counts as two.
        peak_bytes: peak memory: the device allocator's, or on a CPU the resident memory of the process, weights
            included.
        device: "cpu", "cuda", ...
    """

    seconds: float
    forward_equivalents: float
    peak_bytes: int
    device: str


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges between the nodes of a circuit.

    Attributes:
        circuit: the circuit.
        method: how they were scored.
        groups: by aligned group, scores and weights, tensors (source, target): sources are the tokens, then the nodes
            in the circuit's order; targets the nodes, then the logits.
        rankings: by aligned group, the edges that can be, best first.
        cost: what scoring took.
    """

    circuit: Circuit
    method: str
    groups: Mapping[str, EdgeScores]
    rankings: Mapping[str, EdgeRanking]
    cost: EdgeCost
    _spec: BasisSpec
    _roles: Mapping[str, tuple[str, ...]]

    def best(self, k: int) -> EdgeList:
        """Return the k edges of the largest |score| of each aligned group.

        Args:
            k: edges per group, at least 1; where a group has fewer, all of them.
        """
        if k < 1:
            raise BasisBenchError(f"k: a list of edges has at least 1, found {k!r:.60}")
        lists = []
        for key, scores in self.groups.items():
            ranking = self.rankings[key]
            nodes = tuple(node for node in self.circuit.nodes if node.group == key)
            length = scores.score.shape[0] - len(nodes)
            listed = [
                Edge.between(
                    source,
                    target,
                    tokens=length,
                    nodes=len(nodes),
                    score=float(scores.score[source, target]),
                    weight=None if scores.weight is None else float(scores.weight[source, target]),
                )
                for source, target in ranking.edges[:k].tolist()
            ]
            lists.append(
                GroupEdgeList(
                    group=key,
                    roles=self._roles[key],
                    nodes=nodes,
                    possible=len(ranking.edges),
                    scored=ranking.scored,
                    edges=tuple(listed),
                )
            )
        return EdgeList(
            schema_version=1,
            cell=self.circuit.cell,
            identities=self.circuit.identities,
            method=self.method,
            k=k,
            groups=tuple(lists),
        )

    def curve(self, pairs: Session, *, at: Collection[int] | None = None) -> EdgeCurve:
        """Measure circuits of the best edges, and what is left without them, on the evaluation split.

        Only edges between the circuit's nodes are kept or cut; all other nodes are at their reference
        (`circuits.edge_pass`). So faithfulness ends at that of the circuit of nodes.

        Args:
            pairs: what `load_pairs` returns, as for `edges`.
            at: sizes to measure besides 0, 1 and all; a grid of sizes, and bisection where the curve first reaches 80%
                and 90%, when None.

        Raises:
            BasisBenchError: the circuit is of another task, model or dictionary, or has no nodes in an aligned group.
        """
        import numpy as np

        cell = self.circuit.cell
        self.circuit.check(pairs, self._spec)
        basis = pairs.basis(self._spec, cell.layers).basis
        parts, gate_empty = [], []
        for group in pairs.groups:
            key = group.attribution.pairs.group
            if key not in self.groups:
                raise BasisBenchError(f"edges: they were not scored in the aligned group '{key}' of these pairs")
            nodes = _chosen(self.circuit, basis, group)
            empty = group.empty(basis, cell.ablation)
            parts.append(GroupEdges(edge_pass(group, nodes), self.rankings[key], group.full, empty))
            gate_empty += group.empty_at_output(basis, cell.ablation).tolist()
        values = edge_curve(parts, at)
        clusters = clusters_of_groups(pairs.groups)
        accuracy = float((values.full > 0).mean())
        gate = judge(values.full, np.array(gate_empty), accuracy, clusters, whole=cell.layers is None)
        return EdgeCurve(normalise(values, resample_weights(len(values.full), clusters)), gate)


@dataclass(frozen=True, eq=False)
class EdgeCurve:
    """What circuits of edges are worth.

    Attributes:
        rows: faithfulness and completeness at each size: the sample, then its resamples.
        gate: whether there is something to explain, as for the nodes of the family.
    """

    rows: Normalised
    gate: Gate

    @property
    def sizes(self) -> tuple[int, ...]:
        """Edges per aligned group."""
        return self.rows.sizes

    @property
    def faithfulness(self) -> list[Estimate]:
        """Faithfulness at each size, with its interval."""
        return [estimate_rows(column) for column in self.rows.faithfulness.T]

    @property
    def completeness(self) -> list[Estimate]:
        """Completeness at each size, with its interval; NaN where it was not measured."""
        return [estimate_rows(column) for column in self.rows.completeness.T]

    def edges_to(self, percent: int) -> Estimate:
        """Return the smallest measured number of edges at or above a faithfulness; infinite where it is not reached.

        Args:
            percent: 80 or 90.
        """
        return estimate(self.rows, f"nodes_to_{percent}")
