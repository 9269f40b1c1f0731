// Server-sent events, read by Node's own fetch from an HTTP server of the test's.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import { PushClient } from "../../../notifyd/http/pages/notifyd.js";
import { message, settle } from "./harness.mjs";

/** No WebSocket gets through. */
class Blocked {
  constructor() {
    Blocked.tries += 1;
    setImmediate(() => this.onclose?.({ code: 1006, reason: "" }));
  }
  send() {}
  close() {}
}

async function until(check) {
  const deadline = Date.now() + 20_000;
  for (; Date.now() < deadline; await new Promise((wake) => setTimeout(wake, 5))) if (check()) return;
  assert.fail(`in vain: ${check}`);
}

async function start(t, options = {}, script = {}) {
  Blocked.tries = 0;
  t.mock.method(Math, "random", () => 0);
  t.mock.method(console, "error", () => {});
  const streams = [];
  const posts = [];
  const server = createServer(async (request, answer) => {
    if (request.method === "POST") {
      const body = JSON.parse((await request.toArray()).join(""));
      posts.push({ url: request.url, token: request.headers.authorization, body });
      const status = script.post?.shift() ?? 200;
      const [[op, ids]] = Object.entries(body).filter(([name]) => name !== "session");
      answer.writeHead(status, { "content-type": "application/json" });
      return answer.end(JSON.stringify({ ok: { [op]: ids.filter((id) => id !== "x") }, refused: ["x"] }));
    }
    const status = script.get?.shift() ?? 200;
    answer.writeHead(status, { "content-type": "text/event-stream" });
    streams.push({ request, answer, query: new URL(request.url, "http://x").searchParams });
    if (status !== 200) return answer.end();
    answer.write("retry: 3000\n\n");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const got = [];
  const client = new PushClient({
    url: `ws://127.0.0.1:${server.address().port}/v1/push`,
    token: "secret",
    WebSocket: Blocked,
    onMessage: ({ UUID }) => void got.push(UUID),
    ...options,
  });
  t.after(() => {
    client.close();
    server.closeAllConnections();
    server.close();
  });
  const say = (frame, id) => streams.at(-1).answer.write(`${id ? `id: ${id}\n` : ""}data: ${JSON.stringify(frame)}\n\n`);
  const welcome = (more) =>
    say({ op: "welcome", session: "s", cursor: "c0", heartbeat: 25, replayed: 0, missing: null, ...more }, "c0");
  return { client, got, streams, posts, say, welcome, script };
}

test("where no WebSocket gets through, a stream does, with the token in a header", async (t) => {
  const { client, streams, welcome } = await start(t, { content: ["1", "2"] });
  await until(() => streams.length);
  welcome();
  await until(() => client.status.state === "open");
  assert.equal(Blocked.tries, 2);
  assert.equal(streams[0].request.url, "/v1/push/sse?ack=true&content=1&content=2");
  assert.equal(streams[0].request.headers.authorization, "Bearer secret");
});

test("a WebSocket that once worked is not given up for a stream", async (t) => {
  const tries = [];
  class Flaky {
    constructor() {
      const works = tries.push(this) === 1;
      setImmediate(() => (works ? this.onopen() : this.onclose?.({ code: 1006, reason: "" })));
    }
    send() {
      this.onmessage({ data: '{"op":"welcome","session":"s","cursor":"c","heartbeat":25,"missing":null}' });
      this.onclose({ code: 1006, reason: "" });
    }
    close() {}
  }
  const { streams } = await start(t, { WebSocket: Flaky });
  await until(() => tries.length > 12);
  assert.equal(streams.length, 0);
});

test("a stream is read however it is cut, and a part of an event is dropped", async (t) => {
  const { got, streams, welcome, say } = await start(t, { transport: "sse" });
  await until(() => streams.length);
  const { answer } = streams[0];
  const text = `data: ${JSON.stringify({ op: "msg", at: "0:1", message: message("a", { title: "Grüße 🎉" }) })}\r\n\r\n`;
  for (const byte of Buffer.from(text)) {
    answer.write(Buffer.from([byte]));
    await settle();
  }
  answer.write(`: a comment\n\nevent: x\ndata:${JSON.stringify([{ op: "msg", message: message("b") }])}\n\n`);
  answer.write(`data: {"op":"msg","message":{"UUID":\ndata: "c"}}\n\n`);
  answer.end(`data: ${JSON.stringify({ op: "msg", message: message("d") })}\n`);
  await until(() => streams.length === 2);
  assert.deepEqual(got, ["a", "b", "c"]);
  welcome();
  say({ op: "msg", at: "0:2", message: message("d") });
  await until(() => got.length === 4);
});

test("a stream goes on from cursor and offsets, and leaves out offsets that fit into no URL", async (t) => {
  const { streams, welcome, say } = await start(t, { transport: "sse" });
  await until(() => streams.length);
  welcome();
  say({ op: "msg", at: "3:8", message: message("a") });
  say({ op: "pos", cursor: "c1" }, "c1");
  say({ op: "msg", at: "3:9", message: message("b") });
  say({ op: "msg", at: "4:1", message: message("c") });
  streams[0].answer.end();
  await until(() => streams.length === 2);
  assert.deepEqual([streams[1].query.get("cursor"), streams[1].query.getAll("at")], ["c1", ["3:9", "4:1"]]);
  welcome({ cursor: "c2" });
  for (let n = 0; n < 1000; n += 1) say({ op: "msg", at: `${n}:1000000`, message: message(`m${n}`) });
  streams[1].answer.end();
  await until(() => streams.length === 3);
  assert.deepEqual([streams[2].query.get("cursor"), streams[2].query.getAll("at")], ["c2", []]);
});

test("acks go by HTTP, again after a failure, until they are confirmed or refused", async (t) => {
  const { client, streams, posts, welcome, say } = await start(t, { transport: "sse" }, { post: [503, 429] });
  await until(() => streams.length);
  welcome();
  say({ op: "msg", at: "0:1", message: message("a") });
  say({ op: "msg", at: "0:2", message: message("x") });
  await until(() => posts.length === 3 && client.unconfirmed === 0);
  assert.deepEqual(new Set(posts.map((post) => JSON.stringify(post))).size, 1);
  assert.deepEqual(posts[0], { url: "/v1/ack", token: "Bearer secret", body: { session: "s", ack: ["a", "x"] } });
});

test("an ack that is wrong is not repeated on this connection, but on the next", async (t) => {
  const { client, streams, posts, welcome } = await start(t, { transport: "sse" }, { post: [401] });
  await until(() => streams.length);
  welcome();
  client.read("a");
  await until(() => posts.length === 1);
  streams[0].answer.end();
  await until(() => streams.length === 2);
  assert.equal(posts.length, 1);
  welcome();
  await until(() => client.unconfirmed === 0);
});

for (const status of [400, 401, 403, 429]) {
  test(`a stream that is refused with ${status} is not asked for again`, async (t) => {
    const { client, streams } = await start(t, { transport: "sse" }, { get: [status] });
    await until(() => client.status.state === "closed");
    assert.deepEqual([client.status.code, streams.length], [4000 + status, 1]);
  });
}

test("a stream that cannot be had now is asked for again", async (t) => {
  const { client, streams, welcome } = await start(t, { transport: "sse" }, { get: [503, 404, 500] });
  await until(() => streams.length === 4);
  welcome();
  await until(() => client.status.state === "open");
});

test("an error with a final close code ends a stream for good, one with another does not", async (t) => {
  const { client, streams, welcome, say } = await start(t, { transport: "sse" });
  await until(() => streams.length);
  welcome();
  say({ op: "error", code: "internal", detail: "a fault", close: 1011 });
  streams[0].answer.end();
  await until(() => streams.length === 2);
  say({ op: "error", code: "unauthorised", detail: "expired", close: 4401 });
  streams[1].answer.end();
  await until(() => client.status.state === "closed");
  assert.equal(client.status.code, 4401);
  assert.match(client.status.detail, /unauthorised: expired/);
});

test("without any WebSocket at hand it is the stream at once", async (t) => {
  const { streams } = await start(t, { WebSocket: undefined });
  await until(() => streams.length);
});
