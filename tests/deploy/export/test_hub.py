"""A folder for the Hugging Face Hub has the model itself, and a card of the run's own figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from readers import make_home
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file

from lmbench.cli import run as lmbench
from lmbench.corpus import open_corpus
from lmbench.corpus.batches import score_rows
from lmbench.deploy.export.hub import export_hub
from lmbench.deploy.load_model import LoadedModel, load_file, load_run
from lmbench.distiller.quantization import export_state, load_preset, quantize
from lmbench.jobs.quantization import scored
from lmbench.report.model_card import model_card
from lmbench.session import Home
from lmbench.session.store import TRAINED_FILE

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("template")).path


@pytest.fixture
def home(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path)


def perplexity(model: LoadedModel, home: Home) -> float:
    rows = score_rows(open_corpus("tiny", home.path), "test", 0, torch.device("cpu"))
    return scored(model.model, rows).ppl


def exported(home: Home, number: str) -> tuple[LoadedModel, str]:
    """The model of the folder, and the folder's card."""
    assert lmbench(["export", number, "--format", "hub", "-o", f"hub-{number}"]) == 0
    folder = home.path / f"hub-{number}"
    return load_file(folder), (folder / "README.md").read_text()


@pytest.mark.parametrize("number", ["1", "2", "8"])
def test_a_dense_a_pruned_and_a_packed_model_score_as_their_runs_did(
    home: Home, number: str
) -> None:
    run = home.find_run(number)
    model, card = exported(home, number)
    results = run.read().results
    assert perplexity(model, home) == pytest.approx(results["test_ppl"], rel=1e-4)
    metadata = yaml.safe_load(card.split("---\n")[1])
    [result] = metadata["model-index"][0]["results"]
    scores = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert scores["test perplexity"] == results["test_ppl"]
    assert result["dataset"]["name"] == "tiny"
    assert ("pruned" in metadata["tags"]) == (number != "1")
    assert f"| sparsity | {100 * results['sparsity']:.1f}% |" in card
    assert f"| weights | {results['parameters']:,} |" in card
    assert "lmbench train --threads 1 --emsize 16" in card
    schedule = (home.find_run("2").path / "schedule.yaml").read_text().strip()
    assert (schedule in card) == (number != "1")


def test_weights_quantized_alone_score_to_the_same_perplexity(home: Home) -> None:
    run = home.find_run("3")
    settings = load_preset("int4-weights")
    dense = load_run(home.find_run("1"))
    tensors, meta = export_state(quantize(dense.recurrent, settings, None), settings)
    save_file(tensors, run.path / "best/model.safetensors")
    (run.path / "best/quantization.json").write_text(json.dumps({"version": 1, **meta}))
    expected = perplexity(load_run(run), home)
    model, _ = exported(home, "3")
    assert perplexity(model, home) == pytest.approx(expected, rel=1e-5)
    assert perplexity(dense, home) != pytest.approx(expected, rel=1e-5)


def test_the_card_of_a_quantized_model_says_its_bits_and_that_activations_are_floats(
    home: Home,
) -> None:
    model, card = exported(home, "3")
    results = home.find_run("3").read().results
    assert perplexity(model, home) == pytest.approx(results["test_ppl"], rel=5e-3)
    assert "| bits of weights | 8 |" in card
    assert "- pruned" not in card
    assert "| bits of activations | 8, 16 |" in card
    assert "activations are not quantized" in card
    assert f"| bytes about, as it would be packed | {results['packed_bytes']:,} |" in card
    assert "lmbench quantize default/001-train --threads 1 --preset int8-best" in card


def test_a_training_under_a_schedule_is_tagged_as_pruned_by_its_zeros(home: Home) -> None:
    run = home.find_run("1")
    config = run.read().config
    for sparsity in (0.8, 0.0):
        run.update(config={**config, "compress": "large-80"}, results={"sparsity": sparsity})
        tags = yaml.safe_load(model_card(run, 1, True).split("---\n")[1])["tags"]
        assert ("pruned" in tags) == (sparsity > 0)
    assert "quantized" not in tags
    # A prune run of a schedule that quantizes alone has no zeros, and the module that trained.
    run = home.find_run("2")
    run.update(results={"sparsity": 0.0})
    (run.path / "best" / TRAINED_FILE).touch()
    tags = yaml.safe_load(model_card(run, 1, True).split("---\n")[1])["tags"]
    assert ("quantized" in tags, "pruned" in tags) == (True, False)


def test_the_folder_has_shape_and_words_and_tied_weights_once(home: Home) -> None:
    exported(home, "1")
    folder = home.path / "hub-1"
    config = json.loads((folder / "config.json").read_text())
    assert (config["rnn_type"], config["hidden_size"], config["vocab_size"]) == ("LSTM", 16, 19)
    assert config["tie_word_embeddings"] is True
    words = (folder / "vocab.txt").read_text().splitlines()
    assert words == home.find_run("1").vocabulary()
    assert "decoder.weight" not in load_safetensors(folder / "model.safetensors")


def test_words_with_line_ends_are_kept_as_json(home: Home, tmp_path: Path) -> None:
    loaded = load_run(home.find_run("1"))
    odd = LoadedModel(loaded.model, ["a\nb", *loaded.vocabulary[1:]], loaded.shape, "odd", tmp_path)
    export_hub(odd, tmp_path / "odd", lambda size: f"{size} bytes")
    assert json.loads((tmp_path / "odd/vocab.json").read_text())["a\nb"] == 0
    assert not (tmp_path / "odd/vocab.txt").exists()


def test_names_and_schedules_of_a_stranger_stay_text(home: Home) -> None:
    run = home.find_run("2")
    run.update(name="x](http://e.org) <script>\n---\n# head")
    schedule = "# ```\n" + (run.path / "schedule.yaml").read_text()
    (run.path / "schedule.yaml").write_text(schedule)
    _, card = exported(home, "2")
    assert "# x\\](http://e.org) \\<script\\> --- \\# head" in card
    assert f"````\n{schedule.rstrip()}\n````" in card
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "lmbench"


def test_a_damaged_record_of_what_a_model_came_from_is_left_out_of_its_card(home: Home) -> None:
    (home.find_run("1").path / "run.json").write_text("{")
    _, card = exported(home, "2")
    assert "lmbench prune" in card
    assert "lmbench train --threads 1" not in card


def test_scores_of_the_last_checkpoint_come_with_its_model(home: Home, capsys: Capture) -> None:
    run = home.find_run("1")
    results = run.read().results
    run.update(results={**results, "test_checkpoint": "last"})
    model, card = exported(home, "1")
    last = load_run(run, "last").model.state_dict()
    assert (model.model.state_dict()["decoder.bias"] == last["decoder.bias"]).all()
    assert "test perplexity |" in card
    assert "valid perplexity |" not in card
    assert lmbench(["export", "1", "--format", "hub", "--checkpoint", "last"]) == 2
    assert "takes the checkpoint that was scored" in capsys.readouterr().err


def test_a_folder_that_is_there_is_left_alone(home: Home, capsys: Capture) -> None:
    (home.path / "mine").mkdir()
    assert lmbench(["export", "1", "--format", "hub", "-o", "mine"]) == 2
    assert "mine: is there already" in capsys.readouterr().err
    assert not list((home.path / "mine").iterdir())
