"""Owns evaluating one Starlark config: the child process of ``starlark.py``, so that no config can hurt borgcfg.

Reads nothing but files under the config's directory; has bounds on memory, CPU, stack and output. Writes one JSON
object per line: {"file", "line", "spec"} per job, {"print"} per printed line, and {"fault"} last when it failed.
"""

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final

import starlark
from borgcell.specs import TASKS_MAX

from borgcfg.lang import schema
from borgcfg.lang.diagnostics import Fault
from borgcfg.lang.limits import (
    CALLS_MAX,
    CPU_SECONDS_MORE,
    EMIT_BYTES_MAX,
    FILES_MAX,
    JOBS_MAX,
    MEMORY_BYTES_MAX,
    PRINTS_MAX,
    read_config,
)

PRELUDE: Final = "//borg"
Report = dict[str, Any]


class _Stop(ValueError):
    """Ends the evaluation with a fault of our own; Starlark carries it up as its own error."""


class _Evaluation:
    """One config with everything it loads. Jobs come out in the order of their ``job(...)`` calls."""

    def __init__(self, main: Path, seconds_max: int) -> None:
        self._main = main
        self._root = main.parent
        self._modules: dict[str, starlark.FrozenModule] = {}
        self._loading: list[str] = [main.name]
        self._deadline_s = time.monotonic() + seconds_max
        self._globals = starlark.Globals.extended_by(
            [
                starlark.LibraryExtension.Json,
                starlark.LibraryExtension.Map,
                starlark.LibraryExtension.Filter,
                starlark.LibraryExtension.StructType,
                starlark.LibraryExtension.CallStack,
            ]
        )
        self._dialect = starlark.Dialect.extended()
        self._dialect.enable_f_strings = True
        self._dialect.enable_types = starlark.DialectTypes.ENABLE
        self._options = starlark.EvalOptions(
            check_cancelled=self._is_late, max_callstack_size=CALLS_MAX
        )
        self._jobs = 0
        self._emitted_bytes = 0
        self._prints = 0
        self.fault: Report = {}  # what our own callables found wrong; Starlark adds where

    def run(self) -> None:
        self._evaluate(self._main.name, read_config(self._main, self._main.name), self._builtins())

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline_s

    def _evaluate(
        self, name: str, text: str, callables: dict[str, Callable[..., Any]]
    ) -> starlark.Module:
        module = starlark.Module()
        for called, function in callables.items():
            module.add_callable(called, function)
        tree = starlark.parse(name, text, self._dialect)
        loader = starlark.FileLoader(self._load)
        starlark.eval_with(self._options, module, tree, self._globals, loader)
        return module

    def _builtins(self) -> dict[str, Callable[..., Any]]:
        return {"print": self._print}

    def _load(self, name: str) -> starlark.FrozenModule:
        if name not in self._modules:
            if name == PRELUDE:
                text = Path(__file__).with_name("prelude.bcl").read_text()
                callables: dict[str, Callable[..., Any]] = {
                    "_checked": self._checked,
                    "_required": self._required,
                    "_fault": self._stop,
                    "_emit": self._emit,
                    "config_dir": lambda: str(self._root.resolve()),
                    "python": lambda: sys.executable,
                }
            else:
                text = self._library(name)
                callables = self._builtins()
            self._loading.append(name)
            self._modules[name] = self._evaluate(name, text, callables).freeze()
            self._loading.pop()
        return self._modules[name]

    def _library(self, name: str) -> str:
        path = PurePosixPath(name)
        if name.startswith("//"):
            self._stop(f"there is no library {name!r}; the only one is {PRELUDE!r}")
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            self._stop(f"cannot load {name!r}: name a file below the directory of the config")
        if str(path) != name or not name.endswith(".bcl"):
            self._stop(f"cannot load {name!r}: write the plain path of a .bcl file")
        if name in self._loading:
            circle = " -> ".join([*self._loading[self._loading.index(name) :], name])
            self._stop(f"cannot load {name!r}: it loads itself ({circle})")
        if len(self._modules) >= FILES_MAX:
            self._stop(f"loads more than {FILES_MAX} files")
        file = self._root / path
        if not file.resolve().is_relative_to(self._root.resolve()):
            self._stop(f"cannot load {name!r}: it leads out of the directory of the config")
        try:
            return read_config(file, name)
        except OSError as error:
            self._stop(f"cannot load {name!r}: {error.strerror or error}")
        except ValueError as error:
            self._stop(f"cannot load {name!r}: {error}")
        raise AssertionError("unreachable: _stop raises")

    # What the prelude calls.

    def _checked(self, kind: str, value: Any) -> None:
        # Nested values were checked by their own constructors, but may be plain dicts as well.
        _, faults = schema.canonical(kind, value)
        self._first(faults)

    def _required(self, kind: str, value: Any) -> None:
        self._first(schema.missing(kind, value))
        count = value.get("task_count", 1)
        if count > TASKS_MAX:  # before anything loops over the tasks
            self._stop(f"task_count: {count} is not in 1..{TASKS_MAX}", "task_count")

    def _first(self, faults: list[Fault]) -> None:
        if faults:
            fault = faults[0]
            self.fault = {
                "message": fault.message,
                "path": fault.path,
                "hint": fault.hint,
                "names_field": fault.names_field,
            }
            raise _Stop(fault.message)

    def _stop(self, message: str, field: str = "") -> None:
        path = [field] if field else []
        self.fault = {"message": message, "path": path, "names_field": True}
        raise _Stop(message)

    def _print(self, *values: Any) -> None:
        self._prints += 1
        if self._prints > PRINTS_MAX:
            self._stop(f"prints more than {PRINTS_MAX} lines")
        _write({"print": " ".join(str(value) for value in values)[:10_000]})

    def _emit(self, spec: str, stack: str) -> None:
        self._jobs += 1
        self._emitted_bytes += len(spec)
        if self._jobs > JOBS_MAX:
            self._stop(f"has more than {JOBS_MAX} jobs")
        if self._emitted_bytes > EMIT_BYTES_MAX:
            self._stop(f"makes more than {EMIT_BYTES_MAX >> 20} MiB of jobs")
        frames = [frame for frame in frames_of(stack) if frame[0] != PRELUDE]
        file, line = frames[-1][:2] if frames else (self._main.name, 0)
        head = json.dumps({"file": file, "line": line})
        sys.stdout.buffer.write(f'{head[:-1]}, "spec": {spec}}}\n'.encode())


_FRAME = re.compile(r"^  \* (.+):(\d+), in (.*)$", re.MULTILINE)
_WHERE = re.compile(r"^ *--> (.+):(\d+):(\d+)$", re.MULTILINE)
_NOISE = re.compile(r"^(?:error: )?(?:(?:ValueError|StarlarkError|fail|Parse error): )?")


def frames_of(stack: str) -> list[tuple[str, int, str]]:
    """File, line and function of every call, outermost first, from Starlark's text of a call stack."""
    return [(found[1], int(found[2]), found[3]) for found in _FRAME.finditer(stack)]


def fault_of(text: str, ours: Report) -> Report:
    """What Starlark's error text says: message, the place in the user's files, and what was called there."""
    frames = frames_of(text)
    where = _WHERE.search(text)
    start = text.find("error: ")
    message = _NOISE.sub("", text[start if start >= 0 else 0 :].split("\n", 1)[0])
    place = [where[1], int(where[2]), int(where[3])] if where else ["", 0, 0]
    called = ""
    if place[0] == PRELUDE:
        outside = [position for position, frame in enumerate(frames) if frame[0] != PRELUDE]
        if outside:
            file, line, _ = frames[outside[-1]]
            called = frames[outside[-1] + 1][2] if outside[-1] + 1 < len(frames) else ""
            place = [file, line, 0]
    return {"message": message, "place": place, "called": called, **ours}


def main() -> None:
    """Evaluate the file of the first argument in the seconds of the second; the module says what comes out."""
    path, seconds_max = Path(sys.argv[1]), int(sys.argv[2])
    cpu_seconds_max = seconds_max + CPU_SECONDS_MORE
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds_max, cpu_seconds_max + 1))
    evaluation = _Evaluation(path, seconds_max)
    try:
        evaluation.run()
    except starlark.StarlarkError as error:
        _write({"fault": fault_of(str(error), evaluation.fault)})
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        _write({"fault": {"message": text, "place": ["", 0, 0]}})
    except BaseException as error:  # noqa: BLE001 - a Rust panic is no Exception; memory ends as one
        _write({"fault": {"crash": type(error).__name__, "message": str(error)[:200]}})


def _write(record: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(record).encode() + b"\n")


if __name__ == "__main__":
    main()
