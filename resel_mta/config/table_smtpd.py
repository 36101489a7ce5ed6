"""Parameters of the SMTP server: access, limits, replies, AUTH, TLS."""

ROWS = """\
text smtpd_banner = $myhostname ESMTP $mail_name ## The text after 220 in the greeting; it must start with myhostname.
restrictions smtpd_relay_restrictions = ${{$compatibility_level} <level {1} ? {} : {permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination}} ## Who may relay, checked at RCPT before smtpd_recipient_restrictions.
restrictions smtpd_recipient_restrictions = ## Access rules at RCPT.
restrictions smtpd_client_restrictions = ## Access rules for the client, checked at RCPT.
restrictions smtpd_helo_restrictions = ## Access rules for HELO and EHLO, checked at RCPT.
restrictions smtpd_sender_restrictions = ## Access rules for MAIL, checked at RCPT.
restrictions smtpd_data_restrictions = ## Access rules at DATA.
restrictions smtpd_end_of_data_restrictions = ## Access rules at the end of the message.
list smtpd_restriction_classes = ## Names of parameters that hold lists of access rules.
flag smtpd_relay_before_recipient_restrictions = ${{$compatibility_level} <level {3.6} ? {no} : {yes}} ## Check smtpd_relay_restrictions before smtpd_recipient_restrictions.
flag smtpd_delay_reject = yes ## Check client, HELO and sender rules at RCPT only.
flag smtpd_helo_required = no ## Refuse MAIL before HELO or EHLO.
flag disable_vrfy_command = no ## Refuse VRFY.
list smtpd_noop_commands = ## Commands that are answered 250 and do nothing.
list smtpd_forbidden_commands = CONNECT GET POST regexp:{{/^[^A-Z]/ Bogus}} ## Commands that end the connection with 221.
list smtpd_discard_ehlo_keywords = ## EHLO keywords that are not offered.
flag smtpd_peername_lookup = yes ## Look up the names of clients.
flag smtpd_forbid_unauth_pipelining = no ## Disconnect a client that sends commands ahead of a reply that it must wait for.
choice{no yes normalize note reject} smtpd_forbid_bare_newline = no ## Refuse lines that end in a bare LF (reject); else each is taken as CR LF, and content ends with CR LF . CR LF only.
networks smtpd_forbid_bare_newline_exclusions = $mynetworks ## Clients whose bare LF is not refused.
code smtpd_forbid_bare_newline_reject_code = 550 ## The reply to a bare LF.
flag allow_untrusted_routing = no ## Relay user@elsewhere@here for clients that are not trusted.
flag smtpd_client_port_logging = no ## Log the client's port.
flag smtpd_reject_unlisted_recipient = yes ## Refuse recipients that do not exist.
code unknown_local_recipient_reject_code = 550 ## The reply for recipients that do not exist in mydestination.
code unknown_relay_recipient_reject_code = 550 ## The reply for recipients that are not in relay_recipient_maps.
code unknown_virtual_alias_reject_code = 550 ## The reply for recipients that do not exist in virtual_alias_domains.
code unknown_virtual_mailbox_reject_code = 550 ## The reply for recipients that do not exist in virtual_mailbox_domains.
code unknown_client_reject_code = 450 ## The reply of reject_unknown_client_hostname and reject_unknown_reverse_client_hostname.
code relay_domains_reject_code = 554 ## The reply of reject_unauth_destination.
code reject_code = 554 ## The reply of reject.
code defer_code = 450 ## The reply of defer.
flag show_user_unknown_table_name = yes ## Say in which table a recipient was not found.
number(1..) smtpd_recipient_limit = 1000 ## The most recipients in one message.
number(1..) smtpd_recipient_overshoot_limit = 1000 ## How many recipients more are refused before they count as errors.
number(1..) smtpd_soft_error_limit = 10 ## After this many errors replies are delayed.
number(1..) smtpd_hard_error_limit = ${stress?{1}:{20}} ## After this many errors the connection is closed.
number(1..) smtpd_junk_command_limit = ${stress?{1}:{100}} ## After this many NOOP, VRFY, RSET and ETRN they count as errors, but not those of clients in mynetworks.
time(0..) smtpd_error_sleep_time = 1s ## How long a reply is delayed after errors.
time(1..) smtpd_timeout = ${stress?{10}:{300}}s ## How long a client may be silent.
time(1..) smtpd_starttls_timeout = ${stress?{10}:{300}}s ## How long a TLS handshake may take.
number(0..) smtpd_client_connection_count_limit = 50 ## The most connections at a time from one client; 0: no limit.
networks smtpd_client_event_limit_exceptions = ${smtpd_client_connection_limit_exceptions:$mynetworks} ## Clients without that limit.
flag smtpd_sasl_auth_enable = no ## Offer AUTH.
flag smtpd_sasl_authenticated_header = no ## Name the user who logged in, in the Received field.
list smtpd_sasl_security_options = noanonymous ## What AUTH mechanisms must not be, without TLS.
choices{noanonymous} smtpd_sasl_tls_security_options = $smtpd_sasl_security_options ## What AUTH mechanisms must not be, under TLS.
size(512..) smtpd_sasl_response_limit = 12288 ## The longest AUTH response line.
flag smtpd_tls_auth_only = no ## Offer AUTH only under TLS.
choice{"" none may encrypt} smtpd_tls_security_level = ${{$smtpd_enforce_tls} == {yes} ? {encrypt} : {${{$smtpd_use_tls} == {yes} ? {may} : {}}}} ## Whether TLS is offered (may) or required (encrypt).
flag smtpd_use_tls = no ## The old form of smtpd_tls_security_level = may.
flag smtpd_enforce_tls = no ## The old form of smtpd_tls_security_level = encrypt.
file smtpd_tls_cert_file = ## The server's certificate chain in PEM, its own certificate first.
file smtpd_tls_key_file = $smtpd_tls_cert_file ## Its private key in PEM, without passphrase.
list smtpd_tls_chain_files = ## Files with a key and its certificate chain, instead of the two above.
flag smtpd_tls_received_header = no ## Say protocol and cipher in the Received field.
number(0..4) smtpd_tls_loglevel = 0 ## How much is logged of TLS: 0 nothing, 1 a line per handshake.
protocols smtpd_tls_protocols = >=TLSv1 ## The TLS protocols that are allowed; ours are never below TLSv1.2.
protocols{fixed} smtpd_tls_mandatory_protocols = >=TLSv1 ## The TLS protocols that are allowed; ours are TLSv1.2 and TLSv1.3.
"""
