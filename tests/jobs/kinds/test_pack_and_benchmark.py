"""Packing and benchmarking as runs: files are scored as they run, rows can be compared."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmbench.cli.export_model import export_model
from lmbench.config import (
    BenchmarkConfig,
    Config,
    EvaluateConfig,
    PackConfig,
    QuantizeConfig,
    TrainConfig,
)
from lmbench.corpus import open_corpus
from lmbench.deploy.benchmark import Entrant, _row
from lmbench.deploy.load_model import PackedModel, load_run
from lmbench.deploy.native import why_unavailable
from lmbench.deploy.packed_file.reading import PackedFile, open_packed
from lmbench.deploy.packed_file.writing import packed_bytes
from lmbench.deploy.runtimes import choose
from lmbench.deploy.runtimes.choose import Measured
from lmbench.jobs.job import Job
from lmbench.jobs.kinds import evaluate
from lmbench.jobs.worker import work
from lmbench.model.rnn import build_model, count_weights, shape_of
from lmbench.session import Home, Run, read_events
from lmbench.session.events import TuningPass, Warned
from lmbench.session.store import Corpus
from lmbench.training.checkpoint import write_checkpoint

needs_kernels = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    lines = [" ".join(f"w{(7 * i + j * j) % 40}" for j in range(12)) for i in range(60)]
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.setattr("lmbench.jobs.worker.signal.signal", lambda *_: None)
    # A process for each row is measured once, below.
    monkeypatch.setattr("lmbench.deploy.benchmark.peak_memory", lambda *_: 1_000_000)
    return Home.find()


def trained(home: Home, sparsity: float = 0.0, scale: float = 1.0, width: int = 32) -> Run:
    """A finished training run of a small random model, its weights scaled."""
    config = TrainConfig(data="tiny", emsize=width, nhid=width, tied=True, nlayers=1)
    run = home.open_session().new_run(config, "train")
    corpus = open_corpus("tiny", home.path)
    torch.manual_seed(0)
    model = build_model(config, corpus.ntokens)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(torch.rand_like(parameter) >= sparsity).mul_(scale)
    run.session.write_vocabulary(corpus.fingerprint, corpus.vocabulary)
    write_checkpoint(run.path / "best", model, {})
    run.update(
        status="finished",
        corpus=Corpus(
            name=corpus.name,
            fingerprint=corpus.fingerprint,
            origin=str(corpus.path),
            ntokens=corpus.ntokens,
        ),
        shape=shape_of(model),
    )
    return run


def worked(parent: Run, config: Config, kind, **more) -> Run:
    run = parent.session.new_run(config, kind, parent=parent, **more)
    assert work(run) == 0
    record = run.read()
    assert record.status == "finished", record.reason
    return run


@pytest.mark.parametrize("weights", ["auto", "int8", "int4"])
def test_a_packed_run_is_scored_as_it_runs_and_says_so_in_its_file(home, weights):
    parent = trained(home, sparsity=0.8)
    run = worked(parent, PackConfig(threads=1, weights=weights), "pack")
    results = run.read().results
    packed = open_packed(run.path / "model.lmpack")
    assert results["bytes"] == packed.bytes
    assert packed.about.scores["test_ppl"] == results["test_ppl"] > 1
    assert packed.about.scores["runtime"] == results["runtime"]
    assert packed.about.lineage == (parent.ref,)
    words = packed.shape["ntoken"]
    assert results["parameters"] == words * 32 + 2 * 4 * 32 * 32
    assert results["biases"] == words + 2 * 4 * 32
    assert results["nonzero"] == pytest.approx(0.2 * results["parameters"], rel=0.1)
    assert results["sparsity"] == 1 - results["nonzero"] / results["parameters"]


def test_a_file_names_the_corpus_that_its_model_was_scored_on(home):
    parent = trained(home)
    known = parent.read().corpus
    assert known is not None
    root = parent.session.new_run(TrainConfig(data="other"), "train")
    root.update(status="finished", corpus=known.model_copy(update={"name": "other"}))
    paths = {"compress": "/home/me/a.yaml", "config": "/home/me/b.yaml", "stats": "/home/me/c.yaml"}
    root.update(config={**root.read().config, **paths})
    parent.update(parent=root.ref)
    about = open_packed(worked(parent, PackConfig(threads=1), "pack").path / "model.lmpack").about
    assert about.lineage == (root.ref, parent.ref)
    assert about.corpus == {"name": "tiny", "fingerprint": known.fingerprint}
    assert "/home/me" not in str(about.settings)


def test_a_corpus_whose_name_is_no_utf8_is_named_in_the_file(home):
    parent = trained(home)
    known = parent.read().corpus
    assert known is not None
    parent.update(corpus=known.model_copy(update={"name": "caf\udce9"}))
    run = worked(parent, PackConfig(threads=1), "pack")
    assert open_packed(run.path / "model.lmpack").about.corpus["name"] == "caf\udce9"


def test_a_packed_model_that_rounding_has_untied_is_recorded_as_it_is(home):
    parent = trained(home)
    config = QuantizeConfig(
        preset="int8-best", rounding="gptq", threads=1, calibration_tokens=500, eval_tokens=300
    )
    quantized = worked(parent, config, "quantize")
    run = worked(quantized, PackConfig(threads=1), "pack")
    assert not run.read().shape["tied"]
    assert run.read().shape == load_run(run).shape
    # What the parent scored on a part stands beside no score of the whole.
    assert "test_ppl" in quantized.read().results
    assert "test_ppl_of_parent" not in run.read().results


def test_a_model_whose_perplexity_is_infinite_is_packed_and_says_null(home):
    run = worked(trained(home, scale=1e5), PackConfig(threads=1, weights="int8"), "pack")
    scores = open_packed(run.path / "model.lmpack").about.scores
    assert scores["test_loss"] > 709
    assert scores["test_ppl"] is run.read().results["test_ppl"] is None


@pytest.mark.parametrize("sparse", ["auto", "always", "never"])
def test_packing_says_where_groups_of_4_bits_are_rounded_anew(home, sparse):
    config = QuantizeConfig(
        preset="int4-weights",
        mode="symmetric",
        threads=1,
        calibration_tokens=500,
        eval_tokens=300,
        calibrate_on="valid",
    )
    quantized = worked(trained(home, sparsity=0.9, width=128), config, "quantize")
    run = worked(quantized, PackConfig(threads=1, sparse=sparse), "pack")
    said = "one a group, so rounded anew; --sparse never" in run.events_path.read_text()
    assert said == (sparse != "never")


def without_header(run: Run) -> int:
    results = run.read().results
    return sum(row["bytes"] for row in results["tensors"]) + results["vocabulary_bytes"]


@pytest.mark.parametrize("preset", ["int8-best", "int6-best", "fp16"])
def test_what_a_quantize_run_says_it_would_pack_to_is_what_it_packs_to(home, preset):
    parent = trained(home, sparsity=0.8)
    config = QuantizeConfig(
        preset=preset, threads=1, calibration_tokens=500, eval_tokens=300, calibrate_on="valid"
    )
    run = worked(parent, config, "quantize")
    told = run.read().results["packed_bytes"]
    assert told == without_header(worked(run, PackConfig(threads=1), "pack"))
    assert run.read().size == (told, True)
    corpus = open_corpus("tiny", home.path)
    longest = max(corpus.counts[split] for split in ("valid", "test"))
    assert run.read().results["split_tokens"] == longest
    assert run.read().results["bytes"] == run.model_bytes()


def test_a_search_within_a_size_finds_a_model_whose_file_has_it(home):
    parent = trained(home)
    model = load_run(parent).recurrent
    words = parent.vocabulary()
    wide, narrow = (packed_bytes(model, words, kind) for kind in ("int8", "int4"))
    budget = (2 * narrow + wide) // 3
    config = QuantizeConfig(
        auto=True, budget=f"{budget}B", threads=1, calibration_tokens=500, eval_tokens=300
    )
    run = worked(parent, config, "quantize")
    packed = worked(run, PackConfig(threads=1), "pack")
    assert narrow <= without_header(packed) <= budget


def test_a_packed_file_tells_nothing_of_the_machine_it_was_made_on(home):
    run = worked(trained(home), PackConfig(threads=1), "pack")
    assert str(home.path).encode() not in (run.path / "model.lmpack").read_bytes()


def test_packing_tells_of_no_ancestor_twice_and_of_a_damaged_one_its_name(home):
    run, elder = trained(home), trained(home)
    for parent in (elder, run):
        run.update(parent=elder.ref)
        elder.update(parent=parent.ref)
        packed = worked(run, PackConfig(threads=1), "pack")
        about = open_packed(packed.path / "model.lmpack").about
        assert about.lineage[-2:] == (elder.ref, run.ref)
    (elder.path / "run.json").write_text("{")
    worked(run, PackConfig(threads=1), "pack")


@pytest.mark.parametrize("edited", [False, True])
def test_a_tuning_whose_text_was_edited_begins_anew(home, edited):
    folder = home.path / "data" / "mine"
    shutil.copytree(home.path / "data" / "tiny", folder)
    config = EvaluateConfig(data="mine", dynamic="sgd", cache=10, tune=True, threads=1, tokens=200)
    run = worked(trained(home), config, "evaluate")
    before = tuning_passes(run)
    if edited:
        text = (folder / "valid.txt").read_text().splitlines()
        (folder / "valid.txt").write_text("\n".join(reversed(text)) + "\n")
    job = Job(run, run.update(status="running"), config, resuming=True, carries_on=True)
    evaluate.work(job)
    job.close()
    after = tuning_passes(run)
    assert (after == before) != edited
    warned = [e.message for e in read_events(run.events_path) if isinstance(e, Warned)]
    assert [line[:24] for line in warned] == ["corpus mine has changed "] * edited


def tuning_passes(run: Run) -> list[TuningPass]:
    return [e for e in read_events(run.events_path) if isinstance(e, TuningPass)]


def test_a_pack_run_loads_like_any_other(home):
    run = worked(trained(home), PackConfig(threads=1, weights="int8"), "pack")
    loaded = load_run(run)
    assert isinstance(loaded, PackedModel)
    assert loaded.vocabulary == trained(home).vocabulary()


@needs_kernels
def test_integers_are_evaluated_without_being_unpacked(home, monkeypatch):
    packed = worked(trained(home), PackConfig(threads=1, weights="int8"), "pack")

    def unpack(file: PackedFile) -> None:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(PackedFile, "to_model", unpack)
    run = worked(packed, EvaluateConfig(threads=1), "evaluate")
    assert run.read().results["nonzero"] == packed.read().results["nonzero"]


@pytest.mark.parametrize("weights", ["fp32", "int8", "int4"])
def test_of_integers_it_is_said_that_an_export_has_floats(home, weights):
    run = worked(trained(home), PackConfig(threads=1, weights=weights), "pack")
    document = export_model(load_run(run), run, home.path / "model.safetensors", "safetensors")
    assert ("activations" in document) == (weights != "fp32")


@needs_kernels
def test_sparse_int8_is_scored_on_the_sparse_kernel_near_its_parent(home):
    parent = trained(home, sparsity=0.8)
    exact = worked(parent, PackConfig(threads=1, weights="fp32"), "pack").read().results
    small = worked(parent, PackConfig(threads=1, weights="int8"), "pack").read().results
    assert exact["runtime"] == "torch"
    assert small["runtime"] == "sparse-int8"
    assert small["test_ppl"] == pytest.approx(exact["test_ppl"], rel=3e-3)
    assert small["bytes"] < exact["bytes"]


def test_the_step_of_a_row_is_the_median_and_its_p95_the_slow_end():
    loaded, runtime = SimpleNamespace(title="a"), SimpleNamespace(name="torch", bytes=1)
    steps = [ms / 1e3 for ms in range(100, 0, -1)]
    entrant = Entrant(loaded, runtime, 1, steps)  # pyright: ignore[reportArgumentType]
    row = _row(entrant, [entrant], None, None)
    assert (row.ms, row.ms_p95) == (pytest.approx(50.5), pytest.approx(95.05))


def test_benchmarking_gives_a_row_for_each_runtime_with_both_baselines(home):
    parent = trained(home)
    packed = worked(parent, PackConfig(threads=1, weights="int8"), "pack")
    config = BenchmarkConfig(
        threads=1,
        models=(parent.ref, packed.ref),
        runtimes=("fp16",),
        words=5,
        rounds=2,
        tokens=300,
    )
    rows = worked(parent, config, "benchmark").read().results["rows"]
    by_place = {(row["model"], row["runtime"]): row for row in rows}
    names = {"naive", "torch", "fp16"}
    assert set(by_place) == {(m, n) for m in (parent.ref, packed.ref) for n in names}
    for row in rows:
        assert row["ms"] > 0
        assert row["ms_p95"] >= row["ms"]
        assert row["tokens_per_s"] > 0
        assert row["ppl"] > 1
        assert row["peak"] == 1_000_000
        # The whole of test is 60 lines of 12 words and a line end.
        assert (row["tokens"], row["split_tokens"]) == (300, 60 * 13)
        if row["runtime"] == "naive":
            assert row["step_vs_naive"] == row["score_vs_naive"] == 1
        if row["runtime"] == "torch":
            assert row["step_vs_fp32"] == row["score_vs_fp32"] == 1
    sizes = {model: by_place[model, "naive"]["disk"] for model in (parent.ref, packed.ref)}
    assert sizes[packed.ref] == (packed.path / "model.lmpack").stat().st_size
    weights = {runtime: by_place[parent.ref, runtime]["numbers"] for runtime in names}
    assert weights["fp16"] < weights["naive"] < sizes[parent.ref]
    assert weights["naive"] < weights["torch"] < 2 * weights["naive"]
    assert by_place[parent.ref, "naive"]["ppl"] == pytest.approx(
        by_place[parent.ref, "torch"]["ppl"], rel=1e-5
    )


@pytest.mark.parametrize(
    "accuracy, taken", [("exact", "onnx"), ("close", "int8"), ("coarse", "int4")]
)
def test_auto_scores_as_near_to_fp32_as_is_asked_for(home, monkeypatch, accuracy, taken):
    monkeypatch.setenv("LMBENCH_CACHE", str(home.path / "cache"))
    seconds = {"onnx": 3.0, "int8": 2.0, "int4": 1.0}

    def pretend(_, entries, purpose):
        assert purpose == "score"
        return [Measured(e.name, seconds.get(e.name, 9.0), 0.0) for e in entries]

    monkeypatch.setattr(choose, "measure", pretend)
    config = EvaluateConfig(threads=1, device="cpu", runtime="auto", accuracy=accuracy)
    assert worked(trained(home), config, "evaluate").read().results["runtime"] == taken


def test_a_packed_file_alone_is_benchmarked_on_its_own_corpus(home, tmp_path):
    packed = worked(trained(home), PackConfig(threads=1, weights="int8"), "pack")
    file = tmp_path / "elsewhere.lmpack"
    file.write_bytes((packed.path / "model.lmpack").read_bytes())
    config = BenchmarkConfig(
        threads=1, models=(str(file),), runtimes=("naive",), words=3, rounds=1, tokens=200
    )
    rows = worked(packed, config, "benchmark").read().results["rows"]
    assert {row["model"] for row in rows} == {"elsewhere.lmpack"}
    assert all(row["ppl"] > 1 for row in rows)


def test_without_the_corpus_speeds_are_given_and_perplexities_are_not(home):
    parent = trained(home)
    packed = worked(parent, PackConfig(threads=1), "pack")
    (home.path / "data" / "tiny").rename(home.path / "gone")
    config = BenchmarkConfig(
        threads=1,
        models=(str(packed.path / "model.lmpack"),),
        runtimes=("naive",),
        words=3,
        rounds=1,
        tokens=99,
    )
    run = worked(parent, config, "benchmark")
    for row in run.read().results["rows"]:
        assert (row["ppl"], row["tokens"], row["split_tokens"]) == (None, None, None)
    kinds = [json.loads(line)["kind"] for line in run.events_path.read_text().splitlines()]
    assert "warning" in kinds


def test_all_of_test_is_scored_where_that_is_asked_for(home):
    parent = trained(home)
    config = BenchmarkConfig(threads=1, runtimes=("naive",), words=3, rounds=1, tokens=0)
    run = worked(parent, config, "benchmark")
    assert {(row["tokens"], row["split_tokens"]) for row in run.read().results["rows"]} == {
        (780, 780)
    }


def test_an_unknown_runtime_is_one_clear_line(home):
    parent = trained(home)
    run = parent.session.new_run(
        BenchmarkConfig(threads=1, runtimes=("fast",)), "benchmark", parent=parent
    )
    work(run)
    assert run.read().status == "failed"
    assert "runtime 'fast': use one of naive" in run.read().reason


def test_packing_after_the_corpus_changed_packs_and_scores_no_other_text(home):
    parent = trained(home)
    (home.path / "data" / "tiny" / "test.txt").write_text("other words\n")
    run = worked(parent, PackConfig(threads=1), "pack")
    results = run.read().results
    assert "test_ppl" not in results
    assert results["bytes"] == (run.path / "model.lmpack").stat().st_size
    warnings = [json.loads(line).get("message", "") for line in run.events_path.open()]
    assert any("packed, but not scored" in w and "has changed since" in w for w in warnings)


def test_footprints_are_measured_in_a_process_of_their_own(home):
    from lmbench.deploy.peak_memory import peak_memory

    parent = trained(home)
    peak = peak_memory(parent.path, "best", "naive")
    assert peak is not None
    assert 0 < peak < 2 << 30


def test_a_footprint_that_cannot_be_measured_is_none(monkeypatch):
    from lmbench.deploy import peak_memory

    monkeypatch.setattr(peak_memory.sys, "executable", "false")
    assert peak_memory.peak_memory(Path("nowhere"), "best", "naive") is None


def test_an_evaluation_has_the_figures_of_the_model_that_it_read(home, monkeypatch):
    parent = trained(home)
    _, nonzero, _ = count_weights(load_run(parent).model)
    parent.update(results={"nonzero": nonzero, "packed_bytes": 500})
    scored = evaluate.score_rows

    def meanwhile(*given):
        # Its training goes on and prunes on.
        parent.update(results={"nonzero": 10, "packed_bytes": 5})
        return scored(*given)

    monkeypatch.setattr(evaluate, "score_rows", meanwhile)
    config = EvaluateConfig(threads=1, device="cpu")
    found = worked(parent, config, "evaluate").read().results
    assert (found["nonzero"], found["packed_bytes"]) == (nonzero, 500)
