"""What borgcfg shows, as text: tables and reports made from wire messages."""

from borgcell.v1 import cell_pb2, types_pb2

from borgcfg.render import reports, tables, words
from borgcfg.render.plain import message_plain
from borgcfg.render.table import Styled, Table, fields_text, table_text

NOW_MS = 1_795_000_000_000


def a_task(index=0, state=types_pb2.TASK_STATE_RUNNING, **fields):
    current = fields.pop("current", None) or types_pb2.Incarnation(
        number=2,
        version=1,
        machine="m1",
        ports={"http": 20001},
        submitted_at_ms=NOW_MS - 200_000,
        scheduled_at_ms=NOW_MS - 190_000,
        running_at_ms=NOW_MS - 185_000,
        exit_code=-1,
    )
    return types_pb2.Task(
        user="ann", job="web", index=index, state=state, healthy=True, priority=200,
        limit=types_pb2.Resources(cpu_milli=500, ram_bytes=64 << 20, ports=1),
        current=current, **fields,
    )  # fmt: skip


def a_job(**fields):
    spec = types_pb2.JobSpec(
        user="ann",
        name="web",
        kind=types_pb2.JOB_KIND_SERVICE,
        priority=200,
        task_count=3,
        task=types_pb2.TaskSpec(argv=["serve", "--port=%port:http%"], ports=["http"]),
    )
    return types_pb2.Job(
        spec=spec, version=4, created_at_ms=NOW_MS - 90_061_000, updated_at_ms=NOW_MS - 5_000, **fields
    )  # fmt: skip


def test_tasks_are_listed_with_why_the_pending_one_waits():
    waiting = a_task(
        1,
        types_pb2.TASK_STATE_PENDING,
        current=types_pb2.Incarnation(number=0, version=1, submitted_at_ms=NOW_MS - 61_000),
        pending_reason="does not fit on 3 of 3 machines: 3 cpu",
    )
    crashed = a_task(
        2,
        types_pb2.TASK_STATE_PENDING,
        current=types_pb2.Incarnation(number=1, version=1, submitted_at_ms=NOW_MS - 400),
        finished=[types_pb2.Incarnation(number=0, detail="exited with status 3")],
        failures=1,
        not_before_ms=NOW_MS + 9_000,
    )
    text = table_text(tables.tasks([a_task(), waiting, crashed], NOW_MS))
    assert text == (
        "TASK        STATE     MACHINE   PORTS         FOR   FAILURES   DETAIL\n"
        "ann/web/0   RUNNING   m1        http=20001   3m5s          0\n"
        "ann/web/1   PENDING   -         -            1m1s          0   does not fit on 3 of 3 machines: 3 cpu\n"
        "ann/web/2   PENDING   -         -            0.4s          1   starts again in 9s; before: exited with status 3\n"
    )


def test_wide_shows_more_columns():
    text = table_text(tables.tasks([a_task()], NOW_MS), wide=True)
    assert text.splitlines()[0].split() == [
        "TASK", "STATE", "MACHINE", "PORTS", "FOR", "FAILURES", "INCARNATION", "VERSION", "DETAIL",
    ]  # fmt: skip


def test_a_dead_task_says_how_it_ended():
    current = types_pb2.Incarnation(
        number=3,
        machine="m1",
        ended_at_ms=NOW_MS - 1_000,
        end_reason=types_pb2.END_REASON_FAILED,
        exit_code=137,
        detail="out of memory (limit 64 MiB)",
    )
    task = a_task(0, types_pb2.TASK_STATE_DEAD, current=current)
    assert words.task_state(task) == Styled("DEAD (FAILED)", "bad")
    assert tables.ending(task) == "FAILED (exit 137): out of memory (limit 64 MiB)"


def test_jobs_say_how_far_an_update_is():
    counts = types_pb2.TaskCounts(running=2, starting=1)
    text = table_text(tables.jobs([a_job(counts=counts, outdated=2)], NOW_MS))
    assert text == (
        "JOB       KIND      PRIORITY           TASKS   AGE    STATE\n"
        "ann/web   service   production (200)       3   1d1h   2 running, 1 starting, 2 on an older version\n"
    )


def test_machines_show_how_full_they_are():
    machine = types_pb2.Machine(
        name="m1",
        address="10.0.0.1:7000",
        state=types_pb2.MACHINE_STATE_UP,
        draining=True,
        capacity=types_pb2.Resources(cpu_milli=4000, ram_bytes=8 << 30, disk_bytes=1 << 30),
        used=types_pb2.Resources(cpu_milli=1500, ram_bytes=512 << 20),
        since_ms=NOW_MS - 3_000,
        task_count=2,
    )
    assert table_text(tables.machines([machine], NOW_MS)) == (
        "MACHINE   STATE          FOR   TASKS     CPU             RAM      DISK   DETAIL\n"
        "m1        up, draining    3s       2   1.5/4   512 MiB/8 GiB   0/1 GiB\n"
    )


def test_an_event_names_cause_and_counterpart_unless_its_sentence_does():
    event = cell_pb2.Event(
        at_ms=NOW_MS, kind="EVICT", subject="task", key="bob/batch/1", incarnation=2, machine="m1",
        cause=types_pb2.EVICTION_CAUSE_PREEMPTION, counterpart="ann/web/0", detail="made room",
    )  # fmt: skip
    assert tables.event_detail(event) == "made room; cause: preemption; other task: ann/web/0"
    event.detail = "preemption by ann/web/0"
    assert tables.event_detail(event) == "preemption by ann/web/0"
    assert tables.event_subject(event) == "bob/batch/1#2"


def test_why_gives_counts_the_nearest_machine_and_what_would_help():
    misfit = cell_pb2.Misfit(
        counts=[
            cell_pb2.MisfitCount(reason="cpu", machines=12),
            cell_pb2.MisfitCount(reason="constraint", detail="arch == arm64", machines=1),
        ],
        nearest_machine="m7",
        nearest_detail="wants 4 cpu, could free 2.5 cpu",
        hints=["ask for at most 2.5 cpu", "add a machine with arch = arm64"],
        summary="does not fit on 13 of 13 machines",
    )
    pending = a_task(
        7,
        types_pb2.TASK_STATE_PENDING,
        current=types_pb2.Incarnation(submitted_at_ms=NOW_MS - 192_000),
    )
    response = cell_pb2.ExplainTaskResponse(
        task=pending, summary="does not fit on 13 of 13 machines", misfit=misfit
    )
    assert reports.why_text(response, NOW_MS, colour=False) == (
        "ann/web/7  PENDING  3m12s  production (200)  wants 0.5 cpu, 64 MiB ram, 1 port\n"
        "does not fit on 13 of 13 machines\n"
        "  12 machines  cpu\n"
        "   1 machine   constraint: arch == arm64\n"
        "nearest: m7, wants 4 cpu, could free 2.5 cpu\n"
        "would fit if you: ask for at most 2.5 cpu | add a machine with arch = arm64\n"
    )


def test_a_plan_shows_placements_victims_and_what_stays_pending():
    key = lambda job, index: cell_pb2.TaskKey(user="ann", job=job, index=index)  # noqa: E731
    victims = [key("batch", index) for index in range(7)]
    plan = cell_pb2.Plan(
        placements=[
            cell_pb2.PlannedPlacement(task=key("web", 0), machine="m1"),
            cell_pb2.PlannedPlacement(task=key("web", 1), machine="m2", victims=victims),
        ],
        unplaced=[
            cell_pb2.PlannedMisfit(task=key("web", 2), misfit=cell_pb2.Misfit(summary="too big"))
        ],
        unplaced_count=5,
    )
    assert list(reports.plan_lines(plan)) == [
        "would place 2 tasks:",
        "  ann/web/0 on m1",
        "  ann/web/1 on m2, evicting ann/batch/0, ann/batch/1, ann/batch/2, ann/batch/3, ann/batch/4 and 2 more",
        "would leave 5 tasks pending:",
        "  ann/web/2:",
        "    too big",
    ]


def test_a_cell_without_a_leader_says_that_nothing_can_be_changed():
    status = cell_pb2.GetCellStatusResponse(
        cell="dev",
        term=7,
        replicas=[
            cell_pb2.Replica(name="a", connected=True, match_index=9),
            cell_pb2.Replica(name="b", match_index=-1),
        ],
    )
    text = reports.cell_text(status, colour=False, wide=False)
    assert "Leader     none: nothing can be changed now\n" in text
    assert "Replicas   1 of 2 connected, term 7\n" in text
    assert "b                   follower   no            unknown\n" in text


def test_what_tasks_say_cannot_steer_the_terminal():
    table = Table(("A",), [("\x1b[2J\x07evil\nline",)])
    assert "\x1b" not in table_text(table)
    assert len(table_text(table).splitlines()) == 2


def test_colours_do_not_change_the_alignment():
    table = Table(("A", "B"), [(Styled("x", "bad"), "1"), ("longer", "2")])
    plain = table_text(table)
    coloured = table_text(table, colour=True)
    assert coloured != plain
    for code in ("\x1b[31m", "\x1b[2m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


def test_empty_fields_are_left_out_and_empty_tables_say_so():
    assert fields_text([("Name", "x"), ("Empty", ""), ("Longer name", "y")]) == (
        "Name         x\nLonger name  y\n"
    )
    assert table_text(tables.machines([], NOW_MS)) == (
        "no machines: start a Borglet, it adds itself\n"
    )


def test_data_has_integers_short_enums_and_specs_in_the_schema_of_configs():
    job = a_job(counts=types_pb2.TaskCounts(running=3))
    plain = message_plain(job)
    assert plain["version"] == 4
    assert plain["created_at_ms"] == NOW_MS - 90_061_000
    assert plain["spec"]["kind"] == "service"
    assert list(plain["spec"]["task"]["argv"]) == ["serve", "--port=%port:http%"]
    task = message_plain(a_task())
    assert task["state"] == "RUNNING"
    assert task["current"]["ports"] == {"http": 20001}
    assert message_plain(cell_pb2.ExplainTaskResponse())["misfit"] is None


def test_an_enum_of_a_newer_cell_is_shown_as_its_number():
    task = a_task(0, 99)
    assert message_plain(task)["state"] == 99
    assert words.task_state(task).text == "state 99"


def test_spans_show_their_two_largest_units():
    spans = (300, 5_000, 61_000, 3_600_000, 90_061_000, 86_400_000)
    assert [words.duration(span) for span in spans] == ["0.3s", "5s", "1m1s", "1h", "1d1h", "1d"]


def test_only_a_copy_that_may_be_old_is_warned_about():
    fresh = cell_pb2.Freshness(replica="m2", age_ms=40)
    assert words.freshness(fresh) == ""
    assert words.freshness(cell_pb2.Freshness(replica="m2", leader=True, age_ms=0)) == ""
    assert words.freshness(cell_pb2.Freshness(replica="m2", age_ms=65_000)).endswith("1m5s old")
    assert "does not know" in words.freshness(cell_pb2.Freshness(replica="m2", age_ms=-1))
