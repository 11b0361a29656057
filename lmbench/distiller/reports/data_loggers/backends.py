"""Where a `TensorBoardLogger` writes: TensorBoard's own files, or a CSV without tensorboard."""

from __future__ import annotations

import csv
from pathlib import Path

from torch import Tensor


class EventFiles:
    """TensorBoard's event files. ImportError when tensorboard is not installed."""

    def __init__(self, logdir: str | Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(logdir))

    def scalar_summary(self, tag: str, value: float, step: int) -> None:
        """A number."""
        self.writer.add_scalar(tag, value, step)

    def histogram_summary(self, tag: str, values: Tensor, step: int) -> None:
        """The distribution of a tensor of any shape."""
        self.writer.add_histogram(tag, values.detach().cpu(), step)

    def sync_to_file(self) -> None:
        """Write what is buffered."""
        self.writer.flush()


class ScalarsFile:
    """The numbers as ``tag,step,value`` lines of ``scalars.csv``; distributions are left out."""

    def __init__(self, logdir: str | Path) -> None:
        self.path = Path(logdir) / "scalars.csv"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lines: list[tuple[str, int, float]] = []
        if not self.path.exists():
            self.path.write_text("tag,step,value\n", encoding="utf-8")

    def scalar_summary(self, tag: str, value: float, step: int) -> None:
        """A number."""
        self._lines.append((tag, step, value))

    def histogram_summary(self, tag: str, values: Tensor, step: int) -> None:
        """Left out: a table of numbers cannot hold it."""

    def sync_to_file(self) -> None:
        """Append what came since the last call."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(self._lines)
        self._lines.clear()
