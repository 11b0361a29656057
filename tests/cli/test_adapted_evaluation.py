"""`lmbench evaluate` with --cache, --dynamic and --tune, on a trained run."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_world import answer

from lmbench.cli import run as lmbench
from lmbench.config import EvaluateConfig
from lmbench.corpus import open_corpus
from lmbench.corpus.batches import batchify
from lmbench.deploy.load_model import load_run
from lmbench.deploy.runtimes.interface import Score as RuntimeScore
from lmbench.errors import LmbenchError
from lmbench.generation.cache import NeuralCache, evaluate_with_caches
from lmbench.jobs import adapted_evaluation
from lmbench.session import Home, read_events
from lmbench.session.events import Score
from lmbench.training.dynamic_evaluation import Dynamic, evaluate_dynamically, gradient_rms

Capture = pytest.CaptureFixture[str]
ONE = ("--threads", "1")


def results(capsys: Capture, *words: str) -> dict[str, Any]:
    [document] = answer(capsys, "evaluate", *words, *ONE)
    return document["results"]


def files(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def columns(home: Home, split: str, tokens: int | None = None) -> torch.Tensor:
    return batchify(open_corpus("tiny", home.path).split(split)[:tokens], 10, "cpu")


def test_each_way_has_figures_of_its_own_and_the_run_stays_as_it_is(
    home: Home, capsys: Capture
) -> None:
    run = home.find_run("1")
    net, test = load_run(run).recurrent, columns(home, "test")
    before, own = files(run.path), run.read().results["test_ppl"]

    cached = results(capsys, "1", "--cache", "50", "--cache-theta", "0.3", "--cache-lambda", "0.2")
    [expected] = evaluate_with_caches(net, test, 35, [NeuralCache(50, 0.3, 0.2)])[1]
    assert cached["test_cache_ppl"] == pytest.approx(expected.ppl, rel=1e-5)
    assert cached["test_ppl"] == pytest.approx(own, rel=1e-5)
    assert cached["cache"] == {"words": 50, "theta": 0.3, "lambda": 0.2}

    steps = ("--dynamic-lr", "0.5", "--dynamic-decay", "0.01", "--bptt", "7")
    moved = results(capsys, "1", "--dynamic", "sgd", *steps)
    score = evaluate_dynamically(net, test, 7, Dynamic("sgd", 0.5, 0.01))[0]
    assert moved["test_dynamic_ppl"] == pytest.approx(score.ppl, rel=1e-5)
    assert moved["test_dynamic_loss"] == pytest.approx(score.loss, rel=1e-5)
    assert moved["dynamic"] == {"form": "sgd", "lr": 0.5, "decay": 0.01, "bptt": 7}
    assert not {"test_ppl", "test_cache_ppl", "cache", "tuned"} & set(moved)

    both = results(capsys, "1", "--dynamic", "rms", "--cache", "50", "--dynamic-tokens", "1500")
    rms = gradient_rms(net, columns(home, "train", 1500), 35)
    cache = NeuralCache(50, 0.6, 0.1)
    score, [expected] = evaluate_dynamically(
        net, test, 35, Dynamic("rms", 1e-3, 0.003), rms, [cache]
    )
    assert both["test_dynamic_ppl"] == pytest.approx(score.ppl, rel=1e-4)
    assert both["test_cache_dynamic_ppl"] == pytest.approx(expected.ppl, rel=1e-4)
    assert not {"test_ppl", "test_cache_ppl"} & set(both)
    assert files(run.path) == before


def test_events_and_lines_say_what_each_figure_is_of(home: Home, capsys: Capture) -> None:
    [document] = answer(capsys, "evaluate", "1", "--cache", "20", "--dynamic", "sgd", *ONE)
    log = read_events(Path(document["run"]) / "events.jsonl")
    scores = [event for event in log if isinstance(event, Score)]
    assert [score.what for score in scores] == [
        "dynamic sgd, step 4, decay 0.001",
        "cache of 20 words, theta 0.6, lambda 0.1; dynamic sgd, step 4, decay 0.001",
    ]
    assert document["test_dynamic_ppl"] == scores[0].ppl
    assert document["test_cache_dynamic_ppl"] == scores[1].ppl
    assert document["test_ppl"] is None
    assert document["test_cache_ppl"] is None


@pytest.fixture
def two_texts(home: Home) -> str:
    """A corpus of the model's words whose valid repeats itself and whose test never does."""
    source, folder = home.path / "data" / "tiny", home.path / "data" / "turned"
    if not folder.exists():
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".lmbench"))
        words = open_corpus("tiny", home.path).vocabulary
        often = " ".join([words[1], words[7], words[3], words[9], words[5]] * 100)
        plain = [word for word in words if word.startswith("w")]
        assert len(plain) > 50  # what a column of test has
        never = " ".join(plain[n % len(plain)] for n in range(500))
        (folder / "valid.txt").write_text(often + "\n", encoding="utf-8")
        (folder / "test.txt").write_text(never + "\n", encoding="utf-8")
    return "turned"


def test_settings_are_found_on_valid_alone(home: Home, capsys: Capture, two_texts: str) -> None:
    """What is best on test is another setting, which must not be taken."""
    corpus = open_corpus(two_texts, home.path)
    net = load_run(home.find_run("1")).recurrent
    assert corpus.vocabulary == load_run(home.find_run("1")).vocabulary
    valid, test = (batchify(corpus.split(s), 10, "cpu") for s in ("valid", "test"))
    few, many = NeuralCache(40, 0.1, 0.05), NeuralCache(40, 1.0, 0.4)
    on_valid, on_test = (evaluate_with_caches(net, d, 35, [few, many])[1] for d in (valid, test))
    assert on_valid[1].ppl < on_valid[0].ppl
    assert on_test[1].ppl > on_test[0].ppl

    found = results(capsys, "1", "--data", two_texts, "--cache", "40", "--tune")
    assert found["cache"]["lambda"] == 0.4
    recorded = home.find_run("@").read().corpus
    assert recorded is not None
    assert (recorded.name, recorded.fingerprint) == (two_texts, corpus.fingerprint)
    used = NeuralCache(40, found["cache"]["theta"], found["cache"]["lambda"])
    assert found["test_cache_ppl"] == pytest.approx(
        evaluate_with_caches(net, test, 35, [used])[1][0].ppl, rel=1e-5
    )
    tuned = found["tuned"]
    assert (tuned["split"], tuned["tokens"], tuned["passes"]) == ("valid", valid[1:].numel(), 1)
    assert tuned["ppl"] == pytest.approx(
        evaluate_with_caches(net, valid, 35, [used])[1][0].ppl, rel=1e-5
    )


def test_steps_are_tuned_on_valid_and_the_cost_is_said_before(
    home: Home, capsys: Capture, two_texts: str
) -> None:
    words = ("evaluate", "1", "--data", two_texts, "--dynamic", "sgd", "--tune", *ONE)
    assert lmbench([*words, "--tune-tokens", "300"]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert lines[0].startswith("| tuning: 9 passes over 300 tokens of valid, about")
    assert "tuned on 290 tokens of valid" in lines[-1]
    record = home.session("default").runs()[-1].read()
    tuned, used = record.results["tuned"], record.results["dynamic"]
    assert (tuned["tokens"], tuned["split_tokens"]) == (290, 501)
    net, corpus = load_run(home.find_run("1")).recurrent, open_corpus(two_texts, home.path)
    valid = batchify(corpus.split("valid")[:300], 10, "cpu")

    def loss(lr: float, decay: float) -> float:
        return evaluate_dynamically(net, valid, 35, Dynamic("sgd", lr, decay))[0].loss

    best = math.log(tuned["ppl"])
    assert loss(used["lr"], used["decay"]) == pytest.approx(best, rel=1e-5)
    assert all(loss(lr, 0.001) >= best - 1e-6 for lr in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0))


@pytest.mark.parametrize(
    "line, says",
    [
        ("--tune", "--tune: add --cache or --dynamic"),
        ("--cache 5 --tune --split valid", "leave --split valid out"),
        ("--cache 5 --tune --cache-theta 0.3", "--tune finds --cache-theta itself"),
        ("--dynamic sgd --tune --dynamic-lr 3", "--tune finds --dynamic-lr itself"),
        ("--dynamic-lr 3", "--dynamic-lr: does nothing without --dynamic"),
        ("--cache 5 --tune-tokens 300", "--tune-tokens: does nothing without --tune"),
        ("--dynamic sgd --runtime fp16", "--dynamic takes a model as it is, or torch's own"),
        ("--cache 5 --runtime fp16", "--cache takes a model as it is, or torch's own"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    home: Home, capsys: Capture, line: str, says: str
) -> None:
    before = len(home.session("default").runs())
    assert lmbench(["evaluate", "1", *line.split()]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert len(home.session("default").runs()) == before


def test_integers_take_no_steps_but_packed_floats_do(home: Home, capsys: Capture) -> None:
    few = ("--tokens", "300", *ONE)
    for weights, refused in (("int8", True), ("fp32", False)):
        packed = answer(capsys, "pack", "1", "--weights", weights, *ONE)
        code = lmbench(["evaluate", packed["run"], "--dynamic", "sgd", *few])
        said = " ".join(capsys.readouterr().err.split())
        assert code == (2 if refused else 0), said
        assert not refused or "holds integers" in said
        assert not refused or "name the run that it was packed from" in said


def test_a_run_trained_on_a_grid_takes_no_steps(
    home: Home, capsys: Capture, tmp_path: Path
) -> None:
    few = ("--epochs", "1", "--lr", "1", *ONE)
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "quantizers:\n  q:\n    class: QuantAwareTrainRangeLinearQuantizer\n"
        "    bits_activations: null\n    bits_weights: 4\n"
        "policies:\n  - quantizer:\n      instance_name: q\n    starting_epoch: 0\n"
        "    ending_epoch: 2\n    frequency: 1\n",
        encoding="utf-8",
    )
    on_grid = answer(capsys, "prune", "1", "--schedule", str(grid), *few)
    assert lmbench(["evaluate", on_grid["run"], "--dynamic", "sgd", *ONE]) == 2
    assert "were trained on a grid" in " ".join(capsys.readouterr().err.split())


def test_weights_that_are_averaged_are_on_no_grid(home: Home, capsys: Capture) -> None:
    few = ("--emsize", "16", "--nhid", "16", "--epochs", "6", "--lr", "60", "--decay", "1", *ONE)
    made = answer(capsys, "train", "--data", "tiny", "--nonmono", "0", *few)
    assert (Path(made["run"]) / "last" / "trained.safetensors").is_file()
    flags = ("--checkpoint", "last", "--dynamic", "sgd", "--dynamic-lr", "0.1")
    assert results(capsys, made["run"], *flags)["test_dynamic_ppl"] > 1


@pytest.mark.parametrize(
    "line, flag",
    [
        ("evaluate 1 --cache 20 --tune --tune-tokens 15", "--tune-tokens 15"),
        ("evaluate 1 --dynamic sgd --tune --tune-tokens 15", "--tune-tokens 15"),
        ("evaluate 1 --dynamic rms --dynamic-tokens 15", "--dynamic-tokens 15"),
        ("evaluate 1 --tokens 15", "--tokens 15"),
        ("quantize 1 --preset int8-best --eval-tokens 15", "--eval-tokens 15"),
        ("sensitivity 1 --tokens 15", "--tokens 15"),
    ],
)
def test_too_few_tokens_to_predict_one_are_refused_by_their_flag(
    line: str, flag: str, home: Home, capsys: Capture
) -> None:
    assert lmbench([*line.split(), *ONE]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"{flag}: 15 tokens leave nothing to predict in 10 columns; use at least 20" in said


@pytest.mark.parametrize(
    "split, flags, named",
    [("test", (), "test"), ("train", ("--cache", "20", "--tune"), "valid")],
)
def test_a_split_that_is_too_short_is_named_where_no_flag_limits_it(
    split: str, flags: tuple[str, ...], named: str, home: Home, capsys: Capture
) -> None:
    short = home.path / "data" / "short"
    shutil.copytree(home.path / "data" / "tiny", short, dirs_exist_ok=True)
    words = (short / "test.txt").read_text().split()
    (short / "test.txt").write_text(" ".join(words[:13]) + "\n")
    (short / "valid.txt").write_text(" ".join(words[:13]) + "\n")
    assert lmbench(["evaluate", "1", "--data", "short", "--split", split, *flags, *ONE]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"{named} of short: 14 tokens leave nothing to predict" in said
    assert "fewer columns where --eval-batch-size sets them" in said


def test_weights_that_grow_without_bound_end_in_a_line(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grown(*_: object) -> tuple[RuntimeScore, list[RuntimeScore]]:
        return RuntimeScore(math.nan, 10), []

    monkeypatch.setattr(adapted_evaluation, "evaluate_dynamically", grown)
    loaded, corpus = load_run(home.find_run("1")), open_corpus("tiny", home.path)
    config = EvaluateConfig(dynamic="sgd", dynamic_lr=900.0)
    with pytest.raises(LmbenchError, match=r"--dynamic-lr 900: .* use a smaller one"):
        adapted_evaluation.score_adapted(
            config, loaded, corpus, columns(home, "test"), lambda what: lambda done, total: None
        )
