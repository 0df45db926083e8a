"""Cross-layer transcoders: units that read one layer and write to it and to all later ones (Ameisen et al. 2025).

`clt` is the one that a model names among its dictionaries; `clt:ORG/NAME[@REVISION]` and `clt:FOLDER` name any other,
such as `clt:mntss/clt-gemma-2-2b-426k`. The files are circuit-tracer's (basisbench_baselines.circuit_tracer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from basisbench.errors import BasisBenchError, BasisError
from basisbench.packed import LinearMap, passing_linear_map
from basisbench.protocols import BasisScheme, BasisSpec, ModelSpec
from basisbench.types import Family, Site
from basisbench_baselines.circuit_tracer import (
    CONFIG,
    LayerFiles,
    digest_files,
    file_names,
    hook_names,
    layer_count,
    open_layers,
    read_config,
)
from basisbench_baselines.hub.cache import resolve, told
from basisbench_baselines.hub.trained_on import say_if_other

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.model import Model

NAME = "clt"
_SUMMARY = "cross-layer transcoder: reads the MLP's input, writes the MLP outputs of this and all later layers"


class CrossLayerRows:
    """Some units of one layer; implements `basisbench.protocols.CrossLayerPart`.

    Args:
        units: which units.
        files: the files of the layer.
    """

    def __init__(self, units: Int[Tensor, " part"], files: LayerFiles) -> None:
        self._units, self._files = units, files

    @cached_property
    def _encoder(self) -> LinearMap:
        return self._files.encoder_of(self._units)

    @cached_property
    def _rows(self) -> Float[Tensor, "part target d_write"]:
        return self._files.w_dec[self._units].to(self._files.dtype)

    def encode(self, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b part"]:
        """Return the coordinates of these units."""
        return self._encoder(x)

    def decode(self, f: Float[Tensor, "*b part"]) -> Float[Tensor, "*b d_write"]:
        """Return what these coordinates add to their own layer's reconstruction."""
        return passing_linear_map(self._rows[:, 0].T, None)(f)

    def project(self, gradient: Float[Tensor, "*b d_write"]) -> Float[Tensor, "*b part"]:
        """Return the product of a gradient at their own layer with what each unit writes there."""
        return passing_linear_map(self._rows[:, 0], None)(gradient)

    def spread(self, f: Float[Tensor, "*b part"], to: Site) -> Float[Tensor, "*b d_write"]:
        """Return what these units add at the write hook of `to`."""
        return passing_linear_map(self._rows[:, to.layer - self._files.layer].T, None)(f)


@dataclass(frozen=True, eq=False)
class CrossLayerTranscoder:
    """A cross-layer transcoder; implements `CrossLayerBasis` and `UnitwiseBasis`.

    Attributes:
        name: name of the basis.
        sites: one per layer.
        files: the files of each layer.
        parameter_bytes: bytes of all weights.
        sources: repository of the Hugging Face hub that the weights come from, with its commit; empty for a folder.
    """

    name: str
    sites: Sequence[Site]
    files: tuple[LayerFiles, ...]
    parameter_bytes: int
    family: Family = "mlp"
    exact: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)

    def encode(self, site: Site, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return the feature activations."""
        return self.files[site.layer].encode(x)

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return what a layer's own units write there, with the bias."""
        return self.files[site.layer].decoders[0](f) + self.files[site.layer].b_dec

    def spread(self, site: Site, f: Float[Tensor, "*b unit"], to: Site) -> Float[Tensor, "*b d_write"]:
        """Return what a layer's units add at this layer or a later one."""
        return self.files[site.layer].decoders[to.layer - site.layer](f)

    def part(self, site: Site, units: Int[Tensor, " part"]) -> CrossLayerRows:
        """Return some units."""
        return CrossLayerRows(units, self.files[site.layer])

    def drop(self, site: Site) -> None:
        """Let go of a layer's weights; the next use reads them again."""
        self.files[site.layer].drop()


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
        config = read_config(folder)
        read, write = hook_names(folder, config)
        files, in_memory = open_layers(folder, model)
        sites = tuple(
            Site(layer, _site_hook(model, read, layer), _site_hook(model, write, layer))
            for layer in range(model.layers)
        )
    except BasisBenchError as error:
        raise BasisError(f"basis '{name}': {error}") from error
    say_if_other(name, [config.get("model_name")], model.spec)
    return CrossLayerTranscoder(name, sites, files, in_memory, sources=sources)


def _site_hook(model: Model, hook: str, layer: int) -> str:
    """Return the name of a hook in a layer: the benchmark's own where it stands for the same activation."""
    name = f"blocks.{layer}.{hook}"
    place = model.place(name)
    same = [own for own in (model.hook("mlp_in", layer), model.hook("mlp_out", layer)) if model.place(own) == place]
    return same[0] if same else name


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
    body = name.removeprefix(f"{NAME}:")
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
        with told(f"basis '{name}'", repository, wanted):
            snapshot = resolve(repository, wanted)
        with told(f"basis '{name}'", repository, snapshot.commit):
            folder = Path(snapshot.download(CONFIG)).parent
            # The first decoder writes to every layer, so it says how many there are.
            for file in file_names(layer_count(Path(snapshot.download("W_dec_0.safetensors")))):
                snapshot.download(file)
        return folder, {snapshot.repository: snapshot.commit}

    return replace(_spec(name, download), repositories=(repository,))


def _spec(name: str, find: Callable[[ModelSpec], Found]) -> BasisSpec:
    return BasisSpec(
        name,
        "mlp",
        _SUMMARY,
        build=lambda model: load(name, *find(model.spec), model),
        fingerprint=lambda spec: digest_files(find(spec)[0]),
    )


PROVIDES: tuple[BasisSpec | BasisScheme, ...] = (
    _spec(NAME, _own_folder),
    BasisScheme(
        NAME,
        f"{NAME}:ORG/NAME[@REVISION]",
        "any cross-layer transcoder in circuit-tracer's format, of the Hugging Face hub or in a folder",
        resolve_name,
    ),
)
