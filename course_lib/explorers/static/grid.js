/* The cell grid of the explorers: query rows, key columns. */
import { MOST_WITH_TEXT, el } from "./core.js";

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

/** Where an arrow, Home, End, PageUp or PageDown key leads from (i, j) in a table; else null. */
function keyMove(event, i, j, rows, columns) {
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
