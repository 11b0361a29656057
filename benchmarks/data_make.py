"""How long `lmbench data make` takes for raw text, and its peak memory.

    python benchmarks/data_make.py [--megabytes 200] [--text FOLDER…] [--tokenizer NAME] [--quick]

The text is varied from real one: paragraphs of the docstrings in Python's sources, and of the
folders that are named, are drawn at random, and in each every tenth word becomes another one of the
same text. So words and punctuation come as often as they really do, and no paragraph stands twice.
"""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BLANK_LINES = re.compile(r"\n\s*\n")
OTHER = 0.1
"""Share of the words that are exchanged."""


def paragraphs(folders: list[Path]) -> Iterator[list[str]]:
    """The words of each paragraph of the text in these folders; of Python's sources those of the
    docstrings."""
    for folder in folders:
        for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.txt")]):
            if "site-packages" in path.parts:
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            texts = docstrings(text) if path.suffix == ".py" else [text]
            for part in texts:
                yield from filter(None, (one.split() for one in BLANK_LINES.split(part)))


def docstrings(source: str) -> list[str]:
    """Those of a module, its classes and functions; none where it cannot be parsed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def write_text(target: Path, size: int, folders: list[Path]) -> None:
    """Varied text of about `size` bytes."""
    generator = np.random.default_rng(1)
    found = list(paragraphs(folders))
    words = np.array([word for paragraph in found for word in paragraph], object)
    written = 0
    with target.open("w", encoding="utf-8") as file:
        while written < size:
            paragraph = np.array(found[generator.integers(len(found))], object)
            places = generator.random(len(paragraph)) < OTHER
            paragraph[places] = generator.choice(words, int(places.sum()))
            written += file.write(" ".join(paragraph) + "\n\n")


def measure(text: Path, home: Path, tokenizer: str) -> dict[str, float]:
    """Seconds of the command and its peak resident memory in bytes."""
    command = [sys.executable, "-m", "lmbench", "data", "make", "measured", str(text), "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--tokenizer", tokenizer],
        env={**os.environ, "LMBENCH_HOME": str(home)},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"the command ended with {os.waitstatus_to_exitcode(status)}")
    # Linux counts it in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "bytes": text.stat().st_size,
        "seconds": seconds,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * unit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="folders of text")
    parser.add_argument("--tokenizer", default="moses")
    parser.add_argument("--quick", action="store_true", help="one megabyte")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    folders = [*given.text, Path(sysconfig.get_path("stdlib"), "json" if given.quick else "")]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        size = (1 if given.quick else given.megabytes) * 10**6
        # A process of its own: the memory that this one takes counts as its children's, too.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_text, args=(text, size, folders)
        )
        writer.start()
        writer.join()
        figures = measure(text, Path(folder), given.tokenizer)
    if given.json:
        print(json.dumps(figures))
        return
    print(
        f"{figures['bytes'] / 1e6:.0f} MB of text: {figures['seconds']:.1f} s "
        f"({figures['processor_seconds']:.1f} s of processor), peak memory "
        f"{figures['peak_rss_bytes'] / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
