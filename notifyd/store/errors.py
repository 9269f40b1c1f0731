"""What PostgreSQL's errors mean to us: try again, this row is at fault, or a person must look."""

from __future__ import annotations

import psycopg2

from notifyd.errors import ConfigError, NotifydError, PermanentError, TransientError

#: SQLSTATE classes that blame the data: data exception, integrity violation, program limit exceeded.
_OF_THE_ROW = ("22", "23", "54")
#: Connection, resources, operator intervention, transaction rollback, system error.
_PASSING = ("08", "53", "57", "40", "58")
_PASSING_STATES = frozenset({"55006", "25P03", "25P04"})
#: What passes as well, and has a name of its own for those who can do something about it.
_NAMED = {"53100": "database_full", "55P03": "database_locked"}
_READ_ONLY = "25006"
_CHECK_VIOLATION = "23514"
_UNDEFINED = frozenset({"42P01", "42703", "42883", "3F000"})

#: What to do about a database that cannot be reached.
UNREACHABLE = "start it, or correct NOTIFYD_DATABASE_URL"

#: libpq gives no SQLSTATE for a refused connection, so its words have to do.
_REFUSALS = (
    ("password authentication failed", "database_refused", "correct user and password in the URL"),
    ("no password supplied", "database_refused", "put the password into the URL"),
    ("no pg_hba.conf entry", "database_refused", "let this host in (pg_hba.conf), or use TLS (sslmode)"),
    ("is not permitted to log in", "database_refused", "use a role that may log in"),
    ("permission denied for database", "database_refused", "grant CONNECT to this role"),
    ("certificate", "database_tls", "check sslmode and the certificates named in the URL"),
    ("server does not support SSL", "database_tls", "check sslmode in the URL"),
)


class RowError(PermanentError):
    """The data of a statement is at fault, so that the same batch fails again: find the row."""

    reason = "poison"


class MissingPartition(TransientError):
    """There is no partition for a row's day: make it, then write again."""

    reason = "missing_partition"


def meaning_of(error: BaseException, *, where: str) -> NotifydError:
    """Turn an error of a statement into ours; `where` names the server, without any secret."""
    state, said = getattr(error, "pgcode", None) or "", _first_line(error)
    if not state:
        return _meaning_without_state(error, where, said)
    if state == _CHECK_VIOLATION and isinstance(error, psycopg2.Error) and not error.diag.constraint_name:
        return MissingPartition(said)
    if state.startswith(_OF_THE_ROW):
        return RowError(f"{said} (SQLSTATE {state})")
    if state == _READ_ONLY:
        return TransientError(f"{where} has become read-only", reason="database_read_only")
    if state in _NAMED or state.startswith(_PASSING) or state in _PASSING_STATES:
        reason = _NAMED.get(state, "database_unavailable")
        return TransientError(f"{where}: {said} (SQLSTATE {state})", reason=reason)
    return _meaning_for_a_person(state, where, said)


def _meaning_without_state(error: BaseException, where: str, said: str) -> NotifydError:
    """No SQLSTATE: the server was not the one to speak, but for faults of ours in calling psycopg2."""
    is_ours = isinstance(error, psycopg2.ProgrammingError | psycopg2.NotSupportedError | psycopg2.DataError)
    if is_ours:
        return RowError(said) if isinstance(error, psycopg2.DataError) else PermanentError(said)
    return TransientError(f"the connection to {where} broke: {said}", reason="database_unavailable")


def _meaning_for_a_person(state: str, where: str, said: str) -> NotifydError:
    if state in _UNDEFINED:
        return ConfigError(
            f"{where} lacks what this release needs: {said}",
            reason="database_schema",
            remedy="run `notifyd migrate`",
        )
    if state == "42501":
        return ConfigError(
            f"{where}: {said}", reason="database_privilege", remedy="grant it to the role in the URL"
        )
    return PermanentError(f"{where}: {said} (SQLSTATE {state})", reason="database_error")


def meaning_of_refusal(error: BaseException, *, where: str) -> NotifydError:
    """Turn an error of connecting into ours: a `ConfigError` where waiting cannot help."""
    said = _why(error)
    for words, reason, remedy in _REFUSALS:
        if words in said:
            return ConfigError(
                f"{where} refuses us: {said}", reason=reason, remedy=f"{remedy} (NOTIFYD_DATABASE_URL)"
            )
    if "does not exist" in said:
        what = "database_missing" if "database " in said else "database_refused"
        return ConfigError(
            f"{where}: {said}",
            reason=what,
            remedy="create it, or correct NOTIFYD_DATABASE_URL",
        )
    return TransientError(
        f"{where} does not answer: {said}",
        reason="database_unavailable",
        remedy=UNREACHABLE,
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _why(error: BaseException) -> str:
    # 'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  password ...\n\tIs the server ...'
    said = _first_line(error)
    return said.rpartition("FATAL:")[2].rpartition(" failed: ")[2].strip() or said
