import { el } from "./core.js";

/** A small table: a caption, heads, and lines of cells that begin with a name; `kind` is a class. */
export function tableOf(caption, heads, lines) {
  return el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...heads.map((head) => (head ? el("th", { scope: "col" }, head) : el("td"))))),
    el("tbody", {}, ...lines.map(({ kind = "", cells: [name, ...cells] }) => el("tr", { class: kind },
      el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell))))));
}
