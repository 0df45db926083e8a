"""What a curve, gradients and memory cost on a language model of the package index, on the benchmark's own prompts.

Only where figures are measured, and where its package is installed (`tox run -e perf` does both).
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from basisbench.attribution.gradients import gradient_field
from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.ranking import rank
from basisbench.errors import BasisBenchError
from basisbench.models.gguf import locate_model
from basisbench.models.hooks import observed
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.models.sites import SiteKind
from basisbench.models.start_at_layer import block_inputs
from basisbench.registry import load_registry
from basisbench.runs.model_names import find_model
from basisbench.runs.session import Session, open_session
from figures import Figures
from helpers.passes import masks_of
from workload import partial_passes

pytestmark = pytest.mark.measured

NAME = "smollm2-135m-q4"
PAIRS = 100
SIZES = (20, 50, 100, 200, 500, 1000)
FAMILIES: tuple[SiteKind, ...] = ("mlp_act", "mlp_out", "attn_out", "resid_post")


@pytest.fixture(scope="module")
def model() -> Model:
    spec = find_model(NAME, load_registry())
    try:
        locate_model(spec)
    except BasisBenchError as error:
        pytest.skip(str(error))
    return load_model(spec)


@pytest.fixture(scope="module")
def plain(model: Model) -> Any:
    """The same file, read and run by transformers alone."""
    from transformers import AutoModelForCausalLM

    file = locate_model(model.spec).file
    assert file is not None
    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval().requires_grad_(False)


@pytest.fixture
def session(request: pytest.FixtureRequest, model: Model) -> Session:
    task = load_registry().get("task", request.param)
    session = open_session(model, task, attribution_pairs=PAIRS, evaluation_pairs=PAIRS, seed=0)
    for group in session.groups:
        for context in (group.attribution, group.evaluation):
            context.start("mean", "ablation", "coordinates")
    return session


def prompts(session: Session) -> list[Tensor]:
    """Return the clean prompts of the evaluation pairs, a batch per aligned group."""
    return [group.evaluation.batch.clean for group in session.groups]


def forwards(plain: Any, batches: list[Tensor], times: int) -> Callable[[], None]:
    def work() -> None:
        with torch.inference_mode():
            for tokens in batches * times:
                plain(input_ids=tokens, use_cache=False)

    return work


@pytest.mark.parametrize(
    ("session", "bound"), [("sva_simple", 0.14), ("sva_rc", 0.33), ("ioi", 0.45)], indirect=["session"]
)
@pytest.mark.parametrize("name", ["mlp_act", "mlp_out"])
def test_a_point_of_a_neuron_curve(
    benchmark: BenchmarkFixture, figures: Figures, session: Session, plain: Any, name: str, bound: float
) -> None:
    registry = load_registry()
    basis, method = registry.get("basis", name).build(session.model), registry.get("method", "relp")
    rankings = [rank(method.score(group.attribution, basis), policy="coordinates") for group in session.groups]
    points = [(size, complement) for size in SIZES for complement in (False, True)]
    for group in session.groups:
        group.reference(basis, "mean"), group.shared_work(basis, "mean")

    def work() -> None:
        for group, ranking in zip(session.groups, rankings, strict=True):
            evaluate(group, basis, "mean", masks_of(ranking, points), len(points))

    figures.ratio(
        benchmark,
        f"{len(points)} points of a curve, {NAME}, {session.groups[0].evaluation.pairs.task}, {name}",
        work,
        {"plain forward": forwards(plain, prompts(session), len(points))},
        bound=bound,
        what=f"as many plain forwards of the {PAIRS} evaluation prompts",
        rounds=3,
    )


@pytest.mark.parametrize("session", ["sva_simple", "sva_rc", "ioi"], indirect=True)
@pytest.mark.parametrize("rule", ["ixg", "relp"])
def test_fields_of_all_families(
    benchmark: BenchmarkFixture, figures: Figures, session: Session, plain: Any, rule: str
) -> None:
    model = session.model
    hooks = [model.hook(kind, layer) for layer in range(model.layers) for kind in FAMILIES]
    batches = [group.attribution.batch for group in session.groups]

    def fields() -> None:
        for batch in batches:
            gradient_field(rule, model, batch, hooks)

    figures.ratio(
        benchmark,
        f"fields of all three families, {rule}, {NAME}, {session.groups[0].evaluation.pairs.task}",
        fields,
        {"plain forward": forwards(plain, [batch.clean for batch in batches], 1)},
        bound=1.8,
        what=f"one plain forward of the {PAIRS} attribution prompts",
        rounds=5,
    )


@pytest.mark.parametrize("session", ["sva_simple"], indirect=True)
def test_integrated_gradients_of_a_family(benchmark: BenchmarkFixture, figures: Figures, session: Session) -> None:
    """Against the same partial passes without what shares work between them: a few steps of every layer are enough."""
    model, steps = session.model, 2
    batch = session.groups[0].attribution.batch
    hooks = [model.hook("mlp_act", layer) for layer in range(model.layers)]
    acts = {hook: model.place(hook) for hook in hooks}
    with torch.no_grad(), observed(model.fast_body, acts) as ends:
        model.logits(batch.counterfactual, fast=True)
    with torch.no_grad():
        entered = block_inputs(model, batch.clean)

    figures.ratio(
        benchmark,
        f"ig with {steps} steps, mlp_act, {NAME}, sva_simple",
        lambda: gradient_field("ig", model, batch, hooks, steps=steps, ends=ends),
        {"partial passes": partial_passes(entered, batch, acts, ends, steps)},
        bound=1.1,
        what="its own partial forward and backward passes, one at a time",
        rounds=3,
    )


def peak_of_a_run(out: Path, task: str, pairs: int) -> int:
    """Return the peak resident bytes of a process that runs the two neuron bases of a task under RelP."""
    command = [sys.executable, "-m", "basisbench.cli", "run", "--model", NAME, "--task", task, "--basis", "mlp_act"]
    command += ["--basis", "mlp_out", "--method", "relp", "--examples", str(pairs), "--jobs", "1", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    records = [json.loads(file.read_text(encoding="utf-8")) for file in (out / "records").glob("*.json")]
    return max(int(record["cost"]["peak_memory_bytes"]) for record in records)


@pytest.mark.parametrize("task", ["sva_simple", "sva_rc", "ioi"])
def test_peak_memory(benchmark: BenchmarkFixture, figures: Figures, model: Model, task: str, tmp_path: Path) -> None:
    gc.collect()
    weights = sum(
        tensor.untyped_storage().nbytes() for tensor in {t.data_ptr(): t for t in model.body.parameters()}.values()
    )
    start = time.perf_counter()
    once = benchmark.pedantic(peak_of_a_run, args=(tmp_path / "once", task, PAIRS), rounds=1)
    twice = peak_of_a_run(tmp_path / "twice", task, 2 * PAIRS)
    spent = time.perf_counter() - start
    figures.value(
        f"peak memory less weights, {NAME}, {task}, {PAIRS} pairs",
        "1.5 GiB",
        1,
        (once - weights) / (1.5 * 2**30),
        spent,
    )
    figures.value(
        f"peak memory with {2 * PAIRS} pairs, {NAME}, {task}", f"peak memory with {PAIRS}", 1.05, twice / once, spent
    )
    figures.tables[f"peak memory, bytes: {NAME}, {task}"] = [{"weights": weights, "100": once, "200": twice}]
