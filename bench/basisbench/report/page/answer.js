// The answer in a sentence and a picture: who needs the fewest nodes, and the median curve of each basis under the first
// method, a panel per family. Rows of the table below are its legend.
"use strict";

basisbench.answer = (() => {
  const {catalogue, element, find, numbers, charts, distinct} = basisbench;
  const MOST = 4; // names of others in the sentence
  const MOST_BANDS = 7; // more of them hide the lines
  let drawn = "";

  // All medians of a setting, and those that the table shows.
  function show(all, shown) {
    const first = shown[0];
    const methods = distinct(shown.map((row) => row.text("method")));
    const method = catalogue.methods.map(({name}) => name).find((name) => methods.includes(name));
    const isOwn = (row) => row.text("method") === method && row.text("suite_tasks") === first.text("suite_tasks");
    const families = distinct(shown.filter(isOwn).map((row) => row.text("family")));
    const own = all.filter((row) => isOwn(row) && families.includes(row.text("family")));
    find("answer-words").hidden = own.length === 0;
    if (own.length) find("answer-words").replaceChildren(...words(own, families, method));
    const lines = shown.filter((row) => isOwn(row) && row.order in catalogue.central);
    find("answer-figures").hidden = lines.length === 0;
    const key = JSON.stringify(lines.map((row) => row.order));
    if (key === drawn || lines.length === 0) return;
    drawn = key;
    find("answer-figures").replaceChildren(
      ...families.flatMap((family) => panel(family, lines.filter((row) => row.text("family") === family))),
    );
    setTimeout(draw, 150); // rows are painted first, then the library of charts is loaded
  }

  function words(own, families, method) {
    const tasks = own[0].text("suite_tasks").split(", ").length;
    const over = tasks > 1 ? `median over ${tasks} tasks` : own[0].text("suite_tasks");
    return [
      `Fewest nodes to 80% faithfulness under ${method}, ${over}: `,
      ...families.flatMap((family, index) => [
        `${index ? "; " : ""}${family}: `,
        ...best(own.filter((row) => row.text("family") === family)),
      ]),
      ".",
    ];
  }

  function best(rows) {
    const marked = rows
      .filter((row) => row.values.nodes_to_80.best)
      .sort((a, b) => a.values.nodes_to_80.value - b.values.nodes_to_80.value);
    if (marked.length === 0) return [rows.length === 1 ? "one basis only" : "none can be told from the others"];
    const [first, ...others] = marked.map((row) => row.text("basis"));
    const {value, low, high, bound} = marked[0].values.nodes_to_80;
    const named = others.length > MOST + 1 ? [...others.slice(0, MOST), `${others.length - MOST} more`] : others;
    return [
      element("b", {}, first),
      ` ${numbers.plain(value, "nodes")} ${numbers.interval(low, high, "nodes", bound)}`,
      named.length ? ` (cannot be told from it: ${named.join(", ")})` : "",
    ];
  }

  function panel(family, rows) {
    if (rows.length === 0) return [];
    const [{text}] = rows;
    const fewer = text("tasks") < text("tasks_asked") ? `, ${text("tasks")} of ${text("tasks_asked")} tasks` : "";
    const title = `Faithfulness under ${text("method")}, family ${family}, median over ${text("tasks")} tasks`;
    const made = charts.figure(family, `median faithfulness${fewer}`, (place) =>
      charts.savePicture(place, `median-faithfulness-${family}`, title, find("board-setting").textContent),
    );
    made.querySelector(".plot").lines = rows.map(line);
    return [made];
  }

  function line(row) {
    const values = catalogue.central[row.order];
    return {
      name: row.text("basis"),
      look: catalogue.bases.find(({name}) => name === row.text("basis")),
      values,
      scored: values.scored,
      small: true,
      told: (_, quantity, index) => [
        `${numbers.plain(values.size[index], "")} nodes per group${values.size[index] > values.scored ? ", in part in random order" : ""}`,
        `median ${quantity} ${numbers.measured(values, quantity, index)}`,
      ],
    };
  }

  function draw() {
    if (find("view-leaderboard").hidden) {
      drawn = ""; // a chart that is not seen has no size: it is drawn when it is seen
      return;
    }
    for (const place of find("answer-figures").querySelectorAll(".plot")) {
      const {lines} = place;
      const build = (light) => basisbench.lines.picture(lines, ["faithfulness"], "size", lines.length <= MOST_BANDS, light);
      charts.draw(place, "Median faithfulness against nodes.", build);
    }
  }

  return {show, draw};
})();
