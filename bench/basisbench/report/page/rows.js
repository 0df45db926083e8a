// Rows of the leaderboard: a cell each, or the median of a setting's cells of one basis and method over tasks.
"use strict";

basisbench.rows = (() => {
  const {catalogue, columns, numbers, groupsOf} = basisbench;

  // What not reaching a target is known to exceed.
  const bound = (name, row) =>
    ({nodes: columns.total_nodes[row], bits: columns.most_bits[row]})[catalogue.metrics[name].unit];

  function cellRow(row) {
    const values = {};
    catalogue.shown.forEach((name, bit) => {
      values[name] = {
        value: columns[name][row],
        low: columns[`${name}_low`]?.[row],
        high: columns[`${name}_high`]?.[row],
        bound: bound(name, row),
        best: Boolean(columns.best[row] & (1 << bit)),
      };
    });
    return {order: row, row, values, text: (name) => columns[name][row]};
  }

  function medianRows(rows) {
    const names = ["setting", "source", "family", "basis", "method"];
    const made = groupsOf(rows, (row) => names.map((name) => columns[name][row])).map((cells) => {
      const values = {};
      for (const name of catalogue.shown) {
        const known = cells.map((row) => columns[name][row]).filter((value) => !Number.isNaN(value));
        values[name] = {
          value: numbers.median(known),
          bound: numbers.median(cells.map((row) => bound(name, row) ?? Infinity)),
          reached: known.filter(Number.isFinite).length,
          total: known.length,
          best: false,
        };
      }
      return {
        order: cells[0],
        cells,
        values,
        tasks: new Set(cells.map((row) => columns.task_label[row])),
        text: (name) => (name === "tasks" ? cells.length : columns[name][cells[0]]),
      };
    });
    markBest(made);
    const rank = (list, name) => list.findIndex((entry) => entry.name === name);
    return made
      .sort(
        (a, b) =>
          a.text("setting") - b.text("setting") ||
          catalogue.families.indexOf(a.text("family")) - catalogue.families.indexOf(b.text("family")) ||
          rank(catalogue.methods, a.text("method")) - rank(catalogue.methods, b.text("method")) ||
          rank(catalogue.bases, a.text("basis")) - rank(catalogue.bases, b.text("basis")),
      )
      .map((made, order) => ({...made, order}));
  }

  // The best median within setting, family and method, where there is a choice; one over fewer tasks than others
  // have is neither best nor a rival.
  function markBest(rows) {
    for (const alike of groupsOf(rows, (row) => ["setting", "family", "method"].map(row.text))) {
      const every = new Set(alike.flatMap((row) => [...row.tasks]));
      const group = alike.filter((row) => row.tasks.size === every.size);
      for (const row of alike) row.partial = row.tasks.size < every.size ? every.size : 0;
      for (const name of catalogue.shown) {
        const sign = catalogue.metrics[name].direction === "lower" ? 1 : -1;
        const values = group.map((row) => sign * row.values[name].value).filter((value) => !Number.isNaN(value));
        const least = Math.min(...values),
          most = Math.max(...values);
        if (values.length < 2 || least === most) continue;
        for (const row of group)
          row.values[name].best = Number.isFinite(least) && sign * row.values[name].value === least;
      }
    }
  }

  function sorted(rows, sort) {
    if (sort.column === null) return rows;
    const metric = catalogue.metrics[sort.column];
    const direction = sort.ascending ? 1 : -1;
    const compare = metric
      ? (a, b) => compareNumbers(a.values[sort.column], b.values[sort.column], direction)
      : (a, b) => direction * compareTexts(a.text(sort.column), b.text(sort.column));
    return [...rows].sort((a, b) => compare(a, b) || a.order - b.order);
  }

  function compareNumbers(a, b, direction) {
    if (Number.isNaN(a.value) || Number.isNaN(b.value)) return Number.isNaN(a.value) - Number.isNaN(b.value);
    if (a.value === b.value) return Number.isFinite(a.value) ? 0 : direction * ((a.bound ?? 0) - (b.bound ?? 0));
    return direction * (a.value < b.value ? -1 : 1);
  }

  const compareTexts = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", {numeric: true}));

  return {cellRow, medianRows, sorted};
})();
