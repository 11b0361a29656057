"""ONNX models with the two signatures that sherpa-onnx reads a language model by.

``offline`` (sherpa-onnx's `OfflineRnnLM`, which ranks whole hypotheses): ``x`` int64 [N, L] and
``x_lens`` int64 [N], its tokens without padding, to ``nll`` float [N], the negative log-likelihood
of each sentence with its end. The beginning and the end are added in the graph.

``streaming`` (`OnlineRnnLM`, which scores while it searches, by shallow fusion): ``x`` int64
[N, L], ``h0`` and ``c0`` float [layers, N, H] to ``log_softmax`` float [N, L, V], ``next_h0`` and
``next_c0``. The loader takes inputs and outputs by their order, reads ``num_layers``,
``hidden_size`` and ``sos_id`` from the metadata, and feeds ``sos_id`` itself.

Names and metadata are those of icefall's exporter (k2-fsa/icefall, ``icefall/rnn_lm``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import onnx
import torch

from lmbench.corpus.ids import EOS
from lmbench.deploy.export.onnx_model import Bits, Network
from lmbench.deploy.export.onnx_nodes import Graph, value
from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.recurrent_weights import RecurrentWeights
from lmbench.deploy.runtimes.naive import NaiveRuntime
from lmbench.deploy.runtimes.onnx_runtime import open_session
from lmbench.errors import LmbenchError

__all__ = ["Signature", "build_sherpa", "largest_difference"]

Signature = Literal["offline", "streaming"]
SIGNATURES: tuple[Signature, ...] = get_args(Signature)

# Sentences that the two models are compared on.
_CHECKED = 12


def build_sherpa(loaded: LoadedModel, bits: Bits) -> dict[Signature, onnx.ModelProto]:
    """Both models.

    Raises:
        LmbenchError: the vocabulary has no ``<eos>``, with which sentences begin and end.
    """
    eos = _eos(loaded)
    weights = loaded.weights
    models: dict[Signature, onnx.ModelProto] = {
        "offline": _offline(weights, bits, eos),
        "streaming": _streaming(weights, bits),
    }
    about = {
        "model_type": "rnnlm",
        "version": "1",
        "model_author": "lmbench",
        "sos_id": str(eos),
        "eos_id": str(eos),
        "vocab_size": str(weights.ntoken),
        "num_layers": str(weights.nlayers),
        "hidden_size": str(weights.nhid),
    }
    for name, model in models.items():
        comment = f"{name} word-level language model"
        onnx.helper.set_model_props(model, {**about, "comment": comment})
    return models


def _eos(loaded: LoadedModel) -> int:
    if EOS not in loaded.vocabulary:
        raise LmbenchError(
            f"{loaded.title}: its vocabulary has no {EOS}, with which --contract sherpa begins and "
            "ends a sentence; name the run, or a file that lmbench wrote"
        )
    return loaded.vocabulary.index(EOS)


def _offline(weights: RecurrentWeights, bits: Bits, eos: int) -> onnx.ModelProto:
    network = Network(weights, bits)
    g = network.graph
    count = g.op("Slice", g.op("Shape", "x"), g.ints(0), g.ints(1))  # [N]
    column = g.op("Expand", g.const(np.array([[eos]])), g.op("Concat", count, g.ints(1), axis=0))
    ids = g.op("Transpose", g.op("Concat", column, "x", axis=1), perm=[1, 0])  # [L + 1, N]
    state_shape = g.op("Concat", g.ints(weights.nlayers), count, g.ints(weights.nhid), axis=0)
    zeros = g.op("Expand", g.const(np.zeros((1, 1, 1), np.float32)), state_shape)
    logits, _ = network.logits(ids, [zeros] * weights.parts)
    place = _places(g, ids)  # [L + 1, 1]
    ends = g.op("Equal", place, "x_lens")  # [L + 1, N]
    following = g.op("Transpose", g.op("Concat", "x", column, axis=1), perm=[1, 0])
    targets = g.op("Where", ends, g.const(np.array(eos)), following)
    chosen = g.op(
        "GatherElements",
        g.op("LogSoftmax", logits, axis=1),  # [(L + 1) * N, V]
        g.op("Reshape", targets, g.ints(-1, 1)),
        axis=1,
    )
    losses = g.op("Neg", g.op("Reshape", chosen, g.op("Shape", ids)))  # [L + 1, N]
    counted = g.op("LessOrEqual", place, "x_lens")
    kept = g.op("Where", counted, losses, g.const(np.array(0, np.float32)))
    g.named(g.op("ReduceSum", kept, g.ints(0), keepdims=0), "nll")
    return g.model(
        [value("x", "int64", "N", "L"), value("x_lens", "int64", "N")], [value("nll", "float", "N")]
    )


def _places(g: Graph, ids: str) -> str:
    """0, 1, … for the rows of ids [R, N], as [R, 1]."""
    rows = g.op("Gather", g.op("Shape", ids), g.const(np.array(0)), axis=0)
    places = g.op("Range", g.const(np.array(0)), rows, g.const(np.array(1)))
    return g.op("Unsqueeze", places, g.ints(1))


def _streaming(weights: RecurrentWeights, bits: Bits) -> onnx.ModelProto:
    network = Network(weights, bits)
    g = network.graph
    ids = g.op("Transpose", "x", perm=[1, 0])  # [L, N]
    # A cell without a memory of its own hands on what it is given: the loader always feeds both.
    logits, after = network.logits(ids, ("h0", "c0")[: weights.parts])
    full = g.op("Concat", g.op("Shape", ids), g.ints(weights.ntoken), axis=0)
    scores = g.op("LogSoftmax", g.op("Reshape", logits, full), axis=2)  # [L, N, V]
    g.named(g.op("Transpose", scores, perm=[1, 0, 2]), "log_softmax")
    for name, part in zip(("h0", "c0"), [*after, "c0"], strict=False):
        g.named(part, f"next_{name}")
    sizes = (weights.nlayers, "N", weights.nhid)
    return g.model(
        [value("x", "int64", "N", "L"), *(value(name, "float", *sizes) for name in ("h0", "c0"))],
        [
            value("log_softmax", "float", "N", "L", weights.ntoken),
            *(value(f"next_{name}", "float", *sizes) for name in ("h0", "c0")),
        ],
    )


def largest_difference(
    loaded: LoadedModel, models: Mapping[Signature, bytes], tokens: np.ndarray
) -> tuple[float, int]:
    """How far ONNX Runtime's log probabilities are from torch's, in nats a token, over the first
    sentences of a text; and how many tokens those have.

    Args:
        models: both signatures, serialized.
        tokens: ids of a real text, [tokens].

    Raises:
        LmbenchError: there is no word in the text.
    """
    eos = _eos(loaded)
    ends = np.flatnonzero(tokens == eos)
    texts = [part[part != eos].astype(np.int64) for part in np.split(tokens, ends)]
    texts = [text for text in texts if len(text)][:_CHECKED]
    if not texts:
        raise LmbenchError(
            f"{loaded.title}: the {len(tokens)} tokens that an export is checked on have no word "
            f"among them, only {EOS}; a file of the model in place of the run is checked on random "
            "words"
        )
    threads = torch.get_num_threads()
    offline, streaming = (open_session(models[name], threads) for name in SIGNATURES)
    padded = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    lengths = np.array([len(text) for text in texts])
    [nll] = offline.run(None, {"x": padded, "x_lens": lengths})
    worst = 0.0
    exact = NaiveRuntime(loaded)
    for text, of_sentence in zip(texts, np.asarray(nll), strict=True):
        read, following = np.append(eos, text), np.append(text, eos)
        window = (torch.from_numpy(read)[:, None], torch.from_numpy(following))
        [losses] = exact.losses([window], exact.initial_state(1))
        wanted = losses.double().numpy()
        shape = (loaded.weights.nlayers, 1, loaded.weights.nhid)
        zeros = np.zeros(shape, np.float32)
        scores, *_ = streaming.run(None, {"x": read[None], "h0": zeros, "c0": zeros})
        found = -np.asarray(scores)[0, np.arange(len(read)), following]
        differences = [*np.abs(found - wanted), abs(float(of_sentence) - wanted.sum()) / len(read)]
        # Unlike max(), this keeps a NaN, which must fail the check.
        worst = float(np.max([worst, *differences]))
    return worst, int(lengths.sum()) + len(texts)
