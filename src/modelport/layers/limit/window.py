"""Counts the requests and tokens of the last 60 seconds, and computes how long the next request has to wait.

Theory of operation:

- The window slides. At any time it contains the requests that were admitted in the last 60 seconds. A counter that is
  reset every minute would be simpler, but could admit twice the limit in the seconds around a reset.
- The service counts a request when it arrives, which is after its admission: the event loop may be busy, or a
  connection must be opened. So a request is in the window as soon as it is admitted, and its 60 seconds begin when it
  has reached the service at the latest: when the response begins (`sent`), or `sending_seconds` after the admission.
- A request counts with an estimate of its tokens. `correct` replaces the estimate as soon as the usage is known. A
  request that has already left the window is not corrected.
- A request is admitted if the window, with this request, does not exceed the limit of requests or the limit of
  tokens. Requests are not spread over the minute: as many as the limits allow are admitted at once.
- Otherwise the request waits until enough of the oldest requests have left the window. A request whose tokens alone
  exceed the limit waits until the window is empty, and is then admitted.
- This module reads no clock and takes no lock. The caller passes the time in seconds, which never goes back, and makes
  sure that only one thread uses a window at a time.
"""

from __future__ import annotations

from collections import deque
from itertools import chain, islice
from math import ceil

WINDOW_SECONDS = 60.0
#: A request counts as sent after this part of the window: 2 of 60 seconds. A response that begins later therefore does
#: not lower the rate by more than a thirtieth.
_SENDING_SHARE = 1 / 30
#: The shortest wait in seconds. A wait that was rounded to 0 would make the caller check again without any pause.
_SHORTEST_DELAY = 0.001


class WindowEntry:
    """One admitted request.

    Attributes:
        admitted_at: The time at which the request was admitted.
        counts_from: The time at which it had reached the service at the latest; `None` while that is not known.
        tokens: The tokens with which the request counts: first the estimate, later the tokens that it used.
        in_window: Whether the request is still in the window.
        is_estimate: Whether the request runs, so that `tokens` is still its estimate.
    """

    __slots__ = ("admitted_at", "counts_from", "tokens", "in_window", "is_estimate")

    def __init__(self, admitted_at: float, tokens: int) -> None:
        self.admitted_at, self.tokens, self.in_window, self.is_estimate = admitted_at, tokens, True, True
        self.counts_from: float | None = None


class RateWindow:
    """A sliding window with a limit of requests and a limit of tokens.

    Args:
        requests: The most requests in one window, or `None` for no limit.
        tokens: The most tokens in one window, or `None` for no limit.
        seconds: The length of the window; 60 by default.
    """

    def __init__(self, requests: float | None, tokens: float | None, seconds: float = WINDOW_SECONDS) -> None:
        self._max_requests = float("inf") if requests is None else requests
        self._max_tokens = float("inf") if tokens is None else tokens
        self.seconds = seconds
        #: The seconds after which an admitted request counts as sent.
        self.sending_seconds = seconds * _SENDING_SHARE
        #: The requests that have reached the service, by `counts_from`.
        self._entries: deque[WindowEntry] = deque()
        #: The requests that may not have reached the service yet, by `admitted_at`. A dict serves as an ordered set.
        self._unsent: dict[WindowEntry, None] = {}
        # The sum of the entries' tokens. It is updated with each change, because adding up all entries for each request
        # would be slow.
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._entries) + len(self._unsent)

    def delay(self, now: float, tokens: int) -> float:
        """Return the seconds until a request with this number of tokens can be admitted; 0 if that is now."""
        self._drop_expired(now)
        free_requests = self._max_requests - len(self)
        free_tokens = self._max_tokens - self._tokens - tokens
        if (free_requests >= 1 and free_tokens >= 0) or not (self._entries or self._unsent):
            return 0
        for entry in chain(self._entries, self._unsent):
            free_requests += 1
            free_tokens += entry.tokens
            if free_requests >= 1 and free_tokens >= 0:
                break
        return max(self._departure(entry, now) - now, _SHORTEST_DELAY)

    def requests_delay(self, now: float) -> float:
        """Return the seconds until the limit of requests allows another one; 0 if that is now."""
        self._drop_expired(now)
        too_many = len(self) + 1 - self._max_requests
        if too_many <= 0 or not len(self):
            return 0
        position = min(ceil(too_many), len(self)) - 1
        entry = next(islice(chain(self._entries, self._unsent), position, None))
        return max(self._departure(entry, now) - now, 0)

    def _departure(self, entry: WindowEntry, now: float) -> float:
        """Return the earliest time at which a request can leave the window."""
        return (now if entry.counts_from is None else entry.counts_from) + self.seconds

    @property
    def has_estimates(self) -> bool:
        """Whether a request in the window counts with its estimate, because it has not ended yet."""
        return any(entry.is_estimate for entry in chain(self._entries, self._unsent))

    def add(self, now: float, tokens: int) -> WindowEntry:
        """Count a request that is admitted now. This method does not check the limits."""
        self._drop_expired(now)
        entry = WindowEntry(now, tokens)
        self._unsent[entry] = None
        self._tokens += tokens
        return entry

    def sent(self, entry: WindowEntry, now: float) -> None:
        """Count a request from now, because it has reached the service. Only the first call for a request counts."""
        if entry.counts_from is None:
            self._drop_expired(now)
            if entry in self._unsent:
                self._count_from(entry, now)

    def correct(self, entry: WindowEntry, tokens: int) -> None:
        """Replace the estimated tokens of a request by the tokens that it used."""
        if entry.in_window:
            self._tokens += tokens - entry.tokens
            entry.tokens = tokens

    def _count_from(self, entry: WindowEntry, time: float) -> None:
        del self._unsent[entry]
        entry.counts_from = time
        self._entries.append(entry)

    def _drop_expired(self, now: float) -> None:
        while self._unsent:
            oldest = next(iter(self._unsent))
            if oldest.admitted_at + self.sending_seconds > now:
                break
            self._count_from(oldest, oldest.admitted_at + self.sending_seconds)
        while self._entries and (self._entries[0].counts_from or 0) <= now - self.seconds:
            expired = self._entries.popleft()
            self._tokens -= expired.tokens
            expired.in_window = False
