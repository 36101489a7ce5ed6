"""What an administrator does to a user's mail, as doveadm(1): the side that works on the store."""
