"""The workbench in a browser: who may come in, and what they see."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import LIMIT_S

from lmbench.errors import LmbenchError
from lmbench.session import events as ev
from lmbench.tui import web
from lmbench.tui.web import address_of, check_address, cookie_name, is_local

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")

TOKEN = "a-token-that-is-long-enough"
BRAILLE = re.compile("[\u2801-\u28ff]{3}")
CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@asynccontextmanager
async def opened(home: Path, *words: str) -> AsyncIterator[tuple[str, Any]]:
    """The address of a served workbench, and a browser that has opened its link."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with linked(home, *words) as link, aiohttp.ClientSession(cookie_jar=jar) as client:
        async with client.get(link) as answer:
            assert answer.status == 200
        yield link.partition("/?")[0], client


@asynccontextmanager
async def linked(home: Path, *words: str) -> AsyncIterator[str]:
    """The link that a served workbench prints."""
    async with serving(home, *words) as (link, _):
        yield link


@asynccontextmanager
async def serving(home: Path, *words: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The link that a served workbench prints, and its process."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lmbench", "tui", "demo", "--web", "--port", str(port), *words,
        stdout=subprocess.PIPE, env=os.environ | {"LMBENCH_HOME": str(home)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        assert f":{port}/" in line
        await listening(port)
        yield line.split()[2], process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def listening(port: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_s_own_addresses_need_no_token_of_the_user_s(host):
    assert is_local(host)
    check_address(host, None)


@pytest.mark.parametrize(
    "host, token, words",
    [
        ("0.0.0.0", None, "lets other machines drive"),
        ("192.168.1.7", None, "give a --token"),
        ("::", None, "give a --token"),
        ("0.0.0.0", "short", "at least 16 characters"),
        ("example.org", TOKEN, "use an IP address"),
    ],
)
def test_another_address_needs_a_token_that_cannot_be_guessed(host, token, words):
    with pytest.raises(LmbenchError, match=words):
        check_address(host, token)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_link_of_all_addresses_is_one_that_can_be_opened(host):
    reached = ipaddress.ip_address(address_of(host))
    assert not reached.is_unspecified
    assert reached.version == ipaddress.ip_address(host).version


@pytest.mark.parametrize("host", ["localhost", "127.8.8.8", "192.168.1.7", "::1"])
def test_the_link_of_one_address_is_that_address(host):
    assert address_of(host) == host


@pytest.mark.parametrize(
    "words, says",
    [
        (("--host", "0.0.0.0"), "--token"),
        (("--port", "99999"), "--port: 99999"),
        (("--port", "0"), "--port: 0"),
        (("nosuch",), "nosuch"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(tmp_path, words, says):
    done = subprocess.run(
        [sys.executable, "-m", "lmbench", "tui", *words, "--web"],
        capture_output=True, text=True, check=False,
        env=os.environ | {"LMBENCH_HOME": str(tmp_path)}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


async def test_what_strangers_send_is_refused_and_no_answer_may_be_framed(full):
    async with opened(full.home.path) as (address, client), aiohttp.ClientSession() as stranger:
        async with client.get(address) as answer:
            text = await answer.text()
            assert answer.status == 200
            assert "https://" not in text
        for host in ("rebound.example", "[::1]x", "a:b:c", ""):
            async with client.get(address, headers={"Host": host}) as answer:
                assert answer.status == 403, host
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await client.ws_connect(f"{address}/ws", headers={"Origin": "http://evil.example"})
        for who, path in ((client, "/"), (client, "/static/js/textual.js"), (client, "/nosuch"),
                          (stranger, "/"), (stranger, "/nosuch")):  # fmt: skip
            async with who.get(address + path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "frame-ancestors 'none'" in policy
                assert answer.headers["X-Frame-Options"] == "DENY"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        for size, shown in (("20", "20"), ("9" * 5000, "16"), ("\u0663", "16"), ("0", "16")):
            async with client.get(address, params={"fontsize": size}) as answer:
                assert answer.status == 200
                assert f'data-font-size="{shown}"' in await answer.text()
        name = cookie_name(int(address.rpartition(":")[2]))
        for value in ("\xfc", "\udcff", "\u4e2d" * 9, '"\\377"'):
            async with stranger.get(address, headers={"Cookie": f"{name}={value}"}) as answer:
                assert answer.status == 403


@pytest.mark.parametrize("words", [(), ("--token", TOKEN)], ids=["made", "given"])
async def test_only_the_token_s_holder_comes_in_and_then_by_a_cookie(full, words):
    async with linked(full.home.path, *words) as link:
        address, _, token = link.partition("/?token=")
        assert len(token) >= 16
        assert not words or token == TOKEN
        async with aiohttp.ClientSession() as stranger:
            for path in ("/", "/ws", "/static/js/textual.js", "/?token=wrong", "/?token=%ff%f0"):
                async with stranger.get(address + path) as answer:
                    assert answer.status == 403
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as client:
            async with client.get(link) as answer:
                assert answer.status == 200
                assert "token" not in str(answer.url)
            (cookie,) = jar
            assert cookie.key == cookie_name(int(address.rpartition(":")[2]))
            assert cookie["httponly"]
            assert cookie["samesite"] == "Strict"
            async with client.get(address) as answer:
                assert answer.status == 200


async def test_a_page_that_does_not_end_keeps_the_server_no_longer(monkeypatch):
    monkeypatch.setattr("lmbench.tui.web._LAST_WAITS_S", (0, 0))
    server = web._server_class()(None, "127.0.0.1", 8000, TOKEN)
    cancelled = 0

    async def page() -> None:
        nonlocal cancelled
        server._pages.add(asyncio.current_task())
        while cancelled < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1

    task = asyncio.create_task(page())
    await asyncio.sleep(0)
    await server.on_shutdown(None)
    assert not task.done()
    assert cancelled >= 1
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)


async def test_the_socket_carries_the_screen_and_answers_keys_until_the_server_ends(full):
    async with serving(full.home.path) as (link, process):
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as client:
            await (await client.get(link)).read()
            page = await client.ws_connect(f"{link.partition('?')[0]}ws?width=100&height=30")
            # The frame of Runs, which thin lines have where it is without the focus.
            await seen(page, BRAILLE, re.compile("┏[^┓]* Runs "))
            await page.send_json(["stdin", "5"])
            await seen(page, re.compile("pruned 5 tensors"))
            process.send_signal(signal.SIGINT)
            # The page is not read any more, so that its browser never answers the server's close.
            assert await asyncio.wait_for(process.wait(), LIMIT_S) == 0


async def seen(page: Any, *patterns: re.Pattern[str]) -> None:
    text = ""
    while not all(pattern.search(text) for pattern in patterns):
        message = await page.receive(60)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
        if message.type == aiohttp.WSMsgType.BINARY:
            text += message.data.decode(errors="replace")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
async def test_chromium_opens_the_page_and_sees_a_plot_that_lives(full, tmp_path):
    run = full.session.run(2)
    async with linked(full.home.path) as link, browser(tmp_path / "profile") as page:
        await page.call("Network.enable")
        await page.call("Page.enable")
        # As a window in front has it.
        await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        await page.call("Page.navigate", url=link)
        await page.frames_until(BRAILLE)
        title = await page.call("Runtime.evaluate", expression="document.title", returnByValue=True)
        assert title["result"]["value"] == "lmbench"
        page.text = ""
        # A key, before anything was clicked.
        await page.call("Input.dispatchKeyEvent", type="keyDown", key="?", text="?")
        await page.frames_until(re.compile(" Help "))
        await page.call("Input.dispatchKeyEvent", type="keyDown", key="q", text="q")
        page.text = ""
        for step in range(3670, 5000, 10):
            full.write(
                run,
                ev.Step(step=step, epoch=4, batch=1, loss=3.9, ppl=49.4, lr=1.0, grad_norm=1.0,
                        tokens_per_s=4400.0),
            )  # fmt: skip
        await page.frames_until(BRAILLE)
        shown = await page.call(
            "Runtime.evaluate", expression="document.body.className", returnByValue=True
        )
        assert "-first-byte" in shown["result"]["value"]
        allowed = await page.call(
            "Runtime.evaluate",
            expression="typeof refresh + ' ' + typeof document.querySelector('#start').onclick",
            returnByValue=True,
        )
        assert allowed["result"]["value"] == "function function"


class Page:
    """A tab, spoken to in Chromium's own protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._number = 0
        self.text = ""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = await self._hear()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    async def frames_until(self, pattern: re.Pattern[str]) -> None:
        while not pattern.search(self.text):
            await self._hear()

    async def _hear(self) -> dict[str, Any]:
        message = json.loads((await self._socket.receive(60)).data)
        if message.get("method") == "Network.webSocketFrameReceived":
            frame = message["params"]["response"]
            if frame["opcode"] == 2:
                self.text += base64.b64decode(frame["payloadData"]).decode(errors="replace")
        return message


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Page]:
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        f"--user-data-dir={profile}", "--window-size=1000,600", "about:blank",
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        found = None
        while found is None:
            line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
            assert line, "Chromium ended"
            found = re.search(r"DevTools listening on ws://([^/]+)", line)
        async with aiohttp.ClientSession() as client:
            async with client.get(f"http://{found[1]}/json") as answer:
                tabs = await answer.json()
            tab = next(t for t in tabs if t["type"] == "page")
            async with client.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.kill()
        await process.wait()
