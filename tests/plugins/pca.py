"""Principal components of the MLP's output, fitted on the task's own prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from basisbench.attribution.fitting import weights_digest
from basisbench.protocols import Activations, BasisSpec
from basisbench.types import Family, Site


@dataclass(frozen=True, eq=False)
class PCA:
    """The leading components of each layer, around the mean; all of them are a rotation and a shift."""

    name: str
    sites: Sequence[Site]
    means: tuple[Any, ...]  # per layer, a tensor (d,)
    components: tuple[Any, ...]  # per layer, a tensor (unit, d) of orthonormal rows
    exact: bool
    family: Family = "mlp"

    @property
    def parameter_bytes(self) -> int:
        return sum(int(tensor.nbytes) for tensor in (*self.means, *self.components))

    @property
    def fingerprint(self) -> str:
        return weights_digest((*self.means, *self.components))

    def encode(self, site: Site, x: Any) -> Any:
        rows = self.components[self.sites.index(site)]
        return (x.to(rows.dtype) - self.means[self.sites.index(site)]) @ rows.T

    def decode(self, site: Site, f: Any) -> Any:
        return f @ self.components[self.sites.index(site)] + self.means[self.sites.index(site)]


def fit(name: str, count: int | None, model: Any, activations: Activations) -> PCA:
    """Fit `count` components per layer; all of them when None."""
    import torch

    sites, means, components = [], [], []
    dtype = torch.promote_types(model.dtype, torch.float32)
    for layer in range(model.layers):
        hook = model.hook("mlp_out", layer)
        rows = torch.cat(list(activations(hook))).double()
        covariance = (rows - rows.mean(0)).T @ (rows - rows.mean(0))
        vectors = torch.linalg.eigh(covariance).eigenvectors.T.flip(0)[:count]
        sites.append(Site(layer, hook, hook))
        means.append(rows.mean(0).to(dtype))
        components.append(vectors.to(dtype).contiguous())
    return PCA(name, tuple(sites), tuple(means), tuple(components), exact=count is None)


PROVIDES = tuple(
    BasisSpec(
        name,
        "mlp",
        f"{count or 'all'} principal components of the MLP's output",
        fit=partial(fit, name, count),
        exact=count is None,
    )
    for name, count in (("pca", None), ("pca_8", 8))
)
