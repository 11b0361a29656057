"""Curves as event files of TensorBoard, by the package's own messages, without TensorFlow."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmbench.errors import LmbenchError
from lmbench.printable import json_text
from lmbench.report.curve_files.points import points_of
from lmbench.report.run_command import run_command
from lmbench.session import Run
from lmbench.session.files import new_folder, write_atomic

__all__ = ["write_tensorboard"]


def write_tensorboard(runs: Sequence[Run], folder: Path) -> None:
    """Write a folder for ``tensorboard --logdir``: in it for each run a folder ``SESSION/RUN`` with
    its scalars at their steps and wall times, its settings for the tab HParams, and as text the
    command that makes it.

    Raises:
        LmbenchError: the package `tensorboard` is missing, or a run has no curves.
        OSError: the folder is there already, or cannot be written.
    """
    contents = {run: _event_file(run) for run in runs}
    with new_folder(folder) as filling:
        for run, data in contents.items():
            path = filling / run.ref / f"events.out.tfevents.{int(run.read().created)}.lmbench"
            path.parent.mkdir(parents=True)
            write_atomic(path, data)


def _event_file(run: Run) -> bytes:
    try:
        # Pyright sees no messages in modules that protobuf makes.
        events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        summaries: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise LmbenchError(
            f"--format tensorboard needs the package ({error}): pip install 'lmbench[tensorboard]'"
        ) from None
    record, points = run.read(), points_of(run)
    file = io.BytesIO()
    writer = RecordWriter(file)

    def write(time: float, **content: Any) -> None:
        writer.write(events.Event(wall_time=time, **content).SerializeToString())

    began = points[0].time
    write(began, file_version="brain.Event:2")
    # Four blanks before it make it code in Markdown.
    write(began, summary=text_pb("command", f"    {run_command(run, record)}"))
    write(began, summary=hparams_pb(_settings(record.config), start_time_secs=began))
    for point in points:
        scalar = summaries.Summary.Value(tag=point.curve, simple_value=point.value)
        write(point.time, step=point.step, summary=summaries.Summary(value=[scalar]))
    return file.getvalue()


def _settings(config: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """The settings that differ from their defaults, as the tab HParams takes them."""
    return {
        name: value if isinstance(value, bool | int | float | str) else json_text(value)
        for name, value in config.items()
        if value is not None
    }
