# SPDX-License-Identifier: Apache-2.0
"""The compiled half: packet bytes, tables, stages and the worker loop that runs them."""
