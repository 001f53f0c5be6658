# SPDX-License-Identifier: Apache-2.0
"""How the dataplane's functions are compiled: into the cache directory, for callers that are compiled too.

LLVM goes over a function and everything below it once for each level of calls, so what has one caller only
and is long is a part of that caller (`inlined`). What else would cost time is taken from Numba here: it
compiles a function once more for each literal among a call's arguments, and writes out the types of a
function's arguments, which say every field of every table, before each of its passes.
"""

from functools import cache

from numba import njit
from numba.core.types import Record, unliteral

from vswitch.dataplane.intrinsics import INTERPRETED

Record.__repr__ = cache(Record.__repr__)

_dispatchers = []


def compiled(function):
    """Compile `function` once for each combination of types that it is called with, which it learns then."""
    dispatcher = njit(cache=True, no_cfunc_wrapper=True)(function)
    _dispatchers.append(dispatcher)
    return dispatcher if INTERPRETED else _blind_to_literals(dispatcher)


def compiled_part():
    """Which part of the functions that were imported has been compiled or loaded: 0 to 1."""
    return sum(bool(dispatcher.signatures) for dispatcher in _dispatchers) / len(_dispatchers)


def inlined(function):
    """As `compiled`, of a function that becomes a part of its callers."""
    return njit(cache=True, no_cfunc_wrapper=True, inline="always")(function)


def _blind_to_literals(dispatcher):
    template_of = dispatcher.get_call_template

    def get_call_template(args, kws):
        return template_of([unliteral(arg) for arg in args], {k: unliteral(arg) for k, arg in kws.items()})

    dispatcher.get_call_template = get_call_template
    return dispatcher
