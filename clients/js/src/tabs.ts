import type { Place } from "./position.js";
import type { Kept } from "./receipts.js";
import type { Mark, ServerFrame, Status } from "./types.js";

/** A leader, of itself: so it stands; the frames to come go on from this place; I lead from now on. */
export type LeaderWord = { status?: Status; from?: Place; isNew?: boolean };

/** What the tabs of a user say to each other. */
export type Word =
  /** The leader: this came from the server. */
  | { frame: ServerFrame }
  | LeaderWord
  /** A tab that has just begun, or heard of a new leader: I am here, or (null) where you are. */
  | { follow: Place | null; kept: Kept }
  | { mark: Mark; ids: readonly string[] };

/** The tabs of one user: one leads and has the connection; when it is gone, another does. */
export class Tabs {
  readonly #channel: BroadcastChannel;
  readonly #end = new AbortController();
  #release: (() => void) | undefined;

  static get areHere(): boolean {
    return !!globalThis.BroadcastChannel && !!globalThis.navigator?.locks;
  }

  constructor(
    readonly name: string,
    onWord: (word: Word) => void,
  ) {
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = (event) => onWord(event.data);
  }

  /** Call `onLead` as soon as no other tab leads; this one then does until it closes or is gone. */
  stand(onLead: () => void): void {
    const hold = () =>
      new Promise<void>((release) => {
        this.#release = release;
        onLead();
      });
    navigator.locks.request(this.name, { signal: this.#end.signal }, hold).catch(() => {});
  }

  say(word: Word): void {
    this.#channel.postMessage(word);
  }

  close(): void {
    this.#end.abort();
    this.#release?.();
    this.#channel.close();
  }
}
