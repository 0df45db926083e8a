"""Which architectures run silently, which run with a warning and without shortcuts, and which are refused, and how."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any
from unittest import TestCase

import pytest
import torch
import transformers
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.gradients import gradient_field
from basisbench.circuits.group import GroupPair
from basisbench.circuits.ranking import rank
from basisbench.errors import BasisBenchError
from basisbench.models import model as models
from basisbench.models.load import load_model, wrap
from basisbench.models.model import Model
from basisbench.models.sites import ARCHITECTURES, Architecture
from basisbench.types import ModelSpec, Site
from basisbench_baselines.bases.neurons import hook_spec, neurons_at
from basisbench_baselines.methods.patching import ActivationPatching
from helpers import oracle
from helpers.oracle_sites import SITES
from helpers.passes import circuits_and_complements, measure_group

COMMON: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
LLAMA_LIKE = {**COMMON, "intermediate_size": 20, "num_key_value_heads": 2}

# What TransformerLens knows and BasisBench is not tested on.
UNTESTED: dict[str, Callable[[], Any]] = {
    "MistralForCausalLM": lambda: transformers.MistralConfig(**LLAMA_LIKE, sliding_window=3),
    "Qwen2ForCausalLM": lambda: transformers.Qwen2Config(**LLAMA_LIKE),
    "PhiForCausalLM": lambda: transformers.PhiConfig(**{**COMMON, "intermediate_size": 20}),
}


def body_of(config: Any, kind: Any = transformers.AutoModelForCausalLM) -> Any:
    """Make a random model in float64 whose biases and scales are random too."""
    generator = torch.Generator().manual_seed(0)
    body = kind.from_config(config).double()
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if is_scale else 0.4 * noise)
    body.config.architectures = [type(body).__name__]  # as a saved checkpoint has it
    return body


def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(oracle.checkpoint("llama"))


def wrapped(body: Any) -> Model:
    return wrap(body, tokenizer(), ModelSpec("tiny", str(oracle.checkpoint("llama")), "random"))


@cache
def untested(name: str) -> Model:
    return wrapped(body_of(UNTESTED[name]()))


# --- tested ones ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_oracle_runs_on_every_architecture_of_the_table() -> None:
    assert {oracle.model(name).architecture for name in oracle.ALL_ARCHITECTURES} == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", oracle.ALL_ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tested_architecture_loads_without_a_word(
    architecture: str, dtype: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    spec = oracle.model(architecture).spec
    capfd.readouterr()  # of making the checkpoint, where this test is the first to ask for it
    recwarn.clear()
    model = load_model(spec, dtype=dtype)
    assert model.verified
    assert capfd.readouterr().err == ""
    assert not [warning for warning in recwarn if "basisbench" in str(warning.filename)]


@pytest.mark.parametrize("name", oracle.ALL_ARCHITECTURES)
def test_the_models_have_what_is_particular_about_them(name: str) -> None:
    """Grouped queries, windows shorter than the prompts, soft-caps that matter, biases and scales away from 0 and 1."""
    body: Any = oracle.naive(name).body
    config = body.config
    if name not in ("gpt2", "neox"):
        assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    for parameter in body.parameters():
        assert parameter.ndim > 1 or (parameter.abs().min() > 1e-4 and parameter.std() > 0.05)
    prompts = torch.as_tensor(oracle.two_groups().evaluation[0].clean)
    plain = body(input_ids=prompts).logits
    if name in oracle.POST_NORMS:
        assert config.sliding_window < min(pairs.length for pairs in oracle.two_groups().evaluation)
        weaker = {"sliding_window": 100, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
        for field, value in weaker.items():
            if getattr(config, field) is not None:
                other = type(config)(**{**config.to_dict(), field: value})
                changed = type(body)._from_config(other, dtype=torch.float64)
                changed.load_state_dict(body.state_dict())
                assert (changed.eval()(input_ids=prompts).logits - plain).abs().max() > 1e-2, field


# --- untested ones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNTESTED)
def test_an_untested_architecture_runs_with_one_line_of_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = wrapped(body_of(UNTESTED[name]()))
    (line,) = [line for line in caplog.messages if "BasisBench" in line]
    assert name in line
    assert "\n" not in line
    assert "tiny" in line
    assert not model.verified
    assert oracle.hooks_of(model) == oracle.hooks_of(untested(name))


PHI = {"mlp_act": ("model.layers.{layer}.mlp.fc2", "in")}


@pytest.mark.parametrize("name", UNTESTED)
def test_an_untested_architecture_takes_the_slow_road(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its curves are the slow evaluator's; fields and patched runs are those that shortcuts give where they hold."""
    monkeypatch.setitem(SITES, "phi", PHI)  # type: ignore[misc]
    model, pairs = untested(name), oracle.two_groups()
    basis, slow = (
        neurons_at("mlp_act", "mlp", "mlp_act", model),
        oracle.Naive("phi" if "Phi" in name else "llama", model.body),
    )
    twin = oracle.NaiveBasis("mlp_act", "mlp_act", lambda _, x: x, lambda _, f: f, (20, 20), has_error=False)
    scores, sizes = oracle.random_scores(twin, 5, 1), [9, 60]
    order = oracle.ranked(mapping := oracle.score_of_nodes(scores, twin), list(mapping))

    def measured() -> tuple[Tensor, Tensor, Tensor]:
        group = GroupPair(GroupContext(model, pairs.attribution[0], 0), GroupContext(model, pairs.evaluation[0], 0))
        shared = group.shared_work(basis, "mean")
        assert bool(shared.constants) == bool(shared.prefix.length) == bool(shared.edits()) == model.verified
        curve = measure_group(oracle.cell("mlp_act"), basis, group, rank(scores, policy="coordinates"), sizes)
        write = basis.sites[0].write
        ends = {write: group.attribution.activation(write, "counterfactual")}
        field = gradient_field("ig", model, group.attribution.batch, [write], steps=3, ends=ends)
        patched = ActivationPatching().score(group.attribution, basis)
        return circuits_and_complements(curve), field[write], patched.units[1]

    found = measured()
    circuits = [set(order[:size]) for size in sizes] + [set(order[size:]) for size in sizes]
    expected = oracle.naive_circuits(slow, twin, pairs.attribution[0], pairs.evaluation[0], "mean", circuits)
    # These models compute their norms in float32.
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)
    if "Phi" in name:  # has one norm for attention and MLP, so that the last block could not be cut
        return
    with monkeypatch.context() as patch:
        patch.setattr(models, "ARCHITECTURES", {**ARCHITECTURES, name: Architecture("as if it were tested")})
        for one, other in zip(found, measured(), strict=True):
            assert one.abs().max() > 1e-3
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


# --- mixtures of experts ----------------------------------------------------------------------------------------------

MOE = {**LLAMA_LIKE, "num_experts_per_tok": 2}
EXPERTS: dict[str, Callable[[], Any]] = {
    "Mixtral": lambda: transformers.MixtralConfig(**MOE, num_local_experts=4),
    "Qwen3Moe": lambda: transformers.Qwen3MoeConfig(**MOE, num_experts=4, moe_intermediate_size=8, head_dim=4),
}


@cache
def mixture(name: str) -> Model:
    config = EXPERTS[name]()
    config._experts_implementation = "eager"  # what load_model takes for float64
    with TestCase().assertLogs("basisbench.models.examine", "WARNING") as told:
        model = wrapped(body_of(config))
    assert any("it has no mlp_act, nor RelP: its mlp_act of layer 0" in line for line in told.output)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize(("kind", "family"), [("resid_post", "resid"), ("attn_z", "attn"), ("attn_out", "attn")])
def test_a_mixture_of_experts_has_scores_and_curves(name: str, kind: Any, family: Any) -> None:
    model, pairs = mixture(name), oracle.two_groups()
    basis, slow = neurons_at("asked", family, kind, model), oracle.Naive("llama", model.body)
    twin = oracle.NaiveBasis(kind, kind, lambda _, x: x, lambda _, f: f, (16, 16), has_error=False)
    group = GroupPair(GroupContext(model, pairs.attribution[0], 0), GroupContext(model, pairs.evaluation[0], 0))
    scores = oracle.gradient_method("ixg").score(group.attribution, basis)
    expected = oracle.naive_scores("ixg", slow, twin, pairs.attribution[0], oracle.Question())
    for found, layer in zip(scores.units, expected.units, strict=True):
        torch.testing.assert_close(found, layer, rtol=0, atol=1e-5)
    order = oracle.ranked(mapping := oracle.score_of_nodes(scores, twin), list(mapping))
    curve = measure_group(oracle.cell("resid"), basis, group, rank(scores, policy="coordinates"), sizes := [9, 60])
    circuits = [set(order[:size]) for size in sizes] + [set(order[size:]) for size in sizes]
    slow_curve = oracle.naive_circuits(slow, twin, pairs.attribution[0], pairs.evaluation[0], "mean", circuits)
    torch.testing.assert_close(circuits_and_complements(curve), slow_curve, rtol=0, atol=1e-5)


def test_a_mixture_of_experts_has_no_activations_of_its_mlp_and_no_relp() -> None:
    model, pairs = mixture("Mixtral"), oracle.two_groups()
    with pytest.raises(
        BasisBenchError, match=r"model 'tiny' \(MixtralForCausalLM\) has no mlp_act: its mlp_act of layer"
    ):
        neurons_at("mlp_act", "mlp", "mlp_act", model)
    context = GroupContext(model, pairs.attribution[0], 0)
    with pytest.raises(BasisBenchError, match=r"there is no backward rule for a part of model 'tiny'.* blocks.0.mlp"):
        oracle.gradient_method("relp").score(context, neurons_at("resid", "resid", "resid_post", model))


# --- refused ----------------------------------------------------------------------------------------------------------


class UnheardForCausalLM(transformers.LlamaForCausalLM):
    """An architecture that nobody knows."""


def _unheard() -> Any:
    config = transformers.LlamaConfig(**LLAMA_LIKE)
    config.architectures = ["UnheardForCausalLM"]
    config.model_type = "unheard"
    return UnheardForCausalLM(config)


SMALL = {"vocab_size": 31, "hidden_size": 16}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "OPT": (lambda: body_of(transformers.OPTConfig(**COMMON, ffn_dim=20, word_embed_proj_dim=16)), "mlp_in of layer 0"),
    "Bloom": (
        lambda: body_of(transformers.BloomConfig(vocab_size=31, hidden_size=16, n_layer=2, n_head=4)),
        "activation",
    ),
    "Mamba": (lambda: body_of(transformers.MambaConfig(**SMALL, num_hidden_layers=2)), "mlp_in"),
    "T5": (
        lambda: body_of(
            transformers.T5Config(vocab_size=31, d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=4),
            transformers.AutoModelForSeq2SeqLM,
        ),
        "final norm (ln_final.hook_out)",
    ),
    "GraniteMoe": (lambda: body_of(transformers.GraniteMoeConfig(**MOE, num_local_experts=4)), "mlp_out of layer 0"),
    "Granite": (
        lambda: body_of(transformers.GraniteConfig(**LLAMA_LIKE, residual_multiplier=0.5)),
        "mlp_out of layer 0",
    ),
    "Cohere": (lambda: body_of(transformers.CohereConfig(**LLAMA_LIKE, logit_scale=0.5)), "logits"),
    "Unheard": (_unheard, "UnheardForCausalLM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_without_the_parts_is_refused_in_one_line(name: str) -> None:
    make, missing = REFUSED[name]
    with pytest.raises(BasisBenchError) as caught:
        wrapped(make())
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert name in message
    assert missing in message
    assert "basisbench/models/sites.py" in message or "basisbench/models/relp.py" in message


def test_sites_that_do_not_add_up_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that are scaled on their way into the stream, which no name tells."""
    body: Any = body_of(UNTESTED["MistralForCausalLM"]())
    block = type(body.model.layers[0])
    original = block.forward

    def forward(self: Any, hidden: Tensor, **rest: Any) -> Any:
        return hidden + 0.5 * (original(self, hidden, **rest) - hidden)

    monkeypatch.setattr(block, "forward", forward)
    with pytest.raises(BasisBenchError, match="residual stream"):
        wrapped(body)


def test_an_entry_of_the_table_can_say_where_a_site_is(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Architecture("another place", {"mlp_out": "blocks.{layer}.mlp.out.hook_out"})
    model = oracle.model("gemma2")
    before = model.place(model.hook("mlp_out", 1))
    monkeypatch.setattr(models, "ARCHITECTURES", {**ARCHITECTURES, "Gemma2ForCausalLM": entry})
    assert model.place(model.hook("mlp_out", 1)).module == "model.layers.1.mlp.down_proj"
    assert before.module == "model.layers.1.post_feedforward_layernorm"
    assert model.hook("attn_out", 1) == "blocks.1.hook_attn_out"


# --- neurons of any hook ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", oracle.ALL_ARCHITECTURES)
def test_neurons_at_any_hook(name: str) -> None:
    model = oracle.model(name)
    spec = hook_spec("neurons_before", "resid", "blocks.{layer}.hook_resid_pre")
    basis = spec.build(model)
    assert (basis.name, basis.family, basis.exact, basis.parameter_bytes) == ("neurons_before", "resid", True, 0)
    context = GroupContext(model, oracle.two_groups().attribution[0], 0)
    coordinates, error = context.coordinates(basis, basis.sites[1], "clean")
    assert error is None
    torch.testing.assert_close(coordinates, context.activation(model.hook("resid_post", 0), "clean"), rtol=0, atol=0)
    # What enters a block is what left the one before.
    before = context.gradient_field("ixg", basis.sites[1])
    after = context.gradient_field("ixg", Site(0, *[model.hook("resid_post", 0)] * 2))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    with pytest.raises(BasisBenchError, match=r"blocks\.0\.attn\.hook_pattern"):
        hook_spec("inside", "attn", "blocks.{layer}.attn.hook_pattern").build(model)
