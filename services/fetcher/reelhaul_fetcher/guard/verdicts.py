"""Verdicts of the guard on requests, signed with the session's secret, which no site knows.

A site can imitate any header field, status line or transport error inside TLS. Only a signed verdict tells
a client that the guard, and not the site, responds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

_SIGNATURE_DIGITS = 32
_SIGNED = re.compile(
    rf"(refused|unreachable) ([\w-]{{1,40}}) (\S{{0,255}}) ([0-9a-f]{{{_SIGNATURE_DIGITS}}})"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the guard does not forward a request."""

    #: Whether the rules forbid it; if not, it is allowed but failed.
    refused: bool
    #: One word; docs/security.md lists them.
    reason: str
    #: The host that was requested; empty if the cause is a budget, or the target is malformed.
    host: str

    def sign(self, secret: str) -> str:
        """Return the verdict as text with a signature, for ``find_verdict``."""
        kind = "refused" if self.refused else "unreachable"
        text = f"{kind} {self.reason} {self.host}"
        signature = hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
        return f"{text} {signature[:_SIGNATURE_DIGITS]}"


def find_verdict(text: str, secret: str) -> Verdict | None:
    """Return the verdict in *text* that is signed with *secret*; None if there is none."""
    for match in _SIGNED.finditer(text):
        verdict = Verdict(match[1] == "refused", match[2], match[3])
        if secret and hmac.compare_digest(verdict.sign(secret).encode(), match[0].encode()):
            return verdict
    return None
