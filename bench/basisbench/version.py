"""The version of the distribution; part of every cell's identity."""

from __future__ import annotations

__version__ = "0.7.0"
