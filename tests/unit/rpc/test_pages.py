"""Paging of lists: sorted rows, tokens that name the last row sent."""

import pytest

from borgmaster.rpc import pages
from borgmaster.rpc.status import Refused

KEYS = [f"m{n:02}" for n in range(10)]


def page(keys=KEYS, size=4, token="", wanted=lambda _: True):
    return pages.page(keys, size=size, token=token, parse=str, wanted=wanted)


def test_all_pages_together_are_the_list():
    rows, token, seen = [], "", []
    while True:
        rows, token = page(token=token)
        seen += rows
        if not token:
            break
    assert seen == KEYS


def test_a_page_that_ends_exactly_at_the_last_wanted_row_has_no_successor():
    assert page(size=5, wanted=lambda key: key < "m05") == (KEYS[:5], "")


def test_a_row_that_disappears_between_two_pages_makes_no_other_row_disappear():
    first, token = page()
    rest, _ = page([key for key in KEYS if key != first[-1]], token=token)
    assert rest == KEYS[4:8]


def test_rows_that_are_not_wanted_do_not_count_for_the_size():
    rows, _ = page(wanted=lambda key: key[-1] in "13579")
    assert rows == ["m01", "m03", "m05", "m07"]


def test_a_page_size_beyond_the_limit_is_refused_with_the_field():
    with pytest.raises(Refused) as caught:
        page(size=pages.PAGE_SIZE_MAX + 1)
    assert caught.value.problems[0].field == "page_size"


def test_a_selector_without_equals_is_refused_with_its_position():
    with pytest.raises(Refused) as caught:
        pages.selector("selector", ["team=ads", "oops"])
    assert caught.value.problems[0].field == "selector[1]"


def test_a_selector_wants_all_its_labels():
    wanted = pages.selector("selector", ["team=ads", "tier=web"])
    assert pages.selected({"team": "ads", "tier": "web", "more": "1"}, wanted)
    assert not pages.selected({"team": "ads"}, wanted)
