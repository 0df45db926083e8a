"""What a task, a basis and a method must do; third parties implement these and nothing else.

Protocols speak of behaviour, never of weights: a basis encodes and decodes, nobody asks it for a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from basisbench.types import ContrastPair, Family, PairSet, Scores, Side, Site, Split

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.model import Model


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
    """A way to score the nodes of a basis."""

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
    """

    name: str
    family: Family
    summary: str
    build: Callable[[Model], Basis]
    fingerprint: Callable[[ModelSpec], str | None] = no_weights


@dataclass(frozen=True)
class ModelSpec:
    """A model before it is loaded.

    Attributes:
        name: name in suites and records.
        path: folder of a Hugging Face checkpoint, or a repository id.
        summary: one line for listings.
        dictionaries: for each dictionary basis, the folder that holds `layer_0`, `layer_1`, ...
    """

    name: str
    path: str
    summary: str
    dictionaries: Mapping[str, Path] = field(default_factory=dict)
