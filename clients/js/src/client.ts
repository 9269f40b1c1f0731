import { type Link, openEvents, openSocket } from "./link.js";
import { type Place, Position } from "./position.js";
import { type Kept, Receipts } from "./receipts.js";
import { type LeaderWord, Tabs, type Word } from "./tabs.js";
import type { Hello, Mark, MessageFrame, Options, ServerFrame, Status, Store, WelcomeFrame } from "./types.js";

export type * from "./types.js";

/** Full jitter between 0 and twice as much after each failure, up to the cap. */
const BACKOFF_MS = 500;
const BACKOFF_CAP_MS = 15_000;
/** A session that lived for this long was a good one: the next failure counts as the first. */
const GOOD_MS = 10_000;
/** One that did not counts as this many at most. */
const SHORT_FAILURES = 2;
/** A server that says nothing at all for this long is not there. */
const CONNECT_MS = 10_000;
/** What is to be sent or saved soon waits this long for company. */
const LINGER_MS = 50;
/** Ids remembered to leave out what comes twice, and how many of them over a reload. */
const KNOWN_IDS = 5_000;
const SAVED_IDS = 200;

type Item = ServerFrame | { op: "leader"; word: LeaderWord };

interface Saved extends Place {
  known?: string[];
  kept?: Kept;
}

/**
 * Receives a user's messages over bad networks and deploys, each of them once. It reconnects by itself.
 *
 * ```js
 * const client = new PushClient({ url: "/v1/push", token: getToken, user: "alice", onMessage: show });
 * ```
 */
export class PushClient {
  readonly #options: Options;
  readonly #url: URL;
  readonly #storage: Store | null;
  readonly #key: string;
  readonly #tabs: Tabs | null = null;
  readonly #position = new Position();
  readonly #receipts = new Receipts();
  /** By id: whether it was acknowledged, or need not be. */
  readonly #known = new Map<string, boolean>();
  #status: Status = { state: "connecting", detail: "" };

  /** This tab has the connection. */
  #leads = false;
  /** What comes does not go on from where this tab is: it is shown, and the place stays. */
  #isBehind = false;
  /** Where tabs are that lack what came since. */
  #behind: Place[] = [];
  /** Rises with each connection: what belongs to an older one is left alone. */
  #turn = 0;
  #link: Link | null = null;
  #queue: Item[] = [];
  #isBusy = false;
  #openedAt = 0;
  /** This connection has brought all that there was before it. */
  #isCaughtUp = false;
  #heardAt = 0;
  #silenceMs = 0;
  #moveAt = 0;
  #failures = 0;
  #socketWorks = false;
  #lastError = "";
  #alarm: Timer;
  #retry: Timer;
  #flushing: Timer;
  #saving: Timer;

  constructor(options: Options) {
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

  get status(): Status {
    return this.#status;
  }

  /** How many of the acks, `seen` and `read` said here the server has not confirmed yet. */
  get unconfirmed(): number {
    return this.#receipts.size;
  }

  /** This device has these messages; only needed with `ack: "manual"`. */
  ack(ids: string | readonly string[]): void {
    this.#mark("ack", ids);
  }

  /** The user had these before their eyes. */
  seen(ids: string | readonly string[]): void {
    this.#mark("seen", ids);
  }

  /** The user opened these. */
  read(ids: string | readonly string[]): void {
    this.#mark("read", ids);
  }

  /** End; what is not confirmed is sent, and kept for the next time. Another tab goes on. */
  close(): void {
    this.#end({ state: "closed", detail: "closed here" });
  }

  // Beginning and end

  async #begin(): Promise<void> {
    const { cursor, at, known, kept } = await this.#load();
    if (this.#isClosed) return;
    if (typeof cursor === "string") this.#position.place = { cursor, at: at ?? {} };
    for (const id of known ?? []) this.#known.set(id, true);
    this.#receipts.merge(kept);
    if (!this.#tabs) return this.#lead();
    this.#isBehind = true;
    this.#tabs.say({ follow: this.#position.place, kept: {} });
    this.#tabs.stand(() => {
      // What the former leader left unconfirmed.
      void this.#load().then(({ kept }) => this.#receipts.merge(kept));
      this.#lead();
    });
  }

  async #load(): Promise<Partial<Saved>> {
    try {
      return JSON.parse((await this.#storage?.getItem(this.#key)) ?? "{}") ?? {};
    } catch {
      return {}; // what cannot be read counts as nothing: the server is told of no place
    }
  }

  #end(status: Status): void {
    if (this.#isClosed) return;
    this.#drop();
    this.#save();
    clearTimeout(this.#retry);
    globalThis.removeEventListener?.("pagehide", this.#hide);
    globalThis.removeEventListener?.("online", this.#hurry);
    this.#leads = false;
    this.#tell(status);
    this.#tabs?.close();
  }

  get #isClosed(): boolean {
    return this.#status.state === "closed";
  }

  // Tabs

  #lead(): void {
    if (this.#isClosed) return;
    this.#leads = true;
    this.#isBehind = false;
    this.#position.drop();
    this.#queue = [];
    this.#save();
    this.#tabs?.say({ from: this.#position.place, isNew: true });
    this.#connect();
  }

  #hear(word: Word): void {
    if (this.#isClosed) return;
    if ("frame" in word) {
      if (!this.#leads) void this.#take([word.frame]);
    } else if ("mark" in word) {
      if (this.#leads) this.#keep(word.mark, word.ids);
      if (word.mark !== "ack") void this.#call(() => this.#options.onState?.([...word.ids], word.mark));
    } else if ("follow" in word) {
      if (this.#leads) this.#answer(word.follow, word.kept);
    } else if (!this.#leads) void this.#take([{ op: "leader", word }]);
  }

  /** What a leader says of itself: in its turn, behind the frames that it sent before. */
  #heed({ from, isNew, status }: LeaderWord): void {
    if (from) this.#follow(from, isNew);
    if (!status) return;
    if (status.state !== "open") this.#position.drop();
    this.#tell(status);
  }

  /** Go on with a leader whose frames go on from here; what a tab lacks it tells a new one. */
  #follow(from: Place, isNew = false): void {
    const { cursor, at } = this.#position.place;
    if (cursor === null) this.#position.place = from;
    if (cursor === null || isSame(this.#position.place, from)) this.#isBehind = false;
    else if (isNew) {
      this.#isBehind = true;
      this.#position.place = { cursor, at: { ...at } }; // not that of a message that is being worked off
    }
    if (!isNew) return;
    const follow = this.#isBehind ? this.#position.place : null;
    this.#tabs!.say({ follow, kept: this.#receipts.toJSON() });
  }

  #answer(theirs: Place | null, kept: Kept): void {
    this.#receipts.merge(kept);
    this.#flushSoon();
    if (!theirs) return;
    const { place } = this.#position;
    const isHere = theirs.cursor === null || (!this.#isBusy && isSame(theirs, place));
    this.#tabs!.say({ status: this.#status, ...(isHere && { from: place }) });
    if (isHere) return;
    this.#behind.push(theirs);
    this.#goBack();
  }

  /**
   * Have sent again what a tab lacks. One after the other, and each to its end: nobody but the server can
   * tell which of two places is the earlier one.
   */
  #goBack(): void {
    if (!this.#isCaughtUp || this.#position.isHeld) return;
    const place = this.#behind.shift();
    if (!place) return;
    this.#position.place = place;
    this.#leave("another tab needs what came before", 0);
    this.#tabs!.say({ from: place });
  }

  // What the server says

  #receive(frames: ServerFrame[]): void {
    this.#heardAt = Date.now();
    void this.#take(frames);
    for (const frame of frames) {
      if (frame.op === "drain") {
        const [first, last] = frame.after;
        this.#moveAt = Date.now() + first + Math.random() * (last - first);
        this.#watch();
      } else if (frame.op === "error") {
        this.#lastError = `${frame.code}: ${frame.detail}`;
      }
    }
  }

  /** Work off frames in their order; one that takes its time holds up the others. */
  async #take(frames: Item[]): Promise<void> {
    this.#queue.push(...frames);
    if (this.#isBusy) return;
    this.#isBusy = true;
    for (let frame; (frame = this.#queue.shift()); ) {
      if (this.#leads && frame.op !== "leader") this.#tabs?.say({ frame });
      const work = this.#work(frame);
      if (work) await work;
    }
    this.#isBusy = false;
    this.#saveSoon();
  }

  #work(frame: Item): Promise<void> | void {
    if (frame.op === "msg") return this.#message(frame);
    if (frame.op === "welcome") this.#welcome(frame);
    else if (frame.op === "pos") this.#move(frame.cursor);
    else if (frame.op === "leader") this.#heed(frame.word);
    else if (frame.op === "ok") this.#receipts.confirm(frame);
    else if (frame.op === "state")
      void this.#call(() => this.#options.onState?.(frame.ids, frame.set, frame.unread));
  }

  async #message(frame: MessageFrame): Promise<void> {
    const { ack = true, onMessage } = this.#options;
    const id = frame.message.UUID;
    const known = this.#known.get(id);
    const note = this.#isBehind ? () => {} : this.#position.begin(frame.at ?? "");
    let isDone = true;
    if (known === undefined) {
      this.#known.set(id, false);
      isDone = await this.#call(() => onMessage?.(frame.message, frame));
    }
    // What failed is not acknowledged, so that it comes again, and then is new.
    if (!isDone) this.#known.delete(id);
    else if (ack === false) this.#known.set(id, true);
    else if (known || ack === true) this.#keep("ack", [id]);
    note();
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= KNOWN_IDS) break;
      this.#known.delete(oldest);
    }
  }

  #welcome(frame: WelcomeFrame): void {
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
      } else if (!isFilled && this.#leads && turn === this.#turn) this.#leave("the gap was not filled");
    });
  }

  #move(cursor: string): void {
    if (!this.#isBehind) this.#position.move(cursor);
  }

  /** Call what the page gave; false when it failed, which is told and breaks nothing here. */
  async #call(action: () => unknown): Promise<boolean> {
    try {
      const result = action();
      if (result instanceof Promise) await result;
      return true;
    } catch (error) {
      console.error("notifyd:", error);
      return false;
    }
  }

  // What is said of messages

  #mark(op: Mark, given: string | readonly string[]): void {
    const ids = [given].flat();
    if (!ids.length || this.#isClosed) return;
    this.#keep(op, ids);
    this.#tabs?.say({ mark: op, ids });
  }

  #keep(op: Mark, ids: readonly string[]): void {
    if (op === "ack") for (const id of ids) if (this.#known.has(id)) this.#known.set(id, true);
    this.#receipts.add(op, ids);
    this.#flushSoon();
    this.#saveSoon();
  }

  #flushSoon(): void {
    if (this.#leads) this.#flushing ??= setTimeout(() => this.#flush(), LINGER_MS);
  }

  #flush(): void {
    clearTimeout(this.#flushing);
    this.#flushing = undefined;
    if (!this.#openedAt) return; // before the welcome nothing but the hello is due
    for (const frame of this.#receipts.take()) this.#link?.send(frame);
  }

  // What is kept over a reload

  #saveSoon(): void {
    if (this.#leads && this.#storage) this.#saving ??= setTimeout(this.#save, LINGER_MS);
  }

  #hide = (): void => {
    this.#flush();
    this.#save();
  };

  #save = (): void => {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    if (!this.#leads || !this.#storage) return;
    const saved: Saved = {
      ...this.#position.place,
      known: [...this.#known].flatMap(([id, isDone]) => (isDone ? id : [])).slice(-SAVED_IDS),
      kept: this.#receipts.toJSON(),
    };
    void this.#call(() => this.#storage!.setItem(this.#key, JSON.stringify(saved)));
  };

  // The connection

  get #isSocket(): boolean {
    const { transport, WebSocket = globalThis.WebSocket } = this.#options;
    if (transport || !WebSocket) return transport === "websocket";
    // A network that lets no WebSocket through shows by failures before any success.
    return this.#socketWorks || this.#failures < 2 || this.#failures % 2 === 1;
  }

  #connect(): void {
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
        if (!isNow()) return;
        const hello: Hello = {
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

  #onEnd(code: number, detail: string): void {
    const why = [`closed with ${code}`, detail].filter(Boolean).join(", ");
    // Final: coming back cannot help before a person or a program changed something.
    if (code >= 4400 && code < 4500) this.#end({ state: "closed", detail: why, code });
    else this.#leave(why, this.#moveAt ? Math.max(0, this.#moveAt - Date.now()) : undefined);
  }

  /** Look again when the connection has been silent for too long, or the moment to move has come. */
  #watch(): void {
    clearTimeout(this.#alarm);
    const now = Date.now();
    const deadAt = this.#heardAt + this.#silenceMs;
    if (this.#moveAt && now >= this.#moveAt) return this.#leave("moving to another server", 0);
    if (now >= deadAt) return this.#leave("no sign of life");
    const next = this.#moveAt ? Math.min(this.#moveAt, deadAt) : deadAt;
    this.#alarm = setTimeout(() => this.#watch(), next - now);
  }

  /** Let go of the connection and choose the moment of the next: by backoff unless told. */
  #leave(why: string, waitMs?: number): void {
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

  #drop(): void {
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

  /** The network is back: no need to wait, unless a server chose the moment. */
  #hurry = (): void => {
    if (this.#leads && this.#status.state === "waiting" && this.#mayHurry) this.#connect();
  };
  #mayHurry = true;

  #say(status: Status): void {
    this.#tell(status);
    this.#tabs?.say({ status });
  }

  #tell(status: Status): void {
    this.#status = status;
    void this.#call(() => this.#options.onStatus?.(status));
  }
}

function isSame(one: Place, other: Place): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

type Timer = ReturnType<typeof setTimeout> | undefined;

function storageOf({ storage }: Options): Store | null {
  if (storage !== undefined) return storage;
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null; // forbidden by the browser's settings
  }
}
