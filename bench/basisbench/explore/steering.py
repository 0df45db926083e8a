"""Acting on a circuit: a dose-response of chosen nodes, with controls at each dose, and what else changes.

1. The nodes: by name, or the k best under a method, merged over aligned groups by role (`circuits.steered_nodes`).
2. Each dose moves all of them on the evaluation pairs, the rest of the pass being live (`circuits.steering`); and so
   draws of random nodes like them, and as many of the best nodes under other methods.
3. The same units on other tasks and on text, where they have no role: at every position, or at the last.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from basisbench.attribution.context import seeded_generator
from basisbench.circuits.dose_response import DoseResponse
from basisbench.circuits.merged import RolePosition, places
from basisbench.circuits.moves import UNCHANGED, Operation, refuse_policy
from basisbench.circuits.ranking import node_name
from basisbench.circuits.steered_nodes import Activations, MeanSize, SteeredNode, best_nodes, named_node, places_of
from basisbench.errors import BasisBenchError, TaskError, hold, unknown_name
from basisbench.explore.steps import NodeScores, load_pairs, score
from basisbench.pairs.plain_text import read_prompt, read_windows
from basisbench.pairs.tokens import token_texts
from basisbench.protocols import BasisSpec, Method
from basisbench.registry import load_registry
from basisbench.results.bootstrap import estimate_rows, resample_weights
from basisbench.results.circuit_nodes import CircuitNode
from basisbench.results.schema import printable
from basisbench.results.steering import Dose, NextToken, Outcome, Steered, SteeredPrompt, Steering
from basisbench.runs.cell_record import clusters_of_groups
from basisbench.runs.session import Session
from basisbench.types import Ablation, ErrorPolicy

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.protocols import Basis, Task

DOSES: dict[Operation, tuple[float, ...]] = {
    "scale": (-3, -1, 0, 0.5, 1, 2, 3),
    "ablate": (0, 0.25, 0.5, 0.75, 1),
}
"""Doses where none are given."""

TEXT_DRAWS, OTHER_PAIRS = 5, 24
"""Draws of controls that are moved on text, where every token counts; pairs of each other task."""

WORDS, MOST_DOSES = 5, 50
"""Likeliest tokens that are told of a prompt; doses that may be asked for."""


def steer(
    pairs: Session,
    basis: str | BasisSpec,
    nodes: int | Sequence[str | CircuitNode],
    operation: Operation = "scale",
    doses: Sequence[float] | None = None,
    *,
    method: str | Method = "relp",
    ablation: Ablation = "mean",
    error_policy: ErrorPolicy = "coordinates",
    layers: str | Sequence[int] | None = None,
    draws: int = 39,
    baselines: Sequence[str | Method] = ("random", "magnitude"),
    others: Sequence[str | Task] | None = None,
    text: str | os.PathLike[str] | None = None,
    prompts: Sequence[str] = (),
    at: Literal["all", "last"] = "all",
) -> Steering:
    """Move nodes by each of some doses, and measure the metric and the next token, with controls (docs/steering.md).

    Args:
        pairs: what `load_pairs` returns, of one-token answers.
        basis: name of a registered basis, or a spec.
        nodes: how many of the best nodes under `method`; or names, `LAYER:ROLE:UNIT`; or nodes of `describe_nodes`.
        operation: what a dose d makes of a value f: "scale" d f, "set" d, "add" f + d, "ablate" f + d (reference - f).
        doses: the doses, in the units of the values for "set" and "add", which need them.
        method: what ranks the nodes.
        ablation: what the reference is.
        error_policy: which coordinates of the error are nodes; errors are live whatever it is.
        layers: layers that the basis is restricted to, for example "10-20"; all that it covers when None.
        draws: draws of controls: 39 or more give a 95% interval.
        baselines: methods whose best nodes, as many, are moved likewise.
        others: other tasks; when None the first of each file of tasks that this one is not in, where it can be read.
        text: a file of plain text; the evaluation prompts of the other tasks when None.
        prompts: prompts whose next token is told at each dose.
        at: where units are moved on other tasks, text and prompts: at "all" positions, or at the "last".

    Returns:
        What was measured: `doses` with the outcome of the chosen nodes, of each draw and each baseline, and elsewhere.

    Raises:
        BasisBenchError: there is no such node, task, operation or file, a dose is no finite number, or there are too
            few other nodes for the draws.
    """
    amounts = _checked(pairs, operation, doses, draws, at, error_policy)
    registry = load_registry()
    spec = registry.get("basis", basis) if isinstance(basis, str) else basis
    ways = [registry.get("method", each) if isinstance(each, str) else each for each in (method, *baselines)]

    def scored(way: Method) -> NodeScores:
        return score(pairs, spec, way, ablation=ablation, error_policy=error_policy, layers=layers)

    sizes = scored(MeanSize())
    built = pairs.basis(spec, sizes.cell.layers).basis
    nodes_of = _Nodes(pairs, built, sizes)
    if isinstance(nodes, int):
        chosen, named = nodes_of.best(scored(ways[0]), nodes), ways[0].name
    else:
        chosen, named = nodes_of.named(nodes), "named"
    if not chosen:
        raise BasisBenchError(f"steer: no node to steer{'' if named == 'named' else f' has a score under {named}'}")
    cell = sizes.cell
    ties = seeded_generator(pairs.seed, cell.task, "merged", "controls")
    controls = nodes_of.activations.controls(chosen, draws, ties)
    beside = [way for way in ways[1:] if way.name != named]
    best = [nodes_of.best(scored(way), places_of(chosen)) for way in beside]
    response = DoseResponse(pairs.model, pairs.groups, built, cell.error_policy, ablation, operation, amounts, at)
    # What cannot be read is told before the work.
    asked = [read_prompt(prompt, pairs.model.tokenizer, pairs.bos, pairs.model.longest) for prompt in prompts]
    sessions = _others(pairs, others)
    texts, told = _texts(pairs, text, sessions)
    metric, nats = response.on_task(chosen, controls, best)
    on_others = {
        name: [_outcome(*_unhooked(other)), *map(_outcome, *response.on_groups(other.groups, chosen))]
        for name, other in sessions.items()
    }
    text_nats = response.on_text(texts, chosen, controls[:TEXT_DRAWS]) if texts else None

    clusters = resample_weights(metric.shape[-1], clusters_of_groups(pairs.groups))
    rows = metric.double().cpu().numpy()
    found = []
    for place, dose in enumerate(amounts):
        interval = estimate_rows(clusters @ rows[0, place])
        outcomes = [_outcome(metric[each, place], nats[each, place]) for each in range(len(metric))]
        drawn = outcomes[1 : 1 + draws]
        found.append(
            Dose(
                dose=dose,
                chosen=outcomes[0],
                low=interval.low,
                high=interval.high,
                controls=tuple(each.metric for each in drawn),
                controls_kl=tuple(each.kl for each in drawn),
                baselines={way.name: each for way, each in zip(beside, outcomes[1 + draws :], strict=True)},
                others={name: outcome[1 + place] for name, outcome in on_others.items()},
                text_kl=None if text_nats is None else float(text_nats[0, place]),
                text_controls_kl=() if text_nats is None else tuple(text_nats[1:, place].tolist()),
            )
        )
    return Steering(
        schema_version=1,
        cell=cell.model_copy(update={"method": named}),
        identities=pairs.identity(spec, ways[0] if named != "named" else None, cell.layers),
        operation=operation,
        at=at,
        nodes=tuple(nodes_of.described(node, controls, place) for place, node in enumerate(chosen)),
        pairs=metric.shape[-1],
        full=_outcome(*_unhooked(pairs)),
        others_full={name: outcome[0] for name, outcome in on_others.items()},
        draws=draws,
        text=told,
        text_tokens=sum(len(tokens) * (tokens.shape[1] - first) for tokens, first in texts),
        unchanged=UNCHANGED[operation],
        doses=tuple(found),
        prompts=tuple(_told(response, chosen, prompt, *ids) for prompt, ids in zip(prompts, asked, strict=True)),
    )


def _checked(
    pairs: Session, operation: Operation, doses: Sequence[float] | None, draws: int, at: str, error_policy: str
) -> tuple[float, ...]:
    """Refuse what cannot be asked; return the doses, ascending."""
    hold("pairs", pairs, isinstance(pairs, Session), "what load_pairs returns")
    if pairs.metric != "logit":
        raise BasisBenchError("steer: answers of several tokens (metric logprob) cannot be steered; use metric logit")
    refuse_policy("steer", error_policy)
    if operation not in get_args(Operation):
        raise unknown_name("operation", str(operation), get_args(Operation))
    if at not in ("all", "last"):
        raise unknown_name("place to steer at", str(at), ("all", "last"))
    hold("draws", draws, isinstance(draws, int) and 1 <= draws <= 1000, "a whole number from 1 to 1000")
    given = DOSES.get(operation) if doses is None else doses
    if given is None:
        raise BasisBenchError(f"doses: '{operation}' needs them, in the units of the nodes' values, for example 0 2 4")
    try:
        found = tuple(sorted({float(dose) for dose in given}))
    except (TypeError, ValueError, OverflowError):
        found = ()
    if not 1 <= len(found) <= MOST_DOSES or not all(math.isfinite(dose) for dose in found):
        raise BasisBenchError(f"doses: expected 1 to {MOST_DOSES} finite numbers, found {given!s:.60}")
    return found


def _outcome(metric: Float[Tensor, " pair"], nats: Float[Tensor, " pair"]) -> Outcome:
    values = metric.double()
    return Outcome(
        metric=float(values.mean()), right=float((values > 0).double().mean()), kl=float(nats.double().mean())
    )


@dataclass(frozen=True, eq=False)
class _Nodes:
    """The nodes of a task, merged by role."""

    pairs: Session
    basis: Basis
    sizes: NodeScores

    @cached_property
    def places(self) -> tuple[RolePosition, ...]:
        return places(self.sizes.roles)

    @cached_property
    def activations(self) -> Activations:
        return Activations(self.sizes.groups, self.pairs.pair_counts)

    def best(self, scores: NodeScores, count: int) -> tuple[SteeredNode, ...]:
        """Return the nodes of the largest |score|, merged by role; those without a score are left out."""
        if not 1 <= count <= 10**6:
            raise BasisBenchError(f"nodes: expected a whole number from 1 to a million, found {count}")
        return best_nodes(scores.groups, self.pairs.pair_counts, scores.cell, self.basis, count, self.places)

    def named(self, names: Sequence[str | CircuitNode]) -> tuple[SteeredNode, ...]:
        """Return the nodes of some names, each once."""
        if isinstance(names, str):
            names = [names]
        found: dict[str, SteeredNode] = {}
        like = next(iter(self.sizes.groups.values()))
        for each in names:
            name = each
            if isinstance(each, CircuitNode):
                unit = f"error {each.coordinate}" if each.unit == "error" else each.unit
                name = f"{each.layer}:{each.role} {each.token}".rstrip() + f":{unit}"
            if not isinstance(name, str):
                raise BasisBenchError(f"nodes: expected a number or names LAYER:ROLE:UNIT, found {each!r:.60}")
            found[" ".join(name.split())] = named_node(name, self.basis, self.places, self.sizes.roles, like)
        return tuple(found.values())

    def described(self, node: SteeredNode, controls: Sequence[Sequence[SteeredNode]], place: int) -> Steered:
        """Return a node for the file, with the size of its controls."""
        unit, coordinate = node_name(node.unit, self.sizes.cell.error_policy)
        others = [self.activations.of(draw[place]) for draw in controls]
        return Steered(
            layer=node.layer,
            unit=unit,
            coordinate=coordinate,
            role=node.role,
            token=node.token,
            size=self.activations.of(node),
            control_size=sum(others) / len(others),
        )


def _unhooked(pairs: Session) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Return the metric of the unhooked model on all evaluation pairs, and its divergence from itself."""
    import torch

    full = torch.cat([group.full for group in pairs.groups])
    return full, torch.zeros_like(full)


def _texts(
    pairs: Session, path: str | os.PathLike[str] | None, others: Mapping[str, Session]
) -> tuple[list[tuple[Int[Tensor, "_row _pos"], int]], str]:
    """Return texts of one length each as token ids, with the first position that counts; and what they are."""
    if path is None:
        groups = [group.evaluation for session in others.values() for group in session.groups]
        told = f"evaluation prompts of {', '.join(others)}" if groups else ""
        return [(group.batch.clean, group.pairs.first_position) for group in groups], told
    rows, front = read_windows(path, pairs.model.tokenizer, pairs.bos, pairs.model.longest)
    return [(pairs.model.tokens(rows), front)], printable(Path(path).name)


def _told(
    response: DoseResponse, nodes: Sequence[SteeredNode], prompt: str, ids: Sequence[int], first: int
) -> SteeredPrompt:
    """Return what may come behind a prompt, unhooked and at each dose."""
    rows = []
    for dose, logits, kl in zip((None, *response.doses), *response.on_prompt(ids, first, nodes), strict=True):
        top = logits.softmax(-1).topk(min(WORDS, len(logits)))
        words = token_texts(response.model.tokenizer, top.indices.tolist())
        rows.append(NextToken(dose=dose, tokens=words, probabilities=tuple(top.values.tolist()), kl=float(kl)))
    return SteeredPrompt(prompt=printable(prompt)[:2000], next=tuple(rows))


def _others(pairs: Session, asked: Sequence[str | Task] | None) -> dict[str, Session]:
    """Return pairs of other tasks: those asked for, or the first of each other file that this tokenizer can read."""
    registry, own = load_registry(), pairs.attribution[0].task

    def opened(task: Task) -> Session:
        return load_pairs(
            task, pairs.model, attribution=OTHER_PAIRS, evaluation=OTHER_PAIRS, seed=pairs.seed, bos=pairs.bos
        )

    if asked is not None:
        tasks = [registry.get("task", each) if isinstance(each, str) else each for each in asked]
        return {task.name: opened(task) for task in tasks}
    found: dict[str, Session] = {}
    entries = list(registry.of("task"))
    done = {entry.source for entry in entries if entry.name == own}
    for entry in entries:
        if entry.source in done:
            continue
        done.add(entry.source)  # where the first has words that the tokenizer lacks, so have the others
        with contextlib.suppress(TaskError):
            found[entry.name] = opened(registry.get("task", entry.name))
    return found
