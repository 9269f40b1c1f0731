from __future__ import annotations

import pytest

from notifyd.errors import ConfigError
from notifyd.roles.names import ROLES, parse_roles


def test_several_roles_in_one_process() -> None:
    assert parse_roles("ws, deliver") == ("ws", "deliver")


def test_all_is_every_role() -> None:
    assert parse_roles("all") == tuple(ROLES)


def test_a_role_named_twice_runs_once() -> None:
    assert parse_roles("ws,ws") == ("ws",)


def test_a_misspelt_role_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean persist\?"):
        parse_roles("persists")


@pytest.mark.parametrize("text", ["", " , "])
def test_no_role_is_told_what_there_is(text: str) -> None:
    with pytest.raises(ConfigError, match="deliver, persist, "):
        parse_roles(text)
