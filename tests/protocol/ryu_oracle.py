# SPDX-License-Identifier: Apache-2.0
"""Ryu's own OpenFlow 1.3 codec as an oracle: runs under Ryu's interpreter, one JSON request a line.

{"build": "OFPEchoRequest(dp, data=b'x')"} -> {"hex": …}     an expression over Ryu's parser, serialised
{"parse": "040200…"}                       -> {"json": …}    what Ryu reads in the bytes
"""

import eventlet.wsgi

if not hasattr(eventlet.wsgi, "ALREADY_HANDLED"):
    eventlet.wsgi.ALREADY_HANDLED = None

import json
import sys
import traceback

from ryu.ofproto import ofproto_parser, ofproto_v1_3, ofproto_v1_3_parser
from ryu.ofproto.ofproto_protocol import ProtocolDesc

dp = ProtocolDesc(version=ofproto_v1_3.OFP_VERSION)
NAMES = {**vars(ofproto_v1_3_parser), "dp": dp, "ofp": ofproto_v1_3}


def build(expression):
    message = eval(expression, NAMES)
    message.set_xid(0x01020304)
    message.serialize()
    return {"hex": bytes(message.buf).hex()}


def parse(text):
    data = bytes.fromhex(text)
    version, msg_type, msg_len, xid = ofproto_parser.header(data)
    message = ofproto_parser.msg(dp, version, msg_type, msg_len, xid, data)
    return {"json": message.to_jsondict()}


def main():
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = build(request["build"]) if "build" in request else parse(request["parse"])
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


main()
