"""E-mails as they are written: nothing of a message gets out of its place."""

from __future__ import annotations

import email
import email.policy
import re

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyd.channels.email_message import Layout, Unsubscribe, Writer, parse_address
from notifyd.errors import ConfigError
from tests.fixtures.push import make_message

SENDER = parse_address("no-reply@shop.example")
#: All that an envelope takes.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)
SECRET = "a secret that has thirty-two bytes"


def write(message=None, *, to="ann@example.org", user="ann", layout=None, unsubscribe=None, **content):
    writer = Writer(SENDER, layout or Layout(), unsubscribe)
    return writer.write(message or make_message(user, **content), user, parse_address(to))


def read(mail):
    return email.message_from_bytes(mail.wire, policy=email.policy.default)


def test_text_and_html_say_the_same():
    mail = read(
        write(title="On its way", body="Tuesday.\n\nAt <noon> & later.", url="https://shop.example/o/7")
    )
    assert (mail["From"], mail["To"], mail["Subject"]) == (
        "no-reply@shop.example",
        "ann@example.org",
        "On its way",
    )
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content_type() == "multipart/alternative"
    text, page = mail.iter_parts()
    assert (
        text.get_content().replace("\r\n", "\n")
        == "Tuesday.\n\nAt <noon> & later.\n\nhttps://shop.example/o/7\n"
    )
    assert "<p>Tuesday.</p>\r\n<p>At &lt;noon&gt; &amp; later.</p>" in page.get_content()
    assert '<a href="https://shop.example/o/7">' in page.get_content()
    assert "List-Unsubscribe" not in mail


def test_a_repeat_has_the_same_message_id_and_another_address_has_not():
    message = make_message("ann")
    first, again = read(write(message)), read(write(message))
    assert first["Message-ID"] == again["Message-ID"]
    assert first["Date"] == again["Date"]
    assert re.fullmatch(rf"<{message.id}\.[0-9a-f]{{16}}@shop\.example>", first["Message-ID"].strip())
    assert read(write(message, to="ann@example.com"))["Message-ID"] != first["Message-ID"]
    assert read(write(message, user="bob"))["Message-ID"] != first["Message-ID"]


def test_what_collapses_stands_in_one_thread():
    one, two, other = (read(write(collapse_key=key)) for key in ("order 7", "order 7", "order 8"))
    assert one["References"] == two["References"] != other["References"]
    assert one["Message-ID"] != two["Message-ID"]
    assert "References" not in read(write())


@given(title=TEXT, body=TEXT)
def test_no_text_becomes_a_header_or_markup(title, body):
    mail = write(title=title, body=body)
    assert all(line.endswith(b"\r") for line in mail.wire.split(b"\n")[:-1])
    parsed = read(mail)
    assert set(parsed.keys()) == {
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
    }
    page = list(parsed.iter_parts())[1].get_content()
    assert set(re.findall(r"<([a-z0-9]+)", page)) <= {
        "html",
        "head",
        "meta",
        "title",
        "body",
        "div",
        "h1",
        "p",
        "br",
    }


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", 'https://x.example/"><script>'])
def test_a_link_does_nothing_but_lead_somewhere(url):
    page = list(read(write(url=url)).iter_parts())[1].get_content()
    assert "javascript:" not in page
    assert "data:" not in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("title", "body", "subject"),
    [
        ("", "the body\nserves", "the body serves"),
        ("x" * 300, "", "x" * 200),
        ("a\r\nBcc: b@c.d", "", "a Bcc: b@c.d"),
    ],
)
def test_a_subject_is_one_line(title, body, subject):
    assert read(write(title=title, body=body))["Subject"] == subject


def test_an_address_beyond_ascii_asks_for_utf8():
    mail = write(to="grüße@example.org")
    assert mail.is_utf8
    assert "To: grüße@example.org\r\n".encode() in mail.wire
    assert not write().is_utf8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ann",
        "ann@",
        "@example.org",
        "Ann <ann@example.org>",
        "a@b, c@d",
        "a@b\r\nRCPT TO:<c@d>",
        " a@b",
        "a b@c",
    ],
)
def test_what_is_no_bare_address_is_none(text):
    assert parse_address(text) is None


def test_unsubscribe_is_a_link_that_proves_itself():
    unsubscribe = Unsubscribe("https://shop.example/u?who={user}&type={type}&t={token}", SECRET)
    mail = read(write(user="ann & bob", type="order.shipped", unsubscribe=unsubscribe))
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = re.fullmatch("<(.+)>", mail["List-Unsubscribe"])[1]
    assert link.startswith("https://shop.example/u?who=ann%20%26%20bob&type=order.shipped&t=")
    claims = jwt.decode(link.partition("&t=")[2], SECRET, ["HS256"], audience="notifyd-unsubscribe")
    assert claims == {"aud": "notifyd-unsubscribe", "sub": "ann & bob", "type": "order.shipped"}
    text, page = mail.iter_parts()
    assert f"Unsubscribe: {link}" in text.get_content()
    assert link.replace("&", "&amp;") in page.get_content()


def test_a_mailto_is_no_one_click():
    mail = read(write(unsubscribe=Unsubscribe("mailto:leave@shop.example?subject={user}", None)))
    assert mail["List-Unsubscribe"] == "<mailto:leave@shop.example?subject=ann>"
    assert "List-Unsubscribe-Post" not in mail


@pytest.mark.parametrize(
    ("template", "secret", "words"),
    [
        ("http://x.example/{user}", None, "neither an https"),
        ("https://x.example/{token}", None, "NOTIFYD_EMAIL_UNSUBSCRIBE_SECRET"),
        ("https://x.example/{name}", None, "has a place"),
        ("https://x.example/{", None, "has a place"),
        ("https://x.example/{user.name}", None, "has a place"),
        ("https://x.example/{0}", None, "has a place"),
    ],
)
def test_an_unsubscribe_that_cannot_work_is_refused(template, secret, words):
    with pytest.raises(ConfigError, match=words):
        Unsubscribe(template, secret)


def test_a_layout_of_ones_own():
    page = list(read(write(title="a < b", layout=Layout("<i>$title</i>$body costs 5 $$"))).iter_parts())[1]
    assert page.get_content().startswith("<i>a &lt; b</i>")
    assert "costs 5 $" in page.get_content()


@pytest.mark.parametrize("template", ["", "no places", "$body $nonsense", "$body and $", "$title"])
def test_a_layout_that_does_not_fit_is_refused(template):
    with pytest.raises(ConfigError, match="NOTIFYD_EMAIL_LAYOUT"):
        Layout(template)
