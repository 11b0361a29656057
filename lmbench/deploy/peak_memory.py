"""Peak memory of one model in one runtime, measured in a process that does nothing else.

``python -m lmbench.deploy.peak_memory FILE_OR_RUN CHECKPOINT RUNTIME DEVICE`` prints the bytes.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from lmbench.session.process import python

__all__ = ["peak_memory"]

_LIMIT_S = 300
_WORDS = 8


def peak_memory(source: Path, checkpoint: str, runtime: str, device: str = "cpu") -> int | None:
    """Bytes that loading the model, building the runtime and stepping take at their highest.

    Counted above what the bare process with torch imported takes; on a GPU, the device's memory.
    None where the process did not get through.
    """
    command = python("lmbench.deploy.peak_memory", str(source), checkpoint, runtime, device)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else None


def _measure(source: Path, checkpoint: str, runtime: str, device: str) -> int:
    import psutil
    import torch

    from lmbench.deploy.load_model import load_file, load_run
    from lmbench.deploy.runtimes.table import build_runtime
    from lmbench.model.device import allow_tf32
    from lmbench.session import Run

    torch.set_num_threads(1)
    allow_tf32(False)
    before = psutil.Process().memory_info().rss
    _forget_peak()
    is_run = (source / "run.json").is_file()
    loaded = load_run(Run(source), checkpoint, device) if is_run else load_file(source, device)
    built = build_runtime(runtime, loaded)
    state = built.initial_state()
    for word in range(min(_WORDS, built.ntoken)):
        _, state = built.step(torch.tensor([word], device=built.device), state)
    if built.device.type == "cuda":
        return torch.cuda.max_memory_allocated(built.device)
    return max(0, _peak() - before)


def _forget_peak() -> None:
    """Start the peak anew, without that of importing torch, where Linux allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The largest resident memory of this process so far, in bytes.

    On Linux not ``ru_maxrss``, which a process inherits from the one that started it.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(_measure(Path(sys.argv[1]), *sys.argv[2:5]))
