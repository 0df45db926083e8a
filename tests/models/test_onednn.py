"""oneDNN's weights give PyTorch's own products, up to float32 rounding, and leave the model alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sae_lens.saes.transcoder import JumpReLUTranscoder, JumpReLUTranscoderConfig
from torch import Tensor, nn

from basisbench.attribution.batch import Batch
from basisbench.attribution.gradients import gradient_field
from basisbench.models import onednn
from basisbench.models.hooks import observed
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.models.onednn import OneDnnLinear, onednn_linear, onednn_linears, onednn_twin
from basisbench.types import ModelSpec
from basisbench_baselines.dictionaries.fast import independent_units

WORTH_IT = onednn.onednn_is_worth_it.__wrapped__
"""The function under its cache; the tests' fixture puts a constant in its place."""

EXAMPLES = settings(max_examples=25)
ANY_MAP = given(
    rows=st.integers(1, 40),
    width=st.integers(1, 70),
    outputs=st.integers(1, 70),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)


@EXAMPLES
@ANY_MAP
def test_a_packed_map_is_the_linear_map(rows: int, width: int, outputs: int, bias: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, width, generator=generator)
    offset = torch.randn(outputs, generator=generator) if bias else None
    x = torch.randn(2, rows, width, generator=generator)
    packed = OneDnnLinear(weight, offset)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), nn.functional.linear(x, weight, offset), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_not_packed(dtype: torch.dtype) -> None:
    assert onednn_linear(torch.ones(3, 2, dtype=dtype), None) is None


@pytest.mark.parametrize("shape", ["tiny_llama", "tiny_gpt2"])
def test_a_packed_model_gives_the_logits_and_shares_its_parameters(shape: str, request: pytest.FixtureRequest) -> None:
    spec: ModelSpec = request.getfixturevalue(shape)
    model = load_model(spec)
    linears = onednn_linears(model.body)
    assert linears
    twin = onednn_twin(model.body, linears)
    assert {id(parameter) for parameter in twin.parameters()} == {
        id(parameter) for parameter in model.body.parameters()
    }
    tokens = torch.arange(24).view(3, 8)
    with torch.inference_mode():
        plain = model.logits(tokens)
        quick = model.logits(tokens, fast=True)
    assert not torch.equal(plain, torch.zeros_like(plain))
    torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-5)


@EXAMPLES
@ANY_MAP
def test_gradients_of_a_packed_map_are_those_of_the_linear_map(
    rows: int, width: int, outputs: int, bias: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, width, generator=generator)
    offset = torch.randn(outputs, generator=generator) if bias else None
    x = torch.randn(2, rows, width, generator=generator, requires_grad=True)
    outer = torch.randn(2, rows, outputs, generator=generator)
    packed = OneDnnLinear(weight, offset)
    with torch.inference_mode():
        packed(x)  # whoever packs first, gradients must work afterwards
    (found,) = torch.autograd.grad(packed(x), x, outer)
    (expected,) = torch.autograd.grad(nn.functional.linear(x, weight, offset), x, outer)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@cache
def packed_and_plain(folder: str) -> tuple[Model, Model]:
    """Load a model, and once more as on a machine without oneDNN."""
    packed, plain = (load_model(ModelSpec("tiny", folder, "")) for _ in range(2))
    vars(plain)["onednn_linears"] = {}
    return packed, plain


@pytest.mark.parametrize("shape", ["tiny_llama", pytest.param("tiny_gpt2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", ["ixg", "ig", "ig_inputs", "relp"])
def test_gradient_fields_through_packed_weights_are_those_of_the_plain_model(
    shape: str, rule: str, request: pytest.FixtureRequest
) -> None:
    packed, plain = packed_and_plain(request.getfixturevalue(shape).path)
    tokens = torch.arange(2, 50).view(2, 4, 6)
    choice = torch.tensor([[3], [9], [14], [20]])
    batch = Batch(clean=tokens[0], counterfactual=tokens[1], answers=choice, foils=choice + 1)
    hooks = [packed.hook(kind, layer) for layer in range(2) for kind in ("mlp_act", "mlp_out", "attn_out")]
    with observed(plain.body, {hook: plain.place(hook) for hook in hooks}) as ends, torch.no_grad():
        plain.logits(batch.counterfactual)
    found, expected = (gradient_field(rule, model, batch, hooks, ends=dict(ends)) for model in (packed, plain))
    assert packed.fast_body is not packed.body
    assert plain.fast_body is plain.body
    for hook in hooks:
        assert expected[hook].abs().max() > 1e-3
        torch.testing.assert_close(found[hook], expected[hook], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("own_seconds", "chosen"), [(0.5, False), (0.7, False), (0.8, True), (2.0, True)])
def test_pytorchs_own_product_is_taken_where_it_is_clearly_faster(
    own_seconds: float, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that says how long each product takes; the first run, which packs and warms up, counts for nothing."""
    now = 0.0

    def taking(seconds: float) -> Any:
        runs = iter([100.0, *[seconds] * 10])

        def product(x: Tensor) -> Tensor:
            nonlocal now
            now += next(runs)
            return x

        return product

    monkeypatch.setattr(onednn.time, "perf_counter", lambda: now)
    monkeypatch.setattr(onednn, "_plain_map", lambda *_: taking(own_seconds))
    monkeypatch.setattr(onednn, "OneDnnLinear", lambda *_: taking(1.0))
    assert WORTH_IT(64, 32), "too small to be timed"
    assert WORTH_IT(512, 128) is chosen


def test_shapes_are_timed_once_and_where_own_products_are_faster_the_body_is_its_own(
    tiny_llama: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def no(*shape: int) -> bool:
        asked.append(shape)
        return False

    monkeypatch.setattr(onednn, "onednn_is_worth_it", no)
    model = load_model(tiny_llama)
    assert model.fast_body is model.body
    assert asked
    assert all(size & (size - 1) == 0 and size <= 512 for shape in asked for size in shape)


def _randomised(dictionary: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            parameter.copy_(torch.randn_like(parameter))
            if name == "threshold":
                parameter[: len(parameter) // 2].neg_()
    return dictionary.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "dictionary",
    [
        JumpReLUSAE(JumpReLUSAEConfig(d_in=12, d_sae=40, apply_b_dec_to_input=False)),
        JumpReLUSAE(JumpReLUSAEConfig(d_in=12, d_sae=40, apply_b_dec_to_input=True)),
        JumpReLUTranscoder(JumpReLUTranscoderConfig(d_in=12, d_out=9, d_sae=40, apply_b_dec_to_input=False)),
    ],
    ids=["sae", "sae that subtracts its bias", "transcoder"],
)
def test_the_fast_form_of_a_dictionary_is_saelens_own(dictionary: nn.Module) -> None:
    _randomised(dictionary)
    fast = independent_units(dictionary)
    assert fast is not None
    x = torch.randn(4, 5, 12)
    with torch.inference_mode():
        expected: Tensor = dictionary.encode(x)  # type: ignore[operator]
        found = fast.encode(x)
        assert 0.1 < float((expected != 0).float().mean()) < 0.9
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fast.decode(expected), dictionary.decode(expected), rtol=1e-4, atol=1e-4)  # type: ignore[operator]


def test_other_architectures_keep_saelens_own_code() -> None:
    assert independent_units(TopKSAE(TopKSAEConfig(d_in=12, d_sae=40, k=3))) is None
