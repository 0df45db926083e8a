"""Loss recovered against a slow twin: the plain Hugging Face model, one prompt at a time, with hooks of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.loss_recovered import SharedLosses, loss_recovered
from basisbench.models.model import Model
from basisbench.protocols import Basis, Training
from helpers import cross_layer_oracle as cross
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")

Where = tuple[str, str]
Edits = Mapping[Where, Callable[[Tensor], Tensor | None]]
Prompt = tuple[Any, int]
"""Tokens, and the first position that is replaced."""


def own_text(slow: oracle.Naive, model: Model) -> list[GroupContext]:
    """Return groups of texts that a random model has written itself, so that it loses something when it is damaged.

    The first token of the second group is no beginning of a sequence, but a token like the others.
    """
    groups = []
    for count, length, first in ((3, 6, "bos"), (2, 5, "a word")):
        pairs = oracle.random_pairs(count, length, seed=length)
        given = 2 if first == "bos" else 1  # tokens that the model does not write
        sides = []
        for drawn in (pairs.clean, pairs.counterfactual):
            tokens = drawn.copy() if first == "bos" else drawn[:, [*range(1, length), 0]]
            for row, position in itertools.product(tokens, range(given, length)):
                row[position] = int(slow.logits(row[:position])[0].argmax())
            sides.append(tokens)
        roles = (first, *pairs.roles[1:])
        groups.append(GroupContext(model, replace(pairs, clean=sides[0], counterfactual=sides[1], roles=roles), 0))
    return groups


def prompts_of(groups: Sequence[GroupContext], trained_from: int = 0) -> list[Prompt]:
    return [
        (prompt, min(max(1 if group.pairs.roles[0] == "bos" else 0, trained_from), len(prompt) - 1))
        for group in groups
        for side in (group.pairs.clean, group.pairs.counterfactual)
        for prompt in side
    ]


def loss(slow: oracle.Naive, prompt: Prompt, edits: Callable[[int], Edits]) -> float:
    """Sum the cross-entropy of every token but the first, from the output of the whole model, soft-cap included."""
    tokens = torch.as_tensor(prompt[0], dtype=torch.long)
    with slow.hooked(edits(prompt[1])):
        logits = slow.body(input_ids=tokens.unsqueeze(0), use_cache=False).logits[0]
    total = 0.0
    for position in range(len(tokens) - 1):
        row = logits[position].double()
        total += float(row.exp().sum().log() - row[int(tokens[position + 1])])
    return total


def behind(start: int, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Replace the rows of one prompt from a position on."""
    return lambda x: torch.cat([x[0, :start], change(x[0])[start:]]).unsqueeze(0)


def expected(
    slow: oracle.Naive, places: Sequence[Where], prompts: Sequence[Prompt], live: Callable[[int], Edits]
) -> float:
    """Return the share of the loss of mean ablation that is recovered with some edits."""
    means = []
    for place in places:
        rows = [row for tokens, start in prompts for row in slow.watched(tokens, {"": place})[""][start:]]
        means.append(sum(rows[1:], rows[0]) / len(rows))

    def constant(start: int) -> Edits:
        return {
            place: behind(start, lambda x, mean=mean: mean.expand_as(x))
            for place, mean in zip(places, means, strict=True)
        }

    plain, mean, kept = (sum(loss(slow, each, edits) for each in prompts) for edits in (lambda _: {}, constant, live))
    assert mean > plain + 0.01  # or the test would not see much
    return (mean - kept) / (mean - plain)


@pytest.mark.parametrize(
    ("name", "trained_from"), [("sae_mlp_out", 0), ("sae_resid", 0), ("transcoder", 0), ("sae_mlp_out", 2)]
)
def test_it_is_what_the_plain_model_gives(architecture: str, name: str, trained_from: int) -> None:
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    groups = own_text(slow, oracle.model(architecture))
    read: dict[int, Tensor] = {}

    def note(x: Tensor, layer: int) -> None:
        read[layer] = twin.encode(layer, x[0])

    def live(start: int) -> Edits:
        edits: dict[Where, Any] = {}
        for layer in range(oracle.LAYERS):
            place = slow.where(twin.write, layer)
            if twin.read == twin.write:
                edits[place] = behind(start, lambda x, layer=layer: twin.decode(layer, twin.encode(layer, x)))
            else:
                edits[slow.where(twin.read, layer)] = lambda x, layer=layer: note(x, layer)
                edits[place] = behind(start, lambda _, layer=layer: twin.decode(layer, read.pop(layer)))
        return edits

    places = [slow.where(twin.write, layer) for layer in range(oracle.LAYERS)]
    basis = replace(oracle.basis(architecture, name), trained=Training(trained_from))
    found, seconds = loss_recovered(basis, groups, {})
    assert found == pytest.approx(expected(slow, places, prompts_of(groups, trained_from), live), rel=1e-6)
    assert seconds > 0


def test_a_cross_layer_transcoder_writes_the_sum(architecture: str) -> None:
    slow = cross.slow(architecture)
    groups = own_text(slow.plain, cross.model(architecture))
    units: list[Tensor] = []

    def note(x: Tensor, layer: int) -> None:
        units[layer:] = [slow.parts.encode(layer, x[0])]

    def live(start: int) -> Edits:
        edits: dict[Where, Any] = {}
        for layer, place in enumerate(places):
            edits[cross.read_place(architecture, slow.parts.read, layer)] = lambda x, layer=layer: note(x, layer)
            edits[place] = behind(start, lambda _, layer=layer: slow.parts.rebuilt(layer, units))
        return edits

    places = [slow.plain.where("mlp_out", layer) for layer in range(cross.LAYERS)]
    found, _ = loss_recovered(cross.basis(architecture), groups, {})
    assert found == pytest.approx(expected(slow.plain, places, prompts_of(groups), live), rel=1e-6)


class Neurons:
    """Writes what it reads, times a factor, and calls the rest an error."""

    name, family, exact, parameter_bytes, trained = "written", "mlp", False, 0, Training()

    def __init__(self, basis: Basis, factor: float) -> None:
        self.sites, self.factor = basis.sites, factor

    def encode(self, _site: Any, x: Tensor) -> Tensor:
        return x

    def decode(self, _site: Any, f: Tensor) -> Tensor:
        return f * self.factor


def test_ends_of_the_scale() -> None:
    """All is recovered by what reconstructs all; nothing where the mean of a site costs nothing."""
    groups = own_text(oracle.naive("llama"), oracle.model("llama"))
    basis = oracle.basis("llama", "sae_mlp_out")
    shared: SharedLosses = {}
    whole, _ = loss_recovered(Neurons(basis, 1.0), groups, shared)
    half, _ = loss_recovered(Neurons(basis, 0.5), groups, shared)
    assert whole == pytest.approx(1, abs=1e-9)
    assert half is not None
    assert math.isfinite(half)
    assert half != pytest.approx(1, abs=1e-6)
    assert len(shared) == 2  # the plain pass and the one with means were made once
    later = Neurons(basis, 0.5)
    later.trained = Training(2)
    assert loss_recovered(later, groups, shared)[0] != pytest.approx(half, abs=1e-6)
    assert len(shared) == 3  # means of other positions are not those
    plain, seconds = shared[0, ()]
    shared[0, ()] = math.inf, seconds
    assert loss_recovered(Neurons(basis, 1.0), groups, shared)[0] is None
    shared[0, ()] = plain, seconds
