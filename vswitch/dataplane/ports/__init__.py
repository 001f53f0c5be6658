# SPDX-License-Identifier: Apache-2.0
"""Where frames enter and leave: TAP interfaces and emulated wires."""
