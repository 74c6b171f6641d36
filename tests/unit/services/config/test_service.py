"""The configuration over real gRPC on a real file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.api.config import v1
from services.config.keys import make_key
from tests.unit.services.config.helpers import ME, Control, refused, serving


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with serving(tmp_path) as running:
        yield running


async def test_layers_merge_with_the_origin_of_every_value(control: Control) -> None:
    await control.put("http: {port: 80, host: a}\nlog: info\nold: 1\n")
    await control.publish(comment="first")
    await control.put("http: {port: 81}\nold: null\n", environment="prod")
    await control.put('{"log": "debug"}', service="orders", format=v1.FORMAT_JSON)
    await control.put("http: {host: b}\n", service="orders", environment="prod")
    await control.put("log: trace\n", service="orders", instance="orders-1")
    release = await control.publish(comment="second")
    assert (release.number, len(release.layers), len(release.changed_layers)) == (2, 5, 4)

    reply = await control.effective(service="orders", environment="prod", instance="orders-1")
    assert json.loads(reply.effective.content_json) == {"http": {"port": 81, "host": "b"}, "log": "trace"}
    origins = {one.path: (one.layer, one.release) for one in reply.origins}
    assert origins == {
        "http.port": (v1.Layer(environment="prod"), 2),
        "http.host": (v1.Layer(environment="prod", service="orders"), 2),
        "log": (v1.Layer(service="orders", instance="orders-1"), 2),
    }
    other = await control.effective(service="payments")
    assert json.loads(other.effective.content_json) == {"http": {"port": 80, "host": "a"}, "log": "info", "old": 1}
    assert {one.release for one in other.origins} == {1}
    first = await control.effective(service="orders", environment="prod", release=1)
    assert json.loads(first.effective.content_json)["log"] == "info"


async def test_a_draft_is_not_what_instances_get(control: Control) -> None:
    await control.put("a: 1\n")
    assert (await control.effective()).effective.release == 0
    await control.publish()
    await control.put("a: 2\n")
    assert json.loads((await control.effective()).effective.content_json) == {"a": 1}


async def test_put_compares_and_swaps(control: Control) -> None:
    first = await control.put("a: 1 # why\n", expect_mod_revision=0)
    assert first.document.text == "a: 1 # why\n"
    again = await control.put("a: 1 # why\n", expect_mod_revision=first.document.mod_revision)
    assert again.document.mod_revision == first.document.mod_revision
    second = await control.put("a: 2\n", expect_mod_revision=first.document.mod_revision)
    assert list(second.changed_paths) == ["a"]
    for stale in (0, first.document.mod_revision):
        found = await refused(control.put("a: 3\n", expect_mod_revision=stale))
        assert (found.code, found.kinds) == (grpc.StatusCode.ABORTED, {"MOD_REVISION"})
        assert "somebody else changed it" in found.message
        assert f"changed by {ME}; mod_revision is {second.document.mod_revision}" in found.violations["defaults"]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: [1, {b: 2, b: 3}]", "a[1].b", "twice"),
        ("a: !!python/object:os.system x", "a", "tag"),
        ("a: !secret x", "a", "{$secret: text}"),
        ("- 1", "text", "mapping"),
        ("a: [", "line 2, column 1", "not YAML"),
        ("a: {$secret: x, more: 1}", "a", "a value of its own"),
        ("a: {$masked: 0123456789abcdef}", "a", "no secret 0123456789abcdef"),
        ("a: 1\n---\nb: 2\n", "text", "several documents"),
    ],
)
async def test_a_bad_document_is_refused_by_path(control: Control, text: str, where: str, what: str) -> None:
    found = await refused(control.put(text))
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert what in found.violations[where]
    assert where in found.message


async def test_bad_requests_name_the_field(control: Control) -> None:
    for call, field in (
        (control.put("a: 1", application="No"), "application"),
        (control.put("a: 1", instance="x"), "layer.service"),
        (control.put("a: 1", instance="x", service="y", environment="z"), "layer.environment"),
        (control.put("a: " + "x" * (513 * 1024)), "text"),
        (control.put("a: " + "x" * (1537 * 1024)), "request"),
        (control.config.Put(v1.PutRequest(application="shop", text="a: 1")), "author"),
        (control.config.ListAudit(v1.ListAuditRequest(page_token="x")), "page_token"),
        (control.config.ReportApplied(v1.ReportAppliedRequest(application="shop", service="a", instance="b")), "chec"),
    ):
        found = await refused(call)
        assert found.code is grpc.StatusCode.INVALID_ARGUMENT
        assert any(where.startswith(field) for where in found.violations), found


async def test_what_is_not_there_is_not_found(control: Control) -> None:
    await control.put("a: 1")
    layer = v1.Layer(service="x")
    for call in (
        control.config.Get(v1.GetRequest(application="other")),
        control.config.Get(v1.GetRequest(application="shop", layer=layer)),
        control.config.Get(v1.GetRequest(application="shop", release=3)),
        control.config.Remove(v1.RemoveRequest(application="shop", layer=layer, author=ME)),
        control.config.Rollback(v1.RollbackRequest(application="shop", to_release=9, author=ME)),
        control.config.GetSchema(v1.GetSchemaRequest(application="shop")),
        control.publish(application="other"),
        control.effective(release=5),
    ):
        found = await refused(call)
        assert (found.code, found.kinds) == (grpc.StatusCode.NOT_FOUND, {"ResourceInfo"})


async def test_a_document_at_a_revision(control: Control) -> None:
    revisions = [(await control.put(f"a: {number}")).header.revision for number in range(40)]
    await control.publish()

    async def at(revision: int) -> str:
        reply = await control.config.Get(v1.GetRequest(application="shop", at_revision=revision))
        return str(reply.document.text)

    assert await at(revisions[20]) == "a: 20"
    assert await at(revisions[39] + 1) == "a: 39"
    for revision, code in (
        (revisions[0], grpc.StatusCode.OUT_OF_RANGE),  # no longer kept: it was never released
        (revisions[39] + 100, grpc.StatusCode.OUT_OF_RANGE),
        (revisions[0] - 1, grpc.StatusCode.NOT_FOUND),
    ):
        assert (await refused(at(revision))).code is code


SCHEMA = json.dumps(
    {
        "type": "object",
        "required": ["port"],
        "additionalProperties": False,
        "properties": {"port": {"type": "integer", "maximum": 65535}, "password": {"type": "string"}},
    }
)


async def test_an_invalid_draft_cannot_be_published(control: Control) -> None:
    await control.put("password: {$secret: hunter2}")
    await control.put("port: many\nprot: 1", environment="prod")
    put = await control.config.PutSchema(v1.PutSchemaRequest(application="shop", schema=SCHEMA, author=ME))
    assert [(one.path, one.layer.environment) for one in put.draft_violations] == [("port", "prod"), ("prot", "prod")]

    found = await refused(control.publish())
    assert (found.code, found.kinds) == (grpc.StatusCode.FAILED_PRECONDITION, {"SCHEMA"})
    assert found.violations == {
        "port": "must be of type integer (layer environment prod, for environment prod)",
        "prot": "is not known here (layer environment prod, for environment prod)",
    }
    await control.put("port: 80", environment="prod")
    await control.publish()
    # Nobody was said to run elsewhere: whoever does is told, instead of being given half a configuration.
    found = await refused(control.effective(environment="dev"))
    assert (found.code, found.violations) == (grpc.StatusCode.FAILED_PRECONDITION, {"port": "is missing"})

    schema = await control.config.GetSchema(v1.GetSchemaRequest(application="shop"))
    assert (schema.schema, schema.mod_revision, schema.author) == (SCHEMA, put.mod_revision, ME)
    bad = v1.PutSchemaRequest(application="shop", schema='{"type": "intger"}', author=ME)
    assert "schema, type" in (await refused(control.config.PutSchema(bad))).violations


async def test_many_violations_fit_into_what_clients_take(control: Control) -> None:
    await control.put("".join(f"{number}{'ä' * 200}: x\n" for number in range(60)))
    schema = json.dumps({"additionalProperties": {"type": "integer"}})
    await control.config.PutSchema(v1.PutSchemaRequest(application="shop", schema=schema, author=ME))
    found = await refused(control.publish())
    assert found.code is grpc.StatusCode.FAILED_PRECONDITION
    assert 1 < len(found.violations) < 20


async def test_nothing_to_publish(control: Control) -> None:
    await control.put("a: 1")
    await control.publish()
    found = await refused(control.publish())
    assert found.kinds == {"NO_CHANGES"}
    application = (await control.config.GetApplication(v1.GetApplicationRequest(application="shop"))).application
    await control.put("a: 2")
    found = await refused(control.publish(expect_revision=application.mod_revision))
    assert found.code is grpc.StatusCode.ABORTED


async def test_history_diff_and_rollback(control: Control) -> None:
    for number in (1, 2):
        await control.put(f"a: {number}\nkeep: [1]")
        await control.publish(comment=f"number {number}")
    await control.put("b: {c: 1}", environment="prod")
    diff = await control.config.Diff(v1.DiffRequest(application="shop"))
    (layer,) = diff.layers
    assert layer.layer.environment == "prod"
    assert [(one.path, one.HasField("before_json"), one.after_json) for one in layer.values] == [("b.c", False, "1")]
    diff = await control.config.Diff(v1.DiffRequest(application="shop", from_release=1, to_release=2))
    ((value,),) = [layer.values for layer in diff.layers]
    assert (value.path, value.before_json, value.after_json) == ("a", "1", "2")

    rolled = await control.config.Rollback(v1.RollbackRequest(application="shop", to_release=1, author="bob"))
    assert (rolled.release.number, rolled.release.rollback_of) == (3, 1)
    assert list(rolled.kept_drafts) == [v1.Layer(environment="prod")]
    assert json.loads((await control.effective()).effective.content_json)["a"] == 1
    # The draft followed where nobody was at work, so the next release does not bring the bad one back.
    draft = await control.config.Get(v1.GetRequest(application="shop"))
    assert draft.document.text.startswith("a: 1")
    assert (await control.publish()).number == 4
    assert json.loads((await control.effective(environment="prod")).effective.content_json)["b"] == {"c": 1}

    history = await control.config.History(v1.HistoryRequest(application="shop", limit=3))
    assert [one.number for one in history.releases] == [4, 3, 2]
    assert history.more
    history = await control.config.History(v1.HistoryRequest(application="shop", before=2))
    assert [(one.number, one.comment) for one in history.releases] == [(1, "number 1")]
    found = await refused(control.config.Rollback(v1.RollbackRequest(application="shop", to_release=4, author=ME)))
    assert found.kinds == {"NO_CHANGES"}


async def test_every_change_is_audited(control: Control) -> None:
    await control.put("a: 1\nb: {c: 2}")
    await control.publish(comment="go", gray_rule=v1.GrayRule(percent=5))
    await control.config.Promote(
        v1.PromoteRequest(application="shop", author="bob", gray_rule=v1.GrayRule(labels={"zone": "x"}))
    )
    await control.config.Abort(v1.AbortRequest(application="shop", author="bob", comment="no"))
    await control.put("x: 1", application="other")
    await control.config.Remove(v1.RemoveRequest(application="other", author=ME))
    listed = await control.config.ListAudit(v1.ListAuditRequest())
    name = v1.Action.Name
    found = [(one.application, name(one.action)[7:], one.author, one.release, one.comment) for one in listed.entries]
    assert found == [
        ("other", "REMOVE", ME, 0, ""),
        ("other", "PUT", ME, 0, ""),
        ("shop", "ABORT", "bob", 1, "no"),
        ("shop", "PROMOTE", "bob", 1, ""),
        ("shop", "PUBLISH", ME, 1, "go"),
        ("shop", "PUT", ME, 0, ""),
        ("mesh.edge", "PUT_SCHEMA", "mesh-control", 0, ""),  # at the start of the control process
    ]
    assert list(listed.entries[-2].changed_paths) == ["a", "b.c"]
    assert all(one.time_unix_ms and one.revision for one in listed.entries)
    pages: list[int] = []
    request = v1.ListAuditRequest(limit=2)
    while True:
        page = await control.config.ListAudit(request)
        pages += [one.revision for one in page.entries]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert pages == [one.revision for one in listed.entries]


async def test_secrets_are_for_the_instance_alone(control: Control, tmp_path: Path) -> None:
    put = await control.put("db:\n  password: {$secret: hunter2}  # the real one\n  user: me\n")
    assert "hunter2" not in str(put)
    assert "# the real one" in put.document.text
    await control.publish()
    # What was read can be edited and put again: the secret stays.
    text = put.document.text.replace("me", "you")
    await control.put(text)
    await control.publish()
    lease = await control.register("orders", "orders-1")
    clear = await control.effective(service="orders", instance="orders-1", lease_id=lease)
    assert json.loads(clear.effective.content_json) == {"db": {"password": "hunter2", "user": "you"}}
    assert list(clear.effective.secret_paths) == ["db.password"]
    others: list[dict[str, Any]] = [{}, {"instance": "orders-2"}, {"instance": "orders-1", "lease_id": 0}]
    for other in others:
        masked = await control.effective(service="orders", **other)
        assert "hunter2" not in str(masked)
        assert masked.effective.checksum == clear.effective.checksum
    wrongs: list[dict[str, Any]] = [
        {"instance": "orders-2", "lease_id": lease},
        {"instance": "orders-1", "lease_id": lease + 1},
    ]
    for wrong in wrongs:
        found = await refused(control.effective(service="orders", **wrong))
        assert found.code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_secret_needs_a_key(tmp_path: Path) -> None:
    one, two = make_key(), make_key()
    async with serving(tmp_path, "# none") as control:
        found = await refused(control.put("a: {b: {$secret: x}}"))
        assert (found.code, found.kinds) == (grpc.StatusCode.FAILED_PRECONDITION, {"SECRET_KEY"})
        assert "MESH_CONFIG_KEY" in found.violations["a.b"]
    async with serving(tmp_path, one) as control:
        await control.put("a: {b: {$secret: x}}")
        await control.publish()
        lease = await control.register("orders", "orders-1")
        target: dict[str, Any] = {"service": "orders", "instance": "orders-1", "lease_id": lease}
    async with serving(tmp_path, two) as control:
        found = await refused(control.effective(**target))
        assert (found.code, found.kinds) == (grpc.StatusCode.FAILED_PRECONDITION, {"SECRET_KEY"})
    async with serving(tmp_path, two, one) as control:
        rotated = await control.config.RotateSecrets(v1.RotateSecretsRequest(author=ME))
        assert (rotated.rotated, rotated.total) == (1, 1)
        before = (await control.effective()).effective.checksum
    async with serving(tmp_path, two) as control:
        clear = await control.effective(**target)
        assert (json.loads(clear.effective.content_json), clear.effective.checksum) == ({"a": {"b": "x"}}, before)


async def test_everything_survives_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as control:
        await control.put("a: {$secret: x}")
        await control.publish(comment="one")
        await control.put("a: 2")
        await control.publish(gray_rule=v1.GrayRule(percent=50))
        await control.config.PutSchema(v1.PutSchemaRequest(application="shop", schema="{}", author=ME))
        before = [await _everything(control)]
    async with serving(tmp_path) as control:
        before.append(await _everything(control))
    assert before[0] == before[1]


async def _everything(control: Control) -> list[object]:
    replies = [
        await control.config.GetApplication(v1.GetApplicationRequest(application="shop")),
        await control.config.History(v1.HistoryRequest(application="shop")),
        await control.config.ListAudit(v1.ListAuditRequest()),
        await control.config.Get(v1.GetRequest(application="shop", release=1)),
        await control.effective(),
    ]
    for reply in replies:
        reply.ClearField("header")  # the registry's revisions go on
    return replies
