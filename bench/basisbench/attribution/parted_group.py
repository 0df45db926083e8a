"""An aligned group whose pairs do not all fit into memory: its parts, and means over them (`attribution.parts`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from basisbench.attribution.hooks_together import hooks_of, in_every_layer
from basisbench.attribution.parts import RunningMean, activation_bytes
from basisbench.models.batching import BUDGETS

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.protocols import Basis
    from basisbench.types import Side, Site


class Part(Protocol):
    """Some pairs of an aligned group: what is asked of them here."""

    def activation(self, hook: str, side: Side, /) -> Float[Tensor, "pair pos d"]:
        """Return the activation at a hook."""
        ...

    def coordinates(
        self, basis: Basis, site: Site, side: Side, /
    ) -> tuple[Float[Tensor, "pair pos unit"], Float[Tensor, "pair pos d_write"] | None]:
        """Return coordinates and error."""
        ...

    def watch_values(self) -> None:
        """From now on look at values of what is shared."""
        ...

    def changed(self) -> Sequence[str]:
        """Return the names of shared tensors that were changed in place."""
        ...


AnyPart = TypeVar("AnyPart", bound=Part)


class PartedGroup(Generic[AnyPart]):
    """The parts of a group, and what is kept of them for the basis at hand.

    Args:
        model: the model.
        pairs: pairs of the group.
        step: how many of them are a part.
        split_tokens: tokens of one side of the whole split.
        make: makes a part of some pairs, on which some hooks are asked for together.
        begin: makes a part ready for the cell at hand.
    """

    def __init__(
        self,
        model: Model,
        pairs: int,
        step: int,
        split_tokens: int,
        make: Callable[[slice, Collection[str]], AnyPart],
        begin: Callable[[AnyPart], None],
    ) -> None:
        self._model, self._pairs, self._step, self._split_tokens = model, pairs, step, split_tokens
        self._make, self._begin = make, begin
        self._kept: dict[int, AnyPart] = {}
        self._basis: Basis | None = None
        self._coordinates: dict[Site, tuple[Tensor, Tensor | None]] = {}
        self._activations: dict[str, Tensor] = {}
        self._changed: list[str] = []

    def parts(self, basis: Basis) -> Iterator[AnyPart]:
        """Yield the parts, with what a basis needs; they are kept for it where all of them fit."""
        if self._basis is not basis:
            self.forget()
            self._basis = basis
        hooks = in_every_layer(self._model, hooks_of(basis))
        # The activations of both runs, and a gradient field.
        size = self._split_tokens * activation_bytes(self._model, hooks, times=3)
        yield from self._made(hooks, keep=size <= BUDGETS["pairs"].on(self._model.device.type))

    def with_hooks(self, hooks: Collection[str]) -> Iterator[AnyPart]:
        """Yield the parts, on which some hooks are asked for together."""
        yield from self._made(hooks, keep=False)

    def _made(self, hooks: Collection[str], *, keep: bool) -> Iterator[AnyPart]:
        for start in range(0, self._pairs, self._step):
            part = self._kept.get(start) or self._make(slice(start, start + self._step), hooks)
            self._begin(part)
            if keep:
                self._kept[start] = part
            try:
                yield part
            finally:
                if start not in self._kept:
                    self._changed += part.changed()

    def coordinates(self, basis: Basis, site: Site) -> tuple[Float[Tensor, "1 pos unit"], Tensor | None]:
        """Return means of coordinates and errors over the counterfactual prompts; kept for the basis at hand."""
        import torch

        if self._basis is not basis or not self._coordinates:
            units, errors = ({each: RunningMean() for each in basis.sites} for _ in range(2))
            with torch.no_grad():
                for part in self.parts(basis):
                    for each in basis.sites:
                        found, error = part.coordinates(basis, each, "counterfactual")
                        units[each].add(found)
                        if error is not None:
                            errors[each].add(error)
            for each in basis.sites:
                error = None if basis.exact else errors.pop(each).mean()
                self._coordinates[each] = units.pop(each).mean(), error
        return self._coordinates[site]

    def activation(self, hook: str) -> Float[Tensor, "1 pos d"]:
        """Return the mean of an activation over the counterfactual prompts; kept with its likes in the other layers."""
        if hook not in self._activations:
            means = {each: RunningMean() for each in in_every_layer(self._model, [hook])}
            for part in self.with_hooks(means):
                for each, mean in means.items():
                    mean.add(part.activation(each, "counterfactual"))
            self._activations = {each: mean.mean() for each, mean in means.items()}
        return self._activations[hook]

    def watch_values(self) -> None:
        """Look at values of what is kept too."""
        for part in self._kept.values():
            part.watch_values()

    def changed(self) -> Sequence[str]:
        """Return the names of tensors that were changed in place, those that are gone included."""
        return [*self._changed, *(name for part in self._kept.values() for name in part.changed())]

    def forget(self) -> None:
        """Drop what is kept for the basis at hand."""
        self._changed = list(self.changed())
        self._basis, self._kept, self._coordinates = None, {}, {}
