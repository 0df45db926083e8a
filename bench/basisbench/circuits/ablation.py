"""Keep or replace every node of a basis in one forward pass.

1. At the read hook the live activation is encoded to coordinates f.
2. f' takes the live coordinate of a kept node and the reference coordinate of every other.
3. At the write hook the live activation y becomes decode(f') + e', where e' is the live error
   y - decode(f) where the error is kept, and the reference error elsewhere.

Kept nodes are live in the ablated pass, never clamped. How a site computes this is `basisbench.circuits.fast.site_writer`, and
`basisbench.circuits.fast.cross_layer_writer` for a basis that writes to several sites.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from basisbench.circuits.circuit import Keep, Reference
from basisbench.circuits.fast.cross_layer_writer import CrossLayerWriter
from basisbench.circuits.fast.site_writer import SiteWriter
from basisbench.circuits.plain import Pass, PlainWriter
from basisbench.models.hooks import Edit, Place
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.circuits.fast.shared_work import FirstUnits
    from basisbench.models.model import Model
    from basisbench.protocols import Basis


def ablation_edits(
    model: Model,
    basis: Basis,
    reference: Reference,
    keep: Keep,
    pairs: int,
    *,
    positions: int | None = None,
    last_only: bool = False,
    sliced: bool = True,
    first_units: FirstUnits | None = None,
) -> Mapping[Place, Edit]:
    """Return the edits for a batch that holds every pair once per circuit, circuit by circuit.

    Args:
        model: the model.
        basis: the basis whose nodes are kept or replaced.
        reference: values of the nodes that are replaced.
        keep: the nodes that are kept, per circuit.
        pairs: pairs per circuit; the batch has `circuits * pairs` rows.
        positions: how many positions the pass runs, at the end of each prompt; all of the reference's when None.
        last_only: in the last block, write the last position alone. Other positions of the last block reach
            no logit of the last position; they are left undefined.
        sliced: compute only the units that are moved off the live or off the reference activation, where the basis
            allows it; the same up to rounding.
        first_units: coordinates of the first site, if passes share them.
    """
    edits: dict[Place, Edit] = {}
    written = [positions or units.shape[1] for units in reference.units]
    if last_only:
        last = model.layers - 1
        written = [1 if site.layer == last else count for site, count in zip(basis.sites, written, strict=True)]
    shared = None
    if isinstance(basis, CrossLayerBasis):
        shared = Pass(basis, reference, keep, pairs, written, first_units)
    for index, site in enumerate(basis.sites):
        writer: SiteWriter | PlainWriter | CrossLayerWriter
        if shared is None:
            first = None if index else first_units
            writer = SiteWriter(basis, index, reference, keep, pairs, written[index], sliced=sliced, first_units=first)
        else:
            writer = CrossLayerWriter(shared, index) if sliced else PlainWriter(shared, index)
        read, write = model.place(site.read), model.place(site.write)
        if read == write:
            edits[write] = writer.read_and_write
        else:
            edits[read] = writer.read
            edits[write] = writer.write
    return edits


def family_empty_edits(model: Model, outputs: Mapping[str, Float[Tensor, "pair_or_1 pos d"]]) -> Mapping[Place, Edit]:
    """Return edits that put a family's outputs at their reference, whatever the basis.

    Args:
        model: the model.
        outputs: reference activation at each of the family's output hooks.
    """

    def constant(value: Tensor) -> Edit:
        return lambda activation: value.expand_as(activation)

    return {model.place(hook): constant(value) for hook, value in outputs.items()}
