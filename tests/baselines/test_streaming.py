"""Dictionaries that do not fit into memory at once: some are loaded in every pass, and records stay the same."""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from basisbench.models import memory as environment
from basisbench.models.batching import MemoryExhaustedError
from basisbench.models.load import load_model
from basisbench.protocols import BasisSpec, StreamedBasis
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig, Record
from basisbench.runs.session import Session, open_session
from basisbench_baselines.bases import cross_layer_transcoder, published
from basisbench_baselines.bases import saelens as dictionaries
from basisbench_baselines.dictionaries.circuit_tracer_layer import LayerFiles

LAYERS, PAIRS = 4, 4
POCKET = Path(sys.modules["basisbench_baselines"].__path__[0]) / "pocket" / "assets" / "dictionaries"
SAE, CLT = f"sae:{POCKET / 'sae_mlp_out'}", f"clt:{POCKET / 'clt'}"


# --- whole cells


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave room for two layers and a half of what the tests load; one is needed for loading."""
    monkeypatch.setattr(published, "room_for_weights", lambda _device: int(2.5 * 4 * (2 * 1024 * 128 + 2 * 1024 + 128)))
    monkeypatch.setattr(cross_layer_transcoder, "room_for_weights", lambda _device: 4 * 2**20)


@cache
def session_of() -> Session:
    task = load_registry().get("task", "sva_simple")
    model = load_model(load_registry().get("model", "pocket-llama"))
    return open_session(model, task, attribution_pairs=PAIRS, evaluation_pairs=PAIRS, seed=0)


def cell_of(basis: str, method: str = "relp", **rest: Any) -> CellConfig:
    return CellConfig(
        model="pocket-llama", task="sva_simple", task_version="1", basis=basis, family="mlp", method=method,
        attribution_pairs=PAIRS, evaluation_pairs=PAIRS, **rest,
    )  # fmt: skip


def spec_of(basis: str, built: list[Any]) -> BasisSpec:
    """Return the basis under its name, noting what is built."""
    spec = load_registry().get("basis", basis)

    def build(model: Any) -> Any:
        built.append(spec.build(model))
        return built[-1]

    return replace(spec, build=build)


def measured(basis: str, method: str, built: list[Any], **setting: Any) -> Record:
    session_of().model.bases.clear()
    return session_of().run(
        cell_of(basis, method, **setting), spec_of(basis, built), load_registry().get("method", method)
    )


def check_same(found: Record, expected: Record) -> None:
    assert found.endpoints == expected.endpoints
    assert found.curve.sizes == expected.curve.sizes
    for name in ("circuit", "complement"):
        for row, other in zip(getattr(found.curve, name), getattr(expected.curve, name), strict=True):
            assert row == (None if other is None else pytest.approx(other, rel=1e-3, abs=1e-3))
    assert [node.unit for node in found.top_nodes] == [node.unit for node in expected.top_nodes]
    assert found.guard is not None
    assert expected.guard is not None
    assert found.guard.fvu == pytest.approx(expected.guard.fvu, rel=1e-3)


# Each condition on one of the two bases, RelP on both: what is loaded when does not depend on the conditions.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("basis", "method", "setting"),
    [
        (SAE, "relp", {}),
        (CLT, "relp", {}),
        (CLT, "relp", {"error_policy": "node", "score_split": "evaluation"}),
        (SAE, "ixg", {"error_policy": "rotated", "score_reference": "counterfactual"}),
        (CLT, "ig", {"ablation": "zero", "error_policy": "keep"}),
        (SAE, "random", {"ablation": "counterfactual", "error_policy": "ablate", "granularity": "unit"}),
    ],
)
def test_a_cell_is_the_same_whatever_fits(
    basis: str, method: str, setting: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    whole: list[Any] = []
    expected = measured(basis, method, whole, **setting)
    assert not whole[0].streams
    request.getfixturevalue("tight")
    parts: list[Any] = []
    found = measured(basis, method, parts, **setting)
    assert isinstance(parts[0], StreamedBasis)
    assert parts[0].streams
    check_same(found, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("tight")
@pytest.mark.parametrize("basis", [SAE, CLT])
def test_no_more_is_in_memory_than_there_is_room_for(basis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that a pass no longer needs are freed, with whatever was made of them; each pass loads few again."""
    alive: list[weakref.ref[Any]] = []
    most = 0

    def noted(made: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        nonlocal most
        value = made(*arguments, **options)
        # The fast form of a dictionary holds its weights; of a transcoder across layers, the decoder does.
        alive.append(weakref.ref(value))
        gc.collect()
        most = max(most, sum(part() is not None for part in alive))
        return value

    if basis == SAE:
        monkeypatch.setattr(dictionaries, "fast_dictionary", partial(noted, dictionaries.fast_dictionary))
    else:
        tensor = LayerFiles._tensor

        def mapped(files: LayerFiles, kind: str, name: str) -> Any:
            return noted(tensor, files, kind, name) if name == "W_dec" else tensor(files, kind, name)

        monkeypatch.setattr(LayerFiles, "_tensor", mapped)
    measured(basis, "ixg", [])
    assert most < LAYERS
    assert LAYERS < len(alive) < 40


@pytest.mark.slow
def test_memory_that_runs_out_in_a_pass_lets_weights_go_before_the_cell_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from basisbench.runs import session as execute

    expected = measured(SAE, "ixg", [])
    curves = execute.measure_curves
    built: list[Any] = []
    held: list[tuple[int, ...]] = []

    def full(*arguments: Any, **options: Any) -> Any:
        held.append(built[0].dictionaries.loaded)
        if len(held[-1]) > 2:
            raise MemoryExhaustedError("one prompt does not fit")
        return curves(*arguments, **options)

    monkeypatch.setattr(execute, "measure_curves", full)
    check_same(measured(SAE, "ixg", built), expected)
    assert len(held[0]) == LAYERS
    assert len(built) == 1, "the basis is kept, with less of it"

    def never(*_arguments: Any, **_options: Any) -> Any:
        raise MemoryExhaustedError("no room")

    monkeypatch.setattr(execute, "measure_curves", never)
    with pytest.raises(MemoryExhaustedError, match="no room"):
        measured(SAE, "ixg", [])


def test_memory_that_runs_out_while_a_dictionary_is_loaded_lets_others_go(monkeypatch: pytest.MonkeyPatch) -> None:
    load, full = published._load, [True]
    basis: Any = load_registry().get("basis", SAE).build(session_of().model)

    def failing(*arguments: Any) -> Any:
        if len(basis.dictionaries.loaded) > 1 and full:
            full.clear()
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return load(*arguments)

    monkeypatch.setattr(published, "_load", failing)
    basis = load_registry().get("basis", SAE).build(session_of().model)
    x = torch.zeros(1, 128)
    with torch.no_grad():
        for site in basis.sites:
            basis.encode(site, x)
    assert not full
    assert len(basis.dictionaries.loaded) < LAYERS


# --- how much is free


def test_free_memory_is_the_least_of_machine_group_and_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    def groups(version: int, most: str) -> int:
        root = tmp_path / str(version)
        own = root / "job" / "step"
        own.mkdir(parents=True, exist_ok=True)
        _, limit, taken, cached = environment._CONTROL_FILES[version]
        (own / "memory.stat").write_text(f"anon 5\n{cached} 100\n")
        (own / limit).write_text(f"{most}\n")
        (own / taken).write_text("600\n")
        line = "0::/job/step\n" if version == 2 else "3:cpu:/\n4:memory:/job/step\n"
        (tmp_path / "cgroup").write_text(line)
        monkeypatch.setattr(environment, "_CONTROL_GROUP", tmp_path / "cgroup")
        monkeypatch.setitem(environment._CONTROL_FILES, version, (root, limit, taken, cached))
        return environment.free_memory("cpu")

    assert groups(2, "1000") == 500
    assert groups(1, "900") == 400
    assert groups(2, "500") == 0, "more than the limit is taken, cached files apart"
    machine = psutil.virtual_memory().available
    assert groups(2, "max") == pytest.approx(machine, rel=0.2)
    assert environment.room_for_weights("cpu") == pytest.approx(machine / 2, rel=0.2)


PROGRAM = """
import json, resource, sys
from dataclasses import replace
from basisbench.runs.session import open_session
from basisbench.models.load import load_model
from basisbench.results.record import CellConfig
from basisbench.registry import load_registry

ROOM = 500 * 2**20
basis = sys.argv[1]
registry = load_registry()
method, spec = registry.get("method", "ixg"), registry.get("basis", basis)
model = load_model(registry.get("model", "pocket-llama"))
session = open_session(model, registry.get("task", "sva_simple"), attribution_pairs=2, evaluation_pairs=2, seed=0)
cell = CellConfig(
    model="pocket-llama", task="sva_simple", task_version="1", basis="mlp_out", family="mlp", method="ixg",
    attribution_pairs=2, evaluation_pairs=2,
)
session.run(cell, registry.get("basis", "mlp_out"), method)  # whatever is loaded lazily
with open("/proc/self/status") as file:
    size = next(int(line.split()[1]) for line in file if line.startswith("VmSize"))
usual = resource.getrlimit(resource.RLIMIT_AS)
for limit in (size * 1024 + ROOM, usual[0]):
    resource.setrlimit(resource.RLIMIT_AS, (limit, usual[1]))
    model.bases.clear()
    built = []
    def build(model):
        built.append(spec.build(model))
        return built[-1]
    record = session.run(cell.model_copy(update={"basis": basis}), replace(spec, build=build), method)
    loaded = len(built[0].dictionaries.loaded)
    print(json.dumps([record.model_dump(mode="json"), built[0].streams, loaded, record.cost.peak_memory_bytes]))
"""

WIDTH, WIDE_UNITS = 128, 65_536


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write dictionaries of 64 MiB a layer whose first units are those of the pocket model's, the others silent."""
    import sae_lens

    folder = tmp_path_factory.mktemp("wide")
    for layer in range(LAYERS):
        module: Any = sae_lens.SAE.load_from_disk(POCKET / "sae_mlp_out" / f"layer_{layer}", device="cpu")
        config = copy.deepcopy(module.cfg)
        config.d_sae = WIDE_UNITS
        wide = type(module)(config)
        for name, parameter in wide.named_parameters():
            whole = torch.zeros(parameter.shape, dtype=torch.float32)
            small = dict(module.named_parameters())[name].detach()
            whole[tuple(slice(0, size) for size in small.shape)] = small
            parameter.data = whole
        wide.save_model(folder / f"layer_{layer}")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_process_under_a_limit_streams_and_ends_with_the_same_record(wide_folder: Path) -> None:
    """256 MiB of dictionaries and room for fewer: no option says that it must stream, it finds out."""
    roots = [str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"sae:{wide_folder}"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (tight, streams, few, peak), (free, none, all_loaded, whole_peak) = map(json.loads, done.stdout.splitlines()[-2:])
    assert (none, all_loaded) == (False, LAYERS)
    assert streams
    assert few < LAYERS
    assert peak < whole_peak
    check_same(*(Record.model_validate_json(json.dumps(record)) for record in (tight, free)))
