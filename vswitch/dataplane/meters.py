# SPDX-License-Identifier: Apache-2.0
"""Meters: token buckets that drop or remark what exceeds a rate (OpenFlow 1.3.5, section 5.7).

Each band has a bucket of `burst` tokens, bytes or packets, filled at the band's rate. A packet takes its
tokens out of every bucket that has enough; of the bands that have not, that of the highest rate is applied.
Packets are those that a wire would carry: a super-frame counts as its segments.
"""

from vswitch.dataplane.account import drop_segments
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.outgoing import cut, is_ip, segment_count, set_tos
from vswitch.dataplane.ports.vnet import is_super_frame
from vswitch.layout import Counter

NO_BAND = -1
MAX_PRECEDENCE = 3


@compiled
def apply(mem, t, index):
    """Apply the meter of this index to the packet; whether anything of it is left.

    What a super-frame has in excess is cut off its end.
    """
    if index < 0 or not t["meters"][index]["used"]:
        return True
    meter = t["meters"][index]
    _fill(meter, t["now_ns"])
    out = t["outgoing"]
    count = segment_count(out)
    is_super = is_super_frame(out)
    for number in range(count):
        size = out["bytes"]
        if is_super:
            size = out["header_len"] + min(out["gso_size"], out["payload_len"] - number * out["gso_size"])
        meter["packets"] += 1
        meter["bytes"] += size
        band = _exceeded_band(meter, 1 if meter["in_packets"] else size)
        if band == NO_BAND:
            continue
        meter["band_packets"][band] += 1
        meter["band_bytes"][band] += size
        if meter["prec_level"][band] == 0:
            _count_rest(meter, band, out, number + 1, count)
            are_frames = number > 0 and out["frames"] == count
            drop_segments(t, Counter.METER_DROP.value, count - number, are_frames)
            if number == 0:
                return False
            cut(mem, t, 0, number * out["gso_size"])
            return True
        if is_ip(mem, out):
            set_tos(mem, out, remarked(out["tos"], meter["prec_level"][band]))
    return True


@compiled
def _fill(meter, now_ns):
    """Add the tokens of the time that has passed."""
    for band in range(meter["bands"]):
        added = meter["rate"][band] * (now_ns - meter["filled_ns"][band])
        meter["tokens"][band] = min(meter["burst"][band], meter["tokens"][band] + added)
        meter["filled_ns"][band] = now_ns


@compiled
def _exceeded_band(meter, tokens):
    """Take tokens out of the buckets that have them; of the other bands, that of the highest rate."""
    exceeded = NO_BAND
    for band in range(meter["bands"]):
        if meter["tokens"][band] >= tokens:
            meter["tokens"][band] -= tokens
        elif exceeded == NO_BAND or meter["rate"][band] > meter["rate"][exceeded]:
            exceeded = band
    return exceeded


@compiled
def _count_rest(meter, band, out, first, count):
    """A band drops a super-frame's segments from number `first` on: count them."""
    if first >= count:
        return
    size = (count - first) * out["header_len"] + out["payload_len"] - first * out["gso_size"]
    meter["packets"] += count - first
    meter["bytes"] += size
    meter["band_packets"][band] += count - first
    meter["band_bytes"][band] += size


@compiled
def treats_alike(t, index):
    """Whether a meter leaves all segments of the super-frame with one DSCP."""
    if index < 0 or not t["meters"][index]["used"]:
        return True
    meter = t["meters"][index]
    out = t["outgoing"]
    count = segment_count(out)
    needed = count if meter["in_packets"] else (count - 1) * out["header_len"] + out["bytes"]
    for band in range(meter["bands"]):
        added = meter["rate"][band] * (t["now_ns"] - meter["filled_ns"][band])
        tokens = min(meter["burst"][band], meter["tokens"][band] + added)
        if meter["prec_level"][band] and tokens < needed:
            return False
    return True


@compiled
def remarked(tos, levels):
    """The TOS with a drop precedence that is `levels` higher, where its DSCP is of an AF class (RFC 2597)."""
    dscp_class, precedence = tos >> 5, (tos >> 3) & 3
    if not 1 <= dscp_class <= 4 or precedence == 0 or tos & 4:
        return tos
    return (tos & ~(3 << 3)) | (min(precedence + levels, MAX_PRECEDENCE) << 3)
