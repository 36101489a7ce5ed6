"""TLS for servers: certificate and key by parameter, renewed files picked up without a reload."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from resel_mta.config import ConfigError, Settings
from resel_mta.config.problems import Problem

#: Seconds between two looks at the files.
_LOOK_EVERY = 1.0

_VERSIONS = {
    "TLSV1": ssl.TLSVersion.TLSv1_2,
    "TLSV1.1": ssl.TLSVersion.TLSv1_2,
    "TLSV1.2": ssl.TLSVersion.TLSv1_2,
    "TLSV1.3": ssl.TLSVersion.TLSv1_3,
}


@dataclass(frozen=True, slots=True)
class TLSParameters:
    """Names of the parameters that say where certificate and key are. "" where there is none."""

    cert_file: str = "smtpd_tls_cert_file"
    key_file: str = "smtpd_tls_key_file"
    chain_files: str = "smtpd_tls_chain_files"
    protocols: str = "smtpd_tls_protocols"


class KeyFiles:
    """Where certificates and keys are read from: the files themselves. A process that may not
    read them is given another source with the same two methods."""

    def stamp(self, path: str) -> object:
        """Changes whenever the file does. Raises OSError."""
        status = os.stat(path)
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def readable(self, path: str) -> str:
        """A path that this process can open, with the file's content. Raises OSError."""
        return path


class ServerTLS:
    """Certificates of one service.

    Raises ConfigError when they cannot be used: a file is missing or is no PEM, the key does not
    fit. Once started, renewed files that cannot be used leave the old ones in force.
    warn: told about those. source: where the files are read from.
    """

    def __init__(
        self,
        settings: Settings,
        parameters: TLSParameters | None = None,
        warn: Callable[[str], None] = lambda text: None,
        source: KeyFiles | None = None,
    ) -> None:
        self._parameters = parameters or TLSParameters()
        self._source = source or KeyFiles()
        self._warn = warn
        self._listening: ssl.SSLContext | None = None
        self._looked = 0.0
        self._stamp: tuple[object, ...] = ()
        self._context: ssl.SSLContext | None = None
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Take other settings. Raises ConfigError, and then keeps the old ones."""
        pairs = self._pairs(settings)
        minimum = self._minimum(settings)
        stamp = _stamp(self._source, pairs)
        try:
            context = _load(self._source, pairs, minimum) if pairs else None
        except (OSError, ValueError) as error:
            name = self._parameters.chain_files
            if not (name and settings.items(name)):
                name = self._parameters.cert_file
            where = str(settings.source(name))
            raise ConfigError(
                [Problem(where, name, explain(self._source, pairs, error))]
            ) from error
        self._files = pairs
        self._minimum_version = minimum
        self._stamp = stamp
        self._context = context
        self._looked = time.monotonic()

    def context(self) -> ssl.SSLContext | None:
        """For `start_tls`; None without a certificate. Looks for renewed files at most once a
        second: a stat of each, and reading them only when they changed."""
        now = time.monotonic()
        if self._files and now - self._looked >= _LOOK_EVERY:
            self._looked = now
            self._look()
        return self._context

    def listening_context(self) -> ssl.SSLContext | None:
        """For `create_server(ssl=…)`: one object that hands each handshake over to the context
        of the moment, so that renewed certificates reach implicit TLS as well."""
        if self._listening is None and self._context is not None:
            self._listening = _load(self._source, self._files, self._minimum_version)
            self._listening.sni_callback = self._switch
        return self._listening

    def _switch(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext
    ) -> None:
        current = self.context()
        if current is not None:
            connection.context = current

    def _look(self) -> None:
        stamp = _stamp(self._source, self._files)
        if stamp == self._stamp:
            return
        # Also when it fails: the same broken files are not read again every second.
        self._stamp = stamp
        try:
            self._context = _load(self._source, self._files, self._minimum_version)
        except (OSError, ValueError) as error:
            self._warn(
                f"{explain(self._source, self._files, error)}; the certificate read before stays in use"
            )

    def _pairs(self, settings: Settings) -> tuple[tuple[str, str], ...]:
        """(certificate, key) files; key "" where it lies in the same file."""
        names = self._parameters
        chains = settings.items(names.chain_files) if names.chain_files else ()
        if chains:
            return tuple((path, "") for path in chains)
        cert = settings.text(names.cert_file)
        if not cert or cert == "none":
            return ()
        return ((cert, settings.text(names.key_file) if names.key_file else ""),)

    def _minimum(self, settings: Settings) -> ssl.TLSVersion:
        """TLS 1.2, or what ">=TLSv1.3" demands."""
        words = settings.items(self._parameters.protocols) if self._parameters.protocols else ()
        for word in words:
            if word.startswith(">="):
                return _VERSIONS.get(word[2:].upper(), ssl.TLSVersion.TLSv1_2)
        if "!TLSv1.2" in words:
            return ssl.TLSVersion.TLSv1_3
        return ssl.TLSVersion.TLSv1_2


def _load(
    source: KeyFiles, pairs: tuple[tuple[str, str], ...], minimum: ssl.TLSVersion
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    for certificate, key in pairs:
        context.load_cert_chain(
            source.readable(certificate),
            source.readable(key) if key else None,
            password=_no_passphrase,
        )
    return context


def tls_files(settings: Settings) -> tuple[str, ...]:
    """Every file that the settings name for servers' certificates and keys."""
    names = TLSParameters()
    single = (settings.text(names.cert_file), settings.text(names.key_file))
    files = (*settings.items(names.chain_files), *(path for path in single if path != "none"))
    return tuple(dict.fromkeys(path for path in files if path))


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase, which nobody could type in")


def _stamp(source: KeyFiles, pairs: tuple[tuple[str, str], ...]) -> tuple[object, ...]:
    """Changes whenever one of the files does."""
    marks: list[object] = []
    for path in {path for pair in pairs for path in pair if path}:
        try:
            marks.append((path, source.stamp(path)))
        except OSError as error:
            marks.append((path, error.errno))
    return tuple(sorted(marks, key=str))


def explain(source: KeyFiles, pairs: tuple[tuple[str, str], ...], error: Exception) -> str:
    """What is wrong with the files, in one line."""
    certificate, key = pairs[0] if pairs else ("", "")
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"the key in {key or certificate} does not belong to the certificate in {certificate}"
        return f"cannot use {certificate}{f' with {key}' if key else ''}: no certificate or key in PEM ({error.reason or error})"
    if isinstance(error, OSError):
        for path in (path for pair in pairs for path in pair if path):
            try:
                with open(source.readable(path), "rb"):
                    continue
            except OSError as reason:
                return f"cannot read {path}: {os.strerror(reason.errno or 0)}"
    return f"cannot use {certificate}: {error}"
