"""Outbound mail: next hops, SMTP and LMTP sessions, connection reuse and the Transport over them."""
