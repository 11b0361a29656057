"""Times the evaluation of quantized models beside the FP32 modular model's, side by side.

The two are timed in turns, a window each, so that whatever else the machine does falls on both;
the ratio of the medians is reported. Without --model random weights of the sizes in question are
used: the arithmetic does not depend on the values.

    python benchmarks/quantization.py --quick --json
    python benchmarks/quantization.py --model last/model.safetensors --data DIR
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from lmbench.distiller.quantization.calibration import calibrate
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.post_training import modular_copy, quantize
from lmbench.distiller.quantization.settings_files import load_preset

BATCH, BPTT, WORDS = 10, 35, 33278
PRESETS = ("int8-symmetric", "int8-asymmetric-per-channel", "int8-avg", "int8-best")


class LanguageModel(nn.Module):
    """The 2-layer tied model of the published tables, an LSTM there."""

    def __init__(self, words: int, width: int, layers: int = 2, kind: str = "LSTM") -> None:
        super().__init__()
        self.encoder = nn.Embedding(words, width)
        self.rnn = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN}[kind](width, width, layers)
        self.decoder = nn.Linear(width, words)
        self.decoder.weight = self.encoder.weight

    def forward(self, ids: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Ids (time, batch) → logits (time, batch, words) and the state."""
        output, hidden = self.rnn(self.encoder(ids), hidden)
        return self.decoder(output), hidden


def load_model(path: Path) -> LanguageModel:
    """A model from its safetensors, sizes read from the tensors."""
    tensors = load_file(path)
    words, width = tensors["encoder.weight"].shape
    layers = sum(name.startswith("rnn.weight_ih") for name in tensors)
    model = LanguageModel(words, width, layers)
    tensors.setdefault("decoder.weight", tensors["encoder.weight"])
    model.load_state_dict(tensors)
    return model


def read_ids(folder: Path) -> Tensor:
    """Test tokens (rows, batch), ids in the order of first appearance over train, valid, test."""
    ids: dict[str, int] = {}
    tokens: list[int] = []
    for split in ("train", "valid", "test"):
        tokens = []
        with (folder / f"{split}.txt").open(encoding="utf-8") as lines:
            for line in lines:
                tokens += [ids.setdefault(w, len(ids)) for w in (*line.split(), "<eos>")]
    rows = len(tokens) // BATCH
    return torch.tensor(tokens[: rows * BATCH]).view(BATCH, rows).t().contiguous()


@torch.no_grad()
def window(model: nn.Module, ids: Tensor, start: int, hidden: Any) -> tuple[float, float, Any]:
    """Seconds, loss and state of one window."""
    begun = time.perf_counter()
    logits, hidden = model(ids[start : start + BPTT], hidden)
    target = ids[start + 1 : start + 1 + BPTT].reshape(-1)
    loss = float(F.cross_entropy(logits.view(len(target), -1), target))
    return time.perf_counter() - begun, loss, hidden


def compare(model: nn.Module, ids: Tensor, preset: str, windows: int) -> dict[str, Any]:
    """Both models over the same windows in turns; the first window of each only warms up."""
    plain = modular_copy(model)
    starts = range(0, min((windows + 1) * BPTT, len(ids) - 1 - BPTT), BPTT)

    def run(candidate: nn.Module) -> None:
        hidden = None
        for start in list(starts)[:2]:
            hidden = window(candidate, ids, start, hidden)[2]

    quantized = quantize(model, load_preset(preset), calibrate(plain, run))
    states: list[Any] = [None, None]
    seconds: list[list[float]] = [[], []]
    losses: list[list[float]] = [[], []]
    for number, start in enumerate(starts):
        for which, candidate in enumerate((plain, quantized)):
            took, loss, states[which] = window(candidate, ids, start, states[which])
            if number:
                seconds[which].append(took)
                losses[which].append(loss)
    fp32, low = (statistics.median(values) * 1000 for values in seconds)
    return {
        "preset": preset,
        "fp32_ms": round(fp32, 2),
        "quantized_ms": round(low, 2),
        "ratio": round(low / fp32, 3),
        "loss_fp32": round(statistics.mean(losses[0]), 4),
        "loss_quantized": round(statistics.mean(losses[1]), 4),
    }


def main() -> int:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="two presets, few windows")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--data", type=Path, help="folder with train.txt, valid.txt, test.txt")
    parser.add_argument("--model", type=Path, help="safetensors of a trained LSTM")
    parser.add_argument("--kind", choices=("LSTM", "GRU", "RNN_TANH"), default="LSTM")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    windows = 3 if options.quick else 40
    results = []
    try:
        models: dict[str, nn.Module] = (
            {options.model.name: load_model(options.model)}
            if options.model
            else {f"2x{w}": LanguageModel(WORDS, w, kind=options.kind) for w in (200, 650)}
        )
        ids = (
            read_ids(options.data)
            if options.data
            else torch.randint(WORDS, ((windows + 3) * BPTT, BATCH))
        )
        for name, model in models.items():
            for preset in PRESETS[:1] if options.quick else PRESETS:
                results.append({"model": name} | compare(model, ids, preset, windows))
    except (OSError, QuantizationError, KeyError) as error:
        print(f"benchmarks/quantization.py: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "results": results}))
        return 0
    for row in results:
        print(
            f"{row['model']:12} {row['preset']:28} fp32 {row['fp32_ms']:8.1f} ms  "
            f"quantized {row['quantized_ms']:8.1f} ms  ratio {row['ratio']:.2f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
