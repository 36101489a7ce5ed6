"""Parameters that Postfix keeps in master.cf or does not have."""

ROWS = """\
choice{smarthost relay server} role = server ## What this machine is; it decides the defaults.
listen smtpd_listen = ## Where the SMTP server listens: host:port, [v6]:port, :port or unix:/path; empty: off.
listen submission_listen = ## Where mail of users is taken, with STARTTLS.
listen submissions_listen = ## Where mail of users is taken, under TLS from the start.
listen lmtp_listen = ## Where the LMTP server listens.
listen imap_listen = ## Where the IMAP server listens.
listen imaps_listen = ## Where the IMAP server listens, under TLS from the start.
listen pop3_listen = ## Where the POP3 server listens.
listen pop3s_listen = ## Where the POP3 server listens, under TLS from the start.
text pop3_uidl_format = %08Xu%08Xv ## A message's name in POP3's UIDL, in Dovecot's variables %u %v %f %g.
listen http_listen = ## Where the administration pages are served.
nameservers dns_nameservers = ## Name servers host[:port] to ask; empty: the system's.
text passdb = ## Where passwords come from: passwd-file:FILE, pam:SERVICE, ldap:FILE; several are asked in turn.
text userdb = ## Where users come from: passwd-file:FILE, ldap:FILE, system (the machine's accounts); empty: the passdb, and system where that is PAM or empty.
choices{plain login scram-sha-256 scram-sha-1} auth_mechanisms = plain, login, scram-sha-256, scram-sha-1 ## How clients may log in; SCRAM is offered where the passdb has secrets for it, of all its users.
time(0..) auth_cache_ttl = 60s ## How long a successful log-in is remembered, and a password changed in PAM or LDAP still counts; 0: not at all.
time(0..) auth_failure_delay = 2s ## How long the answer to a failed log-in takes; longer after many from one address.
text mail_location = ## Where mailboxes lie, as in Dovecot: maildir:/path/%u.
text namespace_prefix = ## The prefix of the users' own mailboxes in IMAP.
text namespace_separator = . ## The character between the levels of a mailbox name.
text mail_uid = ## The owner of mailboxes of users whose userdb gives no uid; never 0.
text mail_gid = ## Their group.
space quota_storage_size = 0 ## How much a user may store, in octets or with K, M, G; 0: no limit.
time(0..) queue_trash_time = 7d ## How long mail that was deleted from the queue can be brought back; 0: not at all.
time(3600..) queue_ledger_time = 30d ## How far back resel-queue audit can look.
time(0..) expunge_keep_time = 7d ## How long expunged mail can be brought back; 0: not at all.
space expunge_minfree = 100M ## Free space below which expunged mail is not kept, the oldest first.
flag relay_cut_through = no ## Answer a client when the next hop has taken its mail, and queue it only on trouble or after 5 s.
number(0..256) mailbox_processes = 1 ## How many processes serve the mailboxes of mail_uid, each user by one of them; 0: one for each core, 16 at most. A restart changes it.
number(0..64) worker_processes = 1 ## How many processes take and deliver mail, each with a part of the queue; 0: one for each core.
number(1..) mail_max_userip_connections = 100 ## How many sessions of a protocol one user may have from one address.
time(1..) shutdown_timeout = 20s ## How long a stopping daemon lets sessions finish.
text mailbox_syslog_name = dovecot ## What log lines of IMAP and its kin start with.
choice{text json} log_format = text ## Postfix's log lines, or one JSON object a line with ECS names.
"""
