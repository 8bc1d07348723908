"""Every behaviour of test_conformance.py is run against every runtime."""

from collections.abc import Iterator

import pytest

from tests.conformance.bench import Bench
from tests.conformance.docker_bench import make_docker
from tests.conformance.native_bench import make_native

RUNTIMES = {"native": make_native, "docker": make_docker}
_MARKS = {"native": pytest.mark.root, "docker": pytest.mark.docker}


@pytest.fixture(params=[pytest.param(name, marks=_MARKS[name]) for name in RUNTIMES])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with RUNTIMES[request.param]() as bench:
        yield bench


@pytest.fixture
def native() -> Iterator[Bench]:
    with make_native() as bench:
        yield bench
