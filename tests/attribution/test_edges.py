"""Edge scores against a slow twin, one edge and one pair at a time; what must hold of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from shutil import copy

import pytest
import torch

from basisbench.attribution import error_nodes
from basisbench.attribution.context import GroupContext
from basisbench.attribution.edge_effects import _Run
from basisbench.attribution.edge_scores import EDGE_METHODS, EdgeScores, edge_scores
from basisbench.errors import BasisBenchError
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.types import ModelSpec
from helpers import oracle
from helpers.edge_oracle import LAYERS, SlowEdges, Source, Target, chosen, deep_basis, deep_model, deep_naive, neurons
from helpers.oracle import Node, Question

pytestmark = pytest.mark.usefixtures("double_precision")

PAIRS = oracle.random_pairs(2, 4, 5)
NODES: tuple[Node, ...] = ((2, 3, 4), (2, 1, 2), (0, 1, 3), (1, 2, 0), (2, 3, 6))
"""Out of order, and two at one place."""


@cache
def unbiased_model() -> Model:
    """Return a tiny Llama without any bias."""
    model = load_model(ModelSpec("unbiased", str(oracle.checkpoint("llama", LAYERS)), ""))
    for name, parameter in model.body.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    return model


SCALE = 1e7
"""Norms with an epsilon of its square, and weights of about its size, are linear up to rounding."""


@cache
def linear_model(folder: Path) -> Model:
    """Return a tiny GPT-2 that is linear: even attention, MLPs without a nonlinearity, norms that only centre."""
    from transformers import AutoModelForCausalLM, GPT2Config

    source = oracle.checkpoint("gpt2")
    config = GPT2Config.from_pretrained(source, activation_function="linear", layer_norm_epsilon=SCALE**2)
    body = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            if "ln_" in name and name.endswith("weight"):
                parameter.mul_(SCALE)
            elif "c_attn" in name:
                parameter[..., : 2 * oracle.D_MODEL] = 0
    body.save_pretrained(folder)
    for file in source.glob("*token*"):
        copy(file, folder)
    return load_model(ModelSpec("linear", str(folder), ""))


def sources(nodes: tuple[Node, ...], length: int) -> list[Source]:
    return [*(("token", position) for position in range(length)), *nodes]


def hold(found: EdgeScores, slow: SlowEdges, nodes: tuple[Node, ...], method: str) -> None:
    """Hold that every edge that can be has the score of the slow twin, and every other one none."""
    targets: list[Target] = [*nodes, "logits"]
    for row, source in enumerate(sources(nodes, slow.pairs.length)):
        for column, target in enumerate(targets):
            score = float(found.score[row, column])
            if not found.possible[row, column]:
                assert score == 0
                continue
            patching = method == "path_patching"
            expected = slow.patched(source, target) if patching else slow.score(method, source, target)
            assert score == pytest.approx(expected, rel=1e-8, abs=1e-9), (source, target)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method"),
    [("mlp_act", "relp"), ("mlp_act", "ixg"), ("mlp_act", "ig_inputs"), ("mlp_act", "path_patching"),
     ("attn_out", "relp"), ("resid_post", "relp"), ("attn_out", "path_patching")],
)  # fmt: skip
def test_edges_of_neurons_equal_the_slow_twin(
    architecture: str, kind: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basisbench.attribution.edge_scores.STEPS", 2)
    question = Question("counterfactual" if method == "ixg" else "mean")
    context = GroupContext(deep_model(architecture), PAIRS, 0)
    context.start(question.ablation)
    basis = deep_basis(architecture, kind)
    found = edge_scores(context, chosen(context, basis, NODES), method)
    slow = SlowEdges(deep_naive(architecture), neurons(kind), PAIRS, question, LAYERS)
    hold(found, slow, NODES, method)
    # From a residual stream after a block there is a way to the next block alone.
    assert found.score.count_nonzero() > (5 if kind == "resid_post" else 15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "question"),
    [
        ("sae_mlp_out", "relp", Question()),
        ("transcoder", "relp", Question("zero", error_policy="rotated")),
        ("transcoder", "path_patching", Question("counterfactual")),
        ("sae_resid", "ixg", Question("zero", "counterfactual")),
    ],
)
def test_edges_of_dictionaries_equal_the_slow_twin(name: str, method: str, question: Question) -> None:
    """Features and coordinates of the error, as sources and as targets."""
    basis, twin, slow = oracle.basis("llama", name), oracle.naive_basis("llama", name), oracle.naive("llama")
    context = GroupContext(oracle.model("llama"), PAIRS, 0)
    context.start(question.ablation, question.score_reference, question.error_policy)
    live: list[Node] = []
    for layer, site in enumerate(basis.sites):
        on = context.coordinates(basis, site, "clean")[0].detach().abs().mean(0)
        position = (1, 3)[layer]
        live += [(layer, position, int(unit)) for unit in on[position].topk(2).indices]
    nodes: tuple[Node, ...] = (*live, (0, 1, -3), (1, 3, -1), (1, 3, -9))
    found = edge_scores(context, chosen(context, basis, nodes), method)
    hold(found, SlowEdges(slow, twin, PAIRS, question, oracle.LAYERS), nodes, method)
    into_units, into_errors = found.score[:, 2:4], found.score[:, 5:7]
    assert into_units.any()
    assert into_errors.any()


def test_axes_that_a_pass_in_inference_mode_was_the_first_to_want_serve_under_gradients() -> None:
    error_nodes._axes.cache_clear()
    with torch.inference_mode():
        axes = error_nodes.error_axes("rotated", oracle.basis("llama", "transcoder").sites[0], torch.zeros(5))
    assert axes is not None
    with torch.enable_grad():
        (torch.ones(5, dtype=axes.dtype, requires_grad=True) @ axes).sum().backward()


@pytest.mark.parametrize("node", [(0, 2, 1), (2, 3, 1)])
def test_where_every_way_is_stopped_there_is_no_effect(node: Node) -> None:
    """A residual stream after a block has a way to the next one alone."""
    context = GroupContext(deep_model("llama"), PAIRS, 0)
    found = edge_scores(context, chosen(context, deep_basis("llama", "resid"), (node,)), "relp")
    from_tokens, to_logits = found.score[: PAIRS.length], found.score[PAIRS.length, 1]
    assert bool(from_tokens[:, 0].any()) == (node[0] == 0)
    assert bool(to_logits) == (node[0] == 2)
    assert not from_tokens[:, 1].any()


def test_an_error_of_many_coordinates_is_refused() -> None:
    context = GroupContext(oracle.model("llama"), PAIRS, 0)
    context.start("mean", error_policy="node")
    with pytest.raises(BasisBenchError, match=r"error policy 'node'.* 'coordinates' or 'rotated'"):
        chosen(context, oracle.basis("llama", "transcoder"), ((0, 1, 0),))


def test_an_unknown_method_is_refused() -> None:
    context = GroupContext(deep_model("llama"), PAIRS, 0)
    nodes = chosen(context, deep_basis("llama", "mlp_act"), NODES)
    with pytest.raises(BasisBenchError, match=r"no edge method named 'relpp'; did you mean relp\?"):
        edge_scores(context, nodes, "relpp")


def test_how_targets_are_batched_does_not_matter_and_no_hook_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    context = GroupContext(deep_model("llama"), PAIRS, 0)
    nodes = chosen(context, deep_basis("llama", "mlp_act"), NODES)
    products: list[int] = []
    product = _Run._product

    def counted(run: _Run, model: Model, numbers: list[int]) -> torch.Tensor:
        products.append(len(numbers))
        return product(run, model, numbers)

    monkeypatch.setattr(_Run, "_product", counted)
    at_once = edge_scores(context, nodes, "relp")
    assert products == [1, 1, 3]  # one for each layer with nodes
    before = oracle.hooks_of(context.model)  # TransformerLens puts some of its own into a model's first pass
    monkeypatch.setattr("basisbench.attribution.edge_effects._tokens_per_product", lambda _model: 1)
    monkeypatch.setattr("basisbench.attribution.edge_scores.gradient_tokens", lambda _model: 1)
    one_by_one = edge_scores(context, nodes, "relp")
    torch.testing.assert_close(at_once.score, one_by_one.score, rtol=0, atol=1e-12)
    torch.testing.assert_close(at_once.weight, one_by_one.weight, rtol=0, atol=1e-12)
    assert oracle.hooks_of(context.model) == before


@pytest.mark.parametrize("kind", ["mlp_act", "mlp_out"])
def test_relevance_into_a_node_is_conserved(kind: str) -> None:
    """Under RelP, with reference zero, without biases, and with every earlier node and every token as a source."""
    context = GroupContext(unbiased_model(), PAIRS, 0)
    context.start("zero")
    basis = oracle.basis_spec(kind).build(context.model)
    width = context.coordinates(basis, basis.sites[0], "clean")[0].shape[-1]
    earlier = tuple((layer, position, unit) for layer in (0, 1) for position in range(4) for unit in range(width))
    targets = ((2, 3, 1), (2, 3, 4), (1, 1, 2))
    nodes = chosen(context, basis, (*earlier, *targets[:2]))
    scores = edge_scores(context, nodes, "relp").score
    for column, (layer, position, unit) in enumerate((*earlier, *targets[:2])):
        if (layer, position, unit) not in targets:
            continue
        site = basis.sites[layer]
        own = -(context.gradient_field("relp", site) * context.activation(site.write, "clean")).mean(0)[position, unit]
        torch.testing.assert_close(scores[:, column].sum(), own, rtol=1e-9, atol=1e-12)
        assert abs(own) > 1e-4


@pytest.mark.slow
def test_edges_of_a_linear_model_are_products_of_its_weights(tmp_path: Path) -> None:
    """And every method gives them, exact patching too."""
    model = linear_model(tmp_path)
    context = GroupContext(model, PAIRS, 0)
    basis = oracle.basis_spec("mlp_act").build(model)
    first, second = (0, 1, 3), (1, 3, 5)
    nodes = chosen(context, basis, (first, (0, 3, 2), second))
    blocks, last = model.body.transformer.h, PAIRS.length - 1
    centre = torch.eye(oracle.D_MODEL, dtype=torch.float64) - 1 / oracle.D_MODEL
    norm = [centre * blocks[1].ln_1.weight / SCALE, centre * blocks[1].ln_2.weight / SCALE]
    values = blocks[1].attn.c_attn.weight[:, 2 * oracle.D_MODEL :] @ blocks[1].attn.c_proj.weight
    words = model.body.lm_head.weight
    read_out = words[PAIRS.answers].mean(1) - words[PAIRS.foils].mean(1)
    to_logits = read_out @ (centre * model.body.transformer.ln_f.weight / SCALE).T
    activations = [context.activation(basis.sites[0].write, side) for side in ("clean", "counterfactual")]
    move = activations[1].mean(0) - activations[0]
    for column, (layer, position, unit) in enumerate(nodes.nodes[:2]):
        written = blocks[layer].mlp.c_proj.weight[unit]
        through = (written @ norm[0] @ values) / (last + 1)
        reaching = (through + (written if position == last else 0)) @ norm[1] @ blocks[1].mlp.c_fc.weight[:, second[2]]
        onward = to_logits @ blocks[1].mlp.c_proj.weight[second[2]]
        expected = (move[:, position, unit] * reaching * onward).mean()
        ends = (move[:, position, unit] * (to_logits @ (through + (written if position == last else 0)))).mean()
        for method in EDGE_METHODS:
            score = edge_scores(context, nodes, method).score[PAIRS.length + column]
            torch.testing.assert_close(score[2], expected, rtol=1e-6, atol=1e-12)
            torch.testing.assert_close(score[3], ends, rtol=1e-6, atol=1e-12)
        assert abs(expected) > 1e-3
