// A push server in memory, by the rules of docs/reference/push-protocol.md, and time by hand.

/** Time and chance by hand; call it first in a test, and `mock.timers.reset()` at its end. */
export function takeTime(t) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_700_000_000_000 });
  t.mock.method(console, "error", () => {});
}

/** Let everything that waits for promises alone go on. */
export async function settle() {
  for (let turn = 0; turn < 3; turn += 1) await new Promise((done) => setImmediate(done));
}

/** Let time pass in steps, each with its consequences. */
export async function pass(t, ms, step = 50) {
  for (let left = ms; left > 0; left -= step) {
    t.mock.timers.tick(Math.min(step, left));
    await settle();
  }
}

/** A storage as a browser's. */
export class Storage {
  items = new Map();
  getItem(key) {
    return this.items.get(key) ?? null;
  }
  setItem(key, value) {
    this.items.set(key, value);
  }
}

export function message(id, content = {}) {
  return {
    UUID: id,
    from: "orders",
    createBy: "test",
    createDateTime: "2026-11-24T10:00:00Z",
    content: { version: 1.1, title: `title of ${id}`, ...content },
  };
}

/** One connection as the server sees it. */
class Peer {
  received = [];
  isOpen = true;
  constructor(server, socket) {
    this.server = server;
    this.socket = socket;
  }
  get hello() {
    return this.received.find((frame) => frame.op === "hello");
  }
  ids(op) {
    return this.received.filter((frame) => frame.op === op).flatMap((frame) => frame.ids);
  }
  send(...frames) {
    this.raw(JSON.stringify(frames.length === 1 ? frames[0] : frames));
  }
  raw(text) {
    if (this.isOpen) this.socket.onmessage?.({ data: text });
  }
  welcome(more = {}) {
    this.send({ op: "welcome", session: "s", cursor: "c0", heartbeat: 25, replayed: 0, missing: null, ...more });
  }
  msg(id, at, more = {}) {
    this.send({ op: "msg", ...(at && { at }), ...more, message: message(id) });
  }
  end(code = 1006, reason = "") {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.socket.onclose?.({ code, reason });
  }
}

/** Takes connections; what it says is said by the test, or by `onText` after each frame of a client. */
export class Server {
  peers = [];
  isUp = true;
  onText = () => {};
  get last() {
    return this.peers.at(-1);
  }
  get WebSocket() {
    const server = this;
    return class {
      onopen = null;
      onmessage = null;
      onclose = null;
      constructor(url, protocols) {
        const peer = (this.peer = new Peer(server, this));
        Object.assign(peer, { url, protocols });
        if (server.isUp) server.peers.push(peer);
        setImmediate(() => (server.isUp ? this.onopen?.({}) : peer.end()));
      }
      send(text) {
        if (!this.peer.isOpen) return;
        const frames = [JSON.parse(text)].flat();
        this.peer.received.push(...frames);
        for (const frame of frames) setImmediate(() => server.onText(this.peer, frame));
      }
      close(code) {
        this.peer.isOpen = false;
        this.peer.closedWith = code;
      }
    };
  }
}

/** A server that keeps a topic: it replays what a cursor lacks, confirms acks, and beats. */
export class TopicServer extends Server {
  log = [[], [], []];
  acked = new Set();
  onText = (peer, frame) => {
    if (frame.op === "hello") this.#greet(peer, frame);
    else if (peer.isOpen && ["ack", "seen", "read"].includes(frame.op)) {
      if (frame.op === "ack") frame.ids.forEach((id) => this.acked.add(id));
      peer.send({ op: "ok", [frame.op]: frame.ids });
    }
  };
  publish(id, partition = 0) {
    this.log[partition].push(id);
    for (const peer of this.peers)
      if (peer.isReady) peer.msg(id, `${partition}:${this.log[partition].length - 1}`);
  }
  beat() {
    for (const peer of this.peers) if (peer.isReady) peer.send({ op: "pos", cursor: this.#end() });
  }
  #end() {
    return JSON.stringify(this.log.map((part) => part.length));
  }
  #greet(peer, { cursor, at = [] }) {
    const from = cursor ? JSON.parse(cursor) : this.log.map((part) => part.length);
    for (const place of at) {
      const [partition, offset] = place.split(":").map(Number);
      from[partition] = Math.max(from[partition], offset + 1);
    }
    this.log.forEach((part, partition) => {
      for (let offset = from[partition]; offset < part.length; offset += 1)
        peer.msg(part[offset], `${partition}:${offset}`);
    });
    peer.welcome({ cursor: this.#end() });
    peer.isReady = true;
  }
}

/** Web Locks for one process: exclusive, first come first served. */
export class Locks {
  #queues = new Map();
  request(name, { signal }, hold) {
    return new Promise((done, fail) => {
      const queue = this.#queues.get(name) ?? [];
      this.#queues.set(name, queue);
      const entry = { hold, done };
      queue.push(entry);
      signal.addEventListener("abort", () => {
        if (queue[0] === entry) return; // it is held: to be let go by its holder
        queue.splice(queue.indexOf(entry), 1);
        fail(new DOMException("aborted", "AbortError"));
      });
      if (queue[0] === entry) this.#grant(queue);
    });
  }
  #grant(queue) {
    const entry = queue[0];
    if (!entry) return;
    setImmediate(async () => {
      entry.done(await entry.hold());
      queue.shift();
      this.#grant(queue);
    });
  }
}

/** Numbers by a seed (mulberry32), so that a failing run can be run again. */
export function chance(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

