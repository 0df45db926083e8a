"""RelP: the forward pass is untouched, relevance is conserved and causal, and no hook stays, on every architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

from basisbench.attribution.batch import Batch
from basisbench.attribution.context import GroupContext
from basisbench.attribution.gradients import gradient_field
from basisbench.errors import BasisBenchError
from basisbench.models import relp
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.models.relp import RELP, activation_ratio, backward_rules, with_gradient_of
from basisbench.models.sites import SITES, SiteKind
from basisbench.types import Pairs
from helpers import oracle
from helpers.backward import gradient_at_embeddings

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture(params=oracle.ALL_ARCHITECTURES)
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
    with backward_rules(model, RELP):
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


LAYER_NORMS = ("gpt2", "neox")


def test_relevance_is_conserved_when_biases_are_counted(architecture: str) -> None:
    """Embeddings, linear biases and LayerNorm biases together carry the whole metric.

    Under the rules every part is a linear map with constants inside, plus its biases, so the metric equals input
    times gradient, summed over all inputs: token and position embeddings, each linear map's bias, each LayerNorm's
    bias. Queries and keys get no gradient, so their biases, norms and soft-caps count nothing; norms after attention
    and MLP pass on what they are given; the metric is taken before a final soft-cap.
    """
    model, slow = oracle.model(architecture), oracle.naive(architecture)
    pairs = pairs_of()
    first = slow.where("resid_post", 0)[0], "in"
    for index in range(len(pairs)):
        # What enters the first block: token embeddings, and position embeddings where there are any.
        entering = slow.watched(pairs.clean[index], {"": first})[""]
        by_input, by_bias, by_norm_bias = _relevances(model, pairs, index, entering)
        metric = float(slow.metric(pairs, index, slow.logits(pairs.clean[index])))
        assert by_input + by_bias + by_norm_bias == pytest.approx(metric, abs=1e-11)
        # No part is idle, so none could be forgotten unnoticed.
        assert abs(by_input) > 1e-2
        assert abs(by_bias) > 1e-2
        assert (abs(by_norm_bias) > 1e-2) == (architecture in LAYER_NORMS)


def _relevances(model: Model, pairs: Pairs, index: int, entering: Tensor) -> tuple[float, float, float]:
    norms = [module for module in model.bridge.modules() if isinstance(module, NormalizationBridge)]
    # A norm's bias takes part in its output alone, so it is counted there and not as a parameter.
    own = {id(parameter) for norm in norms for parameter in norm.parameters()}
    biases = [
        parameter
        for name, parameter in model.bridge.named_parameters(remove_duplicate=True)
        if name.endswith("bias") and id(parameter) not in own
    ]
    outputs: list[tuple[Tensor, Tensor]] = []
    leaves: list[Tensor] = []
    logits: list[Tensor] = []

    def start(_: object, __: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    handles = []
    for parameter in biases:
        parameter.requires_grad_(True)
    try:
        handles.append(model.component("embed").register_forward_hook(start))
        handles.append(
            model.component("unembed").register_forward_hook(lambda _, __, output: logits.append(output[0, -1]))
        )
        with backward_rules(model, RELP):
            for norm in norms:
                bias = getattr(norm.original_component, "bias", None)
                if bias is not None:
                    handles.append(
                        norm.register_forward_hook(lambda _, __, output, bias=bias: outputs.append((output, bias)))
                    )
            model.bridge(tokens_of(model, index))
        metric = logits[0][pairs.answers[index]].mean() - logits[0][pairs.foils[index]].mean()
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
    pairs, last = pairs_of(), slow.where("resid_post", oracle.LAYERS - 1)
    for rule, tolerance in (("relp", 1e-10), ("ixg", None)):
        field = gradient_field(rule, model, _batch(model, pairs), ["ln_final.hook_in"])["ln_final.hook_in"]
        for index in range(len(pairs)):
            stream = slow.watched(pairs.clean[index], {"": last})[""]
            metric = slow.metric(pairs, index, slow.logits(pairs.clean[index]))
            bias = _final_bias(slow, pairs, index)
            shortfall = abs(float(metric - bias - (field[index] * stream).sum()))
            # The final norm is under a rule too: without it a gradient is orthogonal to what the norm rescales.
            assert shortfall < tolerance if tolerance is not None else shortfall > 1e-2


def _final_bias(slow: oracle.Naive, pairs: Pairs, index: int) -> float:
    if slow.architecture not in LAYER_NORMS:
        return 0.0
    norm = slow.body.get_submodule({"gpt2": "transformer.ln_f", "neox": "gpt_neox.final_layer_norm"}[slow.architecture])
    return float(slow.metric(pairs, index, slow.body.lm_head(norm.bias)))  # type: ignore[operator, arg-type]


def _batch(model: Model, pairs: Pairs) -> Batch:
    return GroupContext(model, pairs, 0).batch


@pytest.mark.parametrize("norm", ["every norm", "ln1", "ln2", "ln1_post", "ln2_post", "ln_final"])
def test_every_norm_needs_its_rule(norm: str) -> None:
    """Without the rule of one norm, relevance is lost; norms after attention and MLP are no exception."""
    model, slow, pairs = oracle.model("gemma2"), oracle.naive("gemma2"), pairs_of()
    entering = slow.watched(pairs.clean[0], {"": (slow.where("resid_post", 0)[0], "in")})[""]
    metric = float(slow.metric(pairs, 0, slow.logits(pairs.clean[0])))
    kept = relp._norms(model)

    def some(_: Model) -> list[object]:
        return [each for each in kept if norm == "every norm" or each is not model.component(where)]

    where = norm if norm == "ln_final" else f"blocks.0.{norm}"
    with mock.patch.object(relp, "_norms", some):
        shortfall = abs(sum(_relevances(model, pairs, 0, entering)) - metric)
    assert shortfall < 1e-11 if norm == "every norm" else shortfall > 1e-3


@pytest.mark.parametrize("kind", ["mlp_out", "resid_post"])
def test_what_the_last_block_writes_goes_straight_into_the_stream(architecture: str, kind: SiteKind) -> None:
    """A field is taken at the value that goes on, so after a post-norm and not before it."""
    model, pairs = oracle.model(architecture), pairs_of()
    hooks = [model.hook(kind, model.layers - 1), "ln_final.hook_in"]
    fields = gradient_field("relp", model, _batch(model, pairs), hooks)
    torch.testing.assert_close(fields[hooks[0]], fields[hooks[1]], rtol=0, atol=1e-12)
    assert fields[hooks[0]].abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_finite_fields_near_the_exact_ones(architecture: str, dtype: str) -> None:
    exact, pairs = oracle.model(architecture), pairs_of()
    model = load_model(exact.spec, dtype=dtype)
    hooks = [model.hook(kind, layer) for kind in SITES for layer in range(model.layers)]
    fields = gradient_field("relp", model, _batch(model, pairs), hooks)
    expected = gradient_field("relp", exact, _batch(exact, pairs), hooks)
    for hook in hooks:
        assert fields[hook].isfinite().all()
        error = (fields[hook] - expected[hook]).norm() / expected[hook].norm()
        assert error < (0.05 if dtype == "bfloat16" else 0.01)


def test_large_activations_do_not_overflow_in_half_precision() -> None:
    """A square of more than 255 is too large for float16; the model's own norms square in float32."""
    folder = oracle.model("llama").spec
    models = [load_model(folder, dtype=dtype) for dtype in ("float16", "float64")]
    for model in models:
        with torch.no_grad():
            model.body.get_input_embeddings().weight.mul_(1000)
    hook = models[0].hook("resid_post", 1)
    half, exact = (gradient_field("relp", model, _batch(model, pairs_of()), [hook])[hook] for model in models)
    assert exact.abs().max() > 1e-5
    assert (half - exact).norm() < 0.02 * exact.norm()


# --- causality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [1, 2, 3])
def test_nothing_flows_from_the_future(architecture: str, position: int) -> None:
    model, pairs = oracle.model(architecture), pairs_of()
    tokens = model.tokens(pairs.clean[:1])
    field = gradient_at_embeddings(model, tokens, position, RELP)
    assert not field[position + 1 :].any()
    assert (field[: position + 1].abs().amax(1) > 1e-6).all()
    # Nor does the future change what flows from the past.
    truncated = gradient_at_embeddings(model, tokens[:, : position + 1], position, RELP)
    torch.testing.assert_close(field[: position + 1], truncated, rtol=0, atol=1e-12)


# --- hooks ---------------------------------------------------------------------------------------------------


def test_no_hook_is_left_behind(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = oracle.model(architecture)
    before = oracle.hooks_of(model)
    with backward_rules(model, RELP):
        assert oracle.hooks_of(model) != before
        model.bridge(model.tokens(pairs_of().clean))
    assert oracle.hooks_of(model) == before
    with pytest.raises(ZeroDivisionError), backward_rules(model, RELP):
        raise ZeroDivisionError
    assert oracle.hooks_of(model) == before
    with pytest.raises(IndexError), backward_rules(model, RELP):
        model.bridge(torch.full((1, 3), 10_000))
    assert oracle.hooks_of(model) == before
    # A model half of whose parts have a rule: refused, and nothing stays on the other half.
    last = model.component("blocks.1.mlp").original_component
    name = "act" if architecture in LAYER_NORMS else "act_fn"
    monkeypatch.delattr(last, name)
    with pytest.raises(BasisBenchError, match="there is no backward rule") as caught, backward_rules(model, RELP):
        pass
    assert "\n" not in str(caught.value)
    assert model.architecture in str(caught.value)
    assert "basisbench/models/relp.py" in str(caught.value)
    monkeypatch.undo()
    assert oracle.hooks_of(model) == before


def test_the_field_is_the_same_after_a_failure(architecture: str) -> None:
    model, pairs = oracle.model(architecture), pairs_of()
    hook = model.hook("mlp_act", 0)
    first = gradient_field("relp", model, _batch(model, pairs), [hook])[hook]
    batch = _batch(model, pairs)
    broken = replace(batch, clean=batch.clean + 10_000)
    with pytest.raises(IndexError):
        gradient_field("relp", model, broken, [hook])
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
