# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl`: finds the command of a line, carries it out, and prints what comes of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from vswitch.cli.arguments import EVERYWHERE, Arguments, Command, Option, UsageError, no_option, take_apart
from vswitch.cli.capture import CAPTURE
from vswitch.cli.counters import COUNTERS
from vswitch.cli.format import FORMAT
from vswitch.cli.nic import GRO, NIC
from vswitch.cli.show import FLOW, PORT, RULES, SHOW, STOP
from vswitch.cli.trace import TRACE
from vswitch.cli.wire import WIRE
from vswitch.errors import VSwitchError
from vswitch.words import nearest

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (SHOW, COUNTERS, RULES, PORT, FLOW, TRACE, WIRE, GRO, NIC, FORMAT, CAPTURE, STOP)
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        command, arguments = read(sys.argv[1:] if argv is None else argv)
        if "--help" in arguments:
            print(_help(command) if command else _overview())
        elif command:
            for result in _results(command, arguments):
                print(_text(command, result, arguments), flush=True)
    except UsageError as error:
        print(f"vswitchctl: {error}", file=sys.stderr)
        return 2
    except VSwitchError as error:
        print(f"vswitchctl: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:  # which ends --watch
        return 0 if "--watch" in arguments else 130
    return 0


def read(words: Sequence[str]) -> tuple[Command | None, Arguments]:
    """The command of a line and its arguments; None when only help is wanted. Raises UsageError."""
    name, others = _name(words)
    if name is None:
        _, given = take_apart(others, EVERYWHERE, "vswitchctl")
        if "--help" not in given:
            raise UsageError(f"a command is missing (allowed: {', '.join(COMMANDS)}); -h explains them")
        return None, Arguments([], given)
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise UsageError(f"there is no command {name!r}{nearest(name, COMMANDS)} (allowed: {known})")
    command = COMMANDS[name]
    plain, given = take_apart(others, (*command.options, *EVERYWHERE), name, command.own_dashes)
    return command, Arguments(plain, given, given.get("--run-dir"))


def _name(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """(the command, the other words): the first word that is no option or value of one; raises UsageError."""
    place = 0
    while place < len(words):
        word = words[place]
        if not word.startswith("-"):
            return word, [*words[:place], *words[place + 1 :]]
        name = word.partition("=")[0]
        option = next((each for each in EVERYWHERE if name in each.names), None)
        if option is None:
            raise _no_option(name)
        place += 2 if option.value and word == name else 1
    return None, list(words)


def _no_option(name: str) -> UsageError:
    """The error that an option stands before the command and is none of those that may."""
    if any(name in option.names for command in COMMANDS.values() for option in command.options):
        return UsageError(f"{name} stands behind the command whose option it is")
    return UsageError(no_option("vswitchctl", name, [each for option in EVERYWHERE for each in option.names]))


def _results(command: Command, arguments: Arguments) -> Iterator[Any]:
    if command.watch is not None and "--watch" in arguments:
        yield from command.watch(arguments)
    else:
        yield command.run(arguments)


def _text(command: Command, result: Any, arguments: Arguments) -> str:
    if "--json" in arguments:
        return json.dumps(result, indent=None if "--watch" in arguments else 2)
    return command.render(result, arguments)


def _overview() -> str:
    commands = [f"  {name:10}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vswitchctl COMMAND …",
            "",
            "Look into a running switch, and change its wires and NICs.",
            "",
            *commands,
            "",
            *_options(EVERYWHERE),
            "",
            "SWITCH may be left out where $VSWITCH_CTL names a control socket, or when only one runs.",
            "vswitchctl COMMAND -h explains one.",
        ]
    )


def _help(command: Command) -> str:
    lines = [f"usage: vswitchctl {command.name} {command.usage}", "", f"{command.help}.".capitalize()]
    if command.example:
        lines.append(f"As in: vswitchctl {command.example}")
    return "\n".join([*lines, "", *_options((*command.options, *EVERYWHERE))])


def _options(options: Sequence[Option]) -> list[str]:
    return [f"  {option.usage:26}{option.help}" for option in options]
