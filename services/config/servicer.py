"""The configuration as gRPC serves it: checks what comes in, and says what went wrong in gRPC's terms."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from mesh.api.config import v1
from services.config import convert, validation
from services.config.domain import Config
from services.config.effective import assigned
from services.config.errors import InvalidError
from services.config.records import App, Applied
from services.config.repository import Known
from services.config.status import Context, answering
from services.config.watching import Seen, Update
from services.registry import paging

SERVICE = "mesh.config.v1.Config"
# What a watch sends inline: more would make every release a burst to the whole fleet.
MAX_INLINE_BYTES = 64 * 1024


class GrpcConfig(v1.ConfigServicer):
    """`mesh.config.v1.Config` over a `Config`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._repository = config.repository

    async def ListApplications(
        self, request: v1.ListApplicationsRequest, context: Context
    ) -> v1.ListApplicationsResponse:
        async with answering(context):
            header = self._header()
            found = [await self._application(known) for known in await self._repository.apps()]
        return v1.ListApplicationsResponse(header=header, applications=found)

    async def GetApplication(self, request: v1.GetApplicationRequest, context: Context) -> v1.GetApplicationResponse:
        async with answering(context):
            header = self._header()
            known = await self._repository.app(validation.application(request.application))
            found = await self._application(known)
            app = known.value
            stable = (await self._repository.release(app.name, app.stable)).manifest if app.stable else {}
            texts = await self._repository.texts("documents", app.name, [one.document for one in app.draft.values()])
            layers = sorted(app.draft.keys() | stable.keys())
            found.layers.extend(convert.layer_info(layer, app, stable, texts) for layer in layers)
        return v1.GetApplicationResponse(header=header, application=found)

    async def Get(self, request: v1.GetRequest, context: Context) -> v1.GetResponse:
        async with answering(context):
            header = self._header()
            app = (await self._repository.app(validation.application(request.application))).value
            layer = validation.layer(request.layer)
            at, reader = request.WhichOneof("at"), self._config.reader
            if at == "release":
                text = await reader.released(app, layer, request.release)
            elif at == "at_revision":
                text = await reader.draft_at(app, layer, request.at_revision)
            else:
                text = await reader.draft(app, layer)
        return v1.GetResponse(header=header, document=convert.document(layer, text))

    async def GetEffective(self, request: v1.GetEffectiveRequest, context: Context) -> v1.GetEffectiveResponse:
        async with answering(context):
            header = self._header()
            app = (await self._repository.app(validation.application(request.application))).value
            target = validation.target(request.service, request.environment, request.instance, request.labels)
            number = request.release or assigned(app, target)
            effective = await self._config.resolver.effective(app.name, number, target)
            content = await self._config.watches.content(app.name, effective, target, request.lease_id)
        return v1.GetEffectiveResponse(
            header=header,
            effective=convert.effective(effective, content),
            origins=map(convert.origin, effective.leaves),
        )

    async def Put(self, request: v1.PutRequest, context: Context) -> v1.PutResponse:
        async with answering(context):
            validation.size(request)
            layer = validation.layer(request.layer)
            written, revision = await self._config.editor.put(
                validation.application(request.application),
                layer,
                request.text,
                validation.text_format(request.format),
                validation.author(request.author),
                request.expect_mod_revision if request.HasField("expect_mod_revision") else None,
            )
        return v1.PutResponse(
            header=self._header(revision), document=convert.document(layer, written.text), changed_paths=written.paths
        )

    async def Remove(self, request: v1.RemoveRequest, context: Context) -> v1.RemoveResponse:
        async with answering(context):
            revision = await self._config.editor.remove(
                validation.application(request.application),
                validation.layer(request.layer),
                validation.author(request.author),
                request.expect_mod_revision if request.HasField("expect_mod_revision") else None,
            )
        return v1.RemoveResponse(header=self._header(revision))

    async def Publish(self, request: v1.PublishRequest, context: Context) -> v1.PublishResponse:
        async with answering(context):
            release, revision = await self._config.releaser.publish(
                validation.application(request.application),
                validation.author(request.author),
                validation.comment(request.comment),
                validation.rule(request.gray_rule) if request.HasField("gray_rule") else None,
                request.expect_revision if request.HasField("expect_revision") else None,
            )
        return v1.PublishResponse(header=self._header(revision), release=convert.release(release))

    async def Promote(self, request: v1.PromoteRequest, context: Context) -> v1.PromoteResponse:
        async with answering(context):
            name = validation.application(request.application)
            rule = validation.rule(request.gray_rule) if request.HasField("gray_rule") else None
            author, comment = validation.author(request.author), validation.comment(request.comment)
            revision = await self._config.releaser.promote(name, request.release, rule, author, comment)
            found = await self._application(await self._repository.app(name))
        return v1.PromoteResponse(header=self._header(revision), application=found)

    async def Abort(self, request: v1.AbortRequest, context: Context) -> v1.AbortResponse:
        async with answering(context):
            name = validation.application(request.application)
            author, comment = validation.author(request.author), validation.comment(request.comment)
            revision = await self._config.releaser.abort(name, request.release, author, comment)
            found = await self._application(await self._repository.app(name))
        return v1.AbortResponse(header=self._header(revision), application=found)

    async def Rollback(self, request: v1.RollbackRequest, context: Context) -> v1.RollbackResponse:
        async with answering(context):
            name = validation.application(request.application)
            author, comment = validation.author(request.author), validation.comment(request.comment)
            done, revision = await self._config.releaser.rollback(name, request.to_release, author, comment)
        return v1.RollbackResponse(
            header=self._header(revision),
            release=convert.release(done.release),
            kept_drafts=map(convert.layer, done.kept),
            aborted_release=done.aborted,
        )

    async def History(self, request: v1.HistoryRequest, context: Context) -> v1.HistoryResponse:
        async with answering(context):
            header = self._header()
            app = (await self._repository.app(validation.application(request.application))).value
            limit = validation.limit(request.limit, 20, 100)
            releases, more = await self._config.reader.history(app, limit, request.before)
        return v1.HistoryResponse(header=header, releases=map(convert.release, releases), more=more)

    async def Diff(self, request: v1.DiffRequest, context: Context) -> v1.DiffResponse:
        async with answering(context):
            header = self._header()
            app = (await self._repository.app(validation.application(request.application))).value
            before = request.from_release if request.HasField("from_release") else None
            after = request.to_release if request.HasField("to_release") else None
            found = await self._config.reader.compare(app, before, after)
        return v1.DiffResponse(
            header=header,
            layers=[convert.layer_diff(layer, differences) for layer, differences in found.layers],
            from_release=found.before,
            to_release=found.after,
        )

    async def PutSchema(self, request: v1.PutSchemaRequest, context: Context) -> v1.PutSchemaResponse:
        async with answering(context):
            validation.size(request)
            violations, revision = await self._config.editor.put_schema(
                validation.application(request.application),
                request.schema,
                validation.author(request.author),
                request.expect_mod_revision if request.HasField("expect_mod_revision") else None,
            )
        return v1.PutSchemaResponse(
            header=self._header(revision),
            mod_revision=revision,
            draft_violations=map(convert.violation, violations),
        )

    async def GetSchema(self, request: v1.GetSchemaRequest, context: Context) -> v1.GetSchemaResponse:
        async with answering(context):
            header = self._header()
            app = (await self._repository.app(validation.application(request.application))).value
            schema = await self._config.reader.schema(app)
        return v1.GetSchemaResponse(
            header=header,
            schema=schema.text,
            mod_revision=schema.revision,
            author=schema.author,
            time_unix_ms=schema.time_ms,
        )

    async def Watch(self, request: v1.WatchRequest, context: Context) -> AsyncIterator[v1.WatchResponse]:
        async with answering(context):
            validation.size(request)
            name = validation.application(request.application)
            target = validation.target(request.service, request.environment, request.instance, request.labels)
            # What was seen elsewhere says nothing here.
            here = request.seen.cluster_id == self._config.store.header.cluster_id
            seen = Seen(request.seen.revision if here else 0, request.checksum)
            updates = self._config.watches.watch(name, target, request.lease_id, seen)
            async with contextlib.aclosing(updates):
                async for update in updates:
                    yield self._update(update)

    async def ReportApplied(self, request: v1.ReportAppliedRequest, context: Context) -> v1.ReportAppliedResponse:
        async with answering(context):
            name = validation.application(request.application)
            target = validation.target(request.service, request.environment, request.instance, request.labels)
            if not target.instance:
                raise InvalidError("instance", "it is missing: who reports must say who it is")
            applied = Applied(
                environment=target.environment,
                labels=target.labels,
                release=request.release,
                checksum=validation.checksum(request.checksum),
                state=validation.state(request.state),
                error=request.error[: validation.MAX_ERROR],
                time_ms=self._repository.now_ms(),
            )
            revision = await self._config.reports.report(name, (target.service, target.instance), applied)
        return v1.ReportAppliedResponse(header=self._header(revision))

    async def ListApplied(self, request: v1.ListAppliedRequest, context: Context) -> v1.ListAppliedResponse:
        async with answering(context):
            header = self._header()
            app = (await self._repository.app(validation.application(request.application))).value
            limit = validation.limit(request.limit, 1000, 5000)
            after = paging.decode(request.page_token, app.name)
            rows = await self._config.reports.rows(app)
            lagging, live = sum(row.lags for row in rows), sum(row.live for row in rows)
            if request.not_in:
                rows = [row for row in rows if row.live and not row.runs(request.release or row.wanted)]
            elif request.release:
                rows = [row for row in rows if row.report is not None and row.report.release == request.release]
            page = [row for row in rows if after is None or row.key > after]
            token = paging.encode(app.name, page[limit - 1].key) if len(page) > limit else ""
        return v1.ListAppliedResponse(
            header=header,
            applied=map(convert.applied, page[:limit]),
            next_page_token=token,
            live_instances=live,
            lagging_instances=lagging,
        )

    async def RotateSecrets(self, request: v1.RotateSecretsRequest, context: Context) -> v1.RotateSecretsResponse:
        async with answering(context):
            rotated, total = await self._config.editor.rotate(validation.author(request.author))
        return v1.RotateSecretsResponse(header=self._header(), rotated=rotated, total=total)

    async def ListAudit(self, request: v1.ListAuditRequest, context: Context) -> v1.ListAuditResponse:
        async with answering(context):
            header = self._header()
            name = request.application and validation.application(request.application)
            limit = validation.limit(request.limit, 100, 1000)
            entries, more = await self._config.reader.audit(name, validation.before(request.page_token), limit)
        return v1.ListAuditResponse(
            header=header,
            entries=[convert.audit(app, entry) for app, entry in entries],
            next_page_token=str(entries[-1][1].revision) if more else "",
        )

    def _header(self, revision: int = 0) -> v1.Header:
        """Return the header of a reply: at `revision`, or at what the store is at before anything is read."""
        header = self._config.store.header
        return v1.Header(cluster_id=header.cluster_id, revision=revision or header.revision)

    def _update(self, update: Update) -> v1.WatchResponse:
        header = self._header(update.revision)
        if update.effective is None:
            return v1.WatchResponse(header=header, progress=v1.Progress())
        changed = v1.Update(release=update.effective.release, checksum=update.effective.checksum)
        if update.content is None:
            changed.unchanged = True
        elif len(update.content.encode()) > MAX_INLINE_BYTES:
            changed.fetch = True
        else:
            changed.inline.CopyFrom(convert.effective(update.effective, update.content))
        return v1.WatchResponse(header=header, changed=changed)

    async def _application(self, known: Known[App]) -> v1.Application:
        app = known.value
        schema = (await self._repository.texts("schemas", app.name, [app.schema])).get(app.schema)
        return convert.application(
            known, changed=await self._config.releaser.changed(known), schema_revision=schema.revision if schema else 0
        )
