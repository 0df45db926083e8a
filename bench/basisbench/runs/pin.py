"""Pin a suite: write a copy in which every repository of the hub stands at a commit.

A repository is asked for at the revision that the suite or the basis names, the main branch otherwise; where the hub
cannot be reached, the cache's answer is taken.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from basisbench.errors import BasisBenchError
from basisbench.models.hub import commit_of
from basisbench.registry import Registry
from basisbench.results.record import write_whole
from basisbench.runs.model_names import find_models
from basisbench.runs.suite import Suite, load_suite


def repositories_of(suite: Suite, registry: Registry) -> dict[str, str | None]:
    """Return the repositories of the hub that a suite needs, each with the revision that it is asked for at.

    Args:
        suite: the suite.
        registry: where its names are looked up.

    Raises:
        BasisBenchError: a name is not known.
    """
    wanted: dict[str, str | None] = {}
    for model in find_models(suite.models, registry, suite.revisions):
        if model.path and not Path(model.path).is_absolute():
            wanted[model.path] = model.revision
    for name in suite.all_bases:
        for repository, revision in registry.get("basis", name).repositories.items():
            wanted[repository] = revision or suite.revisions.get(repository)
    return wanted


def pin_suite(name_or_path: str, registry: Registry, out: Path) -> dict[str, str]:
    """Write a copy of a suite with its repositories pinned.

    Args:
        name_or_path: name of a suite, or a suite file.
        registry: where its names are looked up.
        out: the copy.

    Returns:
        Repository to commit.

    Raises:
        BasisBenchError: a repository cannot be asked for; the message names it. Nothing is written then.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise BasisBenchError(f"{out}: the name of a suite file ends in .yaml")
    suite = load_suite(name_or_path)
    wanted = repositories_of(suite, registry)
    pinned = {repository: commit_of(repository, revision) for repository, revision in wanted.items()}
    content = suite.changed({"revisions": {**suite.revisions, **pinned}}).model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    write_whole(out, text)
    return pinned
