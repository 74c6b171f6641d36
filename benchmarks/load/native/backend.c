/* A gRPC server that costs as little as possible: the endpoint behind every proxy.
 *
 * Every method answers the request with `bench-count` messages of `bench-size` bytes (request headers; one message of 64
 * bytes when they are left out), but .../Echo sends each message back as it comes. A message is a DATA frame, or several
 * when it is larger than one. Prints the port it listens on. Usage: backend PORT (0 is any free one)
 */
#include "wire.h"

typedef struct {
  bool echo, ended, deferred, answered;
  int64_t messages; /* still to send */
  uint32_t size;    /* of each */
  uint32_t left;    /* of the message that is being sent, prefix included */
  uint8_t *kept;    /* what is to be echoed */
  size_t kept_from, kept_to, kept_room;
} Stream;

static ssize_t give_trailers(nghttp2_session *session, int32_t id, uint32_t *flags, ssize_t size) {
  nghttp2_nv trailers[] = {FIXED("grpc-status", "0")};
  *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
  nghttp2_submit_trailer(session, id, trailers, 1);
  return size;
}

static ssize_t give_messages(nghttp2_session *session, int32_t id, uint8_t *to, size_t room, uint32_t *flags,
                             nghttp2_data_source *source, void *user) {
  (void)user;
  Stream *stream = source->ptr;
  if (!stream->left) stream->left = PREFIX + stream->size;
  size_t used = put_message(to, room, stream->size, &stream->left);
  if (!stream->left && !--stream->messages) return give_trailers(session, id, flags, (ssize_t)used);
  return (ssize_t)used;
}

static ssize_t give_echo(nghttp2_session *session, int32_t id, uint8_t *to, size_t room, uint32_t *flags,
                         nghttp2_data_source *source, void *user) {
  (void)user;
  Stream *stream = source->ptr;
  size_t kept = stream->kept_to - stream->kept_from;
  if (!stream->left && kept >= PREFIX) stream->left = PREFIX + get_prefix(stream->kept + stream->kept_from);
  size_t part = kept < room ? kept : room;
  if (part > stream->left) part = stream->left;
  if (!part) {
    if (stream->ended) return give_trailers(session, id, flags, 0);
    stream->deferred = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  memcpy(to, stream->kept + stream->kept_from, part);
  stream->kept_from += part;
  stream->left -= (uint32_t)part;
  if (stream->kept_from == stream->kept_to) stream->kept_from = stream->kept_to = 0;
  return (ssize_t)part;
}

static void keep(Stream *stream, const uint8_t *data, size_t size) {
  if (stream->kept_to + size > stream->kept_room) {
    size_t kept = stream->kept_to - stream->kept_from;
    if (kept) memmove(stream->kept, stream->kept + stream->kept_from, kept);
    stream->kept_from = 0, stream->kept_to = kept;
    if (kept + size > stream->kept_room) stream->kept = realloc(stream->kept, stream->kept_room = 2 * (kept + size));
  }
  memcpy(stream->kept + stream->kept_to, data, size);
  stream->kept_to += size;
}

static void answer(nghttp2_session *session, int32_t id, Stream *stream) {
  nghttp2_nv headers[] = {FIXED(":status", "200"), FIXED("content-type", "application/grpc"),
                          FIXED("grpc-accept-encoding", "identity, deflate, gzip")};
  nghttp2_data_provider data = {.source.ptr = stream, .read_callback = stream->echo ? give_echo : give_messages};
  stream->answered = true;
  nghttp2_submit_response(session, id, headers, 3, &data);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  (void)user;
  if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  Stream *stream = calloc(1, sizeof *stream);
  stream->messages = 1, stream->size = 64;
  return nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, stream);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t size, uint8_t flags, void *user) {
  (void)flags, (void)user;
  Stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (!stream) return 0;
  if (name_size == 5 && !memcmp(name, ":path", 5)) stream->echo = size >= 5 && !memcmp(value + size - 5, "/Echo", 5);
  if (name_size == 10 && !memcmp(name, "bench-size", 10)) stream->size = (uint32_t)strtoul((const char *)value, NULL, 10);
  if (name_size == 11 && !memcmp(name, "bench-count", 11)) stream->messages = strtoll((const char *)value, NULL, 10);
  return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  (void)user;
  if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
  Stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (!stream) return 0;
  if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) stream->ended = true;
  if (!stream->answered && (stream->echo || stream->ended)) answer(session, frame->hd.stream_id, stream);
  if (stream->deferred && stream->ended) {
    stream->deferred = false;
    nghttp2_session_resume_data(session, frame->hd.stream_id);
  }
  return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t size, void *user) {
  (void)flags, (void)user;
  Stream *stream = nghttp2_session_get_stream_user_data(session, id);
  if (!stream || !stream->echo) return 0;
  keep(stream, data, size);
  if (stream->deferred) {
    stream->deferred = false;
    nghttp2_session_resume_data(session, id);
  }
  return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user) {
  (void)code, (void)user;
  Stream *stream = nghttp2_session_get_stream_user_data(session, id);
  if (stream) free(stream->kept);
  free(stream);
  return 0;
}

static void accept_all(int listener, int epoll, nghttp2_session_callbacks *callbacks) {
  int fd;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
    Conn *conn = conn_new(fd, epoll);
    nghttp2_session_server_new(&conn->session, callbacks, conn);
    conn_settings(conn);
    conn_flush(conn);
  }
}

int main(int argc, char **argv) {
  nghttp2_session_callbacks *callbacks;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);

  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0), on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in address = loopback(argc > 1 ? atoi(argv[1]) : 0);
  socklen_t size = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) die("listen");
  getsockname(listener, (struct sockaddr *)&address, &size);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);

  struct epoll_event events[256];
  for (;;) {
    int count = epoll_wait(epoll, events, 256, -1);
    for (int i = 0; i < count; i++) {
      Conn *conn = events[i].data.ptr;
      if (!conn) {
        accept_all(listener, epoll, callbacks);
        continue;
      }
      if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) conn_receive(conn);
      conn_flush(conn);
      if (conn->closed) conn_free(conn);
    }
  }
}
