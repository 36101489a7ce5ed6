"""Parameters of the SMTP and LMTP clients."""

ROWS = """\
port smtp_tcp_port = smtp ## The port that mail is sent to.
text smtp_helo_name = $myhostname ## The name in EHLO.
ip{ipv4} smtp_bind_address = ## The IPv4 address that connections come from.
ip{ipv6} smtp_bind_address6 = ## The IPv6 address that connections come from.
choice{any ipv4 ipv6} smtp_address_preference = any ## Which protocol is tried first.
flag smtp_randomize_addresses = yes ## Shuffle hosts of equal preference.
number(0..) smtp_mx_address_limit = 5 ## The most addresses tried in one delivery; 0: no limit.
number(0..) smtp_mx_session_limit = 2 ## The most sessions tried in one delivery; 0: no limit.
flag smtp_skip_5xx_greeting = yes ## Try the next host when one greets with 5xx.
flag smtp_never_send_ehlo = no ## Never send EHLO.
flag ignore_mx_lookup_error = no ## Use A and AAAA when the MX look-up fails.
list smtp_host_lookup = dns ## How hosts are looked up: dns, native.
nexthoplist smtp_fallback_relay = $fallback_relay ## Hosts for mail whose destination cannot be found or reached.
nexthoplist fallback_relay = ## The old name of smtp_fallback_relay.
size(0..) smtp_line_length_limit = 998 ## Lines longer than this are broken when sent; 0: no limit.
time(0..) smtp_connect_timeout = 30s ## How long connecting may take.
time(1..) smtp_helo_timeout = 300s ## How long the answers to the connection, HELO and EHLO may take.
time(1..) smtp_mail_timeout = 300s ## How long the answer to MAIL may take.
time(1..) smtp_rcpt_timeout = 300s ## How long the answer to RCPT may take.
time(1..) smtp_data_init_timeout = 120s ## How long the answer to DATA may take.
time(1..) smtp_data_xfer_timeout = 180s ## How long sending a block may take.
time(1..) smtp_data_done_timeout = 600s ## How long the answer to the message's end may take.
time(1..) smtp_rset_timeout = 20s ## How long the answer to RSET may take.
time(1..) smtp_quit_timeout = 300s ## How long the answer to QUIT may take.
time(1..) smtp_starttls_timeout = 300s ## How long a TLS handshake may take.
flag smtp_connection_cache_on_demand = yes ## Keep connections while there is mail for them.
time(1..) smtp_connection_cache_time_limit = 2s ## How long an unused connection is kept.
time(1..) smtp_connection_reuse_time_limit = 300s ## How long a connection is used.
number(0..) smtp_connection_reuse_count_limit = 0 ## How often a connection is used; 0: no limit.
list smtp_discard_ehlo_keywords = ## EHLO keywords of servers that are overlooked.
choice{"" none may encrypt} smtp_tls_security_level = ${{$smtp_use_tls} == {yes} ? {may} : {}} ## Whether TLS is used when offered (may) or required (encrypt).
flag smtp_use_tls = no ## The old form of smtp_tls_security_level = may.
file smtp_tls_CAfile = ## Certificates of trusted authorities.
file smtp_tls_CApath = ## A directory of such certificates.
number(0..4) smtp_tls_loglevel = 0 ## How much is logged of TLS: 0 nothing, 1 a line per handshake.
protocols{fixed} smtp_tls_protocols = >=TLSv1 ## The TLS protocols that are allowed; ours are TLSv1.2 and TLSv1.3.
protocols{fixed} smtp_tls_mandatory_protocols = >=TLSv1 ## The TLS protocols that are allowed; ours are TLSv1.2 and TLSv1.3.
port lmtp_tcp_port = 24 ## The port that LMTP mail is sent to.
text lmtp_lhlo_name = $myhostname ## The name in LHLO.
time(0..) lmtp_connect_timeout = 0s ## How long connecting may take; 0: as the system has it.
time(1..) lmtp_lhlo_timeout = 300s ## How long the answers to the connection and LHLO may take.
time(1..) lmtp_mail_timeout = 300s ## How long the answer to MAIL may take.
time(1..) lmtp_rcpt_timeout = 300s ## How long the answer to RCPT may take.
time(1..) lmtp_data_init_timeout = 120s ## How long the answer to DATA may take.
time(1..) lmtp_data_xfer_timeout = 180s ## How long sending a block may take.
time(1..) lmtp_data_done_timeout = 600s ## How long the answer to the message's end may take.
time(1..) lmtp_rset_timeout = 20s ## How long the answer to RSET may take.
time(1..) lmtp_quit_timeout = 300s ## How long the answer to QUIT may take.
flag smtp_sasl_auth_enable = no ## Log in at servers that smtp_sasl_password_maps has a password for.
maps smtp_sasl_password_maps = ## Server or next hop to user:password.
list smtp_sasl_security_options = noplaintext, noanonymous ## What AUTH mechanisms must not be, without TLS.
list smtp_sasl_tls_security_options = $smtp_sasl_security_options ## What AUTH mechanisms must not be, under TLS.
choice{"" enabled} smtp_dns_support_level = ## DNSSEC is not used.
choice{"" enabled} lmtp_dns_support_level = ## DNSSEC is not used.
choice{"" none} lmtp_tls_security_level = ## LMTP is sent without TLS.
"""
