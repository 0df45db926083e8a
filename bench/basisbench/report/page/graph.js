// Sliders, clicks and keys: changes the state and asks for one drawing a frame.
"use strict";

(() => {
  const {find, graph, draw, panel} = basisbench;
  const {data, nodes, state} = graph;

  let waiting = false;
  let all = false;
  function redraw(onlyEdges = false) {
    all ||= !onlyEdges;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      show(!all);
      waiting = all = false;
    });
  }

  function show(onlyEdges) {
    const {points, lines} = draw.draw(onlyEdges);
    const drawn = points.filter(({kind}) => kind === "unit" || kind === "error" || kind === "group").length;
    find("nodes-shown").textContent = `${drawn} of ${graph.scored}`;
    find("edges-shown").textContent = `${lines.length} of ${graph.edges.length}`;
    performance.mark("basisbench-graph-drawn");
  }

  const isOpen = () => !find("panel").hidden;

  function tell() {
    const node = state.at === null ? null : nodes[state.at];
    const score = node && node.score !== undefined ? `, score ${basisbench.numbers.significant(node.score, 3)}` : "";
    find("told").textContent = node ? `${draw.name(node)}, ${node.role}${score}${graph.isPinned(state.at) ? ", pinned" : ""}` : "";
  }

  basisbench.select = (index, open) => {
    graph.go(index);
    tell();
    if (open || isOpen()) panel.show(false);
    redraw();
  };

  basisbench.pin = (index) => {
    graph.pin(index);
    panel.pins();
    tell();
    if (isOpen()) panel.show(false);
    redraw();
  };

  basisbench.ungroup = (place) => {
    graph.ungroup(place);
    panel.pins();
    redraw();
  };

  basisbench.closePanel = () => {
    panel.close();
    find("graph").focus({preventScroll: true});
  };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, button, select, textarea") && event.key !== "Escape") return;
    const {key} = event;
    if (key.startsWith("Arrow")) {
      if (!find("graph").contains(document.activeElement)) return;
      if (graph.walk(key)) {
        tell();
        if (isOpen()) panel.show(false);
        redraw();
      }
    } else if (key === "Enter" && state.at !== null) panel.show(true);
    else if (key === "p" && state.at !== null) basisbench.pin(state.at);
    else if (key === "g" && state.pinned.length) find("group-name").focus();
    else if (key === "Escape") {
      if (isOpen()) basisbench.closePanel();
      else if (event.target.closest("#grouping")) find("graph").focus({preventScroll: true});
      else {
        state.at = null;
        tell();
        redraw();
      }
    } else return;
    event.preventDefault();
  }

  function paint() {
    document.documentElement.toggleAttribute("data-dark", dark.matches);
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  paint();
  dark.addEventListener("change", () => {
    paint();
    redraw();
  });

  find("about").textContent = data.about;
  for (const [name, most] of [
    ["nodes", graph.scored],
    ["edges", graph.edges.length],
  ]) {
    const slider = find(name);
    slider.max = String(most);
    slider.value = String(state[name]);
    slider.addEventListener("input", () => {
      state[name] = Number(slider.value);
      redraw(name === "edges" && !state.onlyPinned);
    });
  }
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  find("only-pinned").addEventListener("change", (event) => {
    state.onlyPinned = event.target.checked;
    redraw();
  });
  find("grouping").addEventListener("submit", (event) => {
    event.preventDefault();
    graph.group(find("group-name").value);
    find("group-name").value = "";
    panel.pins();
    find("graph").focus({preventScroll: true});
    redraw();
  });
  find("save-png").addEventListener("click", () => draw.save("png").catch(basisbench.tell));
  find("save-svg").addEventListener("click", () => draw.save("svg").catch(basisbench.tell));
  find("save-json").addEventListener("click", () =>
    basisbench.save("graph.json", new Blob([JSON.stringify(graph.layout(), null, 1)], {type: "application/json"})),
  );
  document.addEventListener("keydown", onKey);
  addEventListener("resize", () => redraw());

  show(false);
  find("graph").on("plotly_click", ({points}) => {
    basisbench.select(points[0].customdata, true);
    find("graph").focus({preventScroll: true});
  });
})();
