"""Settings: what a wrong variable says, and what is left alone."""

from __future__ import annotations

import pytest

from notifyd.errors import ConfigError
from notifyd.settings import Settings, load_settings, unknown_variables


def test_values_come_from_the_environment_that_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFYD_HTTP_PORT", "99")
    settings = load_settings({"NOTIFYD_HTTP_PORT": "81", "NOTIFYD_WS_ORIGINS": "https://a, https://b"})
    assert settings.http_port == 81
    assert settings.ws_origins == ("https://a", "https://b")
    assert load_settings({}).http_port == 8080
    assert load_settings().http_port == 99


def test_an_override_wins_over_the_environment() -> None:
    assert load_settings({"NOTIFYD_HTTP_PORT": "81"}, http_port=82).http_port == 82


def test_settings_built_by_hand_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFYD_HTTP_PORT", "99")
    assert Settings().http_port == 8080


def test_an_unknown_variable_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"NOTIFYD_KAFKA_SERVER": "x"})
    assert caught.value.reason == "unknown_setting"
    assert "did you mean NOTIFYD_KAFKA_BOOTSTRAP_SERVERS?" in str(caught.value)
    assert "NOTIFYD_SETTINGS_STRICT=false" in str(caught.value)


def test_without_strictness_an_unknown_variable_is_left_to_be_warned_about() -> None:
    environ = {"NOTIFYD_KAFKA_SERVER": "x", "NOTIFYD_SETTINGS_STRICT": "false"}
    assert load_settings(environ).settings_strict is False
    assert len(unknown_variables(environ)) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NOTIFYD_WS_SERVICE_HOST", "10.0.0.7"),
        ("NOTIFYD_WS_SERVICE_PORT_HTTP", "80"),
        ("NOTIFYD_WS_PORT", "tcp://10.0.0.7:80"),
        ("NOTIFYD_WS_PORT_80_TCP", "tcp://10.0.0.7:80"),
        ("NOTIFYD_WS_PORT_80_TCP_ADDR", "10.0.0.7"),
        ("NOTIFYD_PORT", "tcp://10.0.0.7:80"),
    ],
)
def test_what_kubernetes_injects_for_services_is_ignored(name: str, value: str) -> None:
    assert load_settings({name: value}) == load_settings({})


def test_a_service_link_with_the_name_of_a_setting_does_not_become_its_value() -> None:
    assert load_settings({"NOTIFYD_HTTP_PORT": "tcp://10.0.0.7:80"}).http_port == 8080


def test_every_wrong_value_is_named_and_no_secret_is_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(
            {
                "NOTIFYD_HTTP_PORT": "many",
                "NOTIFYD_JWT_SECRET": "too-short-secret",
                "NOTIFYD_DATABASE_URL": "mysql://root:hunter2@db",
            }
        )
    text = str(caught.value)
    for name in ("NOTIFYD_HTTP_PORT", "NOTIFYD_JWT_SECRET", "NOTIFYD_DATABASE_URL"):
        assert name in text
    assert "too-short-secret" not in text
    assert "hunter2" not in text


def test_the_watchdog_may_not_cut_the_drain() -> None:
    with pytest.raises(ConfigError, match="NOTIFYD_GRACE_S must be above NOTIFYD_DRAIN_S"):
        load_settings({"NOTIFYD_DRAIN_S": "20"})


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    "text", ["webhook", "webhook=", "=5", "webhook=0", "webhook=-1", "webhook=many", "a=1,b"]
)
def test_a_rate_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"NOTIFYD_DELIVER_RATES .* is no limit"):
        load_settings({"NOTIFYD_DELIVER_RATES": text})


def test_rates_are_read_by_channel() -> None:
    settings = load_settings({"NOTIFYD_DELIVER_RATES": "email=10, webhook=0.5"})
    assert settings.channel_rates == {"email": 10.0, "webhook": 0.5}
