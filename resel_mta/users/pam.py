"""Log-in by PAM: the machine's own rules for who may log in, by way of the system's libpam.

pam_unix reads the shadow file, which only root may: an ordinary process can check its own account
only. Started by root, the daemon asks a process that does nothing else (see `pam_process`).
"""

from __future__ import annotations

import asyncio
import contextlib
import pwd
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from resel_mta.mail import Reply, TempFail

#: PAM modules wait when a password is wrong, each in its thread.
THREADS = 8
#: Seconds for one answer; a module may ask a directory that does not answer.
PATIENCE = 30.0

# Linux-PAM's codes for "no": auth_err, cred_insufficient, user_unknown, maxtries, new_authtok_reqd,
# acct_expired, perm_denied, cred_unavail, cred_expired, cred_err, authtok_expired. With all others
# nothing was decided.
_DENIED = frozenset((6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 27))
_SUCCESS = 0
_MAX_NAME = 256


class PamFailure(Exception):
    """PAM could not decide; the text says why, for the log."""


@runtime_checkable
class PamLogin(Protocol):
    """Whoever checks passwords without showing what it compares them with: a PAM service, a
    directory."""

    async def check(self, name: str, password: bytes) -> bool:
        """Whether the password is that of the account, which may log in. Raises PamFailure."""
        ...

    def close(self) -> None: ...


class PamFactory(Protocol):
    """Makes the `PamLogin` of a service."""

    def __call__(self, service: str) -> PamLogin: ...


def check_password(service: str, name: str, password: bytes) -> bool:
    """Ask PAM; blocks, for seconds where the answer is no. Never for root. Raises PamFailure."""
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or b"\0" in password:
        return False
    # For a name that is none, PAM takes its time as over a wrong password.
    with contextlib.suppress(KeyError, ValueError):
        if pwd.getpwnam(name).pw_uid == 0:
            return False
    try:
        # Not everywhere is there a libpam.
        from pam import PamAuthenticator  # type: ignore[import-untyped]

        asked = PamAuthenticator()
        asked.authenticate(name, password, service, resetcreds=False)
    except (OSError, AttributeError, ImportError, ValueError) as error:
        raise PamFailure(f"PAM service {service}: {error}") from error
    if asked.code == _SUCCESS:
        return True
    if asked.code in _DENIED:
        return False
    raise PamFailure(f"PAM service {service}: {asked.reason}")


class ThreadPam:
    """Implements `PamLogin` with the rights of this process."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="pam")

    async def check(self, name: str, password: bytes) -> bool:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                return await loop.run_in_executor(
                    self._executor, check_password, self._service, name, password
                )
        except TimeoutError:
            raise PamFailure(f"PAM service {self._service} does not answer") from None

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


def temporary_failure() -> TempFail:
    """What the client is told when PAM could not decide."""
    return TempFail(Reply(454, "4.7.0", "Temporary authentication failure"))
