# SPDX-License-Identifier: Apache-2.0
"""The compiled half: packet bytes, tables, stages and the worker loop that runs them.

Compiled code is kept in a directory of its own (`vswitch/code_cache.py`).
"""

import os

from vswitch.code_cache import VARIABLE, cache_directory


def _use_cache_directory() -> None:
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = str(cache_directory())
        import numba  # it may have been imported, and read its settings, already

        numba.config.reload_config()


_use_cache_directory()
