"""Run All, in the emulated runtime: `python run_all.py NOTEBOOK OUT` (it imports nothing of ours).

OUT becomes the executed notebook; each code cell's metadata say how long it took (`seconds`).
A cell that fails stops the run, as on Colab.
"""

import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def main(notebook: Path, out: Path) -> int:
    """Run a notebook in its own folder and save what it shows."""
    book = nbformat.read(notebook, 4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    started: dict[int, float] = {}

    def begins(cell: Any, cell_index: int) -> None:
        started[cell_index] = time.perf_counter()

    def ends(cell: Any, cell_index: int, execute_reply: Any) -> None:
        cell.metadata["seconds"] = round(time.perf_counter() - started[cell_index], 3)

    client = NotebookClient(
        book,
        kernel_name="python3",
        timeout=1200,
        store_widget_state=False,
        resources={"metadata": {"path": str(notebook.parent)}},
        on_cell_execute=begins,
        on_cell_executed=ends,
    )
    try:
        client.execute()
    except CellExecutionError:
        return 1
    finally:
        out.write_text(nbformat.writes(book), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
