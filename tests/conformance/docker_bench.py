"""The Docker runtime as the conformance suite runs it: a cell of its own on a real engine."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from borglet.runtime.docker import DockerRuntime
from borglet.runtime.port import Container, ContainerSpec
from tests.conformance.bench import Bench, a_spec
from tests.helpers.docker_engine import IMAGE, engine_url, sdk

LOG_FILE_BYTES = 64 << 10
_SETTINGS = {"log_bytes_max": LOG_FILE_BYTES, "log_file_count": 3}


def a_docker_spec(argv: tuple[str, ...] | list[str], **fields) -> ContainerSpec:
    return a_spec(tuple(argv), **{"image": IMAGE} | fields)


@dataclass
class DockerBench(Bench):
    """Besides what every runtime's bench has: where its engine is, and how to look behind the runtime's back."""

    url: str = ""
    cell: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    machine: str = "m1"

    def run(self, *argv: str, **fields) -> Container:
        return self.runtime.start(self.make_spec(argv, **fields))

    def engine_ids(self) -> list[str]:
        """The engine's ids of everything with this cell's label, whatever the runtime says."""
        with sdk(self.url) as client:
            rows = client.containers(all=True, filters={"label": f"borg.cell={self.cell}"})
        return [row["Id"] for row in rows]


@contextmanager
def make_docker(url: str = "", **settings) -> Iterator[DockerBench]:
    url = url or engine_url()

    def a_runtime() -> DockerRuntime:
        return DockerRuntime(bench.cell, bench.machine, url=url, **_SETTINGS | settings)

    def restart() -> DockerRuntime:
        bench.runtime.close()
        bench.runtime = a_runtime()
        return bench.runtime

    bench = DockerBench(
        runtime=None,
        make_spec=a_docker_spec,
        restart=restart,
        leftovers=lambda: bench.engine_ids(),
        log_bytes=4 * LOG_FILE_BYTES,
        url=url,
    )
    bench.runtime = a_runtime()
    try:
        yield bench
    finally:
        bench.runtime.close()
        with sdk(url) as client:
            for engine_id in bench.engine_ids():
                client.remove_container(engine_id, force=True, v=True)
