"""How long opening a corpus takes: cold (read, numbered, cached) and warm (mapped from the cache).

    python benchmarks/corpus.py --data FOLDER [--quick] [--json]

Beside them stands the plain way, one word after the other through a dictionary, as the original
script reads its corpus at every start. The three take turns, and the medians are compared. The
text is in the system's page cache throughout: what is measured is the work, not the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmbench.corpus import Corpus, open_corpus
from lmbench.corpus.corpus import CACHE_FOLDER
from lmbench.corpus.sources import split_files

REPEATS = 15
REPEATS_QUICK = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plain(files: Mapping[str, Path]) -> list[list[int]]:
    """Ids of the three splits, read line by line and word by word."""
    numbers: dict[str, int] = {}
    splits: list[list[int]] = []
    for path in files.values():
        ids: list[int] = []
        with path.open(encoding="utf8") as lines:
            for line in lines:
                for word in [*line.split(), "<eos>"]:
                    if word not in numbers:
                        numbers[word] = len(numbers)
                    ids.append(numbers[word])
        splits.append(ids)
    return splits


def measure(corpus: Corpus, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of each opening. ``folder`` is a copy of the corpus that this may write into."""
    files = split_files(folder)
    times: dict[str, list[float]] = {"cold": [], "warm": [], "plain": []}
    for _ in range(repeats):
        shutil.rmtree(folder / CACHE_FOLDER, ignore_errors=True)
        times["cold"].append(seconds(lambda: open_corpus(str(folder), folder)))
        if not (folder / CACHE_FOLDER).is_dir():
            raise SystemExit("the cold opening found its ids elsewhere: the times mean nothing")
        times["warm"].append(seconds(lambda: open_corpus(str(folder), folder)))
        times["plain"].append(seconds(lambda: plain(files)))
    if [corpus.split(split).tolist() for split in files] != plain(files):
        raise SystemExit("the ids are not those of the plain way: the times mean nothing")
    return times


def report(corpus: Corpus, times: Mapping[str, list[float]]) -> dict[str, Any]:
    """The measurement as one JSON document."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "benchmark": "corpus",
        "corpus": corpus.name,
        "fingerprint": corpus.fingerprint,
        "tokens": corpus.counts,
        "types": corpus.ntokens,
        "repeats": len(times["cold"]),
        "seconds": {
            name: {"median": medians[name], "fastest": min(values), "slowest": max(values)}
            for name, values in times.items()
        },
        "plain_over_cold": medians["plain"] / medians["cold"],
        "plain_over_warm": medians["plain"] / medians["warm"],
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
    }


def show(result: Mapping[str, Any]) -> None:
    tokens = sum(result["tokens"].values())
    print(f"{result['corpus']}: {tokens:,} tokens, {result['types']:,} types")
    print(f"{'ms':8}{'median':>10}{'fastest':>10}{'slowest':>10}   of {result['repeats']} openings")
    for name, row in result["seconds"].items():
        print(f"{name:8}" + "".join(f"{row[key] * 1e3:10.1f}" for key in row))
    print(
        f"the plain way takes {result['plain_over_cold']:.1f} times as long as a cold opening, "
        f"{result['plain_over_warm']:.0f} times as long as a warm one"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the cold and warm opening of a corpus.")
    parser.add_argument("--data", help="a folder with a corpus (default: pydoc)")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, under 50 seconds")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        # Ids that the user's own cache holds would make every opening a warm one.
        os.environ["LMBENCH_CACHE"] = str(Path(scratch) / "cache")
        corpus = open_corpus(options.data or "pydoc", Path(scratch))
        shutil.rmtree(Path(scratch) / "cache", ignore_errors=True)
        folder = Path(scratch) / "copy"
        folder.mkdir()
        for path in split_files(corpus.path).values():
            shutil.copy(path, folder)
            (folder / path.name).chmod(0o644)
        times = measure(corpus, folder, REPEATS_QUICK if options.quick else REPEATS)
    result = report(corpus, times)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
