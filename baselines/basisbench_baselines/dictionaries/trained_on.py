"""What dictionaries say of their training: how it was done, and on which model, compared with the one at hand.

1. A name is resolved as TransformerLens does: its list of aliases knows that gpt2-small is gpt2, and pythia-70m-deduped
   EleutherAI/pythia-70m-deduped. A name that it does not know is looked up without its organisation.
2. Of what comes out the last part counts, in small letters: a mirror of a repository under another organisation holds
   the same weights. Llama 3.1 was called Meta-Llama-3.1 once, under the same organisation.
3. Two names that differ then give a warning of one line. It is no error: dictionaries of a base model are used on its
   tuned variants on purpose.

Folders have no name to compare.

How it was done stands in SAELens's metadata: `seqpos_slice` cuts the positions of a context that were trained on,
`training_tokens` counts them. What was read stands in the card that `basisbench train` leaves above its dictionaries.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from basisbench.protocols import Training
from basisbench.types import ModelSpec

_log = logging.getLogger(__name__)


def warn_if_trained_on_other(basis: str, named: Iterable[object], model: ModelSpec) -> None:
    """Warn, once per process, that a basis was trained on another model.

    Args:
        basis: name of the basis.
        named: what the configurations of its dictionaries call their model; None for those that do not say.
        model: the model that it is used with.
    """
    if _is_path(model.path) or Path(model.path).is_dir():
        return
    names = {name for name in named if isinstance(name, str) and name and not _is_path(name)}
    others = sorted(name for name in names if same_name(name) != same_name(model.path))
    if others:
        _warn(basis, ", ".join(f"'{name}'" for name in others), model.name, model.path)


@cache
def same_name(name: str) -> str:
    """Return a name that all aliases of a model share.

    Args:
        name: repository of the hub, or what TransformerLens or a dictionary's configuration calls a model.
    """
    from transformer_lens.loading_from_pretrained import get_official_model_name

    for candidate in (name, name.rpartition("/")[2]):
        try:
            name = get_official_model_name(candidate)
        except ValueError:  # not in its list
            continue
        break
    last = name.rpartition("/")[2].lower()
    return last.removeprefix("meta-") if last.startswith("meta-llama-") else last


def _is_path(name: str) -> bool:
    return name.startswith((".", "~")) or Path(name).is_absolute()


@cache
def _warn(basis: str, others: str, model: str, path: str) -> None:
    called = f"'{model}'" if model == path else f"'{model}' ({path})"
    _log.warning(
        "basis '%s' was trained on %s, and is used on %s; its features and errors are those of the latter",
        basis,
        others,
        called,
    )


def how_trained(configurations: Sequence[Any], folder: Path | None = None) -> Training:
    """Return how the dictionaries of a basis were trained.

    Args:
        configurations: of each of them, as SAELens has it.
        folder: the folder that they are in; None for those of the hub.
    """
    starts = [_whole((config.metadata.get("seqpos_slice") or (None,))[0]) or 0 for config in configurations]
    tokens = [_whole(config.metadata.get("training_tokens")) for config in configurations]
    kinds = {_kind(config.architecture()) for config in configurations}
    text, digest = ({}, None) if folder is None else _card_above(folder)
    return Training(
        first_position=max(starts),
        tokens=None if None in tokens else min(count for count in tokens if count is not None),
        kind=kinds.pop() if len(kinds) == 1 else "",
        text=text.get("source", ""),
        text_digest=text.get("digest"),
        digest=digest,
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _kind(architecture: str) -> str:
    if "transcoder" not in architecture:
        return "SAE"
    return "skip transcoder" if "skip" in architecture else "transcoder"


def _card_above(folder: Path) -> tuple[Mapping[str, str], str | None]:
    """Return text and digest of the training that left a folder; nothing where no card of `basisbench train` is there.

    It writes `OUT/KIND/layer_N`, `OUT/snapshots/TOKENS/KIND/layer_N` and `OUT/card.json`.
    """
    for above in (folder, *folder.parents[:3]):
        try:
            card = json.loads((above / "card.json").read_text(encoding="utf-8"))
            text, digest = card["text"], card["fingerprint"]
            if all(isinstance(value, str) for value in (text["source"], text["digest"], digest)):
                return text, digest
        except (OSError, ValueError, KeyError, TypeError):  # none, or somebody else's
            continue
    return {}, None
