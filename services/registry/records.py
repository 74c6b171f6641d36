"""How the registry lies in the key-value store.

`registry/services/NAME`         a Service, remembered after its last instance
`registry/instances/NAME/ID`     an Instance, bound to its lease
`registry/replaced/NAME/ID`      the leases that held NAME/ID before, so that their holders are told to stop. Written
                                 whenever an instance is replaced, and bound to the same lease: while it exists, its
                                 mod_revision is where the present registration began.
`registry/checks/NAME/ID`        an Opinion: what the active check found. Bound to the instance's lease, like the next
`registry/drains/NAME/ID`        an Opinion: somebody drains the instance
`registry/holds/NAME/ID`         an Opinion: it changed too often. Bound to a lease as long as the hold
`registry/protection/NAME`       a Protection of the service, bound to a lease that lasts as long as it may
`registry/kept/NAME/ID`          an Instance whose lease is over, bound to the lease of the protection
"""

from __future__ import annotations

from typing import TypeVar

from mesh.api.registry.v1 import (
    OPINION_SOURCE_CHECK,
    OPINION_SOURCE_DAMPING,
    OPINION_SOURCE_DRAIN,
    Instance,
    OpinionSource,
    Service,
)
from services.storage.kv.base import KeyValue

PREFIX = "registry/"
SERVICES = PREFIX + "services/"
INSTANCES = PREFIX + "instances/"
REPLACED = PREFIX + "replaced/"
PROTECTION = PREFIX + "protection/"
KEPT = PREFIX + "kept/"
# What others than the instance say of it.
OPINIONS: dict[OpinionSource.ValueType, str] = {
    OPINION_SOURCE_CHECK: PREFIX + "checks/",
    OPINION_SOURCE_DRAIN: PREFIX + "drains/",
    OPINION_SOURCE_DAMPING: PREFIX + "holds/",
}

# Enough that whoever comes back is known, few enough that a flapping instance costs nothing.
MAX_REPLACED = 8

Record = TypeVar("Record", Instance, Service)

# Service and instance id.
Key = tuple[str, str]


def instance_key(key: Key) -> str:
    return f"{INSTANCES}{key[0]}/{key[1]}"


def replaced_key(key: Key) -> str:
    return f"{REPLACED}{key[0]}/{key[1]}"


def service_key(name: str) -> str:
    return SERVICES + name


def protection_key(name: str) -> str:
    return PROTECTION + name


def kept_key(key: Key) -> str:
    return f"{KEPT}{key[0]}/{key[1]}"


def opinion_key(source: OpinionSource.ValueType, key: Key) -> str:
    return f"{OPINIONS[source]}{key[0]}/{key[1]}"


def parse_key(key: str, prefix: str) -> Key:
    service, _, instance_id = key.removeprefix(prefix).partition("/")
    return service, instance_id


def encode(record: Record) -> bytes:
    """Return the stored form, without the revisions: the store keeps those."""
    bare = type(record)()
    bare.CopyFrom(record)  # several times as fast as copy.copy
    bare.ClearField("create_revision")
    bare.ClearField("mod_revision")
    return bare.SerializeToString(deterministic=True)


def decode_instance(kv: KeyValue, began: int) -> Instance:
    """Return the instance; `began` is where its registration began if it replaced another one, else 0."""
    found = Instance.FromString(kv.value)
    found.create_revision = max(kv.create_revision, began)
    found.mod_revision = kv.mod_revision
    return found


def decode_kept(kv: KeyValue) -> Instance:
    """Return an instance that is kept, as it was registered: to callers it is the same one as before."""
    found = Instance.FromString(kv.value)
    found.mod_revision = kv.mod_revision
    found.protected = True
    return found


def decode_service(kv: KeyValue) -> Service:
    found = Service.FromString(kv.value)
    found.create_revision = kv.create_revision
    found.mod_revision = kv.mod_revision
    return found


def encode_leases(leases: tuple[int, ...]) -> bytes:
    return ",".join(map(str, leases[-MAX_REPLACED:])).encode()


def decode_leases(value: bytes) -> tuple[int, ...]:
    return tuple(int(lease) for lease in value.split(b",") if lease)
