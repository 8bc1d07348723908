"""Which cell is meant: flags before environment before the profile file."""

import pytest

from borgcfg.profiles import BadProfile, cell_addresses, profile_path

PROFILE = """
default: local
cells:
  local: {masters: ["127.0.0.1:7811", "127.0.0.1:7812"]}
  lab: [lab1:7001, lab2:7001]
  text: "a:1,b:2"
"""


@pytest.fixture
def environ(tmp_path):
    path = tmp_path / "cells.yaml"
    path.write_text(PROFILE)
    return {"BORGCFG_PROFILE": str(path), "HOME": str(tmp_path)}


def addresses(environ, masters=None, cell=None):
    return cell_addresses(masters=masters, cell=cell, environ=environ)


def test_what_is_said_nearer_wins(environ):
    assert addresses(environ) == ("127.0.0.1:7811", "127.0.0.1:7812")
    environ["BORGCFG_CELL"] = "lab"
    assert addresses(environ) == ("lab1:7001", "lab2:7001")
    environ["BORGCFG_MASTERS"] = "env:5"
    assert addresses(environ) == ("env:5",)
    assert addresses(environ, cell="text") == ("a:1", "b:2")
    assert addresses(environ, cell="text", masters="flag:1, flag:2") == ("flag:1", "flag:2")


def test_the_profile_is_in_the_configuration_directory_of_the_user():
    assert str(profile_path({"HOME": "/home/ann"})) == "/home/ann/.config/borgcfg/cells.yaml"
    assert str(profile_path({"HOME": "/h", "XDG_CONFIG_HOME": "/x"})) == "/x/borgcfg/cells.yaml"


@pytest.mark.parametrize(
    ("profile", "cell", "expected"),
    [
        (PROFILE, "nope", "there is no cell 'nope' (there are: local, lab, text)"),
        (PROFILE.replace("default: local", ""), None, "say which cell with --cell or `default:`"),
        ("cells: {a: [x]}", "a", "cell a: 'x' is not an address: write host:port"),
        ("cells: {a: []}", "a", "cell a: give 1 to 16 addresses of masters"),
        ("cells: [", "a", "while parsing a flow node"),
        ("just text", "a", "expected `default:` and `cells:`"),
        ("cells: {}", "a", "has no `cells:` (name: {masters: [host:port, ...]})"),
    ],
)
def test_a_bad_profile_is_refused_with_its_path(environ, profile, cell, expected):
    with open(environ["BORGCFG_PROFILE"], "w") as file:
        file.write(profile)
    with pytest.raises(BadProfile) as caught:
        addresses(environ, cell=cell)
    assert expected in str(caught.value)
    assert environ["BORGCFG_PROFILE"] in str(caught.value)


def test_without_any_word_of_a_cell_the_user_is_told_how_to_name_one(tmp_path):
    with pytest.raises(BadProfile, match="use --masters HOST:PORT"):
        addresses({"HOME": str(tmp_path)})


@pytest.mark.parametrize("masters", ["x", "x:0", "x:70000", ":5", ",", "a:1," * 20])
def test_what_is_no_address_is_refused(masters):
    with pytest.raises(BadProfile):
        addresses({}, masters=masters)
