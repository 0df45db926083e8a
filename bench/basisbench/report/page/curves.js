// Curves: faithfulness and completeness against the size of a circuit, a line per basis or per method.
"use strict";

basisbench.curves = (() => {
  const {catalogue, columns, find, numbers, charts, distinct, offer} = basisbench;
  const {X, QUANTITIES, picture, gateText, sizeText} = basisbench.lines;
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
            find("curve-setting").textContent,
          ),
        ),
      );
    }
  }

  // Offer what there is: tasks of the setting, families of the task, methods and bases of the family.
  function choose(query) {
    const fields = form.elements;
    if (query) basisbench.ask(form, query);
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
    if (query) basisbench.tellMissing(form, query);
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
  async function show(query) {
    const rows = choose(query);
    const kind = form.elements.lines.value;
    const x = form.elements.x.value;
    find("curve-setting").textContent = basisbench.rows.titleOf(Number(form.elements.setting.value), rows);
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

  function note(lines, x, chosen) {
    const [low, high] = catalogue.window;
    const outside = Object.keys(QUANTITIES).reduce(
      (sum, name) =>
        sum + lines.flatMap((line) => (line.of ? [] : line.values[name])).filter((value) => value < low || value > high).length,
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

  return {start, show};
})();
