"""RelP on Gemma 2 and 3 against a forward pass with every detach written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.gradients import gradient_field
from basisbench.models.sites import SITES
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")

HEADS, SHARED, HEAD, WINDOW, EPSILON = 4, 2, 6, 3, 1e-3
# Of tests/helpers/oracle_models.py: the bases of the rotation and which layers slide.
ROTARY = {
    "gemma2": {"sliding": 10_000.0, "full": 10_000.0},
    "gemma3": {"sliding": 20.0, "full": 10_000.0},
}
LAYERS = {"gemma2": ("sliding", "full"), "gemma3": ("full", "sliding")}


def _forward_by_hand(
    architecture: str, weights: dict[str, Tensor], prompt: object
) -> tuple[dict[tuple[str, int], Tensor], Tensor]:
    """Return the activation at every site and the logits before the soft-cap, constants detached."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))

    def norm(name: str, x: Tensor) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + EPSILON).sqrt()
        return x / scale.detach() * (1 + weights[f"{name}.weight"])

    seen: dict[tuple[str, int], Tensor] = {}
    ids = torch.as_tensor(prompt)
    length = len(ids)
    x = (weights["model.embed_tokens.weight"][ids] * oracle.D_MODEL**0.5).clone().requires_grad_()
    seen["embed", 0] = x
    for layer, kind in enumerate(LAYERS[architecture]):
        prefix = f"model.layers.{layer}"
        normed = norm(f"{prefix}.input_layernorm", x)
        heads = {part: linear(f"{prefix}.self_attn.{part}_proj", normed).unflatten(1, (-1, HEAD)) for part in "qkv"}
        if architecture == "gemma3":
            heads |= {part: norm(f"{prefix}.self_attn.{part}_norm", heads[part]) for part in "qk"}
        base = ROTARY[architecture][kind]
        angles = torch.arange(length)[:, None].float() * base ** -(torch.arange(0, HEAD, 2).float() / HEAD)
        turned = {part: _rotated(heads[part], angles) for part in "qk"}
        position = torch.arange(length)
        hidden = position[None, :] > position[:, None]
        if kind == "sliding":
            hidden = hidden | (position[None, :] <= position[:, None] - WINDOW)
        outputs = []
        for head in range(HEADS):
            common = head // (HEADS // SHARED)
            scores = turned["q"][:, head] @ turned["k"][:, common].T / 5**0.5
            if architecture == "gemma2":
                scores = 5.0 * (scores / 5.0).tanh()
            outputs.append(scores.masked_fill(hidden, -torch.inf).softmax(-1).detach() @ heads["v"][:, common])
        seen["attn_z", layer] = torch.cat(outputs, 1)
        attention = linear(f"{prefix}.self_attn.o_proj", seen["attn_z", layer])
        seen["attn_out", layer] = norm(f"{prefix}.post_attention_layernorm", attention)

        middle = x + seen["attn_out", layer]
        seen["mlp_in", layer] = norm(f"{prefix}.pre_feedforward_layernorm", middle)
        gate, up = (linear(f"{prefix}.mlp.{part}_proj", seen["mlp_in", layer]) for part in ("gate", "up"))
        inner = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
        constant = (0.5 * (1 + inner.tanh())).detach()  # GELU(x) / x, in its tanh form
        half_by_gate, half_by_up = gate * constant * up.detach(), (gate * constant).detach() * up
        seen["mlp_act", layer] = 0.5 * half_by_gate + 0.5 * half_by_up
        written = linear(f"{prefix}.mlp.down_proj", seen["mlp_act", layer])
        seen["mlp_out", layer] = norm(f"{prefix}.post_feedforward_layernorm", written)
        x = seen["resid_post", layer] = middle + seen["mlp_out", layer]
    return seen, (norm("model.norm", x) @ weights["model.embed_tokens.weight"].T)[-1]


def _rotated(vectors: Tensor, angles: Tensor) -> Tensor:
    # The model computes its rotary angles in float32.
    cosine, sine = angles.cos().double()[:, None], angles.sin().double()[:, None]
    first, second = vectors[..., : HEAD // 2], vectors[..., HEAD // 2 :]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


@pytest.mark.parametrize("architecture", oracle.POST_NORMS)
def test_every_field_equals_the_forward_pass_by_hand(architecture: str) -> None:
    model, pairs = oracle.model(architecture), oracle.two_groups().attribution[0]
    weights = dict(model.body.state_dict())
    hooks = {(kind, layer): model.hook(kind, layer) for kind in SITES for layer in range(model.layers)}
    names: dict[tuple[str, int], str] = {**hooks, ("embed", 0): "embed.hook_out"}
    batch = GroupContext(model, pairs, 0).batch
    fields = gradient_field("relp", model, batch, list(names.values()))
    for index in range(len(pairs)):
        seen, logits = _forward_by_hand(architecture, weights, pairs.clean[index])
        torch.testing.assert_close(logits, model.logits(batch.clean[index : index + 1])[0], rtol=0, atol=1e-11)
        metric = logits[pairs.answers[index]].mean() - logits[pairs.foils[index]].mean()
        gradients = torch.autograd.grad(metric, [seen[site] for site in names])
        for (site, name), expected in zip(names.items(), gradients, strict=True):
            torch.testing.assert_close(fields[name][index], expected, rtol=0, atol=1e-11, msg=str(site))
            assert expected.abs().max() > 1e-4
