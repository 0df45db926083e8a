"""Published dictionaries by name: `sae:RELEASE`, `sae:ORG/NAME` or `sae:FOLDER`, with `[@REVISION]` and `[:PATTERN]`.

1. A release is looked up in SAELens's list; a folder, or a repository of the hub, is searched for the files of every
   known maker (`dictionaries.formats`). A pattern (`*`, `?`, `[...]`) chooses among the ids or folders; what is left
   must be one dictionary per layer.
2. Family and layers are known before weights are downloaded. On building, every dictionary's own configuration says
   where it sits and on which model it was trained, and must agree with that and with the model at hand.
3. Weights are read into SAELens's modules, at one commit of the repository, each layer when it is first used, in
   float32 (float64 for a model in float64), and adapted (`dictionaries.saelens_adapter`).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisError
from basisbench.models.memory import room_for_weights
from basisbench.protocols import BasisScheme, BasisSpec
from basisbench.types import Family, ModelSpec, Site
from basisbench_baselines.bases.cross_layer_transcoder import cross_layer_spec
from basisbench_baselines.bases.saelens import DictionaryBasis, hash_files
from basisbench_baselines.dictionaries.formats import (
    Found,
    chosen_of,
    family_of,
    fingerprint,
    is_cross_layer,
)
from basisbench_baselines.dictionaries.hub_snapshot import Snapshot, as_basis_error, pinned, quiet, resolve
from basisbench_baselines.dictionaries.lazy_layers import LazyDictionaries, Loader
from basisbench_baselines.dictionaries.placement import Placement, place
from basisbench_baselines.dictionaries.releases import Release, choose, find_release, layer_of
from basisbench_baselines.dictionaries.saelens_adapter import adapt, check_kind
from basisbench_baselines.dictionaries.saelens_files import Dictionary
from basisbench_baselines.dictionaries.trained_on import how_trained, warn_if_trained_on_other
from basisbench_baselines.dictionaries.trees import Folder

if TYPE_CHECKING:
    from basisbench.models.model import Model

PREFIX = "sae"
_NAME = re.compile(r"(?P<release>[^@:]+)(@(?P<revision>[^:]+))?(:(?P<pattern>.+))?")
_log = logging.getLogger(__name__)


def resolve_name(name: str) -> BasisSpec:
    """Return the basis of a name such as "sae:gpt2-small-res-jb"; no weights are downloaded.

    Raises:
        BasisError: no such release or folder, no id that matches, or several for one layer.
    """
    body = name.removeprefix(f"{PREFIX}:")
    folder, pattern = _as_folder(body)
    if folder is not None:
        return _folder_spec(name, folder, pattern)
    match = _NAME.fullmatch(body)
    if match is None:
        raise BasisError(f"basis '{name}': expected {PREFIX}:RELEASE[@REVISION][:PATTERN], ORG/NAME or a folder")
    if "/" in match["release"]:
        return _repository_spec(name, match["release"], match["revision"], match["pattern"])
    with _named(name):
        release = find_release(match["release"])
        family = release.family
        layers = {identifier: layer_of(identifier) for identifier in release.paths}
        chosen = choose(f"release '{release.name}'", list(release.paths), layers, match["pattern"])
    snapshot_of = partial(_snapshot, name, release.repository, match["revision"])

    def build(model: Model) -> DictionaryBasis:
        snapshot = snapshot_of(model.spec)
        dictionaries = {layer: _hub_dictionary(release, chosen[layer], snapshot) for layer in chosen}
        return _build(name, family, dictionaries, model)

    return BasisSpec(
        name,
        family,
        f"{len(chosen)} dictionaries of {release.repository} for {release.model}",
        build=build,
        fingerprint=lambda spec: _hub_fingerprint(name, release, chosen, snapshot_of(spec)),
        layers=tuple(chosen),
        repositories={release.repository: match["revision"]},
    )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which basis an error is about."""
    try:
        yield
    except BasisError as error:
        raise BasisError(f"basis '{name}': {error}") from error


def _as_folder(body: str) -> tuple[Path | None, str | None]:
    """Return the folder and the pattern of a name that begins with an existing folder or looks like a path."""
    for text, pattern in ((body, None), body.rpartition(":")[::2]):
        if text and (path := Path(text).expanduser()).is_dir():
            return path.resolve(), pattern
    if body.startswith(("/", "./", "../", "~")):
        raise BasisError(f"basis '{PREFIX}:{body}': no folder of that name")
    return None, None


# --- releases


def _snapshot(name: str, repository: str, revision: str | None, spec: ModelSpec) -> Snapshot:
    """Return the commit to use: of the name, else of the run's suite, else the main branch's."""
    revision = revision or spec.revisions.get(repository)
    with as_basis_error(f"basis '{name}'", repository, revision):
        return resolve(repository, revision)


def _hub_dictionary(release: Release, identifier: str, snapshot: Snapshot) -> Dictionary:
    def configure() -> dict[str, Any]:
        from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

        with pinned(snapshot):
            config: dict[str, Any] = load_sae_config_from_huggingface(release.name, identifier)
            return config

    def load(device: str, dtype: str) -> Any:
        from sae_lens import SAE

        with pinned(snapshot):
            return SAE.from_pretrained(release.name, identifier, device=device, dtype=dtype)

    return Dictionary(f"'{identifier}' of {release.repository}", configure, load, snapshot)


def _hub_fingerprint(name: str, release: Release, chosen: Mapping[int, str], snapshot: Snapshot) -> str:
    """Return a digest of repository, commit, and the hash that the hub's cache names each weight file by."""
    digest = hashlib.sha256(f"{snapshot.repository} {snapshot.commit}".encode())
    with as_basis_error(f"basis '{name}'", snapshot.repository, snapshot.commit):
        for identifier in chosen.values():
            path = Path(snapshot.download(release.weights(identifier))).resolve()
            content = path.name if path.parent.name == "blobs" else hash_files([path])
            digest.update(f"{identifier} {release.paths[identifier]} {content}".encode())
    return digest.hexdigest()


# --- folders and repositories


def _folder_spec(name: str, folder: Path, pattern: str | None) -> BasisSpec:
    files = Folder(folder)
    if is_cross_layer(files):
        return cross_layer_spec(name, str(folder))
    with as_basis_error(f"basis '{name}'"):
        chosen = chosen_of(f"folder {folder}", files, pattern)
    family, found = family_of(name, f"folder {folder}", chosen)

    def digest(_spec: ModelSpec) -> str:
        with as_basis_error(f"basis '{name}'"):
            return hash_files({path for each in found.values() for path in [*each.beside(), *each.open().files()]})

    return BasisSpec(
        name,
        family,
        f"{len(found)} dictionaries of the folder {folder}",
        build=partial(_build, name, family, {layer: each.open() for layer, each in found.items()}, folder=folder),
        fingerprint=digest,
        layers=tuple(found),
    )


def _repository_spec(name: str, repository: str, revision: str | None, pattern: str | None) -> BasisSpec:
    """Return the basis of a repository of the hub; configurations are downloaded, no weights."""

    def snapshot_of(spec: ModelSpec) -> Snapshot:
        return _snapshot(name, repository, revision, spec)

    kind = f"repository {repository}"
    with as_basis_error(f"basis '{name}'", repository, revision):
        files = resolve(repository, revision)
        if is_cross_layer(files):
            return cross_layer_spec(name, f"{repository}@{revision}" if revision else repository)
        family, first = family_of(name, kind, chosen_of(kind, files, pattern))

    def opened(spec: ModelSpec) -> tuple[Snapshot, dict[int, Found]]:
        snapshot = snapshot_of(spec)
        with as_basis_error(f"basis '{name}'", repository, snapshot.commit):
            return snapshot, first if snapshot == files else chosen_of(kind, snapshot, pattern)

    def build(model: Model) -> DictionaryBasis:
        snapshot, found = opened(model.spec)
        basis = _build(name, family, {layer: each.open() for layer, each in found.items()}, model)
        return replace(basis, sources={**basis.sources, repository: snapshot.commit})

    def digest(spec: ModelSpec) -> str:
        snapshot, found = opened(spec)
        with as_basis_error(f"basis '{name}'", repository, snapshot.commit):
            return fingerprint(snapshot, {each.place: each.open().files() for each in found.values()})

    return BasisSpec(
        name,
        family,
        f"{len(first)} dictionaries of {repository}",
        build=build,
        fingerprint=digest,
        layers=tuple(first),
        repositories={repository: revision},
    )


# --- both


def _build(
    name: str, family: Family, dictionaries: Mapping[int, Dictionary], model: Model, folder: Path | None = None
) -> DictionaryBasis:
    """Check every dictionary against the model by its configuration; weights are loaded later.

    Raises:
        BasisError: one does not fit, or cannot be found; says which and why.
    """
    import torch

    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    deepest = max(dictionaries)
    if deepest >= model.layers:
        raise BasisError(
            f"basis '{name}': it has a dictionary for layer {deepest}, but '{model.name}' has {model.layers} layers; "
            "it was trained for another model (a pattern after a colon chooses among its ids)"
        )
    sites: list[Site] = []
    loaders: list[Loader] = []
    sizes: list[int] = []
    devices: list[str] = []
    configurations: list[Any] = []
    for layer, dictionary in dictionaries.items():
        with dictionary.named_errors(name):
            config, parameters = _described(dictionary.configure())
            placement = place(config.architecture(), config.metadata)
            if placement is None or (placement.family, placement.layer) != (family, layer):
                raise BasisError(
                    f"its configuration says '{config.metadata.hook_name}', expected a site of family {family} in "
                    f"layer {layer}"
                )
            site = placement.site(model)
            _check_widths(config, placement, site, model)
            configurations.append(config)
            sites.append(site)
            loaders.append(partial(_load, name, dictionary, placement, model, dtype))
            sizes.append(parameters * dtype.itemsize)
            devices.append(_device_of(model, site))
    warn_if_trained_on_other(name, [config.metadata.model_name for config in configurations], model.spec)
    missing = sorted(set(range(model.layers)) - set(dictionaries))
    if missing:
        _warn_of_missing_layers(name, model.name, tuple(missing))
    snapshots = [dictionary.snapshot for dictionary in dictionaries.values() if dictionary.snapshot]
    return DictionaryBasis(
        name,
        family,
        tuple(sites),
        LazyDictionaries(
            loaders,
            sizes,
            devices,
            {device: room_for_weights(device) for device in dict.fromkeys(devices)},
            spare=room_for_weights("cpu"),
        ),
        sources={snapshot.repository: snapshot.commit for snapshot in snapshots},
        trained=how_trained(configurations, folder),
    )


def _described(raw: dict[str, Any]) -> tuple[Any, int]:
    """Return SAELens's configuration object, and how many parameters such a dictionary has; no weight is read."""
    from basisbench_baselines.dictionaries.topk_transcoder import classes_of

    check_kind(str(raw["architecture"]))
    module_class, config_class = classes_of(raw["architecture"])
    config = config_class.from_dict({**raw, "device": "meta"})
    if getattr(config, "k", 1) > config.d_sae:
        raise BasisError(f"its configuration keeps the {config.k} largest of {config.d_sae} units")
    with quiet():
        module = module_class(config)
    return config, sum(parameter.numel() for parameter in module.parameters())


def _load(name: str, dictionary: Dictionary, placement: Placement, model: Model, dtype: Any, device: str) -> Any:
    with dictionary.named_errors(name), quiet():
        module = dictionary.load(device, str(dtype).removeprefix("torch."))
        module.eval().requires_grad_(False)
        return adapt(module, gain=placement.gain(model), centred=placement.is_centred(model))


def _device_of(model: Model, site: Site) -> str:
    """Return where a layer lies: a model may be spread over several devices."""
    parameter = next(model.body.get_submodule(model.place(site.write).module).parameters(), None)
    return str(model.device if parameter is None or parameter.device.type == "meta" else parameter.device)


def _check_widths(config: Any, placement: Placement, site: Site, model: Model) -> None:
    found = int(config.d_in), int(getattr(config, "d_out", config.d_in))
    expected = placement.widths(model)
    if found != expected:
        raise BasisError(
            f"it maps width {found[0]} to {found[1]}, but {site.read} and {site.write} of '{model.name}' have "
            f"{expected[0]} and {expected[1]}; it was trained for another model"
        )


@cache
def _warn_of_missing_layers(name: str, model: str, layers: tuple[int, ...]) -> None:
    """Name the layers that a basis lacks, once per process."""
    _log.warning(
        "basis '%s' has no dictionary for layer %s of '%s'; it is compared on the layers that it has",
        name,
        ", ".join(map(str, layers)),
        model,
    )


PROVIDES: tuple[BasisScheme, ...] = (
    BasisScheme(
        PREFIX,
        "sae:RELEASE[@REVISION][:PATTERN]",
        "dictionaries of a SAELens release, a repository (ORG/NAME) or a folder, in any maker's format",
        resolve_name,
    ),
)
