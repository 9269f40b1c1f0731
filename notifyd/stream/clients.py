"""What every Kafka client of ours shares: options, the wait for a broker, errors in our words."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import errors as kafka
from aiokafka.conn import collect_hosts, create_conn

from notifyd.errors import ConfigError, NotifydError, PermanentError, TransientError
from notifyd.log import get_logger
from notifyd.settings import Settings
from notifyd.stream.calm_logs import calm_library_logs

#: One attempt to reach a broker; a host that drops packets must not hold up the next one.
_CONNECT_TIMEOUT_S: Final = 5.0

#: Errors of aiokafka, ours, the reason, the remedy; the first line that fits is taken.
_ERRORS: Final[tuple[tuple[tuple[type[BaseException], ...], type[NotifydError], str, str], ...]] = (
    (
        (
            kafka.AuthenticationFailedError,
            kafka.AuthenticationMethodNotSupported,
            kafka.SaslAuthenticationFailed,
            kafka.UnsupportedSaslMechanismError,
            kafka.IllegalSaslStateError,
            ssl.SSLCertVerificationError,
        ),
        ConfigError,
        "kafka_login_refused",
        "check NOTIFYD_KAFKA_SECURITY_PROTOCOL and the NOTIFYD_KAFKA_SASL_ and NOTIFYD_KAFKA_SSL_ settings",
    ),
    (
        (
            kafka.TopicAuthorizationFailedError,
            kafka.GroupAuthorizationFailedError,
            kafka.ClusterAuthorizationFailedError,
            kafka.TransactionalIdAuthorizationFailed,
        ),
        PermanentError,
        "not_authorised",
        "grant this client the ACL it lacks",
    ),
    (
        (kafka.MessageSizeTooLargeError, kafka.RecordTooLargeError, kafka.RecordListTooLargeError),
        PermanentError,
        "record_too_large",
        "send less, or raise NOTIFYD_MESSAGE_MAX_BYTES and see `notifyd topics check`",
    ),
    ((kafka.UnknownTopicOrPartitionError,), PermanentError, "topic_missing", "run `notifyd topics create`"),
    (
        (kafka.InvalidTopicError,),
        PermanentError,
        "bad_topic_name",
        "NOTIFYD_TOPIC_PREFIX may hold letters, digits, `.`, `_` and `-`",
    ),
    (
        (
            kafka.InvalidTimestampError,
            kafka.CorruptRecordException,
            kafka.PolicyViolationError,
            kafka.UnsupportedForMessageFormatError,
            kafka.InvalidRequestError,
            kafka.UnsupportedVersionError,
        ),
        PermanentError,
        "broker_refused",
        "see the broker's log",
    ),
    (
        (kafka.KafkaError, OSError, asyncio.TimeoutError),
        TransientError,
        "broker_unavailable",
        "it may pass; is the broker up and reachable?",
    ),
)


def backoff_s(attempt: int, *, first_s: float = 0.2, most_s: float = 10.0) -> float:
    """Time to wait after failed attempt number `attempt` (from 0): exponential, with jitter, in seconds."""
    return min(most_s, first_s * 2.0 ** min(attempt, 16)) * random.uniform(0.5, 1.0)


def kafka_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments that aiokafka's producer, consumer and admin client have in common.

    Raises `ConfigError` for a security setting that cannot work.
    """
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {
        "bootstrap_servers": [part.strip() for part in settings.kafka_bootstrap_servers.split(",")],
        "security_protocol": protocol,
        "request_timeout_ms": int(settings.kafka_request_timeout_s * 1000),
    }
    if protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = _tls_context(settings)
    if protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        if settings.kafka_sasl_username is None or settings.kafka_sasl_password is None:
            raise ConfigError(
                f"NOTIFYD_KAFKA_SECURITY_PROTOCOL={protocol} needs a user and a password",
                reason="bad_setting",
                remedy="set NOTIFYD_KAFKA_SASL_USERNAME and NOTIFYD_KAFKA_SASL_PASSWORD",
            )
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return options


def _tls_context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_file)
        if settings.kafka_ssl_cert_file is not None:
            context.load_cert_chain(settings.kafka_ssl_cert_file, settings.kafka_ssl_key_file)
    except OSError as error:
        raise ConfigError(
            f"the TLS files for Kafka cannot be read: {error}",
            reason="bad_setting",
            remedy="see the NOTIFYD_KAFKA_SSL_ settings",
        ) from error
    return context


def as_notifyd_error(error: BaseException, what: str) -> NotifydError:
    """Put an error of aiokafka, or of the network below it, into our tree; `what` was being done."""
    if isinstance(error, NotifydError):
        return error
    detail = f"{what}: {describe(error)}"
    for kinds, found, reason, remedy in _ERRORS:
        if isinstance(error, kinds):
            return found(detail, reason=reason, remedy=remedy)
    return NotifydError(detail, reason="internal")


def describe(error: BaseException) -> str:
    """Say in a few words what an error of aiokafka means; its own text is often empty."""
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    name = type(error).__name__.removesuffix("Error")
    text = str(error).strip()
    return f"{name}: {text}" if text else name


def bootstrap_hosts(settings: Settings) -> list[tuple[str, int]]:
    """Return host and port of each bootstrap server, in any order; `ConfigError` for what is none."""
    try:
        hosts = collect_hosts(kafka_options(settings)["bootstrap_servers"])
    except (ValueError, IndexError) as error:
        raise _bad_servers(settings) from error
    if not all(host for host, _, _ in hosts):
        raise _bad_servers(settings)
    return [(host, port) for host, port, _ in hosts]


async def probe_broker(settings: Settings) -> None:
    """Connect to the first bootstrap server that answers, log in, and let go.

    aiokafka's own bootstrap only logs why it failed; this raises it: `TransientError` while
    no server can be reached, `ConfigError` where one was and refused us.
    """
    await probe_hosts(settings, bootstrap_hosts(settings))


async def probe_hosts(settings: Settings, hosts: Sequence[tuple[str, int]]) -> None:
    """Do as `probe_broker` with brokers at these addresses."""
    options = kafka_options(settings)
    del options["bootstrap_servers"]
    options["request_timeout_ms"] = int(min(_CONNECT_TIMEOUT_S, settings.kafka_request_timeout_s) * 1000)
    failures = []
    for host, port in hosts:
        try:
            conn = await create_conn(host, port, client_id="notifyd-probe", **options)
        except (TimeoutError, OSError, kafka.KafkaError) as error:
            found = as_notifyd_error(error, f"Kafka at {host}:{port}")
            if isinstance(found, ConfigError):
                raise found from error
            failures.append(f"{host}:{port}: {_reason_of(error)}")
        else:
            conn.close()
            return
    raise TransientError(
        f"no Kafka broker answers ({'; '.join(failures)})",
        reason="broker_unavailable",
        remedy="start it, or correct NOTIFYD_KAFKA_BOOTSTRAP_SERVERS",
    )


def _bad_servers(settings: Settings) -> ConfigError:
    return ConfigError(
        f"NOTIFYD_KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers!r} is no list of host:port",
        reason="bad_setting",
        remedy="e.g. kafka-1:9092,kafka-2:9092",
    )


def _reason_of(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, asyncio.TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return describe(error)


async def wait_for_broker(settings: Settings) -> None:
    """Return once a broker answers; logs once that it waits, once that it goes on. Raises `ConfigError`."""
    calm_library_logs()
    logger = get_logger()
    attempt = 0
    while True:
        try:
            await probe_broker(settings)
        except TransientError as error:
            if attempt == 0:
                logger.warning(
                    "waiting_for_broker",
                    servers=settings.kafka_bootstrap_servers,
                    detail=error.message,
                    remedy=error.remedy,
                )
            await asyncio.sleep(backoff_s(attempt))
            attempt += 1
        else:
            if attempt:
                logger.info("broker_found", servers=settings.kafka_bootstrap_servers, attempts=attempt + 1)
            return
