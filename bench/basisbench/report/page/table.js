// The leaderboard: filter, sum up, sort, and show one page of rows.
//
// 1. Filters choose cells. 2. A row is a cell, or the median of a setting's cells of one basis and method over tasks.
// 3. Rows are sorted; a value that is not defined comes last either way. 4. Only one page of rows is in the document.
"use strict";

basisbench.table = (() => {
  const {element, find, numbers, distinct, offer} = basisbench;
  const PAGE = 50;
  const FILTERS = ["setting", "model", "task_label", "family", "method", "ablation", "error_policy", "source", "status"];
  const STATUS_ORDER = ["verified", "reference", "self-reported"];
  const sort = {column: null, ascending: true};
  let catalogue, columns, form, page = 0, shown = [];

  const letter = (setting) => `S${setting + 1}`;
  const titles = () => catalogue.settings.map((title, index) => [String(index), `${letter(index)}: ${title}`]);
  const mode = () => form.elements.rows.value;

  function start(everything, decoded) {
    catalogue = everything;
    columns = decoded;
    form = find("filters");
    for (const name of FILTERS) {
      const select = form.elements[name];
      const values = distinct(columns[name]);
      const entries = name === "setting" ? titles() : inOrder(name, values);
      offer(select, values.length === 1 ? [["", String(values[0])]] : [["", "all"], ...entries]);
      // A filter with one choice says nothing but takes room; what the results are about stays.
      const always = ["model", "task_label", "family", "method", "ablation", "error_policy"];
      select.closest("label").hidden = values.length < 2 && !always.includes(name);
    }
    form.addEventListener("input", () => { page = 0; show(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    // On a phone the table comes first, its filters when they are asked for.
    find("more-filters").open = !matchMedia("(max-width: 40rem)").matches;
    find("clear").addEventListener("click", () => { form.reset(); page = 0; show(); });
    find("csv").addEventListener("click", saveShown);
    find("previous").addEventListener("click", () => turn(-1));
    find("next").addEventListener("click", () => turn(1));
  }

  function inOrder(name, values) {
    if (name === "family") return catalogue.families;
    if (name === "method") return catalogue.methods.map((method) => method.name);
    if (name === "status") return STATUS_ORDER.filter((status) => values.includes(status));
    return values.sort();
  }

  function chosen() {
    const wanted = FILTERS.map((name) => [name, form.elements[name].value]).filter(([, value]) => value !== "");
    const search = form.elements.search.value.trim().toLowerCase();
    const rows = [];
    for (let row = 0; row < catalogue.count; row++) {
      if (wanted.some(([name, value]) => String(columns[name][row]) !== value)) continue;
      if (search && !columns.basis[row].toLowerCase().includes(search)) continue;
      rows.push(row);
    }
    return rows;
  }

  // What not reaching a target is known to exceed.
  const bound = (name, row) => ({nodes: columns.total_nodes[row], bits: columns.most_bits[row]})[catalogue.metrics[name].unit];

  function cellRow(row) {
    const values = {};
    catalogue.shown.forEach((name, bit) => {
      values[name] = {
        value: columns[name][row], low: columns[`${name}_low`]?.[row], high: columns[`${name}_high`]?.[row],
        bound: bound(name, row), best: Boolean(columns.best[row] & (1 << bit)),
      };
    });
    return {order: row, row, values, text: (name) => columns[name][row]};
  }

  function medianRows(rows) {
    const groups = new Map();
    for (const row of rows) {
      const key = JSON.stringify(["setting", "source", "family", "basis", "method"].map((name) => columns[name][row]));
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(row);
    }
    const made = [...groups.values()].map((cells) => {
      const values = {};
      for (const name of catalogue.shown) {
        const known = cells.map((row) => columns[name][row]).filter((value) => !Number.isNaN(value));
        values[name] = {
          value: numbers.median(known), bound: numbers.median(cells.map((row) => bound(name, row) ?? Infinity)),
          reached: known.filter(Number.isFinite).length, total: known.length, best: false,
        };
      }
      return {order: cells[0], cells, values, text: (name) => (name === "tasks" ? cells.length : columns[name][cells[0]])};
    });
    markBest(made);
    const rank = (list, name) => list.findIndex((entry) => entry.name === name);
    return made.sort((a, b) =>
      a.text("setting") - b.text("setting") || catalogue.families.indexOf(a.text("family")) - catalogue.families.indexOf(b.text("family")) ||
      rank(catalogue.methods, a.text("method")) - rank(catalogue.methods, b.text("method")) ||
      rank(catalogue.bases, a.text("basis")) - rank(catalogue.bases, b.text("basis"))).map((made, order) => ({...made, order}));
  }

  // The best median within setting, family and method, where there is a choice.
  function markBest(rows) {
    const rivals = new Map();
    for (const row of rows) {
      const key = JSON.stringify(["setting", "family", "method"].map((name) => row.text(name)));
      if (!rivals.has(key)) rivals.set(key, []);
      rivals.get(key).push(row);
    }
    for (const group of rivals.values()) {
      for (const name of catalogue.shown) {
        const sign = catalogue.metrics[name].direction === "lower" ? 1 : -1;
        const values = group.map((row) => sign * row.values[name].value).filter((value) => !Number.isNaN(value));
        const least = Math.min(...values), most = Math.max(...values);
        if (values.length < 2 || least === most) continue;
        for (const row of group) row.values[name].best = Number.isFinite(least) && sign * row.values[name].value === least;
      }
    }
  }

  // Columns of text before the numbers; those that are the same in every row of the report are left out.
  function textColumns() {
    const several = (name) => distinct(columns[name]).length > 1;
    const wanted = [["basis", "basis"], ["method", "method"], mode() === "cells" ? ["task_label", "task"] : ["tasks", "tasks"], ["family", "family"]];
    if (several("model")) wanted.push(["model", "model"]);
    if (several("setting")) wanted.push(["setting", "setting"]);
    return wanted;
  }

  function sorted(rows) {
    if (sort.column === null) return rows;
    const metric = catalogue.metrics[sort.column];
    const direction = sort.ascending ? 1 : -1;
    const compare = metric ? (a, b) => compareNumbers(a.values[sort.column], b.values[sort.column], direction)
      : (a, b) => direction * compareTexts(a.text(sort.column), b.text(sort.column));
    return [...rows].sort((a, b) => compare(a, b) || a.order - b.order);
  }

  function compareNumbers(a, b, direction) {
    if (Number.isNaN(a.value) || Number.isNaN(b.value)) return Number.isNaN(a.value) - Number.isNaN(b.value);
    if (a.value === b.value) return Number.isFinite(a.value) ? 0 : direction * ((a.bound ?? 0) - (b.bound ?? 0));
    return direction * (a.value < b.value ? -1 : 1);
  }

  const compareTexts = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", {numeric: true}));

  function sortBy(name) {
    const first = catalogue.metrics[name]?.direction !== "higher"; // the best value first
    sort.ascending = sort.column === name ? !sort.ascending : first;
    sort.column = name;
    page = 0;
    show();
    find("board").querySelector(`th[data-column="${name}"] button`).focus();
  }

  function show() {
    const rows = chosen();
    if (mode() === "cells" && sort.column === "tasks" || mode() === "medians" && sort.column === "task_label") sort.column = null;
    shown = sorted(mode() === "cells" ? rows.map(cellRow) : medianRows(rows));
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(page, pages - 1);
    drawHead();
    drawBody(shown.slice(page * PAGE, (page + 1) * PAGE));
    const what = mode() === "cells" ? "cells" : `medians, over ${rows.length} cells`;
    find("count").textContent = mode() === "cells" ? `${shown.length} of ${catalogue.count} ${what}` : `${shown.length} ${what}`;
    find("pager").hidden = pages === 1;
    find("pages").textContent = `page ${page + 1} of ${pages}`;
    find("previous").disabled = page === 0;
    find("next").disabled = page === pages - 1;
    const warnings = [manySettings(rows), mode() === "medians" && manyVersions(rows)].filter(Boolean);
    find("mixed").hidden = warnings.length === 0;
    find("mixed").textContent = warnings.join(" ");
  }

  function manySettings(rows) {
    const settings = distinct(rows.map((row) => columns.setting[row]));
    return settings.length > 1 && `Rows of ${settings.length} settings are listed; compare rows of one setting only. Medians and best marks never cross settings.`;
  }

  // Versions of one task are different data: where medians cover several, that is told.
  function manyVersions(rows) {
    const labels = new Map();
    for (const row of rows) labels.set(columns.task[row], (labels.get(columns.task[row]) ?? new Set()).add(columns.task_label[row]));
    const mixed = [...labels.values()].filter((own) => own.size > 1).map((own) => [...own].sort().join(" and "));
    return mixed.length > 0 && `Medians count ${mixed.join(", ")} as tasks of their own; choose tasks one by one to keep versions apart.`;
  }

  function turn(step) {
    page += step;
    show();
    find("board").scrollIntoView({block: "nearest"});
  }

  function drawHead() {
    const heads = [
      ...textColumns().map(([name, title]) => headCell(name, title, name === "tasks" ? "number" : "", null)),
      ...catalogue.shown.map((name) => headCell(name, numbers.heading(catalogue.metrics[name]), "number", numbers.describe(catalogue.metrics[name]))),
      headCell("status", "status", "", "who stands behind the numbers: see About"),
    ];
    find("board").tHead.replaceChildren(element("tr", {}, ...heads));
  }

  function headCell(name, title, kind, meaning) {
    const own = sort.column === name;
    const arrow = element("span", {class: "arrow", "aria-hidden": "true"}, own ? (sort.ascending ? "▲" : "▼") : "");
    return element("th", {scope: "col", class: kind, "data-column": name, "aria-sort": own ? (sort.ascending ? "ascending" : "descending") : null},
      element("button", {type: "button", title: meaning, onclick: () => sortBy(name)}, ...(kind === "number" ? [arrow, title] : [title, arrow])));
  }

  function drawBody(rows) {
    const names = textColumns();
    const body = rows.map((row) => element("tr", {"data-key": row.row === undefined ? null : columns.key[row.row]},
      ...names.map(([name]) => textCell(name, row)),
      ...catalogue.shown.map((name) => numberCell(name, row)),
      element("td", {class: "standing"}, element("span", {class: `status ${row.text("status")}`}, row.text("status")),
        catalogue.sources.length > 1 && element("span", {class: "from"}, row.text("source")))));
    if (body.length === 0) {
      body.push(element("tr", {}, element("td", {class: "empty", colspan: names.length + catalogue.shown.length + 1}, "No cell passes these filters.")));
    }
    find("board").tBodies[0].replaceChildren(...body);
  }

  function textCell(name, row) {
    if (name === "setting") return element("td", {title: catalogue.settings[row.text(name)]}, letter(row.text(name)));
    if (name === "tasks") return element("td", {class: "number"}, String(row.text(name)));
    const text = row.text(name);
    if (name !== "basis") return element("td", {class: name === "family" ? null : name === "task_label" ? "name task" : "name"}, text);
    const target = row.row === undefined ? null : `#cell/${encodeURIComponent(columns.key[row.row])}`;
    return element("th", {scope: "row", class: "name"}, target ? element("a", {href: target, title: "everything about this cell"}, text) : text);
  }

  function numberCell(name, row) {
    const {value, low, high, bound: most, best, reached, total} = row.values[name];
    const unit = catalogue.metrics[name].unit;
    const text = numbers.censored(value, unit, most) + (reached !== undefined && reached < total ? ` (${reached}/${total})` : "");
    const bracket = low !== undefined && !Number.isNaN(value) ? numbers.interval(low, high, unit, most) : null;
    return element("td", {class: best ? "number best" : "number"}, element("span", {}, text),
      bracket && element("span", {class: "interval"}, bracket));
  }

  function saveShown() {
    if (mode() === "cells") {
      basisbench.saveCsv("basisbench-cells.csv", catalogue.frame, shown.map(({row}) => catalogue.frame.map((name) => csvValue(columns[name][row]))));
      return;
    }
    const texts = ["model", "setting", "source", "status", "family", "basis", "method", "tasks"];
    const header = [...texts, ...catalogue.shown.flatMap((name) => [name, `${name}_reached`])];
    basisbench.saveCsv("basisbench-medians.csv", header, shown.map((row) => [
      ...texts.map((name) => (name === "setting" ? catalogue.settings[row.text(name)] : row.text(name))),
      ...catalogue.shown.flatMap((name) => [row.values[name].value, row.values[name].reached]),
    ]));
  }

  const csvValue = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : value);

  // The setting of the most cells is the one to begin with.
  function mainSetting() {
    const counts = catalogue.settings.map((_, setting) => columns.setting.filter((own) => own === setting).length);
    return counts.indexOf(Math.max(...counts));
  }

  return {start, show, titles, mainSetting, manyVersions};
})();
