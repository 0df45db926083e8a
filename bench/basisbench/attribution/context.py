"""What methods may ask about one aligned group: activations, coordinates, gradient fields, patched runs.

Everything is computed on demand and at most once for all bases and methods. What it cost is remembered, so
that each cell can be charged for the shared work that it used, whoever asked first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from basisbench.attribution.batch import Batch
from basisbench.attribution.cost import Ledger, Spent, now
from basisbench.attribution.gradients import gradient_field
from basisbench.attribution.reconstruction import EarlierWrites
from basisbench.models.batching import joined_rows
from basisbench.models.hooks import Edit, observed
from basisbench.models.model import Model
from basisbench.models.sites import SITES, SiteKind, written_kinds
from basisbench.models.start_at_layer import BlockInputs, block_inputs
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.protocols import Basis
    from basisbench.types import Pairs, Side, Site

Result = TypeVar("Result")

_TOKENS_PER_PATCH = 4096
_KEPT_BYTES = 64 * 2**20
"""Coordinates of the basis at hand are kept for its next method up to this size per group."""


class GroupContext:
    """One aligned group on one model; implements `basisbench.protocols.ScoringContext`."""

    def __init__(self, model: Model, pairs: Pairs, seed: int) -> None:
        self.pairs = pairs
        self.batch = Batch(
            clean=model.tokens(pairs.clean),
            counterfactual=model.tokens(pairs.counterfactual),
            answers=model.tokens(pairs.answers),
            foils=model.tokens(pairs.foils),
        )
        self.ledger = Ledger()
        self._model = model
        self._seed = seed
        self._activations: dict[tuple[Side, str], Tensor] = {}
        self._fields: dict[tuple[str, str], Tensor] = {}
        self._entered: BlockInputs | None = None
        self._encoded_by: Basis | None = None
        self._encoded: dict[tuple[Site, Side], tuple[Tensor, Tensor]] = {}
        self._earlier: dict[Side, EarlierWrites] = {}

    @property
    def model(self) -> Model:
        """The model under study."""
        return self._model

    @property
    def pair_count(self) -> int:
        """Pairs in the group."""
        return len(self.pairs)

    def activation(self, hook: str, side: Side) -> Float[Tensor, "pair pos d"]:
        """Return the activation at a hook in the clean or the counterfactual run."""
        import torch

        if (side, hook) not in self._activations:
            hooks = {self._model.hook(kind, layer) for kind in SITES for layer in range(self._model.layers)}
            places = {name: self._model.place(name) for name in sorted(hooks | self._in_every_layer(hook))}

            tokens = self.batch.clean if side == "clean" else self.batch.counterfactual

            def run_part(chosen: slice) -> Mapping[str, Tensor]:
                with torch.no_grad(), observed(self._model.fast_body, places) as seen:
                    self._model.logits(tokens[chosen], fast=True)
                return {name: value.to(self._model.device) for name, value in seen.items()}

            def run() -> Mapping[str, Tensor]:
                batching = self._model.batching
                return joined_rows(batching.in_parts("activations", len(tokens), tokens.shape[1], run_part))

            for name, value in self._charged(f"activations:{side}", run).items():
                self._activations[side, name] = value
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
            return basis.encode(site, activation), None
        if self._encoded_by is not basis:
            self._encoded_by, self._encoded, self._earlier = basis, {}, {}
        # Coordinates that are kept were made from this; a cell costs the same whichever came before it.
        self.use_activations(side)
        if (site, side) not in self._encoded:
            units = basis.encode(site, activation)
            error = self.activation(site.write, side) - basis.decode(site, units)
            if isinstance(basis, CrossLayerBasis):
                earlier = self._writes_before(basis, site, side, units)
                error = error if earlier is None else error - earlier
            result = units, error
            if sum(kept.nbytes for kept, _ in self._encoded.values()) + units.nbytes > _KEPT_BYTES:
                return result
            self._encoded[site, side] = result
        return self._encoded[site, side]

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
            self._encoded_by, self._encoded, self._earlier = None, {}, {}

    def gradient_field(self, rule: str, site: Site) -> Float[Tensor, "pair pos d_write"]:
        """Return the gradient of each pair's metric at the site's write hook under a rule."""
        key, hooks = self._shared_field(rule, site.write)
        if (rule, site.write) not in self._fields:

            def run() -> dict[str, Tensor]:
                return dict(gradient_field(rule, self._model, self.batch, hooks))

            for hook, value in self._charged(key, run).items():
                self._fields[rule, hook] = value
        self.ledger.use(key)
        return self._fields[rule, site.write]

    def _shared_field(self, rule: str, wanted: str) -> tuple[str, list[str]]:
        """Return the hooks whose gradients are computed together with those of one hook, and the ledger's name of them.

        One backward pass serves every family; integrated gradients sweep the sites of one kind one by one. A hook that
        no family writes to comes with its likes in the other layers.
        """
        layers = range(self._model.layers)
        kinds = written_kinds() if rule != "ig" else self._swept_with(wanted)
        hooks = [self._model.hook(kind, layer) for layer in layers for kind in kinds]
        if wanted in hooks:
            return f"field:{rule}:{' '.join(kinds)}", hooks
        likes = sorted(self._in_every_layer(wanted))
        return f"field:{rule}:{likes[0]}", likes

    def _swept_with(self, hook: str) -> tuple[SiteKind, ...]:
        """Return the kinds whose integrated gradients come with those of a hook at no cost, its own among them."""
        layer = int(hook.split(".")[1])
        for kind in written_kinds():
            other = self._model.affine_output(kind, layer)
            if hook in {self._model.hook(each, layer) for each in (kind, other) if each is not None}:
                return (kind,) if other is None else (kind, other)
        return ()

    def clean_metric(self) -> Float[Tensor, " pair"]:
        """Return the metric of the unhooked model on the clean prompts."""
        import torch

        with torch.no_grad():
            return self.batch.metric(self._model.logits(self.batch.clean, fast=True))

    def patched_metric(
        self, basis: Basis, site: Site, positions: Sequence[int], units: Sequence[int]
    ) -> Float[Tensor, "node pair"]:
        """Return the metric of the clean run with single nodes at their counterfactual value.

        Node i is `(positions[i], units[i])`; a unit of -1 means the error node.
        """
        import torch

        def run_part(chosen: slice) -> Tensor:
            with torch.no_grad():
                return self._patched_chunk(basis, site, positions[chosen], units[chosen])

        tokens = self.batch.clean.numel()
        in_parts = self._model.batching.in_parts
        return torch.cat(in_parts("patching", len(positions), tokens, run_part, most=_TOKENS_PER_PATCH))

    def _patched_chunk(
        self, basis: Basis, site: Site, positions: Sequence[int], units: Sequence[int]
    ) -> Float[Tensor, "node pair"]:
        import torch

        clean, clean_error = self.coordinates(basis, site, "clean")
        other, other_error = self.coordinates(basis, site, "counterfactual")
        steps = clean.new_zeros((len(positions), len(clean), clean.shape[-1]))
        errors = clean.new_zeros(())
        if -1 in units:
            if clean_error is None or other_error is None:
                raise ValueError(f"basis '{basis.name}' is exact; it has no error node")
            errors = clean_error.new_zeros((len(positions), len(clean), clean_error.shape[-1]))
        for row, (position, unit) in enumerate(zip(positions, units, strict=True)):
            if unit >= 0:
                steps[row, :, unit] = other[:, position, unit] - clean[:, position, unit]
            elif clean_error is not None and other_error is not None:
                errors[row] = other_error[:, position] - clean_error[:, position]
        where = torch.tensor(positions, device=clean.device)

        def adding(change: Float[Tensor, "node pair d_write"]) -> Edit:
            def edit(activation: Tensor) -> Tensor:
                patched: Tensor = activation.unflatten(0, (len(positions), -1)).clone()
                rows = torch.arange(len(positions), device=change.device)
                patched[rows, :, where] = (patched[rows, :, where] + change).to(patched.dtype)
                return patched.flatten(0, 1)

            return edit

        own = basis.decode(site, steps) - basis.decode(site, clean.new_zeros(clean.shape[-1])) + errors
        edits = {self._model.place(site.write): adding(own)}
        if isinstance(basis, CrossLayerBasis):
            for later in basis.sites[basis.sites.index(site) + 1 :]:
                edits[self._model.place(later.write)] = adding(basis.spread(site, steps, later))
        if self._entered is None:
            self._entered = block_inputs(self._model, self.batch.clean)
        logits = self._entered.repeated(len(positions)).logits_from(site.layer, edits)
        return self.batch.metric(logits.unflatten(0, (len(positions), -1)))

    def generator(self, *key: str | int) -> torch.Generator:
        """Return a generator on the CPU, seeded from the cell's seed, the group and `key`."""
        import torch

        text = repr((self._seed, self.pairs.task, self.pairs.group, *key))
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        return torch.Generator().manual_seed(seed)

    def _charged(self, key: str, work: Callable[[], Result]) -> Result:
        before = self._model.meter.forward_equivalents
        start = now(self._model)
        result = work()
        self.ledger.pay(key, Spent(now(self._model) - start, self._model.meter.forward_equivalents - before))
        return result
