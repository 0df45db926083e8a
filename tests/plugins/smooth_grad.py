"""SmoothGrad (arXiv 1706.03825): the mean gradient over noisy embeddings, times the change of each node."""

from __future__ import annotations

from dataclasses import dataclass

from basisbench.attribution.projection import projected_scores
from basisbench.protocols import Basis, ScoringContext
from basisbench.types import Passes, Scores


@dataclass(frozen=True)
class SmoothGrad:
    """Average gradients over draws of normal noise, `share` of the embeddings' standard deviation."""

    share: float = 0.1
    draws: int = 4
    name: str = "smooth_grad"
    summary: str = "mean gradient over noisy embeddings (arXiv 1706.03825)"

    @property
    def passes(self) -> Passes:
        return Passes(per_prompt=3 * self.draws)

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        import torch

        embeddings = context.activation("embed.hook_out", "clean")
        hooks = [site.write for site in basis.sites]
        generator = context.generator("noise")
        total = {hook: torch.zeros(()) for hook in hooks}
        for _ in range(self.draws):
            noise = torch.randn(embeddings.shape, generator=generator).to(embeddings)
            found = context.gradients(hooks, add={"embed.hook_out": self.share * embeddings.std() * noise})
            total = {hook: total[hook] + found[hook] / self.draws for hook in hooks}
        return projected_scores(context, basis, total)


PROVIDES = (SmoothGrad(),)
