"""Whatever is wrong with the files of a cross-layer transcoder is said in one line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from basisbench.errors import BasisError
from basisbench.models.model import Model
from basisbench.protocols import BasisSpec
from basisbench.registry import load_registry
from helpers import cross_layer_oracle as cross


@pytest.fixture
def copied(tmp_path: Path) -> tuple[Model, Path]:
    folder = tmp_path / "clt"
    shutil.copytree(cross.folder("llama"), folder)
    model = cross.model("llama")
    return replace(model, spec=replace(model.spec, dictionaries={"clt": folder})), folder


def spec() -> BasisSpec:
    return load_registry().get("basis", "clt")


def _change(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _configure(folder: Path, **values: str | None) -> None:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text()) | values
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))


def _rename(tensors: dict[str, Tensor], old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


DAMAGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no encoder": (lambda f: (f / "W_enc_1.safetensors").unlink(), ("W_enc_1.safetensors is missing", "per layer")),
    "no decoder": (lambda f: (f / "W_dec_2.safetensors").unlink(), ("W_dec_2.safetensors is missing", "per layer")),
    "one layer more": (
        lambda f: shutil.copy(f / "W_enc_2.safetensors", f / "W_enc_3.safetensors"),
        ("W_enc_3.safetensors has no place", "3 layers"),
    ),
    "skip connection": (
        lambda f: save_file({"W_skip": torch.zeros(2, 2)}, f / "W_skip.safetensors"),
        ("W_skip.safetensors", "skip connection"),
    ),
    "width": (
        lambda f: _change(f / "W_enc_0.safetensors", lambda t: t.update(W_enc_0=torch.zeros(22, 8))),
        ("W_enc_0", "[22, 8]", "[22, 16]", "another model"),
    ),
    "width of the decoder": (
        lambda f: _change(f / "W_dec_2.safetensors", lambda t: t.update(W_dec_2=torch.zeros(16, 1, 8))),
        ("W_dec_2", "[16, 1, 8]", "[16, 1, 16]"),
    ),
    "units": (
        lambda f: _change(f / "W_dec_1.safetensors", lambda t: t.update(W_dec_1=torch.zeros(20, 2, 16))),
        ("W_dec_1", "[20, 2, 16]", "[19, 2, 16]"),
    ),
    "targets": (
        lambda f: _change(f / "W_dec_1.safetensors", lambda t: t.update(W_dec_1=torch.zeros(19, 3, 16))),
        ("W_dec_1.safetensors writes to 3 layers, expected 2", "layer 1 and all later"),
    ),
    "axes": (
        lambda f: _change(f / "W_dec_1.safetensors", lambda t: t.update(W_dec_1=torch.zeros(19, 16))),
        ("W_dec_1", "[19, 16]", "[19, 2, 16]"),
    ),
    "names": (
        lambda f: _change(f / "W_enc_1.safetensors", lambda t: _rename(t, "W_enc_1", "encoder.weight")),
        ("W_enc_1.safetensors holds", "encoder.weight", "expected W_enc_1, b_dec_1, b_enc_1"),
    ),
    "names of the decoder": (
        lambda f: _change(f / "W_dec_1.safetensors", lambda t: _rename(t, "W_dec_1", "W_dec")),
        ("W_dec_1.safetensors holds W_dec;", "expected W_dec_1"),
    ),
    "thresholds of some layers": (
        lambda f: _change(f / "W_enc_1.safetensors", lambda t: t.pop("threshold_1")),
        ("W_enc_1.safetensors has no thresholds", "other layers have"),
    ),
    "shape of a bias": (
        lambda f: _change(f / "W_enc_1.safetensors", lambda t: t.update(b_enc_1=torch.zeros(1, 19))),
        ("b_enc_1", "[1, 19]", "[19]"),
    ),
    "no safetensors": (
        lambda f: (f / "W_enc_1.safetensors").write_bytes(b"not a dictionary\n" * 10),
        ("W_enc_1.safetensors is not a safetensors file",),
    ),
    "cut short": (
        lambda f: (f / "W_dec_0.safetensors").write_bytes((f / "W_dec_0.safetensors").read_bytes()[:-100]),
        ("W_dec_0.safetensors is not a safetensors file",),
    ),
    "no config": (lambda f: (f / "config.yaml").unlink(), ("config.yaml is missing", "circuit-tracer's format")),
    "no YAML": (lambda f: (f / "config.yaml").write_text("{: :"), ("config.yaml cannot be read as YAML",)),
    "config of a list": (lambda f: (f / "config.yaml").write_text(json.dumps([1])), ("model_kind 'None'",)),
    "kind": (
        lambda f: _configure(f, model_kind="transcoder_set"),
        ("model_kind 'transcoder_set'", "expected 'cross_layer_transcoder'"),
    ),
    "no kind": (lambda f: _configure(f, model_kind=None), ("model_kind 'None'",)),
    "read hook": (
        lambda f: _configure(f, feature_input_hook="hook_resid_post"),
        ("feature_input_hook 'hook_resid_post'", "mlp.hook_in, hook_resid_mid, ln2.hook_normalized"),
    ),
    "read hook that is off": (
        lambda f: _configure(f, feature_input_hook="hook_mlp_in"),
        ("feature_input_hook 'hook_mlp_in'", "mlp.hook_in, hook_resid_mid"),
    ),
    "no read hook": (lambda f: _configure(f, feature_input_hook=None), ("feature_input_hook 'None'",)),
    "write hook": (
        lambda f: _configure(f, feature_output_hook="hook_resid_post"),
        ("feature_output_hook 'hook_resid_post'", "hook_mlp_out, mlp.hook_out"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_said_in_one_line(copied: tuple[Model, Path], damage: str) -> None:
    model, folder = copied
    change, mentioned = DAMAGES[damage]
    change(folder)
    with pytest.raises(BasisError) as caught:
        spec().build(model)
    message = str(caught.value)
    assert "basis 'clt'" in message
    assert "\n" not in message
    for text in mentioned:
        assert text in message, message


def test_a_model_without_one_says_so(copied: tuple[Model, Path]) -> None:
    model, _ = copied
    bare = replace(model, spec=replace(model.spec, dictionaries={"sae_resid": Path("x")}))
    for ask in (lambda: spec().build(bare), lambda: spec().fingerprint(bare.spec)):
        with pytest.raises(BasisError, match=r"no dictionaries for basis 'clt' \(it has: sae_resid\)"):
            ask()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "hook", "told"),
    [
        # TransformerLens moved that hook from behind the gain to before it, and circuit-tracer takes both versions.
        ("gpt2", "ln2.hook_normalized", r"basis 'clt': it reads ln2\.hook_normalized of a LayerNorm"),
        ("neox", "hook_resid_mid", r"basis 'clt': .*no hook 'blocks\.0\.hook_resid_mid'"),
    ],
    ids=["the normalised stream of a LayerNorm", "no stream between attention and MLP"],
)
def test_a_hook_that_cannot_be_read_is_told(architecture: str, hook: str, told: str) -> None:
    model = cross.model(architecture)
    folder = cross.files(architecture).save(
        cross.folder(architecture).parent / f"{architecture}-{hook}", feature_input_hook=hook
    )
    with pytest.raises(BasisError, match=told):
        spec().build(replace(model, spec=replace(model.spec, dictionaries={"clt": folder})))
