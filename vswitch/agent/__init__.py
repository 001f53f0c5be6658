# SPDX-License-Identifier: Apache-2.0
"""The slow path: OpenFlow tables and pipeline, cached flows, controller sessions, control socket."""
