// What both kinds of chart share: the library, loaded when a chart is first seen; axes; legends; pictures.
"use strict";

basisbench.charts = (() => {
  const {element, find, numbers, offer} = basisbench;

  const library = () => basisbench.addScript("plotly.min.js");

  // Text in a chart may hold a few tags, so what strangers wrote is escaped.
  const escape = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  function colours(light = false) {
    if (light) return {ground: "#ffffff", ink: "#1b1f24", muted: "#59616b", grid: "#e4e7eb", line: "#b9c0c9"};
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return {ground: of("--ground"), ink: of("--ink"), muted: of("--muted"), grid: of("--grid"), line: of("--line")};
  }

  // Black lines turn white where the ground is dark; the other colours keep their contrast.
  const lineColour = (colour, light) =>
    colour === "#000000" && !light && document.documentElement.hasAttribute("data-dark") ? "#f2f4f7" : colour;

  function translucent(colour, share) {
    const [red, green, blue] = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
    return `rgba(${red},${green},${blue},${share})`;
  }

  // A logarithmic axis has no 0: it stands left of the least positive value, a third of it, under a tick that says 0.
  function logAxis(values) {
    const positive = values.filter((value) => value > 0 && Number.isFinite(value));
    let least = positive.length ? Math.min(...positive) : 1,
      most = positive.length ? Math.max(...positive) : 10;
    // Values that hardly differ should look so: an axis spans a factor of 3 at least.
    const widen = Math.sqrt(Math.max(1, 3 / (most / least)));
    [least, most] = [least / widen, most * widen];
    const zero = least / 3;
    const hasZero = values.some((value) => value === 0);
    const steps = most / least < 6 ? [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8] : most / least < 300 ? [1, 2, 5] : [1];
    const ticks = [];
    for (let power = Math.floor(Math.log10(least)); 10 ** power <= most * 1.3; power++) {
      ticks.push(
        ...steps.map((step) => step * 10 ** power).filter((value) => value >= least * 0.9 && value <= most * 1.1),
      );
    }
    return {
      place: (value) => (value > 0 ? value : zero),
      least: hasZero ? zero : least,
      most,
      zero,
      ticks: [...(hasZero ? [[zero, "0"]] : []), ...ticks.map((value) => [value, numbers.short(value)])],
    };
  }

  function axis(title, look, settings) {
    return {
      title: {text: title, font: {size: 13, color: look.muted}, standoff: 8},
      automargin: true,
      zeroline: false,
      showline: true,
      linecolor: look.line,
      gridcolor: look.grid,
      tickcolor: look.line,
      ticks: "outside",
      ticklen: 4,
      tickfont: {size: 12, color: look.muted},
      ...settings,
    };
  }

  function logSettings(scale) {
    const margin = 0.03 * Math.log10(scale.most / scale.least) + 0.03;
    return {
      type: "log",
      tickmode: "array",
      tickvals: scale.ticks.map(([value]) => value),
      ticktext: scale.ticks.map(([, text]) => text),
      range: [Math.log10(scale.least) - margin, Math.log10(scale.most) + margin],
    };
  }

  function layout(look, x, y, extra = {}) {
    return {
      paper_bgcolor: look.ground,
      plot_bgcolor: look.ground,
      font: {family: "system-ui, sans-serif", size: 12, color: look.ink},
      margin: {l: 56, r: 12, t: 8, b: 48},
      showlegend: false,
      hovermode: "closest",
      hoverdistance: 24,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      hoverlabel: {
        bgcolor: look.ground,
        bordercolor: look.line,
        font: {color: look.ink, size: 12},
        align: "left",
        namelength: -1,
      },
      xaxis: x,
      yaxis: y,
      ...extra,
    };
  }

  const CONFIG = {displayModeBar: false, responsive: true, doubleClick: "reset+autosize"};

  // Draw into a figure's plot; `build(light)` gives {data, layout}, and is asked again for a picture on white.
  async function draw(place, label, build, drawn = () => {}) {
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${label} The values are in the table below.`);
    place.chart = build;
    if (!place.hasChildNodes()) place.append(element("p", {class: "waiting"}, "Drawing …"));
    try {
      await library();
      if (place.chart !== build || !place.isConnected) return; // something else was asked for meanwhile
      place.querySelector(".waiting")?.remove();
      const {data, layout: plan} = build(false);
      await Plotly.react(place, data, plan, CONFIG);
      drawn();
    } catch (error) {
      basisbench.tell(error);
    }
  }

  async function savePicture(place, name, title, subtitle) {
    const {data, layout: plan} = place.chart(true);
    const picture = await Plotly.toImage(
      {
        data: data.map((trace) => ({...trace, showlegend: trace.meta?.legend === true})),
        layout: {
          ...plan,
          showlegend: true,
          legend: {orientation: "h", yanchor: "top", y: -0.13, x: 0, font: {size: 12}},
          title: {
            text: `${escape(title)}<br><span style="font-size:12px">${wrapped(subtitle, 130)}</span>`,
            font: {size: 17},
            x: 0.02,
            xanchor: "left",
            y: 0.965,
            yanchor: "top",
          },
          margin: {l: 70, r: 30, t: 84, b: 60},
        },
      },
      {format: "png", width: 1000, height: 680, scale: 2},
    );
    basisbench.save(`${name.replace(/[^\w.-]+/g, "_").slice(0, 120)}.png`, picture);
  }

  function wrapped(text, width) {
    const lines = [""];
    for (const word of text.split(" ")) {
      if (lines.at(-1).length + word.length > width) lines.push("");
      lines[lines.length - 1] += `${lines.at(-1) ? " " : ""}${word}`;
    }
    return lines.map(escape).join("<br>");
  }

  const SYMBOLS = {
    circle: "M-4,0a4,4 0 1 0 8,0a4,4 0 1 0 -8,0",
    square: "M-3.5,-3.5h7v7h-7z",
    diamond: "M0,-4.8L4.8,0L0,4.8L-4.8,0z",
    cross: "M-1.4,-4.2h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8v-2.8h2.8z",
    x: "M-4,-2.2L-2.2,-4L0,-1.8L2.2,-4L4,-2.2L1.8,0L4,2.2L2.2,4L0,1.8L-2.2,4L-4,2.2L-1.8,0z",
    "triangle-up": "M0,-4.4L4.2,3.4H-4.2z",
    "triangle-down": "M0,4.4L4.2,-3.4H-4.2z",
    "triangle-left": "M-4.4,0L3.4,-4.2V4.2z",
    "triangle-right": "M4.4,0L-3.4,-4.2V4.2z",
    hexagon: "M4,0L2,3.5H-2L-4,0L-2,-3.5H2z",
    pentagon: "M0,-4.4L4.2,-1.4L2.6,3.6H-2.6L-4.2,-1.4z",
    star: "M0,-4.8L1.2,-1.6L4.6,-1.5L1.9,.6L2.8,3.9L0,2L-2.8,3.9L-1.9,.6L-4.6,-1.5L-1.2,-1.6z",
  };

  // How a line or point looks, for a legend that is usable by keyboard.
  function swatch({colour, dash, symbol}) {
    const space = "http://www.w3.org/2000/svg";
    const make = (tag, attributes) => {
      const made = document.createElementNS(space, tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      return made;
    };
    const width = dash ? 34 : 14;
    const picture = make("svg", {width, height: 12, viewBox: `0 0 ${width} 12`, "aria-hidden": "true"});
    const stroke = colour ? lineColour(colour, false) : "currentColor";
    if (dash)
      picture.append(
        make("path", {
          d: "M0,6H34",
          stroke,
          "stroke-width": 2,
          "stroke-dasharray": dash === "solid" ? "none" : dash.replaceAll("px", ""),
        }),
      );
    if (symbol) {
      const hollow = symbol.endsWith("-open");
      const paint = hollow ? {fill: "none", stroke, "stroke-width": 1.5} : {fill: stroke};
      const d = SYMBOLS[symbol.replace("-open", "")];
      picture.append(make("path", {d, ...paint, transform: `translate(${width / 2},6)`}));
    }
    return picture;
  }

  // The form of a view of charts: which conditions to show, and a call of `show` at every change.
  function controls(id, show) {
    const form = find(id);
    const {titles, mainSetting} = basisbench.table;
    offer(form.elements.setting, titles(), mainSetting());
    form.elements.setting.closest("label").hidden = titles().length < 2;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => show());
    return form;
  }

  function legendEntry(name, look, hidden, redraw) {
    const box = element("input", {
      type: "checkbox",
      onchange: (event) => {
        if (event.target.checked) hidden.delete(name);
        else hidden.add(name);
        redraw();
      },
    });
    box.checked = !hidden.has(name);
    return element("label", {}, box, swatch(look), element("span", {class: "name"}, name));
  }

  function figure(title, note, onsave) {
    const place = element("div", {class: "plot"});
    const caption = element(
      "figcaption",
      {},
      element("span", {}, element("b", {}, title), note ? ` ${note}` : ""),
      onsave &&
        element(
          "button",
          {type: "button", onclick: () => onsave(place), "aria-label": `Download PNG: ${title}`},
          "Download PNG",
        ),
    );
    return element("figure", {}, caption, place);
  }

  // The header of a table is an object: title of a column to "name" or "number", which is what its fields are.
  function headOf(header) {
    const cells = Object.entries(header).map(([title, kind]) =>
      element("th", {scope: "col", class: kind === "number" ? kind : null}, title),
    );
    return element("thead", {}, element("tr", {}, ...cells));
  }

  function fillTable(table, header, rows) {
    const kinds = Object.values(header);
    const lines = rows.map((row) =>
      element("tr", {}, ...row.map((value, index) => element("td", {class: kinds[index]}, value))),
    );
    table.replaceChildren(headOf(header), element("tbody", {}, ...lines));
  }

  return {
    escape,
    colours,
    lineColour,
    translucent,
    logAxis,
    axis,
    logSettings,
    layout,
    draw,
    savePicture,
    controls,
    swatch,
    legendEntry,
    figure,
    headOf,
    fillTable,
  };
})();
