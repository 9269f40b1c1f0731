"""Every setting of notifyd: `NOTIFYD_*` environment variables read into one frozen value."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from notifyd.content_keys import parse_content_keys
from notifyd.errors import ConfigError

PREFIX = "NOTIFYD_"

#: What Kubernetes injects for a Service named `notifyd-...`; never one of ours, even where the
#: name is: of a Service `notifyd-http` comes `NOTIFYD_HTTP_PORT=tcp://10.0.0.7:80`.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_.+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")

#: Read by the test suite and by nobody else.
_NOT_SETTINGS = frozenset({"NOTIFYD_TEST_BROKERS", "NOTIFYD_TEST_DATABASE_URL"})


def _hostname() -> str:
    return socket.gethostname()


class Settings(BaseSettings):
    """All settings, each with its unit in its name (`_s` seconds, `_bytes`) or its description.

    Build one with `load_settings`, which turns what is wrong into a `ConfigError` that
    names the variable.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    # Kafka
    kafka_bootstrap_servers: str = Field(
        "localhost:9092", description="Comma-separated host:port of brokers."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to talk to the brokers."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="With a SASL protocol: the mechanism."
    )
    kafka_sasl_username: str | None = Field(None, description="With a SASL protocol: the user.")
    kafka_sasl_password: SecretStr | None = Field(None, description="With a SASL protocol: the password.")
    kafka_ssl_ca_file: str | None = Field(None, description="PEM file of the authorities to trust.")
    kafka_ssl_cert_file: str | None = Field(None, description="PEM file of our certificate (mutual TLS).")
    kafka_ssl_key_file: str | None = Field(None, description="PEM file of our key (mutual TLS).")
    kafka_idempotence: bool = Field(
        True, description="Idempotent producer. Off only for a broker that lacks it, as the embedded one."
    )
    kafka_session_timeout_s: float = Field(
        10.0,
        gt=0,
        description="A member silent for this long loses its partitions; a tenth is the heartbeat.",
    )
    kafka_rebalance_timeout_s: float = Field(
        30.0, gt=0, description="How long the group waits for a member to let go; well above the drain."
    )
    kafka_request_timeout_s: float = Field(40.0, gt=0, description="One request to a broker.")
    kafka_fetch_wait_s: float = Field(
        0.05, ge=0, description="How long a broker may hold a fetch that has nothing yet."
    )
    kafka_max_poll_records: int = Field(500, gt=0, description="Records in one batch at most.")
    kafka_commit_interval_s: float = Field(0.5, gt=0, description="Time between two commits of offsets.")
    kafka_window_records: int = Field(
        2000, gt=0, description="Records of one partition in flight at most; above, that partition pauses."
    )

    kafka_window_bytes: int = Field(
        8 * 1024 * 1024, gt=0, description="The same in bytes of their values; what comes first counts."
    )
    kafka_skip_lost_records: bool = Field(
        False,
        description="Go on where records were lost (retention, a topic made anew), not stop the role.",
    )

    # Topics
    topic_prefix: str = Field("notifyd.", description="What every topic name starts with.")
    topic_partitions: int = Field(12, gt=0, description="`topics create`: partitions of a topic.")
    topic_replication: int = Field(3, gt=0, description="`topics create`: copies of each partition.")
    topic_retention_s: float = Field(7 * 86400.0, gt=0, description="`topics create`: how long records stay.")

    # Producing
    producer_max_pending: int = Field(10_000, gt=0, description="Sends not yet confirmed at most.")
    producer_timeout_s: float = Field(30.0, gt=0, description="A send not confirmed by then has failed.")
    events_linger_s: float = Field(
        0.05, ge=0, description="How long events wait for others to share a record."
    )

    # Messages
    message_max_bytes: int = Field(256 * 1024, gt=0, description="Size of a record's value.")
    message_max_recipients: int = Field(1000, gt=0, description="Users in one `toUserIds`.")
    message_max_user_id_chars: int = Field(128, gt=0, description="Length of a user id.")
    message_max_ahead_s: float = Field(
        86400.0, ge=0, description="How far ahead of its record's time a message may be dated."
    )

    # Database
    database_url: SecretStr | None = Field(
        None,
        description="postgresql://user:password@host:port/database; persist needs it, ws replays from it.",
    )
    database_pool_size: int = Field(4, gt=0, description="Connections a process keeps at most.")
    database_statement_timeout_s: float = Field(30.0, gt=0, description="One statement.")
    database_connect_timeout_s: float = Field(5.0, gt=0, description="One attempt to connect.")

    content_keys: SecretStr | None = Field(
        None,
        description="Encrypts what messages say at rest: `id:key,id:key` of `notifyd keys new`. The first "
        "one writes, all read. The same for persist, ws, api and sweep. Unset: stored as they are.",
    )

    # Retention (`notifyd retention run`). A message may wait for 30 days until it is due.
    retention_message_days: int = Field(
        90, ge=32, le=395, description="Days that messages are kept; not below the two that follow."
    )
    retention_inbox_days: int = Field(90, ge=32, le=395, description="Days that users' inboxes go back.")
    retention_trace_days: int = Field(
        90, ge=32, le=395, description="Days that deliveries and their events are kept, for `notifyd trace`."
    )
    retention_audit_days: int = Field(
        395, ge=1, description="Days that it is kept who replayed or discarded dead letters."
    )

    # HTTP
    http_host: str = Field("0.0.0.0", description="Public address of ws and api.")
    http_port: int = Field(8080, ge=0, le=65535, description="Public port of ws and api; 0: any free one.")
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated networks of proxies, e.g. `10.0.0.0/8`, whose `X-Forwarded-For` "
        "tells the client's address; empty: nobody is believed.",
    )
    admin_host: str = Field("0.0.0.0", description="Address of health and metrics.")
    admin_port: int = Field(9090, ge=0, le=65535, description="Port of health and metrics; 0: any free one.")

    # Messages by HTTP
    api_max_body_bytes: int = Field(
        1024 * 1024, gt=0, description="Body of one `POST /v1/messages`, a batch included."
    )
    api_max_batch: int = Field(1000, gt=0, description="Envelopes in one of them.")
    api_max_requests: int = Field(
        2000, gt=0, description="Requests of one process at a time; above it they are answered 429."
    )
    api_max_held_bytes: int = Field(
        64 * 1024 * 1024, gt=0, description="The same in bytes of their bodies; what comes first counts."
    )
    api_body_timeout_s: float = Field(10.0, gt=0, description="How long a body may take to arrive.")
    api_confirm_timeout_s: float = Field(
        10.0, gt=0, description="How long Kafka may take to confirm; then the answer is 503, not confirmed."
    )

    api_read_timeout_s: float = Field(
        5.0, gt=0, description="How long the database may take for one answer; then it is 503."
    )

    # Tokens
    jwt_secret: SecretStr | None = Field(None, description="HS256 key, for development; at least 32 bytes.")
    jwt_jwks_url: str | None = Field(None, description="Where the public keys (RS, ES, EdDSA) are published.")
    jwt_issuer: str | None = Field(None, description="`iss` that a token must carry.")
    jwt_audience: str | None = Field(None, description="`aud` that a token must carry.")

    # Push
    ws_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Comma-separated origins that browsers may connect from; empty: none, `*`: any."
    )
    ws_ticket_secret: SecretStr | None = Field(
        None,
        description="Signs the tickets of `POST /v1/push/ticket`, the same for every ws process; at least "
        "32 bytes. Unset: made of the JWT secret; with neither there are no tickets.",
    )
    ws_heartbeat_s: float = Field(25.0, gt=0, description="Between two heartbeats of a connection.")
    ws_hello_timeout_s: float = Field(
        5.0, gt=0, description="A connection without a hello by then is closed."
    )
    ws_max_frame_bytes: int = Field(16 * 1024, gt=0, description="Frame from a client.")
    ws_max_frames_per_s: float = Field(
        100.0, gt=0, description="Frames a second from one connection; twice as many may come at once."
    )
    ws_max_connections_per_user: int = Field(20, gt=0, description="Connections of one user to one process.")
    ws_max_connections_per_address: int = Field(
        0, ge=0, description="Sockets of one address (of IPv6 a /64) to one process; 0: no limit."
    )
    ws_max_connections: int = Field(
        0, ge=0, description="Connections of one process; 0: as many as its descriptors leave room for."
    )
    ws_max_age_s: float = Field(
        4 * 3600.0,
        ge=0,
        description="A connection of this age, 10% more or less, is sent elsewhere; 0: at any age it stays.",
    )
    ws_max_unsent_bytes: int = Field(
        256 * 1024, gt=0, description="A connection with more unsent bytes is cut; it resumes elsewhere."
    )
    ws_deflate: bool = Field(
        False,
        description="Whether clients that ask for permessage-deflate get it: fewer bytes for more CPU.",
    )
    ws_window_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Messages kept in memory for clients that come back."
    )
    ws_window_s: float = Field(
        300.0, ge=0, description="How long; so far back a new process reads before it is ready."
    )

    # Deliver
    deliver_rates: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated limits of channels, calls of a process a second, e.g. `email=10`. "
        "What is above waits for a second, then comes back by a retry topic without an attempt counted.",
    )
    contacts_dir: Path | None = Field(
        None,
        description="Where `deliver` keeps its copy of the contacts topic, made anew wherever it is missing; "
        "unset: a folder in the system's place for temporary files.",
    )
    deliver_concurrency: int = Field(200, gt=0, description="Deliveries of one process at a time.")
    deliver_aside: int = Field(
        600,
        ge=0,
        description="Deliveries under way for over a second, beside those: a peer that hangs takes no place.",
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="The relay for the channel email: `smtp://user:password@host:587` (STARTTLS is a must), "
        "`smtps://...` (TLS from the first byte) or `smtp+plain://host:25` (none). Unset: no such channel.",
    )
    email_from: str | None = Field(
        None, description="The sender of e-mails: `no-reply@example.org` or `Example <no-reply@example.org>`."
    )
    email_layout: Path | None = Field(
        None,
        description="A file of HTML with the places $title, $body, $link, $unsubscribe; unset: a plain one.",
    )
    email_unsubscribe: str | None = Field(
        None,
        description="The link of `List-Unsubscribe`, https:// or mailto:, with the places {user}, {type}, "
        "{id} and {token}, a JWT by the secret below that proves the link to be ours.",
    )
    email_unsubscribe_secret: SecretStr | None = Field(
        None, description="Signs that {token} (HS256); at least 32 bytes."
    )
    email_timeout_s: float = Field(30.0, gt=0, description="One e-mail to one address.")
    email_connections: int = Field(10, gt=0, description="Connections of one process to the relay.")
    apprise_schemes: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated schemes of Apprise URLs that may be called, e.g. `discord,slack,tgram`. "
        "One that takes a host (`json`) reaches private addresses too. Empty: no channel apprise.",
    )
    apprise_timeout_s: float = Field(15.0, gt=0, description="One call by apprise.")
    apprise_threads: int = Field(10, gt=0, description="Calls of one process by apprise at a time.")
    webpush_key: SecretStr | None = Field(
        None,
        description="The VAPID private key, as `notifyd webpush keys` prints it. Unset: no channel webpush.",
    )
    webpush_subject: str | None = Field(
        None, description="How push services reach you: `mailto:ops@example.org` or an https URL."
    )
    webpush_timeout_s: float = Field(10.0, gt=0, description="One call of a push service.")
    webpush_host_concurrency: int = Field(
        50, gt=0, description="Calls of one process to one push service at a time."
    )
    webhook_allow_private: bool = Field(
        False, description="Allow plain http and private, loopback and link-local addresses. Tests only."
    )
    webhook_timeout_s: float = Field(10.0, gt=0, description="One webhook call.")
    webhook_host_concurrency: int = Field(
        20,
        gt=0,
        description="Webhook calls to one host at a time; above it deliveries wait a moment, then come back.",
    )
    retry_max_attempts: int = Field(8, gt=0, description="Attempts of a delivery, the first included.")
    pause_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="A sender with more than this share of recent deaths on a channel is paused.",
    )
    pause_min_dead: int = Field(
        100, gt=0, description="... and with at least so many deaths within a minute."
    )
    pause_s: float = Field(60.0, gt=0, description="How long its deliveries on that channel then wait.")
    stub_script: str = Field(
        "", description="What the stub channel answers in turn, e.g. `retry,retry,done`; empty: done."
    )

    # Sweep
    sweep_check_after_s: float = Field(
        60.0, gt=0, description="A delivery that nobody spoke of for so long is looked after."
    )
    sweep_every_s: float = Field(1.0, gt=0, description="Between two looks at what is due.")
    sweep_max_resends: int = Field(
        3, ge=0, description="Resends of a delivery; without an outcome it is dead then."
    )
    sweep_resends_per_s: float = Field(50.0, gt=0, description="Resends of all deliveries together.")
    sweep_alarm_url: SecretStr | None = Field(
        None, description="Where maintainers are told, by a webhook, of deliveries that the sweep gave up."
    )
    sweep_alarm_secret: SecretStr | None = Field(
        None, description="Signs these webhooks: base64, with or without `whsec_` before it."
    )
    sweep_alarm_allow_private: bool = Field(
        False, description="Allow plain http and private addresses for these: a receiver in the same cluster."
    )

    # Tracing
    tracing_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where spans are sent by OTLP over HTTP, e.g. http://collector:4318/v1/traces; unset: no "
        "tracing. Takes the extra `otel`.",
    )
    tracing_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of messages that are traced, of those whose producer has not decided it.",
    )

    # Process
    pod_name: str = Field(
        default_factory=_hostname,
        description="Name of this process in events and logs, its own alone: one that starts under the name "
        "of a killed one takes its place in the consumer group at once.",
    )
    drain_s: float = Field(5.0, gt=0, description="How long work in flight may take to end on a stop.")
    grace_s: float = Field(
        9.0,
        gt=0,
        description="From the signal to stop to the end by the watchdog (exit 70); above the drain.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: colours on a terminal, JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least level logged."
    )
    settings_strict: bool = Field(
        True, description="An unknown NOTIFYD_ variable is an error; false makes it a warning."
    )

    @field_validator("ws_origins", "trusted_proxies", "apprise_schemes", "deliver_rates", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("deliver_rates")
    @classmethod
    def _are_rates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            name, _, rate = text.partition("=")
            if not name or re.fullmatch(r"\d{1,9}(\.\d{1,9})?", rate) is None or not float(rate):
                raise ValueError(f"{text!r} is no limit; write channel=calls a second, e.g. email=10")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise ValueError(f"{network!r} is no network; write 10.0.0.0/8 or fd00::/8") from None
        return value

    @field_validator("jwt_secret", "ws_ticket_secret", "email_unsubscribe_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < 32:
            raise ValueError("is shorter than 32 bytes; make one with `openssl rand -hex 32`")
        return value

    @field_validator("content_keys")
    @classmethod
    def _are_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_content_keys(value.get_secret_value())
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.match(r"postgres(ql)?://", value.get_secret_value()):
            raise ValueError("is not a postgresql:// URL")
        return value

    @model_validator(mode="after")
    def _times_fit(self) -> Settings:
        if self.grace_s <= self.drain_s:
            raise ValueError(
                "NOTIFYD_GRACE_S must be above NOTIFYD_DRAIN_S: the watchdog must not cut the drain"
            )
        if self.retention_message_days < max(self.retention_inbox_days, self.retention_trace_days):
            raise ValueError(
                "NOTIFYD_RETENTION_MESSAGE_DAYS must not be below NOTIFYD_RETENTION_INBOX_DAYS and "
                "NOTIFYD_RETENTION_TRACE_DAYS: both show the message"
            )
        if self.kafka_rebalance_timeout_s <= self.drain_s:
            raise ValueError("NOTIFYD_KAFKA_REBALANCE_TIMEOUT_S must be above NOTIFYD_DRAIN_S")
        return self

    @property
    def channel_rates(self) -> dict[str, float]:
        """Calls a second that each channel may make, by name; channels without a limit are left out."""
        return {name: float(rate) for name, _, rate in (text.partition("=") for text in self.deliver_rates)}

    @property
    def stop_step_s(self) -> float:
        """What each step of a stop after the drain may take (commit, leave, flush), in seconds.

        Four of them fit between the drain and the watchdog.
        """
        return (self.grace_s - self.drain_s) / 4

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments alone: `load_settings` passes the environment, so that tests can pass another."""
        return (init_settings,)


def variable_of(field: str) -> str:
    """Name the environment variable of a field: `http_port` -> `NOTIFYD_HTTP_PORT`."""
    return PREFIX + field.upper()


def _is_service_link(name: str, value: str) -> bool:
    is_port = name.upper().endswith("_PORT") and _SERVICE_LINK_VALUE.match(value) is not None
    return is_port or _SERVICE_LINK.search(name) is not None


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Describe each `NOTIFYD_*` variable that is no setting, with the nearest name there is."""
    known = {name.upper() for name in Settings.model_fields}
    found = []
    for name in sorted(environ):
        bare = name.upper().removeprefix(PREFIX)
        if bare == name.upper() or bare in known or name.upper() in _NOT_SETTINGS:
            continue
        if _is_service_link(name, environ[name]):
            continue
        # Without the prefix, which would make any two names look alike.
        near = difflib.get_close_matches(bare, known, n=1, cutoff=0.5)
        found.append(f"{name} is no setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else ""))
    return found


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings from the environment (`environ`, else the process's); `overrides` win.

    Raises `ConfigError` that names every wrong variable, never its secret value. With
    `NOTIFYD_SETTINGS_STRICT=false` unknown variables are left to the caller to warn about
    (`unknown_variables`).
    """
    env = os.environ if environ is None else environ
    fields = {variable_of(name): name for name in Settings.model_fields}
    values: dict[str, Any] = {
        fields[name.upper()]: text
        for name, text in env.items()
        if name.upper() in fields and not _is_service_link(name, text)
    }
    try:
        settings = Settings(**{**values, **overrides})
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False, include_input=False):
            where = variable_of(str(item["loc"][0])) + " " if item["loc"] else ""
            lines.append(f"{where}{item['msg'].removeprefix('Value error, ')}")
        raise ConfigError(
            "; ".join(lines), reason="bad_setting", remedy="`notifyd config` lists all settings"
        ) from None
    unknown = unknown_variables(env)
    if unknown and settings.settings_strict:
        raise ConfigError(
            "; ".join(unknown),
            reason="unknown_setting",
            remedy="fix the name, or set NOTIFYD_SETTINGS_STRICT=false to go on with a warning",
        )
    return settings
