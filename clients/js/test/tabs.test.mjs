import assert from "node:assert/strict";
import { test } from "node:test";
import { PushClient } from "../../../notifyd/http/pages/notifyd.js";
import { Locks, Server, Storage, TopicServer, chance, pass, settle, takeTime } from "./harness.mjs";

let users = 0;

/** A browser: its tabs share storage and locks. The channel is Node's own. */
function browser(t, server, more = {}) {
  takeTime(t);
  Object.defineProperty(globalThis, "navigator", { value: { locks: new Locks() }, configurable: true });
  const user = `user ${(users += 1)}`;
  const storage = new Storage();
  const open = (options = {}) => {
    const tab = { got: [], states: [], statuses: [] };
    tab.client = new PushClient({
      url: "wss://push.example/v1/push",
      token: "secret",
      user,
      storage,
      WebSocket: server.WebSocket,
      onMessage: ({ UUID }) => void tab.got.push(UUID),
      onState: (ids, set) => tab.states.push([...ids, set]),
      onStatus: ({ state }) => tab.statuses.push(state),
      ...more,
      ...options,
    });
    t.after(() => tab.client.close());
    return tab;
  };
  return { open, storage };
}

/** What one tab says reaches the others by the real event loop. */
async function heard(check) {
  for (let turn = 0; turn < 200; turn += 1) {
    if (check()) return;
    await settle();
  }
  assert.ok(check(), `in vain: ${check}`);
}

test("tabs of a user share one connection, and each shows every message once", async (t) => {
  const server = new Server();
  const { open } = browser(t, server);
  const tabs = [open(), open(), open()];
  await heard(() => server.peers.length);
  server.last.welcome();
  server.last.msg("a", "0:1");
  server.last.msg("b", "0:2");
  await heard(() => tabs.every(({ got }) => got.length === 2));
  await pass(t, 200);
  assert.deepEqual(tabs.map(({ got }) => got), [["a", "b"], ["a", "b"], ["a", "b"]]);
  assert.deepEqual(tabs.map(({ client }) => client.status.state), ["open", "open", "open"]);
  assert.deepEqual(server.last.ids("ack"), ["a", "b"], "acknowledged once, by the tab with the connection");
  assert.equal(server.peers.length, 1);
  server.last.send({ op: "ok", ack: ["a", "b"] });
  await heard(() => tabs.every(({ client }) => client.unconfirmed === 0));
});

test("a tab that opens later is told how it stands", async (t) => {
  const server = new Server();
  const { open } = browser(t, server);
  open();
  await heard(() => server.peers.length);
  server.last.welcome();
  await pass(t, 100);
  const late = open();
  await heard(() => late.client.status.state === "open");
  assert.equal(server.peers.length, 1);
});

test("what is read in one tab is read in the others, and said to the server once", async (t) => {
  const server = new Server();
  const { open } = browser(t, server);
  const tabs = [open(), open(), open()];
  await heard(() => server.peers.length);
  server.last.welcome();
  await settle();
  tabs[1].client.read("a");
  await heard(() => tabs[0].states.length && tabs[2].states.length);
  await pass(t, 100);
  assert.deepEqual(tabs.map(({ states }) => states), [[["a", "read"]], [], [["a", "read"]]]);
  assert.deepEqual(server.last.ids("read"), ["a"]);
});

test("another tab takes over from the place it has, and sends what was not confirmed", async (t) => {
  const server = new Server();
  const { open } = browser(t, server);
  const [first, second, third] = [open(), open(), open()];
  await heard(() => server.peers.length);
  server.last.welcome({ cursor: "c1" });
  server.last.msg("a", "0:7");
  third.client.seen("a");
  await heard(() => third.got.length && second.got.length);
  first.client.close();
  await heard(() => server.peers.length === 2);
  assert.deepEqual(server.last.hello.at, ["0:7"]);
  assert.equal(server.last.hello.cursor, "c1");
  await settle();
  server.last.welcome({ cursor: "c2" });
  await heard(() => third.client.status.state === "open");
  await pass(t, 100);
  assert.deepEqual([server.last.ids("ack"), server.last.ids("seen")], [["a"], ["a"]]);
  server.last.msg("a", "0:7");
  server.last.msg("b", "0:8");
  await heard(() => third.got.length === 2);
  assert.deepEqual([first.got, second.got, third.got], [["a"], ["a", "b"], ["a", "b"]]);
  assert.equal(server.peers.length, 2, "the tabs agreed on the place: nobody had to go back");
});

test("a tab that begins behind the others has what it lacks sent again", async (t) => {
  const server = new TopicServer();
  const { open, storage } = browser(t, server);
  const first = open();
  await heard(() => first.client.status.state === "open");
  await pass(t, 100);
  const before = new Map(storage.items);
  server.publish("a");
  await heard(() => first.got.length);
  // It reads what was saved before "a", as where one process has not heard yet what another wrote.
  const late = open({ storage: { getItem: (key) => before.get(key), setItem() {} } });
  await heard(() => late.statuses.length);
  await pass(t, 100);
  await heard(() => late.got.length);
  server.publish("b");
  await heard(() => late.got.length === 2 && first.got.length === 2);
  assert.deepEqual([first.got, late.got], [["a", "b"], ["a", "b"]]);
});

test("a tab that kept nothing goes on from the leader's place when it takes over", async (t) => {
  const server = new TopicServer();
  const { open } = browser(t, server, { storage: null });
  const first = open();
  await heard(() => first.client.status.state === "open");
  const late = open();
  await heard(() => late.client.status.state === "open");
  first.client.close();
  server.publish("a"); // while nobody is connected
  await heard(() => late.got.length);
  assert.deepEqual(late.got, ["a"]);
});

test("a gap that a tab did not fill does not outlive the leader's connection", async (t) => {
  const server = new Server();
  const { open } = browser(t, server, { onGap: () => new Promise(() => {}) });
  const [first, second] = [open(), open()];
  await heard(() => server.peers.length);
  server.last.welcome({ cursor: "c1", missing: "inbox" });
  await heard(() => second.client.status.state === "open");
  server.last.end();
  await pass(t, 600);
  server.last.welcome({ cursor: "c2" });
  server.last.msg("a", "0:3");
  await heard(() => second.got.length);
  first.client.close();
  await heard(() => server.peers.length === 3);
  await settle();
  assert.deepEqual([server.last.hello.cursor, server.last.hello.at], ["c2", ["0:3"]]);
});

test("a tab that begins while the leader is at work on a message gets that one too", async (t) => {
  const server = new TopicServer();
  let finish;
  const { open } = browser(t, server);
  const first = open({ onMessage: () => new Promise((done) => (finish = done)) });
  await heard(() => first.client.status.state === "open");
  await pass(t, 100);
  server.publish("a");
  await heard(() => finish);
  const late = open();
  await heard(() => late.statuses.length);
  finish();
  await pass(t, 100);
  await heard(() => late.got.length);
  assert.deepEqual(late.got, ["a"]);
});

/** A leader that is busy with older messages, and a tab that begins behind it: it lacks "a". */
async function behind(t, options) {
  const server = new Server();
  const { open, storage } = browser(t, server);
  const first = open();
  await heard(() => server.peers.length);
  server.last.welcome({ cursor: "c1" });
  await pass(t, 100);
  const before = new Map(storage.items);
  server.last.msg("a", "0:1");
  server.last.welcome({ cursor: "c2", missing: "later" });
  await heard(() => first.got.length);
  const late = open({ storage: { getItem: (key) => before.get(key), setItem() {} }, ...options });
  await heard(() => late.statuses.length);
  return { server, first, late };
}

test("a tab that is behind shows what comes, and claims none of it when it has to lead", async (t) => {
  const { server, first, late } = await behind(t);
  server.last.msg("b", "0:2");
  server.last.send({ op: "pos", cursor: "c3" });
  await heard(() => late.got.length);
  first.client.close();
  await heard(() => server.peers.length === 2);
  await settle();
  assert.deepEqual([server.last.hello.cursor, server.last.hello.at], ["c1", []]);
});

test("what a slow tab was sent before the leader went back for it counts as sent before", async (t) => {
  const waiting = [];
  const onMessage = () => new Promise((done) => waiting.push(done));
  const { server, first } = await behind(t, { onMessage });
  server.last.msg("b", "0:2");
  await heard(() => waiting.length === 1);
  server.last.msg("c", "0:3");
  server.last.welcome({ cursor: "c3" });
  await pass(t, 100);
  assert.equal(server.last.hello.cursor, "c1", "the leader went back");
  waiting.shift()();
  await heard(() => waiting.length === 1);
  waiting.shift()();
  await settle();
  first.client.close();
  await heard(() => server.peers.length === 3);
  await settle();
  assert.equal(server.last.hello.cursor, "c1");
});

test("what the former leader left unconfirmed is said by the next", async (t) => {
  const server = new Server();
  const { open } = browser(t, server);
  const first = open();
  await heard(() => server.peers.length);
  server.last.welcome();
  await settle();
  const late = open();
  await heard(() => late.client.status.state === "open");
  first.client.read("a");
  await pass(t, 100);
  first.client.close();
  await heard(() => server.peers.length === 2);
  await settle();
  server.last.welcome();
  await pass(t, 100);
  assert.deepEqual(server.last.ids("read"), ["a"]);
});

test("a final close lets the next tab try its own token", async (t) => {
  const server = new Server();
  const { open } = browser(t, server);
  const tabs = [open({ token: "old" }), open({ token: "new" })];
  await heard(() => server.peers.length);
  server.last.end(4401);
  await heard(() => server.peers.length === 2);
  assert.equal(server.last.hello?.token ?? (await settle(), server.last.hello.token), "new");
  assert.equal(tabs[0].client.status.state, "closed");
});

test("without a user, or asked not to, a tab has a connection of its own", async (t) => {
  const server = new Server();
  const { open } = browser(t, server);
  open({ user: undefined });
  open({ share: false });
  await heard(() => server.peers.length === 2);
});

for (let seed = 1; seed <= (process.env.SEEDS ?? 25); seed += 1) {
  test(`storm ${seed}: tabs come, go and lead by turns, connections drop, and nobody lacks or doubles`, async (t) => {
    const next = chance(seed);
    const server = new TopicServer();
    const onMessage = (got) => async ({ UUID }) => {
      for (let slow = next(); slow < 0.4; slow += 0.1) await new Promise((done) => setImmediate(done));
      got.push(UUID);
    };
    const { open, storage } = browser(t, server);
    t.mock.method(Math, "random", next);
    const tabs = [];
    const add = (more) => {
      const got = [];
      const tab = Object.assign(open({ onMessage: onMessage(got), ...more }), { got, isOpen: true });
      tabs.push(tab);
      return tab;
    };
    add();
    await heard(() => tabs[0].client.status.state === "open");
    await pass(t, 100); // until its place is saved: from there on nobody lacks anything
    let sent = 0;
    let snapshot = { items: new Map(storage.items), sent };
    for (let round = 0; round < 60; round += 1) {
      const choice = next();
      const live = tabs.filter(({ isOpen }) => isOpen);
      if (choice < 0.5) server.publish(`m${(sent += 1)}`, Math.floor(next() * 3));
      else if (choice < 0.6) server.beat();
      else if (choice < 0.7) server.last.end(1006);
      else if (choice < 0.78) server.last.send({ op: "drain", after: [0, 2000] });
      else if (choice < 0.82) snapshot = { items: new Map(storage.items), sent };
      else if (choice < 0.92 && live.length < 4) {
        // What it reads was saved just now, or some time ago, or it reads nothing: from there on it lacks nothing.
        const kind = next();
        const { items, sent: from } = kind < 0.4 ? snapshot : { items: kind < 0.7 ? storage.items : new Map(), sent };
        let reads = 0;
        const getItem = (key) => (reads++ ? storage.items : items).get(key) ?? null;
        const tab = add({ storage: { getItem, setItem: storage.setItem.bind(storage) } });
        tab.from = from;
        await heard(() => tab.statuses.length);
        if (kind >= 0.7) tab.from = sent;
      } else if (live.length > 1) {
        const tab = live[Math.floor(next() * live.length)];
        tab.client.close();
        tab.isOpen = false;
      }
      if (next() < 0.5) await pass(t, next() * 2000, 200);
    }
    const live = tabs.filter(({ isOpen }) => isOpen);
    const lacks = ({ got, from = 0 }) =>
      Array.from({ length: sent - from }, (_, n) => `m${n + 1 + from}`).filter((id) => !got.includes(id));
    for (let turn = 0; turn < 60 && live.some((tab) => lacks(tab).length); turn += 1) await pass(t, 1000, 250);
    for (const tab of tabs) {
      if (tab.isOpen) assert.deepEqual(lacks(tab), []);
      assert.equal(new Set(tab.got).size, tab.got.length, `doubles in ${tab.got}`);
    }
    for (let turn = 0; turn < 20 && server.acked.size < sent; turn += 1) await pass(t, 1000, 250);
    assert.equal(server.acked.size, sent, "every message was acknowledged");
  });
}
