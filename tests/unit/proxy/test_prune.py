from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2

from mesh.api.edge.v1 import edge_pb2
from mesh.api.registry.v1 import registry_pb2
from proxy.admin.prune import prune

File = descriptor_pb2.FileDescriptorProto


def file_of(module: object) -> File:
    file = File()
    module.DESCRIPTOR.CopyToProto(file)  # type: ignore[attr-defined]
    return file


def two_services() -> dict[str, File]:
    """Return a file with a public and an internal service that share one type."""
    file = File(name="shop.proto", package="shop", dependency=["types.proto", "google/protobuf/empty.proto"])
    for name in ("Shared", "OpenOnly", "Secret", "SecretPart"):
        file.message_type.add(name=name)
    file.message_type[0].nested_type.add(name="Inner")
    file.message_type[2].field.add(name="part", number=1, type=11, label=1, type_name=".shop.SecretPart")
    for service, out in (("Open", "OpenOnly"), ("Closed", "Secret")):
        file.service.add(name=service).method.add(name="Do", input_type=".shop.Shared", output_type=f".shop.{out}")
    file.service[0].method.add(name="Kind", input_type=".types.Kinded", output_type=".shop.Shared.Inner")
    types = File(name="types.proto", package="types", syntax="proto3")
    types.message_type.add(name="Kinded").field.add(name="kind", number=1, type=14, label=1, type_name=".types.Kind")
    types.enum_type.add(name="Kind").value.add(name="NONE", number=0)
    types.message_type.add(name="Unused")
    empty = file_of(empty_pb2)
    return {one.name: one for one in (file, types, empty)}


def test_only_the_services_asked_for_and_what_they_reach_is_left() -> None:
    kept = prune(two_services(), {"shop.Open"})
    assert sorted(kept) == ["shop.proto", "types.proto"]
    shop = kept["shop.proto"]
    assert [one.name for one in shop.service] == ["Open"]
    assert [one.name for one in shop.message_type] == ["Shared", "OpenOnly"]
    assert list(shop.dependency) == ["types.proto"]
    assert [one.name for one in kept["types.proto"].message_type] == ["Kinded"]


def test_what_is_left_can_be_loaded() -> None:
    for files, service in (
        (two_services(), "shop.Closed"),
        (two_services(), "shop.Open"),
        ({one.name: one for one in (file_of(registry_pb2), file_of(edge_pb2))}, "mesh.edge.v1.Edge"),
    ):
        pool = descriptor_pool.DescriptorPool()
        waiting = list(prune(files, {service}).values())
        while waiting:  # imports first
            loaded = [one for one in waiting if not set(one.dependency) & {w.name for w in waiting}]
            assert loaded
            for one in loaded:
                pool.Add(one)
                waiting.remove(one)
        assert pool.FindServiceByName(service).methods


def test_nothing_is_left_of_what_nobody_asked_for() -> None:
    assert prune(two_services(), {"shop.Other"}) == {}
