// One of gRPC's public interop cases with @grpc/grpc-js as the client: node interop.js ADDRESS CASE [CA.pem]
// Exits with 0, or prints what differed and exits with 1. What a request wants, it says in the text of
// tests/conformance/interop_service.py; messages are bytes.
"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");

const SERVICE = "/grpc.testing.TestService";
const [EMPTY, UNARY] = [`${SERVICE}/EmptyCall`, `${SERVICE}/UnaryCall`];
const [INPUT, OUTPUT] = [`${SERVICE}/StreamingInputCall`, `${SERVICE}/StreamingOutputCall`];
const FULL_DUPLEX = `${SERVICE}/FullDuplexCall`;
const [INITIAL, TRAILING] = ["x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"];

const SIZES = [31415, 9, 2653, 58979];
const REQUEST_SIZES = [27182, 8, 1828, 45904];
const MESSAGES = {
  status_code_and_message: "test status message",
  special_status_message: "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n",
};

const asIs = (bytes) => bytes;

// A request for replies of these sizes.
function ask(sizes, padding = 0) {
  return Buffer.concat([Buffer.from(sizes.map((size) => `size=${size}`).join(" ")), Buffer.alloc(padding)]);
}

// One call with one reply: {reply, initial, status}. What it fails with is in `status`.
function single(client, method, request, metadata = new grpc.Metadata()) {
  return new Promise((resolve) => {
    const seen = {};
    const call = client.makeUnaryRequest(method, asIs, asIs, request, metadata, (error, reply) => {
      seen.reply = error ? null : reply;
    });
    call.on("metadata", (initial) => (seen.initial = initial));
    call.on("status", (status) => setImmediate(() => resolve({ ...seen, status })));
  });
}

// Follows a call with many replies: `next()` is the length of the next reply, null at the end; `status` its end.
function follow(call) {
  const come = [];
  let wake = () => {};
  let ended = false;
  const status = new Promise((resolve) => call.on("status", resolve));
  const initial = new Promise((resolve) => call.on("metadata", resolve));
  call.on("data", (message) => (come.push(message.length), wake()));
  call.on("error", () => {}); // it is in the status as well
  status.then(() => setImmediate(() => ((ended = true), wake())));
  const next = async () => {
    while (!come.length && !ended) await new Promise((resolve) => (wake = resolve));
    return come.length ? come.shift() : null;
  };
  return { next, status, initial };
}

function duplex(client, metadata = new grpc.Metadata(), options = {}) {
  const call = client.makeBidiStreamRequest(FULL_DUPLEX, asIs, asIs, metadata, options);
  return { call, ...follow(call) };
}

function upload(client) {
  let call;
  const done = new Promise((resolve) => {
    call = client.makeClientStreamRequest(INPUT, asIs, asIs, new grpc.Metadata(), (error, reply) => {
      resolve({ error, reply });
    });
  });
  return { call, done };
}

function isCode(status, code) {
  assert.equal(grpc.status[status.code], grpc.status[code], `status: ${status.details}`);
}

async function customMetadata(client, metadata, kind) {
  if (kind === "unary") {
    const { reply, initial, status } = await single(client, UNARY, ask([314159], 271828), metadata);
    assert.equal(reply?.length, 314159, status.details);
    return { initial, status };
  }
  const { call, next, initial, status } = duplex(client, metadata);
  call.write(ask([314159], 271828));
  assert.equal(await next(), 314159);
  call.end();
  assert.equal(await next(), null);
  return { initial: await initial, status: await status };
}

async function statusMessage(client, message) {
  const request = Buffer.from(`code=2 message=${message}`);
  const { call, status } = duplex(client);
  call.end(request);
  for (const end of [(await single(client, UNARY, request)).status, await status]) {
    isCode(end, grpc.status.UNKNOWN);
    assert.equal(end.details, message);
  }
}

const CASES = {
  async empty_unary(client) {
    const { reply, status } = await single(client, EMPTY, Buffer.alloc(0));
    isCode(status, grpc.status.OK);
    assert.equal(reply.length, 0);
  },

  async large_unary(client) {
    const { reply, status } = await single(client, UNARY, ask([314159], 271828));
    isCode(status, grpc.status.OK);
    assert.ok(reply.equals(Buffer.alloc(314159)), `${reply.length} bytes, or not the right ones`);
  },

  async client_streaming(client) {
    const { call, done } = upload(client);
    for (const size of REQUEST_SIZES) call.write(Buffer.alloc(size));
    call.end();
    const { error, reply } = await done;
    assert.equal(error, null);
    assert.equal(reply.toString(), "74922");
  },

  async server_streaming(client) {
    const call = client.makeServerStreamRequest(OUTPUT, asIs, asIs, ask(SIZES));
    const { next, status } = follow(call);
    for (const size of SIZES) assert.equal(await next(), size);
    assert.equal(await next(), null);
    isCode(await status, grpc.status.OK);
  },

  async ping_pong(client) {
    const { call, next, status } = duplex(client);
    for (const [at, size] of SIZES.entries()) {
      call.write(ask([size], REQUEST_SIZES[at]));
      assert.equal(await next(), size);
    }
    call.end();
    assert.equal(await next(), null);
    isCode(await status, grpc.status.OK);
  },

  async empty_stream(client) {
    const { call, next, status } = duplex(client);
    call.end();
    assert.equal(await next(), null);
    isCode(await status, grpc.status.OK);
  },

  async cancel_after_begin(client) {
    const { call, done } = upload(client);
    // The upstream has begun once its headers are here: a call that was never sent proves nothing.
    await new Promise((resolve) => call.on("metadata", resolve));
    call.cancel();
    isCode((await done).error, grpc.status.CANCELLED);
  },

  async cancel_after_first_response(client) {
    const { call, next, status } = duplex(client);
    call.write(ask([SIZES[0]], REQUEST_SIZES[0]));
    assert.equal(await next(), SIZES[0]);
    call.cancel();
    isCode(await status, grpc.status.CANCELLED);
  },

  async timeout_on_sleeping_server(client) {
    const { call, status } = duplex(client, new grpc.Metadata(), { deadline: Date.now() + 500 });
    call.write(Buffer.from("sleep"));
    isCode(await status, grpc.status.DEADLINE_EXCEEDED);
  },

  async custom_metadata(client) {
    const metadata = new grpc.Metadata();
    metadata.set(INITIAL, "test_initial_metadata_value");
    metadata.set(TRAILING, Buffer.from([0xab, 0xab, 0xab]));
    for (const kind of ["unary", "duplex"]) {
      const { initial, status } = await customMetadata(client, metadata, kind);
      isCode(status, grpc.status.OK);
      assert.deepEqual(initial.get(INITIAL), ["test_initial_metadata_value"], kind);
      assert.deepEqual(status.metadata.get(TRAILING), [Buffer.from([0xab, 0xab, 0xab])], kind);
    }
  },

  status_code_and_message: (client) => statusMessage(client, MESSAGES.status_code_and_message),
  special_status_message: (client) => statusMessage(client, MESSAGES.special_status_message),

  async unimplemented_method(client) {
    const { status } = await single(client, `${SERVICE}/UnimplementedCall`, Buffer.alloc(0));
    isCode(status, grpc.status.UNIMPLEMENTED);
  },

  async unimplemented_service(client) {
    const method = "/grpc.testing.UnimplementedService/UnimplementedCall";
    const { status } = await single(client, method, Buffer.alloc(0));
    isCode(status, grpc.status.UNIMPLEMENTED);
  },
};

async function main([address, name, ca]) {
  const credentials = ca ? grpc.credentials.createSsl(fs.readFileSync(ca)) : grpc.credentials.createInsecure();
  const client = new grpc.Client(address, credentials);
  try {
    assert.ok(CASES[name], `no case ${name}: ${Object.keys(CASES).join(" ")}`);
    await CASES[name](client);
  } finally {
    client.close();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
