"""Opening the model that ``score`` and ``rescore`` name."""

from __future__ import annotations

from lmbench.config.machine import RuntimeConfig
from lmbench.deploy.packed_file.reading import is_packed, open_packed
from lmbench.scoring import LanguageModel
from lmbench.scoring.predictor import RuntimePredictor, compiled_predictor
from lmbench.session import Home

__all__ = ["open_language_model"]


def open_language_model(
    model: str, config: RuntimeConfig, session: str, checkpoint: str = "best"
) -> LanguageModel:
    """A run or a file, in the runtime that is asked for.

    A packed file's integers run on the compiled kernels without torch, unless another runtime or
    device is asked for.

    Raises:
        LmbenchError: there is no such model, it has no vocabulary, or the runtime cannot run it.
    """
    home = Home.find()
    path = home.file_of(model, session)
    if path and config.runtime == "as-is" and config.device in ("auto", "cpu") and not config.cuda:
        # Another checkpoint than that is refused below.
        is_one = path.is_file() and is_packed(path) and checkpoint == "best"
        packed = open_packed(path) if is_one else None
        found = compiled_predictor(packed, config.threads) if packed else None
        if packed and found:
            return LanguageModel(found[0], packed.vocabulary, path.name, found[1])
    from lmbench.deploy.load_model import open_model
    from lmbench.deploy.runtimes.choose import open_runtime
    from lmbench.model.device import choose_device
    from lmbench.training.process_setup import prepare_worker

    device = str(choose_device(config))
    prepare_worker(threads=config.threads, device=device)
    loaded, _ = open_model(model, home, session, checkpoint, device)
    runtime = open_runtime(config.runtime, loaded, "score", config.accuracy)
    return LanguageModel(RuntimePredictor(runtime), loaded.vocabulary, loaded.title, runtime.name)
