"""How many calls of one kind may be in flight, where the configuration bounds them."""

from __future__ import annotations

from proxy.call.call import Call
from proxy.call.interceptor import Interceptor
from proxy.call.reason import Reason, Reject


class Room:
    """Calls in flight, counted together. Outlives changes of the bound."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = 0


class Gate(Interceptor):
    """Refuses calls beyond the bound. It comes before all that may refuse: what it counts in, it counts out."""

    name = "gate"

    def __init__(self, room: Room, most: int, whose: str) -> None:
        self._room = room
        self._most = most
        self._whose = whose

    def on_request(self, call: Call) -> None:
        room = self._room
        room.taken += 1
        if room.taken > self._most:
            raise Reject(
                Reason.OVERLOADED, f"{self._most} calls are in flight, the limit that {self._whose} has: retry later"
            )

    def on_end(self, call: Call) -> None:
        self._room.taken -= 1
