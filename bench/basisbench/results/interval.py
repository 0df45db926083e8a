"""A number with its interval, as files hold it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from pydantic import Field

from basisbench.results.bootstrap import estimate_rows
from basisbench.results.schema import Frozen, Rounded


def two_digits(value: float) -> str:
    """Write a number with two digits behind the point; what rounds to zero has no sign."""
    return f"{round(value, 2) + 0.0:.2f}"


class Interval(Frozen):
    """A number with its 95% bootstrap interval over what pairs share."""

    value: Rounded = Field(description="the number")
    low: Rounded = Field(description="lower end")
    high: Rounded = Field(description="upper end")

    @classmethod
    def of_rows(cls, rows: Float[np.ndarray, " row"]) -> Interval:
        """Sum up a statistic over resamples: row 0 is its value (`bootstrap.estimate_rows`)."""
        return cls(**vars(estimate_rows(rows)))

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{two_digits(self.value)} [{two_digits(self.low)}, {two_digits(self.high)}]"
