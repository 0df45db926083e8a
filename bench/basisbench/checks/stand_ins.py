"""What a method is checked on: bases that exist for every model, and a context of no more than the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal

from basisbench.models.model import at_least_float32
from basisbench.protocols import ScoringContext
from basisbench.types import Family, Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.models.model import Model

Kind = Literal["neurons", "dictionary", "cross-layer transcoder"]

_UNITS = 48
_MEMBERS = sorted(name for name in vars(ScoringContext) if not name.startswith("_"))


class OnlyTheProtocol:
    """A context that has the members of `ScoringContext` and nothing else.

    Args:
        context: the whole context.
        uses: after how many uses it raises an error; never when None.

    Attributes:
        given: the tensors that it gave: by which member, the tensor, and a copy made when it was given.
        interrupted: whether it has raised its error.
    """

    def __init__(self, context: ScoringContext, uses: int | None = None) -> None:
        self.given: list[tuple[str, Tensor, Tensor]] = []
        self.interrupted = False
        self._context = context
        self._left = uses

    def __getattr__(self, name: str) -> Any:
        """Return a member of the protocol; what its methods return is noted."""
        if name not in _MEMBERS:
            raise AttributeError(f"ScoringContext has no member '{name}'; it has {', '.join(_MEMBERS)}")
        if self._left == 0:
            self.interrupted = True
            raise RuntimeError("raised on purpose in the middle of scoring")
        self._left = None if self._left is None else self._left - 1
        member = getattr(self._context, name)
        return partial(self._called, name, member) if isinstance(member, MethodType) else member

    def _called(self, name: str, member: MethodType, *arguments: Any, **keywords: Any) -> Any:
        import torch

        result = member(*arguments, **keywords)
        for each in result if isinstance(result, tuple) else (result,):
            if isinstance(each, torch.Tensor):
                self.given.append((name, each, each.detach().clone()))
        return result


@dataclass(frozen=True)
class StandInNeurons:
    """The MLP's output as it is."""

    sites: Sequence[Site]
    name: str = "stand-in neurons"
    family: Family = "mlp"
    exact: bool = True
    parameter_bytes: int = 0

    def encode(self, _site: Site, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the activation itself."""
        return x

    def decode(self, _site: Site, f: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the coordinates themselves."""
        return f


@dataclass(frozen=True, eq=False)
class StandInDictionary:
    """A transcoder with random weights: it explains little, but has everything that a dictionary has.

    Attributes:
        sites: one per layer.
        encoders: per layer, one row per unit.
        decoders: per layer, one row per unit.
    """

    sites: Sequence[Site]
    encoders: Sequence[Float[Tensor, "unit d"]]
    decoders: Sequence[Float[Tensor, "unit d"]]
    name: str = "stand-in dictionary"
    family: Family = "mlp"
    exact: bool = False
    parameter_bytes: int = 0

    def encode(self, site: Site, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b unit"]:
        """Return rectified projections."""
        weight = self.encoders[site.layer]
        return (x.to(weight.dtype) @ weight.T).relu()

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d"]:
        """Return the sum of the active rows, and a bias."""
        return f @ self.decoders[site.layer] + 0.1


class StandInCrossLayer(StandInDictionary):
    """The same, whose units write at all later layers too, less the farther they are."""

    def spread(self, site: Site, f: Float[Tensor, "*b unit"], to: Site) -> Float[Tensor, "*b d"]:
        """Return what units add at a later layer."""
        return f @ self.decoders[site.layer] / (1 + to.layer - site.layer)


def stand_in(kind: Kind, model: Model) -> StandInNeurons | StandInDictionary:
    """Return neurons, a dictionary, or a cross-layer transcoder for a model."""
    import torch

    layers = range(model.layers)
    writes = [model.hook("mlp_out", layer) for layer in layers]
    if kind == "neurons":
        return StandInNeurons(tuple(Site(layer, hook, hook) for layer, hook in enumerate(writes)))
    generator = torch.Generator().manual_seed(0)
    width = int(model.bridge.cfg.d_model)
    like = at_least_float32(torch.empty(0, dtype=model.dtype, device=model.device))

    def draw() -> Tensor:
        drawn: Tensor = torch.randn((_UNITS, width), generator=generator, dtype=torch.float64).to(like)
        return drawn.div_(width**0.5)

    sites = tuple(Site(layer, model.hook("mlp_in", layer), writes[layer]) for layer in layers)
    weights = [draw() for _ in layers], [draw() for _ in layers]
    if kind == "dictionary":
        return StandInDictionary(sites, *weights)
    return StandInCrossLayer(sites, *weights, name="stand-in cross-layer transcoder")
