"""Outbound mail: name look-ups, next hops, SMTP and LMTP sessions, and the Transport over them.

It uses only the vocabulary level of `resel_mta` (mail, content, wire, config, maillog).
"""
