"""The system's libldap through ctypes: one connection, with calls that block and let go of the GIL.

No package of Python's does all that a mail server needs: with bonsai a directory that is silent in
a TLS handshake stops the event loop and all threads, and waiting for an answer takes a whole core.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_long, c_ulong, c_void_p
from dataclasses import dataclass
from typing import Any

#: Debian 13's names, then Debian 12's.
_NAMES = (("libldap.so.2", "liblber.so.2"), ("libldap-2.5.so.0", "liblber-2.5.so.0"))

# ldap.h
_PROTOCOL_VERSION, _REFERRALS, _TIMEOUT, _NETWORK_TIMEOUT = 0x11, 0x08, 0x5002, 0x5005
_TLS_CACERTFILE, _TLS_REQUIRE_CERT, _TLS_NEWCTX = 0x6002, 0x6006, 0x600F
_TLS_NEVER, _TLS_DEMAND = 0, 2
_CONNECT_CB, _GET_FD = 0x5011, 1
_PAGED = b"1.2.840.113556.1.4.319"
_INVALID_CREDENTIALS, _NO_SUCH_OBJECT = 49, 32
#: The connection is gone, could not be made, or gave no answer in time.
UNREACHABLE = frozenset((-1, -5, -11, 51, 52))


class LdapUnavailable(Exception):
    """The system has no libldap."""


class LdapError(Exception):
    """What libldap or the directory said. code: LDAP's result code, or libldap's, below 0."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Entry:
    """attributes: by name in lower case."""

    dn: str
    attributes: dict[str, list[bytes]]


class _TimeVal(Structure):
    _fields_ = [("seconds", c_long), ("microseconds", c_long)]


class _BerVal(Structure):
    # Not c_char_p, which would end at a NUL.
    _fields_ = [("length", c_ulong), ("value", c_void_p)]


_Connected = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)
_Closed = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p)


class _ConnectCallback(Structure):
    _fields_ = [("add", _Connected), ("delete", _Closed), ("argument", c_void_p)]


# What each function takes; all but those in _RESULTS return a result code.
_SIGNATURES: dict[str, list[Any]] = {
    "ldap_initialize": [POINTER(c_void_p), c_char_p],
    "ldap_set_option": [c_void_p, c_int, c_void_p],
    "ldap_start_tls_s": [c_void_p, c_void_p, c_void_p],
    "ldap_sasl_bind_s": [
        *(c_void_p, c_char_p, c_char_p, POINTER(_BerVal), c_void_p, c_void_p, c_void_p)
    ],
    "ldap_search_ext_s": [
        *(c_void_p, c_char_p, c_int, c_char_p, POINTER(c_char_p), c_int, c_void_p, c_void_p),
        *(POINTER(_TimeVal), c_int, POINTER(c_void_p)),
    ],
    "ldap_first_entry": [c_void_p, c_void_p],
    "ldap_next_entry": [c_void_p, c_void_p],
    "ldap_get_dn": [c_void_p, c_void_p],
    "ldap_get_values_len": [c_void_p, c_void_p, c_char_p],
    "ldap_count_values_len": [c_void_p],
    "ldap_value_free_len": [c_void_p],
    "ldap_memfree": [c_void_p],
    "ldap_msgfree": [c_void_p],
    "ldap_unbind_ext_s": [c_void_p, c_void_p, c_void_p],
    "ldap_err2string": [c_int],
    "ldap_create_page_control": [c_void_p, c_int, POINTER(_BerVal), c_int, POINTER(c_void_p)],
    "ldap_parse_result": [
        *(c_void_p, c_void_p, POINTER(c_int), c_void_p, c_void_p, c_void_p),
        *(POINTER(c_void_p), c_int),
    ],
    "ldap_control_find": [c_char_p, c_void_p, c_void_p],
    "ldap_parse_pageresponse_control": [c_void_p, c_void_p, POINTER(c_int), POINTER(_BerVal)],
    "ldap_control_free": [c_void_p],
    "ldap_controls_free": [c_void_p],
}
_RESULTS: dict[str, Any] = {
    "ldap_first_entry": c_void_p,
    "ldap_next_entry": c_void_p,
    "ldap_get_dn": c_void_p,
    "ldap_get_values_len": c_void_p,
    "ldap_err2string": c_char_p,
    "ldap_control_find": c_void_p,
    "ldap_memfree": None,
    "ldap_value_free_len": None,
    "ldap_control_free": None,
    "ldap_controls_free": None,
}


@functools.cache
def library() -> ctypes.CDLL:
    """Raises LdapUnavailable."""
    for name, lber in _NAMES:
        try:
            found = ctypes.CDLL(name)
            control = ctypes.CDLL(lber).ber_sockbuf_ctrl
        except OSError:
            continue
        control.argtypes = [c_void_p, c_int, c_void_p]
        setattr(found, "ber_sockbuf_ctrl", control)  # noqa: B010
        for function, arguments in _SIGNATURES.items():
            getattr(found, function).argtypes = arguments
            getattr(found, function).restype = _RESULTS.get(function, c_int)
        return found
    raise LdapUnavailable("there is no libldap (apt install libldap2, or libldap-2.5-0)")


class Connection:
    """To one server, for one thread at a time.

    Whatever the server does, no call takes much longer than `timeout`.

    uri: ldap:// or ldaps://. ca_file: "" for the system's. timeout: seconds for a connection, and
    for an answer. Nothing is sent before the first call. Raises LdapError, LdapUnavailable.
    """

    def __init__(self, uri: str, ca_file: str, verify: bool, timeout: float) -> None:
        self._ldap = library()
        self._handle = c_void_p()
        self._open = False
        self._socket: socket.socket | None = None
        self._seconds = timeout
        self._timeout = _TimeVal(int(timeout), int(timeout % 1 * 1e6))
        self._check(self._ldap.ldap_initialize(byref(self._handle), uri.encode()))
        self._option(_PROTOCOL_VERSION, byref(c_int(3)))
        # Another server would be told the password as well.
        self._option(_REFERRALS, None)
        self._option(_TIMEOUT, byref(self._timeout))
        self._option(_NETWORK_TIMEOUT, byref(self._timeout))
        if ca_file:
            self._option(_TLS_CACERTFILE, ca_file.encode())
        self._option(_TLS_REQUIRE_CERT, byref(c_int(_TLS_DEMAND if verify else _TLS_NEVER)))
        # Without a context of its own it would use the process's, with another's certificates.
        self._option(_TLS_NEWCTX, byref(c_int(0)))
        self._callback = _ConnectCallback(_Connected(self._connected), _Closed(_ignore), None)
        self._option(_CONNECT_CB, byref(self._callback))

    def _connected(self, handle: int, buffer: int, *_: object) -> int:
        """libldap has a TCP connection. TLS may come next, in which it keeps no timeout, and tries
        again and again: `_deadline` ends that, by what is kept here."""
        descriptor = c_int(-1)
        self._ldap.ber_sockbuf_ctrl(buffer, _GET_FD, byref(descriptor))
        if self._socket is not None:
            self._socket.close()
        if descriptor.value >= 0:
            self._socket = socket.socket(fileno=os.dup(descriptor.value))
        return 0

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """For the first call, which connects."""
        if self._open:
            yield
            return
        timer = threading.Timer(self._seconds, self._abort)
        timer.daemon = True
        timer.start()
        try:
            yield
            self._open = True
        finally:
            timer.cancel()

    def _abort(self) -> None:
        connected = self._socket
        if connected is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _option(self, option: int, value: Any) -> None:
        if self._ldap.ldap_set_option(self._handle, option, value) != 0:
            self.close()
            raise LdapError(-9, f"libldap refuses option {option:#x}")

    def _check(self, code: int) -> None:
        if code != 0:
            text = self._ldap.ldap_err2string(code)
            raise LdapError(code, text.decode("utf-8", "replace") if text else f"error {code}")

    def start_tls(self) -> None:
        """RFC 4511 §4.14. Raises LdapError."""
        with self._deadline():
            self._check(self._ldap.ldap_start_tls_s(self._handle, None, None))

    def bind(self, dn: str, password: bytes) -> bool:
        """A simple bind; False where the password is wrong. Raises LdapError."""
        value = ctypes.create_string_buffer(password, len(password) + 1)
        credentials = _BerVal(len(password), ctypes.cast(value, c_void_p))
        with self._deadline():
            code = self._ldap.ldap_sasl_bind_s(
                self._handle, dn.encode(), None, byref(credentials), None, None, None
            )
        if code in (_INVALID_CREDENTIALS, _NO_SUCH_OBJECT):
            return False
        self._check(code)
        return True

    def search(
        self, base: str, scope: int, filter_: str, attributes: Sequence[str], page: int = 0
    ) -> Iterator[Entry]:
        """page: entries to ask for at a time (RFC 2696), 0 for all at once. Raises LdapError."""
        names = (c_char_p * (len(attributes) + 1))(*(name.encode() for name in attributes), None)
        what = (base.encode(), scope, filter_.encode(), names)
        cookie = b""
        while True:
            result = c_void_p()
            try:
                self._ask(what, page, cookie, result)
                yield from self._entries(result, attributes)
                cookie = self._cookie(result) if page else b""
            finally:
                if result:
                    self._ldap.ldap_msgfree(result)
            if not cookie:
                return

    def _ask(self, what: tuple[Any, ...], page: int, cookie: bytes, result: c_void_p) -> None:
        controls = (c_void_p * 2)(None, None)
        if page:
            value = ctypes.create_string_buffer(cookie, len(cookie) + 1)
            given = _BerVal(len(cookie), ctypes.cast(value, c_void_p))
            control = c_void_p()
            self._check(
                self._ldap.ldap_create_page_control(
                    self._handle, page, byref(given), 1, byref(control)
                )
            )
            controls[0] = control
        try:
            with self._deadline():
                code = self._ldap.ldap_search_ext_s(
                    self._handle, *what, 0, controls, None, byref(self._timeout), 0, byref(result)
                )
        finally:
            if controls[0]:
                self._ldap.ldap_control_free(controls[0])
        if code != _NO_SUCH_OBJECT:
            self._check(code)

    def _entries(self, result: c_void_p, attributes: Sequence[str]) -> Iterator[Entry]:
        found = self._ldap.ldap_first_entry(self._handle, result)
        while found:
            named = self._ldap.ldap_get_dn(self._handle, found)
            dn = ctypes.string_at(named).decode("utf-8", "replace") if named else ""
            self._ldap.ldap_memfree(named)
            values = {name.lower(): self._values(found, name) for name in attributes}
            yield Entry(dn, {name: each for name, each in values.items() if each})
            found = self._ldap.ldap_next_entry(self._handle, found)

    def _values(self, entry: int, name: str) -> list[bytes]:
        array = self._ldap.ldap_get_values_len(self._handle, entry, name.encode())
        if not array:
            return []
        try:
            count = self._ldap.ldap_count_values_len(array)
            pointers = ctypes.cast(array, POINTER(POINTER(_BerVal)))
            each = (pointers[number].contents for number in range(count))
            return [ctypes.string_at(value.value, value.length) for value in each]
        finally:
            self._ldap.ldap_value_free_len(array)

    def _cookie(self, result: c_void_p) -> bytes:
        """Where the next page begins, b"" after the last one. Raises LdapError."""
        code, controls = c_int(), c_void_p()
        self._check(
            self._ldap.ldap_parse_result(
                self._handle, result, byref(code), None, None, None, byref(controls), 0
            )
        )
        if not controls:
            return b""
        try:
            control = self._ldap.ldap_control_find(_PAGED, controls, None)
            if not control:
                return b""
            count, cookie = c_int(), _BerVal()
            parse = self._ldap.ldap_parse_pageresponse_control
            self._check(parse(self._handle, control, byref(count), byref(cookie)))
            found = ctypes.string_at(cookie.value, cookie.length) if cookie.value else b""
            self._ldap.ldap_memfree(cookie.value)
            return found
        finally:
            self._ldap.ldap_controls_free(controls)

    def close(self) -> None:
        """Safe twice."""
        if self._handle:
            self._ldap.ldap_unbind_ext_s(self._handle, None, None)
            self._handle = c_void_p()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _ignore(*_: object) -> None:
    """libldap tells that a connection is closed."""
