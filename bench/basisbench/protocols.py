"""What a task, a basis and a method must do; third parties implement these and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from basisbench.basis_protocols import (
    UNTOLD,
    Basis,
    BasisPart,
    CrossLayerBasis,
    CrossLayerPart,
    FittedBasis,
    PublishedBasis,
    StreamedBasis,
    Training,
    UnitwiseBasis,
    training_of,
)
from basisbench.errors import BasisError
from basisbench.types import (
    BackwardRules,
    ContrastPair,
    ErrorPolicy,
    Family,
    ModelShape,
    ModelSpec,
    Passes,
    Scores,
    Side,
    Site,
    Split,
    Style,
)

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.results.record import CellConfig, Identities

Named = TypeVar("Named", "BasisSpec", "Method")

__all__ = [
    "ORDER",
    "UNTOLD",
    "Activations",
    "Basis",
    "BasisPart",
    "BasisScheme",
    "BasisSpec",
    "CrossLayerBasis",
    "CrossLayerPart",
    "FittedBasis",
    "Method",
    "MethodScheme",
    "PublishedBasis",
    "Scheme",
    "ScoringContext",
    "StreamedBasis",
    "Task",
    "Training",
    "UnitwiseBasis",
    "fingerprint_of",
    "made_for",
    "no_weights",
    "order_of",
    "passes_of",
    "style_of",
    "training_of",
]


@runtime_checkable
class Task(Protocol):
    """A generator of contrast pairs; the harness tokenises and aligns them (`basisbench.pairs.alignment`).

    Its attributes are read, never set, so that a task can be frozen.
    """

    @property
    def name(self) -> str:
        """Unique name, for example "sva_simple"."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever the pairs change; results of two versions are never mixed."""
        ...

    @property
    def summary(self) -> str:
        """One line for listings."""
        ...

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield distinct pairs as text, in an order drawn from `seed`; finite, and the same on every call."""
        ...


class Activations(Protocol):
    """Where a basis that is fitted gets its data; every pass counts as its cost."""

    def __call__(
        self, hook: str, corpus: Sequence[str] | None = None, *, first: int = 0
    ) -> Iterator[Float[Tensor, "row d"]]:
        """Yield activations at a hook in batches, a row per position of a prompt, in the model's type.

        Args:
            hook: TransformerLens hook name.
            corpus: texts to run the model on, a batch each; None for the clean and counterfactual prompts of the task's
                attribution pairs, without their beginning-of-sequence position.
            first: the position of a prompt from which on rows are taken (`Training.first_position`).

        Raises:
            BasisBenchError: the model has no such hook.
        """
        ...


class ScoringContext(Protocol):
    """All that a method may ask: one aligned group of the attribution split on one model.

    Tensors that it gives are shared between cells: a method that changes one in place fails its cell. Metrics and
    scores are in logits. Every pass is counted as the cell's cost, a backward pass as two forward ones.
    """

    @property
    def model(self) -> Model:
        """The model under study: its shape and hook names; nothing of it may be changed."""
        ...

    @property
    def group(self) -> str:
        """Key of the group, the same in both splits."""
        ...

    @property
    def pair_count(self) -> int:
        """Pairs in the group."""
        ...

    def tokens(self, side: Side) -> Int[Tensor, "pair pos"]:
        """Token ids of the clean or the counterfactual prompts."""
        ...

    @property
    def answers(self) -> Int[Tensor, "pair answer"]:
        """Ids of the tokens that the clean prompts call for."""
        ...

    @property
    def foils(self) -> Int[Tensor, "pair foil"]:
        """Ids of the tokens that the counterfactual prompts call for."""
        ...

    def activation(self, hook: str, side: Side) -> Float[Tensor, "pair ..."]:
        """Activation at any TransformerLens hook in the clean or the counterfactual run, in the model's type.

        (pair, pos, d) where a module begins or ends; inside one it is what TransformerLens has there, such as a pattern
        (pair, head, query, key).

        Raises:
            BasisBenchError: the model has no such hook.
        """
        ...

    def coordinates(
        self, basis: Basis, site: Site, side: Side
    ) -> tuple[Float[Tensor, "pair pos unit"], Float[Tensor, "pair pos d_write"] | None]:
        """Coordinates and error (None for an exact basis) in the clean or the counterfactual run."""
        ...

    def reference(
        self, basis: Basis, site: Site
    ) -> tuple[Float[Tensor, "pair_or_1 pos unit"], Float[Tensor, "pair_or_1 pos d_write"] | None]:
        """Coordinates and error that nodes outside a circuit take: the cell's ablation, on these pairs.

        The mean over the counterfactual prompts (first axis 1), each pair's own counterfactual value, or zero (1).
        """
        ...

    def target(
        self, basis: Basis, site: Site
    ) -> tuple[Float[Tensor, "pair_or_1 pos unit"], Float[Tensor, "pair_or_1 pos d_write"] | None]:
        """Coordinates and error that nodes move to when they are scored.

        Those of `reference`, so that scores answer the question that the curve asks; under the cell's
        `score_reference: counterfactual` the values in the counterfactual run instead.
        """
        ...

    @property
    def error_policy(self) -> ErrorPolicy:
        """What error nodes are.

        Under "node" the whole error of a layer and position is one, under "coordinates" and "rotated" each of
        `error_nodes` is; under "keep" and "ablate" there are none, and none need scores.
        """
        ...

    def error_nodes(self, site: Site, values: Float[Tensor, "*b d_write"]) -> Float[Tensor, "*b error"]:
        """Return an error, or a gradient, at a write site in the coordinates that are error nodes.

        The values themselves; in rotated axes under the policy "rotated".
        """
        ...

    def gradient_field(self, rule: str | BackwardRules, site: Site) -> Float[Tensor, "pair pos d_write"]:
        """Gradient of each pair's metric at the site's write hook, computed once for all bases.

        Args:
            rule: "ixg", "relp" or backward rules part by part, at the clean run; "ig", mean over the straight path of
                the site from clean to what its nodes move to; "ig_inputs", mean over the path of the embeddings from
                clean to counterfactual.
            site: a site of any basis.
        """
        ...

    def gradients(
        self,
        hooks: Sequence[str],
        *,
        replace: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        add: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        rules: str | BackwardRules = "ixg",
    ) -> Mapping[str, Float[Tensor, "pair ..."]]:
        """Gradient of each pair's metric at hooks, in one forward and one backward pass over the clean prompts.

        Args:
            hooks: where gradients are taken, at the values that go on; zero where the metric does not depend on them.
            replace: by hook, activations that take the place of the run's own; "embed.hook_out" are the embeddings.
            add: by hook, what is added to the activation.
            rules: backward rules: "ixg" (autograd), "relp", or part by part (`basisbench.types.BackwardRules`).

        Raises:
            BasisBenchError: no such hook or rules, or a shape that the hook does not have.
        """
        ...

    def metric(
        self,
        *,
        replace: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        add: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        rules: str | BackwardRules = "ixg",
    ) -> Float[Tensor, " pair"]:
        """Metric of the clean prompts, differentiable in the tensors that `replace` and `add` hold.

        Args and errors are those of `gradients`.
        """
        ...

    def clean_metric(self) -> Float[Tensor, " pair"]:
        """Metric of the unhooked model on the clean prompts."""
        ...

    def patched_metric(
        self, basis: Basis, site: Site, positions: Sequence[int], units: Sequence[int]
    ) -> Float[Tensor, "node pair"]:
        """Metric of the clean run with single nodes moved to their `target`, one row per node.

        Node i is `(positions[i], units[i])`. A negative unit means an error node: -1 the whole error under "node",
        -1 - j coordinate j of `error_nodes` under "coordinates" and "rotated".
        """
        ...

    def generator(self, *key: str | int) -> torch.Generator:
        """A random generator on the CPU, seeded from the cell's seed, the group and `key`."""
        ...


@runtime_checkable
class Method(Protocol):
    """A way to score the nodes of a basis.

    A method may also have the attributes `order`, `style`, `passes` and `mean_over_pairs`, which `order_of`,
    `style_of`, `passes_of` and `averages_pairs` read: where it stands in tables, how pictures draw it, what estimates
    of a run's work count for it, and whether it may be given few pairs at a time. One that reads a file has a
    `fingerprint`, the digest of what it read, and may say what its scores are `made_for`.
    """

    @property
    def name(self) -> str:
        """Unique name, for example "relp"."""
        ...

    @property
    def summary(self) -> str:
        """One line for listings, with the source."""
        ...

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Score every node of the basis in one aligned group: finite numbers, without gradient.

        The sign is that of the metric's change when the node leaves its clean value.
        """
        ...


ORDER = 100
"""Place in tables and legends of what declares none: behind all that does, by name."""


def order_of(item: BasisSpec | Scheme[Any] | Method) -> float:
    """Return where a basis or a method stands in tables and legends: small numbers first, equal ones by name."""
    return float(getattr(item, "order", ORDER))


def style_of(item: BasisSpec | Scheme[Any] | Method) -> Style | None:
    """Return how pictures draw a basis or a method; None lets them choose among the free styles."""
    return getattr(item, "style", None)


def passes_of(method: Method) -> Passes | None:
    """Return the passes that a method declares, for estimates; None where it declares none."""
    return getattr(method, "passes", None)


def averages_pairs(method: Method) -> bool:
    """Return whether a method says that its scores are means over pairs.

    Where not all pairs fit into memory it is given some after others then, and its scores are averaged; any other
    method is given all pairs at once.
    """
    return bool(getattr(method, "mean_over_pairs", False))


def fingerprint_of(method: Method) -> str:
    """Return the digest of what a method read from a file; "" where it is all code."""
    return str(getattr(method, "fingerprint", ""))


def made_for(method: Method) -> tuple[CellConfig, Identities] | None:
    """Return the question and the digests that a method's scores belong to; None where it scores whatever it is given.

    Scores that were made before are of one model, task and basis; used with others they end in an error.
    """
    found: tuple[CellConfig, Identities] | None = getattr(method, "made_for", None)
    return found


def no_weights(_model: ModelSpec) -> None:
    """Say that a basis brings no trained weights along."""


def not_fitted(_model: Model) -> Basis:
    """Refuse to build a basis without data, for one that has to be fitted."""
    raise BasisError("the basis is fitted: it needs activations, not the model alone")


@dataclass(frozen=True)
class BasisSpec:
    """A basis before it meets a model; cheap to import, so that it can be listed.

    Attributes:
        name: name of the basis it builds.
        family: its site family.
        summary: one line for listings.
        build: makes the basis for a loaded model; may raise BasisError. Give this or `fit`.
        fit: makes the basis for a loaded model from activations, once per task; such a basis has a `fingerprint`, the
            digest of its weights (`FittedBasis`).
        fingerprint: digest of the trained weights that the basis would load for a model, None without any;
            a cell is only reused while it is the same.
        layers: the only layers that the basis covers, None for every layer of the model.
        repositories: repositories of the Hugging Face hub that its weights come from, each with the revision that the
            name of the basis gives, None where it gives none.
        order: place in tables and legends: small numbers first, equal ones by name.
        style: how pictures draw it; None lets them choose among the free styles.
        units: gives the units per layer on a model of some shape, for estimates; None where only the weights tell.
        cross_layer: whether its units write at later layers too, for estimates.
        control: whether it stands in a run for comparison alone: it may fit the prompts badly, and gets no best mark.
        exact: whether the basis leaves no error, as neurons do (`Basis.exact`): its cells are not repeated for error
            policies.
    """

    name: str
    family: Family
    summary: str
    build: Callable[[Model], Basis] = not_fitted
    fit: Callable[[Model, Activations], FittedBasis] | None = None
    fingerprint: Callable[[ModelSpec], str | None] = no_weights
    layers: tuple[int, ...] | None = None
    repositories: Mapping[str, str | None] = field(default_factory=dict)
    order: float = ORDER
    style: Style | None = None
    units: Callable[[ModelShape], int] | None = None
    cross_layer: bool = False
    control: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Scheme(Generic[Named]):
    """What is too much to list: a name that begins with `prefix:` says which one is meant.

    Attributes:
        prefix: what comes before the first colon.
        form: how such names are built, for listings, for example "sae:RELEASE[:PATTERN]".
        summary: one line for listings.
        resolve: makes what has a full name; may raise BasisBenchError.
    """

    prefix: str
    form: str
    summary: str
    resolve: Callable[[str], Named]

    @property
    def name(self) -> str:
        """How its names are built."""
        return self.form


class BasisScheme(Scheme[BasisSpec]):
    """Bases that are named by a prefix; `resolve` loads no weights."""


class MethodScheme(Scheme[Method]):
    """Methods that are named by a prefix, for example "scores:FILE"."""
