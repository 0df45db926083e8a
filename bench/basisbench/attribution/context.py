"""What methods may ask about one aligned group: activations, coordinates, gradient fields, patched runs.

Everything is computed on demand and, where the pairs fit into memory, at most once for all bases and methods
(`attribution.parts` for those that do not). What it cost is remembered, so that each cell can be charged for the shared
work that it used, whoever asked first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from basisbench.attribution.batch import Batch
from basisbench.attribution.cost import Ledger, PartLedger, Spent, now
from basisbench.attribution.error_nodes import error_axes, to_nodes
from basisbench.attribution.gradients import gradient_field
from basisbench.attribution.hooks_together import in_every_layer, swept_with
from basisbench.attribution.method_passes import MethodPasses
from basisbench.attribution.own_pass import activation_inside
from basisbench.attribution.parted_group import PartedGroup
from basisbench.attribution.parts import pairs_of_a_part
from basisbench.attribution.reconstruction import EarlierWrites
from basisbench.attribution.shared_tensors import SharedTensors
from basisbench.attribution.values import reduced, shaped
from basisbench.errors import BasisBenchError
from basisbench.models.batching import BUDGETS, joined_rows
from basisbench.models.hooks import observed
from basisbench.models.model import Model
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.protocols import Basis
    from basisbench.types import Ablation, BackwardRules, ErrorPolicy, Pairs, ScoreReference, Side, Site

Result = TypeVar("Result")


class GroupContext(MethodPasses):
    """One aligned group on one model; implements `basisbench.protocols.ScoringContext`.

    Args:
        model: the model.
        pairs: the group.
        seed: of the cell.
        beside: tokens of one side of the split's other groups, which share the memory.
        together: of some pairs of a group, the hooks that are asked for together; None for a whole group.
    """

    def __init__(
        self, model: Model, pairs: Pairs, seed: int, *, beside: int = 0, together: Collection[str] | None = None
    ) -> None:
        self.pairs = pairs
        self.batch = Batch.of(model, pairs)
        self.ledger = Ledger()
        self.ablation: Ablation = "mean"
        self.score_reference: ScoreReference = "ablation"
        self._error_policy: ErrorPolicy = "coordinates"
        self._means: GroupContext = self
        self._model = model
        self._seed = seed
        self._activations: dict[tuple[Side, str], Tensor] = {}
        self._fields: dict[tuple[str, str], Tensor] = {}
        self._encoded_by: Basis | None = None
        self._encoded: dict[tuple[Site, Side], tuple[Tensor, Tensor]] = {}
        self._earlier: dict[Side, EarlierWrites] = {}
        self._shared = SharedTensors()
        for name in ("clean", "counterfactual", "answers", "foils"):
            self._shared.keep(f"the {name} tokens", getattr(self.batch, name))
        self.split_tokens = beside + pairs.token_count
        self._parted: PartedGroup[GroupContext] | None = None
        self._together = together
        if together is None and (few := pairs_of_a_part(model, pairs, self.split_tokens)) is not None:
            self._parted = PartedGroup(model, len(pairs), few, self.split_tokens, self.part, self._begin)
            self._together = ()
        self._whole_for = ""

    def start(
        self,
        ablation: Ablation,
        score_reference: ScoreReference = "ablation",
        error_policy: ErrorPolicy = "coordinates",
        means: GroupContext | None = None,
    ) -> None:
        """Begin a cell: forget what the last one used.

        Args:
            ablation: of the cell, which fixes the reference values.
            score_reference: of the cell: what nodes move to when they are scored.
            error_policy: of the cell: what error nodes are.
            means: the context whose prompts mean references are taken over; this one when None.
        """
        self.ablation, self.score_reference, self._error_policy = ablation, score_reference, error_policy
        self._means = means or self
        self.ledger.start()

    def watch_values(self) -> None:
        """From now on look at values too: PyTorch does not count changes through `.data` and NumPy."""
        self._shared.watch_values()
        if self._parted is not None:
            self._parted.watch_values()

    def changed(self) -> list[str]:
        """Return the names of the shared tensors that something has changed in place."""
        return [*self._shared.changed(), *(() if self._parted is None else self._parted.changed())]

    @property
    def in_parts(self) -> bool:
        """Whether there are too many pairs to keep what is known of them all."""
        return self._parted is not None

    def parts(self, basis: Basis) -> Iterator[GroupContext]:
        """Return the group in parts that fit into memory, for questions about a basis; itself where it is one."""
        return iter([self]) if self._parted is None else self._parted.parts(basis)

    def with_hooks(self, hooks: Collection[str]) -> Iterator[GroupContext]:
        """Return the same parts, of the same pairs, for activations at hooks."""
        return iter([self]) if self._parted is None else self._parted.with_hooks(hooks)

    def part(self, chosen: slice, hooks: Collection[str]) -> GroupContext:
        """Return some of the pairs, on which some hooks are asked for together."""
        part = GroupContext(self._model, self.pairs.part(chosen), self._seed, together=hooks)
        part.ledger = PartLedger(self.ledger, chosen.start)
        self._begin(part)  # without it, a part would hold itself, and go only when garbage is collected
        if self._shared.watched:
            part.watch_values()
        return part

    def few(self) -> GroupContext:
        """Return one pair, or the group where it is no parts: for shapes, at no cost of a cell's."""
        if self._parted is None:
            return self
        one = self.part(slice(0, 1), ())
        one.ledger = Ledger()
        return one

    def _begin(self, part: GroupContext) -> None:
        """Make a part ready for the cell at hand."""
        part.start(self.ablation, self.score_reference, self._error_policy, self._means)

    @property
    def model(self) -> Model:
        """The model under study."""
        return self._model

    @property
    def pair_count(self) -> int:
        """Pairs in the group."""
        return len(self.pairs)

    def tokens(self, side: Side) -> Int[Tensor, "pair pos"]:
        """Return the token ids of the clean or the counterfactual prompts."""
        return self.batch.clean if side == "clean" else self.batch.counterfactual

    def activation(self, hook: str, side: Side) -> Float[Tensor, "pair ..."]:
        """Return the activation at a hook in the clean or the counterfactual run."""
        import torch

        if (side, hook) not in self._activations:
            tokens = self.tokens(side)
            try:
                wanted = sorted(self._asked_with(hook))
                places = {name: self._model.place(name) for name in wanted if (side, name) not in self._activations}
            except BasisBenchError:  # it lies inside a module, or there is none
                self._model.hook_point(hook)
                return activation_inside(self._model, tokens, hook)

            def run_part(chosen: slice) -> Mapping[str, Tensor]:
                with torch.no_grad(), observed(self._model.fast_body, places) as seen:
                    self._model.logits(tokens[chosen], fast=True)
                return {name: value.to(self._model.device) for name, value in seen.items()}

            def run() -> Mapping[str, Tensor]:
                batching, (rows, length) = self._model.batching, tokens.shape
                most = self._model.pass_tokens(length)
                return joined_rows(batching.in_parts("activations", rows, length, run_part, most=most))

            for name, value in self._charged(f"activations:{side}", run).items():
                self._activations[side, name] = value
                self._shared.keep(f"the {side} activation at {name}", value)
        self.use_activations(side)
        return self._activations[side, hook]

    def use_activations(self, side: Side) -> None:
        """Note that a cell uses the activations of a run, or what was made from them for a cell before it."""
        self.ledger.use(f"activations:{side}")

    def coordinates(
        self, basis: Basis, site: Site, side: Side
    ) -> tuple[Float[Tensor, "pair pos unit"], Float[Tensor, "pair pos d_write"] | None]:
        """Return coordinates and error (None for an exact basis) in the clean or the counterfactual run."""
        activation = self.activation(site.read, side)
        if basis.exact:
            return shaped(basis.encode(site, activation), activation.shape[:-1], basis, "encode", site), None
        if self._encoded_by is not basis:
            self._forget_coordinates()
            self._encoded_by = basis
        # Coordinates that are kept were made from this; a cell costs the same whichever came before it.
        self.use_activations(side)
        if (site, side) not in self._encoded:
            units = shaped(basis.encode(site, activation), activation.shape[:-1], basis, "encode", site)
            written = self.activation(site.write, side)
            error = written - shaped(basis.decode(site, units), written.shape, basis, "decode", site)
            if isinstance(basis, CrossLayerBasis):
                earlier = self._writes_before(basis, site, side, units)
                error = error if earlier is None else error - earlier
            result = units, error
            kept = sum(coordinates.nbytes for coordinates, _ in self._encoded.values())
            if kept + units.nbytes > BUDGETS["units of a basis"].on(units.device.type):
                return result
            self._encoded[site, side] = result
            self._shared.keep(f"the {side} coordinates at {site.read}", units)
            self._shared.keep(f"the {side} errors at {site.write}", error)
        return self._encoded[site, side]

    def reference(
        self, basis: Basis, site: Site
    ) -> tuple[Float[Tensor, "pair_or_1 pos unit"], Float[Tensor, "pair_or_1 pos d_write"] | None]:
        """Return the values that nodes outside a circuit take: the cell's ablation, on these pairs."""
        source = self if self.ablation == "counterfactual" else self._means
        return source.reduced_coordinates(basis, site, self.ablation)

    def reduced_coordinates(
        self, basis: Basis, site: Site, ablation: Ablation
    ) -> tuple[Float[Tensor, "pair_or_1 pos unit"], Float[Tensor, "pair_or_1 pos d_write"] | None]:
        """Return the reference values of an ablation, from these pairs' counterfactual prompts."""
        if ablation == "counterfactual" or self._parted is None:
            units, error = self.coordinates(basis, site, "counterfactual")
            return reduced(units, ablation), None if error is None else reduced(error, ablation)
        self.use_activations("counterfactual")
        units, error = self._parted.coordinates(basis, site)
        return reduced(units, ablation), None if error is None else reduced(error, ablation)

    def reduced_activation(self, hook: str, ablation: Ablation) -> Float[Tensor, "pair_or_1 pos d"]:
        """Return the reference value that an ablation gives an activation, from the counterfactual prompts."""
        if ablation == "counterfactual" or self._parted is None:
            return reduced(self.activation(hook, "counterfactual"), ablation)
        self.use_activations("counterfactual")
        return reduced(self._parted.activation(hook), ablation)

    def target(
        self, basis: Basis, site: Site
    ) -> tuple[Float[Tensor, "pair_or_1 pos unit"], Float[Tensor, "pair_or_1 pos d_write"] | None]:
        """Return the values that nodes move to when they are scored."""
        if self.score_reference == "counterfactual":
            return self.coordinates(basis, site, "counterfactual")
        return self.reference(basis, site)

    @property
    def error_policy(self) -> ErrorPolicy:
        """What errors are."""
        return self._error_policy

    def error_nodes(self, site: Site, values: Float[Tensor, "*b d_write"]) -> Float[Tensor, "*b error"]:
        """Return an error, or a gradient, at a write site in the coordinates that are error nodes."""
        return to_nodes(values, error_axes(self._error_policy, site, values))

    def _asked_with(self, hook: str) -> Collection[str]:
        """Return the hooks whose activations are kept when that of one is asked for."""
        if self._together is not None:
            return in_every_layer(self._model, (hook, *self._together))
        layers = range(self._model.layers)
        kinds = [self._model.hook(kind, layer) for kind in self._model.kinds() for layer in layers]
        return {*kinds, *in_every_layer(self._model, (hook,))}

    def _writes_before(
        self, basis: CrossLayerBasis, site: Site, side: Side, units: Float[Tensor, "pair pos unit"]
    ) -> Float[Tensor, "pair pos d_write"] | None:
        """Return what the units of earlier sites write here; None at the first site."""
        if side not in self._earlier:
            self._earlier[side] = EarlierWrites(
                basis, lambda source: basis.encode(source, self.activation(source.read, side))
            )
        earlier = self._earlier[side].at(site)
        self._earlier[side].offer(site, units)
        return earlier

    def forget_other_bases(self, name: str) -> None:
        """Drop the coordinates of any basis but the named one, so that it can be freed."""
        if self._encoded_by is not None and self._encoded_by.name != name:
            self._forget_coordinates()
        if self._parted is not None and self._whole_for != name:
            self._whole_for = name
            self._parted.forget()
            self._forget_activations()

    def _forget_coordinates(self) -> None:
        for site, side in self._encoded:
            self._shared.forget(f"the {side} coordinates at {site.read}")
            self._shared.forget(f"the {side} errors at {site.write}")
        self._encoded_by, self._encoded, self._earlier = None, {}, {}

    def _forget_activations(self) -> None:
        for side, hook in self._activations:
            self._shared.forget(f"the {side} activation at {hook}")
        for path, hook in self._fields:
            self._shared.forget(f"the gradient field of {path} at {hook}")
        self._activations, self._fields = {}, {}

    def gradient_field(self, rule: str | BackwardRules, site: Site) -> Float[Tensor, "pair pos d_write"]:
        """Return the gradient of each pair's metric at the site's write hook under a rule."""
        path = f"{rule} to {self._path_end}" if rule == "ig" else str(rule)
        if rule == "ig" and self._path_end == "mean" and self._means is not self:
            path = f"{path} of the {self._means.pairs.split} pairs"
        key, hooks = self._shared_field(rule, path, site.write)
        if (path, site.write) not in self._fields:
            # Taken before the clock starts: they are charged as activations.
            ends = {hook: self.moved_activation(hook) for hook in hooks} if rule == "ig" else {}

            def run() -> dict[str, Tensor]:
                return dict(gradient_field(rule, self._model, self.batch, hooks, ends=ends))

            for hook, value in self._charged(key, run).items():
                self._fields[path, hook] = value
                self._shared.keep(f"the gradient field of {path} at {hook}", value)
        elif rule == "ig":
            (self if self._path_end == "counterfactual" else self._means).use_activations("counterfactual")
        self.ledger.use(key)
        return self._fields[path, site.write]

    @property
    def _path_end(self) -> Ablation:
        """What a path of activations runs to."""
        return "counterfactual" if self.score_reference == "counterfactual" else self.ablation

    def moved_activation(self, hook: str) -> Float[Tensor, "pair_or_1 pos d"]:
        """Return what the activation is when all of its nodes have moved; zero under zero ablation, bias or not."""
        source = self if self._path_end == "counterfactual" else self._means
        return source.reduced_activation(hook, self._path_end)

    def _shared_field(self, rule: str | BackwardRules, path: str, wanted: str) -> tuple[str, list[str]]:
        """Return the hooks whose gradients are computed together with those of one hook, and the ledger's name of them.

        One backward pass serves every family; integrated gradients sweep the sites of one kind one by one. A hook that
        no family writes to comes with its likes in the other layers, and so does every hook of a part of a group.
        """
        layers, model = range(self._model.layers), self._model
        kinds = model.written_kinds() if rule != "ig" else swept_with(model, wanted, zero=self._path_end == "zero")
        hooks = [model.hook(kind, layer) for layer in layers for kind in kinds]
        if wanted in hooks and self._together is None:
            return f"field:{path}:{' '.join(kinds)}", hooks
        likes = sorted(in_every_layer(model, (wanted,)))
        return f"field:{path}:{likes[0]}", likes

    @property
    def group(self) -> str:
        """Key of the group, the same in both splits."""
        return self.pairs.group

    def generator(self, *key: str | int) -> torch.Generator:
        """Return a generator on the CPU, seeded from the cell's seed, the group and `key`."""
        return seeded_generator(self._seed, self.pairs.task, self.pairs.group, *key)

    def _charged(self, key: str, work: Callable[[], Result]) -> Result:
        before = self._model.meter.forward_equivalents
        start = now(self._model)
        result = work()
        self.ledger.pay(key, Spent(now(self._model) - start, self._model.meter.forward_equivalents - before))
        return result


def seeded_generator(seed: int, task: str, group: str, *key: str | int) -> torch.Generator:
    """Return a generator on the CPU, seeded from a cell's seed, its task, an aligned group and `key`."""
    import torch

    text = repr((seed, task, group, *key))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)
