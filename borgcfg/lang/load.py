"""Owns turning a config file into jobs: picks the reader by the file's name, checks, and says what is wrong and where."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from borgcell.resources import format_bytes
from borgcell.specs import SPEC_BYTES_MAX, JobSpec, normalize, problems

from borgcfg.lang import schema
from borgcfg.lang.diagnostics import (
    SHOWN_MAX,
    BadConfig,
    Diagnostic,
    Fault,
    FieldPath,
    Place,
    bad_config,
    did_you_mean,
)
from borgcfg.lang.limits import JOBS_MAX, read_config
from borgcfg.lang.paths import read_path

FORMATS: Final = (".bcl", ".yaml", ".yml", ".json")
Locate = Callable[[FieldPath], Place]


@dataclass(frozen=True, slots=True)
class Config:
    """An evaluated config: normalized jobs that ``specs.problems`` allows, and what the config printed."""

    jobs: tuple[JobSpec, ...]
    prints: tuple[str, ...] = ()


def load_config(file: str) -> Config:
    """Evaluate and check a config file. Raises BadConfig with everything that is wrong with it."""
    path = Path(file)
    if path.suffix not in FORMATS:
        raise bad_config(f"is no config: name it {', '.join(FORMATS)}", file=file)
    try:
        if path.suffix == ".bcl":
            return _from_starlark(path, file)
        return _from_document(path, file)
    except OSError as error:
        raise bad_config(f"cannot be read: {error.strerror or error}", file=file) from error


def _from_starlark(path: Path, file: str) -> Config:
    from borgcfg.lang.evaluate import EmittedJob, evaluate_starlark

    _text(path, file)  # its size, encoding and existence, said in the same words for every format
    evaluation = evaluate_starlark(path, file)

    def locator(job: EmittedJob) -> Locate:
        def locate(where: FieldPath) -> Place:
            call = job.source.call(job.line, "job", where)
            return call.place(where) if call else Place(job.source.shown, job.line, 1)

        return locate

    jobs = _checked(((job.spec, locator(job)) for job in evaluation.jobs), file)
    return Config(jobs, tuple(evaluation.prints))


def _from_document(path: Path, file: str) -> Config:
    text = _text(path, file)
    if path.suffix == ".json":
        from borgcfg.lang.json_reader import read_json as read
    else:
        from borgcfg.lang.yaml_reader import read_yaml as read
    root = read(text, file)
    plain = root.plain()

    def locator(prefix: FieldPath) -> Locate:
        return lambda path: root.place(file, (*prefix, *path))

    if isinstance(plain, list):
        return Config(_checked(((job, locator((i,))) for i, job in enumerate(plain)), file))
    if isinstance(plain, dict) and "jobs" in plain:
        if len(plain) > 1:
            extra = next(key for key in plain if key != "jobs")
            hint = did_you_mean(str(extra), ["jobs"])
            message = f"unknown field `{extra}` beside `jobs`"
            raise BadConfig([Diagnostic(root.place(file, (extra,)), message, hint)])
        jobs = plain["jobs"]
        if not isinstance(jobs, list):
            place = root.place(file, ("jobs",))
            said = f"jobs: expected a list of jobs, got {schema.type_word(jobs)}"
            raise BadConfig([Diagnostic(place, said)])
        return Config(_checked(((job, locator(("jobs", i))) for i, job in enumerate(jobs)), file))
    return Config(_checked([(plain, locator(()))], file))


def _text(path: Path, file: str) -> str:
    try:
        return read_config(path, file)
    except ValueError as error:
        raise BadConfig([Diagnostic(Place(file), str(error).removeprefix(f"{file} "))]) from error


def _checked(emitted: Iterable[tuple[Any, Locate]], file: str) -> tuple[JobSpec, ...]:
    """The specs, or BadConfig with the faults of all jobs together."""
    diagnostics: list[Diagnostic] = []
    specs: list[JobSpec] = []
    places: dict[object, Place] = {}
    for plain, locate in emitted:
        if len(specs) >= JOBS_MAX:
            raise bad_config(f"has more than {JOBS_MAX} jobs", file=file)
        spec, faults = schema.job_spec(plain)
        if spec is not None:
            spec = normalize(spec)
            faults = list(_spec_faults(spec))
            if spec.key in places:
                message = f"job {spec.key} is given twice"
                hint = f"the first is at {places[spec.key]}"
                diagnostics.append(Diagnostic(locate(("name",)), message, hint))
            places.setdefault(spec.key, locate(("name",)))
            specs.append(spec)
        diagnostics += (fault.at(locate(fault.path)) for fault in faults)
        if len(diagnostics) > SHOWN_MAX:
            break
    if not diagnostics and not specs:
        diagnostics.append(Diagnostic(Place(file), "has no job"))
    if diagnostics:
        raise BadConfig(
            list(dict.fromkeys(diagnostics))[:SHOWN_MAX]
        )  # an override is wrong once, not n times
    return tuple(specs)


def _spec_faults(spec: JobSpec) -> Iterator[Fault]:
    found = problems(spec)
    for problem in found[:SHOWN_MAX]:
        yield Fault(read_path(problem.field), problem.message)
    if found:
        return
    size = len(msgspec.msgpack.encode(spec))
    if size > SPEC_BYTES_MAX:
        limit = format_bytes(SPEC_BYTES_MAX)
        yield Fault((), f"the job is {format_bytes(size)} large; at most {limit} fit into the log")
