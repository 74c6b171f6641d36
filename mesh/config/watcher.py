"""The live configuration of one instance."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc

from mesh.api.config.v1 import ConfigStub, Update, WatchResponse
from mesh.config.convert import effective_request, report_request, view_from_proto, watch_request
from mesh.config.model import Outcome, Subject, View
from mesh.config.snapshot import Snapshot, SnapshotError
from mesh.discovery.channel import control_channel, mesh_error
from mesh.discovery.targets import Targets
from mesh.errors import MeshError

if TYPE_CHECKING:
    from mesh.api.config.v1.config_pb2_grpc import ConfigAsyncStub  # exists for type checkers only

# The service speaks every 10 s at least: after this silence it, or something between, is stuck.
LONGEST_SILENCE = 35.0
# After this long without a first word an instance starts with its snapshot.
FIRST_WORD = 5.0
CALL_TIMEOUT = 5.0
_LONGEST_ERROR = 1024

# What was made of a configuration; a text is what of it could not be applied, and goes into the report with APPLIED.
Made = Outcome | str | None
# Called with the new configuration and the one before. What it raises rejects the new one.
OnChange = Callable[[View, View], Made | Awaitable[Made]]


class ConfigWatcher:
    """Follows the configuration of `subject` at the control services behind `target`.

    It calls `on_change` in the loop for every new content, reports what that made of it, resumes where it was,
    reconnects by itself, and goes on with what it has while the control plane is away. `current` is what the instance
    runs: the last configuration that was not rejected and needs no restart.
    """

    def __init__(
        self,
        target: str,
        subject: Subject,
        on_change: OnChange | None = None,
        *,
        lease: Callable[[], int] = lambda: 0,
        snapshot: Snapshot | None = None,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """Ask at `target`, "A" or "A,B,...", for secrets with `lease()`, the instance's own in the registry.

        A lease of 0 asks for them masked.

        `on_event` is told in a sentence what changes between the instance and the control plane.
        """
        self._targets = Targets(target)
        self._subject = subject
        self._on_change = on_change
        self._lease = lease
        self._snapshot = snapshot
        self._on_event = on_event
        self.current = View.EMPTY
        self.connected = False
        # The control plane answered, and has no Config service.
        self.absent = False
        # The last that came, whatever was made of it.
        self._received = View.EMPTY
        self._outcome, self._error = Outcome.APPLIED, ""
        # What of `current` could not be applied.
        self._lacking = ""
        self._reported: tuple[int, str, Outcome, str] | None = None
        self._ready = asyncio.Event()
        self._refresh = asyncio.Event()
        self._said = ""

    @property
    def received(self) -> View:
        """What came last, whatever was made of it."""
        return self._received

    @property
    def outcome(self) -> Outcome:
        """What was made of what came last."""
        return self._outcome

    @property
    def error(self) -> str:
        """Why what came last was rejected, or what of it could not be applied; "" is neither."""
        return self._error

    async def ready(self) -> None:
        """Wait until there is a configuration to run with: from the control plane, or from the snapshot."""
        await self._ready.wait()

    def refresh(self) -> None:
        """Ask anew, with the lease that there is now: to be called when that has changed."""
        self._refresh.set()

    async def run(self) -> None:
        """Follow until cancelled, whatever the network does.

        Raises:
            RefusedError: what is asked for makes no sense, such as a malformed name.

        """
        while True:
            try:
                # A new channel each time: it connects at once, where an old one may sit out a backoff of its own.
                async with control_channel(self._targets.current) as channel:
                    await self._unless_refreshed(self._follow(ConfigStub(channel)))
            except grpc.aio.AioRpcError as error:
                self._lost(error)
            except TimeoutError:
                self._say(f"the control service at {self._targets.current} does not answer in time")
            finally:
                self.connected = False
            await self._fall_back()
            if self._refresh.is_set():
                self._refresh.clear()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._targets.move_on()):
                    await self._refresh.wait()

    async def _follow(self, stub: ConfigAsyncStub) -> None:
        lease_id = self._lease()
        self._reported = None
        call = stub.Watch(watch_request(self._subject, lease_id, self._received))
        while True:
            async with asyncio.timeout(LONGEST_SILENCE if self._ready.is_set() else FIRST_WORD):
                response = await call.read()
            if not isinstance(response, WatchResponse):
                return  # the end of the stream
            self._targets.reset()
            self.connected, self.absent, self._said = True, False, ""
            if response.WhichOneof("update") == "changed":
                await self._take(await self._view(stub, response, lease_id))
                await self._report(stub)

    async def _view(self, stub: ConfigAsyncStub, response: WatchResponse, lease_id: int) -> View:
        """Return the configuration of an update, with its content."""
        update: Update = response.changed
        match update.WhichOneof("content"):
            case "inline":
                return view_from_proto(response.header, update.inline, revealed=lease_id != 0)
            case "fetch":
                request = effective_request(self._subject, lease_id, update.release)
                reply = await stub.GetEffective(request, timeout=CALL_TIMEOUT)
                return view_from_proto(response.header, reply.effective, revealed=lease_id != 0)
            case _:
                header = response.header
                return dataclasses.replace(
                    self._received, cluster_id=header.cluster_id, revision=header.revision, release=update.release
                )

    async def _take(self, view: View) -> None:
        """Make of a configuration what `on_change` makes of it."""
        before, self._received = self._received, view
        same = view.checksum == before.checksum and view.missing == before.missing and before.cluster_id != ""
        if same and self._outcome is not Outcome.APPLIED:
            return  # what was made of it holds, under whatever number it comes again
        if view.checksum != self.current.checksum or view.missing != self.current.missing or not self._ready.is_set():
            self._outcome, self._error = await self._offer(view)
        else:
            self._outcome, self._error = Outcome.APPLIED, self._lacking
        if self._outcome is Outcome.APPLIED:
            self.current, self._lacking = view, self._error
            self._ready.set()
        elif not self._ready.is_set():
            await self._start_with_last()
        if self._outcome is not Outcome.REJECTED and self._snapshot is not None:
            try:
                await asyncio.to_thread(self._snapshot.save, self._subject, view)
            except OSError as error:
                self._say(f"the configuration's snapshot cannot be written ({error})")

    async def _offer(self, view: View) -> tuple[Outcome, str]:
        if self._on_change is None:
            return Outcome.APPLIED, ""
        try:
            made = self._on_change(view, self.current)
            if inspect.isawaitable(made):
                made = await made
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the instance goes on with what it has
            # What is raised on purpose is a sentence already.
            what = str(error) if isinstance(error, MeshError) else f"{type(error).__name__}: {error}"
            return Outcome.REJECTED, what[:_LONGEST_ERROR]
        if isinstance(made, str):
            return Outcome.APPLIED, made[:_LONGEST_ERROR]
        return made or Outcome.APPLIED, ""

    async def _report(self, stub: ConfigAsyncStub) -> None:
        report = (self._received.release, self._received.checksum, self._outcome, self._error)
        if not self._subject.instance or not self._received.release or report == self._reported:
            return
        await stub.ReportApplied(
            report_request(self._subject, self._received, self._outcome, self._error), timeout=CALL_TIMEOUT
        )
        self._reported = report

    async def _fall_back(self) -> None:
        """Start with the snapshot, if nothing better came."""
        view = None if self._received.cluster_id else self._last()
        if view is not None:
            self._say(f"the control plane is away: starting with release {view.release} from the snapshot")
            await self._take(view)

    async def _start_with_last(self) -> None:
        """Start with the snapshot, since what came was rejected; that is what is reported."""
        view = self._last()
        if view is not None and (await self._offer(view))[0] is Outcome.APPLIED:
            self._say(f"release {self._received.release} is rejected: starting with release {view.release}, the last")
            self.current = view
            self._ready.set()

    def _last(self) -> View | None:
        try:
            return None if self._snapshot is None else self._snapshot.load(self._subject)
        except SnapshotError as error:
            self._say(str(error))
            return None

    async def _unless_refreshed(self, work: Awaitable[None]) -> None:
        following = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self._refresh.wait())
        try:
            await asyncio.wait((following, asked), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            for task in (following, asked):
                task.cancel()
            await asyncio.gather(following, asked, return_exceptions=True)

    def _lost(self, error: grpc.aio.AioRpcError) -> None:
        found = mesh_error(error, self._targets.current)
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            self.absent = True
            self._say(f"the control plane at {self._targets.current} has no configuration service")
            return
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            raise found from error
        # Others may pass: a lease is registered anew, a release is mended.
        self._say(str(found))

    def _say(self, sentence: str) -> None:
        if self._on_event is not None and sentence != self._said:
            self._said = sentence
            self._on_event(sentence)
