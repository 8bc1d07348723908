"""Starlark configs: what good ones give, and where bad ones are wrong; nothing bad may crash or hang borgcfg."""

import contextlib
import textwrap

import pytest
from borgcell.resources import GIB, MIB, Resources
from borgcell.specs import Constraint, HealthCheck, Op, UpdatePolicy
from borgcell.types import JobKind

from borgcfg.lang.diagnostics import BadConfig
from borgcfg.lang.evaluate import evaluate_starlark
from borgcfg.lang.load import load_config

LOAD = 'load("//borg", "job", "task", "resources", "ports", "health", "constraint", "update", "G", "M", "PROD")\n'
TASK = LOAD + "T = task(argv = ['x'])\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="web.bcl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    with contextlib.chdir(tmp_path):  # so that places in messages are short
        yield write


def complaints(file):
    with pytest.raises(BadConfig) as caught:
        load_config(file)
    return str(caught.value)


def test_a_job_comes_out_with_its_shorthands_in_exact_integers(write):
    file = write(
        LOAD
        + textwrap.dedent("""
        job(
            user = "ann", name = "web", priority = PROD, task_count = 3,
            task = task(
                argv = ["serve", "%port:http%"],
                env = {"A": "1"},
                resources = resources(cpu = 0.5, ram = "256MiB", disk = 2 * G),
                ports = ports("http", "admin"),
                health = health(http = "/", port = "http", interval = "2s", timeout = 0.5, grace = "1m"),
                grace = "500ms",
            ),
            constraints = [constraint("arch", "==", "x86_64"), constraint("gpu", soft = True)],
            update = update(max_in_flight = 2),
            labels = {"tier": "front"},
        )
        """)
    )
    (spec,) = load_config(file).jobs
    assert (spec.user, spec.name, spec.kind, spec.priority) == ("ann", "web", JobKind.SERVICE, 200)
    assert spec.task.limit == Resources(500, 256 * MIB, 2 * GIB, ports=2)
    assert spec.task.health == HealthCheck(
        http="/", port="http", interval_ms=2_000, timeout_ms=500, grace_ms=60_000
    )
    assert spec.task.grace_ms == 500
    assert spec.constraints == (
        Constraint("arch", Op.EQUAL, "x86_64"),
        Constraint("gpu", Op.PRESENT, soft=True),
    )
    assert spec.update == UpdatePolicy(2)


def test_an_override_keeps_only_the_tasks_that_differ(write):
    file = write(
        TASK + "job(user='a', name='b', task=T, task_count=4,\n"
        "    override=lambda i, t: dict(t, argv=t['argv'] + ['--shard=%d' % i]) if i % 2 else t)\n"
    )
    (spec,) = load_config(file).jobs
    assert {index: task.argv for index, task in spec.overrides.items()} == {
        1: ("x", "--shard=1"),
        3: ("x", "--shard=3"),
    }


def test_an_override_of_cpu_keeps_the_ram_of_the_job(write):
    file = write(
        LOAD + "job(user='a', name='b', task_count=2, task=task(argv=['x'],\n"
        "    resources=resources(cpu=1, ram='1GiB')),\n"
        "    override=lambda i, t: dict(t, resources=resources(cpu=4)) if i == 1 else t)\n"
    )
    (spec,) = load_config(file).jobs
    assert spec.overrides[1].limit == Resources(4_000, GIB)


def test_every_job_call_is_a_job_even_one_in_a_library(write):
    write(TASK + "def make(name):\n    job(user='a', name=name, task=T)\n", "lib/jobs.bcl")
    file = write("load('lib/jobs.bcl', 'make')\n[make('j%d' % i) for i in range(3)]\n")
    assert [spec.name for spec in load_config(file).jobs] == ["j0", "j1", "j2"]


def test_printed_lines_are_handed_on_and_config_dir_is_absolute(write, tmp_path):
    file = write("load('//borg', 'config_dir')\n" + TASK + "print('in', config_dir())\n" + _JOB)
    assert load_config(file).prints == (f"in {tmp_path.resolve()}",)


_JOB = "job(user='a', name='b', task=T)\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            TASK + "job(\n    user = 'a',\n    name = 'b',\n    replicas = 3,\n    task = T)\n",
            "web.bcl:6:5: unknown field `replicas` in job; did you mean `task_count`?",
        ),
        (
            LOAD + "x = resources(cpus = 1)\n",
            "web.bcl:2:15: unknown field `cpus` in resources; did you mean `cpu`?",
        ),
        (
            TASK + "job(user='a', name='b', task=dict(T, comand=['y']))\n",
            "web.bcl:3:38: unknown field `comand` in task; did you mean `argv`?",
        ),
        (
            TASK + "job(user='a', name='b',\n  task_count='3', task=T)\n",
            "web.bcl:4:3: task_count: expected a whole number, got the text '3'",
        ),
        (
            LOAD + "x = resources(cpu = 1, ram = '256Mb')\n",
            "web.bcl:2:24: ram: '256Mb' has the unknown unit `Mb`; did you mean `MB`?",
        ),
        (
            LOAD + "x = resources(ram = '256')\n",
            'web.bcl:2:15: ram: \'256\' has no unit; write "256MiB" or "4GiB"',
        ),
        (
            LOAD + "x = task(argv=['x'], grace='10sec')\n",
            "web.bcl:2:22: grace: '10sec' has the unknown unit `sec`; "
            'write 10, "10s", "500ms" or "2m"',
        ),
        (TASK + "job(name='b', task=T)\n", "web.bcl:3:1: job has no `user`; add `user`"),
        (
            TASK + _JOB + "job(user='a',\n    name='b', task=T)\n",
            "web.bcl:5:5: job a/b is given twice; the first is at web.bcl:3:15",
        ),
        (
            TASK
            + "job(user='a', name='b', task=T,\n  task_count=1000001, override=lambda i, t: t)\n",
            "web.bcl:4:3: task_count: 1000001 is not in 1..100000",
        ),
        (
            LOAD + "job(user='a', name='b', task=task(argv=['x'], resources=resources(cpu=-1)))\n",
            "web.bcl:2:67: task.limit.cpu_milli: -1000 is not in 1..1000000",
        ),
        (
            LOAD + "T = task(argv=['x'],\n  resources=resources(\n    ram=1))\n" + _JOB,
            "web.bcl:4:5: task.limit.ram_bytes: 1 is not in 1 MiB..16 TiB",
        ),
        (
            TASK + "job(user='a', name='b', task=T, kind='servce')\n",
            "web.bcl:3:33: kind: 'servce' is not one of service, batch; did you mean `service`?",
        ),
        (
            TASK + "job(user='a', name='b', task=T, priority='production')\n",
            "web.bcl:3:33: priority: 'production' is no priority; did you mean `prod`?",
        ),
        (
            TASK + "job(user='a', name='b', task=T, task_count=2,\n"
            "  override=lambda i, t: dict(t, argz=[]))\n",
            "web.bcl:4:3: unknown field `argz` in task; did you mean `argv`?",
        ),
        (
            TASK + "job(user='a', name='b', task=T, task_count=2,\n"
            "  override=lambda i, t: dict(t, argv=t['argv'] + i))\n",
            "web.bcl:4:38: Operation `+` not supported for types `list` and `int`",
        ),
        (
            TASK + "job(user='a', name='b', task=T, override=3)\n",
            "web.bcl:3:33: expected a function of index and task, got int",
        ),
        (
            TASK + "job(user='a', name='b', task=T, override=lambda i, t: {})\n",
            "web.bcl:3:33: task 0: `argv` is gone; keep it, or set it to another value",
        ),
        (
            TASK + "job(user='é' + undefined, name='b', task=T)\n",
            "web.bcl:3:16: Variable `undefined` not found",
        ),
        (
            LOAD + "job(user='ééé', lables={}, name='b')\n",
            "web.bcl:2:17: unknown field `lables` in job; did you mean `labels`?",
        ),
        (
            LOAD + "job(\n  user='a'\n  name='b')\n",
            "web.bcl:4:3: unexpected identifier 'name' here",
        ),
        ("fail('no disk named ' + 'x')\n", "web.bcl:1:1: no disk named x"),
        (
            TASK + "job(user='a', name='b', task=T, labels={'f': len})\n",
            "web.bcl:3:1: a field holds a function; only `override` may be one",
        ),
        ("x = 1\n", "web.bcl: has no job"),
        ("x = 1 << 100000000000\n", "web.bcl:1:5: Integer overflow computing left shift"),
        (b"\xff\xfe", "web.bcl: is no UTF-8 text (byte 0)"),
        ("#" * (20 << 20), "web.bcl: is larger than 4 MiB"),
    ],
)
def test_a_bad_config_is_refused_with_the_place_and_a_suggestion(write, text, expected):
    assert complaints(write(text)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../x.bcl", "name a file below the directory of the config"),
        ("/etc/passwd", "name a file below the directory of the config"),
        ("a/../../x.bcl", "name a file below the directory of the config"),
        ("./x.bcl", "write the plain path of a .bcl file"),
        ("nope.bcl", "No such file or directory"),
        ("away.bcl", "it leads out of the directory of the config"),
        ("web.bcl", "it loads itself (web.bcl -> web.bcl)"),
    ],
)
def test_what_lies_outside_the_directory_of_the_config_cannot_be_loaded(
    write, tmp_path, name, expected
):
    file = write(f"\nload({name!r}, 'y')\n")
    (tmp_path / "away.bcl").symlink_to("/etc/hostname")
    assert complaints(file) == f"web.bcl:2:1: cannot load {name!r}: {expected}"


def test_files_that_load_each_other_are_told_the_circle(write):
    write("load('b.bcl', 'y')\n", "a.bcl")
    write("\nload('a.bcl', 'y')\n", "b.bcl")
    file = write("load('a.bcl', 'y')\n")
    circle = "a.bcl -> b.bcl -> a.bcl"
    assert complaints(file) == f"b.bcl:2:1: cannot load 'a.bcl': it loads itself ({circle})"


def test_an_error_in_a_library_is_shown_in_the_library(write):
    write(TASK + "def make():\n    job(user='a', name='b', task=T, bogus=1)\n", "lib/jobs.bcl")
    said = complaints(write("load('lib/jobs.bcl', 'make')\nmake()\n"))
    assert said.startswith("lib/jobs.bcl:4:37: unknown field `bogus` in job; job has ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "def f():\n  for i in range(1 << 30):\n    for j in range(1 << 30):\n      pass\nf()\n",
            "took longer than 1 s: an endless loop?",
        ),
        ("def f(n):\n  return f(n + 1)\nf(0)\n", "calls nest too deeply: endless recursion?"),
        (
            "def f():\n  x = ['a' * 1000]\n  for i in range(40):\n    x = x + x\nf()\n",
            "needs more than 1 GiB of memory",
        ),
        (
            "def f():\n  x = 3\n  for i in range(60):\n    x = x * x\nf()\n",
            "took more than 3 s of CPU time",
        ),
        ("def f():\n  for i in range(2000):\n    print(i)\nf()\n", "prints more than 1000 lines"),
        (
            TASK
            + "def f():\n  for i in range(20000):\n    job(user='a', name='j%d' % i, task=T)\nf()\n",
            "has more than 10000 jobs",
        ),
        ("x = " + "[" * 100_000 + "]" * 100_000 + "\n", "nested too deeply"),
    ],
)
def test_a_config_that_would_take_everything_is_stopped(write, tmp_path, text, expected):
    file = write(text)
    with pytest.raises(BadConfig) as caught:
        evaluate_starlark(tmp_path / file, file, seconds_max=1)
    assert expected in str(caught.value)


def test_a_million_overrides_are_refused_before_anything_loops_over_them(write):
    file = write(
        LOAD
        + "job(user='a', name='b', task=task(argv=['x']), task_count=1000000000000, override=fail)"
    )
    assert complaints(file) == "web.bcl:2:48: task_count: 1000000000000 is not in 1..100000"
