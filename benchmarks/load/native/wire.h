/* What the backend and the load client share: sockets, epoll, and an nghttp2 session on a socket. */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { OUT_BYTES = 128 * 1024, IN_BYTES = 128 * 1024, PREFIX = 5, STREAM_WINDOW = 1 << 20, CONNECTION_WINDOW = 1 << 24 };

typedef struct Conn {
  int fd, epoll;
  nghttp2_session *session;
  size_t out_used, out_sent;
  bool waiting; /* for the socket to take more */
  bool closed;
  uint32_t live; /* streams open, for whoever counts them */
  struct Conn *next_dirty;
  bool dirty;
  uint8_t out[OUT_BYTES + 32 * 1024];
} Conn;

#define HEADER(n, v, len) \
  ((nghttp2_nv){(uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, (len), NGHTTP2_NV_FLAG_NO_COPY_NAME})
#define FIXED(n, v) \
  ((nghttp2_nv){(uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, sizeof(v) - 1, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE})

static inline void die(const char *what) {
  perror(what);
  exit(1);
}

static inline int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Writes the five bytes before a gRPC message. */
static inline void put_prefix(uint8_t *at, uint32_t size) {
  at[0] = 0;
  at[1] = size >> 24, at[2] = size >> 16, at[3] = size >> 8, at[4] = size;
}

static inline uint32_t get_prefix(const uint8_t *at) {
  return (uint32_t)at[1] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 8 | at[4];
}

static const uint8_t payload[16384];

/* Writes what is left of a message of `size` bytes and its prefix, as far as there is room; flow control may leave less
 * than a prefix needs. */
static inline size_t put_message(uint8_t *to, size_t room, uint32_t size, uint32_t *left) {
  size_t used = 0;
  if (*left > size) {
    uint8_t prefix[PREFIX];
    put_prefix(prefix, size);
    used = *left - size < room ? *left - size : room;
    memcpy(to, prefix + PREFIX - (*left - size), used);
  }
  size_t part = *left - used < room - used ? *left - used : room - used;
  if (part > sizeof payload) part = sizeof payload;
  memcpy(to + used, payload, part);
  *left -= (uint32_t)(used + part);
  return used + part;
}

static inline struct sockaddr_in loopback(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

static inline void watch(Conn *conn, int operation, bool writing) {
  struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = conn};
  if (epoll_ctl(conn->epoll, operation, conn->fd, &event)) die("epoll_ctl");
}

static inline Conn *conn_new(int fd, int epoll) {
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  Conn *conn = calloc(1, sizeof *conn);
  conn->fd = fd, conn->epoll = epoll;
  watch(conn, EPOLL_CTL_ADD, false);
  return conn;
}

static inline void conn_settings(Conn *conn) {
  nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 4096},
  };
  nghttp2_submit_settings(conn->session, NGHTTP2_FLAG_NONE, settings, 2);
  nghttp2_session_set_local_window_size(conn->session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW);
}

/* Sends what the session has to say, as far as the socket takes it. */
static inline void conn_flush(Conn *conn) {
  while (!conn->closed) {
    while (conn->out_used < OUT_BYTES) {
      const uint8_t *data;
      ssize_t size = nghttp2_session_mem_send(conn->session, &data);
      if (size < 0) conn->closed = true;
      if (size <= 0) break;
      memcpy(conn->out + conn->out_used, data, (size_t)size);
      conn->out_used += (size_t)size;
    }
    if (conn->out_used == conn->out_sent) break;
    ssize_t sent = send(conn->fd, conn->out + conn->out_sent, conn->out_used - conn->out_sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) conn->closed = true;
    if (sent > 0) conn->out_sent += (size_t)sent;
    if (conn->out_sent < conn->out_used) {
      if (!conn->waiting && !conn->closed) watch(conn, EPOLL_CTL_MOD, conn->waiting = true);
      return;
    }
    conn->out_used = conn->out_sent = 0;
  }
  if (conn->waiting && !conn->closed) watch(conn, EPOLL_CTL_MOD, conn->waiting = false);
}

/* Feeds the session with what has arrived. */
static inline void conn_receive(Conn *conn) {
  static uint8_t buffer[IN_BYTES];
  ssize_t size = recv(conn->fd, buffer, sizeof buffer, 0);
  if (size == 0 || (size < 0 && errno != EAGAIN)) conn->closed = true;
  if (size > 0 && nghttp2_session_mem_recv(conn->session, buffer, (size_t)size) < 0) conn->closed = true;
}

static inline void conn_free(Conn *conn) {
  nghttp2_session_del(conn->session);
  close(conn->fd);
  free(conn);
}

#endif
