"""Find the dictionaries in a folder or a repository by the files that each maker writes, and open them.

1. A file tells the maker (`_MARKS`); where it lies, and how that place is called, is the dictionary's name.
2. Its configuration says where it sits (`makers`, `openmoss`; SAELens's own files are read by SAELens).
3. Its weights become a SAELens module, so that everything behind this point knows one kind of dictionary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from basisbench.errors import BasisError
from basisbench.types import Family
from basisbench_baselines.dictionaries import circuit_tracer_set, makers, openmoss
from basisbench_baselines.dictionaries.hub_snapshot import Snapshot
from basisbench_baselines.dictionaries.makers import Facts, Format
from basisbench_baselines.dictionaries.placement import Placement, place
from basisbench_baselines.dictionaries.releases import choose, layer_of
from basisbench_baselines.dictionaries.saelens_files import Dictionary, saelens_dictionary, saelens_facts
from basisbench_baselines.dictionaries.trees import Files
from basisbench_baselines.dictionaries.weight_files import read_tensors

KNOWN = (
    "SAELens (cfg.json), dictionary_learning (ae.pt), sparsify (sae.safetensors), circuit-tracer (config.yaml), "
    "Llama Scope (hyperparams.json), llamascopium (config.json), Gemma Scope (params.npz, params.safetensors)"
)
CROSS_LAYER = ("W_enc_0.safetensors", "clt_cfg.json")
"""Files of cross-layer transcoders."""


@dataclass(frozen=True)
class Found:
    """A dictionary that was found.

    Attributes:
        files: where.
        place: its folder, or its name among the files of a set.
        format: how it is read; None for SAELens's own.
        weights: where its weight file is and how it is called, unless the format says so.
    """

    files: Files
    place: str
    format: Format | None
    weights: tuple[Files, str] | None = None

    def placement(self) -> Placement | None:
        """Read where it sits; None in front of the first layer."""
        where = self.files.where(self.place if self.format else f"{self.place}/cfg.json")
        try:
            facts = (
                saelens_facts(self.files, self.place)
                if self.format is None
                else self.format.facts(self.files, self.place)
            )
            return place(facts["architecture"], facts["metadata"])
        except BasisError as error:
            raise BasisError(str(error) if where in str(error) else f"{where}: {error}") from error

    def open(self) -> Dictionary:
        """Return the dictionary."""
        title = self.files.where(self.place)
        if isinstance(self.files, Snapshot):
            title = self.files.repository if self.place == "." else f"'{self.place}' of {self.files.repository}"
        files = self.files if self.weights is None else self.weights[0]
        snapshot = files if isinstance(files, Snapshot) else None
        if self.format is None:
            return saelens_dictionary(title, self.files, self.place, snapshot)
        given = self.format

        def configure() -> dict[str, Any]:
            facts = given.facts(self.files, self.place)
            return _config(facts, given.weights(facts, read_tensors(self._weights(), "meta")))

        def load(device: str, dtype: str) -> Any:
            import torch

            from basisbench_baselines.dictionaries.topk_transcoder import module_of

            facts = given.facts(self.files, self.place)
            stored = {
                name: tensor.to(getattr(torch, dtype)) for name, tensor in read_tensors(self._weights(), device).items()
            }
            tensors = given.weights(facts, stored)
            return module_of(_config(facts, tensors), tensors, device, dtype)

        return Dictionary(title, configure, load, snapshot, lambda: [self._weights()])

    def beside(self) -> Iterable[Path]:
        """Return the files of its folder, or the configuration of its set."""
        folder = self.place.rpartition("/")[0] if self.weights else self.place
        start = "" if folder in ("", ".") else f"{folder}/"
        names = (name for name in self.files.names() if name.rpartition("/")[0] == start.rstrip("/"))
        return [self.files.path(name) for name in names if self.weights is None or name == f"{start}config.yaml"]

    def _weights(self) -> Path:
        if self.weights is not None:
            files, name = self.weights
            return files.path(name)
        names = [f"{self.place}/{name}" for name in self.format.candidates] if self.format else []
        for name in names:
            if self.files.has(name):
                return self.files.path(name)
        raise BasisError(f"{self.files.where(names[0])} is missing")


_OPENMOSS = Format(
    openmoss.facts,
    openmoss.weights,
    tuple(f"{name}{ending}" for name in openmoss.WEIGHTS for ending in (".safetensors", ".pt")),
)
_SPARSIFY = Format(makers.sparsify_facts, makers.sparsify_weights, ("sae.safetensors",))
_MARKS: Mapping[str, Format | None] = {
    "cfg.json": None,
    "ae.pt": Format(makers.learned_facts, makers.learned_weights, ("ae.pt",)),
    "hyperparams.json": _OPENMOSS,
    "config.json": _OPENMOSS,
    "params.npz": Format(makers.gemma_scope_facts, makers.gemma_scope_weights, ("params.npz",)),
    "params.safetensors": Format(makers.gemma_scope_2_facts, makers.gemma_scope_2_weights, ("params.safetensors",)),
}


def find(files: Files) -> dict[str, Found]:
    """Return the dictionaries that there are, by place."""
    found: dict[str, Found] = {}
    for name in files.names():
        if name.startswith(("snapshots/", ".")):  # earlier states and checkpoints of `basisbench train`
            continue
        folder, _, base = name.rpartition("/")
        key = folder or "."
        beside = partial(_beside, files, folder)
        if base == "config.yaml":
            for key, (form, weights) in circuit_tracer_set.transcoders(files, folder).items():
                found[key] = Found(files, key, form, weights)
        elif base == "config.json" and (
            beside("cfg.json", "ae.pt", "hyperparams.json") or not beside("sae_weights.safetensors")
        ):
            continue
        elif base in _MARKS:
            sparsify = base == "cfg.json" and beside("sae.safetensors")
            found[key] = Found(files, key, _SPARSIFY if sparsify else _MARKS[base])
    return found


def is_cross_layer(files: Files) -> bool:
    """Tell whether the outermost folder is that of a cross-layer transcoder."""
    return any(files.has(name) for name in CROSS_LAYER)


def _beside(files: Files, folder: str, *names: str) -> bool:
    return any(files.has(f"{folder}/{name}" if folder else name) for name in names)


def fingerprint(snapshot: Snapshot, files: Mapping[str, list[Path]]) -> str:
    """Return a digest of repository, commit, and the hash that the hub's cache names each weight file by.

    Args:
        snapshot: the repository at a commit.
        files: weight files by a dictionary's name.
    """
    digest = hashlib.sha256(f"{snapshot.repository} {snapshot.commit}".encode())
    for name, paths in files.items():
        for path in paths:
            blob = path.resolve()
            content = blob.name if blob.parent.name == "blobs" else hashlib.sha256(blob.read_bytes()).hexdigest()
            digest.update(f"{name} {content}".encode())
    return digest.hexdigest()


def chosen_of(kind: str, files: Files, pattern: str | None) -> dict[int, Found]:
    """Return one dictionary per layer: of a repository by the layers in names, where they say it, to read few files."""
    found = find(files)
    if not found:
        raise BasisError(f"{kind} holds no dictionary in a known format, expected files of {KNOWN}")
    names = sorted(found)
    by_name = {name: layer_of(name) for name in names}
    if isinstance(files, Snapshot):
        matching = [name for name in names if pattern is None or fnmatchcase(name, pattern)]
        if not matching or all(by_name[name] is not None for name in matching):
            names = list(choose(kind, names, by_name, pattern).values())
    placed = {name: found[name].placement() for name in names if pattern is None or fnmatchcase(name, pattern)}
    if placed and all(found_at is None for found_at in placed.values()):
        raise BasisError(
            f"{kind} has dictionaries of the embeddings alone, in front of the first layer (blocks.0.hook_resid_pre); "
            "bases are compared after layers: choose dictionaries of hook_resid_post, or hook_resid_pre of layer 1 on"
        )
    layers = {name: getattr(placed.get(name), "layer", None) for name in names}
    return {layer: found[name] for layer, name in choose(kind, names, layers, pattern).items()}


def family_of(name: str, kind: str, chosen: dict[int, Found]) -> tuple[Family, dict[int, Found]]:
    """Return the one family of dictionaries, and them."""
    families = {sits.family for found in chosen.values() if (sits := found.placement()) is not None}
    if len(families) > 1:
        raise BasisError(
            f"basis '{name}': {kind} holds dictionaries of several families, {', '.join(sorted(families))}; choose "
            "one with a pattern after a colon"
        )
    return families.pop(), chosen


def _config(facts: Facts, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return SAELens's configuration, with sizes and kind as the weights have them.

    Raises:
        BasisError: the weights do not fit each other.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    encoder, decoder = shapes["W_enc"], shapes["W_dec"]
    if len(encoder) != 2 or len(decoder) != 2:
        raise BasisError(f"its encoder and decoder have shapes {encoder} and {decoder}, expected matrices")
    (d_in, units), d_out = encoder, decoder[1]
    expected = {"W_dec": (units, d_out), "b_dec": (d_out,), "W_skip": (d_out, d_in)}
    for name, shape in shapes.items():
        if name != "W_enc" and shape != expected.get(name, (units,)):
            raise BasisError(f"its {name} has shape {shape}, expected {expected.get(name, (units,))} for {units} units")
    config: dict[str, Any] = {name: value for name, value in facts.items() if name != "own"}
    config |= {"d_in": d_in, "d_sae": units, "dtype": "float32", "device": "cpu"}
    if "transcoder" in config["architecture"]:
        kind = "topk_" if "topk" in config["architecture"] else "jumprelu_" if "threshold" in shapes else ""
        config |= {"architecture": f"{kind}{'skip_' if 'W_skip' in shapes else ''}transcoder", "d_out": d_out}
    k = config.get("k", 1)
    if not isinstance(k, int) or isinstance(k, bool) or not 0 < k <= units:
        raise BasisError(f"its configuration has k = {k!r}, expected a number of its {units} units")
    return config
