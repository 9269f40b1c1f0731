/** A place: the cursor as the server last gave it, and per partition the highest offset that came after it. */
export interface Place {
  cursor: string | null;
  at: Record<string, number>;
}

/** Where this client is in the stream: it never claims what was not worked off. */
export class Position {
  #place: Place = { cursor: null, at: {} };
  /** While the inbox is read: the place that counts once that is done. */
  #held: Place | null = null;

  get place(): Place {
    return this.#place;
  }

  set place(place: Place) {
    this.#place = place;
    this.#held = null;
  }

  get isHeld(): boolean {
    return !!this.#held;
  }

  /** Take in that everything up to this cursor was worked off. */
  move(cursor: string): void {
    const place = { cursor, at: {} };
    if (this.#held) this.#held = place;
    else this.#place = place;
  }

  /**
   * Begin with a message that has this `at`. Returns what is to be called once it was worked off; should
   * the place be another by then, that changes nothing.
   */
  begin(at: string): () => void {
    const [partition, offset] = at.split(":");
    const known = (this.#held ?? this.#place).at;
    return () => {
      if (partition && offset) known[partition] = Math.max(known[partition] ?? -1, Number(offset));
    };
  }

  /** Begin a gap: the place stays where it is. Returns what ends the gap, true when it did. */
  hold(cursor: string): () => boolean {
    const begun = (this.#gap = Symbol());
    this.#held = { cursor, at: {} };
    return () => {
      if (this.#gap !== begun || !this.#held) return false;
      this.place = this.#held;
      return true;
    };
  }
  #gap: symbol | null = null;

  /** Give up a gap that was not filled: the next connection is told of it again. */
  drop(): void {
    this.#held = this.#gap = null;
  }

  /** What a `hello` says of the place. */
  hello(): { cursor?: string; at?: string[] } {
    const { cursor, at } = this.#place;
    if (cursor === null) return {};
    return { cursor, at: Object.entries(at).map(([partition, offset]) => `${partition}:${offset}`) };
  }
}
