"""The queue: durable store, scheduler, retry policy, bounces, listing formats.

The rules of the queue. Everything in this package keeps them, and its tests stop at every disk
operation in turn to prove it:

1. The content is synced, renamed, its directory synced; then the row is committed; then comes
   the 250. A file is unlinked only after the removal of its row is committed.
2. Record the outcome, then forget the recipient.
3. The bounce is committed before the original is removed; if it cannot be, the original stays.
4. What cannot be read is set aside (``corrupt/``), reported, never deleted.
5. An unknown exception defers, never bounces. No name-server answer, loop or refusal about a
   relayhost or a transport-map next hop bounces mail; only a recipient's own domain can fail
   for good.
6. A crash may duplicate a delivery that was in flight; it may never lose one.

Group commit: whatever waits is committed together. If one job of the group fails, all is rolled
back and done again, each job in its own savepoint, so that it fails alone; if the commit fails,
everybody who waits for it gets 451 or 452. After a failed sync or an I/O error the
database is closed and opened again before anything is accepted. No read transaction spans a
listing.
"""
