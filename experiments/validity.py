# SPDX-License-Identifier: Apache-2.0
"""When a run does not count: the emulation fell behind, others used the CPU, or packets were wrong.

After Mininet-HiFi (Handigol et al., CoNEXT 2012): a run in which the emulator itself missed its deadlines, or
did not have the machine to itself, is marked invalid rather than published.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.cpu import CpuUse

LATE_COUNTER = "wire_late"
TIMED_COUNTER, INEXACT_COUNTER = "wire_timed", "wire_inexact"
CHECKSUM_COUNTERS = ("rx_bad_checksum", "rx_bad_outer_checksum", "checksum_error")


def reasons_against(cpu: CpuUse, counters: Mapping[str, int], other_cpu_limit: float) -> list[str]:
    """Why a run is invalid, one sentence each; an empty list when it is valid.

    counters: by how much each counter grew during the run.
    other_cpu_limit: in cores, what others and the hypervisor together may use.
    """
    reasons = []
    if cpu.disturbance > other_cpu_limit:
        stolen = f", of which {cpu.stolen:.2f} stolen by the hypervisor" if cpu.stolen else ""
        reasons.append(
            f"others used {cpu.disturbance:.2f} of a core{stolen} (allowed: {other_cpu_limit:.2f})"
        )
    for name, growth in sorted(counters.items()):
        if not growth:
            continue
        if name.endswith(LATE_COUNTER):
            reasons.append(f"the wire released {growth} frames late ({name})")
        elif name.endswith(INEXACT_COUNTER):
            timed = counters[name.removesuffix(INEXACT_COUNTER) + TIMED_COUNTER]
            if 2 * growth > timed:  # the median is beyond, too
                reasons.append(f"of {timed} frames, {growth} left the wire more than 50 us late ({name})")
        elif name.endswith(CHECKSUM_COUNTERS):
            reasons.append(f"{growth} packets had a wrong checksum ({name})")
    return reasons
