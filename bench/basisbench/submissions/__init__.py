"""Whose records, and whether to believe them; nothing here loads torch."""

from typing import TYPE_CHECKING

from basisbench.lazy import lazy_names

if TYPE_CHECKING:
    from basisbench.submissions.submission import read_submission
    from basisbench.submissions.verification import read_verification, standing

__all__ = ["read_submission", "read_verification", "standing"]

__getattr__, __dir__ = lazy_names(
    __name__, {"read_submission": "submission", "read_verification": "verification", "standing": "verification"}
)
