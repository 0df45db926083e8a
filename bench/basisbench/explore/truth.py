"""How well scores agree with the truth, on a model whose circuit is known because it was built.

1. A model says which nodes compute a task's answer, in the bases in which it was built (`types.TrueNodes`).
2. All nodes of an aligned group, error nodes included, are ranked by |score|, as for a circuit.
3. `results.agreement` says how high the true ones stand among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from basisbench.errors import BasisBenchError, hold
from basisbench.explore.steps import NodeScores
from basisbench.registry import load_registry
from basisbench.results.agreement import auroc, precision_at
from basisbench.results.tables import Entry, Table
from basisbench.types import WITHOUT_ERROR_NODES, ModelSpec, Scores, TrueNodes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float

    from basisbench.results.record import CellConfig


@dataclass(frozen=True)
class Agreement:
    """How high the true nodes stand in a ranking; means over aligned groups.

    Attributes:
        auroc: probability that a true node has a larger |score| than another one, ties counting half; 1 is ideal.
        precision: share of true nodes among the `true_nodes` best; 1 is ideal.
        true_nodes: how many nodes are true, per aligned group.
        nodes: how many nodes are ranked, in the largest aligned group.
    """

    auroc: float
    precision: float
    true_nodes: int
    nodes: int


def agreement_with_truth(scores: NodeScores, truth: TrueNodes | None = None) -> Agreement:
    """Say how well scores agree with what is known to compute the answer.

    Args:
        scores: what `score` returns.
        truth: the true nodes; those that the model names when None.

    Raises:
        BasisBenchError: nothing is known of this task on this model in this basis, or the basis has no such node.
    """
    hold("scores", scores, isinstance(scores, NodeScores), "what score returns")
    cell = scores.cell
    if truth is None:
        models = {entry.name: load_registry().get("model", entry.name) for entry in load_registry().of("model")}
        truth = find_truth(models.get(cell.model), cell.task, cell.basis)
    if truth is None:
        raise _unknown(cell)
    rows = [_ranked(scores, key, truth) for key in scores.groups]
    return Agreement(
        auroc=mean(auroc(values, true) for values, true in rows),
        precision=mean(precision_at(values, true, int(true.sum())) for values, true in rows),
        true_nodes=len(truth.nodes),
        nodes=max(len(values) for values, _ in rows),
    )


def agreement_table(found: Sequence[tuple[ModelSpec, NodeScores]]) -> Table:
    """Return a table of how well scores agree with the truth: a row per task, basis and method.

    Args:
        found: the model and the scores of each row; "-" stands where the model names no true nodes of the basis.

    Raises:
        BasisBenchError: there is no row for which anything is known.
    """
    rows = []
    for model, scores in found:
        cell = scores.cell
        truth = find_truth(model, cell.task, cell.basis)
        numbers = ["-"] * 4
        if truth is not None:
            found_here = agreement_with_truth(scores, truth)
            numbers = [f"{found_here.auroc:.3f}", f"{found_here.precision:.2f}"]
            numbers += [str(found_here.true_nodes), str(found_here.nodes)]
        rows.append((cell.model, cell.task, cell.basis, cell.method, *numbers))
    if all(row[-1] == "-" for row in rows):
        raise _unknown(found[0][1].cell)
    header = ("model", "task", "basis", "method", "AUROC", "precision", "true", "nodes")
    notes = ("true, nodes: per aligned group; precision: share of true ones among as many best nodes as are true",)
    entries = tuple(tuple(Entry(text) for text in row) for row in rows)
    return Table("Agreement with what is known to compute the answer", header, entries, notes)


def _unknown(cell: CellConfig) -> BasisBenchError:
    return BasisBenchError(
        f"truth: model '{cell.model}' does not say which nodes of basis '{cell.basis}' compute the answer of task "
        f"'{cell.task}'; give it, or take a model that was built (docs/ground-truth.md)"
    )


def find_truth(model: ModelSpec | None, task: str, basis: str) -> TrueNodes | None:
    """Return what a model says of the nodes of a basis that compute a task's answer; None where it says nothing."""
    known: Sequence[TrueNodes] = () if model is None else model.truth
    return next((each for each in known if (each.task, each.basis) == (task, basis)), None)


def _ranked(
    scores: NodeScores, key: str, truth: TrueNodes
) -> tuple[Float[np.ndarray, " node"], Bool[np.ndarray, " node"]]:
    """Return |score| of every node of an aligned group, and whether it is true."""
    import numpy as np
    import torch

    found: Scores = scores.groups[key]
    roles = scores.roles[key]
    true = [torch.zeros_like(part, dtype=torch.bool) for part in found.units]
    for layer, role, unit in truth.nodes:
        if layer not in scores.layers or roles.count(role) != 1 or unit >= found.units[0].shape[1]:
            raise BasisBenchError(
                f"truth: basis '{truth.basis}' has no node of layer {layer}, role '{role}', unit {unit} in the aligned "
                f"group '{key}'; a role must be that of one position there"
            )
        true[scores.layers.index(layer)][roles.index(role), unit] = True
    errors = () if scores.cell.error_policy in WITHOUT_ERROR_NODES else found.errors or ()
    values = torch.cat([part.flatten().double() for part in (*found.units, *errors)]).abs().cpu().numpy()
    marks = torch.cat([part.flatten() for part in true]).cpu().numpy()
    return values, np.pad(marks, (0, len(values) - len(marks)))
