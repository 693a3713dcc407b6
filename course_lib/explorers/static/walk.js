/* CodeWalk: the lines of a recorded run; a chosen line shows what it read and what it made. */
import { choice, el, fixed, follow, frame, stepper, tokens } from "./core.js";

export function render(model, host) {
  const data = model.data;
  const ui = frame(host, "Code walk");
  const last = () => data.walks[model.get("walk")].steps.length - 1;
  const steps = stepper(model, { last, next: "Next" });

  const walks = choice({
    label: "Implementation", options: data.walks.map((walk, i) => [i, walk.name]),
    onpick: (walk) => model.set({ walk, step: 0 }),
  });
  const follows = tokens({
    names: data.tokens, label: "Token to follow",
    onpick: (row) => model.set({ row: row === model.get("row") ? null : row }),
  });
  ui.bar.append(...(data.walks.length > 1 ? [walks.node] : []), ...steps.nodes);
  if (data.tokens.length) ui.bar.append(el("div", { class: "cx-group" }, "Follow", follows.node));

  const codes = data.walks.map((walk) => {
    const code = tokens({
      names: walk.source, label: `Lines of ${walk.name}`,
      usable: (i) => walk.steps.some((step) => step.line === i + 1),
      onpick: (i) => steps.go(walk.steps.findIndex((step) => step.line === i + 1)),
    });
    code.node.classList.add("cx-code");
    return code;
  });

  function draw() {
    const [at, number, row] = ["walk", "step", "row"].map((name) => model.get(name));
    const step = data.walks[at].steps[number];
    walks.set(at);
    steps.draw();
    follows.paint(() => "", row);
    codes[at].paint(() => "", step.line - 1);
    if (ui.body.firstChild !== codes[at].node) ui.body.replaceChildren(codes[at].node);
    ui.say(`Step ${number} of ${last()}. ${step.words}`);
    const part = (title, values) => (values.length ? [
      el("p", {}, el("b", {}, title)), el("div", { class: "cx-values" }, ...values.map((value) => shown(value, row))),
    ] : []);
    ui.note(...part("reads", step.read), ...part(step.inputs ? "is called with" : "makes", step.made));
  }
  follow(model, ["walk", "step", "row"], draw);
}

/** A value: its name and kind, and a table if it has one. */
function shown(value, row) {
  const box = el("div", {}, el("code", {}, value.name), ` ${value.table ? "" : "= "}${value.summary}`);
  if (value.note) box.append(el("span", { class: "cx-muted" }, ` (${value.note})`));
  if (!value.table) return box;
  const text = (x) => (value.whole ? String(x) : fixed(x, 4));
  const kind = (x) => (x === "-Infinity" || (value.truth && !x) ? "cx-blocked" : "");
  const head = value.columns.length ? [el("tr", {}, el("td", { class: "cx-none" }), ...value.columns.map((name) => el("th", { scope: "col" }, name)))] : [];
  const lines = value.table.map((line, i) => el(
    "tr", { class: value.rows.length && i === row ? "cx-row" : null },
    ...(value.rows.length ? [el("th", { scope: "row" }, value.rows[i])] : []),
    ...line.map((x) => el("td", { class: kind(x) }, text(x))),
  ));
  box.append(el("table", { class: "cx-value" }, ...head, ...lines));
  return box;
}
