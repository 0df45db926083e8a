"""Train dictionaries together, on the same activations in the same order.

1. The model runs once per chunk of documents; the activations of all sites are kept, in float32.
2. A chunk is used a few times, its tokens in a new random order each time; a step gives every dictionary the
   same tokens. BOS takes part like any other token: here it is no outlier, and a circuit splices every position.
3. The order is a pure function of (seed, chunk, pass), so a killed run goes on exactly where its checkpoint is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from basisbench_baselines.pocket.training.activations import DictionarySite, record_activations
from basisbench_baselines.pocket.training.cross_layer_trainer import CrossLayerTrainer
from basisbench_baselines.pocket.training.dictionary_trainer import DictionaryTrainer, DictionaryWeights
from basisbench_baselines.pocket.training.documents import EncodedDocuments
from basisbench_baselines.pocket.training.plan import BuildPlan, DictionaryPlan
from basisbench_baselines.pocket.training.train import matmul_precision
from basisbench_baselines.training.checkpoint import (
    load_state,
    optimizer_tensors,
    restore_optimizer,
    save_state,
    with_prefix,
    without_prefix,
)
from basisbench_baselines.training.progress import Progress
from basisbench_baselines.training.scaling import Scaling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS_AT_ONCE = 128
_RECENT_STEPS = 50


Trainer = DictionaryTrainer | CrossLayerTrainer
AnyTrainer = TypeVar("AnyTrainer", DictionaryTrainer, CrossLayerTrainer)


@dataclass(frozen=True)
class DictionaryTraining:
    """How the training of all dictionaries went.

    Attributes:
        steps: optimizer steps, the same for every dictionary.
        tokens: tokens per dictionary, repeated use counted.
        fresh_tokens: distinct tokens of the corpus among them.
        fvu: per site name, fraction of variance unexplained in training, mean of the last 50 steps.
        seconds: time in training over all runs that contributed.
        precision: number format of the matrix products.
    """

    steps: int
    tokens: int
    fresh_tokens: int
    fvu: Mapping[str, float]
    seconds: float
    precision: str


@dataclass(frozen=True)
class _Step:
    chunk: int
    passage: int
    batch: int


def learning_rate(plan: DictionaryPlan, step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, constant, linear decay to zero at the end."""
    rise = (step + 1) / max(plan.warmup_steps, 1)
    fall = (steps - step) / max(plan.decay_share * steps, 1.0)
    return plan.learning_rate * min(rise, 1.0, fall)


def collect_activations(
    model: PreTrainedModel, sites: Sequence[DictionarySite], documents: EncodedDocuments, first: int, count: int
) -> dict[str, Float[Tensor, "token d"]]:
    """Return the activations of documents `first` to `first + count` at every hook of the sites."""
    hooks = list(dict.fromkeys(hook for site in sites for hook in (site.read, site.write)))
    pieces: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
    chosen = first + np.argsort(documents.lengths[first : first + count], kind="stable")
    for start in range(0, count, _ROWS_AT_ONCE):
        ids, lengths = documents.rows(chosen[start : start + _ROWS_AT_ONCE], pad=0)
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        for hook, activation in record_activations(model, hooks, ids).items():
            pieces[hook].append(activation[real])
    return {hook: torch.cat(parts) for hook, parts in pieces.items()}


def training_steps(plan: DictionaryPlan, documents: EncodedDocuments) -> list[_Step]:
    """Return the place of every step in the stream of chunks."""
    lengths = documents.lengths
    steps: list[_Step] = []
    for chunk in range(plan.chunks):
        tokens = int(lengths[chunk * plan.chunk_documents : (chunk + 1) * plan.chunk_documents].sum())
        batches = tokens // plan.batch_tokens
        steps += [_Step(chunk, passage, batch) for passage in range(plan.passes) for batch in range(batches)]
    return steps


def seeded(*key: int) -> torch.Generator:
    """Return a generator whose draws are a function of the key alone."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    return torch.Generator().manual_seed(seed)


def _create_trainers(
    plan: BuildPlan, sites: Sequence[DictionarySite], activations: Mapping[str, Tensor]
) -> list[DictionaryTrainer]:
    """Make the trainers; the same tokens give every dictionary its first directions."""
    scalings = {hook: Scaling.of(x) for hook, x in activations.items()}
    trainers: list[DictionaryTrainer] = []
    for site in sites:
        x, y = activations[site.read], activations[site.write]
        units = plan.dictionaries.expansion * y.shape[1]
        chosen = torch.randint(len(x), (units,), generator=seeded(plan.seed_of_dictionaries, 1))
        read, write = scalings[site.read], scalings[site.write]
        trainers.append(
            DictionaryTrainer(site, read, write, read.apply(x[chosen]), write.apply(y[chosen]), plan.dictionaries)
        )
    return trainers


def _state(trainer: Trainer) -> dict[str, Tensor]:
    """Return what a checkpoint needs of a trainer."""
    return {**trainer.parameters, "silent_tokens": trainer.silent_tokens}


class _Run:
    """The trainers, their common optimizer and the counters: what a checkpoint holds."""

    def __init__(self, shape: DictionaryPlan, trainers: Sequence[Trainer]) -> None:
        self.trainers = trainers
        parameters = [parameter for trainer in trainers for parameter in trainer.parameters.values()]
        self.optimizer = torch.optim.Adam(parameters, lr=shape.learning_rate, betas=(0.9, 0.99), fused=True)
        self.step, self.seconds = 0, 0.0
        self.recent: list[dict[str, float]] = []

    def save(self, path: Path) -> None:
        tensors = with_prefix("optimizer", optimizer_tensors(self.optimizer))
        for trainer in self.trainers:
            tensors |= with_prefix(trainer.name, _state(trainer))
        save_state(path, tensors, {"step": self.step, "seconds": self.seconds, "recent": self.recent})

    def restore(self, path: Path) -> bool:
        saved = load_state(path)
        if saved is None:
            return False
        tensors, state = saved
        restore_optimizer(self.optimizer, without_prefix("optimizer", tensors))
        for trainer in self.trainers:
            found = without_prefix(trainer.name, tensors)
            with torch.no_grad():
                for name, tensor in _state(trainer).items():
                    tensor.copy_(found[name])
        self.step, self.seconds, self.recent = state["step"], state["seconds"], state["recent"]
        return True

    def update(self, batch: Mapping[str, Tensor], rate: float, precision: torch.dtype) -> None:
        """Take one step with every dictionary."""
        row: dict[str, float] = {}
        for trainer in self.trainers:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
                loss, fvu = trainer.batch_loss(batch)
            loss.backward()
            row |= fvu
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        for trainer in self.trainers:
            trainer.after_step()
        self.recent = [*self.recent[1 - _RECENT_STEPS :], row]
        self.step += 1

    @property
    def fvu(self) -> dict[str, float]:
        """Mean unexplained fraction of the last steps, per site name."""
        return {name: float(np.mean([row[name] for row in self.recent])) for name in self.recent[-1]}

    def note(self) -> str:
        """The state in a few words."""
        fvu = self.fvu
        worst = max(fvu, key=fvu.__getitem__)
        return f"FVU mean {np.mean(list(fvu.values())):.4f}, worst {worst} {fvu[worst]:.4f}"


def train_dictionaries(
    plan: BuildPlan,
    model: PreTrainedModel,
    sites: Sequence[DictionarySite],
    documents: EncodedDocuments,
    work: Path,
    progress: Progress,
) -> tuple[dict[DictionarySite, DictionaryWeights], DictionaryTraining]:
    """Train a dictionary for each site, continuing from a checkpoint in `work` if there is one.

    Args:
        plan: the build.
        model: the trained model.
        sites: where the dictionaries read and write.
        documents: training documents; the first ones are used for training, the last ones for the thresholds.
        work: folder of the checkpoint.
        progress: where to report.
    """

    def create(activations: Mapping[str, Tensor]) -> list[DictionaryTrainer]:
        return _create_trainers(plan, sites, activations)

    path = work / "dictionaries.safetensors"
    trainers, training, calibration = train_together(
        plan, plan.dictionaries, create, model, sites, documents, path, progress
    )
    return {trainer.site: trainer.finish(calibration[trainer.site.read]) for trainer in trainers}, training


def train_together(
    plan: BuildPlan,
    shape: DictionaryPlan,
    create: Callable[[Mapping[str, Tensor]], Sequence[AnyTrainer]],
    model: PreTrainedModel,
    sites: Sequence[DictionarySite],
    documents: EncodedDocuments,
    path: Path,
    progress: Progress,
) -> tuple[Sequence[AnyTrainer], DictionaryTraining, Mapping[str, Tensor]]:
    """Train some dictionaries on one stream of tokens, continuing from a checkpoint if there is one.

    Args:
        plan: the build.
        shape: how they are trained.
        create: makes the trainers from the activations of the first chunk.
        model: the trained model.
        sites: where the dictionaries read and write.
        documents: training documents; the first ones are used for training, the last ones for the thresholds.
        path: the checkpoint; its name without suffix is that of the phase.
        progress: where to report.

    Returns:
        The trainers, how the training went, and the activations for the thresholds, by hook.
    """

    def collect(first: int, count: int) -> dict[str, Tensor]:
        return collect_activations(model, sites, documents, first, count)

    # The first chunk always sets scaling and first directions, so that a resumed run has the same ones.
    first_chunk = collect(0, shape.chunk_documents)
    trainers = create(first_chunk)
    run = _Run(shape, trainers)
    scalings = {hook: scaling for trainer in trainers for hook, scaling in trainer.scalings.items()}
    steps = training_steps(shape, documents)
    if run.restore(path):
        progress.line(f"{path.stem}: continuing at step {run.step} of {len(steps)}")
    precision = matmul_precision()
    now = saved_at = time.monotonic()
    with progress.bar(path.stem, len(steps), run.step) as bar:
        for chunk, in_chunk in groupby(steps[run.step :], key=lambda step: step.chunk):
            raw = first_chunk if chunk == 0 else collect(chunk * shape.chunk_documents, shape.chunk_documents)
            scaled = {hook: scalings[hook].apply(x) for hook, x in raw.items()}
            for indices in _batches(
                in_chunk, len(next(iter(raw.values()))), shape.batch_tokens, plan.seed_of_dictionaries
            ):
                rate = learning_rate(shape, run.step, len(steps))
                run.update({hook: x[indices] for hook, x in scaled.items()}, rate, precision)
                before, now = now, time.monotonic()
                run.seconds += now - before
                bar.set_postfix_str(run.note(), refresh=False)
                bar.update()
                if now - saved_at >= plan.checkpoint_seconds:
                    run.save(path)
                    saved_at = now
    run.save(path)
    training = DictionaryTraining(
        steps=len(steps),
        tokens=len(steps) * shape.batch_tokens,
        fresh_tokens=int(documents.lengths[: shape.chunks * shape.chunk_documents].sum()),
        fvu=run.fvu,
        seconds=run.seconds,
        precision=str(precision).removeprefix("torch."),
    )
    return trainers, training, collect(len(documents) - shape.calibration_documents, shape.calibration_documents)


def _batches(steps: Iterator[_Step], tokens: int, size: int, seed: int) -> Iterator[Tensor]:
    """Yield the token indices of each step of one chunk."""
    for passage, in_passage in groupby(steps, key=lambda step: (step.chunk, step.passage)):
        order = torch.randperm(tokens, generator=seeded(seed, 2, *passage))
        for step in in_passage:
            yield order[step.batch * size : (step.batch + 1) * size]
