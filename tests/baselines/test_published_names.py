"""Names of published dictionaries: releases and folders, patterns, families and layers before anything is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from basisbench.errors import BasisBenchError
from basisbench.models.load import load_model
from basisbench.registry import load_registry
from basisbench.types import ModelSpec
from basisbench_baselines.dictionaries.releases import find_release, layer_of, templates
from helpers.hub_replica import MODELS, pythia_replica

ALL = get_pretrained_saes_directory()


def resolved(name: str) -> object:
    return load_registry().get("basis", name)


def refused(name: str, *mentioned: str) -> None:
    with pytest.raises(BasisBenchError) as caught:
        resolved(name)
    message = str(caught.value)
    assert "\n" not in message
    for text in mentioned:
        assert text in message, message


@pytest.mark.slow
def test_the_list_is_saelens_own() -> None:
    for name, lookup in ALL.items():
        release = find_release(name)
        assert (release.repository, release.model) == (lookup.repo_id, lookup.model)
        assert release.loader == (lookup.conversion_func or "sae_lens")
        assert dict(release.paths) == dict(lookup.saes_map)


def test_the_layer_of_every_id_is_the_one_of_its_path_or_hook() -> None:
    """Only the embeddings and the stream before the first block have none."""
    without = {name for lookup in ALL.values() for name in lookup.saes_map if layer_of(name) is None}
    assert all("embedding" in name or name.startswith("blocks.0.hook_resid_pre") for name in without)
    assert layer_of("blocks.7.hook_resid_pre") == 6
    assert layer_of("blocks.11.hook_resid_post") == 11
    assert layer_of("layer_12_width_16k_l0_small_affine") == 12
    assert layer_of("layer_3/width_16k/average_l0_59") == 3
    assert layer_of("l31m_32x") == 31
    assert layer_of("layer27") == 27


# What SAELens's configurations say, without a file: Gemma Scope's follow from names, the others are in ids or paths.
FAMILIES = {
    "gpt2-small-resid-post-v5-32k": "resid",
    "gpt2-small-mlp-out-v5-32k": "mlp",
    "gpt2-small-attn-out-v5-32k": "attn",
    "gpt2-small-hook-z-kk": "attn",
    "gpt2-small-res-jb": "resid",
    "pythia-70m-deduped-res-sm": "resid",
    "pythia-70m-deduped-mlp-sm": "mlp",
    "pythia-70m-deduped-att-sm": "attn",
    "gemma-scope-2-270m-pt-res-all": "resid",
    "gemma-scope-2-270m-pt-mlp-all": "mlp",
    "gemma-scope-2-270m-pt-att-all": "attn",
    "gemma-scope-2-270m-pt-transcoders-all": "mlp",
    "gemma-scope-2b-pt-res-canonical": "resid",
    "gemma-scope-2b-pt-mlp-canonical": "mlp",
    "gemma-scope-2b-pt-att-canonical": "attn",
    "gemma-scope-2b-pt-transcoders": "mlp",
    "mwhanna-qwen3-0.6b-transcoders-lowl0": "mlp",
    "llama_scope_lxr_8x": "resid",
    "llama_scope_lxm_32x": "mlp",
    "llama_scope_lxa_8x": "attn",
    "llama_scope_r1_distill": "resid",
    "qwen-scope-3-1.7b-base-w32k-l50": "resid",
    "gemma-2-2b-res-matryoshka-dc": "resid",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_family_is_known_before_anything_is_loaded(name: str) -> None:
    assert find_release(name).family == FAMILIES[name]


def test_every_release_has_a_family_or_says_why_not() -> None:
    reasons = {}
    for name in ALL:
        try:
            assert find_release(name).family in ("mlp", "attn", "resid")
        except BasisBenchError as error:
            reasons[name] = str(error)
    assert sorted(reasons) == sorted(
        name
        for name, lookup in ALL.items()
        if lookup.conversion_func in ("temporal", "mntss_clt_layer_transcoder") or "resid-mid" in name or "-clt" in name
    ), reasons


def test_a_name_that_no_list_has_gets_suggestions() -> None:
    refused("sae:gpt2-small-res-bj", "no release 'gpt2-small-res-bj'", "did you mean gpt2-small-res-jb")
    refused("sae:nothing-of-the-kind-at-all", "no release", "no folder")
    refused("sae:./no/such/folder", "no folder of that name")
    refused("sae:@x", "expected sae:RELEASE[@REVISION][:PATTERN]")


def test_several_dictionaries_per_layer_are_shown_with_a_way_to_choose() -> None:
    refused(
        "sae:gemma-scope-2-270m-pt-res-all",
        "4 dictionaries",
        "for layer 0: layer_0_width_16k_l0_big, layer_0_width_16k_l0_small",
        "':layer_*_width_16k_l0_big'",
        "layer_*_width_262k_l0_small",
    )
    refused("sae:gemma-scope-2-270m-pt-res-all:layer_5_*", "for layer 5")


def test_a_pattern_that_matches_nothing_shows_the_ids() -> None:
    refused("sae:gemma-scope-2-270m-pt-res-all:layer_*_width_17k", "'layer_*_width_17k'", "layer_*_width_16k_l0_big")
    refused("sae:pythia-70m-deduped-res-sm:blocks.0.hook_resid_pre", "blocks.*.hook_resid_post")


def test_releases_that_cannot_be_bases_say_why() -> None:
    refused("sae:temporal-sae-gemma-2-2b", "read other positions")
    refused("sae:mntss-gemma-2-2b-2.5m-clt-as-per-layer", "summed")
    refused("sae:gpt2-small-resid-mid-v5-32k", "none of the sites")


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("sae:gpt2-small-res-jb", range(12)),  # the stream before layer 0 is the embeddings, and is left out
        ("sae:pythia-70m-deduped-res-sm", range(6)),
        ("sae:gemma-scope-2-270m-pt-transcoders-all:layer_*_width_16k_l0_small_affine", range(18)),
        ("sae:gemma-scope-2b-pt-transcoders", range(26)),
        ("sae:gemma-scope-2b-pt-res-canonical:layer_*/width_16k/canonical", range(26)),
        ("sae:gemma-scope-2b-pt-res-canonical:layer_[0-3]/width_16k/canonical", range(4)),
        ("sae:llama_scope_lxa_32x", range(32)),
        ("sae:gemma-scope-9b-it-res-canonical:*/width_16k/canonical", (9, 20, 31)),
    ],
)
def test_layers_are_known_before_anything_is_loaded(name: str, layers: range) -> None:
    spec = load_registry().get("basis", name)
    assert spec.layers == tuple(layers)
    assert spec.repositories == {find_release(name.split(":")[1]).repository: None}


def test_templates_put_a_star_for_the_layer() -> None:
    assert templates(["layer_0/w_1", "layer_11/w_1", "layer_0/w_2", "odd"]) == ["layer_*/w_1", "layer_*/w_2", "odd"]


@pytest.mark.slow
def test_listing_shows_the_scheme_and_imports_neither_torch_nor_saelens() -> None:
    code = (
        "import sys; from basisbench.registry import load_registry; registry = load_registry();"
        "names = [entry.name for entry in registry.listing('basis')];"
        "spec = registry.get('basis', 'sae:gpt2-small-res-jb');"
        "print(names[-1], spec.family, len(spec.layers));"
        "heavy = {'torch', 'sae_lens', 'transformers', 'huggingface_hub'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["sae:RELEASE[@REVISION][:PATTERN]", "resid", "12"]


# --- folders


def pythia() -> ModelSpec:
    return ModelSpec("tiny pythia", str(pythia_replica().snapshot(MODELS["pythia"].repository)), "tiny")


def download(release: str, folder: Path) -> Path:
    """Copy a repository's files out of the cache, as a user who downloaded it has them."""
    shutil.copytree(pythia_replica().snapshot(find_release(release).repository), folder)
    return folder


@pytest.mark.slow
def test_a_folder_of_saelens_folders_is_a_basis(tmp_path: Path) -> None:
    folder = download("pythia-70m-deduped-mlp-sm", tmp_path / "mlp")
    spec = load_registry().get("basis", f"sae:{folder}")
    assert (spec.family, spec.layers) == ("mlp", tuple(range(6)))
    basis = spec.build(load_model(pythia()))
    assert [site.write for site in basis.sites] == [f"blocks.{layer}.hook_mlp_out" for layer in range(6)]
    first = spec.fingerprint(pythia())
    (folder / "3-mlp-sm" / "cfg.json").write_text((folder / "3-mlp-sm" / "cfg.json").read_text() + " ")
    assert load_registry().get("basis", f"sae:{folder}").fingerprint(pythia()) != first


def test_the_pocket_dictionaries_are_such_a_folder() -> None:
    from basisbench_baselines.pocket import PROVIDES

    spec = load_registry().get("basis", f"sae:{PROVIDES[0].dictionaries['transcoder']}")
    assert (spec.family, spec.layers) == ("mlp", (0, 1, 2, 3))


def test_a_pattern_chooses_among_folders(tmp_path: Path) -> None:
    download("pythia-70m-deduped-mlp-sm", tmp_path / "all" / "mlp")
    download("pythia-70m-deduped-res-sm", tmp_path / "all" / "res")
    assert load_registry().get("basis", f"sae:{tmp_path / 'all'}:res/*").family == "resid"
    assert load_registry().get("basis", f"sae:{tmp_path / 'all'}:mlp/[012]-*").layers == (0, 1, 2)
    refused(f"sae:{tmp_path / 'all'}", "2 dictionaries", "choose one per layer")
    refused(f"sae:{tmp_path / 'all'}:*/[01]-???-sm", "2 dictionaries")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hook_name": "blocks.3.hook_resid_mid"}, "it sits at 'blocks.3.hook_resid_mid', which is none of the sites"),
        ({"hook_name": None}, "names the hook 'None'"),
        ({"hook_name": "blocks.3.mlp.hook_in", "architecture": "transcoder"}, "it writes at 'None', expected"),
        ({"model_from_pretrained_kwargs": {"fold_ln": True}}, "loaded with fold_ln=True"),
    ],
)
def test_a_configuration_that_fits_nothing_is_told(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    folder = download("pythia-70m-deduped-mlp-sm", tmp_path / "mlp")
    path = folder / "3-mlp-sm" / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(f"sae:{folder}", "3-mlp-sm/cfg.json", expected)


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    refused(f"sae:{tmp_path}", "holds no dictionary in a known format", "SAELens (cfg.json)", "sparsify")
