"""`lmbench runs import` makes an ordinary run of a model that was trained elsewhere."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import torch
from cli_world import answer
from foreign_checkpoints import distiller_checkpoint, example_model, save
from readers import make_home

from lmbench.cli import run as lmbench
from lmbench.config import TrainConfig
from lmbench.deploy.load_model import load_run
from lmbench.jobs import import_checkpoint
from lmbench.jobs.prepare import inherited_settings
from lmbench.session import Home, read_events
from lmbench.session.events import Finished, Sparsity

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = make_home(tmp_path_factory.mktemp("template"))
    shutil.rmtree(home.session("default").runs_path)
    return home.path


@pytest.fixture
def home(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path)


def test_a_module_of_the_example_becomes_a_finished_run(home: Home, capsys: Capture) -> None:
    model = example_model("GRU")
    save(model, home.path / "model.pt")
    document = answer(capsys, "runs", "import", "model.pt", "--data", "tiny")
    assert (document["kind"], document["status"], document["name"]) == (
        *("train", "finished", "model"),
    )
    assert document["notes"][0] == "GRU, 2 layers of 8 units, embedding of 8, 19 types, tied"
    run = home.find_run(document["ref"])
    loaded = load_run(run)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    config = run.config()
    assert isinstance(config, TrainConfig)
    assert (config.model, config.emsize, config.nhid, config.tied) == ("GRU", 8, 8, True)
    assert inherited_settings(run)["data"] == "tiny"
    record = run.read()
    assert record.corpus is not None
    assert record.corpus.fingerprint.startswith("7bb895970bbf")
    assert record.imported == str(home.path / "model.pt")
    assert record.results["parameters"] == document["parameters"] == 19 * 8 + 4 * 24 * 8
    assert lmbench(["runs", "log", document["ref"]]) == 0
    assert "were not made: model.RNNModel" in capsys.readouterr().out
    events = read_events(run.events_path)
    assert [type(event) for event in events] == [Sparsity, Finished]
    text = answer(capsys, "generate", "@", "--words", "5", "--seed", "1")["text"]
    assert set(text.split()) <= set(loaded.vocabulary)


def test_its_command_makes_it_again_and_is_no_training(home: Home, capsys: Capture) -> None:
    save(example_model("RNN_RELU").state_dict(), home.path / "state.pt")
    words = ("--data", "tiny", "--model", "RNN_RELU", "--name", "a b")
    first = answer(capsys, "runs", "import", "state.pt", *words)
    program, *command = shlex.split(first["command"])
    assert (program, command[:2]) == ("lmbench", ["runs", "import"])
    second = answer(capsys, *command)
    assert second["name"] == "a b"
    ours = [load_run(home.find_run(r["ref"])).model.state_dict() for r in (first, second)]
    assert all(torch.equal(ours[0][name], ours[1][name]) for name in ours[0])


def test_masks_of_distiller_are_the_runs_sparsity(home: Home, capsys: Capture) -> None:
    model = example_model()
    mask = torch.arange(32 * 8).view(32, 8) % 4 == 0
    checkpoint = distiller_checkpoint(model, {"rnn.cells.0.fc_gate_x.weight": mask})
    save(checkpoint, home.path / "best.pth.tar", zipped=False, model=model)
    document = answer(capsys, "runs", "import", "best.pth.tar", "--data", "tiny")
    pruned = 32 * 8 * 3 // 4
    assert document["nonzero"] == document["parameters"] - pruned
    assert document["results"]["sparsity"] == pytest.approx(pruned / document["parameters"])
    assert 0 < document["packed_bytes"] < document["bytes"]
    [row] = [row for row in answer(capsys, "summary")["rows"] if row["name"] == "rnn.weight_ih_l0"]
    assert row["fine"] == pytest.approx(75.0)
    assert lmbench(["runs", "import", "best.pth.tar", "--data", "tiny", "--session", "other"]) == 0
    out = capsys.readouterr().out
    assert "run other/001-train: best.pth.tar" in out
    assert "left behind: optimizer_state_dict" in out


def test_a_refusal_makes_no_run_and_no_session(home: Home, capsys: Capture) -> None:
    save(example_model(ntoken=20), home.path / "other.pt")
    save(example_model("RNN_TANH").state_dict(), home.path / "elman.pt")
    for words, said in (
        (["other.pt", "--data", "tiny"], "knows 20 types, corpus tiny has 19"),
        (["elman.pt", "--data", "tiny"], "say --model RNN_TANH or --model RNN_RELU"),
        (["gone.pt", "--data", "tiny"], "gone.pt: no such file"),
        (["other.pt", "--data", "nowhere"], "nowhere"),
        (["."], "--data"),
        ([".", "--data", "tiny"], "Is a directory"),
    ):
        assert lmbench(["runs", "import", *words, "--session", "new"]) == 2
        err = capsys.readouterr().err
        assert said in err, err
        assert "Traceback" not in err
    assert [session.name for session in home.sessions()] == ["default", "proposed", "swept"]


def test_a_disk_that_is_full_leaves_no_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    save(example_model(), home.path / "model.pt")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(import_checkpoint, "sparsity_event", refuse)
    assert lmbench(["runs", "import", "model.pt", "--data", "tiny"]) == 2
    session = home.session("default")
    assert session.runs() == []
    assert [path.name for path in session.runs_path.iterdir()] == []


@pytest.mark.slow
def test_it_is_evaluated_pruned_and_quantized_as_any_run(home: Home, capsys: Capture) -> None:
    save(example_model(), home.path / "model.pt")
    run = answer(capsys, "runs", "import", "model.pt", "--data", "tiny")["ref"]
    [scored] = answer(capsys, "evaluate", run, "--threads", "1")
    assert 1 < scored["test_ppl"] < 100
    few = ("--epochs", "1", "--threads", "1", "--batch-size", "4", "--bptt", "10", "--lr", "1")
    pruned = answer(capsys, "prune", run, "--schedule", "small-80", *few)
    assert pruned["status"] == "finished"
    quantized = answer(capsys, "quantize", run, "--calibration-tokens", "500", "--threads", "1")
    assert quantized["test_ppl"] == pytest.approx(scored["test_ppl"], rel=0.05)
