// Curves: faithfulness and completeness against the size of a circuit, a line per basis or per method.
"use strict";

basisbench.curves = (() => {
  const {catalogue, columns, element, find, numbers, charts, distinct, offer} = basisbench;
  const X = {
    size: "circuit size k (nodes per aligned group)",
    bits: "bits to name the circuit, log2 C(N, k)",
    all_units: "distinct units in the circuits of all aligned groups",
  };
  const QUANTITIES = {
    faithfulness: {title: "Faithfulness", note: "of the circuit; 1: full model", ideal: 1},
    completeness: {title: "Completeness", note: "what the rest still does; 0: ideal", ideal: 0},
  };
  const NOTES = {
    size: "Nodes of bases of different width are not comparable; bits are.",
    bits: "Bits compare bases of different width.",
    all_units: "Records of schema 1 do not count the units of all groups together.",
  };
  // What the lines beside those of dictionaries are, where they show other error policies.
  const POLICIES = {node: "errors as one node each", ablate: "errors at reference"};
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
    let rows = catalogue.settings[Number(fields.setting.value)].rows;
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
    rows = within(rows, fields.lines.value === "basis" ? "method" : "basis");
    const kinds = distinct(rows.flatMap((row) => besideOf(row).map(([kind]) => kind)));
    const texts = {policies: "errors counted otherwise", none: "nothing"};
    offer(
      fields.beside,
      [...kinds.filter((kind) => kind !== "policies" || fields.lines.value === "basis"), "none"].map((kind) => [
        kind,
        texts[kind] ?? kind,
      ]),
      kinds.includes("policies") ? "policies" : "none",
    );
    fields.beside.closest("label").hidden = kinds.length === 0;
    return rows;
  }

  // [what to choose it by, in words, row] of each cell that stands beside a cell.
  const besideOf = (row) =>
    (catalogue.beside[row] ?? []).map(([column, text, other]) => [
      column === "error_policy" && columns.error_policy[other] in POLICIES ? "policies" : text,
      text,
      other,
    ]);

  const heading = () => {
    const {task_label: task, family, lines, method, basis} = form.elements;
    return `${task.value}, family ${family.value}, ${lines.value === "basis" ? `method ${method.value}` : `basis ${basis.value}`}`;
  };
  const setting = () => catalogue.settings[Number(form.elements.setting.value)].title;

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
          name: twice ? `${name} (cell ${columns.cell_id[row]})` : name,
          look: looks.get(name),
          values: curves[columns.cell_id[row]],
        };
      })
      .sort((a, b) => order.indexOf(a.look.name) - order.indexOf(b.look.name));
    const chosen = form.elements.beside.value;
    const beside = lines.flatMap((line) =>
      besideOf(line.row)
        .filter(([kind]) => kind === chosen)
        .map(([, text, row]) => ({
          ...line,
          row,
          of: line.name,
          name: `${line.name}, ${text}`,
          values: curves[columns.cell_id[row]],
          level: columns.error_policy[row] === "ablate" && chosen === "policies",
        })),
    );
    const redraw = () => {
      shown = [...lines, ...beside].filter((line) => !hidden.has(line.of ?? line.name));
      [...find("curve-figures").querySelectorAll(".plot")].forEach((place, index) => {
        const quantity = Object.keys(QUANTITIES)[index];
        const label = `${QUANTITIES[quantity].title} against ${X[x]}: ${heading()}.`;
        charts.draw(place, label, (light) => picture(shown, [quantity], x, form.elements.bands.checked, light));
      });
      find("curve-note").textContent = note(shown, x, chosen);
      fillValues();
    };
    const gates = distinct(rows.map((row) => gateText(row)).filter(Boolean));
    find("curve-gate").hidden = gates.length === 0;
    find("curve-gate").textContent = gates.join(" ");
    find("curve-legend").replaceChildren(
      ...lines.map((line) => charts.legendEntry(line.name, line.look, hidden, redraw)),
    );
    redraw();
  }

  // Why a cell is below a gate, with the raw values; "" where it is not.
  const gateText = (row) =>
    columns.gate[row] &&
    `Below a gate: ${columns.gate[row]}. F(M) ${columns.full_mean[row].toFixed(2)}, F(0) ${columns.empty_mean[row].toFixed(2)}, gap ${columns.gap[row].toFixed(2)} logits, accuracy ${columns.accuracy[row].toFixed(2)}: too little to explain, so it is in no median and gets no best mark.`;

  // Data and layout of one chart; several quantities share it where it shows one cell.
  function picture(lines, quantities, x, bands, light) {
    const look = charts.colours(light);
    const scale = charts.logAxis(lines.flatMap((line) => line.values[x]));
    const data = [];
    for (const line of lines) {
      for (const quantity of quantities) {
        if (line.level && quantity !== "faithfulness") continue;
        const own = line.looks?.[quantity] ?? line.look;
        const colour = charts.lineColour(own.colour, light);
        const {size} = line.values;
        // Bisected sizes have no complement; schema 1 has no units of all groups.
        const measured = [...size.keys()].filter(
          (index) => ![line.values[quantity][index], line.values[x][index]].some(Number.isNaN),
        );
        if (measured.length === 0) continue;
        const places = line.values[x].map(scale.place);
        const take = (list, part) => part.map((index) => list[index]);
        const trace = (part, more) => ({
          type: "scatter",
          mode: line.of ? "lines" : "lines+markers",
          name: charts.escape(line.names?.[quantity] ?? line.name),
          meta: {legend: true, row: line.row, quantity},
          x: take(places, part),
          y: take(line.values[quantity], part),
          line: {color: colour, width: line.of ? 1 : 1.8, dash: own.dash},
          marker: {symbol: own.symbol, size: 7, color: colour},
          customdata: part.map((index) => hover(line, quantity, index)),
          hovertemplate: "<b>%{fullData.name}</b><br>%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
          cliponaxis: true,
          ...more,
        });
        if (line.level) {
          const end = measured.at(-1);
          const level = {x: [scale.least, places[end]], y: [1, 1].map(() => line.values[quantity][end])};
          data.push(trace([end, end], {...level, line: {color: colour, width: 1, dash: "2px,2px"}}));
          continue;
        }
        if (bands && !line.of)
          data.push(
            band(
              take(places, measured),
              take(line.values[`${quantity}_low`], measured),
              take(line.values[`${quantity}_high`], measured),
              colour,
            ),
          );
        const scored = measured.filter((index) => size[index] <= columns.scored_nodes[line.row]);
        data.push(trace(scored, {}));
        if (scored.length === measured.length) continue;
        const beyond = measured.slice(scored.length - 1);
        data.push(trace(beyond, {opacity: 0.3, meta: {row: line.row, quantity, beyond: true}}));
        if (!line.of)
          data.push(
            trace(beyond.slice(0, 1), {
              mode: "markers",
              meta: {row: line.row, quantity, beyond: true},
              marker: {symbol: "line-ns-open", size: 16, color: colour, line: {width: 2, color: colour}},
            }),
          );
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

  function hover({row, values}, quantity, index) {
    const size = values.size[index].toLocaleString("en").replaceAll(",", "\u202f");
    const random = values.size[index] > columns.scored_nodes[row] ? ", in part in random order" : "";
    const units = Number.isNaN(values.all_units[index]) ? "" : `, ${values.all_units[index]} units in all groups`;
    const place = `${size} nodes per group${random}, ${numbers.significant(values.bits[index], 4)} bits${units}`;
    const logits = quantity === "faithfulness" ? `, metric ${values.metric_mean[index].toFixed(2)} logits` : "";
    return [place, `${quantity} ${numbers.measured(values, quantity, index, 4)}${logits}`];
  }

  function note(lines, x, chosen) {
    const [low, high] = catalogue.window;
    const outside = Object.keys(QUANTITIES).reduce(
      (sum, name) =>
        sum + lines.flatMap((line) => line.values[name]).filter((value) => value < low || value > high).length,
      0,
    );
    const undefinedLines = lines
      .filter((line) => line.values.faithfulness.every(Number.isNaN))
      .map((line) => line.name);
    const policies = distinct(lines.filter((line) => line.of).map((line) => columns.error_policy[line.row]));
    return [
      `Horizontal axis logarithmic, with 0 at the left end; bands are 95% bootstrap intervals. ${NOTES[x]}`,
      chosen === "policies" && policies.includes("node")
        ? "Thin: a dictionary's errors as one node per layer and position (Marks et al.), not one per coordinate."
        : "",
      chosen === "policies" && policies.includes("ablate")
        ? "Dotted levels: all features of a dictionary, errors at their reference."
        : "",
      !["none", "policies"].includes(chosen) ? `Thin: ${chosen}.` : "",
      lines.some((line) => basisbench.rows.partlyScored(line.row))
        ? "Faint beyond the tick: nodes without a score, in random order."
        : "",
      outside
        ? `${outside} ${outside === 1 ? "value lies" : "values lie"} outside the range from ${low} to ${high} and ${outside === 1 ? "is" : "are"} in the table below.`
        : "",
      undefinedLines.length ? `Not defined, because F(M) is F(0): ${undefinedLines.join(", ")}.` : "",
      matchMedia("(pointer: coarse)").matches ? "" : "Drag to zoom, double-click to go back.",
    ]
      .filter(Boolean)
      .join(" ");
  }

  const VALUES = [
    "size",
    "bits",
    "all_units",
    "metric_mean",
    ...Object.keys(QUANTITIES).flatMap((name) => [name, `${name}_low`, `${name}_high`]),
  ];

  function fillValues() {
    const plain = {line: "name", "nodes per group": "number", bits: "number", "units in all groups": "number"};
    const header = {...plain, "metric (logits)": "number", faithfulness: "number", completeness: "number"};
    charts.fillTable(
      find("curve-values"),
      header,
      shown.flatMap(({name, row, values}) =>
        values.size.map((size, index) => [
          name,
          sizeText(size, row),
          numbers.significant(values.bits[index], 5),
          numbers.plain(values.all_units[index], "units"),
          values.metric_mean[index].toFixed(3),
          numbers.measured(values, "faithfulness", index),
          numbers.measured(values, "completeness", index),
        ]),
      ),
    );
  }

  const sizeText = (size, row) => (size > columns.scored_nodes[row] ? `${size}, random order` : String(size));

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
      "granularity",
      "score_reference",
      "score_split",
      "bos",
      "attribution_draw",
      "error_policy",
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

  return {start, show, picture, gateText, sizeText};
})();
