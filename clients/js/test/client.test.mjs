import assert from "node:assert/strict";
import { test } from "node:test";
import { PushClient } from "../../../notifyd/http/pages/notifyd.js";
import { Server, Storage, message, pass, settle, takeTime } from "./harness.mjs";

/** A client at a server of the test's own; `got` are the ids that its page was handed. */
function start(t, server, options = {}) {
  const seen = { got: [], states: [], statuses: [], gaps: 0 };
  const client = new PushClient({
    url: "wss://push.example/v1/push",
    token: "secret",
    WebSocket: server.WebSocket,
    onMessage: ({ UUID }) => void seen.got.push(UUID),
    onState: (ids, set, unread) => seen.states.push([ids, set, unread]),
    onStatus: ({ state, code }) => seen.statuses.push(code ? `${state} ${code}` : state),
    ...options,
  });
  t.after(() => client.close());
  return Object.assign(seen, { client });
}

async function opened(t, options) {
  takeTime(t);
  const server = new Server();
  const seen = start(t, server, options);
  await settle();
  server.last.welcome();
  await settle();
  return { server, ...seen, seen };
}

test("a hello names token, versions and no place of a client that was never here", async (t) => {
  takeTime(t);
  const server = new Server();
  start(t, server, { content: ["1", "2.0"] });
  await settle();
  assert.equal(server.last.url, "wss://push.example/v1/push");
  assert.deepEqual(server.last.protocols, ["notifyd.v1"]);
  assert.deepEqual(server.last.hello, { op: "hello", token: "secret", content: ["1", "2.0"], ack: true });
});

test("an address of http or https will do", async (t) => {
  takeTime(t);
  const server = new Server();
  start(t, server, { url: "http://push.example/v1/push?a=1" });
  await settle();
  assert.equal(server.last.url, "ws://push.example/v1/push?a=1");
});

test("messages come once each, single or in arrays, and are acknowledged together", async (t) => {
  const { server, got, client } = await opened(t);
  server.last.msg("a", "0:1");
  server.last.send({ op: "msg", message: message("b") }, { op: "msg", message: message("a") });
  await pass(t, 100);
  assert.deepEqual(got, ["a", "b"]);
  assert.deepEqual(server.last.received.slice(1), [{ op: "ack", ids: ["a", "b"] }]);
  server.last.send({ op: "ok", ack: ["a", "b"] });
  await settle();
  assert.equal(client.unconfirmed, 0);
});

test("a repeat is acknowledged and not shown", async (t) => {
  const { server, got } = await opened(t);
  server.last.msg("a", "0:1");
  await pass(t, 100);
  server.last.send({ op: "ok", ack: ["a"] });
  server.last.msg("a", undefined, { resend: true });
  await pass(t, 100);
  assert.deepEqual(got, ["a"]);
  assert.deepEqual(server.last.ids("ack"), ["a", "a"]);
});

test("what a server does not know to say otherwise changes nothing", async (t) => {
  const { server, got, client } = await opened(t);
  for (const text of ["nonsense", "null", "[null, 7]", "[]", "{}", '{"op":"later"}', '{"op":"msg"', '"msg"'])
    server.last.raw(text);
  server.last.msg("a", "0:1");
  await pass(t, 100);
  assert.deepEqual(got, ["a"]);
  assert.equal(client.status.state, "open");
});

test("acks are kept until an ok names them, over as many connections as that takes", async (t) => {
  const { server, client } = await opened(t);
  server.last.msg("a", "0:1");
  client.seen("a");
  client.read(["a", "x"]);
  await pass(t, 100);
  server.last.send({ op: "ok", seen: ["a"] });
  server.last.end();
  await pass(t, 600);
  assert.equal(server.peers.length, 2);
  assert.deepEqual(server.last.received.length, 1, "before the welcome there is nothing but the hello");
  server.last.welcome();
  await pass(t, 100);
  assert.deepEqual(server.last.received.slice(1), [
    { op: "ack", ids: ["a"] },
    { op: "read", ids: ["a", "x"] },
  ]);
  server.last.send({ op: "ok", read: ["a"], refused: ["x"] });
  server.last.end();
  await pass(t, 1200);
  server.last.welcome();
  await pass(t, 100);
  assert.deepEqual(server.last.received.slice(1), [{ op: "ack", ids: ["a"] }]);
});

test("many acks go in frames that a server takes", async (t) => {
  const { server, client } = await opened(t);
  const ids = Array.from({ length: 1000 }, (_, n) => `019aab3e-6f0c-7d44-9f6a-${String(n).padStart(12, "0")}`);
  client.ack(ids);
  await pass(t, 100);
  assert.deepEqual(server.last.ids("ack"), ids);
  for (const frame of server.last.received.slice(1)) {
    assert.ok(frame.ids.length <= 500);
    assert.ok(JSON.stringify(frame).length <= 16 * 1024);
  }
});

test("a client asked to acknowledge by hand does nothing by itself", async (t) => {
  const { server, client, got } = await opened(t, { ack: "manual" });
  server.last.msg("a", "0:1");
  server.last.msg("a", undefined, { resend: true });
  await pass(t, 100);
  assert.deepEqual([got, server.last.ids("ack")], [["a"], []]);
  client.ack("a");
  await pass(t, 100);
  server.last.msg("a", undefined, { resend: true });
  await pass(t, 100);
  assert.deepEqual([got, server.last.ids("ack")], [["a"], ["a", "a"]]);
});

test("a client that said no to acks sends none, not of repeats either", async (t) => {
  const { server } = await opened(t, { ack: false });
  assert.equal(server.last.hello.ack, false);
  server.last.msg("a", "0:1");
  server.last.msg("a", "0:1");
  await pass(t, 100);
  assert.deepEqual(server.last.ids("ack"), []);
});

test("a message whose handler failed is not acknowledged, and is new when it comes again", async (t) => {
  let failures = 1;
  const got = [];
  const { server } = await opened(t, {
    onMessage: async ({ UUID }) => {
      if (failures-- > 0) throw new Error("no room");
      got.push(UUID);
    },
  });
  server.last.msg("a", "0:1");
  await pass(t, 100);
  assert.deepEqual([got, server.last.ids("ack")], [[], []]);
  server.last.msg("a", undefined, { resend: true });
  await pass(t, 100);
  assert.deepEqual([got, server.last.ids("ack")], [["a"], ["a"]]);
});

test("a place is never saved before what it covers was worked off", async (t) => {
  const storage = new Storage();
  const waiting = [];
  const onMessage = () => new Promise((done) => waiting.push(done));
  const { server } = await opened(t, { user: "alice", storage, onMessage });
  const saved = () => JSON.parse([...storage.items.values()][0]);
  server.last.send({ op: "msg", at: "0:7", message: message("a") }, { op: "pos", cursor: "c1" });
  await pass(t, 200);
  assert.deepEqual([saved().cursor, saved().at, server.last.ids("ack")], ["c0", {}, []]);
  waiting.pop()();
  await pass(t, 200);
  assert.deepEqual([saved().cursor, saved().at, server.last.ids("ack")], ["c1", {}, ["a"]]);
});

test("a reload goes on from cursor and offsets, per user, with the acks that were not confirmed", async (t) => {
  const storage = new Storage();
  const { server, client } = await opened(t, { user: "alice", storage });
  for (const [id, at] of [["a", "0:5"], ["b", "3:8"], ["c", "0:9"], ["d", undefined]]) server.last.msg(id, at);
  client.read("a");
  await pass(t, 100);
  server.last.send({ op: "ok", ack: ["a", "b"] });
  await settle();
  client.close();

  const again = start(t, server, { user: "alice", storage });
  await settle();
  const { cursor, at } = server.last.hello;
  assert.deepEqual([cursor, at], ["c0", ["0:9", "3:8"]]);
  server.last.msg("d");
  server.last.welcome();
  await pass(t, 100);
  assert.deepEqual(again.got, [], "it had that one before the reload");
  assert.deepEqual(server.last.received.slice(1), [
    { op: "ack", ids: ["c", "d"] },
    { op: "read", ids: ["a"] },
  ]);

  start(t, server, { user: "bob", storage });
  await settle();
  assert.equal(server.last.hello.cursor, undefined);
});

test("a tab that is left without notice has its place", async (t) => {
  const listeners = {};
  globalThis.addEventListener = (name, listener) => (listeners[name] = listener);
  globalThis.removeEventListener = () => {};
  t.after(() => delete globalThis.addEventListener);
  const storage = new Storage();
  const { server } = await opened(t, { user: "alice", storage });
  server.last.msg("a", "0:5");
  await settle();
  listeners.pagehide();
  assert.deepEqual(JSON.parse([...storage.items.values()][0]).at, { 0: 5 });
  assert.deepEqual(server.last.ids("ack"), ["a"]);
});

test("what a storage holds may be nonsense, slow, or out of reach", async (t) => {
  takeTime(t);
  const server = new Server();
  const bad = [
    { getItem: () => "nonsense", setItem: () => { throw new Error("full"); } },
    { getItem: async () => null, setItem: async () => { throw new Error("full"); } },
    { getItem: () => { throw new Error("forbidden"); }, setItem: () => {} },
    { getItem: () => '{"cursor": 7, "at": [], "known": null}', setItem: () => {} },
  ];
  for (const storage of bad) {
    const seen = start(t, server, { user: "alice", storage });
    await settle();
    server.last.welcome();
    server.last.msg("a", "0:1");
    await pass(t, 100);
    assert.deepEqual([seen.got, server.last.hello.cursor], [["a"], undefined]);
    seen.client.close();
  }
});

test("while the inbox is read the place stays, and then is the latest", async (t) => {
  takeTime(t);
  const storage = new Storage();
  const server = new Server();
  let isRead;
  const onGap = () => new Promise((done) => (isRead = done));
  const { got } = start(t, server, { user: "alice", storage, onGap });
  const saved = () => JSON.parse([...storage.items.values()][0]).cursor;
  await settle();
  server.last.welcome({ cursor: "c1", missing: "inbox" });
  server.last.msg("a", "0:5");
  server.last.send({ op: "pos", cursor: "c2" });
  server.last.msg("b", "0:6");
  await pass(t, 100);
  assert.deepEqual([got, saved()], [["a", "b"], null]);
  isRead();
  await pass(t, 100);
  assert.equal(saved(), "c2");
  server.last.end();
  await pass(t, 600);
  assert.deepEqual(server.last.hello.at, ["0:6"]);
});

test("a gap that was not filled is told again by the next connection, and an old answer counts no more", async (t) => {
  takeTime(t);
  const server = new Server();
  const gaps = [];
  const onGap = () => new Promise((done, fail) => gaps.push({ done, fail }));
  start(t, server, { onGap });
  await settle();
  server.last.welcome({ cursor: "c1", missing: "inbox" });
  await settle();
  gaps[0].fail(new Error("no inbox today"));
  await pass(t, 600);
  assert.equal(server.peers.length, 2);
  assert.equal(server.last.hello.cursor, undefined);
  server.last.welcome({ cursor: "c2", missing: "inbox" });
  await settle();
  server.last.end();
  gaps[1].done(); // too late: nobody knows what that connection did not bring
  await pass(t, 1100);
  assert.equal(server.last.hello.cursor, undefined);
  server.last.welcome({ cursor: "c3", missing: "inbox" });
  await settle();
  gaps[2].done();
  await settle();
  server.last.end();
  await pass(t, 2100);
  assert.equal(server.last.hello.cursor, "c3");
});

test("a welcome that says later claims nothing that is lacking, and without onGap a gap is passed over", async (t) => {
  const { server, statuses } = await opened(t);
  server.last.welcome({ cursor: "c1", missing: "later" });
  server.last.welcome({ cursor: "c2", missing: "inbox" });
  server.last.end();
  await pass(t, 600);
  assert.equal(server.last.hello.cursor, "c2");
  assert.deepEqual(statuses.filter((state) => state === "open").length, 1, "one session, however many welcomes");
});

test("a state frame tells what another device did", async (t) => {
  const { server, states } = await opened(t);
  server.last.send({ op: "state", ids: ["a"], set: "read", unread: 3 });
  await settle();
  assert.deepEqual(states, [[["a"], "read", 3]]);
});

test("the wait for the next attempt is random below a ceiling that doubles up to 15 s", async (t) => {
  takeTime(t);
  t.mock.method(Math, "random", () => 0.999999);
  const server = new Server();
  server.isUp = false;
  const waits = [];
  const onStatus = ({ state, detail }) => state === "waiting" && waits.push(Number(/in ([\d.]+) s/.exec(detail)[1]));
  start(t, server, { onStatus, transport: "websocket" });
  while (waits.length < 8) await pass(t, 500, 500);
  assert.deepEqual(waits, [0.5, 1, 2, 4, 8, 15, 15, 15]);
  server.isUp = true;
  await pass(t, 15_000, 500);
  server.last.welcome();
  server.last.end();
  await settle();
  assert.equal(waits[8], 2, "a short session is better than none");
  Math.random.mock.mockImplementation(() => 0);
  await pass(t, 2500, 500);
  server.last.end();
  await settle();
  assert.equal(waits[9], 0);
});

test("a connection that lived makes the next failure the first", async (t) => {
  const { server } = await opened(t);
  t.mock.method(Math, "random", () => 0.999999);
  for (let round = 0; round < 3; round += 1) {
    await pass(t, 11_000, 1000);
    server.last.end();
    await pass(t, 600);
    assert.equal(server.peers.length, round + 2);
    server.last.welcome();
    await settle();
  }
});

test("a connection that is silent for more than two heartbeats is given up, one that beats is not", async (t) => {
  const { server } = await opened(t);
  for (let beats = 0; beats < 5; beats += 1) {
    await pass(t, 49_000, 1000);
    server.last.send({ op: "pos", cursor: `c${beats}` });
  }
  assert.equal(server.peers.length, 1);
  await pass(t, 57_000, 1000);
  assert.equal(server.peers[0].closedWith, 1000);
  assert.equal(server.peers.length, 2);
});

test("a server that takes a connection and says nothing is not waited for", async (t) => {
  takeTime(t);
  const server = new Server();
  start(t, server);
  await pass(t, 11_000, 500);
  assert.equal(server.peers.length, 2);
});

for (const code of [4400, 4401, 4403, 4413, 4499]) {
  test(`after ${code} a client does not come back`, async (t) => {
    const { server, statuses } = await opened(t);
    server.last.send({ op: "error", code: "why", detail: "because" });
    server.last.end(code);
    await pass(t, 60_000, 5000);
    assert.equal(server.peers.length, 1);
    assert.equal(statuses.at(-1), `closed ${code}`);
  });
}

for (const code of [1000, 1001, 1006, 1008, 1011, 1013, 4001, 4399, 4500]) {
  test(`after ${code} a client comes back`, async (t) => {
    const { server } = await opened(t);
    server.last.end(code);
    await pass(t, 600);
    assert.equal(server.peers.length, 2);
  });
}

test("a drain moves the client at one moment of the window, not before", async (t) => {
  const { server } = await opened(t);
  t.mock.method(Math, "random", () => 0.5);
  server.last.send({ op: "drain", after: [2000, 10_000] });
  await pass(t, 5900, 100);
  assert.deepEqual([server.peers.length, server.peers[0].isOpen], [1, true]);
  server.last.msg("a", "0:1");
  await pass(t, 200);
  assert.deepEqual([server.peers.length, server.peers[0].closedWith], [2, 1000]);
  assert.deepEqual(server.peers[0].ids("ack"), ["a"]);
});

test("a connection that ends before the moment of its drain is not replaced before it", async (t) => {
  const { server } = await opened(t);
  const listeners = {};
  globalThis.addEventListener = (name, listener) => (listeners[name] = listener);
  t.after(() => delete globalThis.addEventListener);
  t.mock.method(Math, "random", () => 0.5);
  server.last.send({ op: "drain", after: [0, 10_000] });
  server.last.end(1001);
  await pass(t, 4900, 100);
  assert.equal(server.peers.length, 1);
  await pass(t, 200);
  assert.equal(server.peers.length, 2);
});

test("a network that is back ends the wait, but not one that a server chose", async (t) => {
  const listeners = {};
  globalThis.addEventListener = (name, listener) => (listeners[name] = listener);
  globalThis.removeEventListener = () => {};
  t.after(() => delete globalThis.addEventListener);
  const { server } = await opened(t);
  t.mock.method(Math, "random", () => 0.9);
  server.last.end();
  listeners.online();
  await settle();
  assert.equal(server.peers.length, 2);
  server.last.welcome();
  server.last.send({ op: "drain", after: [0, 10_000] });
  server.last.end();
  listeners.online();
  await pass(t, 1000);
  assert.equal(server.peers.length, 2);
});

test("a token is asked for at each connect, and one that fails is asked for again", async (t) => {
  takeTime(t);
  const server = new Server();
  let asked = 0;
  const token = async () => {
    asked += 1;
    if (asked === 1) throw new Error("no session");
    return `token ${asked}`;
  };
  start(t, server, { token });
  await pass(t, 600);
  assert.equal(server.last.hello.token, "token 2");
  server.last.welcome();
  server.last.end(4001);
  await pass(t, 1100);
  assert.equal(server.last.hello.token, "token 3");
});

test("a token that never comes holds nothing up for good", async (t) => {
  takeTime(t);
  const server = new Server();
  let asked = 0;
  start(t, server, { token: () => (asked++ ? "second" : new Promise(() => {})) });
  await pass(t, 12_000, 500);
  assert.equal(server.last.hello.token, "second");
});

test("a page whose handlers fail keeps its connection", async (t) => {
  const fail = () => { throw new Error("a bug of the page"); };
  const { server, client } = await opened(t, { onState: fail, onStatus: fail });
  server.last.send({ op: "state", ids: ["a"], set: "read" });
  server.last.msg("a", "0:1");
  await pass(t, 100);
  assert.equal(client.status.state, "open");
  assert.deepEqual(server.last.ids("ack"), ["a"]);
});

test("close sends what is due, says so once, and nothing happens any more", async (t) => {
  const { server, client, got, statuses } = await opened(t);
  server.last.msg("a", "0:1");
  await settle();
  client.close();
  client.close();
  client.ack("b");
  assert.deepEqual(server.last.ids("ack"), ["a"]);
  assert.equal(server.last.closedWith, 1000);
  server.last.isOpen = true;
  server.last.msg("b", "0:2");
  server.last.end();
  await pass(t, 60_000, 5000);
  assert.deepEqual([got, server.peers.length], [["a"], 1]);
  assert.equal(statuses.filter((state) => state === "closed").length, 1);
});

test("ids are remembered up to a bound", async (t) => {
  const { server, got } = await opened(t, { ack: false });
  for (let n = 0; n < 5001; n += 1) server.last.msg(`m${n}`);
  server.last.msg("m1");
  server.last.msg("m0");
  await settle();
  assert.equal(got.length, 5002);
  assert.equal(got.at(-1), "m0");
});
