"""Dictionaries in every maker's own files: from a folder and from a repository, with the maker's own numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from basisbench.errors import BasisError
from basisbench.registry import load_registry
from basisbench.types import ModelSpec
from basisbench_baselines.dictionaries.formats import find
from basisbench_baselines.dictionaries.hub_snapshot import Snapshot, pinned, resolve
from basisbench_baselines.dictionaries.placement import place
from helpers import oracle
from helpers.hub_replica import HubReplica
from helpers.loopback_hub import NOBODY, online, serving
from helpers.maker_files import Case
from helpers.maker_formats import cases

pytestmark = pytest.mark.usefixtures("double_precision")


def gain(layer: int) -> Tensor:
    """Return the gain of the norm in front of the MLP of the tiny Llama, so that it is known what it is divided by."""
    weight: Tensor = oracle.model("llama").body.model.layers[layer].post_attention_layernorm.weight
    return weight.detach().double()


CASES = {case.name: case for case in cases(gain)}


def holds(basis: Any, case: Case) -> None:
    """Hold sites and reconstructions against the maker's."""
    x = torch.randn(2, 5, oracle.D_MODEL, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert [site.layer for site in basis.sites] == list(range(oracle.LAYERS))
    for site in basis.sites:
        assert (site.read, site.write) == (f"blocks.{site.layer}.{case.read}", f"blocks.{site.layer}.{case.write}")
        expected = case.rebuild(site.layer, x)
        for context in (torch.no_grad(), torch.enable_grad()):
            with context:
                units = basis.encode(site, x)
                torch.testing.assert_close(basis.decode(site, units), expected, rtol=0, atol=1e-6)
        assert 0.05 < (units != 0).double().mean() < 0.95


@pytest.mark.parametrize("name", CASES)
def test_a_folder_rebuilds_what_its_maker_does(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    spec = load_registry().get("basis", f"sae:{case.write_to(tmp_path)}")
    assert spec.layers == tuple(range(oracle.LAYERS))
    basis = spec.build(oracle.model("llama"))
    assert (basis.family, basis.name) == (spec.family, spec.name)
    holds(basis, case)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubReplica]:
    made = HubReplica(tmp_path / "home")
    with made.in_use():
        yield made


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if place % 6 == 0 else pytest.mark.slow) for place, name in enumerate(CASES)]
)
def test_so_does_a_repository_of_the_hub(name: str, hub: HubReplica) -> None:
    case = CASES[name]
    commit = hub.commit(case.repository, case.files)
    spec = load_registry().get("basis", f"sae:{case.repository}")
    assert spec.repositories == {case.repository: None}
    basis: Any = spec.build(oracle.model("llama"))
    assert dict(basis.sources) == {case.repository: commit}
    holds(basis, case)


# --- repositories


def test_a_repository_is_pinned_and_a_pattern_chooses(hub: HubReplica) -> None:
    case = CASES["sparsify SAE layers.N.mlp"]
    first = hub.commit(case.repository, {**CASES["sparsify SAE layers.N"].files, **case.files})
    with pytest.raises(BasisError, match=r"2 dictionaries of repository somebody/dictionaries are for layer 0"):
        load_registry().get("basis", f"sae:{case.repository}")
    one = load_registry().get("basis", f"sae:{case.repository}:layers.*.mlp")
    holds(one.build(oracle.model("llama")), case)
    spec = ModelSpec("m", "m", "m")
    before = one.fingerprint(spec)
    changed = {name: content for name, content in CASES["sparsify SAE layers.N"].files.items() if "safetensors" in name}
    second = hub.commit(
        case.repository, {name.replace("/", ".mlp/"): content for name, content in changed.items()}, "new"
    )
    moved = load_registry().get("basis", f"sae:{case.repository}@new:layers.*.mlp")
    assert len({before, moved.fingerprint(spec)}) == 2
    assert dict(moved.build(oracle.model("llama")).sources) == {case.repository: second}  # type: ignore[attr-defined] # a published one
    pinned = load_registry().get("basis", f"sae:{case.repository}@{first}:layers.*.mlp")
    assert pinned.fingerprint(spec) == before
    # A suite that names a commit gets it, whatever the branch says.
    suite = ModelSpec("m", "m", "m", revisions={case.repository: second})
    assert one.fingerprint(suite) == moved.fingerprint(spec)


def test_kinds_are_told_apart_by_their_names_before_any_configuration_is_read(
    hub: HubReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {
        f"resid_post/layer_{layer}_width_{width}/params.safetensors": b"x"
        for layer in range(20)
        for width in ("1k", "2k")
    }
    hub.commit("somebody/many", many)
    monkeypatch.setattr(Snapshot, "download", lambda *_arguments, **_more: pytest.fail("read a file"))
    with pytest.raises(BasisError, match=r"2 dictionaries of .* for layer 0: .*; choose one per layer with a pattern"):
        load_registry().get("basis", "sae:somebody/many")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sae:somebody/none", "somebody/none is not in the cache"),
        (
            "sae:somebody/empty",
            r"repository somebody/empty holds no dictionary in a known format, expected files of SAEL",
        ),
        ("sae:somebody/empty@nowhere", "revision 'nowhere' of somebody/empty is not in the cache"),
    ],
)
def test_a_repository_that_cannot_be_used_says_why(hub: HubReplica, name: str, expected: str) -> None:
    hub.commit("somebody/empty", {"README.md": b"nothing here"})
    with pytest.raises(BasisError, match=expected) as caught:
        load_registry().get("basis", name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"basis '{name}'")


def test_weights_that_are_not_cached_are_named(hub: HubReplica) -> None:
    case = CASES["sparsify SAE layers.N"]
    hub.commit(case.repository, case.files)
    (hub.snapshot(case.repository) / "layers.1" / "sae.safetensors").unlink()
    with pytest.raises(BasisError, match=r"layers\.1/cfg\.json: its weights are missing; expected"):
        load_registry().get("basis", f"sae:{case.repository}")


FINGERPRINT = """
import sys
from basisbench.errors import BasisBenchError
from basisbench.types import ModelSpec
from basisbench.registry import load_registry
try:
    spec = load_registry().get("basis", sys.argv[1])
    print(spec.layers, spec.fingerprint(ModelSpec("m", "m", "m")))
except BasisBenchError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
def test_files_are_fetched_from_the_hub_and_then_found_without_a_network(tmp_path: Path) -> None:
    """The hub's own client, in processes of their own, and a hub on the loopback interface."""
    case, hub, home = CASES["sparsify SAE layers.N"], HubReplica(tmp_path / "served"), tmp_path / "home"
    hub.commit(case.repository, {**case.files, "big.bin": b"not asked for"})

    def ask(address: str, name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", FINGERPRINT, name]
        return subprocess.run(command, env=online(home, address), capture_output=True, text=True, check=False)

    with serving(hub) as address:
        first = ask(address, f"sae:{case.repository}")
        missing = ask(address, "sae:somebody/nothing")
    assert first.stdout.startswith("(0, 1) "), first.stderr
    assert "the hub has no repository somebody/nothing, or it is private" in missing.stderr
    kept = {path.name for path in home.rglob("*") if path.is_symlink()}
    assert kept == {"cfg.json", "config.json", "sae.safetensors"}
    away = ask(NOBODY, f"sae:{case.repository}")
    assert (away.returncode, away.stdout) == (0, first.stdout), away.stderr


# --- SAELens's own loaders


@pytest.mark.parametrize(
    ("name", "loader", "key"),
    [
        ("Gemma Scope res", "gemma_2", "layer_1/width_16k/average_l0_71"),
        ("Gemma Scope transcoders", "gemma_2_transcoder", "layer_1/width_16k/average_l0_71"),
        ("Gemma Scope 2 resid_post", "gemma_3", "resid_post/layer_1_width_16k_l0_small"),
        ("Gemma Scope 2 transcoder", "gemma_3", "transcoder/layer_1_width_16k_l0_small"),
        ("dictionary_learning AutoEncoder", "dictionary_learning_1", "resid_post_layer_1/trainer_0"),
        ("dictionary_learning AutoEncoderTopK", "dictionary_learning_1", "resid_post_layer_1/trainer_0"),
        ("dictionary_learning BatchTopKSAE", "dictionary_learning_1", "resid_post_layer_1/trainer_0"),
        ("dictionary_learning JumpReluAutoEncoder", "dictionary_learning_1", "resid_post_layer_1/trainer_0"),
    ],
)
def test_weights_and_kind_are_those_that_saelens_loads(hub: HubReplica, name: str, loader: str, key: str) -> None:
    """Where SAELens reads a maker's format, it reads the same."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    case = CASES[name]
    hub.commit(case.repository, case.files)
    with pinned(resolve(case.repository, None)):
        load: Any = loaders.NAMED_PRETRAINED_SAE_LOADERS[loader]
        raw, expected, _ = load(case.repository, key, "cpu", False, {})
    config = loaders.handle_config_defaulting(raw)
    dictionary = find(resolve(case.repository, None))[key].open()
    module = dictionary.load("cpu", "float32")
    found = module.state_dict()
    assert found.keys() == expected.keys()
    for weight, value in expected.items():
        torch.testing.assert_close(found[weight], value.float(), rtol=0, atol=0)
    ours = dictionary.configure()
    assert ours["architecture"] == config["architecture"]
    for field in ("apply_b_dec_to_input", "normalize_activations", "k"):
        assert ours.get(field, config.get(field)) == config.get(field, ours.get(field)), field
    shift = config.get("apply_b_dec_to_input", False)
    assert module.cfg.apply_b_dec_to_input == shift
    model = str(config["metadata"]["model_name"]).rpartition("/")[2]
    assert str(ours["metadata"]["model_name"]).rpartition("/")[2] == model


@pytest.mark.parametrize("architecture", sorted(SAE_TRAINING_CLASS_REGISTRY))
def test_a_checkpoint_is_what_saelens_would_publish_of_it(architecture: str, tmp_path: Path) -> None:
    """`save_model` in the middle of a training run against `save_inference_model` at its end."""
    module_class, config_class = SAE_TRAINING_CLASS_REGISTRY[architecture]
    more: dict[str, Any] = {"matryoshka_widths": [8, 24]} if "matryoshka" in architecture else {}
    if "topk" in architecture:
        more["k"] = 5
    metadata = SAEMetadata(hook_name="blocks.0.hook_mlp_out", model_name="gpt2", hook_head_index=None)
    training: Any = module_class(config_class(d_in=oracle.D_MODEL, d_sae=24, metadata=metadata, **more))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in training.named_parameters():
            drawn = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.copy_(drawn.abs() if "threshold" in name else drawn)
        if hasattr(training, "topk_threshold"):
            training.topk_threshold = torch.tensor(0.3, dtype=torch.double)
        if architecture == "matching_pursuit":
            training.W_dec /= training.W_dec.norm(dim=-1, keepdim=True)
    training.save_model(tmp_path / "checkpoint")
    training.save_inference_model(tmp_path / "published")
    kept, published = (
        load_registry().get("basis", f"sae:{tmp_path / name}").build(oracle.model("llama"))
        for name in ("checkpoint", "published")
    )
    x = torch.randn(3, oracle.D_MODEL, generator=generator, dtype=torch.float64)
    site = published.sites[0]
    with torch.no_grad():
        expected = published.decode(site, published.encode(site, x))
        torch.testing.assert_close(kept.decode(site, kept.encode(site, x)), expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.1


# --- modules of other models


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "module", "hook"),
    [
        ("gpt2", "transformer.h.1", "hook_resid_post"),
        ("gpt2", "h.1.mlp", "hook_mlp_out"),
        ("gpt2", "transformer.h.1.attn", "hook_attn_out"),
        ("neox", "gpt_neox.layers.1.attention", "hook_attn_out"),
        ("gemma2", "model.layers.1", "hook_resid_post"),
        # What the MLP returns, and what is added to the stream, are two places where a norm lies between.
        ("gemma2", "model.layers.1.mlp", "mlp.hook_out"),
        ("gemma2", "layers.1.self_attn", "attn.hook_out"),
        ("gemma2", "model.layers.1.post_feedforward_layernorm", "hook_mlp_out"),
        ("gemma2", "model.layers.1.post_attention_layernorm", "hook_attn_out"),
    ],
)
def test_a_module_is_the_hook_that_stands_for_its_output(architecture: str, module: str, hook: str) -> None:
    placement = place("standard", {"hook_name": module})
    assert placement is not None
    site = placement.site(oracle.model(architecture))
    assert (site.layer, site.read, site.write) == (1, f"blocks.1.{hook}", f"blocks.1.{hook}")


# --- circuit-tracer's sets


def test_a_set_may_list_files_of_other_repositories(hub: HubReplica) -> None:
    """mwhanna/gemma-scope-transcoders lists Google's files; a list may name its own files too."""
    case, other = CASES["Gemma Scope transcoders"], CASES["circuit-tracer relu mlp.hook_in"]
    theirs = hub.commit(case.repository, case.files)
    names = [f"hf://{case.repository}/{name}?revision={theirs}" for name in sorted(case.files)]
    config = {
        "model_kind": "transcoder_set", "model_name": "google/gemma-2-2b", "feature_input_hook": "ln2.hook_normalized",
        "feature_output_hook": "hook_mlp_out", "transcoders": names,
    }  # fmt: skip
    ours = hub.commit("somebody/set", {"config.yaml": yaml.safe_dump(config).encode()})
    basis: Any = load_registry().get("basis", "sae:somebody/set").build(oracle.model("llama"))
    holds(basis, case)
    assert dict(basis.sources) == {"somebody/set": ours, case.repository: theirs}
    config |= {
        "feature_input_hook": "mlp.hook_in",
        "transcoders": ["part/layer_0.safetensors", "part/layer_1.safetensors"],
    }
    files = {f"part/{name}": content for name, content in other.files.items() if name != "config.yaml"}
    hub.commit("somebody/set", {"config.yaml": yaml.safe_dump(config).encode(), **files}, "own")
    holds(load_registry().get("basis", "sae:somebody/set@own").build(oracle.model("llama")), other)


def test_a_set_in_a_folder_below_is_chosen_by_a_pattern(tmp_path: Path) -> None:
    one, other = CASES["circuit-tracer relu mlp.hook_in"], CASES["circuit-tracer jumprelu hook_resid_mid"]
    for name, case in (("small", one), ("large", other)):
        case.write_to(tmp_path / name)
    found = f"sae:{tmp_path}:large/dictionaries/layer_*"
    holds(load_registry().get("basis", found).build(oracle.model("llama")), other)
    with pytest.raises(BasisError, match="2 dictionaries of folder"):
        load_registry().get("basis", f"sae:{tmp_path}")
