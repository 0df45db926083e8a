"""When memory runs out: passes become smaller, results stay the same, and what cannot be helped is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from basisbench.circuits.ranking import rank
from basisbench.errors import BasisBenchError
from basisbench.models.batching import Batching, MemoryExhaustedError, is_out_of_memory
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig, Record
from basisbench.runs.run import Request, run_request
from basisbench.runs.runner import RunOptions
from basisbench.runs.session import Session, open_session
from basisbench.types import ModelSpec
from helpers.passes import measured

pytestmark = pytest.mark.slow

PAIRS = 4


@contextmanager
def room_for(monkeypatch: pytest.MonkeyPatch, tokens: int) -> Iterator[list[int]]:
    """Let every pass of a Llama over more tokens than this run out of memory; yields the sizes that did."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    failed: list[int] = []
    forward = LlamaDecoderLayer.forward

    def limited(self: Any, hidden_states: torch.Tensor, *rest: Any, **keywords: Any) -> Any:
        size = hidden_states.shape[0] * hidden_states.shape[1]
        if size > tokens:
            failed.append(size)
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} tokens")
        return forward(self, hidden_states, *rest, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(LlamaDecoderLayer, "forward", limited)
        yield failed


@pytest.fixture(scope="module")
def model(tiny_llama: ModelSpec) -> Model:
    return load_model(tiny_llama)


def session_of(model: Model) -> Session:
    """Open a session on a model as if it had just been loaded: of no bounds, and with nothing computed."""
    model.batching.bounds.clear()
    model.bases.clear()
    task = load_registry().get("task", "ioi")
    return open_session(model, task, attribution_pairs=PAIRS, evaluation_pairs=PAIRS, seed=0)


def cell_of(method: str, basis: str = "mlp_act", **rest: Any) -> CellConfig:
    family = load_registry().get("basis", basis).family
    return CellConfig(
        model="tiny-llama", task="ioi", task_version="1", basis=basis, family=family, method=method,
        attribution_pairs=PAIRS, evaluation_pairs=PAIRS, **rest,
    )  # fmt: skip


def do(session: Session, cell: CellConfig) -> Record:
    registry = load_registry()
    return session.run(cell, registry.get("basis", cell.basis), registry.get("method", cell.method))


def check_same(one: Record, other: Record) -> None:
    assert one.curve.sizes == other.curve.sizes
    for name in ("circuit", "complement"):
        for row, expected in zip(getattr(one.curve, name), getattr(other.curve, name), strict=True):
            assert row == (None if expected is None else pytest.approx(expected, rel=1e-3, abs=1e-4))
    assert one.endpoints.full == pytest.approx(other.endpoints.full, rel=1e-4, abs=1e-5)
    assert one.endpoints.empty == pytest.approx(other.endpoints.empty, rel=1e-4, abs=1e-5)
    assert one.curve.kl == (None if other.curve.kl is None else pytest.approx(other.curve.kl, rel=1e-2, abs=1e-5))
    found, expected = ([node.score for node in record.top_nodes] for record in (one, other))
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("ixg", {}),
        ("relp", {"ablation": "counterfactual", "kl": True, "subset_sizes": (5,), "subset_draws": 3}),
        ("ig", {"ablation": "zero"}),
        ("ig_inputs", {}),
    ],
)
def test_a_cell_is_the_same_whatever_fits_into_a_pass(
    model: Model, monkeypatch: pytest.MonkeyPatch, method: str, setting: dict[str, Any]
) -> None:
    cell = cell_of(method, **setting)
    expected = do(session_of(model), cell)
    session = session_of(model)
    longest = max(group.evaluation.pairs.length for group in session.groups)
    with room_for(monkeypatch, longest * 3 // 2) as failed:
        found = do(session, cell)
    assert len(failed) > 3, "memory did run out"
    assert session.model.batching.bounds, "and is not asked for as much again"
    check_same(found, expected)


def test_a_finished_circuit_is_not_evaluated_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve goes on from the circuit it has reached: the meter counts rows that a pass has finished."""
    cell = cell_of("random")
    session = session_of(model)
    do(session, cell)
    before = session.model.meter.forward_equivalents
    do(session, cell)
    usual = session.model.meter.forward_equivalents - before
    longest = max(group.evaluation.pairs.length for group in session.groups)
    with room_for(monkeypatch, 2 * longest) as failed:
        before = session.model.meter.forward_equivalents
        do(session, cell)
        assert session.model.meter.forward_equivalents - before == pytest.approx(usual)
    assert failed


def test_memory_may_run_out_in_the_middle_of_a_curve(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The circuits that are left, and no others, are done with fewer prompts to a pass."""
    group = session_of(model).groups[0]
    batch = group.evaluation.batch
    basis = load_registry().get("basis", "resid").build(model)
    scores = load_registry().get("method", "random").score(group.attribution, basis)
    ranking = rank(scores, policy="coordinates")
    points = [(size, False) for size in (1, 3, 10, 30, 100)]

    def values() -> torch.Tensor:
        return measured(group, basis, "mean", ranking, points, fast=False)  # one circuit to a pass

    expected = values()
    passes: list[int] = []
    logits = Model.logits

    def limited(self: Model, tokens: torch.Tensor, *rest: Any, **keywords: Any) -> torch.Tensor:
        passes.append(len(tokens))
        if len(passes) > 2 and len(tokens) > 1:
            raise MemoryError
        return logits(self, tokens, *rest, **keywords)

    monkeypatch.setattr(Model, "logits", limited)
    assert torch.allclose(values(), expected, rtol=1e-4, atol=1e-5)
    assert passes[:3] == [len(batch.clean)] * 3
    assert passes.count(1) == 3 * len(batch.clean)


def test_exact_patching_takes_fewer_nodes_to_a_pass(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell_of("patching", "resid")
    expected = do(session_of(model), cell)
    session = session_of(model)
    with room_for(monkeypatch, max(group.attribution.batch.clean.numel() for group in session.groups)) as failed:
        found = do(session, cell)
    assert failed
    check_same(found, expected)


def test_one_prompt_that_does_not_fit_fails_its_cells_in_one_line(
    tiny_llama: ModelSpec, plugin_with: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "models": ["tiny-llama"], "tasks": ["ioi", "sva_simple"], "bases": ["mlp_act"], "methods": ["ixg"],
        "attribution_pairs": PAIRS, "evaluation_pairs": PAIRS,
    }  # fmt: skip
    settings = RunOptions(out=tmp_path / "out", plugins=(plugin_with(tiny_llama),))
    with room_for(monkeypatch, 9):  # sva_simple has shorter prompts than that, ioi has longer ones
        outcome = run_request(Request("pocket", changes, settings, progress=False))
    assert [(event.state, event.cell.task) for event in outcome.events] == [
        ("failed", "ioi"),
        ("finished", "sva_simple"),
    ]
    message = outcome.failures[0].message
    assert message.startswith("out of memory on cpu: gradients of model 'tiny-llama' do not fit with one prompt of 14 ")
    assert "--dtype bfloat16" in message
    assert "\n" not in message
    assert [path.suffix for path in (tmp_path / "out" / "records").iterdir()] == [".json"], "no half-written record"


def test_what_no_pass_can_help_is_tried_again_and_then_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from basisbench.runs import session as execute

    tried: list[int] = []

    def full(*_arguments: object, **_options: object) -> None:
        tried.append(1)
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(execute, "measure_curves", full)
    with pytest.raises(MemoryExhaustedError, match="does not fit next to model 'tiny-llama', however small its passes"):
        do(session_of(model), cell_of("random"))
    assert len(tried) > 1


def test_a_bug_is_no_lack_of_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from basisbench.runs import session as execute

    def wrong(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(execute, "measure_curves", wrong)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        do(session_of(model), cell_of("random"))


def test_what_counts_as_running_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)  # more than any machine has
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(RuntimeError("unable to mmap 9 bytes from file </x>: Cannot allocate memory (12)"))
    assert not is_out_of_memory(RuntimeError("expected scalar type Float"))
    assert not is_out_of_memory(BasisBenchError("out of memory"))


def test_parts_cover_all_rows_once_and_a_bound_stays() -> None:
    batching = Batching("fake", torch.device("cpu"))
    done: list[int] = []

    def work(chosen: slice) -> None:
        if chosen.stop - chosen.start > 3:
            raise MemoryError
        done.extend(range(chosen.start, chosen.stop))

    batching.in_parts("x", 17, 5, work)
    assert done == list(range(17))
    assert batching.bounds == {"x": 10}
    assert batching.tokens("x", 1000) == 10
    assert batching.tokens("y", 1000) == 1000


PROGRAM = """
import json, resource, sys
from basisbench.attribution.context import GroupContext
from basisbench.runs.session import Session
from basisbench.circuits.group import GroupPair
from basisbench.models.load import load_model
from basisbench.results.record import CellConfig
from basisbench.registry import load_registry
from basisbench.types import PairSet
from helpers.oracle_models import random_pairs

ROOM = int(sys.argv[1]) * 2**20
registry = load_registry()
cell = CellConfig(
    model="pocket-llama", task="ioi", task_version="1", basis="mlp_act", family="mlp", method="relp",
    attribution_pairs=400, evaluation_pairs=4,
)
for limited in (True, False):
    model = load_model(registry.get("model", "pocket-llama"))
    attribution, evaluation = random_pairs(400, 24, 1), random_pairs(4, 24, 2, split="evaluation")
    group = GroupPair(GroupContext(model, attribution, 0), GroupContext(model, evaluation, 0))
    session = Session(model, PairSet((attribution,)), PairSet((evaluation,)), (group,))
    model.fast_body
    with open("/proc/self/status") as file:
        size = next(int(line.split()[1]) for line in file if line.startswith("VmSize"))
    usual = resource.getrlimit(resource.RLIMIT_AS)
    if limited:
        resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + ROOM, usual[1]))
    record = session.run(cell, registry.get("basis", "mlp_act"), registry.get("method", "relp"))
    resource.setrlimit(resource.RLIMIT_AS, usual)
    print(json.dumps([record.model_dump(mode="json"), model.batching.bounds, record.cost.peak_memory_bytes]))
    del session, group, model
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_process_under_a_limit_ends_with_the_same_record() -> None:
    """A process that may take a little more once the model is loaded, and then, with no limit, whatever it likes.

    How little is enough for one prompt at a time depends on the machine: the least of these that is enough is less than
    a usual pass takes. What is not enough ends in one line.
    """
    roots = [str(Path(__file__).parents[1]), *sys.path]
    for mebibytes in (380, 440, 500, 560):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(mebibytes)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)},
        )
        if done.returncode == 0:
            break
        assert "MemoryExhaustedError: out of memory on cpu" in done.stderr.splitlines()[-1], done.stderr[-2000:]
    assert done.returncode == 0, done.stderr[-2000:]
    (tight, bounds, limited_peak), (free, no_bounds, peak) = map(json.loads, done.stdout.splitlines()[-2:])
    assert not no_bounds
    assert "gradients" in bounds
    assert limited_peak < peak
    check_same(*(Record.model_validate_json(json.dumps(record)) for record in (tight, free)))
