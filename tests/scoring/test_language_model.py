"""`lmbench.LanguageModel`: what may come next, and what a packed file needs for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scoring_world import WORDS, loaded, packed, sentences

from lmbench import LanguageModel
from lmbench.deploy.export.write import export_safetensors
from lmbench.deploy.load_model import load_packed
from lmbench.deploy.native import why_unavailable
from lmbench.deploy.runtimes.table import as_is_runtime, build_runtime
from lmbench.errors import LmbenchError
from lmbench.scoring.predictor import RuntimePredictor

needs_kernels = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return packed(tmp_path / "model.lmpack", loaded(), weights="int8", zstd=True)


def test_the_next_words_are_the_likeliest_with_their_probabilities(file: Path) -> None:
    lm = LanguageModel.load(file)
    every = lm.next("the cat", len(WORDS))
    assert "<unk>" not in dict(every)
    assert len(every) == len(WORDS) - 1
    assert [p for _, p in every] == sorted((p for _, p in every), reverse=True)
    likeliest, probability = every[0]
    log_prob = lm.score(["the", "cat", likeliest]).log_probs[2]
    assert probability == pytest.approx(np.exp(log_prob), rel=1e-4)
    assert lm.next(["the", "cat"], 3) == every[:3]
    assert lm.next("the cat", 0) == []


def test_completions_are_the_next_words_that_begin_so(file: Path) -> None:
    lm = LanguageModel.load(file)
    expected = [(w, p) for w, p in lm.next("on", len(WORDS)) if w.startswith("the")]
    assert lm.complete("on", "the", 5) == expected
    assert {word for word, _ in expected} == {"the", "then", "there"}
    assert lm.complete("on", "the", 1) == expected[:1]
    assert lm.complete("on", "zz") == []
    assert lm.complete("on", "", 4) == lm.next("on", 4)


def test_completions_of_a_model_of_pieces_are_first_pieces_of_words() -> None:
    words = ["<eos>", "<unk>", "▁the", "▁ga", "me", "ga", "▁gar", "▁gÃ©"]
    runtime = build_runtime("torch", loaded(words=words))
    lm = LanguageModel(RuntimePredictor(runtime), words, "pieces", "torch")
    assert {word for word, _ in lm.complete("the", "ga")} == {"▁ga", "▁gar"}
    assert [word for word, _ in lm.complete("the", "gé")] == ["▁gÃ©"]
    assert lm.complete("the", "game") == []


def test_a_stream_goes_on_where_it_stands(file: Path) -> None:
    lm = LanguageModel.load(file)
    stream = lm.stream("the")
    log_prob = stream.read("cat sat")
    assert log_prob == pytest.approx(lm.score("the cat sat").log_probs[1:3].tolist(), abs=1e-5)
    assert stream.next(5) == lm.next("the cat sat", 5)
    stream.end()
    assert stream.next(5) == lm.next("the cat sat <eos>", 5) != lm.next((), 5)


@needs_kernels
@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("sparse", ["never", "always"])
def test_a_packed_file_scores_as_the_runtime_that_evaluate_takes(
    tmp_path: Path, weights: str, sparse: str
) -> None:
    file = packed(tmp_path / "m.lmpack", loaded(), weights=weights, sparse=sparse)
    source = load_packed(file)
    lm = LanguageModel.load(file, threads=1)
    assert lm.runtime == as_is_runtime(source)
    runtime = RuntimePredictor(build_runtime(lm.runtime, source))
    other = LanguageModel(runtime, WORDS, "tiny", lm.runtime)
    texts = sentences(40)
    for one, same in zip(lm.score_lines(texts), other.score_lines(texts), strict=True):
        np.testing.assert_array_equal(one.log_probs, same.log_probs)


def test_files_of_weights_are_opened_by_torch(tmp_path: Path) -> None:
    export_safetensors(loaded(), tmp_path / "model.safetensors")
    lm = LanguageModel.load(tmp_path / "model.safetensors")
    assert lm.runtime == "torch"
    assert len(lm.next("the", 3)) == 3
    with pytest.raises(LmbenchError, match="there is no such run or file"):
        LanguageModel.load(tmp_path / "no.lmpack")


USE = """
import sys
from lmbench import LanguageModel
lm = LanguageModel.load(sys.argv[1], threads=1)
lm.next("w1 w2"), lm.complete("w1", "w"), lm.score("w1 w2 w3").total.perplexity
print([name for name in ("torch", "pydantic", "onnxruntime", "textual") if name in sys.modules])
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@needs_kernels
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_packed_2x200_model_is_used_without_torch_in_80_mb(tmp_path: Path) -> None:
    words = ["<eos>", "<unk>", *(f"w{i}" for i in range(33_276))]
    source = loaded(words=words, nhid=200)
    file = packed(tmp_path / "model.lmpack", source, weights="int8", sparse="never", zstd=True)
    command = [sys.executable, "-c", USE, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    heavy, peak = done.stdout.splitlines()
    assert heavy == "[]"
    assert int(peak) < 80_000  # in kB
