"""The JavaScript client by itself: its state machine, its size, and that what is served is what was built."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser.conftest import CLIENT, ROOT, needed

SERVED = ROOT / "notifyd" / "http" / "pages" / "notifyd.js"


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_state_machine_holds_against_a_scripted_server(node: str) -> None:
    tests = sorted(str(path) for path in (CLIENT / "test").glob("*.test.mjs"))
    assert tests
    output = run(node, "--test", *tests, cwd=CLIENT)
    assert "\n# fail 0\n" in output
    assert "\n# pass 0\n" not in output


def test_it_weighs_less_than_6_kb_compressed() -> None:
    assert len(gzip.compress(SERVED.read_bytes(), 9)) < 6000


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client built anew, as its README says, in a folder of its own."""
    npm = needed("npm", what="npm, which comes with Node")
    folder = tmp_path_factory.mktemp("client") / "js"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    run(npm, "ci", "--no-audit", "--no-fund", cwd=folder)
    run(npm, "run", "build", cwd=folder)
    return folder


def test_what_the_page_serves_is_what_the_source_builds(built: Path) -> None:
    assert (built / "dist" / "notifyd.js").read_text() == SERVED.read_text(), "run `make client` and commit"


def test_its_types_serve_a_program_in_typescript(built: Path) -> None:
    user = built / "user"
    user.mkdir()
    (user / "user.ts").write_text(
        'import { PushClient, type Message, type Status } from "notifyd-client";\n'
        "const titles: (string | undefined)[] = [];\n"
        "const client = new PushClient({\n"
        '  url: "wss://push.example/v1/push", token: async () => "t", user: "alice", storage: localStorage,\n'
        "  onMessage: (message: Message) => void titles.push(message.content.title),\n"
        "  onStatus: (status: Status) => console.log(status.state, status.code),\n"
        "  onGap: async (welcome) => console.log(welcome.missing),\n"
        "});\n"
        'client.read(["id"]);\n'
        "client.close();\n"
        "// @ts-expect-error: there is no such option\n"
        'new PushClient({ url: "", token: "", nonsense: 1 });\n'
    )
    modules = user / "node_modules"
    modules.mkdir()
    (modules / "notifyd-client").symlink_to(built)
    tsc = built / "node_modules" / ".bin" / "tsc"
    options = [
        "--ignoreConfig",
        "--noEmit",
        "--strict",
        "--target",
        "ES2022",
        "--module",
        "NodeNext",
        "--lib",
        "ES2022,DOM",
    ]
    run(str(tsc), *options, "user.ts", cwd=user)


def test_the_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (CLIENT / "package-lock.json").read_text()
