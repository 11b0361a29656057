"""Processes that train one model together: as one would, and resumed to the bit."""

from __future__ import annotations

import json
import multiprocessing
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from training_world import AGP, WORDS, text

from lmbench.config import TrainConfig, validate
from lmbench.corpus.batches import batchify
from lmbench.distiller import dict_config
from lmbench.errors import LmbenchError
from lmbench.model import build_model
from lmbench.session.events import Epoch, Event, Step
from lmbench.training.distillation import Distillation
from lmbench.training.evaluate import Evaluation
from lmbench.training.loss import DecoderLoss
from lmbench.training.objective import CrossEntropy, Objective
from lmbench.training.optimizer import build_optimizer
from lmbench.training.ranks import ALONE, Ranks
from lmbench.training.regularisation import Regularisation
from lmbench.training.trainer import Splits, Trainer

SETTINGS: dict[str, Any] = {
    "emsize": 16,
    "nhid": 16,
    "batch_size": 4,
    "eval_batch_size": 3,
    "bptt": 7,
    "epochs": 2,
    "lr": 2.0,
    "momentum": 0.5,
    "event_interval": 3,
    "checkpoint_every": 0.0,
}


def together(folder: Path, act: Callable[[Ranks], None], *, backend: str = "gloo") -> None:
    """Have two processes do `act`, each with its own number."""
    meeting = str(folder / f"meeting-{len(list(folder.iterdir()))}")
    context: Any = multiprocessing.get_context("fork" if backend == "gloo" else "spawn")
    ranks = [
        context.Process(target=_rank, args=(number, backend, meeting, act)) for number in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        # One that waits for another which has failed.
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0, 0]


def _rank(number: int, backend: str, meeting: str, act: Callable[[Ranks], None]) -> None:
    torch.set_num_threads(1)
    ranks = Ranks(number, 2, number)
    try:
        ranks.join(backend, init_method=f"file://{meeting}")
        act(ranks)
        ranks.leave()
    except BaseException:
        traceback.print_exc()
        raise


def test_each_rank_draws_masks_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.broadcast", lambda tensor, source: None)
    drawn = set()
    for rank in range(8):
        torch.manual_seed(1111)
        Ranks(rank, 8).begin(torch.nn.Linear(2, 2), 1111)
        drawn.add(tuple(torch.rand(3).tolist()))
    assert len(drawn) == 8


def train(
    folder: Path,
    name: str,
    ranks: Ranks,
    *,
    schedule: dict[str, Any] | None = None,
    teacher: bool = False,
    samples: int = 0,
    resume: bool = False,
    stop_after: int | None = None,
    device: str = "cpu",
    **changes: Any,
) -> None:
    """Train, and leave the weights of each rank and the losses that the first one tells of.

    Only the first rank may ask what the user wants, and write to the run's folder.
    """
    config = validate(TrainConfig, {**SETTINGS, **changes})
    torch.manual_seed(config.seed)
    loss = DecoderLoss("fp32", into_grad=True)
    objective: Objective = CrossEntropy(loss, Regularisation.of(config))
    if teacher:
        taught = build_model(config, WORDS).to(device)
        rows = len(batchify(text(700).numpy(), config.batch_size))
        temperature = 1.0 if samples else 2.0
        objective = Distillation(taught, temperature, 0.5, samples=samples, rows=rows)
    model = build_model(config, WORDS).to(device)
    ranks.begin(model, config.seed)
    optimizer = build_optimizer(model, config)
    events: list[Event] = []
    asked = 0

    def control() -> str | None:
        nonlocal asked
        assert ranks.first
        asked += 1
        return "stop" if asked == stop_after else None

    run = folder / name
    run.mkdir(exist_ok=True)
    trainer = Trainer(
        model,
        Splits(
            ranks.share(batchify(text(700).numpy(), config.batch_size, device)),
            ranks.share(batchify(text(200, 1).numpy(), config.eval_batch_size, device)),
            batchify(text(200, 2).numpy(), config.eval_batch_size, device),
        ),
        config,
        objective,
        run if ranks.first else folder / "nobody writes here",
        emit=events.append,
        control=control,
        log_offset=lambda: 0,
        optimizer=optimizer,
        scheduler=dict_config(model, optimizer, schedule) if schedule else None,
        log=lambda _: None,
        ranks=ranks,
    )
    if resume:
        trainer.restore(run / "last")
    assert trainer.run() == (stop_after is None)
    trainer.keep_averages()
    save_file(
        {name: value.clone() for name, value in model.named_parameters()},
        folder / f"{name}-{ranks.rank}.safetensors",
    )
    if ranks.first:
        steps = {e.step: (e.loss, e.grad_norm) for e in events if isinstance(e, Step)}
        epochs = [e.valid_loss for e in events if isinstance(e, Epoch)]
        tokens = trainer.position.tokens
        (folder / f"{name}.json").write_text(json.dumps([steps, epochs, tokens]))


def weights(folder: Path, name: str, rank: int = 0) -> dict[str, Tensor]:
    return load_file(folder / f"{name}-{rank}.safetensors")


def told(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="dense"),
        pytest.param({"schedule": AGP}, id="pruned"),
        pytest.param({"teacher": True, "model": "GRU"}, id="taught"),
        # Nothing that is drawn: where windows begin, and terms that are means over the columns.
        pytest.param({"bptt_spread": 2.0, "alpha": 2.0, "beta": 1.0}, id="regularised"),
    ],
)
def test_two_processes_train_as_one_does_on_the_same_batches(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    train(tmp_path, "one", ALONE, dropout=0.0, **changes)
    together(tmp_path, lambda ranks: train(tmp_path, "two", ranks, dropout=0.0, **changes))
    one, two = weights(tmp_path, "one"), weights(tmp_path, "two")
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    if "schedule" in changes:
        masked = [name for name, value in one.items() if (value == 0).float().mean() > 0.5]
        assert masked == ["encoder.weight", "rnn.weight_hh_l0"]
        assert all(torch.equal(one[name] == 0, two[name] == 0) for name in masked)
    assert_equal(two, weights(tmp_path, "two", rank=1))
    steps, epochs, tokens = told(tmp_path, "one")
    assert told(tmp_path, "two")[0] == {
        step: pytest.approx(values, rel=1e-4) for step, values in steps.items()
    }
    assert told(tmp_path, "two")[1:] == [pytest.approx(epochs, rel=1e-5), tokens]
    assert not (tmp_path / "nobody writes here").exists()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"schedule": AGP}, id="pruned"),
        pytest.param({"teacher": True}, id="taught"),
        pytest.param({"teacher": True, "samples": 4}, id="taught by drawn words"),
        pytest.param({"bptt_spread": 2.0, "wdrop": 0.4, "dropouti": 0.3}, id="regularised"),
        pytest.param({"nonmono": 0, "lr": 40.0, "decay": 1.0, "epochs": 5}, id="averaged"),
    ],
)
def test_a_stopped_run_goes_on_to_the_bit_with_as_many_processes(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    run = partial(train, tmp_path, dropout=0.4, **changes)

    def act(ranks: Ranks) -> None:
        run("whole", ranks)
        # In the midst of the second epoch.
        run("parts", ranks, stop_after=35)

    together(tmp_path, act)
    for rank in range(2):
        same = weights(tmp_path, "whole", rank), weights(tmp_path, "parts", rank)
        assert any(not torch.equal(same[0][name], same[1][name]) for name in same[0])
    together(tmp_path, lambda ranks: run("parts", ranks, resume=True))
    for rank in range(2):
        assert_equal(weights(tmp_path, "parts", rank), weights(tmp_path, "whole", rank))
    assert_equal(weights(tmp_path, "whole", 0), weights(tmp_path, "whole", 1))
    whole, parts = told(tmp_path, "whole"), told(tmp_path, "parts")
    if "nonmono" in changes:
        before = whole[1][:-1]
        assert before != sorted(before, reverse=True), "averaging has begun"
    assert parts[0] == {step: whole[0][step] for step in parts[0]}
    assert parts[0]


def test_a_checkpoint_of_two_processes_is_refused_by_one(tmp_path: Path) -> None:
    together(tmp_path, lambda ranks: train(tmp_path, "run", ranks, epochs=1))
    with pytest.raises(LmbenchError, match=r"last: is of 2 processes.* 1 cannot go on from it"):
        train(tmp_path, "run", ALONE, resume=True)


def test_each_process_has_its_own_dropout_and_the_same_masks(tmp_path: Path) -> None:
    def act(ranks: Ranks) -> None:
        device = torch.device("cpu")
        model = torch.nn.Linear(2, 2)
        with torch.no_grad():
            model.weight.fill_(ranks.rank)
        ranks.begin(model, seed=7)
        drawn = torch.rand(4)
        with ranks.same_draws(3, device):
            mask = torch.rand(4)
        after = torch.rand(4)
        save_file(
            {"weight": model.weight.data, "drawn": drawn, "mask": mask, "after": after},
            tmp_path / f"drawn-{ranks.rank}.safetensors",
        )

    together(tmp_path, act)
    first, second = weights(tmp_path, "drawn", 0), weights(tmp_path, "drawn", 1)
    equal = {name for name in first if torch.equal(first[name], second[name])}
    assert equal == {"weight", "mask"}


def test_what_the_first_process_decides_holds_for_all(tmp_path: Path) -> None:
    def act(ranks: Ranks) -> None:
        def decide(word: str | None) -> str | None:
            assert ranks.first
            return word

        words = ["checkpoint", None, "stop"]
        assert [ranks.agree(partial(decide, word)) for word in words] == words
        # Two shares of 3 columns.
        share = Evaluation(1.0, 20, 1.0) if ranks.first else Evaluation(4.0, 10, 1.0)
        assert ranks.combine(share) == Evaluation(2.0, 30, 1.0)
        state = {"hidden": [torch.tensor([float(ranks.rank)])], "none": None}
        assert ranks.gather(state) == (
            [{"hidden": [torch.tensor([1.0])], "none": None}] if ranks.first else []
        )

    together(tmp_path, act)


def test_columns_are_shared_without_a_rest() -> None:
    columns = torch.arange(10).reshape(2, 5)
    shares = [Ranks(rank, 3).share(columns) for rank in range(3)]
    assert [share.shape[1] for share in shares] == [2, 2, 1]
    assert torch.equal(torch.cat(shares, 1), columns)
    assert all(share.is_contiguous() for share in shares)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_as_one_does(tmp_path: Path) -> None:
    train(tmp_path, "one", ALONE, dropout=0.0, device="cuda:0")
    together(tmp_path, partial(_on_its_gpu, tmp_path), backend="nccl")
    torch.testing.assert_close(
        weights(tmp_path, "two"), weights(tmp_path, "one"), rtol=1e-3, atol=1e-4
    )


def _on_its_gpu(folder: Path, ranks: Ranks) -> None:
    torch.cuda.set_device(ranks.local)
    train(folder, "two", ranks, dropout=0.0, device=f"cuda:{ranks.local}")
