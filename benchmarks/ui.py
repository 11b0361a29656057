"""What the workbench costs: first paint, latency, redraws, bytes, and the training beside it.

    python benchmarks/ui.py [--quick] [--json]
    python benchmarks/ui.py --large [--json]
    python benchmarks/ui.py --sweep [--json]
    python benchmarks/ui.py --soak SECONDS [--pause SECONDS]

`--large` measures sessions of 4 and of 200 runs and one of 1,000,000 events: first paint (the first
time, with nothing summarised, and again), processor time of a key, memory. `--sweep` measures the
screen of a sweep with 1,000 queued runs: processor time until it is painted, and memory as it is
opened again and again. `--soak` presses keys, resizes and goes through the screens for so long, and
prints the memory each half minute; `--pause` is the time between two of its keys.

Everything is measured from outside, on the real command in a pseudo-terminal, except the redraw
time of a plot and the latency of the event loop, which a probe inside the application takes.
Trainings are small ones on the embedded corpus in a folder of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import math
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lmbench.config import TrainConfig
from lmbench.report.plots.draw_in_terminal import draw
from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import Series
from lmbench.session import EventWriter, Home, Run, Session, read_events
from lmbench.session import events as ev
from lmbench.session.event_log import EventReader

SIZE = (120, 30)
TRAINING = ("train", "--data", "pydoc", "--emsize", "128", "--nhid", "128", "--tied")
# A frame that shows this has everything of the main screen on it.
PAINTED = b"Runs"
HELP_TITLE = b" Help "
TICK_S = 0.01
SECONDS_A_POINT = 1.6
FEWEST_POINTS = 5
REPLAY_SPEED = 50
KEYS = 40
SOAK_SIZES = ((120, 30), (80, 24), (200, 50), (100, 28))
# Each is left again as it was entered; none starts or changes a run.
SOAK_KEYS = (
    *(b"\x1b[B" * 7, b"\x1b[A" * 3, b" ", b"t", b"/7", b"\x1b"),
    *(b"2]]]xymz", b"z+-0\x1b[C\x1b[C", b"\x1b", b"3ww", b"5xx/epoch\r", b"nN", b"\x1b"),
    *(b"c", b"\x1b", b"v", b"\x1b", b"W", b"\x1b", b"o", b"\x1b", b"S", b"\x1b", b",", b"\x1b"),
    *(b"n\x1b[B\x1b[B\x1b[C", b"\x1b", b"\x14" * 5, b"u"),
)
SAMPLE_EVERY_S = 30
SWEEP_OPENINGS = 40
MANY_RUNS = """version: 1
name: many
seeds: 4
stages:
  - kind: train
    settings: {data: pydoc, emsize: 8, nhid: 8, nlayers: 1, tied: true}
    axes:
      lr: {from: 1, to: 25, count: 25}
      dropout: {from: 0.0, to: 0.9, count: 10}
"""


class Terminal:
    """A command in a pseudo-terminal that someone reads from."""

    def __init__(self, home: Path, *words: str, size: tuple[int, int] = SIZE) -> None:
        self.began = time.perf_counter()
        self.bytes = 0
        self.painted: float | None = None
        self._awaited: bytes | None = None
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        environment = os.environ | {
            "LMBENCH_HOME": str(home),
            # Not the settings of whoever measures.
            "XDG_CONFIG_HOME": str(home),
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
        }
        # Without compiled modules a start would compile them anew each time, as no user's does.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self._ours = ours
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        seen = b""
        while True:
            ready, _, _ = select.select([self._ours], [], [], 0.5)
            if not ready:
                if self.process.poll() is not None:
                    return
                continue
            try:
                data = os.read(self._ours, 65536)
            except OSError:
                return
            self.bytes += len(data)
            if self.painted is None:
                seen += data
                if PAINTED in seen:
                    self.painted = time.perf_counter() - self.began
            elif (awaited := self._awaited) is not None:
                # What is awaited may come in two pieces.
                seen = seen[-len(awaited) :] + data
                if awaited in seen:
                    self._awaited, seen = None, b""

    def wait_for_paint(self, limit_s: float = 60.0) -> float:
        deadline = time.perf_counter() + limit_s
        while self.painted is None:
            if time.perf_counter() > deadline:
                raise RuntimeError("the workbench painted nothing")
            time.sleep(0.005)
        return self.painted

    def bytes_in(self, seconds: float) -> int:
        before = self.bytes
        time.sleep(seconds)
        return self.bytes - before

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def press_and_see(self, keys: bytes, words: bytes, limit_s: float = 120.0) -> None:
        """Returns as soon as `words` were painted after the keys, which come after all before."""
        self._awaited = words
        deadline = time.perf_counter() + limit_s
        self.press(keys)
        while self._awaited is not None:
            if time.perf_counter() > deadline:
                raise RuntimeError(f"the workbench did not paint {words!r} after {keys!r}")
            time.sleep(0.02)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    @property
    def memory(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    @property
    def processor_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@contextmanager
def workbench(home: Path) -> Iterator[Terminal]:
    terminal = Terminal(home, "-m", "lmbench", "tui", "default")
    try:
        terminal.wait_for_paint()
        yield terminal
    finally:
        terminal.close()
    log = home / "sessions" / "workbench.log"
    if log.exists():
        raise RuntimeError(f"the workbench wrote of errors:\n{log.read_text()}")


def lmbench(home: Path, *words: str) -> None:
    command = [sys.executable, "-m", "lmbench", *words]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"LMBENCH_HOME": str(home)}
    )


@contextmanager
def training(home: Path, *more: str) -> Iterator[Run]:
    """A training in the background, killed at the end."""
    from lmbench.jobs import launch

    lmbench(home, *TRAINING, "--epochs", "1000", *more, "--detach")
    run = Home(home).session("default").runs()[-1]
    while not any(isinstance(event, ev.Step) for event in read_events(run.events_path)):
        time.sleep(0.2)
    try:
        yield run
    finally:
        launch.request(run, "kill")
        while run.status() in ("running", "paused"):
            time.sleep(0.1)


def first_paint(home: Path, rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        with workbench(home) as terminal:
            times.append(terminal.wait_for_paint())
    return times


def redraws() -> dict[str, float]:
    """Milliseconds of a redraw, median of 9, of two smoothed curves in 80 by 24 cells."""
    found = {}
    for points in (1_000, 10_000, 100_000):
        x = np.arange(points, dtype=float)
        noise = np.random.default_rng(1).normal(0, 0.1, points)
        y = 4.5 + 4 * np.exp(-x / points * 8) + noise
        curves = tuple(
            Series(f"{n}", x, y + 0.2 * n, "●◆"[n], (200, 120, 40), smoothed=True) for n in (0, 1)
        )
        plot = Plot(curves, log=True, smoothing=0.6)
        draw(plot, 80, 24)
        times = []
        for _ in range(9):
            began = time.perf_counter()
            draw(plot, 80, 24)
            times.append(1000 * (time.perf_counter() - began))
        found[f"{points}"] = statistics.median(times)
    return found


async def ticks(seconds: float) -> list[float]:
    """How late (in milliseconds) a task that wants to run every `TICK_S` comes to run."""
    late = []
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        due = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        late.append(1000 * (loop.time() - due))
    return late


def probe(out: Path, seconds: float) -> None:
    """Inside a pseudo-terminal: the workbench with a task of ours on its event loop."""
    from lmbench.tui.app import Workbench

    class Probed(Workbench):
        def on_mount(self) -> None:
            self.run_worker(self._probe(), exit_on_error=False)

        async def _probe(self) -> None:
            # The first second is opening, which is measured apart.
            await asyncio.sleep(1.5)
            out.write_text(json.dumps(await ticks(seconds)))
            self.exit()

    home = Home.find()
    sys.setswitchinterval(0.001)
    Probed(home, home.session("default")).run()


def percentiles(late: list[float]) -> dict[str, float]:
    ordered = sorted(late)
    return {
        "p50": statistics.median(ordered),
        "p99": ordered[int(0.99 * (len(ordered) - 1))],
        "max": ordered[-1],
    }


def latency(home: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Of a bare event loop and of the workbench's, both beside a training on all cores."""
    with training(home):
        bare = asyncio.run(ticks(seconds))
        out = home / "late.json"
        terminal = Terminal(home, __file__, "--probe", str(out), "--seconds", f"{seconds}")
        terminal.process.wait(seconds + 120)
        late = json.loads(out.read_text())
    return {"bare loop": percentiles(bare), "workbench": percentiles(late)}


def traffic(home: Path, seconds: float) -> dict[str, float]:
    """Bytes a second that the terminal gets."""
    with workbench(home) as terminal:
        time.sleep(3)
        idle = terminal.bytes_in(seconds) / seconds
    with training(home), workbench(home) as terminal:
        time.sleep(3)
        busy = terminal.bytes_in(seconds) / seconds
    return {"idle": idle, "training": busy}


def speed(home: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Tokens a second of one training, by turns without and with the workbench open."""
    alone, watched = [], []
    with training(home) as run:
        reader = EventReader(run.events_path)

        def rate() -> float:
            list(reader.read())
            began, rates = time.perf_counter(), []
            while len(rates) < FEWEST_POINTS or time.perf_counter() - began < seconds:
                time.sleep(0.5)
                rates += [step.tokens_per_s for step in reader.read() if isinstance(step, ev.Step)]
            # The first may reach back to before the workbench came or went.
            return statistics.median(rates[1:])

        for _ in range(rounds):
            alone.append(rate())
            with workbench(home):
                time.sleep(2)
                watched.append(rate())
    slower = 100 * (1 - statistics.median(watched) / statistics.median(alone))
    return {"alone": alone, "with the workbench": watched, "slower_percent": slower}


def memory(home: Path, seconds: float) -> dict[str, float]:
    """Bytes of the workbench at the start and at the end of a replay at 50 times the pace."""
    session = Home(home).open_session("default")
    run = session.new_run(TrainConfig(), "train", name="replay")
    mine = psutil.Process()
    run.update(status="running", pid=mine.pid, process_started=mine.create_time())
    writer = EventWriter(run.events_path)
    writer.write(ev.RunStarted(device="cpu", epochs=1000, steps_per_epoch=1000, total_steps=10**6))
    samples = []
    with workbench(home) as terminal:
        began, step = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds:
            while step * SECONDS_A_POINT / REPLAY_SPEED < passed:
                step += 1
                writer.write(
                    ev.Step(
                        step=10 * step, epoch=step // 100 + 1, batch=step % 100, loss=5 + 1 / step,
                        ppl=150.0, lr=20.0, grad_norm=0.3, tokens_per_s=4400.0,
                    )
                )  # fmt: skip
            samples.append(terminal.memory)
            time.sleep(0.25)
    run.update(status="stopped")
    warm = samples[len(samples) // 10]
    return {
        "seconds": seconds,
        "points": step,
        "start_bytes": warm,
        "end_bytes": samples[-1],
        "grown_percent": 100 * (samples[-1] / warm - 1),
    }


def finished_run(session: Session, name: str, steps: int) -> None:
    """A training that never was, of so many events."""
    run = session.new_run(TrainConfig(), "train", name=name)
    writer = EventWriter(run.events_path)
    writer.write(ev.RunStarted(device="cpu", epochs=10, steps_per_epoch=steps // 10))
    for step in range(1, steps + 1):
        loss = 4.5 + 4 / step
        writer.write(
            ev.Step(
                step=step, epoch=1 + 10 * step // (steps + 1), batch=step, loss=loss,
                ppl=math.exp(loss), lr=20.0, grad_norm=0.3, tokens_per_s=4400.0,
            )
        )  # fmt: skip
    writer.write(ev.Finished(status="finished", seconds=1.0))
    writer.close()
    run.update(status="finished", results={"valid_ppl": 100.0})


def large(events: int) -> dict[str, Any]:
    """First paint, cost of a key and memory by the size of the session."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lmbench-ui-", ignore_cleanup_errors=True) as folder:
        # Compiles what is not compiled yet.
        Home(Path(folder)).open_session("default")
        first_paint(Path(folder), 1)
    sizes = {"4 runs": (4, 600), "200 runs": (200, 600), f"{events:,} events": (1, events)}
    for name, (runs, steps) in sizes.items():
        with tempfile.TemporaryDirectory(
            prefix="lmbench-ui-", ignore_cleanup_errors=True
        ) as folder:
            session = Home(Path(folder)).open_session("default")
            for number in range(runs):
                finished_run(session, f"run {number}", steps)
            with workbench(Path(folder)) as terminal:
                first = terminal.wait_for_paint()
                # Until all is read, and summaries are written.
                while terminal.bytes_in(2):
                    pass
            with workbench(Path(folder)) as terminal:
                again = terminal.wait_for_paint()
                while terminal.bytes_in(2):
                    pass
                before = terminal.processor_s
                for _ in range(KEYS // 2):
                    for key in (b"\x1b[A", b"\x1b[B"):
                        terminal.press(key)
                        time.sleep(0.1)
                cost = 1000 * (terminal.processor_s - before) / KEYS
                found[name] = {
                    "first_paint_s": first,
                    "paint_again_s": again,
                    "key_ms": cost,
                    "memory_bytes": terminal.memory,
                }
    return found


def sweep() -> dict[str, Any]:
    """What the screen of a sweep costs that has 1,000 runs, all of them queued."""
    from lmbench.jobs.sweeps import control

    with tempfile.TemporaryDirectory(prefix="lmbench-ui-", ignore_cleanup_errors=True) as folder:
        home = Home(Path(folder))
        file = home.path / "many.yaml"
        file.write_text(MANY_RUNS)
        _, runs = control.start(control.prepare(file, home, "default"), home)
        with workbench(home.path) as terminal:

            def opened() -> float:
                """Processor seconds from the key until nothing more is sent, and back again."""
                before = terminal.processor_s
                terminal.press(b"W")
                while not terminal.bytes_in(1):
                    pass
                while terminal.bytes_in(2):
                    pass
                cost = terminal.processor_s - before
                terminal.press(b"\x1b")
                while terminal.bytes_in(1):
                    pass
                return cost

            while terminal.bytes_in(2):
                pass
            before = terminal.memory
            first = opened()
            memory = [terminal.memory]
            again = []
            for _ in range(SWEEP_OPENINGS):
                again.append(opened())
                memory.append(terminal.memory)
            return {
                "runs": len(runs),
                "first_paint_processor_s": first,
                "again_processor_s": statistics.median(again),
                "memory_before_bytes": before,
                "memory_after_each_10_openings_bytes": memory[::10],
            }


def soak(seconds: float, pause_s: float) -> None:
    """Mixed use of a session of 30 runs; prints a line of figures each `SAMPLE_EVERY_S`."""
    with tempfile.TemporaryDirectory(prefix="lmbench-ui-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        session = Home(home).open_session("default")
        for number in range(30):
            finished_run(session, f"run {number}", 300)
        with workbench(home) as terminal:
            began, due, rounds = time.perf_counter(), 0.0, 0
            while (passed := time.perf_counter() - began) < seconds:
                if terminal.process.poll() is not None:
                    raise RuntimeError(f"the workbench ended with {terminal.process.returncode}")
                if passed >= due:
                    due += SAMPLE_EVERY_S
                    memory = terminal.memory / 1e6
                    print(f"{passed:6.0f} s  {rounds:5} rounds  {memory:7.1f} MB", flush=True)
                for keys in SOAK_KEYS:
                    terminal.press(keys)
                    time.sleep(pause_s)
                # F1 comes after all of them: on a busy machine they wait, and would be measured.
                terminal.press_and_see(b"\x1bOP", HELP_TITLE)
                terminal.press(b"\x1b")
                rounds += 1
                terminal.resize(*SOAK_SIZES[rounds % len(SOAK_SIZES)])
        print("nothing in the log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a minute or two, for a first look")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--large", action="store_true", help="first paint and keys by size")
    parser.add_argument("--sweep", action="store_true", help="the screen of 1,000 queued runs")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="mixed use, memory over time")
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between the soak's keys")
    parser.add_argument("--events", type=int, default=1_000_000, help=argparse.SUPPRESS)
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=10.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        probe(arguments.probe, arguments.seconds)
        return
    if arguments.soak:
        soak(arguments.soak, arguments.pause)
        return
    if arguments.large or arguments.sweep:
        figures = sweep() if arguments.sweep else large(arguments.events)
        print(json.dumps(figures, indent=2)) if arguments.json else show(figures)
        return
    quick = arguments.quick
    with tempfile.TemporaryDirectory(prefix="lmbench-ui-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        Home(home).open_session("default")
        paints = first_paint(home, 3 if quick else 11)
        document: dict[str, Any] = {
            "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0],
            "first_paint_s": {"median": statistics.median(paints), "min": min(paints)},
            "redraw_ms": redraws(),
            "bytes_per_s": traffic(home, 5 if quick else 30),
            "latency_ms": latency(home, 5 if quick else 60),
            "training_tokens_per_s": speed(home, 2 if quick else 6, 10 if quick else 30),
            "memory": memory(home, 30 if quick else 3600),
        }
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        show(document)


def show(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "figure")
    for name, value in document.items():
        values = value.items() if isinstance(value, dict) else [("", value)]
        for key, figure in values:
            table.add_row(f"{name} {key}".strip(), _written(figure))
    Console().print(table)


def _written(figure: Any) -> str:
    if isinstance(figure, dict):
        return "  ".join(f"{key} {_written(value)}" for key, value in figure.items())
    if isinstance(figure, list):
        return "  ".join(_written(value) for value in figure)
    return (
        f"{figure:,.3g}" if isinstance(figure, float) and abs(figure) < 1000 else f"{figure:,.0f}"
    )


if __name__ == "__main__":
    main()
