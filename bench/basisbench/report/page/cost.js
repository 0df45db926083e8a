// Cost against sparsity: a point per basis under a method, or per method on a basis, each looking as in curves; the median
// over a suite's tasks or one task; a panel per family.
//
// A median that does not reach the target stands hollow in a strip at the right: it is censored, not large.
"use strict";

basisbench.cost = (() => {
  const {catalogue, columns, element, find, rows: rowsOf, numbers, charts, distinct, offer} = basisbench;
  const hidden = new Set();
  let form,
    points = [];

  function start() {
    form = charts.controls("cost-controls", show);
    find("cost-csv").addEventListener("click", saveValues);
  }

  function show(query) {
    const fields = form.elements;
    if (query) basisbench.ask(form, query);
    const setting = Number(fields.setting.value);
    const cells = rowsOf.cellRows(setting);
    const tasks = distinct(cells.map((row) => row.text("task_label"))).sort();
    const medians = rowsOf.medianRows(setting);
    const suites = distinct(medians.map((row) => row.text("suite_tasks")));
    const overTasks = tasks.length > 1 ? suites.map((suite) => [`=${suite}`, suiteText(suite)]) : [];
    offer(fields.task_label, [...overTasks, ...tasks]);
    const of = fields.task_label.value;
    const all = of.startsWith("=")
      ? medians.filter((row) => row.text("suite_tasks") === of.slice(1))
      : cells.filter((row) => row.text("task_label") === of);
    for (const [name, list] of [
      ["method", catalogue.methods],
      ["basis", catalogue.bases],
    ]) {
      const present = new Set(all.map((row) => row.text(name)));
      offer(
        fields[name],
        list.map((entry) => entry.name).filter((entry) => present.has(entry)),
      );
      form.querySelector(`[data-role="${name}"]`).hidden = fields.lines.value === name;
    }
    if (query) basisbench.tellMissing(form, query);
    const other = fields.lines.value === "basis" ? "method" : "basis";
    const rows = all.filter((row) => row.text(other) === fields[other].value);
    points = rows.map((row) => point(row, fields.x.value, fields.y.value));
    tellGates(rows);
    fillFit(cells.filter((row) => of.startsWith("=") || row.text("task_label") === of));
    const families = catalogue.families.filter((family) => points.some((point) => point.family === family));
    find("cost-setting").textContent = rowsOf.titleOf(
      setting,
      rows.filter((row) => row.row !== undefined).map((row) => row.row),
    );
    find("cost-legend").replaceChildren(
      ...looks()
        .filter((look) => points.some((point) => point.name === look.name))
        .map((look) => charts.legendEntry(look.name, {colour: look.colour, symbol: look.symbol}, hidden, draw)),
    );
    find("cost-figures").replaceChildren(
      ...families.map((family) => {
        const made = charts.figure(`Family ${family}`, "", (place) =>
          charts.savePicture(
            place,
            `cost-${family}`,
            `Cost against sparsity: family ${family}, ${fields.lines.value === "basis" ? "method" : "basis"} ${fields[other].value}, ${taskText()}`,
            find("cost-setting").textContent,
          ),
        );
        made.dataset.family = family;
        return made;
      }),
    );
    draw();
  }

  const looks = () => (form.elements.lines.value === "basis" ? catalogue.bases : catalogue.methods);
  const suiteText = (suite) => `median over ${suite.split(", ").length} tasks`;
  const ofTask = () => !form.elements.task_label.value.startsWith("=");
  const taskText = () => form.elements.task_label.selectedOptions[0].textContent;

  const point = (row, x, y) => ({
    family: row.text("family"),
    basis: row.text("basis"),
    method: row.text("method"),
    name: row.text(form.elements.lines.value),
    tasks: row.row === undefined ? `${row.text("tasks_found")}/${row.text("tasks_asked")}` : "1",
    x: row.values[x],
    y: row.values[y].value,
    key: row.row === undefined ? null : columns.cell_id[row.row],
  });

  // Which tasks have too little to explain, by family where families differ.
  function tellGates(rows) {
    const texts = distinct(
      rows.map((row) => {
        const text = row.row === undefined ? row.text("left_out") : basisbench.lines.gateText(row.row);
        return text && `${row.text("family")}: ${text}`;
      }),
    ).filter(Boolean);
    find("cost-left").hidden = texts.length === 0;
    find("cost-left").textContent = `${ofTask() ? "" : "Left out, below a gate. "}${texts.join(" | ")}`;
  }

  function fillFit(cells) {
    const seen = new Set();
    const dictionaries = cells.filter((row) => {
      const key = JSON.stringify([row.text("basis"), row.text("task_label")]);
      if (Number.isNaN(row.text("fvu_mean")) || seen.has(key)) return false;
      seen.add(key);
      return true;
    });
    const text = (row, name, digits = 2) => (Number.isNaN(row.text(name)) ? "-" : row.text(name).toFixed(digits));
    charts.fillTable(
      find("fit-values"),
      {
        ...{basis: "name", task: "name", family: "name", FVU: "number", "largest FVU": "number", L0: "number"},
        ...{"smallest slope": "number", "loss recovered": "number", "weights (MiB)": "number"},
        ...{"no best mark, for": "name"},
      },
      dictionaries.map((row) => [
        row.text("basis"),
        row.text("task_label"),
        row.text("family"),
        text(row, "fvu_mean", 3),
        text(row, "fvu_max", 3),
        text(row, "l0_mean", 1),
        text(row, "slope_min"),
        text(row, "loss_recovered"),
        numbers.plain(row.text("dictionary_bytes"), "bytes"),
        row.text("unfit"),
      ]),
    );
  }

  const visible = () => points.filter((point) => !hidden.has(point.name) && !Number.isNaN(point.x.value));

  function draw() {
    const everything = points.filter((point) => !Number.isNaN(point.x.value));
    for (const made of find("cost-figures").children) {
      const own = visible().filter((point) => point.family === made.dataset.family);
      const place = made.querySelector(".plot");
      const label = `Cost against sparsity, family ${made.dataset.family}.`;
      charts.draw(place, label, (light) => picture(own, everything, light), () => listen(place));
    }
    find("cost-note").textContent = [
      "Left is sparser, down is cheaper; both axes are logarithmic. Lines: 95% intervals. A circuit of k nodes has k in each aligned group.",
      ofTask() ? "" : `Points are medians over the suite's tasks. ${lacking()}`,
      "Hollow: the target is not reached by nodes that have a score. Seconds count all phases of a cell; shared work counts in each. Memory is the peak of the process, or of the device.",
      ofTask() ? "A click on a point opens its cell." : "",
    ]
      .filter(Boolean)
      .join(" ");
    fillValues();
  }

  // A basis that lacks a task has no median.
  function lacking() {
    const without = points.filter((point) => Number.isNaN(point.x.value)).map(({basis, tasks}) => `${basis} (${tasks})`);
    return without.length ? `Without one, for want of tasks: ${distinct(without).join(", ")}.` : "";
  }

  function listen(place) {
    place.removeAllListeners?.("plotly_click");
    place.on?.("plotly_click", ({points: [hit]}) => {
      if (hit.data.meta.key) location.hash = `#cell/${encodeURIComponent(hit.data.meta.key)}`;
    });
  }

  // All panels share their axes.
  function picture(seen, everything, light) {
    const look = charts.colours(light);
    const fields = form.elements;
    const [x, y] = [fields.x.value, fields.y.value].map((name) => catalogue.metrics[name]);
    const horizontal = charts.logAxis(everything.flatMap((point) => [point.x.low, point.x.value, point.x.high]));
    const share = y.unit === "bytes" ? 2 ** 20 : 1;
    const vertical = charts.logAxis(everything.map((point) => point.y / share));
    const censored = everything.some((point) => ![point.x.value, point.x.high].every(Number.isFinite));
    const strip = horizontal.most * 4,
      edge = horizontal.most * 1.8;
    if (censored) {
      // What is not reached has a place of its own; ticks stop before it.
      horizontal.ticks = [...horizontal.ticks.filter(([value]) => value < edge), [strip, "not reached"]];
      horizontal.most = strip * 1.4;
    }
    const place = (value) => (Number.isFinite(value) ? horizontal.place(value) : strip);
    const data = seen.map((point) => {
      const own = looks().find((entry) => entry.name === point.name);
      const reached = Number.isFinite(point.x.value);
      const colour = charts.lineColour(own.colour, light);
      return {
        type: "scatter",
        mode: "markers",
        name: charts.escape(point.name),
        meta: {key: point.key, legend: true},
        x: [place(point.x.value)],
        y: [point.y / share],
        error_x: {
          type: "data",
          symmetric: false,
          array: [place(point.x.high) - place(point.x.value)],
          arrayminus: [place(point.x.value) - place(point.x.low)],
          visible: reached,
          color: colour,
          thickness: 1,
          width: 0,
        },
        marker: {
          symbol: own.symbol + (reached ? "" : "-open"),
          size: 10,
          color: colour,
          line: {color: reached ? look.ground : colour, width: reached ? 0.75 : 1.75},
        },
        customdata: [
          [valueText(point.x, x), `${numbers.heading(y)} ${numbers.plain(point.y, y.unit)}`],
        ],
        hovertemplate: "<b>%{fullData.name}</b><br>%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
      };
    });
    const shapes = censored
      ? [
          {
            type: "line",
            xref: "x",
            x0: edge,
            x1: edge,
            yref: "paper",
            y0: 0,
            y1: 1,
            line: {color: look.muted, width: 1, dash: "dash"},
          },
        ]
      : [];
    return {
      data,
      layout: charts.layout(
        look,
        charts.axis(x.title, look, charts.logSettings(horizontal)),
        charts.axis(numbers.heading(y), look, charts.logSettings(vertical)),
        {shapes},
      ),
    };
  }

  function valueText({value, low, high, bound, scored, reached, total}, metric) {
    const some = reached !== undefined && reached < total ? ` (reached in ${reached} of ${total})` : "";
    const ends = numbers.interval(low, high, metric.unit, bound);
    return `${metric.title} ${numbers.censored(value, metric.unit, bound, scored)} ${ends}${some}`;
  }

  function fillValues() {
    const [x, y] = [form.elements.x.value, form.elements.y.value].map((name) => catalogue.metrics[name]);
    charts.fillTable(
      find("cost-values"),
      {
        ...{family: "name", basis: "name", method: "name", tasks: "number"},
        ...{[x.title]: "number", [numbers.heading(y)]: "number"},
      },
      visible().map((point) => [
        point.family,
        point.basis,
        point.method,
        point.tasks,
        valueText(point.x, x).slice(x.title.length + 1),
        numbers.plain(point.y, y.unit),
      ]),
    );
  }

  function saveValues() {
    const [x, y] = [form.elements.x.value, form.elements.y.value];
    basisbench.saveCsv(
      "basisbench-cost.csv",
      ["setting", "task", "family", "basis", "method", "tasks", x, `${x}_low`, `${x}_high`, y],
      visible().map((point) => [
        catalogue.settings[Number(form.elements.setting.value)].title,
        taskText(),
        point.family,
        point.basis,
        point.method,
        point.tasks,
        point.x.value,
        point.x.low,
        point.x.high,
        point.y,
      ]),
    );
  }

  return {start, show};
})();
