// Curves: faithfulness and completeness against the size of a circuit, a line per basis or per method.
"use strict";

basisbench.curves = (() => {
  const {catalogue, columns, element, find, numbers, charts, distinct, offer} = basisbench;
  const X = {
    size: "circuit size k (nodes)",
    bits: "bits to name the circuit, log2 C(N, k)",
    share: "share of all nodes, k / N",
  };
  const QUANTITIES = {
    faithfulness: {title: "Faithfulness", note: "of the circuit; 1: full model", ideal: 1},
    completeness: {title: "Completeness", note: "what the rest still does; 0: ideal", ideal: 0},
  };
  const NOTES = {
    size: "Nodes of bases of different width are not comparable; bits are.",
    bits: "Bits compare bases of different width.",
    share: "A share means nothing across bases of different width; use it for methods on one basis.",
  };
  const hidden = new Set();
  let form,
    shown = [];

  function start() {
    form = charts.controls("curve-controls", show);
    find("curve-csv").addEventListener("click", saveValues);
    for (const [name, {title, note}] of Object.entries(QUANTITIES)) {
      find("curve-figures").append(
        charts.figure(title, note, (place) =>
          charts.savePicture(
            place,
            `${name}-${form.elements.task_label.value}-${form.elements.family.value}`,
            `${title}: ${heading()}`,
            setting(),
          ),
        ),
      );
    }
  }

  // Offer what there is: tasks of the setting, families of the task, methods and bases of the family.
  function choose(query) {
    const fields = form.elements;
    for (const name of ["setting", "task_label", "family", "lines", "method", "basis", "x"]) {
      if (query?.has(name)) {
        if (![...fields[name].options].some((option) => option.value === query.get(name)))
          fields[name].append(element("option", {value: query.get(name)}));
        fields[name].value = query.get(name);
      }
    }
    const within = (rows, name) => rows.filter((row) => String(columns[name][row]) === fields[name].value);
    let rows = within([...columns.key.keys()], "setting");
    offer(fields.task_label, distinct(rows.map((row) => columns.task_label[row])).sort());
    rows = within(rows, "task_label");
    const families = distinct(rows.map((row) => columns.family[row]));
    offer(
      fields.family,
      catalogue.families.filter((family) => families.includes(family)),
    );
    rows = within(rows, "family");
    for (const [name, list] of [
      ["method", catalogue.methods],
      ["basis", catalogue.bases],
    ]) {
      const present = new Set(rows.map((row) => columns[name][row]));
      offer(
        fields[name],
        list.map((entry) => entry.name).filter((entry) => present.has(entry)),
      );
      form.querySelector(`[data-role="${name}"]`).hidden = fields.lines.value === name;
    }
    return within(rows, fields.lines.value === "basis" ? "method" : "basis");
  }

  const heading = () => {
    const {task_label: task, family, lines, method, basis} = form.elements;
    return `${task.value}, family ${family.value}, ${lines.value === "basis" ? `method ${method.value}` : `basis ${basis.value}`}`;
  };
  const setting = () => catalogue.settings[Number(form.elements.setting.value)];

  async function show(query) {
    const rows = choose(query);
    const kind = form.elements.lines.value;
    const x = form.elements.x.value;
    find("curve-setting").textContent = setting();
    const curves = rows.length ? await basisbench.load(`curves-${columns.curve[rows[0]]}`) : {};
    const looks = new Map((kind === "basis" ? catalogue.bases : catalogue.methods).map((look) => [look.name, look]));
    const order = [...looks.keys()];
    const lines = rows
      .map((row) => {
        const name = columns[kind][row];
        const twice = rows.some((other) => other !== row && columns[kind][other] === name);
        return {
          row,
          name: twice ? `${name} (cell ${columns.key[row]})` : name,
          look: looks.get(name),
          values: curves[columns.key[row]],
        };
      })
      .sort((a, b) => order.indexOf(a.look.name) - order.indexOf(b.look.name));
    const redraw = () => {
      shown = lines.filter((line) => !hidden.has(line.name));
      [...find("curve-figures").querySelectorAll(".plot")].forEach((place, index) => {
        const quantity = Object.keys(QUANTITIES)[index];
        const label = `${QUANTITIES[quantity].title} against ${X[x]}: ${heading()}.`;
        charts.draw(place, label, (light) => picture(shown, [quantity], x, form.elements.bands.checked, light));
      });
      find("curve-note").textContent = note(shown, x);
      fillValues();
    };
    find("curve-legend").replaceChildren(
      ...lines.map((line) => charts.legendEntry(line.name, line.look, hidden, redraw)),
    );
    redraw();
  }

  // Data and layout of one chart; several quantities share it where it shows one cell.
  function picture(lines, quantities, x, bands, light) {
    const look = charts.colours(light);
    const scale = charts.logAxis(lines.flatMap((line) => line.values[x]));
    const data = [];
    for (const line of lines) {
      for (const quantity of quantities) {
        const own = line.looks?.[quantity] ?? line.look;
        const colour = charts.lineColour(own.colour, light);
        const places = line.values[x].map(scale.place);
        const middle = line.values[quantity];
        if (middle.every(Number.isNaN)) continue;
        if (bands) data.push(band(places, line.values[`${quantity}_low`], line.values[`${quantity}_high`], colour));
        data.push({
          type: "scatter",
          mode: "lines+markers",
          name: charts.escape(line.names?.[quantity] ?? line.name),
          meta: {legend: true, row: line.row, quantity},
          x: places,
          y: middle,
          line: {color: colour, width: 1.8, dash: own.dash},
          marker: {symbol: own.symbol, size: 7, color: colour},
          customdata: middle.map((_, index) => hover(line.values, quantity, index)),
          hovertemplate: "<b>%{fullData.name}</b><br>%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
          cliponaxis: true,
        });
      }
    }
    const [low, high] = catalogue.window;
    const ideals = quantities.map((name) => QUANTITIES[name].ideal);
    return {
      data,
      layout: charts.layout(
        look,
        charts.axis(X[x], look, charts.logSettings(scale)),
        charts.axis(quantities.join(" and "), look, {range: [low, high], dtick: 0.25, tickformat: ".2~f"}),
        {
          shapes: ideals.map((y) => ({
            type: "line",
            xref: "paper",
            x0: 0,
            x1: 1,
            y0: y,
            y1: y,
            layer: "below",
            line: {color: look.muted, width: 1, dash: "dot"},
          })),
        },
      ),
    };
  }

  const band = (x, low, high, colour) => ({
    type: "scatter",
    mode: "lines",
    x: [...x, ...[...x].reverse()],
    y: [...high, ...[...low].reverse()],
    fill: "toself",
    fillcolor: charts.translucent(colour, 0.14),
    line: {width: 0},
    hoverinfo: "skip",
    showlegend: false,
  });

  function hover(values, quantity, index) {
    const size = values.size[index].toLocaleString("en").replaceAll(",", "\u202f");
    const place = `${size} nodes, ${numbers.significant(values.bits[index], 4)} bits, share ${numbers.significant(values.share[index], 3)}`;
    return [place, `${quantity} ${numbers.measured(values, quantity, index, 4)}`];
  }

  function note(lines, x) {
    const [low, high] = catalogue.window;
    const outside = Object.keys(QUANTITIES).reduce(
      (sum, name) =>
        sum + lines.flatMap((line) => line.values[name]).filter((value) => value < low || value > high).length,
      0,
    );
    const undefinedLines = lines
      .filter((line) => line.values.faithfulness.every(Number.isNaN))
      .map((line) => line.name);
    return [
      `Horizontal axis logarithmic, with 0 at the left end; bands are 95% bootstrap intervals over evaluation examples. ${NOTES[x]}`,
      outside
        ? `${outside} ${outside === 1 ? "value lies" : "values lie"} outside the range from ${low} to ${high} and ${outside === 1 ? "is" : "are"} in the table below.`
        : "",
      undefinedLines.length ? `Not defined, because F(M) is not above F(0): ${undefinedLines.join(", ")}.` : "",
      matchMedia("(pointer: coarse)").matches ? "" : "Drag to zoom, double-click to go back.",
    ]
      .filter(Boolean)
      .join(" ");
  }

  const VALUES = [
    "size",
    "bits",
    "share",
    "distinct_units",
    ...Object.keys(QUANTITIES).flatMap((name) => [name, `${name}_low`, `${name}_high`]),
  ];

  function fillValues() {
    const plain = {line: "name", nodes: "number", bits: "number", share: "number", units: "number"};
    const header = {...plain, faithfulness: "number", completeness: "number"};
    charts.fillTable(
      find("curve-values"),
      header,
      shown.flatMap(({name, values}) =>
        values.size.map((size, index) => [
          name,
          String(size),
          numbers.significant(values.bits[index], 5),
          numbers.significant(values.share[index], 4),
          numbers.significant(values.distinct_units[index], 5),
          numbers.measured(values, "faithfulness", index),
          numbers.measured(values, "completeness", index),
        ]),
      ),
    );
  }

  function saveValues() {
    const texts = [
      "cell_id",
      "model",
      "task",
      "task_version",
      "family",
      "basis",
      "method",
      "ablation",
      "error_policy",
      "granularity",
      "seed",
      "source",
    ];
    basisbench.saveCsv(
      "basisbench-curves.csv",
      [...texts, ...VALUES],
      shown.flatMap(({row, values}) =>
        values.size.map((_, index) => [
          ...texts.map((name) => columns[name][row]),
          ...VALUES.map((name) => values[name][index]),
        ]),
      ),
    );
  }

  return {start, show, picture};
})();
