# SPDX-License-Identifier: Apache-2.0
"""Experiments: one file per question, run by one harness (`python -m experiments`)."""
