# SPDX-License-Identifier: Apache-2.0
"""Mininet classes: switch, VM, links, controller, and the topologies made of them (`mn --custom
topologies/mn.py`).
"""
