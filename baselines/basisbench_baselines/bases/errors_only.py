"""The control `errors:NAME`: the dictionary NAME with every unit off, so that its errors are all there is.

What a basis that explains nothing gets. With errors in coordinates it is the neurons of the site that NAME writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisError
from basisbench.plugin_code import code_digest
from basisbench.protocols import BasisScheme, BasisSpec, training_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.protocols import Basis
    from basisbench.types import Site

PREFIX = "errors"


class ErrorsOnly:
    """A dictionary of which no unit is ever active: what it writes is its bias, and all else its error.

    Args:
        name: its name.
        basis: the dictionary.
    """

    exact = False

    def __init__(self, name: str, basis: Basis) -> None:
        self.name, self.family, self.sites = name, basis.family, basis.sites
        self.parameter_bytes, self.trained = basis.parameter_bytes, training_of(basis)
        self.sources: Mapping[str, str] = getattr(basis, "sources", {})
        self._basis = basis

    def encode(self, site: Site, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return a code of zeros, as wide as that of the dictionary."""
        found: Tensor = self._basis.encode(site, x) * 0
        return found

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return what the dictionary writes at its own site for a code."""
        return self._basis.decode(site, f)


def build_errors(inner: BasisSpec, name: str, model: Model) -> ErrorsOnly:
    """Build a dictionary with every unit off.

    Raises:
        BasisError: the dictionary cannot be built.
    """
    return ErrorsOnly(name, inner.build(model))


def _fingerprint(inner: BasisSpec, spec: Any) -> str | None:
    weights = inner.fingerprint(spec)
    return None if weights is None else hashlib.sha256(f"{weights} {code_digest(inner)}".encode()).hexdigest()


def resolve_name(name: str) -> BasisSpec:
    """Return the control of a registered dictionary.

    Raises:
        BasisBenchError: there is no such basis, or it is no dictionary, or a control or fitted itself.
    """
    from basisbench.registry import load_registry

    of = name.partition(":")[2]
    inner = load_registry().get("basis", of)
    if inner.control or inner.fit is not None:
        raise BasisError(f"basis '{name}': '{of}' is a control or fitted itself; give a basis that is not")
    if inner.exact:
        raise BasisError(f"basis '{name}': expected a dictionary, for example transcoder; got '{of}'")
    return BasisSpec(
        name,
        inner.family,
        _SUMMARY.replace("NAME", of),
        layers=inner.layers,
        repositories=inner.repositories,
        order=inner.order,
        units=inner.units,
        control=True,
        build=partial(build_errors, inner, name),
        fingerprint=partial(_fingerprint, inner),
    )


_SUMMARY = "control: the dictionary NAME with every unit off: its errors are all there is"

PROVIDES: tuple[BasisScheme, ...] = (BasisScheme(PREFIX, f"{PREFIX}:NAME", _SUMMARY, resolve_name),)
