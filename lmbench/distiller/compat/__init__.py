"""The original's module paths, so that code written for it imports them unchanged.

`ALIASES` maps each of its paths below ``distiller`` to the module here that holds its contents.
Importing the one gives the other; a path that is the same in both needs no entry. The files of this
package gather what one module of the original held and several hold here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["ALIASES", "aliased_submodule", "install_aliases"]

ALIASES = {
    "apputils": "compat.apputils",
    "apputils.checkpoint": "checkpoint",
    "apputils.execution_env": "reports.run_log",
    "config": "schedules.build",
    "data_loggers": "reports.data_loggers",
    "learning_rate": "schedules.lr_schedulers",
    "model_summaries": "compat.model_summaries",
    "modules.matmul": "modules.grouping",
    "modules.rnn": "compat.rnn",
    "norms": "pruning.norms",
    "policy": "schedules.policies",
    "pruning.automated_gradual_pruner": "compat.automated_gradual_pruner",
    "pruning.baidu_rnn_pruner": "pruning.elementwise",
    "pruning.level_pruner": "pruning.elementwise",
    "pruning.magnitude_pruner": "pruning.elementwise",
    "pruning.ranked_structures_pruner": "pruning.structured",
    "pruning.sensitivity_pruner": "pruning.elementwise",
    "pruning.splicing_pruner": "pruning.elementwise",
    "pruning.structure_pruner": "pruning.structured",
    "quantization.clipped_linear": "quantization.training_time",
    "quantization.q_utils": "compat.q_utils",
    "quantization.range_linear": "compat.range_linear",
    "regularization": "pruning.regularization",
    "regularization.group_regularizer": "pruning.regularization",
    "regularization.l1_regularizer": "pruning.regularization",
    "scheduler": "compat.scheduler",
    "sensitivity": "pruning.sensitivity",
    "summary_graph": "compat.summary_graph",
    "thresholding": "pruning.thresholding",
    "utils": "compat.utils",
}


class _AliasLoader(Loader):
    def __init__(self, target: str, has_submodules: bool) -> None:
        self._target = target
        self._has_submodules = has_submodules

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._target)
        self._spec = module.__spec__
        if self._has_submodules:
            # The target may be a plain module, below which the import system looks for nothing.
            vars(module).setdefault("__path__", [])
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put the alias's spec in its place.
        module.__spec__ = self._spec


class _AliasFinder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self._targets = {f"{package}.{a}": f"{package}.{b}" for a, b in ALIASES.items()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = self._targets.get(fullname)
        if found is None:
            # A module in an aliased package, which must not be loaded a second time.
            package, _, name = fullname.rpartition(".")
            if package not in self._targets:
                return None
            found = f"{self._targets[package]}.{name}"
            if importlib.util.find_spec(found) is None:
                return None
        has_submodules = any(alias.startswith(f"{fullname}.") for alias in self._targets)
        return importlib.util.spec_from_loader(fullname, _AliasLoader(found, has_submodules))


def install_aliases(package: str) -> None:
    """Make every alias importable below ``package``."""
    sys.meta_path.insert(0, _AliasFinder(package))


def aliased_submodule(package: str, name: str) -> ModuleType:
    """The alias ``name`` below a package, for its ``__getattr__``.

    The original's packages have their modules as attributes without an import of each.
    """
    root, _, folder = package.rpartition(".")
    if f"{folder}.{name}" in ALIASES:
        return importlib.import_module(f"{root}.{folder}.{name}")
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
