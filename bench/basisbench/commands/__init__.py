"""The commands, a module each: `add` declares it to the parser, `execute` does it and may return an exit code.

Declaring imports nothing heavy; what a command needs is imported when it is executed.
"""

from __future__ import annotations

COMMANDS = (
    *("run", "list", "show", "nodes", "edges", "graph", "steer", "swap", "mediate"),
    *("compare", "robustness", "plot", "report"),
    *("new", "check", "validate", "verify", "submit"),
    *("pin", "findings", "train", "tune", "pocket"),
)
"""Modules of this package, in the order of the help page."""
