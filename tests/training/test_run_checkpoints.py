"""A checkpoint that something has written to ends in one line that names what else there is."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lmbench.config import ModelConfig
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, build_model
from lmbench.training.checkpoint import (
    load_generators,
    read_checkpoint,
    save_generators,
    write_checkpoint,
)
from lmbench.training.loss import DecoderLoss
from lmbench.training.objective import CrossEntropy
from lmbench.training.plateau import Plateau
from lmbench.training.run_checkpoints import LoopState, Position, RunCheckpoints

CPU = torch.device("cpu")


def checkpoints(folder: Path) -> tuple[RNNModel, RunCheckpoints]:
    torch.manual_seed(0)
    model = build_model(ModelConfig(emsize=8, nhid=8, nlayers=1), 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    objective = CrossEntropy(DecoderLoss("fp32", into_grad=True))
    return model, RunCheckpoints(folder, model, objective, optimizer, None, lambda: 17)


def written(folder: Path) -> dict[str, Any]:
    """A ``last/`` as a training leaves it; its ``trainer.json``."""
    model, kept = checkpoints(folder)
    sums = torch.zeros(2, dtype=torch.float64)
    kept.write_last(LoopState(Position(1, 2, 30), Plateau(4.0, 0), sums, model.init_hidden(3)))
    return json.loads((folder / "last" / "trainer.json").read_text())


def test_a_checkpoint_takes_the_name_of_the_one_before_only_once_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    done: list[int | str] = []
    rename = os.rename

    def noted(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "last":
            files = [Path(source), *Path(source).iterdir()]
            assert len(files) == 5
            assert {file.stat().st_ino for file in files} <= set(done)
            done.append("named")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.fstat(fd).st_ino))
    monkeypatch.setattr(os, "rename", noted)
    written(tmp_path)
    assert "named" in done
    assert tmp_path.stat().st_ino in done[done.index("named") :]


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_generator_of_an_accelerator_is_kept_and_put_back(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, set_to = torch.arange(16, dtype=torch.uint8), []
    module = getattr(torch, kind)
    monkeypatch.setattr(module, "get_rng_state", lambda *device: drawn)
    monkeypatch.setattr(module, "set_rng_state", lambda *given: set_to.append(given))
    device = torch.device(kind, 0)
    kept, state = save_generators(device)
    load_generators(kept, state, device)
    assert set_to == [(drawn, device) if kind == "cuda" else (drawn,)]
    load_generators(kept, state, CPU)
    assert len(set_to) == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_what_a_gpu_draws_goes_on_where_it_was() -> None:
    device = torch.device("cuda")
    kept = save_generators(device)
    drawn = torch.rand(9, device=device)
    load_generators(*kept, device)
    assert torch.equal(torch.rand(9, device=device), drawn)


def alterations(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in a document, down to each field; of a long list its first number."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from alterations(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:1]):
            yield from alterations(inner, (*path, index))


def test_each_field_that_is_altered_or_missing_is_one_line_or_harmless(tmp_path: Path) -> None:
    document = written(tmp_path)
    file = tmp_path / "last" / "trainer.json"
    refusals: list[str] = []
    state, offset = checkpoints(tmp_path)[1].restore(tmp_path / "last", CPU)
    assert (state.position, state.plateau) == (Position(1, 2, 30), Plateau(4.0, 0))
    for path in alterations(document):
        for change in ("x", None, -1, 1e300, [], {}, "gone"):
            altered = json.loads(json.dumps(document))
            place = altered
            for key in path[:-1]:
                place = place[key]
            if change == "gone":
                del place[path[-1]]
            else:
                place[path[-1]] = change
            file.write_text(json.dumps(altered))
            model, kept = checkpoints(tmp_path)
            try:
                state, offset = kept.restore(tmp_path / "last", CPU)
            except LmbenchError as error:
                refusals.append(error.message)
                continue
            assert offset == 17 or path == ("log_offset",)
            # What was taken can be worked with.
            assert state.position.epoch >= 0
            hidden = state.hidden or model.init_hidden(3)
            model(torch.zeros(2, 3, dtype=torch.int64), hidden)
            kept.write_last(state)
            file.write_text(json.dumps(document))
    assert len(refusals) > 50
    assert all(str(tmp_path / "last") in line and "\n" not in line for line in refusals)


def test_what_an_earlier_version_counted_too_is_passed_over(tmp_path: Path) -> None:
    document = written(tmp_path)
    document["place"] |= {"loss": 0.0, "norm": 0.0}
    (tmp_path / "last" / "trainer.json").write_text(json.dumps(document))
    state, _ = checkpoints(tmp_path)[1].restore(tmp_path / "last", CPU)
    assert state.position == Position(1, 2, 30)


@pytest.mark.parametrize("name", ["lr", "betas", "eps", "weight_decay"])
def test_numbers_of_adamw_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    model = build_model(ModelConfig(emsize=8, nhid=8, nlayers=1), 20)
    objective = CrossEntropy(DecoderLoss("fp32", into_grad=True))

    def kept() -> RunCheckpoints:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return RunCheckpoints(tmp_path, model, objective, optimizer, None, lambda: 17)

    sums = torch.zeros(2, dtype=torch.float64)
    kept().write_last(LoopState(Position(1, 2, 30), Plateau(4.0, 0), sums, model.init_hidden(3)))
    kept().restore(tmp_path / "last", CPU)
    file = tmp_path / "last" / "trainer.json"
    document = json.loads(file.read_text())
    [group] = document["optimizer"]["param_groups"]
    for change in ("x", None, -1, [], [0.9], [0.9, 2.0], [0.9, "x"], math.nan):
        file.write_text(json.dumps({**document, "optimizer": {
            **document["optimizer"], "param_groups": [{**group, name: change}]}}))  # fmt: skip
        with pytest.raises(LmbenchError, match=r"last: |trainer\.json"):
            kept().restore(tmp_path / "last", CPU)
    del group[name]
    file.write_text(json.dumps(document))
    with pytest.raises(LmbenchError, match="is damaged"):
        kept().restore(tmp_path / "last", CPU)


def test_a_whole_best_checkpoint_is_offered_in_place_of_a_damaged_last(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "last" / "trainer.json").write_text('{"version": 1}')
    _, kept = checkpoints(tmp_path)
    with pytest.raises(LmbenchError, match=r"damaged.*the run has no other one"):
        kept.restore(tmp_path / "last", CPU)
    kept.write_best(Position(), 3.0)
    with pytest.raises(LmbenchError, match=r"damaged.*/best is another checkpoint: .*prune"):
        kept.restore(tmp_path / "last", CPU)


def test_a_full_disk_says_whether_there_is_a_checkpoint_to_resume_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = nn.Linear(2, 2)
    with monkeypatch.context() as patched:
        patched.setattr("lmbench.training.checkpoint.write_json", full)
        with pytest.raises(LmbenchError) as first:
            write_checkpoint(tmp_path / "last", model, {})
        assert "resume the run" in str(first.value)
        assert "the checkpoint before" not in str(first.value)
    write_checkpoint(tmp_path / "last", model, {})
    monkeypatch.setattr("lmbench.training.checkpoint.write_json", full)
    with pytest.raises(LmbenchError, match="resume the run from the checkpoint before"):
        write_checkpoint(tmp_path / "last", model, {})


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_nothing_of_a_checkpoint_stays_mapped_once_it_is_read(tmp_path: Path) -> None:
    last = tmp_path / "last"
    write_checkpoint(last, nn.Linear(2, 2), {}, tensors={"a": torch.ones(3)}, state={})
    tensors, _ = read_checkpoint(last)
    assert torch.equal(tensors["a"], torch.ones(3))
    assert str(last) not in Path("/proc/self/maps").read_text()
