# SPDX-License-Identifier: Apache-2.0
"""Back ends: the same two servers and VMs, built on the switch, on the Linux kernel, and on Open vSwitch."""
