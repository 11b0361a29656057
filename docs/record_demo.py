"""Record the session that `lmbench tui --demo` plays: a real one, made by the real commands.

    python docs/record_demo.py

trains a small model on the embedded corpus, prunes and quantizes it, writes a few texts with each,
and keeps run records, events and samples (no weights) as ``lmbench/tui/demo/session.zip``. What
identifies the machine (host, paths, processes) is left out; times and figures are as measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "lmbench/tui/demo/session.zip"
LIMIT_BYTES = 300_000

SESSION = "demo"
COMMANDS = (
    "train --data pydoc --emsize 64 --nhid 64 --tied --dropout 0.1 --epochs 3 --threads 1 "
    "--event-interval 4 --name dense",
    "prune 1 --schedule small-80 --epochs 6 --lr 10 --threads 1 --event-interval 4 --name agp-80",
    "quantize 1 --threads 1 --name int8",
    "quantize 2 --threads 1 --name agp-80-int8",
)
PROMPTS = ("the value of the", "a class is", "return the")
MACHINE = ("pid", "process_started", "cwd", "host")
# A stamp that does not change makes the archive the same for the same recording.
STAMP = (2026, 1, 1, 0, 0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--home", type=Path, help="keep the recorded working folder here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.home or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        for command in COMMANDS:
            lmbench(home, *command.split())
        for run in ("1", "2"):
            for seed, prompt in enumerate(PROMPTS, start=7):
                lmbench(
                    home, "generate", run, "--prompt", prompt, "--words", "60", "--temperature",
                    "0.8", "--top-k", "40", "--seed", str(seed), "--no-unk", "--threads", "1",
                )  # fmt: skip
        keep(home / "sessions" / SESSION)
    size = TARGET.stat().st_size
    if size > LIMIT_BYTES:
        sys.exit(f"{TARGET.name}: {size:,} bytes are too many for a package")
    print(f"{TARGET.name}: {size:,} bytes")


def lmbench(home: Path, *words: str) -> None:
    command = [sys.executable, "-m", "lmbench", *words, "--session", SESSION]
    print("lmbench", " ".join(words), flush=True)
    subprocess.run(command, check=True, env=os.environ | {"LMBENCH_HOME": str(home)})


def keep(session: Path) -> None:
    """Write the archive."""
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:

        def put(name: str, text: str) -> None:
            archive.writestr(zipfile.ZipInfo(name, STAMP), text, zipfile.ZIP_DEFLATED, 9)

        record = json.loads((session / "session.json").read_text("utf-8"))
        put("session.json", json.dumps({**placeless(record), "workbench": {}}, indent=1))
        samples = session / "samples.jsonl"
        if samples.exists():
            put("samples.jsonl", samples.read_text("utf-8"))
        for run in sorted((session / "runs").iterdir()):
            if not (run / "run.json").is_file():
                continue
            put(f"runs/{run.name}/run.json", json.dumps(cleaned(run), indent=1))
            put(f"runs/{run.name}/events.jsonl", (run / "events.jsonl").read_text("utf-8"))


def cleaned(run: Path) -> dict[str, Any]:
    """The run's record without what identifies the machine."""
    record = json.loads((run / "run.json").read_text("utf-8"))
    return {key: value for key, value in placeless(record).items() if key not in MACHINE}


def placeless(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose corpus does not say in which folder it was."""
    if record.get("corpus"):
        record["corpus"]["origin"] = ""
    return record


if __name__ == "__main__":
    main()
