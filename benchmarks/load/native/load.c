/* The load client: gRPC calls over h2c with as little CPU as possible, so that the proxy is what is measured.
 *
 * closed: keeps CONNECTIONS x STREAMS calls in flight.   open: begins calls at random times (Poisson) RATE a second,
 * whatever the answers do, and counts latency from the time a call was due, not from when it got out.
 * echo: bidi streams with WINDOW messages under way on each.   idle: opens connections, and streams that say nothing,
 * prints "ready" and holds them until its input ends.   Prints one JSON object. Options: options.h
 */
#include "options.h"

#include <math.h>
#include <sys/timerfd.h>

enum { DRAIN_SECONDS = 20, MAX_SAMPLES = 4000000 };

typedef struct {
  int64_t began;
  int status; /* grpc-status; -1 until it is known */
  uint64_t received;
  int64_t to_send; /* messages that may be sent now; echo */
  uint64_t echoed; /* messages that came back */
  uint32_t left;   /* of the message that is being sent, prefix included */
  bool deferred, answered;
} Call;

static Options options;
static Conn **conns;
static Conn *dirty;
static int64_t deadline, begun, open_calls, ok, failed, answered;
static uint64_t bytes_in, bytes_out;
static int first_failure = -1;
static float *samples;
static size_t sample_count;
static uint64_t random_state;
static char authority[32], size_text[16], count_text[24];

static uint64_t random_bits(void) { /* xorshift64* */
  random_state ^= random_state >> 12, random_state ^= random_state << 25, random_state ^= random_state >> 27;
  return random_state * 2685821657736338717ULL;
}

static void touch(Conn *conn) {
  if (conn->dirty) return;
  conn->dirty = true, conn->next_dirty = dirty, dirty = conn;
}

static bool echoing(void) { return options.mode[0] == 'e'; }
static bool holding(void) { return options.mode[0] == 'i'; }
static bool time_is_up(void) {
  return (options.calls && begun >= options.calls) || (!options.calls && now_ns() >= deadline);
}

static ssize_t give_message(nghttp2_session *session, int32_t id, uint8_t *to, size_t room, uint32_t *flags,
                            nghttp2_data_source *source, void *user) {
  (void)session, (void)id, (void)user;
  Call *call = source->ptr;
  if (!call->left) {
    if (!call->to_send) {
      if (echoing() && time_is_up()) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        return 0;
      }
      call->deferred = true;
      return NGHTTP2_ERR_DEFERRED;
    }
    call->to_send--;
    call->left = PREFIX + options.size;
  }
  size_t used = put_message(to, room, options.size, &call->left);
  bytes_out += used;
  if (!call->left && !echoing()) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return (ssize_t)used;
}

static void begin_call(Conn *conn, int64_t due) {
  char traceparent[64], timeout[16], user[24], session[40];
  Call *call = calloc(1, sizeof *call);
  call->began = due, call->status = -1;
  call->to_send = holding() ? 0 : echoing() ? options.window : 1;
  const char *path = echoing() || holding() ? "/bench.v1.Bench/Echo" : options.replies ? "/bench.v1.Bench/Feed" : "/bench.v1.Bench/Get";
  nghttp2_nv headers[16] = {FIXED(":method", "POST"),
                            FIXED(":scheme", "http"),
                            HEADER(":path", path, strlen(path)),
                            HEADER(":authority", authority, strlen(authority)),
                            FIXED("te", "trailers"),
                            FIXED("content-type", "application/grpc"),
                            FIXED("user-agent", "grpc-bench/1.0 (linux; native)"),
                            FIXED("grpc-accept-encoding", "identity, deflate, gzip")};
  size_t count = 8;
  if (options.reply) headers[count++] = HEADER("bench-size", size_text, strlen(size_text));
  if (options.replies) headers[count++] = HEADER("bench-count", count_text, strlen(count_text));
  if (options.varied) {
    uint64_t a = random_bits(), b = random_bits(), c = random_bits();
    int n = snprintf(traceparent, sizeof traceparent, "00-%016lx%016lx-%016lx-01", a, b, c);
    headers[count++] = HEADER("traceparent", traceparent, (size_t)n);
    n = snprintf(timeout, sizeof timeout, "%lum", 10000 + a % 20000);
    headers[count++] = HEADER("grpc-timeout", timeout, (size_t)n);
    n = snprintf(user, sizeof user, "u-%08lu", b % 100000000);
    headers[count++] = HEADER("x-user", user, (size_t)n);
    n = snprintf(session, sizeof session, "%016lx%016lx", b, c);
    headers[count++] = HEADER("x-session", session, (size_t)n);
    headers[count++] = FIXED("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJiZW5jaCJ9.dBjftJeZ4CVPmB92K27uhbUJU1p1r");
  }
  nghttp2_data_provider data = {.source.ptr = call, .read_callback = give_message};
  if (nghttp2_submit_request(conn->session, NULL, headers, count, &data, call) < 0) {
    free(call), failed++;
    return;
  }
  begun++, open_calls++, conn->live++;
  touch(conn);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t size, uint8_t flags, void *user) {
  (void)flags, (void)size, (void)user;
  Call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (!call) return 0;
  if (!call->answered) call->answered = true, answered++;
  if (name_size == 11 && !memcmp(name, "grpc-status", 11)) call->status = atoi((const char *)value);
  return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t size, void *user) {
  (void)flags, (void)data, (void)user;
  bytes_in += size;
  Call *call = nghttp2_session_get_stream_user_data(session, id);
  if (!call) return 0;
  call->received += size;
  if (!echoing()) return 0;
  uint64_t back = call->received / (PREFIX + options.size);
  if (!time_is_up()) call->to_send += (int64_t)(back - call->echoed);
  call->echoed = back;
  if (call->deferred) {
    call->deferred = false;
    nghttp2_session_resume_data(session, id);
  }
  return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user) {
  Conn *conn = user;
  Call *call = nghttp2_session_get_stream_user_data(session, id);
  if (!call) return 0;
  int64_t now = now_ns();
  uint64_t wanted = (options.reply ? options.reply + PREFIX : 1) * (uint64_t)(options.replies ? options.replies : 1);
  bool good = !code && !call->status && (echoing() || call->received >= wanted);
  if (good) ok++;
  else {
    failed++;
    if (first_failure < 0) first_failure = call->status > 0 ? call->status : 1000 + (int)code;
  }
  if (good && sample_count < MAX_SAMPLES) samples[sample_count++] = (float)(now - call->began) / 1000;
  free(call);
  open_calls--, conn->live--;
  if (options.mode[0] == 'c' && !time_is_up()) begin_call(conn, now);
  return 0;
}

static Conn *connect_to(int port, int epoll, nghttp2_session_callbacks *callbacks) {
  struct sockaddr_in address = loopback(port);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
  Conn *conn = conn_new(fd, epoll);
  nghttp2_session_client_new(&conn->session, callbacks, conn);
  conn_settings(conn);
  touch(conn);
  return conn;
}

static void flush_dirty(void) {
  while (dirty) {
    Conn *conn = dirty;
    dirty = conn->next_dirty, conn->dirty = false;
    conn_flush(conn);
  }
}

/* Begins what is due, and sets the timer to what is due next. */
static void open_loop(int timer, int64_t *due, size_t *turn) {
  int64_t now = now_ns();
  while (*due <= now && !time_is_up()) {
    begin_call(conns[(*turn)++ % (size_t)options.connections], *due);
    double uniform = ((double)(random_bits() >> 11) + 1) / 9007199254740993.0;
    *due += (int64_t)(-log(uniform) / options.rate * 1e9);
  }
  struct itimerspec at = {.it_value = {*due / 1000000000, *due % 1000000000}};
  timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static int by_value(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static double percentile(double part) {
  return sample_count ? samples[(size_t)(part * (double)(sample_count - 1))] : 0;
}

static void report(double seconds) {
  qsort(samples, sample_count, sizeof *samples, by_value);
  printf("{\"calls\":%ld,\"failed\":%ld,\"first_failure\":%d,\"unfinished\":%ld,\"seconds\":%.6f,\"bytes_in\":%lu,"
         "\"bytes_out\":%lu,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"cpu_seconds\":%.3f}\n",
         ok, failed, first_failure, open_calls, seconds, bytes_in, bytes_out, percentile(.5), percentile(.9),
         percentile(.99), (double)clock() / CLOCKS_PER_SEC);
  fflush(stdout);
}

static void begin_all(void) {
  for (int i = 0; i < options.connections && !holding(); i++)
    for (int j = 0; j < options.streams && options.mode[0] != 'o'; j++) begin_call(conns[i], now_ns());
  for (int i = 0; i < options.streams && holding(); i++) begin_call(conns[i % options.connections], now_ns());
}

int main(int argc, char **argv) {
  options = parse_options(argc, argv);
  random_state = 88172645463325252ULL ^ ((uint64_t)options.seed << 20);
  samples = malloc(MAX_SAMPLES * sizeof *samples);
  snprintf(authority, sizeof authority, "127.0.0.1:%d", options.port);
  snprintf(size_text, sizeof size_text, "%u", options.reply);
  snprintf(count_text, sizeof count_text, "%ld", options.replies);

  nghttp2_session_callbacks *callbacks;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);

  int epoll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  struct epoll_event ticks = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &ticks);
  conns = calloc((size_t)options.connections, sizeof *conns);
  for (int i = 0; i < options.connections; i++) conns[i] = connect_to(options.port, epoll, callbacks);

  int64_t start = now_ns(), due = start;
  size_t turn = 0;
  deadline = start + (int64_t)(options.seconds * 1e9);
  begin_all();
  bool open = options.mode[0] == 'o';
  if (open) open_loop(timer, &due, &turn);
  flush_dirty();

  int64_t give_up = holding() ? INT64_MAX : deadline + DRAIN_SECONDS * 1000000000LL;
  if (options.calls) give_up = INT64_MAX;
  struct epoll_event events[256];
  while (open_calls || holding() || (open && !time_is_up())) {
    int count = epoll_wait(epoll, events, 256, 100);
    for (int i = 0; i < count; i++) {
      Conn *conn = events[i].data.ptr;
      if (!conn) {
        uint64_t expired;
        if (read(timer, &expired, sizeof expired) > 0) open_loop(timer, &due, &turn);
        continue;
      }
      if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) conn_receive(conn);
      if (conn->closed) {
        fprintf(stderr, "a connection was closed on us, %u calls on it\n", conn->live);
        report((double)(now_ns() - start) / 1e9);
        return 1;
      }
      touch(conn);
    }
    flush_dirty();
    if (holding() && (answered == options.streams) && count == 0) break;
    if (now_ns() > give_up) break;
  }
  if (!holding()) {
    report((double)(now_ns() - start) / 1e9);
    return 0;
  }
  printf("ready\n");
  fflush(stdout);
  char byte;
  while (read(0, &byte, 1) > 0) {}
  return 0;
}
