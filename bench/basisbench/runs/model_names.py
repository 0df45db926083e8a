"""From what a user calls a model to its ModelSpec: a registered name, a repository of the hub, or a folder.

1. A registered name wins; `NAME@REVISION` is the same model at another revision of its repository.
2. A folder that holds a checkpoint: named by its last part.
3. `ORG/NAME` or `ORG/NAME@REVISION`: any causal language model of the Hugging Face hub. A repository that is
   registered under a name of its own goes by that name.

Nothing is loaded and no network is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from basisbench.errors import BasisBenchError, unknown_name
from basisbench.registry import Registry
from basisbench.types import ModelSpec

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_REVISION = re.compile(r"[\w./-]+")


def find_model(name: str | None, registry: Registry) -> ModelSpec:
    """Return the model that a name, a repository or a folder stands for.

    Args:
        name: for example "gpt2-small", "EleutherAI/pythia-160m@step1000" or "./my-model"; None
            for the model whose spec says that it is the default.
        registry: where names are looked up.

    Raises:
        BasisBenchError: it is none of these; near names are suggested.
    """
    known = {entry.name: registry.get("model", entry.name) for entry in registry.of("model")}
    if name is None:
        return next(spec for spec in known.values() if spec.default)
    if name in known:
        return known[name]
    folder = Path(name).expanduser()
    if _looks_like_a_path(name) or (folder / "config.json").is_file():
        return _folder(name, folder.resolve(), known)
    bare, at, revision = name.partition("@")
    if at and not _REVISION.fullmatch(revision):
        raise BasisBenchError(f"model '{name}': expected a commit, tag or branch after '@', found '{revision}'")
    if bare in known:
        return replace(known[bare], name=name, revision=revision)
    if not _REPOSITORY.fullmatch(bare):
        error = unknown_name("model", name, known)
        raise BasisBenchError(f"{error}; or give a repository ORG/NAME of the Hugging Face hub, or a folder")
    if not at:
        for spec in known.values():
            if spec.path == bare:
                return spec
    return ModelSpec(name, bare, f"{bare} on the Hugging Face hub", revision=revision or None)


def find_models(names: Sequence[str], registry: Registry, revisions: Mapping[str, str]) -> tuple[ModelSpec, ...]:
    """Return the models of a run, at the revisions that its suite pins.

    Args:
        names: as the user or the suite gives them.
        registry: where names are looked up.
        revisions: repository to commit, tag or branch; a revision in a name goes before it.

    Raises:
        BasisBenchError: a name stands for nothing, or two stand for the same.
    """
    specs: dict[str, ModelSpec] = {}
    for name in names:
        spec = find_model(name, registry)
        if spec.name in specs:
            raise BasisBenchError(f"models: '{name}' is given twice, once as '{spec.name}'")
        specs[spec.name] = replace(
            spec, revision=spec.revision or revisions.get(spec.path), revisions={**spec.revisions, **revisions}
        )
    return tuple(specs.values())


def _looks_like_a_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~"))


def _folder(name: str, folder: Path, known: Mapping[str, ModelSpec]) -> ModelSpec:
    if not (folder / "config.json").is_file():
        found = "holds no config.json" if folder.is_dir() else "is no folder"
        raise BasisBenchError(f"model '{name}': {folder} {found}; expected a Hugging Face checkpoint folder")
    if folder.name in known:
        raise BasisBenchError(
            f"model '{name}': a registered model is named '{folder.name}' already; rename or link the folder"
        )
    return ModelSpec(folder.name, str(folder), f"checkpoint in {folder}")
