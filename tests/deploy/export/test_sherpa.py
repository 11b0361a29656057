"""What `lmbench export --contract sherpa` writes, read as sherpa-onnx's loader reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from scoring_world import WORDS, loaded, sentences

from lmbench.cli.export_model import export_model, print_exported
from lmbench.deploy.export import sherpa, write
from lmbench.deploy.export.onnx_model import Bits
from lmbench.deploy.export.write import export_sherpa
from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.runtimes.table import build_runtime
from lmbench.errors import LmbenchError
from lmbench.scoring import LanguageModel
from lmbench.scoring.predictor import RuntimePredictor

TEXTS = [text for text in sentences(20) if text]


def tokens() -> NDArray[np.int64]:
    words = [word for text in TEXTS for word in (*text.split(), "<eos>")]
    return np.array([WORDS.index(word) if word in WORDS else 1 for word in words])


def language_model(source: LoadedModel, runtime: str = "torch") -> LanguageModel:
    built = build_runtime(runtime, source)
    return LanguageModel(RuntimePredictor(built), WORDS, "tiny", runtime)


def exported(
    folder: Path, source: LoadedModel, bits: Bits = "fp32"
) -> dict[str, onnxruntime.InferenceSession]:
    files, difference, checked = export_sherpa(source, folder / "lm.onnx", tokens(), bits)
    assert difference < (1e-4 if bits == "fp32" else 0.5)
    assert checked > 40
    names = [file.name for file in files]
    assert names == ["lm.offline.onnx", "lm.streaming.onnx"]
    cpu = ["CPUExecutionProvider"]
    return {name: onnxruntime.InferenceSession(f, providers=cpu) for f, name in files.items()}


def padded(lm: LanguageModel, filler: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    texts = [lm.words.ids(text.split()) for text in TEXTS]
    x = np.full((len(texts), max(map(len, texts))), filler, np.int64)
    for row, text in zip(x, texts, strict=True):
        row[: len(text)] = text
    return x, np.array([len(text) for text in texts])


def test_the_document_names_the_files_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = tmp_path / "lm.onnx"
    document = export_model(loaded("GRU"), None, wanted, "onnx", contract="sherpa")
    assert "file" not in document
    assert sorted(document["files"]) == sorted(map(str, tmp_path.iterdir()))
    print_exported(document)
    assert "lm.offline.onnx" in capsys.readouterr().out
    assert export_model(loaded("GRU"), None, wanted, "onnx")["file"] == str(wanted)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_offline_model_gives_the_scores_of_whole_sentences(
    tmp_path: Path, kind: str, tied: bool
) -> None:
    source = loaded(kind, tied=tied)
    lm = language_model(source)
    expected = [-score.total.log_prob for score in lm.score_lines(TEXTS)]
    offline = exported(tmp_path, source)["offline"]
    assert [i.name for i in offline.get_inputs()] == ["x", "x_lens"]
    assert [o.name for o in offline.get_outputs()] == ["nll"]
    for filler in (0, 7):  # what pads a sentence must not matter
        x, lengths = padded(lm, filler)
        [nll] = offline.run(None, {"x": x, "x_lens": lengths})
        assert np.asarray(nll).dtype == np.float32
        np.testing.assert_allclose(np.asarray(nll), expected, atol=1e-4)
    [empty] = offline.run(None, {"x": x[:1], "x_lens": np.array([0])})
    assert float(np.asarray(empty)[0]) == pytest.approx(-lm.score("").total.log_prob, abs=1e-4)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH"])
def test_the_streaming_model_is_stepped_as_the_loader_steps_it(tmp_path: Path, kind: str) -> None:
    """Inputs and outputs by their order, shapes and the first token from the metadata."""
    source = loaded(kind)
    lm = language_model(source)
    streaming = exported(tmp_path, source)["streaming"]
    about = streaming.get_modelmeta().custom_metadata_map
    shape = (int(about["num_layers"]), 1, int(about["hidden_size"]))
    assert int(about["vocab_size"]) == len(WORDS)
    inputs = [i.name for i in streaming.get_inputs()]
    assert inputs == ["x", "h0", "c0"]
    assert [o.name for o in streaming.get_outputs()] == ["log_softmax", "next_h0", "next_c0"]

    def score_token(token: int, states: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        feeds = dict(zip(inputs, [np.array([[token]]), *states], strict=True))
        scores, *after = (np.asarray(part) for part in streaming.run(None, feeds))
        return scores, after

    for text in TEXTS[:4]:
        zeros = [np.zeros(shape, np.float32) for _ in range(2)]
        scores, states = score_token(int(about["sos_id"]), zeros)
        found = []
        for id in [*lm.words.ids(text.split()).tolist(), int(about["eos_id"])]:
            found.append(scores.reshape(-1)[id])
            scores, states = score_token(id, states)
        np.testing.assert_allclose(found, lm.score(text).log_probs, atol=1e-4)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_int8_differs_by_its_own_rounding_alone(tmp_path: Path, kind: str) -> None:
    source = loaded(kind)
    models = exported(tmp_path, source, "int8")
    small, lm = language_model(source, "int8"), language_model(source)
    for text in TEXTS[:6]:
        ids = lm.words.ids(text.split())
        [nll] = models["offline"].run(None, {"x": ids[None], "x_lens": np.array([len(ids)])})
        # ONNX Runtime takes a range of activations for each window: here both read the sentence.
        expected = -small.score(text).total.log_prob
        assert float(np.asarray(nll)[0]) == pytest.approx(expected, abs=0.02 * (len(ids) + 1))
        assert float(np.asarray(nll)[0]) == pytest.approx(
            -lm.score(text).total.log_prob, abs=0.1 * (len(ids) + 1)
        )
    sizes = {b: write_size(tmp_path, source, b) for b in ("fp32", "int8")}
    assert sizes["int8"] < sizes["fp32"]


def write_size(folder: Path, source: LoadedModel, bits: Bits) -> int:
    files, _, _ = export_sherpa(source, folder / f"{bits}.onnx", tokens(), bits)
    return sum(file.stat().st_size for file in files)


def test_a_model_whose_scores_are_others_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = loaded()
    other.recurrent.decoder.bias[3] += 1
    monkeypatch.setattr(write, "build_sherpa", lambda _, bits: sherpa.build_sherpa(other, bits))
    with pytest.raises(LmbenchError, match=r"not written: .* differ from torch's"):
        export_sherpa(loaded(), tmp_path / "lm.onnx", tokens())
    assert list(tmp_path.iterdir()) == []


def test_a_text_without_a_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LmbenchError, match="the 3 tokens that an export is checked on have no wor"):
        export_sherpa(loaded(), tmp_path / "lm.onnx", np.full(3, WORDS.index("<eos>")))
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_without_eos_is_refused(tmp_path: Path) -> None:
    source = loaded(words=["<unk>", "a", "b"])
    with pytest.raises(LmbenchError, match="its vocabulary has no <eos>"):
        export_sherpa(source, tmp_path / "lm.onnx", np.array([1, 2, 1, 2]))
