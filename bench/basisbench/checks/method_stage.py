"""What a method is checked on: two sets of short prompts, a basis of each kind, and no more than the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from basisbench.attribution.context import GroupContext
from basisbench.checks.snapshots import Snapshot, take_snapshot
from basisbench.checks.stage import Prompts, contexts_of, logits_of, prompts_of
from basisbench.checks.stand_ins import stand_in
from basisbench.errors import BasisBenchError, TaskError
from basisbench.protocols import CrossLayerBasis
from basisbench.registry import load_registry
from basisbench.runs.layer_subset import restrict

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.protocols import Basis, Method, Task
    from basisbench.types import Scores

KINDS = ("neurons", "dictionary", "cross-layer transcoder")

_MEMBERS = (
    "model",
    "pair_count",
    "tokens",
    "answers",
    "foils",
    "reference",
    "gradients",
    "metric",
    "gradient_field",
    "activation",
    "coordinates",
    "clean_metric",
    "patched_metric",
    "generator",
)
"""What `ScoringContext` has."""


class OnlyTheProtocol:
    """A context that has the members of `ScoringContext` and nothing else.

    Args:
        context: the whole context.
        calls: after how many calls it fails, to see what a method leaves behind then; never when None.
    """

    def __init__(self, context: GroupContext, calls: int | None = None) -> None:
        self._OnlyTheProtocol_hidden = {"context": context, "left": calls}

    def __getattribute__(self, name: str) -> Any:
        """Return a member of the protocol."""
        if name not in _MEMBERS:
            raise AttributeError(f"ScoringContext has no member '{name}'; it has {', '.join(_MEMBERS)}")
        hidden = object.__getattribute__(self, "_OnlyTheProtocol_hidden")
        if hidden["left"] is not None:
            hidden["left"] -= 1
            if hidden["left"] < 0:
                raise Interrupted
        return getattr(hidden["context"], name)


class Interrupted(Exception):  # noqa: N818 -- it is no error of the method
    """Raised in the middle of scoring on purpose."""


@dataclass(frozen=True, eq=False)
class MethodStage:
    """A method on one model.

    Attributes:
        method: the method.
        model: the model.
        prompts: short prompts.
        others: other prompts, for a cell in between.
        bases: a basis of each kind.
        before: the model and the code before anything was scored.
        logits_before: of each view of the model.
    """

    method: Method
    model: Model
    prompts: Prompts
    others: Prompts
    bases: Mapping[str, Basis]
    before: Snapshot
    logits_before: Sequence[Tensor]

    def context(self, *, seed: int = 0, others: bool = False) -> GroupContext:
        """Return the attribution split as a run gives it to a method, with nothing computed yet."""
        return contexts_of(self.model, self.others if others else self.prompts, seed=seed).attribution

    @cached_property
    def small(self) -> Mapping[str, Basis]:
        """The bases on the last two layers alone: what is done again and again need not take long."""
        layers = range(self.model.layers)[-2:]
        return {kind: restrict(basis, layers) for kind, basis in self.bases.items()}

    @cached_property
    def scores(self) -> Mapping[str, Scores]:
        """The first scores of each kind of basis, on the last two layers."""
        return {kind: self.method.score(self.context(), basis) for kind, basis in self.small.items()}


def open_method_stage(method: Method, model: Model) -> MethodStage:
    """Find prompts and bases, and note the state of the model and of the code.

    Raises:
        TaskError: no registered task gives prompts for the model's tokenizer.
    """
    prompts = _two_prompts(model)
    logits = logits_of(model, model.tokens(prompts[0].evaluation.clean))
    bases = {kind: _basis_of(kind, model) for kind in KINDS}
    return MethodStage(method, model, *prompts, bases, take_snapshot(model), logits)


def _two_prompts(model: Model) -> tuple[Prompts, Prompts]:
    """Return prompts of two tasks, the shortest that the tokenizer can do first."""
    registry, found = load_registry(), list[Prompts]()
    tasks: dict[str, Task] = {entry.name: registry.get("task", entry.name) for entry in registry.of("task")}
    preferred = [name for name in ("sva_simple", "sva_within_rc", "sva_rc", "ioi") if name in tasks]
    for name in (*preferred, *sorted(tasks.keys() - set(preferred))):
        try:
            found.append(prompts_of(model, tasks[name]))
        except TaskError:
            continue
        if len(found) == 2:
            return found[0], found[1]
    if not found:
        raise TaskError(f"no registered task gives pairs for the tokenizer of model '{model.name}'")
    return found[0], found[0]


def _basis_of(kind: str, model: Model) -> Basis:
    """Return the model's own basis of a kind where it names one, a stand-in elsewhere."""
    registry = load_registry()
    for name in ("mlp_out",) if kind == "neurons" else sorted(model.spec.dictionaries, reverse=True):
        try:
            basis = registry.get("basis", name).build(model)
        except BasisBenchError:
            continue
        if kind == "neurons" or (kind == "cross-layer transcoder") == isinstance(basis, CrossLayerBasis):
            return basis
    return stand_in(kind, model)
