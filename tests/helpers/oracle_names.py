"""Architectures that tests run on, by name; in a module of their own so that shared fixtures need not load torch."""

from __future__ import annotations

ARCHITECTURES = ("llama", "gpt2")
"""Every test of the core runs on these two."""

ALL_ARCHITECTURES = (*ARCHITECTURES, "neox", "qwen3", "gemma2", "gemma3")
"""Architectures that shortcuts, rules and sites are held on, by a covering set of cells (test_architectures_core)."""
