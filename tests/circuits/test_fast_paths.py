"""Every fast way gives what the definition gives, over random circuits, shapes and dictionaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from basisbench.attribution.projection import site_scores
from basisbench.circuits.circuit import CircuitMask, Reference
from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.fast.moved_units import bases, take_slices
from basisbench.circuits.fast.shared_work import FirstCoordinates
from basisbench.circuits.fast.site_writer import SiteWriter
from basisbench.circuits.plain import PlainPass
from basisbench.models.batching import BUDGETS, Budget
from basisbench.types import Ablation, Site
from basisbench_baselines.dictionaries.fast import SelectedUnits
from helpers import oracle
from helpers.passes import error_masks, tokens_to_a_pass

pytestmark = pytest.mark.usefixtures("double_precision")

SHAPES = settings(max_examples=60)


@dataclass(frozen=True, eq=False)
class OneSite:
    """A basis of a single site with random weights: a dictionary with ReLU, or a rotation-like change of basis."""

    encoder: Tensor
    decoder: Tensor
    bias: Tensor
    exact: bool
    name: str = "one"
    family: str = "mlp"
    sites: tuple[Site, ...] = (Site(0, "a", "a"),)
    parameter_bytes: int = 0

    def encode(self, _site: Site, x: Tensor) -> Tensor:
        return x @ self.encoder.T if self.exact else (x @ self.encoder.T).relu()

    def decode(self, _site: Site, f: Tensor) -> Tensor:
        return f @ self.decoder + self.bias

    def part(self, _site: Site, units: Tensor) -> Any:
        def encoder(some: Tensor) -> Any:
            return lambda x: x @ self.encoder[some].T if self.exact else (x @ self.encoder[some].T).relu()

        return SelectedUnits(units, encoder, self.decoder.__getitem__)


def _one_site(width: int, units: int, exact: bool, generator: torch.Generator) -> OneSite:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    if exact:
        encoder = draw(width, width)
        return OneSite(encoder, torch.linalg.inv(encoder).T, torch.zeros(width, dtype=torch.float64), True)
    return OneSite(draw(units, width), draw(units, width), draw(width), False)


def _masks(
    circuits: int, positions: int, units: int, error_nodes: int, together: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Circuits of every density from nothing to everything; errors are kept whole, in part or not, at random."""
    rows = 1 if together else positions
    density = torch.rand(circuits, rows, 1, generator=generator).pow(3)
    density = torch.where(torch.rand(circuits, 1, 1, generator=generator) < 0.5, 1 - density, density)
    density[torch.rand(circuits, rows, 1, generator=generator) < 0.1] = 0
    kept = torch.rand(circuits, rows, units, generator=generator) < density
    return kept, error_masks(circuits, rows, error_nodes, generator)


@SHAPES
@given(
    circuits=st.integers(1, 6),
    pairs=st.integers(1, 4),
    positions=st.integers(1, 5),
    ahead=st.integers(0, 2),
    trimmed=st.booleans(),
    units=st.integers(1, 90),
    exact=st.booleans(),
    together=st.booleans(),
    by_pair=st.booleans(),
    first=st.booleans(),
    chunk_bytes=st.sampled_from([1, 1000, 2**24]),
    first_bytes=st.sampled_from([0, 2**24]),
    sliced=st.booleans(),
    wide=st.sampled_from([1, 4096]),
    error_nodes=st.sampled_from(["whole", "coordinates", "rotated"]),
    seed=st.integers(0, 2**31),
)
def test_a_site_writes_what_the_definition_writes(
    circuits: int,
    pairs: int,
    positions: int,
    ahead: int,
    trimmed: bool,
    units: int,
    exact: bool,
    together: bool,
    by_pair: bool,
    first: bool,
    chunk_bytes: int,
    first_bytes: int,
    sliced: bool,
    wide: int,
    error_nodes: str,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    width = units if exact else 7
    basis = _one_site(width, units, exact, generator)
    nodes = 1 if error_nodes == "whole" else width
    kept, keep_errors = _masks(circuits, positions, units, nodes, together, generator)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    # References may hold a prefix that is not run; the last block writes one position only.
    length, each, written_positions = positions + ahead, pairs if by_pair else 1, 1 if trimmed else positions
    reference = Reference((draw(each, length, units),), None if exact else (draw(each, length, width),))
    # The first site of a model sees each prompt once; any other sees each prompt once per circuit.
    activation = draw(pairs if first else circuits * pairs, positions, width)
    shared = FirstCoordinates(basis) if first else None
    mask = CircuitMask((kept,), (keep_errors,), error_nodes == "rotated")

    def by_definition(circuit: int) -> Tensor:
        """Write one circuit's site, on the positions that are run."""
        one = mask.circuits(slice(circuit, circuit + 1))
        aligned = Reference(
            tuple(units[:, -positions:] for units in reference.units),
            None if reference.errors is None else tuple(errors[:, -positions:] for errors in reference.errors),
        )
        (writer,) = PlainPass(None, basis, None, aligned).writers(one)  # type: ignore[arg-type]
        own = activation if first else activation.unflatten(0, (circuits, pairs))[circuit]
        writer.read(own)
        written = writer.write(own)
        return written[:, -1:].expand_as(written) if trimmed else written

    def write() -> Tensor:
        writer = SiteWriter(basis, 0, reference, mask, pairs, written_positions, shared)
        writer.read(activation)
        return writer.write(activation)

    expected = torch.cat([by_definition(circuit) for circuit in range(circuits)])
    assert expected.shape == (circuits * pairs, positions, width)
    scale = expected.abs().max()
    with (
        mock.patch.dict(BUDGETS, {"units": Budget(chunk_bytes, 0), "units of the first site": Budget(first_bytes, 0)}),
        mock.patch("basisbench.circuits.fast.site_writer._WIDE", wide),
        mock.patch("basisbench.circuits.fast.moved_units._BANDS", (0.02, 0.07, 0.2, 0.5) if sliced else ()),
    ):
        for _pass in range(2):
            torch.testing.assert_close(write() / scale, expected / scale, rtol=0, atol=1e-9)


def test_small_circuits_and_small_complements_are_sliced() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = _one_site(8, 100, False, generator)
    kept = torch.zeros(4, 3, 100, dtype=torch.bool)
    kept[0, :, 5] = True  # a small circuit, errors at their reference: sliced
    kept[1] = True
    kept[1, :, 7:9] = False  # a small complement, errors kept: sliced
    kept[2, :, 5] = True  # a small circuit whose errors are kept: every unit is moved but one
    kept[3, :, :80] = True  # neither small nor nearly everything
    keep_errors = torch.tensor([[False] * 3, [True] * 3, [True] * 3, [False] * 3]).unsqueeze(-1)
    from_live, partly = bases(basis, kept, keep_errors, 3)  # type: ignore[arg-type]
    assert partly is None
    slices = take_slices(basis, basis.sites[0], kept, from_live, torch.float64)
    assert slices is not None
    assert slices.dense is not None
    assert set(slices.dense[0].tolist()) == {2, 3}
    assert {int(circuit) for part in slices.slices for circuit in part.rows[0]} == {0, 1}
    assert {int(unit) for part in slices.slices for unit in part.units} == {5, 7, 8}


def test_rows_whose_errors_are_kept_in_part_start_from_what_is_nearer() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = _one_site(8, 100, False, generator)
    kept = torch.zeros(3, 1, 100, dtype=torch.bool)
    kept[0, :, 5] = True  # a small circuit: its few live units are moved off the reference
    kept[1] = True
    kept[1, :, 7:9] = False  # a small complement: the few others are moved off the live activation
    kept[2, :, :60] = True  # neither: dense, and without errors
    keep_errors = torch.zeros(3, 1, 8, dtype=torch.bool)
    keep_errors[:2, :, :3] = True
    from_live, partly = bases(basis, kept, keep_errors, 2)  # type: ignore[arg-type]
    assert partly is not None
    assert from_live.tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert partly.tolist() == [[True] * 2, [True] * 2, [False] * 2]
    slices = take_slices(basis, basis.sites[0], kept.expand(-1, 2, -1), from_live, torch.float64)
    assert slices is not None
    assert slices.dense is not None
    assert set(slices.dense[0].tolist()) == {2}
    assert {int(unit) for part in slices.slices for unit in part.units} == {5, 7, 8}
    assert set(slices.not_dense(partly)[0].tolist()) == {0, 1}


@pytest.mark.slow
@settings(max_examples=24)
@given(
    name=st.sampled_from(oracle.BASES),
    ablation=st.sampled_from(oracle.ABLATIONS),
    together=st.booleans(),
    tokens_per_batch=st.sampled_from([1, 40, 100_000]),
    error_nodes=st.sampled_from(["whole", "coordinates", "rotated"]),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("architecture", oracle.ARCHITECTURES)
def test_all_fast_ways_together_change_nothing(
    architecture: str,
    name: str,
    ablation: Ablation,
    together: bool,
    tokens_per_batch: int,
    error_nodes: str,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    group, basis = oracle.contexts(architecture)[seed % 2], oracle.basis(architecture, name)
    reference, batch = group.reference(basis, ablation), group.evaluation.batch
    nodes, length = 1 if error_nodes == "whole" else oracle.D_MODEL, batch.clean.shape[1]
    masks = [_masks(5, length, units.shape[-1], nodes, together, generator) for units in reference.units]
    kept, keep_errors = (tuple(parts) for parts in zip(*masks, strict=True))
    mask = CircuitMask(kept, keep_errors, error_nodes == "rotated")

    before = oracle.hooks_of(group.evaluation.model)
    plain = evaluate(group, basis, ablation, mask.circuits, 5, fast=False).metric
    with tokens_to_a_pass(group.evaluation.model, tokens_per_batch):
        quick = evaluate(group, basis, ablation, mask.circuits, 5).metric
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-9)
    assert oracle.hooks_of(group.evaluation.model) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp_act", {"embed_tokens", "layers.0.self_attn", "layers.0.mlp.gate_proj", "layers.0.mlp.up_proj"}),
        ("mlp_out", {"embed_tokens", "layers.0.self_attn", "layers.0.mlp"}),
        ("transcoder", {"embed_tokens", "layers.0.self_attn", "layers.0.mlp"}),
        ("attn_out", {"embed_tokens", "layers.0.self_attn"}),
        ("resid", {"embed_tokens", "layers.0"}),
    ],
)
def test_what_comes_before_the_first_write_runs_once(name: str, expected: set[str]) -> None:
    group, basis = oracle.contexts("llama")[0], oracle.basis("llama", name)
    constants = {constant.module.removeprefix("model.") for constant in group.shared_work(basis, "mean").constants}
    assert expected <= constants
    assert not {module for module in constants if module.startswith(("layers.1", "norm", "lm_head"))}


def test_a_module_that_several_blocks_share_is_not_constant() -> None:
    group, basis = oracle.contexts("llama")[0], oracle.basis("llama", "mlp_act")
    body = group.evaluation.model.fast_body
    own = body.model.layers[1].mlp.act_fn
    body.model.layers[1].mlp.act_fn = body.model.layers[0].mlp.act_fn
    try:
        group._shared_work.clear()
        constants = {constant.module for constant in group.shared_work(basis, "mean").constants}
    finally:
        body.model.layers[1].mlp.act_fn = own
        group._shared_work.clear()
    assert "model.layers.0.mlp.act_fn" not in constants
    assert "model.layers.0.mlp.gate_proj" in constants


@settings(max_examples=25)
@given(
    pairs=st.integers(1, 4),
    positions=st.integers(1, 5),
    active=st.floats(0, 0.05),
    seed=st.integers(0, 2**31),
)
def test_scores_of_a_wide_sparse_code_are_those_of_all_products(
    pairs: int, positions: int, active: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    basis = _one_site(5, 4200, False, generator)
    gradient = torch.randn(pairs, positions, 5, generator=generator, dtype=torch.float64)
    change = torch.randn(pairs, positions, 4200, generator=generator, dtype=torch.float64)
    change[torch.rand(change.shape, generator=generator) > active] = 0
    expected = ((gradient @ basis.decoder.T) * change).mean(0)
    torch.testing.assert_close(site_scores(basis, basis.sites[0], gradient, change), expected, rtol=0, atol=1e-12)
