/* What the load client is told: --name value pairs. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include "wire.h"

typedef struct {
  const char *mode; /* closed, open, echo, idle */
  int port;
  int connections;
  int streams;     /* of each connection; of all of them together when idle */
  double seconds;  /* until no more calls are begun */
  int64_t calls;   /* the same, counted; 0 is no such bound */
  double rate;     /* calls a second, open mode */
  uint32_t size;   /* bytes of a request's message */
  uint32_t reply;  /* bytes of a reply's message; 0 leaves it to the backend */
  int64_t replies; /* messages of a reply; 0 is 1 */
  int window;      /* messages under way on an echo stream */
  bool varied;     /* headers that differ from call to call */
  unsigned seed;
} Options;

static inline Options parse_options(int argc, char **argv) {
  Options options = {.mode = "closed", .connections = 1, .streams = 1, .seconds = 1, .size = 64, .window = 8, .seed = 1};
  for (int i = 1; i + 1 < argc; i += 2) {
    const char *name = argv[i], *value = argv[i + 1];
    if (!strcmp(name, "--mode")) options.mode = value;
    else if (!strcmp(name, "--port")) options.port = atoi(value);
    else if (!strcmp(name, "--connections")) options.connections = atoi(value);
    else if (!strcmp(name, "--streams")) options.streams = atoi(value);
    else if (!strcmp(name, "--seconds")) options.seconds = atof(value);
    else if (!strcmp(name, "--calls")) options.calls = atoll(value);
    else if (!strcmp(name, "--rate")) options.rate = atof(value);
    else if (!strcmp(name, "--size")) options.size = (uint32_t)atol(value);
    else if (!strcmp(name, "--reply")) options.reply = (uint32_t)atol(value);
    else if (!strcmp(name, "--replies")) options.replies = atoll(value);
    else if (!strcmp(name, "--window")) options.window = atoi(value);
    else if (!strcmp(name, "--varied")) options.varied = atoi(value) != 0;
    else if (!strcmp(name, "--seed")) options.seed = (unsigned)atoi(value);
    else fprintf(stderr, "unknown option %s\n", name), exit(2);
  }
  if (!options.port) fprintf(stderr, "--port is missing\n"), exit(2);
  return options;
}

#endif
