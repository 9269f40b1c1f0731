"""With tracing on, spans of all roles arrive at a collector in one trace, and logs and metrics lead there."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from notifyd.message.build import build_envelope
from notifyd.message.ids import new_id
from tests.fixtures.service import Service, frames_of
from tests.fixtures.waiting import wait_until
from tests.fixtures.webhooks import WebhookReceiver

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def _spans(collector: WebhookReceiver) -> list[dict[str, Any]]:
    """All spans that arrived, each with the service that made it."""
    found = []
    for call in collector.calls_to("/v1/traces"):
        for one in ExportTraceServiceRequest.FromString(call.body).resource_spans:
            service = {pair.key: pair.value.string_value for pair in one.resource.attributes}["service.name"]
            for span in (span for scope in one.scope_spans for span in scope.spans):
                found.append(
                    {
                        "service": service,
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "links": [link.trace_id.hex() for link in span.links],
                        "facts": {
                            pair.key: pair.value.string_value or pair.value.int_value
                            for pair in span.attributes
                        },
                    }
                )
    return found


def test_one_trace_leads_from_the_sender_through_every_role(
    service: Service, webhook_receiver: WebhookReceiver
) -> None:
    endpoint = webhook_receiver.url("/v1/traces")
    on = {"NOTIFYD_TRACING_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    *_, deliver, ws, api = service.roles("persist", "deliver", "ws", "api", **on)
    listen = service.listen("alice", ws)
    prefix = service.settings.topic_prefix
    token = service.run("token", "shop", "--scope", "notify:send").stdout.strip()
    envelope = build_envelope(
        to=["alice"],
        title="Hi",
        sender="shop",
        created_by="shop",
        channels=["ws", "webhook"],
        contacts={"alice": {"webhook": [{"url": webhook_receiver.script("/hook", 503, 200)}]}},
    )
    message_id = json.loads(envelope)["UUID"]
    request = urllib.request.Request(
        f"{api.http_url}/v1/messages",
        data=envelope,
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "traceparent": f"00-{TRACE}-{SPAN}-01",
        },
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 202
    wait_until(lambda: frames_of(listen, "msg"), what="the message to arrive")
    webhook_receiver.wait_for(2, path="/hook")

    def arrived() -> list[dict[str, Any]]:
        """Both attempts, the push, the write, and the batch that was linked to it."""
        of_trace = [span for span in _spans(webhook_receiver) if TRACE in (span["trace"], *span["links"])]
        return of_trace if len(of_trace) >= 7 else []

    spans = wait_until(arrived, what="the spans to arrive", every_s=0.2)
    [sent] = [span for span in spans if span["name"] == f"send {prefix}messages"]
    assert (sent["service"], sent["parent"]) == ("notifyd-api", SPAN)
    steps = [span for span in spans if span["name"].startswith("process ") and not span["links"]]
    assert {(span["service"], span["name"]) for span in steps} == {
        ("notifyd-ws", f"process {prefix}messages"),
        ("notifyd-deliver", f"process {prefix}messages"),
        ("notifyd-deliver", f"process {prefix}retry.5s"),
    }
    # A retry carries the context on as it came, so it is no child of the attempt before.
    assert {span["parent"] for span in steps} == {sent["id"]}
    assert {span["facts"]["messaging.message.id"] for span in steps} == {message_id}
    attempts = sorted(
        (span["facts"]["notifyd.attempt"], span["facts"]["notifyd.outcome"])
        for span in spans
        if span["name"] == "deliver webhook"
    )
    assert attempts == [(1, "retry"), (2, "done")]
    [batch] = [span for span in spans if span["links"]]
    assert (batch["service"], batch["links"]) == ("notifyd-persist", [TRACE])

    # The metrics lead to the trace.
    ask = urllib.request.Request(
        f"{ws.admin_url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(ask, timeout=10) as answer:
        metrics = answer.read().decode()
    [exemplar] = [line for line in metrics.splitlines() if "ingest_to_push" in line and "# {" in line]
    assert f'trace_id="{TRACE}"' in exemplar

    # Without a header the message's id is the trace.
    other = new_id()
    done = service.run("send", "--to", "alice", "--title", "Hi", "--id", other)
    assert done.returncode == 0, done.stderr
    wanted = other.replace("-", "")
    wait_until(
        lambda: (
            {s["service"] for s in _spans(webhook_receiver) if wanted in (s["trace"], *s["links"])}
            >= {"notifyd-ws", "notifyd-persist"}
        ),
        what="its spans to arrive",
        every_s=0.2,
    )
    assert deliver.sigterm() == 0
