// How numbers are written: as in the tables of `basisbench compare`.
"use strict";

basisbench.numbers = (() => {
  // Numbers that are no metrics: they are not better or worse, and get no mark.
  const OTHERS = {
    accuracy: {title: "accuracy", meaning: "share of examples on which the model prefers the answer to the foil"},
    gap: {title: "gap (logits)", meaning: "F(M) - F(0) at the family's outputs; below it, its share of F(M)"},
    nodes_to_80_node: {
      title: "under node",
      meaning: "nodes to 80% with a dictionary's whole error at a layer and position as one node (Marks et al.)",
    },
    units_to_80: {title: "units to 80%", meaning: "distinct units of all aligned groups together at nodes to 80%"},
    fvu_mean: {
      title: "FVU",
      meaning: "fit of the dictionary: fraction of variance unexplained, mean over layers; below it the largest, active units per position (L0), the smallest calibration slope of a layer, loss recovered",
    },
  };

  function plain(value, unit) {
    if (value === null || value === undefined || Number.isNaN(value)) return "-";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
    if (unit === "bytes") return group((value / 2 ** 20).toFixed(0));
    if (unit === "s")
      return value < 1 ? significant(value, 2) : value < 10 ? value.toFixed(1) : group(value.toFixed(0));
    if (unit === "1") return value.toFixed(2);
    return value > 0 && value < 10 ? value.toFixed(1) : group(value.toFixed(0));
  }

  // A narrow space between thousands, as the SI has it.
  const group = (digits) => (digits.length < 5 ? digits : digits.replace(/\B(?=(\d{3})+$)/g, "\u202f"));

  const significant = (value, digits) => (value === 0 ? "0" : String(Number(value.toPrecision(digits))));

  // A target that is not reached exceeds the nodes that have a score, or the bits of as many as take the most.
  function censored(value, unit, bound, scored = false) {
    if (value !== Infinity || !Number.isFinite(bound)) return plain(value, unit);
    return `>${plain(bound, unit)}${scored && unit === "nodes" ? " scored" : ""}`;
  }

  function interval(low, high, unit, bound) {
    return `[${censored(low, unit, bound)}, ${censored(high, unit, bound)}]`;
  }

  const percent = (share) => (Number.isNaN(share) ? "-" : `${(100 * share).toFixed(0)}%`);

  // A measure of a curve at one size, with its interval.
  function measured(values, name, index, digits = 3) {
    if (Number.isNaN(values[name][index])) return "-";
    const [middle, low, high] = ["", "_low", "_high"].map((end) => values[`${name}${end}`][index].toFixed(digits));
    return `${middle} [${low}, ${high}]`;
  }

  // Ticks: 0, 10, 1k, 100k, 1M.
  function short(value) {
    for (const [bound, letter] of [
      [1e9, "G"],
      [1e6, "M"],
      [1e3, "k"],
    ]) {
      if (value >= bound) return `${significant(value / bound, 3)}${letter}`;
    }
    return significant(value, 3);
  }

  const heading = (metric) =>
    metric.unit === "bytes" ? `${metric.title} (MiB)` : metric.unit === "s" ? `${metric.title} (s)` : metric.title;

  const describe = (metric) => `${metric.meaning}; ${metric.direction} is better`;

  return {OTHERS, plain, censored, interval, percent, measured, short, significant, heading, describe};
})();
