// The top nodes of a cell, each with example prompts of its task and template. A unit that plays the same role in several
// aligned groups is one row: there it is a node each, in a circuit too.
"use strict";

basisbench.nodes = (() => {
  const {element, scroll, numbers, distinct} = basisbench;
  const GROUP_KEY = /^(.*):(\d+(?:,\d+)*)(?::\d+\/\d+)?$/s;

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
      if (offset < count)
        return {...place, segment: index, tokens: count > 1 ? `token ${offset + 1} of ${count}` : null};
      offset -= count;
    }
    return place;
  }

  // [{nodes, place}]: the same unit in the same token of the same role, or at all positions.
  function merged(record) {
    const rows = new Map();
    for (const node of record.top_nodes) {
      const place = locate(node, record.groups);
      const role = node.position === null ? "all" : (node.role ?? [node.group, node.position]);
      const key = JSON.stringify([node.layer, node.unit, node.coordinate, role, place.tokens]);
      if (!rows.has(key)) rows.set(key, {nodes: [], place});
      rows.get(key).nodes.push(node);
    }
    for (const {nodes} of rows.values()) nodes.sort((a, b) => Math.abs(b.score) - Math.abs(a.score));
    return [...rows.values()];
  }

  function groupsOf(nodes) {
    const [first, ...others] = distinct(nodes.map(({group}) => group));
    if (others.length === 0) return [first];
    const more = element("details", {}, element("summary", {}, `and ${others.length} more`));
    more.append(...others.map((group) => element("span", {class: "from"}, group)));
    return [first, more];
  }

  function show(record, prompts, task) {
    if (record.top_nodes.length === 0) return [element("p", {}, "The record names no top nodes.")];
    const one = record.top_nodes.every((node) => node.position === null);
    const intro =
      `The ${record.top_nodes.length} nodes of largest |score|; a unit in the same role of several aligned groups is one row. Score: effect on the metric of moving the clean value to ${record.cell.score_reference === "ablation" ? "its reference" : "the counterfactual one"}, in logits. ` +
      (prompts.problem ??
        `Prompts are the first of the node's template in task ${task}, from the attribution split in the order of the record's seed; the segment of the node's role is marked. The tokenizer decides which of them entered the group.`);
    const head = {
      ...{"#": "number", layer: "number", unit: "number", score: "number"},
      ...(one ? {} : {position: "name"}),
      ...{group: "name", "example prompts": "name"},
    };
    const rows = merged(record).map(({nodes, place}, index) => {
      const [node] = nodes; // of the largest |score|
      return element(
        "tr",
        {},
        element("td", {class: "number"}, String(index + 1)),
        element("td", {class: "number"}, String(node.layer)),
        element(
          "td",
          {
            class: "number",
            title: node.unit === "error" ? "what the basis does not reconstruct at this layer and position" : null,
          },
          node.coordinate === null || node.coordinate === undefined ? String(node.unit) : `error ${node.coordinate}`,
        ),
        element(
          "td",
          {class: "number"},
          numbers.significant(node.score, 4),
          nodes.length > 1 &&
            element("span", {class: "from"}, `to ${numbers.significant(nodes.at(-1).score, 4)}`),
        ),
        !one &&
          element(
            "td",
            {class: "name"},
            node.position === null
              ? "all"
              : `${distinct(nodes.map(({position}) => position)).join(", ")}: ${node.role ?? "no role"}`,
            place.tokens && element("span", {class: "from"}, place.tokens),
          ),
        element("td", {class: "name group"}, ...groupsOf(nodes)),
        element("td", {class: "prompts"}, ...examples(node, place, prompts)),
      );
    });
    return [
      element("p", {class: prompts.problem ? "note" : "hint"}, intro),
      scroll(
        "Top nodes, scrolls sideways",
        element("table", {class: "nodes"}, basisbench.charts.headOf(head), element("tbody", {}, ...rows)),
      ),
    ];
  }

  function examples(node, place, prompts) {
    if (prompts.problem) return ["none"];
    if (place.template === null) return [place.problem];
    const pairs = (prompts.templates[place.template] ?? []).filter((pair) => pair.clean.length === place.segments);
    if (pairs.length === 0)
      return [`No prompts: the registered task has no template ${place.template} of ${place.segments} segments.`];
    const isBos = node.role === "bos";
    const marked =
      isBos || node.position === null
        ? null
        : place.segment !== undefined && pairs[0].clean[place.segment]?.[0] === node.role
          ? node.role
          : undefined;
    const note =
      marked === undefined
        ? element(
            "span",
            {class: "from"},
            `The role ${node.role} is not where the group's key puts it, so nothing is marked.`,
          )
        : null;
    const [first, ...others] = pairs.map((pair) => pairOf(pair, marked, isBos));
    return [
      note,
      ...first,
      others.length && element("details", {}, element("summary", {}, `${others.length} more`), ...others.flat()),
    ].filter(Boolean);
  }

  function pairOf(pair, marked, isBos) {
    const prompt = (side, segments, next) =>
      element(
        "span",
        {class: "prompt"},
        element("span", {class: "side"}, side),
        isBos && element("mark", {class: "bos", title: "the beginning-of-sequence token"}, "bos"),
        ...segments.map(([role, text]) => (role === marked ? marking(text) : text)),
        element("span", {class: "next"}, ` →${next.join(" /")}`),
      );
    return [prompt("clean", pair.clean, pair.answers), prompt("counterfactual", pair.counterfactual, pair.foils)];
  }

  // The space in front of a word belongs to its segment but need not be coloured.
  function marking(text) {
    const lead = text.length - text.trimStart().length;
    return element("span", {}, text.slice(0, lead), element("mark", {}, text.slice(lead)));
  }

  return {show};
})();
