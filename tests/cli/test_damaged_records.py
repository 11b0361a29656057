"""A record with one wrong value is shown as damaged, with the field, beside the good ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lmbench.cli import run as lmbench
from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.session import Home, Run
from lmbench.session.manage import copy_session
from lmbench.session.records import checked_workbench

WRONG = [
    ({"results": {"seconds": "x"}}, "results.seconds"),
    ({"results": {"parameters": "many"}}, "results.parameters"),
    ({"results": {"sparsity": "half"}}, "results.sparsity"),
    ({"results": {"rows": [3]}}, "results.rows.0"),
    ({"results": {"bytes": 10**400}}, "results.bytes"),
    ({"results": {"valid_ppl": math.inf}}, "results.valid_ppl"),
    ({"started": "nan"}, "started"),
    ({"created": True}, "created"),
    ({"corpus": {"name": 3, "fingerprint": "f"}}, "corpus.name"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    home = Home(tmp_path)
    for name in ("good", "bad"):
        made = home.open_session().new_run(TrainConfig(), "train", name=name)
        made.update(status="finished", results={"seconds": 3.0, "valid_ppl": 120.0})
    return home


def damage(run: Run, changes: dict[str, Any]) -> None:
    path = run.path / "run.json"
    text = json.dumps({**json.loads(path.read_text()), **changes})
    path.write_text(text.replace("Infinity", "1e999"))


def test_a_damaged_setting_is_no_flag_that_somebody_gave(home: Home) -> None:
    run = home.find_run("2")
    damage(run, {"config": {"lr": "fast"}})
    with pytest.raises(LmbenchError, match=r"^field 'config': .*lr.*fast.*002-train/run\.json\)$"):
        run.config()


@pytest.mark.parametrize("changes, field", WRONG)
def test_one_bad_record_is_named_with_its_field_and_hides_no_other(
    home: Home, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], field: str
) -> None:
    damage(home.find_run("2"), changes)
    for command in (["runs", "list"], ["sessions", "show"]):
        assert lmbench(command) == 0
        captured = capsys.readouterr()
        assert "good" in captured.out
        assert "default/002-train" in captured.out
        assert "damaged" in captured.out
        assert f"field '{field}': " in captured.err
        assert "002-train/run.json)" in captured.err
    for command in (["compare"], ["compare", "--json"], ["report", "--json"]):
        assert lmbench(command) == 0
        captured = capsys.readouterr()
        assert "good" in captured.out
        assert f"field '{field}': " in captured.err
    assert lmbench(["sessions", "show", "--json"]) == 0
    good, bad = json.loads(capsys.readouterr().out)["runs"]
    assert good["valid_ppl"] == 120.0
    assert bad["status"] == "damaged"
    assert f"field '{field}'" in bad["problem"]
    assert lmbench(["sessions", "list"]) == 0
    capsys.readouterr()
    for form in ("md", "html"):
        target = home.path / f"report.{form}"
        assert lmbench(["report", "default", "--output", str(target)]) == 0
        text = target.read_text()
        assert "120.00" in text
        assert "default/002-train" in text
        assert "damaged" in text
    with pytest.raises(LmbenchError, match=f"field '{field}'"):
        copy_session(home, "default", "copy")
    assert [session.name for session in home.sessions()] == ["default"]


def test_what_is_known_of_no_table_may_be_anything(home: Home) -> None:
    run = home.find_run("1")
    run.update(results={"later": ["x"], "tensors": {"a": 1}, "seconds": None})
    assert run.read().results == {"later": ["x"], "tensors": {"a": 1}, "seconds": None}


def test_values_of_wrong_types_in_the_workbenchs_state_are_left_out_and_named() -> None:
    state = {"theme": ["x"], "marked": 5, "selected": "001-train", "lab/001-train": 3, "new": [1]}
    sound, problems = checked_workbench(state)
    assert sound == {"selected": "001-train", "lab/001-train": 3, "new": [1]}
    assert [problem.partition(":")[0] for problem in problems] == [
        "field 'workbench.marked'",
        "field 'workbench.theme'",
    ]
