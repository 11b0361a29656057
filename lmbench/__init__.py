"""lmbench: a workbench in the terminal for compressing word-level language models.

`LanguageModel` uses a trained model from Python; it is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmbench.scoring import LanguageModel

__all__ = ["LanguageModel", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "LanguageModel":
        from importlib import import_module

        return import_module("lmbench.scoring").LanguageModel
    raise AttributeError(f"module 'lmbench' has no attribute '{name}'")
