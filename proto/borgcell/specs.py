"""Owns what users ask for: job specs and the rules they must keep.

One schema for Starlark, YAML, JSON and the wire: field names here are the names users write. ``problems``
is the only judge of a spec; borgcfg and the master both ask it.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import field

from borgcell.priority import PRIORITY_MAX
from borgcell.resources import Resources, format_bytes
from borgcell.types import JobKey, JobKind, RuntimeKind, is_name

TASKS_MAX: Final = 100_000
CPU_MILLI_MAX: Final = 1_000_000  # a thousand CPUs: more than any machine has
RAM_BYTES_MAX: Final = 1 << 44
DISK_BYTES_MAX: Final = 1 << 50
RAM_BYTES_MIN: Final = 1 << 20  # below this no process starts
PORTS_MAX: Final = 64
ARGV_BYTES_MAX: Final = 64 << 10
ENV_BYTES_MAX: Final = 64 << 10
CONSTRAINTS_MAX: Final = 32
LABELS_MAX: Final = 64
SPEC_BYTES_MAX: Final = 4 << 20  # one command must fit an entry of the log (raft.md §10.1)
DURATION_MS_MAX: Final = 24 * 3_600_000


class Op(StrEnum):
    """Comparison of a constraint; the operators of TR3."""

    EQUAL = "=="
    NOT_EQUAL = "!="
    LESS_THAN = "<"
    LESS_THAN_EQUAL = "<="
    GREATER_THAN = ">"
    GREATER_THAN_EQUAL = ">="
    PRESENT = "present"
    NOT_PRESENT = "not_present"


NUMERIC_OPS: Final = frozenset(
    {Op.LESS_THAN, Op.LESS_THAN_EQUAL, Op.GREATER_THAN, Op.GREATER_THAN_EQUAL}
)


class Constraint(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A demand (hard) or a wish (soft) on one machine attribute.

    An absent attribute is "" to ``==`` and ``!=`` and 0 to the numeric operators (TR3).
    """

    attribute: str
    op: Op = Op.EQUAL
    value: str = ""
    soft: bool = False

    def __str__(self) -> str:
        """``arch == arm64``."""
        if self.op in (Op.PRESENT, Op.NOT_PRESENT):
            return f"{self.attribute} is {self.op.replace('_', ' ')}"
        return f"{self.attribute} {self.op} {self.value}"

    def holds(self, attributes: Mapping[str, str]) -> bool:
        """Whether a machine with these attributes meets it. A value that is no number counts as 0."""
        actual = attributes.get(self.attribute, "")
        match self.op:
            case Op.EQUAL:
                return actual == self.value
            case Op.NOT_EQUAL:
                return actual != self.value
            case Op.PRESENT:
                return self.attribute in attributes
            case Op.NOT_PRESENT:
                return self.attribute not in attributes
            case Op.LESS_THAN:
                return as_number(actual) < as_number(self.value)
            case Op.LESS_THAN_EQUAL:
                return as_number(actual) <= as_number(self.value)
            case Op.GREATER_THAN:
                return as_number(actual) > as_number(self.value)
            case Op.GREATER_THAN_EQUAL:
                return as_number(actual) >= as_number(self.value)


def as_number(text: str) -> float:
    """The number in ``text``, 0.0 when there is none; never NaN, so that comparing is total."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if number == number else 0.0  # noqa: PLR0124 - NaN is the number that differs from itself


class HealthCheck(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """How the Borglet probes a task; exactly one of ``http``, ``tcp`` and ``exec``."""

    http: str = ""
    tcp: bool = False
    exec: tuple[str, ...] = ()
    port: str = ""
    interval_ms: int = 2_000
    timeout_ms: int = 1_000
    grace_ms: int = 15_000  # Aurora's initial_interval
    failures_max: int = 3


class TaskSpec(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What one task runs. ``limit.ports`` always equals the number of ``ports``."""

    argv: tuple[str, ...] = ()
    image: str = ""
    env: dict[str, str] = field(default_factory=dict)
    limit: Resources = Resources(cpu_milli=100, ram_bytes=128 << 20)
    ports: tuple[str, ...] = ()
    health: HealthCheck | None = None
    grace_ms: int = 10_000
    pids_max: int = 0
    runtime: RuntimeKind = RuntimeKind.AUTO

    def chosen_runtime(self) -> RuntimeKind:
        """DOCKER or NATIVE: AUTO resolved by whether there is an image."""
        if self.runtime is not RuntimeKind.AUTO:
            return self.runtime
        return RuntimeKind.DOCKER if self.image else RuntimeKind.NATIVE


class UpdatePolicy(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """How much disruption an update may cause."""

    max_in_flight: int = 1


class JobSpec(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A job as its user wants it. ``overrides`` is keyed by index and holds whole task specs."""

    user: str
    name: str
    task: TaskSpec
    kind: JobKind = JobKind.SERVICE
    priority: int = 0
    task_count: int = 1
    overrides: dict[int, TaskSpec] = field(default_factory=dict)
    constraints: tuple[Constraint, ...] = ()
    max_per_machine: int = 0
    max_per_rack: int = 0
    max_failures: int = 3
    update: UpdatePolicy = UpdatePolicy()
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> JobKey:
        """Its key."""
        return JobKey(self.user, self.name)

    def task_spec(self, index: int) -> TaskSpec:
        """What the task of this index runs."""
        return self.overrides.get(index, self.task)

    def task_constraints(self, index: int) -> tuple[Constraint, ...]:
        """Constraints of a task: the job's, and the runtime its spec needs."""
        runtime = self.task_spec(index).chosen_runtime()
        return (*self.constraints, Constraint(f"runtime.{runtime}", Op.PRESENT))


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with an input: where (``task.limit.cpu_milli``) and what to do about it."""

    field: str
    message: str

    def __str__(self) -> str:
        """``field: message``."""
        return f"{self.field}: {self.message}" if self.field else self.message


def normalize(spec: JobSpec) -> JobSpec:
    """The spec with ``limit.ports`` derived, overrides in order and those equal to ``task`` dropped."""
    task = _with_port_count(spec.task)
    overrides = {
        index: override
        for index, override in (
            (index, _with_port_count(spec.overrides[index])) for index in sorted(spec.overrides)
        )
        if override != task
    }
    return msgspec.structs.replace(spec, task=task, overrides=overrides)


def _with_port_count(task: TaskSpec) -> TaskSpec:
    if task.limit.ports == len(task.ports):
        return task
    limit = msgspec.structs.replace(task.limit, ports=len(task.ports))
    return msgspec.structs.replace(task, limit=limit)


def problems(spec: JobSpec) -> tuple[Problem, ...]:
    """Everything wrong with a normalized spec, in the order of its fields; empty when it may be submitted."""
    return tuple(_job_problems(spec))


def _job_problems(spec: JobSpec) -> Iterator[Problem]:
    for name, text in (("user", spec.user), ("name", spec.name)):
        if not is_name(text):
            yield Problem(
                name,
                f"{text[:80]!r} is not a name: use 1 to 63 lower-case letters, digits, and inner '-' or '_'",
            )
    yield from _in_range("priority", spec.priority, 0, PRIORITY_MAX)
    yield from _in_range("task_count", spec.task_count, 1, TASKS_MAX)
    yield from _in_range("max_per_machine", spec.max_per_machine, 0, TASKS_MAX)
    yield from _in_range("max_per_rack", spec.max_per_rack, 0, TASKS_MAX)
    yield from _in_range("max_failures", spec.max_failures, 0, 1_000)
    yield from _in_range("update.max_in_flight", spec.update.max_in_flight, 1, TASKS_MAX)
    yield from _task_problems("task", spec.task)
    for index, override in spec.overrides.items():
        if not 0 <= index < spec.task_count:
            yield Problem(
                f"overrides[{index}]",
                f"there is no task {index}: indexes go from 0 to {spec.task_count - 1}",
            )
        yield from _task_problems(f"overrides[{index}]", override)
    yield from _constraint_problems(spec.constraints)
    yield from _text_map_problems("labels", spec.labels, LABELS_MAX)


def _in_range(name: str, value: int, low: int, high: int) -> Iterator[Problem]:
    if not low <= value <= high:
        yield Problem(name, f"{value} is not in {low}..{high}")


def _task_problems(path: str, task: TaskSpec) -> Iterator[Problem]:
    if not task.argv and not task.image:
        yield Problem(f"{path}.argv", "is empty: say which program to run")
    if task.argv and not task.argv[0]:
        yield Problem(f"{path}.argv[0]", "is empty: say which program to run")
    if any("\0" in argument for argument in task.argv):
        yield Problem(f"{path}.argv", "contains a NUL byte")
    if sum(len(argument) for argument in task.argv) > ARGV_BYTES_MAX:
        yield Problem(f"{path}.argv", f"is longer than {format_bytes(ARGV_BYTES_MAX)}")
    if task.runtime is RuntimeKind.DOCKER and not task.image:
        yield Problem(f"{path}.image", "is empty: the docker runtime needs an image")
    if task.runtime is RuntimeKind.NATIVE and task.image:
        yield Problem(f"{path}.image", "is set, but the native runtime runs no images")
    yield from _env_problems(f"{path}.env", task.env)
    yield from _limit_problems(f"{path}.limit", task.limit)
    yield from _port_problems(f"{path}.ports", task.ports)
    yield from _in_range(f"{path}.grace_ms", task.grace_ms, 0, DURATION_MS_MAX)
    yield from _in_range(f"{path}.pids_max", task.pids_max, 0, 4_194_304)
    if task.health is not None:
        yield from _health_problems(f"{path}.health", task.health, task.ports)


def _env_problems(path: str, env: Mapping[str, str]) -> Iterator[Problem]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            yield Problem(f"{path}[{name!r}]", "is not a valid environment variable")
    if sum(len(name) + len(value) for name, value in env.items()) > ENV_BYTES_MAX:
        yield Problem(path, f"is larger than {format_bytes(ENV_BYTES_MAX)}")


def _limit_problems(path: str, limit: Resources) -> Iterator[Problem]:
    yield from _in_range(f"{path}.cpu_milli", limit.cpu_milli, 1, CPU_MILLI_MAX)
    if not RAM_BYTES_MIN <= limit.ram_bytes <= RAM_BYTES_MAX:
        low, high = format_bytes(RAM_BYTES_MIN), format_bytes(RAM_BYTES_MAX)
        yield Problem(f"{path}.ram_bytes", f"{limit.ram_bytes} is not in {low}..{high}")
    if not 0 <= limit.disk_bytes <= DISK_BYTES_MAX:
        high = format_bytes(DISK_BYTES_MAX)
        yield Problem(f"{path}.disk_bytes", f"{limit.disk_bytes} is not in 0..{high}")


def _port_problems(path: str, ports: tuple[str, ...]) -> Iterator[Problem]:
    for position, port in enumerate(ports):
        if not is_name(port):
            yield Problem(f"{path}[{position}]", f"{port[:80]!r} is not a name such as 'http'")
    if len(set(ports)) != len(ports):
        yield Problem(path, "names a port twice")
    if len(ports) > PORTS_MAX:
        yield Problem(path, f"names {len(ports)} ports; at most {PORTS_MAX} are allowed")


def _health_problems(path: str, health: HealthCheck, ports: tuple[str, ...]) -> Iterator[Problem]:
    probes = [
        name
        for name, on in (("http", health.http), ("tcp", health.tcp), ("exec", health.exec))
        if on
    ]
    if len(probes) != 1:
        found = " and ".join(probes) or "none"
        yield Problem(path, f"needs exactly one of http, tcp and exec; it has {found}")
    if health.http and not health.http.startswith("/"):
        yield Problem(f"{path}.http", f"{health.http[:80]!r} is not a path: start it with '/'")
    if (health.http or health.tcp) and health.port not in ports:
        known = ", ".join(ports) or "none"
        yield Problem(f"{path}.port", f"{health.port!r} is not one of the task's ports ({known})")
    yield from _in_range(f"{path}.interval_ms", health.interval_ms, 100, 3_600_000)
    yield from _in_range(f"{path}.timeout_ms", health.timeout_ms, 10, 600_000)
    yield from _in_range(f"{path}.grace_ms", health.grace_ms, 0, DURATION_MS_MAX)
    yield from _in_range(f"{path}.failures_max", health.failures_max, 1, 1_000)


def _constraint_problems(constraints: tuple[Constraint, ...]) -> Iterator[Problem]:
    if len(constraints) > CONSTRAINTS_MAX:
        yield Problem("constraints", f"has {len(constraints)}; at most {CONSTRAINTS_MAX}")
    for position, constraint in enumerate(constraints):
        path = f"constraints[{position}]"
        if not constraint.attribute:
            yield Problem(f"{path}.attribute", "is empty")
        if constraint.op in NUMERIC_OPS and not _is_number(constraint.value):
            yield Problem(
                f"{path}.value",
                f"{constraint.value[:80]!r} is not a number, but {constraint.op} compares numbers",
            )


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _text_map_problems(path: str, texts: Mapping[str, str], count_max: int) -> Iterator[Problem]:
    if len(texts) > count_max:
        yield Problem(path, f"has {len(texts)} entries; at most {count_max}")
    for key, value in texts.items():
        if not key or len(key) > 256 or len(value) > 256 or "=" in key:
            yield Problem(
                f"{path}[{key[:80]!r}]", "needs a key without '=' and at most 256 characters each"
            )
