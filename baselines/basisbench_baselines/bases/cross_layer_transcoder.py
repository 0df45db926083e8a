"""Cross-layer transcoders: units that read one layer and write to it and to all later ones.

They are those of Ameisen et al. 2025, "Circuit Tracing", section "Architecture".

`clt` is the one that a model names among its dictionaries; `clt:ORG/NAME[@REVISION]` and `clt:FOLDER` name any other,
such as `clt:mntss/clt-gemma-2-2b-426k`. The files are circuit-tracer's (`dictionaries.circuit_tracer_files`)
or CLT-Forge's (`dictionaries.clt_forge`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from basisbench.errors import BasisBenchError, BasisError
from basisbench.models.memory import give_memory_back, room_for_weights
from basisbench.models.onednn import passing_linear_map
from basisbench.protocols import BasisScheme, BasisSpec
from basisbench.types import Family, ModelSpec, Site, Style
from basisbench_baselines.dictionaries import clt_forge
from basisbench_baselines.dictionaries.circuit_tracer_files import (
    CONFIG,
    digest_files,
    file_names,
    hook_names,
    layer_count,
    open_layers,
    read_config,
)
from basisbench_baselines.dictionaries.circuit_tracer_layer import LayerFiles
from basisbench_baselines.dictionaries.fast import SelectedUnits
from basisbench_baselines.dictionaries.hub_snapshot import as_basis_error, resolve
from basisbench_baselines.dictionaries.lazy_layers import LayerCache
from basisbench_baselines.dictionaries.placement import hook_at
from basisbench_baselines.dictionaries.trained_on import warn_if_trained_on_other

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.models.model import Model

NAME = "clt"
_LARGE_BYTES = 256 * 2**20
"""Transcoders whose dropped layers are worth handing back to the system."""

_SUMMARY = "cross-layer transcoder: reads the MLP's input, writes the MLP outputs of this and all later layers"


class SelectedCrossLayerUnits(SelectedUnits):
    """Some units of one layer; implements `basisbench.protocols.CrossLayerPart`.

    Args:
        units: which units.
        layer: which layer.
        files: gives the files of the layer, whose weights may have been freed meanwhile.
    """

    def __init__(self, units: Int[Tensor, " part"], layer: int, files: Callable[[], LayerFiles]) -> None:
        super().__init__(units, lambda some: files().encoder_of(some), lambda some: files().decoder_rows(some))
        self._layer = layer

    @cached_property
    def _targets(self) -> Float[Tensor, "part target d_write"]:
        return self._make_rows(self._units)

    @cached_property
    def _rows(self) -> Float[Tensor, "part d_write"]:
        """What these units write at their own layer."""
        return self._targets[:, 0]

    def spread(self, f: Float[Tensor, "*b part"], to: Site) -> Float[Tensor, "*b d_write"]:
        """Return what these units add at the write hook of `to`."""
        return passing_linear_map(self._targets[:, to.layer - self._layer].T, None)(f)


@dataclass(frozen=True, eq=False)
class CrossLayerTranscoder:
    """A cross-layer transcoder; implements `CrossLayerBasis` and `UnitwiseBasis`.

    Attributes:
        name: name of the basis.
        sites: one per layer.
        files: the files of each layer.
        cache: which layers' weights are in memory.
        sources: repository of the Hugging Face hub that the weights come from, with its commit; empty for a folder.
    """

    name: str
    sites: Sequence[Site]
    files: tuple[LayerFiles, ...]
    cache: LayerCache
    family: Family = "mlp"
    exact: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(files.nbytes for files in self.files)

    @property
    def streams(self) -> bool:
        """Whether not all layers fit into memory at once, so that every pass reads some of them."""
        return self.cache.overflows

    def keep_less(self) -> bool:
        """Keep fewer layers in memory from now on; False where no less can be kept."""
        return self._free(self.cache.shrink())

    def _free(self, layers: Sequence[int]) -> bool:
        for layer in layers:
            self.files[layer].drop()
        if layers and self.parameter_bytes > _LARGE_BYTES:
            give_memory_back()
        return bool(layers)

    def _files_of(self, site: Site) -> LayerFiles:
        """Return the files of a layer, after freeing others to make room for them."""
        self._free(self.cache.add(site.layer))
        return self.files[site.layer]

    def encode(self, site: Site, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return the feature activations."""
        return self._files_of(site).encode(x)

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return what a layer's own units write there, with the bias."""
        files = self._files_of(site)
        return files.decoders[0](f) + files.b_dec

    def spread(self, site: Site, f: Float[Tensor, "*b unit"], to: Site) -> Float[Tensor, "*b d_write"]:
        """Return what a layer's units add at this layer or a later one."""
        return self._files_of(site).decoders[to.layer - site.layer](f)

    def part(self, site: Site, units: Int[Tensor, " part"]) -> SelectedCrossLayerUnits:
        """Return some units; their weights are read when they are first used."""
        return SelectedCrossLayerUnits(units, site.layer, lambda: self._files_of(site))


def load(name: str, folder: Path, sources: Mapping[str, str], model: Model) -> CrossLayerTranscoder:
    """Open a cross-layer transcoder; weights are read layer by layer when they are first used.

    Args:
        name: name of the basis.
        folder: folder of its files.
        sources: repository that they come from, with its commit; empty for a folder.
        model: the model that it was trained for.

    Raises:
        BasisError: a file is missing or is not what the format says, or it was made for another model.
    """
    try:
        if (folder / clt_forge.CONFIG).is_file():
            config, files = clt_forge.open_layers(folder, model)
            read, write = "mlp.hook_in", "hook_mlp_out"
        else:
            config = read_config(folder)
            read, write = hook_names(folder, config)
            files = open_layers(folder, model, read)
            # The gain of the norm is put into the encoder.
            read = "mlp.hook_in" if read == "ln2.hook_normalized" else read
        sites = tuple(
            Site(layer, hook_at(model, read, layer), hook_at(model, write, layer)) for layer in range(model.layers)
        )
    except BasisBenchError as error:
        raise BasisError(f"basis '{name}': {error}") from error
    warn_if_trained_on_other(name, [config.get("model_name")], model.spec)
    cache = LayerCache({part.layer: part.nbytes for part in files}, room_for_weights(str(model.device)))
    return CrossLayerTranscoder(name, sites, files, cache, sources=sources)


Found = tuple[Path, Mapping[str, str]]
"""A folder of files, and the repository that they come from, with its commit."""


def _own_folder(model: ModelSpec) -> Found:
    """Return the folder that a model names for its cross-layer transcoder."""
    folder = model.dictionaries.get(NAME)
    if folder is None:
        known = ", ".join(sorted(model.dictionaries)) or "none"
        raise BasisError(
            f"model '{model.name}' has no dictionaries for basis '{NAME}' (it has: {known}); choose one of these, a "
            f"neuron basis, or '{NAME}:ORG/NAME'"
        )
    return folder, {}


def resolve_name(name: str) -> BasisSpec:
    """Return the basis of a name such as "clt:mntss/clt-gemma-2-2b-426k"; nothing is downloaded.

    Raises:
        BasisError: the name is neither a folder nor a repository.
    """
    return cross_layer_spec(name, name.removeprefix(f"{NAME}:"))


def cross_layer_spec(name: str, body: str) -> BasisSpec:
    """Return a cross-layer transcoder under some name.

    Args:
        name: name of the basis.
        body: its folder, or its repository as ORG/NAME[@REVISION].

    Raises:
        BasisError: it is neither.
    """
    folder = Path(body).expanduser()
    if folder.is_dir():
        return _spec(name, lambda _model: (folder.resolve(), {}))
    repository, _, revision = body.partition("@")
    if repository.count("/") != 1 or body.startswith((".", "/", "~")):
        raise BasisError(
            f"basis '{name}': no folder of that name; expected {NAME}:FOLDER or {NAME}:ORG/NAME[@REVISION]"
        )

    def download(model: ModelSpec) -> Found:
        wanted = revision or model.revisions.get(repository)
        with as_basis_error(f"basis '{name}'", repository, wanted):
            snapshot = resolve(repository, wanted)
        with as_basis_error(f"basis '{name}'", repository, snapshot.commit):
            if snapshot.has(clt_forge.CONFIG):
                for file in clt_forge.weight_names(list(snapshot.names())):
                    snapshot.download(file)
                return Path(snapshot.download(clt_forge.CONFIG)).parent, {snapshot.repository: snapshot.commit}
            folder = Path(snapshot.download(CONFIG)).parent
            # The first decoder writes to every layer, so it says how many there are.
            for file in file_names(layer_count(Path(snapshot.download("W_dec_0.safetensors")))):
                snapshot.download(file)
        return folder, {snapshot.repository: snapshot.commit}

    return replace(_spec(name, download), repositories={repository: revision or None})


def _spec(name: str, find: Callable[[ModelSpec], Found]) -> BasisSpec:
    return BasisSpec(
        name,
        "mlp",
        _SUMMARY,
        build=lambda model: load(name, *find(model.spec), model),
        fingerprint=lambda spec: digest_files(find(spec)[0]),
        style=Style("sky", "solid", "v") if name == NAME else None,
        cross_layer=True,
    )


PROVIDES: tuple[BasisSpec | BasisScheme, ...] = (
    _spec(NAME, _own_folder),
    BasisScheme(
        NAME,
        f"{NAME}:ORG/NAME[@REVISION]",
        "any cross-layer transcoder of circuit-tracer or CLT-Forge, of the Hugging Face hub or in a folder",
        resolve_name,
    ),
)
