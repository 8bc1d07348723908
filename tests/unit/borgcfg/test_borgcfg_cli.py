"""The command line: help, usage errors, bad configs, exit codes, completion. No cell answers here."""

import contextlib
import importlib
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from borgcfg import exit_codes
from borgcfg.cli import COMMANDS, borgcfg

NOBODY = "127.0.0.1:1"  # nothing listens there
GOOD = "user: ann\nname: web\ntask: {argv: [x]}\n"


@pytest.fixture
def run(tmp_path):
    runner = CliRunner(
        env={
            "HOME": str(tmp_path),
            "BORGCFG_MASTERS": "",
            "BORGCFG_CELL": "",
            "BORGCFG_PROFILE": "",
            "XDG_CONFIG_HOME": "",
            "NO_COLOR": "1",
        }
    )
    with contextlib.chdir(tmp_path):
        yield lambda *arguments: runner.invoke(borgcfg, arguments)


def write(text, name="web.yaml"):
    with open(name, "w") as file:
        file.write(text)
    return name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_short_help_that_the_list_shows(name):
    module, short_help = COMMANDS[name]
    command = getattr(importlib.import_module(f"borgcfg.commands.{module}"), f"{name}_command")
    assert command.help.split("\n")[0].startswith(short_help.rstrip("."))
    assert command.name == name


def test_help_lists_every_command_and_every_exit_code(run):
    done = run("--help")
    assert done.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in done.output
    for code in ("0 done", "1 refused", "2 usage", "3 the cell", "4 timed out", "130 detached"):
        assert code in done.output


@pytest.mark.parametrize(
    "words", ["'--help'", "'up', '--help'", "'completion', 'bash'", "'status', '--help'"]
)
def test_help_and_completion_import_nothing_heavy(words):
    code = (
        "import sys\n"
        "from borgcfg.cli import borgcfg\n"
        f"borgcfg([{words}], standalone_mode=False)\n"
        "heavy = {'grpc', 'rich', 'yaml', 'starlark', 'msgspec', 'google.protobuf'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_shell_completes_commands_and_options_without_heavy_imports():
    code = (
        "import sys\n"
        "from borgcfg.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'grpc', 'rich', 'yaml', 'starlark', 'msgspec'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    for words, number, expected in (
        ("borgcfg un", "1", ["undrain"]),
        ("borgcfg up --no", "2", ["--no-wait"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={
                "_BORGCFG_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": number,
                "PATH": "/usr/bin:/bin",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.replace("plain,", "").split() == expected, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_the_shell(run, shell):
    done = run("completion", shell)
    assert done.exit_code == 0
    assert "_BORGCFG_COMPLETE" in done.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["statsu"], "No such command 'statsu'. Did you mean 'status'?"),
        (["submit"], "No such command 'submit'. Did you mean 'up'?"),
        (["status", "web"], "'web' is not a job key: write user/job, such as ann/web"),
        (["status", "ann/web/x"], "'ann/web/x' is not a task key: write user/job/index"),
        (["kill", "Ann/web", "-y"], "'Ann/web' is not a job key"),
        (["logs", "ann/web", "-f"], "--follow and --incarnation need one task: user/job/index"),
        (["up", "web.yaml", "--timeout", "soon"], "'soon' is no duration"),
        (["up", "web.yaml", "--timeout", "0s"], "0s is not more than 0"),
        (["up", "web.yaml", "--job", "ann/nope"], "web.yaml has no job ann/nope (it has: ann/web)"),
        (["up", "web.yaml"], "no cell is named: use --masters HOST:PORT,..."),
        (["up", "web.yaml", "--masters", "nowhere"], "'nowhere' is not an address"),
        (["kill", "ann/web", "--masters", NOBODY], "there is no terminal to ask on: say --yes"),
        (["machines", "-o", "xml"], "'xml' is not one of"),
        (["events", "not a key"], "'not a key' is not a job key"),
        (["eval"], "Missing argument 'FILE'"),
    ],
)
def test_a_usage_error_says_what_to_do_and_ends_with_2(run, arguments, expected):
    write(GOOD)
    done = run(*arguments)
    assert done.exit_code == exit_codes.USAGE
    assert expected in " ".join(done.stderr.split())
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["eval", "check", "diff", "up"])
def test_a_bad_config_shows_the_line_and_ends_with_2_before_a_cell_is_looked_for(run, command):
    file = write(GOOD + "replicas: 3\n")
    done = run(command, file)
    assert done.exit_code == exit_codes.USAGE
    assert done.stdout == ""
    assert done.stderr == (
        "web.yaml:4:1: unknown field `replicas` in job; did you mean `task_count`?\n"
        "    replicas: 3\n"
        "    ^\n"
        "nothing was sent\n"
    )


def test_eval_prints_what_check_accepts(run):
    file = write(
        'load("//borg", "job", "task")\njob(user="ann", name="web", task=task(argv=["x"]))\n',
        "web.bcl",
    )
    write(run("eval", file).stdout, "out.yaml")
    assert run("check", "out.yaml").stdout == "out.yaml: ann/web is good: 1 task\n"
    again = json.loads(run("eval", "out.yaml", "-o", "json").stdout)
    assert again == json.loads(run("eval", file, "-o", "json").stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "ann/web"],
        ["why", "ann/web/0"],
        ["events"],
        ["logs", "ann/web/0"],
        ["kill", "ann/web", "-y"],
        ["machines"],
        ["drain", "m1"],
        ["undrain", "m1"],
        ["members"],
        ["cell"],
        ["diff", "web.yaml"],
        ["up", "web.yaml"],
        ["up", "web.yaml", "--dry-run"],
    ],
)
def test_an_unreachable_cell_ends_with_3_and_the_addresses_that_were_tried(run, arguments):
    write(GOOD)
    done = run(*arguments, "--masters", f"{NOBODY},127.0.0.1:2", "--call-timeout", "0.2s")
    assert done.exit_code == exit_codes.UNREACHABLE
    assert done.stdout == ""
    assert "the cell did not answer within 0.2 s:" in done.stderr
    assert f"  {NOBODY}: " in done.stderr
    assert "  127.0.0.1:2: " in done.stderr
