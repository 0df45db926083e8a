"""What methods may ask about one aligned group: activations, coordinates, gradient fields, patched runs.

Everything is computed on demand and at most once for all bases and methods. What it cost is remembered, so
that each cell can be charged for the shared work that it used, whoever asked first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from basisbench.attribution.batch import Batch, readable_logits
from basisbench.attribution.cost import Ledger, Spent, now
from basisbench.attribution.error_nodes import error_axes, to_nodes
from basisbench.attribution.gradients import gradient_field, gradient_tokens
from basisbench.attribution.own_pass import Put, activation_inside, gradients_at, metric_of, rules_named
from basisbench.attribution.patching import patched_metric
from basisbench.attribution.reconstruction import EarlierWrites
from basisbench.attribution.values import reduced, shaped
from basisbench.errors import BasisBenchError
from basisbench.models.batching import BUDGETS, joined_rows
from basisbench.models.hooks import observed
from basisbench.models.memory import bit_sum
from basisbench.models.model import Model
from basisbench.models.sites import SiteKind
from basisbench.models.start_at_layer import BlockInputs, block_inputs
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.protocols import Basis
    from basisbench.types import Ablation, BackwardRules, ErrorPolicy, Pairs, ScoreReference, Side, Site

Result = TypeVar("Result")

_TOKENS_PER_PATCH = 4096


class GroupContext:
    """One aligned group on one model; implements `basisbench.protocols.ScoringContext`."""

    def __init__(self, model: Model, pairs: Pairs, seed: int) -> None:
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
        self._entered: BlockInputs | None = None
        self._encoded_by: Basis | None = None
        self._encoded: dict[tuple[Site, Side], tuple[Tensor, Tensor]] = {}
        self._earlier: dict[Side, EarlierWrites] = {}
        self._versions: dict[str, tuple[Tensor, int]] = {}
        self._sums: dict[str, int] | None = None
        for name in ("clean", "counterfactual", "answers", "foils"):
            self._keep(f"the {name} tokens", getattr(self.batch, name))

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

    def _keep(self, name: str, tensor: Tensor) -> None:
        """Note a tensor that is handed out; PyTorch counts the changes made to it, or to any view of it, in place."""
        self._versions[name] = tensor, tensor._version
        if self._sums is not None:
            self._sums[name] = bit_sum([tensor])

    def watch_values(self) -> None:
        """From now on look at values too: PyTorch does not count changes through `.data` and NumPy."""
        if self._sums is None:
            self._sums = {name: bit_sum([tensor]) for name, (tensor, _) in self._versions.items()}

    def changed(self) -> list[str]:
        """Return the names of the shared tensors that something has changed in place."""
        sums = self._sums or {}
        return [
            name
            for name, (tensor, version) in self._versions.items()
            if tensor._version != version or (name in sums and sums[name] != bit_sum([tensor]))
        ]

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

    @property
    def answers(self) -> Int[Tensor, "pair answer"]:
        """Ids of the tokens that the clean prompts call for; of several in an answer, those that a row is scored on."""
        return self.batch.answers

    @property
    def foils(self) -> Int[Tensor, "pair foil"]:
        """Ids of the tokens that the counterfactual prompts call for; those of the pair's other row likewise."""
        return self.batch.foils

    def activation(self, hook: str, side: Side) -> Float[Tensor, "pair ..."]:
        """Return the activation at a hook in the clean or the counterfactual run."""
        import torch

        if (side, hook) not in self._activations:
            hooks = {
                self._model.hook(kind, layer) for kind in self._model.kinds() for layer in range(self._model.layers)
            }
            tokens = self.tokens(side)
            try:
                wanted = sorted(hooks | self._in_every_layer(hook))
                places = {name: self._model.place(name) for name in wanted if (side, name) not in self._activations}
            except BasisBenchError:  # it lies inside a module, or there is none
                self._model.hook_point(hook)
                return activation_inside(self._model, tokens, hook)

            def run_part(chosen: slice) -> Mapping[str, Tensor]:
                with torch.no_grad(), observed(self._model.fast_body, places) as seen:
                    self._model.logits(tokens[chosen], fast=True)
                return {name: value.to(self._model.device) for name, value in seen.items()}

            def run() -> Mapping[str, Tensor]:
                batching = self._model.batching
                return joined_rows(batching.in_parts("activations", len(tokens), tokens.shape[1], run_part))

            for name, value in self._charged(f"activations:{side}", run).items():
                self._activations[side, name] = value
                self._keep(f"the {side} activation at {name}", value)
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
            self._keep(f"the {side} coordinates at {site.read}", units)
            self._keep(f"the {side} errors at {site.write}", error)
        return self._encoded[site, side]

    def reference(
        self, basis: Basis, site: Site
    ) -> tuple[Float[Tensor, "pair_or_1 pos unit"], Float[Tensor, "pair_or_1 pos d_write"] | None]:
        """Return the values that nodes outside a circuit take: the cell's ablation, on these pairs."""
        source = self if self.ablation == "counterfactual" else self._means
        units, error = source.coordinates(basis, site, "counterfactual")
        return reduced(units, self.ablation), None if error is None else reduced(error, self.ablation)

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

    def _in_every_layer(self, hook: str) -> set[str]:
        """Return a hook and its likes in the other layers, which a basis will ask for next."""
        start, _, rest = hook.partition(".")
        name = rest.partition(".")[2]
        likes = {f"{start}.{layer}.{name}" for layer in range(self._model.layers)} if start == "blocks" else set()
        return {hook} | (likes & self._model.hook_points.keys())

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

    def _forget_coordinates(self) -> None:
        for site, side in self._encoded:
            del self._versions[f"the {side} coordinates at {site.read}"]
            del self._versions[f"the {side} errors at {site.write}"]
        self._encoded_by, self._encoded, self._earlier = None, {}, {}

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
                self._keep(f"the gradient field of {path} at {hook}", value)
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
        return reduced(source.activation(hook, "counterfactual"), self._path_end)

    def _shared_field(self, rule: str | BackwardRules, path: str, wanted: str) -> tuple[str, list[str]]:
        """Return the hooks whose gradients are computed together with those of one hook, and the ledger's name of them.

        One backward pass serves every family; integrated gradients sweep the sites of one kind one by one. A hook that
        no family writes to comes with its likes in the other layers.
        """
        layers = range(self._model.layers)
        kinds = self._model.written_kinds() if rule != "ig" else self._swept_with(wanted)
        hooks = [self._model.hook(kind, layer) for layer in layers for kind in kinds]
        if wanted in hooks:
            return f"field:{path}:{' '.join(kinds)}", hooks
        likes = sorted(self._in_every_layer(wanted))
        return f"field:{path}:{likes[0]}", likes

    def _swept_with(self, hook: str) -> tuple[SiteKind, ...]:
        """Return the kinds whose integrated gradients come with those of a hook at no cost, its own among them."""
        layer = int(hook.split(".")[1])
        for kind in self._model.written_kinds():
            # Activations at zero give an output at the bias, not at zero: under zero ablation the two paths differ.
            other = None if self._path_end == "zero" else self._model.affine_output(kind, layer)
            if hook in {self._model.hook(each, layer) for each in (kind, other) if each is not None}:
                return (kind,) if other is None else (kind, other)
        return ()

    def gradients(
        self,
        hooks: Sequence[str],
        *,
        replace: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        add: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        rules: str | BackwardRules = "ixg",
    ) -> Mapping[str, Float[Tensor, "pair ..."]]:
        """Return the gradient of each pair's metric at hooks, where a method puts something at others."""
        put, chosen_rules = Put(replace or {}, add or {}), rules_named(rules)
        rows, length = self.batch.clean.shape
        most = gradient_tokens(self._model)

        def work(chosen: slice) -> Mapping[str, Tensor]:
            return gradients_at(self._model, self.batch.pairs(chosen), hooks, put.part(chosen), chosen_rules)

        return joined_rows(self._model.batching.in_parts("gradients", rows, length, work, most=most))

    def metric(
        self,
        *,
        replace: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        add: Mapping[str, Float[Tensor, "pair ..."]] | None = None,
        rules: str | BackwardRules = "ixg",
    ) -> Float[Tensor, " pair"]:
        """Return the metric of the clean prompts as a differentiable function of what is put at hooks."""
        return metric_of(self._model, self.batch, Put(replace or {}, add or {}), rules_named(rules))

    def clean_metric(self) -> Float[Tensor, " pair"]:
        """Return the metric of the unhooked model on the clean prompts."""
        import torch

        head = self._model.fast_body.get_submodule(self._model.head)
        with torch.no_grad(), readable_logits(head, self.batch) as batch:
            return batch.metric(self._model.logits(batch.clean, fast=True, keep=batch.keep))

    def patched_metric(
        self, basis: Basis, site: Site, positions: Sequence[int], units: Sequence[int]
    ) -> Float[Tensor, "node pair"]:
        """Return the metric of the clean run with single nodes moved to their target.

        Node i is `(positions[i], units[i])`; -1 means the error, -1 - j its coordinate j where each is a node.
        """
        import torch

        def run_part(chosen: slice) -> Tensor:
            with torch.no_grad():
                entered = self._blocks_entered()
                return patched_metric(self, self.batch, entered, basis, site, positions[chosen], units[chosen])

        tokens = self.batch.clean.numel()
        in_parts = self._model.batching.in_parts
        return torch.cat(in_parts("patching", len(positions), tokens, run_part, most=_TOKENS_PER_PATCH))

    def _blocks_entered(self) -> BlockInputs:
        if self._entered is None:
            self._entered = block_inputs(self._model, self.batch.clean)
        return self._entered

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
