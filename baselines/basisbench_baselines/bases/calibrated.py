"""Control: a dictionary with its calibration error taken out, `calibrated:NAME`.

1. The calibration slope of each layer of the basis NAME is measured on the task's attribution prompts
   (`basisbench.attribution.fit`): least squares of the activation on its reconstruction.
2. Units are those of NAME, every write is multiplied by the slope of the layer that it goes to; so its own slope is 1.

A decoder that writes too much is paid for it before its errors are counted. What NAME wins over `calibrated:NAME` is
due to how strongly it writes, and not to its features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from basisbench.attribution.fit import calibration_slope
from basisbench.attribution.reconstruction import EarlierWrites
from basisbench.errors import BasisError
from basisbench.plugin_code import code_digest
from basisbench.protocols import BasisScheme, BasisSpec, CrossLayerBasis, StreamedBasis, training_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.protocols import Activations, Basis, BasisPart
    from basisbench.types import Site

PREFIX = "calibrated"


class ScaledPart:
    """Some units of a calibrated basis.

    Args:
        part: the same units of the basis.
        site: their site.
        slopes: slope by site.
    """

    def __init__(self, part: Any, site: Site, slopes: Mapping[Site, float]) -> None:
        self._part, self._slope, self._slopes = part, slopes[site], slopes

    def encode(self, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b part"]:
        """Return the coordinates of these units."""
        coordinates: Tensor = self._part.encode(x)
        return coordinates

    def decode(self, f: Float[Tensor, "*b part"]) -> Float[Tensor, "*b d_write"]:
        """Return what these coordinates add to the reconstruction."""
        written: Tensor = self._part.decode(f)
        return written * self._slope

    def project(self, gradient: Float[Tensor, "*b d_write"]) -> Float[Tensor, "*b part"]:
        """Return the product of a gradient with each unit's decoder row."""
        products: Tensor = self._part.project(gradient)
        return products * self._slope

    def spread(self, f: Float[Tensor, "*b part"], to: Site) -> Float[Tensor, "*b d_write"]:
        """Return what these units add at the write hook of `to`."""
        written: Tensor = self._part.spread(f, to)
        return written * self._slopes[to]


class Calibrated:
    """A basis whose writes are multiplied by a slope per layer; what else the basis promises, this one promises too.

    Args:
        name: its name.
        basis: the basis.
        slopes: slope by site.
        fingerprint: digest of the basis's weights and of the slopes.
    """

    exact = False

    def __init__(self, name: str, basis: Basis, slopes: Mapping[Site, float], fingerprint: str) -> None:
        self.name, self.family, self.sites = name, basis.family, basis.sites
        self.parameter_bytes, self.fingerprint = basis.parameter_bytes, fingerprint
        self._basis, self._slopes = basis, slopes
        self.encode, self.trained = basis.encode, training_of(basis)
        # Protocols are told by their members, so it has those of its basis and no more.
        for promise, own in (("part", self._scaled_part), ("spread", self._scaled_spread)):
            if hasattr(basis, promise):
                setattr(self, promise, own)

    @property
    def sources(self) -> Mapping[str, str]:
        """Repositories that its weights came from, with their commits."""
        return getattr(self._basis, "sources", {})

    @property
    def streams(self) -> bool:
        """Whether its weights do not fit into memory at once."""
        return isinstance(self._basis, StreamedBasis) and self._basis.streams

    def keep_less(self) -> bool:
        """Keep fewer weights in memory, if the basis can."""
        return isinstance(self._basis, StreamedBasis) and self._basis.keep_less()

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return the reconstruction at the write hook, times its slope."""
        return self._basis.decode(site, f) * self._slopes[site]

    def _scaled_spread(self, site: Site, f: Float[Tensor, "*b unit"], to: Site) -> Float[Tensor, "*b d_write"]:
        written: Tensor = self._basis.spread(site, f, to)  # type: ignore[attr-defined]  # asked for in __init__
        return written * self._slopes[to]

    def _scaled_part(self, site: Site, units: Int[Tensor, " part"]) -> BasisPart | None:
        part = self._basis.part(site, units)  # type: ignore[attr-defined]  # asked for in __init__
        return None if part is None else ScaledPart(part, site, self._slopes)


def measure_slopes(basis: Basis, activations: Activations) -> dict[Site, float]:
    """Measure the calibration slope of every site, to six digits: a fingerprint must not hang on the order of sums."""
    import torch

    slopes: dict[Site, float] = {}
    earlier: list[EarlierWrites] = []
    for site in basis.sites:
        written, reconstructed = [], []
        rows = (activations(hook, first=training_of(basis).first_position) for hook in (site.read, site.write))
        for batch, (x, y) in enumerate(zip(*rows, strict=True)):
            with torch.no_grad():
                units = basis.encode(site, x)
                reconstruction = basis.decode(site, units)
                if isinstance(basis, CrossLayerBasis):
                    if batch == len(earlier):
                        earlier.append(EarlierWrites(basis, _not_encoded))
                    before = earlier[batch].at(site)
                    reconstruction = reconstruction if before is None else reconstruction + before
                    earlier[batch].offer(site, units)
            written.append(y)
            reconstructed.append(reconstruction)
        slope = calibration_slope(torch.cat(written).double(), torch.cat(reconstructed).double())
        slopes[site] = float(f"{slope:.6g}")
    return slopes


def _not_encoded(site: Site) -> Tensor:
    raise AssertionError(f"{site} was passed over: sites are gone through in order")


def fit(inner: BasisSpec, name: str, model: Model, activations: Activations) -> Calibrated:
    """Build the basis and measure its slopes.

    Raises:
        BasisError: it cannot be built, or has no reconstruction error.
    """
    basis: Basis = inner.build(model) if inner.fit is None else inner.fit(model, activations)
    if basis.exact:
        raise BasisError(f"basis '{name}': '{inner.name}' reconstructs exactly; there is nothing to calibrate")
    slopes = measure_slopes(basis, activations)
    weights = inner.fingerprint(model.spec) if inner.fit is None else getattr(basis, "fingerprint", None)
    digest = hashlib.sha256(repr((weights, code_digest(inner), tuple(slopes.values()))).encode())
    return Calibrated(name, basis, slopes, digest.hexdigest())


def calibrated(inner: BasisSpec) -> BasisSpec:
    """Return the calibrated form of a basis; its name is `calibrated:` and that of the basis."""
    name = f"{PREFIX}:{inner.name}"
    return BasisSpec(
        name,
        inner.family,
        f"{inner.name}, its writes multiplied by the calibration slope of each layer",
        fit=partial(fit, inner, name),
        layers=inner.layers,
        repositories=inner.repositories,
        order=inner.order,
        units=inner.units,
        cross_layer=inner.cross_layer,
        control=True,
    )


def resolve_name(name: str) -> BasisSpec:
    """Return the calibrated form of a registered basis.

    Raises:
        BasisBenchError: there is no such basis, or there is nothing to calibrate.
    """
    from basisbench.registry import load_registry

    inner = name.removeprefix(f"{PREFIX}:")
    if inner.startswith(f"{PREFIX}:"):
        raise BasisError(f"basis '{name}': '{inner}' is calibrated already; its slope is 1")
    return calibrated(load_registry().get("basis", inner))


PROVIDES: tuple[BasisScheme, ...] = (
    BasisScheme(
        PREFIX,
        f"{PREFIX}:NAME",
        "control: the dictionary NAME, its writes brought to calibration on the task's prompts",
        resolve_name,
    ),
)
