# SPDX-License-Identifier: Apache-2.0
"""The Ryu (or os-ken) application: it finds the switch, tells the core, and sends what comes back. No more.

The launcher passes the intent file in the environment variable RYU_APPS_INTENT and, for frameworks without a
web server, the REST address in RYU_APPS_REST and the file of REST's token, if it asks for one, in
RYU_APPS_TOKEN_FILE.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ryu_apps import access, framework, intent_file
from ryu_apps.core.changes import sentences
from ryu_apps.core.controller import Controller
from ryu_apps.core.intent import Intent
from ryu_apps.core.plan import AddRule, DeleteRule, Undo
from ryu_apps.core.rules import COOKIE, COOKIE_MASK, Rule
from ryu_apps.core.session import Barrier, Message, RulesRequest, SwitchSession, describe
from ryu_apps.resources import Resources
from ryu_apps.rest import RestApi
from vswitch.errors import VSwitchError
from vswitch.openflow import experimenter
from vswitch.openflow.errors import describe_error
from vswitch.openflow.instructions import Instructions
from vswitch.openflow.oxm import Match

ofp_event = framework.load("controller.ofp_event")
handler = framework.load("controller.handler")
hub = framework.load("lib.hub")
ofproto = framework.load("ofproto.ofproto_v1_3")
wsgi = framework.load("app.wsgi") if framework.has("app.wsgi") else None
on_event = handler.set_ev_cls

ANSWER_TIMEOUT_S = 2.0
DEFAULT_REST = "127.0.0.1:8080"


class Question:
    """A request of which somebody waits for the answer."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.answers = hub.Queue()


class Connection:
    """One OpenFlow connection: a queue of messages to send, and which request an answer belongs to."""

    def __init__(self, datapath: Any) -> None:
        self.datapath = datapath
        self.session: SwitchSession | None = None
        self._queue = hub.Queue()
        self._requests: dict[int, Message] = {}

    def send(self, messages: list[Message]) -> None:
        for message in messages:
            self._queue.put(message)

    def ask(self, body: Any) -> Any:
        """The answer to an experimenter message; raises VSwitchError when it is refused, or does not come."""
        question = Question(body)
        self._queue.put(question)
        try:
            answer = question.answers.get(timeout=ANSWER_TIMEOUT_S)
        except hub.QueueEmpty:
            raise VSwitchError(f"the switch did not answer within {ANSWER_TIMEOUT_S:g} s") from None
        finally:
            self._requests = {xid: asked for xid, asked in self._requests.items() if asked is not question}
        if isinstance(answer, VSwitchError):
            raise answer
        return answer

    def request(self, xid: int) -> Message | Question | None:
        """The message that had this transaction id."""
        return self._requests.get(xid)

    def close(self) -> None:
        self._queue.put(None)

    def run(self) -> None:
        """Send what is queued, until close(). Sending waits for a slow switch; nothing else waits for it."""
        while (message := self._queue.get()) is not None:
            request = to_openflow(self.datapath, message)
            self._requests[self.datapath.set_xid(request)] = message
            self.datapath.send_msg(request)

    def forget(self, barrier: Message) -> None:
        """All up to and including the barrier has been answered."""
        for xid in list(self._requests):
            if self._requests.pop(xid) is barrier:
                return


class OverlayController(framework.application_class()):
    """Distributes the intent over OpenFlow 1.3."""

    OFP_VERSIONS = (ofproto.OFP_VERSION,)
    _CONTEXTS = {"wsgi": wsgi.WSGIApplication} if wsgi else {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _format_log()
        self._intent_file = os.environ.get("RYU_APPS_INTENT")
        self.controller = Controller(self._read_intent() if self._intent_file else Intent())
        self._connections: dict[Any, Connection] = {}
        api = RestApi(Resources(self.controller, self._read_intent, self.counters, framework.aside))
        if wsgi:
            _serve_with(kwargs["wsgi"], api)
        else:
            hub.spawn(_serve_alone, api)
        _on_hang_up(self.reload_intent)
        self.logger.info("REST at http://%s", os.environ.get("RYU_APPS_REST", DEFAULT_REST))

    def reload_intent(self) -> None:
        """Make the edited intent file hold (SIGHUP). What is wrong with it stands in the log."""
        try:
            outcome = self.controller.set_intent(self._read_intent())
        except VSwitchError as error:
            self.logger.error("the intent stays as it is: %s", error)
        else:
            changed = "; ".join(sentences(outcome.changes)) or "nothing"
            self.logger.info("revision %d of the intent holds, changed: %s", outcome.revision, changed)

    def _read_intent(self) -> Intent:
        if self._intent_file is None:
            raise VSwitchError("the controller was started without an intent file")
        return intent_file.read(self._intent_file)

    def counters(self, dpids: list[int]) -> dict[int, dict[str, Any]]:
        """What switches have counted, for REST. All are asked at the same time."""
        counted: dict[int, dict[str, Any]] = {}

        def ask(dpid: int) -> None:
            try:
                counted[dpid] = self._counters(dpid)
            except VSwitchError as error:
                counted[dpid] = {"error": str(error)}

        hub.joinall([hub.spawn(ask, dpid) for dpid in dpids])
        return counted

    def _counters(self, dpid: int) -> dict[str, Any]:
        connections = {datapath.id: connection for datapath, connection in self._connections.items()}
        if dpid not in connections:
            raise VSwitchError("the switch is not connected")
        reply = connections[dpid].ask(experimenter.CountersRequest())
        counted = {"reasons": reply.reasons, "ports": reply.ports, "queues": reply.queues}
        while reply.next is not None:
            reply = connections[dpid].ask(experimenter.CountersRequest(reply.next))
            counted["ports"] |= reply.ports
            counted["queues"] |= reply.queues
        return counted

    @on_event(ofp_event.EventOFPStateChange, [handler.MAIN_DISPATCHER, handler.DEAD_DISPATCHER])
    def state_change(self, event: Any) -> None:
        datapath = event.datapath
        if event.state == handler.MAIN_DISPATCHER:
            connection = self._connections[datapath] = Connection(datapath)
            hub.spawn(connection.run)
            self.logger.info(
                "switch %s connected from %s", self.controller.name(datapath.id), datapath.address
            )
            connection.session = self.controller.connected(datapath.id, connection.send)
        elif datapath in self._connections:
            connection = self._connections.pop(datapath)
            connection.close()
            self.controller.disconnected(datapath.id, connection.session)
            self.logger.info("switch %s disconnected", self.controller.name(datapath.id))

    @on_event(ofp_event.EventOFPExperimenter, handler.MAIN_DISPATCHER)
    def experimenter_message(self, event: Any) -> None:
        message = event.msg
        if message.experimenter != experimenter.EXPERIMENTER_ID:
            return
        try:
            body = experimenter.from_wire(message.exp_type, bytes(message.data))
        except VSwitchError as error:
            self._refused(message, f"an experimenter message that is not understood: {error}")
            return
        connection = self._connections.get(message.datapath)
        request = connection.request(message.xid) if connection else None
        if isinstance(request, Question):
            request.answers.put(body)
        elif isinstance(body, experimenter.CapabilitiesReply):
            self._tell(message, lambda session: session.capabilities(body))
        elif isinstance(body, experimenter.SettingsReply):
            self._tell(message, lambda session: session.settings(body))

    @on_event(ofp_event.EventOFPFlowStatsReply, handler.MAIN_DISPATCHER)
    def flow_stats(self, event: Any) -> None:
        message = event.msg
        connection = self._connections.get(message.datapath)
        if connection is None or not isinstance(connection.request(message.xid), RulesRequest):
            return  # another application asked
        more = bool(message.flags & ofproto.OFPMPF_REPLY_MORE)
        rules = [to_rule(entry) for entry in message.body]
        self._tell(message, lambda session: session.rules(rules, more))

    @on_event(ofp_event.EventOFPBarrierReply, handler.MAIN_DISPATCHER)
    def barrier_reply(self, event: Any) -> None:
        message = event.msg
        connection = self._connections.get(message.datapath)
        barrier = connection.request(message.xid) if connection else None
        if isinstance(barrier, Barrier):
            self._tell(message, lambda session: session.barrier_reply(barrier))
            connection.forget(barrier)
            name, synced = self.controller.name(message.datapath.id), connection.session.synced_revision
            if synced == barrier.revision:
                self.logger.info("switch %s holds revision %d of the intent", name, synced)

    @on_event(ofp_event.EventOFPErrorMsg, handler.MAIN_DISPATCHER)
    def error_message(self, event: Any) -> None:
        message = event.msg
        if message.type == ofproto.OFPET_EXPERIMENTER:
            self._refused(message, bytes(message.data).decode(errors="replace"))
        else:
            self._refused(message, describe_error(message.type, message.code))

    def _tell(self, message: Any, event: Any) -> None:
        connection = self._connections.get(message.datapath)
        if connection:
            self.controller.handle(message.datapath.id, connection.session, event)

    def _refused(self, message: Any, reason: str) -> None:
        connection = self._connections.get(message.datapath)
        if connection is None:
            return
        request = connection.request(message.xid)
        if request is None and message.xid:
            return  # another application's
        if isinstance(request, Question):
            request.answers.put(VSwitchError(reason))
            return
        self.logger.error(
            "switch %s: %s, in answer to %s",
            self.controller.name(message.datapath.id),
            reason,
            describe(request),
        )
        connection.session.refused(request, reason)


# ---- between the core's messages and Ryu's ----


def to_openflow(datapath: Any, message: Message | Question) -> Any:
    """A message of the core as one of Ryu's parser."""
    parser = datapath.ofproto_parser
    if isinstance(message, (AddRule, DeleteRule)):
        return _flow_mod(datapath, message)
    if isinstance(message, RulesRequest):
        return parser.OFPFlowStatsRequest(datapath, cookie=COOKIE, cookie_mask=COOKIE_MASK)
    if isinstance(message, Barrier):
        return parser.OFPBarrierRequest(datapath)
    if isinstance(message, Question):
        message = message.body
    exp_type, data = experimenter.to_wire(message.setting.undo() if isinstance(message, Undo) else message)
    return parser.OFPExperimenter(datapath, experimenter.EXPERIMENTER_ID, exp_type, data)


def _flow_mod(datapath: Any, step: AddRule | DeleteRule) -> Any:
    parser, rule = datapath.ofproto_parser, step.rule
    adds = isinstance(step, AddRule)
    return parser.OFPFlowMod(
        datapath,
        cookie=rule.cookie,
        cookie_mask=0 if adds else COOKIE_MASK,
        table_id=rule.table,
        command=ofproto.OFPFC_ADD if adds else ofproto.OFPFC_DELETE_STRICT,
        priority=rule.priority,
        out_port=ofproto.OFPP_ANY,
        out_group=ofproto.OFPG_ANY,
        match=parser.OFPMatch.parser(rule.match.encode(), 0),
        instructions=[parser.OFPInstruction.parser(item.encode(), 0) for item in rule.instructions]
        if adds
        else [],
    )


def to_rule(entry: Any) -> Rule:
    """A rule as the switch reports it (Ryu's OFPFlowStats)."""
    match, instructions = bytearray(), bytearray()
    entry.match.serialize(match, 0)
    for instruction in entry.instructions:
        instruction.serialize(instructions, len(instructions))
    return Rule(
        entry.table_id,
        entry.priority,
        Match.decode(bytes(match))[0],
        Instructions.decode(bytes(instructions)),
        entry.cookie,
    )


def _on_hang_up(act: Callable[[], None]) -> None:
    """Call `act` in a green thread after each SIGHUP.

    What a signal's handler calls would run in the middle of anything. The signal's number, which Python
    writes to a socket at once, wakes a green thread.
    """
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGHUP, lambda *_: None)

    def wait() -> None:
        with ours, pythons:
            while numbers := ours.recv(1 << 10):
                if signal.SIGHUP in numbers:
                    act()

    hub.spawn(wait)


def _format_log() -> None:
    """Ryu's log lines have no time, and one for each REST request that nobody wants to read."""
    for log_handler in logging.getLogger().handlers:
        log_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger(hub.__name__).setLevel(logging.WARNING)


# ---- the REST interface's server ----


def _serve_with(application: Any, api: RestApi) -> None:
    """On the framework's own web server, beside other applications' interfaces."""

    class Bridge(wsgi.ControllerBase):
        def __call__(self, request: Any) -> Any:
            return api  # a WSGI application answers as well as a response would

    for path in api.paths:
        application.mapper.connect(path, path, controller=Bridge)
    match = application.mapper.match

    def match_or_ours(*arguments: Any, **options: Any) -> Any:
        """What no application has is answered by ours, too: in JSON, with the nearest path."""
        return match(*arguments, **options) or {"controller": Bridge}

    application.mapper.match = match_or_ours


def _serve_alone(api: RestApi) -> None:
    host, _, port = os.environ.get("RYU_APPS_REST", DEFAULT_REST).rpartition(":")
    token_file = os.environ.get("RYU_APPS_TOKEN_FILE")
    token = access.token(Path(token_file)) if token_file else None
    hub.WSGIServer((host, int(port)), access.guarded(api, token)).serve_forever()
