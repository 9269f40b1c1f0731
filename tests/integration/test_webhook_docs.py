"""The receivers in the docs verify what notifyd sends, and refuse what it did not."""

import asyncio
import base64
import os
import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from notifyd.delivery.outcome import Dead, Done
from tests.fixtures.waiting import eventually
from tests.integration.webhook_peers import channel, contact, delivery

DOC = Path(__file__).resolve().parents[2] / "docs" / "reference" / "webhooks.md"
SECRET = "whsec_" + base64.b64encode(b"a secret of the docs' receiver!!").decode()
OTHER = "whsec_" + base64.b64encode(b"another one, never handed out!!!").decode()


@asynccontextmanager
async def documented_receiver(language: str, folder: Path) -> AsyncIterator[str]:
    match = re.search(rf"```{language}\n(.+?)```", DOC.read_text(), re.DOTALL)
    assert match, f"no {language} example"
    program = folder / f"receiver.{ {'python': 'py', 'js': 'js'}[language] }"
    program.write_text(match[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = sys.executable if language == "python" else "node"
    process = await asyncio.create_subprocess_exec(
        run,
        str(program),
        env={**os.environ, "WEBHOOK_SECRET": SECRET, "PORT": str(port)},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:

        async def is_up() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(is_up, timeout_s=20, what="the documented receiver")
        yield f"http://127.0.0.1:{port}/hooks/in"
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize(
    "language",
    [
        "python",
        pytest.param("js", marks=pytest.mark.skipif(not shutil.which("node"), reason="needs node")),
    ],
)
async def test_a_documented_receiver_takes_ours_and_refuses_others(language: str, tmp_path: Path) -> None:
    async with documented_receiver(language, tmp_path) as url, channel() as webhook:
        sent = delivery(title="Grüße")
        assert await webhook.send(sent, contact(url, secret=SECRET)) == Done("HTTP 204")
        assert await webhook.send(sent, contact(url, secret=SECRET)) == Done("HTTP 204")
        assert await webhook.send(sent, contact(url, secret=OTHER)) == Dead("http_401", "HTTP 401")
        assert await webhook.send(sent, contact(url)) == Dead("http_401", "HTTP 401")
        async with aiohttp.ClientSession() as session, session.post(url, data=b"{}") as answer:
            assert answer.status == 401
