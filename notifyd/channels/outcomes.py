"""One outcome for a user out of those of all their addresses. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from notifyd.delivery.outcome import Dead, Done, Outcome, Retry, Skip


def combine(channel: str, outcomes: Mapping[int, Outcome]) -> Outcome:
    """Make one outcome of those of a user's addresses on `channel`, by their index in the contact.

    Done when every address has it. While one may still work the delivery is tried again, at all
    of them. An address that is `gone` is not missed as long as another one took the message.
    """
    in_order = [outcomes[index] for index in sorted(outcomes)]
    gone = tuple(index for index in sorted(outcomes) if _is_gone(outcomes[index]))
    if len(in_order) == 1:
        only = in_order[0]
        return replace(only, gone=gone) if isinstance(only, Dead) and gone else only
    detail = "; ".join(f"{channel}[{index}] {_describe(outcomes[index])}" for index in sorted(outcomes))
    retries = [outcome for outcome in in_order if isinstance(outcome, Retry)]
    if retries:
        waits = [retry.after_s for retry in retries if retry.after_s is not None]
        is_counted = len(retries) < len(in_order) or any(retry.counts for retry in retries)
        after_s = max(waits, default=None)
        return Retry(retries[0].reason, after_s=after_s, detail=detail, counts=is_counted, gone=gone)
    dead = [outcome for outcome in in_order if isinstance(outcome, Dead)]
    missed = [outcome for outcome in dead if not _is_gone(outcome)]
    if not missed and len(dead) == len(in_order):
        missed = dead
    return Dead(missed[0].reason, detail, gone) if missed else Done(detail, gone)


def _is_gone(outcome: Outcome) -> bool:
    return isinstance(outcome, Dead) and outcome.reason == "gone"


def _describe(outcome: Outcome) -> str:
    return outcome.reason if isinstance(outcome, Skip) else outcome.detail
