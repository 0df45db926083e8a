"""Models that accelerate spreads over devices: its hooks and ours together.

One machine without a GPU cannot show tensors on two devices; what is shown is that cells are the same when every module
carries accelerate's hooks, and that edits see activations on the main device and give them back where they were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from basisbench.errors import BasisBenchError
from basisbench.models import load
from basisbench.models.hooks import moved_edit
from basisbench.models.load import load_model, wrap
from basisbench.models.model import Model
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig, Record
from basisbench.runs.session import open_session
from basisbench.types import ModelSpec


def dispatched(spec: ModelSpec) -> Model:
    """Load a model whose blocks accelerate moves inputs for, as it does on several GPUs."""
    from accelerate import dispatch_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    body = AutoModelForCausalLM.from_pretrained(spec.path)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{layer}": "cpu" for layer in range(body.config.num_hidden_layers)}
    dispatch_model(body, places, main_device="cpu", force_hooks=True)
    assert hasattr(body.model.layers[1], "_hf_hook")
    body.hf_device_map = places
    return wrap(body, AutoTokenizer.from_pretrained(spec.path), spec)


def do(model: Model, method: str, basis: str) -> Record:
    registry = load_registry()
    session = open_session(model, registry.get("task", "ioi"), attribution_pairs=12, evaluation_pairs=12, seed=0)
    spec = registry.get("basis", basis)
    cell = CellConfig(
        model=model.name, task="ioi", task_version="1", basis=basis, family=spec.family, method=method,
        attribution_pairs=12, evaluation_pairs=12,
    )  # fmt: skip
    return session.run(cell, spec, registry.get("method", method))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "basis"),
    [
        ("relp", "mlp_out"),
        *(
            pytest.param(*cell, marks=pytest.mark.slow)
            for cell in (("ixg", "mlp_act"), ("ig", "resid"), ("ig_inputs", "attn_out"))
        ),
    ],
)
def test_cells_are_the_same_under_accelerates_hooks(tiny_llama: ModelSpec, method: str, basis: str) -> None:
    plain, spread = do(load_model(tiny_llama), method, basis), do(dispatched(tiny_llama), method, basis)
    assert spread.id == plain.id, "the weights are the same, so the cell is"
    assert spread.endpoints.full == pytest.approx(plain.endpoints.full, rel=1e-4, abs=1e-5)
    assert spread.endpoints.empty == pytest.approx(plain.endpoints.empty, rel=1e-4, abs=1e-5)
    for row, expected in zip(spread.curve.circuit, plain.curve.circuit, strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert [node.score for node in spread.top_nodes] == pytest.approx(
        [node.score for node in plain.top_nodes], rel=1e-3
    )


class Elsewhere:
    """Stands for a tensor on another device, and notes where it is sent."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def to(self, device: torch.device) -> Elsewhere:
        return Elsewhere(str(device))


def test_edits_see_the_main_device_and_replacements_go_back() -> None:
    seen: list[str] = []

    def edit(activation: Any) -> Any:
        seen.append(str(activation.device))
        return activation

    moved = moved_edit(edit, torch.device("cuda:0"))
    replacement = moved(Elsewhere("cuda:3"))  # type: ignore[arg-type]
    assert seen == ["cuda:0"]
    assert replacement is not None
    assert str(replacement.device) == "cuda:3"
    assert moved_edit(lambda _activation: None, torch.device("cpu"))(torch.zeros(1)) is None


def test_auto_spreads_over_gpus_and_leaves_room_on_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _index: (100, 200))
    assert load.placement("auto") == {"device_map": "balanced_low_0", "max_memory": {0: 90, 1: 90}}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert load.placement("auto") == {"device_map": {"": 0}}


def test_a_model_that_spills_over_to_the_cpu_is_refused(
    tiny_llama: ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk"}
    wanted = {"device_map": places, "offload_folder": str(tmp_path)}
    monkeypatch.setattr(load, "placement", lambda _device: wanted)
    with pytest.raises(BasisBenchError, match="does not fit on the GPUs of this machine; use --dtype bfloat16"):
        load_model(tiny_llama, device="auto")
