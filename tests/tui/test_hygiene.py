"""What importing the workbench costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lmbench.tui

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
        "lmbench.tui.main_screen",
        "lmbench.tui.new_run.screen",
        "lmbench.tui.schedule.screen",
        "lmbench.tui.sessions.screen",
        "lmbench.tui.help_screen",
        "lmbench.tui.welcome_screen",
        "lmbench.tui.settings.screen",
        "lmbench.tui.sweeps.screen",
        "lmbench.tui.sweeps.new_screen",
        "lmbench.tui.runs.actions",
        "lmbench.tui.command_palette",
        "lmbench.jobs.launch",
    ],
)
def test_the_workbench_never_imports_torch_or_optuna(module):
    done = imports(module, ("torch", "onnx", "onnxruntime", "safetensors.torch", "optuna"))
    assert done.returncode == 0, done.stderr


def test_the_first_paint_waits_for_no_screen_but_the_main_one():
    done = imports(
        "lmbench.tui.main_screen",
        (
            "lmbench.jobs.launch",
            "lmbench.report.plots.export",
            "textual.widgets._text_area",
        ),
    )
    assert done.returncode == 0, done.stderr


def imported(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of the workbench that a file imports, anywhere in it, be it for types alone."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & set(modules)) or ({node.module} & set(modules))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(modules)
    return found


def test_the_workbench_s_modules_import_each_other_in_one_direction():
    folder = Path(lmbench.tui.__file__).parent
    modules = {
        ".".join(path.relative_to(folder.parent.parent).with_suffix("").parts): path
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    }
    graph = {name: imported(path, modules) for name, path in modules.items()}
    assert "lmbench.tui.bench.bench" in graph["lmbench.tui.kit.panel"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
