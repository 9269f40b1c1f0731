"""Where an engine begins to read: a place that is there is taken, whatever end the broker tells."""

from __future__ import annotations

from notifyd.settings import Settings
from notifyd.stream.start import StartPlan
from tests.fixtures.engines import Member, make_topic, new_group, produce
from tests.fixtures.waiting import eventually


async def test_a_place_after_a_batch_of_many_records_is_not_taken_for_lost(settings: Settings) -> None:
    # After such a batch the embedded broker tells the end of its first record.
    topic = await make_topic(settings, "engine", partitions=1)
    await produce(settings, topic, [b"%d" % number for number in range(200)], partition=0)

    async def places(tps: object) -> dict[object, int]:
        return dict.fromkeys(tps, 200)  # type: ignore[attr-defined]

    member = await Member(settings, new_group(), [topic], options={"start": StartPlan(places=places)}).start()  # type: ignore[arg-type]
    await eventually(lambda: member.app.is_joined or member.failures, what="the partition to flow")
    await produce(settings, topic, [b"next"], partition=0)
    await eventually(lambda: member.seen or member.failures, what="the next record")
    await member.stop()
    assert not member.failures
    assert list(member.seen) == [b"next"]
