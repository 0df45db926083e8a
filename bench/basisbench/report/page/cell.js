// The page of one cell: its summary, its curve, its top nodes with example prompts, and the whole record.
"use strict";

basisbench.cell = (() => {
  const {catalogue, columns, element, find, scroll, numbers, charts} = basisbench;
  const QUANTITIES = ["faithfulness", "completeness"];
  // Thin lines of cells that differ in one thing.
  const BESIDE_DASHES = ["6px,3px", "2px,2px", "12px,3px", "8px,3px,2px,3px", "4px,6px", "solid"];
  let redraw = null;

  async function show(key) {
    const row = columns.cell_id.indexOf(key);
    if (row < 0) {
      redraw = null;
      find("heading-cell").textContent = "No such cell";
      find("cell").replaceChildren(element("p", {}, "This page holds no cell of that identity."));
      return;
    }
    const [cells, curves, fields, prompts] = await Promise.all([
      basisbench.load(`cells-${Math.floor(row / catalogue.cellsPerFile)}`),
      basisbench.load(`curves-${columns.curve[row]}`),
      basisbench.load("fields"),
      basisbench.load("prompts"),
    ]);
    const detail = cells[key],
      curve = curves[key],
      {record} = detail;
    find("heading-cell").textContent = `${columns.basis[row]}, ${columns.method[row]}, on ${columns.task_label[row]}`;
    const gate = basisbench.lines.gateText(row);
    find("cell").replaceChildren(
      element("p", {class: "setting"}, titleOf(row)),
      element(
        "p",
        {},
        element("span", {class: `status ${columns.status[row]}`}, columns.status[row]),
        ` ${columns.source[row]} · `,
        settingOf(row) >= 0 && curvesLink(row),
      ),
      ...(gate ? [element("p", {class: "note"}, gate)] : []),
      ...(columns.no_mark[row] && !gate
        ? [element("p", {class: "note"}, `No best mark: ${columns.no_mark[row]}.`)]
        : []),
      element("h3", {}, "Summary"),
      scroll("Summary, scrolls sideways", summary(row)),
      element("h3", {}, "Curve"),
      figure(row, curve, curves),
      ...besideLinks(row),
      valuesOf(detail, curve, row),
      element("h3", {}, "Top nodes"),
      ...basisbench.nodes.show(record, prompts[detail.prompts], columns.task_label[row]),
      element("h3", {}, "Record"),
      element(
        "p",
        {class: "hint"},
        `Every field of ${detail.file}, but for its values per example, whose means stand above.`,
      ),
      ...parts({file: detail.file, id: detail.id, ...record}, fields),
    );
  }

  // The first setting that a cell is in; a basis without errors is in those of all error policies.
  const settingOf = (row) => catalogue.settings.findIndex(({rows}) => rows.includes(row));
  const titleOf = (row) =>
    settingOf(row) < 0 ? "In no setting: a cell like it stands there." : basisbench.rows.titleOf(settingOf(row), [row]);

  // The basis looks as everywhere; its completeness is hollow and dotted.
  function looksOf(row) {
    const {colour, dash, symbol} = catalogue.bases.find(({name}) => name === columns.basis[row]);
    return {faithfulness: {colour, dash, symbol}, completeness: {colour, dash: "1px,3px", symbol: `${symbol}-open`}};
  }

  function curvesLink(row) {
    const query = new URLSearchParams(["task_label", "family", "method"].map((name) => [name, columns[name][row]]));
    query.set("setting", settingOf(row));
    query.set("lines", "basis");
    return element("a", {href: `#curves?${query}`}, "compare its curve with other bases");
  }

  // Cells that differ from this one in one thing: in another setting each, never in the same table.
  function besideLinks(row) {
    const others = catalogue.beside[row] ?? [];
    if (others.length === 0) return [];
    const links = others.map(([, text, other]) =>
      element("a", {href: `#cell/${encodeURIComponent(columns.cell_id[other])}`}, text),
    );
    const listed = links.flatMap((link, index) => (index ? [", ", link] : [link]));
    return [element("p", {class: "hint"}, "The same cell otherwise (thin lines): ", ...listed, ".")];
  }

  function summary(row) {
    const made = element("table", {});
    const head = {metric: "name", value: "number", "95% interval": "number", meaning: "name"};
    const of = (name, digits = 2) => (Number.isNaN(columns[name][row]) ? "-" : columns[name][row].toFixed(digits));
    const facts = [
      ["accuracy", of("accuracy"), "share of examples on which the model prefers the answer to the foil"],
      ["F(M)", of("full_mean"), "mean metric of the unhooked model, in logits"],
      ["F(0)", of("empty_mean"), "mean metric of the empty circuit, in logits"],
      [
        "gap",
        `${of("gap")} (${numbers.percent(columns.gap_share[row])})`,
        `F(M) - F(0) at the family's outputs, in logits, with its share of |F(M)|; standard error ${of("gap_error")}`,
      ],
      [
        "nodes with a score",
        `${numbers.plain(columns.scored_nodes[row], "")} of ${numbers.plain(columns.total_nodes[row], "")}`,
        `per aligned group, of which there are ${columns.groups[row]}; beyond them the order is random`,
      ],
      ["units to 80%", numbers.plain(columns.units_to_80[row], ""), "distinct units of all groups together at nodes to 80%"],
    ];
    const fit = Number.isNaN(columns.fvu_mean[row])
      ? []
      : [
          ["FVU", of("fvu_mean", 3), `fraction of variance unexplained, mean over layers; largest ${of("fvu_max", 3)}`],
          ["L0", of("l0_mean", 1), "active units per position, mean over layers"],
          ["calibration slope", of("slope_min"), "smallest of a layer; 1 is calibrated, below 1 the decoder writes too much"],
          ["loss recovered", of("loss_recovered"), "share of the rise in next-token loss that the reconstruction avoids"],
        ];
    charts.fillTable(made, head, [
      ...facts.map(([name, value, meaning]) => [name, value, "", meaning]),
      ...Object.entries(catalogue.metrics).map(([name, metric]) => {
        const value = columns[name][row];
        const most = basisbench.rows.boundOf(name, row);
        const [low, high] = [columns[`${name}_low`]?.[row], columns[`${name}_high`]?.[row]];
        return [
          numbers.heading(metric),
          numbers.censored(value, metric.unit, most, basisbench.rows.partlyScored(row)),
          low === undefined || Number.isNaN(value) ? "" : numbers.interval(low, high, metric.unit, most),
          numbers.describe(metric),
        ];
      }),
      ...fit.map(([name, value, meaning]) => [name, value, "", meaning]),
    ]);
    return made;
  }

  function figure(row, curve, curves) {
    const looks = looksOf(row);
    const own = {row, values: curve, looks, names: Object.fromEntries(QUANTITIES.map((name) => [name, name]))};
    const beside = (catalogue.beside[row] ?? []).map(([, text, other], index) => ({
      row: other,
      of: "faithfulness",
      name: `faithfulness, ${text}`,
      look: {colour: looks.faithfulness.colour, dash: BESIDE_DASHES[index % BESIDE_DASHES.length]},
      values: curves[columns.cell_id[other]],
    }));
    const title = `${columns.basis[row]}, ${columns.method[row]}, ${columns.task_label[row]}`;
    const made = charts.figure("Faithfulness and completeness", "", (place) =>
      charts.savePicture(place, `cell-${columns.cell_id[row]}`, title, titleOf(row)),
    );
    const place = made.querySelector(".plot");
    const hidden = new Set();
    redraw = () => {
      const quantities = QUANTITIES.filter((name) => !hidden.has(name));
      const others = beside.filter(({name}) => !hidden.has(name));
      charts.draw(place, "Faithfulness and completeness against nodes.", (light) => {
        const {data, layout} = basisbench.lines.picture([own, ...others], quantities, "size", true, light);
        // Beside it stands faithfulness alone.
        return {data: data.filter(({meta}) => !meta || meta.row === row || meta.quantity === "faithfulness"), layout};
      });
    };
    new IntersectionObserver((entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      redraw();
    }).observe(place);
    const legend = element(
      "div",
      {class: "legend", role: "group", "aria-label": "Lines shown"},
      ...Object.entries(looks).map(([name, look]) => charts.legendEntry(name, look, hidden, () => redraw())),
      ...beside.map(({name, look}) => charts.legendEntry(name, look, hidden, () => redraw())),
    );
    made.insertBefore(legend, place);
    return made;
  }

  function valuesOf(detail, curve, row) {
    const {record, means} = detail;
    const table = element("table", {});
    const kl = record.curve.kl;
    const titles = [
      ...["nodes per group", "feature nodes", "error nodes", "units", "units in all groups", "bits"],
      ...["faithfulness", "completeness"],
      ...["mean metric of circuit", "of complement", ...(kl ? ["KL (nats)"] : [])],
    ];
    const head = Object.fromEntries(titles.map((title) => [title, "number"]));
    charts.fillTable(
      table,
      head,
      curve.size.map((size, index) => [
        basisbench.lines.sizeText(size, row),
        ...["feature_nodes", "error_nodes", "units"].map((name) => numbers.significant(record.curve[name][index], 5)),
        numbers.plain(curve.all_units[index], "units"),
        numbers.significant(curve.bits[index], 5),
        numbers.measured(curve, "faithfulness", index),
        numbers.measured(curve, "completeness", index),
        numbers.significant(means.circuit[index], 4),
        means.complement[index] === null ? "-" : numbers.significant(means.complement[index], 4),
        ...(kl ? [numbers.significant(kl[index], 4)] : []),
      ]),
    );
    return element(
      "details",
      {class: "values"},
      element("summary", {}, "The values as a table"),
      element(
        "p",
        {class: "hint"},
        `F(M) ${numbers.significant(means.full, 5)}, F(0) ${numbers.significant(means.empty, 5)} logits, means over ${columns.examples[row]} examples.`,
      ),
      scroll("Values of the curve, scrolls sideways", table),
    );
  }

  // The record, part by part, each field under its name with its meaning at hand.
  function parts(record, fields) {
    const single = Object.entries(record).filter(([, value]) => value === null || typeof value !== "object");
    const nested = Object.entries(record).filter(
      ([name, value]) => value !== null && typeof value === "object" && !["curve", "top_nodes"].includes(name),
    );
    return [
      element(
        "details",
        {class: "record", open: true},
        element("summary", {}, "file"),
        facts(Object.fromEntries(single), "", fields),
      ),
      ...nested.map(([name, value]) =>
        element(
          "details",
          {class: "record", open: ["identities", "cell", "cost", "environment", "sources"].includes(name)},
          element("summary", {}, name, fields[name] ? element("span", {class: "hint"}, ` ${fields[name]}`) : ""),
          body(value, name, fields),
        ),
      ),
    ];
  }

  const isEmpty = (value) => (Array.isArray(value) ? value : Object.keys(value)).length === 0;

  function body(value, path, fields) {
    if (isEmpty(value)) return element("p", {class: "hint"}, "none");
    if (Array.isArray(value))
      return value.some((entry) => entry !== null && typeof entry === "object")
        ? listTable(value)
        : element("p", {}, value.join(", "));
    return facts(value, `${path}.`, fields);
  }

  function listTable(entries) {
    const names = basisbench.distinct(entries.flatMap(Object.keys));
    const table = element("table", {});
    charts.fillTable(
      table,
      Object.fromEntries(names.map((name) => [name, typeof entries[0][name] === "number" ? "number" : "name"])),
      entries.map((entry) => names.map((name) => plain(entry[name]))),
    );
    return scroll("List, scrolls sideways", table);
  }

  // Name, value, meaning; what holds fields of its own takes the place of both.
  function facts(values, prefix, fields) {
    return element(
      "dl",
      {class: "facts"},
      ...Object.entries(values).flatMap(([name, value]) => {
        const meaning = fields[`${prefix}${name}`] ?? "";
        const nested = value !== null && typeof value === "object" && !Array.isArray(value) && !isEmpty(value);
        if (nested)
          return [
            element("dt", {}, name),
            element(
              "dd",
              {class: "part"},
              element("span", {class: "means"}, meaning),
              facts(value, `${prefix}${name}.`, fields),
            ),
          ];
        return [
          element("dt", {}, name),
          element("dd", {class: "value"}, plain(value)),
          element("dd", {class: "means"}, meaning),
        ];
      }),
    );
  }

  function plain(value) {
    if (value === null || value === undefined) return "null";
    if (value === "") return "empty";
    if (typeof value === "object")
      return isEmpty(value) ? "none" : Array.isArray(value) ? value.map(plain).join(", ") : JSON.stringify(value);
    return String(value);
  }

  return {show, redraw: () => redraw?.()};
})();
