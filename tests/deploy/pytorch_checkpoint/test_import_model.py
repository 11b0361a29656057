"""Checkpoints of the example and of Distiller become models of ours, number for number."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_checkpoints import KINDS, distiller_checkpoint, example_model, save
from torch import nn

from lmbench.deploy.pytorch_checkpoint.model_weights import import_model
from lmbench.errors import LmbenchError


def assert_same(path: Path, source: Any, kind: str | None = None) -> tuple[str, ...]:
    """Whole modules and state dictionaries have the names of ours."""
    imported = import_model(path, kind)
    ours = imported.model.state_dict()
    assert ours.keys() == source.keys()
    for name, tensor in source.items():
        assert torch.equal(ours[name], tensor), name
    return imported.lines


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_module_and_its_state_dictionary_are_read_from_both_containers(
    tmp_path: Path, kind: str, tied: bool, zipped: bool
) -> None:
    model = example_model(kind, tied=tied)
    state = model.state_dict()
    whole = save(model, tmp_path / "model.pt", zipped=zipped)
    lines = assert_same(whole, state)
    assert lines[0] == (
        f"{kind}, 2 layers of 8 units, embedding of {8 if tied else 6}, 19 types" + ", tied" * tied
    )
    assert "a whole module: its tensors alone are read" in lines
    assert lines[-1] == "classes that are named in it and were not made: model.RNNModel"
    assert import_model(whole).model.drop.p == 0.3
    assert import_model(whole, kind).model.rnn_type == kind
    other = next(name for name in KINDS if name != kind)
    with pytest.raises(LmbenchError, match=rf"--model {other}: .*says {kind}: leave the flag out"):
        import_model(whole, other)
    tensors = save(state, tmp_path / "state.pt", zipped=zipped, model=model)
    elman = kind if kind.startswith("RNN") else None
    assert assert_same(tensors, state, elman)[0] == lines[0]
    assert import_model(tensors, elman).model.tied == tied


def test_a_vocabulary_of_a_large_corpus_beside_the_weights_is_no_hindrance(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(267_735)]
    vocabulary = {"word2idx": {word: i for i, word in enumerate(words)}, "idx2word": words}
    state = example_model("LSTM").state_dict()
    path = save({"state_dict": state, **vocabulary}, tmp_path / "large.pt")
    assert import_model(path).model.rnn_type == "LSTM"


def test_a_state_dictionary_of_elman_layers_needs_their_kind(tmp_path: Path) -> None:
    path = save(example_model("RNN_RELU").state_dict(), tmp_path / "state.pt")
    with pytest.raises(LmbenchError, match="say --model RNN_TANH or --model RNN_RELU"):
        import_model(path)
    assert import_model(path, "RNN_RELU").model.rnn_type == "RNN_RELU"
    path = save(example_model("GRU").state_dict(), tmp_path / "gru.pt")
    with pytest.raises(LmbenchError, match="RNN_TANH has 1 gates"):
        import_model(path, "RNN_TANH")


@pytest.mark.parametrize("zipped", [True, False])
def test_distillers_modular_lstm_comes_with_its_masks_and_says_what_is_left(
    tmp_path: Path, zipped: bool
) -> None:
    model = example_model()
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mask = (torch.rand(32, 8) > 0.5).float()
    tied_mask = torch.rand(19, 8) > 0.5
    checkpoint = distiller_checkpoint(
        model,
        {"rnn.cells.1.fc_gate_h.weight": mask, "decoder.weight": tied_mask, "decoder.bias": None},
    )
    path = save(checkpoint, tmp_path / "best.pth.tar", zipped=zipped, model=model)
    expected["rnn.weight_hh_l1"] *= mask
    expected["encoder.weight"] *= tied_mask
    expected["decoder.weight"] = expected["encoder.weight"]
    lines = assert_same(path, expected)
    kept = int(mask.sum()) + int(tied_mask.sum())
    assert f"masks of 2 tensors, which leave {kept:,} of {mask.numel() + 19 * 8:,} weights" in lines
    for line in ("epoch (39)", "arch (lstm)", "optimizer_state_dict", "optimizer_type", "extras"):
        assert f"left behind: {line}" in lines
    assert any(line.startswith("left behind: the scheduler") for line in lines)


def test_names_of_data_parallel_and_other_number_types_are_taken(tmp_path: Path) -> None:
    model = example_model("GRU", tied=False)
    state = {f"module.{k}": v.half() for k, v in model.state_dict().items()}
    path = save({"model_state_dict": state, "step": 7}, tmp_path / "half.pt")
    lines = assert_same(path, {k: v.half().float() for k, v in model.state_dict().items()})
    assert "left behind: step (7)" in lines
    double = {k: v.double() for k, v in model.state_dict().items()}
    assert_same(save(double, tmp_path / "double.pt"), model.state_dict())
    brain = {k: v.bfloat16() for k, v in model.state_dict().items()}
    path = save(brain, tmp_path / "brain.pt")
    assert_same(path, {k: v.bfloat16().float() for k, v in model.state_dict().items()})


def changed(**changes: Any) -> OrderedDict[str, Any]:
    state = example_model(tied=False).state_dict()
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    return state


@pytest.mark.parametrize(
    "value, says",
    [
        (3, "holds neither a module nor a dictionary of tensors"),
        ({}, "holds no tensors of a model"),
        ({"state_dict": 3}, "holds no tensors of a model"),
        (nn.Linear(2, 2), "is no recurrent language model .* has weight, bias"),
        (changed(rnn__bias_hh_l1=None), "tensor 'rnn.bias_hh_l1' is missing, and should be"),
        (changed(decoder__weight=None), "tensor 'decoder.weight' is missing"),
        (changed(decoder__bias=torch.zeros(3)), r"'decoder.bias' is \[3\], and should be \[19\]"),
        (changed(rnn__weight_hh_l0=torch.zeros(9, 8)), "no cell has such gates"),
        (
            changed(rnn__weight_hh_l0_reverse=torch.zeros(32, 8)),
            "tensors that no model of lmbench has, .*: rnn.weight_hh_l0_reverse",
        ),
        (changed(decoder__bias=torch.full((19,), torch.nan)), "'decoder.bias' has values that are"),
        (
            changed(decoder__weight=torch.full((19, 8), 1e300, dtype=torch.float64)),
            "'decoder.weight' has values that are no numbers in fp32",
        ),
        (changed(encoder__weight=torch.zeros(19, 0)), "'encoder.weight' has no sizes"),
        (
            {**changed(), "module.decoder.bias": torch.ones(19)},
            "two tensors that are 'decoder.bias'",
        ),
        (changed(encoder__wrapped_module__weight=torch.zeros(1)), "that Distiller has quantized"),
        (
            {
                "state_dict": example_model().state_dict(),
                "compression_sched": {"masks_dict": {"encoder.weight": torch.ones(2, 2)}},
            },
            "the mask of 'encoder.weight' fits no tensor",
        ),
    ],
    ids=range(15),
)
def test_what_is_no_model_of_ours_is_refused_by_name(tmp_path: Path, value: Any, says: str) -> None:
    path = save(value, tmp_path / "model.pt")
    with pytest.raises(LmbenchError, match=says) as error:
        import_model(path)
    assert str(error.value).startswith(str(path))


def test_a_storage_of_several_tensors_is_read_in_parts(tmp_path: Path) -> None:
    source = example_model(tied=False).state_dict()
    flat = torch.cat([tensor.flatten() for tensor in source.values()])
    views, place = {}, 0
    for name, tensor in source.items():
        views[name] = flat[place : place + tensor.numel()].view(tensor.shape)
        place += tensor.numel()
    views["decoder.weight"] = views["decoder.weight"].t().contiguous().t()
    assert_same(save(views, tmp_path / "views.pt"), source)
