"""Curves of a run, gathered from its events as they come: columns of numbers, cheap to share.

`CurvesBuilder` takes events and keeps growing arrays; `CurvesBuilder.view` gives an immutable
`Curves` over what is there now. A view costs nothing to make and stays valid for ever: the arrays
only grow at their end, and one that is full is copied into a larger one, never moved.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from lmbench.printable import printable
from lmbench.session import events as ev

__all__ = ["X_COLUMNS", "Columns", "Curves", "CurvesBuilder"]

FloatArray = npt.NDArray[np.float64]

X_COLUMNS = ("step", "epoch", "time")
"""What may stand on a curve's x axis; `epoch` is fractional, `time` in minutes of work."""

_STEP = (*X_COLUMNS, "loss", "lr", "grad_norm", "tokens_per_s", "memory", "utilisation")
_EPOCH = (*X_COLUMNS, "loss")
_SPARSITY = (*X_COLUMNS, "value")
_MARK = (*X_COLUMNS, "value")

_FIRST_CAPACITY = 64
# A rate that moved less than this did not drop; it was merely stored in another precision.
_SAME_RATE = 1e-9


@dataclass(frozen=True, eq=False)
class Columns:
    """Named columns of equal length, as read-only arrays; kept as float64 or, where there are many
    rows, as float32."""

    names: tuple[str, ...]
    data: npt.NDArray[np.floating]

    def __len__(self) -> int:
        return self.data.shape[1]

    def __getitem__(self, name: str) -> FloatArray:
        """One column, shape (rows,)."""
        column = self.data[self.names.index(name)].astype(np.float64, copy=False)
        column.flags.writeable = False
        return column


class _Growing:
    """Columns that rows are appended to; amortised constant time."""

    def __init__(self, names: tuple[str, ...], dtype: type[np.floating] = np.float64) -> None:
        self.names = names
        self._data = np.empty((len(names), _FIRST_CAPACITY), dtype)
        self._rows = 0

    def append(self, *row: float) -> None:
        if self._rows == self._data.shape[1]:
            larger = np.empty((len(self.names), 2 * self._rows), self._data.dtype)
            larger[:, : self._rows] = self._data
            self._data = larger
        with np.errstate(over="ignore"):
            # What is too large for float32 is infinite on a plot, too.
            self._data[:, self._rows] = row
        self._rows += 1

    def view(self) -> Columns:
        data = self._data[:, : self._rows]
        data.flags.writeable = False
        return Columns(self.names, data)

    def __len__(self) -> int:
        return self._rows


_NOTHING: Mapping[str, Columns] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Curves:
    """All that a run's plots are made from.

    `steps` has the columns step, epoch, time, loss (nats a token), lr, grad_norm, tokens_per_s,
    memory (bytes), utilisation (%); `valid` has step, epoch, time, loss. `sparsity` and `targets`
    hold for each tensor (and ``total`` in `sparsity`) step, epoch, time, value in [0, 1].
    `prunes` and `lr_drops` mark moments: step, epoch, time, and the reached sparsity or new rate.
    """

    steps: Columns = field(default_factory=lambda: _Growing(_STEP).view())
    valid: Columns = field(default_factory=lambda: _Growing(_EPOCH).view())
    test_loss: float | None = None
    sparsity: Mapping[str, Columns] = field(default_factory=lambda: _NOTHING)
    targets: Mapping[str, Columns] = field(default_factory=lambda: _NOTHING)
    prunes: Columns = field(default_factory=lambda: _Growing(_MARK).view())
    lr_drops: Columns = field(default_factory=lambda: _Growing(_MARK).view())


class CurvesBuilder:
    """Gathers a run's curves; feed it the events in their order."""

    def __init__(self) -> None:
        # A workbench stays open for days, and these are its one store that grows with the time.
        self._steps = _Growing(_STEP, np.float32)
        self._valid = _Growing(_EPOCH)
        self._prunes = _Growing(_MARK)
        self._drops = _Growing(_MARK)
        self._sparsity: dict[str, _Growing] = {}
        self._targets: dict[str, _Growing] = {}
        self._test_loss: float | None = None
        self._steps_per_epoch = 0
        self._began: float | None = None
        self._idle = 0.0
        self._last_t: float | None = None
        self._last_lr: float | None = None
        self._falls = False
        self._fell: tuple[float, float, float, float] | None = None

    def add(self, events: Iterable[ev.Event]) -> None:
        for event in events:
            self._clock(event)
            match event:
                case ev.Step():
                    self._step(event)
                case ev.Epoch():
                    self._valid.append(*self._at(event.step, event.epoch, event), event.valid_loss)
                case ev.PruneStep():
                    self._prune(event)
                case ev.Sparsity():
                    self._tensors(event)
                case ev.RunStarted():
                    self._steps_per_epoch = event.steps_per_epoch
                case ev.Finished() if event.test_loss is not None:
                    self._test_loss = event.test_loss
                case ev.Score() if event.split == "test" and not event.what:
                    self._test_loss = event.loss

    def view(self) -> Curves:
        return Curves(
            steps=self._steps.view(),
            valid=self._valid.view(),
            test_loss=self._test_loss,
            sparsity=MappingProxyType({k: v.view() for k, v in self._sparsity.items()}),
            targets=MappingProxyType({k: v.view() for k, v in self._targets.items()}),
            prunes=self._prunes.view(),
            lr_drops=self._drops.view(),
        )

    def _clock(self, event: ev.Event) -> None:
        """Time of work: the hours of a pause, or between a stop and its resume, are left out."""
        goes_on = isinstance(event, ev.RunResumed) or (
            isinstance(event, ev.StatusChanged) and event.status == "running"
        )
        if self._began is None:
            self._began = event.t
        elif goes_on and self._last_t is not None:
            self._idle += max(0.0, event.t - self._last_t)
        self._last_t = event.t

    def _at(self, step: int, epoch: float, event: ev.Event) -> tuple[float, float, float]:
        began = event.t if self._began is None else self._began
        return float(step), float(epoch), (event.t - began - self._idle) / 60

    def _fraction(self, step: int, epoch: int) -> float:
        """The epoch as a real number: 1.5 is half-way through the second."""
        if not self._steps_per_epoch:
            return float(epoch)
        return step / self._steps_per_epoch

    def _step(self, event: ev.Step) -> None:
        at = self._at(event.step, self._fraction(event.step, event.epoch), event)
        self._note_drop(event.lr, at)
        self._steps.append(
            *at,
            event.loss,
            event.lr,
            event.grad_norm,
            event.tokens_per_s,
            event.memory,
            event.utilisation,
        )

    def _note_drop(self, lr: float, at: tuple[float, float, float]) -> None:
        """A drop is noted where the rate stays lower: one that falls at every step has none."""
        last, self._last_lr = self._last_lr, lr
        if last is None:
            return
        fell = lr < last * (1 - _SAME_RATE)
        if self._fell is not None and not fell:
            self._drops.append(*self._fell)
        self._fell = (*at, lr) if fell and not self._falls else None
        self._falls = fell

    def _prune(self, event: ev.PruneStep) -> None:
        at = self._at(event.step, self._fraction(event.step, event.epoch), event)
        name = printable(event.param)
        self._sparsity.setdefault(name, _Growing(_SPARSITY)).append(*at, event.reached)
        if event.target is not None:
            self._targets.setdefault(name, _Growing(_SPARSITY)).append(*at, event.target)
        # One step prunes several tensors; it is one mark.
        if not len(self._prunes) or self._prunes.view()["step"][-1] != event.step:
            self._prunes.append(*at, event.reached)

    def _tensors(self, event: ev.Sparsity) -> None:
        at = self._at(event.step, self._fraction(event.step, event.epoch), event)
        rows = ((printable(row.get("name")), row.get("fine")) for row in event.tensors)
        known = ((name, fine / 100) for name, fine in rows if isinstance(fine, int | float))
        for name, value in itertools.chain(known, [("total", event.total)]):
            self._sparsity.setdefault(name, _Growing(_SPARSITY)).append(*at, value)
