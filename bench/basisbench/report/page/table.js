// The leaderboard: filter, sum up, sort, and show one page of rows.
//
// 1. Filters choose cells. 2. A row is a cell, or the median of a setting's cells of one basis and method over tasks.
// 3. Rows are sorted; a value that is not defined comes last either way. 4. Only one page of rows is in the document.
"use strict";

basisbench.table = (() => {
  const {catalogue, columns, element, find, rows: rowsOf, numbers, distinct, offer} = basisbench;
  const PAGE = 50;
  const FILTERS = [
    "setting",
    "model",
    "task_label",
    "family",
    "method",
    "ablation",
    "error_policy",
    "source",
    "status",
  ];
  const STATUS_ORDER = ["verified", "self-reported"];
  const sort = {column: null, ascending: true};
  let form,
    page = 0,
    shown = [];

  const letter = (setting) => `S${setting + 1}`;
  const titles = () => catalogue.settings.map((title, index) => [String(index), `${letter(index)}: ${title}`]);
  const mode = () => form.elements.rows.value;

  function start() {
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
    form.addEventListener("input", () => {
      page = 0;
      show();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    // On a phone the table comes first, its filters when they are asked for.
    find("more-filters").open = !matchMedia("(max-width: 40rem)").matches;
    find("clear").addEventListener("click", () => {
      form.reset();
      page = 0;
      show();
    });
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

  // Columns of text before the numbers; those that are the same in every row of the report are left out.
  function textColumns() {
    const several = (name) => distinct(columns[name]).length > 1;
    const wanted = [
      ["basis", "basis"],
      ["method", "method"],
      mode() === "cells" ? ["task_label", "task"] : ["tasks", "tasks"],
      ["family", "family"],
    ];
    if (several("model")) wanted.push(["model", "model"]);
    if (several("setting")) wanted.push(["setting", "setting"]);
    return wanted;
  }

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
    if ((mode() === "cells" && sort.column === "tasks") || (mode() === "medians" && sort.column === "task_label"))
      sort.column = null;
    shown = rowsOf.sorted(mode() === "cells" ? rows.map(rowsOf.cellRow) : rowsOf.medianRows(rows), sort);
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(page, pages - 1);
    drawHead();
    drawBody(shown.slice(page * PAGE, (page + 1) * PAGE));
    const what = mode() === "cells" ? "cells" : `medians, over ${rows.length} cells`;
    find("count").textContent =
      mode() === "cells" ? `${shown.length} of ${catalogue.count} ${what}` : `${shown.length} ${what}`;
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
    return (
      settings.length > 1 &&
      `Rows of ${settings.length} settings are listed; compare rows of one setting only. Medians and best marks never cross settings.`
    );
  }

  // Versions of one task are different data: where medians cover several, the note says so.
  function manyVersions(rows) {
    const labels = new Map();
    for (const row of rows)
      labels.set(columns.task[row], (labels.get(columns.task[row]) ?? new Set()).add(columns.task_label[row]));
    const mixed = [...labels.values()].filter((own) => own.size > 1).map((own) => [...own].sort().join(" and "));
    return (
      mixed.length > 0 &&
      `Medians count ${mixed.join(", ")} as tasks of their own; choose tasks one by one to keep versions apart.`
    );
  }

  function turn(step) {
    page += step;
    show();
    find("board").scrollIntoView({block: "nearest"});
  }

  function drawHead() {
    const heads = [
      ...textColumns().map(([name, title]) => headCell(name, title, name === "tasks" ? "number" : "", null)),
      ...catalogue.shown.map((name) =>
        headCell(name, numbers.heading(catalogue.metrics[name]), "number", numbers.describe(catalogue.metrics[name])),
      ),
      headCell("status", "status", "", "who stands behind the numbers: see About"),
    ];
    find("board").tHead.replaceChildren(element("tr", {}, ...heads));
  }

  function headCell(name, title, kind, meaning) {
    const own = sort.column === name;
    const arrow = element("span", {class: "arrow", "aria-hidden": "true"}, own ? (sort.ascending ? "▲" : "▼") : "");
    return element(
      "th",
      {
        scope: "col",
        class: kind,
        "data-column": name,
        "aria-sort": own ? (sort.ascending ? "ascending" : "descending") : null,
      },
      element(
        "button",
        {type: "button", title: meaning, onclick: () => sortBy(name)},
        ...(kind === "number" ? [arrow, title] : [title, arrow]),
      ),
    );
  }

  function drawBody(rows) {
    const names = textColumns();
    const body = rows.map((row) =>
      element(
        "tr",
        {"data-key": row.row === undefined ? null : columns.key[row.row]},
        ...names.map(([name]) => textCell(name, row)),
        ...catalogue.shown.map((name) => numberCell(name, row)),
        element(
          "td",
          {class: "standing"},
          element("span", {class: `status ${row.text("status")}`}, row.text("status")),
          catalogue.sources.length > 1 && element("span", {class: "from"}, row.text("source")),
        ),
      ),
    );
    if (body.length === 0) {
      body.push(
        element(
          "tr",
          {},
          element(
            "td",
            {class: "empty", colspan: names.length + catalogue.shown.length + 1},
            "No cell passes these filters.",
          ),
        ),
      );
    }
    find("board").tBodies[0].replaceChildren(...body);
  }

  function textCell(name, row) {
    if (name === "setting") return element("td", {title: catalogue.settings[row.text(name)]}, letter(row.text(name)));
    if (name === "tasks") {
      const text = row.partial ? `${row.text(name)} of ${row.partial}` : String(row.text(name));
      const title = row.partial ? "a median over fewer tasks than others have is no rival of theirs" : null;
      return element("td", {class: "number", title}, text);
    }
    const text = row.text(name);
    if (name !== "basis")
      return element("td", {class: name === "family" ? null : name === "task_label" ? "name task" : "name"}, text);
    const target = row.row === undefined ? null : `#cell/${encodeURIComponent(columns.key[row.row])}`;
    return element(
      "th",
      {scope: "row", class: "name"},
      target ? element("a", {href: target, title: "everything about this cell"}, text) : text,
    );
  }

  function numberCell(name, row) {
    const {value, low, high, bound: most, best, reached, total} = row.values[name];
    const unit = catalogue.metrics[name].unit;
    const text =
      numbers.censored(value, unit, most) + (reached !== undefined && reached < total ? ` (${reached}/${total})` : "");
    const bracket = low !== undefined && !Number.isNaN(value) ? numbers.interval(low, high, unit, most) : null;
    return element(
      "td",
      {class: best ? "number best" : "number"},
      element("span", {}, text),
      bracket && element("span", {class: "interval"}, bracket),
    );
  }

  function saveShown() {
    if (mode() === "cells") {
      basisbench.saveCsv(
        "basisbench-cells.csv",
        catalogue.frame,
        shown.map(({row}) => catalogue.frame.map((name) => csvValue(columns[name][row]))),
      );
      return;
    }
    const texts = ["model", "setting", "source", "status", "family", "basis", "method", "tasks"];
    const header = [...texts, ...catalogue.shown.flatMap((name) => [name, `${name}_reached`])];
    basisbench.saveCsv(
      "basisbench-medians.csv",
      header,
      shown.map((row) => [
        ...texts.map((name) => (name === "setting" ? catalogue.settings[row.text(name)] : row.text(name))),
        ...catalogue.shown.flatMap((name) => [row.values[name].value, row.values[name].reached]),
      ]),
    );
  }

  const csvValue = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : value);

  // The setting of the most cells is the one to begin with.
  function mainSetting() {
    const counts = catalogue.settings.map((_, setting) => columns.setting.filter((own) => own === setting).length);
    return counts.indexOf(Math.max(...counts));
  }

  return {start, show, titles, mainSetting, manyVersions};
})();
