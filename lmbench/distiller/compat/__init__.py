"""Module paths of the original, so that code written for it imports them unchanged.

`ALIASES` names, for each of its module paths below ``distiller``, the module here that has what was
there; importing the one gives the other.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["ALIASES", "install_aliases"]

ALIASES = {
    "apputils": "compat.apputils",
    "config": "compat.config",
    "data_loggers": "reports.data_loggers",
    "learning_rate": "compat.learning_rate",
    "model_summaries": "compat.model_summaries",
    "policy": "compat.policy",
    "quantization.clipped_linear": "compat.clipped_linear",
    "quantization.q_utils": "compat.q_utils",
    "quantization.range_linear": "compat.range_linear",
    "regularization": "pruning.regularization",
    "scheduler": "schedules.scheduler",
    "sensitivity": "pruning.sensitivity",
    "summary_graph": "compat.summary_graph",
    "thresholding": "pruning.thresholding",
    "utils": "compat.utils",
}


class _AliasLoader(Loader):
    def __init__(self, target: str) -> None:
        self._target = target

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._target)
        self._spec = module.__spec__
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
        if fullname not in self._targets:
            return None
        return importlib.util.spec_from_loader(fullname, _AliasLoader(self._targets[fullname]))


def install_aliases(package: str) -> None:
    """Make every alias importable below `package`."""
    sys.meta_path.append(_AliasFinder(package))
