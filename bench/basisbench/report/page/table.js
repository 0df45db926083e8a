// The leaderboard of one setting: filter, sort, and show one page of rows.
//
// 1. Filters choose rows: cells, or medians over the tasks of a suite. 2. Rows are sorted; a value that is not defined
// comes last either way. 3. Only one page of rows is in the document.
"use strict";

basisbench.table = (() => {
  const {catalogue, columns, medians, element, find, rows: rowsOf, numbers, distinct, offer, address} = basisbench;
  const PAGE = 50;
  const FILTERS = ["task_label", "family", "method", "source", "status"];
  const STATUS_ORDER = ["verified", "self-reported"];
  const PER_GROUP = "k nodes in each aligned group";
  const {OTHERS} = numbers;
  const sort = {column: null, ascending: true};
  let form,
    page = 0,
    shown = [];

  const titles = () => catalogue.settings.map(({short}, index) => [String(index), `S${index + 1}: ${short}`]);
  const mode = () => form.elements.rows.value;
  const setting = () => Number(form.elements.setting.value);

  function start() {
    form = find("filters");
    offer(form.elements.setting, titles(), mainSetting());
    form.elements.setting.closest("label").hidden = titles().length < 2;
    offerFilters();
    if (![...address().query].length) openOnTheAnswer();
    form.addEventListener("input", () => {
      page = 0;
      offerFilters();
      show();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    // On a phone the table comes first, its filters when they are asked for.
    find("more-filters").open = !matchMedia("(max-width: 40rem)").matches;
    find("clear").addEventListener("click", () => {
      const own = [form.elements.setting.value, mode()];
      form.reset();
      [form.elements.setting.value, form.elements.rows.value] = own;
      page = 0;
      offerFilters();
      show();
    });
    find("csv").addEventListener("click", saveShown);
    find("previous").addEventListener("click", () => turn(-1));
    find("next").addEventListener("click", () => turn(1));
  }

  // Medians under the first method, as far as there are medians.
  function openOnTheAnswer() {
    const rows = rowsOf.medianRows(setting()).filter((row) => !Number.isNaN(row.values.nodes_to_80.value));
    const methods = rows.map((row) => row.text("method"));
    if (rows.length === 0) form.elements.rows.value = "cells";
    else form.elements.method.value = catalogue.methods.find(({name}) => methods.includes(name)).name;
  }

  // Each filter offers what the setting has.
  function offerFilters() {
    for (const name of FILTERS) {
      const select = form.elements[name];
      const values = distinct(catalogue.settings[setting()].rows.map((row) => columns[name][row]));
      const entries = inOrder(name, values);
      offer(select, values.length === 1 ? [["", String(values[0])]] : [["", "all"], ...entries]);
      // A filter with one choice says nothing but takes room; what the results are about stays.
      select.closest("label").hidden =
        (values.length < 2 && !["task_label", "family", "method"].includes(name)) ||
        (name === "task_label" && mode() === "medians");
    }
  }

  function inOrder(name, values) {
    const order = {
      family: catalogue.families,
      method: catalogue.methods.map((method) => method.name),
      status: STATUS_ORDER,
    }[name];
    return order ? order.filter((value) => values.includes(value)) : values.sort();
  }

  function chosen() {
    const wanted = FILTERS.map((name) => [name, form.elements[name].value]).filter(
      ([name, value]) => value !== "" && !(name === "task_label" && mode() === "medians"),
    );
    const words = form.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = mode() === "cells" ? rowsOf.cellRows(setting()) : rowsOf.medianRows(setting());
    return rows.filter(
      (row) =>
        wanted.every(([name, value]) => String(row.text(name)) === value) &&
        words.every((word) => namesOf(row).includes(word)),
    );
  }

  // What the search looks at.
  const namesOf = (row) =>
    ["basis", "method", "family", "source", ...(row.row === undefined ? [] : ["task_label", "cell_id"])]
      .map(row.text)
      .join(" ")
      .toLowerCase();

  // Columns of text before the numbers.
  const textColumns = () => [
    ["basis", "basis"],
    ["method", "method"],
    mode() === "cells" ? ["task_label", "task"] : ["tasks", "tasks"],
    ["family", "family"],
  ];

  // How small circuits are, then what it took, then what there is to explain and how well a dictionary fits.
  function numberColumns() {
    const {rows, nodes_to_80_node: underNode} = catalogue.settings[setting()];
    const measured = (name) => rows.some((row) => !Number.isNaN(columns[name][row]));
    const beside =
      underNode.some((value) => !Number.isNaN(value)) &&
      rows.some((row) => !columns.exact[row] && columns.error_policy[row] !== "node");
    const cells = mode() === "cells";
    return [
      ...catalogue.shown.flatMap((name) => {
        if (name !== "nodes_to_80") return [name];
        return [
          name,
          ...(beside ? ["nodes_to_80_node"] : []),
          ...(cells && measured("units_to_80") ? ["units_to_80"] : []),
        ];
      }),
      ...(cells ? ["accuracy", "gap"] : []),
      ...(cells && measured("fvu_mean") ? ["fvu_mean"] : []),
    ];
  }

  function sortBy(name) {
    const first = catalogue.metrics[name]?.direction !== "higher"; // the best value first
    sort.ascending = sort.column === name ? !sort.ascending : first;
    sort.column = name;
    page = 0;
    show();
    find("board").querySelector(`th[data-column="${name}"] button`).focus();
  }

  function show(query) {
    if (query && [...query].length) {
      basisbench.ask(form, query);
      offerFilters();
      basisbench.tellMissing(form, query);
    }
    if (![...textColumns().map(([name]) => name), ...numberColumns(), "status", null].includes(sort.column))
      sort.column = null;
    shown = rowsOf.sorted(chosen(), sort);
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(page, pages - 1);
    drawHead();
    drawBody(shown.slice(page * PAGE, (page + 1) * PAGE));
    find("count").textContent =
      mode() === "cells" ? `${shown.length} of ${catalogue.count} cells` : `${shown.length} medians`;
    find("pager").hidden = pages === 1;
    find("pages").textContent = `page ${page + 1} of ${pages}`;
    find("previous").disabled = page === 0;
    find("next").disabled = page === pages - 1;
    const left = distinct(
      shown
        .filter((row) => row.row === undefined && row.text("left_out"))
        .map((row) => `${row.text("family")}: ${row.text("left_out")}`),
    );
    find("mixed").hidden = left.length === 0;
    find("mixed").textContent = left.length ? `Left out of medians, below a gate: ${left.join(" | ")}.` : "";
    const cells = shown.filter((row) => row.row !== undefined).map((row) => row.row);
    find("board-setting").textContent = rowsOf.titleOf(setting(), cells);
    basisbench.answer.show(rowsOf.medianRows(setting()), mode() === "medians" ? shown : []);
  }

  function turn(step) {
    page += step;
    show();
    find("board").scrollIntoView({block: "nearest"});
  }

  function drawHead() {
    const heads = [
      ...textColumns().map(([name, title]) =>
        headCell(name, title, `${name === "tasks" ? "number" : ""}${name === "basis" ? "" : " wide"}`, null),
      ),
      ...numberColumns().map((name) => headCell(name, titleOf(name), "number", meaningOf(name))),
      headCell("status", "status", "", "who stands behind the numbers: see About"),
    ];
    find("board").tHead.replaceChildren(element("tr", {}, ...heads));
  }

  const titleOf = (name) => OTHERS[name]?.title ?? numbers.heading(catalogue.metrics[name]);

  function meaningOf(name) {
    if (OTHERS[name]) return OTHERS[name].meaning;
    const metric = catalogue.metrics[name];
    return metric.unit === "nodes" ? `${numbers.describe(metric)}; ${PER_GROUP}` : numbers.describe(metric);
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
        ...(kind.startsWith("number") ? [arrow, title] : [title, arrow]),
      ),
    );
  }

  function drawBody(rows) {
    const names = textColumns();
    const measured = numberColumns();
    const body = rows.map((row) =>
      element(
        "tr",
        {
          "data-key": row.row === undefined ? null : columns.cell_id[row.row],
          class: row.row !== undefined && columns.gate[row.row] ? "below" : null,
        },
        ...names.map(([name]) => textCell(name, row)),
        ...measured.map((name) => numberCell(name, row)),
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
            {class: "empty", colspan: names.length + measured.length + 1},
            "No cell passes these filters.",
          ),
        ),
      );
    }
    find("board").tBodies[0].replaceChildren(...body);
  }

  function textCell(name, row) {
    if (name === "tasks") {
      const [found, counted, asked] = ["tasks_found", "tasks", "tasks_asked"].map(row.text);
      const notes = [
        counted < asked && `${asked - counted} below a gate`,
        found < counted && `lacks ${counted - found}`,
      ].filter(Boolean);
      return element(
        "td",
        {class: "number wide", title: row.text("left_out") || null},
        element("span", {}, `${found}/${asked}`),
        notes.length > 0 && element("span", {class: "from"}, notes.join(", ")),
      );
    }
    const text = row.text(name);
    if (name !== "basis")
      return element("td", {class: name === "family" ? "wide" : `name wide${name === "task_label" ? " task" : ""}`}, text);
    const isMedian = row.row === undefined;
    const own = new URLSearchParams({rows: "cells", method: row.text("method"), family: row.text("family"), search: text});
    const target = isMedian ? `#leaderboard?${own}` : `#cell/${encodeURIComponent(columns.cell_id[row.row])}`;
    return element(
      "th",
      {scope: "row", class: "name"},
      element("a", {href: target, title: isMedian ? "its cells, task by task" : "everything about this cell"}, text),
      isMedian && basisbench.charts.swatch(catalogue.bases.find((look) => look.name === text)),
      element("span", {class: "from narrow"}, placeOf(row)),
      row.why && element("span", {class: "from why"}, whyText(row)),
    );
  }

  // On a phone the columns of text are one small line, so that numbers have room.
  const placeOf = (row) =>
    textColumns()
      .slice(1)
      .map(([name]) => (name === "tasks" ? `${row.text("tasks_found")}/${row.text("tasks_asked")} tasks` : row.text(name)))
      .join(", ");

  // Why there is no best mark.
  const whyText = (row) => (row.row !== undefined && columns.gate[row.row] ? `below a gate: ${row.why}` : row.why);

  function numberCell(name, row) {
    const entry = row.values[name];
    const below = belowOf(name, row);
    return element(
      "td",
      {class: entry.best ? "number best" : "number"},
      element("span", {}, textOf(name, entry)),
      below && element("span", {class: name === "fvu_mean" ? "interval fit" : "interval"}, below),
    );
  }

  function textOf(name, {value, bound, scored, reached, total}) {
    if (name === "accuracy" || name === "gap" || name === "fvu_mean")
      return Number.isNaN(value) ? "-" : value.toFixed(2);
    if (name === "nodes_to_80_node" && value === Infinity) return "not reached";
    const unit = catalogue.metrics[name]?.unit ?? "nodes";
    const some = reached !== undefined && reached < total && !Number.isNaN(value) ? ` (${reached}/${total})` : "";
    return numbers.censored(value, unit, bound, scored) + some;
  }

  // The small line below a number: its interval, or what explains it.
  function belowOf(name, row) {
    const {value, low, high, bound} = row.values[name];
    if (name === "gap") return `${numbers.percent(columns.gap_share[row.row])} of F(M) ${columns.full_mean[row.row].toFixed(2)}`;
    if (Number.isNaN(value)) return null;
    if (name === "fvu_mean") return fitText(row.row);
    if (low === undefined || name === "nodes_to_80_node") return null;
    return numbers.interval(low, high, catalogue.metrics[name].unit, bound);
  }

  const fitText = (row) =>
    [
      `max ${columns.fvu_max[row].toFixed(2)}`,
      `L0 ${numbers.significant(columns.l0_mean[row], 3)}`,
      !Number.isNaN(columns.slope_min[row]) && `slope ${columns.slope_min[row].toFixed(2)}`,
      !Number.isNaN(columns.loss_recovered[row]) && `loss rec. ${columns.loss_recovered[row].toFixed(2)}`,
    ]
      .filter(Boolean)
      .join(", ");

  function saveShown() {
    const cells = mode() === "cells";
    const source = cells ? columns : medians;
    const header = cells ? catalogue.frame : Object.keys(medians).filter((name) => !["best", "setting"].includes(name));
    basisbench.saveCsv(
      `basisbench-${mode()}.csv`,
      header,
      shown.map((row) => header.map((name) => csvValue(source[name][cells ? row.row : row.order]))),
    );
  }

  const csvValue = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : value);
  // Larger models come first; of the settings of the first, that of the most cells is the one to begin with.
  function mainSetting() {
    const model = ({rows}) => columns.model[rows[0]];
    const [first] = catalogue.settings;
    const counts = catalogue.settings.map((own) => (model(own) === model(first) ? own.rows.length : 0));
    return counts.indexOf(Math.max(...counts));
  }

  return {start, show, titles, mainSetting};
})();
