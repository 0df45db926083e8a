"""Steered passes against plain hooks, one prompt at a time, against closed forms, and against the unhooked model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from basisbench.circuits.group import GroupPair
from basisbench.circuits.moves import Moves, Node, doses_of, in_sequence, joined, moved_alike
from basisbench.circuits.steered_nodes import node_references
from basisbench.circuits.steered_values import SteeredValues, steered_values, token_divergences, values_of_rows
from basisbench.circuits.steering import steered_logits
from basisbench.models.hooks import replaced_forward
from basisbench.models.start_at_layer import block_inputs
from basisbench.protocols import Basis
from basisbench.types import ErrorPolicy
from helpers import cross_layer_oracle as cross
from helpers import oracle
from helpers.oracle import Where
from helpers.oracle_evaluator import Values

pytestmark = pytest.mark.usefixtures("double_precision")

Change = Callable[[float, float], float]
"""From a value and its reference to what it becomes."""

CASES: Sequence[tuple[str, float, Change]] = (
    ("scale", -3.0, lambda value, _: -3 * value),
    ("set", 0.7, lambda _value, _reference: 0.7),
    ("add", 2.0, lambda value, _: value + 2),
    ("ablate", 0.5, lambda value, reference: (value + reference) / 2),
)


def moves_of(group: GroupPair, basis: Basis, policy: ErrorPolicy, nodes: Sequence[Node]) -> Callable[[slice], Moves]:
    """Return a case for each operation, all on the same nodes; references are counterfactual values."""
    reference = node_references(nodes, basis, policy, group.reference(basis, "counterfactual"))
    sets = [partial(doses_of, operation, [dose], nodes, reference) for operation, dose, _ in CASES]
    return in_sequence(sets, 1)


def changed(
    row: Tensor, error: Tensor, layer: int, position: int, nodes: Mapping[Node, float], change: Change, policy: str
) -> None:
    """Move the chosen coordinates of one layer and position in place, one by one."""
    axes = oracle.rotation(layer) if policy == "rotated" else torch.eye(len(error), dtype=error.dtype)
    before = axes @ error
    for (site, place, unit), reference in nodes.items():
        if (site, place) != (layer, position):
            continue
        if unit >= 0:
            row[unit] = change(float(row[unit]), reference)
        else:
            value = float(before[-1 - unit])
            error += (change(value, reference) - value) * axes[-1 - unit]


def slow_logits(
    name: str, architecture: str, prompt: object, nodes: Mapping[Node, float], change: Change, policy: str
) -> Tensor:
    """Return the last logits of one prompt with some nodes moved: R(f') + e' written with plain hooks."""
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    live: dict[int, Tensor] = {}

    def read(activation: Tensor, layer: int) -> None:
        live[layer] = twin.encode(layer, activation[0])

    def write(activation: Tensor, layer: int) -> Tensor:
        if twin.read == twin.write:
            read(activation, layer)
        units = live[layer]
        rows = []
        for position, vector in enumerate(activation[0]):
            row, error = units[position].clone(), vector - twin.decode(layer, units[position])
            changed(row, error, layer, position, nodes, change, policy)
            rows.append(twin.decode(layer, row) + error)
        return torch.stack(rows).unsqueeze(0)

    edits: dict[Where, Callable[[Tensor], Tensor | None]] = {}
    for layer in range(oracle.LAYERS):
        if twin.read != twin.write:
            edits[slow.where(twin.read, layer)] = lambda x, layer=layer: read(x, layer)
        edits[slow.where(twin.write, layer)] = lambda x, layer=layer: write(x, layer)
    return slow.logits(prompt, edits)[0]


def agree(group: GroupPair, found: SteeredValues, slow: oracle.Naive, logits: Callable[[int, Change], Tensor]) -> None:
    """Hold metric and divergence of every case and pair against logits from one slow run each."""
    pairs = group.evaluation.pairs
    for case, (_, _, change) in enumerate(CASES):
        for index in range(len(pairs)):
            expected, plain = logits(index, change), slow.logits(pairs.clean[index])[0]
            metric = slow.metric(pairs, index, expected)
            torch.testing.assert_close(found.metric[case, index], metric, rtol=0, atol=1e-9)
            nats = (plain.softmax(-1) * (plain.log_softmax(-1) - expected.log_softmax(-1))).sum()
            torch.testing.assert_close(found.divergence[case, index], nats, rtol=0, atol=1e-9)
    assert len(torch.unique(found.metric.mean(1).round(decimals=6))) == len(CASES)


def references_of(values: Values | cross.Values, nodes: Sequence[Node], policy: ErrorPolicy) -> dict[Node, float]:
    """Return what the slow twin has at each node: a unit, or a coordinate of the error along the policy's axes."""
    found = {}
    for layer, position, unit in nodes:
        error = values.errors[layer][position]
        turned = oracle.rotation(layer) @ error if policy == "rotated" else error
        found[layer, position, unit] = float(values.units[layer][position, unit] if unit >= 0 else turned[-1 - unit])
    return found


@pytest.mark.parametrize(("name", "policy"), [
    ("mlp_act", "coordinates"), ("sae_mlp_out", "coordinates"), ("transcoder", "rotated"), ("sae_resid", "keep"),
])  # fmt: skip
def test_it_equals_plain_hooks_on_one_prompt_at_a_time(architecture: str, name: str, policy: ErrorPolicy) -> None:
    group, basis = oracle.contexts(architecture)[1], oracle.basis(architecture, name)
    last = group.evaluation.pairs.length - 1
    nodes: list[Node] = [(0, 1, 3), (0, last, 0), (0, last, 3), (1, last, 5), (1, last - 1, 2)]
    if policy != "keep" and not basis.exact:
        nodes += [(0, 1, -1 - 4), (1, last, -1 - 7)]
    found = steered_values(group, basis, policy, moves_of(group, basis, policy, nodes), len(CASES))
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    pairs = group.evaluation.pairs

    def logits(index: int, change: Change) -> Tensor:
        values = slow.values(twin, pairs.counterfactual[index])
        references = references_of(values, nodes, policy)
        return slow_logits(name, architecture, pairs.clean[index], references, change, policy)

    agree(group, found, slow, logits)


@pytest.mark.parametrize("policy", ["coordinates", "rotated"])
def test_units_that_write_at_later_layers_equal_plain_hooks(architecture: str, policy: ErrorPolicy) -> None:
    group, basis, slow = cross.contexts(architecture)[1], cross.basis(architecture), cross.slow(architecture)
    pairs = group.evaluation.pairs
    last = pairs.length - 1
    nodes: list[Node] = [(0, 1, 3), (0, last, 4), (1, last, 5), (1, 1, -1 - 2), (2, last, -1 - 6)]
    found = steered_values(group, basis, policy, moves_of(group, basis, policy, nodes), len(CASES))

    def logits(index: int, change: Change) -> Tensor:
        values = slow.values(pairs.counterfactual[index])
        references = references_of(values, nodes, policy)
        live: list[Tensor] = []
        moved: list[Tensor] = []

        def read(x: Tensor, layer: int) -> None:
            live.append(slow.parts.encode(layer, x[0]))
            moved.append(live[layer].clone())
            for position in range(len(moved[layer])):
                changed(
                    moved[layer][position],
                    torch.zeros(oracle.D_MODEL).double(),
                    layer,
                    position,
                    references,
                    change,
                    "",
                )

        def write(y: Tensor, layer: int) -> Tensor:
            errors = y[0] - slow.parts.rebuilt(layer, live)
            for position, error in enumerate(errors):
                changed(live[layer][position].clone(), error, layer, position, references, change, policy)
            return (slow.parts.rebuilt(layer, moved) + errors).unsqueeze(0)

        edits: dict[Where, Callable[[Tensor], Tensor | None]] = {}
        for layer in range(cross.LAYERS):
            edits[cross.read_place(architecture, slow.parts.read, layer)] = lambda x, layer=layer: read(x, layer)
            edits[slow.plain.where("mlp_out", layer)] = lambda y, layer=layer: write(y, layer)
        return slow.plain.logits(pairs.clean[index], edits)[0]

    agree(group, found, slow.plain, logits)


@pytest.mark.parametrize("name", ["mlp_act", "mlp_act_rotated", "sae_mlp_out", "transcoder"])
def test_the_dose_that_changes_nothing_leaves_every_bit(architecture: str, name: str) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, name)
    nodes: list[Node] = [(0, 1, 3), (1, 2, 4)] + ([] if basis.exact else [(0, 2, -1 - 3)])
    zero = torch.zeros(1, len(nodes), dtype=torch.float64)
    moves = joined([doses_of("scale", [1], nodes, zero), doses_of("add", [0], nodes, zero)])
    inputs = block_inputs(group.evaluation.model, group.evaluation.batch.clean)
    with torch.inference_mode():
        found = steered_logits(inputs, basis, "coordinates", moves)
        plain = inputs.repeated(2, 0).logits_from(0, {}).unflatten(0, (2, -1))
    assert torch.equal(found[:, :, -1], plain)
    values = steered_values(group, basis, "coordinates", lambda _: moves, 2)
    torch.testing.assert_close(values.metric, group.full.expand(2, -1), rtol=0, atol=1e-12)


def test_without_a_norm_behind_it_a_dose_is_a_line(architecture: str) -> None:
    """Scaling a neuron of the last layer by c moves the metric by (c - 1) f <W_out, answers - foils>."""
    if architecture in ("gemma2", "gemma3", "neox"):
        pytest.skip("a norm lies between, or the projection has another name")
    group, basis = oracle.contexts(architecture)[1], oracle.basis(architecture, "mlp_act")
    model, last = group.evaluation.model, group.evaluation.pairs.length - 1
    doses = [-3.0, 0.0, 1.0, 2.5]
    node = [(1, last, 6)]
    moves = in_sequence([lambda: doses_of("scale", doses, node, torch.zeros(1, 1, dtype=torch.float64))], len(doses))
    norm = model.place("ln_final.hook_out").module
    bodies = [body.get_submodule(norm) for body in (model.body, model.fast_body)]
    with replaced_forward(bodies[0], lambda x: x), replaced_forward(bodies[1], lambda x: x):
        found = steered_values(group, basis, "coordinates", moves, len(doses)).metric
    value = group.evaluation.activation(basis.sites[1].read, "clean")[:, last, 6]
    out = model.body.get_submodule(model.place(basis.sites[1].write).module).weight
    row = out[6] if architecture == "gpt2" else out[:, 6]
    words = model.component("unembed").original_component.weight @ row
    slope = group.evaluation.batch.metric(words.expand(len(value), -1)) * value
    for case, dose in enumerate(doses):
        torch.testing.assert_close(found[case] - found[2], (dose - 1) * slope, rtol=0, atol=1e-10)
    assert float(slope.abs().max()) > 1e-4


def test_cases_do_not_depend_on_how_they_are_cut() -> None:
    group, basis = oracle.contexts("llama")[0], oracle.basis("llama", "sae_mlp_out")
    nodes: list[Node] = [(0, 1, 3), (1, 2, 4)]
    moves = moves_of(group, basis, "coordinates", nodes)
    whole = steered_values(group, basis, "coordinates", moves, len(CASES)).metric
    model = group.evaluation.model
    model.batching.bounds["circuits"] = group.evaluation.pairs.length * 2
    try:
        parts = steered_values(group, basis, "coordinates", moves, len(CASES)).metric
    finally:
        del model.batching.bounds["circuits"]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


def test_divergence_of_text_is_the_mean_over_its_tokens() -> None:
    group, basis = oracle.contexts("llama")[1], oracle.basis("llama", "mlp_act")
    tokens, model = group.evaluation.batch.clean, group.evaluation.model
    length = tokens.shape[1]
    nodes: list[Node] = [(0, position, 3) for position in range(1, length)]
    moves = doses_of("scale", [-2, 1], nodes, torch.zeros(1, len(nodes), dtype=torch.float64))
    found = token_divergences(model, basis, "coordinates", in_sequence([lambda: moves], 2), 2, tokens, 1)
    slow = oracle.naive("llama")
    for index, prompt in enumerate(tokens.tolist()):
        nats = []
        for end in range(2, length + 1):  # the next token behind each beginning of the text
            plain = slow.logits(prompt[:end])[0].log_softmax(-1)
            references = dict.fromkeys(nodes, 0.0)
            steered = slow_logits("mlp_act", "llama", prompt[:end], references, lambda value, _: -2 * value, "")
            nats.append((plain.exp() * (plain - steered.log_softmax(-1))).sum())
        torch.testing.assert_close(found[0, index], torch.stack(nats).mean(), rtol=0, atol=1e-9)
    assert float(found[1].max()) == pytest.approx(0, abs=1e-12)


def test_controls_are_moved_by_as_much_prompt_by_prompt() -> None:
    group, basis = oracle.contexts("llama")[1], oracle.basis("llama", "sae_mlp_out")
    tokens = group.evaluation.batch.clean
    nodes: list[Node] = [(0, 1, 3), (1, 2, -1 - 5)]
    others: list[Node] = [(0, 1, 8), (1, 2, -1 - 2)]
    values = values_of_rows(group.evaluation.model, basis, "coordinates", nodes, tokens)
    units, _ = group.evaluation.coordinates(basis, basis.sites[0], "clean")
    _, error = group.evaluation.coordinates(basis, basis.sites[1], "clean")
    assert error is not None
    torch.testing.assert_close(values, torch.stack([units[:, 1, 3], error[:, 2, 5]], -1), rtol=0, atol=1e-12)
    for operation, dose, change in CASES:
        own = doses_of(operation, [dose], nodes, values * 0 + 0.3)  # type: ignore[arg-type]
        alike = moved_alike(own, values, others)
        expected = [[change(float(value), 0.3) - float(value) for value in row] for row in values]
        torch.testing.assert_close(alike.offset[0], torch.tensor(expected).double(), rtol=0, atol=1e-6)
        assert alike.nodes == tuple(others)
        assert bool((alike.factor == 1).all())
