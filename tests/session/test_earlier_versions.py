"""A session that an earlier version wrote opens, and its models score what they scored then.

``earlier_versions/`` keeps one archive a version: a training of a 2x16 LSTM on the text below, and
from it a pruning, a quantization, an evaluation, a sensitivity analysis and three packed files;
and a training of a GRU that was stopped.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from workbench_world import looked

from lmbench.cli import run as lmbench
from lmbench.session import Home
from lmbench.session.archive import unpack
from lmbench.tui.bench.session_watcher import Watcher

ARCHIVES = sorted((Path(__file__).parent / "earlier_versions").glob("*.lmbench"))
WORDS = tuple(
    "the a cat dog sees hears runs sleeps on under mat tree and then old small river .".split()  # noqa: SIM905
)

pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.stem)
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    generator = random.Random(3)
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    for split, lines in (("train", 150), ("valid", 30), ("test", 30)):
        text = [" ".join(generator.choice(WORDS) for _ in range(9)) + " .\n" for _ in range(lines)]
        (folder / f"{split}.txt").write_text("".join(text), encoding="utf-8")
    home = Home(tmp_path)
    unpack(request.param, home)
    return home


def test_the_workbench_shows_every_run_of_it(home: Home) -> None:
    snapshot = looked(Watcher(home.session("default")))
    runs = sorted(snapshot.runs, key=lambda run: run.id)
    assert [run.kind for run in runs] == [
        *("train", "prune", "quantize", "evaluate", "sensitivity"),
        *("pack", "pack", "pack", "train"),
    ]
    assert not any(run.problem for run in runs)
    assert {run.status for run in runs[:-1]} == {"finished"}
    assert len(runs[0].curves.valid) == 2
    assert runs[2].quantized
    assert runs[4].points


@pytest.mark.parametrize("run", ["2", "3", "6", "7", "8"])
def test_its_models_score_as_they_did(
    home: Home, run: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint, a quantized model, and packed files in int8 sparse, int8 and fp16."""
    recorded = home.find_run(run, "default").read().results["test_ppl"]
    assert lmbench(["evaluate", run, "--split", "test", "--threads", "1", "--json"]) == 0
    scores = json.loads(capfd.readouterr().out)
    assert scores[0]["test_ppl"] == pytest.approx(recorded, rel=2e-3)


def test_its_stopped_training_is_resumed(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    run = home.find_run("9", "default")
    assert run.read().status == "stopped"
    assert lmbench(["train", "--resume", "9", "--json"]) == 0, capfd.readouterr().err
    record = run.read()
    assert (record.status, record.results["epochs"]) == ("finished", 12)
    assert run.events_path.read_text(encoding="utf-8").count('"run_resumed"') == 1
