/* CompareExplorer: standard, causal and their difference, as weights or as outputs. */
import { brief, choice, differenceKind, el, fixed, follow, frame, tokens, weightKind } from "./core.js";
import { grid } from "./grid.js";

const CAPTIONS = { standard: "standard", causal: "causal", difference: "causal − standard" };

export function render(model, host) {
  const data = model.data;
  const names = data.tokens;
  const ui = frame(host, "Compare explorer");
  const tables = {}; // view -> its box and three grids, made when first shown
  let look = null;

  const chips = tokens({ names, label: "Query", onpick: (row) => model.set({ row, column: null }) });
  const views = choice({
    label: "Show", options: [["weights", "weights"], ["outputs", "output vectors"]],
    onpick: (view) => { look = null; model.set({ view, column: null }); },
  });
  ui.body.style.setProperty("--most", "336px"); // two large grids side by side
  ui.bar.append(el("div", { class: "cx-group" }, "Query", chips.node), views.node);

  function make(view) {
    const grids = Object.keys(CAPTIONS).map((side) => {
      const table = grid({
        rows: names, columns: view === "weights" ? names : data.entries,
        label: CAPTIONS[side] + (view === "weights" && side === "standard" ? "; framed: will be blocked" : ""),
        columnAxis: view === "weights" ? "key" : "entry",
        onpick: (row, column) => model.set({ row, column }),
        onlook: (i, j) => { look = i === null ? null : [i, j]; explain(); },
      });
      table.paint((i, j) => cellFace(data, view, side, i, j));
      return table;
    });
    const box = el("div", { class: "cx-sides" }, ...grids.map((table) => table.node));
    ui.body.append(box);
    return { box, grids };
  }

  function explain() {
    const [row, view, column] = ["row", "view", "column"].map((name) => model.get(name));
    const cell = look ?? (column === null ? null : [row, column]);
    for (const table of tables[view].grids) table.mark(...(cell ?? [row, null]));
    const hint = "Point at a cell, or walk to it with the arrow keys, to see both numbers and what made them.";
    ui.note(...(cell ? (view === "weights" ? weightNote : outputNote)(data, ...cell) : [el("p", { class: "cx-muted" }, hint)]));
  }

  function draw() {
    const [row, view] = [model.get("row"), model.get("view")];
    views.set(view);
    chips.paint((j) => (data.mask[row][j] ? "cx-visible" : "cx-blocked"), row);
    tables[view] ??= make(view);
    // Both views stay in the page: laying out thousands of cells anew takes a tenth of a second.
    for (const [name, { box }] of Object.entries(tables)) box.classList.toggle("cx-away", name !== view);
    ui.say(data.words[view][row]);
    explain();
  }
  follow(model, ["row", "view", "column"], draw);
}

/** How a cell of one side looks. */
function cellFace(data, view, side, i, j) {
  const x = data[side][view][i][j];
  const blocked = view === "weights" && !data.mask[i][j];
  const share = view === "weights" ? x : x / data.scale; // outputs may be beyond 1
  if (side === "difference" || (view === "outputs" && data.signed)) return { text: fixed(x), kind: differenceKind(share) };
  if (blocked && side === "causal") return { text: "0", kind: "cx-blocked", label: "blocked" };
  const kind = weightKind(share) + (blocked ? " cx-leak" : "");
  return { text: fixed(x), kind, label: blocked ? `${fixed(x)}, which the mask takes away` : fixed(x) };
}

/** Both weights of a cell and the sums that they are shares of. */
function weightNote(data, i, j) {
  const share = (side) => {
    const { powers, sums, shifts, weights } = data[side];
    const shift = Number(shifts[i]) ? `, every score less ${fixed(shifts[i], 4)}` : "";
    return `${fixed(powers[i][j], 4)} / ${fixed(sums[i], 4)} = ${fixed(weights[i][j], 4)}${shift}`;
  };
  const blocked = !data.mask[i][j];
  return [
    el("p", {}, el("b", {}, `${data.tokens[i]} → ${data.tokens[j]}: ${blocked ? "blocked by the mask" : "may attend"}`)),
    el("p", {}, `standard: ${share("standard")}`),
    el("p", {}, `causal: ${blocked ? "exp(−∞) = 0, so 0" : share("causal")}`),
    el("p", {}, `difference: ${fixed(data.difference.weights[i][j], 4)}`),
    el("p", { class: "cx-muted" }, "Each is exp(score) over the sum of its row; the causal sum leaves the blocked keys out."),
  ];
}

/** Both output entries as weighted sums; terms that the mask takes away are underlined. */
function outputNote(data, i, d) {
  const sum = (side) => {
    const terms = data.tokens.map((name, j) => [name, data[side].weights[i][j], j]).filter(([, w, j]) => w > 0 && Number(data.v[j][d]) !== 0);
    const parts = terms.slice(0, 9).flatMap(([name, w, j], at) => [
      at ? " + " : "", el("span", { class: data.mask[i][j] ? "" : "cx-lost" }, `${fixed(w, 4)}·${brief(data.v[j][d])} (${name})`),
    ]);
    if (terms.length > 9) parts.push(` + ${terms.length - 9} more`);
    const total = fixed(data[side].outputs[i][d], 4);
    return parts.length ? el("p", {}, `${side}: `, ...parts, ` = ${total}`) : el("p", {}, `${side}: ${total}: nothing but zeros to add up`);
  };
  return [
    el("p", {}, el("b", {}, `output of ${data.tokens[i]}, entry ${data.entries[d]}`)),
    sum("standard"), sum("causal"),
    el("p", {}, `difference: ${fixed(data.difference.outputs[i][d], 4)}`),
    el("p", { class: "cx-muted" }, "Weight times value, for every value that is not 0; underlined: what the mask takes away."),
  ];
}
