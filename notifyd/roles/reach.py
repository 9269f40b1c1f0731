"""How a recipient is reached, and what is told of the contact when an address turns out to be gone. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from notifyd.channels.port import Delivery
from notifyd.delivery.contact import NO_CONTACT, Contact, addresses_on, digest_of
from notifyd.stream.contact_book import Known
from notifyd.stream.contact_marks import gone_record
from notifyd.stream.records import OutRecord


class Reach(msgspec.Struct, frozen=True):
    """`contact` for one message; `kept` is what the topic has of it, `known` where that is."""

    contact: Contact
    kept: Contact = NO_CONTACT
    known: Known | None = None

    def mark(self, topic: str, delivery: Delivery, gone: Sequence[int]) -> OutRecord | None:
        """Build the record that leaves the addresses `gone` (by index) out of the contact from now on.

        None where the topic has none of them: they came with the message.
        """
        tried = addresses_on(self.contact, delivery.channel)
        found = {digest_of(tried[index]) for index in gone if index < len(tried)}
        found &= {digest_of(address) for address in addresses_on(self.kept, delivery.channel)}
        if self.known is None or not found:
            return None
        return gone_record(
            topic, delivery.user, self.known.partition, self.known.offset, self.known.gone | found
        )
