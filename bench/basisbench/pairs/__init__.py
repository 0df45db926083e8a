"""From sentences to aligned groups of token ids.

The words that sentences are made of are in `basisbench.pairs.lexicon`.
"""

from typing import TYPE_CHECKING

from basisbench.lazy import lazy_names

if TYPE_CHECKING:
    from basisbench.pairs.alignment import align, load_splits, to_dataset
    from basisbench.pairs.sentence_frames import CANDIDATE_LIMIT, fill_frame, generator, interleave
    from basisbench.pairs.task_file import load_task_file

__all__ = [
    "CANDIDATE_LIMIT",
    "align",
    "fill_frame",
    "generator",
    "interleave",
    "load_splits",
    "load_task_file",
    "to_dataset",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CANDIDATE_LIMIT": "sentence_frames",
        "align": "alignment",
        "fill_frame": "sentence_frames",
        "generator": "sentence_frames",
        "interleave": "sentence_frames",
        "load_splits": "alignment",
        "load_task_file": "task_file",
        "to_dataset": "alignment",
    },
)
