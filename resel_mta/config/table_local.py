"""Parameters of local delivery: commands, files, mbox mailboxes, .forward files."""

ROWS = r"""
choices{alias forward include ""} allow_mail_to_commands = alias, forward ## Where a |command may stand: alias, forward, include.
choices{alias forward include ""} allow_mail_to_files = alias, forward ## Where a /file may stand: alias, forward, include.
template command_execution_directory = ## Where commands run; $home and $user are known; empty: /.
text command_expansion_filter = 1234567890!@%-_=+:,./abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ## Characters in a command's environment that a stranger may have chosen; others become "_".
time(1..) command_time_limit = 1000s ## How long a command may take before it is killed.
text default_privs = nobody ## The account for commands and files of alias files that belong to root; never root.
list export_environment = TZ MAIL_CONFIG LANG ## Environment variables that commands get; name=value sets one.
template forward_path = $home/.forward${recipient_delimiter}${extension}, $home/.forward ## Where a user says where his mail goes; $home, $user, $extension, $recipient_delimiter and others are known; empty: nowhere.
text local_command_shell = ## A program and its words that get each command line as last word; empty: /bin/sh where it must be a shell.
template luser_relay = ## Where mail for unknown local users goes; $user, $local, $extension, $domain and $recipient are known; @domain is the same name there.
directory mail_spool_directory = /var/mail ## The folder of mbox mailboxes.
template mailbox_command = ## A command that gets the mail of users with a uid of their own in the place of their mailbox; nothing in it is replaced but by the shell.
choices{fcntl flock dotlock} mailbox_delivery_lock = fcntl, dotlock ## How mbox files are locked.
size mailbox_size_limit = 51200000 ## The most octets that an mbox file may have; 0: any.
choices{command file forward ""} prepend_delivered_header = command, file, forward ## Where a Delivered-To field is added.
number(1..) deliver_lock_attempts = 20 ## How often a lock is tried.
time(1..) deliver_lock_delay = 1s ## How long to wait between two tries.
flag strict_mailbox_ownership = yes ## Deliver to an mbox mailbox only if it belongs to its user.
time(1..) stale_lock_time = 500s ## After this a lock file counts as left by a crash.
"""
