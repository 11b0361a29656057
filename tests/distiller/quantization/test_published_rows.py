"""The published rows on the real WikiText-2 LSTM, when it and the corpus are there."""

import copy
import json
import math

import numpy as np
import pytest
import yaml
from places import SHARED, WIKITEXT
from ptq_world import LanguageModel, batchify, mean_loss, runner, tie
from safetensors.torch import load_file

from lmbench.distiller.quantization import (
    PostTrainLinearQuantizer,
    calibrate,
    load_preset,
    modular_copy,
    quantize,
)

MODEL = SHARED / "vectors" / "real_model"
TEXT = WIKITEXT
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not MODEL.is_dir() or not TEXT.is_dir(), reason="the real model is not beside the checkout"
    ),
]


@pytest.fixture(scope="module")
def world():
    ids: dict[str, int] = {}
    splits = {}
    for split in ("train", "valid", "test"):
        with (TEXT / f"{split}.txt").open(encoding="utf-8") as lines:
            words = [word for line in lines for word in (*line.split(), "<eos>")]
        splits[split] = np.array([ids.setdefault(word, len(ids)) for word in words])
    weights = load_file(MODEL / "model.safetensors")
    weights.setdefault("decoder.weight", weights["encoder.weight"])
    model = LanguageModel(len(ids), 200, 2)
    model.load_state_dict(weights)
    plain = modular_copy(tie(model))
    stats = calibrate(plain, runner(batchify(splits["valid"])))
    return plain, stats, batchify(splits["test"][:24500])


def rows():
    if not MODEL.is_dir():
        return []
    found = json.loads((MODEL / "rows.json").read_text(encoding="utf-8"))
    return found["rows"] + found["rows_with_corrected_averages"]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["name"])
def test_a_published_row_is_met(row, world):
    plain, stats, test = world
    model = plain
    if row["args"] is not None:
        arguments = dict(row["args"])
        overrides = yaml.safe_load(arguments.pop("overrides", "")) or {}
        overrides.setdefault("encoder", {"per_row_embedding": False})
        model = PostTrainLinearQuantizer(
            copy.deepcopy(plain), overrides=overrides, model_activation_stats=stats, **arguments
        ).prepare_model()
    assert math.exp(mean_loss(model, test)) == pytest.approx(row["test_ppl"], rel=5e-3)


def test_int8_best_loses_at_most_half_a_percent(world):
    plain, stats, test = world
    model = quantize(plain, load_preset("int8-best"), stats)
    assert mean_loss(model, test) - mean_loss(plain, test) < math.log(1.005)
