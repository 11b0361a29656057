"""A run's checkpoints: ``last/``, from which it resumes to the bit, and ``best/``.

All that decides the future of a run is in `RunCheckpoints.snapshot`, so a run that was stopped or
killed and one that was never interrupted end with equal weights, scores and events.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from lmbench.distiller import CompressionScheduler
from lmbench.distiller.schedules.nested_state import join_state, split_state
from lmbench.errors import LmbenchError
from lmbench.model.device import in_float64
from lmbench.model.rnn import Hidden, RNNModel
from lmbench.training.averaging import Averages
from lmbench.training.checkpoint import (
    load_generators,
    load_trained,
    read_checkpoint,
    save_generators,
    write_checkpoint,
)
from lmbench.training.objective import Objective
from lmbench.training.plateau import Plateau
from lmbench.training.ranks import ALONE, Ranks

__all__ = ["LoopState", "Position", "RunCheckpoints"]


@dataclass
class Position:
    """How far a run is. `epoch` and `batch` count what is done from 0, `step` over all epochs.

    `batches` are those since the last step event; `epoch_loss` is a sum since the epoch began.
    `reached` is the sparsity of each tensor that was pruned so far. `masks_changed`: in this epoch
    weights were pruned away, or have fewer bits than before.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    batches: int = 0
    epoch_loss: float = 0.0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    masks_changed: bool = False
    reached: dict[str, float] = field(default_factory=dict)


_POSITION = TypeAdapter(Position)
_PLATEAU = TypeAdapter(Plateau)


@dataclass
class LoopState:
    """What the training loop carries from batch to batch.

    `sums` are of loss and gradient norm since the last step event; `hidden` is the state before
    the next batch, None before an epoch's first.
    """

    position: Position
    plateau: Plateau
    sums: Tensor
    hidden: Hidden | None


class RunCheckpoints:
    """Writes and reads the checkpoints of one run.

    Args:
        folder: the run's folder; ``last/`` and ``best/`` are written there.
        model: on the device that computes; changed in place.
        log_offset: bytes of the event log so far, kept in the checkpoint.
        staging: where a checkpoint is written first; None for the run's folder.
        ranks: the processes that train this model together; the first of them writes.
        averages: of the weights, kept in their place where there are any.
    """

    def __init__(
        self,
        folder: Path,
        model: RNNModel,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        scheduler: CompressionScheduler | None,
        log_offset: Callable[[], int],
        staging: Path | None = None,
        ranks: Ranks = ALONE,
        averages: Averages | None = None,
    ) -> None:
        self._folder = folder
        self._model = model
        self._objective = objective
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._log_offset = log_offset
        self._staging = staging
        self._ranks = ranks
        self._averages = averages or Averages(model, None)

    @property
    def has_last(self) -> bool:
        return (self._folder / "last").exists()

    def plain_model(self) -> RNNModel:
        """The model that is kept: the averages as its weights, and a quantizer's values of them,
        where there are such."""
        with self._averages.applied():
            plain = self._unquantized()
            is_changed_back = self._averages.active and plain is self._model
            return copy.deepcopy(plain) if is_changed_back else plain

    def _unquantized(self) -> RNNModel:
        quantizer = self._scheduler.quantizer if self._scheduler else None
        plain = self._model if quantizer is None else quantizer.plain_model()
        assert isinstance(plain, RNNModel)
        return plain

    def snapshot(self, now: LoopState) -> dict[str, Any]:
        """All that decides how the run continues: tensors and JSON values, nested.

        Of each rank but the first, ``ranks`` holds what is another on each.
        """
        # The sums may be elsewhere than the model.
        device = next(self._model.parameters()).device
        generators, generator_state = save_generators(device)
        own = {
            "hidden": list(now.hidden) if isinstance(now.hidden, tuple) else now.hidden,
            "objective": self._objective.tensors(),
            "generators": generators,
        }
        return {
            **own,
            "ranks": self._ranks.gather(own),
            "place": asdict(now.position),
            "sums": now.sums,
            "plateau": now.plateau.state(),
            "averages": self._averages.state(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict() if self._scheduler else None,
            "generator_state": generator_state,
            "log_offset": self._log_offset(),
        }

    def write_last(self, now: LoopState) -> None:
        """Every rank has to call this, since each has a part of the state."""
        tensors, values = split_state(self.snapshot(now))
        position = now.position
        meta = {"step": position.step, "epoch": position.epoch, "batch": position.batch}
        if self._ranks.first:
            self._write("last", meta, self.plain_model(), tensors=tensors, state=values)

    def write_best(self, position: Position, valid_loss: float) -> None:
        meta = {"step": position.step, "epoch": position.epoch + 1, "valid_loss": valid_loss}
        if self._ranks.first:
            with self._averages.applied():
                self._write("best", meta, self._unquantized())

    def _write(self, which: str, meta: dict[str, Any], plain: RNNModel, **state: Any) -> None:
        # Where what is kept is other than what trains, both are.
        trained = None if plain is self._model else self._model
        write_checkpoint(
            self._folder / which, plain, meta, trained=trained, staging=self._staging, **state
        )

    def load_best(self) -> None:
        """Take the best checkpoint's weights, which the test set is scored with."""
        load_trained(self._model, self._folder / "best")

    def restore(self, checkpoint: Path, device: torch.device) -> tuple[LoopState, int]:
        """Load ``last/``: the loop's state, and its offset in the event log.

        Raises:
            LmbenchError: the checkpoint is damaged or of another model; names the one that is not.
        """
        try:
            return self._restore(checkpoint, device)
        except LmbenchError as error:
            raise LmbenchError(f"{error.message}{self._other_than(checkpoint)}") from error
        except Exception as error:
            # Anything may be wrong in a file that something else has written to.
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise LmbenchError(
                f"{checkpoint}: the checkpoint is damaged ({reason}){self._other_than(checkpoint)}"
            ) from error

    def _other_than(self, checkpoint: Path) -> str:
        """What can be done where this checkpoint is damaged."""
        best = self._folder / "best"
        if best == checkpoint or not (best / "model.safetensors").is_file():
            return "; the run has no other one: start it anew"
        return (
            f"; {best} is another checkpoint: evaluate, generate and pack read it, and "
            "`lmbench prune` can train on from it"
        )

    def _restore(self, checkpoint: Path, device: torch.device) -> tuple[LoopState, int]:
        tensors, values = read_checkpoint(checkpoint)
        state = join_state(tensors, values)
        # A run of one process wrote none before there were several.
        others = state.get("ranks", [])
        if len(others) + 1 != self._ranks.count:
            raise LmbenchError(
                f"{checkpoint}: is of {len(others) + 1} processes, each with a share of the text; "
                f"{self._ranks.count} cannot go on from it: resume the run with the --gpus that it "
                "had"
            )
        if not self._ranks.first:
            state |= others[self._ranks.rank - 1]
        load_trained(self._model, checkpoint)
        self._objective.load_tensors(state["objective"])
        numbers = _numbers(self._optimizer)
        self._optimizer.load_state_dict(_integer_keys(state["optimizer"]))
        if self._scheduler and state["scheduler"] is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        load_generators(state["generators"], state["generator_state"], device)
        _check_numbers(self._optimizer, numbers)
        # A run that an earlier version began has none.
        if "averages" in state:
            self._averages.load(state["averages"])
        loop = LoopState(
            _POSITION.validate_json(json.dumps(state["place"]), strict=True),
            _PLATEAU.validate_json(json.dumps(Plateau.state_values(state["plateau"])), strict=True),
            state["sums"].to(in_float64(torch.zeros((), device=device)).device),
            _to_device(state["hidden"], device),
        )
        if loop.position.epoch < 0 or loop.position.batch < 0 or loop.sums.shape != (2,):
            raise ValueError("its counters are impossible")
        _check_hidden(self._model, loop.hidden)
        offset = state["log_offset"]
        if type(offset) is not int or offset < 0:
            raise ValueError("its offset in the log is impossible")
        return loop, offset


def _numbers(optimizer: torch.optim.Optimizer) -> list[set[str]]:
    """The names of the rates and factors in each group."""
    return [
        {name for name, value in group.items() if type(value) in (int, float) or name == "betas"}
        for group in optimizer.param_groups
    ]


def _check_numbers(optimizer: torch.optim.Optimizer, expected: list[set[str]]) -> None:
    """Raises ValueError or KeyError unless the groups have these rates and factors as numbers."""
    for group, names in zip(optimizer.param_groups, expected, strict=True):
        for name in names:
            value = group[name]
            numbers, most = (list(value), 1.0) if name == "betas" else ([value], math.inf)
            fit = [type(n) in (int, float) and 0 <= n < most for n in numbers]
            if not all(fit) or len(fit) != (2 if name == "betas" else 1):
                raise ValueError(f"the optimizer's {name} is {value!r}")


def _check_hidden(model: RNNModel, hidden: Hidden | None) -> None:
    """Raises ValueError unless a state is one of this model."""
    if hidden is None:
        return
    parts = hidden if isinstance(hidden, tuple) else (hidden,)
    expected = model.init_hidden(parts[0].shape[1])
    wanted = expected if isinstance(expected, tuple) else (expected,)
    if [part.shape for part in parts] != [part.shape for part in wanted]:
        raise ValueError("its hidden state is of another model")


def _to_device(hidden: Any, device: torch.device) -> Hidden | None:
    if isinstance(hidden, list):
        return hidden[0].to(device), hidden[1].to(device)
    return None if hidden is None else hidden.to(device)


def _integer_keys(optimizer: dict[str, Any]) -> dict[str, Any]:
    """JSON made strings of the parameter numbers that torch counts with."""
    per_parameter = {int(key): value for key, value in optimizer["state"].items()}
    return {**optimizer, "state": per_parameter}
