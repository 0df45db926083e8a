"""All checks of a basis, on a model in its own type and, where it is small, in float64 and bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from basisbench.checks import basis_circuits, basis_claims, basis_functions, basis_parts, untouched
from basisbench.checks.finding import Check, Property, run_checks
from basisbench.checks.stage import BasisStage, find_prompts, open_stage
from basisbench.errors import BasisBenchError
from basisbench.protocols import Basis, BasisSpec
from basisbench.registry import load_registry

if TYPE_CHECKING:
    from basisbench.models.model import Model

_ONCE = ("curve: errors kept", "curve: errors ablated")

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
    registry = load_registry()
    prompts = find_prompts(model, {entry.name: registry.get("task", entry.name) for entry in registry.of("task")})
    stage = open_stage(spec, model, prompts, rebuilds=rebuilds)
    try:
        _ = stage.basis
    except BasisBenchError as error:  # it does not fit this model, and says so
        yield Property(thing, "build", "it can be built for the model", str(error), "a basis", "FAILED")
        return
    yield from run_checks(thing, basis_claims.FIRST, stage)
    yield from run_checks(thing, untouched.CHECKS, stage)
    inside = (*basis_functions.CHECKS, *basis_parts.checks_of(stage.basis), *basis_circuits.CHECKS)
    reason = _why_not_in_other_types(stage)
    # Under the other error policies circuits are evaluated once, where rounding hides least.
    yield from run_checks(thing, inside if reason else (x for x in inside if x.name not in _ONCE), stage)
    if reason:
        yield Property(thing, "other types", "the same in float64, where rounding hides nothing", reason, "", "info")
    for dtype, other in () if reason else _in_other_types(stage):
        within = (*(inside if dtype == "float64" else ()), *_type_checks())
        for found in run_checks(thing, within, other):
            yield replace(found, name=f"{found.name} ({dtype})")
    yield from run_checks(thing, (*basis_claims.LAST, *untouched.LAST), stage)


def check_built_basis(basis: Basis, model: Model) -> Iterator[Property]:
    """Yield every property of a basis that was built for this model already."""
    layers = tuple(site.layer for site in basis.sites)
    covered = None if layers == tuple(range(model.layers)) else layers
    spec = BasisSpec(basis.name, basis.family, "given built", build=lambda _model: basis, layers=covered)
    yield from check_basis(spec, model, rebuilds=False)


def _type_checks() -> tuple[Check[BasisStage], ...]:
    return tuple(check for check in basis_claims.FIRST if check.name in ("types", "exact"))


def _why_not_in_other_types(stage: BasisStage) -> str:
    size = sum(parameter.nbytes for parameter in stage.model.body.parameters())
    if not stage.rebuilds:
        return "not measured: the basis was given built"
    if size > _SMALL:
        return f"not measured: the model has {size / 2**30:.1f} GiB of weights, more than {_SMALL / 2**30:.0f}"
    return "not measured: this device has no float64" if stage.model.device.type == "mps" else ""


def _in_other_types(stage: BasisStage) -> Iterator[tuple[str, BasisStage]]:
    """Yield the same on the model in float64 and in bfloat16."""
    from basisbench.models.load import load_model

    model = stage.model
    for dtype in ("float64", "bfloat16"):
        if str(model.dtype) == f"torch.{dtype}":
            continue
        other = load_model(model.spec, device=str(model.device), dtype=dtype)
        yield dtype, open_stage(stage.spec, other, stage.prompts)
