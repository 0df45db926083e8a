"""Pretrained dictionaries in SAELens's format: sparse autoencoders and transcoders.

An SAE reads and writes at one hook; a transcoder reads the MLP's input and writes its output. Both are
loaded by SAELens, whose own `encode` and `decode` run, so that every architecture it knows works here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.environment import trim_memory
from basisbench.errors import BasisError
from basisbench.packed import largest_bytes
from basisbench.protocols import BasisSpec, ModelSpec
from basisbench.types import Family, Site
from basisbench_baselines.elementwise import ElementwiseDictionary, elementwise_dictionary
from basisbench_baselines.rows import RowsPart

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.model import Model, SiteKind

_LARGE_BYTES = 256 * 2**20
"""Dictionaries whose packing should not leave freed memory behind."""


@dataclass(frozen=True, eq=False)
class DictionaryBasis:
    """One dictionary per layer.

    Attributes:
        name: name of the basis.
        family: its site family.
        sites: one per layer.
        dictionaries: SAELens modules, in layer order.
    """

    name: str
    family: Family
    sites: Sequence[Site]
    dictionaries: tuple[Any, ...]
    exact: bool = False

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all dictionaries' weights."""
        return sum(
            parameter.numel() * parameter.element_size()
            for dictionary in self.dictionaries
            for parameter in dictionary.parameters()
        )

    @cached_property
    def _quick(self) -> tuple[ElementwiseDictionary | None, ...]:
        pack = self.parameter_bytes <= largest_bytes()
        quick = []
        for dictionary in self.dictionaries:
            quick.append(elementwise_dictionary(dictionary, pack=pack))
            if self.parameter_bytes > _LARGE_BYTES:
                # What was rearranged leaves holes that the next layer's weights do not fill.
                trim_memory()
        return tuple(quick)

    def encode(self, site: Site, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return the feature activations."""
        import torch

        quick = None if torch.is_grad_enabled() else self._quick[site.layer]
        features: Tensor = self.dictionaries[site.layer].encode(x) if quick is None else quick.encode(x)
        return features

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return the reconstruction at the write hook."""
        import torch

        quick = None if torch.is_grad_enabled() else self._quick[site.layer]
        reconstruction: Tensor = self.dictionaries[site.layer].decode(f) if quick is None else quick.decode(f)
        return reconstruction

    def part(self, site: Site, units: Int[Tensor, " part"]) -> RowsPart | None:
        """Return some units; None for dictionaries whose units depend on each other."""
        quick = self._quick[site.layer]
        return None if quick is None else quick.part(units)


def _folder(name: str, model: ModelSpec) -> Path:
    folder = model.dictionaries.get(name)
    if folder is None:
        known = ", ".join(sorted(model.dictionaries)) or "none"
        raise BasisError(
            f"model '{model.name}' has no dictionaries for basis '{name}' (it has: {known}); "
            "choose one of these or a neuron basis"
        )
    return folder


def fingerprint(name: str, model: ModelSpec) -> str:
    """Return the SHA-256 over the names and bytes of every file of a model's dictionaries.

    Raises:
        BasisError: the model has no such dictionaries.
    """
    folder = _folder(name, model)
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def load_dictionaries(name: str, family: Family, read: SiteKind, write: SiteKind, model: Model) -> DictionaryBasis:
    """Load `layer_0`, `layer_1`, ... from the folder that the model names for this basis.

    Raises:
        BasisError: a layer is missing, cannot be read, or does not fit the model's width.
    """
    from sae_lens import SAE
    from safetensors import SafetensorError

    folder = _folder(name, model.spec)
    dictionaries = []
    for layer in range(model.layers):
        path = folder / f"layer_{layer}"
        if not path.is_dir():
            raise BasisError(f"basis '{name}': {path} is missing; expected one folder per layer of '{model.name}'")
        try:
            dictionary = SAE.load_from_disk(path, device=str(model.device))
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BasisError(f"basis '{name}': {path} is not a dictionary that SAELens can load: {reason}") from error
        _check_width(name, path, dictionary, model)
        dictionary.to(model.dtype)
        dictionaries.append(dictionary.eval().requires_grad_(False))
    sites = tuple(Site(layer, model.hook(read, layer), model.hook(write, layer)) for layer in range(model.layers))
    return DictionaryBasis(name, family, sites, tuple(dictionaries))


def _check_width(name: str, path: Path, dictionary: Any, model: Model) -> None:
    width = int(model.bridge.cfg.d_model)
    d_in = int(dictionary.cfg.d_in)
    d_out = int(getattr(dictionary.cfg, "d_out", d_in))
    if (d_in, d_out) != (width, width):
        raise BasisError(
            f"basis '{name}': {path} maps width {d_in} to {d_out}, but '{model.name}' has width {width}; "
            "it was trained for another model"
        )
    normalisation = getattr(dictionary.cfg, "normalize_activations", "none")
    if normalisation not in ("none", None):
        raise BasisError(
            f"basis '{name}': {path} normalises activations ('{normalisation}') with state kept between encode and "
            "decode, which does not work under batching; fold the normalisation into the weights"
        )


def _spec(name: str, family: Family, read: SiteKind, write: SiteKind, summary: str) -> BasisSpec:
    return BasisSpec(
        name,
        family,
        summary,
        build=partial(load_dictionaries, name, family, read, write),
        fingerprint=partial(fingerprint, name),
    )


PROVIDES: tuple[BasisSpec, ...] = (
    _spec("sae_mlp_out", "mlp", "mlp_out", "mlp_out", "sparse autoencoder on the MLP's output"),
    _spec("transcoder", "mlp", "mlp_in", "mlp_out", "transcoder: reads the MLP's input, writes its output"),
    _spec("sae_attn_out", "attn", "attn_out", "attn_out", "sparse autoencoder on the attention's output"),
    _spec("sae_resid", "resid", "resid_post", "resid_post", "sparse autoencoder on the residual stream"),
)
