"""Slow edges: one pair, one source, one target at a time, by plain hooks on the Hugging Face model.

Nothing here comes from the harness but the data types. A node is (layer, position, unit or -1 - j); sources may be
("token", position), the target may be "logits".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from basisbench.attribution import edge_scores
from basisbench.attribution.chosen_nodes import ChosenNodes
from basisbench.attribution.context import GroupContext
from basisbench.attribution.edge_scores import choose_nodes
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.protocols import Basis
from basisbench.types import ModelSpec, Pairs
from helpers import oracle
from helpers.oracle_evaluator import D_MLP, D_MODEL, Naive, NaiveBasis, Node
from helpers.oracle_scores import Question, error_axes, path_end, relp_rules
from helpers.oracle_sites import Where

LAYERS = 3

Source = tuple[Any, ...]
Target = Any


@cache
def deep_model(architecture: str) -> Model:
    """Load a tiny model of three layers through the harness."""
    return load_model(ModelSpec(f"deep-{architecture}", str(oracle.checkpoint(architecture, LAYERS)), ""))


@cache
def deep_naive(architecture: str) -> Naive:
    """Load the same by itself."""
    from transformers import AutoModelForCausalLM

    folder = oracle.checkpoint(architecture, LAYERS)
    return Naive(
        architecture, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval().requires_grad_(False)
    )


def neurons(kind: str) -> NaiveBasis:
    """Return the neurons of a kind of site, in three layers."""
    width = D_MLP if kind == "mlp_act" else D_MODEL
    return NaiveBasis(kind, kind, lambda _, x: x, lambda _, f: f, (width,) * LAYERS, has_error=False)


def deep_basis(architecture: str, kind: str) -> Basis:
    """Build the same through the harness."""
    return oracle.basis_spec("resid" if kind == "resid_post" else kind).build(deep_model(architecture))


def chosen(context: GroupContext, basis: Basis, nodes: Sequence[Node]) -> ChosenNodes:
    """Return nodes as the harness has them: sites are in the order of layers."""
    return choose_nodes(context, basis, nodes)  # type: ignore[arg-type]


class SlowEdges:
    """Edges of one aligned group on the slow model."""

    def __init__(self, slow: Naive, twin: NaiveBasis, pairs: Pairs, question: Question, layers: int) -> None:
        self.slow, self.twin, self.pairs, self.question, self.layers = slow, twin, pairs, question, layers
        self.kept: dict[Any, Any] = {}

    def once(self, key: Any, work: Callable[[], Any]) -> Any:
        """Return what some work gave when it was first done."""
        if key not in self.kept:
            self.kept[key] = work()
        return self.kept[key]

    def place(self, layer: int) -> Where:
        return self.slow.where(self.twin.write, layer)

    def value(self, node: Node, read: Tensor, written: Tensor) -> Tensor:
        """Return a node's value from what its site reads and what the model has at the write hook, ``pos d`` each."""
        layer, position, unit = node
        units = self.twin.encode(layer, read)
        if unit >= 0:  # type: ignore[operator]
            return units[position, unit]
        error = (written - self.twin.decode(layer, units))[position]
        return error @ error_axes(self.twin, self.question.error_policy, layer, error)[-1 - unit]  # type: ignore[operator]

    def direction(self, node: Node) -> Tensor:
        layer, _, unit = node
        if unit >= 0:  # type: ignore[operator]
            return self.twin.direction(layer, unit)  # type: ignore[arg-type]
        width = self.slow.width(self.twin.write)
        axes = error_axes(self.twin, self.question.error_policy, layer, torch.zeros(width, dtype=torch.float64))
        return axes[-1 - unit]  # type: ignore[operator]

    def move(self, index: int, source: Source) -> tuple[Where, int, Tensor]:
        """Return where a source writes, at which position, and its whole move there."""
        found: tuple[Where, int, Tensor] = self.once(("move", index, source), lambda: self.new_move(index, source))
        return found

    def new_move(self, index: int, source: Source) -> tuple[Where, int, Tensor]:
        if source[0] == "token":
            place = self.slow.where("embed")
            clean = self.slow.watched(self.pairs.clean[index], {"": place})[""]
            end = path_end(self.slow, self.pairs, self.pairs, index, place, self.question.end)
            return place, source[1], (end - clean)[source[1]]
        layer, position, _ = source
        places = {"read": self.slow.where(self.twin.read, layer), "write": self.place(layer)}

        def of(prompt: Any) -> Tensor:
            seen = self.slow.watched(prompt, places)
            return self.value(source, seen["read"], seen["write"])  # type: ignore[arg-type]

        others = (
            [self.pairs.counterfactual[index]]
            if self.question.end == "counterfactual"
            else list(self.pairs.counterfactual)
        )
        end = sum(map(of, others), torch.zeros(())) / len(others) * (0.0 if self.question.end == "zero" else 1.0)
        return self.place(layer), position, (end - of(self.pairs.clean[index])) * self.direction(source)  # type: ignore[arg-type]

    def run(self, index: int, edits: Mapping[Where, Callable[[Tensor], Tensor | None]], target: Target) -> Tensor:
        """Return the target's value, or the metric, in a run with edits."""
        seen: dict[str, Tensor] = {}

        def watch(key: str, then: Callable[[Tensor], Tensor | None] | None) -> Callable[[Tensor], Tensor | None]:
            def edit(activation: Tensor) -> Tensor | None:
                seen.setdefault(key, activation)
                if key == "read" and watched["read"] == watched["write"]:
                    seen["write"] = activation
                return None if then is None else then(activation)

            return edit

        if target == "logits":
            return self.slow.metric(self.pairs, index, self.slow.logits(self.pairs.clean[index], edits)).sum()
        watched = {"write": self.place(target[0]), "read": self.slow.where(self.twin.read, target[0])}
        edits = {**edits, **{place: watch(key, edits.get(place)) for key, place in watched.items()}}
        self.slow.logits(self.pairs.clean[index], edits)
        return self.value(target, seen["read"][0], seen["write"][0])

    def direct(self, index: int, source: Source, target: Target, embeddings: Tensor | None = None) -> Tensor:
        """Return what a source's move does to a target's value directly, to first order."""
        place, position, move = self.move(index, source)
        leaves: list[Tensor] = []

        def leaf(activation: Tensor) -> Tensor:
            own = activation if embeddings is None or source[0] != "token" else embeddings
            leaves.append(own.detach().clone().requires_grad_())
            return leaves[0]

        first = -1 if source[0] == "token" else source[0]
        stop = self.layers if target == "logits" else target[0]
        edits: dict[Where, Any] = {self.place(layer): lambda own: own.detach() for layer in range(first + 1, stop)}
        if embeddings is not None:
            edits[self.slow.where("embed")] = lambda _: embeddings
        edits[place] = leaf
        with torch.enable_grad():
            value = self.run(index, edits, target)
            if not value.requires_grad:  # every way is stopped
                return torch.zeros(())
            (gradient,) = torch.autograd.grad(value, leaves, allow_unused=True)
        return torch.zeros(()) if gradient is None else gradient[0, position] @ move

    def onward(self, index: int, target: Target, embeddings: Tensor | None = None) -> Tensor:
        """Return the metric's whole gradient at a node."""
        if target == "logits":
            return torch.ones(())
        leaves: list[Tensor] = []

        def leaf(activation: Tensor) -> Tensor:
            leaves.append(activation.detach().clone().requires_grad_())
            return leaves[0]

        edits: dict[Where, Any] = {self.place(target[0]): leaf}
        if embeddings is not None:
            edits[self.slow.where("embed")] = lambda _: embeddings
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.run(index, edits, "logits"), leaves)
        return gradient[0, target[1]] @ self.direction(target)

    def score(self, method: str, source: Source, target: Target) -> float:
        """Return an edge's score."""
        total = 0.0
        for index in range(len(self.pairs)):
            points = [None] if method != "ig_inputs" else self.once(("path", index), lambda: self.path(index))  # noqa: B023
            with relp_rules(self.slow) if method == "relp" else nullcontext():
                for step, point in enumerate(points):
                    key = ("onward", method, index, step, target)
                    onward = self.once(key, lambda: self.onward(index, target, point))  # noqa: B023
                    total += float(self.direct(index, source, target, point) * onward) / len(points)
        return total / len(self.pairs)

    def path(self, index: int) -> list[Tensor]:
        """Return the embeddings on the way from clean to counterfactual."""
        embed = {"": self.slow.where("embed")}
        clean, other = (
            self.slow.watched(side[index], embed)[""] for side in (self.pairs.clean, self.pairs.counterfactual)
        )
        steps = edge_scores.STEPS
        return [(clean + step / steps * (other - clean)).unsqueeze(0) for step in range(steps)]

    def patched(self, source: Source, target: Target) -> float:
        """Return an edge's effect by path patching."""
        total = 0.0
        for index in range(len(self.pairs)):
            place, position, move = self.move(index, source)
            stop = self.layers if target == "logits" else target[0]
            places = {str(layer): self.place(layer) for layer in range(self.layers)}
            clean: Any = self.once(("clean", index), lambda: self.slow.watched(self.pairs.clean[index], places))  # noqa: B023
            before = self.once(("before", index, target), lambda: self.run(index, {}, target))  # noqa: B023
            edits: dict[Where, Any] = {}
            for layer in range(stop):
                edits[self.place(layer)] = lambda _, held=clean[str(layer)]: held.unsqueeze(0)

            def moved(own: Tensor, position: int = position, move: Tensor = move) -> Tensor:
                new = own.clone()
                new[:, position] += move
                return new

            edits[place] = moved  # everything before it is clean by itself
            value = self.run(index, edits, target)
            if target != "logits":
                change = (value - before) * self.direction(target)
                again = {self.place(target[0]): lambda own: moved(own, target[1], change)}  # noqa: B023
                value = self.run(index, again, "logits")
            total += float(value - self.once(("full", index), lambda: self.run(index, {}, "logits")))  # noqa: B023
        return total / len(self.pairs)

    def reference(self, index: int, layer: int) -> tuple[Tensor, Tensor]:
        """Return the coordinates and the error of a layer where nothing is live."""
        places = {"read": self.slow.where(self.twin.read, layer), "write": self.place(layer)}
        ours = self.question.end == "counterfactual"
        prompts = [self.pairs.counterfactual[index]] if ours else list(self.pairs.counterfactual)
        seen = [self.slow.watched(prompt, places) for prompt in prompts]
        units = [self.twin.encode(layer, one["read"]) for one in seen]
        errors = [one["write"] - self.twin.decode(layer, own) for one, own in zip(seen, units, strict=True)]
        scale = 0.0 if self.question.end == "zero" else 1.0 / len(seen)
        return sum(units[1:], units[0]) * scale, sum(errors[1:], errors[0]) * scale

    def ablated(self, index: int, nodes: Sequence[Node], kept: set[tuple[Source, Target]]) -> float:
        """Return the metric of pair `index` with some edges between some nodes kept, by the definition."""
        reference = self.once(("reference", index), lambda: [self.reference(index, at) for at in range(self.layers)])
        embed = self.slow.where("embed")
        tokens = path_end(self.slow, self.pairs, self.pairs, index, embed, self.question.end)
        live: dict[Node, Tensor] = {}
        for target in [*sorted(nodes, key=lambda node: node[0]), "logits"]:
            edits: dict[Where, Any] = {}
            for layer in range(self.layers if target == "logits" else target[0]):  # type: ignore[arg-type]
                units, error = (value.clone() for value in reference[layer])
                axes = error_axes(self.twin, self.question.error_policy, layer, error)
                for node in live:
                    if node[0] == layer and (node, target) in kept:
                        if node[2] >= 0:  # type: ignore[operator]
                            units[node[1], node[2]] = live[node]  # type: ignore[index]
                        else:
                            axis = axes[-1 - node[2]]  # type: ignore[operator]
                            error[node[1]] += (live[node] - error[node[1]] @ axis) * axis
                written = self.twin.decode(layer, units) + (error if self.twin.has_error else 0)
                edits[self.place(layer)] = lambda _, written=written: written.unsqueeze(0)

            def mixed(own: Tensor, target: Target = target) -> Tensor:
                new = tokens.clone()
                for position in range(len(new)):
                    if (("token", position), target) in kept:
                        new[position] = own[0, position]
                return new.unsqueeze(0)

            edits[embed] = mixed
            value = self.run(index, edits, target)
            if target == "logits":
                return float(value)
            live[target] = value  # type: ignore[index]
        raise AssertionError
