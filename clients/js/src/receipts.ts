import type { Mark, MarkFrame, OkFrame } from "./types.js";

const MARKS: readonly Mark[] = ["ack", "seen", "read"];
/** Kept at most, of each kind; the oldest go first. */
const MAX_KEPT = 5_000;
/** Ids in one frame: 200 x 39 bytes, half of what the server takes. */
const MAX_IDS = 200;

export type Kept = { [mark in Mark]?: string[] };

/** What was said of messages and is not confirmed yet: kept over as many connections as that takes. */
export class Receipts {
  #kept = new Map<Mark, Set<string>>(MARKS.map((op) => [op, new Set()]));
  #unsent = new Map<Mark, Set<string>>(MARKS.map((op) => [op, new Set()]));

  get size(): number {
    return MARKS.reduce((sum, op) => sum + this.#kept.get(op)!.size, 0);
  }

  add(op: Mark, ids: Iterable<string>): void {
    const kept = this.#kept.get(op)!;
    const unsent = this.#unsent.get(op)!;
    for (const id of ids) {
      kept.add(id);
      unsent.add(id);
    }
    for (const id of kept) {
      if (kept.size <= MAX_KEPT) break;
      kept.delete(id);
      unsent.delete(id);
    }
  }

  /** Begin a connection: all that is not confirmed is to be sent again. */
  begin(): void {
    for (const op of MARKS) this.#unsent.set(op, new Set(this.#kept.get(op)));
  }

  /** Return the frames that are due, and note them as sent. */
  take(): MarkFrame[] {
    return MARKS.flatMap((op) => {
      const ids = [...this.#unsent.get(op)!];
      this.#unsent.get(op)!.clear();
      return Array.from({ length: Math.ceil(ids.length / MAX_IDS) }, (_, n) => ({
        op,
        ids: ids.slice(n * MAX_IDS, (n + 1) * MAX_IDS),
      }));
    });
  }

  /** Forget what an `ok` confirms or refuses: neither is to be sent again. */
  confirm(frame: OkFrame): void {
    for (const op of MARKS) {
      if (!frame[op]) continue;
      for (const id of [...frame[op], ...(frame.refused ?? [])]) {
        this.#kept.get(op)!.delete(id);
        this.#unsent.get(op)!.delete(id);
      }
    }
  }

  toJSON(): Kept {
    return Object.fromEntries(MARKS.map((op) => [op, [...this.#kept.get(op)!]]));
  }

  merge(kept: Kept = {}): void {
    for (const op of MARKS) this.add(op, kept[op] ?? []);
  }
}
