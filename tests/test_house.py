"""The rooms of the house: nothing imports upwards, nothing goes in circles, torch stays below."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import lmbench

PACKAGE = Path(lmbench.__file__).parent

# A room may import what stands on its own floor or below; the first floor is the ground.
FLOORS = (
    (
        "errors",
        "printable",
        "user_folder",
        "config",
        "malloc",
        "model_shapes",
        "perplexity",
        "__init__",
    ),
    ("corpus", "model"),
    ("session", "distiller", "compile_kernels"),
    ("deploy",),
    ("generation", "scoring"),
    ("training", "report"),
    ("jobs",),
    ("tui",),
    ("cli", "__main__"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def imports() -> dict[str, set[str]]:
    """For each of our modules the modules of ours that it imports, late imports too."""
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("lmbench", *path.relative_to(PACKAGE).with_suffix("").parts)
        module = ".".join(part for part in parts if part != "__init__")
        package = parts[:-1]
        found = graph.setdefault(module, set())
        if module == "lmbench":
            # Whoever imports it gets a version; it hands on what it is asked for, when it is.
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {a.name for a in node.names if a.name.split(".")[0] == "lmbench"}
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
                name = ".".join(part for part in (base, node.module or "") if part)
                if name == "lmbench":
                    found |= {f"lmbench.{alias.name}" for alias in node.names}
                elif name.startswith("lmbench."):
                    found.add(name)
    return graph


def test_no_import_goes_up() -> None:
    upwards = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if room_of(other) in FLOOR_OF and FLOOR_OF[room_of(other)] > FLOOR_OF[room_of(module)]
    ]
    assert not upwards


def test_every_room_has_its_floor() -> None:
    assert {room_of(module) for module in imports()} <= set(FLOOR_OF)


def test_rooms_do_not_import_in_circles() -> None:
    rooms: dict[str, set[str]] = {}
    for module, others in imports().items():
        here = room_of(module)
        rooms.setdefault(here, set()).update(
            room_of(o) for o in others if o != "lmbench.__version__"
        )
        rooms[here] -= {here, "__version__"}

    def reach(room: str, seen: frozenset[str]) -> None:
        assert room not in seen, f"{room} is reached from itself through {sorted(seen)}"
        for other in rooms.get(room, ()):
            reach(other, seen | {room})

    for room in rooms:
        reach(room, frozenset())


def test_a_feature_of_the_workbench_imports_no_other_feature() -> None:
    """Nor the application that puts them together: only the bench, the kit and itself."""
    shared = {"lmbench.tui.bench", "lmbench.tui.kit", "lmbench.tui.demo"}
    folders = {
        f"lmbench.tui.{folder.name}"
        for folder in (PACKAGE / "tui").iterdir()
        if (folder / "__init__.py").is_file()
    }

    def folder_of(module: str) -> str:
        return ".".join(module.split(".")[:3])

    strangers = [
        f"{module} imports {other}"
        for module, others in imports().items()
        if folder_of(module) in folders
        for other in others
        if other.startswith("lmbench.tui.") and folder_of(other) not in shared | {folder_of(module)}
    ]
    assert not strangers


def test_the_compression_engine_knows_nothing_of_us() -> None:
    strangers = {
        f"{module} imports {other}"
        for module, others in imports().items()
        if room_of(module) == "distiller"
        for other in others
        if room_of(other) != "distiller"
    }
    assert not strangers


ALL_OF = """
import importlib, pkgutil
import lmbench.{room} as room
for module in pkgutil.walk_packages(room.__path__, "lmbench.{room}."):
    importlib.import_module(module.name)
"""


WITHOUT_TORCH = (
    "import lmbench",
    "from lmbench import LanguageModel",
    "import lmbench.config, lmbench.corpus, lmbench.session, lmbench.scoring",
    "import lmbench.session.archive, lmbench.session.manage, lmbench.jobs.hosts.sampler_messages",
    "import lmbench.jobs.launch, lmbench.jobs.run_schedule",
    "import lmbench.jobs.worker, lmbench.jobs.supervisor",
    ALL_OF.format(room="report"),
    ALL_OF.format(room="tui"),
    "import lmbench.cli.runs, lmbench.cli.sessions",
    "from lmbench.cli import run\ntry: run(['--help'])\nexcept SystemExit: pass",
)


def test_torch_is_not_imported_where_it_is_not_needed() -> None:
    """Nor are ONNX, its runtime and Optuna: in one process, whose first statement that imports one
    of them is told."""
    lines = ["import sys", "heavy = {'torch', 'onnx', 'onnxruntime', 'optuna'}"]
    for statement in WITHOUT_TORCH:
        lines += [statement, f"assert heavy.isdisjoint(sys.modules), {statement!r}"]
    code = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def unpickles(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(name.name.split(".")[0] in UNPICKLERS for name in names)
        case ast.ImportFrom(module=str(module), names=names):
            return module.split(".")[0] in UNPICKLERS or (
                module == "torch" and any(name.name in TORCH_LOADS for name in names)
            )
        case ast.Attribute(value=ast.Name(id="torch"), attr=attr):
            return attr in TORCH_LOADS
        case ast.keyword(arg="allow_pickle", value=value):
            return not (isinstance(value, ast.Constant) and value.value is False)
    return False


UNPICKLERS = {"pickle", "_pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}
TORCH_LOADS = {"load", "serialization", "hub"}


def test_no_pickle_is_loaded() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {ast.unparse(node)}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if unpickles(node)
    ]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle as p",
        "from _pickle import loads",
        "import joblib.numpy_pickle",
        "from torch import load",
        "f = torch.load",
        "torch.serialization.load(path)",
        "np.load(path, allow_pickle=1)",
        "np.load(path, allow_pickle=really)",
    ],
)
def test_a_line_that_unpickles_is_found(line: str) -> None:
    assert any(unpickles(node) for node in ast.walk(ast.parse(line)))


def test_a_training_step_and_a_loaded_model_load_no_compiler():
    """`torch._dynamo` takes as long to load as torch itself, and nothing here is compiled by it."""
    code = """
import sys, torch
from lmbench.config import TrainConfig
from lmbench.model.rnn import RNNModel, model_of_tensors, shape_of
from lmbench.training.optimizer import build_optimizer
from lmbench.training.step import clipped_update, gradient_norm
model = RNNModel("LSTM", 9, 4, 4, 2, 0.0, True)
again = model_of_tensors(shape_of(model), {n: p.detach() for n, p in model.named_parameters()})
optimizer = build_optimizer(again, TrainConfig())
again(torch.zeros(3, 2, dtype=torch.long), again.init_hidden(2))[0].sum().backward()
clipped_update(optimizer, gradient_norm(again.parameters()), 0.25)
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
