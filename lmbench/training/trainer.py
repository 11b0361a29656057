"""The training loop: the original's protocol, resumable to the bit.

One `Trainer` is one run. It computes; what it finds out it hands to `emit` as events, and between
two batches it calls `control` for the user's requests. What it keeps on disk, and how it resumes
from there, is `lmbench.training.run_checkpoints`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from lmbench.config import TrainConfig
from lmbench.corpus.batches import Windows
from lmbench.distiller import CompressionScheduler
from lmbench.errors import LmbenchError
from lmbench.model.device import in_float64
from lmbench.model.rnn import Hidden, RNNModel, detach
from lmbench.perplexity import perplexity
from lmbench.session.events import Checkpoint, Epoch, Event, PruneStep, Sparsity, Step
from lmbench.training.averaging import Averages
from lmbench.training.cuda_graph import GraphedUpdate
from lmbench.training.evaluate import Evaluation, evaluate, report_progress
from lmbench.training.learning_rates import LearningRates
from lmbench.training.objective import Adjust, CrossEntropy, Objective
from lmbench.training.plateau import Plateau
from lmbench.training.ranks import ALONE, Ranks
from lmbench.training.run_checkpoints import LoopState, Position, RunCheckpoints
from lmbench.training.speed_meter import Meter
from lmbench.training.step import clipped_update, gradient_norm, scaled_rates

__all__ = ["Splits", "Trainer"]


@dataclass(frozen=True)
class Splits:
    """The ids of each split, batchified: [rows, batch] on the device that computes.

    Where several processes train together, `train` and `valid` are this one's share.
    """

    train: Tensor
    valid: Tensor
    test: Tensor


class Trainer:
    """Trains `model` by `config`.

    Args:
        model: on the device that computes; changed in place.
        splits: the corpus, batchified.
        config: the run's settings.
        objective: what is minimised.
        folder: the run's folder; ``last/`` and ``best/`` are written there.
        emit: takes each event.
        control: called between two batches; ``stop`` ends the run cleanly, ``checkpoint`` writes
            one now. It blocks while the run is paused.
        log_offset: bytes of the event log so far, kept in the checkpoint.
        scheduler: the compression schedule, if there is one.
        optimizer: over the model's parameters, as the schedule knows it.
        log: takes each line of the log.
        halts: told between two epochs how many were trained, and the best validation loss so far;
            ends the training there where it says True.
        staging: where a checkpoint is written first; None for `folder`.
        ranks: the processes that train this model together.
    """

    def __init__(
        self,
        model: RNNModel,
        splits: Splits,
        config: TrainConfig,
        objective: Objective,
        folder: Path,
        *,
        emit: Callable[[Event], None],
        control: Callable[[], str | None],
        log_offset: Callable[[], int],
        optimizer: torch.optim.Optimizer,
        scheduler: CompressionScheduler | None = None,
        sparsity: Callable[[nn.Module, int, int], Sparsity] | None = None,
        log: Callable[[str], None] = print,
        halts: Callable[[int, float], bool] = lambda _epochs, _loss: False,
        staging: Path | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model
        self.splits = splits
        self.config = config
        self.objective = objective
        self.emit = emit
        self.control = control
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.sparsity = sparsity
        self.log = log
        self.halts = halts
        self._ranks = ranks
        self.position = Position()
        self.plateau = Plateau(config.anneal_factor, config.patience)
        self.device = splits.train.device
        self._windows = Windows(len(splits.train), config.bptt, config.bptt_spread, config.seed)
        self._hidden: Hidden | None = None
        self._stopping = False
        self._rates = LearningRates(optimizer, config, self.batches_per_epoch, scheduler)
        self._averages = Averages(model, config.nonmono, scheduler)
        self._checkpoints = RunCheckpoints(
            folder, model, objective, optimizer, scheduler, log_offset, staging, ranks,
            averages=self._averages,
        )  # fmt: skip
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._meter = Meter(self.device)
        self._measured = 0
        # A schedule has its part between the gradients and the update, and autograd (under a
        # teacher, or in ``exact``) may put the gradients elsewhere at each step.
        alone = scheduler is None and isinstance(objective, CrossEntropy)
        self._graphed = (
            GraphedUpdate(optimizer, config.clip)
            if alone and GraphedUpdate.fits(optimizer)
            else None
        )
        # Sums stay on the device, so that CUDA need not wait for each batch's loss.
        self._sums = in_float64(torch.zeros(2, device=self.device))

    @property
    def batches_per_epoch(self) -> int:
        return len(self._windows)

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def run(self) -> bool:
        """Train to the last epoch; False where the user or `halts` stopped it before.

        Raises:
            LmbenchError: the loss or the gradient is not finite; the last checkpoint is kept.
        """
        position = self.position
        while position.epoch < self.config.epochs:
            # Also where it begins again from there: a death may have come before the answer.
            halted = position.batch == 0 and self.halts(position.epoch, self.plateau.best)
            if halted or not self._epoch():
                return False
        return True

    def _epoch(self) -> bool:
        position, batches = self.position, self.batches_per_epoch
        self.model.train()
        if position.batch == 0:
            self.begin_epoch()
        began = logged = self._meter.now()
        saved = time.perf_counter()
        self._meter.restart()
        self._measured = position.batch
        logged_loss, logged_batch = self._epoch_loss(), position.batch
        while position.batch < batches:
            self.batch()
            if position.batch % self.config.event_interval == 0 or position.batch == batches:
                self._step_event()
                position.batches = 0
                self._sums.zero_()
            if position.batch % self.config.log_interval == 0:
                now, loss = self._meter.now(), self._epoch_loss()
                since = position.batch - logged_batch
                self._log_line((loss - logged_loss) / since, (now - logged) / since)
                logged, logged_loss, logged_batch = now, loss, position.batch
            due = self.config.checkpoint_every * 60.0
            wanted = self._wanted(late=due > 0 and time.perf_counter() - saved > due)
            if wanted and position.batch < batches:
                began = self._count_time(began)
                # A save waits for the device anyway, and must not put NaN over the last one.
                self._means()
                self.save()
                saved = time.perf_counter()
            if wanted == "stop" and position.batch < batches:
                return False
        self._count_time(began)
        self._end_epoch()
        return self._wanted() != "stop" or self.position.epoch >= self.config.epochs

    def begin_epoch(self) -> None:
        """The text begins again: state, objective and schedule begin anew."""
        columns = self.splits.train.shape[1]
        self._hidden = self.model.init_hidden(columns)
        self.objective.start_epoch(columns)
        if self.scheduler:
            with self._ranks.same_draws(self.position.step, self.device):
                self.scheduler.on_epoch_begin(self.position.epoch, self.optimizer)
            widths = self.scheduler.narrowed_to()
            if widths is not None:
                self.position.masks_changed = True
                self.log(f"| {widths} from here on")

    def _wanted(self, *, late: bool = False) -> str | None:
        """What the user wants now; once it is ``stop``, it stays that. A checkpoint that is `late`
        is wanted, too."""

        def decide() -> str | None:
            with self._meter.waiting():
                wanted = self.control()
            self._stopping |= wanted == "stop"
            return "stop" if self._stopping else wanted or ("checkpoint" if late else None)

        return self._ranks.agree(decide)

    def _count_time(self, began: float) -> float:
        now = self._meter.now()
        self.position.seconds += now - began
        self.position.epoch_seconds += now - began
        return now

    def batch(self) -> Tensor:
        """One bptt window, the next of the epoch: forward, loss, backward, clipping, update.

        Gives the mean cross-entropy before the update, a scalar on the device.
        """
        position, schedule = self.position, self.scheduler
        at = (position.epoch, position.batch, self.batches_per_epoch)
        self._rates.begin_step(position.step)
        # [T, B], [T * B]
        input, target = self._windows.cut(self.splits.train, position.epoch, position.batch)
        assert self._hidden is not None
        hidden = detach(self._hidden)
        if schedule:
            with self._ranks.same_draws(position.step, self.device):
                schedule.on_minibatch_begin(*at, self.optimizer)
            self._pruned()
        self.optimizer.zero_grad(set_to_none=True)
        entropy, self._hidden = self.objective.gradients(
            self.model, input, target, hidden, self._adjust(at)
        )
        entropy = self._ranks.average(self._parameters, entropy)
        if schedule and self.config.masked_gradients == "excluded":
            schedule.mask_gradients()
        with scaled_rates(self.optimizer, self._windows.rate_factor(len(input))):
            norm = self._graphed() if self._graphed else self._clip_and_update(entropy, at)
        if schedule:
            schedule.on_minibatch_end(*at, self.optimizer)
        self._averages.update(masks_changed=position.masks_changed)
        self._sums += in_float64(torch.stack((entropy, norm)))
        position.batch += 1
        position.step += 1
        position.batches += 1
        position.tokens += target.numel() * self._ranks.count
        return entropy

    def _adjust(self, at: tuple[int, int, int]) -> Adjust | None:
        """What the schedule makes of the loss before the backward pass; None where nothing.

        Pruning alone does nothing there, and without it CUDA can replay the pass from a graph.
        """
        schedule = self.scheduler
        if schedule is None or not schedule.changes_backward(self.position.epoch):
            return None

        def adjust(loss: Tensor) -> Tensor:
            overall = schedule.before_backward_pass(*at, loss, self.optimizer)
            assert isinstance(overall, Tensor)
            return overall

        return adjust

    def _clip_and_update(self, entropy: Tensor, at: tuple[int, int, int]) -> Tensor:
        """The update, with the schedule's part before it; gives the norm before clipping."""
        norm = gradient_norm(self._parameters)
        self._check_finite(entropy, norm)
        if self.scheduler:
            self.scheduler.before_parameter_optimization(*at, self.optimizer)
        self._update(norm)
        return norm

    def _update(self, norm: Tensor) -> None:
        """Clip to the norm and let the optimizer step; in ``exact`` as the original does it."""
        if self.config.precision != "exact":
            clipped_update(self.optimizer, norm, self.config.clip)
            return
        if self.config.clip:
            clip_grad_norm_(self._parameters, self.config.clip)
        self.optimizer.step()

    def _check_finite(self, loss: Tensor, norm: Tensor) -> None:
        # On CUDA asking would stop the stream at every batch; step events and saves ask there.
        if self.device.type != "cuda" and not (torch.isfinite(loss) and torch.isfinite(norm)):
            found = f"loss {loss.item()}, gradient norm {norm.item():.3g}"
            self._diverged(found, self.position.step + 1)

    def _diverged(self, found: str, step: int) -> None:
        kept = "the last checkpoint is kept" if self._checkpoints.has_last else "none was kept"
        clip = " or --clip" if self.config.clip else ", or a --clip such as 0.25"
        raise LmbenchError(
            f"training diverged at step {step} (epoch {self.position.epoch + 1}): "
            f"{found}, learning rate {self.lr:g}; {kept}. Try a smaller --lr{clip}"
        )

    def _pruned(self) -> None:
        """Tell which masks are new, and what the weights look like under them."""
        assert self.scheduler is not None
        position, steps = self.position, self.scheduler.pruning_steps()
        for step in steps:
            if step.reached > position.reached.get(step.parameter, 0.0):
                position.masks_changed = True
            position.reached[step.parameter] = step.reached
            self.emit(
                PruneStep(
                    step=position.step,
                    epoch=position.epoch + 1,
                    param=step.parameter,
                    target=step.target,
                    reached=step.reached,
                )
            )
        if steps and self.sparsity:
            self.emit(self.sparsity(self.plain_model(), position.step, position.epoch + 1))

    def _epoch_loss(self) -> float:
        """The sum over the epoch's batches so far."""
        return self.position.epoch_loss + float(self._sums[0])

    def _means(self) -> tuple[float, float]:
        """Loss and gradient norm, a batch, since the last step event.

        Raises:
            LmbenchError: one of them is not finite; on CUDA this is the first to notice.
        """
        n = max(1, self.position.batches)
        loss, norm = (float(x) / n for x in self._sums.tolist())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._diverged(f"loss {loss}, gradient norm {norm:.3g}", self.position.step)
        return loss, norm

    def _step_event(self) -> None:
        position, n = self.position, self.position.batches
        loss, norm = self._means()
        position.epoch_loss += loss * n
        # Those before a resume are another process's.
        first = self._windows.start(position.epoch, max(position.batch - n, self._measured))
        rows = self._windows.start(position.epoch, position.batch) - first
        self.emit(
            Step(
                step=position.step,
                epoch=position.epoch + 1,
                batch=position.batch,
                loss=loss,
                ppl=perplexity(loss),
                lr=self.lr,
                grad_norm=norm,
                tokens_per_s=self._meter.rate(rows * self.config.batch_size),
                memory=self._meter.memory(),
                utilisation=self._meter.utilisation(),
            )
        )

    def _log_line(self, loss: float, seconds: float) -> None:
        position = self.position
        rate = f"{self.lr:02.2f}" if self.lr >= 0.01 else f"{self.lr:.1e}"
        self.log(
            f"| epoch {position.epoch + 1:3d} "
            f"| {position.batch:5d}/{self.batches_per_epoch:5d} batches "
            f"| lr {rate} | ms/batch {seconds * 1000:5.2f} | loss {loss:5.2f} "
            f"| ppl {perplexity(loss):8.2f}"
        )

    def _end_epoch(self) -> None:
        """Validate, anneal, keep the best, write the checkpoint."""
        position, config = self.position, self.config
        if self.scheduler:
            self.scheduler.mask_all_weights(is_forward=False)
            # Denser ones before are no rivals.
            if self.scheduler.mask_for_good(position.epoch):
                position.masks_changed = True
                self._averages.end()
        with self.scheduler.copies_masked() if self.scheduler else nullcontext():
            valid, lr = self._validate()
        if not math.isfinite(valid.loss):
            self._diverged(f"the loss on valid is {valid.loss}", position.step)
        if self._averages.judge(valid.loss, masks_changed=position.masks_changed):
            self.log(
                f"| from here on the weights are averaged: valid loss {valid.loss:.3f} is above "
                f"the best of more than {config.nonmono} epochs before"
            )
        self.emit(
            Epoch(
                epoch=position.epoch + 1,
                step=position.step,
                train_loss=position.epoch_loss / self.batches_per_epoch,
                valid_loss=valid.loss,
                valid_ppl=valid.ppl,
                best_valid_loss=self.plateau.best,
                best_epoch=self.plateau.best_epoch,
                lr=lr,
                seconds=position.epoch_seconds,
            )
        )
        position.epoch += 1
        position.batch = 0
        position.epoch_loss = position.epoch_seconds = 0.0
        position.masks_changed = False
        self._hidden = None
        self.save()

    def _validate(self) -> tuple[Evaluation, float]:
        """Score the model that is kept, and keep it if it is the best; the epoch's rate, too."""
        position, config = self.position, self.config
        report = report_progress(self.emit, "validating")
        # What is kept and run later, where a quantizer is in the model that trains.
        valid = self._ranks.combine(
            evaluate(self.plain_model(), self.splits.valid, config.bptt, report)
        )
        position.epoch_seconds += valid.seconds
        position.seconds += valid.seconds
        # The epoch's own: a policy sets that of the next one here.
        lr = self.lr
        if self.scheduler:
            self.scheduler.on_epoch_end(position.epoch, self.optimizer, metrics=valid.loss)
        is_best, stuck = self.plateau.step(
            valid.loss, position.epoch + 1, masks_changed=position.masks_changed
        )
        self._rates.end_epoch(position.step, stuck=stuck)
        self.log(
            f"| end of epoch {position.epoch + 1:3d} | time: {position.epoch_seconds:5.2f}s "
            f"| valid loss {valid.loss:5.2f} | valid ppl {valid.ppl:8.2f}"
        )
        if is_best:
            self._checkpoints.write_best(position, valid.loss)
            self.emit(Checkpoint(which="best", step=position.step, epoch=position.epoch + 1))
        if self.sparsity:
            self.emit(self.sparsity(self.plain_model(), position.step, position.epoch + 1))
        return valid, lr

    def save(self) -> None:
        """Write ``last/``."""
        position = self.position
        self._checkpoints.write_last(LoopState(position, self.plateau, self._sums, self._hidden))
        self.emit(Checkpoint(which="last", step=position.step, epoch=position.epoch))

    def restore(self, checkpoint: Path) -> int:
        """Go on from ``last/``; gives the offset in the event log from which events are void.

        Raises:
            LmbenchError: the checkpoint is damaged or of another model.
        """
        state, offset = self._checkpoints.restore(checkpoint, self.device)
        self.position, self.plateau = state.position, state.plateau
        self._sums, self._hidden = state.sums, state.hidden
        return offset

    def plain_model(self) -> RNNModel:
        """The model for everyone else: with the quantized values, where they are quantized."""
        return self._checkpoints.plain_model()

    def load_best(self) -> None:
        """Take the best checkpoint's weights, which the test set is scored with."""
        self._averages.end()
        self._checkpoints.load_best()

    def keep_averages(self) -> None:
        """Take the averages of the weights, where there are any, in the place of the raw ones."""
        self._averages.keep()
