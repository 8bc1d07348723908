"""Finds the live processes of tasks by their environment: what really runs, whatever anyone believes."""

from pathlib import Path


def live_copies(cell: str, job: str) -> set[tuple[int, int]]:
    """(index, incarnation) of every incarnation of ``user/job`` with a live process on this machine."""
    return {identity for identity, _ in _processes(cell, job)}


def live_pids(cell: str, job: str) -> set[int]:
    """Pids of all processes of a job."""
    return {pid for _, pid in _processes(cell, job)}


def _processes(cell: str, job: str) -> list[tuple[tuple[int, int], int]]:
    user, name = job.split("/")
    wanted = {"BORG_CELL": cell, "BORG_USER": user, "BORG_JOB": name}
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            raw = (process / "environ").read_bytes().decode(errors="replace")
            zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        environment = dict(line.partition("=")[::2] for line in raw.split("\0") if "=" in line)
        if zombie or any(environment.get(key) != value for key, value in wanted.items()):
            continue
        identity = (int(environment["BORG_INDEX"]), int(environment["BORG_INCARNATION"]))
        found.append((identity, int(process.name)))
    return found
