"""Owns running the evaluator of Starlark configs as a child process, and making sense of how it ended."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from borgcfg.lang.diagnostics import BadConfig, Diagnostic, FieldPath, Place, bad_config, path_text
from borgcfg.lang.limits import (
    CPU_SECONDS_MORE,
    EVALUATE_SECONDS_MAX,
    MEMORY_BYTES_MAX,
    WALL_SECONDS_MAX,
)
from borgcfg.lang.source import Source

EXPECTED_SHOWN_MAX: Final = 120  # of a syntax error: a list of tokens helps only when it is short


@dataclass(frozen=True, slots=True)
class EmittedJob:
    """What one ``job(...)`` call made, and where the call is."""

    spec: Any
    source: Source
    line: int


@dataclass(slots=True)
class Evaluation:
    """Jobs in the order of their calls, and what the config printed."""

    jobs: list[EmittedJob] = field(default_factory=list)
    prints: list[str] = field(default_factory=list)


def evaluate_starlark(
    path: Path, shown: str, seconds_max: int = EVALUATE_SECONDS_MAX
) -> Evaluation:
    """Evaluate a ``.bcl`` file; ``shown`` is what the user called it. Raises BadConfig."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "borgcfg.lang.worker",
        str(path.absolute()),
        str(seconds_max),
    ]
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            timeout=WALL_SECONDS_MAX,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise bad_config(f"took longer than {WALL_SECONDS_MAX} s", file=shown) from error
    sources = _Sources(path, shown)
    evaluation = Evaluation()
    for record in _records(ended.stdout):
        match record:
            case {"spec": spec, "file": file, "line": line}:
                evaluation.jobs.append(EmittedJob(spec, sources.named(file), line))
            case {"print": text}:
                evaluation.prints.append(text)
            case {"fault": {"crash": crash, "message": message}}:
                raise _crashed(shown, ended.returncode, f"{crash} {message}", seconds_max)
            case {"fault": fault}:
                raise BadConfig([_diagnostic(fault, sources, seconds_max)])
            case _:
                break  # half a line of a child that was killed while it wrote
    if ended.returncode != 0:
        raise _crashed(shown, ended.returncode, ended.stderr.decode(errors="replace"), seconds_max)
    return evaluation


class _Sources:
    """The files of a config by the names that Starlark knows them by."""

    def __init__(self, main: Path, shown: str) -> None:
        self._main = main
        self._shown = shown
        self._known: dict[str, Source] = {}

    def named(self, name: str) -> Source:
        if name not in self._known:
            is_main = name in ("", self._main.name)
            shown = self._shown if is_main else str(Path(self._shown).parent / name)
            path = self._main if is_main else self._main.parent / name
            self._known[name] = Source.read(path, shown)
        return self._known[name]


def _records(output: bytes) -> Iterator[dict[str, Any]]:
    for line in output.splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the last line of a child that was killed while it wrote
            return


def _diagnostic(fault: dict[str, Any], sources: _Sources, seconds_max: int) -> Diagnostic:
    file, line, column = fault["place"]
    source = sources.named(file)
    path: FieldPath = tuple(fault.get("path", ()))
    message = fault["message"]
    if fault.get("called"):
        call = source.call(line, fault["called"], path)
        place = call.place(path) if call else Place(source.shown, line, 1)
        message = _with_field(message, path, names_field=fault.get("names_field", True))
    elif not column:
        place = Place(source.shown, line)
    else:
        place = Place(source.shown, line, column)
    return Diagnostic(place, _plain_words(message, seconds_max), fault.get("hint", ""))


def _with_field(message: str, path: FieldPath, *, names_field: bool) -> str:
    return message if names_field or not path else f"{path_text(path)}: {message}"


def _plain_words(message: str, seconds_max: int) -> str:
    """Starlark's message in words for people who did not write Starlark."""
    if message == "Starlark call stack overflow":
        return "calls nest too deeply: endless recursion?"
    if message.startswith("Evaluation cancelled"):
        return f"took longer than {seconds_max} s: an endless loop?"
    if message == "Operation `serde::serialize` not supported on type `function`":
        return "a field holds a function; only `override` may be one"
    if len(message) > EXPECTED_SHOWN_MAX:
        message = message.split(", expected one of", 1)[0]  # every token of the language
    return message


def _crashed(shown: str, code: int, said: str, seconds_max: int) -> BadConfig:
    """The error for a child that did not end well: it hit a limit of the operating system, or broke."""
    if "memory" in said.lower() or "capacity overflow" in said or "MemoryError" in said:
        return bad_config(f"needs more than {MEMORY_BYTES_MAX >> 30} GiB of memory", file=shown)
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return bad_config(
            f"took more than {seconds_max + CPU_SECONDS_MORE} s of CPU time", file=shown
        )
    if -code in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        name = signal.Signals(-code).name
        return bad_config(f"is nested too deeply or too large to evaluate ({name})", file=shown)
    last = said.strip().rsplit("\n", 1)[-1][:300]
    return bad_config(f"cannot be evaluated: the evaluator ended with {code} ({last})", file=shown)
