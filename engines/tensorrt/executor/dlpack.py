"""GPU memory to and from other libraries by DLPack capsules, without a copy.

Source: https://github.com/dmlc/dlpack/blob/main/include/dlpack/dlpack.h (the unversioned structs,
which every library still takes) and https://dmlc.github.io/dlpack/latest/python_spec.html
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....errors import FeedError
from ....graph.tensors import Array
from ...base import DlpackTensor

CUDA = 2
LEGACY_STREAM = 1
"""CUDA's handle of the default stream, and DLPack's number for it."""

PER_THREAD_STREAM = 2
"""The same of the default stream that each thread has."""

PER_THREAD_REFUSAL = (
    "stream 2 is another one in each thread, so nobody else could wait for it; expected the "
    "default stream (1) or one that was created"
)

_PRODUCER_MUST_NOT_WAIT = -1
_NAME, _USED = b"dltensor", b"used_dltensor"  # capsules keep the pointer, so these must stay
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))

_python = ctypes.PyDLL(None)  # an instance of our own: argument types are set per instance
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_python.PyCapsule_IsValid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_python.PyCapsule_SetName.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_python.Py_IncRef.argtypes = (ctypes.py_object,)
_python.Py_DecRef.argtypes = (ctypes.py_object,)


@dataclass
class DeviceView:
    """GPU memory that somebody else owns, borrowed for as long as the view lives.

    Attributes:
        address: where the first element is.
        shape: sizes.
        dtype: numpy's dtype of the same kind and width.
        device: type and index, as DLPack counts them.
        contiguous: whether elements lie in C order without gaps.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: tuple[int, int]
    contiguous: bool
    _managed: Any = field(repr=False, default=None)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def checked(self, name: str, device: int) -> Array:
        """An array without memory of the same dtype and shape, for the checks of other arrays.

        Raises:
            FeedError: when it is not on the engine's GPU, or has gaps.
        """
        if self.device != (CUDA, device):
            raise FeedError(
                f"feed {name!r}: expected a tensor on the engine's GPU, CUDA device {device}, got "
                f"DLPack device {self.device}; move it there, or feed numpy arrays to run()"
            )
        if not self.contiguous:
            raise FeedError(
                f"feed {name!r}: expected a C-contiguous tensor, got one with strides; "
                "make it contiguous first"
            )
        return np.broadcast_to(np.empty((), self.dtype), self.shape)

    def __del__(self) -> None:
        managed, self._managed = self._managed, None
        if managed is not None:
            _give_back(managed)


def taken(name: str, tensor: DlpackTensor, stream: int | None) -> DeviceView:
    """Borrow a tensor's memory.

    Args:
        name: of the input, for errors.
        tensor: of any library.
        stream: the caller's stream, on which the tensor is ready; None lets its library make it
            ready on the default stream.

    Raises:
        FeedError: when it is no DLPack tensor, or of a dtype numpy has not, or for the default
            stream of a thread.
    """
    if stream is not None and (type(stream) is not int or stream < 0):
        raise FeedError(
            f"stream: expected the handle of a CUDA stream, a whole number (of PyTorch's: "
            f"stream.cuda_stream), got {stream!r:.80}"
        )
    if stream == PER_THREAD_STREAM:
        raise FeedError(PER_THREAD_REFUSAL)
    consumer = LEGACY_STREAM if stream is None else _PRODUCER_MUST_NOT_WAIT
    try:
        on_gpu = tensor.__dlpack_device__()[0] == CUDA
        # Memory of the CPU knows no streams, and is refused by `checked` with a clear message.
        capsule = tensor.__dlpack__(stream=consumer) if on_gpu else tensor.__dlpack__()
    except (AttributeError, TypeError, BufferError, RuntimeError) as error:
        raise FeedError(
            f"feed {name!r}: expected a DLPack tensor, got {type(tensor).__name__} ({error})"
        ) from error
    if not _python.PyCapsule_IsValid(id(capsule), _NAME):
        raise FeedError(f"feed {name!r}: expected a DLPack capsule that nobody has used yet")
    pointer = _python.PyCapsule_GetPointer(id(capsule), _NAME)
    _python.PyCapsule_SetName(id(capsule), _USED)
    managed = ctypes.cast(pointer, ctypes.POINTER(_Managed))
    try:
        return _view(name, managed)
    except FeedError:
        _give_back(managed)
        raise


def capsule(view: DeviceView, owner: object) -> Any:
    """Lend memory to another library.

    Args:
        view: the memory.
        owner: kept alive until the library is done.

    Returns:
        A capsule named ``dltensor``.
    """
    rank = len(view.shape)
    shape = (ctypes.c_int64 * max(rank, 1))(*view.shape)
    managed = _Managed()
    managed.tensor.data = view.address
    managed.tensor.device = _Device(*view.device)
    managed.tensor.ndim = rank
    managed.tensor.dtype = _DataType(_CODES[view.dtype.kind], 8 * view.dtype.itemsize, 1)
    managed.tensor.shape = shape  # strides stay null: C order
    managed.deleter = _delete
    # The consumer holds an address alone, so a reference that nobody sees keeps all of it alive.
    held = (managed, shape, owner)
    managed.context = id(held)
    _python.Py_IncRef(held)
    destroy = ctypes.cast(_destroy, ctypes.c_void_p)
    return _python.PyCapsule_New(ctypes.addressof(managed), _NAME, destroy)


def _view(name: str, managed: Any) -> DeviceView:
    raw = managed.contents.tensor
    dtype = _dtype(name, raw.dtype)
    shape = tuple(raw.shape[axis] for axis in range(raw.ndim))
    strides = tuple(raw.strides[axis] for axis in range(raw.ndim)) if raw.strides else ()
    return DeviceView(
        address=(raw.data or 0) + raw.byte_offset,
        shape=shape,
        dtype=dtype,
        device=(raw.device.type, raw.device.index),
        contiguous=not strides or _is_contiguous(shape, strides),
        _managed=managed,
    )


def _dtype(name: str, raw: Any) -> np.dtype[Any]:
    try:
        if raw.code in _KINDS and raw.bits % 8 == 0 and raw.lanes == 1:
            return np.dtype(f"{_KINDS[raw.code]}{raw.bits // 8}")
    except TypeError:
        pass
    raise FeedError(
        f"feed {name!r}: expected integers, floats or booleans that numpy has, got DLPack "
        f"type code {raw.code} of {raw.bits} bits"
    )


def _give_back(managed: Any) -> None:
    if managed.contents.deleter:  # a library may need none
        managed.contents.deleter(managed)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _drop_owner(managed: Any) -> None:
    _python.Py_DecRef(ctypes.cast(managed.contents.context, ctypes.py_object).value)


def _drop_unused(capsule: int) -> None:
    # A capsule that somebody took has another name, and its deleter is theirs to call.
    if _python.PyCapsule_IsValid(capsule, _NAME):
        pointer = _python.PyCapsule_GetPointer(capsule, _NAME)
        _delete(ctypes.cast(pointer, ctypes.POINTER(_Managed)))


_delete = _Deleter(_drop_owner)
_destroy = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_drop_unused)
