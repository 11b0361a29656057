"""The settings of each kind of run. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from lmbench.config.machine import (
    COMPRESSION,
    DATA,
    MACHINE,
    MODEL,
    OUTPUT,
    SAMPLING,
    TRAINING,
    MachineConfig,
    RuntimeConfig,
    SplitName,
)
from lmbench.config.model_shapes import parameter_shapes
from lmbench.config.quantize import QuantizeConfig
from lmbench.config.setting import Config, setting, validate
from lmbench.errors import LmbenchError

__all__ = [
    "CONFIGS",
    "KINDS",
    "BenchmarkConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "Kind",
    "ModelConfig",
    "PackConfig",
    "PruneConfig",
    "SensitivityConfig",
    "TrainConfig",
    "parse_config",
]

Kind = Literal["train", "prune", "quantize", "sensitivity", "evaluate", "benchmark", "pack"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ModelType = Literal["LSTM", "GRU", "RNN_TANH", "RNN_RELU"]


class ModelConfig(Config):
    """The shape of a recurrent language model."""

    model: ModelType = setting("LSTM", "type of recurrent net", group=MODEL)
    emsize: int = setting(200, "size of word embeddings", group=MODEL, gt=0, le=65536, unit="units")
    nhid: int = setting(
        200, "number of hidden units per layer", group=MODEL, gt=0, le=65536, unit="units"
    )
    nlayers: int = setting(2, "number of layers", group=MODEL, gt=0, le=64, unit="layers")
    dropout: float = setting(
        0.2, "dropout applied to layers (0 = no dropout)", group=MODEL, ge=0.0, lt=1.0
    )
    tied: bool = setting(
        False,
        "tie the word embedding and softmax weights (emsize must equal nhid)",
        group=MODEL,
    )

    def check(self) -> None:
        if self.tied and self.emsize != self.nhid:
            raise LmbenchError(
                f"--tied needs --emsize equal to --nhid: {self.emsize} is not {self.nhid} "
                "(the embedding and the decoder share one matrix)"
            )

    def parameter_shapes(self, ntoken: int) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter of this model over `ntoken` words; tied ones once."""
        return parameter_shapes(
            self.model, ntoken, self.emsize, self.nhid, self.nlayers, tied=self.tied
        )


class TrainConfig(ModelConfig, MachineConfig):
    """Training by the protocol of PyTorch's word-language-model example."""

    data: str | None = setting(
        None,
        "corpus: a name (wikitext-2, wikitext-103, pydoc) or a folder with train, valid and "
        "test; left out: data/wikitext-2 where it is there, else pydoc",
        group=DATA,
        choices_from="corpora",
    )
    vocab: Literal["all", "train"] = setting(
        "all",
        "take the vocabulary from all splits, as the original does, or from train only, with "
        "the rest mapped to <unk>",
        group=DATA,
    )
    lr: float = setting(20.0, "initial learning rate", group=TRAINING, gt=0.0, le=1e6)
    clip: float = setting(
        0.25, "clip the gradient's norm at this (0 = never)", group=TRAINING, ge=0.0, le=1e6
    )
    epochs: int = setting(40, "upper epoch limit", group=TRAINING, ge=1, le=100000, unit="epochs")
    batch_size: int = setting(20, "batch size", group=TRAINING, ge=1, le=65536, unit="sequences")
    eval_batch_size: int = setting(
        10, "batch size of evaluation", group=TRAINING, ge=1, le=65536, unit="sequences"
    )
    bptt: int = setting(
        35,
        "sequence length: how many steps the gradient goes back",
        group=TRAINING,
        ge=1,
        le=65536,
        unit="tokens",
    )
    decay: float | None = setting(
        None,
        "multiply the learning rate by this after each epoch; left out, the rate is annealed "
        "when the validation loss stops falling",
        group=TRAINING,
        gt=0.0,
        le=1.0,
    )
    anneal_factor: float = setting(
        0.5,
        "what the learning rate is multiplied by on a plateau",
        group=TRAINING,
        gt=0.0,
        lt=1.0,
    )
    patience: int = setting(
        0,
        "epochs without improvement that a plateau allows before annealing",
        group=TRAINING,
        ge=0,
        le=1000,
        unit="epochs",
    )
    momentum: float = setting(0.0, "momentum of SGD", group=TRAINING, ge=0.0, lt=1.0)
    weight_decay: float = setting(
        0.0, "weight decay of SGD (L2)", group=TRAINING, ge=0.0, le=1.0, flags=("--wd",)
    )
    seed: int = setting(1111, "random seed", group=TRAINING, ge=0, lt=2**63)
    precision: Literal["auto", "fp32", "bf16", "exact"] = setting(
        "auto",
        "arithmetic of the training step; auto takes bf16 where the hardware multiplies it "
        "faster (weights stay fp32); fp32 sums in another order than the original, and at its "
        "learning rate of 20 such a rounding gives other losses after some ten batches; exact is "
        "the original's own operations, equal to it bit for bit and slower",
        group=MACHINE,
    )
    compress: str | None = setting(
        None,
        "compression schedule: a YAML file or the name of a preset",
        group=COMPRESSION,
        choices_from="schedules",
    )
    masked_gradients: Literal["excluded", "counted"] = setting(
        "excluded",
        "whether gradients of pruned weights count in the norm that clipping looks at; "
        "'counted' is the original's way",
        group=COMPRESSION,
    )
    teacher: str | None = setting(
        None,
        "run to distill from: its predictions are blended into the loss",
        group=COMPRESSION,
        choices_from="runs",
    )
    distill_temp: float = setting(
        1.0, "temperature of the teacher's distribution", group=COMPRESSION, gt=0.0, le=100.0
    )
    distill_weight: float = setting(
        0.5, "weight of the teacher's part in the loss", group=COMPRESSION, ge=0.0, le=1.0
    )
    log_interval: int = setting(
        200, "batches between two lines of the log", group=OUTPUT, ge=1, le=10**9, unit="batches"
    )
    event_interval: int = setting(
        10,
        "batches between two points of the curves",
        group=OUTPUT,
        ge=1,
        le=10**9,
        unit="batches",
    )
    checkpoint_every: float = setting(
        5.0,
        "minutes between two checkpoints inside an epoch (0 = only at its end)",
        group=OUTPUT,
        ge=0.0,
        le=10**6,
        unit="minutes",
    )
    test_checkpoint: Literal["best", "last"] = setting(
        "best", "which checkpoint the test score is of", group=OUTPUT
    )


class PruneConfig(TrainConfig):
    """Training under a schedule, from a trained parent or from scratch."""


class SensitivityConfig(MachineConfig):
    """Perplexity against sparsity for each tensor of a trained model."""

    levels: tuple[float, ...] = setting(
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        "sparsity levels to try",
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
    split: SplitName = setting("valid", "split that is scored", group=DATA)
    tokens: int = setting(
        20_000, "tokens that each point is scored on; 0 takes all", group=DATA, ge=0, unit="tokens"
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
            told = f"{wrong[0]:g} is out of [0, 1)" if wrong else "no level is above 0"
            raise LmbenchError(f"--levels: {told}; give shares of weights to prune, such as 0.5")
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


class EvaluateConfig(RuntimeConfig):
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
        10, "batch size of evaluation", group=TRAINING, ge=1, le=65536, unit="sequences"
    )
    bptt: int = setting(35, "sequence length", group=TRAINING, ge=1, le=65536, unit="tokens")
    cache: int = setting(
        0,
        "add a neural cache over this many past words (Grave et al. 2016); 0 = none",
        group=SAMPLING,
        ge=0,
        le=100_000,
        unit="words",
    )
    cache_theta: float = setting(
        0.6, "how sharply the neural cache looks", group=SAMPLING, gt=0.0, le=100.0
    )
    cache_lambda: float = setting(
        0.1, "share of the neural cache in the prediction", group=SAMPLING, ge=0.0, le=1.0
    )


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


class PackConfig(MachineConfig):
    """One small file with everything that generating and scoring need."""

    weights: Literal["auto", "fp32", "fp16", "int8", "int4"] = setting(
        "auto",
        "how dense values are stored; auto keeps what the run computes with",
        group=COMPRESSION,
    )
    sparse: Literal["auto", "never", "always"] = setting(
        "auto", "store zeros as a bitmask where that is smaller", group=COMPRESSION
    )
    thin: bool = setting(
        True,
        "leave out the hidden units that nothing reads (pruned as a whole), which makes a smaller "
        "dense model of the same outputs",
        group=COMPRESSION,
    )
    zstd: bool = setting(False, "compress with zstd", group=COMPRESSION)
    checkpoint: Literal["best", "last"] = setting("best", "which checkpoint of the run", group=DATA)


class GenerateConfig(RuntimeConfig):
    """Text from a model, a word at a time."""

    words: int = setting(
        1000, "number of words to generate", group=SAMPLING, ge=1, le=10**9, unit="words"
    )
    temperature: float = setting(
        1.0,
        "higher is more diverse; 0 always takes the likeliest word",
        group=SAMPLING,
        ge=0.0,
        le=1000.0,
    )
    top_k: int = setting(
        0, "sample from the k likeliest words only (0 = all)", group=SAMPLING, ge=0, unit="words"
    )
    top_p: float = setting(
        1.0,
        "sample from the likeliest words that hold this much probability",
        group=SAMPLING,
        gt=0.0,
        le=1.0,
    )
    prompt: str = setting("", "words to start from", group=SAMPLING)
    no_unk: bool = setting(False, "never generate <unk>", group=SAMPLING)
    seed: int = setting(1111, "random seed", group=SAMPLING, ge=0, lt=2**63)
    alternatives: int = setting(
        0,
        "show this many words that were likely at each place",
        group=SAMPLING,
        ge=0,
        le=1000,
        unit="words",
    )
    outf: str | None = setting(None, "write the text to this file too", group=OUTPUT)
    checkpoint: str = setting(
        "best",
        "which checkpoint of the run, best or last; or the file of a model in place of a run",
        group=DATA,
    )
    data: str | None = setting(
        None,
        "corpus whose words the model speaks, for a file of weights that holds no words",
        group=DATA,
        choices_from="corpora",
    )
    log_interval: int = setting(
        100, "words between two lines of progress", group=OUTPUT, ge=1, hidden=True
    )


CONFIGS: Mapping[Kind, type[Config]] = {
    "train": TrainConfig,
    "prune": PruneConfig,
    "quantize": QuantizeConfig,
    "sensitivity": SensitivityConfig,
    "evaluate": EvaluateConfig,
    "benchmark": BenchmarkConfig,
    "pack": PackConfig,
}


def parse_config(kind: Kind, values: Mapping[str, Any]) -> Config:
    """The settings of a run of this kind, checked; see `validate`."""
    return validate(CONFIGS[kind], values)
