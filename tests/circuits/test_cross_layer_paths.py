"""Slices of a cross-layer pass write what the definition writes; without cross terms it is a transcoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from basisbench.attribution.reconstruction import EarlierWrites
from basisbench.circuits.circuit import CircuitMask, Reference
from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.fast.cross_layer_writer import CrossLayerPass, CrossLayerWriter
from basisbench.circuits.fast.shared_work import FirstCoordinates
from basisbench.circuits.plain import PlainPass, Writer
from basisbench.circuits.ranking import rank
from basisbench.models.batching import BUDGETS, Budget
from basisbench.protocols import CrossLayerBasis, UnitwiseBasis
from basisbench.types import Ablation, ErrorPolicy, Site
from basisbench_baselines.dictionaries.fast import SelectedUnits
from basisbench_baselines.methods.patching import ActivationPatching
from helpers import cross_layer_oracle as cross
from helpers import oracle
from helpers.passes import error_masks, measure_group, tokens_to_a_pass

pytestmark = pytest.mark.usefixtures("double_precision")


class Part(SelectedUnits):
    """Some units of `Random`."""

    def __init__(self, units: Tensor, encoder: Any, rows: Tensor, source: int) -> None:
        super().__init__(units, encoder, rows[:, 0].__getitem__)
        self._all, self._source = rows[units], source

    def spread(self, f: Tensor, to: Site) -> Tensor:
        return f @ self._all[:, to.layer - self._source]


@dataclass(frozen=True, eq=False)
class Plain:
    """A cross-layer basis with random weights whose units cannot be computed apart."""

    encoders: tuple[Tensor, ...]
    decoders: tuple[Tensor, ...]
    bias: tuple[Tensor, ...]
    sites: tuple[Site, ...]
    exact: bool = False
    name: str = "random"
    family: str = "mlp"
    parameter_bytes: int = 0

    def encode(self, site: Site, x: Tensor) -> Tensor:
        return (x @ self.encoders[site.layer].T).relu()

    def decode(self, site: Site, f: Tensor) -> Tensor:
        return f @ self.decoders[site.layer][:, 0] + self.bias[site.layer]

    def spread(self, site: Site, f: Tensor, to: Site) -> Tensor:
        return f @ self.decoders[site.layer][:, to.layer - site.layer]


@dataclass(frozen=True, eq=False)
class Unitwise(Plain):
    """The same, with parts."""

    def part(self, site: Site, units: Tensor) -> Part:
        def encoder(some: Tensor) -> Any:
            return lambda x: (x @ self.encoders[site.layer][some].T).relu()

        return Part(units, encoder, self.decoders[site.layer], site.layer)


def draw_basis(kind: type[Plain], sizes: list[int], width: int, generator: torch.Generator) -> Plain:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    layers = len(sizes)
    return kind(
        tuple(draw(units, width) for units in sizes),
        tuple(draw(units, layers - layer, width) for layer, units in enumerate(sizes)),
        tuple(draw(width) for _ in sizes),
        tuple(Site(layer, f"in {layer}", f"out {layer}") for layer in range(layers)),
    )


def masks(circuits: int, rows: int, units: int, error_nodes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Circuits of every density from nothing to everything; errors are kept whole, in part or not, or all alike."""
    density = torch.rand(circuits, rows, 1, generator=generator).pow(3)
    density = torch.where(torch.rand(circuits, 1, 1, generator=generator) < 0.5, 1 - density, density)
    density[torch.rand(circuits, rows, 1, generator=generator) < 0.1] = 0
    kept = torch.rand(circuits, rows, units, generator=generator) < density
    errors = error_masks(circuits, rows, error_nodes, generator)
    errors &= torch.rand(circuits, 1, 1, generator=generator) < 0.5
    return kept, errors | (torch.rand(circuits, 1, 1, generator=generator) < 0.3)


@pytest.mark.slow
@settings(max_examples=150)
@given(
    kind=st.sampled_from([Plain, Unitwise]),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    circuits=st.integers(1, 5),
    pairs=st.integers(1, 3),
    positions=st.integers(1, 4),
    ahead=st.integers(0, 2),
    trimmed=st.booleans(),
    together=st.booleans(),
    by_pair=st.booleans(),
    shared=st.booleans(),
    error_nodes=st.sampled_from(["whole", "coordinates", "rotated"]),
    chunk_bytes=st.sampled_from([1, 1000, 2**24]),
    first_bytes=st.sampled_from([0, 2**24]),
    seed=st.integers(0, 2**31),
)
def test_slices_write_what_the_definition_writes(
    kind: type[Plain],
    sizes: list[int],
    circuits: int,
    pairs: int,
    positions: int,
    ahead: int,
    trimmed: bool,
    together: bool,
    by_pair: bool,
    shared: bool,
    error_nodes: str,
    chunk_bytes: int,
    first_bytes: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    width = 5
    basis: Any = draw_basis(kind, sizes, width, generator)
    assert isinstance(basis, CrossLayerBasis)
    assert isinstance(basis, UnitwiseBasis) == (kind is Unitwise)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    # References may hold a prefix that is not run; the last site may write one position only.
    length, each = positions + ahead, pairs if by_pair else 1
    nodes = 1 if error_nodes == "whole" else width
    chosen = [masks(circuits, 1 if together else length, units, nodes, generator) for units in sizes]
    kept, keep_errors = (tuple(parts) for parts in zip(*chosen, strict=True))
    mask = CircuitMask(kept, keep_errors, error_nodes == "rotated")
    reference = Reference(
        tuple(draw(each, length, units) for units in sizes), tuple(draw(each, length, width) for _ in sizes)
    )
    written = [positions] * (len(sizes) - 1) + [1 if trimmed else positions]
    first = draw(pairs, positions, width) if shared else draw(circuits * pairs, positions, width)
    rest = [draw(circuits * pairs, positions, width) for _ in sizes]
    reads = [first, *rest[1:]]
    lives = [draw(circuits * pairs, positions, width) for _ in sizes]

    def run(writers: Sequence[Writer], own: slice) -> list[Tensor]:
        results = []
        for index, writer in enumerate(writers):
            writer.read(reads[index] if shared and index == 0 else reads[index][own])
            results.append(writer.write(lives[index][own]))
        return results

    def by_definition(circuit: int) -> list[Tensor]:
        """Write one circuit's sites, on the positions that are run."""
        aligned = Reference(
            tuple(units[:, -positions:] for units in reference.units),
            tuple(errors[:, -positions:] for errors in reference.errors or ()),
        )
        one = CircuitMask(
            tuple(units[circuit, None, -positions:] for units in mask.units),
            tuple(errors[circuit, None, -positions:] for errors in mask.errors),
            mask.rotated,
        )
        writers = PlainPass(None, basis, None, aligned).writers(one)  # type: ignore[arg-type]
        results = run(writers, slice(circuit * pairs, (circuit + 1) * pairs))
        return [
            result[:, -1:].expand_as(result) if count < positions else result
            for result, count in zip(results, written, strict=True)
        ]

    def fast() -> list[Tensor]:
        pass_ = CrossLayerPass(basis, reference, mask, pairs, written, known)
        return run([CrossLayerWriter(pass_, index) for index in range(len(sizes))], slice(None))

    expected = [torch.cat(rows) for rows in zip(*map(by_definition, range(circuits)), strict=True)]
    known = FirstCoordinates(basis) if shared else None
    budgets = {"units across layers": Budget(chunk_bytes, 0), "units of the first site": Budget(first_bytes, 0)}
    with mock.patch.dict(BUDGETS, budgets):
        for _pass in range(2):
            for one, other in zip(fast(), expected, strict=True):
                assert one.shape == (circuits * pairs, positions, width)
                torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * float(other.abs().max()))


def test_earlier_writes_are_added_once_though_an_attempt_fails() -> None:
    basis: Any = draw_basis(Plain, [7, 6, 5], 4, torch.Generator().manual_seed(0))
    units = [torch.rand(2, 3, size, dtype=torch.float64) for size in (7, 6, 5)]
    calls = 0

    def spread(self: Plain, site: Site, f: Tensor, to: Site) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:  # after the first target of site 0
            raise MemoryError
        return f @ self.decoders[site.layer][:, to.layer - site.layer]

    earlier = EarlierWrites(basis, lambda site: units[site.layer])
    assert earlier.at(basis.sites[0]) is None
    with mock.patch.object(Plain, "spread", spread):
        with pytest.raises(MemoryError):
            earlier.at(basis.sites[2])
        for _again in range(2):
            found = earlier.at(basis.sites[2])
            written = [basis.spread(basis.sites[index], units[index], basis.sites[2]) for index in (0, 1)]
            torch.testing.assert_close(found, written[0] + written[1], rtol=0, atol=1e-12)
        expected = basis.spread(basis.sites[0], units[0], basis.sites[1])
        torch.testing.assert_close(earlier.at(basis.sites[1]), expected, rtol=0, atol=1e-12)


@pytest.mark.slow
@settings(max_examples=12)
@given(
    ablation=st.sampled_from(oracle.ABLATIONS),
    together=st.booleans(),
    tokens_per_batch=st.sampled_from([1, 40, 100_000]),
    error_nodes=st.sampled_from(["whole", "coordinates", "rotated"]),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("architecture", oracle.ARCHITECTURES)
def test_all_fast_ways_together_change_nothing(
    architecture: str, ablation: Ablation, together: bool, tokens_per_batch: int, error_nodes: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    group, basis = cross.contexts(architecture)[seed % 2], cross.basis(architecture)
    batch = group.evaluation.batch
    nodes = 1 if error_nodes == "whole" else oracle.D_MODEL
    chosen = [masks(5, 1 if together else batch.clean.shape[1], units, nodes, generator) for units in cross.UNITS]
    kept, keep_errors = (tuple(parts) for parts in zip(*chosen, strict=True))
    mask = CircuitMask(kept, keep_errors, error_nodes == "rotated")
    before = oracle.hooks_of(group.evaluation.model)
    plain = evaluate(group, basis, ablation, mask.circuits, 5, fast=False).metric
    with tokens_to_a_pass(group.evaluation.model, tokens_per_batch):
        quick = evaluate(group, basis, ablation, mask.circuits, 5).metric
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-9)
    assert oracle.hooks_of(group.evaluation.model) == before


# --- without cross terms it is a transcoder


@dataclass(frozen=True, eq=False)
class Transcoder:
    """The same units without cross terms, as a basis that writes to one site each."""

    inner: Any
    name: str = "single"
    family: str = "mlp"
    exact: bool = False
    parameter_bytes: int = 0

    @property
    def sites(self) -> Any:
        return self.inner.sites

    def encode(self, site: Site, x: Tensor) -> Tensor:
        units: Tensor = self.inner.encode(site, x)
        return units

    def decode(self, site: Site, f: Tensor) -> Tensor:
        output: Tensor = self.inner.decode(site, f)
        return output


@pytest.mark.parametrize(
    "policy",
    [pytest.param(policy, marks=() if policy == "coordinates" else pytest.mark.slow) for policy in oracle.POLICIES],
)
@pytest.mark.parametrize("architecture", oracle.ARCHITECTURES)
def test_without_cross_terms_it_is_a_transcoder(architecture: str, policy: ErrorPolicy, tmp_path: Any) -> None:
    parts = cross.files(architecture)
    w_dec = tuple(rows.clone() for rows in parts.w_dec)
    for rows in w_dec:
        rows[:, 1:] = 0
    folder = replace(parts, w_dec=w_dec).save(tmp_path / "zero")
    model = cross.model(architecture)
    basis = cross.build(replace(model, spec=replace(model.spec, dictionaries={"clt": folder})))
    single: Any = Transcoder(basis)
    assert not isinstance(single, CrossLayerBasis)
    group = cross.contexts(architecture)[0]
    for method in (oracle.gradient_method("ixg"), oracle.gradient_method("relp"), ActivationPatching()):
        one, other = method.score(group.attribution, basis), method.score(group.attribution, single)
        for first, second in zip([*one.units, *(one.errors or ())], [*other.units, *(other.errors or ())], strict=True):
            torch.testing.assert_close(first, second, rtol=0, atol=1e-13)
    ranking = rank(cross.random_scores(5, 2, policy), policy=policy)
    for ablation in oracle.ABLATIONS:
        cell = oracle.cell("transcoder", basis="clt", ablation=ablation, error_policy=policy)
        curves = [measure_group(cell, any_basis, group, ranking, [3, 60, 150]) for any_basis in (basis, single)]
        for part in ("circuit", "complement", "full", "empty"):
            first, second = (torch.tensor(getattr(curve, part)) for curve in curves)
            torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
