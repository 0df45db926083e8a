// The graph, and what of it is shown, chosen, pinned and grouped. Nothing here touches the page.
"use strict";

basisbench.graph = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const {nodes} = data;
  const edges = data.edges.map(([source, target, score]) => ({source, target, score}));
  const scored = nodes.length - data.first - 1;
  const state = {
    nodes: scored,
    edges: Math.min(edges.length, Math.max(60, Math.round(edges.length / 4))),
    at: null,
    pinned: [],
    groups: [],
    onlyPinned: false,
  };

  const isPinned = (index) => state.pinned.includes(index);
  const groupOf = (index) => state.groups.findIndex(({members}) => members.includes(index));

  // Tokens and logits are always there; of the others the best, and what is pinned.
  function isShown(index) {
    if (state.onlyPinned) return isPinned(index);
    const rank = index - data.first;
    return rank < 0 || rank >= scored || rank < state.nodes || isPinned(index) || index === state.at;
  }

  // With only what is pinned, a group is one node: where its members are on average, with their edges summed.
  function picture() {
    const points = [];
    const pointOf = new Map();
    if (state.onlyPinned) {
      for (const {name, members} of state.groups) {
        const mean = (of) => members.reduce((sum, index) => sum + of(nodes[index]), 0) / members.length;
        const score = members.reduce((sum, index) => sum + (nodes[index].score ?? 0), 0);
        for (const index of members) pointOf.set(index, points.length);
        points.push({kind: "group", name, label: name, x: mean(({x}) => x), y: mean(({y}) => y), score, index: members[0]});
      }
    }
    nodes.forEach((node, index) => {
      if (!isShown(index) || pointOf.has(index)) return;
      pointOf.set(index, points.length);
      points.push({...node, index});
    });
    const lines = new Map();
    for (const {source, target, score} of edges) {
      const [from, to] = [pointOf.get(source), pointOf.get(target)];
      if (from === undefined || to === undefined || from === to) continue;
      if (!state.onlyPinned && lines.size >= state.edges) break;
      const key = from * points.length + to;
      if (lines.has(key)) lines.get(key).score += score;
      else lines.set(key, {from, to, source, target, score});
    }
    return {points, lines: [...lines.values()]};
  }

  // The edges into a node, or out of it, strongest first; only between what is shown.
  function edgesOf(index, end) {
    const other = end === "source" ? "target" : "source";
    return edges.filter((edge) => edge[end] === index && isShown(edge[other]));
  }

  // Up and down follow the strongest edge; left and right then take the next strongest of the same, before any step the
  // next best node.
  let step = null;
  function walk(key) {
    if (key === "ArrowUp" || key === "ArrowDown") {
      const end = key === "ArrowUp" ? "source" : "target";
      const other = end === "source" ? "target" : "source";
      if (state.at === null) return go(data.first);
      const ways = edgesOf(state.at, end).map((edge) => edge[other]);
      if (ways.length === 0) return false;
      go(ways[0]);
      step = {ways, place: 0};
      return true;
    }
    const move = key === "ArrowRight" ? 1 : -1;
    if (step && step.ways.length > 1) {
      const {ways} = step;
      const place = (step.place + move + ways.length) % ways.length;
      go(ways[place]);
      step = {ways, place};
      return true;
    }
    const order = nodes.map((_, index) => index).filter(isShown);
    const ranked = [...order.filter((index) => index >= data.first), ...order.filter((index) => index < data.first)];
    const place = ranked.indexOf(state.at);
    return go(ranked[place < 0 ? 0 : (place + move + ranked.length) % ranked.length]);
  }

  function go(index) {
    step = null;
    state.at = index;
    return true;
  }

  function pin(index) {
    if (!isPinned(index)) {
      state.pinned.push(index);
      return;
    }
    state.pinned = state.pinned.filter((other) => other !== index);
    for (const group of state.groups) group.members = group.members.filter((other) => other !== index);
    state.groups = state.groups.filter(({members}) => members.length);
  }

  const ungrouped = () => state.pinned.filter((index) => groupOf(index) < 0);

  function group(name) {
    const members = ungrouped();
    if (members.length === 0) return false;
    state.groups.push({name: name.trim() || `group ${state.groups.length + 1}`, members});
    return true;
  }

  const ungroup = (place) => state.groups.splice(place, 1);

  // circuit-tracer's layout: a group is its name, then the ids of its nodes.
  function layout() {
    const id = (index) => nodes[index].id;
    const qParams = {
      ...data.layout.qParams,
      pinnedIds: state.pinned.map(id),
      supernodes: state.groups.map(({name, members}) => [name, ...members.map(id)]),
      clickedId: state.at === null ? "" : id(state.at),
    };
    return {...data.layout, qParams};
  }

  return {data, nodes, edges, scored, state, isPinned, groupOf, picture, edgesOf, walk, go, pin, group, ungroup, ungrouped, layout};
})();
