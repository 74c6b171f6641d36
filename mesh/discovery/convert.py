"""Between the registry's messages and the model."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.api.registry import v1
from mesh.discovery.model import Check, Directory, Health, Instance, Service

_HEALTH_FROM: dict[int, Health] = {
    v1.HEALTH_UNSPECIFIED: Health.SERVING,
    v1.HEALTH_STARTING: Health.STARTING,
    v1.HEALTH_SERVING: Health.SERVING,
    v1.HEALTH_NOT_SERVING: Health.NOT_SERVING,
    v1.HEALTH_DRAINING: Health.DRAINING,
}
_HEALTH_TO: dict[Health, v1.Health.ValueType] = {
    Health.STARTING: v1.HEALTH_STARTING,
    Health.SERVING: v1.HEALTH_SERVING,
    Health.NOT_SERVING: v1.HEALTH_NOT_SERVING,
    Health.DRAINING: v1.HEALTH_DRAINING,
}


def health_to_proto(health: Health) -> v1.Health.ValueType:
    return _HEALTH_TO[health]


def instance_from_proto(message: v1.Instance) -> Instance:
    return Instance(
        service=message.service,
        instance_id=message.instance_id,
        endpoints=tuple(message.endpoints),
        version=message.version,
        zone=message.zone,
        weight=message.weight,
        metadata=dict(message.metadata),
        grpc_services=tuple(message.grpc_services),
        public=message.exposure == v1.EXPOSURE_PUBLIC,
        # A state that is newer than this program wants no calls, as far as it knows.
        health=_HEALTH_FROM.get(message.health, Health.NOT_SERVING),
        health_reason=message.health_reason,
        warm_up_seconds=message.warm_up_seconds,
        serving_since=message.serving_since_ms / 1000,
        check=_check_from_proto(message.check) if message.HasField("check") else None,
        protected=message.protected,
        create_revision=message.create_revision,
        mod_revision=message.mod_revision,
    )


def instance_to_proto(instance: Instance) -> v1.Instance:
    """Return the instance as one registers it, without what the registry sets."""
    return v1.Instance(
        service=instance.service,
        instance_id=instance.instance_id,
        endpoints=instance.endpoints,
        version=instance.version,
        zone=instance.zone,
        weight=instance.weight,
        metadata=instance.metadata,
        grpc_services=instance.grpc_services,
        exposure=v1.EXPOSURE_PUBLIC if instance.public else v1.EXPOSURE_INTERNAL,
        health=_HEALTH_TO[instance.health],
        health_reason=instance.health_reason,
        warm_up_seconds=instance.warm_up_seconds,
        check=_check_to_proto(instance.check) if instance.check is not None else None,
    )


def _check_from_proto(message: v1.HealthCheck) -> Check:
    return Check(
        grpc_service=message.grpc_service,
        interval_seconds=message.interval_seconds,
        timeout_seconds=message.timeout_seconds,
        unhealthy_threshold=message.unhealthy_threshold,
        healthy_threshold=message.healthy_threshold,
    )


def _check_to_proto(check: Check) -> v1.HealthCheck:
    return v1.HealthCheck(
        grpc_service=check.grpc_service,
        interval_seconds=check.interval_seconds,
        timeout_seconds=check.timeout_seconds,
        unhealthy_threshold=check.unhealthy_threshold,
        healthy_threshold=check.healthy_threshold,
    )


def service_from_proto(message: v1.Service) -> Service:
    return Service(
        name=message.name,
        grpc_services=tuple(message.grpc_services),
        public=message.exposure == v1.EXPOSURE_PUBLIC,
        create_revision=message.create_revision,
    )


def advance(directory: Directory, response: v1.WatchResponse) -> Directory:
    """Return the directory after one message of a watch."""
    cluster_id, revision = response.header.cluster_id, response.header.revision
    update = response.WhichOneof("update")
    if update == "snapshot":
        instances = map(instance_from_proto, response.snapshot.instances)
        services = map(service_from_proto, response.snapshot.services)
        return Directory(
            cluster_id=cluster_id,
            revision=revision,
            services={service.name: service for service in services},
            instances={instance.key: instance for instance in instances},
        )
    if update == "changes":
        return _changed(directory, response.changes.changes, cluster_id, revision)
    if update == "batch":
        changes = (change for one in response.batch.revisions for change in one.changes.changes)
        return _changed(directory, changes, cluster_id, revision)
    # Nothing changed, but the place to resume from.
    return Directory(cluster_id, revision, directory.services, directory.instances)


def _changed(directory: Directory, changes: Iterable[v1.Change], cluster_id: str, revision: int) -> Directory:
    services, instances = dict(directory.services), dict(directory.instances)
    for change in changes:
        match change.WhichOneof("change"):
            case "instance":
                instance = instance_from_proto(change.instance)
                instances[instance.key] = instance
            case "removed":
                instances.pop((change.removed.service, change.removed.instance_id), None)
            case "service":
                services[change.service.name] = service_from_proto(change.service)
    return Directory(cluster_id, revision, services, instances)
