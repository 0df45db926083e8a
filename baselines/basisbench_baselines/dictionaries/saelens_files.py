"""Open SAELens's own files (`cfg.json`, `sae_weights.safetensors`), checkpoints of its training runs included."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basisbench.errors import BasisError, whole_message
from basisbench_baselines.dictionaries.hub_snapshot import Snapshot, as_basis_error
from basisbench_baselines.dictionaries.makers import Facts, read_json
from basisbench_baselines.dictionaries.trees import Files


@dataclass(frozen=True)
class Dictionary:
    """One dictionary before it is loaded.

    Attributes:
        title: how messages call it.
        configure: reads its configuration alone.
        load: reads its weights, to a device and in a type.
        snapshot: where it comes from, if that is the hub.
        files: its weight files, fetched if need be.
    """

    title: str
    configure: Callable[[], dict[str, Any]]
    load: Callable[[str, str], Any]
    snapshot: Snapshot | None = None
    files: Callable[[], list[Path]] = list

    def named_errors(self, basis: str) -> AbstractContextManager[None]:
        """Report what goes wrong with it in one line."""
        subject = f"basis '{basis}': {self.title}"
        if self.snapshot is None:
            return as_basis_error(subject)
        return as_basis_error(subject, self.snapshot.repository, self.snapshot.commit)


_TRAINING_ONLY = ("batchtopk", "matryoshka_batchtopk")
"""Architectures of training alone: SAELens publishes them as JumpReLU, but its checkpoints are still these."""


def saelens_facts(files: Files, place: str) -> Facts:
    """Read from a cfg.json where its dictionary sits, without SAELens."""
    name = f"{place}/cfg.json"
    try:
        config = json.loads(files.path(name).read_text(encoding="utf-8"))
        # Before SAELens 6 everything was on one level, and the hook was a hook point once.
        metadata = {**config, **config.get("metadata", {})}
        metadata.setdefault("hook_name", metadata.get("hook_point"))
        metadata.setdefault("hook_head_index", metadata.get("hook_point_head_index"))
        if metadata["hook_name"] is None and not files.has(f"{place}/sae_weights.safetensors"):
            raise BasisError(
                f"{files.where(name)}: its weights are missing; expected sae_weights.safetensors (SAELens) or "
                "sae.safetensors (sparsify) beside it"
            )
        return {"architecture": str(config.get("architecture", "standard")), "metadata": metadata}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BasisError(
            f"{files.where(name)}: not a configuration that SAELens wrote: {whole_message(error)}"
        ) from error


def saelens_dictionary(title: str, files: Files, place: str, snapshot: Snapshot | None) -> Dictionary:
    """Return a dictionary in SAELens's own files.

    Args:
        title: how messages call it.
        files: where it is.
        place: in which folder.
        snapshot: where it comes from, if that is the hub.
    """

    def raw() -> dict[str, Any]:
        from sae_lens.loading.pretrained_sae_loaders import get_sae_lens_config_from_disk

        found: dict[str, Any] = get_sae_lens_config_from_disk(files.path(f"{place}/cfg.json").parent)
        return found

    def scale() -> float | None:
        """Return the constant that a checkpoint of a training run keeps apart; SAELens folds it in at the end."""
        name = f"{place}/activation_scaler.json"
        return read_json(files, name).get("scaling_factor") if files.has(name) else None

    def configure() -> dict[str, Any]:
        from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
        from sae_lens.registry import get_sae_training_class

        config = raw()
        if config.get("architecture") in _TRAINING_ONLY:
            training = get_sae_training_class(config["architecture"])[1].from_dict(config)
            config = {**training.get_inference_sae_cfg_dict(), "metadata": config.get("metadata", {})}
        else:
            config = handle_config_defaulting(config)
        return config | ({} if scale() is None else {"normalize_activations": "none"})

    def load(device: str, dtype: str) -> Any:
        from sae_lens import SAE, TrainingSAE

        from basisbench_baselines.dictionaries.topk_transcoder import module_of

        folder, training = weights().parent, raw().get("architecture") in _TRAINING_ONLY
        module: Any = (TrainingSAE if training else SAE).load_from_disk(folder, device=device, dtype=dtype)
        factor = scale()
        if factor is not None:
            module.fold_activation_norm_scaling_factor(factor)
        if not training:
            return module
        tensors = module.state_dict()
        module.process_state_dict_for_saving_inference(tensors)
        return module_of(configure(), tensors, device, dtype)

    def weights() -> Path:
        return files.path(f"{place}/sae_weights.safetensors")

    return Dictionary(title, configure, load, snapshot, lambda: [weights()])
