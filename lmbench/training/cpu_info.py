"""What Linux reports of the processor."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["described", "name"]


@cache
def described() -> dict[str, str]:
    """The fields of /proc/cpuinfo, of the first core; none on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in text.splitlines():
        field, _, value = line.partition(":")
        found.setdefault(field.strip(), value.strip())
    return found


def name() -> str:
    """What the processor is called, or its kind where that is not known."""
    if not described():
        return platform.processor() or platform.machine()
    return described().get("model name") or platform.machine()
