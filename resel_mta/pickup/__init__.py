"""Local submission: mail that programs of this machine hand in with sendmail(1).

A `Letter` (envelope, then content) goes over the daemon's public socket; while the daemon is down
it lies in the drop folder, and is taken from there at its next start.
"""
