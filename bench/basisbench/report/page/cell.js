// The page of one cell: its summary, its curve, its top nodes with example prompts, and the whole record.
"use strict";

basisbench.cell = (() => {
  const {catalogue, columns, element, find, scroll, numbers, charts} = basisbench;
  const OWN = {
    faithfulness: {colour: "#0072B2", dash: "solid", symbol: "circle"},
    completeness: {colour: "#D55E00", dash: "9px,3px", symbol: "square"},
  };
  let redraw = null;

  async function show(key) {
    const row = columns.key.indexOf(key);
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
    find("cell").replaceChildren(
      element("p", {class: "setting"}, catalogue.settings[columns.setting[row]]),
      element(
        "p",
        {},
        element("span", {class: `status ${columns.status[row]}`}, columns.status[row]),
        ` ${columns.source[row]} · `,
        curvesLink(row),
      ),
      element("h3", {}, "Summary"),
      scroll("Summary, scrolls sideways", summary(row)),
      element("h3", {}, "Curve"),
      figure(row, curve),
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

  function curvesLink(row) {
    const query = new URLSearchParams(
      ["setting", "task_label", "family", "method"].map((name) => [name, String(columns[name][row])]),
    );
    query.set("lines", "basis");
    return element("a", {href: `#curves?${query}`}, "compare its curve with other bases");
  }

  function summary(row) {
    const names = Object.keys(catalogue.metrics);
    const made = element("table", {});
    const head = {metric: "name", value: "number", "95% interval": "number", meaning: "name"};
    charts.fillTable(
      made,
      head,
      names.map((name) => {
        const metric = catalogue.metrics[name],
          value = columns[name][row];
        const most = {nodes: columns.total_nodes[row], bits: columns.most_bits[row]}[metric.unit];
        const [low, high] = [columns[`${name}_low`]?.[row], columns[`${name}_high`]?.[row]];
        return [
          numbers.heading(metric),
          numbers.censored(value, metric.unit, most),
          low === undefined || Number.isNaN(value) ? "" : numbers.interval(low, high, metric.unit, most),
          numbers.describe(metric),
        ];
      }),
    );
    return made;
  }

  function figure(row, curve) {
    const lines = [
      {row, values: curve, looks: OWN, names: {faithfulness: "faithfulness", completeness: "completeness"}},
    ];
    const title = `${columns.basis[row]}, ${columns.method[row]}, ${columns.task_label[row]}`;
    const made = charts.figure("Faithfulness and completeness", "", (place) =>
      charts.savePicture(place, `cell-${columns.cell_id[row]}`, title, catalogue.settings[columns.setting[row]]),
    );
    const place = made.querySelector(".plot");
    const hidden = new Set();
    redraw = () => {
      const quantities = Object.keys(OWN).filter((name) => !hidden.has(name));
      charts.draw(place, "Faithfulness and completeness against nodes.", (light) =>
        basisbench.curves.picture(lines, quantities, "size", true, light),
      );
    };
    new IntersectionObserver((entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      redraw();
    }).observe(place);
    const legend = element(
      "div",
      {class: "legend", role: "group", "aria-label": "Lines shown"},
      ...Object.entries(OWN).map(([name, look]) => charts.legendEntry(name, look, hidden, () => redraw())),
    );
    made.insertBefore(legend, place);
    return made;
  }

  function valuesOf(detail, curve, row) {
    const {record, means} = detail;
    const table = element("table", {});
    const kl = record.curve.kl;
    const titles = [
      ...["nodes", "feature nodes", "error nodes", "units", "bits", "share", "faithfulness", "completeness"],
      ...["mean metric of circuit", "of complement", ...(kl ? ["KL (nats)"] : [])],
    ];
    const head = Object.fromEntries(titles.map((title) => [title, "number"]));
    charts.fillTable(
      table,
      head,
      curve.size.map((size, index) => [
        String(size),
        ...["feature_nodes", "error_nodes", "units"].map((name) => numbers.significant(record.curve[name][index], 5)),
        numbers.significant(curve.bits[index], 5),
        numbers.significant(curve.share[index], 4),
        numbers.measured(curve, "faithfulness", index),
        numbers.measured(curve, "completeness", index),
        numbers.significant(means.circuit[index], 4),
        numbers.significant(means.complement[index], 4),
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
