"""What one basis needs over what another needs, over seeds of a model and trainings of its dictionaries.

1. Models of one folder stand for draws of one population: the same architecture from other seeds, for example. Models
   of the same weights are one model, whose dictionaries were trained several times. Checkpoints of a tuning are no
   draws, and left out.
2. On each model and training a basis has the ratio of its median of nodes to 80% over tasks to that of the family's
   neurons (the first basis that reconstructs everything). Tasks are those that every model has, above the gates. Its
   logarithm is averaged over trainings, then over models.
3. The interval is Student's over models: new seeds, the same tasks. Examples are the same on every model, so what they
   alone bring is in each model's own interval, not in this one.
4. How far trainings of one model lie apart, and how far models do: standard deviations of the logarithm, as factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from basisbench.results.bootstrap import LEVEL
from basisbench.results.columns import TASK_SEPARATOR, Column
from basisbench.results.conditions import CONDITIONS
from basisbench.results.controls import ratio, ratio_text
from basisbench.results.display import Display
from basisbench.results.frame import summarise
from basisbench.results.medians import median_table
from basisbench.results.record import Record
from basisbench.results.robustness import MEASURE

_ALIKE = [*(name for name in CONDITIONS if name not in ("model", "model_hash")), "family", "method", "suite_tasks"]

# Neurons stand beside dictionaries under every error policy of these.
_BEYOND_BASES = [name for name in CONDITIONS if name not in ("model", "model_hash", "error_policy")]

_OF_FINITE = ("ratio_low", "ratio_high", "between_models", "between_trainings")

_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""Student's t that 2.5% lie above, for 1 to 10 degrees of freedom."""


def over_models(records: Sequence[Record], display: Display | None = None) -> pd.DataFrame:
    """Sum up every basis beside the neurons of its family over all models, in one row.

    Args:
        records: results on at least two models.
        display: order of bases.

    Returns:
        Rows in order of basis, none where there is one model; with `conditions.CONDITIONS` but those of a model,
        `family`, `method`, and:

        - `suite_tasks`: the tasks, separated by ", ".
        - `basis`, `against`: the basis, and the neurons that it stands beside.
        - `models`, `trainings`: how many have both; trainings of dictionaries of all models together.
        - `lacking`: models that lack the basis on some of the tasks, as text; they are not counted.
        - `ratio`, `ratio_low`, `ratio_high`: geometric mean over models, with its 95% interval; NaN of one model,
          and infinite where the basis does not get there on some model.
        - `between_models`, `between_trainings`: standard deviations as factors; NaN of one.
        - `each`: the ratio on every model and training with its interval over tasks and clusters, as text.

    Raises:
        RecordError: cells of one model are not of the same examples.
    """
    display = display or Display()
    summary = summarise(records)
    summary = summary[summary["tuned_tokens"] == 0]
    rows: list[dict[str, Column]] = []
    for _, family in summary.groupby([*_BEYOND_BASES, "family"]):
        shared = _of_shared_tasks(family)
        if shared["model_hash"].nunique() < 2:
            continue
        medians = median_table(shared)
        for _, part in medians.groupby(_ALIKE):
            rows += _rows_of(part, display)
    return pd.DataFrame(rows)


def _of_shared_tasks(part: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of the tasks that all models have above the gates, as if one suite had them."""
    gated = part.groupby("task")["gate"].transform(lambda gates: gates.ne("").any())
    models = part.groupby("task")["model"].transform("nunique")
    rows = part[~gated & (models == part["model"].nunique())]
    return rows.assign(suite="", suite_tasks=TASK_SEPARATOR.join(sorted(set(rows["task"]))))


def _rows_of(part: pd.DataFrame, display: Display) -> list[dict[str, Column]]:
    """Return the rows of one family and method."""
    whole = part[part["tasks_found"] == part["tasks"]]
    exact = sorted(set(whole.loc[whole["exact"], "basis"]), key=display.basis_order)
    if not exact or part["left_out"].nunique() > 1:
        return []
    against = whole[whole["basis"] == exact[0]].set_index("model")
    if against["model_hash"].nunique() < 2:
        return []
    rows: list[dict[str, Column]] = []
    for basis in sorted({*part["basis"]} - {exact[0]}, key=display.basis_order):
        own = whole[(whole["basis"] == basis) & whole["model"].isin(against.index)]
        found = [ratio(row["draws"], against.loc[row["model"], "draws"], MEASURE) for _, row in own.iterrows()]
        logs = pd.Series([math.log(each.value) for each in found], index=pd.Index(own["model_hash"]), dtype=float)
        trained = not bool(part.loc[part["basis"] == basis, "exact"].iloc[0])
        rows.append(
            {
                **{name: part.iloc[0][name] for name in _ALIKE},
                "basis": basis,
                "against": exact[0],
                "lacking": _lacking(part[part["basis"] == basis], own, against),
                **mean_over(logs if trained else logs.groupby(level=0).first()),
                "each": "; ".join(
                    f"{model} {ratio_text(each)}" for model, each in zip(own["model"], found, strict=True)
                ),
            }
        )
    return rows


def _lacking(rows: pd.DataFrame, own: pd.DataFrame, against: pd.DataFrame) -> str:
    """Say which models lack a basis, and how many of the tasks they have it on.

    Args:
        rows: medians of the basis on every model.
        own: those of all tasks.
        against: medians of the neurons, by model.
    """
    have = dict(zip(rows["model"], rows["tasks_found"], strict=True))
    others = against[~against["model_hash"].isin(own["model_hash"])]
    return "; ".join(f"{model} ({have.get(model, 0)} of {row['tasks']} tasks)" for model, row in others.iterrows())


def mean_over(logs: pd.Series) -> dict[str, Column]:
    """Return the geometric mean over models, its interval, and how far models and trainings lie apart.

    Args:
        logs: logarithms of ratios, a row per training, by model; the weights of a model as index.
    """
    by_model = logs.groupby(level=0)
    count = by_model.ngroups
    found: dict[str, Column] = {"models": count, "trainings": len(logs)}
    if count < 2:
        return found | dict.fromkeys(("ratio", *_OF_FINITE), math.nan)
    if not np.isfinite(logs).all():  # a target is not reached somewhere
        value = math.exp(float(logs.sum()))
        return found | {"ratio": value, **dict.fromkeys(_OF_FINITE, math.nan)}
    means = by_model.mean()
    apart = float(means.std(ddof=1))
    half = student(count - 1) * apart / math.sqrt(count)
    within = float(np.square(logs - by_model.transform("mean")).sum())
    spare = len(logs) - count  # degrees of freedom
    ends = float(means.mean()), float(means.mean()) - half, float(means.mean()) + half
    factors = apart, math.sqrt(within / spare) if spare else math.nan
    return found | dict(zip(("ratio", *_OF_FINITE), map(math.exp, (*ends, *factors)), strict=True))


def student(freedom: int) -> float:
    """Return Student's t that 2.5% lie above.

    Beyond ten degrees of freedom by the expansion of Abramowitz and Stegun, 26.7.5, right to four digits there.
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
