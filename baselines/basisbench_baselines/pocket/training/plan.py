"""What a build of the pocket model does: every number that shapes the result, in one place.

The defaults are the shipped build; `BuildPlan.tiny()` is the same work in seconds, for tests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Architecture = Literal["llama", "gpt2"]
"""What blocks are made of: RMSNorm, rotary embedding, gated MLP; or LayerNorm, learned positions, GELU."""


@dataclass(frozen=True)
class ModelPlan:
    """Shape and training of the language model.

    Attributes:
        architecture: what blocks are made of.
        layers: transformer blocks.
        width: dimension of the residual stream.
        mlp_width: dimension of the MLP's hidden layer.
        heads: attention heads; the head dimension is `width / heads`.
        positions: longest sequence the embedding of positions is declared for.
        documents: training documents; each is seen once.
        batch_documents: documents per step, of nearly equal length.
        learning_rate: peak of the schedule.
        final_share: share of the peak at which the cosine ends.
        warmup_steps: steps of linear warm-up.
        weight_decay: decoupled decay on matrices (not on norms).
        gradient_norm: gradients are clipped to this norm.
    """

    architecture: Architecture = "llama"
    layers: int = 4
    width: int = 128
    mlp_width: int = 512
    heads: int = 4
    positions: int = 128
    documents: int = 220_000
    batch_documents: int = 64
    learning_rate: float = 3e-3
    final_share: float = 0.02
    warmup_steps: int = 200
    weight_decay: float = 0.1
    gradient_norm: float = 1.0

    @property
    def steps(self) -> int:
        """Optimizer steps: documents over documents per step, the short last batch dropped."""
        return self.documents // self.batch_documents


@dataclass(frozen=True)
class DictionaryPlan:
    """Shape and training of the dictionaries, the same for every site and kind.

    Attributes:
        expansion: units per dimension of the write site, in each layer.
        active_units: mean number of active units per token that training and calibration aim at.
        chunk_documents: documents whose activations are in memory at once; shuffled inside.
        chunks: chunks of fresh documents.
        passes: how often each chunk is used.
        batch_tokens: tokens per step.
        learning_rate: peak of the schedule.
        warmup_steps: steps of linear warm-up.
        decay_share: share of the steps, at the end, over which the learning rate falls linearly to zero.
        dead_after_tokens: a unit that was silent for so many tokens counts as dead and gets the auxiliary loss.
        auxiliary_units: dead units per token that help to reconstruct the error.
        auxiliary_weight: weight of that loss.
        calibration_documents: documents from which the final threshold is set.
    """

    expansion: int = 8
    active_units: float = 31.0
    chunk_documents: int = 1280
    chunks: int = 14
    passes: int = 2
    batch_tokens: int = 2048
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    decay_share: float = 0.3
    dead_after_tokens: int = 200_000
    auxiliary_units: int = 64
    auxiliary_weight: float = 1 / 32
    calibration_documents: int = 500

    @property
    def documents(self) -> int:
        """Documents in all: those of the chunks, then those for the threshold."""
        return self.chunks * self.chunk_documents + self.calibration_documents


@dataclass(frozen=True)
class BuildPlan:
    """A whole build.

    Attributes:
        seed: everything random is drawn from it.
        dictionary_seed: what is random in the training of dictionaries is drawn from this one; from `seed` when None.
        model: the language model.
        dictionaries: the dictionaries of single layers.
        cross_layer: the cross-layer transcoder.
        evaluation_pairs: evaluation pairs per task for the accuracies.
        evaluation_documents: held-out documents for the dictionary statistics.
        checkpoint_seconds: time between two checkpoints.
        accuracy_seconds: time between two measurements of the accuracies during training.
    """

    seed: int = 0
    dictionary_seed: int | None = None
    model: ModelPlan = field(default_factory=ModelPlan)
    dictionaries: DictionaryPlan = field(default_factory=DictionaryPlan)
    cross_layer: DictionaryPlan = field(default_factory=DictionaryPlan)
    evaluation_pairs: int = 256
    evaluation_documents: int = 1000
    checkpoint_seconds: float = 30.0
    accuracy_seconds: float = 120.0

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> BuildPlan:
        """Return the plan that a card has, as `dataclasses.asdict` gave it."""
        parts = {
            "model": ModelPlan(**values["model"]),
            "dictionaries": DictionaryPlan(**values["dictionaries"]),
            "cross_layer": DictionaryPlan(**values["cross_layer"]),
        }
        return cls(**{**values, **parts})

    @property
    def seed_of_dictionaries(self) -> int:
        """What is random in the training of dictionaries is drawn from it."""
        return self.seed if self.dictionary_seed is None else self.dictionary_seed

    @classmethod
    def tiny(cls, seed: int = 0) -> BuildPlan:
        """Return a plan that runs in seconds and touches every step of the real one."""
        dictionaries = DictionaryPlan(
            active_units=8.0,
            chunk_documents=32,
            chunks=4,
            batch_tokens=256,
            warmup_steps=2,
            dead_after_tokens=1000,
            auxiliary_units=8,
            calibration_documents=32,
        )
        return cls(
            seed=seed,
            model=ModelPlan(
                layers=2, width=16, mlp_width=32, heads=2, documents=640, batch_documents=16, warmup_steps=5
            ),
            dictionaries=dictionaries,
            cross_layer=dictionaries,
            evaluation_pairs=20,
            evaluation_documents=32,
            checkpoint_seconds=0.2,
            accuracy_seconds=3600.0,
        )

    def fingerprint(self, corpus: str) -> str:
        """Return a hash of everything that shapes the result (the times between checkpoints do not).

        Args:
            corpus: hash of the corpus.
        """
        values = asdict(self)
        del values["checkpoint_seconds"], values["accuracy_seconds"]
        # What was added after the shipped build, where it is what that build was.
        if self.dictionary_seed is None:
            del values["dictionary_seed"]
        if self.model.architecture == "llama":
            del values["model"]["architecture"]
        return hashlib.sha256(json.dumps((corpus, values), sort_keys=True).encode()).hexdigest()[:16]
