# SPDX-License-Identifier: Apache-2.0
"""What a switch is told on its command line: ports and wire settings, checked before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vswitch.errors import ConfigError
from vswitch.words import unknown

MAX_INTERFACE_NAME = 15
MAX_PORT_NUMBER = 65535
"""Flow keys have 16 bits for it. Tunnel ports are numbered by the controller, which avoids those in use."""
MIN_MTU, MAX_MTU = 68, 9216
MAX_WORKERS = 8
DEFAULT_MTU = 1500
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FRAMINGS = ("tc", "ethernet")
"""What a wire's rate counts: bytes of frames, as Linux's tc, or all that they take of an Ethernet line."""

_UNITS_NS = {"": 1e6, "ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
_UNITS_MBIT = {"": 1.0, "kbit": 1e-3, "mbit": 1.0, "gbit": 1e3, "kbit/s": 1e-3, "mbit/s": 1.0, "gbit/s": 1e3}
_PERCENT = {"": 1.0, "%": 1.0}
_UNIT = re.compile(r"[a-z%/]*$")
UNITS = frozenset({*_UNITS_NS, *_UNITS_MBIT, *_PERCENT}) - {""}
"""What may stand behind a setting's number."""
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ns|us|ms|s|)")


@dataclass(frozen=True)
class WireSettings:
    """How a wire treats the frames of one direction. Zeros: an ideal wire.

    bw: Mbit/s; delay_ns, jitter_ns; loss, duplicate, reorder: percent; max_queue_size, ecn_threshold: frames;
    seed: of the random numbers, 0: chosen by the port. framing: what bw counts of a frame, one of FRAMINGS.
    link_up: the cable is whole at this end.
    """

    bw: float = 0
    delay_ns: int = 0
    jitter_ns: int = 0
    loss: float = 0
    duplicate: float = 0
    reorder: float = 0
    max_queue_size: int = 0
    ecn_threshold: int = 0
    seed: int = 0
    framing: str = FRAMINGS[0]
    link_up: bool = True

    def changed(self, where: str, settings: dict[str, Any]) -> WireSettings:
        """With these settings in the words of the command line replaced; raises ConfigError."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name, value in settings.items():
            if name not in _SETTINGS:
                raise unknown(where, "a wire has no setting", name, sorted(_SETTINGS))
            target, parse = _SETTINGS[name]
            values[target] = parse(f"{where}.{name}", value)
        return WireSettings(**values)

    def in_words(self) -> dict[str, Any]:
        """All settings in the words of the command line."""
        values: dict[str, Any] = {name: getattr(self, target) for name, (target, _) in _SETTINGS.items()}
        for name, value in values.items():
            if isinstance(value, float) and value.is_integer():
                values[name] = int(value)
        for name in ("delay", "jitter"):
            values[name] = _duration(values[name])
        return values | {"link": "up" if self.link_up else "down"}


@dataclass(frozen=True)
class StpSettings:
    """Of a bridge of the spanning tree protocol (IEEE 802.1D-1998, tables 8-3 and 8-4). Times in seconds;
    those of the root hold for all."""

    priority: int = 32768
    hello_time: int = 2
    max_age: int = 20
    forward_delay: int = 15


STP_RANGES = {"priority": (0, 65535), "hello_time": (1, 10), "max_age": (6, 40), "forward_delay": (4, 30)}


def parse_stp(text: str) -> StpSettings:
    """`priority=4096,hello_time=1,…`; what is left out has its default. Raises ConfigError."""
    given = _given("stp", text.split(",") if text else [])
    for key in given:
        if key not in STP_RANGES:
            raise unknown("stp", "a spanning tree has no setting", key, STP_RANGES)
    values = {key: _whole(*STP_RANGES[key])(f"stp.{key}", value) for key, value in given.items()}
    settings = StpSettings(**values)
    least, most = 2 * (settings.hello_time + 1), 2 * (settings.forward_delay - 1)
    if not least <= settings.max_age <= most:
        raise ConfigError(
            "stp.max_age",
            f"{settings.max_age} does not go with hello_time {settings.hello_time} and forward_delay "
            f"{settings.forward_delay}",
            f"2 * (hello_time + 1) to 2 * (forward_delay - 1), that is {least} to {most}",
        )
    return settings


@dataclass(frozen=True)
class PortConfig:
    """One `--port N=KIND:…`."""

    number: int
    kind: str
    name: str
    where: str
    interface: str = ""
    namespace: str = ""
    path: str = ""
    mtu: int = DEFAULT_MTU
    mac: str = ""
    end: str = ""
    wire: WireSettings = field(default_factory=WireSettings)


def parse_port(text: str) -> PortConfig:
    """`1=tap:IFNAME@NETNS`, `2=packet:IFNAME` or `3=wire:PATH,bw=100,…`.

    Raises ConfigError that names the port.
    """
    number_text, equals, rest = text.partition("=")
    where = f"port {number_text}"
    if (
        not equals
        or not re.fullmatch("[0-9]{1,5}", number_text)
        or not 1 <= int(number_text) <= MAX_PORT_NUMBER
    ):
        raise ConfigError(
            f"port {text}",
            "does not start with a port number",
            f"N=KIND:… with N from 1 to {MAX_PORT_NUMBER}",
        )
    number = int(number_text)
    kind, _, detail = rest.partition(":")
    address, *options = detail.split(",")
    if kind == "tap" and not options:
        interface, _, namespace = address.partition("@")
        check_interface_name(where, interface)
        return PortConfig(number, kind, interface, where, interface=interface, namespace=namespace)
    if kind == "packet":
        return _packet(number, where, address, _given(where, options))
    if kind == "wire" and address:
        return _wire(number, where, address, _given(where, options))
    raise ConfigError(
        where, f"{rest!r} is no port", "tap:IFNAME@NETNS, packet:IFNAME[,mtu=N] or wire:PATH[,key=value…]"
    )


def _given(where: str, options: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(where, f"the option {option!r} has no value", "key=value")
        given[key] = value
    return given


def _packet(number: int, where: str, interface: str, given: dict[str, str]) -> PortConfig:
    """mtu: what the interface is to be given; 0: it keeps its own."""
    check_interface_name(where, interface)
    mtu = _whole(MIN_MTU, MAX_MTU)(f"{where}.mtu", given.pop("mtu")) if "mtu" in given else 0
    for key in given:
        raise unknown(where, "a packet port has no option", key, ("mtu",))
    return PortConfig(number, "packet", interface, where, interface=interface, mtu=mtu)


def _wire(number: int, where: str, path: str, given: dict[str, str]) -> PortConfig:
    name = given.pop("name", f"wire{number}")
    check_interface_name(f"{where}.name", name)
    mtu = _whole(MIN_MTU, MAX_MTU)(f"{where}.mtu", given.pop("mtu", DEFAULT_MTU))
    mac = given.pop("mac", "")
    if mac and not re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", mac):
        raise ConfigError(f"{where}.mac", f"{mac!r} is no MAC address", "02:00:00:00:00:01")
    end = given.pop("end", "")
    if end not in ("", "a", "b"):
        raise ConfigError(f"{where}.end", f"{end!r} is no end of a wire", "a or b")
    return PortConfig(
        number,
        "wire",
        name,
        where,
        path=path,
        mtu=mtu,
        mac=mac,
        end=end,
        wire=WireSettings().changed(where, given),
    )


def check_interface_name(where: str, name: str) -> None:
    """Raise ConfigError when the kernel would refuse the name."""
    if not name or len(name) > MAX_INTERFACE_NAME or re.search(r"[\s/:]", name):
        raise ConfigError(
            where,
            f"{name!r} cannot name an interface",
            f"1 to {MAX_INTERFACE_NAME} characters without blank, slash and colon",
        )


def cores_in_words(cores: Sequence[int]) -> str:
    """`core 0`, `cores 0, 1`; `any core` for none in particular."""
    if not cores:
        return "any core"
    return f"core{'s' * (len(cores) > 1)} {', '.join(map(str, cores))}"


def _number(low: float, high: float, units: dict[str, float], allowed: str):
    """A number with one of these units behind it; `allowed` says which."""

    def parse(where: str, value: Any) -> float:
        text = "" if isinstance(value, bool) else str(value).strip().lower()
        unit = _UNIT.search(text)[0]
        try:
            number = float(text.removesuffix(unit)) * units[unit]
        except (KeyError, ValueError):
            number = float("nan")
        if not low <= number <= high:
            problem = f"{value!r} is out of range"
            raise ConfigError(where, problem, f"a number from {low:g} to {high:g}{allowed}")
        return number

    return parse


def _whole(low: int, high: int):
    def parse(where: str, value: Any) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ConfigError(where, f"{value!r} is out of range", f"a whole number from {low} to {high}")
        return number

    return parse


def _duration_ns(where: str, value: Any) -> int:
    match = _DURATION.fullmatch(str(value).strip())
    nanoseconds = float(match[1]) * _UNITS_NS[match[2]] if match else -1
    if not 0 <= nanoseconds <= 60e9:
        raise ConfigError(
            where, f"{value!r} is no duration", "0 to 60s, as 10us, 5ms, 1s; a plain number: ms"
        )
    return int(nanoseconds)


def _duration(nanoseconds: int) -> str:
    """In the largest unit of which it is a whole number."""
    unit = next(unit for unit in ("s", "ms", "us", "ns") if nanoseconds % _UNITS_NS[unit] == 0)
    return f"{nanoseconds // int(_UNITS_NS[unit])}{unit}"


def _framing(where: str, value: Any) -> str:
    if value not in FRAMINGS:
        raise ConfigError(where, f"{value!r} is no framing of a rate", ", ".join(FRAMINGS))
    return value


def _up_or_down(where: str, value: Any) -> bool:
    if value not in ("up", "down"):
        raise unknown(where, "there is no", str(value), ("up", "down"))
    return value == "up"


_percent = _number(0, 100, _PERCENT, ", in percent")
_SETTINGS = {
    "bw": ("bw", _number(0, 400_000, _UNITS_MBIT, ", in Mbit/s, or as 500kbit, 1Gbit")),
    "framing": ("framing", _framing),
    "delay": ("delay_ns", _duration_ns),
    "jitter": ("jitter_ns", _duration_ns),
    "loss": ("loss", _percent),
    "duplicate": ("duplicate", _percent),
    "reorder": ("reorder", _percent),
    "max_queue_size": ("max_queue_size", _whole(0, 1_000_000)),
    "ecn_threshold": ("ecn_threshold", _whole(0, 1_000_000)),
    "seed": ("seed", _whole(0, 2**31 - 2)),
    "link": ("link_up", _up_or_down),
}
