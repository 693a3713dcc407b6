/* The shared core of all explorers: elements, the cell grid, controls, numbers, keyboard.

To write an explorer, make static/NAME.js with a `render({ model, el: host })` that builds a frame
and controls, and ends with `return follow(model, ["row", "view"], draw)`: walk.js is the shortest.
base.py puts this file in front of it and drops the `import` line: no build step. Numbers come
from Python (`model.get("data")`); JavaScript only looks them up and formats them. Synced state
is changed with `set(model, { row: 2 })`; what is only looked at (hover) stays here. */

/** An element: el("button", { class: "cx-button", onclick: f }, "text", child). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** The box around an explorer: a body to fill, spoken words, and a note that is not spoken. */
export function frame(host, title) {
  const bar = el("div", { class: "cx-bar" });
  const body = el("div", { class: "cx-body" });
  const words = el("p", { class: "cx-words", role: "status", "aria-live": "polite" });
  const note = el("div", { class: "cx-note" });
  const main = el("div", { class: "cx-main" }, body, note);
  host.append(el("section", { class: "cx", "aria-label": title }, bar, words, main));
  return {
    bar, body,
    say: (text) => { if (words.textContent !== text) words.textContent = text; },
    note: (...children) => note.replaceChildren(...children),
  };
}

/** Draw now and once after any number of changes to these traits; returns the clean-up. */
export function follow(model, names, draw) {
  let waiting = false;
  const later = () => {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => { waiting = false; draw(); });
  };
  for (const name of names) model.on(`change:${name}`, later);
  draw();
  return () => { for (const name of names) model.off(`change:${name}`, later); };
}

/** Change synced state; Python hears of it, and `follow` draws once. */
export function set(model, changes) {
  for (const [name, value] of Object.entries(changes)) model.set(name, value);
  model.save_changes();
}

// --- numbers and words ------------------------------------------------------------------------

/** A number as Python's f"{x:.2f}" writes it (ties to even), with a true minus and infinity. */
export function fixed(x, digits = 2) {
  x = Number(x);
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x < 0 ? "−∞" : "∞";
  if (Math.abs(x) >= 1e15) return x.toPrecision(5).replaceAll("-", "−");
  const unit = 10 ** digits;
  const tie = Number.isInteger(x * 2 ** (digits + 1)) && Math.abs((x * unit) % 1) === 0.5;
  const text = (tie ? (2 * Math.round((x * unit) / 2)) / unit : x).toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

/** A number with at most four significant digits and no trailing zeros. */
export function brief(x) {
  return Number.isFinite(Number(x)) ? String(Number(Number(x).toPrecision(4))).replaceAll("-", "−") : fixed(x);
}

/** ["a", "b", "c"] as "a, b and c". */
export function listed(names) {
  if (names.length < 2) return names[0] ?? "nothing";
  return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/** The class of a weight from 0 to 1 on the sequential scale (colours: style.py). */
export function weightKind(x) {
  return `cx-w${Math.round(20 * Math.min(1, Math.max(0, Number(x) || 0)))}`;
}

/** The class of a difference from -1 to 1 on the diverging scale. */
export function differenceKind(x) {
  return `cx-d${10 + Math.round(10 * Math.min(1, Math.max(-1, Number(x) || 0)))}`;
}

// --- controls ---------------------------------------------------------------------------------

let count = 0;

/** One of several: options are [value, text] pairs; returns { node, set(value) }. */
export function choice({ label, options, onpick }) {
  const name = `cx-choice-${Math.random().toString(36).slice(2)}-${count++}`;
  const inputs = new Map();
  const node = el("fieldset", { class: "cx-choice" }, el("legend", {}, label));
  for (const [value, text] of options) {
    const input = el("input", { type: "radio", name, value, onchange: () => onpick(value) });
    inputs.set(value, input);
    node.append(el("label", {}, input, el("span", {}, text)));
  }
  return { node, set: (value) => { inputs.get(value).checked = true; } };
}

/** On or off; returns { node, set(on) }. */
export function toggle({ label, onpick }) {
  const input = el("input", { type: "checkbox", onchange: () => onpick(input.checked) });
  return { node: el("label", { class: "cx-toggle" }, input, " ", label), set: (on) => { input.checked = on; } };
}

/** A whole number from min to max; returns { node, set(value, text) }. */
export function slider({ label, min, max, onpick }) {
  const input = el("input", { type: "range", min, max, step: 1, oninput: () => onpick(Number(input.value)) });
  const shown = el("output", {});
  return {
    node: el("label", { class: "cx-slider" }, label, " ", input, " ", shown),
    set: (value, text = String(value)) => {
      input.value = value;
      input.setAttribute("aria-valuetext", text);
      shown.textContent = text;
    },
  };
}

/** Back, next and (with a label) a slider for the state `step`, from 0 to last(); put the nodes in
the bar: { nodes, go(step), draw() }. */
export function stepper(model, { last, next: text, label }) {
  const go = (step) => set(model, { step: Math.min(last(), Math.max(0, step)) });
  const back = button({ label: "◀ Back", onpick: () => go(model.get("step") - 1) });
  const next = button({ label: `${text} ▶`, onpick: () => go(model.get("step") + 1) });
  const where = label && slider({ label, min: 0, max: last(), onpick: go });
  const nodes = [el("div", { class: "cx-group" }, back.node, next.node), ...(where ? [where.node] : [])];
  return {
    nodes, go,
    draw() {
      const step = model.get("step");
      back.enable(step > 0);
      next.enable(step < last());
      where?.set(step, `${step} of ${last()}`);
    },
  };
}

/** A small table: a caption, heads, and lines of cells that begin with a name; `kind` is a class. */
export function tableOf(caption, heads, lines) {
  return el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...heads.map((head) => (head ? el("th", { scope: "col" }, head) : el("td"))))),
    el("tbody", {}, ...lines.map(({ kind = "", cells: [name, ...cells] }) => el("tr", { class: kind },
      el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell))))));
}

/** A button; returns { node, enable(on) }. */
export function button({ label, onpick }) {
  const node = el("button", { type: "button", class: "cx-button", onclick: () => onpick() }, label);
  return { node, enable: (on) => { node.disabled = !on; } };
}

/** Where an arrow, Home, End, PageUp or PageDown key leads from (i, j) in a table; else null. */
export function keyMove(event, i, j, rows, columns) {
  const far = event.ctrlKey || event.metaKey;
  const goal = {
    ArrowUp: [i - 1, j], ArrowDown: [i + 1, j], ArrowLeft: [i, j - 1], ArrowRight: [i, j + 1],
    Home: [far ? 0 : i, 0], End: [far ? rows - 1 : i, columns - 1],
    PageUp: [0, j], PageDown: [rows - 1, j],
  }[event.key];
  if (!goal) return null;
  event.preventDefault();
  event.stopPropagation();
  return [Math.min(rows - 1, Math.max(0, goal[0])), Math.min(columns - 1, Math.max(0, goal[1]))];
}

/** One of a row of texts (tokens, lines of code), chosen by click or arrow keys:
{ node, paint(kind, chosen) }. usable(i) says which can be chosen; kind(i) is a class. */
export function tokens({ names, label, onpick, usable = () => true }) {
  const chips = names.map((name, i) => el(
    "button", { type: "button", role: "radio", onclick: () => onpick(i), disabled: !usable(i), title: name }, name,
  ));
  const node = el("div", { class: "cx-tokens", role: "radiogroup", "aria-label": label }, ...chips);
  const first = names.findIndex((_, i) => usable(i));
  let seen;
  node.addEventListener("keydown", (event) => {
    const enabled = chips.filter((chip) => !chip.disabled);
    const at = enabled.indexOf(event.target);
    const next = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
    const goal = next ? enabled[at + next] : { Home: enabled[0], End: enabled.at(-1) }[event.key];
    if (at < 0 || !goal) return;
    event.preventDefault();
    event.stopPropagation();
    goal.focus();
    goal.click();
  });
  return {
    node,
    paint(kind, chosen) {
      chips.forEach((chip, i) => {
        chip.className = `cx-chip ${kind(i)}`;
        chip.setAttribute("aria-checked", i === chosen);
        chip.tabIndex = i === (chosen ?? first) ? 0 : -1;
      });
      // Of many tokens only some lines are in sight.
      if (names.length > MOST_WITH_TEXT && chosen !== seen) {
        const { offsetTop: top, offsetHeight: high } = chips[seen = chosen] ?? chips[0];
        node.scrollTop = Math.min(top - 4, Math.max(node.scrollTop, top + high + 4 - node.clientHeight));
      }
    },
  };
}

// --- the grid ---------------------------------------------------------------------------------

/** A grid with more rows or columns shows colours only: its cells are too small for text. */
export const MOST_WITH_TEXT = 12;

/** Row and column of a table cell (-1 for the row's name), or null outside the body. */
function place(target) {
  const cell = target.closest("tbody > tr > *");
  return cell && [cell.parentNode.rowIndex - 1, cell.cellIndex - 1];
}

/** The cell grid: query rows, key columns, arrow keys to move, Enter, Space or click to pick.

onpick(i, j) is a decision (j is null for a row's name), onlook(i, j) a glance (hover or focus),
onlook(null) its end. paint(cell) asks cell(i, j) for { text, kind, label }; label is what a
screen reader says after "row, column"; kind is a class. mark(i, j) lights a row and a column. */
export function grid({ rows, columns, label, rowAxis = "query", columnAxis = "key", onpick, onlook }) {
  const size = Math.max(columns.length, rows.length);
  const fine = size > MOST_WITH_TEXT;
  const tall = columns.length > 6 || columns.some((name) => String(name).length > 6);
  const step = Math.ceil(size / 16);
  // Where there is no room for a name, only screen readers get it.
  const head = (text, at) => (at % step ? el("span", { class: "cx-unseen" }, String(text)) : String(text));
  const heads = columns.map((text, j) => el("th", { scope: "col", title: text }, head(text, j)));
  const cells = rows.map(() => columns.map(() => el("td", { role: "gridcell", tabindex: -1 })));
  const lines = rows.map((text, i) => el(
    "tr", { role: "row" }, el("th", { scope: "row", title: text }, head(text, i)), ...cells[i],
  ));
  const node = el(
    "table",
    { role: "grid", "aria-label": label, class: `cx-grid${tall ? " cx-tall" : ""}${fine ? " cx-fine" : ""}` },
    el("caption", {}, label),
    el("thead", {}, el("tr", { role: "row" }, el("td", { class: "cx-corner" }, `${rowAxis} ↓ ${columnAxis} →`), ...heads)),
    el("tbody", {}, ...lines),
  );
  node.style.setProperty("--columns", columns.length);
  node.style.setProperty("--names", `${Math.min(64, Math.max(46, 12 + 7 * Math.max(...rows.map((row) => String(row).length))))}px`);
  let home = cells[0]?.[0];
  if (home) home.tabIndex = 0;
  let marked = [];

  const focusCell = (i, j) => {
    home.tabIndex = -1;
    home = cells[i][j];
    home.tabIndex = 0;
    speak(i, j);
    home.focus();
  };
  const pick = (i, j) => onpick?.(i, j < 0 ? null : j);
  node.addEventListener("click", (event) => {
    const at = place(event.target);
    if (!at) return;
    if (at[1] >= 0) focusCell(...at);
    pick(...at);
  });
  node.addEventListener("keydown", (event) => {
    const at = place(event.target);
    if (!at || at[1] < 0) return;
    const goal = keyMove(event, ...at, rows.length, columns.length);
    if (goal) focusCell(...goal);
    else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      event.stopPropagation();
      pick(...at);
    }
  });
  for (const kind of ["pointerover", "focusin"]) {
    node.addEventListener(kind, (event) => {
      const at = place(event.target);
      if (at && at[1] >= 0) onlook?.(...at);
    });
  }
  for (const kind of ["pointerleave", "focusout"]) node.addEventListener(kind, () => onlook?.(null));

  const faces = rows.map(() => columns.map(() => null));
  const speak = (i, j) => {
    const { text = "", label: words = text } = faces[i][j];
    cells[i][j].setAttribute("aria-label", `${rows[i]}, ${columns[j]}: ${words}`);
  };
  return {
    node, cells, focusCell,
    paint(cell) {
      for (let i = 0; i < rows.length; i++) {
        for (let j = 0; j < columns.length; j++) {
          const [old, face] = [faces[i][j], cell(i, j)];
          faces[i][j] = face;
          if (face.kind !== old?.kind) cells[i][j].className = face.kind ?? "";
          if (fine || (old && face.text === old.text && face.label === old.label)) continue;
          cells[i][j].textContent = face.text ?? "";
          speak(i, j);
        }
      }
      if (fine) speak(...place(home)); // of thousands of cells only the one in focus has its words
    },
    mark(i, j) {
      for (const [old, kind] of marked) old.classList.remove(kind);
      marked[0]?.[0].removeAttribute("aria-selected");
      marked = [[lines[i], "cx-row"], [heads[j], "cx-column"], [cells[i]?.[j], "cx-cell"]].filter(([part]) => part);
      for (const [part, kind] of marked) part.classList.add(kind);
      lines[i]?.setAttribute("aria-selected", true);
    },
  };
}
