/* MaskExplorer: a row of tokens, the grid in five views, a step slider, the numbers of a cell. */
import { MOST_WITH_TEXT, brief, choice, el, fixed, follow, frame, slider, tokens, weightKind } from "./core.js";
import { grid } from "./grid.js";

const VIEW_NAMES = { mask: "mask", raw: "raw scores", scaled: "scaled", masked: "masked", weights: "weights" };

export function render(model, host) {
  const data = model.data;
  const names = data.tokens;
  const ui = frame(host, "Mask explorer");
  let look = null; // the cell under the pointer or the focus

  const chips = tokens({ names, label: "Query", onpick: (row) => choose(row, null) });
  const options = data.views.map((view) => [view, VIEW_NAMES[view]]);
  const views = choice({ label: "Show", options, onpick: (view) => model.set({ view }) });
  const steps = slider({
    label: "Rows built", min: 1, max: names.length,
    onpick: (step) => model.set({ step, row: step - 1, column: null }),
  });
  const table = grid({
    rows: names, columns: names, label: "Rows ask, columns answer",
    onpick: choose,
    onlook: (i, j) => { look = i === null ? null : [i, j]; explain(); },
  });
  ui.bar.append(el("div", { class: "cx-group" }, "Query", chips.node), ...(data.raw ? [views.node] : []), steps.node);
  ui.body.append(table.node);

  function choose(row, column) {
    model.set({ row, column, step: Math.max(row + 1, model.get("step")) });
  }

  function explain() {
    const chosen = model.get("column") === null ? null : [model.get("row"), model.get("column")];
    const cell = look ?? chosen;
    const hint = "Point at a cell, or walk to it with the arrow keys, to see its numbers.";
    ui.note(...(cell ? cellNote(data, ...cell, model.get("view")) : [el("p", { class: "cx-muted" }, hint)]));
  }

  function draw() {
    const [row, view, step] = ["row", "view", "step"].map((name) => model.get(name));
    views.set(view);
    steps.set(step, `${step} of ${names.length}`);
    chips.paint((j) => (data.mask[row][j] ? "cx-visible" : "cx-blocked"), row);
    table.paint((i, j) => (i < step ? cellFace(data, view, i, j) : { kind: "cx-empty", label: "not built yet" }));
    table.mark(row, model.get("column"));
    ui.say(data.words[view][row]);
    explain();
  }
  follow(model, ["row", "column", "view", "step"], draw);
}

/** How a cell looks in a view. */
function cellFace(data, view, i, j) {
  const visible = data.mask[i][j];
  if (view === "raw" || view === "scaled") return score(data, view, i, j);
  if (!visible) return { text: view === "masked" ? "−∞" : "0", kind: "cx-blocked", label: "blocked" };
  if (view === "mask") return { text: "1", kind: "cx-visible", label: "may attend" };
  if (view === "masked") return score(data, "scaled", i, j);
  return { text: fixed(data.weights[i][j]), kind: weightKind(data.weights[i][j]) };
}

/** A score: a number, or where there is no room for it a shade from the lowest to the highest. */
function score(data, view, i, j) {
  const [low, high] = data.range;
  const shade = weightKind((data.scaled[i][j] - low) / (high - low));
  return { text: fixed(data[view][i][j]), kind: data.tokens.length > MOST_WITH_TEXT ? shade : "cx-plain" };
}

/** The steps that lead to one cell, written out; the one of the chosen view stands out. */
function cellNote(data, i, j, view) {
  const visible = data.mask[i][j];
  const lines = [["mask", `${data.tokens[i]} → ${data.tokens[j]}: ${visible ? "may attend" : "blocked"}`]];
  if (data.raw) {
    const scaled = fixed(data.scaled[i][j], 4);
    const [sum, power] = [fixed(data.sums[i], 4), fixed(data.powers[i][j], 4)];
    lines.push(
      ["raw", `raw: ${dotProduct(data.q[i], data.k[j])} = ${brief(data.raw[i][j])}`],
      ["scaled", `scaled: ${brief(data.raw[i][j])} / √${data.q[i].length} = ${scaled}`],
      ["masked", `masked: ${visible ? scaled : "−∞"}`],
    );
    if (visible) {
      const shift = Number(data.shifts[i]) ? ` − ${fixed(data.shifts[i], 4)}` : "";
      const terms = data.powers[i].filter((_, at) => data.mask[i][at]).map((p) => fixed(p, 4));
      lines.push(
        ["exp", `exp(${scaled}${shift}) = ${power}${shift && ", the row’s largest score taken off first"}`],
        ["sum", `sum of the row: ${short(terms).join(" + ")} = ${sum}`],
      );
    }
    const weight = visible ? `${power} / ${sum} = ${fixed(data.weights[i][j], 4)}` : "exp(−∞) = 0, so 0";
    lines.push(["weights", `weight: ${weight}`]);
  }
  if (data.output) {
    lines.push(["output", `output of ${data.tokens[i]}: ${short(data.output[i].map((x) => fixed(x, 4))).join(", ")}`]);
  }
  return lines.map(([step, text]) => el("p", {}, step === view || step === "mask" ? el("b", {}, text) : text));
}

/** A dot product written out: "1·1 + 1·0 + ...". */
function dotProduct(a, b) {
  const factor = (x) => (Number(x) < 0 ? `(${brief(x)})` : brief(x));
  return short(a.map((x, d) => `${factor(x)}·${factor(b[d])}`)).join(" + ");
}

/** At most nine terms of a sum: the first ones, dots and the last. */
function short(terms) {
  return terms.length > 9 ? [...terms.slice(0, 7), "…", terms.at(-1)] : terms;
}
