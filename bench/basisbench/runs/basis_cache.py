"""Bases that were built for a model, kept for the next tasks as far as their weights are small.

Large ones are built again for each task, so that memory does not grow with the number of bases. A basis that is fitted
depends on the task's data, and is kept for these alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from numbers import Integral
from typing import TYPE_CHECKING

from pydantic import ValidationError

from basisbench.attribution.cost import Spent, now
from basisbench.errors import BasisError
from basisbench.models.batching import MemoryExhaustedError, is_out_of_memory
from basisbench.models.memory import give_memory_back
from basisbench.models.model import Model
from basisbench.protocols import StreamedBasis, training_of
from basisbench.results.record_fields import Training
from basisbench.results.schema import describe_problem
from basisbench.runs.layer_subset import restrict

if TYPE_CHECKING:
    from basisbench.attribution.fitting import TaskActivations
    from basisbench.protocols import Basis, BasisSpec

CACHE_BYTES = 256 * 2**20
"""Weights that are kept for the next tasks."""


@dataclass(frozen=True)
class Key:
    """Which basis: its name, the layers that it is restricted to, and what it was fitted on.

    Attributes:
        name: name of the basis.
        layers: the layers; None for all.
        data: digest of the data that it was fitted on; empty for a basis that is not fitted.
    """

    name: str
    layers: tuple[int, ...] | None
    data: str = ""


@dataclass(frozen=True, eq=False)
class CachedBasis:
    """A basis that was built for a model.

    Attributes:
        basis: the basis, on the layers that a run compares.
        fingerprint: digest of its weights, if it was fitted.
        spent: what building it took, with the passes over a corpus that it was fitted on.
    """

    basis: Basis
    fingerprint: str | None
    spent: Spent

    @property
    def large(self) -> bool:
        """Whether it is too large to be kept."""
        return self.basis.parameter_bytes > CACHE_BYTES


Cache = dict[Key, CachedBasis]


def make_room(model: Model, key: Key) -> None:
    """Free what is kept for a model, if it is more than a little and a basis is to come that is not there."""
    bases: Cache = model.bases
    if key not in bases and sum(kept.basis.parameter_bytes for kept in bases.values()) > CACHE_BYTES:
        bases.clear()
        give_memory_back()


def build(model: Model, spec: BasisSpec, key: Key, activations: TaskActivations) -> CachedBasis:
    """Build a basis, or take the one that was built before.

    Args:
        model: the model.
        spec: the basis.
        key: its name, layers and data.
        activations: what a basis is fitted on, if it is.

    Raises:
        BasisError: it cannot be built, or was fitted and has no fingerprint.
        MemoryExhaustedError: its weights do not fit next to the model.
    """
    bases: Cache = model.bases
    if key not in bases:
        start = now(model)
        try:
            basis = spec.build(model) if spec.fit is None else spec.fit(model, activations)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            bases.clear()
            raise MemoryExhaustedError(
                f"out of memory on {model.device}: the dictionaries of basis '{spec.name}' do not fit next to model "
                f"'{model.name}'; free memory, or use --dtype bfloat16 or a narrower basis"
            ) from error
        _refuse_what_is_no_basis(basis, spec)
        fingerprint = None if spec.fit is None else checked_fingerprint(getattr(basis, "fingerprint", None), spec.name)
        spent = Spent(now(model) - start, activations.corpus_passes)
        bases[key] = CachedBasis(restrict(basis, key.layers), fingerprint, spent)
    return bases[key]


def _refuse_what_is_no_basis(basis: object, spec: BasisSpec) -> None:
    """Hold that what was built has the members that everything after relies on."""
    for member in ("name", "family", "sites", "exact", "parameter_bytes", "encode", "decode"):
        if not hasattr(basis, member):
            raise BasisError(f"basis '{spec.name}': what was built is {type(basis).__name__} and has no '{member}'")
    sites = tuple(basis.sites)  # type: ignore[attr-defined]  # it has them, see above
    if not sites or len(set(sites)) < len(sites):
        raise BasisError(f"basis '{spec.name}': expected distinct sites, at least one, found {len(sites)}")
    for member, kind in (("exact", bool), ("parameter_bytes", Integral)):
        if not isinstance(found := getattr(basis, member), kind):
            raise BasisError(f"basis '{spec.name}': {member} is {found!r:.40}, expected {kind.__name__}")
    try:
        Training(**asdict(training_of(basis)))  # type: ignore[arg-type]  # likewise
    except TypeError as error:
        raise BasisError(
            f"basis '{spec.name}': trained is {getattr(basis, 'trained', None)!r:.40}, expected "
            "basisbench.protocols.Training"
        ) from error
    except ValidationError as error:
        raise BasisError(f"basis '{spec.name}': trained.{describe_problem(error)}") from error


def checked_fingerprint(found: object, name: str) -> str:
    """Return the digest of a basis's weights, if it is one.

    Args:
        found: what a plug-in gives as digest.
        name: of the basis.

    Raises:
        BasisError: it is none.
    """
    if not isinstance(found, str) or not 8 <= len(found) <= 64 or set(found) - set("0123456789abcdef"):
        raise BasisError(
            f"basis '{name}': its fingerprint is {found!r:.40}; expected 8 to 64 hexadecimal digits "
            "(basisbench.attribution.fitting.weights_digest)"
        )
    return found


def keep_less(model: Model, key: Key) -> bool:
    """Let a basis hold fewer of its weights, and passes begin with their usual size again; False where it cannot."""
    bases: Cache = model.bases
    kept = bases.get(key)
    less = kept is not None and isinstance(kept.basis, StreamedBasis) and kept.basis.keep_less()
    if less:
        model.batching.bounds.clear()
    return less
