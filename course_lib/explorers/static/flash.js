import { el, fixed, follow, frame, stepper } from "./core.js";
import { grid } from "./grid.js";
import { tableOf } from "./table.js";

/* FlashExplorer: `step` tiles of `order` have been visited; `row` is the query whose running
numbers are shown. data.rows[row] holds one card a visited tile of that row: before, factor,
added, after (maximum, sum, accumulator) and words. */
export function render(model, host) {
  const { tokens: names, blocks: [high, wide], order, scores, rows, ...data } = model.data;
  const ui = frame(host, "Flash explorer");
  const visit = new Map(order.map(([i, j], n) => [`${i} ${j}`, n + 1]));
  const tileOf = (i, j) => [Math.floor(i / high), Math.floor(j / wide)];
  const steps = stepper(model, { last: () => order.length, next: "Next tile", label: "tiles visited" });
  ui.bar.append(...steps.nodes);

  const table = grid({
    rows: names, columns: names, label: `Scaled scores, tiles of ${high} by ${wide}`,
    onpick(i) {
      // A picked row that has not begun, or is done, is followed from its own first tile on.
      const visits = rows[i].map((card) => card.visit);
      const step = model.get("step");
      const away = visits.length && (step < visits[0] || step > visits.at(-1));
      model.set(away ? { row: i, step: visits[0] } : { row: i });
    },
    onlook: (i, j) => { look.textContent = i == null ? hint : `${names[i]}, ${names[j]}: ${cell(i, j).label}`; },
  });
  const hint = "Click a row to follow it; point at a cell for its score.";
  const look = el("p", { class: "cx-muted" }, hint);
  const head = ["", "before", "× factor", "+ this tile", "= after"];
  const sums = el("div", { class: "cx-sums" });
  ui.body.append(el("div", {}, table.node, look));
  ui.note(sums, el("p", { class: "cx-muted" },
    `Mask: ${data.mask}. Solid grey tiles are skipped: neither loaded nor computed. Hatched cells are `
    + "computed and masked. A maximum is not added but compared: the larger one stays."));

  /** What cell (i, j) shows after the present step. */
  function cell(i, j) {
    const [ti, tj] = tileOf(i, j);
    const edge = `${(j + 1) % wide ? "" : " cx-edge-right"}${(i + 1) % high ? "" : " cx-edge-bottom"}`;
    const number = visit.get(`${ti} ${tj}`);
    const step = model.get("step");
    if (!number) return { kind: `cx-skip${edge}`, label: "skipped tile" };
    if (number > step) return { kind: `cx-plain${edge}`, label: `not yet, tile ${number}` };
    const blocked = scores[i][j] === "-Infinity";
    const kind = blocked ? "cx-blocked" : number === step ? "cx-visible" : "cx-part";
    const text = blocked ? "" : fixed(scores[i][j]);
    return { text, kind: kind + edge, label: `${blocked ? "blocked" : `score ${text}`}, tile ${number}` };
  }

  /** The arithmetic of the last tile that the row has met. */
  function arithmetic(card) {
    const line = (name, k) => ({ cells: [
      name, ...[card.before[k], k ? card.factor : null, card.added[k], card.after[k]].map((x) => (x == null ? "" : fixed(x, 4))),
    ] });
    return tableOf(`Row ${names[model.get("row")]}, tile ${card.visit}`, head, data.names.map(line));
  }

  follow(model, ["step", "row"], () => {
    const step = model.get("step");
    const row = model.get("row");
    steps.draw();
    table.paint(cell);
    table.mark(row);
    const met = rows[row].findLast((card) => card.visit <= step);
    const words = met ? met.words : data.waiting[row];
    sums.replaceChildren(met ? arithmetic(met) : el("p", {}, words));
    ui.say(`${data.steps[step]} ${words}`);
  });
}
