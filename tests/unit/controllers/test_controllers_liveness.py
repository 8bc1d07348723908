"""Liveness: silence marks machines down, long silence gives up their tasks, and mass silence gives up nothing."""

import pytest
from borgcell.types import TaskKey, TaskState

from borgmaster.controllers.liveness import LOSSES_MAX, MARKS_MAX, reconcile_liveness
from borgmaster.state.commands import AddMachine, LoseTasks, MarkMachine, SetDraining
from tests.helpers.builders import World, a_batch_spec, a_spec

LEADING_SINCE_MS = 1_000


class Leader:
    """A leader that hears machines at times of its own clock, which runs with the world's."""

    def __init__(self, *names):
        self.world = World()
        for name in names:
            self.world.add_machine(name)
        self.mono_ms = LEADING_SINCE_MS
        self.heard_ms = {}

    def hear(self, *names):
        self.heard_ms.update(dict.fromkeys(names, self.mono_ms))

    def wait(self, ms):
        self.mono_ms += ms
        self.world.wait(ms)

    def ask(self, **fields):
        return reconcile_liveness(
            self.world.cell,
            self.world.now_ms,
            heard_ms=self.heard_ms,
            mono_ms=self.mono_ms,
            leading_since_ms=LEADING_SINCE_MS,
            **fields,
        )

    def obey(self):
        commands = self.ask()
        if commands:
            self.world.must(*commands)
        return commands

    def run_tasks(self, count, machine="m1", **fields):
        self.world.submit(a_spec(task_count=count, **fields))
        for index in range(count):
            self.world.start(f"ann/web/{index}", machine)


@pytest.fixture
def leader():
    """Three machines; two tasks run on m1."""
    leader = Leader("m1", "m2", "m3")
    leader.run_tasks(2)
    return leader


def silence_m1(leader, ms):
    leader.hear("m1", "m2", "m3")
    leader.wait(ms)
    leader.hear("m2", "m3")


def test_a_machine_that_is_heard_often_enough_is_left_alone(leader):
    silence_m1(leader, 9_999)
    assert leader.ask() == []


def test_a_machine_that_is_silent_for_long_is_marked_down_once(leader):
    silence_m1(leader, 10_000)
    assert leader.obey() == [MarkMachine("m1", up=False)]
    assert leader.world.task("ann/web/0").state is TaskState.PARTITIONED
    assert leader.ask() == []


def test_a_new_leader_gives_every_machine_time_to_be_heard():
    leader = Leader("m1")
    leader.heard_ms["m1"] = 0  # by the clock of another life: before it led
    leader.wait(9_999)
    assert leader.ask() == []
    leader.wait(1)
    assert leader.ask() == [MarkMachine("m1", up=False)]


def test_tasks_of_a_machine_that_stays_down_are_given_up_after_the_grace(leader):
    silence_m1(leader, 10_000)
    leader.obey()
    leader.wait(29_999)
    leader.hear("m2", "m3")
    assert leader.ask() == []
    leader.wait(1)
    tasks = tuple((TaskKey("ann", "web", index), 1) for index in range(2))
    assert leader.obey() == [LoseTasks(tasks)]
    assert leader.world.task("ann/web/0").state is TaskState.PENDING
    assert leader.ask() == []


def test_tasks_of_a_machine_that_is_heard_again_are_not_given_up(leader):
    silence_m1(leader, 10_000)
    leader.obey()
    leader.wait(60_000)
    leader.hear("m1", "m2", "m3")  # its link will mark it up and report
    assert leader.ask() == []


def test_a_new_leader_goes_on_with_the_grace_but_listens_first(leader):
    silence_m1(leader, 10_000)
    leader.obey()
    leader.wait(60_000)
    new = Leader()
    new.world = leader.world
    assert new.ask() == []
    new.wait(10_000)
    new.hear("m2", "m3")
    assert [type(command) for command in new.ask()] == [LoseTasks]


def test_the_most_important_tasks_are_given_up_first_and_few_per_call():
    leader = Leader("m1", "m2", "m3")
    leader.world.submit(a_batch_spec("ann/abc"))
    leader.world.start("ann/abc/0")
    leader.run_tasks(2)
    silence_m1(leader, 10_000)
    leader.obey()
    leader.wait(30_000)
    leader.hear("m2", "m3")
    (command,) = leader.ask(losses_max=2)
    assert [key.job for key, _ in command.tasks] == ["web", "web"]
    leader.world.must(command)
    (command,) = leader.ask(losses_max=2)
    assert [key.job for key, _ in command.tasks] == ["abc"]


def test_the_numbers_per_call_are_bounded():
    leader = Leader(*(f"m{number}" for number in range(MARKS_MAX + 1)))
    leader.wait(10_000)
    assert len(leader.ask()) == MARKS_MAX
    assert LOSSES_MAX == 100


def dark(leader, *names):
    """Let machines be silent until their tasks could be given up; what the controller asks for."""
    all_names = leader.world.cell.machines
    for ms in (10_000, 30_000):
        leader.hear(*(set(all_names) - set(names)))
        leader.wait(ms)
        leader.hear(*(set(all_names) - set(names)))
        commands = leader.obey()
    return commands


def test_nothing_is_given_up_while_more_than_half_of_the_cell_is_silent(leader):
    assert dark(leader, "m1", "m2") == []
    assert leader.world.task("ann/web/0").state is TaskState.PARTITIONED


def test_giving_up_goes_on_when_half_of_the_cell_answers_again(leader):
    dark(leader, "m1", "m2")
    leader.hear("m2")
    leader.world.must(MarkMachine("m2", up=True))
    assert [type(command) for command in leader.ask()] == [LoseTasks]


def test_machines_that_fell_silent_but_are_not_marked_yet_count_as_dark(leader):
    silence_m1(leader, 10_000)
    leader.obey()
    leader.wait(30_000)
    leader.hear("m3")  # m2 was last heard 30 s ago
    assert leader.ask() == [MarkMachine("m2", up=False)]


def test_of_two_machines_one_may_be_given_up():
    leader = Leader("m1", "m2")
    leader.run_tasks(1)
    assert [type(command) for command in dark(leader, "m1")] == [LoseTasks]


def test_the_only_machine_is_never_given_up():
    leader = Leader("m1")
    leader.run_tasks(1)
    assert dark(leader, "m1") == []


def test_machines_that_never_answered_do_not_stop_the_others_from_being_given_up(leader):
    leader.world.must(*(AddMachine(f"new{number}", "h:1") for number in range(9)))
    assert [type(command) for command in dark(leader, "m1")] == [LoseTasks]


def test_drained_machines_that_are_switched_off_do_not_count(leader):
    for number in range(4):
        leader.world.add_machine(f"off{number}")
        leader.world.must(SetDraining(f"off{number}", draining=True))
    off = [f"off{number}" for number in range(4)]
    assert [type(command) for command in dark(leader, "m1", *off)] == [LoseTasks]


def test_a_clock_of_the_leader_that_is_behind_the_cells_time_delays_nothing(leader):
    silence_m1(leader, 10_000)
    leader.obey()
    leader.wait(30_000)
    leader.hear("m2", "m3")
    leader.world.must(SetDraining("m3", draining=False))  # an entry at this time
    leader.world.now_ms -= 3_600_000
    assert [type(command) for command in leader.ask()] == [LoseTasks]
