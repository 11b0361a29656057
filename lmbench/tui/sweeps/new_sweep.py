"""The file of a sweep that starts from a run, out of the texts of a form. No Textual here."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmbench.config import CONFIGS, Kind, TrainConfig, changed_settings
from lmbench.errors import LmbenchError
from lmbench.jobs.input_files import SCHEDULE_FILE
from lmbench.jobs.prepare import inherited_settings
from lmbench.jobs.sweeps.sweep_file import RECIPE
from lmbench.report import numbers
from lmbench.session import Home
from lmbench.session.process import python
from lmbench.training.recipe_files import recipe_names
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.form import FieldSpec

__all__ = ["AXES", "fields_of", "kinds_of", "listed_settings", "run_sweep", "sweep_text", "took"]

AXES = ("axis 1", "axis 2", "axis 3")
_NO, _YES = "no", "yes"
_AFTER: dict[str, tuple[Kind, ...]] = {
    "train": ("prune", "quantize", "train"),
    "prune": ("quantize", "train"),
}


def kinds_of(view: RunView) -> tuple[Kind, ...]:
    """What a sweep can do with a run: work on its finished model, or train anew as it did."""
    kinds: tuple[Kind, ...] = _AFTER.get(view.kind, ())
    return kinds if view.status == "finished" else kinds[-1:]


def fields_of(view: RunView, kind: Kind, session: str) -> list[FieldSpec]:
    """The lines of the form; `session` is proposed for the runs."""
    start = "compress: " if kind == "prune" else "preset: " if kind == "quantize" else "lr: "
    found = [
        FieldSpec("kind", "each run is a", kind, choices=kinds_of(view)),
        FieldSpec("session", "session", session, "holds the runs"),
    ]
    for number, name in enumerate(AXES):
        note = "SETTING: values, with commas; or {from: 1, to: 9, count: 3}"
        value = start if number == 0 else ""
        found.append(FieldSpec(name, name, value, note if not number else "", listed=True))
    if kind == "train":
        found.append(FieldSpec("seeds", "seeds", "3", "runs of each setting"))
    if kind != "quantize":
        note = "stop runs early that others beat"
        found.append(FieldSpec("early", "early stopping", _NO, note, choices=(_NO, _YES)))
        note = "presets, with commas; empty for none"
        found.append(FieldSpec("then", "then quantize by", "", note))
    return found


def listed_settings(kind: Kind) -> list[tuple[str, str]]:
    """The settings that an axis may be of, with what each means, and the recipes of training."""
    fields = CONFIGS[kind].model_fields
    found = [(name, str(field.description or "")) for name, field in fields.items()]
    if issubclass(CONFIGS[kind], TrainConfig):
        found.append((RECIPE, f"settings of training: {', '.join(recipe_names())}, or a file"))
    return found


def sweep_text(view: RunView, kind: Kind, texts: Mapping[str, str]) -> str:
    """The sweep's file, of what was typed; `lmbench sweep check` says what is wrong with it.

    Raises:
        LmbenchError: an axis names no setting or another's, or the run's settings cannot be read.
    """
    axes: dict[str, str] = {}
    for setting, values in (_axis(texts[name]) for name in AXES if texts[name].strip()):
        if setting in axes:
            raise LmbenchError(f"two axes of {setting}: write all its values in one")
        axes[setting] = values
    stage: dict[str, str] = {"kind": kind}
    if kind == "train":
        own = changed_settings(view.run.config()) | inherited_settings(view.run)
        schedule = view.run.path / SCHEDULE_FILE
        if "compress" in own and schedule.is_file():
            # Its own copy: what it was read from may have changed since, or be gone.
            own["compress"] = str(schedule.resolve())
        known = CONFIGS["train"].model_fields.keys() - axes.keys() - {"seed"}
        settings = {k: v for k, v in own.items() if k in known}
        stage["settings"] = json.dumps(settings, ensure_ascii=False)
    else:
        stage["from"] = json.dumps([view.run.ref], ensure_ascii=False)
    lines = ["version: 1", f"name: {json.dumps(texts['session'].strip(), ensure_ascii=False)}"]
    if kind == "train" and texts.get("seeds", "").strip():
        lines.append(f"seeds: {texts['seeds'].strip()}")
    lines += ["early_stopping: true"] * (texts.get("early") == _YES)
    lines += ["stages:", *_stage(stage, axes)]
    if texts.get("then", "").strip():
        lines += _stage({"kind": "quantize"}, {"preset": f"[{texts['then'].strip()}]"})
    return "\n".join(lines) + "\n"


def _axis(text: str) -> tuple[str, str]:
    name, colon, values = text.partition(":")
    name, values = name.strip(), values.strip()
    if not colon or not name.isidentifier() or not values:
        raise LmbenchError(f"axis '{text.strip()}': write a setting and its values, lr: 5, 10, 20")
    return name, values if values.startswith(("{", "[")) else f"[{values}]"


def _stage(entries: Mapping[str, str], axes: Mapping[str, str]) -> list[str]:
    first, *rest = (f"{key}: {value}" for key, value in entries.items())
    lines = [f"  - {first}", *(f"    {line}" for line in rest)]
    lines += ["    axes:"] * bool(axes)
    return lines + [f"      {name}: {values}" for name, values in axes.items()]


def took(document: Mapping[str, Any]) -> list[str]:
    """What ``lmbench sweep check --json`` found, a line for each stage and one for all."""
    stages = [*document["stages"], {"stage": "in all", **document}]
    return [
        f"{stage['stage']}: {numbers.plural(stage['runs'], 'run')}, {_time(stage['seconds'])}, "
        f"about {numbers.size(stage['bytes'])}"
        for stage in (stages if len(stages) > 2 else stages[:1])
    ]


def _time(seconds: float | None) -> str:
    return "time not known" if seconds is None else f"about {numbers.duration(seconds)}"


async def run_sweep(verb: str, text: str, session: str, home: Home, *flags: str) -> dict[str, Any]:
    """``lmbench sweep check`` or ``start`` of this text, in a process of its own: quantizations are
    checked by torch, which the workbench does not import. Cancelled, a check ends; a start goes on,
    and the workbench ends after it: one that is broken off leaves half of the runs.

    Raises:
        LmbenchError: a line for each mistake.
    """
    begun: list[subprocess.Popen[bytes]] = []
    words = [verb, "--session", session, "--json", *flags]
    try:
        code, output, said = await asyncio.to_thread(_run_sweep, text, words, home, begun)
    except asyncio.CancelledError:
        if verb != "start":
            for process in begun:
                process.kill()
        raise
    if code:
        lines = said.decode("utf-8", "replace").replace("lmbench: ", "").splitlines()
        raise LmbenchError(*(lines or ["it ended without a word"]))
    return json.loads(output)


def _run_sweep(
    text: str, words: Sequence[str], home: Home, begun: list[subprocess.Popen[bytes]]
) -> tuple[int, bytes, bytes]:
    """In a thread: the process's exit status and what it wrote; it is put into `begun`."""
    with tempfile.TemporaryDirectory(prefix="lmbench-sweep-") as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(text, encoding="utf-8")
        process = subprocess.Popen(
            python("lmbench", "sweep", *words, str(file)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"LMBENCH_HOME": str(home.path)},
        )
        begun.append(process)
        output, said = process.communicate()
    return process.returncode, output, said
