// What is wider than its column scrolls by itself, so the keyboard must be able to reach it.

"use strict";

const SCROLLING = 'mjx-container[display="true"], div.math, .output.text_html';

function letKeyboardScroll() {
  for (const part of document.querySelectorAll(SCROLLING)) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
  }
}

window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  letKeyboardScroll();
});
window.addEventListener("resize", letKeyboardScroll);
document.addEventListener("toggle", letKeyboardScroll, true);
