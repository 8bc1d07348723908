"""Owns talking to the Docker Engine: the only importer of its SDK; every error of it becomes RuntimeFailed here.

An answer that got lost says nothing about the deed: ``create`` and ``start`` then return as usual, and the caller
looks at the container's name. Permanent is only what the engine refused as a bad request.
"""

import threading
import time
from builtins import list as list_of  # the class has a method ``list``
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import Any, Final, NamedTuple

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import LogConfig

from borglet.runtime.docker_stream import connect
from borglet.runtime.port import ContainerSpec, RuntimeFailed

_PROBE_TIMEOUT_S: Final = 5
_EXEC_POLL_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
# The engine's range of shares; 1024 is one CPU.
_SHARES_MIN: Final = 2
_SHARES_MAX: Final = 262_144
_PULL_REFUSED: Final = ("not found", "unauthorized", "denied", "no basic auth", "invalid reference")

Facts = dict[str, Any]  # an answer of the engine: JSON


class ExecEnd(NamedTuple):
    """How far a command came: ``exit_code`` is None while it runs."""

    exit_code: int | None
    pid: int


class DockerEngine:
    """One engine. Methods block, may be called from several threads, and raise RuntimeFailed."""

    def __init__(
        self,
        url: str,
        *,
        call_timeout_s: int,
        start_timeout_s: int,
        log_options: Mapping[str, str],
    ) -> None:
        """``log_options`` are those of the engine's json-file log."""
        self._url = url
        self._log_options = dict(log_options)
        self._call_timeout_s = call_timeout_s
        self._start_timeout_s = start_timeout_s
        self._lock = threading.Lock()
        self._clients: dict[int, docker.APIClient] = {}  # by timeout: the SDK has one per client

    def info(self) -> Facts:
        """What it says about itself."""
        with _asking("ask what it is"):
            facts: Facts = self._client().info()
            return facts

    def list(self, labels: list_of[str], *, all: bool) -> list_of[Facts]:
        """The containers with these labels: short facts. With ``all`` also those that do not run."""
        with _asking("list its containers"):
            rows: list_of[Facts] = self._client().containers(all=all, filters={"label": labels})
            return rows

    def inspect(self, name: str) -> Facts | None:
        """All it knows about the container with this name or id; None if there is none."""
        with _asking(f"look at {name}"):
            try:
                facts: Facts = self._client().inspect_container(name)
            except NotFound:
                return None
            return facts

    def create(self, spec: ContainerSpec, *, name: str, labels: dict[str, str]) -> None:
        """Make the container, unless the name exists already. Pulls the image if it names a registry."""
        with _asking(f"create {name}"):
            try:
                self._create(spec, name, labels)
            except ImageNotFound as error:
                if not _names_registry(spec.image):
                    raise RuntimeFailed(
                        f"no such image: {spec.image} (build or pull it on this machine)"
                    ) from error
                self._pull(spec.image)
                self._create(spec, name, labels)

    def start(self, engine_id: str) -> None:
        """Start a container that was made."""
        with _asking(f"start {engine_id[:12]}"), _may_lose_answer():
            self._client(self._start_timeout_s).start(engine_id)

    def wait_end(self, engine_id: str, timeout_s: int) -> None:
        """Wait until it ended, or the time is over, or the engine does not answer."""
        with suppress(DockerException, OSError):
            self._client().wait(engine_id, timeout=timeout_s)

    def signal(self, engine_id: str, signal: str) -> None:
        """Send a signal to its first process; nothing happens if it ended or is gone."""
        with _asking(f"send {signal} to {engine_id[:12]}"):
            try:
                self._client().kill(engine_id, signal)
            except APIError as error:
                if error.status_code not in (404, 409):
                    raise

    def remove(self, engine_id: str) -> None:
        """Remove a container that does not run, and its log; nothing happens if it is gone."""
        with _asking(f"remove {engine_id[:12]}"):
            try:
                self._client().remove_container(engine_id, v=True)
            except NotFound:
                return

    def last_words(self, engine_id: str) -> str:
        """The last line it wrote to stderr."""
        with _asking(f"read the log of {engine_id[:12]}"):
            said: bytes = self._client().logs(engine_id, stdout=False, stderr=True, tail=1)
            return said.decode(errors="replace").strip()

    def execute(self, engine_id: str, argv: tuple[str, ...], timeout_ms: int) -> ExecEnd:
        """Run a command in a container until it ends or the time is over."""
        deadline = time.monotonic() + timeout_ms / 1000
        with _asking(f"run {argv[0]} in {engine_id[:12]}"):
            client = self._client(self._start_timeout_s)
            exec_id = client.exec_create(engine_id, [*argv], stdout=False, stderr=False)["Id"]
            client.exec_start(exec_id, detach=True)
            for pause_s in chain(_EXEC_POLL_S, repeat(_EXEC_POLL_S[-1])):
                facts = client.exec_inspect(exec_id)
                if not facts["Running"]:
                    return ExecEnd(int(facts["ExitCode"]), 0)
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return ExecEnd(None, int(facts["Pid"]))
                time.sleep(min(pause_s, left_s))  # the engine has no call that waits for a command
        raise AssertionError("the loop ends by returning")

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _create(self, spec: ContainerSpec, name: str, labels: dict[str, str]) -> None:
        client = self._client(self._start_timeout_s)
        ram_bytes = spec.limit.ram_bytes or None
        host_config = client.create_host_config(
            network_mode="host",
            init=True,
            mem_limit=ram_bytes,
            memswap_limit=ram_bytes,  # equal: no swap
            cpu_shares=_cpu_shares(spec.limit.cpu_milli),
            pids_limit=spec.pids_max + 1 if spec.pids_max else None,  # the init is one too
            restart_policy={"Name": "no"},  # the cell decides
            log_config=LogConfig(type=LogConfig.types.JSON, config=self._log_options),
        )
        with _may_lose_answer():
            client.create_container(
                spec.image,
                name=name,
                entrypoint=[*spec.argv[:1]] or None,
                command=[*spec.argv[1:]] or None,
                environment=spec.env,
                labels=labels,
                healthcheck={"test": ["NONE"]},  # the Borglet probes, not the engine
                host_config=host_config,
            )

    def _pull(self, image: str) -> None:
        repository, tag = _repository_and_tag(image)
        with _asking(f"pull {image}"):
            said = self._client(self._start_timeout_s).pull(repository, tag=tag)
        for line in said.splitlines():
            if '"error"' in line:
                refused = any(text in line for text in _PULL_REFUSED)
                raise RuntimeFailed(f"cannot pull {image}: {line.strip()}", permanent=refused)

    def _client(self, timeout_s: int = 0) -> docker.APIClient:
        """The client with this timeout; asks the engine for its version the first time."""
        timeout_s = timeout_s or self._call_timeout_s
        # An engine that is away is found out here: the SDK leaves a socket open for each call that finds none.
        connect(self._url, timeout_s).close()
        with self._lock:
            if timeout_s not in self._clients:
                client = docker.APIClient(base_url=self._url, version="auto", timeout=timeout_s)
                self._clients[timeout_s] = client
            return self._clients[timeout_s]


def why_unusable(url: str) -> str | None:
    """None if a Docker Engine answers there and runs Linux containers, else why not, for people."""
    engine = DockerEngine(
        url, call_timeout_s=_PROBE_TIMEOUT_S, start_timeout_s=_PROBE_TIMEOUT_S, log_options={}
    )
    try:
        os_type = engine.info()["OSType"]
    except RuntimeFailed as failed:
        return f"{url}: {failed}"
    finally:
        engine.close()
    return None if os_type == "linux" else f"{url}: it runs {os_type} containers, not Linux ones"


@contextmanager
def _asking(deed: str) -> Iterator[None]:
    try:
        yield
    except APIError as error:
        said = error.explanation or str(error)
        raise RuntimeFailed(
            f"the Docker Engine could not {deed}: {said}", permanent=error.status_code == 400
        ) from error
    except (DockerException, OSError) as error:  # every error of requests is an OSError
        raise RuntimeFailed(
            f"the Docker Engine does not answer (to {deed}): {error}", permanent=False
        ) from error


@contextmanager
def _may_lose_answer() -> Iterator[None]:
    """Lets refusals through, swallows lost answers, and a conflict: it is there already."""
    try:
        yield
    except APIError as error:
        if error.status_code != 409:
            raise
    except OSError:
        return


def _cpu_shares(cpu_milli: int) -> int | None:
    return min(max(_SHARES_MIN, cpu_milli * 1024 // 1000), _SHARES_MAX) if cpu_milli else None


def _names_registry(image: str) -> bool:
    """Whether the image's first part is a host, as in ``registry.lan/web`` or ``localhost:5000/web``."""
    host, slash, _ = image.partition("/")
    return bool(slash) and ("." in host or ":" in host or host == "localhost")


def _repository_and_tag(image: str) -> tuple[str, str]:
    """As the engine wants them apart; a digest (``@sha256:...``) counts as tag."""
    if "@" in image:
        repository, _, digest = image.partition("@")
        return repository, digest
    head, colon, tag = image.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (image, "latest")
