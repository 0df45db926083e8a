"""RelP against two closed forms: a forward pass with every detach written out, and products without autograd."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from basisbench.attribution.batch import Batch
from basisbench.attribution.context import GroupContext
from basisbench.attribution.gradients import gradient_field
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.types import ModelSpec, Pairs
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")


def pairs_of() -> Pairs:
    return oracle.two_groups().attribution[0]


def tokens_of(model: Model, index: int) -> Tensor:
    return model.tokens(pairs_of().clean[index : index + 1])


def _batch(model: Model, pairs: Pairs) -> Batch:
    return GroupContext(model, pairs, 0).batch


@cache
def one_layer() -> Model:
    spec = ModelSpec("tiny-llama-1", str(oracle.checkpoint("llama", 1)), "one layer")
    return load_model(spec)


def test_a_one_layer_llama_by_hand() -> None:
    """The forward pass written out, with a detach wherever a rule says constant."""
    model = one_layer()
    weights = dict(model.body.state_dict())
    pairs = pairs_of()
    kinds = ("attn_out", "mlp_in", "mlp_act", "mlp_out", "resid_post")
    hooks = {kind: model.hook(kind, 0) for kind in kinds} | {"embed": "embed.hook_out"}  # type: ignore[arg-type]
    fields = gradient_field("relp", model, _batch(model, pairs), list(hooks.values()))
    for index in range(len(pairs)):
        seen, logits = _forward_by_hand(weights, pairs.clean[index])
        assert torch.allclose(logits, model.logits(tokens_of(model, index))[0], rtol=0, atol=1e-12)
        metric = logits[pairs.answers[index]].mean() - logits[pairs.foils[index]].mean()
        names = list(hooks)
        gradients = torch.autograd.grad(metric, [seen[name] for name in names])
        for name, expected in zip(names, gradients, strict=True):
            torch.testing.assert_close(fields[hooks[name]][index], expected, rtol=0, atol=1e-12, msg=name)


def _forward_by_hand(weights: dict[str, Tensor], prompt: object) -> tuple[dict[str, Tensor], Tensor]:
    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))

    def norm(name: str, x: Tensor) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return x / scale.detach() * weights[f"{name}.weight"]

    seen: dict[str, Tensor] = {}
    ids = torch.as_tensor(prompt)
    length, heads, groups, width = len(ids), 4, 2, oracle.D_MODEL // 4
    seen["embed"] = x = weights["model.embed_tokens.weight"][ids].clone().requires_grad_()

    prefix = "model.layers.0"
    normed = norm(f"{prefix}.input_layernorm", x)
    query, key, value = (linear(f"{prefix}.self_attn.{part}_proj", normed) for part in "qkv")
    angles = torch.arange(length)[:, None] * 10_000.0 ** -(torch.arange(0, width, 2).float() / width)
    # The model computes its rotary angles in float32.
    angles = angles.float()
    cosine, sine = angles.cos().double(), angles.sin().double()

    def rotated(vector: Tensor) -> Tensor:
        first, second = vector[:, : width // 2], vector[:, width // 2 :]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], 1)

    outputs = []
    for head in range(heads):
        # Grouped queries: two heads share a key and a value.
        own, shared = slice(head * width, (head + 1) * width), head // (heads // groups)
        common = slice(shared * width, (shared + 1) * width)
        scores = rotated(query[:, own]) @ rotated(key[:, common]).T / width**0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
        outputs.append(pattern.detach() @ value[:, common])
    seen["attn_out"] = attention = linear(f"{prefix}.self_attn.o_proj", torch.cat(outputs, 1))

    middle = x + attention
    seen["mlp_in"] = entering = norm(f"{prefix}.post_attention_layernorm", middle)
    gate, up = linear(f"{prefix}.mlp.gate_proj", entering), linear(f"{prefix}.mlp.up_proj", entering)
    constant = (gate * gate.sigmoid() / gate).detach()
    activated = gate * constant
    # Half by each side of the product; the value is the product itself.
    seen["mlp_act"] = act = 0.5 * (activated * up.detach()) + 0.5 * (activated.detach() * up)
    seen["mlp_out"] = out = linear(f"{prefix}.mlp.down_proj", act)
    seen["resid_post"] = final = middle + out
    return seen, linear("lm_head", norm("model.norm", final))[-1]


def test_the_last_block_without_any_automatic_differentiation() -> None:
    """From the head back through final norm and MLP, every product written out."""
    model, pairs = one_layer(), pairs_of()
    weights = dict(model.body.state_dict())
    kinds = ("mlp_in", "mlp_act", "mlp_out", "resid_post")
    hooks = {kind: model.hook(kind, 0) for kind in kinds}  # type: ignore[arg-type]
    fields = gradient_field("relp", model, _batch(model, pairs), list(hooks.values()))
    mlp = "model.layers.0.mlp"
    for index in range(len(pairs)):
        seen, _ = _forward_by_hand(weights, pairs.clean[index])
        seen = {name: value.detach() for name, value in seen.items()}
        last = seen["resid_post"][-1]
        scale = float((last @ last / oracle.D_MODEL + 1e-5).sqrt())
        head = weights["lm_head.weight"]
        wanted = head[pairs.answers[index]].mean(0) - head[pairs.foils[index]].mean(0)
        at_stream = torch.zeros_like(seen["resid_post"])
        at_stream[-1] = wanted * weights["model.norm.weight"] / scale
        at_act = at_stream @ weights[f"{mlp}.down_proj.weight"]
        gate = seen["mlp_in"] @ weights[f"{mlp}.gate_proj.weight"].T + weights[f"{mlp}.gate_proj.bias"]
        up = seen["mlp_in"] @ weights[f"{mlp}.up_proj.weight"].T + weights[f"{mlp}.up_proj.bias"]
        sigmoid = 1 / (1 + (-gate).exp())
        # SiLU(gate) is gate times sigmoid: the constant ratio is the sigmoid.
        at_gate, at_up = at_act * 0.5 * sigmoid * up, at_act * 0.5 * gate * sigmoid
        at_input = at_gate @ weights[f"{mlp}.gate_proj.weight"] + at_up @ weights[f"{mlp}.up_proj.weight"]
        expected = {"resid_post": at_stream, "mlp_out": at_stream, "mlp_act": at_act, "mlp_in": at_input}
        for kind, value in expected.items():
            torch.testing.assert_close(fields[hooks[kind]][index], value, rtol=0, atol=1e-12, msg=kind)


def test_the_last_gpt2_block_without_any_automatic_differentiation() -> None:
    model, slow, pairs = oracle.model("gpt2"), oracle.naive("gpt2"), pairs_of()
    weights = dict(slow.body.state_dict())
    layer = oracle.LAYERS - 1
    kinds = ("mlp_in", "mlp_act", "mlp_out", "resid_post")
    hooks = {kind: model.hook(kind, layer) for kind in kinds}  # type: ignore[arg-type]
    fields = gradient_field("relp", model, _batch(model, pairs), list(hooks.values()))
    mlp = f"transformer.h.{layer}.mlp"
    for index in range(len(pairs)):
        seen = slow.watched(pairs.clean[index], {kind: slow.where(kind, layer) for kind in kinds})
        last = seen["resid_post"][-1]
        centred = last - last.mean()
        scale = float((centred @ centred / oracle.D_MODEL + 1e-5).sqrt())
        head = weights["lm_head.weight"]
        wanted = head[pairs.answers[index]].mean(0) - head[pairs.foils[index]].mean(0)
        weighted = wanted * weights["transformer.ln_f.weight"]
        at_stream = torch.zeros_like(seen["resid_post"])
        # Centring is a linear map and stays; only the scale is a constant.
        at_stream[-1] = (weighted - weighted.mean()) / scale
        at_act = at_stream @ weights[f"{mlp}.c_proj.weight"].T
        before = seen["mlp_in"] @ weights[f"{mlp}.c_fc.weight"] + weights[f"{mlp}.c_fc.bias"]
        at_input = (at_act * seen["mlp_act"] / before) @ weights[f"{mlp}.c_fc.weight"].T
        expected = {"resid_post": at_stream, "mlp_out": at_stream, "mlp_act": at_act, "mlp_in": at_input}
        for kind, value in expected.items():
            torch.testing.assert_close(fields[hooks[kind]][index], value, rtol=0, atol=1e-12, msg=kind)
