"""`worker_processes`: several network processes for SMTP, each with a part of the queue.

The first one, worker 0, is the daemon: it starts the others (`pool`), gives them the listening
sockets and the configuration over a socket pair (`channel`), and answers the commands for all of
them (`merging`). The others (`process`) end when it does. What they share: how many connections
each client has (`board`), limits and dead next hops (`sharing`).
"""
