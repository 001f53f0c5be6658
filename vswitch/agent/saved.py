# SPDX-License-Identifier: Apache-2.0
"""What was set while the switch ran, kept for its next start: by hand, and by controllers' Experimenter
messages.

Not kept: what OpenFlow itself carries (rules, groups, meters, the ports' configuration) and tunnels, which
rules need: whoever gave them gives them anew, as to any switch that was switched off; and captures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from vswitch import saved
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.errors import ConfigError
from vswitch.nic import SavedNic
from vswitch.openflow import experimenter as ex
from vswitch.tunnel_formats import SHIPPED, format_numbers

log = logging.getLogger(__name__)


class SavedSettings:
    """The settings of a switch and the file `path`, which follows them by save()."""

    def __init__(self, switch: OpenFlowSwitch, path: Path) -> None:
        self.switch = switch
        self.path = path
        self._seen = 0  # changes by controllers that are in the file

    def save(self) -> None:
        """Have the file say what is set now. The log tells when that cannot be."""
        self._seen = self.switch.extensions.changes
        try:
            saved.write(self.path, self._collect())
        except OSError as error:
            log.warning("%s: a restart will not know of the last settings (%s)", self.switch.name, error)

    def save_changes(self) -> None:
        """The same, if controllers have set something since."""
        if self.switch.extensions.changes != self._seen:
            self.save()

    def restore(self) -> list[str]:
        """Set what the file says; returns a sentence for each part that this switch cannot have.

        Raises ConfigError when the file is of something else.
        """
        told = saved.read(self.path)
        problems, failed = [], set()
        for what, place, restore in self._restorers(told):
            try:
                restore()
            except (ConfigError, msgspec.ValidationError) as error:
                failed.add(place)
                problems.append(f"{what} is not set as it was before: {error}")
                log.warning("%s: %s", self.switch.name, problems[-1])
        for kept in told.of_controllers:
            setting = kept.message()
            if _place(setting) in failed:
                continue  # so that a controller sets it anew
            self.switch.extensions.settings[setting.key] = setting
            if isinstance(setting, ex.PacketTooBigSet):  # nobody sets it by hand
                self.switch.extensions.carry_out(setting)
        return problems

    def _restorers(self, told: saved.Saved) -> Iterator[tuple[str, int | str | None, Callable[[], object]]]:
        """What is to be set: its name, its place, how. Ports that are not there any more have no settings."""
        datapath, carry_out = self.switch.datapath, self.switch.extensions.carry_out
        for name, numbers in told.formats.items():
            yield f"the format {name}", name, partial(carry_out, ex.FormatAdd(name, numbers))
        for info in datapath.ports():
            name, port_no = info.name, info.port_no
            if name in told.wires:
                yield name, None, partial(datapath.set_wire, port_no, **told.wires[name])
            if name in told.nics:
                yield name, port_no, partial(self._restore_nic, port_no, told.nics[name])
            if name in told.forwarding:
                yield name, port_no, partial(carry_out, ex.RoleSet(port_no, "forwarding"))

    def _restore_nic(self, port_no: int, told: msgspec.Raw) -> None:
        self.switch.datapath.nic(port_no).restore(msgspec.json.decode(told, type=SavedNic))

    def _collect(self) -> saved.Saved:
        datapath, extensions = self.switch.datapath, self.switch.extensions
        names = {info.port_no: info.name for info in datapath.ports()}
        own = [name for name in datapath.formats() if name not in SHIPPED]
        return saved.Saved(
            wires={names[n]: datapath.wire_settings(n).in_words() for n in datapath.wires_set()},
            nics={names[n]: msgspec.Raw(msgspec.json.encode(nic)) for n, nic in datapath.nics_set().items()},
            forwarding=[names[n] for n in sorted(extensions.forwarding)],
            formats={name: format_numbers(datapath.formats()[name]) for name in own},
            of_controllers=[ex.Kept.of(setting) for setting in extensions.settings.values()],
        )


def _place(setting: ex.Setting) -> int | str | None:
    """The port, or the format, that a controller's setting is of; None: of the switch."""
    return setting.name if isinstance(setting, ex.FormatAdd) else getattr(setting, "port_no", None)
