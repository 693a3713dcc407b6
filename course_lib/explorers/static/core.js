/* The shared core of all explorers: elements, state, controls, numbers, keyboard.

To write an explorer, make static/NAME.js with a `render(model, host)` that builds a frame and
controls, and ends with `follow(model, ["row", "view"], draw)`: walk.js is the shortest. page.py
puts the files that it imports in front of it: no build step. Numbers come from Python
(`model.data`); JavaScript only looks them up and formats them. What Python shares is changed with
`model.set({ row: 2 })`; what is only looked at (hover) stays here. */

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
  host.append(el("section", { class: "cx", "aria-label": title, tabindex: -1 }, bar, words, main));
  return {
    bar, body,
    say: (text) => { if (words.textContent !== text) words.textContent = text; },
    note: (...children) => note.replaceChildren(...children),
  };
}

/** Draw now, and once after any number of changes to these states. */
export function follow(model, names, draw) {
  let waiting = false;
  model.followers.push((changed) => {
    if (waiting || !names.includes(changed)) return;
    waiting = true;
    queueMicrotask(() => { waiting = false; draw(); });
  });
  draw();
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

/** The class of a weight from 0 to 1 on the sequential scale (colours: style.py). */
export function weightKind(x) {
  return `cx-w${Math.round(20 * Math.min(1, Math.max(0, Number(x) || 0)))}`;
}

/** The class of a difference from -1 to 1 on the diverging scale. */
export function differenceKind(x) {
  return `cx-d${10 + Math.round(10 * Math.min(1, Math.max(-1, Number(x) || 0)))}`;
}

// --- controls ---------------------------------------------------------------------------------

/** One of several: options are [value, text] pairs; returns { node, set(value) }. */
export function choice({ label, options, onpick }) {
  const inputs = new Map();
  const node = el("fieldset", { class: "cx-choice" }, el("legend", {}, label));
  for (const [value, text] of options) {
    const input = el("input", { type: "radio", name: label, value, onchange: () => onpick(value) });
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
  const go = (step) => model.set({ step: Math.min(last(), Math.max(0, step)) });
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

/** A button; returns { node, enable(on) }. */
export function button({ label, onpick }) {
  const node = el("button", { type: "button", class: "cx-button", onclick: () => onpick() }, label);
  return { node, enable: (on) => { node.disabled = !on; } };
}

/** A grid with more rows or columns shows colours only: its cells are too small for text. */
export const MOST_WITH_TEXT = 12;

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
