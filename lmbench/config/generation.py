"""The settings of a generation, and those that the workbench begins with. No torch here."""

from __future__ import annotations

from lmbench.config.machine import DATA, OUTPUT, SAMPLING
from lmbench.config.scoring import CacheConfig
from lmbench.config.setting import setting

__all__ = ["WORKBENCH_GENERATION", "GenerateConfig"]


class GenerateConfig(CacheConfig):
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
    outf: str | None = setting(
        None, "write the text to this new file instead of showing it", group=OUTPUT
    )
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


WORKBENCH_GENERATION = GenerateConfig(temperature=0.8, top_k=40, words=60)
"""What the workbench's panel begins with: a text that fits a panel and reads well. Where it says
nothing, the defaults of the command line hold."""
