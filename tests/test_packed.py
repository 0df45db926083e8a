"""Packed weights give PyTorch's own products, up to float32 rounding, and leave the model alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sae_lens.saes.transcoder import JumpReLUTranscoder, JumpReLUTranscoderConfig
from torch import Tensor, nn

from basisbench.model import load_model
from basisbench.packed import pack_linears, packed_linear
from basisbench.protocols import ModelSpec
from basisbench_baselines.bases.dictionaries import quick_jumprelu


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 70),
    outputs=st.integers(1, 70),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_packed_map_is_the_linear_map(rows: int, width: int, outputs: int, bias: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, width, generator=generator)
    offset = torch.randn(outputs, generator=generator) if bias else None
    x = torch.randn(2, rows, width, generator=generator)
    packed = packed_linear(weight, offset)
    assert packed is not None
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), nn.functional.linear(x, weight, offset), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_not_packed(dtype: torch.dtype) -> None:
    assert packed_linear(torch.ones(3, 2, dtype=dtype), None) is None


@pytest.mark.parametrize("shape", ["tiny_llama", "tiny_gpt2"])
def test_a_packed_model_gives_the_logits_and_shares_its_parameters(shape: str, request: pytest.FixtureRequest) -> None:
    spec: ModelSpec = request.getfixturevalue(shape)
    model = load_model(spec)
    twin = pack_linears(model.body)
    assert twin is not None
    assert {id(parameter) for parameter in twin.parameters()} == {
        id(parameter) for parameter in model.body.parameters()
    }
    tokens = torch.arange(24).view(3, 8)
    with torch.inference_mode():
        plain = model.logits(tokens)
        quick = model.logits(tokens, packed=True)
    assert not torch.equal(plain, torch.zeros_like(plain))
    torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-5)


def test_gradients_do_not_go_through_packed_weights(tiny_llama: ModelSpec) -> None:
    model = load_model(tiny_llama)
    twin = pack_linears(model.body)
    assert twin is not None
    tokens = torch.arange(8).view(1, 8)
    embeddings = [body.get_input_embeddings()(tokens).requires_grad_() for body in (model.body, twin)]
    gradients = [
        torch.autograd.grad(body(inputs_embeds=embedded).logits[0, -1, 3], embedded)[0]
        for body, embedded in zip((model.body, twin), embeddings, strict=True)
    ]
    assert gradients[0].abs().sum() > 0
    assert torch.equal(gradients[0], gradients[1])


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
def test_the_quick_form_of_a_dictionary_is_saelens_own(dictionary: nn.Module) -> None:
    _randomised(dictionary)
    quick = quick_jumprelu(dictionary)
    assert quick is not None
    x = torch.randn(4, 5, 12)
    with torch.inference_mode():
        expected: Tensor = dictionary.encode(x)  # type: ignore[operator]
        found = quick.encode(x)
        assert 0.1 < float((expected != 0).float().mean()) < 0.9
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(quick.decode(expected), dictionary.decode(expected), rtol=1e-4, atol=1e-4)  # type: ignore[operator]


def test_other_architectures_keep_saelens_own_code() -> None:
    assert quick_jumprelu(TopKSAE(TopKSAEConfig(d_in=12, d_sae=40, k=3))) is None
