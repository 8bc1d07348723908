"""Owns the fake runtime: containers that are only numbers, for simulation and unit tests.

It keeps the laws of the port: an instance stands for the machine, so a new agent that is given the same
instance finds its containers again. Time comes from outside; what ends when is computed when asked.
"""

import threading
from collections.abc import Callable, Iterator, Mapping

from borgcell.types import RuntimeKind
from msgspec import Struct
from msgspec.structs import replace

from borglet.runtime.port import (
    Container,
    ContainerId,
    ContainerSpec,
    ContainerState,
    Exit,
    LogPiece,
    RuntimeFailed,
    Usage,
)

WAIT_STEP_MS = 20  # how often a waiting thread looks at a clock that is not the machine's


class Script(Struct, frozen=True):
    """How a container behaves. ``duration_ms`` None: until stopped; ``term_ms`` None: ignores SIGTERM."""

    duration_ms: int | None = None
    exit_code: int = 0
    term_ms: int | None = 0
    out_of_memory: bool = False
    fail: str = ""  # start raises RuntimeFailed with it
    fail_permanent: bool = True
    output: bytes = b""
    execute: Callable[[tuple[str, ...]], int] | None = None


class _Fake(Struct):
    spec: ContainerSpec
    script: Script
    started_at_ms: int
    ends_at_ms: int | None
    exit_code: int
    out_of_memory: bool = False
    released: bool = False


class FakeRuntime:
    """Containers without processes. ``script`` says how each behaves; ``calls`` is what was asked, in order."""

    def __init__(
        self,
        now_ms: Callable[[], int],
        script: Callable[[ContainerSpec], Script] = lambda _: Script(),
        kind: RuntimeKind = RuntimeKind.NATIVE,
    ) -> None:
        self.kind = kind
        self.calls: list[tuple[str, ContainerId]] = []
        self._now_ms = now_ms
        self._script = script
        self._fakes: dict[ContainerId, _Fake] = {}
        self._changed = threading.Condition()
        self._told: set[ContainerId] = set()
        self._outside = False
        self.broken = ""  # list and start raise RuntimeFailed with it

    def attributes(self) -> dict[str, str]:
        """``runtime.<kind>``."""
        return {f"runtime.{self.kind}": "fake"}

    def list(self) -> list[Container]:
        """All, ended ones too."""
        with self._changed:
            self._fail_if_broken()
            return [self._container(fake) for fake in self._fakes.values()]

    def start(self, spec: ContainerSpec) -> Container:
        """Make one, as its script says."""
        with self._changed:
            self.calls.append(("start", spec.id))
            self._fail_if_broken()
            if spec.id not in self._fakes:
                script = self._script(spec)
                if script.fail:
                    raise RuntimeFailed(script.fail, permanent=script.fail_permanent)
                now_ms = self._now_ms()
                ends = None if script.duration_ms is None else now_ms + script.duration_ms
                self._fakes[spec.id] = _Fake(
                    spec, script, now_ms, ends, script.exit_code, script.out_of_memory
                )
            return self._container(self._fakes[spec.id])

    def terminate(self, id: ContainerId) -> None:
        """End it ``term_ms`` from now with 143, unless it ignores the signal."""
        with self._changed:
            self.calls.append(("terminate", id))
            fake = self._fakes.get(id)
            if fake is not None and fake.script.term_ms is not None:
                self._end(fake, 143, self._now_ms() + fake.script.term_ms)

    def kill(self, id: ContainerId) -> None:
        """End it now with 137."""
        with self._changed:
            self.calls.append(("kill", id))
            if id in self._fakes:
                self._end(self._fakes[id], 137, self._now_ms())

    def release(self, id: ContainerId) -> None:
        """Only noted."""
        with self._changed:
            self.calls.append(("release", id))
            if id in self._fakes:
                self._fakes[id].released = True

    def forget(self, id: ContainerId) -> None:
        """Remove it."""
        with self._changed:
            self.calls.append(("forget", id))
            self._fakes.pop(id, None)

    def execute(self, id: ContainerId, argv: tuple[str, ...], timeout_ms: int) -> int:
        """The script's answer; 0 without one."""
        del timeout_ms
        with self._changed:
            fake = self._fakes.get(id)
        if fake is None or self._is_ended(fake):
            raise RuntimeFailed(f"{id} does not run")
        return fake.script.execute(argv) if fake.script.execute else 0

    def usage(self, id: ContainerId) -> Usage | None:
        """Nothing much."""
        with self._changed:
            fake = self._fakes.get(id)
        if fake is None or self._is_ended(fake):
            return None
        return Usage(cpu_ns=0, ram_bytes=1 << 20, pids=1)

    def read_log(
        self, id: ContainerId, *, tail_lines: int, follow: bool, is_cancelled: Callable[[], bool]
    ) -> Iterator[LogPiece]:
        """The script's output; with ``follow`` it then waits for the end."""
        with self._changed:
            fake = self._fakes.get(id)
        if fake is None:
            raise LookupError(f"no log of {id}")
        lines = fake.script.output.splitlines(keepends=True)
        for line in lines[-tail_lines:] if tail_lines > 0 else lines:
            yield LogPiece("stdout", fake.started_at_ms, line)
        while follow and not is_cancelled() and not self._is_ended(fake):
            with self._changed:
                self._changed.wait(WAIT_STEP_MS / 1000)

    def wait_change(self, timeout_ms: int) -> bool:
        """True once a container ended that no earlier call told of, or the machine was touched from outside."""
        waited_ms = 0
        with self._changed:
            while True:
                ended = {id for id, fake in self._fakes.items() if self._is_ended(fake)}
                if self._outside or ended - self._told:
                    self._told, self._outside = ended, False
                    return True
                if waited_ms >= timeout_ms:
                    return False
                self._changed.wait(WAIT_STEP_MS / 1000)
                waited_ms += WAIT_STEP_MS

    def close(self) -> None:
        """Nothing to let go of."""

    # what happens to a machine from outside

    def end(self, id: ContainerId, exit_code: int, *, out_of_memory: bool = False) -> None:
        """Its process ends now."""
        with self._changed:
            fake = self._fakes[id]
            fake.out_of_memory = out_of_memory
            self._end(fake, exit_code, self._now_ms())

    def vanish(self, id: ContainerId) -> None:
        """Somebody removes it behind the agent's back."""
        with self._changed:
            del self._fakes[id]
            self._outside = True

    def specs(self) -> Mapping[ContainerId, ContainerSpec]:
        """What was started, by id."""
        with self._changed:
            return {id: fake.spec for id, fake in self._fakes.items()}

    def released(self, id: ContainerId) -> bool:
        """Whether it was released."""
        with self._changed:
            return self._fakes[id].released

    def _fail_if_broken(self) -> None:
        if self.broken:
            raise RuntimeFailed(self.broken, permanent=False)

    def _end(self, fake: _Fake, exit_code: int, at_ms: int) -> None:
        if fake.ends_at_ms is None or fake.ends_at_ms > at_ms:
            fake.ends_at_ms, fake.exit_code = at_ms, exit_code
        self._changed.notify_all()

    def _is_ended(self, fake: _Fake) -> bool:
        return fake.ends_at_ms is not None and fake.ends_at_ms <= self._now_ms()

    def _container(self, fake: _Fake) -> Container:
        container = Container(
            id=fake.spec.id,
            runtime=self.kind,
            state=ContainerState.ALIVE,
            started_at_ms=fake.started_at_ms,
            limit=fake.spec.limit,
            ports=fake.spec.ports,
        )
        if not self._is_ended(fake):
            return container
        exit = Exit(fake.exit_code, fake.ends_at_ms or 0, out_of_memory=fake.out_of_memory)
        return replace(container, state=ContainerState.ENDED, exit=exit)
