"""The configuration of an application, typed and live: what `m.config(Settings)` gives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from mesh.config import typed
from mesh.config.model import Subject, View
from mesh.config.snapshot import Snapshot
from mesh.config.watcher import ConfigWatcher
from mesh.errors import MeshError
from mesh.options import snapshot_key
from mesh.sdk.options import JoinOptions

T = TypeVar("T")

# Told the new settings and those before, None at first. What it raises rejects the new ones.
OnChange = Callable[[T, T | None], None]

_log = logging.getLogger("mesh.config")


class Configuration(Generic[T]):
    """Settings that follow the releases of an application; what became of each is reported to the control plane."""

    def __init__(
        self,
        options: JoinOptions,
        application: str,
        kind: type[T],
        lease: Callable[[], int],
        on_change: OnChange[T] | None = None,
    ) -> None:
        self._kind = kind
        self._callbacks: list[OnChange[T]] = [] if on_change is None else [on_change]
        self._value: T | None = None
        labels = {"version": options.version, "zone": options.zone, **options.labels}
        subject = Subject(
            application,
            options.service,
            options.instance_id,
            options.environment,
            {name: value for name, value in labels.items() if value},
        )
        file = options.state / f"config-{application}.json" if options.state is not None else None
        self._watcher = ConfigWatcher(
            options.control,
            subject,
            self._take,
            lease=lease,
            snapshot=Snapshot(file, snapshot_key()) if file is not None else None,
            on_event=lambda sentence: _log.warning("%s: %s", application, sentence),
        )

    @property
    def current(self) -> T:
        """The settings in force; raises RuntimeError before there are any: `await ready()` first."""
        if self._value is None:
            raise RuntimeError("there is no configuration yet: await m.config(...).ready() first")
        return self._value

    @property
    def release(self) -> int:
        """The number of the release in force; 0 before there is any."""
        return self._watcher.current.release

    @property
    def error(self) -> str:
        """Why the release that came last was rejected; "" is that it was not."""
        return self._watcher.error

    async def ready(self) -> T:
        """Wait until there are settings, from the control plane or the last run, and return them."""
        await self._watcher.ready()
        return self.current

    def on_change(self, callback: OnChange[T]) -> None:
        """Call `callback` with each new settings before they come into force; what it raises rejects them."""
        self._callbacks.append(callback)

    def refresh(self) -> None:
        """Ask anew: there is another lease."""
        self._watcher.refresh()

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            await self._watcher.run()
        except MeshError as error:
            _log.error("there is no configuration to be had: %s", error)

    def _take(self, view: View, _before: View) -> None:
        try:
            value = typed.read(self._kind, view)
            for callback in self._callbacks:
                callback(value, self._value)
        except Exception as error:
            _log.warning("release %d is rejected: %s", view.release, error)
            raise
        self._value = value
