"""Takes the README's screenshot of an explorer: `python docs/images/explorer.py`.

Needs Chromium and the test extras. Prints the picture's alt text, which a test compares with the
README's.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from course_lib.example import TOKENS, K, Q, V
from course_lib.explorers import MaskExplorer
from course_lib.masks import causal
from course_lib.trace import trace

HERE = Path(__file__).parent


def explorer() -> MaskExplorer:
    """The explorer of the screenshot: sat's row of weights."""
    return MaskExplorer(TOKENS, Q, K, V, row="sat", view="weights")


def alt_text() -> str:
    """What the screenshot shows, from the numbers that it shows."""
    steps = trace(Q, K, V, causal(), TOKENS)
    sat, cat = TOKENS.index("sat"), TOKENS.index("cat")
    output = ", ".join(f"{x:.4f}" for x in steps.output[sat])
    return (
        f"An explorer in the browser. {explorer().words()} The pointer is on the cell of sat and "
        f"cat, and beside the grid stands how its weight, {steps.weights[sat, cat]:.4f}, is made: "
        f"dot product, scale, mask, exponential, division by the sum of the row, and then the "
        f"output of sat, {output}."
    )


def main() -> None:
    """Write explorer.png beside this file, twice as fine as the screen."""
    sys.path.insert(0, str(HERE.parents[1]))
    from tests.browser.explorer_page import open_explorer

    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context(device_scale_factor=2)
        context.new_page, new_page = lambda **_: new_page(), context.new_page
        opened = open_explorer(context, explorer(), width=760)
        opened.page.set_viewport_size({"width": 760, "height": 900})
        opened.cell(2, 1).hover()
        opened.page.locator(".host").screenshot(path=HERE / "explorer.png")
        browser.close()
    print(alt_text())


if __name__ == "__main__":
    main()
