"""The webhook that tells maintainers what died: signed and guarded as the webhooks of users are."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from notifyd.channels.http_calls import new_client
from notifyd.channels.http_client import HttpClient
from notifyd.channels.http_faults import HttpFault
from notifyd.channels.http_message import Request
from notifyd.channels.webhook_answers import outcome_of_error, outcome_of_status
from notifyd.channels.webhook_request import parse_secret, signed_headers
from notifyd.channels.webhook_url import parse_url
from notifyd.delivery.outcome import Dead, Outcome
from notifyd.errors import ConfigError, PermanentError
from notifyd.settings import Settings

_BAD_URL: Final = (
    "write it as https://host/path; NOTIFYD_SWEEP_ALARM_ALLOW_PRIVATE=true lets plain http and any port pass"
)


class AlarmWebhook:
    """One signed POST an alarm to NOTIFYD_SWEEP_ALARM_URL; raises `ConfigError` where that cannot work."""

    def __init__(self, settings: Settings) -> None:
        assert settings.sweep_alarm_url is not None
        self._allow_private = settings.sweep_alarm_allow_private
        self._timeout_s = settings.webhook_timeout_s
        url = parse_url(settings.sweep_alarm_url.get_secret_value(), allow_private=self._allow_private)
        if isinstance(url, Dead):
            raise ConfigError(f"NOTIFYD_SWEEP_ALARM_URL: {url.detail}", reason="bad_setting", remedy=_BAD_URL)
        self._url = url
        self._keys: list[bytes] = []
        if settings.sweep_alarm_secret is not None:
            key = parse_secret(settings.sweep_alarm_secret.get_secret_value())
            if key is None:
                raise ConfigError(
                    "NOTIFYD_SWEEP_ALARM_SECRET is not base64",
                    reason="bad_setting",
                    remedy="make one with `openssl rand -base64 32`",
                )
            self._keys = [key]
        self._client: HttpClient | None = None

    async def start(self) -> None:
        """Make ready to call."""
        self._client = new_client(allow_private=self._allow_private, limit=1)

    async def stop(self) -> None:
        """Let go of the connection; a call under way is cut."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def send(self, alarm_id: str, text: str) -> Outcome:
        """Post `text` (JSON) under this id, the same for each repetition; ends within the webhook timeout."""
        if self._client is None:
            raise PermanentError("the alarm webhook is not started", reason="not_started")
        now_s = time.time()
        body = text.encode()
        headers = signed_headers(alarm_id, body, self._keys, now_s=now_s)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            # Alarms are rare: no connection is worth keeping.
            reply = await self._client.post(Request(self._url, headers, body), deadline, keep=False)
        except (HttpFault, OSError) as error:
            return outcome_of_error(error, timeout_s=self._timeout_s)
        return outcome_of_status(reply.status, reply.retry_after, now_s=now_s)
