// Shows the view that the address names; keeps the theme.
"use strict";

(() => {
  const {find, address} = basisbench;
  const VIEWS = ["leaderboard", "curves", "cost", "findings", "about", "cell"].filter((name) => find(`view-${name}`));
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function route(moved) {
    const {view, rest, query} = address();
    const name = VIEWS.includes(view) ? view : "leaderboard";
    for (const other of VIEWS) find(`view-${other}`).hidden = other !== name;
    for (const link of document.querySelectorAll(".views a")) {
      if (link.dataset.view === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    basisbench.tell(name === view ? null : `There is no view "${view}"; this is the leaderboard.`);
    show(name, rest, query);
    if (moved) {
      scrollTo(0, 0);
      find("content").focus({preventScroll: true});
    }
  }

  async function show(name, rest, query) {
    try {
      if (name === "leaderboard") basisbench.table.show(query);
      else if (name === "curves") await basisbench.curves.show(query);
      else if (name === "cost") basisbench.cost.show(query);
      else if (name === "cell") await basisbench.cell.show(rest);
    } catch (error) {
      basisbench.tell(error);
    }
  }

  // A page from disk may be denied its store; the choice then lasts as long as the page.
  function remembered() {
    try {
      return localStorage.getItem("basisbench-theme") ?? "system";
    } catch {
      return "system";
    }
  }

  function remember(theme) {
    try {
      localStorage.setItem("basisbench-theme", theme);
    } catch {
      // see above
    }
  }

  function paint() {
    const theme = find("theme").value;
    document.documentElement.toggleAttribute("data-dark", theme === "dark" || (theme === "system" && dark.matches));
  }

  function repaint() {
    paint();
    const {view} = address();
    if (view === "curves") basisbench.curves.show();
    else if (view === "cost") basisbench.cost.show();
    else if (view === "cell") basisbench.cell.redraw();
    basisbench.answer.draw();
  }

  const theme = find("theme");
  theme.value = remembered();
  if (!theme.value) theme.value = "system";
  theme.addEventListener("change", () => {
    remember(theme.value);
    repaint();
  });
  dark.addEventListener("change", repaint);
  paint();

  // The skip link must not change the address: the address names the view.
  find("skip").addEventListener("click", (event) => {
    event.preventDefault();
    find("content").focus();
  });

  for (const part of [basisbench.table, basisbench.curves, basisbench.cost]) part.start();
  addEventListener("hashchange", () => route(true));
  route(false);
  performance.mark("basisbench-first-view");
})();
