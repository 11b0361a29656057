"""The card of a model: what a run's record says of it, as the Hub's ``README.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import yaml

from lmbench.printable import one_line, printable
from lmbench.report import numbers
from lmbench.report.run_command import run_command
from lmbench.session.event_log import read_events
from lmbench.session.events import QuantResult
from lmbench.session.store import TRAINED_FILE, Run, RunRecord

__all__ = ["model_card", "scored_checkpoint", "shown_checkpoint"]


def scored_checkpoint(record: RunRecord) -> Literal["best", "last"] | None:
    """The checkpoint that the test score of a training is of; None for no such score."""
    found = record.results.get("test_checkpoint")
    return found if found in ("best", "last") else None


def shown_checkpoint(run: Run) -> Literal["best", "last"]:
    """The checkpoint that stands for a run: the scored one, else the best one if there is one."""
    return scored_checkpoint(run.read()) or ("best" if run.checkpoint("best") else "last")


def model_card(run: Run, weights_bytes: int, floats: bool) -> str:
    """Metadata in YAML, then Markdown: figures, how the model was made, how it is read.

    Args:
        run: whose model it is; its figures are those of its record alone.
        weights_bytes: of the file of weights beside the card.
        floats: the model was quantized, and that file holds its weights as floats.
    """
    record = run.read()
    metadata = yaml.safe_dump(_metadata(run, record), allow_unicode=True, sort_keys=False)
    rows = [
        f"| {markdown_text(name)} | {markdown_text(value)} |" for name, value in _rows(run, record)
    ]
    rows.append(f"| bytes of model.safetensors | {weights_bytes:,} |")
    parts = [
        f"---\n{metadata}---",
        f"# {markdown_text(one_line(record.name))}",
        f"A word-level language model ({markdown_text(record.shape.get('model', ''))}), exported "
        "by lmbench. The figures are those of the run's record.",
        "\n".join(["| | |", "| --- | ---: |", *rows]),
    ]
    if floats:
        parts.append(
            "The run computes with quantized numbers, and its perplexities are of that. The file "
            "here holds its weights as floats of the same values; activations are not quantized."
        )
    parts += ["## How it was made", *_made(run)]
    parts += [
        "## How to read it",
        "`vocab.txt`, a line each, or `vocab.json` has the words in the order of their ids; a "
        "perplexity is the exponential of the mean loss of a token, ends of lines (`<eos>`) among "
        "them. In the folder:",
        _code(
            "echo 'some text' | lmbench score .\nlmbench evaluate model.safetensors --data CORPUS"
        ),
    ]
    return printable("\n\n".join(parts)) + "\n"


def _metadata(run: Run, record: RunRecord) -> dict[str, Any]:
    """What the Hub's index reads. A language, a licence and a data set are the user's to add."""
    tags = ["language-model", "recurrent", str(record.shape.get("model", "")).lower()]
    lineage = _lineage(run)
    pruned = any(kin.config.get("compress") and kin.results.get("sparsity") for _, kin in lineage)
    quantized = any(
        kin.kind == "quantize" or (made.path / "best" / TRAINED_FILE).is_file()
        for made, kin in lineage
    )
    tags += ["pruned"] * pruned + ["quantized"] * quantized
    metrics = [
        {"type": "perplexity", "name": f"{split} perplexity", "value": value}
        for split, value in _perplexities(record)
        if not record.part_tokens
    ]
    metadata: dict[str, Any] = {
        "library_name": "lmbench",
        "pipeline_tag": "text-generation",
        "tags": tags,
    }
    if metrics and record.corpus:
        corpus = one_line(record.corpus.name)
        task = {"type": "text-generation"}
        result = {"task": task, "dataset": {"name": corpus, "type": corpus}, "metrics": metrics}
        metadata["model-index"] = [{"name": one_line(record.name), "results": [result]}]
    return metadata


def _perplexities(record: RunRecord) -> Iterator[tuple[str, float]]:
    """Those of the checkpoint that the card is of; on valid, the best one has been scored."""
    for split in ("test",) if scored_checkpoint(record) == "last" else ("valid", "test"):
        value = record.results.get(f"{split}_ppl")
        if value is not None:
            yield split, value


def _rows(run: Run, record: RunRecord) -> Iterator[tuple[str, str]]:
    """Names and values of what is known."""
    results, shape = record.results, record.shape
    yield "run", run.ref
    if record.corpus:
        corpus = record.corpus
        yield "corpus", f"{corpus.name}, {corpus.ntokens:,} types, {corpus.fingerprint[:12]}"
    part = f" (of the first {record.part_tokens:,} tokens)" if record.part_tokens else ""
    for split, value in _perplexities(record):
        yield f"{split} perplexity", f"{value:.2f}{part}"
    sizes = [f"{shape[key]}" for key in ("nlayers", "nhid", "emsize") if key in shape]
    tied = ", embedding and decoder tied" if shape.get("tied") else ""
    projected = ", a projection before the decoder" if shape.get("projection") else ""
    yield "layers, hidden units, embedding", ", ".join(sizes) + tied + projected
    for name, key in (("weights", "parameters"), ("weights that are not zero", "nonzero")):
        if results.get(key) is not None:
            yield name, f"{results[key]:,}"
    if results.get("sparsity") is not None:
        yield "sparsity", f"{100 * results['sparsity']:.1f}%"
    yield from _bits(run)
    if record.size.bytes is not None:
        word = "about, as it would be packed" if record.size.as_packed else "of the run's file"
        yield f"bytes {word}", f"{record.size.bytes:,}"
    if results.get("seconds") is not None:
        device = f" on {record.device}" if record.device else ""
        yield "time", numbers.duration(results["seconds"]) + device


def _bits(run: Run) -> Iterator[tuple[str, str]]:
    """How wide the quantized run of the lineage keeps weights and activations."""
    for kin, _ in _lineage(run):
        found = [e.settings for e in read_events(kin.events_path) if isinstance(e, QuantResult)]
        for what in ("weights", "activations"):
            widths = {entry.get(f"bits_{what}") for entry in found} - {None}
            if widths:
                ordered = sorted(map(str, widths), key=lambda width: (len(width), width))
                yield f"bits of {what}", ", ".join(ordered)


def _made(run: Run) -> Iterator[str]:
    """The commands from the first run that is known, each with the schedule that it followed."""
    for kin, record in reversed(_lineage(run)):
        command = run_command(kin, record) or "(its settings cannot be read)"
        yield f"`{kin.ref}`:\n\n{_code(command)}"
        schedule = kin.path / "schedule.yaml"
        if schedule.is_file():
            yield f"Its schedule:\n\n{_code(schedule.read_text('utf-8', 'replace'))}"


def _lineage(run: Run) -> list[tuple[Run, RunRecord]]:
    """The run, its parent, and so on, as far as their records can be read."""
    found: dict[Run, RunRecord] = {}
    kin: Run | None = run
    while kin is not None and kin not in found and (record := kin.read_if_readable()):
        found[kin] = record
        kin = kin.home.run_of(record.parent) if record.parent else None
    return list(found.items())


def _code(text: str) -> str:
    """A block that the text cannot end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def markdown_text(text: object) -> str:
    """Text without what Markdown or HTML would make of it."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|&#" else c for c in one_line(text))
