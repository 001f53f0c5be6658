# SPDX-License-Identifier: Apache-2.0
"""The words of a switch's command line and of `wire.set`: what they mean, and the sentence for each that
means nothing."""

from __future__ import annotations

import pytest

from vswitch.__main__ import main
from vswitch.config import PortConfig, WireSettings, parse_port
from vswitch.errors import ConfigError


def test_a_tap():
    port = parse_port("3=tap:vm1-eth0@4711")
    assert (port.number, port.kind, port.interface, port.namespace, port.name) == (
        3, "tap", "vm1-eth0", "4711", "vm1-eth0",
    )  # fmt: skip


def test_a_tap_in_the_switchs_own_namespace():
    assert parse_port("1=tap:tap0").namespace == ""


def test_a_packet_port():
    assert parse_port("65535=packet:s1-eth1") == PortConfig(
        65535, "packet", "s1-eth1", "port 65535", interface="s1-eth1", mtu=0
    )
    assert parse_port("1=packet:s1-eth1,mtu=9000").mtu == 9000


def test_a_wire_with_every_option():
    port = parse_port(
        "2=wire:/dev/shm/w,bw=100,delay=5ms,jitter=10us,loss=1.5,duplicate=2,reorder=3,max_queue_size=100,"
        "ecn_threshold=20,seed=7,framing=ethernet,mtu=9000,name=uplink0,mac=02:00:00:00:00:01,end=b"
    )
    assert port == PortConfig(
        2, "wire", "uplink0", "port 2", path="/dev/shm/w", mtu=9000, mac="02:00:00:00:00:01", end="b",
        wire=WireSettings(100, 5_000_000, 10_000, 1.5, 2, 3, 100, 20, 7, "ethernet"),
    )  # fmt: skip


def test_a_plain_wire_is_ideal_and_has_its_numbers_name():
    port = parse_port("2=wire:/dev/shm/w")
    assert (port.name, port.mtu, port.wire) == ("wire2", 1500, WireSettings())


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("5ms", 5e6),
        ("10us", 1e4),
        ("7ns", 7),
        ("1s", 1e9),
        ("2", 2e6),
        ("1.5", 1.5e6),
        (".5s", 5e8),
        (3, 3e6),
    ],
)
def test_durations(text, nanoseconds):
    assert WireSettings().changed("w", {"delay": text}).delay_ns == nanoseconds


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        ("bw", 100, 100),
        ("bw", "1e3", 1000),
        ("bw", "500kbit", 0.5),
        ("bw", "2.5 Mbit", 2.5),
        ("bw", "1Gbit", 1000),
        ("bw", "10gbit/s", 10_000),
        ("loss", "5%", 5),
        ("loss", "0.5 %", 0.5),
        ("reorder", "100%", 100),
    ],
)
def test_units(setting, text, value):
    assert WireSettings().changed("w", {setting: text}).in_words()[setting] == value


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("bw", "1Tbit"),
        ("bw", "Gbit"),
        ("bw", "500Gbit"),
        ("bw", "5%"),
        ("bw", "inf"),
        ("bw", True),
        ("loss", "5 percent"),
        ("loss", "1Mbit"),
        ("loss", "%"),
        ("loss", "101%"),
        ("loss", "5%%"),
        ("seed", "5%"),
    ],
)
def test_units_that_a_setting_does_not_have(setting, text):
    with pytest.raises(ConfigError, match=f"^w.{setting}: {text!r} is out of range"):
        WireSettings().changed("w", {setting: text})


@pytest.mark.parametrize("delay", ["0s", "7ns", "1500us", "20ms", "60s"])
def test_settings_are_told_in_the_words_that_they_are_given_in(delay):
    given = {"delay": delay, "bw": 100, "loss": 0.5, "framing": "ethernet", "link": "down"}
    told = WireSettings().changed("wire", given).in_words()
    assert given.items() <= told.items()
    assert WireSettings().changed("wire", told).in_words() == told


def test_whole_numbers_are_told_as_such():
    told = WireSettings().changed("wire", {"bw": "100", "loss": "0.5"}).in_words()
    assert [str(told[name]) for name in ("bw", "loss", "duplicate")] == ["100", "0.5", "0"]


def test_changing_one_setting_leaves_the_others():
    before = WireSettings(bw=10, loss=1)
    assert before.changed("w", {"loss": 2}) == WireSettings(bw=10, loss=2)
    assert before == WireSettings(bw=10, loss=1)


NOT_A_NUMBER = "does not start with a port number (allowed: N=KIND:… with N from 1 to 65535)"
NOT_A_PORT = "is no port (allowed: tap:IFNAME@NETNS, packet:IFNAME[,mtu=N] or wire:PATH[,key=value…])"
NAME = "cannot name an interface (allowed: 1 to 15 characters without blank, slash and colon)"
DURATION = "is no duration (allowed: 0 to 60s, as 10us, 5ms, 1s; a plain number: ms)"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tap:vm1", f"port tap:vm1: {NOT_A_NUMBER}"),
        ("x=tap:vm1", f"port x=tap:vm1: {NOT_A_NUMBER}"),
        ("=tap:vm1", f"port =tap:vm1: {NOT_A_NUMBER}"),
        ("0=tap:vm1", f"port 0=tap:vm1: {NOT_A_NUMBER}"),
        ("65536=tap:vm1", f"port 65536=tap:vm1: {NOT_A_NUMBER}"),
        ("-1=tap:vm1", f"port -1=tap:vm1: {NOT_A_NUMBER}"),
        ("²=tap:vm1", f"port ²=tap:vm1: {NOT_A_NUMBER}"),
        ("1=bridge:br0", f"port 1: 'bridge:br0' {NOT_A_PORT}"),
        ("1=", f"port 1: '' {NOT_A_PORT}"),
        ("1=wire:", f"port 1: 'wire:' {NOT_A_PORT}"),
        ("1=tap:vm1,mtu=9000", f"port 1: 'tap:vm1,mtu=9000' {NOT_A_PORT}"),
        ("1=tap:", f"port 1: '' {NAME}"),
        ("1=tap:abcdefghijklmnop", f"port 1: 'abcdefghijklmnop' {NAME}"),
        ("1=tap:a/b", f"port 1: 'a/b' {NAME}"),
        ("1=packet:", f"port 1: '' {NAME}"),
        ("1=packet:s1,speed=1", "port 1: a packet port has no option 'speed' (allowed: mtu)"),
        ("1=packet:s1,mtu", "port 1: the option 'mtu' has no value (allowed: key=value)"),
        ("1=packet:s1,mtu=0", "port 1.mtu: '0' is out of range (allowed: a whole number from 68 to 9216)"),
        ("1=wire:/w,name=a b", f"port 1.name: 'a b' {NAME}"),
        ("1=wire:/w,fast", "port 1: the option 'fast' has no value (allowed: key=value)"),
        ("1=wire:/w,mtu=67", "port 1.mtu: '67' is out of range (allowed: a whole number from 68 to 9216)"),
        ("1=wire:/w,mtu=1e3", "port 1.mtu: '1e3' is out of range (allowed: a whole number from 68 to 9216)"),
        ("1=wire:/w,mac=02:00", "port 1.mac: '02:00' is no MAC address (allowed: 02:00:00:00:00:01)"),
        ("1=wire:/w,end=c", "port 1.end: 'c' is no end of a wire (allowed: a or b)"),
        (
            "1=wire:/w,speed=1",
            "port 1: a wire has no setting 'speed', the nearest is 'seed' (allowed: bw, delay, duplicate, "
            "ecn_threshold, framing, jitter, link, loss, max_queue_size, reorder, seed)",
        ),
        (
            "1=wire:/w,bw=-1",
            "port 1.bw: '-1' is out of range (allowed: a number from 0 to 400000, in Mbit/s, "
            "or as 500kbit, 1Gbit)",
        ),
        (
            "1=wire:/w,bw=nan",
            "port 1.bw: 'nan' is out of range (allowed: a number from 0 to 400000, in Mbit/s, "
            "or as 500kbit, 1Gbit)",
        ),
        (
            "1=wire:/w,loss=101",
            "port 1.loss: '101' is out of range (allowed: a number from 0 to 100, in percent)",
        ),
        (
            "1=wire:/w,loss=much",
            "port 1.loss: 'much' is out of range (allowed: a number from 0 to 100, in percent)",
        ),
        (
            "1=wire:/w,duplicate=-0.1",
            "port 1.duplicate: '-0.1' is out of range (allowed: a number from 0 to 100, in percent)",
        ),
        (
            "1=wire:/w,reorder=200",
            "port 1.reorder: '200' is out of range (allowed: a number from 0 to 100, in percent)",
        ),
        ("1=wire:/w,delay=61s", f"port 1.delay: '61s' {DURATION}"),
        ("1=wire:/w,delay=-1", f"port 1.delay: '-1' {DURATION}"),
        ("1=wire:/w,jitter=5 hours", f"port 1.jitter: '5 hours' {DURATION}"),
        (
            "1=wire:/w,max_queue_size=1.5",
            "port 1.max_queue_size: '1.5' is out of range (allowed: a whole number from 0 to 1000000)",
        ),
        ("1=wire:/w,framing=ip", "port 1.framing: 'ip' is no framing of a rate (allowed: tc, ethernet)"),
        (
            "1=wire:/w,ecn_threshold=-1",
            "port 1.ecn_threshold: '-1' is out of range (allowed: a whole number from 0 to 1000000)",
        ),
        (
            "1=wire:/w,seed=-5",
            "port 1.seed: '-5' is out of range (allowed: a whole number from 0 to 2147483646)",
        ),
    ],
)
def test_what_means_nothing_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(ConfigError) as error:
        parse_port(text)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--dpid", "wrong"), "dpid: 'wrong' is no datapath id (allowed: up to 16 hexadecimal digits)"),
        (("--dpid", "1" * 17), "dpid: '11111111111111111' is no datapath id"),
        (("--name", "a/b"), "name: 'a/b' cannot name files (allowed: a text without slash)"),
        (("--name", ""), "name: '' cannot name files"),
        (("--workers", "9"), "workers: 9 is out of range (allowed: 1 to 8)"),
        (("--cpu", "4096"), "cpu: there is no processor 4096 (allowed: "),
        (("--ca-cert", "x"), "tls: a file is missing (allowed: all of --private-key, "),
        (("--run-dir", "/proc/nowhere"), "run-dir: cannot make /proc/nowhere: No such file or directory"),
    ],
)
def test_a_wrong_option_is_one_sentence(words, sentence, capsys, tmp_path):
    assert main(["--name", "s1", "--dpid", "1", "--run-dir", str(tmp_path / "run"), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"vswitch: {sentence}") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
