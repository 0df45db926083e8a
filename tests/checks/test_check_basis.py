"""`basisbench check` on bases: the built-in ones hold every property, and every property fails for a cheat."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from basisbench.checks import basis_circuits, basis_claims, basis_functions, basis_parts, untouched
from basisbench.checks.check import check, iterate
from basisbench.checks.finding import Property
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.registry import load_registry
from basisbench.types import ModelSpec
from helpers import cheats_of_bases
from helpers.cheating_bases import Cheat, Unitwise, UnitwiseAcross, made, spec_of
from helpers.cheats_of_bases import SPECS
from helpers.cheats_that_leave_traces import KeepsActivations

REGISTRY = load_registry()


@pytest.fixture(autouse=True)
def _cleaned_up() -> Iterator[None]:
    yield
    cheats_of_bases.clean_up()


@pytest.fixture
def tiny(tiny_llama: ModelSpec) -> Model:
    """A model of its own for each test: cheats spoil it."""
    torch.manual_seed(99)  # a cheat that seeds torch must not find the state that it would make
    return load_model(tiny_llama, dtype="float32")


def failed(found: tuple[Property, ...]) -> list[str]:
    return [str(each) for each in found if not each.holds]


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in REGISTRY.of("basis")])
def test_every_built_in_basis_holds_every_property_on_the_pocket_model(name: str) -> None:
    found = check(REGISTRY.get("basis", name))
    assert failed(found) == []
    assert len(found) > 50
    assert {"curve: errors ranked (float64)", "types (bfloat16)"} <= {each.name for each in found}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Cheat, Unitwise, UnitwiseAcross])
def test_what_every_cheat_is_made_from_is_honest(tiny: Model, kind: type) -> None:
    assert failed(check(spec_of(lambda model: made(kind, model)), tiny)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SPECS))
def test_a_cheat_fails_on_the_property_that_names_it(tiny: Model, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fails, spec = SPECS[name]
    if "(" not in fails.removeprefix("F("):  # the same in float64 and bfloat16 is not waited for
        monkeypatch.setattr("basisbench.checks.basis._SMALL", 0)
        monkeypatch.setattr("basisbench.checks.basis._ONCE", ())
    found = next(each for each in iterate(spec, tiny) if each.name == fails)
    assert found.outcome == "FAILED", found
    assert found.bound != "no exception", "it is caught by what is measured, not by an error on the way"


def test_every_property_of_a_basis_can_fail() -> None:
    checks = (
        *(*basis_claims.FIRST, *basis_claims.LAST, *basis_functions.CHECKS, *basis_parts.CHECKS),
        *(*basis_circuits.CHECKS, *untouched.CHECKS, *untouched.LAST),
    )
    shown = {fails.partition(" (float64)")[0].partition(" (bfloat16)")[0] for fails, _ in SPECS.values()}
    assert {each.name for each in checks} <= shown
    assert len({each.name for each in checks}) == len(checks)


@pytest.mark.slow
def test_a_built_basis_is_checked_without_being_built_again(tiny: Model) -> None:
    found = {each.name: each for each in check(made(Cheat, tiny), tiny)}
    assert failed(tuple(found.values())) == []
    assert found["built again"].outcome == "info"
    assert found["other types"].outcome == "info"
    state = {each.name: each for each in check(made(KeepsActivations, tiny), tiny)}
    assert state["state"].outcome == "FAILED"


@pytest.mark.slow
def test_a_basis_that_raises_fails_in_one_line(tiny: Model) -> None:
    class Raises(Cheat):
        def decode(self, site: object, _f: object) -> object:
            raise ZeroDivisionError(f"first line\nsecond line {site}")

    found = check(spec_of(lambda model: made(Raises, model)), tiny)
    assert failed(found)
    assert any("ZeroDivisionError: first line (no exception)" in str(each) for each in found)
    assert all("\n" not in str(each) for each in found)


def test_a_basis_that_does_not_fit_the_model_is_told_by_its_own_words(tiny: Model) -> None:
    (found,) = check(REGISTRY.get("basis", "transcoder"), tiny)
    assert (found.name, found.outcome) == ("build", "FAILED")
    assert "has no dictionaries" in found.measured
