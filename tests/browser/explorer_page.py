"""A live explorer in a browser page without Jupyter: what a notebook saves, and the Python object.

`open_explorer(chromium, explorer)` shows the HTML that a notebook keeps of the explorer, and
stands where the bridge of a notebook with a kernel would: what a reader does in the page reaches
the Python object, with its checks, at the next `sync()`; what Python sets reaches the page at once.
"""

HELPERS = """
window.told = [];
document.addEventListener("course-explorer", ({ detail }) => {
  if (detail.from !== "python") told.push(structuredClone(detail.states));
});
const [add, remove] = [document.addEventListener, document.removeEventListener];
window.listening = 0;
document.addEventListener = function (...about) { listening += 1; add.apply(this, about); };
document.removeEventListener = function (...about) { listening -= 1; remove.apply(this, about); };
window.say = (key, states) => document.dispatchEvent(
  new CustomEvent("course-explorer", { detail: { key, states, from: "python" } }));
window.inside = (at = 0) => document.querySelectorAll("[data-explorer]")[at].shadowRoot;
window.active = () => document.activeElement?.shadowRoot?.activeElement ?? document.activeElement;
"""


class ExplorerPage:
    """The page of one explorer; `page` is Playwright's."""

    def __init__(
        self, browser, explorer, *more, width=900, height=900, dark=False, system_dark=False
    ):
        self.explorer = explorer
        self.errors = []
        self.page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if system_dark else "light",
        )
        self.page.set_default_timeout(10_000)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        # As JupyterLab says it; `system_dark` is the setting of the system.
        theme = ' data-jp-theme-light="false" style="background:#111;color:#eee"' if dark else ""
        shown = "".join(f'<div class="host">{each.live_html()}</div>' for each in (explorer, *more))
        self.page.set_content(
            f'<!doctype html><html lang="en"><head><title>explorer</title>'
            f"<style>body {{ margin: 8px }}</style><script>{HELPERS}</script></head>"
            f"<body{theme}><main><h1>Explorer</h1>{shown}</main></body></html>"
        )
        explorer.observe(self._to_page, explorer.states())
        self._syncing = False

    def _to_page(self, _change):
        if not self._syncing:
            self.page.evaluate(
                "([key, states]) => say(key, states)", [self.explorer.key, self.explorer.values()]
            )

    def sync(self):
        """Hand to Python what the page told, through the explorer's own checks."""
        told = self.page.evaluate("() => told.splice(0)")
        self._syncing = True
        try:
            for states in told:
                self.explorer.update(**states)
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


def open_explorer(browser, explorer, *more, **options) -> ExplorerPage:
    """Show an explorer, and more below it; options: width, height, dark, system_dark."""
    return ExplorerPage(browser, explorer, *more, **options)


def assert_removed_views_stop_listening(page):
    """A view whose markup was taken away does not stay in memory, and hears no more of Python."""
    assert page.page.evaluate("listening") == 1
    page.page.evaluate("document.querySelector('.host').remove()")
    for _ in range(20):
        page.page.request_gc()
        page.page.evaluate("say('somebody', {})")
        if page.page.evaluate("listening") == 0:
            return
        page.page.wait_for_timeout(50)
    raise AssertionError("a view that is gone still listens")


def act(live):
    """Do the first thing that an explorer offers; `live` is its section."""
    if live.get_by_role("button", name="Next").count():
        live.get_by_role("button", name="Next").click()
    elif live.get_by_label("Start from an example").count():
        live.get_by_label("Start from an example").select_option("prefix-LM")
    else:
        live.get_by_role("radio", name="on", exact=True).click()
