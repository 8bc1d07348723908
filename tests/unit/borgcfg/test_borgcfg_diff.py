"""The difference between two specs, field by field."""

from borgcell.resources import Resources
from borgcell.specs import JobSpec, TaskSpec, normalize
from borgcell.types import JobKey
from msgspec.structs import replace

from borgcfg.diff import changes, changes_plain, diff_text

TASK = TaskSpec(argv=("serve", "-v"), env={"A": "1", "B": "2"})
OLD = normalize(JobSpec("ann", "web", TASK, task_count=3))


def lines(old, new):
    return [str(change) for change in changes(old, new)]


def test_equal_specs_do_not_differ():
    assert changes(OLD, replace(OLD)) == []
    assert diff_text(JobKey("ann", "web"), [], "", colour=False) == "ann/web: no difference\n"


def test_each_field_that_differs_is_named_by_its_path():
    task = replace(
        TASK,
        argv=("serve", "-q"),
        env={"B": "2", "C": ""},
        limit=Resources(200, TASK.limit.ram_bytes),
    )
    assert lines(OLD, replace(OLD, task=task, task_count=5)) == [
        '~ task.argv[1]: "-v" -> "-q"',
        '+ task.env.C: ""',
        '- task.env.A: "1"',
        "~ task.limit.cpu_milli: 100 -> 200",
        "~ task_count: 3 -> 5",
    ]


def test_an_override_appears_field_by_field():
    new = normalize(replace(OLD, overrides={2: replace(TASK, argv=("canary",))}))
    assert '+ overrides[2].argv: ["canary"]' in lines(OLD, new)


def test_a_new_job_shows_what_it_says_and_not_what_is_empty():
    assert lines(None, OLD)[:3] == ['+ user: "ann"', '+ name: "web"', '+ task.argv: ["serve","-v"]']
    assert not any("image" in line or "constraints" in line for line in lines(None, OLD))


def test_of_long_texts_the_part_that_differs_is_shown():
    before, after = "x" * 500 + "old" + "y" * 500, "x" * 500 + "new" + "y" * 500
    old = replace(OLD, task=replace(TASK, argv=("sh", before)))
    new = replace(OLD, task=replace(TASK, argv=("sh", after)))
    (line,) = lines(old, new)
    assert "xold" in line
    assert "xnew" in line
    assert len(line) < 400


def test_the_data_form_holds_both_values():
    new = replace(OLD, priority=200)
    assert changes_plain(changes(OLD, new)) == [
        {"change": "~", "field": "priority", "old": 0, "new": 200}
    ]
