"""Errors of Kafka in our words, and the options that all clients share."""

from __future__ import annotations

import ssl

import pytest
from aiokafka import errors as kafka

from notifyd.errors import ConfigError, NotifydError, PermanentError, TransientError
from notifyd.settings import load_settings
from notifyd.stream.clients import as_notifyd_error, backoff_s, kafka_options, probe_broker


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (kafka.KafkaConnectionError("gone"), TransientError, "broker_unavailable"),
        (kafka.RequestTimedOutError(), TransientError, "broker_unavailable"),
        (kafka.NotEnoughReplicasError(), TransientError, "broker_unavailable"),
        (ConnectionRefusedError(), TransientError, "broker_unavailable"),
        (TimeoutError(), TransientError, "broker_unavailable"),
        (kafka.MessageSizeTooLargeError(), PermanentError, "record_too_large"),
        (kafka.UnknownTopicOrPartitionError(), PermanentError, "topic_missing"),
        (kafka.InvalidTopicError(), PermanentError, "bad_topic_name"),
        (kafka.TopicAuthorizationFailedError(), PermanentError, "not_authorised"),
        (kafka.ClusterAuthorizationFailedError(), PermanentError, "not_authorised"),
        (kafka.PolicyViolationError(), PermanentError, "broker_refused"),
        (kafka.AuthenticationFailedError(), ConfigError, "kafka_login_refused"),
        (kafka.SaslAuthenticationFailed(), ConfigError, "kafka_login_refused"),
        (ssl.SSLCertVerificationError(1, "self-signed"), ConfigError, "kafka_login_refused"),
        (KeyError("x"), NotifydError, "internal"),
    ],
)
def test_an_error_keeps_its_meaning(error: Exception, kind: type[NotifydError], reason: str) -> None:
    found = as_notifyd_error(error, "writing to t")
    assert type(found) is kind
    assert found.reason == reason
    assert found.message.startswith("writing to t: ")
    assert found.remedy or reason == "internal"


def test_an_error_of_ours_stays_as_it_is() -> None:
    error = PermanentError("x")
    assert as_notifyd_error(error, "y") is error


def test_waits_grow_up_to_a_limit_and_are_never_all_the_same() -> None:
    assert all(0.1 <= backoff_s(0) <= 0.2 for _ in range(20))
    assert all(5 <= backoff_s(1000) <= 10 for _ in range(20))
    assert len({backoff_s(3) for _ in range(20)}) > 1


def test_plain_clients_carry_servers_and_the_request_timeout() -> None:
    options = kafka_options(load_settings({}, kafka_bootstrap_servers="a:1, b:2", kafka_request_timeout_s=3))
    assert options == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "PLAINTEXT",
        "request_timeout_ms": 3000,
    }


def test_sasl_over_tls_carries_the_login_and_a_context() -> None:
    options = kafka_options(
        load_settings(
            {},
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_username="u",
            kafka_sasl_password="p",
        )
    )
    assert options["sasl_plain_password"] == "p"
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert options["ssl_context"].verify_mode is ssl.CERT_REQUIRED


def test_sasl_without_a_user_is_a_setting_to_correct() -> None:
    with pytest.raises(ConfigError, match="needs a user and a password"):
        kafka_options(load_settings({}, kafka_security_protocol="SASL_PLAINTEXT"))


def test_a_missing_authority_file_is_a_setting_to_correct() -> None:
    with pytest.raises(ConfigError, match="TLS files"):
        kafka_options(load_settings({}, kafka_security_protocol="SSL", kafka_ssl_ca_file="/nowhere/ca.pem"))


@pytest.mark.parametrize("servers", ["", "localhost:kafka"])
async def test_servers_that_are_none_are_a_setting_to_correct(servers: str) -> None:
    with pytest.raises(ConfigError, match="is no list of host:port"):
        await probe_broker(load_settings({}, kafka_bootstrap_servers=servers))
