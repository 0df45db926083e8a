"""What a task, a basis and a method must do; third parties implement these and nothing else.

Protocols speak of behaviour, never of weights: a basis encodes and decodes, nobody asks it for a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from basisbench.types import (
    ContrastPair,
    Family,
    ModelShape,
    ModelSpec,
    PairSet,
    Passes,
    Scores,
    Side,
    Site,
    Split,
    Style,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.models.model import Model


@runtime_checkable
class Task(Protocol):
    """A generator of contrast pairs; its attributes are read, never set, so that a task can be frozen."""

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

    def pairs(self, tokenizer: Any, split: Split, count: int, seed: int) -> PairSet:
        """Return about `count` pairs of a split as aligned groups of single-token answers.

        Raises:
            TaskError: no candidate survives this tokenizer; names the task, the tokenizer and the reasons.
        """
        ...


@runtime_checkable
class Basis(Protocol):
    """A coordinate system for the activations of one site family."""

    @property
    def name(self) -> str:
        """Unique name, for example "mlp_act"."""
        ...

    @property
    def family(self) -> Family:
        """The site family that it is compared in."""
        ...

    @property
    def sites(self) -> Sequence[Site]:
        """One site per layer, in layer order."""
        ...

    @property
    def exact(self) -> bool:
        """True when `decode(encode(x))` is `x`, so that there are no error nodes."""
        ...

    @property
    def parameter_bytes(self) -> int:
        """Bytes of weights that the basis brings along; 0 for neurons."""
        ...

    def encode(self, site: Site, x: Float[Tensor, "*b d_read"], /) -> Float[Tensor, "*b unit"]:
        """Map activations at the read hook to coordinates; a function of `x` alone."""
        ...

    def decode(self, site: Site, f: Float[Tensor, "*b unit"], /) -> Float[Tensor, "*b d_write"]:
        """Map coordinates to a reconstruction at the write hook; affine in `f` for the gradient methods."""
        ...


class BasisPart(Protocol):
    """Some units of a basis at one site."""

    def encode(self, x: Float[Tensor, "*b d_read"], /) -> Float[Tensor, "*b part"]:
        """Return the coordinates of these units: `encode(x)[..., units]`."""
        ...

    def decode(self, f: Float[Tensor, "*b part"], /) -> Float[Tensor, "*b d_write"]:
        """Return what these coordinates add to the reconstruction, other units being zero: no bias."""
        ...

    def project(self, gradient: Float[Tensor, "*b d_write"], /) -> Float[Tensor, "*b part"]:
        """Return `<gradient, W_dec[i]>` for these units."""
        ...


@runtime_checkable
class UnitwiseBasis(Basis, Protocol):
    """A basis each of whose units can be computed without the others: an optional promise, for speed alone."""

    def part(self, site: Site, units: Int[Tensor, " part"], /) -> BasisPart | None:
        """Return some units of a site; None where units depend on each other (TopK)."""
        ...


@runtime_checkable
class CrossLayerBasis(Basis, Protocol):
    """A basis whose units at one site also write at the sites of later layers (a cross-layer transcoder).

    The reconstruction at site m is `decode(m, f_m)` plus, for every earlier site l, `spread(l, f_l, m)`; `decode` alone
    is what a site's own units write there, with the bias. Its error at m is what that sum leaves over. `sites` are in
    the order in which a forward pass reaches them.
    """

    def spread(self, site: Site, f: Float[Tensor, "*b unit"], to: Site, /) -> Float[Tensor, "*b d_write"]:
        """Return what the units of `site` add at the write hook of `to`: linear in `f`, no bias.

        Args:
            site: the site that the units belong to.
            f: their coordinates.
            to: the same site or a later one.
        """
        ...


class CrossLayerPart(BasisPart, Protocol):
    """Some units of a cross-layer basis at one site: what `part` of such a basis returns."""

    def spread(self, f: Float[Tensor, "*b part"], to: Site, /) -> Float[Tensor, "*b d_write"]:
        """Return what these units add at the write hook of `to`."""
        ...


@runtime_checkable
class StreamedBasis(Basis, Protocol):
    """A basis that reads weights when they are needed and lets go of them where they do not fit: for memory alone.

    What it computes does not depend on what is in memory. Sites are asked for in order, pass after pass.
    """

    @property
    def streams(self) -> bool:
        """Whether not all weights fit at once, so that every pass reads some: passes should be few and large."""
        ...

    def keep_less(self) -> bool:
        """Hold less in memory from now on; False where that is not possible."""
        ...


class ScoringContext(Protocol):
    """What a method may use: the model, one aligned group of the attribution split, shared fields."""

    @property
    def model(self) -> Model:
        """The model under study."""
        ...

    @property
    def pair_count(self) -> int:
        """Pairs in the group."""
        ...

    def gradient_field(self, rule: str, site: Site) -> Float[Tensor, "pair pos d_write"]:
        """Gradient of each pair's metric at the site's write hook under a rule (DESIGN section 3)."""
        ...

    def activation(self, hook: str, side: Side) -> Float[Tensor, "pair pos d"]:
        """Activation at a hook in the clean or the counterfactual run."""
        ...

    def coordinates(
        self, basis: Basis, site: Site, side: Side
    ) -> tuple[Float[Tensor, "pair pos unit"], Float[Tensor, "pair pos d_write"] | None]:
        """Coordinates and error (None for an exact basis) in the clean or the counterfactual run."""
        ...

    def clean_metric(self) -> Float[Tensor, " pair"]:
        """Metric of the unhooked model on the clean prompts."""
        ...

    def patched_metric(
        self, basis: Basis, site: Site, positions: Sequence[int], units: Sequence[int]
    ) -> Float[Tensor, "node pair"]:
        """Metric of the clean run with single nodes at their counterfactual value, one row per node.

        Node i is `(positions[i], units[i])`; a unit of -1 means the error node.
        """
        ...

    def generator(self, *key: str | int) -> Any:
        """A torch.Generator seeded from the cell's seed and `key`."""
        ...


@runtime_checkable
class Method(Protocol):
    """A way to score the nodes of a basis.

    A method may also have the attributes `order`, `style` and `passes`, which `order_of`, `style_of` and `passes_of`
    read: where it stands in tables, how pictures draw it, and what estimates of a run's work count for it.
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
        """Score every node of the basis in one aligned group."""
        ...


ORDER = 100
"""Place in tables and legends of what declares none: behind all that does, by name."""


def order_of(item: BasisSpec | BasisScheme | Method) -> float:
    """Return where a basis or a method stands in tables and legends: small numbers first, equal ones by name."""
    return float(getattr(item, "order", ORDER))


def style_of(item: BasisSpec | BasisScheme | Method) -> Style | None:
    """Return how pictures draw a basis or a method; None lets them choose among the free styles."""
    return getattr(item, "style", None)


def passes_of(method: Method) -> Passes | None:
    """Return the passes that a method declares, for estimates; None where it declares none."""
    return getattr(method, "passes", None)


def no_weights(_model: ModelSpec) -> None:
    """Say that a basis brings no trained weights along."""


@dataclass(frozen=True)
class BasisSpec:
    """A basis before it meets a model; cheap to import, so that it can be listed.

    Attributes:
        name: name of the basis it builds.
        family: its site family.
        summary: one line for listings.
        build: makes the basis for a loaded model; may raise BasisError.
        fingerprint: digest of the trained weights that the basis would load for a model, None without any;
            a cell is only reused while it is the same.
        layers: the only layers that the basis covers, None for every layer of the model.
        repositories: repositories of the Hugging Face hub that its weights come from, each with the revision that the
            name of the basis gives, None where it gives none.
        order: place in tables and legends: small numbers first, equal ones by name.
        style: how pictures draw it; None lets them choose among the free styles.
        units: gives the units per layer on a model of some shape, for estimates; None where only the weights tell.
        cross_layer: whether its units write at later layers too, for estimates.
    """

    name: str
    family: Family
    summary: str
    build: Callable[[Model], Basis]
    fingerprint: Callable[[ModelSpec], str | None] = no_weights
    layers: tuple[int, ...] | None = None
    repositories: Mapping[str, str | None] = field(default_factory=dict)
    order: float = ORDER
    style: Style | None = None
    units: Callable[[ModelShape], int] | None = None
    cross_layer: bool = False


@dataclass(frozen=True)
class BasisScheme:
    """Bases that are too many to list: a name that begins with `prefix:` says which one is meant.

    Attributes:
        prefix: what comes before the first colon.
        form: how such names are built, for listings, for example "sae:RELEASE[:PATTERN]".
        summary: one line for listings.
        resolve: makes the basis of a full name; loads no weights, may raise BasisError.
    """

    prefix: str
    form: str
    summary: str
    resolve: Callable[[str], BasisSpec]

    @property
    def name(self) -> str:
        """How its names are built."""
        return self.form
