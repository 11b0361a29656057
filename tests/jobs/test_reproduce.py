"""The published tables: what they are made of, and real runs of one."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any, get_args

import pytest

from lmbench.cli import run as lmbench
from lmbench.config import EvaluateConfig, PruneConfig, QuantizeConfig, TrainConfig
from lmbench.distiller.quantization import settings_files as quantization
from lmbench.distiller.schedules.preset_files import preset_names
from lmbench.errors import INTERRUPTED
from lmbench.jobs import reproduce
from lmbench.jobs.published_tables import Scale, TableName, plan
from lmbench.jobs.queue import device_of
from lmbench.jobs.reproduce import compared, make_runs, over_seeds
from lmbench.report.published_figures import CACHED
from lmbench.session import EventWriter, Home, Run
from lmbench.session.events import RunResumed, RunStarted
from lmbench.session.store import Corpus

pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture
def home(sweep_home: Home) -> Home:
    return sweep_home


@pytest.mark.parametrize("table", get_args(TableName))
@pytest.mark.parametrize("scale", get_args(Scale))
def test_each_row_is_a_run_and_has_its_published_figure(table: TableName, scale: Scale) -> None:
    rows = plan(table, scale).rows
    for place, row in enumerate(rows):
        if table not in ("bits", "structure") and "dynamic" not in row.name:
            # Dynamic evaluation was published of other models alone.
            assert row.published.valid or row.published.test
        assert row.step.parent is None or row.step.parent < place
        compress = getattr(row.step.config, "compress", None)
        assert compress is None or compress in preset_names()
        preset = getattr(row.step.config, "preset", None)
        assert preset is None or preset in quantization.preset_names()


def test_the_published_quantization_rows_are_calibrated_on_all_of_valid() -> None:
    configs = [row.step.config for row in plan("quantization", "large").rows]
    assert isinstance(configs[0], TrainConfig)
    assert configs[0].nhid == 1500
    assert len(configs) == 7
    for config in configs[1:]:
        assert isinstance(config, QuantizeConfig)
        assert (config.calibrate_on, config.calibration_tokens) == ("valid", 217_646)


def test_pruned_models_train_as_long_as_the_dense_one() -> None:
    dense, *pruned = [row.step.config for row in plan("pruning", "small").rows]
    assert isinstance(dense, TrainConfig)
    for config in pruned:
        assert isinstance(config, TrainConfig)
        assert config.model_copy(update={"compress": None}).model_dump() == dense.model_dump()


def test_changes_are_against_the_first_row(home: Home) -> None:
    wanted = plan("pruning", "small", {"data": "tiny"})
    runs = make_runs(home.open_session("s"), wanted)
    for number, run in enumerate(runs):
        run.update(results={"test_ppl": 100.0 + 5 * number, "valid_ppl": 50.0})
    rows = compared(wanted, runs)
    assert [row["test_change"] for row in rows] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert rows[2]["valid_change"] == 0.0
    # 83.64 beside 83.85.
    assert rows[2]["published_test_change"] == pytest.approx(-0.0025, abs=1e-4)


def test_runs_that_are_there_are_not_made_again(home: Home) -> None:
    session = home.open_session("s")
    wanted = plan("quantization", "small", {"data": "tiny"})
    runs = make_runs(session, wanted)
    assert make_runs(session, wanted) == runs
    # The dense model is that of the pruning table, too.
    assert make_runs(session, plan("pruning", "small", {"data": "tiny"}))[0] == runs[0]
    assert len(session.runs()) == len(runs) + 4


def test_runs_of_another_text_of_that_name_do_not_count(home: Home) -> None:
    session = home.open_session("s")
    wanted = plan("pruning", "small", {"data": "tiny"})
    dense, *pruned = make_runs(session, wanted, text="old")
    dense.update(corpus=Corpus(name="tiny", fingerprint="old"))
    again = make_runs(session, wanted, text="new")
    assert again[0] != dense
    # These have read no text yet.
    assert again[1:] == pruned
    assert make_runs(session, wanted, text="old")[0] == dense


def test_what_is_packed_waits_in_the_queue_of_its_model(home: Home) -> None:
    wanted = plan("bits", "small", {"data": "tiny", "device": "cpu"})
    runs = make_runs(home.open_session("s"), wanted)
    assert {device_of(run) for run in runs} == {"cpu"}
    assert {run.read().config["device"] for run in runs} == {"cpu"}


def test_a_row_of_a_half_trained_model_is_made_anew(home: Home) -> None:
    session = home.open_session("s")
    wanted = plan("quantization", "small", {"data": "tiny"})
    dense, row, *others = make_runs(session, wanted)
    dense.update(status="stopped", started=1000.0, ended=2000.0)
    row.update(status="finished", started=2001.0, ended=2100.0)
    again = make_runs(session, wanted)
    assert again[0] == dense
    assert again[1] != row
    assert again[2:] == others
    dense.update(status="finished", ended=3000.0)
    again[1].update(status="finished", started=3001.0, ended=3100.0)
    assert make_runs(session, wanted) == again
    # A resumed run goes on with the model that it began on.
    late = again[2]
    late.update(status="finished", started=3001.0, ended=3100.0, attempt=2)
    writer = EventWriter(late.events_path)
    writer.write(RunStarted(t=2500.0, device="cpu"))
    writer.write(RunResumed(t=3001.5, offset=writer.offset, step=9, epoch=1))
    assert make_runs(session, wanted)[2] != late
    # One that starts again takes it anew.
    writer.write(RunResumed(t=3001.5, offset=0, step=0, epoch=0))
    writer.close()
    assert make_runs(session, wanted)[2] == late


def test_the_table_ends_where_a_row_is_stopped(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(begin: Any, **_: Any) -> tuple[Run, int]:
        run = home.find_run("reproduce/1")
        assert run.transition("stopped")
        return run, 1

    monkeypatch.setattr("lmbench.cli.start_run.work_through", stopped)
    assert lmbench(["reproduce", "quantization", "--data", "tiny"]) == INTERRUPTED
    assert "the same command again goes on with it" in capsys.readouterr().err
    statuses = {run.status() for run in home.session("reproduce").runs()}
    assert statuses == {"stopped"}


def test_the_changes_with_a_cache_are_published_of_one_model() -> None:
    plain, cached, *dynamic = plan("cache", "small").rows
    assert (plain.published.test, cached.published.test) == (101.64, 73.74)
    assert [row.figure for row in dynamic] == ["test_dynamic_ppl", "test_cache_dynamic_ppl"]
    for row in (cached, *dynamic):
        config = row.step.config
        assert isinstance(config, EvaluateConfig)
        assert (config.split, config.tune, config.tokens) == ("test", True, 0)
    assert "AWD-LSTM" in plan("cache", "small").note


def test_published_figures_stand_beside_a_model_of_their_shape_alone() -> None:
    for width, figures in ((650, [86.91, 65.85]), (1500, [82.29, 62.79])):
        rows = plan("cache", "small", {"nhid": width, "emsize": width}).rows
        assert [row.published.test for row in rows[:2]] == figures
    for other in (
        {"nhid": 651, "emsize": 651},
        {"model": "GRU"},
        {"nlayers": 1},
        {"tied": False},
        {"projection": True},
    ):
        assert [row.published.test for row in plan("cache", "small", other).rows[:2]] == [None] * 2


def test_a_model_is_taken_for_the_table_of_the_cache_and_for_no_other(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CACHED, 8, CACHED[200])  # type: ignore[arg-type]
    small = ("--emsize", "8", "--nhid", "8", "--epochs", "1", "--threads", "1", "--tied")
    assert lmbench(["train", "--data", "tiny", *small, "--json"]) == 0
    run = home.find_run("default/1")
    # As an import leaves it: without figures.
    plain = run.read().results["test_ppl"]
    run.update(results={k: v for k, v in run.read().results.items() if "ppl" not in k})
    words = ["reproduce", "cache", "--model", run.ref, "--threads", "1"]
    capsys.readouterr()
    assert lmbench([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["data"] == "tiny"
    rows = document["rows"]
    made = home.session("reproduce").runs()
    assert [row["run"] for row in rows] == [run.ref, *(r.ref for r in made)]
    assert len(made) == 3
    assert rows[0]["test_ppl"] == pytest.approx(plain, rel=1e-5)
    keys = ("test_cache_ppl", "test_dynamic_ppl", "test_cache_dynamic_ppl")
    for row, run_made, key in zip(rows[1:], made, keys, strict=True):
        record = run_made.read()
        assert row[key] == record.results[key]
        assert "test_ppl" not in row
        assert row["test_change"] == pytest.approx(row[key] / rows[0]["test_ppl"] - 1)
        assert record.command.startswith(f"lmbench evaluate {run.ref} ")
        assert "--name" not in record.command
    assert rows[1]["published_test_change"] == pytest.approx(73.74 / 101.64 - 1)
    assert lmbench(words) == 0
    shown = capsys.readouterr().out
    heads, published, ours, named = (re.split(" {2,}", line) for line in shown.splitlines()[:4])
    assert heads == ["test perplexity", "plain", "cache", "dynamic²", "cache and dynamic"]
    assert published == ["published", "101.64¹", "73.74¹ -27.4%", "–", "–"]
    assert ours[1].startswith(f"{rows[0]['test_ppl']:.2f}")
    assert ours[4].startswith(f"{rows[3]['test_cache_dynamic_ppl']:.2f} ")
    assert named == ["run", run.ref, *(r.path.name for r in made)]
    assert "² published of another model: AWD-LSTM" in shown
    assert "AWD-LSTM on WikiText-2" in shown
    assert "of wikitext-2; ours: of tiny" in " ".join(shown.split())
    assert home.session("reproduce").runs() == made
    assert lmbench(["reproduce", "training", "--model", run.ref]) == 2
    assert "--model: is for the table `cache`" in capsys.readouterr().err
    assert lmbench([*words, "--data", "another"]) == 2
    assert "--data: --model is scored on its own corpus" in capsys.readouterr().err
    assert lmbench([*words, "--seeds", "2"]) == 2
    assert "--seeds: --model is of one seed" in capsys.readouterr().err
    far = Home(home.path / "far").open_session("s").new_run(TrainConfig(), "train")
    shutil.copytree(run.path / "best", far.path / "best")
    assert lmbench(["reproduce", "cache", "--model", str(far.path)]) == 2
    assert "name a run of this working folder" in capsys.readouterr().err


def test_a_model_that_is_given_is_trained_no_further(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--emsize", "8", "--nhid", "8", "--epochs", "1", "--threads", "1")
    assert lmbench(["train", "--data", "tiny", *small]) == 0
    run = home.find_run("default/1")
    run.transition("stopped")
    begun: list[Run] = []
    monkeypatch.setattr("lmbench.cli.reproduce.begin", begun.append)
    assert lmbench(["reproduce", "cache", "--model", run.ref, "--detach"]) == 0
    assert len(begun) == 3
    assert run not in begun


def test_runs_that_are_made_when_ctrl_c_comes_are_not_left_queued(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = home.open_session("reproduce")
    before, *_ = make_runs(session, plan("quantization", "small", {"data": "tiny"}))
    make_step, made = reproduce.make_step, []

    def interrupted(*arguments: Any) -> Run:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(make_step(*arguments))
        return made[-1]

    monkeypatch.setattr(reproduce, "make_step", interrupted)
    assert lmbench(["reproduce", "pruning", "--data", "tiny"]) == INTERRUPTED
    assert [run.status() for run in made] == ["stopped"] * 2
    assert before.status() == "queued"


def test_a_row_that_is_deleted_meanwhile_ends_the_table_in_a_line(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deleted(begin: Any, **_: Any) -> tuple[Run, int]:
        gone = home.find_run("reproduce/2")
        shutil.rmtree(gone.path)
        return home.find_run("reproduce/1"), 0

    monkeypatch.setattr("lmbench.cli.start_run.work_through", deleted)
    assert lmbench(["reproduce", "training", "--data", "tiny"]) == 2
    said = capsys.readouterr().err
    assert "reproduce/002-train was deleted" in said
    assert "the same command again makes it anew" in said


def document(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert lmbench(["reproduce", "training", "--data", "tiny", "--threads", "1", *words]) == 0
    return capsys.readouterr().out


def test_a_table_is_made_by_real_runs_and_shown_beside_the_published(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(document(capsys, "--json"))["rows"]
    assert [row["status"] for row in rows] == ["finished", "finished"]
    assert [row["published_test_ppl"] for row in rows] == [142.07, 130.32]
    assert all(row["test_ppl"] > 1 for row in rows)
    made = home.session("reproduce").runs()
    shown = document(capsys)
    assert home.session("reproduce").runs() == made
    assert "130.32" in shown
    assert "published: of wikitext-2; ours: of tiny" in shown
    assert f"{rows[1]['test_ppl']:.2f}" in shown


def test_rows_are_left_to_the_queue_which_works_on_one_at_a_time(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def start(run: Run, *, queue: bool = True) -> None:
        begun.append((run.id, queue))
        run.update(status="finished", results={"test_ppl": 100.0})

    monkeypatch.setattr("lmbench.jobs.launch.start", start)
    document(capsys)
    assert begun == [(1, True), (2, True)]


def test_what_a_published_figure_is_of_stands_in_a_footnote() -> None:
    quantized = plan("quantization", "small")
    (note,) = quantized.footnotes
    assert "scored valid" in note
    assert "of 2x1500 over 40 epochs" in note
    assert quantized.note == f"¹ {note}"
    # Of the same model there is nothing to say.
    assert plan("pruning", "large").note == ""
    training = plan("training", "large")
    assert [training.mark(row) for row in training.rows] == ["¹", "²", ""]
    assert "86.68 (valid 91.70) without --weight-decay" in training.note
    (medium,) = plan("training", "medium", {"data": "mine"}).rows
    config = medium.step.config
    assert isinstance(config, TrainConfig)
    assert (config.nhid, config.epochs, config.tied) == (200, 40, True)
    assert medium.published[:2] == (105.23, 99.53)


def test_the_models_of_the_table_of_bits_are_packed_as_they_were_rounded() -> None:
    rows = plan("bits", "small", {"data": "tiny", "seed": 7}).rows
    shown = [row for row in rows if row.shown]
    assert [row.name for row in shown] == [
        *("fp32", "int8", "4 bits", "3 bits", "2 bits"),
        *("small-80", "80% int8", "80% 4 bits", "80% 3 bits", "80% 2 bits"),
    ]
    for row in shown:
        trained = row.step.kind in ("train", "prune")
        assert trained or row.step.kind == "pack"
        if trained or row.name == "4 bits":
            continue
        assert row.step.parent is not None
        before = rows[row.step.parent].step
        assert isinstance(before.config, QuantizeConfig)
        # A pruned model has no 4 bits but in codes: to nearest they are packed in 8.
        codes = {"4": 4, "3": 3, "2": 2}.get(row.name.removeprefix("80% ")[0])
        assert before.config.rounding == (codes and "codes")
        assert before.config.bits_parameters == codes
        assert before.parent is not None
        model = rows[before.parent].step
        assert model.kind == ("prune" if "80%" in row.name else "train")
        assert isinstance(model.config, TrainConfig)
        assert model.config.seed == 7


def test_at_longer_scales_both_models_of_the_table_of_bits_train_on_in_few_bits() -> None:
    rows = plan("bits", "medium", {"data": "tiny", "seed": 7}).rows
    assert [row.name for row in rows[17:] if row.shown] == [
        *(
            f"{pruned}one more epoch{bits}"
            for pruned in ("", "80% ")
            for bits in ("", " in 4 bits", " in 3 bits", " in 2 bits")
        ),
    ]
    for row in rows[17:]:
        begun = row.step.parent
        assert begun is not None
        if row.step.kind == "pack":
            assert rows[begun].step.name == row.name
            continue
        assert rows[begun].name == ("medium-80" if "80%" in row.name else "fp32")
        config = row.step.config
        assert isinstance(config, PruneConfig)
        assert (config.epochs, config.lr, config.lr_schedule, config.seed) == (1, 10.0, "cosine", 7)
        bits = re.search(r"in (\d) bits", row.name)
        assert config.compress == (f"code{bits[1]}" if bits else "hold")


def test_both_models_of_the_table_of_structure_train_alike(home: Home) -> None:
    wanted = plan("structure", "medium", {"data": "tiny"})
    dense, units = (wanted.rows[place].step for place in (1, 3))
    assert isinstance(dense.config, TrainConfig)
    assert isinstance(units.config, TrainConfig)
    assert (dense.parent, units.parent) == (0, 0)
    assert (dense.config.compress, units.config.compress) == ("none", "small-units")
    assert dense.config == units.config.model_copy(update={"compress": "none"})
    assert (units.config.epochs, units.config.lr_schedule) == (40, "cosine")
    runs = make_runs(home.open_session("s"), wanted)
    for number, run in enumerate(runs):
        run.update(results={"test_ppl": 100.0 + number})
    # Against the dense model that has trained on, not the one that both begin with.
    changes = [row["test_change"] for row in compared(wanted, runs)]
    assert changes == pytest.approx([0.0, *(number / 101 for number in (1, 2, 3, 4))])


def test_a_table_that_cannot_be_made_leaves_no_session(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LMBENCH_HOME", str(home.path))
    assert lmbench(["reproduce", "bits", "--data", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert list(home.sessions()) == []


def test_several_seeds_make_a_row_of_means(home: Home) -> None:
    session = home.open_session("s")
    tables = []
    for number, seed in enumerate((1111, 1112, 1113)):
        wanted = plan("pruning", "small", {"data": "tiny", "seed": seed})
        runs = make_runs(session, wanted)
        for place, run in enumerate(runs):
            found = {"test_ppl": 100.0 + 10 * number + place, "sparsity": 0.8}
            found["nonzero"] = 1000 + number // 2
            run.update(results=found, status="finished")
        tables.append(compared(wanted, runs))
    dense, first, *_ = over_seeds(tables)
    assert dense["runs"] == ["s/001-train", "s/006-train", "s/011-train"]
    assert (dense["test_ppl"], dense["test_ppl_deviation"], dense["test_ppl_n"]) == (110, 10, 3)
    assert dense["valid_ppl"] is None
    assert first["test_ppl"] == 111.0
    # Each against the dense model of its own seed.
    changes = [1 / 100, 1 / 110, 1 / 120]
    assert first["test_change"] == pytest.approx(sum(changes) / 3)
    assert (first["status"], first["sparsity"]) == ("finished", pytest.approx(0.8))
    assert str(first["nonzero"]) == "1000"
    assert over_seeds(tables[:1]) == tables[0]
    # Half a training is no seed of a whole one, nor is what started from it.
    tables[1][0]["status"] = tables[2][1]["status"] = "stopped"
    dense, first, *_ = over_seeds(tables)
    assert (dense["status"], dense["test_ppl"], dense["test_ppl_n"]) == ("stopped", 110.0, 2)
    assert (first["test_ppl"], first["test_ppl_n"]) == (101.0, 1)


def test_the_table_of_several_seeds_shows_their_spread(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    session = home.open_session("reproduce")
    for number, seed in enumerate((1111, 1112)):
        wanted = plan("bits", "small", {"data": "tiny", "threads": 1, "seed": seed})
        for place, run in enumerate(make_runs(session, wanted)):
            found = {"valid_ppl": 110.0, "test_ppl": 100.0 + 10 * number + place}
            found |= {"tokens_per_s": 3000.0 + 1000 * number}
            run.update(results=found, status="finished", started=2.0, ended=1.0)
    words = ["reproduce", "bits", "--data", "tiny", "--threads", "1", "--seeds", "2"]
    assert lmbench(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "published" not in lines[0]
    assert "status" not in lines[0]
    (dense,) = (line for line in lines if "001-train, 018-train" in line)
    assert "105.00 ± 7.07" in dense
    (packed,) = (line for line in lines if "020-pack    int8" in line)
    assert packed.rstrip().endswith("3,500")


def whole(capsys: pytest.CaptureFixture[str], table: str, *words: str) -> list[dict[str, Any]]:
    """The rows of a table that was made to its end."""
    capsys.readouterr()
    command = ["reproduce", table, "--data", "tiny", "--threads", "1", *words, "--json"]
    assert lmbench(command) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["status"] for row in rows} == {"finished"}
    assert all(row["test_ppl"] > 1 for row in rows)
    return rows


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_table_of_bits_is_made_to_its_end(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = whole(capsys, "bits")
    sizes = [row["bytes"] for row in rows]
    assert sizes[:5] == sorted(sizes[:5], reverse=True)
    assert sizes[6:10] == sorted(sizes[6:10], reverse=True)
    assert len(home.session("reproduce").runs()) == 17
    assert lmbench(["reproduce", "bits", "--data", "tiny", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "nothing is published of these rows on this corpus" in shown
    assert "size" in shown


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_table_of_structure_is_made_to_its_end(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = whole(capsys, "structure")
    packed = home.find_run(rows[3]["run"]).read()
    assert packed.shape["nhid"] == packed.shape["emsize"] == 140
    assert packed.results["units_left_out"] == 60
    assert rows[3]["test_ppl"] == pytest.approx(rows[2]["test_ppl"], rel=1e-4)
    assert rows[4]["bytes"] < rows[1]["bytes"] < rows[3]["bytes"] < rows[0]["bytes"]
