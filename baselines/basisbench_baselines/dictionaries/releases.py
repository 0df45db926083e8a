"""Read SAELens's list of published dictionaries, without importing SAELens or torch.

1. The list is `pretrained_saes.yaml` inside the package `sae_lens`: releases, their repositories, and an id and a
   path per dictionary.
2. A release's family, and the layer of each id, follow from its loader, its ids and its paths; both are checked
   against the dictionaries' own hooks once they are loaded (`dictionaries.placement`).
3. A pattern chooses ids; what it chooses must be one dictionary per layer.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from basisbench.errors import BasisError
from basisbench.types import Family

_LAYER = re.compile(
    r"blocks\.(\d+)\.|layers?[_.]?(\d+)|^l(\d+)[a-z]_|(?:^|[/.])h\.(\d+)|(?:^|[-/])L(\d+)[A-Z](?![A-Za-z])"
)
"""A layer as ids and folders write it: blocks.3.hook_mlp_out, layer_3_width_16k, layer_3/width_16k, layer3, l3r_8x;
layers.3.mlp, h.3.mlp, Llama3_1-8B-Base-L3R-8x."""

_FAMILY_OF_HOOK: tuple[tuple[str, Family], ...] = (
    ("hook_resid_p", "resid"),
    ("hook_mlp_out", "mlp"),
    ("hook_attn_out", "attn"),
    ("hook_z", "attn"),
)
_FAMILY_OF_LOADER: Mapping[str, Family] = {
    "dictionary_learning_1": "resid",
    "deepseek_r1": "resid",
    "qwen_scope": "resid",
    "goodfire": "resid",
    "sparsify": "resid",
    "llama_scope_r1_distill": "resid",
    "gemma_2_transcoder": "mlp",
    "mwhanna_transcoder": "mlp",
}
_FAMILY_OF_PLACE: tuple[tuple[re.Pattern[str], Family], ...] = (
    # Gemma Scope: google/gemma-scope-2b-pt-att; Gemma Scope 2: attn_out_all/...; Llama Scope: l3a_8x.
    (re.compile(r"-res$|^resid_post|^l\d+r_"), "resid"),
    (re.compile(r"-mlp$|^mlp_out|^transcoder|^l\d+m_"), "mlp"),
    (re.compile(r"-att$|^attn_out|^l\d+a_"), "attn"),
)

_REFUSED: Mapping[str, str] = {
    "temporal": "its dictionaries read other positions too; a basis encodes every position by itself",
    "mntss_clt_layer_transcoder": (
        "SAELens reads it with each feature's decoders summed, which does not reconstruct any layer; "
        "read the cross-layer transcoder itself"
    ),
}
_WEIGHTS: Mapping[str, str] = {
    "sae_lens": "{path}/sae_weights.safetensors",
    "gemma_2": "{path}/params.npz",
    "gemma_2_transcoder": "{path}/params.npz",
    "gemma_3": "{path}/params.safetensors",
    "llama_scope": "{path}/checkpoints/final.safetensors",
    "llama_scope_r1_distill": "{path}/sae_weights.safetensors",
    "dictionary_learning_1": "{path}/ae.pt",
    "sparsify": "{path}/sae.safetensors",
    "mwhanna_transcoder": "{path}",
    "connor_rob_hook_z": "{path}",
    "deepseek_r1": "{path}",
    "qwen_scope": "{path}",
    "goodfire": "{path}",
}
_SHOWN = 6


@dataclass(frozen=True)
class Release:
    """One release: dictionaries that were trained and published together.

    Attributes:
        name: its name in SAELens's list.
        repository: where on the hub it lies.
        model: the model it was trained for, in SAELens's words.
        loader: SAELens's name of the file format.
        paths: path in the repository by dictionary id.
    """

    name: str
    repository: str
    model: str
    loader: str
    paths: Mapping[str, str]

    def weights(self, identifier: str) -> str:
        """Return the path of a dictionary's weight file in the repository."""
        return _WEIGHTS[self.loader].format(path=self.paths[identifier])

    @property
    def family(self) -> Family:
        """The site family, as loader, ids, paths and repository tell it.

        Raises:
            BasisError: they do not tell it, or the release is of a kind that cannot be a basis.
        """
        if self.loader in _REFUSED:
            raise BasisError(f"release '{self.name}' cannot be a basis: {_REFUSED[self.loader]}")
        first, path = next(iter(self.paths.items()))
        for mark, family in _FAMILY_OF_HOOK:
            if mark in first:
                return family
        if self.loader in _FAMILY_OF_LOADER:
            return _FAMILY_OF_LOADER[self.loader]
        for pattern, family in _FAMILY_OF_PLACE:
            if any(pattern.search(text) for text in (first, path, self.repository)):
                return family
        raise BasisError(
            f"release '{self.name}' sits at none of the sites that are compared (its first id is '{first}'); "
            "families are mlp, attn and resid"
        )


@cache
def _listed() -> Mapping[str, Any]:
    """Read SAELens's list; half a second, so only when a name asks for it."""
    import yaml

    package = importlib.util.find_spec("sae_lens")
    if package is None or package.origin is None:
        raise BasisError("published dictionaries need the package sae-lens, which is not installed")
    text = (Path(package.origin).parent / "pretrained_saes.yaml").read_text(encoding="utf-8")
    listed: Mapping[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return listed


def find_release(name: str) -> Release:
    """Return a release of SAELens's list.

    Raises:
        BasisError: there is none of that name; near names are suggested.
    """
    listed = _listed()
    if name not in listed:
        close = difflib.get_close_matches(name, listed, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}?" if close else "see the list in SAELens's documentation"
        raise BasisError(
            f"no release '{name}' among the {len(listed)} that this SAELens knows, and no folder of that name; {hint} "
            "(a repository of the hub is written ORG/NAME)"
        )
    entry = listed[name]
    return Release(
        name=name,
        repository=str(entry["repo_id"]),
        model=str(entry["model"]),
        loader=str(entry.get("conversion_func") or "sae_lens"),
        paths={str(sae["id"]): str(sae["path"]) for sae in entry["saes"]},
    )


def layer_of(identifier: str) -> int | None:
    """Return the layer after which, or in which, a dictionary sits; None for the embeddings, which are no layer.

    The residual stream before layer L is the one after layer L - 1.
    """
    match = _LAYER.search(identifier)
    if match is None:
        return None
    layer = int(next(group for group in match.groups() if group is not None))
    layer -= "hook_resid_pre" in identifier
    return layer if layer >= 0 else None


def choose(kind: str, names: Sequence[str], layers: Mapping[str, int | None], pattern: str | None) -> dict[int, str]:
    """Return the one name per layer that a pattern chooses, in layer order.

    Args:
        kind: what is chosen from, for messages, for example "release 'gpt2-small-res-jb'".
        names: ids or folders.
        layers: layer of each; names without one are left out.
        pattern: shell pattern over whole names (`*`, `?`, `[...]`); None for all.

    Raises:
        BasisError: nothing matches, or several names of one layer do.
    """
    matching = [name for name in names if pattern is None or fnmatchcase(name, pattern)]
    placed: dict[int, list[str]] = {}
    for name in matching:
        layer = layers[name]
        if layer is not None:
            placed.setdefault(layer, []).append(name)
    if not placed:
        shown = ", ".join(templates(names)[:_SHOWN]) or "nothing"
        what = f"no dictionary of {kind} matches '{pattern}'" if pattern else f"{kind} has no dictionary in a layer"
        raise BasisError(f"{what}; its ids are {shown} (* is the layer)")
    for layer, several in sorted(placed.items()):
        if len(several) > 1:
            kinds = templates([name for here in placed.values() for name in here])
            raise BasisError(
                f"{len(several)} dictionaries of {kind} are for layer {layer}: {_shortened(several)}; choose one per "
                f"layer with a pattern after a colon, for example ':{kinds[0]}' (kinds: {_shortened(kinds)})"
            )
    return {layer: names[0] for layer, names in sorted(placed.items())}


def templates(names: Sequence[str]) -> list[str]:
    """Return names with their layer replaced by a star, the most frequent first."""
    counts: dict[str, int] = {}
    for name in names:
        match = _LAYER.search(name)
        if match is not None:
            group = next(index for index, found in enumerate(match.groups(), 1) if found is not None)
            name = f"{name[: match.start(group)]}*{name[match.end(group) :]}"
        counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: -counts[name])


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
