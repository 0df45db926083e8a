"""What a suite file may hold."""

from __future__ import annotations

from typing import Any

CONTENT: dict[str, Any] = {
    "name": "mine",
    "summary": "a suite for tests",
    "models": ["pocket-llama"],
    "tasks": ["ioi", "sva_rc"],
    "bases": ["mlp_act", "resid"],
    "methods": ["relp"],
    "ablations": ["mean", "zero"],
    "error_policies": ["coordinates"],
    "score_references": ["ablation"],
    "score_splits": ["attribution"],
    "granularities": ["position"],
    "seeds": [0, 1],
    "attribution_draws": [0],
    "bos": "auto",
    "attribution_pairs": 10,
    "evaluation_pairs": 20,
    "kl": True,
    "subset_sizes": [5],
    "subset_draws": 2,
    "subset_blocks": 4,
}
"""Every list of one suite, and its numbers."""
