"""What a step of training costs beside what it cannot do without: the model's pass and the dictionaries' products."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from basisbench_baselines.training.settings import Settings
from basisbench_baselines.training.text import Packed
from basisbench_baselines.training.train import Training
from conftest import Workload
from figures import Figures

CONTEXT, CONTEXTS, BATCH = 64, 32, 512


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sae", "transcoder", "clt"])
def test_training(benchmark: BenchmarkFixture, figures: Figures, workload: Workload, tmp_path: Path, kind: str) -> None:
    """A chunk of dictionaries of four times the width in the first layers."""
    model, width = workload.model, workload.shape.width
    layers = tuple(range(min(3, model.layers)))
    settings = Settings(
        kinds=(kind,), site="mlp_out", layers=layers, width="4x", k=min(32, width), tokens=10**6, context=CONTEXT,
        chunk_contexts=CONTEXTS, batch_tokens=BATCH, held_out_contexts=1,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(workload.shape.vocabulary, (settings.contexts + 1, CONTEXT), generator=generator)
    training = Training(model, Packed("random", ids, 1, "random"), settings, tmp_path)
    chunks = iter(range(10**6))

    def train_on_a_chunk() -> None:
        training.train_on(next(chunks), training.progress.bar("tokens", None))

    def forward() -> None:
        training.recorder.record(ids[:CONTEXTS])

    tokens = CONTEXTS * (CONTEXT - 1) // settings.batches(0)
    units = 4 * width
    blocks = [len(layers) - layer for layer in range(len(layers))] if kind == "clt" else [1 for _ in layers]
    x, f = torch.randn(tokens, width), torch.randn(tokens, units)
    encoder, decoders = torch.randn(width, units), [torch.randn(units, width * targets) for targets in blocks]
    errors = [torch.randn(tokens, width * targets) for targets in blocks]

    def products() -> None:
        """Encode, decode, and the gradients of both weights and of the units, once per layer and step."""
        for _ in range(settings.batches(0)):
            for decoder, error in zip(decoders, errors, strict=True):
                x @ encoder
                f @ decoder
                x.T @ f
                f.T @ error
                error @ decoder.T

    figures.ratio(
        benchmark,
        f"train --kind {kind}",
        train_on_a_chunk,
        {"forward": forward, "products": products},
        bound=1.3,
        what="forward up to the last layer + the dictionaries' own products",
    )
