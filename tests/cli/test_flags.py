"""Flags: whole numbers are whole, and none is taken that would do nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import commands

from lmbench.cli import run as lmbench
from lmbench.cli.flags import check_needs
from lmbench.config import PruneConfig, TrainConfig
from lmbench.errors import LmbenchError
from lmbench.session import Home

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    home = Home(tmp_path)
    home.open_session().new_run(TrainConfig(), "train").update(status="stopped")
    return home


FLAGS = [
    (*command, argument.names[0])
    for command, arguments in commands().items()
    for argument in arguments
    if "int" in (hint := str(argument.hint)) and "float" not in hint and "Literal" not in hint
]
NEEDED = {
    ("data", "make"): ("mine", "text.txt"),
    ("pack",): ("1",),
    ("reproduce",): ("training",),
    ("rescore",): ("n-best.txt", "--models", "1"),
    ("runs", "log"): ("1",),
    ("schedule", "check"): ("small-80",),
    ("schedule", "plot"): ("small-80",),
    ("score",): ("1",),
}
"""What a command has to have before its flags are looked at."""


def test_there_are_flags_of_whole_numbers():
    assert len(FLAGS) > 40
    assert {("train", "--epochs"), ("runs", "log", "--lines")} <= set(FLAGS)


@pytest.mark.parametrize("words", FLAGS, ids=" ".join)
def test_a_fraction_is_no_whole_number(words, capsys: Capture):
    values, place = ("1.5", "35.0", "1e3", "x"), FLAGS.index(words)
    # All of them for the first flag, and one for every other in turn: they are parsed alike.
    for value in values[place % 4 :][:1] if place else values:
        assert lmbench([*words[:-1], *NEEDED.get(words[:-1], ()), words[-1], value]) == 2
        err = capsys.readouterr().err
        assert err == f"lmbench: {words[-1]}: '{value}': give a whole number\n"


@pytest.mark.parametrize(
    "line, flags",
    [
        ("train --resume 1 --epochs 2 --lr 0.001 --bptt 3", "--bptt, --epochs, --lr"),
        ("train --resume 1 --name x", "--name"),
        ("train --summary sparsity --detach", "--detach"),
        ("train --summary sparsity --seeds 2", "--seeds"),
        ("train --distill-temp 2", "--distill-temp"),
        ("train --teacher none --distill-temp 2", "--distill-temp"),
        # That is a preset.
        ("train --compress none --masked-gradients counted --allow-cpu", "--allow-cpu"),
        ("train --decay 0.9 --patience 3", "--patience"),
        ("train --masked-gradients counted", "--masked-gradients"),
        ("evaluate 1 --dynamic sgd --dynamic-tokens 50", "--dynamic-tokens"),
        ("train --cuda --device cpu", "--cuda"),
        ("evaluate 1 --cache-theta 0.3", "--cache-theta"),
        ("summary 1 --kind masks --gross", "--gross"),
        ("summary 1 --csv --json", "--csv"),
        ("compare 1 --json --format csv", "--format"),
        ("report --json --output x.md", "--output"),
        ("quantize --list-presets --preset int8-best", "--preset"),
        ("sensitivity 1 --output x.yaml", "--output"),
        ("sensitivity 1 --suggest 0.5 --output x.yaml --detach", "--output"),
        ("schedule check small-80 --run 1 --tied", "--tied"),
        ("schedule plot small-80 --run 1 --types 5", "--types"),
        ("schedule check small-80 --data pydoc --types 5", "--types"),
        ("schedule check small-80 --vocab train", "--vocab"),
        ("schedule check small-80 --session default2", "--session"),
        ("data make new data.pt --preview 1 --replace", "--replace"),
        ("quantize 1 --fp-activations", "--fp-activations"),
        ("tui --speed 2", "--speed"),
        ("tui --host 0.0.0.0 --port 80", "--host, --port"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused_by_name(line, flags, home, capsys: Capture):
    assert lmbench(line.split()) == 2
    assert capsys.readouterr().err.startswith(f"lmbench: {flags}: ")
    assert len(home.session("default").runs()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("sessions", "delete", "", "--yes"),
        ("sweep", "delete", "", "--yes"),
        ("prune", "", "--schedule", "large-80"),
        ("reproduce", "cache", "--model", "", "--session", "default"),
    ],
)
def test_an_empty_name_is_no_name_left_out(words, home, capsys: Capture):
    assert lmbench([*words]) == 2
    assert "''" in capsys.readouterr().err
    assert len(home.session("default").runs()) == 1


def test_allow_cpu_is_judged_beside_all_that_holds_where_it_was_asked_for():
    alone = PruneConfig(device="cpu", allow_cpu=True)
    check_needs(alone, {"allow_cpu"}, whole=False)
    check_needs(alone, ())
    with pytest.raises(LmbenchError, match="--allow-cpu: does nothing without --gpus"):
        check_needs(alone, {"allow_cpu"})


@pytest.mark.parametrize(
    "line, says",
    [
        ("trian", "no command 'trian': did you mean train?"),
        ("xyzzy", "no command 'xyzzy': lmbench --help lists the commands"),
        ("runs lst", 'Unknown command "lst". Did you mean "list"?'),
        ("train foo", "train: does not take 'foo': lmbench train --help shows what it takes"),
        ("generate --prompt -x", "a hyphen is written --prompt=-x"),
        ("train --name a\x07b", "--name: A run's name has no control characters"),
        ("tui --demo --speed nan", "--speed: nan: must be a number greater than 0"),
        ("train --name 1", "--name: 1 would mean another run"),
        ("train --epochs none", "--epochs: 'none': give a whole number"),
        ("train --patience none", "--patience: 'none': give a whole number"),
        ("pack 1 --name=", "--name: A run's name has 1 to 64 characters"),
        ("train --device foo", "none of the devices to compute on: auto, cpu, cuda, cuda:N, mps"),
        ("train --resume data.lmpack", "data.lmpack: this is no run's folder"),
        ("train --resume data.pt", "data.pt: a file, and no run has that name"),
        ("train --resume gone.lmpack", "gone.lmpack: there is no such run or file"),
        ("schedule check small-80 --data nowhere", "nowhere"),
        ("schedule check small-80 --types 0", "--types 0: give how many there are, at least 1"),
        ("data make new data.pt --preview -1", "--preview -1: give how many sentences"),
        ("data make new data.pt --preview 0", "--preview 0: give how many sentences"),
        ("data make new data.pt --valid 1e-300", "--valid: 1e-300: input should be greater"),
        ("data make new ~nouser/x.txt", "~nouser/x.txt: there is no such user"),
        ("data info /", "/ holds no corpus: it needs train.txt"),
        ("evaluate ~nouser", "~nouser: there is no such user"),
        ("benchmark ~nouser", "~nouser: there is no such user"),
        ("train --save ~nouser/x", "~nouser/x: there is no such user"),
        ("generate --checkpoint ~nouser/x", "~nouser/x: there is no such user"),
        ("generate ~nouser/x", "~nouser/x: there is no such user"),
        ("score ~nouser/x data.pt", "~nouser/x: there is no such user"),
        ("export ~nouser/x --format csv", "~nouser/x: there is no such user"),
        ("sensitivity 1 --suggest 0.5 --output data.lmpack", "data.lmpack: is there already"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(line, says, tmp_path, capsys: Capture):
    for name in ("data.lmpack", "data.pt"):
        (tmp_path / name).write_bytes(b"")
    assert lmbench(line.split()) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert "^(" not in err


@pytest.mark.parametrize(
    "command, says",
    [
        ("prune", "given, and not the defaults: model, corpus, learning rate, epochs (but never"),
        ("sweep start", "what was not made or not begun yet. Ctrl-C stops the sweep: the run at"),
    ],
)
def test_help_of_a_command_is_its_whole_text_in_paragraphs(
    command: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.setenv("COLUMNS", "200")
    assert lmbench([*command.split(), "--help"]) == 0
    assert says in capsys.readouterr().out


def test_help_lists_the_ways_to_name_a_run(capsys: Capture):
    assert lmbench(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for way in ("3, or a name", "@", "SESSION/3 or SESSION/003-quantize", "a path"):
        assert any(line.startswith(f"- {way}: ") for line in lines), way
