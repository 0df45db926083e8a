"""From what a user calls a model to its ModelSpec: a registered name, a repository of the hub, a folder or a GGUF file.

1. A registered name wins; `NAME@REVISION` is the same model at another revision of its repository.
2. A folder that holds a checkpoint is named by its last part, a GGUF file by its stem; what lies in the snapshot folder
   of a hub cache by its repository. Folders in a folder `dictionaries` beside it are its dictionaries, by the names of
   their bases: `basisbench tune` and `basisbench pocket build` leave them so.
3. `ORG/NAME` or `ORG/NAME@REVISION`: any causal language model of the Hugging Face hub; `ORG/NAME:FILE.gguf`: a GGUF
   file of it. A repository that is registered under a name of its own goes by that name.
4. `NAME=...`: any of these under another name, one that nothing else has.

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
_OWN_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/[^/]+")
_GGUF = ".gguf"


def find_model(name: str | None, registry: Registry) -> ModelSpec:
    """Return the model that a name, a repository, a folder or a file stands for.

    Args:
        name: for example "gpt2-small", "EleutherAI/pythia-160m@step1000", "./my-model" or "mine=./model"; None
            for the model whose spec says that it is the default.
        registry: where names are looked up.

    Raises:
        BasisBenchError: it is none of these; near names are suggested.
    """
    known = {entry.name: registry.get("model", entry.name) for entry in registry.of("model")}
    if name is None:
        return next(spec for spec in known.values() if spec.default)
    if not name.isprintable():
        raise BasisBenchError(f"model {name!r:.200}: expected a name or a path of printable characters")
    try:
        return _named(name, known)
    except (OSError, RuntimeError) as error:  # too long, a link to itself, the home of nobody
        raise BasisBenchError(
            f"model '{name:.200}': neither a name nor a path that can be looked up: {error}"
        ) from error


def _named(name: str, known: Mapping[str, ModelSpec]) -> ModelSpec:
    own, equals, rest = name.partition("=")
    if equals and _OWN_NAME.fullmatch(own) and not Path(name).exists():
        if own in known:
            raise BasisBenchError(f"model '{name}': a registered model is named '{own}' already; choose another name")
        return replace(_find(rest, known), name=own)
    spec = _find(name, known)
    if spec.name in known and spec.path not in ("", known[spec.name].path) and not _SNAPSHOT.search(spec.path):
        raise BasisBenchError(
            f"model '{name}': a registered model is named '{spec.name}' already; give this one another name: "
            f"NAME={name}"
        )
    return spec


def _find(name: str, known: Mapping[str, ModelSpec]) -> ModelSpec:
    if name in known:
        return known[name]
    path = Path(name).expanduser()
    if name.startswith(("/", "./", "../", "~")) or (path / "config.json").is_file() or _is_gguf(path):
        # A file of a hub cache is a link: the name of what it points to says nothing.
        return _local(name, path.parent.resolve() / path.name if _is_gguf(path) else path.resolve(), known)
    bare, colon, file = name.partition(":")
    bare, at, revision = bare.partition("@")
    if at and not _REVISION.fullmatch(revision):
        raise BasisBenchError(f"model '{name}': expected a commit, tag or branch after '@', found '{revision}'")
    if colon and not (_REPOSITORY.fullmatch(bare) and file.endswith(_GGUF)):
        raise BasisBenchError(f"model '{name}': expected ORG/NAME:FILE.gguf, a GGUF file of a repository")
    if bare in known:
        if not known[bare].path:
            source = "comes with the package index" if known[bare].build is None else "is made by code"
            raise BasisBenchError(f"model '{name}': '{bare}' {source} and has no revisions")
        return replace(known[bare], name=name, revision=revision)
    if not _REPOSITORY.fullmatch(bare):
        error = unknown_name("model", name, known)
        raise BasisBenchError(
            f"{error}; or give a repository ORG/NAME of the Hugging Face hub, or a folder or GGUF file"
        )
    if not (at or colon):
        for spec in known.values():
            if spec.path == bare:
                return spec
    return ModelSpec(name, bare, f"{bare} on the Hugging Face hub", revision=revision or None, gguf=file or None)


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


def _is_gguf(path: Path) -> bool:
    return path.suffix == _GGUF and path.is_file()


def _local(name: str, path: Path, known: Mapping[str, ModelSpec]) -> ModelSpec:
    """Return the model in a folder or a GGUF file."""
    gguf = path.name if _is_gguf(path) else None
    if gguf is None and not (path / "config.json").is_file():
        found = "holds no config.json" if path.is_dir() else "is no GGUF file" if path.is_file() else "is not there"
        files = [f" (but {file.name}: give that file)" for file in sorted(path.glob(f"*{_GGUF}"))[:1]]
        raise BasisBenchError(
            f"model '{name}': {path} {found}{''.join(files)}; expected a Hugging Face checkpoint folder or a GGUF file"
        )
    folder = path if gguf is None else path.parent
    own = path.name if gguf is None else path.stem
    cached = _SNAPSHOT.search(folder.as_posix())
    if cached:
        repository = f"{cached[1]}/{cached[2]}"
        same = [spec.name for spec in known.values() if spec.path == repository and gguf is None]
        own = same[0] if same else repository if gguf is None else f"{repository}:{gguf}"
    summary = f"{'checkpoint' if gguf is None else 'GGUF file'} in {folder}"
    near = [] if cached else sorted((folder.parent / "dictionaries").glob("*"))
    beside = {each.name: each for each in near if each.is_dir()}
    return ModelSpec(own, str(folder), summary, beside, gguf=gguf)
