"""The workbench as a user has it: in tmux, by keys alone, with real workers on the embedded corpus
or a small one, and, where it is beside the checkout and slow tests are asked for, on WikiText-2.

One day: a training is started from the form, watched, zoomed and read, sampled from while it runs,
branched from; pruned under a schedule that is edited, and watched; both are asked the same. The
workbench is left with a run alive, and everything is found again.

Another, on demand, in the laboratory, on a small corpus: settings are evaluated, a run is made of
the best candidate, the slider is moved; each tensor's sensitivity is measured and the schedule that
follows is started; all is compared and exported.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import WIKITEXT
from tmux import Tmux, kill_all

from lmbench.config import TrainConfig, flag_of
from lmbench.session import Home
from lmbench.tui.new_run.fields import settings_of
from lmbench.tui.new_run.form_lines import ABOUT

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
    pytest.mark.timeout(900),
]

BOTH = "● 1 vs ◆ 2|◆ 2 vs ● 1"
FIELDS = {
    **{name: ABOUT[name][:20] for name in ("@kind", "@preset", "@name")},
    **{setting.name: f"{flag_of(setting.name)}: " for setting in settings_of(TrainConfig)},
}
"""How the form's words about each field begin, in the form's order."""
SIZES = pytest.mark.parametrize(
    "size",
    [(80, 24), pytest.param((200, 50), marks=pytest.mark.slow)],
    ids="{0[0]}x{0[1]}".format,
)


REAL = pytest.param(
    WIKITEXT,
    id="wikitext-2",
    marks=[
        pytest.mark.slow,
        pytest.mark.timeout(5400),
        pytest.mark.skipif(not WIKITEXT.is_dir(), reason="WikiText-2 is not beside the checkout"),
    ],
)


@pytest.fixture(params=[pytest.param(None, id="pydoc"), REAL])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A working folder; with the real corpus in it a training takes that."""
    if request.param is not None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "wikitext-2").symlink_to(request.param)
    yield tmp_path
    kill_all(tmp_path)


def fill(tmux: Tmux, name: str, value: str) -> None:
    """Go down to a field of the form, and give it a value."""
    screen = tmux.wait_for("|".join(map(re.escape, FIELDS.values())))
    names = list(FIELDS)
    here = next(i for i, field in enumerate(names) if FIELDS[field] in screen)
    # Each field's own words have to come before the next key: a picture may be taken while another
    # line is being painted.
    for field in names[here + 1 : names.index(name) + 1]:
        tmux.press("Down")
        tmux.wait_for(re.escape(FIELDS[field]))
    tmux.press("C-u")
    tmux.type(value)
    tmux.wait_for(rf"{flag_of(name)} {value}\b")


def start_training(tmux: Tmux) -> None:
    """From the form: a model of 16 units, trained so long that on any machine there is something to
    stop."""
    tmux.wait_for("Train a small model now")
    tmux.press("Escape")
    tmux.wait_for("No run yet")
    tmux.press("n")
    tmux.wait_for("What the run does")
    fill(tmux, "emsize", "16")
    fill(tmux, "nhid", "16")
    fill(tmux, "epochs", "1000")
    tmux.press("C-s")
    tmux.wait_for(r"● 1 .*▶")


def read_the_plot(tmux: Tmux) -> None:
    """The value under the cursor, in all of the curve and in a part of it."""
    tmux.wait_for(r"─ 1 .*train [\d,.]+")
    tmux.press("2", "Left", "Left")
    tmux.wait_for(r"step [\d,]+")
    tmux.press("+")
    tmux.wait_for("zoomed")
    tmux.press("0")
    tmux.wait_until_gone("zoomed")
    tmux.press("Escape", "Escape")


def point_at_another(tmux: Tmux) -> str:
    """In the list of alternatives, go to the likeliest that was not written."""
    row = r"before +after.*\n.*[│┃]([▸ ])(\S+) +█"
    tmux.press("Home")
    rows: list[str] = []

    def still() -> bool:
        rows.append(tmux.wait_for(row))
        return len(rows) > 1 and re.findall(row, rows[-1]) == re.findall(row, rows[-2])

    tmux.until(still)
    found = re.search(row, rows[-1])
    assert found
    if found[1] == " ":
        return found[2]
    tmux.press("Down")
    below = re.search(row + r".*\n.*[│┃] (\S+) +█", tmux.screen())
    assert below
    return below[3]


def write_and_branch(tmux: Tmux) -> None:
    """From the checkpoint of the run that trains; then on from another word in the second place."""
    tmux.press("g")
    tmux.type("the value of")
    tmux.press("Enter")
    tmux.wait_for(r"/s · [\d.]+ bits")
    # The first epoch may be over by now, or not.
    tmux.wait_for(r"(last|best) checkpoint, step \d+")
    tmux.press("Down", "Down", "Right", "Right")
    tmux.wait_for(r"before +after")
    tmux.press("Enter")
    another = point_at_another(tmux)
    tmux.press("Enter")
    tmux.wait_for(rf"the value of \S+\s+{re.escape(another)}")
    tmux.wait_for(r"/s · [\d.]+ bits")
    tmux.press("Escape", "Escape")


def prune_half(tmux: Tmux) -> None:
    """Under the preset, with the first layer's goal changed in the editor; watch the table."""
    tmux.press("s")
    tmux.wait_for(r"● 1 .*□")
    tmux.press("n")
    tmux.wait_for("What the run does")
    tmux.press("Right")
    tmux.wait_for("‹ prune ›")
    tmux.press("C-e")
    tmux.wait_for("Sparsity by epoch")
    tmux.wait_for(r"final_sparsity: 0\.74")
    tmux.press(*["Down"] * 9, "End", "BSpace", "BSpace")
    tmux.type("50")
    tmux.wait_for(r"50\.0% +rnn\.weight_ih_l0")
    tmux.press("C-s")
    tmux.wait_for("Save the schedule")
    tmux.type("half")
    tmux.press("Enter")
    tmux.wait_for(r"schedule •")
    tmux.press("C-s")
    tmux.wait_for(r"◆ 2 half .*▶")
    tmux.press("3")
    tmux.wait_for(r"rnn\.weight_ih_l0 .* [1-5]\d\.\d")
    # While both are asked it need not take a core from the other tests.
    tmux.press("Escape", "p")
    tmux.wait_for(r"◆ 2 half .*‖")


def ask_both(tmux: Tmux) -> None:
    """The same prompt, side by side."""
    tmux.press("Space", "Up", "Space")
    tmux.wait_for("2 marked")
    tmux.press("g")
    tmux.wait_for(BOTH)
    tmux.press("i", "C-u")
    tmux.type("the end of")
    # So few words that no text is longer than its panel, which would show its end.
    tmux.press("Down", *["Right"] * 4)
    tmux.type("20")
    tmux.press("Enter")
    tmux.wait_for("words 20")
    # In the prompt and in both texts, which stand beside each other where there is room.
    tmux.wait_for(r"(?s)(the end of .*){3}")
    tmux.wait_for(r"(?s)(· [\d,]+/s.*){2}")


@SIZES
def test_a_day_at_the_workbench(home, size):
    tmux = Tmux(home, *size)
    try:
        start_training(tmux)
        read_the_plot(tmux)
        write_and_branch(tmux)
        prune_half(tmux)
        ask_both(tmux)
        tmux.press("Escape", "Escape", "Down", "p")
        tmux.wait_for(r"◆ 2 half .*▶")
        tmux.press("q")
        tmux.wait_for("leave running")
        tmux.press("l")
        tmux.wait_for("LEFT 0")
    finally:
        tmux.close()
    assert Home(home).session("default").run(2).status() == "running"
    again = Tmux(home, *size)
    try:
        again.wait_for(r"● 1 .*□")
        again.wait_for(r"◆ 2 half .*▶")
        again.press("g")
        again.wait_for("the end of")
        again.wait_for(BOTH)
    finally:
        again.close()


# -- the laboratory --------------------------------------------------------------------------------


def write_corpus(home: Path) -> None:
    """`small`: each model of the laboratory's day is scored in a second on it."""
    chance = random.Random(5)
    folder = home / "data" / "small"
    folder.mkdir(parents=True)
    for split, lines in (("train", 3000), ("valid", 600), ("test", 600)):
        words = (f"w{int(300 * chance.random() ** 3)}" for _ in range(8 * lines))
        text = "".join(" ".join(line) + "\n" for line in zip(*[words] * 8, strict=True))
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")


def train_one_epoch(tmux: Tmux) -> None:
    """From the form: a model of 16 units, and on the real corpus the published small one."""
    tmux.wait_for("Train a small model now")
    tmux.press("Escape")
    tmux.wait_for("No run yet")
    tmux.press("n")
    tmux.wait_for("What the run does")
    if not tmux.real:
        fill(tmux, "emsize", "16")
        fill(tmux, "nhid", "16")
        fill(tmux, "data", "small")
    fill(tmux, "epochs", "1")
    tmux.press("C-s")
    tmux.wait_for(r"● 1 .*✓")


def evaluate_settings(tmux: Tmux) -> None:
    """A draft of one's own and the published settings; a run is made of the best candidate."""
    tmux.press("l")
    tmux.wait_for(r"perplexity [\d.]+ on [\d,]+ tokens")
    tmux.press("b", "Enter")
    tmux.wait_for(r"int8-best \+1 +[\d.]+")
    tmux.press("u")
    # Their own rows may be below those that fit.
    tmux.wait_for(r"\d to be evaluated")
    tmux.wait_until_gone(r"\d to be evaluated")
    # The best stands first; the cursor is still on the candidate that was evaluated first.
    tmux.press("Tab", "Home")
    head = r"candidate +perplexity .*\n.*"
    first = tmux.wait_for(head + r"(as it is|mixed-|int8-|fp16)\S*( \+\d)? +[\d.]+")
    # Of the model as it is no run can be made: then the next one.
    if re.search(head + "as it is", first):
        tmux.press("Down")
    tmux.press("K")
    tmux.wait_for("kept as run 2")


def move_the_slider(tmux: Tmux) -> None:
    tmux.press("Tab", "6")
    tmux.wait_for(r"60% .*perplexity [\d.]+")
    tmux.wait_for(r"[\d,]+ weights left")
    tmux.press("Right")
    tmux.wait_for(r"65% .*perplexity [\d.]+")
    tmux.press("Escape")


def prune_as_suggested(tmux: Tmux) -> None:
    """Measure each tensor, lower the goal, start what follows."""
    tmux.press("v")
    tmux.wait_for("was not measured yet")
    tmux.press("r")
    tmux.wait_for(r"measured by 3 .*finished")
    tmux.press("Left", "Left")
    tmux.wait_for("goal 70%")
    tmux.press("C-s")
    tmux.wait_for(r"4 .*✓")


def compare_and_export(tmux: Tmux, home: Path) -> None:
    """Dense, quantized and pruned, in the table and as points."""
    tmux.press("c")
    screen = tmux.wait_for("(?s)Perplexity by size.*front: ")
    for run in (r"● 1 ", r"◆ 2 ", r"4 "):
        assert re.search(rf"{run}.* [\d.]+ .*B", screen), screen
    for downs, suffix in ((0, ".md"), (2, ".tex"), (4, ".svg")):
        tmux.press("e")
        tmux.wait_for("Export as")
        tmux.press(*["Down"] * downs, "Enter")
        path = home / f"compared{suffix}"
        tmux.wait_for("Write it to this file")
        tmux.press("C-u")
        tmux.type(str(path))
        tmux.press("Enter")
        tmux.wait_until_gone("Write it to this file")
        tmux.wait_for("wrote ")
        tmux.until(path.exists)
    assert (home / "compared.md").read_text().count("\n|") >= 4
    assert "\\begin{tabular}" in (home / "compared.tex").read_text()
    assert (home / "compared.svg").read_text().startswith("<svg")


@pytest.mark.slow
@SIZES
def test_a_day_in_the_laboratory(home, size):
    write_corpus(home)
    tmux = Tmux(home, *size)
    try:
        train_one_epoch(tmux)
        evaluate_settings(tmux)
        move_the_slider(tmux)
        prune_as_suggested(tmux)
        compare_and_export(tmux, home)
    finally:
        tmux.close()
    kinds = [run.read().kind for run in Home(home).session("default").runs()]
    assert kinds == ["train", "quantize", "sensitivity", "prune"]
