# SPDX-License-Identifier: Apache-2.0
"""A port's receive side as a NIC's: queues, their assignment, LRO rules, drivers (S0.1 to S0.7)."""
