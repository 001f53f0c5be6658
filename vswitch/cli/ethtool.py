# SPDX-License-Identifier: Apache-2.0
"""ethtool's words: which of them a NIC here has, and what stands for the others."""

from __future__ import annotations

ALIASES = {
    "--show-channels": "-l",
    "--set-channels": "-L",
    "--show-rxfh": "-x",
    "--show-rxfh-indir": "-x",
    "--set-rxfh-indir": "-X",
    "--rxfh": "-X",
    "--rxfh-indir": "-X",
    "-u": "-n",
    "--show-nfc": "-n",
    "--show-ntuple": "-n",
    "-U": "-N",
    "--config-nfc": "-N",
    "--config-ntuple": "-N",
    "--show-features": "-k",
    "--show-offload": "-k",
    "--features": "-K",
    "--offload": "-K",
    "--statistics": "-S",
    "--driver": "-i",
}
"""Other names of what a NIC here has, as ethtool(8) has them."""

_COALESCE = (
    "no interrupt is raised here that could be coalesced: a worker polls. What merges segments is LRO: -k "
    "shows it, and -K [queue Q] lro on|off|rules [size BYTES] sets it"
)
_RINGS = (
    "the rings have a fixed size. How many frames wait at a wire that is slower than what comes is set by: "
    "vswitchctl wire [SWITCH] PORT max_queue_size=N"
)
_PAUSE = "there are no pause frames: a receiver that is slow makes the sender's TAPs wait (tx_backpressure)"
_SPEED = (
    "a port is as fast as its link: for a wire, vswitchctl wire [SWITCH] PORT bw=MBITS; else its interface's"
)
_LINK = "vswitchctl port shows the links, and vswitchctl wire [SWITCH] PORT link=down cuts a wire"
_HARDWARE = "there is no hardware behind this NIC that could be asked"
_TIMES = "frames have no time stamps, but in a capture: vswitchctl capture [SWITCH] PORT -w FILE"
_PER_QUEUE = "what holds for one queue is named behind -K: -K queue Q lro on|off|rules"
_FLAGS = "there are no private flags: -K sets what can be set"

ELSEWHERE = {
    **dict.fromkeys(("-c", "--show-coalesce", "-C", "--coalesce"), _COALESCE),
    **dict.fromkeys(("-g", "--show-ring", "-G", "--set-ring"), _RINGS),
    **dict.fromkeys(("-a", "--show-pause", "-A", "--pause"), _PAUSE),
    **dict.fromkeys(("-s", "--change"), _SPEED),
    **dict.fromkeys(("--negotiate", "--show-fec", "--set-fec", "--show-eee", "--set-eee", "--reset"), _LINK),
    **dict.fromkeys(
        (
            "-d", "--register-dump", "-e", "--eeprom-dump", "-E", "--change-eeprom", "-f", "--flash", "-m",
            "--module-info", "-p", "--identify", "-t", "--test", "-w", "--get-dump", "-W", "--set-dump",
            "--phy-statistics", "--get-phy-tunable", "--set-phy-tunable", "--dump-module-eeprom",
        ),
        _HARDWARE,
    ),
    **dict.fromkeys(("-T", "--show-time-stamping"), _TIMES),
    **dict.fromkeys(("-Q", "--per-queue"), _PER_QUEUE),
    **dict.fromkeys(("--show-priv-flags", "--set-priv-flags"), _FLAGS),
    **dict.fromkeys(("-P", "--show-permaddr"), "vswitchctl port shows each port's MAC address"),
}  # fmt: skip
"""What stands for ethtool's other options here."""

_SEGMENTATION = (
    "what leaves is cut to the port's MTU, always; what a VM hands over, ethtool -K in the VM says"
)
_CHECKSUMS = "checksums are verified and completed, always"
_TAGS = "VLAN tags stay in the frame; a rule's pop_vlan takes them off"

FEATURES_ELSEWHERE = {
    **dict.fromkeys(("tso", "gso", "sg", "ufo", "tcp-segmentation-offload", "generic-segmentation-offload",
                     "scatter-gather", "tx-udp-segmentation"), _SEGMENTATION),
    **dict.fromkeys(("rx", "tx", "rx-checksumming", "tx-checksumming"), _CHECKSUMS),
    **dict.fromkeys(("rxvlan", "txvlan", "rx-vlan-offload", "tx-vlan-offload"), _TAGS),
    **dict.fromkeys(("ntuple", "ntuple-filters"), "filters are on, always: -N adds one, -n lists them"),
    **dict.fromkeys(("rxhash", "receive-hashing"), "flows are spread by their hash, always: -x shows how"),
    **dict.fromkeys(("rx-gro-list", "rx-udp-gro-forwarding", "rx-udp_tunnel-port-offload"),
                    "only TCP is coalesced, in every tunnel format that is known, by: -K lro on"),
}  # fmt: skip
"""What stands for ethtool's other features (`-K FEATURE on|off`) here."""

COALESCING = {"generic-receive-offload": "gro", "rx-gro-hw": "gro", "large-receive-offload": "lro"}
"""ethtool's long names of features that a NIC here has."""
