"""Other people's WebSocket clients: each says hello, gets a message, acknowledges it, and closes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
import websockets
from playwright.sync_api import BrowserContext
from websockets.sync.client import connect

from tests.fixtures.push_process import PushProcess
from tests.fixtures.waiting import wait_until

INTEROP = Path(__file__).parent / "interop"
#: A page that has the session; what it sees is in `window.seen`.
_PAGE = """([url, token]) => {
  window.seen = []
  const socket = window.socket = new WebSocket(url, ['notifyd.v1'])
  socket.onopen = () => {
    seen.push({ protocol: socket.protocol, extensions: socket.extensions })
    socket.send(JSON.stringify({ op: 'hello', token }))
  }
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data)
    seen.push(frame)
    if (frame.op === 'msg') socket.send(JSON.stringify({ op: 'ack', ids: [frame.message.UUID] }))
    if (frame.op === 'ok') socket.close(1000, 'bye')
  }
  socket.onclose = ({ code, wasClean }) => seen.push({ closed: code, clean: wasClean })
}"""


#: For clients that offer compression: a server that goes without, and one that takes it.
both_servers = pytest.mark.parametrize("server", [False, True], indirect=True, ids=["plain", "deflate"])


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[PushProcess]:
    deflates = getattr(request, "param", False)
    with PushProcess(tmp_path / "log", ws_origins=["*"], ws_deflate=deflates) as server:
        yield server
        # Nobody is left, and nothing went wrong on the way.
        wait_until(lambda: server.stats()["sockets"] == 0)
        assert server.faults() == []


def url(server: PushProcess) -> str:
    return f"ws://127.0.0.1:{server.port}/v1/push"


def check_session(
    server: PushProcess, seen: list[dict[str, Any]], *, title: str, offers: bool = True
) -> None:
    """Judge what a client saw, pongs left out; `offers`: whether it would have it compressed."""
    opened, welcome, message, ok, closed = seen
    assert opened["protocol"] == "notifyd.v1"
    name = "permessage-deflate" if server.settings.ws_deflate and offers else ""
    assert opened["extensions"].partition(";")[0] == name
    assert welcome["op"] == "welcome"
    assert message["message"]["content"]["title"] == title
    assert ok == {"op": "ok", "ack": [message["message"]["UUID"]]}
    assert closed == {"closed": 1000, "clean": True}


@both_servers
def test_chromium(server: PushProcess, context: BrowserContext):
    page = context.new_page()
    # Any page of this host: a foreign one may not connect to loopback.
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.evaluate(_PAGE, [url(server), server.token()])
    page.wait_for_function("seen.some((frame) => frame.op === 'welcome')")
    assert server.publish("alice", "for Chromium ✓") == 1
    page.wait_for_function("seen.some((frame) => frame.closed)")
    check_session(server, page.evaluate("seen"), title="for Chromium ✓")


def test_chromium_sees_the_code_of_a_close_and_why(server: PushProcess, context: BrowserContext):
    page = context.new_page()
    # Any page of this host: a foreign one may not connect to loopback.
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.evaluate(_PAGE, [url(server), "no token"])
    page.wait_for_function("seen.some((frame) => frame.closed)")
    _, error, closed = page.evaluate("seen")
    assert error["code"] == "unauthorised"
    assert closed == {"closed": 4401, "clean": True}


@both_servers
@pytest.mark.parametrize("kind", ["ws", "builtin"])
def test_node(server: PushProcess, node: str, kind: str, tmp_path: Path):
    folder = tmp_path / "interop"
    shutil.copytree(INTEROP, folder, ignore=shutil.ignore_patterns("node_modules"))
    flags = []
    if kind == "ws":
        npm = shutil.which("npm") or "npm"
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True)
    elif _major(node) < 22:
        flags = ["--experimental-websocket", "--no-warnings"]
    command = [node, *flags, "client.mjs", url(server), server.token(), kind]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        seen = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert server.publish("alice", "for Node ✓") == 1
        seen += [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    pongs = [frame for frame in seen if "pong" in frame]
    assert pongs == ([{"pong": "here?"}] if kind == "ws" else [])
    check_session(server, [frame for frame in seen if "pong" not in frame], title="for Node ✓")


@both_servers
def test_websockets(server: PushProcess):
    with connect(url(server), subprotocols=["notifyd.v1"], compression="deflate") as ws:
        seen: list[dict[str, Any]] = [
            {"protocol": ws.subprotocol, "extensions": ",".join(e.name for e in ws.protocol.extensions)}
        ]
        ws.send(json.dumps({"op": "hello", "token": server.token()}))
        seen.append(json.loads(ws.recv(timeout=10)))
        assert server.publish("alice", "for websockets ✓") == 1
        seen.append(json.loads(ws.recv(timeout=10)))
        ack = json.dumps({"op": "ack", "ids": [seen[-1]["message"]["UUID"]]})
        # An iterable goes out in fragments.
        ws.send([ack[:5], ack[5:20], ack[20:]])
        seen.append(json.loads(ws.recv(timeout=10)))
        assert ws.ping("here?").wait(10)
        ws.close(1000, "bye")
    seen.append({"closed": ws.close_code, "clean": True})
    check_session(server, seen, title="for websockets ✓")


def test_websockets_sees_the_code_of_a_close(server: PushProcess):
    with connect(url(server)) as ws:
        ws.send(b"binary")
        assert json.loads(ws.recv(timeout=10))["code"] == "bad_frame"
        with pytest.raises(websockets.ConnectionClosed) as closed:
            ws.recv(timeout=10)
    assert closed.value.rcvd.code == 4400


def test_websocket_client(server: PushProcess):
    ws = websocket.create_connection(url(server), subprotocols=["notifyd.v1"], timeout=10)
    headers = ws.getheaders()
    seen: list[dict[str, Any]] = [
        {"protocol": ws.getsubprotocol(), "extensions": headers.get("sec-websocket-extensions", "")}
    ]
    ws.send(json.dumps({"op": "hello", "token": server.token()}))
    seen.append(json.loads(ws.recv()))
    assert server.publish("alice", "for websocket-client ✓") == 1
    seen.append(json.loads(ws.recv()))
    ws.send(json.dumps({"op": "ack", "ids": [seen[-1]["message"]["UUID"]]}))
    seen.append(json.loads(ws.recv()))
    ws.ping("here?")
    opcode, data = ws.recv_data(control_frame=True)
    assert (opcode, data) == (websocket.ABNF.OPCODE_PONG, b"here?")
    ws.send_close(1000, b"bye")
    opcode, data = ws.recv_data(control_frame=True)
    assert opcode == websocket.ABNF.OPCODE_CLOSE
    seen.append({"closed": int.from_bytes(data[:2], "big"), "clean": True})
    ws.shutdown()
    check_session(server, seen, title="for websocket-client ✓")


def _major(node: str) -> int:
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    return int(version.lstrip("v").split(".")[0])
