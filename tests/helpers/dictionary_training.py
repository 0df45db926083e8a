"""One small dictionary in training, on made-up activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from basisbench_baselines.pocket.training.activations import DictionarySite
from basisbench_baselines.pocket.training.dictionary_trainer import (
    DictionaryTrainer,
)
from basisbench_baselines.pocket.training.plan import DictionaryPlan
from basisbench_baselines.training.progress import Progress
from basisbench_baselines.training.scaling import Scaling

QUIET = Progress(enabled=False)
AUTOENCODER = DictionarySite("sae_resid", 0, "blocks.0.hook_resid_post", "blocks.0.hook_resid_post")
TRANSCODER = DictionarySite("transcoder", 0, "blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out")
PLAN = DictionaryPlan(active_units=5.0, dead_after_tokens=50_000, auxiliary_units=4)


def random_normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def activations_of(site: DictionarySite) -> tuple[Tensor, Tensor]:
    x = 3.0 * random_normal(400, 12, seed=1) @ random_normal(12, 12, seed=2) + 5.0
    y = x if site.read == site.write else (x @ random_normal(12, 8, seed=3)).relu() - 2.0
    return x, y


def make_trainer(site: DictionarySite, plan: DictionaryPlan = PLAN) -> tuple[DictionaryTrainer, Tensor, Tensor]:
    x, y = activations_of(site)
    read, write = Scaling.of(x), Scaling.of(y)
    return DictionaryTrainer(site, read, write, read.apply(x[:48]), write.apply(y[:48]), plan), x, y


def train_for(trainer: DictionaryTrainer, x: Tensor, y: Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(list(trainer.parameters.values()), lr=3e-3)
    history: list[float] = []
    for _ in range(steps):
        loss, unexplained = trainer.loss(trainer.read.apply(x), trainer.write.apply(y))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        trainer.after_step()
        history.append(unexplained)
    return history


def assert_within_bounds(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Hold that every row of the shipped model's card keeps the bounds that dictionaries were trained to."""
    for name, row in rows.items():
        assert row["l0"] <= 32, name
        assert row["fraction_of_variance_unexplained"] <= 0.05, name
        assert row["loss_recovered_from_zero"] >= 0.97, name
        assert row["within_bounds"] is True
