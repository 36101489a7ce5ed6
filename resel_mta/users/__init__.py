"""Where users come from (Dovecot's passdb and userdb) and how they prove who they are."""

from resel_mta.users.directory import Users, open_users
from resel_mta.users.user import User

__all__ = ["User", "Users", "open_users"]
