"""Dictionaries that a model brings along, in SAELens's format: sparse autoencoders and transcoders.

An SAE reads and writes at one hook; a transcoder reads the MLP's input and writes its output. Both are loaded by
SAELens, whose own `encode` and `decode` run, adapted where they keep state (`dictionaries.saelens_adapter`), so that
every architecture it knows works here. Weights are float32, float64 for a model in float64; activations of a model in
half precision are widened when they are encoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from basisbench.errors import BasisError, whole_message
from basisbench.models.batching import is_out_of_memory
from basisbench.models.memory import give_memory_back, trim_memory
from basisbench.models.onednn import largest_bytes
from basisbench.protocols import UNTOLD, BasisSpec, Training
from basisbench.types import Family, ModelSpec, Site, Style
from basisbench_baselines.dictionaries.fast import FastDictionary, IndependentUnits, SelectedUnits, fast_dictionary
from basisbench_baselines.dictionaries.lazy_layers import LazyDictionaries
from basisbench_baselines.dictionaries.saelens_adapter import adapt

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.models.sites import SiteKind

_LARGE_BYTES = 256 * 2**20
"""Dictionaries whose packing should not leave freed memory behind."""


@dataclass(frozen=True, eq=False)
class DictionaryBasis:
    """One dictionary per site.

    Attributes:
        name: name of the basis.
        family: its site family.
        sites: where the dictionaries sit, in layer order; not every layer need have one.
        dictionaries: SAELens modules or adapted ones (`dictionaries.saelens_adapter`), in the order of the sites.
        sources: repositories of the Hugging Face hub that the weights come from, with their commits.
        trained: how they were trained.
    """

    name: str
    family: Family
    sites: Sequence[Site]
    dictionaries: Sequence[Any]
    exact: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    trained: Training = UNTOLD

    @cached_property
    def parameter_bytes(self) -> int:
        """Bytes of all dictionaries' weights, in the type they run in."""
        if isinstance(self.dictionaries, LazyDictionaries):
            return self.dictionaries.nbytes
        return sum(
            parameter.numel() * parameter.element_size()
            for dictionary in self.dictionaries
            for parameter in dictionary.parameters()
        )

    @cached_property
    def _indices(self) -> dict[int, int]:
        return {site.layer: index for index, site in enumerate(self.sites)}

    @cached_property
    def _fast(self) -> dict[int, FastDictionary]:
        return {}

    @cached_property
    def _independent(self) -> dict[int, bool]:
        return {}

    @property
    def streams(self) -> bool:
        """Whether not all dictionaries fit into memory at once, so that every pass loads some of them."""
        return isinstance(self.dictionaries, LazyDictionaries) and self.dictionaries.overflows

    def keep_less(self) -> bool:
        """Keep fewer dictionaries in memory from now on; False where no less can be kept."""
        return isinstance(self.dictionaries, LazyDictionaries) and self._free(self.dictionaries.shrink())

    def _free(self, indices: Sequence[int]) -> bool:
        """Drop what was made of dictionaries that are no longer in memory."""
        for index in indices:
            self._fast.pop(index, None)
        if indices and self.parameter_bytes > _LARGE_BYTES:
            give_memory_back()
        return bool(indices)

    def _dictionary_at(self, site: Site) -> Any:
        index = self._indices[site.layer]
        if not isinstance(self.dictionaries, LazyDictionaries):
            return self.dictionaries[index]
        while True:
            self._free(self.dictionaries.make_room(index))
            try:
                return self.dictionaries[index]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self.keep_less():
                    raise

    def _fast_at(self, site: Site) -> FastDictionary:
        index = self._indices[site.layer]
        dictionary = self._dictionary_at(site)
        if index not in self._fast:
            pack = self.parameter_bytes <= largest_bytes() and not self.streams
            self._fast[index] = fast_dictionary(dictionary, pack=pack)
            self._independent[index] = isinstance(self._fast[index], IndependentUnits)
            if self.parameter_bytes > _LARGE_BYTES:
                # What was rearranged leaves holes that the next layer's weights do not fill.
                trim_memory()
        return self._fast[index]

    def encode(self, site: Site, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return the feature activations, in the type of the weights."""
        import torch

        if torch.is_grad_enabled():
            dictionary = self._dictionary_at(site)
            features: Tensor = dictionary.encode(x.to(dictionary.W_dec.dtype))
            return features
        return self._fast_at(site).encode(x)

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return the reconstruction at the write hook."""
        import torch

        if torch.is_grad_enabled():
            dictionary = self._dictionary_at(site)
            reconstruction: Tensor = dictionary.decode(f.to(dictionary.W_dec.dtype))
            return reconstruction
        return self._fast_at(site).decode(f)

    def page(self, site: Site, unit: int) -> str | None:
        """Return the address of a feature on Neuronpedia, where the release says which source it is there."""
        dictionary = self._dictionary_at(site)
        source = getattr(getattr(dictionary.cfg, "metadata", None), "neuronpedia_id", None)
        return f"https://www.neuronpedia.org/{source}/{unit}" if source and unit < int(dictionary.cfg.d_sae) else None

    def part(self, site: Site, units: Int[Tensor, " part"]) -> SelectedUnits | None:
        """Return some units; None for dictionaries whose units depend on each other.

        Their weights are read when they are first used: parts of all sites are made before a pass begins.
        """
        index = self._indices[site.layer]
        if index not in self._independent:
            self._fast_at(site)
        if not self._independent[index]:
            return None
        return SelectedUnits(
            units,
            lambda some: self._independent_at(site).encoder_of(some),
            lambda some: self._independent_at(site).decoder_rows(some),
        )

    def _independent_at(self, site: Site) -> IndependentUnits:
        return cast("IndependentUnits", self._fast_at(site))


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
    return hash_files([path for path in folder.rglob("*") if path.is_file()], folder)


def hash_files(files: Iterable[Path], folder: Path | None = None) -> str:
    """Return the SHA-256 over names, sizes and bytes of files, in order of name.

    Args:
        files: the files.
        folder: names are relative to this one; their last two parts where None.
    """
    digest = hashlib.sha256()
    for file in sorted(files):
        name = Path(*file.parts[-2:]) if folder is None else file.relative_to(folder)
        digest.update(f"{name.as_posix()} {file.stat().st_size}".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def load_dictionaries(name: str, family: Family, read: SiteKind, write: SiteKind, model: Model) -> DictionaryBasis:
    """Load `layer_0`, `layer_1`, ... from the folder that the model names for this basis.

    Raises:
        BasisError: a layer is missing, cannot be read, or does not fit the model's width.
    """
    import torch
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
            raise BasisError(
                f"basis '{name}': {path} is not a dictionary that SAELens can load: {whole_message(error)}"
            ) from error
        _check_width(name, path, dictionary, model)
        # Half precision moves features across their thresholds: dictionaries run in float32 at least.
        dictionary.to(torch.float64 if model.dtype == torch.float64 else torch.float32)
        try:
            dictionaries.append(adapt(dictionary.eval().requires_grad_(False)))
        except BasisError as error:
            raise BasisError(f"basis '{name}': {path}: {error}") from error
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


def _spec(name: str, family: Family, read: SiteKind, write: SiteKind, summary: str, style: Style) -> BasisSpec:
    return BasisSpec(
        name,
        family,
        summary,
        build=partial(load_dictionaries, name, family, read, write),
        fingerprint=partial(fingerprint, name),
        style=style,
    )


_TRANSCODER = "transcoder: reads the MLP's input, writes its output"
_ON_MLP, _ON_ATTENTION, _ON_RESIDUAL = (
    f"sparse autoencoder on {where}" for where in ("the MLP's output", "the attention's output", "the residual stream")
)

PROVIDES: tuple[BasisSpec, ...] = (
    _spec("sae_mlp_out", "mlp", "mlp_out", "mlp_out", _ON_MLP, Style("green", "dash-dot", "D")),
    _spec("transcoder", "mlp", "mlp_in", "mlp_out", _TRANSCODER, Style("purple", "long-dash", "^")),
    _spec("sae_attn_out", "attn", "attn_out", "attn_out", _ON_ATTENTION, Style("green", "long-dash", "P")),
    _spec("sae_resid", "resid", "resid_post", "resid_post", _ON_RESIDUAL, Style("sky", "dash-dot", "D")),
)
