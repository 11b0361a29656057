"""Figures and their nouns in tables and sentences."""

from __future__ import annotations

import pytest

from lmbench.report.tables import counted


@pytest.mark.parametrize("count, shown", [(0, "0 runs"), (1, "1 run"), (1200, "1,200 runs")])
def test_one_is_not_many(count, shown):
    assert counted(count, "run") == shown
