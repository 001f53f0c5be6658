# SPDX-License-Identifier: Apache-2.0
"""What a command of `vswitchctl` takes, and the words of a command line taken apart by that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vswitch.cli.client import Call, caller
from vswitch.errors import VSwitchError
from vswitch.words import nearest


class UsageError(VSwitchError):
    """Words that mean nothing: vswitchctl prints the sentence and ends with status 2."""


@dataclass(frozen=True)
class Option:
    """An option of a command.

    name, short: as `--watch` and `-w`. value: what its value is called; empty: it has none. may_lack: the
    value may be left out, and is a number when it is given.
    """

    name: str
    help: str
    short: str = ""
    value: str = ""
    may_lack: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.short, self.name) if self.short else (self.name,)

    @property
    def usage(self) -> str:
        names = ", ".join(self.names)
        return f"{names} [{self.value}]" if self.may_lack else f"{names} {self.value}".rstrip()


EVERYWHERE = (
    Option("--json", "print JSON"),
    Option("--run-dir", "the run folder of the switch", "-r", "RUN_DIR"),
    Option("--help", "explain a command, or all", "-h"),
)
"""Options of every command, which may stand anywhere in the line."""


@dataclass(frozen=True)
class Arguments:
    """The words of a command that are no options; what options were given, by name; and -r's folder."""

    words: list[str]
    options: Mapping[str, str | None]
    run_dir: str | None = None

    def __contains__(self, option: str) -> bool:
        return option in self.options

    def switch(self, name: str | None) -> Call:
        """Requests to the switch of this name, or to the only one."""
        return caller(name, self.run_dir)

    def number(self, option: str, default: float) -> float:
        """The value of an option that is a number; raises UsageError."""
        text = self.options.get(option)
        try:
            return default if text is None else float(text)
        except ValueError:
            raise UsageError(f"{option}: {text!r} is no number") from None


@dataclass(frozen=True)
class Command:
    """One command.

    usage: what stands behind its name. help: what it does. example: a line. run: carries it out; render:
    the text of its result. watch: results without end, for `--watch`. own_dashes: words that begin with a
    dash and are none of `options` are its own.
    """

    name: str
    usage: str
    help: str
    run: Callable[[Arguments], Any]
    render: Callable[[Any, Arguments], str]
    example: str = ""
    options: Sequence[Option] = ()
    watch: Callable[[Arguments], Iterator[Any]] | None = None
    own_dashes: bool = False

    def wrong(self, what: str) -> UsageError:
        """The error that says what is wrong with this command's words, and what it takes."""
        example = f", as in: {self.example}" if self.example else ""
        return UsageError(f"{what}: {self.name} takes {self.usage}{example}")

    def names(self, words: Sequence[str], least: int, most: int) -> list[str]:
        """Words that are names, of which there must be so many; raises UsageError."""
        for word in words:
            if "=" in word or not word:
                raise self.wrong(f"{word!r} is no name")
        if len(words) > most:
            raise self.wrong(f"{words[most]!r} is one word too many")
        if len(words) < least:
            raise self.wrong("a word is missing")
        return list(words)

    def switch_and(self, words: Sequence[str]) -> tuple[str | None, str]:
        """[SWITCH] NAME."""
        *switch, name = self.names(words, 1, 2)
        return (switch[0] if switch else None), name


def take_apart(
    words: Iterable[str], options: Sequence[Option], whose: str, own_dashes: bool = False
) -> tuple[list[str], dict[str, str | None]]:
    """(words that are no options, options by name) of a command line; raises UsageError.

    whose: who has these options, as in `show`. own_dashes: other words that begin with a dash are left.
    """
    known = {name: option for option in options for name in option.names}
    plain: list[str] = []
    given: dict[str, str | None] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        option = known.get(name)
        if option is None:
            if word.startswith("-") and not own_dashes:
                raise UsageError(no_option(whose, name, known))
            plain.append(word)
            continue
        if equals and not option.value:
            raise UsageError(f"{name} takes no value, and {value!r} is given")
        if option.name in given:
            raise UsageError(f"{name} is given twice")
        given[option.name] = value if equals else _value(option, name, left)
    return plain, given


def no_option(whose: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    return f"{whose} has no option {name!r}{nearest(name, known)} (allowed: {', '.join(known)})"


def _value(option: Option, name: str, left: list[str]) -> str | None:
    """The value of an option, taken off the words that are left."""
    if not option.value or (option.may_lack and not (left and is_number(left[0]))):
        return None
    if not left:
        raise UsageError(f"{name} needs a value: {option.usage}")
    return left.pop(0)


def is_number(text: str) -> bool:
    """Whether a word is a number, and so no option even if it begins with a dash."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def settings(command: Command, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(names, settings) of words of which those with an `=` stand behind all others; raises UsageError."""
    names = [word for word in words if "=" not in word]
    pairs = words[len(names) :]
    if list(words[: len(names)]) != names:
        raise command.wrong(f"{names[-1]!r} stands behind a KEY=VALUE")
    given: dict[str, str] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key in given:
            raise UsageError(f"{key} is given twice: {given[key]!r} and {value!r}")
        given[key] = value
    return names, given
