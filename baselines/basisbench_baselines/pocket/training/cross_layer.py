"""Train and measure the cross-layer transcoder, on the tokens and in the order of the other dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from basisbench_baselines.pocket.training.activations import DictionarySite
from basisbench_baselines.pocket.training.cross_layer_trainer import CrossLayerTrainer
from basisbench_baselines.pocket.training.dictionaries import (
    DictionaryTraining,
    seeded,
    train_together,
)
from basisbench_baselines.pocket.training.documents import EncodedDocuments
from basisbench_baselines.pocket.training.evaluate import Rebuilder
from basisbench_baselines.pocket.training.plan import BuildPlan
from basisbench_baselines.training.cross_layer_files import CrossLayerWeights
from basisbench_baselines.training.progress import Progress
from basisbench_baselines.training.scaling import Scaling

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train_cross_layer(
    plan: BuildPlan,
    model: PreTrainedModel,
    sites: Sequence[DictionarySite],
    documents: EncodedDocuments,
    work: Path,
    progress: Progress,
) -> tuple[CrossLayerWeights, DictionaryTraining]:
    """Train a cross-layer transcoder, continuing from a checkpoint in `work` if there is one.

    Args:
        plan: the build.
        model: the trained model.
        sites: where it reads and writes, in layer order.
        documents: training documents; the first ones are used for training, the last ones for the thresholds.
        work: folder of the checkpoint.
        progress: where to report.
    """
    shape = plan.cross_layer

    def create(activations: Mapping[str, Tensor]) -> list[CrossLayerTrainer]:
        scalings = {hook: Scaling.of(x) for hook, x in activations.items()}
        units = shape.expansion * activations[sites[0].write].shape[1]
        # The tokens that give every other dictionary its first directions.
        chosen = torch.randint(
            len(activations[sites[0].read]), (units,), generator=seeded(plan.seed_of_dictionaries, 1)
        )
        x = [scalings[site.read].apply(activations[site.read][chosen]) for site in sites]
        y = [scalings[site.write].apply(activations[site.write][chosen]) for site in sites]
        return [CrossLayerTrainer(sites, scalings, x, y, shape)]

    path = work / "cross_layer.safetensors"
    (trainer,), training, calibration = train_together(plan, shape, create, model, sites, documents, path, progress)
    return trainer.finish(calibration), training


def rebuilders(sites: Sequence[DictionarySite], weights: CrossLayerWeights) -> dict[DictionarySite, Rebuilder]:
    """Return how each layer's MLP output is rebuilt from the MLP inputs of this and all earlier layers."""

    def at(layer: int) -> Rebuilder:
        def rebuild(*x: Tensor) -> tuple[Tensor, Tensor]:
            own, *earlier = x
            features = [weights.encode(source, part) for source, part in enumerate((*earlier, own))]
            return features[-1], weights.decode(features)

        reads = (sites[layer].read, *(site.read for site in sites[:layer]))
        return Rebuilder(reads, len(weights.encoder[layer]), rebuild)

    return {site: at(layer) for layer, site in enumerate(sites)}
