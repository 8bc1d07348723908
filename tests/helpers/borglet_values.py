"""Builders of the agent's values; they fill everything a test is not about."""

from borgcell.resources import GIB, MIB, Resources
from borgcell.specs import HealthCheck, TaskSpec
from borgcell.types import EndKind, RuntimeKind, TaskKey

from borglet.plan import View
from borglet.runtime.port import Container, ContainerId, ContainerState, Exit
from borglet.values import Desired, Ended, Record, Stop

CAPACITY = Resources(cpu_milli=4_000, ram_bytes=4 * GIB, disk_bytes=10 * GIB, ports=100)
NATIVE = frozenset({RuntimeKind.NATIVE})
NOW_MS = 1_000_000
WALL_MS = 1_700_000_000_000


def an_id(index=0, incarnation=0, job="web"):
    return ContainerId(TaskKey("ann", job, index), incarnation)


def a_spec(
    *,
    cpu_milli=500,
    ram_bytes=64 * MIB,
    ports=(),
    grace_ms=1_000,
    argv=("serve",),
    health: HealthCheck | None = None,
    env=None,
    runtime=RuntimeKind.AUTO,
    image="",
):
    limit = Resources(cpu_milli, ram_bytes, 0, len(ports))
    return TaskSpec(
        argv=tuple(argv),
        image=image,
        env=env or {},
        limit=limit,
        ports=tuple(ports),
        health=health,
        grace_ms=grace_ms,
        runtime=runtime,
    )


def a_desired(id=None, *, ports=None, priority=200, stop=False, problem="", **spec):
    ports = ports or {}
    return Desired(
        id or an_id(), a_spec(ports=tuple(ports), **spec), ports, priority, stop, problem
    )


def alive(id=None, *, limit=None, ports=None):
    return Container(
        id=id or an_id(),
        runtime=RuntimeKind.NATIVE,
        state=ContainerState.ALIVE,
        started_at_ms=WALL_MS - 5_000,
        limit=limit or Resources(500, 64 * MIB, 0, len(ports or {})),
        ports=ports or {},
    )


def ended(id=None, exit_code=0, *, at_ms=WALL_MS, **exit):
    return Container(
        id=id or an_id(),
        runtime=RuntimeKind.NATIVE,
        state=ContainerState.ENDED,
        started_at_ms=WALL_MS - 5_000,
        limit=Resources(500, 64 * MIB),
        ports={},
        exit=Exit(exit_code, at_ms, **exit),
    )


def a_record(id=None, desired=None, **fields):
    return Record(id or an_id(), desired=desired, **fields)


def a_stop(kind=EndKind.STOPPED, *, kill_at_ms=NOW_MS + 1_000, signalled=True, grace_ms=1_000):
    return Stop(kind, "stopped by the master", grace_ms, kill_at_ms, signalled)


def an_end(kind=EndKind.EXITED, exit_code=0, *, at_ms=WALL_MS, acknowledged=False):
    return Ended(kind, exit_code, "exited with status 0", at_ms, acknowledged)


def a_view(*, wanted=(), records=(), containers=(), **fields):
    """A machine; ``wanted`` None means that no master has said anything."""
    defaults = {
        "capacity": CAPACITY,
        "runtimes": NATIVE,
        "now_ms": NOW_MS,
        "wall_ms": WALL_MS,
    }
    return View(
        wanted=None if wanted is None else {desired.id: desired for desired in wanted},
        records={record.id: record for record in records},
        containers={container.id: container for container in containers},
        **(defaults | fields),
    )
