"""Owns ``borgcfg up``: submit jobs, or show what would happen; wait; and say how it went."""

from collections.abc import Sequence
from dataclasses import dataclass

from borgcell.specs import JobSpec
from borgcell.types import JobKey

from borgcfg import exit_codes
from borgcfg.client import CellClient
from borgcfg.progress import Target, Verdict
from borgcfg.render.output import say, show_text
from borgcfg.render.reports import plan_lines, submitted
from borgcfg.views import new_view
from borgcfg.waiting import Waited, wait_until_up


@dataclass(frozen=True, slots=True)
class Submission:
    """How jobs are submitted."""

    if_version: int = -1  # update only from this version; 0: only create; -1: whatever is there
    until_done: bool = False


def show_plans(client: CellClient, specs: Sequence[JobSpec], submission: Submission) -> int:
    """Say what each job would do to the cell now, and change nothing; an exit code."""
    has_unplaced = False
    for spec in specs:
        before = _version(client, spec.key)
        response = client.submit(spec, dry_run=True, expected_version=submission.if_version)
        show_text(f"{spec.key}: {submitted(response, before=before, dry_run=True)}\n")
        for line in plan_lines(response.plan):
            show_text(f"  {line}\n")
        has_unplaced = has_unplaced or response.plan.unplaced_count > 0
    say("dry run: nothing was changed")
    return exit_codes.REFUSED if has_unplaced else exit_codes.DONE


def submit_jobs(
    client: CellClient, specs: Sequence[JobSpec], submission: Submission
) -> list[Target]:
    """Create or update every job, in the order of the config; what to wait for."""
    targets = []
    for spec in specs:
        before = _version(client, spec.key)
        response = client.submit(spec, expected_version=submission.if_version)
        show_text(f"{spec.key}: {submitted(response, before=before)}\n")
        targets.append(Target(spec.key, response.version, submission.until_done))
    return targets


def wait_for(client: CellClient, targets: Sequence[Target], timeout_s: float) -> int:
    """Wait until the jobs are up, showing how it goes; an exit code. Ctrl-C detaches."""
    try:
        with new_view() as view:
            code, jobs = wait_until_up(client, targets, timeout_s, view)
    except KeyboardInterrupt:
        keys = ", ".join(str(target.key) for target in targets)
        say(f"detached: the cell goes on with {keys}; `borgcfg status` shows how it goes")
        return exit_codes.DETACHED
    for job in jobs:
        _say_end(job)
    if code == exit_codes.TIMED_OUT:
        say(f"not up after {timeout_s:g} s; the cell goes on with it", style="warn")
    return code


def _say_end(job: Waited) -> None:
    key, standing = job.target.key, job.standing
    match standing.verdict:
        case Verdict.UP:
            say(f"{key} version {job.target.version} is up: {standing.line}", style="good")
        case Verdict.FAILED:
            say(f"{key} version {job.target.version} is not up: {standing.line}", style="bad")
        case Verdict.WAITING:
            say(f"{key} version {job.target.version} is not up yet: {standing.line}", style="warn")
    for reason in job.reasons:
        say("  " + reason.replace("\n", "\n  "))
    if standing.verdict is not Verdict.UP:
        hope = "" if standing.is_over else "the cell keeps trying; "
        say(f"  {hope}see: borgcfg why {key}; borgcfg events {key}")


def _version(client: CellClient, key: JobKey) -> int:
    job = client.job(key)
    return job.version if job is not None and not job.ended else 0
