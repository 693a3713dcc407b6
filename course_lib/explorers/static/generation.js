import { choice, el, fixed, follow, frame, stepper, toggle } from "./core.js";
import { grid } from "./grid.js";
import { tableOf } from "./table.js";

/* GenerationExplorer: data.models[who][task] holds the text and, for each step, what the model sees
and says, what happens to its keys, and all of it in words. */

const actors = { honest: "honest model", cheater: "cheater" };

/** An SVG element. */
function draw(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Both training curves, with a logarithmic axis, and the least loss of an honest model. */
function chart({ floor, models }, who) {
  const [wide, high, least, most] = [300, 130, 0.02, 4];
  const last = Math.max(...Object.values(models).map(({ curve }) => curve[0].at(-1)));
  const x = (step) => 30 + ((wide - 40) * step) / last;
  const y = (loss) => 5 + (high - 25) * (Math.log(most / loss) / Math.log(most / least));
  const label = Object.entries(models)
    .map(([name, { curve }]) => `${actors[name]}: from ${fixed(curve[1][0])} to ${fixed(curve[1].at(-1))}`).join("; ");
  return draw(
    "svg",
    { viewBox: `0 0 ${wide} ${high}`, class: "cx-chart", role: "img", "aria-label": `Training loss in nats a word. ${label}. Floor ${fixed(floor)}.` },
    ...[0.03, 0.1, 0.3, 1, 3].map((loss) => draw("text", { x: 26, y: y(loss) + 3, "text-anchor": "end" }, String(loss))),
    draw("text", { x: wide - 10, y: high - 6, "text-anchor": "end" }, `training steps, up to ${last}`),
    draw("line", { x1: 30, x2: wide - 10, y1: y(floor), y2: y(floor), class: "cx-floor" }),
    draw("text", { x: wide - 10, y: y(floor) - 4, "text-anchor": "end" }, `floor of an honest model ${fixed(floor)}`),
    ...Object.entries(models).map(([name, { curve: [steps, losses] }]) => draw("polyline", {
      class: `cx-line cx-${name}${name === who ? " cx-now" : ""}`,
      points: steps.map((step, i) => `${x(step)},${y(losses[i])}`).join(" "),
    })),
    ...Object.entries(models).map(([name, { curve: [, losses] }]) => draw(
      "text", { x: wide - 10, y: y(losses.at(-1)) + (losses.at(-1) < floor / 2 ? -6 : 13), "text-anchor": "end" }, actors[name],
    )),
  );
}

export function render(model, host) {
  const { models, steps: count, training } = model.data;
  const ui = frame(host, "Generation explorer");
  const steps = stepper(model, { last: () => count - 1, next: "Next word", label: "step" });
  const task = choice({
    label: "The model", options: [["writes", "writes alone"], ["reads", "reads a given text"]],
    onpick: (value) => model.set({ task: value }),
  });
  const cheat = toggle({ label: "cheat: trained without a mask", onpick: (on) => model.set({ cheat: on }) });
  ui.bar.append(...steps.nodes, task.node, ...(models.cheater ? [cheat.node] : []));
  const strip = el("ol", { class: "cx-tokens cx-strip", "aria-label": "The text" });
  ui.bar.append(strip);
  const place = el("div", { class: "cx-small" });
  const look = el("p", { class: "cx-muted cx-look" });
  ui.body.append(el("div", {}, place, look));
  const [bars, losses] = [el("div", { class: "cx-sums" }), el("div", { class: "cx-sums" })];
  ui.note(bars, losses);
  let [shown, table] = [null, null];

  const writes = (run, now) => (i, j) => {
    const { keys, moved } = run.steps[i];
    if (i > now) return { kind: "cx-plain", label: "later" };
    return [
      { kind: "cx-blocked", label: "not said yet" },
      { text: "new", kind: "cx-visible", label: "computed in this step" },
      { text: "kept", kind: "cx-part", label: "read from the cache" },
      { text: fixed(moved[j], 1), kind: "cx-leak", label: `a kept key would be wrong by ${fixed(moved[j])}; computed again` },
    ][keys[j]];
  };
  const reads = (run) => (i, j) => {
    if (!run.visible[i][j]) return { kind: "cx-blocked", label: "blocked" };
    return j > i ? { kind: "cx-part cx-leak", label: "sees the future" } : { kind: "cx-visible", label: "may attend" };
  };

  /** A new table for another run. */
  function rebuild(run, isWriting) {
    const names = run.text.slice(0, count);
    const positions = isWriting ? run.steps[0].keys.map((_, j) => j) : names;
    const face = (i, j) => (isWriting ? writes(run, model.get("step")) : reads(run))(i, j);
    const stale = isWriting && run.steps.some(({ keys }) => keys.includes(3));
    const hint = stale ? "Numbers: by how much a kept key or value would be wrong." : "Pick a row to go to its step.";
    table = grid({
      rows: isWriting ? run.steps.map((_, i) => `step ${i}`) : names, columns: positions,
      label: isWriting ? "Keys and values of each position" : "Who sees whom in one pass",
      rowAxis: isWriting ? "step" : "query", columnAxis: isWriting ? "position" : "key",
      onpick: (i) => steps.go(i),
      onlook: (i, j) => { look.textContent = i == null ? hint : `${isWriting ? `step ${i}, position ${j}` : `${names[i]}, ${names[j]}`}: ${face(i, j).label}`; },
    });
    look.textContent = hint;
    place.replaceChildren(table.node);
  }

  /** The words so far (or all, when they are given), and the one that is asked for. */
  function chips(run, { end, sees }, isWriting) {
    return run.text.slice(0, isWriting ? end + 1 : count + 1).map((word, j) => {
      const seen = sees.includes(j);
      const kind = j < end ? (seen ? "cx-visible" : "cx-blocked") : seen ? "cx-part cx-leak" : isWriting ? "" : "cx-blocked";
      return el("li", { class: `cx-chip ${kind}${j === end ? " cx-asked" : ""}` }, word);
    });
  }

  /** The likeliest next words as bars. */
  function probabilities({ bars: lines }, isWriting) {
    const bar = (p) => el("span", { class: "cx-bar-p", style: `width:${Math.max(1, 90 * p)}px` });
    return tableOf("The next word", ["", "", "model", "language"], lines.map(([word, p, exact, asked]) => ({
      kind: asked ? "cx-asked" : "",
      cells: [
        asked ? `${word} ← ${isWriting ? "drawn" : "asked for"}` : word, bar(p), fixed(p),
        exact == null ? "–" : exact === 0 ? "forbidden" : fixed(exact),
      ],
    })));
  }

  follow(model, ["step", "task", "cheat"], () => {
    const [now, given, cheats] = ["step", "task", "cheat"].map((name) => model.get(name));
    const [who, isWriting] = [cheats ? "cheater" : "honest", given === "writes"];
    const run = models[who][given];
    const step = run.steps[now];
    if (shown !== run) rebuild(run, isWriting);
    if (training && shown !== run) {
      losses.replaceChildren(chart(training, who), tableOf("After training (loss in nats a word)", ["", "loss, fresh texts", "faultless texts"],
        Object.entries(training.models).map(([name, m]) => ({
          kind: name === who ? "cx-asked" : "",
          cells: [actors[name], `${fixed(m.loss, 3)} ± ${fixed(m.standard_error, 3)}`, `${fixed(100 * m.grammatical, 1)}%`],
        }))));
    }
    shown = run;
    steps.draw();
    task.set(given);
    cheat.set(cheats);
    strip.replaceChildren(...chips(run, step, isWriting));
    table.paint(isWriting ? writes(run, now) : reads(run));
    table.mark(now);
    bars.replaceChildren(probabilities(step, isWriting));
    ui.say(step.words);
  });
}
