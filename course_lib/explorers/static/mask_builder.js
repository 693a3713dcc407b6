import { button, el, fixed, follow, frame, slider } from "./core.js";
import { grid } from "./grid.js";

/* MaskBuilder: `terms` such as "or sinks(2)" are joined from the top down. The picture is computed
here, so that it needs no kernel; tests compare it with course_lib.masks on random terms. */

const rulesOf = {
  causal: () => (q, k) => k <= q,
  full: () => () => true,
  prefix_lm: (prefix) => (q, k) => k < prefix || k <= q,
  sliding_window: (width) => (q, k) => k <= q && q - k < width,
  sinks: (n) => (q, k) => k < n,
  same_document: (documents, n, ids) => {
    const of = ids ? (i) => ids[i] : (i) => Math.floor((i * documents) / n);
    return (q, k) => of(q) === of(k);
  },
  not_padding: (pads, n, valid) => (q, k) => (valid ? valid[k] === 1 : k >= pads),
};

/** "or sinks(2)" as { join: "or", rule: "sinks", number: 2 }. */
function parse(term) {
  const [, join, rule, number] = term.match(/^(?:(and not|and|or) )?(\w+)\((\d*)\)$/);
  return { join, rule, number: number === "" ? null : Number(number) };
}

function write({ join, rule, number }, at) {
  return `${at ? `${join ?? "and"} ` : ""}${rule}(${number ?? ""})`;
}

/** The rule in Python, to copy. */
function code({ rule, number }, n, own) {
  if (own[rule]) return `${rule}(${rule === "same_document" ? "ids" : "valid"})`;
  if (rule === "same_document") return `${rule}(np.arange(${n}) * ${number} // ${n})`;
  if (rule === "not_padding") return `${rule}(np.arange(${n}) >= ${number})`;
  return `${rule}(${number ?? ""})`;
}

function expression(terms, n, own) {
  return terms.reduce((text, term, at) => {
    if (!at) return code(term, n, own);
    const sign = { and: "& ", or: "| ", "and not": "& ~" }[term.join];
    return `${at > 1 ? `(${text})` : text} ${sign}${code(term, n, own)}`;
  }, "");
}

/** matrix[q][k], and tiles[i][j]: 0 empty, 1 partial, 2 full. */
function derive(terms, n, block, own) {
  const tests = terms.map(({ join, rule, number }) => [join, rulesOf[rule](number, n, own[rule])]);
  const sees = (q, k) => tests.reduce((on, [join, test], at) => {
    if (!at) return test(q, k);
    return join === "or" ? on || test(q, k) : on && test(q, k) !== (join === "and not");
  }, true);
  const positions = [...Array(n).keys()];
  const matrix = positions.map((q) => positions.map((k) => sees(q, k)));
  const starts = positions.filter((i) => i % block === 0);
  const tiles = starts.map((q) => starts.map((k) => {
    const cells = matrix.slice(q, q + block).flatMap((line) => line.slice(k, k + block));
    return cells.every(Boolean) ? 2 : Number(cells.some(Boolean));
  }));
  return { matrix, tiles, tests };
}

function summary(n, block, { matrix, tiles }) {
  const seen = matrix.flat().filter(Boolean).length;
  const kinds = [0, 1, 2].map((kind) => tiles.flat().filter((tile) => tile === kind).length);
  const blind = matrix.filter((line) => !line.some(Boolean)).length;
  const share = (part, all) => `${fixed((100 * part) / all, 1)}%`;
  return `${seen} of ${n * n} cells visible (${share(seen, n * n)}). `
    + `Tiles of ${block} by ${block}: ${kinds[2]} full, ${kinds[1]} partial, ${kinds[0]} empty, `
    + `so ${share(kinds[0], tiles.length ** 2)} of the work is saved.${blind ? ` Queries that see nothing: ${blind}.` : ""}`;
}

/** A native list to pick from; onpick gets the value. */
function select(label, values, chosen, onpick) {
  const options = values.map((value) => el("option", { value, selected: value === chosen }, value));
  return el("select", { "aria-label": label, class: "cx-button", onchange: (e) => onpick(e.target.value) }, ...options);
}

export function render(model, host) {
  const { tokens: names, rules, joins, own, examples, most: [mostTerms, mostTokens] } = model.data;
  const about = new Map(rules.map(([rule, meaning, least, words]) => [rule, { meaning: own[rule] ? null : meaning, least, words }]));
  const ui = frame(host, "Mask builder");
  const read = () => model.get("terms").map(parse);
  const save = (terms) => model.set({ terms: terms.map(write) });
  const sizes = slider({ label: "tokens", min: 1, max: names.length, onpick: (n) => model.set({ n }) });
  const blocks = slider({ label: "tile size", min: 1, max: Math.min(16, mostTokens), onpick: (block) => model.set({ block }) });
  const start = select("Start from an example", ["start from …", ...Object.keys(examples)], null, (name) => {
    if (examples[name]) model.set({ terms: examples[name] });
    start.value = "start from …";
  });
  ui.bar.append(start, sizes.node, blocks.node);

  const list = el("ol", { class: "cx-terms", "aria-label": "Rules, joined from the top down" });
  const adder = select("Add a rule", ["add a rule …", ...about.keys()], null, (rule) => {
    const number = about.get(rule)?.meaning ? 3 : null;
    if (about.has(rule)) save([...read(), { join: "and", rule, number }]);
    adder.value = "add a rule …";
  });
  const copied = el("code", {});
  const copy = button({ label: "Copy", onpick() {
    (copied.getRootNode().getSelection?.() ?? getSelection()).selectAllChildren(copied); // for a page without a clipboard
    navigator.clipboard?.writeText(copied.textContent).then(() => { copy.node.textContent = "Copied"; }, () => {});
  } });
  const hint = "Point at a cell, or move there with the arrow keys: which rule decides?";
  const look = el("p", { class: "cx-muted cx-look" }, hint);
  const pictures = el("div", { class: "cx-pictures" });
  ui.body.append(
    el("div", { class: "cx-rules" }, list, adder, el("p", { class: "cx-expression" }, copied, copy.node)), pictures, look,
    el("p", { class: "cx-muted" }, "A kernel skips empty tiles (solid grey), computes full ones without looking at the mask, and masks partial ones cell by cell."),
  );

  let [rulesNow, sizesNow, numbers] = ["", "", []];
  let [cells, blocksOf, found] = [];

  /** One line of the list: how it is joined, which rule, its number, up, away. */
  function line(term, at, terms) {
    const { meaning, least, words } = about.get(term.rule);
    const change = (changes) => save(read().map((old, i) => (i === at ? { ...old, ...changes } : old)));
    const label = `${term.rule}${meaning ? `: ${meaning}` : ""}`;
    const most = Math.max(model.get("n"), term.number);
    const number = numbers[at] = meaning && slider({ label, min: least, max: most, onpick: (value) => change({ number: value }) });
    const up = button({ label: "↑", onpick() { // a rule takes its join along; the first has none
      const order = read();
      const [above, moved] = order.slice(at - 1, at + 1);
      order.splice(at - 1, 2, moved, at > 1 ? above : { ...above, join: moved.join });
      save(order);
    } });
    const away = button({ label: "×", onpick: () => save(read().filter((_, i) => i !== at)) });
    up.node.setAttribute("aria-label", `Move ${term.rule} up`);
    away.node.setAttribute("aria-label", `Remove ${term.rule}`);
    up.enable(at > 0);
    away.enable(terms.length > 1);
    const join = at ? select(`How ${term.rule} is joined`, joins, term.join, (value) => change({ join: value })) : el("span", {}, "");
    return el("li", { title: words }, join, number ? number.node : el("span", { class: "cx-rule-name" }, label), up.node, away.node);
  }

  /** New controls, when other rules stand in the list; the focus stays in its place. */
  function rebuildList(terms) {
    const before = [...list.querySelectorAll("button, select, input")].indexOf(list.getRootNode().activeElement);
    numbers = [];
    list.replaceChildren(...terms.map(line));
    if (before >= 0) [...list.querySelectorAll("button, select, input")][before]?.focus();
  }

  function rebuildTables(n, block) {
    const shown = names.slice(0, n);
    const same = cells?.cells.length === n; // thousands of cells: kept when only the tiles change
    if (!same) cells = grid({ rows: shown, columns: shown, label: "Who may attend to whom", onlook: explain });
    const parts = Array.from({ length: Math.ceil(n / block) }, (_, i) => [...new Set([i * block, Math.min(n, (i + 1) * block) - 1])].join("–"));
    blocksOf = grid({ rows: parts, columns: parts, label: `Tiles of ${block} by ${block}` });
    if (same) pictures.lastChild.replaceWith(blocksOf.node);
    else pictures.replaceChildren(cells.node, blocksOf.node);
  }

  /** Say for one cell what every rule says. */
  function explain(q, k) {
    if (q == null) { look.textContent = hint; return; }
    const terms = read();
    const parts = found.tests.map(([join, test], at) => `${at ? `${join} ` : ""}${code(terms[at], model.get("n"), own)} ${test(q, k) ? "yes" : "no"}`);
    look.textContent = `Query ${names[q]}, key ${names[k]}: ${parts.join(", ")}. So ${found.matrix[q][k] ? "it may attend" : "it is blocked"}.`;
  }

  function draw() {
    const [terms, n, block] = [read(), model.get("n"), model.get("block")];
    const [rulesNext, sizesNext] = [`${terms.map(({ join, rule }) => `${join} ${rule}`)} ${n}`, `${n} ${block}`];
    if (rulesNext !== rulesNow) rebuildList(terms);
    if (sizesNext !== sizesNow) rebuildTables(n, block);
    [rulesNow, sizesNow] = [rulesNext, sizesNext];
    terms.forEach(({ number }, at) => numbers[at]?.set(number));
    sizes.set(n);
    blocks.set(block);
    adder.disabled = terms.length >= mostTerms;
    found = derive(terms, n, block, own);
    const edge = (q, k) => `${(k + 1) % block ? "" : " cx-edge-right"}${(q + 1) % block ? "" : " cx-edge-bottom"}`;
    cells.paint((q, k) => (found.matrix[q][k]
      ? { text: "1", kind: `cx-visible${edge(q, k)}`, label: "may attend" }
      : { kind: `cx-blocked${edge(q, k)}`, label: "blocked" }));
    blocksOf.paint((i, j) => [
      { kind: "cx-skip", label: "empty" },
      { text: "part", kind: "cx-part", label: "partial" },
      { text: "full", kind: "cx-visible", label: "full" },
    ][found.tiles[i][j]]);
    copied.textContent = expression(terms, n, own);
    copy.node.textContent = "Copy";
    ui.say(summary(n, block, found));
  }

  follow(model, ["terms", "n", "block"], draw);
}
