"""The settings of what measures a model: sensitivity, evaluation, benchmarks. No torch here."""

from __future__ import annotations

from typing import Literal

from lmbench.config.machine import (
    ADAPTATION,
    COMPRESSION,
    DATA,
    MACHINE,
    OUTPUT,
    SAMPLING,
    TRAINING,
    MachineConfig,
    RuntimeConfig,
    SplitName,
)
from lmbench.config.setting import flag_of, setting
from lmbench.errors import LmbenchError

__all__ = [
    "BenchmarkConfig",
    "CacheConfig",
    "EvaluateConfig",
    "RescoreConfig",
    "ScoreConfig",
    "SensitivityConfig",
]


class SensitivityConfig(MachineConfig):
    """Perplexity against sparsity for each tensor of a trained model."""

    levels: tuple[float, ...] = setting(
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        "sparsity levels to evaluate",
        group=COMPRESSION,
    )
    granularity: Literal["element", "rows", "blocks"] = setting(
        "element", "what is pruned together", group=COMPRESSION
    )
    per: Literal["tensor", "model", "gate", "all"] = setting(
        "tensor",
        "what is pruned alone: each tensor, the whole model, each gate, or all of them in one pass",
        group=COMPRESSION,
    )
    split: SplitName = setting("valid", "split that is evaluated", group=DATA)
    tokens: int = setting(
        20_000,
        "tokens that each point is evaluated on; 0 takes all",
        group=DATA,
        ge=0,
        unit="tokens",
    )
    suggest: float | None = setting(
        None,
        "write a schedule that reaches this total sparsity at the least predicted perplexity",
        group=COMPRESSION,
        gt=0.0,
        lt=1.0,
    )

    def check(self) -> None:
        """Whatever would be of no use only after all points are scored is refused before."""
        wrong = [level for level in self.levels if not 0 <= level < 1]
        if wrong or not any(self.levels):
            problem = f"{wrong[0]:g} is out of [0, 1)" if wrong else "no level is above 0"
            raise LmbenchError(f"--levels: {problem}; give shares of weights to prune, such as 0.5")
        if self.suggest is None:
            return
        if self.per not in ("tensor", "all"):
            raise LmbenchError(
                f"--suggest needs the curves of tensors, which --per {self.per} does not score: "
                "use --per tensor or all"
            )
        if self.suggest > max(self.levels):
            raise LmbenchError(
                f"--suggest {self.suggest:g} is above the highest of --levels, "
                f"{max(self.levels):g}: add a higher level"
            )


class CacheConfig(RuntimeConfig):
    """What executes a trained model, with a neural cache or without."""

    cache: int = setting(
        0,
        "add a neural cache over this many past words (Grave et al. 2016); 0 = none",
        group=ADAPTATION,
        ge=0,
        le=100_000,
        unit="words",
    )
    cache_theta: float = setting(
        0.6, "how sharply the neural cache looks", group=ADAPTATION, gt=0.0, le=100.0
    )
    cache_lambda: float = setting(
        0.1, "share of the neural cache in the prediction", group=ADAPTATION, ge=0.0, le=1.0
    )


class EvaluateConfig(CacheConfig):
    """Perplexity and tokens a second of a run, as it will run."""

    data: str | None = setting(
        None,
        "score on this corpus; left out: the one that the run was trained on",
        group=DATA,
        choices_from="corpora",
    )
    split: SplitName = setting("test", "split that is scored", group=DATA)
    checkpoint: Literal["best", "last"] = setting("best", "which checkpoint of the run", group=DATA)
    tokens: int = setting(
        0, "score only the first tokens of the split; 0 scores all", group=DATA, ge=0, unit="tokens"
    )
    eval_batch_size: int = setting(
        10, "sequences evaluated at once", group=TRAINING, ge=1, le=65536, unit="sequences"
    )
    bptt: int = setting(35, "sequence length", group=TRAINING, ge=1, le=65536, unit="tokens")
    dynamic: Literal["sgd", "rms"] | None = setting(
        None,
        "let a copy of the weights follow the text that is scored, a step after each --bptt words "
        "(Krause et al. 2018): sgd takes plain steps, rms divides them by gradients gathered on "
        "train",
        group=ADAPTATION,
    )
    dynamic_lr: float | None = setting(
        None,
        "step size of --dynamic; left out: 4 for sgd, 0.001 for rms",
        group=ADAPTATION,
        gt=0.0,
        le=1000.0,
    )
    dynamic_decay: float | None = setting(
        None,
        "how much of the way back to the trained weights each step of --dynamic goes; left out: "
        "0.001 for sgd, 0.003 for rms",
        group=ADAPTATION,
        ge=0.0,
        le=1.0,
    )
    dynamic_tokens: int = setting(
        200_000,
        "first tokens of train that --dynamic rms gathers gradients on; 0 takes all",
        group=ADAPTATION,
        ge=0,
        unit="tokens",
    )
    tune: bool = setting(
        False,
        "find theta and lambda of --cache, step size and decay of --dynamic on valid, then score "
        "with them",
        group=ADAPTATION,
    )
    tune_tokens: int = setting(
        0, "tune on the first tokens of valid; 0 takes all", group=ADAPTATION, ge=0, unit="tokens"
    )

    @property
    def adapts(self) -> bool:
        """Is there a figure besides the model's own?"""
        return bool(self.cache) or self.dynamic is not None

    def check(self) -> None:
        super().check()
        if self.adapts and self.runtime not in ("as-is", "naive"):
            flag = "--dynamic" if self.dynamic else "--cache"
            raise LmbenchError(
                f"{flag} takes a model as it is, or torch's own layers (naive), not --runtime "
                f"{self.runtime}: leave one out"
            )
        if not self.tune:
            return
        if not self.adapts:
            raise LmbenchError("--tune: add --cache or --dynamic, whose settings it finds")
        if self.split == "valid":
            raise LmbenchError(
                "--tune finds its settings on valid, whose own figure then says nothing: leave "
                "--split valid out"
            )
        defaults = type(self).model_fields
        found = ("cache_theta", "cache_lambda", "dynamic_lr", "dynamic_decay")
        given = [flag_of(n) for n in found if getattr(self, n) != defaults[n].default]
        if given:
            raise LmbenchError(f"--tune finds {', '.join(given)} itself: leave one out")


class ScoreConfig(RuntimeConfig):
    """What is reported of a text of one's own, and how it is read."""

    words: bool = setting(False, "report each word too", group=OUTPUT)
    log10: bool = setting(
        False, "logarithms to base 10, as SRILM and KenLM report; left out: base e", group=OUTPUT
    )
    carry: bool = setting(
        False,
        "one running text, whose state is carried from line to line; left out: each line by itself",
        group=DATA,
    )
    columns: int = setting(
        0,
        "one running text cut into this many columns, as evaluate cuts it by --eval-batch-size; "
        "the first word of each column is only read, as is what fills no row",
        group=DATA,
        ge=0,
        le=65536,
    )
    checkpoint: Literal["best", "last"] = setting("best", "which checkpoint of the run", group=DATA)

    def check(self) -> None:
        super().check()
        if self.carry and self.columns:
            raise LmbenchError("--carry, --columns: two ways to read a text: give one of them")


class RescoreConfig(RuntimeConfig):
    """How a recogniser's hypotheses are ranked anew, and by what that is judged."""

    models: tuple[str, ...] = setting(
        (), "runs or packed files that rank the list, side by side", group=DATA
    )
    references: str | None = setting(
        None, "what was said in the list's utterances: lines `utterance-id text`", group=DATA
    )
    dev: str | None = setting(
        None, "another list, on which weight and penalty are tuned", group=DATA
    )
    dev_references: str | None = setting(
        None, "what was said in the utterances of --dev", group=DATA
    )
    weight: tuple[float, ...] = setting(
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        "weights of the language model's log probability to try",
        group=SAMPLING,
    )
    penalty: tuple[float, ...] = setting(
        (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0),
        "what each word adds to a score, to try: above 0 it makes up for the probability that each "
        "word costs, below 0 it favours short texts",
        group=SAMPLING,
    )
    output: str | None = setting(
        None, "write the best text of each utterance to this file", group=OUTPUT
    )

    def check(self) -> None:
        super().check()
        if not self.models:
            raise LmbenchError("--models: name one run or packed file, or several")
        if not self.weight or not self.penalty:
            raise LmbenchError("--weight, --penalty: give at least one value of each")
        if (self.dev is None) != (self.dev_references is None):
            raise LmbenchError("--dev, --dev-references: one needs the other")
        if self.dev is None and len(self.weight) * len(self.penalty) > 1:
            raise LmbenchError(
                "--dev, --dev-references: weight and penalty are tuned on a list with references; "
                "give one, or a single --weight and --penalty"
            )
        if self.output is not None and len(self.models) > 1:
            raise LmbenchError("--output: the texts of one model; name one with --models")


class BenchmarkConfig(MachineConfig):
    """Size and speed of a model in each runtime, side by side."""

    models: tuple[str, ...] = setting(
        (),
        "runs or packed files measured side by side",
        group=DATA,
        choices_from="runs",
        hidden=True,
    )
    runtimes: tuple[str, ...] = setting(
        (), "runtimes to measure; none named measures all that can run it", group=MACHINE
    )
    words: int = setting(200, "words stepped in each round", group=SAMPLING, ge=1, unit="words")
    rounds: int = setting(5, "interleaved rounds", group=SAMPLING, ge=1, le=1000, unit="rounds")
    tokens: int = setting(
        20_000,
        "score only the first tokens of test, in each runtime; 0 scores all",
        group=DATA,
        ge=0,
        unit="tokens",
    )
