"""borglet.substitution: what a task finds on its command line and in its environment."""

import pytest
from borgcell.specs import HealthCheck
from hypothesis import given
from hypothesis import strategies as st

from borglet.substitution import (
    Place,
    UnknownPort,
    container_spec,
    substitute,
    with_probe_substituted,
)
from tests.helpers.borglet_values import a_desired, an_id

PLACE = Place("paris", "m1")
WORDS = {"index": "3", "job": "web", "user": "ann", "cell": "paris", "machine": "m1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--port=%port:http%", "--port=8080"),
        ("%user%/%job%/%index%@%machine%.%cell%", "ann/web/3@m1.paris"),
        ("100%%", "100%"),
        ("%%index%%", "%index%"),
        ("%%%index%", "%3"),
        ("date +%Y-%m-%d", "date +%Y-%m-%d"),
        ("%unknown% %", "%unknown% %"),
        ("50% of %index%", "50% of 3"),
        ("%INDEX%", "%INDEX%"),
        ("", ""),
    ],
)
def test_our_names_are_replaced_and_all_else_stays(text, expected):
    assert substitute(text, WORDS, {"http": 8080}) == expected


@pytest.mark.parametrize("text", ["%port:admin%", "%port:%"])
def test_a_port_that_the_task_has_not_is_an_error_that_names_those_it_has(text):
    with pytest.raises(UnknownPort, match=r"names no port of the task; it has: http, rpc"):
        substitute(text, WORDS, {"rpc": 1, "http": 2})


@given(st.text(alphabet=st.characters(blacklist_characters="%")))
def test_a_text_without_percent_signs_stays_as_it_is(text):
    assert substitute(text, WORDS, {}) == text


@given(st.text())
def test_doubled_percent_signs_protect_any_text(text):
    assert substitute(text.replace("%", "%%"), WORDS, {}) == text


def test_a_task_is_told_who_it_is_and_cannot_pretend_to_be_another():
    desired = a_desired(
        an_id(3, 2),
        ports={"http": 8080, "my-rpc": 8081},
        env={"WHO": "%user%", "BORG_USER": "root"},
    )
    assert container_spec(desired, PLACE).env == {
        "WHO": "ann",
        "BORG_CELL": "paris",
        "BORG_USER": "ann",
        "BORG_JOB": "web",
        "BORG_INDEX": "3",
        "BORG_INCARNATION": "2",
        "BORG_MACHINE": "m1",
        "PORT_HTTP": "8080",
        "PORT_MY_RPC": "8081",
    }


def test_the_runtime_gets_limit_ports_and_priority_of_the_task():
    desired = a_desired(ports={"http": 8080}, argv=["serve", "%port:http%"], priority=210)
    spec = container_spec(desired, PLACE)
    assert (spec.id, spec.argv, spec.ports) == (desired.id, ("serve", "8080"), {"http": 8080})
    assert (spec.limit, spec.priority) == (desired.spec.limit, 210)


def test_the_command_of_an_exec_probe_is_substituted_too():
    check = HealthCheck(exec=("check", "%port:http%"))
    desired = with_probe_substituted(a_desired(ports={"http": 8080}, health=check), PLACE)
    assert desired.spec.health.exec == ("check", "8080")
    with pytest.raises(UnknownPort):
        with_probe_substituted(a_desired(health=check), PLACE)
