# SPDX-License-Identifier: Apache-2.0
"""The few machine operations that NumPy has no word for: unaligned big-endian access to packet bytes,
acquire/release access to words shared with another process, memory copy, and system calls.

Each takes `mem` and a byte offset. `mem` is the flat byte array of the switch's memory, or a bare pointer to
it (`pointer_to`): the worker passes the pointer, since an array argument costs a reference count at each
call that is not inlined. Loads return a non-negative int64 (those of 64 bits: the bit pattern). All have a
plain-Python body that is used under NUMBA_DISABLE_JIT=1, and check their offsets under NUMBA_BOUNDSCHECK=1,
both on the array; otherwise the caller has checked them (see parse.py).
"""

import ctypes
import struct

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import NativeValue, intrinsic, typeof_impl, unbox

INTERPRETED = bool(config.DISABLE_JIT)
CHECKED = bool(config.BOUNDSCHECK)


def _pointer(context, builder, mem_type, mem, offset, bits):
    data = (
        mem
        if isinstance(mem_type, types.CPointer)
        else context.make_array(mem_type)(context, builder, mem).data
    )
    return builder.bitcast(builder.gep(data, [offset]), ir.IntType(bits).as_pointer())


def _make_load(bits, swap):
    @intrinsic
    def load(typing, mem, offset):
        def codegen(context, builder, signature, args):
            value = builder.load(_pointer(context, builder, signature.args[0], *args, bits), align=1)
            if swap:
                value = builder.bswap(value)
            return value if bits == 64 else builder.zext(value, ir.IntType(64))

        return types.int64(mem, types.int64), codegen

    return load


def _make_store(bits, swap):
    @intrinsic
    def store(typing, mem, offset, value):
        def codegen(context, builder, signature, args):
            array, offset, value = args
            if bits < 64:
                value = builder.trunc(value, ir.IntType(bits))
            if swap:
                value = builder.bswap(value)
            builder.store(value, _pointer(context, builder, signature.args[0], array, offset, bits), align=1)
            return context.get_dummy_value()

        return types.void(mem, types.int64, types.int64), codegen

    return store


@intrinsic
def _acquire64(typing, mem, offset):
    def codegen(context, builder, signature, args):
        return builder.load_atomic(_pointer(context, builder, signature.args[0], *args, 64), "acquire", 8)

    return types.int64(mem, types.int64), codegen


@intrinsic
def _release64(typing, mem, offset, value):
    def codegen(context, builder, signature, args):
        array, offset, value = args
        pointer = _pointer(context, builder, signature.args[0], array, offset, 64)
        builder.store_atomic(value, pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(mem, types.int64, types.int64), codegen


@intrinsic
def _full_fence(typing):
    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _copy(typing, mem, target, source, length):
    def codegen(context, builder, signature, args):
        array, target, source, length = args
        to = _pointer(context, builder, signature.args[0], array, target, 8)
        of = _pointer(context, builder, signature.args[0], array, source, 8)
        cgutils.raw_memcpy(builder, to, of, length, 1)
        return context.get_dummy_value()

    return types.void(mem, types.int64, types.int64, types.int64), codegen


@intrinsic
def _assign(typing, target, source):
    def codegen(context, builder, signature, args):
        to, of = (builder.bitcast(arg, ir.IntType(8).as_pointer()) for arg in args)
        cgutils.raw_memcpy(builder, to, of, context.get_constant(types.intp, target.size), 1)
        return context.get_dummy_value()

    if isinstance(target, types.Record) and target == source:
        return types.void(target, source), codegen
    raise TypingError(f"assign copies a record to another of its type, not a {source} to a {target}")


@intrinsic
def _prefetch(typing, mem, offset):
    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], *args, 8)
        i32 = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [pointer, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(mem, types.int64), codegen


def _checked_load(load, size):
    @njit(inline="never")
    def checked(mem, offset):
        if offset < 0 or offset + size > len(mem):
            raise IndexError("load outside of mem")
        return load(mem, offset)

    return checked


def _checked_store(store, size):
    @njit(inline="never")
    def checked(mem, offset, value):
        if offset < 0 or offset + size > len(mem):
            raise IndexError("store outside of mem")
        store(mem, offset, value)

    return checked


def _python_load(form):
    size = struct.calcsize(form)

    def load(mem, offset):
        if offset < 0 or offset + size > len(mem):
            raise IndexError("load outside of mem")
        return struct.unpack_from(form, mem, offset)[0]

    return load


def _python_store(form):
    size = struct.calcsize(form)
    mask = (1 << (8 * size)) - 1

    def store(mem, offset, value):
        if offset < 0 or offset + size > len(mem):
            raise IndexError("store outside of mem")
        mem[offset : offset + size] = np.frombuffer(
            struct.pack(form.upper(), int(value) & mask), dtype=np.uint8
        )

    return store


_WIDTHS = {
    "8": (8, False, "<B"),
    "16": (16, True, ">H"),
    "32": (32, True, ">I"),
    "le16": (16, False, "<H"),
    "le32": (32, False, "<I"),
    "64": (64, False, "<q"),
    "be64": (64, True, ">q"),
}


def _build():
    loads, stores = {}, {}
    for name, (bits, swap, form) in _WIDTHS.items():
        if INTERPRETED:
            loads[name], stores[name] = _python_load(form), _python_store(form)
            continue
        loads[name], stores[name] = _make_load(bits, swap), _make_store(bits, swap)
        if CHECKED:
            loads[name] = _checked_load(loads[name], bits // 8)
            stores[name] = _checked_store(stores[name], bits // 8)
    return loads, stores


_LOADS, _STORES = _build()

# Network byte order; `load64`/`store64`, `load_le16` and `load_le32` are in the machine's order.
load8, load16, load32, load64 = (_LOADS[name] for name in ("8", "16", "32", "64"))
load_le16, load_le32, load_be64 = _LOADS["le16"], _LOADS["le32"], _LOADS["be64"]
store8, store16, store32, store64 = (_STORES[name] for name in ("8", "16", "32", "64"))
store_le16, store_le32 = _STORES["le16"], _STORES["le32"]


if INTERPRETED:
    acquire64, release64 = load64, store64

    def full_fence():
        """Order all loads and stores before it with those after it."""

    def prefetch(mem, offset):
        """Ask for the cache line at `offset`."""

    def copy(mem, target, source, length):
        """Copy `length` bytes within `mem`; the ranges must not overlap."""
        if min(target, source, length) < 0 or max(target, source) + length > len(mem):
            raise IndexError("copy outside of mem")
        mem[target : target + length] = mem[source : source + length].copy()

    def assign(target, source):
        """Make row `target` of a table equal to `source`. (Numba's own assignment copies byte by byte.)"""
        for name in source.dtype.names:
            target[name] = source[name]

elif CHECKED:
    acquire64, release64 = _checked_load(_acquire64, 8), _checked_store(_release64, 8)
    full_fence, prefetch, assign = _full_fence, _prefetch, _assign

    @njit
    def copy(mem, target, source, length):
        """Copy `length` bytes within `mem`; the ranges must not overlap."""
        if min(target, source, length) < 0 or max(target, source) + length > len(mem):
            raise IndexError("copy outside of mem")
        _copy(mem, target, source, length)

else:
    acquire64, release64 = _acquire64, _release64
    full_fence, prefetch, assign, copy = _full_fence, _prefetch, _assign, _copy


if INTERPRETED or CHECKED:

    @njit
    def pointer_to(mem):
        """`mem` in the form that the worker passes on: here the array itself."""
        return mem

    def pointed(mem):
        """`mem` for who calls a stage from Python: here the array itself."""
        return mem

else:

    @intrinsic
    def pointer_to(typing, mem):
        """`mem` in the form that the worker passes on: the array's address."""

        def codegen(context, builder, signature, args):
            return context.make_array(signature.args[0])(context, builder, args[0]).data

        return types.CPointer(types.uint8)(mem), codegen

    class _Pointed(np.ndarray):
        """An array that is handed over as its address, without the reference count and the length."""

        __numba_array_subtype_dispatch__ = True

    @typeof_impl.register(_Pointed)
    def _type_of_pointed(array, context):
        return types.CPointer(types.uint8)

    @unbox(types.CPointer)
    def _address_of_pointed(pointer_type, array, c):
        interface = c.pyapi.object_getattr_string(array, "ctypes")
        number = c.pyapi.object_getattr_string(interface, "data")
        address = c.pyapi.long_as_ulonglong(number)
        c.pyapi.decref(number)
        c.pyapi.decref(interface)
        return NativeValue(c.builder.inttoptr(address, c.context.get_value_type(pointer_type)))

    def pointed(mem):
        """`mem` for who calls a stage from Python: it runs the very code that the worker runs."""
        return mem.view(_Pointed)


if INTERPRETED:

    def address(mem, offset):
        """The machine address of mem[offset]."""
        return mem.ctypes.data + offset

else:

    @intrinsic
    def address(typing, mem, offset):
        """The machine address of mem[offset]."""

        def codegen(context, builder, signature, args):
            pointer = _pointer(context, builder, signature.args[0], *args, 8)
            return builder.ptrtoint(pointer, ir.IntType(64))

        return types.int64(mem, types.int64), codegen


# System calls. Buffers are given as (mem, offset); the result is the system's: -1 tells of an error.

_I32, _I64, _PTR = types.int32, types.int64, types.uintp
_SIGNATURES = {
    "read": _I64(_I32, _PTR, _I64),
    "write": _I64(_I32, _PTR, _I64),
    "readv": _I64(_I32, _PTR, _I32),
    "writev": _I64(_I32, _PTR, _I32),
    "sendmmsg": _I32(_I32, _PTR, _I32, _I32),
    "getsockopt": _I32(_I32, _I32, _I32, _PTR, _PTR),
    "ppoll": _I32(_PTR, _I64, _PTR, _PTR),
    "sched_yield": _I32(),
    "clock_gettime": _I32(_I32, _PTR),
    "__errno_location": _PTR(),
}
_LIBC = ctypes.CDLL(None, use_errno=True)


def _foreign(name):
    if not INTERPRETED:
        return types.ExternalFunction(name, _SIGNATURES[name])
    function = getattr(_LIBC, name)
    kinds = {_I32: ctypes.c_int, _I64: ctypes.c_int64, _PTR: ctypes.c_void_p}
    signature = _SIGNATURES[name]
    function.restype = kinds[signature.return_type]
    function.argtypes = [kinds[kind] for kind in signature.args]
    return lambda *arguments: function(*map(int, arguments))  # ctypes takes no NumPy integers


_read, _write, _writev, _ppoll = _foreign("read"), _foreign("write"), _foreign("writev"), _foreign("ppoll")
_readv, _sendmmsg, _getsockopt = _foreign("readv"), _foreign("sendmmsg"), _foreign("getsockopt")
_clock_gettime, _errno_location = _foreign("clock_gettime"), _foreign("__errno_location")
_sched_yield = _foreign("sched_yield")

if INTERPRETED:

    def errno():
        """The number of the last system call's error."""
        return ctypes.get_errno()

else:

    @intrinsic
    def _load_i32(typing, address):
        def codegen(context, builder, signature, args):
            return builder.load(builder.inttoptr(args[0], ir.IntType(32).as_pointer()))

        return types.int32(types.uintp), codegen

    @njit
    def errno():
        """The number of the last system call's error."""
        return np.int64(_load_i32(_errno_location()))


@njit
def sys_read(mem, fd, offset, length):
    """read(2) into mem[offset:offset+length]."""
    return np.int64(_read(np.int32(fd), address(mem, offset), np.int64(length)))


@njit
def sys_write(mem, fd, offset, length):
    """write(2) of mem[offset:offset+length]."""
    return np.int64(_write(np.int32(fd), address(mem, offset), np.int64(length)))


@njit
def sys_readv(mem, fd, iov_offset, count):
    """readv(2) into the `count` I/O vectors that stand at mem[iov_offset]; set them with `set_iov`."""
    return np.int64(_readv(np.int32(fd), address(mem, iov_offset), np.int32(count)))


@njit
def sys_writev(mem, fd, iov_offset, count):
    """writev(2) of the `count` I/O vectors that stand at mem[iov_offset]; set them with `set_iov`."""
    return np.int64(_writev(np.int32(fd), address(mem, iov_offset), np.int32(count)))


@njit
def set_iov(mem, iov_offset, index, offset, length):
    """Make the I/O vector number `index` at `iov_offset` stand for mem[offset:offset+length]."""
    store64(mem, iov_offset + 16 * index, address(mem, offset))
    store64(mem, iov_offset + 16 * index + 8, length)


MSG_DONTWAIT, MSG_NOSIGNAL = 0x40, 0x4000
MESSAGE = 64
"""Bytes of struct mmsghdr."""
MESSAGE_LENGTH = 56
"""Offset in struct mmsghdr of what the kernel took of the message."""


@njit
def set_message(mem, messages_offset, index, iov_offset, count):
    """Make struct mmsghdr number `index` stand for `count` I/O vectors; its other fields stay."""
    at = messages_offset + MESSAGE * index
    store64(mem, at + 16, address(mem, iov_offset))
    store64(mem, at + 24, count)


@njit
def sys_sendmmsg(mem, fd, messages_offset, count):
    """sendmmsg(2) of the `count` structures that `set_message` made, without waiting."""
    flags = np.int32(MSG_DONTWAIT | MSG_NOSIGNAL)
    return np.int64(_sendmmsg(np.int32(fd), address(mem, messages_offset), np.int32(count), flags))


SOL_SOCKET, SO_ERROR = 1, 4


@njit
def sys_clear_error(mem, fd, scratch_offset):
    """Take the error that waits at a socket, so that ppoll(2) tells of it no more; 8 bytes are scratch."""
    store_le32(mem, scratch_offset + 4, 4)
    value, length = address(mem, scratch_offset), address(mem, scratch_offset + 4)
    return np.int64(_getsockopt(np.int32(fd), np.int32(SOL_SOCKET), np.int32(SO_ERROR), value, length))


@njit
def sys_ppoll(mem, pollfds_offset, count, timespec_offset, timeout_ns):
    """ppoll(2) on the `count` pollfd structures at `pollfds_offset`; `timeout_ns` < 0 waits without end."""
    if timeout_ns < 0:
        return np.int64(_ppoll(address(mem, pollfds_offset), np.int64(count), 0, 0))
    store64(mem, timespec_offset, timeout_ns // 1_000_000_000)
    store64(mem, timespec_offset + 8, timeout_ns % 1_000_000_000)
    timespec = address(mem, timespec_offset)
    return np.int64(_ppoll(address(mem, pollfds_offset), np.int64(count), timespec, 0))


@njit
def sys_yield():
    """sched_yield(2): who waits for this core runs first; returns at once if nobody does."""
    return np.int64(_sched_yield())


@njit
def monotonic_ns(mem, timespec_offset):
    """CLOCK_MONOTONIC in nanoseconds; the 16 bytes at `timespec_offset` are scratch."""
    _clock_gettime(np.int32(1), address(mem, timespec_offset))
    return load64(mem, timespec_offset) * 1_000_000_000 + load64(mem, timespec_offset + 8)
