# SPDX-License-Identifier: Apache-2.0
"""How long tests wait for what must come."""

PATIENCE_S = 30.0
"""The machine may be busy with other things: only what would never come is to take as long. No test waits for
time to pass where there is a condition to wait for, and none takes an answer's haste for granted."""
