"""The shipped examples: good configs, and a batch job whose result is checked against ``wc -w``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from borgcfg.lang.load import load_config

EXAMPLES = Path(__file__).parents[3] / "examples"
TEXTS = sorted(EXAMPLES.glob("data/*.txt"))


@pytest.mark.parametrize(
    "file", sorted(p.name for p in EXAMPLES.iterdir() if p.suffix in (".bcl", ".yaml"))
)
def test_every_example_is_a_good_config(file):
    assert load_config(str(EXAMPLES / file)).jobs


def run_tasks():
    """Run the very commands of the job's tasks, as a Borglet would substitute them."""
    (spec,) = load_config(str(EXAMPLES / "wordcount.bcl")).jobs
    lines = []
    for index in range(spec.task_count):
        argv = [part.replace("%index%", str(index)) for part in spec.task_spec(index).argv]
        lines.append(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    return lines


def reduce(lines):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "wordcount_reduce.py"), *map(str, TEXTS)],
        input="".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_words_that_the_tasks_count_are_those_that_wc_counts():
    lines = run_tasks()
    assert {json.loads(line)["file"] for line in lines} == {str(path) for path in TEXTS}
    done = reduce(lines)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("correct: wc -w counts the same\n")


def test_a_task_that_is_missing_or_wrong_is_noticed():
    lines = run_tasks()
    assert reduce(lines[1:]).returncode == 1
    wrong = json.loads(lines[0])
    wrong["words"] += 1
    assert reduce([json.dumps(wrong) + "\n", *lines[1:]]).returncode == 1
