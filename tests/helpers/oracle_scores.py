"""Slow scores: gradients at one place, one pair and one step at a time, and what each node moves to, by explicit loops.

Nothing here comes from the harness but the data types; RelP's rules are written into the Hugging Face modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.types import Ablation, ErrorPolicy, Pairs, ScoreReference
from helpers.oracle_evaluator import LAYERS, Naive, NaiveBasis, Node, Values, all_nodes, error_names, rotation
from helpers.oracle_sites import Where

STEPS = 10
RULES = ("ixg", "ig", "ig_inputs", "relp")


@dataclass(frozen=True)
class Question:
    """What a cell's scores are asked: the conditions that they depend on."""

    ablation: Ablation = "mean"
    score_reference: ScoreReference = "ablation"
    error_policy: ErrorPolicy = "coordinates"

    @property
    def end(self) -> Ablation:
        """Where nodes move to."""
        return "counterfactual" if self.score_reference == "counterfactual" else self.ablation


OLD = Question("mean", "counterfactual", "node")
"""What Marks et al. score: clean against counterfactual, the whole error as one node."""

QUESTIONS = tuple(
    itertools.starmap(
        Question,
        itertools.product(
            ("mean", "counterfactual", "zero"), ("ablation", "counterfactual"), ("coordinates", "rotated", "node")
        ),
    )
)
"""Every condition under which there are error nodes."""

COVERING = (Question(), OLD, Question("zero", "ablation", "rotated"), Question("counterfactual", "ablation", "node"))
"""Each ablation, each error policy and each score reference, with fewer of their pairs."""


@contextmanager
def asking(context: GroupContext, question: Question, means: GroupContext | None = None) -> Iterator[GroupContext]:
    """Put a cell's conditions into a shared context, and the default ones back at the end."""
    context.start(question.ablation, question.score_reference, question.error_policy, means)
    try:
        yield context
    finally:
        context.start("mean")


def place_gradient(slow: Naive, pairs: Pairs, index: int, place: Where, value: Tensor | None = None) -> Tensor:
    """Return the metric's gradient at one place in the clean run of one pair, ``pos d``.

    Args:
        slow: the model.
        pairs: the group.
        index: the pair.
        place: where.
        value: what to put at the place instead of what arrives there, ``pos d``.
    """
    return gradient_with(slow, pairs, index, place, {}, value)


def gradient_with(
    slow: Naive,
    pairs: Pairs,
    index: int,
    place: Where,
    edits: dict[Where, Callable[[Tensor], Tensor | None]],
    value: Tensor | None = None,
) -> Tensor:
    """Return the metric's gradient at one place, with edits at others."""
    leaves: list[Tensor] = []

    def edit(activation: Tensor) -> Tensor:
        start = activation if value is None else value.unsqueeze(0)
        leaves.append(start.detach().clone().requires_grad_())
        return leaves[0]

    with torch.enable_grad():
        # Parameters have no gradient, so that the graph starts at the leaf.
        metric = slow.metric(pairs, index, slow.logits(pairs.clean[index], {**edits, place: edit})).sum()
        (gradient,) = torch.autograd.grad(metric, leaves)
    return gradient[0]


@contextmanager
def relp_rules(slow: Naive) -> Iterator[None]:
    """Write RelP into a Llama or a GPT-2: constants are detached, each side of a product gets half of its gradient."""

    def root_mean_square(self: Any, x: Tensor) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).sqrt().detach()
        return self.weight * (x / scale)

    def layer_norm(self: Any, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt().detach()
        return self.weight * (centred / scale) + self.bias

    def ratio(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            return x * (activation(x) / x).detach()

        return forward

    def gated(self: Any, x: Tensor) -> Tensor:
        product = ratio(self.act_fn)(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(0.5 * product + 0.5 * product.detach())

    def without_queries_and_keys(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        query, key, value = output.chunk(3, -1)
        return torch.cat([query.detach(), key.detach(), value], -1)

    with ExitStack() as stack:
        for module in slow.body.modules():
            if slow.architecture == "llama":
                from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

                if isinstance(module, LlamaRMSNorm):
                    stack.enter_context(mock.patch.object(module, "forward", root_mean_square.__get__(module)))
                elif isinstance(module, LlamaMLP):
                    stack.enter_context(mock.patch.object(module, "forward", gated.__get__(module)))
                elif isinstance(module, LlamaAttention):
                    for part in (module.q_proj, module.k_proj):
                        stack.callback(part.register_forward_hook(lambda _m, _i, output: output.detach()).remove)
            else:
                from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention

                assert slow.architecture == "gpt2"
                if isinstance(module, torch.nn.LayerNorm):
                    stack.enter_context(mock.patch.object(module, "forward", layer_norm.__get__(module)))
                elif isinstance(module, GPT2MLP):
                    stack.enter_context(mock.patch.object(module.act, "forward", ratio(module.act.forward)))
                elif isinstance(module, GPT2Attention):
                    stack.callback(module.c_attn.register_forward_hook(without_queries_and_keys).remove)
        yield


@cache
def _seen(slow: Naive, prompt: tuple[int, ...], place: Where) -> Tensor:
    return slow.watched(prompt, {"": place})[""]


def seen_at(slow: Naive, prompt: Any, place: Where) -> Tensor:
    """Return the activation of one prompt at one place, ``pos d``; the same tensor when asked again."""
    return _seen(slow, tuple(int(token) for token in prompt), place)


def path_end(slow: Naive, pairs: Pairs, means: Pairs, index: int, place: Where, end: Ablation) -> Tensor:
    """Return what one place holds when all of its nodes have moved, ``pos d``."""
    if end == "counterfactual":
        return seen_at(slow, pairs.counterfactual[index], place)
    seen = [seen_at(slow, prompt, place) for prompt in means.counterfactual]
    return sum(seen[1:], seen[0]) * (0.0 if end == "zero" else 1.0 / len(seen))


@cache
def mean_gradient(
    rule: str, slow: Naive, pairs: Pairs, means: Pairs, index: int, place: Where, end: Ablation, steps: int = STEPS
) -> Tensor:
    """Return what a rule multiplies the changes at one place of one pair with, ``pos d``."""
    if rule in ("ixg", "relp"):
        with relp_rules(slow) if rule == "relp" else nullcontext():
            return place_gradient(slow, pairs, index, place)
    embed, gradients = slow.where("embed"), []
    if rule == "ig":
        start = seen_at(slow, pairs.clean[index], place)
        stop = path_end(slow, pairs, means, index, place, end)
    else:
        start, stop = (seen_at(slow, prompts[index], embed) for prompts in (pairs.clean, pairs.counterfactual))
    for step in range(steps):
        point = start + (step / steps) * (stop - start)
        if rule == "ig":
            gradients.append(place_gradient(slow, pairs, index, place, point))
        else:
            edits: dict[Where, Any] = {embed: lambda _, point=point: point.unsqueeze(0)}
            gradients.append(gradient_with(slow, pairs, index, place, edits))
    return sum(gradients[1:], gradients[0]) / steps


def error_axes(twin: NaiveBasis, policy: str, layer: int, error: Tensor) -> Tensor:
    """Return the axes along which errors are nodes, as rows."""
    if twin.has_error and policy == "rotated":
        return rotation(layer)
    return torch.eye(error.shape[-1], dtype=torch.float64)


@cache
def directions(twin: NaiveBasis, layer: int) -> list[Tensor]:
    """Return what each unit of a layer writes."""
    return [twin.direction(layer, unit) for unit in range(twin.units[layer])]


@dataclass(frozen=True)
class NaiveScores:
    """Mean scores over the pairs of a group: per layer, ``pos unit`` and ``pos error``."""

    units: list[Tensor]
    errors: list[Tensor]

    def as_mapping(self, twin: NaiveBasis, policy: str = "coordinates") -> dict[Node, float]:
        """Return the score of each node."""
        found: dict[Node, float] = {}
        names = error_names(policy)
        for layer, position, unit in all_nodes(twin, len(self.units[0]), policy):
            whole = self.errors if isinstance(unit, str) else self.units
            found[layer, position, unit] = float(
                whole[layer][position, names.index(unit) if isinstance(unit, str) else unit]
            )
        return found


def target(slow: Naive, twin: NaiveBasis, pairs: Pairs, means: Pairs, index: int, question: Question) -> Values:
    """Return what the nodes of one pair move to when they are scored."""
    return slow.reference(twin, question.end, means, pairs, index)


def naive_scores(
    rule: str, slow: Naive, twin: NaiveBasis, pairs: Pairs, question: Question, means: Pairs | None = None
) -> NaiveScores:
    """Score by gradient times difference, pair by pair and unit by unit."""
    end = question.end if rule == "ig" else "mean"  # of no account for the others, and computed once

    def score(values: Values, other: Values, layer: int, index: int) -> tuple[Tensor, Tensor]:
        place = slow.where(twin.write, layer)
        gradient = mean_gradient(rule, slow, pairs, pairs if means is None else means, index, place, end)
        change, error = other.units[layer] - values.units[layer], other.errors[layer] - values.errors[layer]
        products = [(gradient * direction).sum(-1) for direction in directions(twin, layer)]
        by_unit = change * torch.stack(products, -1)
        if question.error_policy == "node":
            return by_unit, (gradient * error).sum(-1, keepdim=True)
        axes = error_axes(twin, question.error_policy, layer, error)
        return by_unit, torch.stack([(gradient @ axis) * (error @ axis) for axis in axes], -1)

    return _over_pairs(slow, twin, pairs, means, question, score)


def naive_magnitude(
    slow: Naive, twin: NaiveBasis, pairs: Pairs, question: Question, means: Pairs | None = None
) -> NaiveScores:
    """Score by the size of each node's change."""

    def score(values: Values, other: Values, layer: int, _index: int) -> tuple[Tensor, Tensor]:
        error = other.errors[layer] - values.errors[layer]
        if question.error_policy == "node":
            size = error.pow(2).sum(-1, keepdim=True).sqrt()
        else:
            axes = error_axes(twin, question.error_policy, layer, error)
            size = torch.stack([(error @ axis).abs() for axis in axes], -1)
        return (other.units[layer] - values.units[layer]).abs(), size

    return _over_pairs(slow, twin, pairs, means, question, score)


def naive_patching(
    slow: Naive, twin: NaiveBasis, pairs: Pairs, question: Question, means: Pairs | None = None
) -> NaiveScores:
    """Score by a run per node and pair in which that node alone has moved; a layer's runs are rows of a batch."""

    def score(values: Values, other: Values, layer: int, index: int) -> tuple[Tensor, Tensor]:
        written, error = [], other.errors[layer] - values.errors[layer]
        length, units = values.units[layer].shape
        axes = error_axes(twin, question.error_policy, layer, error)
        for position in range(length):
            for unit in range(units):
                moved = values.units[layer].clone()
                moved[position, unit] = other.units[layer][position, unit]
                written.append(twin.decode(layer, moved) + values.errors[layer])
            moves = [error[position]]
            if question.error_policy != "node":
                moves = [(error[position] @ axis) * axis for axis in axes]
            for move in moves if twin.has_error else []:
                whole = values.errors[layer].clone()
                whole[position] += move
                written.append(twin.decode(layer, values.units[layer]) + whole)
        rows = torch.stack(written)
        runs = slow.logits([pairs.clean[index]] * len(rows), {slow.where(twin.write, layer): lambda _: rows})
        effect = slow.metric(pairs, index, runs) - slow.metric(pairs, index, slow.logits(pairs.clean[index]))
        table = effect.view(length, -1)
        return table[:, :units], table[:, units:]

    return _over_pairs(slow, twin, pairs, means, question, score)


def _over_pairs(
    slow: Naive,
    twin: NaiveBasis,
    pairs: Pairs,
    means: Pairs | None,
    question: Question,
    score: Callable[..., tuple[Tensor, Tensor]],
) -> NaiveScores:
    """Return the mean of each pair's scores, layer by layer."""
    units: list[Tensor] = []
    errors: list[Tensor] = []
    for layer in range(LAYERS):
        found = []
        for index in range(len(pairs)):
            other = target(slow, twin, pairs, pairs if means is None else means, index, question)
            found.append(score(slow.values(twin, pairs.clean[index]), other, layer, index))
        units.append(sum((unit for unit, _ in found[1:]), found[0][0]) / len(found))
        errors.append(sum((error for _, error in found[1:]), found[0][1]) / len(found))
    return NaiveScores(units, errors)


def spliced_scores(slow: Naive, twin: NaiveBasis, pairs: Pairs, question: Question | None = None) -> NaiveScores:
    """Score by gradient times difference, the gradient taken through the basis spliced into the model.

    At one layer at a time the activation y becomes decode(f) + e with f and e leaves that hold the clean
    coordinates and the clean error: its value does not change, and the leaves' gradients are the nodes' own.
    """
    asked = question or Question()

    def score(values: Values, other: Values, layer: int, index: int) -> tuple[Tensor, Tensor]:
        coordinates = values.units[layer].clone().requires_grad_()
        axes = error_axes(twin, asked.error_policy, layer, values.errors[layer])
        error = (values.errors[layer] @ axes.T).requires_grad_()
        with torch.enable_grad():
            spliced = twin.decode(layer, coordinates) + error @ axes
            edits = {slow.where(twin.write, layer): lambda _, value=spliced: value.unsqueeze(0)}
            metric = slow.metric(pairs, index, slow.logits(pairs.clean[index], edits)).sum()
            by_unit, by_error = torch.autograd.grad(metric, [coordinates, error])
        scores = by_error * ((other.errors[layer] - values.errors[layer]) @ axes.T)
        whole = asked.error_policy == "node"
        change = other.units[layer] - values.units[layer]
        return by_unit * change, scores.sum(-1, keepdim=True) if whole else scores

    return _over_pairs(slow, twin, pairs, None, asked, score)
