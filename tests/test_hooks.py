"""Hooks reach the places that the names promise, and none stays behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import oracle
from basisbench.errors import BasisBenchError
from basisbench.hooks import Place, edited, observed
from basisbench.replay import record


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    with oracle.in_double_precision():
        yield


@pytest.fixture(params=oracle.ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("layer", range(oracle.LAYERS))
@pytest.mark.parametrize("kind", ["mlp_in", "mlp_act", "mlp_out", "attn_out", "resid_post"])
def test_each_site_is_where_the_hand_written_module_name_says(architecture: str, kind: str, layer: int) -> None:
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    place = model.place(model.hook(kind, layer))  # type: ignore[arg-type]
    assert (place.module, place.end) == slow.where(kind, layer)


def test_the_bridge_names_the_same_activation(architecture: str) -> None:
    model = oracle.model(architecture)
    tokens = model.tokens(oracle.two_groups().evaluation[0].clean)
    kinds = ("mlp_in", "mlp_act", "mlp_out", "attn_out", "resid_post")
    hooks = [model.hook(kind, layer) for kind in kinds for layer in range(model.layers)]  # type: ignore[arg-type]
    with torch.no_grad(), observed(model.body, {hook: model.place(hook) for hook in hooks}) as seen:
        model.logits(tokens)
    _, cache = model.bridge.run_with_cache(tokens)
    for hook in hooks:
        torch.testing.assert_close(seen[hook], cache[hook], rtol=0, atol=1e-12)


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
    for kind in ("mlp_act", "attn_out", "resid_post"):
        place = model.place(model.hook(kind, 1))  # type: ignore[arg-type]
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
        record(model, torch.full_like(tokens, 10_000))
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
        recording = record(model, tokens)
        torch.testing.assert_close(recording.logits_from(start, {}), plain, rtol=0, atol=1e-12)
        three = recording.repeated(3).logits_from(start, {}).unflatten(0, (3, -1))
        torch.testing.assert_close(three, plain.expand(3, -1, -1), rtol=0, atol=1e-12)
        place = model.place(model.hook("mlp_out", 1))
        torch.testing.assert_close(
            recording.logits_from(start, {place: lambda x: 2 * x}),
            model.logits(tokens, {place: lambda x: 2 * x}),
            rtol=0,
            atol=1e-12,
        )


def test_the_weights_hash_follows_the_weights(architecture: str) -> None:
    from basisbench.load import load_model

    spec = oracle.model(architecture).spec
    first, second = load_model(spec), load_model(spec)
    assert first.weights_hash == oracle.model(architecture).weights_hash
    with torch.no_grad():
        parameter: nn.Parameter = next(second.body.parameters())
        parameter[0, 0] += 1e-9
    assert second.weights_hash != first.weights_hash
