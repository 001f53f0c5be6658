# SPDX-License-Identifier: Apache-2.0
"""A software switch in Python: compiled dataplane, OpenFlow agent, one process per emulated server."""
