"""crypt(3) of the system's libcrypt through ctypes: what Python's `crypt` was until 3.13."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

#: sizeof(struct crypt_data) in libxcrypt; glibc's own older one is larger (131,232).
_CRYPT_DATA_SIZE = 131_232 + 4096


class CryptUnavailable(Exception):
    """The system has no libcrypt.so.1 (Debian: libcrypt1)."""


@functools.cache
def _crypt_r() -> Callable[[bytes, bytes, object], bytes | None]:
    try:
        library = ctypes.CDLL("libcrypt.so.1")
    except OSError as error:
        raise CryptUnavailable(f"libcrypt.so.1: {error}") from error
    function = library.crypt_r
    function.restype = ctypes.c_char_p
    function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)
    checked: Callable[[bytes, bytes, object], bytes | None] = function
    return checked


def crypt(password: bytes, setting: bytes) -> bytes | None:
    """The hash of `password` with the salt and the method of `setting` (which may be a whole hash).

    None where libcrypt refuses: an unknown method, a malformed setting, a NUL or more than 512
    octets in the password. Takes milliseconds and lets go of the GIL: for a thread.
    Raises CryptUnavailable.
    """
    if b"\0" in password or b"\0" in setting:
        return None
    workspace = ctypes.create_string_buffer(_CRYPT_DATA_SIZE)
    result = _crypt_r()(password, setting, workspace)
    # A failure token: "*0" or "*1", never equal to a setting.
    if result is None or result.startswith(b"*"):
        return None
    return result
