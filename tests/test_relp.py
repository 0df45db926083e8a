"""RelP: the forward pass is untouched, relevance is conserved and causal, and equals two closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

import oracle
from basisbench.context import GroupContext
from basisbench.errors import BasisBenchError
from basisbench.gradients import Batch, gradient_field
from basisbench.load import load_model
from basisbench.model import Model, wrap
from basisbench.protocols import ModelSpec
from basisbench.relp import activation_ratio, relp_rules, with_gradient_of
from basisbench.types import Pairs


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    with oracle.in_double_precision():
        yield


@pytest.fixture(params=oracle.ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pairs_of() -> Pairs:
    return oracle.two_groups().attribution[0]


def tokens_of(model: Model, index: int) -> Tensor:
    return model.tokens(pairs_of().clean[index : index + 1])


# --- forward -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_forward_pass_is_bit_equal(architecture: str, dtype: str) -> None:
    model = load_model(oracle.model(architecture).spec, dtype=dtype)
    tokens = model.tokens(pairs_of().clean)
    plain = model.bridge(tokens)
    with relp_rules(model):
        ruled = model.bridge(tokens)
    assert torch.equal(ruled, plain)
    assert torch.equal(model.bridge(tokens), plain)


def test_a_borrowed_gradient_leaves_every_bit_of_the_value() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1000, generator=generator, dtype=torch.float32) * 10.0 ** torch.randint(-30, 30, (1000,))
    x = torch.randn(1000, generator=generator, requires_grad=True)
    result = with_gradient_of(value, 3 * x)
    assert torch.equal(result, value)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert torch.equal(gradient, torch.full_like(gradient, 3.0))


# --- conservation ---------------------------------------------------------------------------------------------------


def test_relevance_is_conserved_when_biases_are_counted(architecture: str) -> None:
    """Embeddings, linear biases and LayerNorm biases together carry the whole metric.

    Under the rules every part is a linear map with constants inside, plus its biases, so the metric equals input
    times gradient, summed over all inputs: token and position embeddings, each linear map's bias, each LayerNorm's
    bias. Queries and keys get no gradient, so their biases count nothing.
    """
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    pairs = pairs_of()
    stream = ("transformer.h.0", "in") if architecture == "gpt2" else ("model.layers.0", "in")
    for index in range(len(pairs)):
        # What enters the first block: token embeddings, and position embeddings where there are any.
        entering = slow.watched(pairs.clean[index], {"": stream})[""]
        by_input, by_bias, by_norm_bias = _relevances(model, pairs, index, entering)
        metric = float(slow.metric(pairs, index, slow.logits(pairs.clean[index])))
        assert by_input + by_bias + by_norm_bias == pytest.approx(metric, abs=1e-11)
        # No part is idle, so none could be forgotten unnoticed.
        assert abs(by_input) > 1e-2
        assert abs(by_bias) > 1e-2
        assert (abs(by_norm_bias) > 1e-2) == (architecture == "gpt2")


def _relevances(model: Model, pairs: Pairs, index: int, entering: Tensor) -> tuple[float, float, float]:
    norm_names = [f"blocks.{layer}.{norm}" for layer in range(model.layers) for norm in ("ln1", "ln2")] + ["ln_final"]
    norms = [model.component(name) for name in norm_names]
    # A norm's bias takes part in its output alone, so it is counted there and not as a parameter.
    own = {id(parameter) for norm in norms for parameter in norm.parameters()}
    biases = [
        parameter
        for name, parameter in model.bridge.named_parameters(remove_duplicate=True)
        if name.endswith("bias") and id(parameter) not in own
    ]
    outputs: list[tuple[Tensor, Tensor]] = []
    leaves: list[Tensor] = []

    def start(_: object, __: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    handles = []
    for parameter in biases:
        parameter.requires_grad_(True)
    try:
        handles.append(model.component("embed").register_forward_hook(start))
        with relp_rules(model):
            for norm in norms:
                bias = getattr(norm.original_component, "bias", None)
                if bias is not None:
                    handles.append(
                        norm.register_forward_hook(lambda _, __, output, bias=bias: outputs.append((output, bias)))
                    )
            logits = model.bridge(tokens_of(model, index))[:, -1]
        metric = logits[0, pairs.answers[index]].mean() - logits[0, pairs.foils[index]].mean()
        found = torch.autograd.grad(metric, [leaves[0], *biases, *(output for output, _ in outputs)], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in biases:
            parameter.requires_grad_(False)
    by_input = float((found[0][0] * entering).sum())
    by_bias = sum(
        float((gradient * bias).sum())
        for gradient, bias in zip(found[1 : 1 + len(biases)], biases, strict=True)
        if gradient is not None
    )
    by_norm = sum(
        float((gradient * bias).sum()) for gradient, (_, bias) in zip(found[1 + len(biases) :], outputs, strict=True)
    )
    return by_input, by_bias, by_norm


def test_without_the_rules_relevance_is_not_conserved(architecture: str) -> None:
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    pairs = pairs_of()
    for rule, tolerance in (("relp", 1e-10), ("ixg", None)):
        field = gradient_field(rule, model, _batch(model, pairs), ["ln_final.hook_in"])["ln_final.hook_in"]
        last = "transformer.h.1" if architecture == "gpt2" else "model.layers.1"
        for index in range(len(pairs)):
            stream = slow.watched(pairs.clean[index], {"": (last, "out")})[""]
            metric = slow.metric(pairs, index, slow.logits(pairs.clean[index]))
            bias = _final_bias(slow, pairs, index)
            shortfall = abs(float(metric - bias - (field[index] * stream).sum()))
            # The final norm is under a rule too: without it a gradient is orthogonal to what the norm rescales.
            assert shortfall < tolerance if tolerance is not None else shortfall > 1e-2


def _final_bias(slow: oracle.Naive, pairs: Pairs, index: int) -> float:
    if slow.architecture == "llama":
        return 0.0
    bias = slow.body.transformer.ln_f.bias  # type: ignore[union-attr]
    return float(slow.metric(pairs, index, slow.body.lm_head(bias)))  # type: ignore[operator, arg-type]


def _batch(model: Model, pairs: Pairs) -> Batch:
    return GroupContext(model, pairs, 0).batch


@cache
def gemma() -> Model:
    """Gemma 2: a norm after attention and after the MLP, and a soft-cap on the logits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(oracle.checkpoint("gemma2"))
    body = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return wrap(body, AutoTokenizer.from_pretrained(folder), ModelSpec("tiny-gemma2", folder, "with post-norms"))


def test_norms_after_attention_and_mlp_are_under_the_rule_too() -> None:
    model, pairs = gemma(), pairs_of()
    tokens = model.tokens(pairs.clean)
    plain = model.bridge(tokens)
    with relp_rules(model):
        assert torch.equal(model.bridge(tokens), plain)
    kinds = ("attn_out", "mlp_out", "resid_post")
    hooks = [model.hook(kind, layer) for layer in range(model.layers) for kind in kinds]  # type: ignore[arg-type]
    group = GroupContext(model, pairs, 0)
    fields = gradient_field("relp", model, group.batch, [*hooks, "embed.hook_out"])
    embeddings = model.component("embed").original_component(tokens)
    # There are no biases, and the metric is taken before the soft-cap: the embeddings carry all of it.
    relevance = (fields["embed.hook_out"] * embeddings).sum((1, 2))
    torch.testing.assert_close(relevance, group.clean_metric(), rtol=0, atol=1e-11)
    assert not torch.allclose(model.logits(tokens), plain[:, -1], atol=1e-2)
    # What the last block writes goes straight into the stream.
    last = [fields[model.hook(kind, model.layers - 1)] for kind in ("mlp_out", "resid_post")]  # type: ignore[arg-type]
    torch.testing.assert_close(last[0], last[1], rtol=0, atol=1e-12)
    assert all(fields[hook].abs().max() > 1e-3 for hook in hooks)


# --- causality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [1, 2, 3])
def test_nothing_flows_from_the_future(architecture: str, position: int) -> None:
    model, pairs = oracle.model(architecture), pairs_of()

    def relevance(tokens: Tensor, at: int) -> Tensor:
        leaves: list[Tensor] = []

        def start(_: object, __: object, output: Tensor) -> Tensor:
            leaves.append(output.detach().requires_grad_())
            return leaves[0]

        handle = model.component("embed").register_forward_hook(start)
        try:
            with relp_rules(model):
                logits = model.bridge(tokens)[0, at]
            (gradient,) = torch.autograd.grad(logits[5] - logits[9], leaves)
        finally:
            handle.remove()
        return gradient[0]

    tokens = model.tokens(pairs.clean[:1])
    field = relevance(tokens, position)
    assert not field[position + 1 :].any()
    assert (field[: position + 1].abs().amax(1) > 1e-6).all()
    # Nor does the future change what flows from the past.
    truncated = relevance(tokens[:, : position + 1], position)
    torch.testing.assert_close(field[: position + 1], truncated, rtol=0, atol=1e-12)


# --- hooks ---------------------------------------------------------------------------------------------------


def test_no_hook_is_left_behind(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = oracle.model(architecture)
    before = oracle.hooks_of(model)
    with relp_rules(model):
        assert oracle.hooks_of(model) != before
        model.bridge(model.tokens(pairs_of().clean))
    assert oracle.hooks_of(model) == before
    with pytest.raises(ZeroDivisionError), relp_rules(model):
        raise ZeroDivisionError
    assert oracle.hooks_of(model) == before
    with pytest.raises(IndexError), relp_rules(model):
        model.bridge(torch.full((1, 3), 10_000))
    assert oracle.hooks_of(model) == before
    # A model half of whose parts have a rule: refused, and nothing stays on the other half.
    last = model.component("blocks.1.mlp").original_component
    name = "act_fn" if architecture == "llama" else "act"
    monkeypatch.delattr(last, name)
    with pytest.raises(BasisBenchError, match="RelP has no rule") as caught, relp_rules(model):
        pass
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert oracle.hooks_of(model) == before


def test_the_field_is_the_same_after_a_failure(architecture: str) -> None:
    model, pairs = oracle.model(architecture), pairs_of()
    hook = model.hook("mlp_act", 0)
    first = gradient_field("relp", model, _batch(model, pairs), [hook])[hook]
    broken = replace(pairs, clean=pairs.clean + 10_000)
    with pytest.raises(IndexError):
        gradient_field("relp", model, _batch(model, broken), [hook])
    again = gradient_field("relp", model, _batch(model, pairs), [hook])[hook]
    assert torch.equal(first, again)


# --- parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("function", "slope"),
    [(torch.nn.functional.silu, 0.5), (torch.nn.functional.gelu, 0.5), (torch.tanh, 1.0), (lambda x: x * (x + 3), 3.0)],
    ids=["silu", "gelu", "tanh", "quadratic"],
)
def test_the_ratio_has_its_limit_at_zero(
    function: Callable[[Tensor], Tensor], slope: float, dtype: torch.dtype
) -> None:
    x = torch.tensor([0.0, -0.0, 1e-300, -1e-12, 1e-7, -1e-5, 1e-3, -2.0, 5.0], dtype=dtype)
    ratio = activation_ratio(function, x)
    assert ratio.isfinite().all()
    assert not ratio.requires_grad
    assert ratio[:4].tolist() == pytest.approx([slope] * 4, abs=1e-9)
    torch.testing.assert_close(ratio[4:] * x[4:], function(x[4:]), rtol=1e-5, atol=1e-12)
    # No jump where the limit takes over.
    assert ratio[4:7].tolist() == pytest.approx([slope] * 3, abs=2e-3)


def test_zero_pre_activations_give_finite_relevance() -> None:
    model = load_model(oracle.model("llama").spec)
    with torch.no_grad():
        for layer in range(model.layers):
            mlp = model.body.get_submodule(f"model.layers.{layer}.mlp")
            mlp.gate_proj.weight.zero_()
            mlp.gate_proj.bias.zero_()
    hooks = [model.hook("mlp_in", layer) for layer in range(model.layers)]
    field = gradient_field("relp", model, _batch(model, pairs_of()), hooks)
    for hook in hooks:
        assert field[hook].isfinite().all()
