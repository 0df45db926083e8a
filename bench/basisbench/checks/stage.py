"""What checks are run on: one model, prompts of a registered task, a basis that was just built, its activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from basisbench.attribution.context import GroupContext
from basisbench.attribution.fitting import TaskActivations
from basisbench.checks.snapshots import Snapshot, take_snapshot
from basisbench.circuits.group import GroupPair
from basisbench.errors import BasisBenchError, TaskError
from basisbench.pairs.alignment import load_splits
from basisbench.types import ContrastPair, Pairs, Split

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.protocols import Basis, BasisSpec, Task
    from basisbench.types import Side, Site

ATTRIBUTION, EVALUATION = 16, 9
"""Pairs of each split: few, and not equally many, so that a batch's size tells nothing."""

_FIRST = 300
"""Candidates that are tokenised at first."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """One aligned group in both splits.

    Attributes:
        attribution: pairs that scores and means come from.
        evaluation: pairs that circuits are evaluated on.
    """

    attribution: Pairs
    evaluation: Pairs


def find_prompts(model: Model, tasks: Mapping[str, Task]) -> Prompts:
    """Return prompts of the first task that the model's tokenizer can do, a task of longer prompts first.

    Raises:
        TaskError: no task gives pairs for this tokenizer.
    """
    preferred = [name for name in ("ioi", "sva_rc", "sva_nounpp") if name in tasks]
    for name in (*preferred, *sorted(tasks.keys() - set(preferred))):
        try:
            return prompts_of(model, tasks[name])
        except TaskError:
            continue
    raise TaskError(f"no registered task gives {ATTRIBUTION} pairs for the tokenizer of model '{model.name}'")


def prompts_of(model: Model, task: Task) -> Prompts:
    """Return the largest aligned group of a task.

    Raises:
        TaskError: the task gives no pairs for the model's tokenizer.
    """
    for asked in (_FirstOf(task), task):  # the first candidates are mostly enough
        try:
            attribution, evaluation = load_splits(
                asked, model.tokenizer, attribution=ATTRIBUTION, evaluation=EVALUATION, seed=0
            )
        except TaskError:
            if asked is task:
                raise
            continue
        if len(attribution[0]) == ATTRIBUTION and len(evaluation[0]) == EVALUATION:
            break
    return Prompts(attribution[0], evaluation[0])


@dataclass(frozen=True)
class _FirstOf:
    """A task with few candidates."""

    task: Task

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    @property
    def version(self) -> str:
        """Version of the task."""
        return self.task.version

    @property
    def summary(self) -> str:
        """Summary of the task."""
        return self.task.summary

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield the first candidates."""
        return islice(self.task.candidates(split, seed), _FIRST)


def contexts_of(model: Model, prompts: Prompts, *, seed: int = 0) -> GroupPair:
    """Return the group as the harness holds it, with nothing computed yet."""
    return GroupPair(GroupContext(model, prompts.attribution, seed), GroupContext(model, prompts.evaluation, seed))


@dataclass(frozen=True, eq=False)
class BasisStage:
    """A basis on one model.

    Attributes:
        spec: how it is built.
        model: the model, in the type at hand.
        prompts: what it is tried on.
        before: the model and the code before the basis was built.
        logits_before: of each view of the model, before the basis was built.
        rebuilds: whether `spec.build` makes a new basis each time.
    """

    spec: BasisSpec
    model: Model
    prompts: Prompts
    before: Snapshot
    logits_before: Sequence[Tensor]
    rebuilds: bool = True

    @cached_property
    def basis(self) -> Basis:
        """The basis that most checks are made on."""
        return self._built()

    def _built(self) -> Basis:
        data = TaskActivations([self.group.attribution])
        return self.spec.build(self.model) if self.spec.fit is None else self.spec.fit(self.model, data)

    def fresh(self) -> Basis:
        """Return a basis that has seen nothing yet, where it can be built anew."""
        return self._built() if self.rebuilds else self.basis

    @cached_property
    def group(self) -> GroupPair:
        """The prompts as the harness holds them."""
        return contexts_of(self.model, self.prompts)

    def activation(self, hook: str, *, split: str = "attribution", side: Side = "clean") -> Float[Tensor, "pair pos d"]:
        """Return a copy of an activation of the unhooked model."""
        context = self.group.attribution if split == "attribution" else self.group.evaluation
        return context.activation(hook, side).clone()

    def read(self, site: Site, *, split: str = "attribution", side: Side = "clean") -> Float[Tensor, "pair pos d"]:
        """Return a copy of what the basis reads at a site."""
        return self.activation(site.read, split=split, side=side)

    def changes(self, kind: str) -> list[str]:
        """Return what differs from before the basis was built."""
        return self.before.changes(take_snapshot(self.model), kind)

    @property
    def rounding(self) -> float:
        """Relative difference that the order of sums may make in the type of the coordinates."""
        return rounding(self.model.dtype)


def open_stage(spec: BasisSpec, model: Model, prompts: Prompts, *, rebuilds: bool = True) -> BasisStage:
    """Note the state of the model and of the code; the basis is built when it is first asked for."""
    logits = logits_of(model, model.tokens(prompts.evaluation.clean))
    return BasisStage(spec, model, prompts, take_snapshot(model), logits, rebuilds)


def logits_of(model: Model, tokens: Int[Tensor, "pair pos"]) -> list[Tensor]:
    """Return the logits of each view of the model."""
    import torch

    with torch.no_grad():
        return [
            model.body(input_ids=tokens, use_cache=False).logits.clone(),
            model.fast_body(input_ids=tokens, use_cache=False).logits.clone(),
            model.bridge(tokens).clone(),
        ]


def rounding(dtype: torch.dtype) -> float:
    """Return the relative difference that the order of sums may make: coordinates are of float32 at least."""
    import torch

    return 1e-9 if dtype == torch.float64 else 1e-4


def row_difference(found: Float[Tensor, "*b d"], expected: Float[Tensor, "*b d"], *, spare: bool = True) -> float:
    """Return the largest relative difference of a row, in the Euclidean norm.

    Args:
        found: rows.
        expected: rows of the same shape.
        spare: in single precision leave out the worst hundredth of the rows: a unit next to its threshold may go
            either way by rounding alone. Nothing is left out in float64.

    Raises:
        BasisBenchError: the shapes differ.
    """
    import torch

    if found.shape != expected.shape:
        raise BasisBenchError(f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    single = found.dtype != torch.float64
    found, expected = found.double().flatten(0, -2), expected.double().flatten(0, -2)
    if not len(found):
        return 0.0
    size = torch.maximum(found.norm(dim=-1), expected.norm(dim=-1))
    # A row of zeros is compared with the others' size: what is nothing to them is nothing.
    relative = (found - expected).norm(dim=-1) / size.maximum(1e-6 * size.max()).clamp_min(1e-30)
    if not relative.isfinite().all():
        return float("inf")
    left = len(relative) - (len(relative) // 100 if single and spare else 0)
    return float(relative.sort().values[left - 1])
