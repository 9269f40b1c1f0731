"""JSON pointers to what is wrong, whatever keys an envelope has."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from notifyd.http.pointers import Pointers


def find(document: Any, field: str) -> str:
    return Pointers(json.dumps(document).encode()).find(field)


def test_fields_and_indexes_become_tokens() -> None:
    document = {"toUserIds": ["a", 3], "content": {"fallback": {"after": "x"}}}
    assert find(document, "") == ""
    assert find(document, "UUID") == "/UUID"
    assert find(document, "toUserIds[1]") == "/toUserIds/1"
    assert find(document, "content.fallback.after") == "/content/fallback/after"
    assert find(document, "content.fallback.channels[2].x") == "/content/fallback/channels/2/x"


def test_keys_that_look_like_paths_are_followed_through_the_envelope() -> None:
    contacts = {"a": {}, "a.b": {"webhook": [{"url": 1}]}, "a.b[0]": {}, "c/~d": {"userId": "x"}}
    document = {"content": {"contacts": contacts}}
    assert find(document, "content.contacts.a.b.webhook[0].url") == "/content/contacts/a.b/webhook/0/url"
    assert find(document, "content.contacts.a.b[0]") == "/content/contacts/a.b[0]"
    assert find(document, "content.contacts.c/~d.userId") == "/content/contacts/c~1~0d/userId"


def test_a_path_that_was_cut_short_leads_to_the_part_that_is_whole() -> None:
    document = {"content": {"contacts": {"x" * 300: 1}}}
    assert find(document, "content.contacts." + "x" * 50 + "…") == "/content/contacts"


def test_what_cannot_be_read_has_pointers_too() -> None:
    assert Pointers(b"\xff{").find("content.title") == "/content/title"
    assert Pointers(b"[1]").find("content[1].title") == "/content/1/title"


_keys = st.text(alphabet="ab.[]0/~", min_size=1, max_size=4)
_trees = st.recursive(
    st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3)
)


@given(_trees, st.data())
@settings(max_examples=40)
def test_a_pointer_of_any_path_is_written_as_rfc_6901_has_it(tree: Any, data: st.DataObject) -> None:
    """Follow a random way down; where no key holds a dot or a bracket the pointer leads the same way."""
    node, field, tokens = tree, "", []
    while isinstance(node, dict | list) and node:
        if isinstance(node, dict):
            key = data.draw(st.sampled_from(sorted(node)))
            field += f".{key}" if field else key
            tokens.append(key)
            node = node[key]
        else:
            index = data.draw(st.integers(0, len(node) - 1))
            field += f"[{index}]"
            tokens.append(str(index))
            node = node[index]
    pointer = find(tree, field)
    assert pointer == "" or pointer.startswith("/")
    if not any(set(".[]") & set(token) for token in tokens):
        assert pointer == "".join("/" + t.replace("~", "~0").replace("/", "~1") for t in tokens)
