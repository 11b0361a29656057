"""The original's module of schedules: code written for it says ``distiller.config.file_config``."""

from __future__ import annotations

from lmbench.distiller.schedules.build import (
    config_component_from_file_by_class,
    dict_config,
    file_config,
)

__all__ = ["config_component_from_file_by_class", "dict_config", "file_config"]
