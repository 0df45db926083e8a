"""Hooks reach the places that the names promise, and none stays behind."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from basisbench.errors import BasisBenchError
from basisbench.models.hooks import Place, edited, observed
from basisbench.models.load import wrap
from basisbench.models.sites import SITES, SiteKind
from basisbench.models.start_at_layer import block_inputs
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture(params=[*oracle.ALL_ARCHITECTURES, "neox_sequential"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("layer", range(oracle.LAYERS))
@pytest.mark.parametrize("kind", SITES)
def test_each_site_is_where_the_hand_written_module_name_says(architecture: str, kind: str, layer: int) -> None:
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    place = model.place(model.hook(kind, layer))  # type: ignore[arg-type]
    assert (place.module, place.end) == slow.where(kind, layer)


def test_the_bridge_names_the_same_activation(architecture: str) -> None:
    """Values at each place are TransformerLens's at the hook of that name, where heads have an axis of their own."""
    model = oracle.model(architecture)
    tokens = model.tokens(oracle.two_groups().evaluation[0].clean)
    hooks = [model.hook(kind, layer) for kind in SITES for layer in range(model.layers)]
    hooks += ["blocks.1.hook_resid_pre", "blocks.1.attn.hook_in"]
    with torch.no_grad(), observed(model.body, {hook: model.place(hook) for hook in hooks}) as seen:
        model.logits(tokens)
    _, cache = model.bridge.run_with_cache(tokens)
    for hook in hooks:
        expected = cache[hook].flatten(2) if hook.endswith("hook_z") else cache[hook]
        torch.testing.assert_close(seen[hook], expected, rtol=0, atol=1e-12)
    # No two kinds are one activation, so that none could be taken for another.
    values = [seen[model.hook(kind, 1)] for kind in SITES]
    for one, other in itertools.combinations(values, 2):
        assert one.shape != other.shape or not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("kind", SITES)
def test_writing_at_a_place_is_writing_at_the_bridge(architecture: str, kind: SiteKind) -> None:
    model = oracle.model(architecture)
    tokens = model.tokens(oracle.two_groups().evaluation[0].clean)
    for layer in range(model.layers):
        hook = model.hook(kind, layer)
        seen: list[Tensor] = []

        def write(activation: Tensor, **_: object) -> Tensor:
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(activation.shape, generator=generator, dtype=activation.dtype)
            return activation + noise

        with torch.no_grad():
            head = model.hook_point("unembed.hook_out")
            handle = head.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
            try:
                model.bridge.run_with_hooks(tokens, fwd_hooks=[(hook, write)])
            finally:
                handle.remove()
            plain, written = model.logits(tokens), model.logits(tokens, {model.place(hook): write})
        torch.testing.assert_close(written, seen[0][:, -1], rtol=0, atol=1e-12)
        assert (written - plain).abs().max() > 1e-3


def test_what_follows_the_sites_is_what_they_say(architecture: str) -> None:
    """The stream is its input plus both outputs; each output is its projection, or the norm after it."""
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    prompt = oracle.two_groups().evaluation[0].clean[0]
    parts = {
        "mlp_out": {"neox": "mlp.dense_4h_to_h", "gpt2": "mlp.c_proj"},
        "attn_out": {"neox": "attention.dense", "gpt2": "attn.c_proj"},
    }
    usual = {"mlp_out": "mlp.down_proj", "attn_out": "self_attn.o_proj"}
    norms = {"mlp_out": "post_feedforward_layernorm", "attn_out": "post_attention_layernorm"}
    for layer in range(model.layers):
        block = slow.where("resid_post", layer)[0]
        seen = slow.watched(prompt, {kind: slow.where(kind, layer) for kind in SITES} | {"pre": (block, "in")})
        total = seen["pre"] + seen["attn_out"] + seen["mlp_out"]
        torch.testing.assert_close(seen["resid_post"], total, rtol=0, atol=1e-12)
        for out, inner in (("mlp_out", "mlp_act"), ("attn_out", "attn_z")):
            name = parts[out].get(architecture.removesuffix("_sequential"), usual[out])
            written = slow.body.get_submodule(f"{block}.{name}")(seen[inner])
            if architecture in oracle.POST_NORMS:
                assert not torch.allclose(written, seen[out], atol=1e-3)
                written = slow.body.get_submodule(f"{block}.{norms[out]}")(written)
            torch.testing.assert_close(seen[out], written, rtol=0, atol=1e-12)


def test_logits_are_those_of_the_plain_model_at_the_last_position(architecture: str) -> None:
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    for pairs in oracle.two_groups().evaluation:
        with torch.no_grad():
            found = model.logits(model.tokens(pairs.clean))
            expected = torch.cat([slow.logits(prompt) for prompt in pairs.clean])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_bridge_shares_the_parameters(architecture: str) -> None:
    model = oracle.model(architecture)
    pointers = {parameter.data_ptr() for parameter in model.body.parameters()}
    embedding = model.component("embed").original_component.weight
    assert embedding.data_ptr() in pointers


def test_edits_replace_inputs_and_outputs_and_none_leaves_them(architecture: str) -> None:
    model = oracle.model(architecture)
    tokens = model.tokens(oracle.two_groups().evaluation[0].clean)
    plain = model.logits(tokens)
    kinds: tuple[SiteKind, ...] = ("mlp_act", "attn_z", "attn_out", "resid_post")
    # What enters attention is given by name in most of them.
    for hook in (*(model.hook(kind, 1) for kind in kinds), "blocks.1.attn.hook_in"):
        place = model.place(hook)
        assert torch.equal(model.logits(tokens, {place: lambda _: None}), plain)
        assert torch.equal(model.logits(tokens, {place: lambda x: x.clone()}), plain)
        # Not a constant and not a multiple: the final norm would undo those.
        changed = model.logits(tokens, {place: lambda x: x + torch.arange(x.shape[-1])})
        assert not torch.allclose(changed, plain)


def test_a_later_observer_sees_the_edited_activation(architecture: str) -> None:
    model = oracle.model(architecture)
    tokens = model.tokens(oracle.two_groups().evaluation[0].clean)
    place = model.place(model.hook("mlp_out", 0))
    with edited(model.body, {place: torch.zeros_like}), observed(model.body, {"a": place, "b": place}) as seen:
        model.logits(tokens)
    assert not seen["a"].any()
    assert seen["a"] is seen["b"]


def test_hooks_are_removed_after_success_and_after_an_exception(architecture: str) -> None:
    model = oracle.model(architecture)
    tokens = model.tokens(oracle.two_groups().evaluation[0].clean)
    place = model.place(model.hook("mlp_out", 1))
    before = oracle.hooks_of(model)

    def explode(_: Tensor) -> Tensor:
        raise ZeroDivisionError

    model.logits(tokens, {place: lambda x: x})
    assert oracle.hooks_of(model) == before
    with pytest.raises(ZeroDivisionError):
        model.logits(tokens, {model.place(model.hook("attn_out", 0)): lambda x: x, place: explode})
    assert oracle.hooks_of(model) == before
    missing = Place("no.such.module", "out")
    with pytest.raises(AttributeError), edited(model.body, {place: lambda x: x, missing: lambda x: x}):
        pass
    assert oracle.hooks_of(model) == before
    with pytest.raises(IndexError):
        block_inputs(model, torch.full_like(tokens, 10_000))
    assert oracle.hooks_of(model) == before


def test_the_hook_count_notices_a_hook(architecture: str) -> None:
    model = oracle.model(architecture)
    before = oracle.hooks_of(model)
    for module in (model.body.get_submodule(model.place(model.hook("mlp_out", 1)).module), model.bridge.blocks[0]):
        handle = module.register_forward_hook(lambda *_: None)
        assert oracle.hooks_of(model) != before
        handle.remove()
    assert oracle.hooks_of(model) == before


def test_a_hook_inside_a_module_or_unknown_is_refused_by_name(architecture: str) -> None:
    model = oracle.model(architecture)
    with pytest.raises(BasisBenchError, match=r"blocks\.0\.attn\.hook_pattern") as inside:
        model.place("blocks.0.attn.hook_pattern")
    with pytest.raises(BasisBenchError, match=r"blocks\.7\.hook_mlp_out") as unknown:
        model.place("blocks.7.hook_mlp_out")
    for caught in (inside, unknown):
        assert "\n" not in str(caught.value)
        assert model.name in str(caught.value)


@pytest.mark.parametrize("start", range(oracle.LAYERS))
def test_a_replay_from_any_block_gives_the_same_logits(architecture: str, start: int) -> None:
    model = oracle.model(architecture)
    tokens = model.tokens(oracle.two_groups().evaluation[0].clean)
    with torch.no_grad():
        plain = model.logits(tokens)
        entered = block_inputs(model, tokens)
        torch.testing.assert_close(entered.logits_from(start, {}), plain, rtol=0, atol=1e-12)
        for times in (entered.repeated(3), entered.repeated(3, start)):
            three = times.last_logits_from(start, {}, keep=2).unflatten(0, (3, -1))
            torch.testing.assert_close(three[:, :, -1], plain.expand(3, -1, -1), rtol=0, atol=1e-12)
            assert three.shape[2] == 2
        place = model.place(model.hook("mlp_out", 1))
        torch.testing.assert_close(
            entered.logits_from(start, {place: lambda x: 2 * x}),
            model.logits(tokens, {place: lambda x: 2 * x}),
            rtol=0,
            atol=1e-12,
        )


def test_a_replay_gives_blocks_all_that_they_are_given() -> None:
    """GPT-2 hands its causal mask on by position; only the eager implementation needs one."""
    from transformers import AutoModelForCausalLM

    plain = oracle.model("gpt2")
    body = AutoModelForCausalLM.from_pretrained(plain.spec.path, dtype=torch.float64, attn_implementation="eager")
    model = wrap(body, plain.tokenizer, plain.spec)
    tokens = model.tokens(oracle.two_groups().evaluation[0].clean)
    with torch.no_grad():
        entered = block_inputs(model, tokens)
        torch.testing.assert_close(entered.logits_from(0, {}), plain.logits(tokens), rtol=0, atol=1e-12)
        twice = entered.repeated(2).logits_from(1, {}).unflatten(0, (2, -1))
        torch.testing.assert_close(twice, plain.logits(tokens).expand(2, -1, -1), rtol=0, atol=1e-12)


def test_the_weights_hash_follows_the_weights(architecture: str) -> None:
    from basisbench.models.load import load_model

    spec = oracle.model(architecture).spec
    first, second = load_model(spec), load_model(spec)
    assert first.weights_hash == oracle.model(architecture).weights_hash
    with torch.no_grad():
        parameter: nn.Parameter = next(second.body.parameters())
        parameter[0, 0] += 1e-9
    assert second.weights_hash != first.weights_hash
