"""GIM against backward passes written out by hand, with autograd and without; its invariants."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from basisbench.attribution.gradients import gradient_field
from basisbench.attribution.projection import projected_scores
from basisbench.models.relp import backward_rules
from basisbench.protocols import Method
from basisbench.registry import load_registry
from basisbench_baselines.methods.gim import RULES
from helpers import oracle
from helpers.backward import close, gradient_at_embeddings
from helpers.plugins import plugin

pytestmark = pytest.mark.usefixtures("double_precision")

LLAMA = "llama"


class _Softer(torch.autograd.Function):
    """Softmax whose gradient is that of a softmax at temperature 2, by the formula."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        ctx.save_for_backward(scores)
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override] -- as PyTorch calls it
        (scores,) = ctx.saved_tensors
        softer = (scores / 2).softmax(-1)
        return softer * (gradient - (gradient * softer).sum(-1, keepdim=True))


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override] -- as PyTorch calls it
        return ctx.factor * gradient, None


def by_hand(model: Any, tokens: Tensor, gate: float) -> tuple[Tensor, list[Tensor]]:
    """Run a Llama written out in full, under GIM's rules; return the last logits and each MLP's output."""
    body, config = model.body.model, model.body.config
    heads, groups = config.num_attention_heads, config.num_attention_heads // config.num_key_value_heads
    width = config.hidden_size // heads

    def norm(module: Any, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt().detach() * module.weight

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, width)).transpose(1, 2)

    x = body.embed_tokens(tokens).detach().requires_grad_()
    length = tokens.shape[1]
    cos, sin = body.rotary_emb(x, torch.arange(length).unsqueeze(0))

    def rotate(value: Tensor) -> Tensor:
        first, second = value.chunk(2, -1)
        return value * cos.unsqueeze(1) + torch.cat([-second, first], -1) * sin.unsqueeze(1)

    future = torch.full((length, length), -math.inf, dtype=x.dtype).triu(1)
    outputs = []
    for layer in body.layers:
        attention, mlp, h = layer.self_attn, layer.mlp, norm(layer.input_layernorm, x)
        q = rotate(split(_Scaled.apply(attention.q_proj(h), 0.25)))
        k = rotate(split(_Scaled.apply(attention.k_proj(h), 0.25))).repeat_interleave(groups, 1)
        v = split(_Scaled.apply(attention.v_proj(h), 0.5)).repeat_interleave(groups, 1)
        pattern = _Softer.apply(q @ k.transpose(-1, -2) / math.sqrt(width) + future)
        x = x + attention.o_proj((pattern @ v).transpose(1, 2).flatten(2))
        h = norm(layer.post_attention_layernorm, x)
        activated, up = torch.nn.functional.silu(mlp.gate_proj(h)), mlp.up_proj(h)
        outputs.append(mlp.down_proj(_Scaled.apply(activated, gate) * _Scaled.apply(up, gate)))
        outputs[-1].retain_grad()
        x = x + outputs[-1]
    return model.body.lm_head(norm(body.norm, x[:, -1])), outputs


@pytest.mark.parametrize(("method", "gate"), [
    (load_registry().get("method", "gim"), 1.0), (plugin("method", "gim_gated"), 0.5),
])  # fmt: skip
def test_it_is_a_backward_pass_written_out_by_hand(method: Method, gate: float) -> None:
    context, model = oracle.contexts(LLAMA)[0].attribution, oracle.model(LLAMA)
    batch, basis = context.batch, oracle.basis(LLAMA, "mlp_out")
    with torch.enable_grad():
        logits, outputs = by_hand(model, batch.clean, gate)
        close(logits.detach(), model.logits(batch.clean))
        (logits.gather(1, batch.answers).mean(1) - logits.gather(1, batch.foils).mean(1)).sum().backward()
    others = [context.activation(site.write, "counterfactual").mean(0) for site in basis.sites]
    found = method.score(context, basis)
    plain = projected_scores(context, basis, "ixg")
    for units, output, other, autograd in zip(found.units, outputs, others, plain.units, strict=True):
        close(units, (output.grad * (other - output.detach())).mean(0))  # type: ignore[operator] -- it was retained
        if output is not outputs[-1]:  # after the last attention nothing but the norm is left
            assert float((units - autograd).abs().max()) > 1e-3 * float(autograd.abs().max())


def test_an_attention_without_automatic_differentiation() -> None:
    """From the heads of GPT-2's last block back to what its attention reads, every product written out."""
    context, model = oracle.contexts("gpt2")[0].attribution, oracle.model("gpt2")
    hooks = [f"blocks.1.{name}" for name in ("attn.hook_z", "ln1.hook_out")]
    found = gradient_field(RULES, model, context.batch, hooks)
    x, heads, width = context.activation(hooks[1], "clean"), 4, oracle.D_MODEL // 4
    attention = oracle.naive("gpt2").body.get_submodule("transformer.h.1.attn.c_attn")
    weight, bias = attention.weight.detach(), attention.bias.detach()
    at_z, length = found[hooks[0]], x.shape[1]
    expected = torch.zeros_like(x)
    for head in range(heads):
        own = [
            slice(part * oracle.D_MODEL + head * width, part * oracle.D_MODEL + (head + 1) * width) for part in range(3)
        ]
        q, k, v = (x @ weight[:, columns] + bias[columns] for columns in own)
        scores = q @ k.transpose(1, 2) / math.sqrt(width)
        scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -math.inf)
        at_head = at_z.flatten(2)[..., head * width : (head + 1) * width]
        at_value, at_pattern = scores.softmax(-1).transpose(1, 2) @ at_head, at_head @ v.transpose(1, 2)
        softer = (scores / 2).softmax(-1)
        at_scores = softer * (at_pattern - (softer * at_pattern).sum(-1, keepdim=True)) / math.sqrt(width)
        at_query, at_key = at_scores @ k, at_scores.transpose(1, 2) @ q
        for share, gradient, columns in zip((0.25, 0.25, 0.5), (at_query, at_key, at_value), own, strict=True):
            expected += share * gradient @ weight[:, columns].T
    close(found[hooks[1]], expected)


def test_without_its_rules_it_is_input_times_gradient(architecture: str) -> None:
    context = oracle.contexts(architecture)[1].attribution
    idle = replace(RULES, norms="autograd", temperature=1, queries=1, keys=1, values=1)
    for name in ("mlp_act", "attn_z", "resid"):
        basis = oracle.basis(architecture, name)
        for found, expected in zip(
            projected_scores(context, basis, idle).units, projected_scores(context, basis, "ixg").units, strict=True
        ):
            close(found, expected)


def test_the_forward_pass_is_bit_equal_and_no_hook_stays(architecture: str) -> None:
    model, tokens = oracle.model(architecture), oracle.contexts(architecture)[0].attribution.batch.clean
    plain, before = model.bridge(tokens), oracle.hooks_of(model)
    with backward_rules(model, RULES):
        assert oracle.hooks_of(model) != before
        assert torch.equal(model.bridge(tokens), plain)
    assert oracle.hooks_of(model) == before
    with pytest.raises(ZeroDivisionError), backward_rules(model, RULES):
        raise ZeroDivisionError
    assert oracle.hooks_of(model) == before


def test_nothing_flows_from_the_future(architecture: str) -> None:
    """Softer attention still looks back only: a gradient of position 2 is that of the prompt's first three tokens."""
    model, tokens = oracle.model(architecture), oracle.contexts(architecture)[0].attribution.batch.clean[:1]
    field = gradient_at_embeddings(model, tokens, 2, RULES)
    assert not field[3:].any()
    assert (field[:3].abs().amax(1) > 1e-6).all()
    torch.testing.assert_close(field[:3], gradient_at_embeddings(model, tokens[:, :3], 2, RULES), rtol=0, atol=1e-12)
