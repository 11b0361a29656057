"""The sampler as a real process: asked, misused, killed and left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from sampler_world import Answers, ask, speaking_run

from lmbench.jobs.hosts.sampler_messages import (
    MESSAGES,
    Died,
    Ended,
    Halt,
    Refused,
    SamplerClient,
    Wrote,
)
from lmbench.session import Home
from lmbench.session.process import python


async def test_it_writes_refuses_halts_dies_with_a_reason_comes_back_and_goes(tmp_path: Path):
    run = speaking_run(Home(tmp_path))
    answers = Answers()
    client = SamplerClient(tmp_path / "logs" / "sampler.log", answers)
    await client.send(ask(1, run))
    await answers.until_over(1)
    first, pid = answers.text(1), client.pid
    assert len(first) == 8
    assert pid is not None

    process = client._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.write(b'rubbish\n\xff\xfe\n{"kind": "halt", "id": []}\n' + b"[" * 5000 + b"\n")
    await client.send(ask(2, run, temperature=-3))
    await answers.until_over(2)
    refused = [m for m in answers.received if isinstance(m, Refused)]
    assert len(refused) == 5
    assert all("does not understand a request" in m.reason for m in refused[:4])

    await client.send(ask(3, run, words=10**6))
    await answers.until(lambda m: isinstance(m, Wrote) and m.id == 3 and m.at > 20)
    await client.send(Halt(id=3))
    ended = await answers.until_over(3)
    assert isinstance(ended, Ended)
    assert ended.halted
    assert client.pid == pid

    await client.send(ask(4, run, words=10**6))
    await answers.until(lambda m: isinstance(m, Wrote) and m.id == 4)
    os.kill(pid, signal.SIGKILL)
    died = await answers.until(lambda m: isinstance(m, Died))
    assert isinstance(died, Died)
    assert died.reason == "the sampler is gone: killed, probably out of memory"
    assert client.pid is None

    await client.send(ask(5, run))
    await answers.until_over(5)
    assert answers.text(5) == first
    again = client.pid
    assert again not in (None, pid)
    await client.send(ask(6, run, words=10**6))
    await answers.until(lambda m: isinstance(m, Wrote) and m.id == 6)
    await client.close()
    assert again is not None
    assert not psutil.pid_exists(again)
    assert sum(isinstance(m, Died) for m in answers.received) == 1
    await client.send(ask(7, run))
    assert client.pid is None


async def test_one_that_is_closed_while_it_is_being_started_is_ended(tmp_path: Path, monkeypatch):
    begun, go_on = asyncio.Event(), asyncio.Event()
    spawn = SamplerClient._spawn

    async def slow(client: SamplerClient) -> asyncio.subprocess.Process:
        begun.set()
        await go_on.wait()
        return await spawn(client)

    monkeypatch.setattr(SamplerClient, "_spawn", slow)
    monkeypatch.setattr(SamplerClient, "command", lambda _: [sys.executable, "-c", "input()"])
    client = SamplerClient(tmp_path / "sampler.log", Answers())
    starting = asyncio.create_task(client.start())
    await begun.wait()
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(starting, closing)
    assert client.pid is None


def test_it_ends_when_whoever_asked_is_killed(tmp_path: Path):
    run = speaking_run(Home(tmp_path))
    script = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen({python('lmbench.jobs.hosts.sampler')!r}, stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE, start_new_session=True)\n"
        f"p.stdin.write({MESSAGES.line(ask(1, run, words=10**6))!r}); p.stdin.flush()\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdout is not None
    sampler = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    sampler.wait(60)


async def test_a_process_that_cannot_be_started_is_told_as_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "lmbench.jobs.hosts.messages.python", lambda module: ["/nowhere/python", module]
    )
    answers = Answers()
    client = SamplerClient(tmp_path / "sampler.log", answers)
    await client.send(Halt(id=1))
    died = await answers.until(lambda m: isinstance(m, Died))
    assert isinstance(died, Died)
    assert "cannot be started" in died.reason
    await asyncio.wait_for(client.close(), 5)
