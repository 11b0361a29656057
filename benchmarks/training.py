"""The training step: a plain loop as PyTorch's word-language-model example does it, and ours,
under each recipe.

Each side runs in a process of its own, since ours settles how malloc works in the whole process.
The processes take turns, a few batches each, on the same windows of the same corpus; only one
computes at a time. What counts is the ratio of the median times: a shared machine's absolute
times are worth little.

    python benchmarks/training.py --data data/wikitext-2 --nhid 650
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.config import TrainConfig, validate
from lmbench.corpus import open_corpus
from lmbench.corpus.batches import batchify, count_windows, window
from lmbench.distiller import file_config
from lmbench.distiller.schedules.preset_files import preset_path
from lmbench.errors import LmbenchError
from lmbench.model.device import choose_device
from lmbench.model.rnn import RNNModel, detach
from lmbench.training import native
from lmbench.training.distillation import Distillation
from lmbench.training.loss import DecoderLoss
from lmbench.training.lstm import onednn_lacks_bf16
from lmbench.training.objective import CrossEntropy, Objective
from lmbench.training.optimizer import build_optimizer
from lmbench.training.precision import Precision, machine_key
from lmbench.training.process_setup import compute_in, prepare_worker
from lmbench.training.recipe_files import recipe_names, recipe_settings
from lmbench.training.regularisation import Regularisation
from lmbench.training.run_checkpoints import Position
from lmbench.training.thread_environment import worker_environment
from lmbench.training.trainer import Splits, Trainer

BATCH, BPTT, CLIP, LR, SEED, DROPOUT = 20, 35, 0.25, 20.0, 1111, 0.2
# On CUDA a turn ends with waiting for the device, which must not be much of it.
CPU_TURN, CUDA_TURN = 3, 50
# Later ones tell nothing: at this learning rate a difference in rounding grows into another run.
COMPARED = 30
MODELS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")

_PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "bf16": "bf16"}
_RECIPES = [recipe for recipe in recipe_names() if recipe != "plain"]

Step = Callable[[], float | Tensor]
"""Does the next window of the text, from its start again after the last; gives the loss."""


def plain_step(model: RNNModel, source: Tensor) -> Step:
    """What the example does: log_softmax and NLLLoss, `.item()` each step, SGD by hand."""
    criterion = nn.NLLLoss()
    state, at = model.init_hidden(BATCH), 0

    def step() -> float:
        nonlocal state, at
        if at == count_windows(len(source), BPTT):
            state, at = model.init_hidden(BATCH), 0
        input, target = window(source, at * BPTT, BPTT)
        at += 1
        model.zero_grad()
        state = detach(state)
        output, state = model(input, state)
        log_probabilities = torch.log_softmax(output.view(-1, model.ntoken), dim=1)
        loss = criterion(log_probabilities, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=-LR)
        return loss.item()

    return step


def our_step(
    model: RNNModel,
    source: Tensor,
    precision: Precision,
    way: str,
    samples: int,
    teacher_samples: int,
) -> Step:
    """What `lmbench train` does with a batch, by its own trainer, which writes nothing here.

    Args:
        way: a recipe, or a preset schedule under which `plain` trains; with "+teacher" another
            model of its shape teaches it, with "+drawn" by words that are known already, with
            "+sampled" some words alone have gradients.
        samples, teacher_samples: how many words a position.
    """
    way, *also = way.split("+")
    samples *= "sampled" in also
    recipe = way if way in recipe_names() else "plain"
    # All sides do the same windows.
    asked = {"batch_size": BATCH, "bptt": BPTT, "bptt_spread": 0.0, "dropout": DROPOUT}
    config = validate(TrainConfig, recipe_settings(recipe) | asked)
    optimizer = build_optimizer(model, config)
    scheduler = None
    if way != recipe:
        scheduler = file_config(model, optimizer, str(preset_path(way)))
    regularisation = Regularisation.of(config)
    loss = DecoderLoss(precision, into_grad=True, samples=samples)
    objective: Objective = CrossEntropy(loss, regularisation)
    if {"teacher", "drawn"} & set(also):
        teacher = RNNModel(
            model.rnn_type, model.ntoken, config.emsize, config.nhid, 2, DROPOUT, config.tied
        ).to(source.device)
        drawn, rows = teacher_samples * ("drawn" in also), len(source)
        objective = Distillation(teacher, 1.0, 0.5, regularisation, loss, samples=drawn, rows=rows)
        if drawn:
            objective.start_epoch(BATCH)
            objective._words.copy_(torch.randint(model.ntoken, objective._words.shape))
            objective._drawn = rows
    trainer = Trainer(
        model,
        Splits(source, source, source),
        config,
        objective,
        Path(tempfile.gettempdir()),
        emit=lambda event: None,
        control=lambda: None,
        log_offset=lambda: 0,
        optimizer=optimizer,
        scheduler=scheduler,
    )
    # Steps that are averaged are the dearest: as if the loss had risen for long enough.
    for loss in range((config.nonmono or 0) + 2):
        trainer._averages.judge(float(loss), masks_changed=False)

    def step() -> Tensor:
        if trainer.position.batch == trainer.batches_per_epoch:
            trainer.position = Position()
        if trainer.position.batch == 0:
            trainer.begin_epoch()
        return trainer.batch()

    return step


def serve(side: str, args: argparse.Namespace) -> None:
    """A side's process: for each number n on stdin, do n batches; print their times and losses."""
    device = torch.device(args.device)
    name, _, way = side.partition("+")
    precision = _PRECISIONS.get(name)  # None is the plain loop
    if precision:
        prepare_worker(threads=args.threads, device=args.device)
        native.enable_kernels()
    elif args.threads:
        torch.set_num_threads(args.threads)
    # The plain side is fp32 throughout: torch by itself would let its recurrent layers take TF32
    # on CUDA, which our fp32 does not.
    compute_in(precision or "fp32")
    corpus = open_corpus(args.data, Path.cwd(), may_fetch=False)
    source = whole_windows(batchify(corpus.splits["train"][: args.tokens], BATCH, device))
    torch.manual_seed(SEED)
    model = RNNModel(
        args.model, len(corpus.vocabulary), args.emsize, args.nhid, 2, DROPOUT, args.tied
    ).to(device)
    model.train()
    step = (
        our_step(
            model, source, precision, way or "plain", args.gradient_samples, args.teacher_samples
        )
        if precision
        else plain_step(model, source)
    )
    for line in sys.stdin:
        print(json.dumps(run(step, int(line), device)), flush=True)


def whole_windows(source: Tensor) -> Tensor:
    """The rows that make windows of full length: a short one would be timed as if it were one."""
    return source[: (len(source) - 1) // BPTT * BPTT + 1]


def run(step: Step, batches: int, device: torch.device) -> dict[str, list[float]]:
    """The milliseconds of each batch and its loss.

    On CUDA the batches are timed together and each is given the mean: asking for the time of one
    would wait for the device, which is what ours avoids.
    """
    losses: list[float | Tensor] = []
    times: list[float] = []
    wait(device)
    began = last = time.perf_counter()
    for _ in range(batches):
        losses.append(step())
        now = time.perf_counter()
        times.append((now - last) * 1e3)
        last = now
    wait(device)
    if device.type == "cuda":
        times = [(time.perf_counter() - began) * 1e3 / batches] * batches
    return {"ms": times, "loss": [float(loss) for loss in losses]}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Side:
    """One side's process, seen from the parent."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.name = name
        self.ms: list[float] = []
        self.losses: list[float] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (worker_environment() if name != "plain" else {}),
        )

    def turn(self, batches: int, *, count: bool) -> None:
        """Let it do some batches; `count` is false for those that warm it up."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{batches}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise LmbenchError(f"the process of '{self.name}' died; its message is above")
        result = json.loads(line)
        self.losses += result["loss"]
        if count:
            self.ms += result["ms"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def summary(self, plain: Side) -> dict[str, Any]:
        ordered = sorted(self.ms)
        return {
            "median_ms": statistics.median(ordered),
            "best_ms": ordered[0],
            "p90_ms": ordered[math.ceil(0.9 * len(ordered)) - 1],
            "batches": len(ordered),
            "times_faster": statistics.median(plain.ms) / statistics.median(ordered),
            # Under another recipe or a schedule the losses are others.
            "largest_loss_difference": None
            if "+" in self.name
            else max(
                abs(a - b)
                for a, b in zip(self.losses[:COMPARED], plain.losses[:COMPARED], strict=True)
            ),
        }


def compare(args: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """All sides in turns; gives the document that is printed."""
    by = [*["teacher"] * args.teacher, *["drawn"] * bool(args.teacher_samples)]
    taught = [f"{way}+{teacher}" for way in ("plain", *args.schedule) for teacher in by]
    sampled = [f"{way}+sampled" for way in ("plain", *taught)] if args.gradient_samples else []
    # Without its products a step in bf16 takes seconds, which would keep the others waiting.
    lacking = args.device == "cpu" and onednn_lacks_bf16()
    names = ["fp32"] if lacking else list(_PRECISIONS)
    others = (*_RECIPES, *args.schedule, *taught, *sampled)
    ways = [f"{name}+{way}" for way in others for name in names]
    sides = [Side(name, arguments) for name in ("plain", *names, *ways)]
    try:
        for side in sides:
            side.turn(args.warmup, count=False)
        began, rounds = time.perf_counter(), 0
        while rounds < args.rounds and time.perf_counter() - began < args.seconds:
            for side in sides:
                side.turn(args.batches, count=True)
            rounds += 1
    finally:
        for side in sides:
            side.close()
    ms = {side.name: side.ms for side in sides}
    return {
        "benchmark": "training",
        "machine": machine(args),
        "model": {
            "type": args.model,
            "emsize": args.emsize,
            "nhid": args.nhid,
            "nlayers": 2,
            "tied": args.tied,
        },
        "tokens_a_batch": BATCH * BPTT,
        "sides": {side.name: side.summary(sides[0]) for side in sides},
        "times_a_plain_step": {
            name: statistics.median(ms[name]) / statistics.median(ms[name.partition("+")[0]])
            for name in ways
        },
    }


def machine(args: argparse.Namespace) -> dict[str, Any]:
    best = native.best()
    return {
        "device": machine_key(torch.device(args.device)),
        "kernels": "torch" if args.device != "cpu" or native.why_not(best) else best,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }


def show(document: dict[str, Any]) -> None:
    model, tied = document["model"], "tied" if document["model"]["tied"] else "untied"
    print(f"{document['machine']['device']}")
    print(f"{model['type']} 2x{model['nhid']} {tied}, {document['tokens_a_batch']} tokens a batch")
    print(f"{'':13}  median ms  best ms   p90 ms  times faster   loss off")
    for name, side in document["sides"].items():
        off = side["largest_loss_difference"]
        print(
            f"{name:13}{side['median_ms']:11.1f}{side['best_ms']:9.1f}{side['p90_ms']:9.1f}"
            f"{side['times_faster']:14.2f}{'' if off is None else f'{off:11.1e}'}"
        )
    for name, ratio in document["times_a_plain_step"].items():
        print(f"{name}: {ratio:.2f} times a step of --recipe plain")
    if not torch.cuda.is_available():
        print("no CUDA device here; with one, add --device cuda")


def main() -> int:
    args = parse()
    arguments = sys.argv[1:]
    if args.serve:
        serve(args.serve, args)
        return 0
    try:
        choose_device(validate(TrainConfig, {"device": args.device}))
        document = compare(args, arguments)
    except LmbenchError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        show(document)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the training step: a plain loop against ours")
    parser.add_argument("--data", help="corpus: a name or a folder (default: as `lmbench train`)")
    parser.add_argument("--model", choices=MODELS, default="LSTM", help="type of recurrent net")
    parser.add_argument("--nhid", type=int, default=200, help="hidden units (default 200)")
    parser.add_argument("--emsize", type=int, help="width of the embedding (default: nhid)")
    parser.add_argument("--untied", dest="tied", action="store_false", help="two matrices")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: as torch has it)")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="cpu or cuda (default: cuda if there)")
    parser.add_argument(
        "--schedule", action="append", default=[], help="also under this preset (may be repeated)"
    )
    parser.add_argument(
        "--teacher", action="store_true", help="also with a teacher, of the same shape"
    )
    parser.add_argument(
        "--teacher-samples", type=int, default=0, help="also with so many words of that teacher's"
    )
    parser.add_argument(
        "--gradient-samples", type=int, default=0, help="also with so many words a position"
    )
    parser.add_argument("--rounds", type=int, default=30, help="turns of each side at most")
    turn = f"(default {CPU_TURN}; {CUDA_TURN} on cuda)"
    parser.add_argument("--batches", type=int, help=f"batches a turn {turn}")
    parser.add_argument("--warmup", type=int, help=f"batches before the first turn {turn}")
    parser.add_argument("--seconds", type=float, default=240.0, help="start no round after this")
    parser.add_argument("--tokens", type=int, default=500_000, help="tokens of train to go over")
    parser.add_argument("--quick", action="store_true", help="under 50 s on two cores")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.emsize = args.emsize or args.nhid
    for name in ("batches", "warmup"):
        if getattr(args, name) is None:
            setattr(args, name, CUDA_TURN if args.device.startswith("cuda") else CPU_TURN)
    if args.quick:
        args.rounds, args.seconds = min(args.rounds, 8), min(args.seconds, 15.0)
    return args


if __name__ == "__main__":
    sys.exit(main())
