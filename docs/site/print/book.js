// Lays out the printed book: contents, running heads, and answers at the end of each chapter.
// `printing.py` calls layBook() once, prints, and calls namePages() with where everything stands.

"use strict";

async function layBook() {
  await window.MathJax.startup.promise;
  await document.fonts.ready;
  document.querySelectorAll(".cell").forEach(shapeCell);
  const chapters = [...document.querySelectorAll("main section:has(> h1)")];
  chapters.forEach((chapter, i) => {
    const title = chapter.querySelector("h1").textContent.trim();
    takeAnchor(chapter);
    moveAnswers(chapter, title, i);
    headPages(chapter, title, i);
    listContents(chapter, title, i);
  });
}

// Short cells stay on one page; long ones may break, or pages would end half empty.
function shapeCell(cell) {
  const text = [...cell.querySelectorAll("pre")];
  text.forEach((pre) => pre.classList.toggle("long", lines(pre) > 26));
  const picture = cell.querySelector("img") !== null;
  if (!picture && text.reduce((sum, pre) => sum + lines(pre), 0) <= 24) cell.classList.add("short");
  for (const img of cell.querySelectorAll("img[width]")) {
    img.style.width = `${0.78 * img.getAttribute("width")}px`;
  }
}

function lines(pre) {
  return pre.textContent.trimEnd().split("\n").length;
}

// What links to a chapter lands on the chapter itself: its anchor alone would fill a page.
function takeAnchor(chapter) {
  const anchor = chapter.previousElementSibling;
  if (anchor?.id.startsWith("document-")) {
    anchor.remove();
    chapter.id = anchor.id;
  }
}

// Nobody can unfold paper: answers and hints go to the end of their chapter, results are shown.
function moveAnswers(chapter, title, i) {
  for (const table of chapter.querySelectorAll(".cell_output details")) table.open = true;
  const folds = [...chapter.querySelectorAll("details:not(.cell_output details)")];
  if (folds.length === 0) return;
  const end = document.createElement("section");
  end.className = "answers";
  const heading = document.createElement("h2");
  heading.textContent = /exercises$/.test(title) ? "Hints" : "Answers";
  end.append(heading);
  folds.forEach((fold, n) => {
    const question = `q-${i}-${n}`;
    const answer = `a-${i}-${n}`;
    const name = fold.querySelector("summary").textContent.trim();
    const asks = !/^(Answer|Hint)/.test(name);
    const pointer = document.createElement("p");
    pointer.className = "pointer";
    pointer.id = question;
    if (asks) pointer.append(...fold.querySelector("summary").cloneNode(true).childNodes, " ");
    pointer.append(link(answer, `${asks ? "Answer" : name}: see ${n + 1}, page `));
    const entry = document.createElement("div");
    entry.className = "answer";
    entry.id = answer;
    const label = document.createElement("p");
    label.className = "answer-label";
    const about = asks ? name.replace(/^\d+\.\s*/, "") : `${nearestHeading(fold)}: ${name.toLowerCase()}`;
    label.append(link(question, `${n + 1}. ${about} (page `, ")"));
    entry.append(label);
    fold.querySelector("summary").remove();
    entry.append(...fold.childNodes);
    fold.replaceWith(pointer);
    end.append(entry);
  });
  chapter.append(end);
}

function nearestHeading(element) {
  return element.closest("section").querySelector("h1, h2, h3").textContent.trim();
}

// A link that names the page of its target.
function link(target, before, after = "") {
  const a = document.createElement("a");
  a.href = `#${target}`;
  a.dataset.target = target;
  a.append(before, page(), after);
  return a;
}

function page() {
  const number = document.createElement("span");
  number.className = "page-number";
  number.textContent = "000";
  return number;
}

// The chapter's title stands at the top of each of its pages.
function headPages(chapter, title, i) {
  chapter.style.page = `chapter-${i}`;
  const style = document.createElement("style");
  const words = JSON.stringify(title);
  style.textContent = `@page chapter-${i} { @top-left { content: ${words}; } }`;
  document.head.append(style);
}

// Chapters with their sections; exercises and references by title alone.
function listContents(chapter, title, i) {
  const list = document.querySelector("nav.book-contents > ol");
  const entry = contentsLine(chapter.querySelector("h1"), title, `c-${i}`);
  list.append(entry);
  if (/exercises$/.test(title)) {
    entry.className = "exercises";
    return;
  }
  const sections = document.createElement("ol");
  chapter.querySelectorAll(":scope > section > h2").forEach((heading, n) => {
    sections.append(contentsLine(heading, heading.textContent.trim(), `s-${i}-${n}`));
  });
  if (sections.children.length > 0) entry.append(sections);
}

function contentsLine(heading, words, id) {
  heading.id = id;
  const item = document.createElement("li");
  const a = link(id, "");
  const name = document.createElement("span");
  name.className = "name";
  name.textContent = words;
  a.prepend(name);
  item.append(a);
  return item;
}

function namePages(pages) {
  for (const a of document.querySelectorAll("a[data-target]")) {
    const found = pages[a.dataset.target];
    if (found === undefined) throw new Error(`no page for ${a.dataset.target}`);
    a.querySelector(".page-number").textContent = found;
  }
}

// What the bookmarks should say: Chromium repeats words of a heading that moves to the next page.
function bookmarks() {
  return [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((heading) =>
    heading.textContent.trim().replace(/\s+/g, " "),
  );
}
