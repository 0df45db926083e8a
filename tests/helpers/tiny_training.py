"""What tests of training dictionaries share: settings for a tiny model, text in its words, and what a folder holds."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from safetensors.torch import load_file

from basisbench_baselines.training.settings import Settings

WORDS = [f"w{index}" for index in range(60)]
SETTINGS = Settings(
    kinds=("sae", "transcoder", "skip-transcoder"), site="mlp_out", layers=(0, 2), width="3x", k=6, tokens=4096,
    snapshots=(512,), context=16, chunk_contexts=32, batch_tokens=64, held_out_contexts=16, learning_rate=1e-2,
)  # fmt: skip


def some_text(words: int) -> str:
    draw = random.Random(0)
    return " ".join(draw.choice(WORDS) for _ in range(words))


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {file.relative_to(folder).as_posix(): load_file(file) for file in sorted(folder.rglob("*.safetensors"))}
