"""borglet.facts and borglet.config: what flags mean, and what a machine offers."""

import socket

import pytest
from borgcell.resources import GIB, MIB
from borgcell.types import RuntimeKind

from borglet.config import parse_runtimes, split_address
from borglet.facts import machine_facts, parse_attribute, parse_bytes, parse_cpu, parse_ports
from borglet.join import advertised_address
from borglet.sockets import is_free, taken_port


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("8GiB", 8 * GIB),
        ("512MiB", 512 * MIB),
        ("1.5G", 3 * GIB // 2),
        ("2GB", 2 * 10**9),
        ("1024", 1024),
        ("7 kib", 7168),
    ],
)
def test_amounts_of_bytes(text, amount):
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_bytes, "8 Gibi"),
        (parse_bytes, "-1GiB"),
        (parse_bytes, ""),
        (parse_cpu, "many"),
        (parse_cpu, "0"),
        (parse_cpu, "nan"),
        (parse_cpu, "inf"),
        (parse_ports, "20000"),
        (parse_ports, "80-90"),
        (parse_ports, "30000-20000"),
        (parse_ports, "20000-70000"),
        (parse_attribute, "rack"),
        (parse_attribute, "=x"),
        (parse_runtimes, "native,podman"),
        (split_address, "localhost"),
        (split_address, "localhost:http"),
        (split_address, ":80000"),
    ],
)
def test_bad_flags_are_refused_with_what_was_given(parse, text):
    with pytest.raises(ValueError, match=repr(text.split(",")[-1])[1:-1] or "''"):
        parse(text)


def test_runtimes_are_taken_once_each_in_order():
    assert parse_runtimes("docker, native,docker") == (RuntimeKind.DOCKER, RuntimeKind.NATIVE)


def test_flags_win_over_what_is_measured(tmp_path):
    facts = machine_facts(
        disk_path=tmp_path,
        ports=(21_000, 21_099),
        cpu_milli=parse_cpu("2.5"),
        ram_bytes=GIB,
        disk_bytes=3 * GIB,
        attributes={"rack": "r7", "arch": "toaster"},
    )
    assert facts.capacity.as_tuple() == (2_500, GIB, 3 * GIB, 100)
    assert (facts.attributes["rack"], facts.attributes["arch"]) == ("r7", "toaster")


def test_a_machine_offers_less_than_it_has(tmp_path):
    facts = machine_facts(disk_path=tmp_path, ports=(20_000, 29_999))
    with open("/proc/meminfo") as meminfo:
        total = int(meminfo.readline().split()[1]) * 1024
    assert 0 < facts.capacity.ram_bytes < total
    assert facts.capacity.cpu_milli > 0
    assert facts.capacity.disk_bytes > 0
    assert facts.attributes["hostname"] == socket.gethostname()
    assert facts.attributes["os"] == "linux"


@pytest.mark.parametrize(
    ("family", "kind", "host"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1"),
        (socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0"),
        (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0"),
    ],
)
def test_a_port_that_somebody_holds_is_not_free(family, kind, host):
    with socket.socket(family, kind) as holder:
        holder.bind((host, 0))
        if kind is socket.SOCK_STREAM:
            holder.listen()
        port = holder.getsockname()[1]
        assert not is_free(port)
        assert taken_port([port]) == port
    assert is_free(port)
    assert taken_port([port]) is None


def test_a_wildcard_is_advertised_as_the_address_that_faces_the_master():
    assert advertised_address("10.1.2.3:0", 7001, ["127.0.0.1:1"]) == "10.1.2.3:7001"
    assert advertised_address("0.0.0.0:7000", 7000, ["127.0.0.1:1"]) == "127.0.0.1:7000"
    with pytest.raises(ValueError, match="give --address"):
        advertised_address("0.0.0.0:7000", 7000, [])
