"""Loggers of a training: to Python's logging, to TensorBoard, to a CSV file."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from torch import Size, Tensor, nn

from lmbench.distiller.reports.data_loggers.backends import EventFiles, ScalarsFile
from lmbench.distiller.reports.sparsity_tables import weights_sparsity, weights_sparsity_tbl_summary
from lmbench.distiller.reports.table import Column, Table, percent
from lmbench.distiller.reports.tensor_sparsity import size_to_str

__all__ = [
    "CsvLogger",
    "DataLogger",
    "NullLogger",
    "PythonLogger",
    "TensorBoardLogger",
    "log_activation_statistics",
    "log_activation_statsitics",
    "log_model_buffers",
    "log_training_progress",
    "log_weights_sparsity",
]

Stats = tuple[str, Mapping[str, float]]


class DataLogger:
    """Base of the loggers; each method does nothing until it is overridden."""

    def log_training_progress(
        self, stats_dict: Stats, epoch: int, completed: int, total: float, freq: int | None
    ) -> None:
        """How far the training is.

        Args:
            stats_dict: a group such as ``Performance/Training/``, and its values by name.
            epoch: from 0; -1 outside of training.
            completed: steps of this epoch that are done.
            total: steps of an epoch.
            freq: steps between two calls.
        """

    def log_activation_statistic(
        self, phase: str, stat_name: str, activation_stats: Mapping[str, float], epoch: int
    ) -> None:
        """One statistic of the activations, by layer."""

    # The original's spelling, which code written for it calls.
    def log_activation_statsitic(
        self, phase: str, stat_name: str, activation_stats: Mapping[str, float], epoch: int
    ) -> None:
        """`log_activation_statistic`."""
        self.log_activation_statistic(phase, stat_name, activation_stats, epoch)

    def log_weights_sparsity(self, model: nn.Module, epoch: int) -> None:
        """How sparse each weight is, and all of them together."""

    def log_weights_distribution(
        self, named_params: Iterable[tuple[str, Tensor]] | None, steps_completed: int
    ) -> None:
        """The distribution of each parameter's values."""

    def log_model_buffers(
        self,
        model: nn.Module,
        buffer_names: Iterable[str],
        tag_prefix: str,
        epoch: int,
        completed: int,
        total: float,
        freq: int | None,
    ) -> None:
        """The buffers of the model with these names, by module."""


class NullLogger(DataLogger):
    """Logs nothing."""


class PythonLogger(DataLogger):
    """Lines for a logger of Python's logging."""

    def __init__(self, logger: logging.Logger) -> None:
        self.pylogger = logger

    def log_training_progress(
        self, stats_dict: Stats, epoch: int, completed: int, total: float, freq: int | None
    ) -> None:
        place = f"epoch {epoch}: " if epoch > -1 else "test: "
        values = [
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.6f}"
            for name, value in stats_dict[1].items()
        ]
        self.pylogger.info("%s%d/%d  %s", place, completed, int(total), "  ".join(values))

    def log_activation_statistic(
        self, phase: str, stat_name: str, activation_stats: Mapping[str, float], epoch: int
    ) -> None:
        table = Table(
            stat_name,
            (Column("layer", "Layer"), Column("value", stat_name, percent)),
            tuple(activation_stats.items()),
        )
        self.pylogger.info("%s, epoch %d\n%s", phase, epoch, table)

    def log_model_buffers(
        self,
        model: nn.Module,
        buffer_names: Iterable[str],
        tag_prefix: str,
        epoch: int,
        completed: int,
        total: float,
        freq: int | None,
    ) -> None:
        for name, values in named_buffers(model, buffer_names):
            numbers = ", ".join(f"{value:.6g}" for value in values)
            self.pylogger.info("%s: %s: %s", tag_prefix, name, numbers)

    def log_weights_sparsity(self, model: nn.Module, epoch: int) -> None:
        text, total = weights_sparsity_tbl_summary(model, return_total_sparsity=True)
        self.pylogger.info("weights after epoch %d\n%s", epoch, text)
        self.pylogger.info("total sparsity: %.2f%%", total)


class TensorBoardLogger(DataLogger):
    """Writes into a directory that ``tensorboard --logdir`` shows.

    Without tensorboard the numbers go to ``scalars.csv`` there, after a warning that says so, and
    the training runs all the same.

    Attributes:
        log_gradients: also log the distribution of gradients.
        logged_params: log the parameters whose name holds one of these.
    """

    def __init__(self, logdir: str | Path) -> None:
        self.tblogger: EventFiles | ScalarsFile
        try:
            self.tblogger = EventFiles(logdir)
        except ImportError:
            self.tblogger = ScalarsFile(logdir)
            logging.getLogger(__name__).warning(
                "tensorboard is not installed: numbers go to %s, distributions are left out "
                "(pip install tensorboard)",
                self.tblogger.path,
            )
        self.log_gradients = False
        self.logged_params = ["weight"]

    def log_training_progress(
        self, stats_dict: Stats, epoch: int, completed: int, total: float, freq: int | None
    ) -> None:
        group, values = stats_dict
        for name, value in values.items():
            self.tblogger.scalar_summary(group + name, value, int(total * epoch + completed))
        self.tblogger.sync_to_file()

    def log_activation_statistic(
        self, phase: str, stat_name: str, activation_stats: Mapping[str, float], epoch: int
    ) -> None:
        for layer, value in activation_stats.items():
            tag = f"{stat_name}/activations/{phase}/{layer}"
            self.tblogger.scalar_summary(tag, value, epoch)
        self.tblogger.sync_to_file()

    def log_model_buffers(
        self,
        model: nn.Module,
        buffer_names: Iterable[str],
        tag_prefix: str,
        epoch: int,
        completed: int,
        total: float,
        freq: int | None,
    ) -> None:
        for name, values in named_buffers(model, buffer_names):
            for index, value in enumerate(values):
                tag = f"{tag_prefix}/{name}" + (f"/{index}" if len(values) > 1 else "")
                self.tblogger.scalar_summary(tag, value, int(total * epoch + completed))
        self.tblogger.sync_to_file()

    def log_weights_sparsity(self, model: nn.Module, epoch: int) -> None:
        rows = weights_sparsity(model)
        for row in rows:
            self.tblogger.scalar_summary(f"sparsity/weights/{row.name}", row.fine, epoch)
            self.tblogger.scalar_summary(f"sparsity-2D/weights/{row.name}", row.sparsity_2d, epoch)
        dense = sum(row.nnz_dense for row in rows)
        total = 100 * (1 - sum(row.nnz for row in rows) / dense) if dense else 0.0
        self.tblogger.scalar_summary("sparsity/weights/total", total, epoch)
        self.tblogger.sync_to_file()

    def log_weights_distribution(
        self, named_params: Iterable[tuple[str, Tensor]] | None, steps_completed: int
    ) -> None:
        for name, value in named_params or ():
            tag = name.replace(".", "/")
            if any(part in name for part in self.logged_params):
                self.tblogger.histogram_summary(tag, value, steps_completed)
            if self.log_gradients and value.grad is not None:
                self.tblogger.histogram_summary(f"{tag}/grad", value.grad, steps_completed)
        self.tblogger.sync_to_file()


class CsvLogger(DataLogger):
    """CSV files: ``weights_sparsity.csv``, and one for the tag of buffers; written anew each time.

    Args:
        fname_prefix: before each name, with an underscore.
        logdir: the files' directory.
    """

    def __init__(self, fname_prefix: str = "", logdir: str | Path = "") -> None:
        self.fname_prefix = fname_prefix
        self.logdir = logdir

    def get_fname(self, postfix: str) -> str:
        """The path of a file."""
        prefix = f"{self.fname_prefix}_" if self.fname_prefix else ""
        return str(Path(self.logdir) / f"{prefix}{postfix}.csv")

    def log_model_buffers(
        self,
        model: nn.Module,
        buffer_names: Iterable[str],
        tag_prefix: str,
        epoch: int,
        completed: int,
        total: float,
        freq: int | None,
    ) -> None:
        path = Path(self.get_fname(tag_prefix.replace("/", "_").replace(" ", "_")))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["buffer", "values"])
            for name, values in named_buffers(model, buffer_names):
                writer.writerow([name, *values])

    def log_weights_sparsity(self, model: nn.Module, epoch: int) -> None:
        path = Path(self.get_fname("weights_sparsity"))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["parameter", "shape", "volume", "sparse volume", "sparsity level"])
            for row in weights_sparsity(model):
                shape = size_to_str(Size(row.shape))
                writer.writerow([row.name, shape, row.nnz_dense, row.nnz, row.fine])


def named_buffers(
    model: nn.Module, buffer_names: Iterable[str]
) -> Iterator[tuple[str, list[float]]]:
    """The full name and the values of each buffer whose last name is one of these."""
    wanted = set(buffer_names)
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] in wanted:
            yield name, buffer.detach().reshape(-1).tolist()


class _Collector(Protocol):
    stat_name: str

    def value(self) -> Mapping[str, float]: ...


def log_training_progress(
    stats_dict: tuple[str, Mapping[str, float]],
    params_dict: Iterable[tuple[str, Tensor]] | None,
    epoch: int,
    steps_completed: int,
    total_steps: float,
    log_freq: int,
    loggers: Iterable[DataLogger],
) -> None:
    """Log how far the training is, and how the parameters are distributed, to every logger.

    Args:
        stats_dict: a group such as ``Performance/Training/``, and its values by name.
        params_dict: what ``model.named_parameters()`` gives, or None.
        epoch: from 0.
        steps_completed: of this epoch.
        total_steps: of an epoch.
        log_freq: steps between two calls.
        loggers: those that get it.
    """
    # named_parameters() is an iterator, which the first logger would use up.
    params = None if params_dict is None else list(params_dict)
    for logger in loggers:
        logger.log_training_progress(stats_dict, epoch, steps_completed, total_steps, freq=log_freq)
        logger.log_weights_distribution(params, steps_completed)


def log_model_buffers(
    model: nn.Module,
    buffer_names: Iterable[str],
    tag_prefix: str,
    epoch: int,
    steps_completed: int,
    total_steps: float,
    log_freq: int,
    loggers: Iterable[DataLogger] = (),
) -> None:
    """Log the buffers of a model with these names, to every logger."""
    for logger in loggers:
        logger.log_model_buffers(
            model, buffer_names, tag_prefix, epoch, steps_completed, total_steps, log_freq
        )


def log_weights_sparsity(model: nn.Module, epoch: int, loggers: Iterable[DataLogger]) -> None:
    """Log how sparse the weights are, to every logger."""
    for logger in loggers:
        logger.log_weights_sparsity(model, epoch)


def log_activation_statistics(
    epoch: int, phase: str, loggers: Iterable[DataLogger], collector: _Collector | None
) -> None:
    """Log what a collector measured, to every logger; nothing without a collector."""
    if collector is None:
        return
    for logger in loggers:
        logger.log_activation_statistic(phase, collector.stat_name, collector.value(), epoch)


# Older releases of the original spell it so.
log_activation_statsitics = log_activation_statistics
