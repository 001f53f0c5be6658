# SPDX-License-Identifier: Apache-2.0
"""Ryu's OpenFlow 1.3 switch tester, run against this switch: 991 tests that nobody of this project wrote."""
