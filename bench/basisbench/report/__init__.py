"""The page of results: opens from disk, without a server, a network or torch.

1. Read the records folder by folder, each with its standing (`sources`).
2. Lay cells, curves and details out in columns (`layout`, `detail`), with example prompts of the tasks (`prompts`).
3. Write them as scripts beside the page, because a page opened from disk may load scripts but no other file (`write`).

Records come from strangers, so every string in them is hostile: the template escapes, the page's scripts only ever set
text, and the page forbids itself inline scripts and every connection.

The graph of a circuit is a page of its own, in one file (`graph_page`; `graph_places` says where nodes stand), and a
picture (`graph_picture`).
"""

from typing import TYPE_CHECKING

from basisbench.lazy import lazy_names

if TYPE_CHECKING:
    from basisbench.report.graph_page import write_graph
    from basisbench.report.graph_picture import plot_graph
    from basisbench.report.write import write_report

__all__ = ["plot_graph", "write_graph", "write_report"]

__getattr__, __dir__ = lazy_names(
    __name__, {"plot_graph": "graph_picture", "write_graph": "graph_page", "write_report": "write"}
)
