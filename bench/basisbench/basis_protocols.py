"""What a basis must do, and what it may promise besides, for speed, for memory, or because it writes at later layers.

Protocols speak of behaviour, never of weights: a basis encodes and decodes, nobody asks it for a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from basisbench.types import Family, Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


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


@runtime_checkable
class PublishedBasis(Basis, Protocol):
    """A basis whose units may have public pages."""

    def page(self, site: Site, unit: int, /) -> str | None:
        """Return the address of a unit's page; None where its release names none."""
        ...


@runtime_checkable
class FittedBasis(Basis, Protocol):
    """A basis whose weights come from the task's activations."""

    @property
    def fingerprint(self) -> str:
        """Digest of the weights in hexadecimal (`basisbench.attribution.fitting.weights_digest`)."""
        ...


@dataclass(frozen=True)
class Training:
    """How the dictionaries of a basis were trained, as far as those say who made them.

    Attributes:
        first_position: the position of a context from which on they were trained: what stands before it is no part of
            their fit. Circuits have nodes there all the same, for `encode` is a function of the activation alone.
        tokens: on how many tokens each dictionary was trained; None where that is not said.
        kind: what kind of dictionary they are, for example "transcoder"; "" where that is not said.
        text: what they read; "" where that is not said.
        text_digest: digest of it, in hexadecimal.
        digest: digest of everything that shaped the weights, the same for all snapshots of a training.
    """

    first_position: int = 0
    tokens: int | None = None
    kind: str = ""
    text: str = ""
    text_digest: str | None = None
    digest: str | None = None


UNTOLD = Training()
"""Nothing is known of a training, or there was none."""


def training_of(basis: Basis) -> Training:
    """Return how a basis was trained: its attribute `trained`, which it need not have."""
    found: Training = getattr(basis, "trained", UNTOLD)
    return found
