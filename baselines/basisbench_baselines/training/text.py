"""Text to train on, as token ids in contexts of one length.

Documents of files and datasets are tokenised without special tokens, joined by the token that separates documents (BOS
where the tokenizer puts one in front, else EOS), and cut into contexts, each with BOS in front where the tokenizer puts
one. Contexts are put in a random order, so that chunks are mixtures; the first ones are held out. The model's own text
is `samples`'s.

Any context is a pure function of its place and the seed, so that a killed training goes on exactly where it was.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from basisbench.errors import BasisBenchError, whole_message
from basisbench.models.hub_errors import one_line
from basisbench_baselines.training.progress import Progress

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int
    from torch import Tensor

    from basisbench_baselines.training.settings import Reading

_MANY_UNKNOWN = 0.05
"""Share of unknown tokens from which a text is told to be another one than the model reads."""

_log = logging.getLogger(__name__)


class Text(Protocol):
    """Contexts of token ids."""

    @property
    def digest(self) -> str:
        """What the contexts depend on, as a digest."""

    @property
    def source(self) -> str:
        """Where it comes from, in words."""

    def rows(self, places: Sequence[int]) -> Int[Tensor, "row pos"]:
        """Return the contexts at some places; negative ones are held out."""

    def keep(self, folder: Path, progress: Progress) -> Text:
        """Return this text, what is costly to make of it kept in a folder.

        Args:
            folder: it may hold what an earlier run made.
            progress: where to report while it is made.
        """


def seeded(*key: int) -> torch.Generator:
    """Return a generator whose draws are a function of the key alone."""
    import numpy as np
    import torch

    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def leading_token(tokenizer: Any) -> int | None:
    """Return the BOS token that a tokenizer puts in front of a text; None where it puts none."""
    ids = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token_id
    return int(bos) if bos is not None and ids and ids[0] == bos else None


@dataclass(frozen=True, eq=False)
class Packed:
    """Contexts of files or of a dataset.

    Attributes:
        source: where the text comes from.
        contexts: the contexts, held-out ones first.
        held_out: how many of them are.
        digest: of the contexts.
    """

    source: str
    contexts: Int[Tensor, "row pos"]
    held_out: int
    digest: str

    def rows(self, places: Sequence[int]) -> Int[Tensor, "row pos"]:
        """Return the contexts at some places."""
        return self.contexts[[place + self.held_out for place in places]].long()

    def keep(self, folder: Path, progress: Progress) -> Packed:  # noqa: ARG002 -- it is all in memory
        """Return itself."""
        return self


def pack(
    source: str,
    documents: Iterable[str],
    tokenizer: Any,
    settings: Reading,
    *,
    all_of_it: bool,
    besides: int = 0,
    progress: Progress | None = None,
) -> Packed:
    """Tokenise documents and cut them into contexts.

    Args:
        source: where they come from, for messages.
        documents: the documents.
        tokenizer: the model's.
        settings: how long contexts are and how many are needed.
        all_of_it: choose among all the text; else read no more than is needed.
        besides: contexts to train on that come from elsewhere.
        progress: where to report; None keeps silent.

    Raises:
        BasisBenchError: there is too little text.
    """
    import numpy as np
    import torch

    lead = leading_token(tokenizer)
    between = lead if lead is not None else tokenizer.eos_token_id
    body = settings.context - (lead is not None)
    needed = settings.contexts - besides + settings.held_out_contexts
    pieces: list[Any] = []
    count = unknown = 0
    progress = progress or Progress(enabled=False)
    progress.line(f"{source}: reading and tokenising it")
    with progress.bar("tokens of text read", None if all_of_it else needed * body) as bar:
        for document in documents:
            ids = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
            unknown += 0 if tokenizer.unk_token_id is None else ids.count(tokenizer.unk_token_id)
            pieces.append(np.asarray([*ids, *([] if between is None else [between])], dtype=np.int32))
            count += len(pieces[-1])
            bar.update(len(pieces[-1]))
            if count >= needed * body and not all_of_it:
                break
    found = count // body
    if found < needed:
        raise BasisBenchError(
            f"{source}: too little text: {count:,} tokens, expected at least {needed * body:,} "
            f"(--tokens, and {settings.held_out_contexts * body:,} to measure on); give more text or fewer tokens"
        )
    if unknown > _MANY_UNKNOWN * count:
        _log.warning(
            "%s: %.0f%% of the tokens are unknown to the model's tokenizer and read as '%s'; give text in the model's "
            "words, or --samples",
            source,
            100 * unknown / count,
            tokenizer.unk_token,
        )
    together = torch.from_numpy(np.concatenate(pieces)[: found * body]).view(found, body)
    order = torch.randperm(found, generator=seeded(settings.seed, 1))[:needed]
    contexts = together[order]
    if lead is not None:
        contexts = torch.cat([torch.full((needed, 1), lead, dtype=contexts.dtype), contexts], dim=1)
    return Packed(source, contexts, settings.held_out_contexts, _digest(contexts))


def _digest(contexts: Int[Tensor, "row pos"]) -> str:
    return hashlib.sha256(contexts.numpy().tobytes()).hexdigest()


def read_files(files: Sequence[Path]) -> Iterator[str]:
    """Yield what text files hold.

    Raises:
        BasisBenchError: one cannot be read, or is no text.
    """
    for file in files:
        try:
            yield file.read_text(encoding="utf-8")
        except OSError as error:
            raise BasisBenchError(f"--text {file}: cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise BasisBenchError(f"--text {file}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_dataset(name: str) -> Iterator[str]:
    """Yield the column `text` of the training split of a dataset of the hub, as it is streamed.

    Raises:
        BasisBenchError: it cannot be had, or has no such column.
    """
    from datasets import load_dataset

    owner = f"--dataset {name}"
    try:
        with one_line(owner, name):
            for row in load_dataset(name, split="train", streaming=True):
                if not isinstance(row.get("text"), str):
                    raise BasisBenchError(f"{owner}: no column 'text' with texts; it has {', '.join(map(str, row))}")
                yield row["text"]
    except (ValueError, OSError, RuntimeError) as error:
        raise BasisBenchError(f"{owner}: {whole_message(error)}") from error
