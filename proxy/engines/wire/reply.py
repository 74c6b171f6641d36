"""The upstream's half of a call: its headers, its end, and the end of its stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.resilience import outcome
from proxy.call.reason import TRAILER, Reason
from proxy.engines.wire import endings
from proxy.engines.wire.h2 import REFUSED_STREAM, Header
from proxy.engines.wire.headers import list_bytes, reply_head
from proxy.engines.wire.replies import (
    CONTENT_TYPE,
    GRPC_MESSAGE,
    GRPC_STATUS,
    STATUS_200,
    decode_message,
    http_status,
    parse_status,
    reset_name,
    reset_status,
)
from proxy.upstream.retry import PUSHBACK, Failure

if TYPE_CHECKING:
    from proxy.engines.wire.exchange import Exchange

Headers = tuple[Header, ...]

# Headers that were found to be in order: an upstream's are the same from call to call.
_plain: set[Headers] = set()
_MAX_PLAIN = 64
_MAX_PLAIN_BYTES = 512  # under the least limit on header bytes
_OK = ((GRPC_STATUS, b"0"),)

_NOT_TRAILERS = frozenset({b":status", b"content-type"})


def begins(exchange: Exchange, headers: Headers) -> None:
    """Pass the headers of the reply on."""
    if headers not in _plain and not _is_plain(exchange, headers):
        return
    call, session, dispatcher = exchange.call, exchange.session, exchange.engine.dispatcher
    exchange.body = None
    if exchange.attempting:
        dispatcher.on_response(call)
    else:
        call.response_at = dispatcher.now()
    session.h2.send_response(exchange.stream_id, reply_head(call, headers))
    exchange.started = True
    if not session.dirty:
        session.mark()


def _is_plain(exchange: Exchange, headers: Headers) -> bool:
    """Look at headers that were not seen yet; returns False when the call is over because of them."""
    size = list_bytes(headers)
    if size > exchange.engine.max_header_bytes:
        _too_large(exchange, headers)
        return False
    status = headers[0][1]
    if status != b"200":
        _http_error(exchange, status, f"HTTP status {status.decode()}")
        return False
    if CONTENT_TYPE not in headers and not dict(headers).get(b"content-type", b"").startswith(b"application/grpc"):
        _http_error(exchange, status, "something that is not gRPC")
        return False
    if size <= _MAX_PLAIN_BYTES:
        if len(_plain) >= _MAX_PLAIN:
            _plain.clear()
        _plain.add(headers)
    return True


def is_headers(exchange: Exchange, headers: Headers) -> None:
    """Pass a reply on that is headers alone: the status is among them, or it is told from the HTTP status.

    The client gets headers and trailers, so that the edge's own headers are headers whatever the upstream says.
    """
    if list_bytes(headers) > exchange.engine.max_header_bytes:
        _too_large(exchange, headers)
        return
    fields = dict(headers)
    status = fields[b":status"]
    code = fields.get(GRPC_STATUS)
    if code is None:
        _http_error(exchange, status, f"HTTP status {status.decode()} and no grpc-status")
        return
    exchange.attempt_ended(
        parse_status(code), decode_message(fields.get(GRPC_MESSAGE, b"")), given=fields.get(TRAILER, b"")
    )
    again = exchange.again
    if again is not None and again.take(None, fields.get(PUSHBACK), headers):
        return
    h2, stream_id = exchange.session.h2, exchange.stream_id
    h2.send_response(stream_id, [STATUS_200, CONTENT_TYPE, *exchange.call.reply_metadata])
    h2.send_trailers(stream_id, [pair for pair in headers if pair[0] not in _NOT_TRAILERS])
    exchange.finish()


def ends(exchange: Exchange, headers: Headers) -> None:
    """Pass the trailers on and end the call."""
    if headers == _OK and exchange.started:
        exchange.attempt_ended(outcome.OK, "")
    else:
        if list_bytes(headers) > exchange.engine.max_header_bytes:
            _too_large(exchange, headers)
            return
        code = None
        message = reason = b""
        for name, value in headers:
            if name == GRPC_STATUS:
                code = value
            elif name == GRPC_MESSAGE:
                message = value
            elif name == TRAILER:
                reason = value
        if code is None or not exchange.started:
            stops(exchange, headers)
            return
        exchange.attempt_ended(parse_status(code), decode_message(message) if message else "", given=reason)
    exchange.session.h2.send_trailers(exchange.stream_id, headers)
    exchange.finish()


def stops(exchange: Exchange, headers: Headers = ()) -> None:
    """Handle the end of the reply without a status."""
    exchange.attempt_ended(outcome.UNKNOWN, f"{endings.who(exchange)} ended the call without a status")
    exchange.answer(headers)


def is_reset(exchange: Exchange, error_code: int) -> None:
    """Handle a stream that the upstream reset, or never processed."""
    if error_code == REFUSED_STREAM:
        endings.attempt_failed(exchange, Failure.REFUSED, "it refused the stream")
        return
    exchange.detach(None)
    message = f"{endings.who(exchange)} reset the stream: {reset_name(error_code)}"
    exchange.attempt_ended(reset_status(error_code), message, Reason.UPSTREAM_RESET)
    if not endings.again(exchange, Failure.LOST):
        exchange.answer()


def _too_large(exchange: Exchange, headers: Headers) -> None:
    limit, size = exchange.engine.max_header_bytes, list_bytes(headers)
    message = f"{size} bytes of metadata from {endings.who(exchange)} are over the edge's limit of {limit}"
    exchange.attempt_ended(Reason.HEADERS_TOO_LARGE.code, message, Reason.HEADERS_TOO_LARGE)
    exchange.answer()


def _http_error(exchange: Exchange, status: bytes, what: str) -> None:
    exchange.attempt_ended(http_status(status), f"{endings.who(exchange)} answered with {what}")
    if not endings.again(exchange, None):
        exchange.answer()
