"""Channels of other packages: the example of the docs, found as pip would have installed it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from notifyd.channels.port import Delivery
from notifyd.channels.registry import build_channels
from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Done, Skip
from notifyd.errors import ConfigError
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from tests.fixtures.push import make_message

DOC = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "add-a-channel.md"


def example(language: str) -> str:
    return re.search(rf"```{language}\n(.+?)```", DOC.read_text(), re.DOTALL)[1]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: str) -> None:
    """Put a package where Python finds it, with the entry point that the docs name."""
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    group, line = re.search(r"\n(\S+) =\n    (.+)\n", example("ini")).groups()
    (info / "entry_points.txt").write_text(f"[{group}]\n{line.replace('paging', module)}\n")
    monkeypatch.syspath_prepend(folder)


async def test_the_documented_channel_is_found_and_works(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "paging", example("python"))
    channel = build_channels(Settings(), Metrics())["paging"]
    delivery = Delivery(make_message("ann"), "ann", "paging", "", 1)
    await channel.start()
    assert await channel.send(delivery, Contact(email=("ann@example.org",))) == Done("paged")
    assert await channel.send(delivery, Contact()) == Skip("no_address")
    await channel.stop()


def test_one_that_is_not_wanted_stays_away(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "shy", "def make(settings, metrics):\n    return None\n")
    assert set(build_channels(Settings(), Metrics())) == {"webhook", "stub"}


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        (
            "broken",
            "raise RuntimeError('no licence')",
            "'broken' of broken cannot be made: RuntimeError: no licence",
        ),
        ("empty", "", "'empty' of empty cannot be made: AttributeError"),
        (
            "twin",
            "class Channel:\n    name = 'webhook'\n\n\ndef make(settings, metrics):\n    return Channel()\n",
            "a channel 'webhook', which there is already",
        ),
        (
            "push",
            "class Channel:\n    name = 'ws'\n\n\ndef make(settings, metrics):\n    return Channel()\n",
            "a channel 'ws', which there is already",
        ),
    ],
)
def test_one_that_does_not_fit_is_named(tmp_path, monkeypatch, module, code, words):
    install(tmp_path, monkeypatch, module, code)
    with pytest.raises(ConfigError, match=re.escape(words)):
        build_channels(Settings(), Metrics())
