// What every view uses: loading data, building elements, reading the address, saving files.
//
// A page opened from disk may load scripts but nothing else, so each data file calls `basisbench.receive` with its
// name and content. The catalogue comes first: every later script finds `catalogue` and `columns`. Strings of records come from strangers: they reach the page as text nodes only (`element`).
"use strict";

const basisbench = (() => {
  const received = new Map();
  const loading = new Map();

  function receive(name, value) {
    received.set(name, value);
    if (name === "catalogue")
      Object.assign(basisbench, {
        catalogue: value,
        columns: decode(value.columns),
        medians: decode(value.medians),
      });
  }

  function addScript(source) {
    if (!loading.has(source)) {
      loading.set(
        source,
        new Promise((resolve, reject) => {
          const script = document.createElement("script");
          script.src = source;
          script.onload = resolve;
          script.onerror = () => {
            loading.delete(source);
            reject(new Error(`${source} cannot be loaded; it belongs beside this page`));
          };
          document.head.append(script);
        }),
      );
    }
    return loading.get(source);
  }

  async function load(name) {
    if (!received.has(name)) await addScript(`data/${name}.js`);
    return received.get(name);
  }

  // element("td", {class: "number", title: "..."}, "text", child, ...)
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
    return made;
  }

  // Wide tables scroll inside themselves, by keyboard too.
  const scroll = (label, table) =>
    element("div", {class: "scroll", role: "region", "aria-label": label, tabindex: "0"}, table);

  const find = (id) => document.getElementById(id);

  // Coded columns become lists of their texts, so that columns[name][row] is the value.
  function decode(coded) {
    const columns = {};
    for (const [name, column] of Object.entries(coded)) {
      columns[name] = Array.isArray(column) ? column : column.codes.map((code) => column.texts[code]);
    }
    return columns;
  }

  function distinct(values) {
    return [...new Set(values)];
  }

  // Offer options and keep what was chosen where it is still there; entries are texts or [value, text].
  function offer(select, entries, preferred) {
    const before = select.value;
    const options = entries.map((entry) => (Array.isArray(entry) ? entry : [entry, entry]));
    const values = options.map(([value]) => String(value));
    select.replaceChildren(...options.map(([value, text]) => element("option", {value: String(value)}, text)));
    const wanted = [before, preferred === undefined ? undefined : String(preferred)].find((value) =>
      values.includes(value),
    );
    select.value = wanted ?? values[0] ?? "";
    return select.value;
  }

  function address() {
    const [, path, query] = /^#?([^?]*)\??(.*)$/s.exec(location.hash);
    const [view, ...rest] = path.split("/");
    return {view: view || "leaderboard", rest: decoded(rest.join("/")), query: new URLSearchParams(query)};
  }

  // Anybody can write an address: what is not well-formed stays as it is.
  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  }

  const CHANGELESS = ["setting", "lines", "x", "y"]; // selects that are offered once

  // Ask a form for what an address names, before its selects are offered again: these keep what they have.
  function ask(form, query) {
    for (const [name, value] of query) {
      const field = form.elements.namedItem(name);
      if (field instanceof HTMLSelectElement) {
        const isThere = [...field.options].some((option) => option.value === value);
        if (!isThere && CHANGELESS.includes(name)) continue;
        if (!isThere) field.append(element("option", {value}));
      }
      if (field && field.type !== "checkbox") field.value = value;
    }
  }

  // Say what of it there is not.
  function tellMissing(form, query) {
    const missing = [...query].filter(([name, value]) => form.elements.namedItem(name)?.value !== value);
    if (missing.length)
      tell(`The address asks for ${missing.map(([name, value]) => `${name} "${value}"`).join(", ")}, which is not here.`);
  }

  function save(name, content) {
    const link = element("a", {download: name, href: content instanceof Blob ? URL.createObjectURL(content) : content});
    document.body.append(link);
    link.click();
    link.remove();
    if (content instanceof Blob) setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // A spreadsheet would run a text that begins like a formula; a quote in front makes it text again.
  function csvField(value) {
    if (typeof value === "number")
      return Number.isNaN(value) ? "nan" : Number.isFinite(value) ? String(value) : value > 0 ? "inf" : "-inf";
    const text = String(value ?? "");
    const safe = /^[=+@\t\r-]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  function saveCsv(name, header, rows) {
    const lines = [header, ...rows].map((row) => row.map(csvField).join(","));
    save(name, new Blob([lines.join("\n") + "\n"], {type: "text/csv"}));
  }

  function tell(error) {
    const place = find("problem");
    place.textContent = error instanceof Error ? `This cannot be shown: ${error.message}` : (error ?? "");
    place.hidden = !error;
  }

  return {receive, addScript, load, element, scroll, find, distinct, offer, address, ask, tellMissing, save, saveCsv, tell};
})();
