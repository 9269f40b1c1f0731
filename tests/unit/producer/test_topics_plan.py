"""How topics must be set up, and what counts as enough."""

from __future__ import annotations

import pytest

from notifyd.settings import load_settings
from notifyd.stream.topics import Topics, _compare, dlq_max_bytes, plan_topics

PARTITION = {"replicas": [1, 2, 3]}


def test_names_take_the_prefix() -> None:
    topics = Topics.of(load_settings({}, topic_prefix="x."))
    assert topics.messages == "x.messages"
    assert topics.retry == {"5s": "x.retry.5s", "1m": "x.retry.1m", "10m": "x.retry.10m", "1h": "x.retry.1h"}
    assert len(topics.all()) == len(set(topics.all())) == 11


def test_rungs_have_the_names_that_the_retry_policy_uses() -> None:
    from notifyd.delivery.retry import RUNGS
    from notifyd.stream.topics import RETRY_RUNGS

    assert tuple(name for name, _ in RUNGS) == RETRY_RUNGS


def test_retry_topics_keep_their_records_as_long_as_messages() -> None:
    settings = load_settings({}, topic_retention_s=3600)
    plans = {plan.name: plan for plan in plan_topics(settings)}
    topics = Topics.of(settings)
    kept = int(plans[topics.messages].configs["retention.ms"])
    assert kept == 3_600_000
    assert all(int(plans[name].configs["retention.ms"]) >= kept for name in topics.retry.values())


def test_contacts_and_meta_are_compacted_and_meta_has_one_partition() -> None:
    settings = load_settings({})
    plans = {plan.name: plan for plan in plan_topics(settings)}
    topics = Topics.of(settings)
    assert {name for name, plan in plans.items() if plan.configs["cleanup.policy"] == "compact"} == {
        topics.contacts,
        topics.meta,
    }
    assert plans[topics.meta].partitions == 1
    assert all("retention.ms" not in plans[name].configs for name in (topics.contacts, topics.meta))


@pytest.mark.parametrize(("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "2")])
def test_two_copies_confirm_where_there_are_three(replication: int, in_sync: str) -> None:
    plans = plan_topics(load_settings({}, topic_replication=replication))
    assert {plan.configs["min.insync.replicas"] for plan in plans} == {in_sync}
    assert {plan.configs["unclean.leader.election.enable"] for plan in plans} == {"false"}


def test_each_topic_takes_what_may_come_to_it_from_another() -> None:
    settings = load_settings({}, message_max_bytes=4_000_000)
    plans = {plan.name: int(plan.configs["max.message.bytes"]) for plan in plan_topics(settings)}
    topics = Topics.of(settings)
    messages, retry, dlq = plans[topics.messages], plans[topics.retry["5s"]], plans[topics.dlq]
    assert messages > 4_000_000
    names_in_a_header = settings.message_max_recipients * settings.message_max_user_id_chars * 4
    assert retry > messages + names_in_a_header
    assert dlq > retry
    assert plans[topics.resend] == retry
    assert dlq == dlq_max_bytes(settings)


def test_a_message_over_our_limit_still_fits_its_topic_so_that_it_can_be_set_aside() -> None:
    plans = {plan.name: plan for plan in plan_topics(load_settings({}, message_max_bytes=1000))}
    assert int(plans["notifyd.messages"].configs["max.message.bytes"]) > 1_000_000


def test_differences_are_told_with_their_remedy() -> None:
    plan = next(plan for plan in plan_topics(load_settings({})) if plan.name == "notifyd.messages")
    problems = _compare(
        plan,
        [{"replicas": [1]}] * 3,
        {
            "min.insync.replicas": "1",
            "retention.ms": "1000",
            "cleanup.policy": "compact",
            "max.message.bytes": "10",
            "unclean.leader.election.enable": "true",
        },
    )
    text = "\n".join(problems)
    assert "has 3 partitions, fewer than 12" in text
    assert "has 1 copies of a partition, fewer than 3" in text
    assert "kafka-configs.sh --alter --entity-type topics --entity-name notifyd.messages" in text
    assert len(problems) == 7


def test_more_than_is_needed_is_enough() -> None:
    plan = next(plan for plan in plan_topics(load_settings({})) if plan.name == "notifyd.messages")
    assert (
        _compare(
            plan,
            [PARTITION] * 20,
            {
                "min.insync.replicas": "3",
                "retention.ms": "-1",
                "cleanup.policy": "delete",
                "max.message.bytes": "99999999",
                "unclean.leader.election.enable": "false",
            },
        )
        == []
    )


def test_what_a_broker_does_not_tell_is_no_problem() -> None:
    plan = next(plan for plan in plan_topics(load_settings({})) if plan.name == "notifyd.messages")
    assert _compare(plan, [PARTITION] * 12, None) == []
    assert _compare(plan, [PARTITION] * 12, {}) == []
