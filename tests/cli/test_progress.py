"""The bar of a run on terminals of each width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lmbench.cli.progress import run_progress

FIGURES = ("epoch 13/40", "ppl 124.1", "valid 151.7", "loss 4.821", "13,170 tok/s")


@pytest.mark.parametrize("width", range(60, 201))
def test_figures_give_way_to_the_time_and_are_whole(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bar = run_progress(console)
    task = bar.add_task("003-train", total=59_680)
    bar.update(task, completed=24_000, figures=FIGURES)
    with console.capture() as captured:
        console.print(bar.get_renderable())
    [line] = captured.get().rstrip("\n").split("\n")
    assert line.rstrip().endswith("24000/59680 left -:--:--")
    shown = line[line.index("003-train") : line.index("━")].split()
    kept = [figure for figure in FIGURES if figure in " ".join(shown)]
    assert shown == ["003-train", *" ".join(kept).split()]
    assert kept == list(FIGURES[: len(kept)])
    assert len(kept) >= (1 if width < 80 else 2)
    assert len(kept) == len(FIGURES) or width < 140


def test_a_pipe_gets_no_bar(capsys: pytest.CaptureFixture[str]):
    with run_progress() as bar:
        bar.add_task("001-train", total=10)
    assert capsys.readouterr() == ("", "")
