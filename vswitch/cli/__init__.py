# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl`: one file for each subject, and `main.py`, which finds the command of a line."""
