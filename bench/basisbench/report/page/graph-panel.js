// The panel of a node, and the list of what is pinned.
"use strict";

basisbench.panel = (() => {
  const {element, find, graph, numbers, draw} = basisbench;
  const {data, nodes, state} = graph;

  const number = (value) => (value === null || value === undefined ? "-" : numbers.significant(value, 3));

  function facts(node) {
    const range = node.low !== null && node.low !== undefined ? ` [${number(node.low)}, ${number(node.high)}]` : "";
    const rows = [
      ["score", `${number(node.score)}${range}`, range && `least and largest of ${data.draws} draws; among the best in ${node.in_draws}`],
      ["clean", number(node.clean)],
      ["counterfactual", number(node.counterfactual)],
      ["change", number(node.change), "|clean - counterfactual| of a pair"],
      ["direct effect", number(node.direct), "straight to the logits"],
    ];
    return element(
      "dl",
      {class: "node-facts"},
      ...rows.flatMap(([name, value, meaning]) => [
        element("dt", {}, name),
        element("dd", {}, value, meaning && element("span", {class: "from"}, meaning)),
      ]),
    );
  }

  function words(title, some) {
    if (!some?.length) return null;
    return element("p", {class: "words"}, `${title} `, ...some.map((word) => element("code", {}, word.trim() || "␣")));
  }

  // A token is the darker the larger the unit is there, in the sign of its mean.
  function prompt({side, tokens, values}, sign) {
    const top = Math.max(...values.map((value) => sign * value), 1e-12);
    return element(
      "p",
      {class: "prompt"},
      element("span", {class: "side"}, side),
      ...tokens.map((token, place) => {
        const share = Math.max(0, (sign * values[place]) / top);
        const made = element("span", {class: "lit", title: number(values[place])}, token);
        made.style.setProperty("--share", `${Math.round(70 * share)}%`);
        return made;
      }),
    );
  }

  function ways(title, end, index) {
    const other = end === "source" ? "target" : "source";
    const found = graph.edgesOf(index, end).slice(0, 8);
    if (found.length === 0) return null;
    return element(
      "div",
      {class: "ways"},
      element("h3", {}, title),
      element(
        "ul",
        {},
        ...found.map((edge) =>
          element(
            "li",
            {},
            element(
              "button",
              {type: "button", onclick: () => basisbench.select(edge[other], true)},
              element("span", {class: edge.score < 0 ? "for" : "against"}, number(edge.score)),
              ` ${draw.name(nodes[edge[other]])}`,
              element("span", {class: "from"}, nodes[edge[other]].role),
            ),
          ),
        ),
      ),
    );
  }

  function show(focus) {
    const panel = find("panel");
    const index = state.at;
    if (index === null) return close();
    const node = nodes[index];
    const isNode = node.kind === "unit" || node.kind === "error";
    panel.replaceChildren(
      ...[
        element(
          "div",
          {class: "panel-head"},
          element("h2", {}, draw.name(node)),
          element("button", {type: "button", id: "pin", "aria-pressed": String(graph.isPinned(index)), onclick: () => basisbench.pin(index)}, graph.isPinned(index) ? "Unpin" : "Pin"),
          element("button", {type: "button", id: "close", "aria-label": "Close", onclick: () => basisbench.closePanel()}, "✕"),
        ),
        element("p", {class: "hint"}, isNode ? `${node.role}; ${node.kind === "error" ? "a coordinate of what the basis does not reconstruct" : `layer ${node.layer}`}` : node.kind === "token" ? `token, role ${node.role}` : `logit of the answer less that of the foil, at ${node.role}`),
        isNode && facts(node),
        words("raises", node.raised),
        words("lowers", node.lowered),
        node.address && element("p", {}, element("a", {href: safe(node.address), target: "_blank", rel: "noopener noreferrer"}, "its page on Neuronpedia")),
        node.prompts?.length && element("h3", {}, "Largest on"),
        ...(node.prompts ?? []).map((each) => prompt(each, node.clean < 0 ? -1 : 1)),
        ways("Strongest edges in", "target", index),
        ways("Strongest edges out", "source", index),
      ].filter(Boolean),
    );
    panel.hidden = false;
    if (focus) panel.focus({preventScroll: true});
  }

  const safe = (address) => (/^https:\/\//.test(address) ? address : null);

  function close() {
    find("panel").hidden = true;
  }

  function pins() {
    find("pins").hidden = state.pinned.length === 0;
    const entry = (index) =>
      element(
        "li",
        {},
        element("button", {type: "button", onclick: () => basisbench.select(index, true)}, draw.name(nodes[index]), element("span", {class: "from"}, nodes[index].role)),
        element("button", {type: "button", "aria-label": `Unpin ${draw.name(nodes[index])}`, onclick: () => basisbench.pin(index)}, "✕"),
      );
    const groups = state.groups.map(({name, members}, place) => {
      const made = element(
        "li",
        {class: "group"},
        element("span", {class: "group-name"}, name),
        element("button", {type: "button", onclick: () => basisbench.ungroup(place), "aria-label": `Ungroup ${name}`}, "ungroup"),
        element("ul", {}, ...members.map(entry)),
      );
      made.style.setProperty("--group", draw.GROUPS[place % draw.GROUPS.length]);
      return made;
    });
    find("pinned").replaceChildren(...groups, ...graph.ungrouped().map(entry));
    find("grouping").hidden = graph.ungrouped().length === 0;
  }

  return {show, close, pins};
})();
