"""Tables of what is left of a ranking when a choice is changed, and how far numbers move; the same as CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from basisbench.results.compare import inert
from basisbench.results.controls import short_text
from basisbench.results.display import Display, family_order, unique
from basisbench.results.robustness import CHOICES, MEASURE, choice_name, over_tasks
from basisbench.results.tables import Entry, Table, interval_text, number_text

NOTES = (
    "tau: Kendall's tau-b of the bases' order by nodes to 80%, reference against change, mean over tasks; 1: the same "
    "order, -1: backwards. [low, high]: 95% interval over tasks and clusters of examples. Controls and tasks below a "
    "gate are left out; what is not reached stands behind all that is. Beyond doubt: paired intervals tell two bases "
    "apart under both, the other way round. Best 20: Jaccard of the nodes that records name. !: other evaluation pairs "
    "on some task, too."
)

_WHAT = ("model", "model_hash", "family", "conditions")


OVER_NOTES = (
    "Over models: nodes to 80% of a basis over those of the neurons, medians over tasks; geometric mean over models "
    "with Student's 95% interval, models of the same weights (other trainings of dictionaries) averaged before. Apart: "
    "standard deviation as a factor, of models and of trainings of one model. Each model's own interval is over tasks "
    "and clusters of examples. The mean's takes models for draws of one population, as seeds of one are."
)


def robustness_tables(found: pd.DataFrame, spread: pd.DataFrame, over: pd.DataFrame, display: Display) -> list[Table]:
    """Return the tables of every model and family: rankings, numbers, what turns, attribution draws, and models.

    Args:
        found: what `robustness` returned; no rows where nothing but the model changes.
        spread: what `draw_spread` returned.
        over: what `over_models` returned.
        display: order of bases.
    """
    tables: list[Table] = []
    if found.empty:
        return _over_models(over)
    for key, part in sorted(found.groupby(list(_WHAT)), key=lambda item: (item[0][0], family_order(item[0][2]))):
        model, _, family, conditions = map(str, key)
        whole, moved = over_tasks(part), part[part["basis"] != ""]
        title = (
            f"Ranking of bases of the family {family}, {model}; one choice changed at a time\nReference: {conditions}"
        )
        tables.append(_rankings(whole, part[part["task"] != ""], title))
        tables.append(
            _numbers(moved, f"Nodes to 80% ({family}): the change over the reference, medians over tasks", display)
        )
        if turns := _turns(part[part["task"] != ""]):
            tables.append(Table(f"What turns beyond doubt ({family})", ("under", "the reference", "on"), turns))
    return tables + ([_draws(spread)] if len(spread) else []) + _over_models(over)


def _over_models(over: pd.DataFrame) -> list[Table]:
    """Return a table per family and method, and one of every model's own ratios."""
    tables: list[Table] = []
    told = [name for name in CHOICES if name in over and name != "method" and over[name].nunique() > 1]
    for (family, method, tasks, *conditions), all_bases in (
        over.groupby(["family", "method", "suite_tasks", *told]) if len(over) else ()
    ):
        own = ", ".join([f"{family}", f"{method}", *map("{} {}".format, map(choice_name, told), conditions)])
        part = all_bases[all_bases["models"] > 1]
        title = [f"Over models ({own}): nodes to 80% over those of {all_bases.iloc[0]['against']}", f"on {tasks}"]
        if lone := list(all_bases.loc[all_bases["models"] < 2, "basis"]):
            title.append(f"left out, on fewer than two models: {', '.join(lone)}")
        title += [f"not counted, {row['basis']}: {row['lacking']}" for _, row in part.iterrows() if row["lacking"]]
        rows = [
            (
                Entry(str(row["basis"])),
                Entry(over_text(row)),
                Entry(f"{row['models']}"),
                Entry(_factor(row["between_models"])),
                Entry(f"{row['trainings']}"),
                Entry(_factor(row["between_trainings"])),
            )
            for _, row in part.iterrows()
        ]
        header = ("basis", "mean over models [95%]", "models", "apart", "trainings", "trainings\napart")
        tables.append(Table("\n".join(title), header, tuple(rows)))
        each = []
        for _, row in part.iterrows():
            for text in str(row["each"]).split("; "):
                model, *ratio = text.rsplit(" ", 3)
                each.append(tuple(map(Entry, (str(row["basis"]), model, " ".join(ratio)))))
        tables.append(Table(f"On each model ({own})", ("basis", "model", "ratio [95%]"), tuple(each)))
    return tables


def over_text(row: pd.Series) -> str:
    """Write the ratio of a row with its interval."""
    texts = [short_text(float(row[name])) for name in ("ratio", "ratio_low", "ratio_high")]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _factor(value: float) -> str:
    return "-" if math.isnan(value) else f"x {value:.2f}"


def _rankings(over: pd.DataFrame, tasks: pd.DataFrame, title: str) -> Table:
    rows = []
    for _, row in over.iterrows():
        own = tasks[(tasks["choice"] == row["choice"]) & (tasks["value"] == row["value"])]
        least = own.loc[own["tau"].idxmin()] if own["tau"].notna().any() else None
        texts = (
            f"{row['tasks']:.0f}",
            f"{row['bases']:.0f}",
            tau_text(row),
            "n/a" if least is None else f"{least['tau']:.2f} {least['task']}",
            f"{row['best_stays']:.0f}/{row['tasks']:.0f}",
            f"{row['turned']:.0f} of {row['pairs']:.0f}",
            f"{row['turned_surely']:.0f} of {row['told']:.0f}",
            "-" if math.isnan(row["jaccard"]) else f"{row['jaccard']:.2f}",
        )
        mark = " !" if row["other_examples"] else ""
        rows.append(tuple(map(Entry, (choice_name(row["choice"]), f"{row['value']}{mark}", *texts))))
    header = (
        "choice", "changed to", "tasks", "bases", "tau [95%]", "least", "best\nstays", "pairs\nturn",
        "beyond\ndoubt", "best\n20",
    )  # fmt: skip
    return Table(title, header, tuple(rows))


def tau_text(row: pd.Series) -> str:
    """Write Kendall's tau with its interval."""
    if math.isnan(row["tau"]):
        return "n/a"
    return f"{row['tau']:.2f} [{row['tau_low']:.2f}, {row['tau_high']:.2f}]"


def _numbers(moved: pd.DataFrame, title: str, display: Display) -> Table:
    bases = sorted(unique(moved, "basis"), key=display.basis_order)
    rows = []
    for (choice, value), cells in moved.groupby(["choice", "value"], sort=False):
        own = {str(row["basis"]): row for _, row in cells.iterrows()}
        texts = [ratio_cell(own[name]) if name in own else "-" for name in bases]
        rows.append(tuple(map(Entry, (choice_name(str(choice)), str(value), *texts))))
    return Table(title, ("choice", "changed to", *bases), tuple(rows))


def ratio_cell(row: pd.Series) -> str:
    """Write how far the median of a basis moves: a ratio, or what has become of one that is not reached."""
    before, after = float(row["before"]), float(row["after"])
    if math.isinf(before) or math.isinf(after):
        texts = ["not" if math.isinf(value) else number_text(value, MEASURE) for value in (before, after)]
        return " to ".join(texts)
    return over_text(row)


def _turns(tasks: pd.DataFrame) -> tuple[tuple[Entry, ...], ...]:
    """Return a row per change and pair of bases that turns beyond doubt somewhere, with the tasks."""
    places: dict[tuple[str, str], list[str]] = {}
    for _, row in tasks.iterrows():
        for pair in filter(None, str(row["turns"]).split("; ")):
            places.setdefault((f"{choice_name(row['choice'])} {row['value']}", pair), []).append(str(row["task"]))
    return tuple((Entry(what), Entry(pair), Entry(", ".join(names))) for (what, pair), names in places.items())


def _draws(spread: pd.DataFrame) -> Table:
    rows, several = [], spread["model"].nunique() > 1
    for _, row in spread.iterrows():
        ends = (float(row["first_low"]), float(row["first_high"]))
        texts = (
            interval_text(float(row["first"]), *ends, MEASURE, "not"),
            " ".join("not" if math.isinf(row[name]) else number_text(row[name], MEASURE) for name in _THREE),
            f"{row['inside']} of {row['draws'] - 1}",
            f"{row['curve_spread']:.2f} at {row['spread_size']}",
            f"{row['jaccard']:.2f}",
        )
        model = [str(row["model"])] if several else []
        rows.append(tuple(map(Entry, (*model, str(row["task"]), str(row["basis"]), *texts))))
    header = (
        *(["model"] if several else []), "task", "basis", "nodes to 80%\nof the first draw",
        "least, middle,\nmost of all", "others in its\ninterval", "F apart\nat most", "best\n20",
    )  # fmt: skip
    return Table("Attribution draws: other pairs for scores and means, the same evaluation pairs", header, tuple(rows))


_THREE = ("least", "middle", "most")


def csv_of(tables: Sequence[pd.DataFrame]) -> str:
    """Return rows of `robustness`, then those of `draw_spread`, as CSV; a text that begins like a formula is quoted."""
    whole = pd.concat([table for table in tables if len(table)], ignore_index=True)
    texts = [name for name in whole if whole[name].dtype.kind not in "fiub"]
    whole = whole.assign(**{name: whole[name].map(inert) for name in texts})
    text: str = whole.to_csv(index=False, na_rep="nan", float_format="%.6g")
    return text
