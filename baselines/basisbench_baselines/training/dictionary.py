"""One dictionary in training: SAELens's trainer and training class, and what it leaves in SAELens's format.

1. What is read and what is written are centred by their mean and scaled to unit variance per dimension, from the first
   chunk; so a step's squared error over d is the fraction of variance unexplained.
2. An autoencoder is a BatchTopK SAE of SAELens (Bussmann et al. 2024, arXiv 2412.06410), a transcoder the same with
   another target (`saelens_classes`). SAELens follows the threshold that leaves k units active, and saves JumpReLUs.
3. Centring and scaling are folded into the saved weights; decoder rows have unit norm:
   f = JumpReLU(x W_enc + b_enc; threshold), y' = f W_dec + b_dec (+ W_skip x).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
)
from sae_lens.training.sae_trainer import SAETrainer

from basisbench.models.sites import SITES, SiteKind
from basisbench_baselines.dictionaries.placement import Placement
from basisbench_baselines.dictionaries.saelens_adapter import adapt
from basisbench_baselines.training.saelens_classes import (
    AutoencoderInTraining,
    TranscoderInTraining,
    TranscoderTrainingConfig,
)
from basisbench_baselines.training.scaling import Scaling
from basisbench_baselines.training.text import leading_token, seeded

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench_baselines.training.settings import Kind, Settings

_THRESHOLD_RATE = 0.2
"""Share of a step's threshold in SAELens's running one: each is exact for its 512 tokens, the last few are averaged."""


@dataclass(frozen=True)
class Placed:
    """Which dictionary, and where.

    Attributes:
        kind: of which kind.
        layer: in which layer.
        read: hook that is encoded.
        write: hook that is reconstructed.
    """

    kind: Kind
    layer: int
    read: str
    write: str

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.kind}/layer_{self.layer}"


def sae_shape(read: Scaling, settings: Settings) -> dict[str, Any]:
    """Return what the configurations of SAELens's BatchTopK classes share."""
    return {
        "d_in": len(read.mean),
        "d_sae": settings.units(len(read.mean)),
        "k": float(settings.k),
        "device": str(read.mean.device),
        "apply_b_dec_to_input": False,
        "topk_threshold_lr": _THRESHOLD_RATE,
    }


@contextmanager
def seeded_weights(settings: Settings, seed: int) -> Iterator[None]:
    """Draw first weights from a seed of a training, and leave the process's own generator as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seeded(settings.seed, 3, seed).initial_seed()))
        yield


def place_all(model: Model, settings: Settings) -> list[Placed]:
    """Return where the dictionaries of a training sit, kind by kind.

    Raises:
        BasisBenchError: the model has no such sites, or too few units would be there for `k`.
    """
    family = SITES[settings.site].family or "mlp"
    placed: list[Placed] = []
    for kind in settings.kinds:
        read: SiteKind = settings.site if kind == "sae" else "mlp_in"
        settings.units(Placement(family, settings.layers[0], read, settings.site).widths(model)[0])
        placed += [
            Placed(kind, layer, model.hook(read, layer), model.hook(settings.site, layer)) for layer in settings.layers
        ]
    return placed


@dataclass(frozen=True)
class Step:
    """How a step went.

    Attributes:
        loss: what was minimised.
        l0: active units per token and layer.
        fvu: fraction of variance unexplained, mean over what is written.
    """

    loss: float
    l0: float
    fvu: float


class InTraining(ABC):
    """What one trainer of SAELens trains: a dictionary of one layer, or one that writes to many.

    Args:
        name: its folder.
        sae: the training class.
        settings: of the training.
        bfloat16: whether matrix products are in bfloat16; weights and optimizer are in float32.

    Attributes:
        names: of what is measured apart.
    """

    names: Sequence[str]

    def __init__(self, name: str, sae: Any, settings: Settings, *, bfloat16: bool) -> None:
        self.name = name
        steps, device = settings.steps, str(sae.cfg.device)
        self.trainer: Any = SAETrainer(
            SAETrainerConfig(
                total_training_samples=steps * settings.batch_tokens,
                train_batch_size_samples=settings.batch_tokens,
                lr=settings.learning_rate,
                lr_end=settings.learning_rate,
                lr_warm_up_steps=min(100, steps // 10),
                lr_decay_steps=steps // 5,
                device=device,
                autocast=bfloat16,
                dead_feature_window=settings.dead_after_steps,
                logger=LoggingConfig(log_to_wandb=False),
            ),
            sae,
            iter(()),
        )
        self.trainer.optimizer.param_groups[0]["fused"] = True

    @property
    def threshold(self) -> Float[Tensor, ...]:
        """SAELens's running threshold, which begins at zero, without that."""
        running = self.trainer.sae.topk_threshold
        threshold: Tensor = running / (1 - (1 - _THRESHOLD_RATE) ** max(self.trainer.n_training_steps, 1))
        return threshold

    @property
    def dead(self) -> Bool[Tensor, " unit"]:
        """Units that were silent for many steps."""
        mask: Tensor = self.trainer.dead_neurons
        return mask

    def step(self, batch: Mapping[str, Float[Tensor, "token d"]]) -> Callable[[], Step]:
        """Take one step, and return what tells how it went: telling waits for the device, so it is not always asked."""
        output = self.trainer.step(self._input(batch))
        self.trainer.n_training_steps += 1
        # Only what is asked for is kept: the activations of all dictionaries together are large.
        loss, error = output.loss.detach(), output.losses["mse_loss"].detach() / output.sae_out.shape[-1]
        active = output.feature_acts._nnz() / (len(output.feature_acts) * len(self.names))
        return lambda: Step(float(loss), float(active), float(error))

    @abstractmethod
    def _input(self, batch: Mapping[str, Float[Tensor, "token d"]]) -> Float[Tensor, "token d_both"]:
        """Return what the training class takes."""

    @abstractmethod
    def save(self, folder: Path, model: Model, settings: Settings) -> None:
        """Write it as it is now, in a format for inference."""

    @abstractmethod
    def measure(
        self, model: Model, settings: Settings, held_out: Mapping[str, Float[Tensor, "token d"]]
    ) -> dict[str, dict[str, float]]:
        """Return by name fraction of variance unexplained, L0 and silent units of what `save` writes, and dead ones."""

    def save_state(self, folder: Path) -> None:
        """Write what a training needs to go on."""
        self.trainer.save_checkpoint(self.name, base_path=folder)

    def load_state(self, folder: Path) -> None:
        """Go on from what `save_state` has written."""
        self.trainer.load_trainer_state(folder / self.name)
        self.trainer.sae.load_weights_from_checkpoint(folder / self.name)


class Dictionary(InTraining):
    """One dictionary of one layer in training.

    Args:
        placed: which one, and where.
        read: constants of what is read.
        write: constants of what is written.
        settings: of the training.
        seed: of the first weights.
        bfloat16: whether matrix products are in bfloat16; weights and optimizer are in float32.
    """

    def __init__(
        self, placed: Placed, read: Scaling, write: Scaling, settings: Settings, seed: int, *, bfloat16: bool = False
    ) -> None:
        self.placed, self.read, self.write = placed, read, write
        self.names = (placed.name,)
        self.is_sae = placed.kind == "sae"
        shape = sae_shape(read, settings)
        with seeded_weights(settings, seed):
            if self.is_sae:
                sae: Any = AutoencoderInTraining(BatchTopKTrainingSAEConfig(**shape))
            else:
                skip = placed.kind == "skip-transcoder"
                sae = TranscoderInTraining(TranscoderTrainingConfig(**shape, d_out=len(write.mean), skip=skip))
        super().__init__(placed.name, sae, settings, bfloat16=bfloat16)

    def _input(self, batch: Mapping[str, Float[Tensor, "token d"]]) -> Float[Tensor, "token d_both"]:
        x = self.read.apply(batch[self.placed.read].float())
        return x if self.is_sae else torch.cat([x, self.write.apply(batch[self.placed.write].float())], dim=-1)

    def save(self, folder: Path, model: Model, settings: Settings) -> None:
        """Write the dictionary as it is now, in SAELens's format for inference."""
        self.module(model, settings).save_model(folder)

    @torch.no_grad()
    def module(self, model: Model, settings: Settings) -> Any:
        """Return the dictionary as it is now as a module of SAELens, a function of raw activations."""
        sae = self.trainer.sae
        trained = {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}
        trained["topk_threshold"] = self.threshold
        sae.process_state_dict_for_saving_inference(trained)
        stretch = self.write.scale
        encoder = trained["W_enc"] * (stretch / self.read.scale)
        folded = {
            "W_enc": encoder,
            "b_enc": trained["b_enc"] * stretch - self.read.mean @ encoder,
            "threshold": trained["threshold"] * stretch,
            "W_dec": trained["W_dec"],
            "b_dec": trained["b_dec"] * stretch + self.write.mean,
        }
        if "W_skip" in trained:
            folded["W_skip"] = trained["W_skip"] * (stretch / self.read.scale)
            folded["b_dec"] = folded["b_dec"] - folded["W_skip"] @ self.read.mean
        shape = {"d_in": sae.cfg.d_in, "d_sae": sae.cfg.d_sae, "apply_b_dec_to_input": False, "device": sae.cfg.device}
        metadata = self._metadata(model, settings)
        module: Any
        if self.is_sae:
            heads: Any = "hook_z" if settings.site == "attn_z" else "none"
            module = JumpReLUSAE(JumpReLUSAEConfig(**shape, reshape_activations=heads, metadata=metadata))
        elif "W_skip" in trained:
            config = JumpReLUSkipTranscoderConfig(**shape, d_out=sae.cfg.d_out, metadata=metadata)
            module = JumpReLUSkipTranscoder(config)
        else:
            module = JumpReLUTranscoder(JumpReLUTranscoderConfig(**shape, d_out=sae.cfg.d_out, metadata=metadata))
        module.load_state_dict({name: tensor.contiguous() for name, tensor in folded.items()})
        return module

    def _metadata(self, model: Model, settings: Settings) -> SAEMetadata:
        metadata = SAEMetadata(
            model_name=model.spec.path or model.name,
            hook_name=self.placed.read,
            hook_layer=self.placed.layer,
            context_size=settings.context,
            seqpos_slice=(1, None),
            prepend_bos=leading_token(model.tokenizer) is not None,
            k=settings.k,
            training_tokens=self.trainer.n_training_samples,
        )
        if not self.is_sae:
            metadata.hook_name_out, metadata.hook_layer_out = self.placed.write, self.placed.layer
        return metadata

    def measure(
        self, model: Model, settings: Settings, held_out: Mapping[str, Float[Tensor, "token d"]]
    ) -> dict[str, dict[str, float]]:
        """Return fraction of variance unexplained, L0 and silent units of what `save` writes, and dead ones."""
        found = measure(self.module(model, settings), held_out[self.placed.read], held_out[self.placed.write])
        return {self.placed.name: {**found, "dead": int(self.dead.sum())}}


@torch.no_grad()
def measure(module: Any, x: Float[Tensor, "token d_read"], y: Float[Tensor, "token d_write"]) -> dict[str, float]:
    """Return fraction of variance unexplained, L0 and silent units of a saved dictionary on held-out tokens.

    Args:
        module: a module of SAELens; it is changed in place.
        x: what it reads.
        y: what it is to reconstruct.
    """
    dictionary = adapt(module)
    error, active, fired = 0.0, 0.0, torch.zeros(module.cfg.d_sae, dtype=torch.bool, device=x.device)
    for part_x, part_y in zip(x.float().split(2048), y.float().split(2048), strict=True):
        f = dictionary.encode(part_x)
        on = f[:, : module.cfg.d_sae] > 0
        error += float((part_y - dictionary.decode(f)).square().sum(dtype=torch.float64))
        active += float(on.sum())
        fired |= on.any(0)
    variance = float((y.float() - y.float().mean(0)).square().sum(dtype=torch.float64))
    return {"fvu": error / variance, "l0": active / len(x), "silent": int((~fired).sum())}
