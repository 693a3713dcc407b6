/* From the static view to the live one: what makes an explorer of the markup that Python saved. */
import { el } from "./core.js";

const EVENT = "course-explorer";

/** `data` never changes, states do. Views of one explorer, and where a kernel is alive the Python
object too (bridge.js), tell each other of changes by events of the page. */
class Model {
  followers = [];
  touched = false;

  constructor(key, data, states) {
    Object.assign(this, { key, data, states: { ...states } });
    const weak = new WeakRef(this); // a view that was taken away must not stay in memory
    document.addEventListener(EVENT, function hear({ detail }) {
      const model = weak.deref();
      if (!model) document.removeEventListener(EVENT, hear);
      else if (detail.key === key && detail.from !== model) model.hear(detail);
    });
  }

  get(name) {
    return this.states[name];
  }

  /** What a reader does. */
  set(changes) {
    this.touched = true;
    if (this.take(changes)) this.tell();
  }

  /** What others say; a bridge that has just come hears first what was done without it. */
  hear({ states, hello }) {
    if (hello && this.touched) this.tell();
    else this.take(states);
  }

  take(changes) {
    const names = Object.keys(changes).filter((name) => this.states[name] !== changes[name]);
    Object.assign(this.states, changes);
    for (const name of names) for (const follower of this.followers) follower(name);
    return names.length > 0;
  }

  tell() {
    const { key, states } = this;
    document.dispatchEvent(new CustomEvent(EVENT, { detail: { key, states: { ...states }, from: this } }));
    globalThis.google?.colab?.kernel?.invokeFunction(EVENT, [key, states], {});
  }
}

/** Make the explorer beside this script live (or, where a page moved the script away, every one of
its key). The static view stays for paper, and where anything fails. In a shadow tree neither side's
styles reach the other. */
export function upgrade(render, { key, css, data, states }) {
  const own = `[data-explorer="${key}"]`;
  const beside = document.currentScript?.parentNode?.querySelectorAll(`:scope > ${own}`);
  for (const host of beside?.length ? beside : document.querySelectorAll(own)) {
    if (host.shadowRoot) continue;
    const shadow = host.attachShadow({ mode: "open" });
    shadow.append(el("style", {}, css), el("slot"));
    // A notebook has keys of its own: what is pressed here is meant for here, but with Ctrl or Cmd.
    const keep = (on) => host.toggleAttribute("data-lm-suppress-shortcuts", on);
    shadow.addEventListener("focusin", () => keep(true));
    for (const kind of ["keydown", "keypress", "keyup"]) {
      shadow.addEventListener(kind, (event) => {
        if (keep(!event.ctrlKey && !event.metaKey)) event.stopPropagation();
      });
    }
    try {
      render(new Model(key, data, states), shadow);
      shadow.querySelector("slot").className = "cx-paper";
    } catch (error) {
      shadow.replaceChildren(el("slot"));
      console.error(error);
    }
  }
}
