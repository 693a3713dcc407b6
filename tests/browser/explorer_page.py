"""A live explorer in a browser page without Jupyter: a real Python explorer, a small fake model.

`open_explorer(chromium, explorer)` renders the explorer's own JavaScript and CSS. What a reader
does in the page reaches the Python object, with its checks, at the next `sync()`; what Python
sets reaches the page at once.
"""

import json

import traitlets

FAKE_MODEL = """
window.state = JSON.parse(document.getElementById("state").textContent);
window.saved = [];
const listeners = {};
const dirty = {};
window.model = {
  get: (name) => state[name],
  set(name, value) {
    if (state[name] === value) return;
    state[name] = dirty[name] = value;
    for (const f of listeners[name] ?? []) f();
  },
  save_changes() { saved.push({ ...dirty }); for (const name in dirty) delete dirty[name]; },
  on: (event, f) => (listeners[event.replace("change:", "")] ??= []).push(f),
  off(event, f) {
    const name = event.replace("change:", "");
    listeners[name] = (listeners[name] ?? []).filter((g) => g !== f);
  },
  receive(name, value) { state[name] = value; for (const f of listeners[name] ?? []) f(); },
  listening: () => Object.values(listeners).flat().length,
};
window.start = async (esm) => {
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const module = (await import(url)).default;
  window.cleanup = await module.render({ model, el: document.getElementById("host") });
};
"""


class ExplorerPage:
    """The page of one explorer; `page` is Playwright's."""

    def __init__(self, browser, explorer, *, width=900, height=900, dark=False, system_dark=False):
        self.explorer = explorer
        self.errors = []
        self.page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if system_dark else "light",
        )
        self.page.set_default_timeout(10_000)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        state = {"data": explorer.data, **{n: getattr(explorer, n) for n in explorer.states()}}
        theme = ' data-jp-theme-light="false" style="background:#111;color:#eee"' if dark else ""
        self.page.set_content(
            f'<!doctype html><html lang="en"><head><title>explorer</title>'
            f"<style>body {{ margin: 8px }}</style><style>{explorer._css}</style></head>"
            f"<body{theme}><main><h1>Explorer</h1>"
            f'<div id="host"></div></main>'
            f'<script type="application/json" id="state">{_script_safe(json.dumps(state))}</script>'
            f"<script>{FAKE_MODEL}</script></body></html>"
        )
        self.page.evaluate("esm => window.start(esm)", explorer._esm)
        explorer.observe(self._to_page, explorer.states())
        self._syncing = False

    def _to_page(self, change):
        if not self._syncing:
            self.page.evaluate(
                "([name, value]) => window.model.receive(name, value)", [change.name, change.new]
            )

    def sync(self):
        """Hand to Python what the page saved, through the explorer's own checks."""
        saved = self.page.evaluate("() => window.saved.splice(0)")
        self._syncing = True
        try:
            for changes in saved:
                for name, value in changes.items():
                    setattr(self.explorer, name, value)
        finally:
            self._syncing = False
        return self.explorer

    def words(self):
        """What a screen reader has just been told."""
        return self.page.inner_text(".cx-words >> nth=0")

    def note(self):
        """The numbers under the explorer."""
        return self.page.inner_text(".cx-note")

    def cell(self, i, j, grid=0):
        """The cell of row i and column j."""
        return (
            self.page.locator(".cx-grid:visible")
            .nth(grid)
            .locator("tbody tr")
            .nth(i)
            .locator("td")
            .nth(j)
        )

    def close(self):
        """Close it, and fail if the page ever complained."""
        self.explorer.unobserve(self._to_page, self.explorer.states())
        self.page.close()
        assert not self.errors


def open_explorer(browser, explorer: traitlets.HasTraits, **options) -> ExplorerPage:
    """Render an explorer; options: width, height, dark (JupyterLab says so), system_dark."""
    return ExplorerPage(browser, explorer, **options)


def _script_safe(text):
    return text.replace("<", "\\u003c")
