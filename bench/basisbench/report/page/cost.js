// Cost against sparsity: a point per basis and method, the median over tasks or one task; a panel per family.
//
// A median that does not reach the target stands hollow in a strip at the right: it is censored, not large.
"use strict";

basisbench.cost = (() => {
  const {catalogue, columns, element, find, numbers, charts, distinct, groupsOf, offer} = basisbench;
  const hidden = new Set();
  let form,
    points = [];

  function start() {
    form = charts.controls("cost-controls", show);
    find("cost-csv").addEventListener("click", saveValues);
  }

  function show() {
    const fields = form.elements;
    let rows = [...columns.key.keys()].filter((row) => String(columns.setting[row]) === fields.setting.value);
    const tasks = distinct(rows.map((row) => columns.task_label[row])).sort();
    offer(fields.task_label, [...(tasks.length > 1 ? [["", `median over ${tasks.length} tasks`]] : []), ...tasks]);
    if (fields.task_label.value) rows = rows.filter((row) => columns.task_label[row] === fields.task_label.value);
    points = gather(rows, fields.x.value, fields.y.value);
    const families = catalogue.families.filter((family) => points.some((point) => point.family === family));
    find("cost-setting").textContent = catalogue.settings[Number(fields.setting.value)];
    const present = (name) => new Set(points.map((point) => point[name]));
    const [bases, methods] = [present("basis"), present("method")];
    find("cost-legend").replaceChildren(
      element("span", {class: "part"}, "basis"),
      ...catalogue.bases
        .filter((look) => bases.has(look.name))
        .map((look) => charts.legendEntry(look.name, {colour: look.colour, symbol: "circle"}, hidden, draw)),
      element("span", {class: "rank"}),
      element("span", {class: "part"}, "method"),
      ...catalogue.methods
        .filter((look) => methods.has(look.name))
        .map((look) => charts.legendEntry(look.name, {symbol: look.costSymbol}, hidden, draw)),
    );
    find("cost-figures").replaceChildren(
      ...families.map((family) => {
        const made = charts.figure(`Family ${family}`, "", (place) =>
          charts.savePicture(
            place,
            `cost-${family}`,
            `Cost against sparsity: family ${family}, ${taskText()}`,
            catalogue.settings[Number(fields.setting.value)],
          ),
        );
        made.dataset.family = family;
        return made;
      }),
    );
    draw();
  }

  const taskText = () => form.elements.task_label.value || form.elements.task_label.selectedOptions[0].textContent;

  function gather(rows, x, y) {
    const groups = groupsOf(rows, (row) => [columns.family[row], columns.basis[row], columns.method[row]]);
    return groups.map((cells) => {
      const own = (name) => cells.map((row) => columns[name][row]).filter((value) => !Number.isNaN(value));
      const spread = (name) => ({
        middle: numbers.median(own(name)),
        low: numbers.quantile(own(name), 0.25),
        high: numbers.quantile(own(name), 0.75),
      });
      const [first] = cells;
      return {
        family: columns.family[first],
        basis: columns.basis[first],
        method: columns.method[first],
        cells,
        x: spread(x),
        y: spread(y),
        reached: own(x).filter(Number.isFinite).length,
        defined: own(x).length,
        key: cells.length === 1 ? columns.key[first] : null,
      };
    });
  }

  const visible = () =>
    points.filter((point) => !hidden.has(point.basis) && !hidden.has(point.method) && !Number.isNaN(point.x.middle));

  function draw() {
    const everything = points.filter((point) => !Number.isNaN(point.x.middle));
    for (const made of find("cost-figures").children) {
      const own = visible().filter((point) => point.family === made.dataset.family);
      const place = made.querySelector(".plot");
      const label = `Cost against sparsity, family ${made.dataset.family}.`;
      charts.draw(place, label, (light) => picture(own, everything, light), () => listen(place));
    }
    find("cost-note").textContent = [
      !form.elements.task_label.value && basisbench.table.manyVersions(points.flatMap((point) => point.cells)),
      "Left is sparser, down is cheaper; both axes are logarithmic. Colour: basis; marker: method.",
      form.elements.task_label.value ? "" : "Points are medians over tasks, lines span the middle half of them.",
      form.elements.task_label.value ? "" : fewerTasks(),
      "Hollow: the target is not reached. Seconds count all phases of a cell; shared work counts in each. Memory is the peak of the process, or of the device.",
      form.elements.task_label.value ? "A click on a point opens its cell." : "",
    ]
      .filter(Boolean)
      .join(" ");
    fillValues();
  }

  // A median over fewer tasks is another number, so the note names it.
  function fewerTasks() {
    const tasks = (some) => new Set(some.flatMap((point) => point.cells.map((row) => columns.task_label[row]))).size;
    const every = tasks(points);
    const fewer = catalogue.bases
      .map(({name}) => [name, tasks(points.filter((point) => point.basis === name))])
      .filter(([, own]) => own > 0 && own < every)
      .map(([name, own]) => `${name} (${own} of ${every})`);
    return fewer.length ? `Over fewer tasks: ${fewer.join(", ")}.` : "";
  }

  function listen(place) {
    place.removeAllListeners?.("plotly_click");
    place.on?.("plotly_click", ({points: [hit]}) => {
      if (hit.data.meta.key) location.hash = `#cell/${encodeURIComponent(hit.data.meta.key)}`;
    });
  }

  // All panels share their axes.
  function picture(own, everything, light) {
    const look = charts.colours(light);
    const fields = form.elements;
    const [x, y] = [fields.x.value, fields.y.value].map((name) => catalogue.metrics[name]);
    const horizontal = charts.logAxis(everything.flatMap((point) => [point.x.low, point.x.middle, point.x.high]));
    const share = y.unit === "bytes" ? 2 ** 20 : 1;
    const vertical = charts.logAxis(
      everything.flatMap((point) => [point.y.low, point.y.middle, point.y.high]).map((value) => value / share),
    );
    const censored = everything.some((point) => !Number.isFinite(point.x.middle));
    const strip = horizontal.most * 4,
      edge = horizontal.most * 1.8;
    if (censored) {
      // What is not reached has a place of its own; ticks stop before it.
      horizontal.ticks = [...horizontal.ticks.filter(([value]) => value < edge), [strip, "not reached"]];
      horizontal.most = strip * 1.4;
    }
    const place = (value) => (Number.isFinite(value) ? horizontal.place(value) : strip);
    const data = own.map((point) => {
      const basis = catalogue.bases.find((entry) => entry.name === point.basis);
      const method = catalogue.methods.find((entry) => entry.name === point.method);
      const reached = Number.isFinite(point.x.middle);
      const colour = charts.lineColour(basis.colour, light);
      const bar = (spread, to, shown) => ({
        type: "data",
        symmetric: false,
        array: [to(spread.high) - to(spread.middle)],
        arrayminus: [to(spread.middle) - to(spread.low)],
        visible: shown && point.cells.length > 1,
        color: colour,
        thickness: 1,
        width: 0,
      });
      return {
        type: "scatter",
        mode: "markers",
        name: charts.escape(`${point.basis}, ${point.method}`),
        meta: {key: point.key},
        x: [place(point.x.middle)],
        y: [point.y.middle / share],
        error_x: bar(point.x, place, reached),
        error_y: bar(point.y, (value) => value / share, true),
        marker: {
          symbol: method.costSymbol + (reached ? "" : "-open"),
          size: 10,
          color: colour,
          line: {color: reached ? look.ground : colour, width: reached ? 0.75 : 1.75},
        },
        customdata: [
          [valueText(point.x, fields.x.value, point), `${numbers.heading(y)} ${numbers.plain(point.y.middle, y.unit)}`],
        ],
        hovertemplate: "<b>%{fullData.name}</b><br>%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
      };
    });
    data.push(...legendOf(own, look, light));
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

  // Points that are nowhere: they give a saved picture a legend of colours and one of markers.
  function legendOf(own, look, light) {
    const entry = (name, colour, symbol) => ({
      type: "scatter",
      mode: "markers",
      name: charts.escape(name),
      meta: {legend: true},
      x: [null],
      y: [null],
      hoverinfo: "skip",
      marker: {symbol, size: 10, color: colour},
    });
    return [
      ...catalogue.bases
        .filter(({name}) => own.some((point) => point.basis === name))
        .map(({name, colour}) => entry(name, charts.lineColour(colour, light), "circle")),
      ...catalogue.methods
        .filter(({name}) => own.some((point) => point.method === name))
        .map(({name, costSymbol}) => entry(`method ${name}`, look.muted, costSymbol)),
    ];
  }

  function valueText(spread, name, point) {
    const metric = catalogue.metrics[name];
    if (!Number.isFinite(spread.middle))
      return `${metric.title}: not reached (in ${point.reached} of ${point.defined})`;
    return `${metric.title} ${numbers.plain(spread.middle, metric.unit)}${point.reached < point.defined ? ` (reached in ${point.reached} of ${point.defined})` : ""}`;
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
        String(point.cells.length),
        (Number.isFinite(point.x.middle) ? numbers.plain(point.x.middle, x.unit) : "not reached") +
          (point.reached < point.defined ? ` (${point.reached}/${point.defined})` : ""),
        numbers.plain(point.y.middle, y.unit),
      ]),
    );
  }

  function saveValues() {
    const [x, y] = [form.elements.x.value, form.elements.y.value];
    const ends = (name) => [name, `${name}_quartile_low`, `${name}_quartile_high`];
    basisbench.saveCsv(
      "basisbench-cost.csv",
      ["setting", "task", "family", "basis", "method", "tasks", ...ends(x), "reached", ...ends(y)],
      visible().map((point) => [
        catalogue.settings[Number(form.elements.setting.value)],
        taskText(),
        point.family,
        point.basis,
        point.method,
        point.cells.length,
        point.x.middle,
        point.x.low,
        point.x.high,
        point.reached,
        point.y.middle,
        point.y.low,
        point.y.high,
      ]),
    );
  }

  return {start, show};
})();
