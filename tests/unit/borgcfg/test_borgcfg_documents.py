"""YAML and JSON configs: the same schema as Starlark's, and the place of everything that is wrong."""

import contextlib
import json

import pytest
from borgcell.resources import GIB, MIB, Resources
from borgcell.types import JobKind

from borgcfg.lang.diagnostics import BadConfig
from borgcfg.lang.load import load_config
from borgcfg.render.output import yaml_text
from borgcfg.render.specs import spec_plain

GOOD = "user: ann\nname: web\ntask: {argv: [x]}\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="web.yaml"):
        (tmp_path / name).write_text(text)
        return name

    with contextlib.chdir(tmp_path):
        yield write


def complaints(file):
    with pytest.raises(BadConfig) as caught:
        load_config(file)
    return str(caught.value).split("\n")


def test_yaml_takes_the_shorthands_of_starlark(write):
    file = write(
        "user: ann\nname: web\nkind: batch\npriority: prod\ntask_count: 2\n"
        "task:\n  argv: [run]\n  resources: {cpu: 0.5, ram: 256MiB, disk: 1 GB}\n  grace: 3s\n"
        "overrides:\n  1:\n    resources: {cpu: 2}\n"
    )
    (spec,) = load_config(file).jobs
    assert (spec.kind, spec.priority, spec.task.grace_ms) == (JobKind.BATCH, 200, 3_000)
    assert spec.task.limit == Resources(500, 256 * MIB, 1_000_000_000)
    assert spec.overrides[1].limit == Resources(2_000, 256 * MIB, 1_000_000_000)
    assert spec.overrides[1].argv == ("run",)


def test_a_limit_that_is_not_given_is_the_default_one(write):
    (spec,) = load_config(write(GOOD.replace("[x]", "[x], resources: {cpu: 3}"))).jobs
    assert spec.task.limit == Resources(3_000, 128 * MIB)


def test_a_file_may_hold_one_job_a_list_or_jobs_by_that_name(write):
    job = {"user": "ann", "name": "web", "task": {"argv": ["x"]}}
    other = {**job, "name": "api"}
    for document in ([job, other], {"jobs": [job, other]}):
        file = write(json.dumps(document), "web.json")
        assert [spec.name for spec in load_config(file).jobs] == ["web", "api"]
    assert len(load_config(write(json.dumps(job), "web.json")).jobs) == 1


@pytest.mark.parametrize("name", ["out.yaml", "out.json"])
def test_what_eval_prints_is_accepted_back_as_the_same_jobs(write, name):
    file = write(
        "user: ann\nname: web\ntask_count: 3\nlabels: {'on': 'yes', n: '1'}\n"
        "task:\n  argv: [sh, -c, \"line 1\\n  line 2\\n\", 'null', '1e3', '0x10', '', ' é\\U0001F600 ']\n"
        "  ports: [http]\n  health: {http: /, port: http}\n  env: {A: 'true'}\n"
        "overrides:\n  2: {health: null, env: {}, runtime: native, resources: {ram: 2GiB}}\n"
        "constraints: [{attribute: rack, op: '!=', value: '1', soft: true}]\n"
    )
    (spec,) = load_config(file).jobs
    assert spec.overrides[2].health is None
    assert spec.overrides[2].limit == Resources(100, 2 * GIB, ports=1)
    plain = {"jobs": [spec_plain(spec)]}
    text = yaml_text(plain) if name.endswith("yaml") else json.dumps(plain)
    assert load_config(write(text, name)).jobs == (spec,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "user: ann\nname: web\nreplicas: 3\ntask:\n  argv: [x]\n  resources: {cpu: half}\n  envv: {}\n",
            [
                "web.yaml:3:1: unknown field `replicas` in job; did you mean `task_count`?",
                "web.yaml:6:15: task.resources.cpu: 'half' is no number of CPUs: write 0.5 or 4",
                "web.yaml:7:3: unknown field `envv` in task; did you mean `env`?",
            ],
        ),
        (
            "user: ann\nname: 3\ntask:\n  argv: [x, 1]\n  env: {A: yes}\n",
            [
                'web.yaml:2:1: name: expected a text, got the number 3; write "3"',
                'web.yaml:4:13: task.argv[1]: expected a text, got the number 1; write "1"',
                "web.yaml:5:9: task.env.A: expected a text, got true",
            ],
        ),
        (
            "user: ann\nname: a\nname: b\n",
            ["web.yaml:3:1: `name` is given twice; the first is at 2:1"],
        ),
        (
            "- {user: ann, name: a, task: {argv: [x]}}\n- user: ann\n  name: a\n  task: {argv: [y]}\n",
            ["web.yaml:3:3: job ann/a is given twice; the first is at web.yaml:1:15"],
        ),
        (GOOD + "task_count: 1000001\n", ["web.yaml:4:1: task_count: 1000001 is not in 1..100000"]),
        (
            "user: ann\nname: web\ntask:\n  argv: [x]\n  limit: {ram_bytes: -1}\n  resources: {cpu: 1}\n",
            ["web.yaml:6:3: `resources` and `limit` say the same: give one of them"],
        ),
        (
            GOOD + "overrides:\n  0: {argv: [y]}\n  '0': {argv: [z]}\n  x: {}\n",
            [
                "web.yaml:6:3: task 0 is overridden twice",
                "web.yaml:7:3: `x` is no task index such as 0",
            ],
        ),
        (
            GOOD + "overrides:\n  5:\n    argv: [y]\n",
            ["web.yaml:5:3: overrides[5]: there is no task 5: indexes go from 0 to 0"],
        ),
        (
            GOOD + "constraints:\n- {attribute: mem, op: '>', value: much}\n- {op: '=='}\n",
            ["web.yaml:6:3: constraints[1]: constraint has no `attribute`; add `attribute`"],
        ),
        (
            GOOD + "constraints:\n- {attribute: mem, op: '>', value: much}\n",
            ["web.yaml:5:29: constraints[0].value: 'much' is not a number, but > compares numbers"],
        ),
        (GOOD + "priority: 451\n", ["web.yaml:4:1: priority: 451 is not in 0..450"]),
        (
            "jobs: []\nuser: ann\n",
            ["web.yaml:2:1: unknown field `user` beside `jobs`"],
        ),
        ("a: [1,\nb: }", ["web.yaml:2:4: bad YAML: while parsing a flow node did not find expected node content"]),
        ("a:\n\t- b\n", ["web.yaml:2:1: bad YAML: while scanning for the next token found character that cannot start any token"]),
        ("a: 1\n---\nb: 2\n", ["web.yaml:2:1: has several documents: list the jobs under one `jobs:`"]),
        ("", ["web.yaml: is empty: it has no job"]),
        ("[a", ["web.yaml:2:1: bad YAML: while parsing a flow sequence did not find expected ',' or ']'"]),
        ("jobs: []\n", ["web.yaml: has no job"]),
        ("just text\n", ["web.yaml:1:1: expected a mapping of job fields, got the text 'just text'"]),
        ("[" * 100_000, ["web.yaml:1:65: is nested deeper than 64 levels"]),
        ("a: &a [*a]\n", ["web.yaml:1:8: `*a` names no value before it"]),
        ("? [x]\n: 1\n", ["web.yaml:1:3: a key must be a text or a number"]),
        ("#" * (20 << 20), ["web.yaml: is larger than 4 MiB"]),
        (GOOD + "max_failures: 1" + "0" * 5_000, None),
        (GOOD + "max_failures: 1" + "0" * 60, ["web.yaml:4:1: max_failures: 1" + "0" * 60 + " is not in 0..1000"]),
    ],
)  # fmt: skip
def test_bad_yaml_is_refused_with_the_place_and_a_suggestion(write, text, expected):
    said = complaints(write(text))
    if expected is None:
        assert said[0].startswith("web.yaml:4:15: cannot read '1000")
    else:
        assert said == expected


def test_aliases_that_multiply_are_refused_instead_of_filling_memory(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (said,) = complaints(write("\n".join(lines)))
    assert said.startswith("web.yaml:7:5: grows to more than 2000000 values")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"jobs": [{"user": "a", "name": "b", "task": {"argv": ["x"]},\n  "type": "batch"}]}',
            "web.json:2:3: unknown field `type` in job; did you mean `kind`?",
        ),
        (
            '{"user": "a",\n "user": "b"}',
            "web.json:2:2: `user` is given twice; the first is at 1:2",
        ),
        ('{"user": "a",\n "x" 1}', "web.json:2:6: bad JSON: expected ':'"),
        ('{"user": "a",}', 'web.json:1:14: bad JSON: expected a key in "..."'),
        ('{"user": tru}', "web.json:1:10: bad JSON: expected a value"),
        ('{"user": "a"} x', "web.json:1:15: bad JSON: something follows the value"),
        ('{"user": "a\n"}', "web.json:1:12: bad JSON: Invalid control character at"),
        ("[" * 100_000, "web.json:1:65: is nested deeper than 64 levels"),
        ("", "web.json:1:1: bad JSON: expected a value"),
        ("null", "web.json:1:1: expected a mapping of job fields, got nothing"),
    ],
)
def test_bad_json_is_refused_with_the_place(write, text, expected):
    assert complaints(write(text, "web.json")) == [expected]


def test_a_file_that_is_not_there_or_no_config_is_said_so(write):
    assert complaints("nope.yaml") == ["nope.yaml: cannot be read: No such file or directory"]
    (said,) = complaints(write(GOOD, "web.txt"))
    assert said == "web.txt: is no config: name it .bcl, .yaml, .yml, .json"


def test_a_job_too_large_for_the_log_is_refused_here_already(write):
    tasks = {
        str(index): {"argv": ["x" * 60_000, str(index)]} for index in range(66)
    }  # 4 MiB of JSON are the limit of a file, 4 MiB of msgpack that of an entry
    job = {"user": "a", "name": "b", "task": {"argv": ["x"]}, "task_count": 66, "overrides": tasks}
    job["task"]["env"] = {"A": "y" * 60_000}
    (said,) = complaints(write(json.dumps(job), "web.json"))
    assert said.startswith("web.json:1:1: the job is 7.")
    assert said.endswith("large; at most 4 MiB fit into the log")
