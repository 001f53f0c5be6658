# SPDX-License-Identifier: Apache-2.0
"""OpenFlow 1.3 without I/O: wire codec, session engine, pipeline specification, Experimenter messages."""
