"""What decides the numbers of published dictionaries, held against the sources it comes from.

1. SAELens's loaders: what `pinned` replaces is still there and still all there is.
2. Hooks: Gemma Scope 2's configurations name modules of the Hugging Face model; our sites are those modules.
3. Gemma Scope's transcoders read the normalised residual stream before the norm's gain.
   https://huggingface.co/google/gemma-scope-2b-pt-transcoders, section 3, which quotes arXiv 2408.05147v2, page 18:
   "We fold the pre-MLP RMS norm gain parameters into the MLP input matrices [...] and then train the transcoder on
   input activations just after the pre-MLP RMSNorm". circuit-tracer reads them at the same place: its
   `ln2.hook_normalized` is the output of the norm's `_norm` (circuit_tracer/utils/tl_nnsight_mapping.py).
4. gpt2-small-res-jb was trained on a model whose writing weights were centred.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from torch import Tensor

from basisbench.errors import BasisError
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.registry import load_registry
from basisbench.types import ModelSpec
from basisbench_baselines.dictionaries.hub_snapshot import Snapshot, pinned, quiet, resolve
from basisbench_baselines.dictionaries.placement import Placement, place
from basisbench_baselines.dictionaries.releases import _REFUSED, _WEIGHTS, find_release
from basisbench_baselines.dictionaries.saelens_adapter import adapt
from helpers import oracle
from helpers.hub_releases import RELEASES
from helpers.hub_replica import MODELS, replica
from helpers.random_dictionaries import make


@pytest.fixture(autouse=True)
def _hub() -> Iterator[None]:
    with replica().in_use():
        yield


def tiny(key: str) -> Model:
    return load_model(ModelSpec(key, str(replica().snapshot(MODELS[key].repository)), "tiny"), dtype="float32")


# --- 1. SAELens's loaders


def test_saelens_still_takes_no_revision() -> None:
    """When this fails SAELens can pin a revision itself: use that in place of `pinned`."""
    assert "revision" not in inspect.signature(SAE.from_pretrained).parameters


def test_every_download_of_the_loaders_goes_through_the_two_functions_that_are_replaced() -> None:
    tree = ast.parse(inspect.getsource(loaders))
    network = {"hf_hub_download", "hf_hub_url", "requests", "build_hf_headers", "get_safetensors_tensor_shapes"}
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and (getattr(node, "module", None) or node.names[0].name).startswith(
            ("huggingface_hub", "requests", "httpx", "urllib")
        )
        for alias in node.names
    }
    assert imported == {"hf_hub_download", "hf_hub_url", "EntryNotFoundError", "build_hf_headers", "requests"}
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        used = network & {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        own = {"get_safetensors_tensor_shapes", "_get_with_rate_limit_retry"}
        assert function.name in own or used <= {"hf_hub_download", "get_safetensors_tensor_shapes"}, function.name


def test_the_loaders_whose_files_are_known_are_all_of_saelens() -> None:
    assert set(loaders.NAMED_PRETRAINED_SAE_LOADERS) == set(_WEIGHTS) | set(_REFUSED)


@pytest.mark.parametrize("name", [name for name, release in RELEASES.items() if release.model != "gemma-2"])
def test_the_weight_file_is_among_those_that_saelens_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    download = Snapshot.download
    monkeypatch.setattr(
        Snapshot,
        "download",
        lambda self, filename, **more: (read.append(filename), download(self, filename, **more))[1],
    )
    monkeypatch.setattr(loaders.requests, "get", lambda *_arguments, **_more: pytest.fail("asked the network"))
    release = RELEASES[name]
    identifier = release.at(3)
    before = loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes
    with pinned(resolve(release.repository, None)), quiet():
        SAE.from_pretrained(name, identifier)
    assert (loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes) == before
    assert find_release(name).weights(identifier) in read


def test_a_pinned_commit_is_read_though_the_branch_has_moved_on() -> None:
    release = RELEASES["pythia-70m-deduped-att-sm"]
    old = resolve(release.repository, None)
    with pinned(old):
        before = SAE.from_pretrained(release.name, release.at(1)).W_enc
    path = find_release(release.name).weights(release.at(1))
    other = (replica().snapshot(release.repository) / find_release(release.name).weights(release.at(2))).read_bytes()
    replica().commit(release.repository, {path: other}, branch="moved")
    new = resolve(release.repository, "moved")
    assert new.commit != old.commit
    for snapshot, same in ((old, True), (new, False)):
        with pinned(snapshot):
            assert torch.equal(SAE.from_pretrained(release.name, release.at(1)).W_enc, before) == same
    name = f"sae:{release.name}"
    spec, model = load_registry().get("basis", name), ModelSpec("m", "m", "m")
    assert spec.fingerprint(model) == load_registry().get("basis", f"{name}@{old.commit}").fingerprint(model)
    moved = load_registry().get("basis", f"{name}@moved").fingerprint(model)
    assert moved != spec.fingerprint(model)
    suite = replace(model, revisions={release.repository: new.commit})
    assert spec.fingerprint(suite) == load_registry().get("basis", f"{name}@{new.commit}").fingerprint(model)


def test_the_fingerprint_tells_one_choice_of_dictionaries_from_another() -> None:
    model, name = ModelSpec("m", "m", "m"), "sae:pythia-70m-deduped-res-sm"
    found = {
        load_registry().get("basis", f"{name}:{pattern}").fingerprint(model)
        for pattern in ("*_post", "blocks.[0-3].*_post", "blocks.[1-4].*_post")
    }
    assert len(found) == 3


# --- 2. hooks


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, release in RELEASES.items() if release.model == "gemma-3"])
def test_sites_of_gemma_scope_2_are_the_modules_that_its_configuration_names(name: str) -> None:
    """SAELens's own name for what its transcoders read, hook_mlp_in, is another place."""
    model, release = tiny("gemma-3"), RELEASES[name]
    choice = release.pattern.format("*")
    basis = load_registry().get("basis", f"sae:{name}:{choice}").build(model)
    with pinned(resolve(release.repository, None)):
        config = loaders.load_sae_config_from_huggingface(name, release.at(5))["metadata"]
    site = basis.sites[5]
    for hook, named in ((site.read, config["hf_hook_name"]), (site.write, config.get("hf_hook_name_out"))):
        if named is not None:
            module, _, end = named.rpartition(".")
            found = model.place(hook)
            assert (module, end[:3]) == (found.module, "out" if found.end == "out" else "inp") or (
                # The MLP's input is the output of the norm in front of it.
                (module, end) == ("model.layers.5.pre_feedforward_layernorm", "output")
                and (found.module, found.end) == ("model.layers.5.mlp", "in")
            )
    if "transcoders" in name:
        assert config["hook_name"] == "blocks.5.hook_mlp_in"
        point = model.bridge.blocks[5].hook_mlp_in
        assert point is not model.hook_point(site.read)


def test_a_transcoder_at_hook_mlp_in_is_refused_without_the_publishers_word() -> None:
    facts = {"hook_name": "blocks.3.hook_mlp_in", "hook_name_out": "blocks.3.hook_mlp_out"}
    with pytest.raises(BasisError, match=r"a transcoder can read mlp\.hook_in"):
        place("jumprelu_transcoder", facts)
    named = {**facts, "hf_hook_name": "model.layers.3.pre_feedforward_layernorm.output"}
    assert place("jumprelu_transcoder", named) == Placement("mlp", 3, "mlp_in", "mlp_out")
    with pytest.raises(BasisError):
        place("jumprelu_transcoder", {**facts, "hf_hook_name": "model.layers.4.pre_feedforward_layernorm.output"})


# --- 3. before the gain


def test_hook_normalized_of_an_rms_norm_is_before_its_gain() -> None:
    """TransformerLens 3.9, components/rms_norm.py."""
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.components.rms_norm import RMSNorm

    norm: Any = RMSNorm(HookedTransformerConfig(n_layers=1, d_model=8, n_ctx=4, d_head=4, act_fn="relu", eps=1e-3))
    seen: list[Tensor] = []
    norm.hook_normalized.add_hook(lambda value, hook: seen.append(value))  # noqa: ARG005 -- given by name
    x = torch.randn(1, 3, 8)
    with torch.no_grad():
        norm.w.copy_(torch.linspace(-1, 2, 8))
        after = norm(x)
    torch.testing.assert_close(seen[0], x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt())
    torch.testing.assert_close(after, seen[0] * norm.w)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gemma2", "llama"])
def test_dividing_by_the_gain_gives_back_what_the_norm_computed_before_it(architecture: str) -> None:
    model = oracle.model(architecture)
    placement = place(
        "transcoder", {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    )
    assert placement == Placement("mlp", 1, "mlp_in", "mlp_out", before_gain=True)
    gain = placement.gain(model)
    norm = model.component("blocks.1.ln2").original_component
    x = torch.randn(5, oracle.D_MODEL, dtype=torch.float64)
    epsilon = getattr(norm, "eps", None) or norm.variance_epsilon
    normalised = x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()
    with oracle.in_double_precision():
        after = norm(x)
    torch.testing.assert_close(after / gain, normalised, rtol=0, atol=1e-12)
    assert (gain - 1).abs().max() > 0.1
    # And so the features are those of SAELens on the normalised stream.
    theirs = make("jumprelu_transcoder", width=oracle.D_MODEL)
    ours = adapt(make("jumprelu_transcoder", width=oracle.D_MODEL), gain=gain)
    torch.testing.assert_close(ours.encode(after), theirs.encode(normalised), rtol=0, atol=1e-10)


def test_the_same_hook_of_a_layer_norm_is_refused() -> None:
    """TransformerLens moved it from behind the gain to before it: which one was meant cannot be told."""
    placement = place(
        "transcoder", {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    )
    assert placement is not None
    with pytest.raises(BasisError, match="only RMSNorms can be read there"):
        placement.gain(oracle.model("gpt2"))


# --- 4. a centred residual stream


def centred_gpt2(body: Any) -> Any:
    """Return GPT-2 as `center_writing_weights` makes it: whatever writes to the residual stream has mean zero.

    TransformerLens 3.9, weight_processing.py. The head keeps the weights that it shares with the embedding.
    """
    changed = copy.deepcopy(body)
    head = changed.lm_head.weight.detach().clone()
    with torch.no_grad():
        blocks = changed.transformer.h
        writers = [changed.transformer.wte.weight, changed.transformer.wpe.weight]
        writers += [layer.weight for block in blocks for layer in (block.attn.c_proj, block.mlp.c_proj)]
        for weight in writers:
            weight -= weight.mean(-1, keepdim=True)
        for block in blocks:
            for layer in (block.attn.c_proj, block.mlp.c_proj):
                layer.bias -= layer.bias.mean()
        changed.lm_head.weight = torch.nn.Parameter(head)
    return changed


def watched(body: Any, tokens: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """Return logits, and the residual stream after each block."""
    seen: dict[int, Tensor] = {}

    def watch(layer: int) -> Any:
        def hook(_module: Any, _arguments: Any, output: Any) -> None:
            seen[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [block.register_forward_hook(watch(layer)) for layer, block in enumerate(body.transformer.h)]
    with torch.no_grad():
        logits: Tensor = body(tokens).logits
    for handle in handles:
        handle.remove()
    return logits, seen


@pytest.mark.slow
def test_res_jb_gets_the_features_and_the_error_that_it_has_on_the_model_it_was_trained_on() -> None:
    name = "gpt2-small-res-jb"
    model = load_model(ModelSpec("gpt2", str(replica().snapshot(MODELS["gpt2"].repository)), "tiny"), dtype="float64")
    processed = centred_gpt2(model.body)
    basis = load_registry().get("basis", f"sae:{name}").build(model)
    tokens = torch.randint(2, 100, (4, 9), generator=torch.Generator().manual_seed(0))
    (logits, ours), (other_logits, theirs) = (watched(body, tokens) for body in (model.body, processed))
    torch.testing.assert_close(other_logits, logits, rtol=0, atol=1e-9)
    release = RELEASES[name]
    for site in basis.sites:
        x, trained_on = ours[site.layer], theirs[site.layer]
        torch.testing.assert_close(x - x.mean(-1, keepdim=True), trained_on, rtol=0, atol=1e-9)
        assert x.mean(-1).abs().max() > 0.05
        with pinned(resolve(release.repository, None)), quiet():
            sae = SAE.from_pretrained(name, release.at(site.layer), dtype="float64")
        with torch.no_grad():
            units = basis.encode(site, x)
            torch.testing.assert_close(units[..., :-1], sae.encode(trained_on), rtol=0, atol=1e-9)
            error = x - basis.decode(site, units)
            torch.testing.assert_close(error, trained_on - sae(trained_on), rtol=0, atol=1e-9)


def test_centring_is_only_done_where_transformerlens_would() -> None:
    """Not for models with RMSNorms, and not for what is no write to the residual stream."""
    facts = {"model_from_pretrained_kwargs": {"center_writing_weights": True, "fold_ln": False}}
    written = place("standard", {**facts, "hook_name": "blocks.1.hook_mlp_out"})
    heads = place("standard", {**facts, "hook_name": "blocks.1.attn.hook_z"})
    assert written is not None
    assert heads is not None
    assert written.is_centred(oracle.model("gpt2"))
    assert not written.is_centred(oracle.model("llama"))
    assert not heads.is_centred(oracle.model("gpt2"))
    transcoder = {**facts, "hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    with pytest.raises(BasisError, match="no function of what it reads"):
        place("transcoder", transcoder)
