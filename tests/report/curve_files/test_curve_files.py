"""What `lmbench export` writes of curves, as the programs read it that it is for."""

from __future__ import annotations

import csv
import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from system_calls import strace_works

from lmbench.cli import run as lmbench
from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.report.curve_files.points import as_csv, points_of
from lmbench.report.curve_files.tensorboard_events import write_tensorboard
from lmbench.session import Home, Run
from lmbench.session.event_log import EventWriter
from lmbench.session.events import Epoch, PruneStep, RunResumed, Score, Sparsity, Step

Capture = pytest.CaptureFixture[str]
BEGAN = 1_700_000_000.0
MORE: Any = {"grad_norm": 0.5, "tokens_per_s": 900.0}


def a_run(home: Home, name: str = "a run") -> Run:
    """A run whose second epoch was interrupted and done again."""
    config = TrainConfig(emsize=16, nhid=16, tied=True, lr=5.0)
    run = home.open_session().new_run(config, "train", name=name)
    writer = EventWriter(run.events_path)
    writer.write(Step(step=10, epoch=1, batch=10, loss=6.0, ppl=403.4, lr=5.0, t=BEGAN, **MORE))
    offset = writer.offset
    lost = Step(step=20, epoch=2, batch=5, loss=9.0, ppl=8103.1, lr=5.0, t=BEGAN + 1, **MORE)
    writer.write(lost)
    writer.write(RunResumed(offset=offset, step=10, epoch=2, t=BEGAN + 50))
    again = Step(step=20, epoch=2, batch=5, loss=5.5, ppl=244.7, lr=2.5, t=BEGAN + 60, **MORE)
    writer.write(again)
    pruned: Any = {"step": 20, "epoch": 2, "t": BEGAN + 61}
    writer.write(PruneStep(param="decoder.weight", target=0.5, reached=0.49, **pruned))
    rows = ({"name": "decoder.weight", "fine": 49.0}, {"name": "encoder.weight", "fine": None})
    writer.write(Sparsity(tensors=rows, parameters=10, nonzero=7, total=0.3, **pruned))
    losses: Any = {"train_loss": 5.6, "valid_loss": 5.4, "valid_ppl": 221.4, "best_valid_loss": 5.4}
    writer.write(Epoch(**pruned, **losses, best_epoch=2, lr=2.5, seconds=9.0))
    writer.write(Score(split="test", loss=5.3, ppl=200.3, tokens=9, tokens_per_s=1, t=BEGAN + 70))
    with_cache: Any = {"loss": 5.1, "ppl": 164.0, "tokens": 9, "tokens_per_s": 1, "t": BEGAN + 80}
    writer.write(Score(split="test", name="cache_", **with_cache))
    writer.close()
    return run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path)


def test_points_are_those_that_count_at_their_steps_and_times(home: Home) -> None:
    found = {(p.curve, p.step): (p.value, p.epoch, p.time - BEGAN) for p in points_of(a_run(home))}
    assert found["train/loss", 10] == (6.0, 1, 0.0)
    assert found["train/loss", 20] == (5.5, 2, 60.0)
    assert found["learning_rate", 20] == (2.5, 2, 60.0)
    assert found["sparsity_target/decoder.weight", 20] == (0.5, 2, 61.0)
    assert found["sparsity/decoder.weight", 20] == (0.49, 2, 61.0)
    assert found["sparsity/total", 20] == (0.3, 2, 61.0)
    assert found["valid/perplexity", 20] == (221.4, 2, 61.0)
    assert found["test/loss", 20] == (5.3, 2, 70.0)
    assert found["test/perplexity", 20] == (200.3, 2, 70.0)
    assert found["test/cache_perplexity", 20] == (164.0, 2, 80.0)
    assert ("sparsity/encoder.weight", 20) not in found


def test_csv_is_one_table_of_all_runs_that_no_spreadsheet_computes(home: Home) -> None:
    first, second = a_run(home), a_run(home, "=HYPERLINK(1)")
    rows = list(csv.DictReader(io.StringIO(as_csv([first, second]))))
    assert [*rows[0]] == ["run", "name", "curve", "step", "epoch", "time", "value"]
    assert {row["run"] for row in rows} == {"default/001-train", "default/002-train"}
    assert {row["name"] for row in rows} == {"a run", "'=HYPERLINK(1)"}
    losses = [float(row["value"]) for row in rows if row["curve"] == "train/loss"]
    assert losses == [6.0, 5.5, 6.0, 5.5]


def test_a_run_without_points_is_named(home: Home) -> None:
    run = home.open_session().new_run(TrainConfig(), "train")
    with pytest.raises(LmbenchError, match="run default/001-train has no curves yet"):
        as_csv([a_run(home), run])


def test_tensorboard_reads_scalars_settings_and_command(home: Home, tmp_path: Path) -> None:
    accumulators: Any = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard here"
    )
    write_tensorboard([a_run(home), a_run(home)], tmp_path / "logs")
    folders = sorted(path.parent for path in (tmp_path / "logs").rglob("events.out.tfevents.*"))
    assert [folder.relative_to(tmp_path) for folder in folders] == [
        Path("logs/default/001-train"),
        Path("logs/default/002-train"),
    ]
    read = accumulators.EventAccumulator(str(folders[0]))
    read.Reload()
    losses = [(e.step, e.wall_time, e.value) for e in read.Scalars("train/loss")]
    assert losses == [(10, BEGAN, 6.0), (20, BEGAN + 60, 5.5)]
    assert read.Scalars("sparsity/total")[0].value == pytest.approx(0.3)
    [command] = read.Tensors("command")
    assert b"lmbench train --emsize 16" in command.tensor_proto.string_val[0]
    settings = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"emsize" in settings


def test_neither_torch_nor_tensorflow_is_imported_for_curves(home: Home) -> None:
    pytest.importorskip("tensorboard", reason="no tensorboard here")
    a_run(home)
    code = (
        "import sys; from lmbench.cli import run\n"
        "for format in ('csv', 'tensorboard'): assert run(['export', '--format', format]) == 0\n"
        "assert not {'torch', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def records_of(data: bytes) -> list[bytes]:
    """The records of a LevelDB log, as wandb keeps its runs: blocks of 32 KiB after 7 bytes of its
    own, each record in pieces of CRC, length and kind (whole, first, middle, last)."""
    records, place = [b""], 7
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        records[-1] += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            records.append(b"")
    return records[:-1]


def test_wandb_gets_offline_runs_and_no_network_is_asked(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'lmbench[wandb]'")
    messages: Any = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    # What would send it somewhere, were it not left out.
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    for _ in range(2):
        a_run(home)
    export = ["-m", "lmbench", "export", "1", "2", "--format", "wandb", "-o", "out"]
    calls = tmp_path / "calls.txt"
    trace = ["strace", "-f", "-e", "trace=connect", "-o", str(calls)] if strace_works() else []
    done = subprocess.run(
        [*trace, sys.executable, *export], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if trace:
        asked = [line for line in calls.read_text().splitlines() if "connect(" in line]
        assert asked
        assert all("AF_UNIX" in line for line in asked), asked
    out = tmp_path / "out"
    assert all(path.name.startswith("offline-run-") for path in out.iterdir())
    found = {}
    for path in out.rglob("*.wandb"):
        parsed = [messages.Record.FromString(data) for data in records_of(path.read_bytes())]
        [begun] = [record.run for record in parsed if record.WhichOneof("record_type") == "run"]
        rows = [
            {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            for record in parsed
            if record.WhichOneof("record_type") == "history"
        ]
        found[begun.display_name] = (begun.project, rows)
    assert found.keys() == {"default/001-train", "default/002-train"}
    project, rows = found["default/001-train"]
    assert project == "lmbench"
    assert [(float(row["train/loss"]), row["_step"]) for row in rows] == [(6.0, "10"), (5.5, "20")]
    assert float(rows[0]["_timestamp"]) == BEGAN
    assert float(rows[1]["sparsity/total"]) == pytest.approx(0.3)


@pytest.mark.parametrize("format", ["csv", "tensorboard"])
def test_what_is_there_is_left_alone_and_a_refusal_leaves_nothing(
    home: Home, tmp_path: Path, capsys: Capture, format: str
) -> None:
    pytest.importorskip("tensorboard", reason="no tensorboard here")
    a_run(home)
    far = a_run(Home(tmp_path / "far"))
    home.open_session().new_run(TrainConfig(), "train")
    there = tmp_path / "there"
    there.mkdir()
    for words, said in (
        (["1", "-o", str(there)], ": is there already; name another place"),
        (["1", "-o", str(tmp_path / "no" / "x")], f"the folder {tmp_path / 'no'} is not there"),
        (["1", "2", "-o", str(tmp_path / "new")], "002-train has no curves yet"),
        (["1", str(far.path), "-o", str(tmp_path / "new")], f"working folders are {far.ref}: exp"),
        (["1", "--checkpoint", "last"], f"--checkpoint: does nothing beside --format {format}"),
        (["1", "--bits", "int8"], "--bits int8: only for --format onnx"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert lmbench(["export", *words, "--format", format]) == 2
        assert said in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_package_is_said_with_what_to_install(
    home: Home, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(home)
    for format, package in (
        ("tensorboard", "tensorboard.compat.proto.event_pb2"),
        ("wandb", "wandb"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        assert lmbench(["export", "1", "--format", format]) == 2
        assert f"pip install 'lmbench[{format}]'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tensorboard")) + list(tmp_path.glob("*.wandb"))
