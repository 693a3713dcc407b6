"""How nbval reads the notebooks: strictly, as a student's kernel would run them.

- A trailing `;` hides a cell's value, as in Jupyter (nbval#194).
- Kernels run with the plainest CPU instructions (`ATEN_CPU_CAPABILITY=default`), while `course
  build` uses the best ones: a digit that depends on the processor cannot pass both.
- Cells tagged `gpu` are skipped where there is no CUDA.
- With CI=true a skipped test is a failure, unless it waits for a GPU.
"""

import os
import sys
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

KERNEL_ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": os.environ.get("NBVAL_ATEN_CPU_CAPABILITY", "default"),
    "COURSE_QUIET": "1",
    "PYTHONHASHSEED": "0",
}
NO_CUDA = "needs a CUDA device"


def _execute_like_jupyter(
    kernel: RunningKernel, cell_input: str, allow_stdin: bool | None = None
) -> str:
    """As `RunningKernel.execute_cell_input`, but with the history that makes `;` work."""
    return kernel.kc.execute(
        cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
    )


RunningKernel.execute_cell_input = _execute_like_jupyter
_start_kernel = IPyNbFile.setup


def _start_kernel_in_plain_environment(notebook: IPyNbFile) -> None:
    with mock.patch.dict(os.environ, KERNEL_ENVIRONMENT):
        _start_kernel(notebook)


IPyNbFile.setup = _start_kernel_in_plain_environment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU cells where there is no CUDA."""
    if torch.cuda.is_available():
        return
    for item in items:
        if isinstance(item, IPyNbCell) and "gpu" in item.cell.metadata.get("tags", []):
            item.add_marker(pytest.mark.skip(reason=NO_CUDA))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the scores that the exercise tests measured."""
    scores = getattr(sys.modules.get("tests.helpers.exercise_bank"), "SUMMARY", [])
    if scores:
        terminalreporter.section("exercises")
        for line in scores:
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Iterator[pytest.TestReport]:
    """With CI=true, turn skips into failures: a check that did not run proves nothing."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        if NO_CUDA not in reason:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped, which CI does not accept: {reason}"
    return report
