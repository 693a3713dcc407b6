"""How long a click on an explorer takes until the new picture is painted (chapters 2, 3, 5 to 7).

    python benchmarks/explorers.py            # about a minute; writes results/explorers.json
    python benchmarks/explorers.py --clicks 10 --only compare --out -

Each explorer is shown in headless Chromium as a notebook saves it, so what is measured is the
explorer's own work and the browser's: no kernel takes part in a click. A sample begins just
before the click and ends when a task after the next animation frame runs: by then the browser has
computed styles, layout and paint of that frame. The clock includes up to 1/60 s of waiting for
the frame.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from course_lib.codewalk import walk
from course_lib.explorers import (
    CodeWalk,
    CompareExplorer,
    Explorer,
    FlashExplorer,
    GenerationExplorer,
    MaskBuilder,
    MaskExplorer,
)

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.browser.explorer_page import open_explorer  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "explorers.json"
#: Milliseconds that a click may take, by number of tokens.
TARGETS = {5: 50, 64: 100}

#: Each step clicks on one element, or (with `value`) moves a slider or a list to a value.
ACT = """
async (steps) => {
  const times = [];
  for (const { css, at, value } of steps) {
    const target = [...inside().querySelectorAll(css)].at(at);
    await new Promise((done) => setTimeout(done, 30));
    const begin = performance.now();
    if (value === undefined) target.click();
    else {
      target.value = value;
      target.dispatchEvent(new Event(target.tagName === "SELECT" ? "change" : "input"));
    }
    await new Promise((done) => requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = done;
      channel.port2.postMessage(null);
    }));
    times.push(performance.now() - begin);
  }
  return times;
}
"""

Step = dict[str, Any]
#: What is done to an explorer of n tokens, the i-th time; every step changes the picture.
Does = Callable[[int, int], Step]


def chip(i: int, n: int) -> Step:
    """A click on a token."""
    return {"css": ".cx-chip:not(:disabled)", "at": (7 * i + 1) % n}


def cell(i: int, n: int) -> Step:
    """A click on a cell."""
    return {"css": ".cx-grid tbody td", "at": (i * (n + 3) + 1) % (n * n)}


def last_choice(i: int, _n: int) -> Step:
    """One of the last two of several views."""
    return {"css": ".cx-choice input", "at": (i + 1) % 2 - 2}


def back_or_next(i: int, _n: int) -> Step:
    """Next tile, word or line; every second time back."""
    return {"css": ".cx-bar .cx-button", "at": (i + 1) % 2}


def slider(least: int, css: str = ".cx-bar input[type=range]", at: int = 0) -> Does:
    """Another place of a slider, which holds numbers from `least` on."""
    return lambda i, n: {"css": css, "at": at, "value": str(least + (7 * i + 1) % n)}


def toggle(_i: int, _n: int) -> Step:
    """The switch."""
    return {"css": ".cx-toggle input", "at": 0}


def example(i: int, _n: int) -> Step:
    """Another example of the mask builder's list."""
    return {"css": ".cx-bar select", "at": 0, "value": ("causal", "window and sinks")[i % 2]}


def arrays(n: int) -> list[np.ndarray]:
    """Random Q, K, V."""
    rng = np.random.default_rng(n)
    return [rng.normal(size=(n, 8)) for _ in range(3)]


def names(n: int) -> list[str]:
    """Labels of n tokens."""
    return [f"t{i}" for i in range(n)]


def scored(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """What the code walk walks through."""
    scores = q @ k.T
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights = powers / powers.sum(axis=1, keepdims=True)
    return weights @ v


def flash(n: int) -> FlashExplorer:
    """A flash explorer: tiles of 2 by 2, or of 8 by 8 where there are many tokens."""
    block = 2 if n < 16 else 8
    return FlashExplorer(names(n), *arrays(n), block_q=block, block_k=block)


#: Explorer of n tokens, and what is done to it. The generation explorer has its recorded size.
CASES: dict[str, tuple[Callable[[int], Explorer], dict[str, Does]]] = {
    "mask": (
        lambda n: MaskExplorer(names(n), *arrays(n)),
        {"token": chip, "cell": cell, "view": last_choice, "rows": slider(1)},
    ),
    "compare": (
        lambda n: CompareExplorer(names(n), *arrays(n)),
        {"token": chip, "cell": cell, "view": last_choice},
    ),
    "walk": (
        lambda n: CodeWalk(walk(scored, *arrays(n)), tokens=names(n)),
        {"token": chip, "next": back_or_next},
    ),
    "builder": (
        lambda n: MaskBuilder(n=n, tokens=names(n), terms=["sliding_window(3)"]),
        {
            "rule": slider(1, ".cx-terms input[type=range]"),
            "example": example,
            "tile": lambda i, _n: slider(2, at=1)(i, 4),
        },
    ),
    "flash": (
        flash,
        {"next": back_or_next, "tiles": lambda i, n: slider(0)(i, 6 if n < 16 else 36),
         "cell": cell},
    ),
    "generation": (
        lambda _n: GenerationExplorer(),
        {"next": back_or_next, "cheat": toggle, "task": last_choice},
    ),
}  # fmt: skip


def measure(browser: Any, explorer: Explorer, does: Does, n: int, clicks: int) -> dict[str, float]:
    """Median and worst milliseconds from click to paint."""
    page = open_explorer(browser, explorer)
    page.page.evaluate(ACT, [does(i, n) for i in range(6)])
    times = page.page.evaluate(ACT, [does(i, n) for i in range(6, 6 + clicks)])
    page.close()
    return {"median_ms": round(statistics.median(times), 1), "worst_ms": round(max(times), 1)}


def main() -> None:
    """Measure, print a table, write it down; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clicks", type=int, default=40, help="samples a case")
    parser.add_argument("--only", choices=CASES, help="one explorer alone (with --out -)")
    parser.add_argument("--out", default=str(RESULTS), help="a JSON file, or - for none")
    options = parser.parse_args()
    if options.only and options.out != "-":
        parser.error("--only measures a part, which is not to be written down: add --out -")
    path = next((p for n in ("chromium", "google-chrome") if (p := shutil.which(n))), None)
    if path is None:
        raise SystemExit("needs a Chromium on the PATH (Debian: apt-get install chromium)")
    load = round(os.getloadavg()[0], 1)
    cases: dict[str, dict[str, float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        version = browser.version
        for name, (make, things) in CASES.items():
            if options.only not in (None, name):
                continue
            for n, target in TARGETS.items():
                if name == "generation" and n != 5:
                    continue  # it has one size, and is held to the smaller target
                for thing, does in things.items():
                    case = measure(browser, make(n), does, n, options.clicks)
                    cases[f"{name}_{thing}_{n}_tokens"] = case
                    median, worst = case["median_ms"], case["worst_ms"]
                    print(
                        f"{name:<10} {thing:<8} {n:>3} tokens: median {median:6.1f} ms, "
                        f"worst {worst:6.1f} (target {target})"
                    )
        browser.close()
    medians = {}
    for n in TARGETS:
        found = [c["median_ms"] for name, c in cases.items() if name.endswith(f"_{n}_tokens")]
        medians |= {f"worst_median_ms_{n}_tokens": max(found)} if found else {}
    result = {
        "benchmark": "explorers",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "load_before": load,  # above the cores: read with care
            "system": platform.system(),
            "python": platform.python_version(),
            "chromium": version,
            "course_lib": importlib.metadata.version("course_lib"),
        },
        "clicks_a_case": options.clicks,
        "targets_ms": TARGETS,
        "cases": cases,
        **medians,
    }
    if options.out != "-":
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(medians))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
