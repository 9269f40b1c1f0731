// notifyd's push client, built from clients/js. Apache License 2.0.
class Position {
 #place = { cursor: null, at: {} };
 #held = null;
 get place() {
  return this.#place;
 }
 set place(place) {
  this.#place = place;
  this.#held = null;
 }
 get isHeld() {
  return !!this.#held;
 }
 move(cursor) {
  const place = { cursor, at: {} };
  if (this.#held)
   this.#held = place;
  else
   this.#place = place;
 }
 begin(at) {
  const [partition, offset] = at.split(":");
  const known = (this.#held ?? this.#place).at;
  return () => {
   if (partition && offset)
    known[partition] = Math.max(known[partition] ?? -1, Number(offset));
  };
 }
 hold(cursor) {
  const begun = (this.#gap = Symbol());
  this.#held = { cursor, at: {} };
  return () => {
   if (this.#gap !== begun || !this.#held)
    return false;
   this.place = this.#held;
   return true;
  };
 }
 #gap = null;
 drop() {
  this.#held = this.#gap = null;
 }
 hello() {
  const { cursor, at } = this.#place;
  if (cursor === null)
   return {};
  return { cursor, at: Object.entries(at).map(([partition, offset]) => `${partition}:${offset}`) };
 }
}
const MARKS = ["ack", "seen", "read"];
const MAX_KEPT = 5000;
const MAX_IDS = 200;
class Receipts {
 #kept = new Map(MARKS.map((op) => [op, new Set()]));
 #unsent = new Map(MARKS.map((op) => [op, new Set()]));
 get size() {
  return MARKS.reduce((sum, op) => sum + this.#kept.get(op).size, 0);
 }
 add(op, ids) {
  const kept = this.#kept.get(op);
  const unsent = this.#unsent.get(op);
  for (const id of ids) {
   kept.add(id);
   unsent.add(id);
  }
  for (const id of kept) {
   if (kept.size <= MAX_KEPT)
    break;
   kept.delete(id);
   unsent.delete(id);
  }
 }
 begin() {
  for (const op of MARKS)
   this.#unsent.set(op, new Set(this.#kept.get(op)));
 }
 take() {
  return MARKS.flatMap((op) => {
   const ids = [...this.#unsent.get(op)];
   this.#unsent.get(op).clear();
   return Array.from({ length: Math.ceil(ids.length / MAX_IDS) }, (_, n) => ({
    op,
    ids: ids.slice(n * MAX_IDS, (n + 1) * MAX_IDS),
   }));
  });
 }
 confirm(frame) {
  for (const op of MARKS) {
   if (!frame[op])
    continue;
   for (const id of [...frame[op], ...(frame.refused ?? [])]) {
    this.#kept.get(op).delete(id);
    this.#unsent.get(op).delete(id);
   }
  }
 }
 toJSON() {
  return Object.fromEntries(MARKS.map((op) => [op, [...this.#kept.get(op)]]));
 }
 merge(kept = {}) {
  for (const op of MARKS)
   this.add(op, kept[op] ?? []);
 }
}
class Tabs {
 name;
 #channel;
 #end = new AbortController();
 #release;
 static get areHere() {
  return !!globalThis.BroadcastChannel && !!globalThis.navigator?.locks;
 }
 constructor(name, onWord) {
  this.name = name;
  this.#channel = new BroadcastChannel(name);
  this.#channel.onmessage = (event) => onWord(event.data);
 }
 stand(onLead) {
  const hold = () => new Promise((release) => {
   this.#release = release;
   onLead();
  });
  navigator.locks.request(this.name, { signal: this.#end.signal }, hold).catch(() => { });
 }
 say(word) {
  this.#channel.postMessage(word);
 }
 close() {
  this.#end.abort();
  this.#release?.();
  this.#channel.close();
 }
}
const READ = new Set(["msg", "welcome", "pos", "ok", "state", "drain", "error"]);
const FINAL = new Set([400, 401, 403, 429]);
const MAX_URL = 7000;
function framesOf(text) {
 try {
  return [JSON.parse(text)].flat().filter((frame) => READ.has(frame?.op));
 }
 catch {
  return [];
 }
}
function schemeOf(url, scheme) {
 return url.href.replace(/^(ws|http)/, scheme);
}
function openSocket(url, hello, options, events) {
 const Socket = options.WebSocket ?? globalThis.WebSocket;
 if (!Socket)
  throw new Error("no WebSocket here: hand one over as the option `WebSocket`");
 const socket = new Socket(schemeOf(url, "ws"), ["notifyd.v1"]);
 socket.onopen = () => socket.send(JSON.stringify(hello));
 socket.onmessage = (event) => events.onFrames(framesOf(event.data));
 socket.onclose = (event) => events.onEnd(event.code, event.reason);
 socket.onerror = () => { };
 return {
  send: (frame) => socket.send(JSON.stringify(frame)),
  close() {
   socket.onopen = socket.onmessage = socket.onclose = null;
   socket.close(1000);
  },
 };
}
function openEvents(url, hello, options, events) {
 const fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
 const abort = new AbortController();
 const headers = { Authorization: `Bearer ${hello.token}` };
 const base = new URL(schemeOf(url, "http"));
 const stream = new URL(base);
 stream.pathname += "/sse";
 const query = stream.searchParams;
 query.set("ack", String(hello.ack));
 if (hello.cursor)
  query.set("cursor", hello.cursor);
 for (const at of hello.at ?? [])
  query.append("at", at);
 for (const version of hello.content)
  query.append("content", version);
 if (stream.href.length > MAX_URL)
  query.delete("at");
 let close = 0;
 let session;
 const end = (code, detail) => {
  if (abort.signal.aborted)
   return;
  abort.abort();
  events.onEnd(code, detail);
 };
 const read = async () => {
  const answer = await fetch(stream, { headers, signal: abort.signal, cache: "no-store" });
  if (!answer.ok || !answer.body) {
   const { status } = answer;
   return end(FINAL.has(status) ? 4000 + status : 0, `HTTP ${status}`);
  }
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let data = "";
  for (;;) {
   const { done, value } = await reader.read();
   if (done)
    return end(close, "the stream ended");
   const lines = (text + decoder.decode(value, { stream: true })).split(/\r?\n/);
   text = lines.pop();
   for (const line of lines) {
    if (line.startsWith("data:"))
     data += line.slice(5);
    if (line || !data)
     continue;
    const frames = framesOf(data);
    for (const frame of frames) {
     if (frame.op === "error")
      close = frame.close ?? 0;
     else if (frame.op === "welcome")
      session = frame.session;
    }
    events.onFrames(frames);
    data = "";
   }
  }
 };
 read().catch((error) => end(0, String(error)));
 const post = async ({ op, ids }) => {
  for (let failures = 0; !abort.signal.aborted; failures++) {
   try {
    const answer = await fetch(new URL("ack", base), {
     method: "POST",
     headers: { ...headers, "Content-Type": "application/json" },
     body: JSON.stringify({ session, [op]: ids }),
     keepalive: true,
    });
    if (answer.ok) {
     const { ok, refused } = await answer.json();
     return events.onFrames([{ op: "ok", [op]: ok?.[op] ?? [], refused }]);
    }
    if (answer.status < 500 && answer.status !== 429)
     return;
   }
   catch {
   }
   await new Promise((wake) => setTimeout(wake, Math.random() * Math.min(30000, 1000 * 2 ** failures)));
  }
 };
 return {
  send: (frame) => void post(frame),
  close: () => abort.abort(),
 };
}
const BACKOFF_MS = 500;
const BACKOFF_CAP_MS = 15000;
const GOOD_MS = 10000;
const SHORT_FAILURES = 2;
const CONNECT_MS = 10000;
const LINGER_MS = 50;
const KNOWN_IDS = 5000;
const SAVED_IDS = 200;
export class PushClient {
 #options;
 #url;
 #storage;
 #key;
 #tabs = null;
 #position = new Position();
 #receipts = new Receipts();
 #known = new Map();
 #status = { state: "connecting", detail: "" };
 #leads = false;
 #isBehind = false;
 #behind = [];
 #turn = 0;
 #link = null;
 #queue = [];
 #isBusy = false;
 #openedAt = 0;
 #isCaughtUp = false;
 #heardAt = 0;
 #silenceMs = 0;
 #moveAt = 0;
 #failures = 0;
 #socketWorks = false;
 #lastError = "";
 #alarm;
 #retry;
 #flushing;
 #saving;
 constructor(options) {
  this.#options = options;
  this.#url = new URL(options.url, globalThis.location?.href);
  this.#key = `notifyd:${this.#url.host}${this.#url.pathname}:${options.user}`;
  this.#storage = options.user === undefined ? null : storageOf(options);
  if (options.user !== undefined && options.share !== false && Tabs.areHere)
   this.#tabs = new Tabs(this.#key, (word) => this.#hear(word));
  globalThis.addEventListener?.("pagehide", this.#hide);
  globalThis.addEventListener?.("online", this.#hurry);
  void this.#begin();
 }
 get status() {
  return this.#status;
 }
 get unconfirmed() {
  return this.#receipts.size;
 }
 ack(ids) {
  this.#mark("ack", ids);
 }
 seen(ids) {
  this.#mark("seen", ids);
 }
 read(ids) {
  this.#mark("read", ids);
 }
 close() {
  this.#end({ state: "closed", detail: "closed here" });
 }
 async #begin() {
  const { cursor, at, known, kept } = await this.#load();
  if (this.#isClosed)
   return;
  if (typeof cursor === "string")
   this.#position.place = { cursor, at: at ?? {} };
  for (const id of known ?? [])
   this.#known.set(id, true);
  this.#receipts.merge(kept);
  if (!this.#tabs)
   return this.#lead();
  this.#isBehind = true;
  this.#tabs.say({ follow: this.#position.place, kept: {} });
  this.#tabs.stand(() => {
   void this.#load().then(({ kept }) => this.#receipts.merge(kept));
   this.#lead();
  });
 }
 async #load() {
  try {
   return JSON.parse((await this.#storage?.getItem(this.#key)) ?? "{}") ?? {};
  }
  catch {
   return {};
  }
 }
 #end(status) {
  if (this.#isClosed)
   return;
  this.#drop();
  this.#save();
  clearTimeout(this.#retry);
  globalThis.removeEventListener?.("pagehide", this.#hide);
  globalThis.removeEventListener?.("online", this.#hurry);
  this.#leads = false;
  this.#tell(status);
  this.#tabs?.close();
 }
 get #isClosed() {
  return this.#status.state === "closed";
 }
 #lead() {
  if (this.#isClosed)
   return;
  this.#leads = true;
  this.#isBehind = false;
  this.#position.drop();
  this.#queue = [];
  this.#save();
  this.#tabs?.say({ from: this.#position.place, isNew: true });
  this.#connect();
 }
 #hear(word) {
  if (this.#isClosed)
   return;
  if ("frame" in word) {
   if (!this.#leads)
    void this.#take([word.frame]);
  }
  else if ("mark" in word) {
   if (this.#leads)
    this.#keep(word.mark, word.ids);
   if (word.mark !== "ack")
    void this.#call(() => this.#options.onState?.([...word.ids], word.mark));
  }
  else if ("follow" in word) {
   if (this.#leads)
    this.#answer(word.follow, word.kept);
  }
  else if (!this.#leads)
   void this.#take([{ op: "leader", word }]);
 }
 #heed({ from, isNew, status }) {
  if (from)
   this.#follow(from, isNew);
  if (!status)
   return;
  if (status.state !== "open")
   this.#position.drop();
  this.#tell(status);
 }
 #follow(from, isNew = false) {
  const { cursor, at } = this.#position.place;
  if (cursor === null)
   this.#position.place = from;
  if (cursor === null || isSame(this.#position.place, from))
   this.#isBehind = false;
  else if (isNew) {
   this.#isBehind = true;
   this.#position.place = { cursor, at: { ...at } };
  }
  if (!isNew)
   return;
  const follow = this.#isBehind ? this.#position.place : null;
  this.#tabs.say({ follow, kept: this.#receipts.toJSON() });
 }
 #answer(theirs, kept) {
  this.#receipts.merge(kept);
  this.#flushSoon();
  if (!theirs)
   return;
  const { place } = this.#position;
  const isHere = theirs.cursor === null || (!this.#isBusy && isSame(theirs, place));
  this.#tabs.say({ status: this.#status, ...(isHere && { from: place }) });
  if (isHere)
   return;
  this.#behind.push(theirs);
  this.#goBack();
 }
 #goBack() {
  if (!this.#isCaughtUp || this.#position.isHeld)
   return;
  const place = this.#behind.shift();
  if (!place)
   return;
  this.#position.place = place;
  this.#leave("another tab needs what came before", 0);
  this.#tabs.say({ from: place });
 }
 #receive(frames) {
  this.#heardAt = Date.now();
  void this.#take(frames);
  for (const frame of frames) {
   if (frame.op === "drain") {
    const [first, last] = frame.after;
    this.#moveAt = Date.now() + first + Math.random() * (last - first);
    this.#watch();
   }
   else if (frame.op === "error") {
    this.#lastError = `${frame.code}: ${frame.detail}`;
   }
  }
 }
 async #take(frames) {
  this.#queue.push(...frames);
  if (this.#isBusy)
   return;
  this.#isBusy = true;
  for (let frame; (frame = this.#queue.shift());) {
   if (this.#leads && frame.op !== "leader")
    this.#tabs?.say({ frame });
   const work = this.#work(frame);
   if (work)
    await work;
  }
  this.#isBusy = false;
  this.#saveSoon();
 }
 #work(frame) {
  if (frame.op === "msg")
   return this.#message(frame);
  if (frame.op === "welcome")
   this.#welcome(frame);
  else if (frame.op === "pos")
   this.#move(frame.cursor);
  else if (frame.op === "leader")
   this.#heed(frame.word);
  else if (frame.op === "ok")
   this.#receipts.confirm(frame);
  else if (frame.op === "state")
   void this.#call(() => this.#options.onState?.(frame.ids, frame.set, frame.unread));
 }
 async #message(frame) {
  const { ack = true, onMessage } = this.#options;
  const id = frame.message.UUID;
  const known = this.#known.get(id);
  const note = this.#isBehind ? () => { } : this.#position.begin(frame.at ?? "");
  let isDone = true;
  if (known === undefined) {
   this.#known.set(id, false);
   isDone = await this.#call(() => onMessage?.(frame.message, frame));
  }
  if (!isDone)
   this.#known.delete(id);
  else if (ack === false)
   this.#known.set(id, true);
  else if (known || ack === true)
   this.#keep("ack", [id]);
  note();
  for (const oldest of this.#known.keys()) {
   if (this.#known.size <= KNOWN_IDS)
    break;
   this.#known.delete(oldest);
  }
 }
 #welcome(frame) {
  const { onGap } = this.#options;
  if (this.#leads && !this.#openedAt) {
   this.#openedAt = Date.now();
   this.#silenceMs = 2000 * frame.heartbeat + 5000;
   this.#socketWorks ||= this.#isSocket;
   this.#receipts.begin();
   this.#flushSoon();
   this.#watch();
   this.#say({ state: "open", detail: `session ${frame.session}` });
  }
  this.#isCaughtUp = this.#leads && frame.missing !== "later";
  if (frame.missing !== "inbox" || !onGap || this.#isBehind) {
   this.#move(frame.cursor);
   return this.#goBack();
  }
  const fill = this.#position.hold(frame.cursor);
  const turn = this.#turn;
  void this.#call(() => onGap(frame)).then((isFilled) => {
   if (isFilled && fill()) {
    this.#saveSoon();
    this.#goBack();
   }
   else if (!isFilled && this.#leads && turn === this.#turn)
    this.#leave("the gap was not filled");
  });
 }
 #move(cursor) {
  if (!this.#isBehind)
   this.#position.move(cursor);
 }
 async #call(action) {
  try {
   const result = action();
   if (result instanceof Promise)
    await result;
   return true;
  }
  catch (error) {
   console.error("notifyd:", error);
   return false;
  }
 }
 #mark(op, given) {
  const ids = [given].flat();
  if (!ids.length || this.#isClosed)
   return;
  this.#keep(op, ids);
  this.#tabs?.say({ mark: op, ids });
 }
 #keep(op, ids) {
  if (op === "ack")
   for (const id of ids)
    if (this.#known.has(id))
     this.#known.set(id, true);
  this.#receipts.add(op, ids);
  this.#flushSoon();
  this.#saveSoon();
 }
 #flushSoon() {
  if (this.#leads)
   this.#flushing ??= setTimeout(() => this.#flush(), LINGER_MS);
 }
 #flush() {
  clearTimeout(this.#flushing);
  this.#flushing = undefined;
  if (!this.#openedAt)
   return;
  for (const frame of this.#receipts.take())
   this.#link?.send(frame);
 }
 #saveSoon() {
  if (this.#leads && this.#storage)
   this.#saving ??= setTimeout(this.#save, LINGER_MS);
 }
 #hide = () => {
  this.#flush();
  this.#save();
 };
 #save = () => {
  clearTimeout(this.#saving);
  this.#saving = undefined;
  if (!this.#leads || !this.#storage)
   return;
  const saved = {
   ...this.#position.place,
   known: [...this.#known].flatMap(([id, isDone]) => (isDone ? id : [])).slice(-SAVED_IDS),
   kept: this.#receipts.toJSON(),
  };
  void this.#call(() => this.#storage.setItem(this.#key, JSON.stringify(saved)));
 };
 get #isSocket() {
  const { transport, WebSocket = globalThis.WebSocket } = this.#options;
  if (transport || !WebSocket)
   return transport === "websocket";
  return this.#socketWorks || this.#failures < 2 || this.#failures % 2 === 1;
 }
 #connect() {
  const turn = ++this.#turn;
  const isNow = () => turn === this.#turn;
  clearTimeout(this.#retry);
  this.#heardAt = Date.now();
  this.#silenceMs = CONNECT_MS;
  this.#lastError = "";
  this.#watch();
  this.#say({ state: "connecting", detail: this.#url.host });
  const { token, ack, content } = this.#options;
  Promise.resolve()
   .then(() => (typeof token === "function" ? token() : token))
   .then((token) => {
   if (!isNow())
    return;
   const hello = {
    op: "hello",
    token,
    content: content ?? ["1"],
    ack: ack !== false,
    ...this.#position.hello(),
   };
   this.#link = (this.#isSocket ? openSocket : openEvents)(this.#url, hello, this.#options, {
    onFrames: (frames) => isNow() && this.#receive(frames),
    onEnd: (code, detail) => isNow() && this.#onEnd(code, this.#lastError || detail),
   });
  })
   .catch((error) => isNow() && this.#leave(String(error)));
 }
 #onEnd(code, detail) {
  const why = [`closed with ${code}`, detail].filter(Boolean).join(", ");
  if (code >= 4400 && code < 4500)
   this.#end({ state: "closed", detail: why, code });
  else
   this.#leave(why, this.#moveAt ? Math.max(0, this.#moveAt - Date.now()) : undefined);
 }
 #watch() {
  clearTimeout(this.#alarm);
  const now = Date.now();
  const deadAt = this.#heardAt + this.#silenceMs;
  if (this.#moveAt && now >= this.#moveAt)
   return this.#leave("moving to another server", 0);
  if (now >= deadAt)
   return this.#leave("no sign of life");
  const next = this.#moveAt ? Math.min(this.#moveAt, deadAt) : deadAt;
  this.#alarm = setTimeout(() => this.#watch(), next - now);
 }
 #leave(why, waitMs) {
  if (this.#openedAt) {
   const isGood = Date.now() - this.#openedAt >= GOOD_MS;
   this.#failures = isGood ? 0 : Math.min(this.#failures, SHORT_FAILURES);
  }
  if (waitMs === undefined) {
   waitMs = Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_MS * 2 ** Math.min(this.#failures, 10));
   this.#failures += 1;
  }
  this.#mayHurry = !this.#moveAt;
  this.#drop();
  this.#say({ state: "waiting", detail: `${why}; again in ${(waitMs / 1000).toFixed(1)} s` });
  this.#retry = setTimeout(() => this.#connect(), waitMs);
 }
 #drop() {
  this.#flush();
  this.#turn += 1;
  this.#link?.close();
  this.#link = null;
  this.#openedAt = this.#moveAt = 0;
  this.#isCaughtUp = false;
  this.#queue = [];
  this.#position.drop();
  clearTimeout(this.#alarm);
 }
 #hurry = () => {
  if (this.#leads && this.#status.state === "waiting" && this.#mayHurry)
   this.#connect();
 };
 #mayHurry = true;
 #say(status) {
  this.#tell(status);
  this.#tabs?.say({ status });
 }
 #tell(status) {
  this.#status = status;
  void this.#call(() => this.#options.onStatus?.(status));
 }
}
function isSame(one, other) {
 return JSON.stringify(one) === JSON.stringify(other);
}
function storageOf({ storage }) {
 if (storage !== undefined)
  return storage;
 try {
  return globalThis.localStorage ?? null;
 }
 catch {
  return null;
 }
}
