"""Whether a training takes the compiled kernels: all or none, and the reason for none."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from waiting import until

from lmbench.compile_kernels import NativeUnavailableError, Unit
from lmbench.config import TrainConfig, validate
from lmbench.distiller.quantization.trained_codes import TrainedCodes
from lmbench.jobs.training_arithmetic import begun_on, choose_kernels, of_another_machine
from lmbench.training import cpu_info, native
from lmbench.training.native import codes, decoder, lstm, process

CONFIG = TrainConfig()
AVX2 = process._NEEDED["avx2"]
AMX = {*AVX2, "avx512f", *process._NEEDED["amx"]}
FAILED = "g++ failed: unknown target 'amx-tile'"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with AMX and a compiler; what the process allows is put back at the end."""
    monkeypatch.setattr(process, "_allowed", None)
    monkeypatch.setattr(process, "_flags", lambda: AMX)
    monkeypatch.setattr(Unit, "library", lambda self: "a library")
    monkeypatch.setattr(TrainedCodes, "passes", None)
    for part in (codes, decoder, lstm):
        monkeypatch.setattr(part, "prepared", lambda library: library)


def break_compiler(monkeypatch: pytest.MonkeyPatch, *broken: Unit) -> None:
    def library(self: Unit) -> Any:
        if self in broken:
            raise NativeUnavailableError(FAILED)
        return "a library"

    monkeypatch.setattr(Unit, "library", library)


def in_use() -> tuple[bool, ...]:
    return tuple(
        found is not None for found in (native.kernel(), native.lstm_library(), TrainedCodes.passes)
    )


def test_all_are_had_where_all_can_be() -> None:
    assert native.enable_kernels() is None
    assert in_use() == (True, True, True)


@pytest.mark.parametrize(
    "broken",
    [decoder.UNITS["amx"], lstm.LSTM, codes.UNITS["amx"]],
    ids=lambda unit: unit.source.stem,
)
def test_where_one_cannot_be_had_none_is(monkeypatch: pytest.MonkeyPatch, broken: Unit) -> None:
    break_compiler(monkeypatch, broken)
    assert native.enable_kernels() == FAILED
    assert in_use() == (False, False, False)
    # Another training of this process asks again.
    break_compiler(monkeypatch)
    assert native.enable_kernels() is None


@pytest.mark.parametrize("others", [set(), {"avx512f", "avx512_bf16"}], ids=["avx2", "avx512"])
def test_without_amx_the_lstm_is_torchs(monkeypatch: pytest.MonkeyPatch, others: set[str]) -> None:
    monkeypatch.setattr(process, "_flags", lambda: AVX2 | others)
    assert native.best() == ("avx512" if others else "avx2")
    assert native.enable_kernels() is None
    assert in_use() == (True, False, True)
    for unit in (decoder.UNITS["avx2"], codes.UNITS["avx2"]):
        break_compiler(monkeypatch, unit)
        assert native.enable_kernels() == FAILED
        assert in_use() == (False, False, False)


def test_each_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(lstm, "prepared", lambda library: None)
        assert native.why_not("amx") == "the system does not let this process use AMX"
    with monkeypatch.context() as changed:
        changed.setattr(process, "_flags", lambda: AVX2)
        assert native.why_not("amx") == "the processor has no AMX"
    with monkeypatch.context() as changed:
        changed.setattr(process, "_allowed", "torch")
        assert native.why_not("amx") == "this process does without them"
    monkeypatch.undo()
    monkeypatch.setattr(process, "_allowed", None)
    monkeypatch.setattr(process, "_flags", lambda: AMX)
    monkeypatch.setenv("LMBENCH_NATIVE", "0")
    assert native.why_not("amx") == "LMBENCH_NATIVE=0 is set"


def job(*, begun: bool, kernels: str | None = None) -> Any:
    return SimpleNamespace(
        resuming=begun,
        run=SimpleNamespace(checkpoint=lambda name: Path(name) if begun else None),
        record=SimpleNamespace(results={} if kernels is None else {"kernels": kernels}),
    )


@pytest.mark.parametrize("there", [True, False], ids=["compiler", "no compiler"])
@pytest.mark.parametrize(
    "begun, known",
    [
        (False, None),
        (True, None),
        (True, "torch"),
        (True, "avx2"),
        (True, "avx512"),
        (True, "amx"),
    ],
)
def test_a_run_goes_on_with_the_kernels_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there: bool,
    begun: bool,
    known: str | None,
) -> None:
    break_compiler(monkeypatch, *(() if there else (lstm.LSTM, decoder.UNITS["avx2"])))
    kernels, warning = choose_kernels(job(begun=begun, kernels=known), CONFIG, torch.device("cpu"))
    wanted = known or ("torch" if begun else "amx")
    assert kernels == (wanted if begun or there else "torch")
    assert (native.kernel() is not None) == (wanted != "torch" and there)
    assert (native.lstm_library() is not None) == (wanted == "amx" and there)
    assert (warning is not None) == (wanted != "torch" and begun and not there)
    # The reason is told, where there is one, in the warning or in a line.
    told = (warning or "") + capsys.readouterr().out
    assert (FAILED in told) == (wanted != "torch" and not there)


@pytest.mark.parametrize(
    "device, known, resuming, says",
    [
        ("cpu", {"threads": 3}, True, None),
        ("cpu", {"threads": 2}, False, None),
        ("", {"threads": 2}, True, None),
        ("cpu", {}, True, None),
        ("cpu", {"threads": 2}, True, "began with --threads 2 and goes on with 3"),
        ("cuda:1", {"threads": 3}, True, "began on cuda:1 and goes on on cpu"),
        ("cpu", {"arithmetic": "torch 2.9.0 on x AVX2"}, True, "with torch 2.9.0 on x AVX2 and"),
    ],
)
def test_a_run_that_goes_on_elsewhere_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    known: dict[str, Any],
    resuming: bool,
    says: str | None,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    record = SimpleNamespace(device=device, results=known)
    given: Any = SimpleNamespace(resuming=resuming, record=record)
    cpu = torch.device("cpu")
    begun = begun_on(given, cpu)
    warning = of_another_machine(begun, cpu)
    assert (warning is None) == (says is None)
    assert says is None or says in str(warning)
    # The next attempt is compared with the first one, too.
    given = SimpleNamespace(
        resuming=True, record=SimpleNamespace(device="cpu", results={**known, **begun})
    )
    assert begun_on(given, cpu) == begun


def test_other_instructions_are_another_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    given: Any = SimpleNamespace(resuming=False, record=SimpleNamespace(device="", results={}))
    described = {"vendor_id": "AuthenticAMD", "flags": "avx2 avx512f"}
    monkeypatch.setattr(cpu_info, "described", lambda: described)
    begun = begun_on(given, cpu)
    assert of_another_machine(begun, cpu) is None
    described["flags"] += " avx512_bf16"
    assert str(of_another_machine(begun, cpu)).count(torch.__version__) == 2
    described["vendor_id"] = "GenuineIntel"
    assert "avx512_bf16, whose products may round differently" in str(
        of_another_machine(begun, cpu)
    )


def test_a_processor_with_neither_is_no_news(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "_flags", lambda: {"avx2"})
    assert choose_kernels(job(begun=False), CONFIG, torch.device("cpu")) == ("torch", None)
    assert capsys.readouterr().out == ""
    _, warning = choose_kernels(job(begun=True, kernels="amx"), CONFIG, torch.device("cpu"))
    assert warning is not None
    assert "the processor has no AMX" in warning


@pytest.mark.parametrize("begun", [False, True])
def test_exact_is_torchs_own_operations_throughout(begun: bool) -> None:
    exact = validate(TrainConfig, {"precision": "exact"})
    kernels = choose_kernels(job(begun=begun, kernels="amx"), exact, torch.device("cpu"))
    assert kernels == ("torch", None)
    assert in_use() == (False, False, False)


class StopError(BaseException):
    pass


def test_what_ends_the_training_ends_the_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(process, "_flags", lambda: AMX)
    slow = tmp_path / "slow-compiler"
    slow.write_text(f"#!/bin/sh\ncd '{tmp_path}'\ntouch begun\nsleep 3\ntouch ended\n")
    slow.chmod(0o755)
    monkeypatch.setenv("CXX", str(slow))
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "cache"))

    def stop(*_: object) -> None:
        raise StopError

    def stop_when_begun() -> None:
        until((tmp_path / "begun").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    user = threading.Thread(target=stop_when_begun)
    user.start()
    try:
        with pytest.raises(StopError):
            native.enable_kernels()
    finally:
        user.join()
        signal.signal(signal.SIGTERM, before)
    assert not (tmp_path / "ended").exists()
    assert not list((tmp_path / "cache").rglob(".build-*"))
