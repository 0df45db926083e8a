"""How well a ranking finds what is known to be there, and how well two rankings agree, with ties taken exactly.

Nodes of equal |score| come in a random order in circuits; AUROC and precision are the means over all such orders.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float


def auroc(scores: Float[np.ndarray, " node"], true: Bool[np.ndarray, " node"]) -> float:
    """Return the area under the receiver operating characteristic.

    The probability that a true node drawn at random has a larger score than another node, a tie counting as a half: the
    statistic of Mann and Whitney 1947, by midranks. 1 is ideal, 0.5 chance.

    Args:
        scores: the larger, the higher in the ranking.
        true: which nodes are to be found.

    Returns:
        A number from 0 to 1; NaN where all nodes are true, or none is.
    """
    import numpy as np

    wanted, others = int(true.sum()), int((~true).sum())
    if not wanted or not others:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    midranks = (counts.cumsum() - (counts - 1) / 2)[inverse]
    return float((midranks[true].sum() - wanted * (wanted + 1) / 2) / (wanted * others))


def precision_at(scores: Float[np.ndarray, " node"], true: Bool[np.ndarray, " node"], k: int) -> float:
    """Return the share of true nodes among the k best; of nodes that tie for the last places their own share.

    Args:
        scores: the larger, the higher in the ranking.
        true: which nodes are to be found.
        k: how many places, from 1 to the number of nodes.
    """
    import numpy as np

    last = np.sort(scores)[len(scores) - k]
    above, tied = scores > last, scores == last
    return float((true[above].sum() + (k - above.sum()) * true[tied].mean()) / k)


def kendall_tau(a: Float[np.ndarray, "*row item"], b: Float[np.ndarray, "*row item"]) -> Float[np.ndarray, "*row"]:
    """Return Kendall's tau-b of two rankings: 1 where they agree, -1 where one is the other backwards, ties in between.

    (concordant pairs - discordant ones) / sqrt(pairs that do not tie in a * pairs that do not tie in b): Kendall 1945,
    "The treatment of ties in ranking problems".

    Args:
        a: values of the items; infinite ones tie with each other.
        b: values of the same items elsewhere.

    Returns:
        A number from -1 to 1 per row; NaN where all items tie in a or in b.
    """
    import numpy as np

    left, right = _orders(a), _orders(b)
    untied = np.sqrt((left**2).sum(axis=-1) * (right**2).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        found: np.ndarray = np.where(untied > 0, (left * right).sum(axis=-1) / untied, np.nan)
    return found


def _orders(values: Float[np.ndarray, "*row item"]) -> Float[np.ndarray, "*row pair"]:
    """Return 1, -1 or 0 for every pair of items: the first is larger, smaller, or they tie."""
    import numpy as np

    first, second = np.triu_indices(values.shape[-1], 1)
    x, y = values[..., first], values[..., second]
    return (x > y).astype(np.float64) - (x < y)
