// Rows of the leaderboard: a setting's cells, or medians over the tasks of a suite. Marks and medians come from Python.
"use strict";

basisbench.rows = (() => {
  const {catalogue, columns, medians} = basisbench;
  const BESIDE = "nodes_to_80_node";

  // What not reaching a target is known to exceed, and whether that is less than all nodes.
  const boundOf = (name, row) => ({nodes: columns.scored_nodes[row], bits: columns.most_bits[row]})[unit(name)];
  const unit = (name) => catalogue.metrics[name]?.unit;
  const partlyScored = (row) => columns.scored_nodes[row] < columns.total_nodes[row];
  const wins = (bits, name) => Boolean(bits & (1 << catalogue.shown.indexOf(name)));

  function cellRow(setting, place) {
    const own = catalogue.settings[setting];
    const row = own.rows[place];
    const values = {};
    for (const name of Object.keys(catalogue.metrics)) {
      values[name] = {
        value: columns[name][row],
        low: columns[`${name}_low`]?.[row],
        high: columns[`${name}_high`]?.[row],
        bound: boundOf(name, row),
        scored: partlyScored(row),
        best: wins(own.best[place], name),
      };
    }
    values[BESIDE] = {value: own[BESIDE][place], low: own[`${BESIDE}_low`][place], high: own[`${BESIDE}_high`][place]};
    for (const name of ["accuracy", "gap", "units_to_80", "fvu_mean"]) values[name] = {value: columns[name][row]};
    return {order: place, row, values, why: columns.no_mark[row], text: (name) => columns[name][row]};
  }

  const cellRows = (setting) => catalogue.settings[setting].rows.map((_, place) => cellRow(setting, place));

  // A median has a bound where it is not reached, and how many tasks reach it.
  function medianRow(index) {
    const values = {};
    for (const name of Object.keys(catalogue.metrics)) {
      values[name] = {
        value: medians[name][index],
        low: medians[`${name}_low`]?.[index],
        high: medians[`${name}_high`]?.[index],
        bound: medians[`${name}_bound`]?.[index],
        reached: ["nodes", "bits"].includes(unit(name)) ? medians[`${name}_reached`][index] : undefined,
        total: medians.tasks[index],
        best: wins(medians.best[index], name),
      };
    }
    values[BESIDE] = Object.fromEntries(
      [["value", ""], ["low", "_low"], ["high", "_high"]].map(([key, end]) => [key, medians[`${BESIDE}${end}`][index]]),
    );
    values.tasks = {value: medians.tasks_found[index]};
    return {order: index, values, why: medians.no_mark[index], text: (name) => medians[name][index]};
  }

  // What a setting is called where only some of its cells are shown: tasks have different numbers of examples.
  function titleOf(setting, rows) {
    const {title, examples} = catalogue.settings[setting];
    const counts = rows.map((row) => columns.examples[row]);
    const [low, high] = [Math.min(...counts), Math.max(...counts)];
    return rows.length ? title.replace(examples, `n = ${low === high ? low : `${low} to ${high}`} examples`) : title;
  }

  const medianRows = (setting) =>
    [...medians.setting.keys()].filter((index) => medians.setting[index] === setting).map(medianRow);

  function sorted(rows, sort) {
    if (sort.column === null) return rows;
    const direction = sort.ascending ? 1 : -1;
    const compare = (a, b) =>
      sort.column in a.values
        ? compareNumbers(a.values[sort.column], b.values[sort.column], direction)
        : direction * compareTexts(a.text(sort.column), b.text(sort.column));
    return [...rows].sort((a, b) => compare(a, b) || a.order - b.order);
  }

  function compareNumbers(a, b, direction) {
    if (Number.isNaN(a.value) || Number.isNaN(b.value)) return Number.isNaN(a.value) - Number.isNaN(b.value);
    if (a.value === b.value) return Number.isFinite(a.value) ? 0 : direction * ((a.bound ?? 0) - (b.bound ?? 0));
    return direction * (a.value < b.value ? -1 : 1);
  }

  const compareTexts = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", {numeric: true}));

  return {cellRows, medianRows, titleOf, sorted, boundOf, partlyScored};
})();
