"""TLS as a client."""

from __future__ import annotations

import ssl

from resel_relay.parameters import Parameters


def client_context(parameters: Parameters) -> ssl.SSLContext:
    """For the levels may and encrypt, which protect against listening only: the server's
    certificate is not checked, as with Postfix (RFC 7435). Raises OSError for unreadable CA files.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if parameters.tls_CAfile or parameters.tls_CApath:
        context.load_verify_locations(parameters.tls_CAfile or None, parameters.tls_CApath or None)
    return context


def description(tls: ssl.SSLObject) -> str:
    """ "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)", as Postfix logs it."""
    cipher = tls.cipher()
    name, bits = (cipher[0], cipher[2]) if cipher else ("unknown", 0)
    return f"{tls.version()} with cipher {name} ({bits}/{bits} bits)"
