"""What cannot be used of a maker's files is said in one line, with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from basisbench.errors import BasisError
from basisbench.registry import load_registry
from helpers import oracle
from helpers.maker_files import json_of, tensors_of
from helpers.maker_formats import cases

pytestmark = pytest.mark.usefixtures("double_precision")

CASES = {case.name: case for case in cases(lambda _layer: torch.ones(oracle.D_MODEL))}


def saelens(folder: Path, layer: int = 0, **metadata: Any) -> Path:
    """Write a small dictionary of SAELens."""
    place = folder / f"sae_{layer}"
    place.mkdir(parents=True, exist_ok=True)
    config = json.loads(CASES["SAELens model.layers.N"].files["sae_0/cfg.json"])
    config["metadata"] |= {"hook_name": f"blocks.{layer}.hook_mlp_out", **metadata}
    (place / "cfg.json").write_bytes(json_of(config))
    (place / "sae_weights.safetensors").write_bytes(
        CASES["SAELens model.layers.N"].files["sae_0/sae_weights.safetensors"]
    )
    return folder


def refused(name: str, *mentioned: str) -> None:
    with pytest.raises(BasisError) as caught:
        load_registry().get("basis", name).build(oracle.model("llama"))
    message = str(caught.value)
    assert "\n" not in message
    for text in mentioned:
        assert text in message, message


def test_a_dictionary_of_one_head_is_refused_for_that_reason(tmp_path: Path) -> None:
    folder = saelens(tmp_path, hook_name="blocks.0.attn.hook_z", hook_head_index=3)
    refused(f"sae:{folder}", "it reads head 3 of 'blocks.0.attn.hook_z' alone", "all heads of a layer")


def test_the_embeddings_are_no_layer(tmp_path: Path) -> None:
    folder = saelens(tmp_path, hook_name="blocks.0.hook_resid_pre")
    refused(f"sae:{folder}", "dictionaries of the embeddings alone", "blocks.0.hook_resid_pre", "compared after layers")
    saelens(tmp_path, 1, hook_name="blocks.1.hook_resid_pre")
    spec = load_registry().get("basis", f"sae:{folder}")
    assert (spec.family, spec.layers) == ("resid", (0,))  # the stream before layer 1 is the one after layer 0


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("model.layers.0.mlp.down_proj", "the output of module 'model.layers.0.mlp.down_proj' is no site of"),
        ("model.layers.0.input_layernorm", "it sits at module 'model.layers.0.input_layernorm', which is none of the"),
        ("transformer.h.0", "the output of module 'transformer.h.0' is no site of 'tiny-llama' (LlamaForCausalLM)"),
        ("lm_head", "names the hook 'lm_head', expected one such as 'blocks.0.hook_mlp_out', or a module"),
    ],
)
def test_a_module_that_is_no_site_is_told(tmp_path: Path, hook: str, expected: str) -> None:
    refused(f"sae:{saelens(tmp_path, hook_name=hook)}", expected)


def test_no_code_in_a_pickle_is_run(tmp_path: Path) -> None:
    folder = CASES["dictionary_learning AutoEncoder"].write_to(tmp_path)
    mark = tmp_path / "was run"

    class Here:
        """Runs something when it is unpickled."""

        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    torch.save({"encoder.weight": Here()}, folder / "resid_post_layer_1" / "trainer_0" / "ae.pt")
    refused(f"sae:{folder}", "resid_post_layer_1", "ae.pt holds more than tensors, and reading it could run code")
    assert not mark.exists()


def change_json(name: str, **values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for path in folder.rglob(name):
            path.write_bytes(json_of(json.loads(path.read_text()) | values))

    return change


def change_trainer(**values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for path in folder.rglob("config.json"):
            config = json.loads(path.read_text())
            path.write_bytes(json_of(config | {"trainer": config["trainer"] | values}))

    return change


def change_tensors(name: str, **values: Tensor | None) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for path in folder.rglob(name):
            kept = {**load_file(path), **values}
            path.write_bytes(tensors_of({key: value for key, value in kept.items() if value is not None}))

    return change


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: [path.unlink() for path in folder.rglob(name)]


LEARNED, COPIED, MOSS = (
    "dictionary_learning AutoEncoderTopK",
    "sparsify SAE layers.N",
    "llamascopium jumprelu dataset-wise",
)
SCOPE_2, TRACED = "Gemma Scope 2 mlp_out", "circuit-tracer relu mlp.hook_in"
DAMAGES: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "renamed": (
        "Gemma Scope res",
        lambda folder: folder.rename(folder.with_name("saes")),
        ("a params.npz does not say where it was trained", "gemma-scope-2b-pt-res"),
    ),
    "no pickle": (LEARNED, remove("ae.pt"), ("no dictionary in a known format",)),
    "no configuration": (LEARNED, remove("config.json"), ("trainer_0/config.json is missing", "beside ae.pt")),
    "class": (LEARNED, change_trainer(dict_class="CrossCoder"), ("dict_class 'CrossCoder'", "AutoEncoderTopK")),
    "another class": (LEARNED, change_trainer(dict_class="AutoEncoder"), ("its weights hold", "expected bias")),
    "trainer": (LEARNED, change_json("config.json", trainer=None), ("has no 'trainer'",)),
    "input": (LEARNED, change_json("config.json", buffer={"io": "in"}), ("has io 'in'",)),
    "k": (LEARNED, change_trainer(k=99), ("k = 99", "24 units")),
    "no k": (LEARNED, change_trainer(k=None), ("k = None",)),
    "layer": (LEARNED, change_trainer(layer=7), ("2 dictionaries", "layer 7")),
    "no JSON": (COPIED, lambda folder: (folder / "layers.1/cfg.json").write_text("{"), ("not a JSON",)),
    "a list": (COPIED, lambda folder: (folder / "layers.1/cfg.json").write_text("[]"), ("holds no object",)),
    "deep": (COPIED, lambda folder: (folder / "layers.1/cfg.json").write_text("[" * 99_999), ("not a JSON",)),
    "activation": (COPIED, change_json("cfg.json", activation="groupmax"), ("activation 'groupmax'", "topk")),
    "signed": (COPIED, change_json("cfg.json", signed=True), ("signed units",)),
    "skip": (COPIED, change_json("cfg.json", skip_connection=True), ("skip connection, but is no transcoder",)),
    "folder": (
        COPIED,
        lambda folder: [(folder / f"layers.{i}").rename(folder / f"my-{i}") for i in (0, 1)],
        ("calls a dictionary's folder as its module, such as layers.3",),
    ),
    "tensor": (COPIED, change_tensors("sae.safetensors", W_dec=None), ("its weights hold b_dec", "expected W_dec")),
    "shape": (COPIED, change_tensors("sae.safetensors", b_dec=torch.zeros(3)), ("b_dec has shape (3,), expected",)),
    "vector": (
        COPIED, change_tensors("sae.safetensors", W_dec=torch.zeros(3)), ("(16, 24) and (3,), expected matrices",),
    ),
    "cut": (COPIED, lambda folder: (folder / "layers.1/sae.safetensors").write_bytes(b"x"), ("layers.1",)),
    "width": (
        COPIED,
        change_tensors(
            "sae.safetensors",
            **{"encoder.weight": torch.zeros(24, 9), "W_dec": torch.zeros(24, 9), "b_dec": torch.zeros(9)},
        ),
        ("maps width 9 to 9, but", "trained for another model"),
    ),
    "kind": (MOSS, change_json("config.json", sae_type="lorsa"), ("sae_type 'lorsa'", "reads other positions")),
    "gated": (MOSS, change_json("config.json", use_glu_encoder=True), ("gated encoder",)),
    "batch": (MOSS, change_json("config.json", act_fn="batchtopk"), ("act_fn 'batchtopk'", "convert it to JumpReLU")),
    "norm": (MOSS, change_json("config.json", norm_activation="batch-wise"), ("depends on the batch",)),
    "middle": (
        MOSS,
        change_json("config.json", hook_point_in="blocks.1.hook_resid_mid", hook_point_out="blocks.1.hook_mlp_out"),
        ("of a model with processed weights",),
    ),
    "hook": (SCOPE_2, change_json("config.json", hf_hook_point_in="model.layers.1.norm"), ("none of the sites",)),
    "form": (SCOPE_2, change_json("config.json", architecture="topk"), ("architecture 'topk', expected 'jump_relu'",)),
    "no YAML": (TRACED, lambda folder: (folder / "config.yaml").write_text("{: :"), ("be read as YAML",)),
    "one missing": (TRACED, lambda folder: (folder / "layer_0.safetensors").write_bytes(b""), ("layer_0",)),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_said_in_one_line(damage: str, tmp_path: Path) -> None:
    name, change, mentioned = DAMAGES[damage]
    change(CASES[name].write_to(tmp_path))
    (folder,) = tmp_path.iterdir()
    refused(f"sae:{folder}", *mentioned)
