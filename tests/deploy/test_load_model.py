"""From runs and files to models, and a clear line for what is none."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lmbench.config import EvaluateConfig, TrainConfig
from lmbench.deploy import load_model
from lmbench.deploy.load_model import LoadedModel, load_file, load_run, open_model
from lmbench.deploy.runtimes.table import build_runtime
from lmbench.distiller.quantization import QuantSettings, export_state, quantize
from lmbench.errors import LmbenchError
from lmbench.generation.sampler import Sampler
from lmbench.model.rnn import RNNModel, shape_of
from lmbench.session import Home, Run
from lmbench.session.store import Corpus
from lmbench.training import checkpoint
from lmbench.training.checkpoint import write_checkpoint

WORDS = ["<unk>", "<eos>", *(f"w{i}" for i in range(19))]


def net(kind: str = "LSTM", tied: bool = True, nhid: int = 8) -> RNNModel:
    torch.manual_seed(2)
    return RNNModel(kind, len(WORDS), nhid if tied else 6, nhid, 2, 0.3, tied)


def a_run(home: Path, model: RNNModel, which: str = "best") -> Run:
    session = Home(home).open_session("default")
    run = session.new_run(TrainConfig(), "train")
    session.write_vocabulary("ab" * 32, WORDS)
    run.update(
        shape=shape_of(model),
        corpus=Corpus(name="toy", fingerprint="ab" * 32, ntokens=len(WORDS)),
        status="finished",
    )
    write_checkpoint(run.path / which, model, {})
    return run


def same(a: LoadedModel, model: RNNModel) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.model.state_dict().values(), model.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
def test_a_run_gives_its_best_weights_ready_to_run(tmp_path: Path, kind: str, tied: bool) -> None:
    model = net(kind, tied)
    loaded = load_run(a_run(tmp_path, model))
    assert same(loaded, model)
    assert loaded.recurrent.tied == tied
    assert loaded.vocabulary == WORDS
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    ids = torch.randint(0, len(WORDS), (3, 2))
    model.eval()
    expected, _ = model(ids, model.init_hidden(2))
    got, _ = loaded.model(ids, loaded.recurrent.init_hidden(2))
    torch.testing.assert_close(got, expected)


def test_a_run_without_that_checkpoint_says_which_it_has(tmp_path: Path) -> None:
    run = a_run(tmp_path, net(), which="last")
    with pytest.raises(LmbenchError, match="no checkpoint 'best' yet: give --checkpoint last"):
        load_run(run)
    run.update(status="stopped")
    with pytest.raises(LmbenchError, match="'best' yet: resume it, or give --checkpoint last"):
        load_run(run)
    assert same(load_run(run, "last"), net())


def test_a_run_that_makes_no_model_is_refused_by_its_kind(tmp_path: Path) -> None:
    session = Home(tmp_path).open_session("default")
    run = session.new_run(EvaluateConfig(), "evaluate")
    with pytest.raises(LmbenchError, match="kind 'evaluate', which makes no model"):
        load_run(run)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_shape_of_a_bare_file_shows_from_its_tensors(tmp_path: Path, kind: str) -> None:
    model = net(kind, tied=False)
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load_file(path)
        assert same(loaded, model)
        assert loaded.shape["model"] == kind
        assert loaded.vocabulary == []


def test_a_tensor_without_a_place_in_the_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = dict(net("LSTM", tied=True).state_dict())
    del tensors["decoder.weight"]
    save_file(tensors, path)
    assert load_file(path).shape["tied"]
    save_file(tensors | {"norm.weight": torch.ones(3)}, path)
    with pytest.raises(LmbenchError, match=r"'norm\.weight' has no place in a model of lmbench"):
        load_file(path)


def test_a_bare_file_of_an_elman_net_does_not_show_its_activation(tmp_path: Path) -> None:
    save_file(dict(net("RNN_TANH", tied=False).state_dict()), tmp_path / "m.safetensors")
    with pytest.raises(LmbenchError, match="tanh or relu cannot be told apart"):
        load_file(tmp_path / "m.safetensors")


def test_a_file_that_the_system_does_not_open_for_torch_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("unable to open file in read-only mode: Permission denied (13)")

    monkeypatch.setattr(load_model, "safe_open", refuse)
    monkeypatch.setattr(checkpoint, "load_file", refuse)
    path = tmp_path / "m.safetensors"
    for read in (load_file, partial(checkpoint.load_weights, net())):
        with pytest.raises(LmbenchError, match=r"cannot be read as safetensors .*denied"):
            read(path)


def test_files_that_are_no_models_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(LmbenchError, match="no such file"):
        load_file(path)
    path.write_bytes(b"\x80\x04pickle?")
    with pytest.raises(LmbenchError, match="cannot be read as safetensors"):
        load_file(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(LmbenchError, match="not a model of lmbench"):
        load_file(path)
    tensors = dict(net(tied=False).state_dict())
    save_file({k: v for k, v in tensors.items() if k != "rnn.bias_hh_l1"}, path)
    with pytest.raises(LmbenchError, match=r"'rnn.bias_hh_l1' is missing"):
        load_file(path)
    save_file({**tensors, "decoder.bias": torch.zeros(3)}, path)
    with pytest.raises(LmbenchError, match=r"'decoder.bias' is \[3\]"):
        load_file(path)


@pytest.mark.parametrize(
    "about",
    ["{", "[]", '{"vocabulary": [1]}', json.dumps({"vocabulary": ["a"]}), "[" * 100_000],
    ids=["cut", "list", "number", "one word", "deep"],
)
def test_damaged_metadata_is_refused(tmp_path: Path, about: str) -> None:
    path = tmp_path / "m.safetensors"
    save_file(dict(net(tied=False).state_dict()), path, {"lmbench": about})
    with pytest.raises(LmbenchError, match=r"metadata is damaged|vocabulary has 1 words"):
        load_file(path)


@pytest.mark.parametrize(
    "name, value",
    [
        ("nlayers", 10**5),
        ("nlayers", 0),
        ("ntoken", float("inf")),
        ("ntoken", "21"),
        ("dropout", 5),
        ("emsize", None),
        ("tied", 0),
    ],
)
def test_a_shape_that_no_model_has_is_refused(tmp_path: Path, name: str, value: object) -> None:
    path, model = tmp_path / "m.safetensors", net(tied=False)
    about = {"shape": {**shape_of(model), name: value}, "vocabulary": WORDS}
    save_file(dict(model.state_dict()), path, {"lmbench": json.dumps(about)})
    with pytest.raises(LmbenchError, match=f"damaged: its model's '{name}' is missing or imposs"):
        load_file(path)


def test_an_embedding_of_no_width_is_refused(tmp_path: Path) -> None:
    path, tensors = tmp_path / "m.safetensors", dict(net(tied=False).state_dict())
    for name in ("encoder.weight", "rnn.weight_ih_l0"):
        tensors[name] = torch.zeros(len(tensors[name]), 0)
    save_file(tensors, path)
    with pytest.raises(LmbenchError, match="'emsize' is missing or impossible"):
        load_file(path)


def test_a_model_opens_by_run_by_folder_and_by_file(tmp_path: Path) -> None:
    model = net()
    run = a_run(tmp_path, model)
    home = Home(tmp_path)
    for ref in ("@", "1", "default/001-train", str(run.path)):
        loaded, found = open_model(ref, home, "default")
        assert found == run
        assert same(loaded, model)
    for path in (run.path / "best", run.path / "best" / "model.safetensors"):
        loaded, found = open_model(str(path), home, "default")
        assert found is None
        assert same(loaded, model)
    with pytest.raises(LmbenchError, match="no run 7"):
        open_model("7", home, "default")


def a_quantized_run(home: Path) -> tuple[Run, torch.nn.Module]:
    run = a_run(home, net(tied=True))
    quantized = quantize(net(tied=True).eval(), QuantSettings())
    tensors, meta = export_state(quantized, QuantSettings(), dynamic=True)
    save_file(tensors, run.path / "best" / "model.safetensors")
    (run.path / "best" / "quantization.json").write_text(json.dumps(meta))
    run.update(kind="quantize", config={})
    return run, quantized


def test_a_quantized_run_gives_the_very_model_that_was_kept(tmp_path: Path) -> None:
    run, quantized = a_quantized_run(tmp_path)
    before = torch.get_rng_state()
    loaded = load_run(run)
    assert torch.equal(before, torch.get_rng_state())
    assert not loaded.plain
    runtime = build_runtime("torch", loaded)
    assert runtime.name == "naive"
    data = torch.randint(0, len(WORDS), (9, 2))
    kept = build_runtime("naive", replace(loaded, model=quantized.eval()))
    assert runtime.evaluate(data, 4) == kept.evaluate(data, 4)
    words = Sampler(runtime, loaded.vocabulary, seed=1).words(5)
    assert all(word.text in WORDS for word in words)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 99}', "{}"])
def test_a_quantized_run_whose_settings_are_lost_or_damaged_is_refused(
    tmp_path: Path, text: str | None
) -> None:
    run, _ = a_quantized_run(tmp_path)
    settings = run.path / "best" / "quantization.json"
    settings.unlink() if text is None else settings.write_text(text)
    with pytest.raises(LmbenchError, match=r"no such file|is damaged"):
        load_run(run)


def test_a_quantized_run_of_another_size_than_its_tensors_takes_no_memory(tmp_path: Path) -> None:
    run, _ = a_quantized_run(tmp_path)
    run.update(shape={**shape_of(net()), "ntoken": 10**6})
    with pytest.raises(
        LmbenchError, match=r"'encoder.weight' is missing: no tensor is \[1000000, 8"
    ):
        load_run(run)
    run.update(shape={**shape_of(net()), "ntoken": 10**13})
    with pytest.raises(LmbenchError, match="'ntoken' is missing or impossible"):
        load_run(run)
