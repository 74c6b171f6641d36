"""Cuts file descriptors down to what some services need, so that reflection shows them and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from google.protobuf import descriptor_pb2

File = descriptor_pb2.FileDescriptorProto
_Field = descriptor_pb2.FieldDescriptorProto


def prune(files: Mapping[str, File], services: Collection[str]) -> dict[str, File]:
    """Return `files` with only `services` and the types that their methods reach, without the files left empty.

    `files` are by name and closed under import. Nested types stay with the type around them. Options that use
    extensions are kept as they are.
    """
    owners = _owners(files)
    needed = _closure(owners, _method_types(files.values(), services))
    kept = {}
    for name, file in files.items():
        prefix = f"{file.package}." if file.package else ""
        cut = File()
        cut.CopyFrom(file)
        _keep(cut.service, lambda one, at=prefix: at + one.name in services)
        _keep(cut.message_type, lambda one, at=prefix: at + one.name in needed)
        _keep(cut.enum_type, lambda one, at=prefix: at + one.name in needed)
        if not cut.service and not cut.message_type and not cut.enum_type and not cut.extension:
            continue
        cut.ClearField("source_code_info")
        kept[name] = cut
    _keep_imports(kept, files)
    return kept


def _owners(files: Mapping[str, File]) -> dict[str, Any]:
    """Return every type by its full name; a nested type stands for the one around it."""
    owners: dict[str, Any] = {}

    def add(top: Any, prefix: str, one: Any, top_name: str) -> None:
        owners[prefix + one.name] = (top_name, top)
        for nested in (*getattr(one, "nested_type", ()), *getattr(one, "enum_type", ())):
            add(top, f"{prefix}{one.name}.", nested, top_name)

    one: Any
    for file in files.values():
        prefix = f"{file.package}." if file.package else ""
        for one in (*file.message_type, *file.enum_type):
            add(one, prefix, one, prefix + one.name)
    return owners


def _method_types(files: Iterable[File], services: Collection[str]) -> set[str]:
    types = set()
    for file in files:
        prefix = f"{file.package}." if file.package else ""
        for service in file.service:
            if prefix + service.name in services:
                for method in service.method:
                    types |= {method.input_type.lstrip("."), method.output_type.lstrip(".")}
    return types


def _closure(owners: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        top_name, top = owners.get(waiting.pop(), (None, None))
        if top_name is not None and top_name not in needed:
            needed.add(top_name)
            waiting += _field_types(top)
    return needed


def _field_types(one: Any) -> list[str]:
    found = [field.type_name.lstrip(".") for field in getattr(one, "field", ()) if field.type_name]
    for nested in getattr(one, "nested_type", ()):
        found += _field_types(nested)
    return found


def _keep(repeated: Any, wanted: Any) -> None:
    stay = [one for one in repeated if wanted(one)]
    del repeated[:]
    repeated.extend(stay)


def _keep_imports(kept: Mapping[str, File], files: Mapping[str, File]) -> None:
    """Leave the imports of what is still there; what a dropped file re-exported is imported from where it is."""
    for file in kept.values():
        reached: list[str] = []
        for name in file.dependency:
            reached += [name] if name in kept else _reexported(files, name, kept)
        del file.dependency[:]
        del file.public_dependency[:]
        del file.weak_dependency[:]
        file.dependency.extend(dict.fromkeys(reached))


def _reexported(files: Mapping[str, File], name: str, kept: Mapping[str, File]) -> list[str]:
    file = files.get(name)
    if file is None:
        return []
    found: list[str] = []
    for index in file.public_dependency:
        onward = file.dependency[index]
        found += [onward] if onward in kept else _reexported(files, onward, kept)
    return found
