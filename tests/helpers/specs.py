"""Job specs for end-to-end tests: small real programs of the machine's own Python and shell."""

from borgcell.resources import MIB, Resources
from borgcell.specs import HealthCheck, JobSpec, TaskSpec
from borgcell.types import JobKind

PYTHON = "/usr/bin/python3"
SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(f"{os.environ['BORG_INDEX']}#{os.environ['BORG_INCARNATION']}".encode())
    def log_message(self, *arguments): pass
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def a_service(name="web", *, task_count=3, priority=200, **fields) -> JobSpec:
    """An HTTP service that answers with index#incarnation on its port."""
    task = TaskSpec(
        argv=(PYTHON, "-u", "-c", SERVER, "%port:http%"),
        limit=Resources(cpu_milli=100, ram_bytes=64 * MIB),
        ports=("http",),
        health=HealthCheck(http="/", port="http", interval_ms=500, timeout_ms=2_000),
        grace_ms=2_000,
    )
    return JobSpec("ann", name, task, priority=priority, task_count=task_count, **fields)


def a_sleeper(name="sleep", *, task_count=1, priority=100, cpu_milli=100, **fields) -> JobSpec:
    """Tasks that only sleep, so they are up at once and cost nothing."""
    task = TaskSpec(
        argv=("/bin/sleep", "100000"),
        limit=Resources(cpu_milli=cpu_milli, ram_bytes=16 * MIB),
        grace_ms=1_000,
    )
    return JobSpec("ann", name, task, priority=priority, task_count=task_count, **fields)


def a_batch(name, script, *, task_count=1, max_failures=0, **fields) -> JobSpec:
    """A batch job whose tasks run a shell script."""
    task = TaskSpec(
        argv=("/bin/sh", "-c", script),
        limit=Resources(cpu_milli=100, ram_bytes=32 * MIB),
        grace_ms=1_000,
    )
    return JobSpec(
        "ann",
        name,
        task,
        kind=JobKind.BATCH,
        priority=100,
        task_count=task_count,
        max_failures=max_failures,
        **fields,
    )
