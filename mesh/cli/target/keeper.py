"""Keeps one server registered: finds what it serves, follows how it is, and takes it out again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any

import grpc

from mesh.child import ending
from mesh.cli.output import print_json, print_line, say
from mesh.cli.supervisor.ready import dialable
from mesh.cli.target.command import Command, Reservation, filled_in
from mesh.cli.target.health import CHANNEL_OPTIONS, HealthFollower
from mesh.cli.target.reflection import reflected_services
from mesh.cli.waiting import LeftError, unless
from mesh.discovery.model import Health, Instance
from mesh.discovery.registration import DRAIN_TIMEOUT, Registration
from mesh.errors import StartError, UnreachableError, UsageError
from mesh.runtime import EXIT_OK, Process

# The edges hear within milliseconds that an instance has left; calls they sent before reach it in this time.
SETTLE_SECONDS = 0.25


@dataclass(frozen=True)
class RegisterOptions:
    """What `mesh register` was asked for."""

    control: str
    # Without instance id, and without gRPC services, where they were left out.
    instance: Instance
    # Starts the server; empty when it runs already.
    command: tuple[str, ...] = ()
    ttl: float = 15.0
    # Seconds that the server, and then the registry, may take to answer at the start.
    wait: float = 30.0
    # Seconds that the command may take to end.
    grace: float = 10.0


class Keeper:
    """Runs one `mesh register`."""

    def __init__(self, options: RegisterOptions, *, as_json: bool = False) -> None:
        self._options = options
        self._as_json = as_json
        # The command's own; 0 where there is none.
        self.exit_code = EXIT_OK

    async def run(self, process: Process) -> None:
        """Keep the server registered until the process shall stop, or the command ends.

        Raises:
            MeshError: the server does not answer or does not say what it serves, or the registry refuses it.

        """
        address = self._options.instance.endpoints[0]
        if not self._options.command:
            await self._keep(process, address, None)
            return
        host, _, port = address.rpartition(":")
        reservation = Reservation(host) if port == "0" else None
        try:
            if reservation is not None:
                address = reservation.address
            # Under a supervisor the command stays in our group, which the supervisor ends as one.
            own_group = process.lifeline_fd is None
            command = await Command.start(filled_in(self._options.command, address), own_group=own_group)
            try:
                await self._keep(process, address, command)
            finally:
                self.exit_code = await command.stop(self._options.grace)
            if not process.stop.is_set():
                # The last word, which a supervisor passes on.
                say(f"{self._options.instance.service}: its command {ending(self.exit_code)}")
        finally:
            if reservation is not None:
                reservation.release()

    async def _keep(self, process: Process, address: str, command: Command | None) -> None:
        def leaving() -> list[Awaitable[Any]]:
            return [process.stop.wait(), *((command.ended(),) if command else ())]

        async with grpc.aio.insecure_channel(dialable(address), options=CHANNEL_OPTIONS) as channel:
            try:
                instance = await unless(self._described(channel, address), *leaving())
                await unless(self._follow(process, channel, instance), *leaving())
            except LeftError:
                if process.stop.is_set() and command is not None:
                    await asyncio.sleep(SETTLE_SECONDS)

    async def _described(self, channel: grpc.aio.Channel, address: str) -> Instance:
        """Wait until the server answers, and return what is to be registered."""
        wait = self._options.wait
        try:
            await asyncio.wait_for(channel.channel_ready(), wait)
        except TimeoutError as error:
            raise StartError(
                f"no gRPC server answers at {address} within {wait:g} s: start it, or let it take longer with --wait"
            ) from error
        given = self._options.instance
        return replace(
            given,
            endpoints=(address,),
            # The same each time, so that a restart takes the place of what was before.
            instance_id=given.instance_id or f"{given.service}-{address}".translate({ord("["): None, ord("]"): None}),
            grpc_services=given.grpc_services or await self._reflected(channel, address),
        )

    async def _reflected(self, channel: grpc.aio.Channel, address: str) -> tuple[str, ...]:
        try:
            names = await reflected_services(channel)
        except grpc.aio.AioRpcError as error:
            raise StartError(
                f"the reflection of {address} failed with {error.code().name}: {error.details()}"
            ) from error
        if not names:
            has = "has no reflection" if names is None else "reflects no service but its own health and reflection"
            raise UsageError(f"the server at {address} {has}: name what it serves with --grpc-service")
        return tuple(names)

    async def _follow(self, process: Process, channel: grpc.aio.Channel, instance: Instance) -> None:
        """Keep `instance` registered, with its health, until cancelled, which deregisters it."""
        options = self._options
        last = ""

        def heard(sentence: str) -> None:
            nonlocal last
            last = sentence
            say(f"{instance.service}: {sentence}")

        # Nobody is sent there before it has said that it is serving.
        registration = Registration(
            options.control,
            replace(instance, health=Health.STARTING),
            ttl=options.ttl,
            on_event=heard,
            drain=min(DRAIN_TIMEOUT, options.grace),
        )

        def report(serving: bool) -> None:
            before = registration.instance.health
            registration.set_health(Health.SERVING if serving else Health.NOT_SERVING)
            if before is not Health.STARTING or not serving:
                heard("serving again" if serving else "not serving: it gets no calls")

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(registration.run())
                tasks.create_task(HealthFollower(channel, instance.grpc_services, report).run())
                try:
                    await asyncio.wait_for(registration.registered(), options.wait)
                except TimeoutError as error:
                    why = last.removesuffix(", retrying") or f"no control service answers at {options.control}"
                    raise UnreachableError(f"{why}; given up after {options.wait:g} s (--wait)") from error
                self._announce(process, instance)
        except BaseExceptionGroup as group:
            # One of them failed and the others were cancelled for it.
            raise group.exceptions[0] from None

    def _announce(self, process: Process, instance: Instance) -> None:
        address = instance.endpoints[0]
        if process.ready_fd is not None:
            process.ready({"endpoint": address})
        elif self._as_json:
            known = {"service": instance.service, "instance_id": instance.instance_id, "endpoint": address}
            print_json({**known, "grpc_services": list(instance.grpc_services)}, indent=None)
        else:
            print_line(
                f"{instance.service} at {address} is in the mesh as {instance.instance_id} "
                f"with {', '.join(instance.grpc_services)}. Ctrl-C takes it out."
            )
