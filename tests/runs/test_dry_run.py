"""A dry run: its figures against those of a real run, and what it does without a model at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import torch

from basisbench.attribution.graph_size import graph_bytes
from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.models.batching import BUDGETS
from basisbench.registry import load_registry
from basisbench.results.metrics import sizes_grid
from basisbench.results.record import CellConfig, Record, read_record
from basisbench.runs.cells import expand
from basisbench.runs.dry_run import Estimate, estimate_run, render
from basisbench.runs.estimate import SOUGHT_CIRCUITS, BasisSize, Prompts, Speed, Workload, dictionary_size
from basisbench.runs.run import Plan, Request, plan_request
from basisbench.runs.runner import Runner, RunOptions
from basisbench.runs.suite import load_suite
from basisbench.types import ModelShape, ModelSpec

CROSS: list[dict[str, Any]] = [
    {"bases": ["mlp_act", "transcoder", "resid", "attn_out"], "methods": ["ixg", "ig", "relp", "random"]},
    {"bases": ["mlp_out", "sae_resid"], "methods": ["ig_inputs", "magnitude"], "ablations": ["mean", "counterfactual"]},
    {"bases": ["mlp_act", "sae_mlp_out"], "methods": ["ixg"], "ablations": ["zero"], "kl": True},
    {
        "bases": ["sae_attn_out", "attn_out"], "methods": ["random"], "error_policies": ["node", "keep", "ablate"],
        "subset_sizes": [5, 20], "subset_draws": 3, "subset_blocks": 6,
    },
    {"bases": ["resid", "sae_resid"], "methods": ["relp"], "granularities": ["unit"]},
]  # fmt: skip


def plan_of(out: Path, tasks: list[str], **changes: Any) -> Plan:
    few = {"tasks": tasks, "attribution_pairs": 12, "evaluation_pairs": 10}
    return plan_request(Request("pocket", {**few, **changes}, RunOptions(out=out)))


@pytest.mark.slow
@pytest.mark.parametrize("changes", CROSS)
def test_passes_are_those_that_the_meter_counts(tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = plan_of(tmp_path, ["sva_rc"], **changes)
    estimate = estimate_run(plan)
    runner = Runner(plan.options, plan.registry)
    events = list(runner.run_block(plan.blocks[0]))
    assert {event.state for event in events} == {"started", "finished"}
    assert estimate.cells == len(events) // 2
    (model,) = runner._models.values()
    counted = model.meter.forward_equivalents
    # Which circuits are sought beyond the grid follows from what is found: every other pass is known beforehand.
    found = [read_record(path) for path in (tmp_path / "records").iterdir()]
    assert len(found) == estimate.cells
    sought = sum(len(record.endpoints.full) * sought_circuits(record) for record in found)
    assumed = sum(len(record.endpoints.full) * SOUGHT_CIRCUITS for record in found)
    assert estimate.passes - assumed == pytest.approx(counted - sought, rel=0.01)
    assert estimate.passes == pytest.approx(counted, rel=0.1), f"{assumed} sought passes assumed, {sought} done"


def sought_circuits(record: Record) -> int:
    """Return how many circuits were run at sizes that are not steps of the grid: complements at some of them too."""
    steps = sizes_grid(record.counts.nodes_max)
    curve = zip(record.curve.sizes, record.curve.complement, strict=True)
    return sum(1 + (complement is not None) for size, complement in curve if size not in steps)


def test_layers_that_a_model_does_not_have_are_told(tmp_path: Path) -> None:
    with pytest.raises(BasisBenchError, match="layers: expected 0 to 3, the layers of model 'pocket-llama', found 9"):
        estimate_run(plan_of(tmp_path, ["sva_rc"], layers="2,9"))


@pytest.mark.slow
def test_exact_patching_is_counted_as_if_every_node_differed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ["sva_simple"], bases=["resid"], methods=["patching"])
    runner = Runner(plan.options, plan.registry)
    list(runner.run_block(plan.blocks[0]))
    (model,) = runner._models.values()
    assert model.meter.forward_equivalents < estimate_run(plan).passes < 10 * model.meter.forward_equivalents


PROGRAM = """
import json, sys
from pathlib import Path
from basisbench.runs.runner import RunOptions
from basisbench.results.record import read_record
from basisbench.runs.run import Request, run_request

for pairs in json.loads(sys.argv[2]):
    changes = {**json.loads(sys.argv[1]), "attribution_pairs": pairs}
    outcome = run_request(Request("pocket", changes, RunOptions(out=Path(sys.argv[3])), progress=False))
    print(max(read_record(path).cost.peak_memory_bytes for path in outcome.records))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks of one cell can be measured on Linux alone")
def test_memory_is_near_the_measured_peak(tmp_path: Path) -> None:
    """Within a third: the allocator's habits and the libraries' own caches are no part of the arithmetic."""
    changes: dict[str, Any] = {
        "tasks": ["user_occupation"], "bases": ["mlp_act", "transcoder"], "methods": ["relp"], "evaluation_pairs": 16,
    }  # fmt: skip
    sizes = [20, 120]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(changes), json.dumps(sizes), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for pairs, peak in zip(sizes, map(int, done.stdout.split()), strict=True):
        plan = plan_request(Request("pocket", {**changes, "attribution_pairs": pairs}, RunOptions(out=tmp_path)))
        expected = estimate_run(plan).memory.total
        assert 0.75 * peak < expected < 1.33 * peak, f"{expected} expected, {peak} measured"


@pytest.mark.slow
def test_one_pass_is_timed_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import basisbench.models.load

    loaded: list[str] = []
    load_model = basisbench.models.load.load_model

    def noted(spec: ModelSpec, **how: Any) -> object:
        loaded.append(spec.name)
        return load_model(spec, **how)

    monkeypatch.setattr(basisbench.models.load, "load_model", noted)
    out = tmp_path / "out"
    assert main(["run", "--dry-run", "--task", "sva_simple", "--task", "sva_rc", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "every figure is an estimate" in text
    assert "pocket-llama sva_simple" in text
    suite = load_suite("pocket").changed({"tasks": ["sva_simple", "sva_rc"]})
    assert f"cells    {len(expand(suite, load_registry()))} in 2 groups" in text
    assert all(f"\n{name}" in text for name in ("passes", "memory", "disk", "time"))
    assert "at the rate of a pass that was timed now" in text
    assert loaded == ["pocket-llama"]
    assert not out.exists()


@pytest.mark.slow
def test_a_large_model_is_not_loaded_for_an_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basisbench.runs.dry_run.largest_bytes", lambda: 1)
    monkeypatch.setattr("basisbench.models.load.load_model", lambda *_, **__: pytest.fail("a large model is loaded"))
    plan = plan_of(tmp_path, ["ioi"])
    assert "at an assumed rate of this kind of device" in render(estimate_run(plan), plan)


@pytest.mark.slow
def test_what_is_not_here_is_estimated_at_an_assumed_rate(tmp_path: Path) -> None:
    plan = plan_request(Request("pocket", {"tasks": ["sva_simple"]}, RunOptions(out=tmp_path, device="cuda")))
    text = render(estimate_run(plan), plan)
    assert "note: no pass is timed: " in text
    assert "at an assumed rate of this kind of device" in text


def test_a_model_that_is_not_at_hand_is_estimated_from_its_shape(tmp_path: Path) -> None:
    settings = RunOptions(out=tmp_path, device="cuda")
    plan = plan_request(
        Request("pocket", {"models": ["llama-3.1-8b"], "bases": ["mlp_act"], "tasks": ["ioi"]}, settings)
    )
    estimate = estimate_run(plan)
    assert estimate.memory.model == 2 * 8_030_261_248
    assert estimate.memory.runtime == 0
    assert estimate.downloads == 2 * 8_030_261_248
    text = render(estimate, plan)
    assert "loaded anew" not in text, "neurons have nothing to load"
    assert "note: model 'llama-3.1-8b': " in text
    assert "estimated from its published shape" in text


@pytest.mark.slow
def test_dictionaries_in_a_folder_are_no_download(tmp_path: Path) -> None:
    folder = load_registry().get("model", "pocket-llama").dictionaries["transcoder"]

    def downloads(basis: str) -> int:
        plan = plan_request(Request("pocket", {"bases": [basis], "tasks": ["sva_simple"]}, RunOptions(out=tmp_path)))
        return estimate_run(plan).downloads

    assert downloads(f"sae:{folder}") == 0
    assert downloads("clt:org/some-transcoder") > 0


def test_an_unknown_model_that_is_not_at_hand_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dry-run", "--model", "org/none", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("basisbench: error: model 'org/none': ")
    assert captured.err.count("\n") == 1


@pytest.mark.slow
def test_more_of_anything_costs_more(tiny_llama: ModelSpec, plugin_with: Callable[..., Path], tmp_path: Path) -> None:
    settings = RunOptions(out=tmp_path, plugins=(plugin_with(tiny_llama),))
    base = {"models": ["tiny-llama"], "tasks": ["sva_simple"], "bases": ["mlp_act"], "methods": ["relp"]}

    def total(**changes: Any) -> tuple[float, int]:
        estimate = estimate_run(plan_request(Request("pocket", {**base, **changes}, settings)))
        return estimate.passes, estimate.memory.total

    small = total(attribution_pairs=8, evaluation_pairs=8)
    for more in ({"methods": ["relp", "ig"]}, {"bases": ["mlp_act", "resid"]}, {}):
        assert total(**{"attribution_pairs": 16, "evaluation_pairs": 16, **more})[0] > small[0]
    assert total(attribution_pairs=64, evaluation_pairs=64)[1] > small[1]


@pytest.mark.slow
def test_a_basis_needs_room_for_one_layer_at_least(tmp_path: Path) -> None:
    changes = {"models": ["llama-3.1-8b"], "bases": ["sae:llama_scope_lxm_32x"], "tasks": ["ioi"]}
    plan = plan_request(Request("paper", changes, RunOptions(out=tmp_path, device="cuda")))
    estimate = estimate_run(plan)
    layer = 2 * 131_072 * 4096 * 4
    assert estimate.memory.dictionary == 32 * layer
    assert estimate.memory.smallest == estimate.memory.total - 30 * layer
    assert "where layers of a basis are freed and loaded anew in every pass" in render(estimate, plan)


def workload_of(pairs: int, positions: int) -> Workload:
    """Return the work of one cell on one group, in the shape of SmolLM2-135M."""
    registry = load_registry()
    cell = CellConfig(
        model="m", task="t", task_version="1", basis="mlp_act", family="mlp", method="relp",
        attribution_pairs=pairs, evaluation_pairs=pairs,
    )  # fmt: skip
    shape = ModelShape(30, 576, 1536, 49_152, 134_515_008, "float32")
    sizes, methods = {"mlp_act": BasisSize((1536,) * 30)}, {"relp": registry.get("method", "relp")}
    return Workload([cell], [Prompts(pairs, pairs, positions)], shape, sizes, methods, "cpu", "float32", Speed(1e11))


def test_memory_of_long_prompts_is_that_of_one_prompt_and_its_nodes() -> None:
    few, more, half = (workload_of(*case).memory for case in ((8, 2700), (24, 2700), (8, 1350)))
    assert few == more, "pairs are gone through one by one"
    nodes = 30 * 1536 * 2700
    for memory, each in ((few, nodes), (half, nodes // 2)):
        assert memory.kept > 16 * each, "scores, places and references of every node"
        assert memory.passing >= 16 * each, "and their order"
    assert half.kept == pytest.approx(few.kept / 2, rel=0.01)
    assert few.total < 8 * 2**30
    inside = graph_bytes(300, 30, 576, 1536, 4)
    assert inside > BUDGETS["gradients"].cpu > workload_of(8, 300)._gradient_pass(2400), "blocks are run again"
    assert workload_of(8, 200)._gradient_pass(1600) == BUDGETS["gradients"].cpu
    # What tokens attend to, and blocks that are run twice.
    assert workload_of(8, 2700).seconds > 2.2 * workload_of(8, 1350).seconds


def test_short_passes_take_the_time_in_which_weights_are_read() -> None:
    work = workload_of(8, 4)
    slow = replace(work, speed=Speed(1e11, least=0.1))
    # Six circuits that are sought one after the other at least, however few tokens there are.
    assert 0.6 < slow.seconds - work.seconds < 6
    both = replace(slow, prompts=slow.prompts * 2)
    assert both.seconds - 2 * work.seconds == pytest.approx(2 * (slow.seconds - work.seconds), abs=0.2)


def test_bytes_of_dictionaries() -> None:
    shape, units = ModelShape(3, 10, 40, 100, 1000, "float32"), (7, 7, 7)
    each = BasisSize(units, 3 * 2 * 7 * 10 * 4, 2 * 7 * 10 * 4)
    assert dictionary_size(7, shape, cross_layer=False) == each
    # Every layer's units write to their own layer and to all later ones: 3 + 2 + 1 decoders.
    across = BasisSize(units, (3 + 6) * 7 * 10 * 4, (1 + 3) * 7 * 10 * 4)
    assert dictionary_size(7, shape, cross_layer=True) == across


@pytest.mark.slow
def test_time_is_that_of_the_processor_and_of_as_many_processes_as_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, ["sva_simple", "sva_rc", "ioi"], bases=["mlp_act"], methods=["random"])

    def estimated(jobs: int) -> Estimate:
        return estimate_run(plan, jobs)

    # Nine tenths of the time other programs run: the clock is ten times as fast as the processor's time.
    monkeypatch.setattr("basisbench.attribution.cost.now", lambda _: 10 * process_time())
    loaded, threads = estimated(1), torch.get_num_threads()
    monkeypatch.setattr("basisbench.attribution.cost.now", lambda _: process_time())
    alone = estimated(2)
    assert 1 / 3 < loaded.seconds / alone.seconds < 3
    assert torch.get_num_threads() == threads
    assert estimated(50).jobs == 3, "a process without a block is not started"
    longest = max(work.seconds for work in alone.work.values())
    assert longest < alone.seconds_with_jobs < alone.seconds
    assert "in 2 processes, " in render(alone, plan)
    assert "processes" not in render(loaded, plan)
    # The article and the beginning of the sentence are the same in all prompts of a group: circuits leave them out.
    assert all(0 < group.shared < group.positions for work in alone.work.values() for group in work.prompts)
