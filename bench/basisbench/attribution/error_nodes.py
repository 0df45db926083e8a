"""The nodes that carry what a dictionary leaves out, by error policy (docs/numbers.md).

1. `coordinates`: each coordinate of the error at the write site is a node.
2. `rotated`: the same along the axes of a random rotation of the write site, fixed once and for all.
3. `node`: the whole error vector of a layer and position is one node (Marks et al. 2025, arXiv 2403.19647: `resc` of
   `SparseAct` in the code, activation_utils.py).
4. `keep` and `ablate`: errors are no nodes; all are live, or all are at their reference.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.types import ErrorPolicy, Site


def error_axes(policy: ErrorPolicy, site: Site, like: Tensor) -> Float[Tensor, "axis d_write"] | None:
    """Return the axes along which errors are nodes; None where these are the write site's own coordinates.

    Args:
        policy: the error policy.
        site: the site.
        like: an error there, for its width, type and device.
    """
    return _axes(like.shape[-1], site.layer, like.dtype, like.device) if policy == "rotated" else None


def to_nodes(values: Float[Tensor, "*b d_write"], axes: Tensor | None) -> Float[Tensor, "*b axis"]:
    """Return vectors at a write site in the coordinates that are nodes."""
    return values if axes is None else values @ axes.T.to(values.dtype)


def from_nodes(coordinates: Float[Tensor, "*b axis"], axes: Tensor | None) -> Float[Tensor, "*b d_write"]:
    """Return the vectors that have these coordinates."""
    return coordinates if axes is None else coordinates @ axes.to(coordinates.dtype)


@functools.lru_cache(maxsize=128)
def _axes(width: int, layer: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "axis d_write"]:
    import torch

    # Whoever asks first: a tensor made in inference mode could never be used under gradients, where edges need it.
    with torch.inference_mode(False):
        return random_rotation(width, layer).to(device, dtype)


def random_rotation(size: int, seed: int) -> Float[Tensor, "d d"]:
    """Draw an orthogonal matrix from the uniform (Haar) distribution, in float64.

    The QR factor of a Gaussian matrix, with the signs of R's diagonal moved to Q (Mezzadri 2007, "A Correct and
    Efficient Algorithm", arXiv math-ph/0609050).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    rotation: Tensor = q * r.diagonal().sign()
    return rotation
