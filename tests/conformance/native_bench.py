"""The native runtime as the conformance suite runs it."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from borglet.runtime.native import NativeRuntime
from borglet.runtime.port import Runtime
from tests.conformance.bench import Bench, a_spec, wait_ended

LOG_FILE_BYTES = 64 << 10


def machine_of(directory: Path) -> str:
    """A machine of its own for each directory: what it leaves behind is found by this name."""
    return f"m-{directory.name[-8:].strip('_')}-x"


def a_runtime(directory: Path, **settings) -> NativeRuntime:
    settings = {"log_bytes_max": LOG_FILE_BYTES, "log_file_count": 3} | settings
    return NativeRuntime(directory, "cc", machine_of(directory), **settings)


def end_all(runtime: Runtime) -> None:
    """Kill and forget every container."""
    for container in runtime.list():
        runtime.kill(container.id)
        wait_ended(runtime, container.id)
        runtime.forget(container.id)


def groups_of(directory: Path) -> list[str]:
    """Cgroups of a runtime's directory. ``rglob`` would fail on a group that somebody removes meanwhile."""
    name = f"borg-cc-{machine_of(directory)}-"
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if name in path]


def leftovers(directory: Path) -> list[str]:
    """Files, cgroups, mounts and processes that containers of a runtime's directory left."""
    found = [str(path) for path in directory.glob(f"cc.{machine_of(directory)}/*")]
    found += [
        path for path in groups_of(directory) if not os.path.basename(path).startswith("borg-")
    ]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if str(directory) in Path(f"/proc/{pid}/mountinfo").read_text(errors="replace"):
                found.append(f"mounts of process {pid}")
            if os.readlink(f"/proc/{pid}/cwd").startswith(str(directory)):
                found.append(f"process {pid}")
    return found


@contextlib.contextmanager
def make_native(**settings) -> Iterator[Bench]:
    directory = Path(tempfile.mkdtemp(prefix="borg-native-"))
    bench = Bench(
        runtime=a_runtime(directory, **settings),
        make_spec=a_spec,
        restart=lambda: restart(),
        leftovers=lambda: leftovers(directory),
        log_bytes=4 * LOG_FILE_BYTES,
    )

    def restart() -> Runtime:
        bench.runtime.close()
        bench.runtime = a_runtime(directory, **settings)
        return bench.runtime

    try:
        yield bench
    finally:
        end_all(bench.runtime)
        bench.runtime.close()
        left = leftovers(directory)
        shutil.rmtree(directory)
        assert left == []
        assert groups_of(directory) == []
