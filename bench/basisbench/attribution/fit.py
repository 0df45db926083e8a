"""Does a dictionary fit the task's own prompts? One that explains nothing is refused (docs/numbers.md).

Fraction of variance unexplained: squared error over squared distance from the mean activation, summed over
prompts and positions. L0: units that are not zero, mean over positions. The beginning-of-sequence position is
left out, for its activation is the same in every prompt and often hundreds of times larger than any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.errors import BasisError

if TYPE_CHECKING:
    from basisbench.attribution.context import GroupContext
    from basisbench.protocols import Basis


@dataclass(frozen=True)
class Fit:
    """How well a basis fits, per layer.

    Attributes:
        fvu: fraction of variance unexplained; 0 is perfect.
        l0: mean number of active units per position.
    """

    fvu: tuple[float, ...]
    l0: tuple[float, ...]


def measure_fit(basis: Basis, groups: Sequence[GroupContext]) -> Fit:
    """Measure a dictionary on the attribution split, clean and counterfactual prompts alike.

    Args:
        basis: a basis with reconstruction errors.
        groups: the aligned groups of the attribution split.

    Raises:
        BasisError: in some layer the error is no smaller than the activation itself.
    """
    import torch

    fvu: list[float] = []
    l0: list[float] = []
    for site in basis.sites:
        outputs, errors, counts = [], [], []
        with torch.no_grad():
            for group in groups:
                start = 1 if group.pairs.roles[0] == "bos" and group.pairs.length > 1 else 0
                for side in ("clean", "counterfactual"):
                    units, error = group.coordinates(basis, site, side)
                    if error is None:
                        raise ValueError(f"basis '{basis.name}' is exact; there is no fit to measure")
                    outputs.append(group.activation(site.write, side)[:, start:].flatten(0, 1))
                    errors.append(error[:, start:].flatten(0, 1))
                    counts.append((units[:, start:] != 0).sum(-1).flatten())
        output, squared = torch.cat(outputs), torch.cat(errors).double().pow(2).sum()
        variance = (output - output.mean(0)).double().pow(2).sum()
        if not squared < output.double().pow(2).sum():
            raise BasisError(
                f"basis '{basis.name}' explains nothing at {site.write} on the prompts of '{groups[0].pairs.task}': "
                "its error is as large as the activation; is it the dictionary of this model, layer and hook?"
            )
        fvu.append(float(squared / variance))
        l0.append(float(torch.cat(counts).double().mean()))
    return Fit(tuple(fvu), tuple(l0))
