# SPDX-License-Identifier: Apache-2.0
"""How the dataplane's functions are compiled: into the cache directory, for callers that are compiled too.

LLVM goes over a function and everything below it once for each level of calls, so what has one caller only
and is long is a part of that caller (`inlined`). A literal among the arguments, as a narrower integer, would
compile a function once more: constants that are often passed are `np.int64`, and records hold 64 bits.
"""

from numba import njit

compiled = njit(cache=True, no_cfunc_wrapper=True)
inlined = njit(cache=True, no_cfunc_wrapper=True, inline="always")
