"""All checks of a basis, on a model in its own type; its types and exactness in float64 and bfloat16 as well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from basisbench.checks import basis_circuits, basis_claims, basis_functions, basis_promises, left_behind
from basisbench.checks.finding import Property, run_checks
from basisbench.checks.stage import BasisStage, find_prompts, open_stage
from basisbench.errors import BasisBenchError
from basisbench.protocols import Basis, BasisSpec

if TYPE_CHECKING:
    from basisbench.models.model import Model

_SMALL = 2**30
"""Bytes of weights up to which a model is loaded once more in other types."""


def check_basis(spec: BasisSpec, model: Model, *, rebuilds: bool = True) -> Iterator[Property]:
    """Yield every property of a basis.

    Args:
        spec: how it is built.
        model: the model that it is tried on.
        rebuilds: whether `spec.build` makes a new basis, for any model.

    Raises:
        TaskError: no registered task gives prompts for the model's tokenizer.
    """
    thing = f"basis {spec.name}"
    stage = open_stage(spec, model, next(find_prompts(model)), rebuilds=rebuilds)
    try:
        _ = stage.basis
    except BasisBenchError as error:  # it does not fit this model, and says so
        yield Property(str(error), "a basis", "FAILED", thing, "build", "it can be built for the model")
        return
    yield from run_checks(thing, basis_claims.CHECKS, stage)
    yield from run_checks(thing, basis_functions.CHECKS, stage)
    yield from run_checks(thing, basis_promises.checks_of(stage.basis), stage)
    yield from run_checks(thing, basis_circuits.CHECKS, stage)
    yield from run_checks(thing, left_behind.CHECKS, stage)
    yield from _in_other_types(thing, stage)


def check_built_basis(basis: Basis, model: Model) -> Iterator[Property]:
    """Yield every property of a basis that was built for this model already."""
    layers = tuple(site.layer for site in basis.sites)
    covered = None if layers == tuple(range(model.layers)) else layers
    spec = BasisSpec(
        basis.name, basis.family, "given built", build=lambda _model: basis, layers=covered, exact=basis.exact is True
    )
    yield from check_basis(spec, model, rebuilds=False)


def _in_other_types(thing: str, stage: BasisStage) -> Iterator[Property]:
    """Check types and exactness on the model in float64, where rounding hides nothing, and in bfloat16."""
    from basisbench.models.load import load_model

    model = stage.model
    if not stage.rebuilds or sum(weight.nbytes for weight in model.body.parameters()) > _SMALL:
        return
    for dtype in ("float64", "bfloat16"):
        if str(model.dtype) == f"torch.{dtype}" or (dtype, model.device.type) == ("float64", "mps"):
            continue
        other = open_stage(stage.spec, load_model(model.spec, device=str(model.device), dtype=dtype), stage.prompts)
        for found in run_checks(thing, basis_claims.IN_EVERY_TYPE, other):
            yield replace(found, name=f"{found.name} ({dtype})")
