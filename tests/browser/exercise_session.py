"""What a student does in a notebook, for the tests in this folder."""

#: The kernel of the open notebook, in JavaScript (the server exposes the application to tests).
KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"
CELLS = "window.jupyterapp.shell.currentWidget.content.widgets"


def run_all(page):
    """Clear the open notebook, run it from top to bottom and wait until it has."""
    _menu(page, "Edit", "Clear Outputs of All Cells")
    counts = _execution_counts(page)
    assert not any(counts), "nothing saved is left to be mistaken for a result"
    _menu(page, "Run", "Run All Cells")
    for _ in range(480):
        done = _execution_counts(page) == list(range(1, len(counts) + 1))
        if done and page.evaluate(f"() => {KERNEL}.status") == "idle":
            return
        page.wait_for_timeout(500)
    raise AssertionError(f"after four minutes the cells are at {_execution_counts(page)}")


def _menu(page, menu, item):
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def _execution_counts(page):
    return page.evaluate(
        f"() => {CELLS}.filter(cell => cell.model.type === 'code')"
        ".map(cell => cell.model.executionCount)"
    )


def open_exercises(chromium, lab, name, width=1280, height=1000):
    """The exercise notebook of a chapter in JupyterLab, run once from top to bottom."""
    page = chromium.new_page(viewport={"width": width, "height": height})
    page.goto(f"{lab}/tree/exercises/{name}.ipynb?reset")
    page.wait_for_function(f"() => {KERNEL}?.status === 'idle'", timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_timeout(1000)
    page.wait_for_function(
        f"() => {KERNEL}.status === 'idle' && {CELLS}.filter(c => c.model.type === 'code')"
        ".every(c => c.model.executionCount)",
        timeout=120_000,
    )
    return page


def answer_cell(page, grade_id):
    """The place of an answer cell in the notebook."""
    return page.evaluate(
        f"id => {CELLS}.findIndex(c => c.model.getMetadata('nbgrader')?.grade_id === id)", grade_id
    )


def submit(page, grade_id, code, *, wait=True):
    """Write an answer with the keyboard, run it, and run the check below it."""
    place = answer_cell(page, grade_id)
    page.evaluate(
        "async place => { const book = window.jupyterapp.shell.currentWidget.content;"
        " book.activeCellIndex = place; await book.scrollToItem(place, 'start'); }",
        place,
    )
    page.wait_for_timeout(300)
    page.locator(".jp-Cell.jp-mod-active .cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(code)
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    if wait:
        page.wait_for_timeout(300)
        page.wait_for_function(f"() => {KERNEL}.status === 'idle'", timeout=60_000)
        page.wait_for_timeout(300)


def output_below(page, grade_id):
    """The printed text of the check cell below an answer."""
    return page.evaluate(
        f"place => {CELLS}[place + 1].model.outputs.toJSON()"
        ".filter(o => o.output_type === 'stream').map(o => [o.text].flat().join('')).join('')",
        answer_cell(page, grade_id),
    ).strip()
