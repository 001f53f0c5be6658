# SPDX-License-Identifier: Apache-2.0
"""The controllers of a lab: `Orchestrator`, the overlay's own, and `Ryu`, any Ryu applications."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from mininet.log import info
from mininet.node import Controller, Node

from ryu_apps import access, intent_file
from ryu_apps.core import intent as intents
from ryu_apps.core.intent import Intent
from topologies import options
from topologies.errors import LabError, in_terms_of
from topologies.lab import Lab
from topologies.processes import end, listening, poll_until, spawn
from topologies.users import controllers_user, create, needed_to_read
from topologies.watch import Watched
from vswitch.errors import ConfigError, VSwitchError
from vswitch.tunnel_formats import Format

if TYPE_CHECKING:
    from topologies.nodes import VSwitch

ROOT = Path(__file__).resolve().parent.parent
OPENFLOW_PORT, REST_PORT = 6653, 8080
DEFAULT_APPLICATION = "ryu.app.simple_switch_13"
PYTHON_VARIABLE = "MININET_OFFLOAD_RYU_PYTHON"
MININET_OPTIONS = {"ip", "port", "protocol", "inNamespace", "command", "cargs", "cdir", "privateDirs"}
START_TIMEOUT_S = 20.0
REST_TIMEOUT_S = 5.0
RULES_TIMEOUT_S = 15.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class LabController(Controller):
    """A controller of a lab: one process, which ends with it, with its log in the run folder.

    token: whether REST requests must show the token in `token_file`, a file in the run folder.
    user: whom the process runs as, a name or number; by default who called sudo, or else a user that no
    account has. It has no privileges in any case.
    lab: the lab that it belongs to; by default the current one.
    """

    KIND = "a controller"
    rest_port: int

    def __init__(
        self,
        name: str,
        lab: Lab,
        token: bool | str | int = True,
        user: str | int | None = None,
        **params: Any,
    ) -> None:
        own = options.options_of(type(self))
        options.require_known(name, f"{self.KIND} has no option", params, own, mininets=MININET_OPTIONS)
        self.lab = lab
        wanted = options.boolean(f"{name}: token", token)
        self.token_file = lab.run_dir / f"{name}.token" if wanted else None
        self.runs_as = controllers_user(name, user, lab.group)
        self.process: subprocess.Popen | None = None
        self.shell = None
        super().__init__(name, **params)
        lab.controllers.append(self)

    def checkListening(self) -> None:
        """Mininet's check needs telnet; the port was found free when it was chosen."""

    def start(self) -> None:
        """Start the process; returns when it takes connections."""
        self._make_token()
        with create(self._log_path) as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = spawn(
                [str(ryu_python()), *self._arguments()],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
                user=self.runs_as,
                capabilities=needed_to_read(self._reads(), self.runs_as),
            )
        self.lab.registry.add_process(self.process.pid)
        if not poll_until(self._has_started, START_TIMEOUT_S, 0.05):
            raise LabError(
                f"{self.name} did not start within {START_TIMEOUT_S:g} s; its log is {self._log_path}"
            )
        advice = f"start it anew with {in_terms_of('', mn='py ')}{self.name}.start()"
        self.lab.watch.add(Watched(self.name, self.process, self._log_path, advice))

    @property
    def rest_url(self) -> str:
        """Where it answers REST requests, without the path."""
        return f"http://{self.ip}:{self.rest_port}"

    def _tell_where_rest_is(self, what: str) -> None:
        token = f", token in {self.token_file}" if self.token_file else ""
        info(f"({what}: {self.rest_url}{token}) ")

    def stop(self, *args: Any, **kwargs: Any) -> None:
        self.end_process()
        Node.stop(self, *args, **kwargs)

    def terminate(self) -> None:
        self.end_process()
        super().terminate()
        self.lab.node_stopped()

    def end_process(self) -> None:
        if self.process:
            self.lab.watch.forget(self.process)
            end(self.process)
            self.process = None
        if self.token_file:
            self.token_file.unlink(missing_ok=True)

    def _reads(self) -> list[Path]:
        """The files and folders that the process reads."""
        code = [ROOT / "ryu_apps", ROOT / "vswitch", ryu_python(), ryu_python().parents[1]]
        return [*code, self.token_file] if self.token_file else code

    def _make_token(self) -> None:
        if self.token_file:
            try:
                self.token_file.unlink(missing_ok=True)
                access.make(self.token_file)
                os.chown(self.token_file, self.runs_as.uid, self.runs_as.gid)
            except OSError as error:
                raise LabError(
                    f"{self.name}: cannot make the token file {self.token_file}: {error.strerror}"
                ) from None

    def _has_started(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            lines = self._log_path.read_text(errors="replace").strip().splitlines()
            raise LabError(
                f"{self.name} ended while it was starting: {lines[-1] if lines else 'it said nothing'}"
            )
        return self._answers()

    def _arguments(self) -> list[str]:
        """What the controller's Python is to run."""
        raise NotImplementedError

    def _answers(self) -> bool:
        """Whether the process takes connections."""
        raise NotImplementedError

    @property
    def _log_path(self) -> Path:
        return self.lab.run_dir / f"{self.name}.log"


class Ryu(LabController):
    """Stock Ryu applications: `--controller ryu,ryu.app.simple_switch_13`, in place of Mininet's own `ryu`.

    arguments: applications (modules or files) and options of `ryu-manager`; by default a learning switch.
    port, rest_port: TCP ports for OpenFlow and REST; by default 6653 and 8080, or free ones.
    Others (`token`, `user`): as for any controller of a lab.
    """

    KIND = "Ryu"

    def __init__(
        self,
        name: str,
        *arguments: str,
        ip: str = "127.0.0.1",
        port: int | None = None,
        rest_port: int | None = None,
        lab: Lab | None = None,
        **params: Any,
    ) -> None:
        lab = lab or Lab.current()
        self.arguments = [str(argument) for argument in arguments] or [DEFAULT_APPLICATION]
        port = lab.reserve_port(port, ip) if port else lab.reserve_usual_port(OPENFLOW_PORT, ip)
        self.rest_port = (
            lab.reserve_port(rest_port, ip) if rest_port else lab.reserve_usual_port(REST_PORT, ip)
        )
        super().__init__(name, lab, ip=ip, port=port, **params)

    def start(self) -> None:
        """Start the process; returns when it takes connections of switches."""
        super().start()
        if self.arguments != [DEFAULT_APPLICATION]:
            self._tell_where_rest_is("REST of its applications, if they have any")

    def _arguments(self) -> list[str]:
        listen = ["--ofp-listen-host", self.ip, "--ofp-tcp-listen-port", str(self.port)]
        rest = ["--wsapi-host", self.ip, "--wsapi-port", str(self.rest_port)]
        token = ["--token-file", str(self.token_file)] if self.token_file else []
        return ["-m", "ryu_apps.ryu_manager", *token, *listen, *rest, *self.arguments]

    def _reads(self) -> list[Path]:
        given = [path for path in map(Path, self.arguments) if path.exists()]
        return [*super()._reads(), *(path.parent for path in given), *given]

    def _answers(self) -> bool:
        return self.process is not None and listening(self.process.pid, self.port)


class Orchestrator(LabController):
    """Pushes every rule of the lab's switches from one intent.

    intent: a YAML file; by default the intent follows from the network itself (`Lab.intent`).
    gro: whether the uplinks coalesce (on, off).
    tunnel: the tunnel format, a shipped one or one of
    formats: tunnel formats by name, in numbers, or a YAML file of them (docs/reference/intent.md).
    packet_too_big: whether senders are told of packets that do not fit into the tunnels.
    proactive_reverse: whether the reverse flow's entry is installed with a flow's.
    port, rest_port: TCP ports for OpenFlow and REST; by default free ones, so that labs do not clash.
    Others (`token`, `user`): as for any controller of a lab.
    """

    KIND = "Orchestrator"

    def __init__(
        self,
        name: str,
        ip: str = "127.0.0.1",
        port: int | None = None,
        rest_port: int | None = None,
        intent: str | None = None,
        gro: bool | str | int = True,
        tunnel: str = "vxlan",
        formats: Mapping[str, Mapping[str, Any]] | str | None = None,
        packet_too_big: bool | str | int = True,
        proactive_reverse: bool | str | int = True,
        lab: Lab | None = None,
        **params: Any,
    ) -> None:
        lab = lab or Lab.current()
        if lab.orchestrator:
            raise LabError(f"{name}: the lab has an orchestrator already, {lab.orchestrator.name}")
        self.gro = options.boolean(f"{name}: gro", gro)
        self.packet_too_big = options.boolean(f"{name}: packet_too_big", packet_too_big)
        self.proactive_reverse = options.boolean(f"{name}: proactive_reverse", proactive_reverse)
        self.intent_file = Path(intent).absolute() if intent else None
        self.given_intent: Intent | None = None
        self.formats, self.tunnel = self._tunnels(name, tunnel, formats)
        self.rest_port = lab.reserve_port(rest_port, ip)
        super().__init__(name, lab, ip=ip, port=lab.reserve_port(port, ip), **params)
        lab.orchestrator = self

    def _tunnels(
        self, name: str, tunnel: str, formats: Mapping[str, Mapping[str, Any]] | str | None
    ) -> tuple[Mapping[str, Mapping[str, Any]], Format]:
        """The formats of the user's own, and the one that tunnels have; raises LabError."""
        try:
            if self.intent_file:
                intent = self.given_intent = intents.from_yaml(self.intent_file.read_bytes())
            else:
                own = intents.plain(Path(formats).read_bytes()) if isinstance(formats, str) else formats or {}
                intent = intents.from_object({"formats": own, "tunnel": {"format": tunnel}})
        except OSError as error:
            raise LabError(f"{name}: cannot read {error.filename}: {error.strerror}") from None
        except ConfigError as error:
            raise LabError(f"{name}: {error}") from None
        return intent.formats, intent.format_rows()[intent.tunnel.format]

    def start(self) -> None:
        """Start the controller; returns when it answers on its REST port."""
        self.lab.validate()
        if self.intent_file is None:
            self.intent_file = self.lab.run_dir / "intent.yaml"
            try:
                with create(self.intent_file) as file:
                    yaml.safe_dump(self.lab.intent(), file, sort_keys=False)
                os.chown(self.intent_file, -1, self.lab.group)
            except OSError as error:
                raise LabError(f"cannot write {self.intent_file}: {error.strerror}") from None
        super().start()
        self._tell_where_rest_is("REST")

    def _arguments(self) -> list[str]:
        addresses = ["--listen", self.ip, "--ofp-port", str(self.port), "--rest-port", str(self.rest_port)]
        token = ["--token-file", str(self.token_file)] if self.token_file else ["--no-token"]
        return ["-m", "ryu_apps", "--intent", str(self.intent_file), *addresses, *token]

    def _reads(self) -> list[Path]:
        assert self.intent_file
        return [*super()._reads(), self.intent_file]

    def _answers(self) -> bool:
        try:
            self.status()
        except OSError:
            return False
        return True

    # REST

    def status(self) -> dict[str, Any]:
        """Revision and state of every switch as the controller sees them."""
        return self.request("GET", "/status")

    def intent(self) -> dict[str, Any]:
        """The intent that is in force."""
        return self.request("GET", "/intent")

    def set_intent(self, intent: dict[str, Any]) -> dict[str, Any]:
        """Replace the intent; returns when all switches of the lab have its rules: what changed, as `PUT
        /intent` answers."""
        answer = self.request("PUT", "/intent", intent)
        for switch in self.lab.switches.values():
            self.await_rules(switch)
        return answer

    def reload(self) -> dict[str, Any]:
        """Have the intent file hold as it is now, after somebody edited it; returns as `set_intent` does."""
        assert self.intent_file, "start() has written it"
        try:
            return self.set_intent(intent_file.read(self.intent_file).to_object())
        except VSwitchError as error:
            raise LabError(f"{self.name}: the intent stays as it is: {error}") from None

    def await_rules(self, switch: VSwitch) -> None:
        """Return when the switch has all rules of the intent in force; raises LabError when it refuses one.

        A switch that an intent file does not name has none.
        """
        status: dict[str, Any] = {}

        def settled() -> bool:
            status.update(self.status())
            state = status["switches"].get(switch.name)
            return (
                state is None
                or bool(state["errors"])
                or switch.show()["intent_revision"] == status["revision"]
            )

        in_time = poll_until(settled, RULES_TIMEOUT_S)
        errors = status["switches"].get(switch.name, {}).get("errors", [])
        if errors:
            raise LabError(f"{switch.name} does not hold the controller's intent: {errors[0]}")
        if not in_time:
            raise LabError(
                f"{switch.name} did not get its rules from {self.name} within {RULES_TIMEOUT_S:g} s"
            )

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a request (docs/reference/rest.md); raises LabError with what the controller says."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self.token_file:
            headers["Authorization"] = f"Bearer {self.token_file.read_text().strip()}"
        request = urllib.request.Request(f"{self.rest_url}{path}", data, headers, method=method)
        try:
            with DIRECT.open(request, timeout=REST_TIMEOUT_S) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.headers.get_content_type() != "application/json":  # none of the paths
                raise LabError(f"{self.name}: {method} {path}: {error.reason}") from None
            raise LabError(f"{self.name}: {json.loads(error.read())['error']}") from None


def ryu_python() -> Path:
    """The interpreter of the controller's virtual environment."""
    path = Path(os.environ.get(PYTHON_VARIABLE) or ROOT / ".venv-ryu" / "bin" / "python")
    if not path.exists():
        raise LabError(
            f"the controller's Python {path} does not exist: run `make setup`, or set {PYTHON_VARIABLE}"
        )
    return path
