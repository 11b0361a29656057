"""Each function of the house that parses a file is reached by a reader of the table, or is listed
here with the reason why it need not be."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from fuzz import read_damaged
from places import REPOSITORY
from readers import READERS, make_home

PACKAGE = REPOSITORY / "lmbench"
PARSERS = {
    *("json.loads", "json.load", "yaml.load", "yaml.safe_load", "zipfile.ZipFile", "safe_open"),
    *("load_file", "np.load", "np.memmap", "np.fromfile", "csv.reader", "csv.DictReader"),
    *("tomllib.load", "tomllib.loads", "pickle.load", "pickle.loads", "torch.load"),
    "pickletools.genops",
}
SHARED = {"lmbench/session/files.py:parse_json", "lmbench/distiller/yaml_values.py:read_yaml"}
"""Others parse through these, and are found as well as those that parse by themselves."""
FUZZED = {
    "corpus/ids.py:read_ids": "ids",
    "corpus/making/card.py:read_card": "card of a corpus",
    "corpus/making/documents.py:_json_text": "records to make a corpus of",
    "deploy/load_model.py:_about": "weights",
    "deploy/load_model.py:_quantized": "quantized model",
    "deploy/load_model.py:load_run": "weights",
    "deploy/packed_file/header.py:_json": "packed file",
    "deploy/pytorch_checkpoint/container.py:_read_zip": "checkpoint of PyTorch",
    "deploy/pytorch_checkpoint/pickle_values.py:read_pickle": "older checkpoint of PyTorch",
    "distiller/quantization/calibration.py:load_stats": "statistics",
    "distiller/quantization/settings_files.py:_read": "quantization settings",
    "distiller/schedules/checking.py:parse_schedule": "schedule",
    "distiller/yaml_values.py:read_yaml": "schedule",
    "jobs/places/settings.py:parse_place_settings": "settings of places",
    "jobs/sweeps/proposals.py:_proposals": "proposals of a sweep",
    "jobs/sweeps/sweep_file.py:parse_sweep": "sweep",
    "scoring/nbest.py:_json_lines": "n-best list",
    "session/archive.py:_record": "archive",
    "session/archive.py:unpack": "archive",
    "session/files.py:parse_json": "run record",
    "session/files.py:read_json": "run record",
    "session/store.py:read": "run record",
    "session/tagged_lines.py:parse": "events",
    "training/checkpoint.py:_read_tensors": "state of a training",
    "training/checkpoint.py:checkpoint_step": "facts about a checkpoint",
    "training/checkpoint.py:read_checkpoint": "state of a training",
    "training/recipe_files.py:_read": "recipe",
    "tui/bench/saved_state.py:last_session": "last session",
    "tui/bench/user_settings.py:load_settings": "settings of the workbench",
    "tui/generate/saved_samples.py:_parse": "samples",
}
ENGINE = "of the engine as a library"
OWN = "this user's own cache: what cannot be read is measured or made again"
SAME = "reads what a reader of the table has read before"
NOT_FUZZED = {
    "corpus/fetch.py:_extract": "its checksum is known",
    "corpus/pydoc.py:_is_whole": OWN,
    "deploy/load_model.py:_read": SAME,
    "deploy/load_model.py:open_model": SAME,
    "deploy/peak_memory.py:_measure": SAME,
    "distiller/checkpoint.py:_read": "of the engine as a library; no command calls it",
    "distiller/quantization/quantizer.py:_ordered": ENGINE,
    "distiller/quantization/settings.py:parse_overrides": "text of the engine's caller",
    "distiller/schedules/build.py:config_component_from_file_by_class": ENGINE,
    "distiller/schedules/quantizer_arguments.py:_patterns": SAME,
    "distiller/script_helpers.py:yaml_ordered_load": ENGINE,
    "distiller/yaml_values.py:replaced": SAME,
    "jobs/kinds/benchmark.py:_open": SAME,
    "jobs/places/ray.py:_look": "the answer of a process of ours",
    "jobs/places/ray_driver.py:main": "what a process of ours sends",
    "jobs/rendezvous.py:read_rendezvous": "what a live worker of ours has written",
    "jobs/sweeps/kept_file.py:_refuse_other": SAME,
    "report/tensor_distribution.py:_open": SAME,
    "report/tensor_distribution.py:_shared": SAME,
    "session/archive.py:_write": "writes",
    "session/archive.py:pack": "writes",
    "session/remembered.py:_all": OWN,
    "session/rename.py:_changed": "leaves what it cannot read as it is",
    "session/rename.py:finish_rename": "leaves what it cannot read as it is",
    "tui/bench/event_summary.py:load_summary": OWN,
    "tui/bench/user_settings.py:_document": SAME,
    "tui/demo/player.py:_recorded": "part of lmbench",
    "tui/demo/player.py:start": "part of lmbench",
    "tui/new_run/corpus_size.py:size_of": "the answer of a process of ours",
    "tui/make_corpus.py:_data_make": "the answer of a process of ours",
    "tui/sweeps/new_sweep.py:run_sweep": "the answer of a process of ours",
}


def parsing_functions() -> set[str]:
    found = set()
    names = PARSERS | {place.rpartition(":")[2] for place in SHARED} | {"read_json"}
    for path in PACKAGE.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                calls = {ast.unparse(c.func) for c in ast.walk(function) if isinstance(c, ast.Call)}
                if calls & names:
                    found.add(f"{path.relative_to(PACKAGE).as_posix()}:{function.name}")
    return found


def test_every_function_that_parses_is_in_a_table() -> None:
    listed, found = FUZZED.keys() | NOT_FUZZED.keys(), parsing_functions()
    assert not FUZZED.keys() & NOT_FUZZED.keys()
    assert found - listed == set(), "give it a reader in tests/faults/readers.py"
    assert listed - found == set(), "no longer there, or parses no more"


def test_the_readers_reach_the_functions_that_they_are_listed_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "cache"))
    home = make_home(tmp_path)
    for name in set(FUZZED.values()):
        called: set[CodeType] = set()

        def note(frame: FrameType, event: str, _: Any, called: set[CodeType] = called) -> None:
            if event == "call":
                called.add(frame.f_code)

        reader = READERS[name]
        sys.setprofile(note)
        try:
            read_damaged(reader, home, (home.path / reader.file).read_bytes())
        finally:
            sys.setprofile(None)
        reached = {
            f"{Path(code.co_filename).relative_to(PACKAGE).as_posix()}:{code.co_name}"
            for code in called
            if Path(code.co_filename).is_relative_to(PACKAGE)
        }
        wanted = {place for place, by in FUZZED.items() if by == name}
        assert wanted <= reached, (name, wanted - reached)
