"""Owns following a cell as things happen: events and logs. A stream that breaks is taken up again."""

import json
import sys
from collections.abc import Iterable

from borgcell import convert
from borgcell.types import TaskKey
from borgcell.v1 import cell_pb2

from borgcfg.client import CellClient
from borgcfg.failures import CellRefused
from borgcfg.render import tables, words
from borgcfg.render.output import Output, say, show, show_text, wants_colour, yaml_text
from borgcfg.render.plain import message_plain
from borgcfg.render.table import paint, printable
from borgcfg.session import now_ms

# A replica that went away, not a "no": ask another one.
BROKEN_CODES = frozenset({"UNAVAILABLE", "UNKNOWN", "CANCELLED", "INTERNAL", "DEADLINE_EXCEEDED"})


def show_past_events(
    client: CellClient, key: str, limit: int, form: Output, *, absolute: bool
) -> int:
    """Print the latest events; the sequence up to which they go."""
    request = cell_pb2.ListEventsRequest(key=key, limit=limit)
    response = client.call(lambda stubs: stubs.cell.ListEvents, request)
    if response.truncated and len(response.events) < limit:
        say("older events are no longer kept", style="dim")
    plain = [message_plain(event) for event in response.events]
    show(form, plain=plain, table=tables.events(response.events, now_ms(), absolute=absolute))
    return max((event.sequence for event in response.events), default=0)


def follow_events(client: CellClient, key: str, sequence: int, form: Output) -> None:
    """Print events after a sequence until Ctrl-C; says when it lost the cell and when it may have missed some."""
    colour = wants_colour(sys.stdout)
    while True:
        request = cell_pb2.WatchRequest(after_sequence=sequence, key=key)
        try:
            for message in client.stream(lambda stubs: stubs.cell.Watch, request):
                sequence = message.sequence or sequence
                if message.resync:
                    say(
                        "some events were missed: the history does not reach back so far",
                        style="warn",
                    )
                _show_new(message.events, form, colour=colour)
            say("the stream of events ended; watching again", style="warn")
        except CellRefused as error:
            if error.code not in BROKEN_CODES:
                raise
            say(f"lost the replica ({error}); watching again from another", style="warn")


def _show_new(events: Iterable[cell_pb2.Event], form: Output, *, colour: bool) -> None:
    for event in events:
        match form:
            case Output.JSON:
                show_text(json.dumps(message_plain(event), ensure_ascii=False) + "\n")
            case Output.YAML:
                show_text("---\n" + yaml_text(message_plain(event)))
            case _:
                show_text(event_line(event, colour=colour))
    sys.stdout.flush()


def event_line(event: cell_pb2.Event, *, colour: bool) -> str:
    """An event as a line of its own."""
    kind = tables.event_kind(event)
    parts = [
        words.clock(event.at_ms),
        paint(f"{kind.text:<14}", kind.style, colour=colour),
        tables.event_subject(event),
        event.machine,
        printable(tables.event_detail(event)),
    ]
    return "  ".join(part for part in parts if part) + "\n"


def copy_logs(client: CellClient, request: cell_pb2.StreamLogsRequest) -> None:
    """Copy the output of a task to stdout, bytes as they are; says on stderr whose it is."""
    key = TaskKey(request.task.user, request.task.job, request.task.index)
    whose = ""
    for message in client.stream(lambda stubs: stubs.cell.StreamLogs, request):
        if message.machine and not whose:
            whose = f"{key}#{message.incarnation} on {message.machine}"
            say(whose, style="dim")
        sys.stdout.buffer.write(message.data)
        sys.stdout.buffer.flush()


def log_request(
    key: TaskKey,
    *,
    incarnation: int | None,
    follow: bool,
    tail_lines: int,
    stream: "cell_pb2.LogStream.ValueType",
) -> cell_pb2.StreamLogsRequest:
    """The request for the output of one task."""
    return cell_pb2.StreamLogsRequest(
        task=convert.task_key_to_wire(key),
        incarnation=incarnation,
        follow=follow,
        tail_lines=tail_lines,
        stream=stream,
    )
