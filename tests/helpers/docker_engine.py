"""Finds the Docker Engine of the tests, or starts private ones that a test may stop, freeze and kill."""

import atexit
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import docker

from borglet.runtime.processes import stat_of

IMAGE = "borg-test:local"
_SCRIPT = Path(__file__).parents[2] / ".ci" / "docker.sh"


class Engine:
    """A private engine under a directory, run by .ci/docker.sh."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/docker.sock"

    @property
    def pid(self) -> int:
        return int((self.directory / "pid").read_text())

    @property
    def is_killed(self) -> bool:
        return not _is_running(self.pid)

    def start(self) -> None:
        self._script("start")

    def stop(self) -> None:
        self._script("stop")

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL dockerd, and wait until it is gone."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while _is_running(pid):
            assert time.monotonic() < deadline, f"dockerd {pid} survives SIGKILL"
            time.sleep(0.01)

    def _script(self, verb: str) -> None:
        env = os.environ | {"BORG_DOCKER_DIR": str(self.directory)}
        subprocess.run([_SCRIPT, verb], env=env, check=True, timeout=300, stdout=subprocess.DEVNULL)


def _is_running(pid: int) -> bool:
    stat = stat_of(pid)
    return stat is not None and stat.state not in "ZX"


@contextmanager
def private_engine() -> Iterator[Engine]:
    """An engine of one's own, gone afterwards."""
    # short: a socket's path has 108 characters at most; ``stop`` removes it
    engine = Engine(Path(tempfile.mkdtemp(prefix="borg-e-", dir="/var/tmp")))
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


@cache
def engine_url() -> str:
    """$DOCKER_HOST, or an engine of this test session that ends with it; it has the image ``IMAGE``."""
    if "DOCKER_HOST" in os.environ:
        return os.environ["DOCKER_HOST"]
    session = ExitStack()
    atexit.register(session.close)
    return session.enter_context(private_engine()).url


@contextmanager
def sdk(url: str) -> Iterator[docker.APIClient]:
    """A client of one's own, to look behind the runtime's back and to act there."""
    client = docker.APIClient(base_url=url, version="auto", timeout=60)
    try:
        yield client
    finally:
        client.close()
