"""Control: the space of the MLP activations under a fixed random rotation.

It has the same span, the same number of units and no error, but no privileged axes: what neurons win over
it is due to the neurons and not to the space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from basisbench.attribution.error_nodes import random_rotation
from basisbench.models.onednn import LinearMap, linear_map, passing_linear_map
from basisbench.protocols import BasisSpec
from basisbench.types import Family, Site, Style
from basisbench_baselines.dictionaries.fast import SelectedUnits

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.models.model import Model

SEED = 0


@dataclass(frozen=True, eq=False)
class RotatedActivations:
    """MLP activations in rotated coordinates.

    Attributes:
        sites: one per layer, at the input of the down projection.
        rotations: per layer, an orthogonal matrix whose rows are the new axes.
    """

    sites: Sequence[Site]
    rotations: tuple[Float[Tensor, "d d"], ...]
    name: str = "mlp_act_rotated"
    family: Family = "mlp"
    exact: bool = True

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the rotation matrices."""
        return sum(rotation.numel() * rotation.element_size() for rotation in self.rotations)

    @cached_property
    def _maps(self) -> tuple[tuple[LinearMap, LinearMap], ...]:
        return tuple((linear_map(rotation, None), linear_map(rotation.T, None)) for rotation in self.rotations)

    def encode(self, site: Site, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the activation's components along the rotated axes, in the type of the rotation."""
        return self._maps[site.layer][0](x.to(self.rotations[site.layer].dtype))

    def decode(self, site: Site, f: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the activation with these components."""
        return self._maps[site.layer][1](f)

    def part(self, site: Site, units: Int[Tensor, " part"]) -> SelectedUnits:
        """Return some axes."""
        rotation = self.rotations[site.layer]

        def encoder(some: Int[Tensor, " part"]) -> LinearMap:
            rows = passing_linear_map(rotation[some], None)
            return lambda x: rows(x.to(rotation.dtype))

        return SelectedUnits(units, encoder, rotation.__getitem__)


def build_rotation(model: Model) -> RotatedActivations:
    """Build the control for a model; the rotation is the same in every run, and in half precision of float32."""
    import torch

    width = int(model.bridge.cfg.d_mlp)
    hooks = [model.hook("mlp_act", layer) for layer in range(model.layers)]
    return RotatedActivations(
        sites=tuple(Site(layer, hook, hook) for layer, hook in enumerate(hooks)),
        rotations=tuple(
            random_rotation(width, SEED + layer).to(model.device, torch.promote_types(model.dtype, torch.float32))
            for layer in range(model.layers)
        ),
    )


PROVIDES: tuple[BasisSpec, ...] = (
    BasisSpec(
        "mlp_act_rotated",
        "mlp",
        "control: MLP activations under a fixed random rotation",
        build=build_rotation,
        order=6,
        style=Style("grey", "dotted", "X"),
        units=lambda shape: shape.mlp_width,
        exact=True,
    ),
)
