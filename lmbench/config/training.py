"""The settings of a training and of a pruning, which is one under a schedule. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lmbench.config.machine import (
    ADVANCED,
    COMPRESSION,
    DATA,
    MACHINE,
    MODEL,
    OUTPUT,
    REGULARISATION,
    TRAINING,
    MachineConfig,
)
from lmbench.config.setting import Config, changed_settings, setting
from lmbench.errors import LmbenchError
from lmbench.model_shapes import parameter_shapes

__all__ = [
    "ModelConfig",
    "ModelType",
    "PruneConfig",
    "TrainConfig",
    "check_start",
    "idle_settings",
    "laid_over",
    "passed_on",
]


ModelType = Literal["LSTM", "GRU", "RNN_TANH", "RNN_RELU"]
RateSchedule = Literal["plateau", "decay", "cosine", "onecycle", "linear"]

# AdamW moves each weight by about the rate, whatever the gradient's size.
_LARGEST_ADAMW_LR = 1.0


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
        "tie the word embedding and softmax weights (emsize must equal nhid, but for --projection)",
        group=MODEL,
    )
    projection: bool = setting(
        False,
        "bring the last layer's output to the embedding's width by a linear layer before the "
        "decoder; a pruning of a run without one begins with the embedding rotated so that most of "
        "it is near zero, which predicts the same and bears more pruning",
        group=MODEL,
    )

    def check(self) -> None:
        if self.tied and self.emsize != self.nhid and not self.projection:
            raise LmbenchError(
                f"--tied needs --emsize equal to --nhid: {self.emsize} is not {self.nhid} "
                "(the embedding and the decoder share one matrix); or give --projection"
            )

    @property
    def title(self) -> str:
        """In words: LSTM 2x200 tied."""
        words = " tied" * self.tied + " projected" * self.projection
        return f"{self.model} {self.nlayers}x{self.nhid}{words}"

    def parameter_shapes(self, ntoken: int) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter of this model over `ntoken` words; tied ones once."""
        return parameter_shapes(
            self.model,
            ntoken,
            self.emsize,
            self.nhid,
            self.nlayers,
            tied=self.tied,
            projection=self.projection,
        )

    def parameter_names(self) -> dict[str, str]:
        """By each name of a parameter the one that it has in `parameter_shapes`."""
        names = {name: name for name in self.parameter_shapes(1)}
        return names | ({"decoder.weight": "encoder.weight"} if self.tied else {})


class TrainConfig(ModelConfig, MachineConfig):
    """Training by the protocol of Distiller's version of PyTorch's word-language-model example."""

    data: str | None = setting(
        None,
        "corpus: wikitext-2, wikitext-103, pydoc, or a folder with train, valid and test; left "
        "out: data/wikitext-2 if it is there, else pydoc",
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
    batch_size: int = setting(
        20, "sequences trained on at once", group=TRAINING, ge=1, le=65536, unit="sequences"
    )
    eval_batch_size: int = setting(
        10, "sequences evaluated at once", group=TRAINING, ge=1, le=65536, unit="sequences"
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
        0.0,
        "weight decay: L2 with SGD, decoupled from the gradient with AdamW",
        group=TRAINING,
        ge=0.0,
        le=1.0,
        flags=("--wd",),
    )
    optimizer: Literal["sgd", "adamw"] = setting(
        "sgd", "what updates the weights; adamw wants an --lr of about 0.001", group=TRAINING
    )
    beta1: float = setting(
        0.9, "share that AdamW's mean of the gradient keeps", group=ADVANCED, ge=0.0, lt=1.0
    )
    beta2: float = setting(
        0.999,
        "share that AdamW's mean of the squared gradient keeps",
        group=ADVANCED,
        ge=0.0,
        lt=1.0,
    )
    lr_schedule: RateSchedule | None = setting(
        None,
        "how the learning rate changes: annealed on a plateau, multiplied by --decay after each "
        "epoch, or step by step along a curve, down to 0 (cosine, linear) or up to --lr and down "
        "(onecycle); left out: decay where --decay is given, else plateau",
        group=TRAINING,
    )
    warmup: float = setting(
        0.0,
        "epochs, or a part of one, over which the learning rate rises to --lr; with onecycle and "
        "left out, three tenths of the training",
        group=ADVANCED,
        ge=0.0,
        le=100000.0,
        unit="epochs",
    )
    warmup_steps: int | None = setting(
        None,
        "the same in steps, in place of --warmup",
        group=ADVANCED,
        ge=1,
        le=10**9,
        unit="steps",
    )
    nonmono: int | None = setting(
        None,
        "average the weights (NT-ASGD) once the validation loss is above the best one of more than "
        "this many epochs before; the averages are validated and kept",
        group=TRAINING,
        ge=0,
        le=100000,
        unit="epochs",
        label="averaging after",
    )
    bptt_spread: float = setting(
        0.0,
        "let windows differ in length: the standard deviation around --bptt, or around half of it "
        "for one window of 20; each window's learning rate goes with its length (0 = all alike; "
        "AWD-LSTM: 5)",
        group=REGULARISATION,
        ge=0.0,
        le=65536.0,
        unit="tokens",
        label="bptt spread",
    )
    dropouti: float | None = setting(
        None,
        "dropout of the embedded words, one mask for all steps of a window; left out, --dropout "
        "acts there",
        group=REGULARISATION,
        ge=0.0,
        lt=1.0,
    )
    dropouth: float | None = setting(
        None,
        "dropout between the layers, one mask for all steps of a window; left out, --dropout acts "
        "there",
        group=REGULARISATION,
        ge=0.0,
        lt=1.0,
    )
    dropouto: float | None = setting(
        None,
        "dropout of the last layer's output, one mask for all steps of a window; left out, "
        "--dropout acts there",
        group=REGULARISATION,
        ge=0.0,
        lt=1.0,
    )
    dropoute: float = setting(
        0.0,
        "dropout of whole words: their rows of the embedding, for a window",
        group=REGULARISATION,
        ge=0.0,
        lt=1.0,
    )
    wdrop: float = setting(
        0.0,
        "dropout of the recurrent weights (DropConnect on each weight_hh), one mask a window",
        group=REGULARISATION,
        ge=0.0,
        lt=1.0,
    )
    alpha: float = setting(
        0.0,
        "activation regularisation: adds this times the mean square of the last layer's output "
        "after dropout",
        group=REGULARISATION,
        ge=0.0,
        le=1e6,
    )
    beta: float = setting(
        0.0,
        "temporal activation regularisation: adds this times the mean square of how the last "
        "layer's output changes from word to word",
        group=REGULARISATION,
        ge=0.0,
        le=1e6,
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
    gradient_samples: int = setting(
        0,
        "take the decoder's gradient from so many words at each position, drawn in proportion to "
        "their part in it, in place of all: right on average, and with 256 a step takes 0.5 to "
        "0.6 of its time; on CPUs with AVX2 or AVX-512 and no AMX (0 = all words)",
        group=MACHINE,
        ge=0,
        le=65536,
        unit="words",
    )
    gpus: int = setting(
        1,
        "GPUs of this machine to train on, a process each with an equal part of the batch",
        group=MACHINE,
        ge=1,
        le=1024,
        unit="GPUs",
        label="GPUs",
    )
    nodes: int = setting(
        1,
        "machines to train on, with --gpus processes each: this one, and those that lmbench runs "
        "join is given on",
        group=MACHINE,
        ge=1,
        le=1024,
        unit="machines",
        hidden=True,
    )
    allow_cpu: bool = setting(
        False,
        "with --device cpu, run the --gpus processes on the CPU: slower than one process, to try "
        "out a training on several GPUs",
        group=MACHINE,
        hidden=True,
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
        "run to distill from: its predictions are blended into the loss; "
        "'parent' is the run that a pruning starts from",
        group=COMPRESSION,
        choices_from="teachers",
    )
    distill_temp: float = setting(
        1.0, "temperature of the teacher; 1 is fastest", group=COMPRESSION, gt=0.0, le=100.0
    )
    distill_weight: float = setting(
        0.5, "weight of the teacher's part in the loss", group=COMPRESSION, ge=0.0, le=1.0
    )
    teacher_samples: int = setting(
        0,
        "let so many words, drawn in the first epoch, stand for each of the teacher's predictions: "
        "right on average, and from the second epoch on a step takes hardly longer than without "
        "a teacher; 32 is enough (0 = the teacher predicts at each step)",
        group=COMPRESSION,
        ge=0,
        le=4096,
        unit="words",
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

    def check(self) -> None:
        super().check()
        self._check_rates()
        if self.gradient_samples and self.precision == "exact":
            raise LmbenchError(
                f"--gradient-samples {self.gradient_samples}: --precision exact has the gradient "
                "of all words: use --gradient-samples 0, or another precision"
            )
        if self.teacher_samples and self.distill_temp != 1.0:
            raise LmbenchError(
                f"--teacher-samples {self.teacher_samples}: words are drawn at temperature 1 "
                f"alone: use --distill-temp 1 in place of {self.distill_temp:g}, or "
                "--teacher-samples 0"
            )
        if self.processes > 1:
            self._check_shares()

    @property
    def rate_schedule(self) -> RateSchedule:
        """The learning rate's way, also where nobody has named it."""
        return self.lr_schedule or ("plateau" if self.decay is None else "decay")

    def check_warm_up(self, steps_per_epoch: int) -> None:
        """Raises LmbenchError where the rate would rise for all of the training."""
        total = self.epochs * steps_per_epoch
        if (self.warmup_steps or 0) >= total:
            raise LmbenchError(
                f"--warmup-steps {self.warmup_steps}: the rate would rise for all of the training, "
                f"which has {total:,} steps; use less"
            )

    @property
    def state_copies(self) -> int:
        """How many numbers the optimizer and the averages keep of each weight."""
        optimizer = 2 if self.optimizer == "adamw" else int(self.momentum > 0)
        return optimizer + (self.nonmono is not None)

    def _check_rates(self) -> None:
        """See that the learning rate's settings do not contradict each other."""
        way = self.lr_schedule
        if way == "decay" and self.decay is None:
            raise LmbenchError(
                "--lr-schedule decay: needs --decay, by which the rate is multiplied after each "
                "epoch"
            )
        if way not in (None, "decay") and self.decay is not None:
            raise LmbenchError(
                f"--lr-schedule {way}: the rate cannot go by --decay {self.decay:g}, too; leave "
                "one of them out"
            )
        if self.warmup and self.warmup_steps:
            raise LmbenchError(
                f"--warmup-steps {self.warmup_steps}: --warmup {self.warmup:g} says, too, how long "
                "the rate rises; leave one of them out"
            )
        if self.warmup >= self.epochs:
            raise LmbenchError(
                f"--warmup {self.warmup:g}: the rate would rise for all of the training; use less "
                f"than --epochs {self.epochs}"
            )
        if self.optimizer == "adamw" and self.lr > _LARGEST_ADAMW_LR:
            raise LmbenchError(
                f"--lr {self.lr:g}: is a rate for SGD; AdamW moves each weight by about the rate "
                "at every step: give another, such as --lr 0.001"
            )

    @property
    def processes(self) -> int:
        """How many train the model together."""
        return self.gpus * self.nodes

    @property
    def processes_flags(self) -> str:
        """How the command line says so."""
        return f"--gpus {self.gpus}" + (f" --nodes {self.nodes}" if self.nodes > 1 else "")

    def _check_shares(self) -> None:
        """See that a batch can be shared, and that there is a GPU for each share."""
        flags = self.processes_flags
        device = "cuda" if self.cuda else self.device
        if device == "cpu" and not self.allow_cpu:
            raise LmbenchError(
                f"{flags}: on --device cpu several processes are slower than one, since "
                "adding up their gradients takes longer than a step; train with one, or give "
                "--allow-cpu to try it all the same"
            )
        if device not in ("auto", "cuda", "cpu"):
            raise LmbenchError(
                f"{flags}: takes the first GPUs that CUDA_VISIBLE_DEVICES leaves, and "
                f"--device {device} names one: use --device cuda"
            )
        if self.batch_size % self.processes:
            raise LmbenchError(
                f"--batch-size {self.batch_size}: cannot be shared equally by {flags}; "
                f"use a multiple of {self.processes}"
            )
        if self.eval_batch_size < self.processes:
            raise LmbenchError(
                f"--eval-batch-size {self.eval_batch_size}: leaves some of {flags} "
                f"without a part; use {self.processes} or more"
            )


class PruneConfig(TrainConfig):
    """Training under a schedule, from a trained parent or from scratch."""


def idle_settings(config: TrainConfig) -> frozenset[str]:
    """Those that do nothing beside the others."""
    idle = {"momentum"} if config.optimizer == "adamw" else {"beta1", "beta2"}
    annealing = {"patience", "anneal_factor"}
    return frozenset(idle | (annealing if config.rate_schedule != "plateau" else set()))


def check_start(config: TrainConfig, parent: TrainConfig) -> None:
    """See that a training can start from the model of another one.

    Raises:
        LmbenchError: a line for each setting that would make it another model.
    """
    wrong = [
        f"--{name}: {getattr(config, name)} is not the parent's model, which has "
        f"{getattr(parent, name)}: leave the flag out"
        for name in ("model", "nlayers", "nhid", "emsize", "tied")
        if getattr(config, name) != getattr(parent, name)
    ]
    if wrong:
        raise LmbenchError(*wrong)
    if parent.projection and not config.projection:
        raise LmbenchError("--projection: the parent has one, which cannot be taken back")
    if config.projection and not parent.projection and config.emsize != config.nhid:
        raise LmbenchError(
            f"--projection: the parent's embedding is {config.emsize} wide and its layers "
            f"{config.nhid}: it can be rotated only where they are the same"
        )


def passed_on(settings: TrainConfig) -> dict[str, Any]:
    """What a pruning takes over from a training with these settings: all that differ from the
    defaults, but for its schedule and teacher."""
    own = ("compress", "teacher")
    return {name: value for name, value in changed_settings(settings).items() if name not in own}


def laid_over(below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are `given` over those of a parent or a recipe.

    One that says how the learning rate goes, or where to compute, takes the place of the other that
    does.
    """
    rivals = {
        **{"lr_schedule": "decay", "decay": "lr_schedule"},
        **{"warmup": "warmup_steps", "warmup_steps": "warmup"},
        **{"device": "cuda", "cuda": "device"},
    }
    saying = {name for name, value in given.items() if value is not None and value is not False}
    dropped = {other for name, other in rivals.items() if name in saying}
    return {**{name: value for name, value in below.items() if name not in dropped}, **given}
