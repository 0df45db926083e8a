"""Records and the tables made of them; nothing here loads torch."""

from typing import TYPE_CHECKING

from basisbench.lazy import lazy_names

if TYPE_CHECKING:
    from basisbench.results.compare import paired_difference
    from basisbench.results.dataset import to_dataset
    from basisbench.results.frame import load_results, summarise
    from basisbench.results.metrics import METRICS
    from basisbench.results.record import CellConfig, Record, read_record, write_record

__all__ = [
    "METRICS",
    "CellConfig",
    "Record",
    "load_results",
    "paired_difference",
    "read_record",
    "summarise",
    "to_dataset",
    "write_record",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "METRICS": "metrics",
        "CellConfig": "record",
        "Record": "record",
        "load_results": "frame",
        "paired_difference": "compare",
        "read_record": "record",
        "summarise": "frame",
        "to_dataset": "dataset",
        "write_record": "record",
    },
)
