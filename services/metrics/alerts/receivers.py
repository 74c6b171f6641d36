"""Where alerts are sent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from mesh.options import alert_receivers, require

# How often a firing alert is told again: people are reminded, Alertmanager takes silence for the end.
REMIND_WEBHOOK, REMIND_ALERTMANAGER = 4 * 3600.0, 60.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where alerts are sent."""

    url: str
    alertmanager: bool = False
    # Signs what goes to a webhook; "" signs nothing.
    secret: str = ""

    def __post_init__(self) -> None:
        option = "--alertmanager" if self.alertmanager else "--alert-webhook"
        parts = urlsplit(self.url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.fragment
        require(good, f"{option}: '{self.url}' is not http://HOST[:PORT][/PATH] or https://...")

    @property
    def name(self) -> str:
        """What deliveries are noted under; without what a URL may hold of secrets."""
        return hashlib.blake2b(self.url.encode(), digest_size=6).hexdigest()

    @property
    def remind(self) -> float:
        return REMIND_ALERTMANAGER if self.alertmanager else REMIND_WEBHOOK


def default_receivers(webhooks: Sequence[str] = (), alertmanagers: Sequence[str] = ()) -> tuple[Receiver, ...]:
    """Return where alerts go: as given, else as the environment says.

    Raises:
        UsageError: a URL is none.

    """
    from_webhooks, from_alertmanagers, secret = alert_receivers()
    return (
        *(Receiver(url, secret=secret) for url in webhooks or from_webhooks),
        *(Receiver(url, alertmanager=True) for url in alertmanagers or from_alertmanagers),
    )
