"""What importing the workbench costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
sys.dont_write_bytecode = True
import {module}
heavy = sorted(m for m in {heavy!r} if m in sys.modules)
sys.exit(f"{module} imported {{heavy}}" if heavy else 0)
"""


def imports(module: str, heavy: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    code = CODE.format(module=module, heavy=heavy)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "module",
    [
        "lmbench.tui.app",
        "lmbench.tui.start",
        "lmbench.tui.screens.main",
        "lmbench.tui.screens.new_run",
        "lmbench.tui.screens.schedule",
        "lmbench.tui.screens.sessions",
        "lmbench.tui.screens.help",
        "lmbench.tui.screens.welcome",
        "lmbench.tui.screens.settings",
        "lmbench.tui.actions",
        "lmbench.tui.palette",
        "lmbench.jobs.launch",
    ],
)
def test_the_workbench_never_imports_torch(module):
    done = imports(module, ("torch", "onnx", "onnxruntime", "safetensors.torch"))
    assert done.returncode == 0, done.stderr


def test_the_first_paint_waits_for_no_screen_but_the_main_one():
    done = imports(
        "lmbench.tui.screens.main",
        ("lmbench.jobs.launch", "lmbench.report.export", "plotext", "textual.widgets._text_area"),
    )
    assert done.returncode == 0, done.stderr
