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
import lmbench.tui.main_screen
late = {"lmbench.jobs.launch", "lmbench.report.plots.export", "textual.widgets._text_area"}
assert late.isdisjoint(sys.modules), late & set(sys.modules)
"""


def test_the_first_paint_waits_for_no_screen_but_the_main_one():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
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
