// The page of one cell: its summary, its curve, its top nodes with example prompts, and the whole record.
"use strict";

basisbench.cell = (() => {
  const {element, find, numbers, charts} = basisbench;
  const GROUP_KEY = /^(.*):(\d+(?:,\d+)*)(?::\d+\/\d+)?$/s;
  const OWN = {faithfulness: {colour: "#0072B2", dash: "solid", symbol: "circle"}, completeness: {colour: "#D55E00", dash: "9px,3px", symbol: "square"}};
  let catalogue, columns, redraw = null;

  function start(everything, decoded) {
    catalogue = everything;
    columns = decoded;
  }

  async function show(key) {
    const row = columns.key.indexOf(key);
    if (row < 0) {
      redraw = null;
      find("heading-cell").textContent = "No such cell";
      find("cell").replaceChildren(element("p", {}, "This page holds no cell of that identity."));
      return;
    }
    const [cells, curves, fields, prompts] = await Promise.all([
      basisbench.load(`cells-${Math.floor(row / catalogue.cellsPerFile)}`), basisbench.load(`curves-${columns.curve[row]}`), basisbench.load("fields"), basisbench.load("prompts"),
    ]);
    const detail = cells[key], curve = curves[key], {record} = detail;
    find("heading-cell").textContent = `${columns.basis[row]}, ${columns.method[row]}, on ${columns.task_label[row]}`;
    find("cell").replaceChildren(
      element("p", {class: "setting"}, catalogue.settings[columns.setting[row]]),
      element("p", {}, element("span", {class: `status ${columns.status[row]}`}, columns.status[row]), ` ${columns.source[row]} · `, curvesLink(row)),
      element("h3", {}, "Summary"), scroll("Summary, scrolls sideways", summary(row)),
      element("h3", {}, "Curve"), figure(row, curve),
      valuesOf(detail, curve, row),
      element("h3", {}, "Top nodes"), ...topNodes(record, prompts[detail.prompts], columns.task_label[row]),
      element("h3", {}, "Record"),
      element("p", {class: "hint"}, `Every field of ${detail.file}, but for its values per example, whose means stand above.`),
      ...parts({file: detail.file, id: detail.id, ...record}, fields));
  }

  function curvesLink(row) {
    const query = new URLSearchParams(["setting", "task_label", "family", "method"].map((name) => [name, String(columns[name][row])]));
    query.set("lines", "basis");
    return element("a", {href: `#curves?${query}`}, "compare its curve with other bases");
  }

  const scroll = (label, table) => element("div", {class: "scroll", role: "region", "aria-label": label, tabindex: "0"}, table);

  function summary(row) {
    const names = Object.keys(catalogue.metrics);
    const made = element("table", {});
    const head = [["metric", false], ["value", true], ["95% interval", true], ["meaning", false]];
    charts.fillTable(made, head, names.map((name) => {
      const metric = catalogue.metrics[name], value = columns[name][row];
      const most = {nodes: columns.total_nodes[row], bits: columns.most_bits[row]}[metric.unit];
      const [low, high] = [columns[`${name}_low`]?.[row], columns[`${name}_high`]?.[row]];
      return [numbers.heading(metric), numbers.censored(value, metric.unit, most),
        low === undefined || Number.isNaN(value) ? "" : numbers.interval(low, high, metric.unit, most), numbers.describe(metric)];
    }));
    return made;
  }

  function figure(row, curve) {
    const lines = [{row, values: curve, looks: OWN, names: {faithfulness: "faithfulness", completeness: "completeness"}}];
    const title = `${columns.basis[row]}, ${columns.method[row]}, ${columns.task_label[row]}`;
    const made = charts.figure("Faithfulness and completeness", "", (place) => charts.savePicture(place, `cell-${columns.cell_id[row]}`, title, catalogue.settings[columns.setting[row]]));
    const place = made.querySelector(".plot");
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", "Faithfulness and completeness against nodes; the values are in the table below.");
    const hidden = new Set();
    redraw = () => charts.draw(place, (light) => basisbench.curves.picture(lines, Object.keys(OWN).filter((name) => !hidden.has(name)), "size", true, light)).catch(basisbench.tell);
    new IntersectionObserver((entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      redraw();
    }).observe(place);
    const legend = element("div", {class: "legend", role: "group", "aria-label": "Lines shown"}, ...Object.entries(OWN).map(([name, look]) => charts.legendEntry(name, look, hidden, () => redraw())));
    made.insertBefore(legend, place);
    return made;
  }

  function valuesOf(detail, curve, row) {
    const {record, means} = detail;
    const table = element("table", {});
    const measured = (name, index) => {
      if (Number.isNaN(curve[name][index])) return "n/a";
      const [middle, low, high] = ["", "_low", "_high"].map((end) => curve[`${name}${end}`][index].toFixed(3));
      return `${middle} [${low}, ${high}]`;
    };
    const kl = record.curve.kl;
    const head = [["nodes", true], ["feature nodes", true], ["error nodes", true], ["units", true], ["bits", true], ["share", true], ["faithfulness", true], ["completeness", true], ["mean metric of circuit", true], ["of complement", true], ...(kl ? [["KL (nats)", true]] : [])];
    charts.fillTable(table, head, curve.size.map((size, index) => [
      String(size), ...["feature_nodes", "error_nodes", "units"].map((name) => numbers.significant(record.curve[name][index], 5)),
      numbers.significant(curve.bits[index], 5), numbers.significant(curve.share[index], 4), measured("faithfulness", index), measured("completeness", index),
      numbers.significant(means.circuit[index], 4), numbers.significant(means.complement[index], 4), ...(kl ? [numbers.significant(kl[index], 4)] : []),
    ]));
    return element("details", {class: "values"}, element("summary", {}, "The values as a table"),
      element("p", {class: "hint"}, `F(M) ${numbers.significant(means.full, 5)}, F(0) ${numbers.significant(means.empty, 5)} logits, means over ${columns.examples[row]} examples.`),
      scroll("Values of the curve, scrolls sideways", table));
  }

  // 1. The group's key names its template and the tokens of each segment. 2. Position, less the beginning-of-sequence
  // token, falls into a segment. 3. Its role must be the node's, or nothing is marked.
  function locate(node, groups) {
    const found = GROUP_KEY.exec(node.group);
    if (!found) return {template: null, problem: `No prompts: the key of group ${node.group} names no template.`};
    const counts = found[2].split(",").map(Number);
    const place = {template: found[1], segments: counts.length, tokens: null};
    const group = groups.find((entry) => entry.key === node.group);
    if (node.position === null || !group) return place;
    let offset = node.position - (group.positions - counts.reduce((sum, count) => sum + count, 0));
    if (offset < 0) return {...place, tokens: "before the prompt"};
    for (const [index, count] of counts.entries()) {
      if (offset < count) return {...place, segment: index, tokens: count > 1 ? `token ${offset + 1} of ${count}` : null};
      offset -= count;
    }
    return place;
  }

  function topNodes(record, prompts, task) {
    if (record.top_nodes.length === 0) return [element("p", {}, "The record names no top nodes.")];
    const one = record.top_nodes.every((node) => node.position === null);
    const intro = `The ${record.top_nodes.length} nodes of largest |score|. Score: effect on the metric of replacing the clean value by the counterfactual one, in logits. ` +
      (prompts.problem ?? `Prompts are the first of the node's template in task ${task}, from the attribution split in the order of the record's seed; the segment of the node's role is marked. The tokenizer decides which of them entered the group.`);
    const head = element("tr", {}, ...[["#", 1], ["layer", 1], ["unit", 1], ["score", 1], ...(one ? [] : [["position", 0]]), ["group", 0], ["example prompts", 0]]
      .map(([title, number]) => element("th", {scope: "col", class: number ? "number" : null}, title)));
    const rows = record.top_nodes.map((node, index) => {
      const place = locate(node, record.groups);
      return element("tr", {},
        element("td", {class: "number"}, String(index + 1)), element("td", {class: "number"}, String(node.layer)),
        element("td", {class: "number", title: node.unit === "error" ? "what the basis does not reconstruct at this layer and position" : null}, String(node.unit)),
        element("td", {class: "number"}, numbers.significant(node.score, 4)),
        !one && element("td", {class: "name"}, node.position === null ? "all" : `${node.position}: ${node.role ?? "no role"}`, place.tokens && element("span", {class: "from"}, place.tokens)),
        element("td", {class: "name group"}, node.group),
        element("td", {class: "prompts"}, ...examples(node, place, prompts)));
    });
    return [element("p", {class: prompts.problem ? "note" : "hint"}, intro), scroll("Top nodes, scrolls sideways", element("table", {class: "nodes"}, element("thead", {}, head), element("tbody", {}, ...rows)))];
  }

  function examples(node, place, prompts) {
    if (prompts.problem) return ["none"];
    if (place.template === null) return [place.problem];
    const pairs = (prompts.templates[place.template] ?? []).filter((pair) => pair.clean.length === place.segments);
    if (pairs.length === 0) return [`No prompts: the registered task has no template ${place.template} of ${place.segments} segments.`];
    const isBos = node.role === "bos";
    const marked = isBos || node.position === null ? null : place.segment !== undefined && pairs[0].clean[place.segment]?.[0] === node.role ? node.role : undefined;
    const note = marked === undefined ? element("span", {class: "from"}, `The role ${node.role} is not where the group's key puts it, so nothing is marked.`) : null;
    const [first, ...others] = pairs.map((pair) => pairOf(pair, marked, isBos));
    return [note, ...first, others.length && element("details", {}, element("summary", {}, `${others.length} more`), ...others.flat())].filter(Boolean);
  }

  function pairOf(pair, marked, isBos) {
    const prompt = (side, segments, next) => element("span", {class: "prompt"}, element("span", {class: "side"}, side),
      isBos && element("mark", {class: "bos", title: "the beginning-of-sequence token"}, "bos"),
      ...segments.map(([role, text]) => (role === marked ? marking(text) : text)), element("span", {class: "next"}, ` →${next.join(" /")}`));
    return [prompt("clean", pair.clean, pair.answers), prompt("counterfactual", pair.counterfactual, pair.foils)];
  }

  // The space in front of a word belongs to its segment but need not be coloured.
  function marking(text) {
    const lead = text.length - text.trimStart().length;
    return element("span", {}, text.slice(0, lead), element("mark", {}, text.slice(lead)));
  }

  // The record, part by part, each field under its name with its meaning at hand.
  function parts(record, fields) {
    const single = Object.entries(record).filter(([, value]) => value === null || typeof value !== "object");
    const nested = Object.entries(record).filter(([name, value]) => value !== null && typeof value === "object" && !["curve", "top_nodes"].includes(name));
    return [
      element("details", {class: "record", open: true}, element("summary", {}, "file"), facts(Object.fromEntries(single), "", fields)),
      ...nested.map(([name, value]) => element("details", {class: "record", open: ["identities", "cell", "cost", "environment", "sources"].includes(name)},
        element("summary", {}, name, fields[name] ? element("span", {class: "hint"}, ` ${fields[name]}`) : ""), body(value, name, fields))),
    ];
  }

  const isEmpty = (value) => (Array.isArray(value) ? value : Object.keys(value)).length === 0;

  function body(value, path, fields) {
    if (isEmpty(value)) return element("p", {class: "hint"}, "none");
    if (Array.isArray(value)) return value.some((entry) => entry !== null && typeof entry === "object") ? listTable(value) : element("p", {}, value.join(", "));
    return facts(value, `${path}.`, fields);
  }

  function listTable(entries) {
    const names = basisbench.distinct(entries.flatMap(Object.keys));
    const table = element("table", {});
    charts.fillTable(table, names.map((name) => [name, typeof entries[0][name] === "number"]), entries.map((entry) => names.map((name) => plain(entry[name]))));
    return scroll("List, scrolls sideways", table);
  }

  // Name, value, meaning; what holds fields of its own takes the place of both.
  function facts(values, prefix, fields) {
    return element("dl", {class: "facts"}, ...Object.entries(values).flatMap(([name, value]) => {
      const meaning = fields[`${prefix}${name}`] ?? "";
      const nested = value !== null && typeof value === "object" && !Array.isArray(value) && !isEmpty(value);
      if (nested) return [element("dt", {}, name), element("dd", {class: "part"}, element("span", {class: "means"}, meaning), facts(value, `${prefix}${name}.`, fields))];
      return [element("dt", {}, name), element("dd", {class: "value"}, plain(value)), element("dd", {class: "means"}, meaning)];
    }));
  }

  function plain(value) {
    if (value === null || value === undefined) return "null";
    if (value === "") return "empty";
    if (typeof value === "object") return isEmpty(value) ? "none" : Array.isArray(value) ? value.map(plain).join(", ") : JSON.stringify(value);
    return String(value);
  }

  return {start, show, redraw: () => redraw?.()};
})();
