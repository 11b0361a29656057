"""`lmbench generate` and `lmbench export` as a user meets them."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lmbench.cli import run as lmbench
from lmbench.config import GenerateConfig, PackConfig, TrainConfig
from lmbench.deploy.export.write import export_safetensors
from lmbench.deploy.load_model import LoadedModel, load_run
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.deploy.runtimes import choose
from lmbench.deploy.runtimes.choose import Measured
from lmbench.deploy.runtimes.interface import Runtime
from lmbench.errors import LmbenchError
from lmbench.generation import text as text_module
from lmbench.generation.sampler import Sampler
from lmbench.generation.text import Generation, append_sample, generate
from lmbench.model.rnn import RNNModel
from lmbench.session import Home, Run
from lmbench.session.store import Corpus
from lmbench.training.checkpoint import write_checkpoint

WORDS = ["<unk>", "<eos>", *(f"word{i}" for i in range(38))]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(2)
    model = RNNModel("LSTM", len(WORDS), 8, 8, 1, 0.3, True)
    session = Home(tmp_path).open_session("default")
    made = session.new_run(TrainConfig(), "train")
    session.write_vocabulary("cd" * 32, WORDS)
    shape = {"model": "LSTM", "emsize": 8, "nhid": 8, "nlayers": 1, "dropout": 0.3, "tied": True}
    made.update(
        shape={**shape, "ntoken": len(WORDS)},
        corpus=Corpus(name="toy", fingerprint="cd" * 32, ntokens=len(WORDS)),
        status="finished",
    )
    write_checkpoint(made.path / "best", model, {})
    return made


@pytest.fixture
def command(run: Run, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `lmbench` with these words: exit code, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        code = lmbench(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_same_seed_prints_the_same_text_twenty_words_a_line(command: Command) -> None:
    code, first, err = command("generate", "@", "--words", "45", "--seed", "7")
    assert code == 0
    assert [len(line.split()) for line in first.splitlines()] == [20, 20, 5]
    assert set(first.split()) <= set(WORDS)
    assert "seed 7" in err
    assert command("generate", "@", "--words", "45", "--seed", "7")[1] == first
    assert command("generate", "@", "--words", "45", "--seed", "8")[1] != first


def test_a_text_is_written_in_full_fp32_whatever_torch_lets_cudnn_do(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert command("generate", "@", "--words", "1")[0] == 0
    assert torch.backends.cudnn.allow_tf32 is False


def test_the_json_document_tells_all_and_is_alone_on_stdout(command: Command, run: Run) -> None:
    code, out, _ = command(
        *("generate", "1", "--words", "6", "--seed", "3", "--json", "--alternatives", "40"),
        *("--prompt", "word1 zebra", "--top-k", "5", "--temperature", "0.8"),
    )
    document = json.loads(out)
    assert code == 0
    assert document["run"] == run.ref
    assert document["prompt"] == "word1 zebra"
    assert document["unknown"] == ["zebra"]
    assert document["seed"] == 3
    assert document["settings"]["top_k"] == 5
    assert document["tokens_per_s"] > 0
    assert document["text"].split() == [word["text"] for word in document["words"]]
    for word in document["words"]:
        assert sum(other["before"] for other in word["alternatives"]) == pytest.approx(1, abs=1e-5)
        assert sum(other["after"] for other in word["alternatives"]) == pytest.approx(1, abs=1e-5)


def test_alternatives_are_shown_beside_each_word(command: Command) -> None:
    _, out, _ = command("generate", "--words", "2", "--alternatives", "3")
    assert out.count(" → ") >= 6
    assert "before → after" in out


def test_auto_is_as_near_to_fp32_as_is_asked_for(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "cache"))
    seconds = {"onnx": 3.0, "int8": 2.0, "int4": 1.0}

    def pretend(_: LoadedModel, entries: list[type[Runtime]], purpose: str) -> list[Measured]:
        assert purpose == "step"
        return [Measured(e.name, seconds.get(e.name, 9.0), 0.0) for e in entries]

    monkeypatch.setattr(choose, "measure", pretend)
    words = ("--words", "2", "--device", "cpu", "--runtime", "auto", "--accuracy", "close")
    assert json.loads(command("generate", *words, "--json")[1])["runtime"] == "int8"


def test_an_unknown_word_of_the_prompt_is_said(command: Command) -> None:
    _, _, err = command("generate", "--words", "2", "--prompt", "zebra word3")
    assert "not in the vocabulary, read as <unk>: 'zebra'" in err


def test_an_empty_prompt_is_said_to_be_none(command: Command) -> None:
    _, _, err = command("generate", "--words", "2", "--prompt", " ")
    assert "--prompt holds no word: the text starts as it does without one" in err


def test_outf_holds_the_text_and_stdout_the_progress(command: Command, tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    _, out, _ = command(
        "generate", "--words", "25", "--seed", "4", "--outf", str(target), "--log-interval", "10"
    )
    _, printed, _ = command("generate", "--words", "25", "--seed", "4")
    assert target.read_text().split() == printed.split()
    assert out.splitlines() == [f"| Generated {i}/25 words" for i in (0, 10, 20)]


def test_outf_leaves_a_file_that_is_there(command: Command, tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("precious")
    code, out, err = command("generate", "--words", "2", "--outf", str(target))
    assert (code, out) == (2, "")
    assert f"--outf {target}: is there already" in err
    assert target.read_text() == "precious"


def test_outf_leaves_a_file_that_comes_to_be_there_during_the_work(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.txt"

    def generated(*_: object) -> Generation:
        target.write_text("precious")
        return generate(load_run(Home(tmp_path).find_run("1")), GenerateConfig(words=2))

    monkeypatch.setattr("lmbench.cli.generate.write_text", generated)
    code, _, err = command("generate", "--words", "2", "--outf", str(target))
    assert code == 2
    assert "came to be there during the work and was left alone" in err
    assert target.read_text() == "precious"
    # The text itself is not lost.
    [sample] = Home(tmp_path).find_run("1").session.samples_path.read_text().splitlines()
    assert len(json.loads(sample)["text"].split()) == 2


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Permission denied"), LmbenchError("locked")]
)
def test_a_text_is_given_where_the_session_is_someone_elses(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("lmbench.cli.generate.append_sample", refuse)
    target = tmp_path / "out.txt"
    code, out, err = command("generate", "--words", "3", "--json", "--outf", str(target))
    assert code == 0
    assert len(json.loads(out)["text"].split()) == 3
    assert len(target.read_text().split()) == 3
    reason = getattr(error, "strerror", "locked")
    assert f"not kept among the samples of session default: {reason}" in err


def test_a_text_of_a_run_outside_all_sessions_is_kept_nowhere(
    command: Command, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(run.path, folder / "models" / run.path.name)
    shutil.copytree(run.session.path / "vocabulary", folder / "vocabulary")
    (folder / "samples.jsonl").write_text("precious")
    code, _, _ = command("generate", str(folder / "models" / run.path.name), "--words", "2")
    assert code == 0
    assert (folder / "samples.jsonl").read_text() == "precious"
    assert not (folder / ".lock").exists()


def test_outf_is_written_where_nobody_reads_the_progress(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("lmbench.cli.generate.write", closed)
    target = tmp_path / "out.txt"
    command("generate", "--words", "30", "--log-interval", "10", "--outf", str(target))
    assert len(target.read_text().split()) == 30


def test_each_generation_of_a_run_is_kept_with_its_session(command: Command, run: Run) -> None:
    command("generate", "--words", "5", "--seed", "4")
    command("generate", "--words", "5", "--prompt", "word2", "--json")
    samples = [json.loads(line) for line in run.session.samples_path.read_text().splitlines()]
    assert [s["run"] for s in samples] == [run.ref, run.ref]
    assert [s["prompt"] for s in samples] == ["", "word2"]
    assert all(len(s["text"].split()) == 5 and s["tokens_per_s"] > 0 for s in samples)


def test_a_sample_after_a_torn_line_begins_a_line_of_its_own(run: Run) -> None:
    run.session.samples_path.write_bytes(b'{"t": 1, "te')
    append_sample(run.session, generate(load_run(run), GenerateConfig(words=2)))
    torn, whole = run.session.samples_path.read_text().splitlines()
    assert torn == '{"t": 1, "te'
    assert json.loads(whole)["run"] == run.ref


@pytest.mark.parametrize(
    "words, message",
    [
        (("--temperature", "-1"), "--temperature"),
        (("--top-p", "0"), "--top-p"),
        (("--top-k", "-3"), "--top-k"),
        (("--words", "0"), "--words"),
        (("--prompt", "word1 \udcff"), "--prompt is not UTF-8"),
        (("--runtime", "int3"), "runtime 'int3'"),
        (("--runtime", "auto", "--accuracy", "rough"), "--accuracy"),
        (("--accuracy", "exact"), "--accuracy exact is for --runtime auto to choose by"),
        (("--outf", "no/such/folder/x.txt"), "--outf"),
        (("--checkpoint", "last"), "no checkpoint 'last'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    command: Command, words: tuple[str, ...], message: str
) -> None:
    code, out, err = command("generate", "@", *words)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_ctrl_c_keeps_what_was_written(
    command: Command, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Sampler):
        def words(self, count: int, alternatives: int = 0):  # type: ignore[no-untyped-def]
            yield from super().words(3, alternatives)
            raise KeyboardInterrupt

    monkeypatch.setattr(text_module, "Sampler", Interrupted)
    code, out, _ = command("generate", "--words", "50")
    assert code == 130
    assert len(out.split()) == 3
    assert len(json.loads(run.session.samples_path.read_text())["text"].split()) == 3


def test_words_that_would_steer_the_terminal_are_printed_without_their_controls(
    command: Command, run: Run
) -> None:
    evil = ["<unk>", "<eos>", *(f"\x1b[2Jword{i}" for i in range(38))]
    (run.session.path / "vocabulary" / f"{'cd' * 16}.txt").write_text("\n".join(evil))
    _, out, _ = command("generate", "--words", "30", "--alternatives", "3")
    assert "\x1b" not in out


def test_an_exported_safetensors_file_generates_the_same_text_alone(
    command: Command, tmp_path: Path
) -> None:
    code, out, _ = command(
        "export", "@", "--format", "safetensors", "-o", "m.safetensors", "--json"
    )
    assert code == 0
    assert json.loads(out)["bytes"] == (tmp_path / "m.safetensors").stat().st_size
    of_run = command("generate", "@", "--words", "30", "--seed", "9")[1]
    assert command("generate", "m.safetensors", "--words", "30", "--seed", "9")[1] == of_run


@pytest.fixture
def corpus(run: Run) -> Path:
    """A folder whose words come in the order of the model's ids."""
    folder = run.home.path / "toy"
    folder.mkdir()
    # <eos> ends the first line, so it is the second word.
    (folder / "train.txt").write_text("<unk>\n" + " ".join(WORDS[2:]) + "\n")
    for split in ("valid", "test"):
        (folder / f"{split}.txt").write_text("word1 word2\n")
    return folder


def test_a_bare_file_of_weights_speaks_the_words_of_the_corpus_that_is_named(
    command: Command, run: Run, corpus: Path
) -> None:
    weights = str(run.path / "best" / "model.safetensors")
    seed = ("--words", "8", "--seed", "7")
    code, _, err = command("generate", weights, *seed)
    assert code == 2
    assert "--data" in err
    expected = command("generate", "@", *seed)[1]
    assert command("generate", weights, *seed, "--data", str(corpus))[1] == expected
    # As the original's generator is called.
    assert command("generate", "--checkpoint", weights, *seed, "--data", str(corpus))[1] == expected


def test_a_packed_file_speaks_its_own_words_where_their_corpus_is_named(
    command: Command, run: Run, corpus: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.lmpack"
    write_packed(load_run(run).recurrent, WORDS, path, PackConfig(weights="fp32"))
    seed = ("--words", "8", "--seed", "7")
    expected = command("generate", "@", *seed)[1]
    assert command("generate", str(path), *seed, "--data", str(corpus))[1] == expected


def test_a_corpus_that_is_not_the_models_is_refused(command: Command, corpus: Path) -> None:
    train = corpus / "train.txt"
    train.write_text("<unk>\n" + " ".join(reversed(WORDS[2:])) + "\n")
    code, _, err = command("generate", "@", "--data", str(corpus))
    assert code == 2
    assert "numbers its words otherwise" in err
    train.write_text("one two\n")
    code, _, err = command("generate", "@", "--data", str(corpus))
    assert code == 2
    assert "has 5 words" in err
    assert "default/001-train 40" in err


@pytest.mark.parametrize("model", ["@", "1"])
def test_a_checkpoint_is_best_last_or_a_file(command: Command, run: Run, model: str) -> None:
    code, _, err = command("generate", model, "--checkpoint", "bets")
    assert code == 2
    assert "--checkpoint bets: " in err
    assert "best" in err
    assert "last" in err


@pytest.mark.parametrize("bits", ["fp32", "int4"])
def test_export_names_the_file_after_the_run_and_tells_how_well_it_agrees(
    command: Command, tmp_path: Path, bits: str
) -> None:
    code, out, _ = command("export", "@", "--format", "onnx", "--bits", bits)
    assert code == 0
    assert (tmp_path / "001-train.onnx").is_file()
    assert "agrees with torch" in out


def test_an_export_of_a_run_with_a_short_test_split_is_checked_on_random_words(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short:
        name = "short"

        def split(self, _: str) -> np.ndarray:
            return np.array([0, 1, 0])

    monkeypatch.setattr("lmbench.cli.export_model.corpus_of", lambda *_: Short())
    code, out, _ = command("export", "@", "--format", "onnx")
    assert code == 0
    assert "random words" in out


def test_bits_of_a_safetensors_export_are_refused(command: Command) -> None:
    code, _, err = command("export", "@", "--format", "safetensors", "--bits", "int8")
    assert code == 2
    assert "lmbench pack" in err


def test_export_safetensors_is_refused_where_the_model_is_wrapped(run: Run, tmp_path: Path) -> None:
    loaded = load_run(run)
    loaded.recurrent.rnn = torch.nn.Sequential(loaded.recurrent.rnn)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(Exception, match="is a quantized model"):
        export_safetensors(loaded, tmp_path / "x.safetensors")
