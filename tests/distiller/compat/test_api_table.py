"""The table of the original's public names is true: what it says is there, is."""

import importlib
import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
LINE = re.compile(r"\| `(\w+)` \| (same|differs|no) \| (.*) \|")


def rows():
    module = ""
    for line in (DOCS / "distiller-api.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            module = line.removeprefix("## ")
        elif match := LINE.fullmatch(line):
            yield module, *match.groups()


def test_every_name_that_is_said_to_be_there_is_found_under_its_path():
    found = [(module, name) for module, name, here, _ in rows() if here != "no"]
    assert len(found) > 150
    missing = [
        f"{module}.{name}"
        for module, name in found
        if not hasattr(importlib.import_module(f"lmbench.{module}"), name)
    ]
    assert not missing


def test_every_name_that_differs_or_is_not_there_has_its_reason():
    assert all(reason for _, _, here, reason in rows() if here != "same")


def test_the_script_gives_each_name_a_line_and_names_those_without(tmp_path, capsys, monkeypatch):
    script = runpy.run_path(str(DOCS / "make_api_table.py"))
    monkeypatch.setitem(script["main"].__globals__, "TABLE", tmp_path / "table.md")
    names = tmp_path / "names.txt"
    names.write_text(
        "distiller.thresholding\n"
        "  expand_binary_map(param, group_type, binary_map)\n"
        "  group_threshold_mask(param, threshold_criteria)\n"
        "  no_such_function(x)\n"
        "distiller.model_transforms\n"
        "  fold_batch_norms(model, dummy_input=None)\n"
        "distiller.policy\n"
        "  class LRPolicy(ScheduledTrainingPolicy)\n"
        "    __init__(self, lr_scheduler)\n"
        "    no_such_method(self)\n"
    )
    assert script["main"](str(names)) == 1
    assert "distiller.thresholding.no_such_function" in capsys.readouterr().out
    table = (tmp_path / "table.md").read_text()
    assert "| `expand_binary_map` | same |  |" in table
    assert "| `group_threshold_mask` | differs | also takes `group_type`" in table
    assert "| `fold_batch_norms` | no | for batch normalization" in table
    assert "| `LRPolicy` | differs | without the methods `no_such_method` |" in table


@pytest.mark.parametrize("text", ["same", "differs", "no"])
def test_the_count_above_the_table_is_that_of_its_lines(text):
    head = (DOCS / "distiller-api.md").read_text(encoding="utf-8")
    found = re.search(r"Of (\d+) .*? (\d+) are the same, (\d+) differ, (\d+) are not there", head)
    assert found is not None
    counts = dict(zip(("same", "differs", "no"), map(int, found.groups()[1:]), strict=True))
    assert sum(here == text for _, _, here, _ in rows()) == counts[text]
