from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from mesh.api.registry import v1
from mesh.discovery.convert import advance, instance_from_proto, instance_to_proto, service_from_proto
from mesh.discovery.model import Directory, Health, Instance, Service

NAMES = st.sampled_from(["orders", "payments"])
IDS = st.sampled_from(["a", "b", "c"])
INSTANCES = st.builds(
    Instance,
    NAMES,
    IDS,
    st.lists(st.sampled_from(["h:1", "h:2", "unix:/s"]), min_size=1, max_size=3).map(tuple),
    version=st.text(max_size=3),
    zone=st.text(max_size=3),
    weight=st.integers(0, 1000),
    metadata=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    grpc_services=st.lists(st.sampled_from(["a.A", "b.B"]), unique=True).map(tuple),
    public=st.booleans(),
    health=st.sampled_from(Health),
)
Step = Instance | Service | tuple[str, str]
# A step of a watch: an instance comes or changes, one leaves, a service becomes known.
STEPS = st.one_of(INSTANCES, st.tuples(NAMES, IDS), st.builds(Service, NAMES, public=st.booleans()))


@given(INSTANCES)
def test_an_instance_comes_back_as_it_went(instance: Instance) -> None:
    assert instance_from_proto(instance_to_proto(instance)) == instance


def test_what_the_registry_sets_comes_in_and_does_not_go_out() -> None:
    message = v1.Instance(service="s", instance_id="i", create_revision=3, mod_revision=4, ttl_seconds=5)
    found = instance_from_proto(message)
    assert (found.create_revision, found.mod_revision) == (3, 4)
    sent = instance_to_proto(found)
    assert (sent.create_revision, sent.mod_revision, sent.ttl_seconds) == (0, 0, 0)


def test_a_health_of_the_future_wants_no_calls() -> None:
    assert instance_from_proto(v1.Instance(health=99)).health is Health.NOT_SERVING  # type: ignore[arg-type]
    assert instance_from_proto(v1.Instance()).health is Health.SERVING


def test_a_service_keeps_what_is_known_of_it() -> None:
    message = v1.Service(name="s", grpc_services=["a.A"], exposure=v1.EXPOSURE_PUBLIC, create_revision=7)
    assert service_from_proto(message) == Service("s", ("a.A",), public=True, create_revision=7)


@given(st.lists(st.lists(STEPS, min_size=1, max_size=3), max_size=8))
def test_changes_lead_to_the_state_that_they_tell_of(
    revisions: list[list[Instance | Service | tuple[str, str]]],
) -> None:
    directory = advance(Directory.EMPTY, v1.WatchResponse(header=v1.Header(cluster_id="c"), snapshot=v1.Snapshot()))
    instances: dict[tuple[str, str], Instance] = {}
    services: dict[str, Service] = {}
    for revision, steps in enumerate(revisions, 1):
        changes = []
        for step in steps:
            if isinstance(step, Instance):
                instances[step.key] = step
                changes.append(v1.Change(instance=instance_to_proto(step)))
            elif isinstance(step, Service):
                services[step.name] = step
                exposure = v1.EXPOSURE_PUBLIC if step.public else v1.EXPOSURE_INTERNAL
                changes.append(v1.Change(service=v1.Service(name=step.name, exposure=exposure)))
            else:
                instances.pop(step, None)
                changes.append(v1.Change(removed=v1.Removal(service=step[0], instance_id=step[1])))
        before, copy = directory, dataclasses.replace(directory, instances=dict(directory.instances))
        header = v1.Header(cluster_id="c", revision=revision)
        directory = advance(directory, v1.WatchResponse(header=header, changes=v1.Changes(changes=changes)))
        assert before == copy  # a directory that was handed out never changes
    assert directory == Directory("c", len(revisions), services, instances)


def test_a_snapshot_is_all_there_is_and_progress_only_moves_on() -> None:
    old = Directory("old", 9, {"gone": Service("gone")}, {("gone", "a"): Instance("gone", "a", ("h:1",))})
    header = v1.Header(cluster_id="new", revision=2)
    snapshot = v1.Snapshot(services=[v1.Service(name="s")])
    new = advance(old, v1.WatchResponse(header=header, snapshot=snapshot))
    assert new == Directory("new", 2, {"s": Service("s")}, {})
    header = v1.Header(cluster_id="new", revision=5)
    later = advance(new, v1.WatchResponse(header=header, progress=v1.Progress()))
    assert later == dataclasses.replace(new, revision=5)
