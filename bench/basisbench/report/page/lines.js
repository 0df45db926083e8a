// Lines of curves: what a chart of them holds, for the view of curves and for the page of a cell.
//
// A line is {row, name, look, values}, its values being columns by size. A line beside another has that one's name in
// `of`: it is thin, without band and markers, or a `level`, the value with all nodes. A line that is no cell's has no
// row, but says itself how many nodes are `scored`, and what its points have `told`.
"use strict";

basisbench.lines = (() => {
  const {catalogue, columns, numbers, charts} = basisbench;
  const X = {
    size: "circuit size k (nodes per aligned group)",
    bits: "bits to name the circuit, log2 C(N, k)",
    all_units: "distinct units in the circuits of all aligned groups",
  };
  const QUANTITIES = {
    faithfulness: {title: "Faithfulness", note: "of the circuit; 1: full model", ideal: 1},
    completeness: {title: "Completeness", note: "what the rest still does; 0: ideal", ideal: 0},
  };

  // Why a cell is below a gate, with the raw values; "" where it is not.
  const gateText = (row) =>
    columns.gate[row] &&
    `Below a gate: ${columns.gate[row]}. F(M) ${columns.full_mean[row].toFixed(2)}, F(0) ${columns.empty_mean[row].toFixed(2)}, gap ${columns.gap[row].toFixed(2)} logits, accuracy ${columns.accuracy[row].toFixed(2)}: too little to explain, so it is in no median and gets no best mark.`;

  const sizeText = (size, row) => (size > columns.scored_nodes[row] ? `${size}, random order` : String(size));

  // Data and layout of one chart; several quantities share it where it shows one cell.
  function picture(lines, quantities, x, bands, light) {
    const look = charts.colours(light);
    const scale = charts.logAxis(lines.flatMap((line) => line.values[x]));
    const data = [];
    for (const line of lines) {
      for (const quantity of quantities) {
        if (line.level && quantity !== "faithfulness") continue;
        const own = line.looks?.[quantity] ?? line.look;
        const colour = charts.lineColour(own.colour, light);
        const {size} = line.values;
        // Bisected sizes have no complement; schema 1 has no units of all groups.
        const measured = [...size.keys()].filter(
          (index) => ![line.values[quantity][index], line.values[x][index]].some(Number.isNaN),
        );
        if (measured.length === 0) continue;
        const places = line.values[x].map(scale.place);
        const take = (list, part) => part.map((index) => list[index]);
        const trace = (part, more) => ({
          type: "scatter",
          mode: line.of ? "lines" : "lines+markers",
          name: charts.escape(line.names?.[quantity] ?? line.name),
          meta: {legend: true, row: line.row, quantity},
          x: take(places, part),
          y: take(line.values[quantity], part),
          line: {color: colour, width: line.of ? 1 : 1.8, dash: own.dash},
          marker: {symbol: own.symbol, size: line.small ? 5 : 7, color: colour},
          customdata: part.map((index) => (line.told ?? hover)(line, quantity, index)),
          hovertemplate: "<b>%{fullData.name}</b><br>%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
          cliponaxis: true,
          ...more,
        });
        if (line.level) {
          const end = measured.at(-1);
          const level = {x: [scale.least, places[end]], y: [1, 1].map(() => line.values[quantity][end])};
          data.push(trace([end, end], {...level, line: {color: colour, width: 1, dash: "2px,2px"}}));
          continue;
        }
        if (bands && !line.of)
          data.push(
            band(
              take(places, measured),
              take(line.values[`${quantity}_low`], measured),
              take(line.values[`${quantity}_high`], measured),
              colour,
            ),
          );
        const scored = measured.filter((index) => size[index] <= (line.scored ?? columns.scored_nodes[line.row]));
        data.push(trace(scored, {}));
        if (scored.length === measured.length) continue;
        const beyond = measured.slice(scored.length - 1);
        data.push(trace(beyond, {opacity: 0.3, meta: {row: line.row, quantity, beyond: true}}));
        if (!line.of)
          data.push(
            trace(beyond.slice(0, 1), {
              mode: "markers",
              meta: {row: line.row, quantity, beyond: true},
              marker: {symbol: "line-ns-open", size: 16, color: colour, line: {width: 2, color: colour}},
            }),
          );
      }
    }
    const [low, high] = catalogue.window;
    const ideals = quantities.map((name) => QUANTITIES[name].ideal);
    return {
      data,
      layout: charts.layout(
        look,
        charts.axis(X[x], look, charts.logSettings(scale)),
        charts.axis(quantities.join(" and "), look, {range: [low, high], dtick: 0.25, tickformat: ".2~f"}),
        {
          shapes: ideals.map((y) => ({
            type: "line",
            xref: "paper",
            x0: 0,
            x1: 1,
            y0: y,
            y1: y,
            layer: "below",
            line: {color: look.muted, width: 1, dash: "dot"},
          })),
        },
      ),
    };
  }

  const band = (x, low, high, colour) => ({
    type: "scatter",
    mode: "lines",
    x: [...x, ...[...x].reverse()],
    y: [...high, ...[...low].reverse()],
    fill: "toself",
    fillcolor: charts.translucent(colour, 0.14),
    line: {width: 0},
    hoverinfo: "skip",
    showlegend: false,
  });

  function hover({row, values}, quantity, index) {
    const size = values.size[index].toLocaleString("en").replaceAll(",", "\u202f");
    const random = values.size[index] > columns.scored_nodes[row] ? ", in part in random order" : "";
    const units = Number.isNaN(values.all_units[index]) ? "" : `, ${values.all_units[index]} units in all groups`;
    const place = `${size} nodes per group${random}, ${numbers.significant(values.bits[index], 4)} bits${units}`;
    const logits = quantity === "faithfulness" ? `, metric ${values.metric_mean[index].toFixed(2)} logits` : "";
    return [place, `${quantity} ${numbers.measured(values, quantity, index, 4)}${logits}`];
  }

  return {X, QUANTITIES, picture, gateText, sizeText};
})();
