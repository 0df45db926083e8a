"""`basisbench check` on bases: the built-in ones hold every property, and every property fails for a cheat."""

from __future__ import annotations

import pytest
import torch

from basisbench.checks import basis as checks_of_bases
from basisbench.checks import basis_circuits, basis_claims, basis_functions, basis_promises, left_behind
from basisbench.checks.check import check
from basisbench.checks.finding import Property
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.registry import load_registry
from basisbench.types import ModelSpec
from helpers.cheating_bases import SPECS, Cheat, Unitwise, UnitwiseAcross, made, spec_of
from helpers.one_check import property_of

REGISTRY = load_registry()
POCKET = REGISTRY.get("model", "pocket-llama")


@pytest.fixture
def tiny(tiny_llama: ModelSpec) -> Model:
    """A model of its own for each test: cheats spoil it."""
    torch.manual_seed(99)  # a cheat that seeds torch must not find the state that it would make
    return load_model(tiny_llama, dtype="float32")


def failed(found: tuple[Property, ...]) -> list[str]:
    return [str(each) for each in found if not each.holds]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [entry.name for entry in REGISTRY.of("basis") if REGISTRY.get("basis", entry.name).exact]
)
def test_every_built_in_basis_without_weights_holds_every_property(name: str, tiny: Model) -> None:
    found = check(REGISTRY.get("basis", name), tiny)
    assert failed(found) == []
    assert len(found) >= 27


@pytest.mark.slow
def test_shipped_dictionaries_hold_every_property(monkeypatch: pytest.MonkeyPatch) -> None:
    """One dictionary of each family."""
    pocket = load_model(POCKET)
    monkeypatch.setattr("basisbench.checks.basis._SMALL", 0)  # no other types
    for name in ("sae_attn_out", "transcoder", "sae_resid"):
        found = check(REGISTRY.get("basis", name), pocket)
        assert failed(found) == []
        assert len(found) >= 23


@pytest.mark.slow
def test_a_shipped_cross_layer_transcoder_holds_every_property_in_double_precision_too() -> None:
    found = check(REGISTRY.get("basis", "clt"), load_model(POCKET, dtype="float64"))
    assert failed(found) == []
    assert {"part", "spread", "streams", "curve", "types (bfloat16)"} <= {each.name for each in found}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Cheat, Unitwise, UnitwiseAcross])
def test_what_every_cheat_is_made_from_is_honest(tiny: Model, kind: type) -> None:
    assert failed(check(spec_of(lambda model: made(kind, model)), tiny)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SPECS))
def test_a_cheat_fails_on_the_property_that_names_it(tiny: Model, name: str) -> None:
    fails, spec = SPECS[name]
    found = property_of(spec, tiny, fails, checks_of_bases)
    assert found.outcome == "FAILED", found
    assert found.bound != "no exception", "it is caught by what is measured, not by an error on the way"


def test_every_property_of_a_basis_can_fail() -> None:
    promises = basis_promises.PART, basis_promises.SPREAD, basis_promises.STREAMS
    checks = {
        *(each.name for each in (*basis_claims.CHECKS, *basis_functions.CHECKS, *promises, *basis_circuits.CHECKS)),
        *(each.name for each in left_behind.CHECKS),
    }
    assert checks == {fails for fails, _ in SPECS.values()} - {"types (bfloat16)"}


@pytest.mark.slow
def test_a_built_basis_is_checked_without_being_built_again(tiny: Model) -> None:
    assert failed(check(made(Cheat, tiny), tiny)) == []


@pytest.mark.slow
def test_a_basis_that_raises_fails_in_one_line(tiny: Model) -> None:
    class Raises(Cheat):
        def decode(self, site: object, _f: object) -> object:
            raise ZeroDivisionError(f"first line\nsecond line {site}")

    found = check(spec_of(lambda model: made(Raises, model)), tiny)
    assert failed(found)
    assert any("ZeroDivisionError: first line second line" in str(each) for each in found)
    assert all("\n" not in str(each) for each in found)


@pytest.mark.slow
def test_a_basis_that_does_not_fit_the_model_is_told_by_its_own_words(tiny: Model) -> None:
    (found,) = check(REGISTRY.get("basis", "transcoder"), tiny)
    assert (found.name, found.outcome) == ("build", "FAILED")
    assert "has no dictionaries" in found.measured
