// Draws the graph with plotly.js: bands of layers, edges as curves in a few widths, nodes on top.
"use strict";

basisbench.draw = (() => {
  const {find, graph} = basisbench;
  const {data, nodes, state} = graph;
  const WIDTHS = [0.6, 1.2, 2.2, 4];
  const OPACITIES = [0.3, 0.42, 0.55, 0.7];
  const ROOM = {x: 54, y: 124}; // pixels around the graph
  const GROUPS = ["#7b3fb3", "#00856f", "#b8860b", "#c2185b", "#3b6fd4", "#6d4c41"];

  const escape = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  function look(light) {
    const dark = !light && document.documentElement.hasAttribute("data-dark");
    return dark
      ? {ground: "#14171c", band: "#1b2027", ink: "#e6e9ee", muted: "#a2abb7", line: "#343b46", end: "#98a2b0", for: "#6aaef6", against: "#ff9a5c", chosen: "#f3e04a"}
      : {ground: "#ffffff", band: "#f5f7f9", ink: "#1b1f24", muted: "#59616b", line: "#d9dde3", end: "#6b7480", for: "#1a66b3", against: "#d1570b", chosen: "#d6006f"};
  }

  const endOf = (stretches) => stretches.at(-1).start + stretches.at(-1).length;
  const [right, top] = [endOf(data.columns), endOf(data.bands)];
  const narrowest = Math.min(...data.columns.map(({length}) => length));
  const most = Math.max(1e-12, ...graph.edges.map(({score}) => Math.abs(score)));
  const largest = Math.max(1e-12, ...nodes.map(({score}) => Math.abs(score ?? 0)));

  const colourOf = (score, colours) => (score === undefined || score === null ? colours.end : score < 0 ? colours.for : colours.against);
  const bucket = (score) => Math.min(WIDTHS.length - 1, Math.floor(Math.sqrt(Math.abs(score) / most) * WIDTHS.length));

  // All edges of one sign and width are one path of curves that leave and arrive upright: plotly draws a line with gaps
  // as an element for each piece, which is slow for thousands.
  function edgeShapes({points, lines}, colours) {
    const chosen = (line) => points[line.from].index === state.at || points[line.to].index === state.at;
    const some = state.at !== null && lines.some(chosen);
    const paths = new Map();
    for (const line of lines) {
      const {x, y} = points[line.from];
      const end = points[line.to];
      const middle = (y + end.y) / 2;
      const key = [chosen(line) ? 1 : 0, line.score < 0 ? -1 : 1, bucket(line.score)].join(" ");
      if (!paths.has(key)) paths.set(key, []);
      paths.get(key).push(`M${x},${y}C${x},${middle} ${end.x},${middle} ${end.x},${end.y}`);
    }
    return [...paths].sort(([one], [other]) => (one < other ? -1 : 1)).map(([key, path]) => {
      const [near, sign, width] = key.split(" ").map(Number);
      return {
        type: "path",
        layer: "below",
        path: path.join(""),
        line: {color: colourOf(sign, colours), width: WIDTHS[width] + 0.8 * near},
        fillcolor: "rgba(0,0,0,0)",
        opacity: near ? 0.95 : some ? 0.13 : OPACITIES[width],
      };
    });
  }

  function hover(point) {
    const score = point.score === undefined ? "" : `<br>score ${basisbench.numbers.significant(point.score, 3)}`;
    if (point.kind === "group") return `<b>${escape(point.name)}</b><br>group${score}`;
    return `<b>${escape(name(point))}</b><br>${escape(point.role)}${score}`;
  }

  // How a node is called where it stands alone.
  function name(node) {
    if (node.kind === "token") return `token ${node.token.trim() || "·"}`;
    if (node.kind === "logits" || node.kind === "group") return node.name;
    return `layer ${node.layer}, ${node.kind === "unit" ? "unit " : ""}${node.name}`;
  }

  const SYMBOLS = {unit: "circle", error: "diamond", token: "square", logits: "square", group: "hexagon"};

  function nodeTraces({points}, colours, pixels) {
    const size = (point) => {
      const share = Math.sqrt(Math.abs(point.score ?? 0) / largest);
      const own = point.kind === "token" || point.kind === "logits" ? 9 : point.kind === "group" ? 18 : 6 + 12 * share;
      return point.kind === "group" ? own : Math.max(4, Math.min(own, pixels * 1.1));
    };
    const shared = {type: "scatter", x: points.map(({x}) => x), y: points.map(({y}) => y)};
    const ring = points.map(({index}) => (index === state.at ? 3.5 : graph.isPinned(index) ? 2.4 : 0.8));
    const rim = points.map(({index}) => {
      if (index === state.at) return colours.chosen;
      const group = graph.groupOf(index);
      return group >= 0 ? GROUPS[group % GROUPS.length] : graph.isPinned(index) ? colours.ink : colours.ground;
    });
    const named = points.filter((point) => point.kind === "group" || graph.isPinned(point.index));
    return [
      {
        ...shared,
        mode: "markers",
        customdata: points.map(({index}) => index),
        text: points.map(hover),
        hovertemplate: "%{text}<extra></extra>",
        marker: {
          size: points.map(size),
          symbol: points.map(({kind}) => SYMBOLS[kind]),
          color: points.map(({score}) => colourOf(score, colours)),
          line: {width: ring, color: rim},
          opacity: 1,
        },
      },
      {
        type: "scatter",
        mode: "markers+text",
        hoverinfo: "skip",
        marker: {size: 19, opacity: 0}, // keeps the text off the node
        x: named.map(({x}) => x),
        y: named.map(({y}) => y),
        text: named.map(label),
        textposition: named.map(({x}) => (x > 0.7 * right ? "middle left" : "middle right")),
        textfont: {size: 11, color: colours.ink},
        cliponaxis: false,
      },
    ];
  }

  function label(point) {
    const group = graph.groupOf(point.index);
    const own = point.kind === "token" ? point.token.trim() : point.kind === "unit" ? `unit ${point.name}` : point.name;
    const front = group >= 0 && point.kind !== "group" ? `${graph.state.groups[group].name}: ` : "";
    return escape(front + own);
  }

  const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

  const background = (colours) => [
    ...data.bands
      .filter((_, place) => place % 2 === 0)
      .map(({start, length}) => ({
        ...{type: "rect", layer: "below", x0: 0, x1: right, y0: start, y1: start + length},
        ...{fillcolor: colours.band, line: {width: 0}},
      })),
    ...data.columns.slice(1).map(({start}) => ({
      ...{type: "line", layer: "below", x0: start, x1: start, y0: 0, y1: top},
      line: {color: colours.line, width: 0.6},
    })),
  ];

  function plan(colours, {width, height}, edges) {
    const upright = (narrowest * (width - ROOM.x)) / right < 48; // two lines aslant would touch those beside them
    const middle = ({start, length}) => start + length / 2;
    const axis = {showgrid: false, zeroline: false, ticks: "", tickfont: {size: 11, color: colours.muted}, fixedrange: false};
    return {
      width,
      height,
      uirevision: "kept",
      paper_bgcolor: colours.ground,
      plot_bgcolor: colours.ground,
      font: {family: "system-ui, sans-serif", size: 12, color: colours.ink},
      margin: {l: 46, r: 8, t: 8, b: ROOM.y - 8},
      showlegend: false,
      hovermode: "closest",
      hoverdistance: 14,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      hoverlabel: {bgcolor: colours.ground, bordercolor: colours.line, font: {color: colours.ink, size: 12}, align: "left"},
      shapes: [...background(colours), ...edges],
      xaxis: {
        ...axis,
        range: [-0.2, right + 0.2],
        tickvals: data.columns.map(middle),
        ticktext: data.columns.map(({name, token}) => `${escape(short(name, 18))}<br><i>${escape(short(token.trim(), 12))}</i>`),
        tickangle: upright ? -90 : -50,
      },
      yaxis: {
        ...axis,
        range: [-0.1, top + 0.1],
        tickvals: data.bands.map(middle),
        ticktext: data.bands.map(({name}) => (/^\d+$/.test(name) ? `L${name}` : name)),
      },
    };
  }

  // A phone scrolls the graph sideways inside itself where nodes would touch.
  function sizes() {
    const width = Math.max(find("graph").parentElement.clientWidth, Math.min(2600, ROOM.x + right * 14));
    const height = Math.max(420, Math.min(1600, ROOM.y + top * Math.max(13, Math.min(34, 540 / top))));
    return {width, height, pixels: Math.min((width - ROOM.x) / right, (height - ROOM.y) / top)};
  }

  function build(light) {
    const size = sizes();
    const colours = look(light);
    const picture = graph.picture();
    return {
      picture,
      data: nodeTraces(picture, colours, size.pixels),
      layout: plan(colours, size, edgeShapes(picture, colours)),
    };
  }

  const CONFIG = {displayModeBar: false, doubleClick: "reset"};

  // Where only edges changed, nodes are left as they are.
  function draw(onlyEdges = false) {
    const place = find("graph");
    if (onlyEdges) {
      const colours = look(false);
      const picture = graph.picture();
      Plotly.relayout(place, {shapes: [...background(colours), ...edgeShapes(picture, colours)]});
      return picture;
    }
    const {picture, data: traces, layout} = build(false);
    Plotly.react(place, traces, layout, CONFIG);
    return picture;
  }

  async function save(format) {
    const {data: traces, layout} = build(true);
    const {width, height} = layout;
    const title = {text: `${escape(data.title)}<br><span style="font-size:12px">${escape(data.about)}; blue: the answer needs it, orange: works against it</span>`, font: {size: 16}, x: 0.02, xanchor: "left", y: 1 - 30 / (height + 62), yanchor: "top"};
    const picture = await Plotly.toImage(
      {data: traces, layout: {...layout, title, height: height + 62, margin: {...layout.margin, t: 70}}},
      {format, width: Math.max(width, 900), height: height + 62, scale: format === "png" ? 2 : 1},
    );
    basisbench.save(`${data.layout.metadata.slug}.${format}`, picture);
  }

  return {draw, save, name, GROUPS};
})();
