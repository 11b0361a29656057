"""A model as a folder that the Hugging Face Hub lays out: weights, configuration, words, card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmbench.deploy.export.write import export_safetensors
from lmbench.deploy.load_model import LoadedModel
from lmbench.session.files import json_bytes, new_folder, write_atomic

__all__ = ["CARD", "WEIGHTS", "export_hub"]

CARD = "README.md"
WEIGHTS = "model.safetensors"


def export_hub(loaded: LoadedModel, folder: Path, card: Callable[[int], str]) -> None:
    """Write ``model.safetensors``, ``config.json``, ``vocab.txt`` and ``README.md``.

    `lmbench.deploy.load_model.load_file` reads the folder back. Words that hold line ends are
    kept in ``vocab.json`` instead, each with its id.

    Args:
        loaded: a plain float model with its vocabulary.
        card: the text of the card, from the bytes of the weights' file.

    Raises:
        LmbenchError: the model's modules are wrapped by a quantizer.
        OSError: the folder is there already, or cannot be written.
    """
    with new_folder(folder) as filling:
        export_safetensors(loaded, filling / WEIGHTS)
        write_atomic(filling / "config.json", json_bytes(_config(loaded)))
        words = loaded.vocabulary
        if all(len(word.splitlines()) == 1 for word in words):
            write_atomic(filling / "vocab.txt", "".join(f"{word}\n" for word in words).encode())
        else:
            ids = {word: id for id, word in enumerate(words)}
            write_atomic(filling / "vocab.json", json_bytes(ids))
        write_atomic(filling / CARD, card((filling / WEIGHTS).stat().st_size).encode())


def _config(loaded: LoadedModel) -> dict[str, Any]:
    """The shape in the words that configurations on the Hub use."""
    shape = loaded.shape
    return {
        "model_type": "lmbench",
        "architectures": [type(loaded.recurrent).__name__],
        "rnn_type": shape["model"],
        "vocab_size": shape["ntoken"],
        "embedding_size": shape["emsize"],
        "hidden_size": shape["nhid"],
        "num_hidden_layers": shape["nlayers"],
        "dropout": shape.get("dropout", 0.0),
        "tie_word_embeddings": shape["tied"],
        "projection": shape.get("projection", False),
        "dtype": "float32",
    }
