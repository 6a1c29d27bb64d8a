"""Page tokens and pages."""

import base64

import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.entitlements.pages import PageTokens, fitting, page_of
from services.runtime.failure import InvalidInput

TOKENS = PageTokens(b"k" * 32)


@given(st.text(min_size=1, max_size=64))
def test_a_token_leads_back_to_its_key(last: str) -> None:
    """ENT-3."""
    assert TOKENS.read("plans", TOKENS.after("plans", last)) == last


def test_no_token_is_the_first_page() -> None:
    """ENT-3."""
    assert TOKENS.read("plans", "") == ""


@given(st.data())
def test_a_token_with_any_character_changed_is_refused(data: st.DataObject) -> None:
    """ENT-3."""
    token = TOKENS.after("plans", "gold")
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(
        st.sampled_from("ABCDEFGHIJabcdefghij0123456789-_+/=. é").filter(
            lambda c: c != token[place]
        )
    )
    tampered = token[:place] + other + token[place + 1 :]
    try:
        decoded = base64.urlsafe_b64decode(tampered + "=" * (-len(tampered) % 4))
    except ValueError:
        decoded = b""
    if decoded == base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)):
        return  # the spare bits of the last character say nothing
    with pytest.raises(InvalidInput):
        TOKENS.read("plans", tampered)


@given(st.text(min_size=1, max_size=200))
def test_any_other_string_is_refused(text: str) -> None:
    """ENT-3."""
    with pytest.raises(InvalidInput):
        TOKENS.read("plans", text)


@pytest.mark.parametrize("listing", ["user_plan", "user_plan/1", "plans/", "plan"])
def test_a_token_of_one_listing_does_not_pass_in_another(listing: str) -> None:
    """ENT-3: a filter changed midway would skip items in silence."""
    with pytest.raises(InvalidInput):
        TOKENS.read(listing, TOKENS.after("plans", "gold"))


def test_a_token_of_another_key_is_refused() -> None:
    """ENT-3."""
    with pytest.raises(InvalidInput):
        TOKENS.read("plans", PageTokens(b"x" * 32).after("plans", "gold"))


def plans(count: int, size: int = 10) -> list[pb.Plan]:
    return [pb.Plan(id=f"{number:04}", name="n" * size) for number in range(count)]


@given(st.integers(0, 40), st.integers(1, 20))
def test_pages_hold_every_item_once(count: int, page_size: int) -> None:
    """ENT-3: reading one more than the page tells whether there is a next."""
    items = plans(count)
    seen: list[pb.Plan] = []
    token = ""
    while True:
        rest = [item for item in items if item.id > token][: page_size + 1]
        page, token = page_of(rest, page_size, lambda last: last.id)
        assert len(page) <= page_size
        seen.extend(page)
        if not token:
            break
    assert seen == items


def test_a_page_stays_under_the_message_size() -> None:
    """ALL-1: and never becomes empty, which would look like the end."""
    items = plans(5, size=400)
    assert len(fitting(items, 5, max_bytes=1000)) == 2
    assert len(fitting(items, 5, max_bytes=1)) == 1
    assert fitting([], 5) == []
