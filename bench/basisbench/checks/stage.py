"""What checks are run on: one model, prompts of a registered task, a basis that was just built, its activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from basisbench.attribution.context import GroupContext
from basisbench.attribution.fitting import TaskActivations
from basisbench.checks.left_behind import ModelState, state_of
from basisbench.circuits.group import GroupPair
from basisbench.errors import BasisBenchError, TaskError
from basisbench.pairs.alignment import load_splits
from basisbench.registry import load_registry
from basisbench.types import ContrastPair, Pairs, Split

if TYPE_CHECKING:
    from jaxtyping import Float
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

    def on(self, model: Model, *, seed: int = 0) -> GroupPair:
        """Return the group as the harness holds it, with nothing computed yet."""
        return GroupPair(GroupContext(model, self.attribution, seed), GroupContext(model, self.evaluation, seed))


def find_prompts(model: Model, *, shortest_first: bool = False) -> Iterator[Prompts]:
    """Yield prompts of each registered task that the model's tokenizer can do.

    Args:
        model: the model.
        shortest_first: whether tasks come by the length of their first prompt, and not by name.

    Raises:
        TaskError: no task gives pairs for this tokenizer.
    """
    registry, found = load_registry(), False
    tasks: list[Task] = [registry.get("task", entry.name) for entry in registry.of("task")]
    if shortest_first:
        tasks.sort(key=lambda task: sum(len(pair.clean_text) for pair in islice(task.candidates("attribution", 0), 1)))
    for task in tasks:
        try:
            prompts = prompts_of(model, task)
        except TaskError:
            continue
        found = True
        yield prompts
    if not found:
        raise TaskError(f"no registered task gives {ATTRIBUTION} pairs for the tokenizer of model '{model.name}'")


def prompts_of(model: Model, task: Task) -> Prompts:
    """Return the largest aligned group of a task.

    Raises:
        TaskError: the task gives no pairs for the model's tokenizer.
    """
    first = _FirstOf(task.name, task.version, task.summary, task)
    for asked in (first, task):  # the first candidates are mostly enough
        try:
            attribution, evaluation = load_splits(
                asked,
                model.tokenizer,
                attribution=ATTRIBUTION,
                evaluation=EVALUATION,
                seed=0,
                longest=model.longest,
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
    """A task with the first candidates of another."""

    name: str
    version: str
    summary: str
    task: Task

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield the first candidates."""
        return islice(self.task.candidates(split, seed), _FIRST)


@dataclass(frozen=True, eq=False)
class BasisStage:
    """A basis on one model.

    Attributes:
        spec: how it is built.
        model: the model, in the type at hand.
        prompts: what it is tried on.
        before: the model before the basis was built.
        rebuilds: whether `spec.build` makes a new basis each time.
    """

    spec: BasisSpec
    model: Model
    prompts: Prompts
    before: ModelState
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

    def encode(self, site: Site, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b unit"]:
        """Encode without gradients."""
        return without_gradients(self.basis.encode, site, x)

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d"]:
        """Decode without gradients."""
        return without_gradients(self.basis.decode, site, f)

    @cached_property
    def group(self) -> GroupPair:
        """The prompts as the harness holds them."""
        return self.prompts.on(self.model)

    def activation(self, hook: str, *, split: str = "attribution", side: Side = "clean") -> Float[Tensor, "pair pos d"]:
        """Return a copy of an activation of the unhooked model."""
        context = self.group.attribution if split == "attribution" else self.group.evaluation
        return context.activation(hook, side).clone()

    def read(self, site: Site) -> Float[Tensor, "pair pos d"]:
        """Return a copy of what the basis reads at a site in the clean attribution prompts."""
        return self.activation(site.read)

    def read_others(self, site: Site) -> Float[Tensor, "pair pos d"]:
        """Return a copy of what it reads there in fewer and different prompts."""
        return self.activation(site.read, split="evaluation", side="counterfactual")

    @property
    def rounding(self) -> float:
        """Relative difference that the order of sums may make: coordinates are of float32 at least."""
        return 1e-9 if str(self.model.dtype) == "torch.float64" else 1e-4


def open_stage(spec: BasisSpec, model: Model, prompts: Prompts, *, rebuilds: bool = True) -> BasisStage:
    """Note the state of the model; the basis is built when it is first asked for."""
    return BasisStage(spec, model, prompts, state_of(model, model.tokens(prompts.evaluation.clean)), rebuilds)


def without_gradients(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Call a function without gradients."""
    import torch

    with torch.no_grad():
        return function(*arguments)


def row_difference(
    found: Float[Tensor, "*b d"], expected: Float[Tensor, "*b d"], scale: Float[Tensor, "*b e"] | None = None
) -> float:
    """Return the largest difference of a row, relative to the Euclidean norm of the row.

    In single precision the worst hundredth of the rows is left out: a unit next to its threshold may go either way by
    rounding alone. Nothing is left out in float64.

    Args:
        found: rows.
        expected: rows of the same shape.
        scale: rows whose norm differences are relative to; `expected` when None.

    Raises:
        BasisBenchError: the shapes differ.
    """
    import torch

    if found.shape != expected.shape:
        raise BasisBenchError(f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    if not found.numel():
        return 0.0
    difference = (found.double() - expected.double()).norm(dim=-1).flatten()
    size = (expected if scale is None else scale).double().norm(dim=-1).flatten()
    # A row of zeros is compared with the others' size: what is nothing to them is nothing.
    relative = difference / size.maximum(1e-6 * size.max()).clamp_min(1e-30)
    if not relative.isfinite().all():
        return float("inf")
    left = len(relative) - (0 if found.dtype == torch.float64 else len(relative) // 100)
    return float(relative.sort().values[left - 1])
