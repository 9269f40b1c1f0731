/** An envelope as the producer wrote it, without its addressees. */
export interface Message {
  UUID: string;
  from: string;
  createBy: string;
  createDateTime: string;
  content: Content;
  [name: string]: unknown;
}

export interface Content {
  version: number | string;
  type?: string;
  title?: string;
  body?: string;
  url?: string;
  data?: unknown;
  [name: string]: unknown;
}

/** What a client says of messages: this device has them, the user had them before their eyes, opened them. */
export type Mark = "ack" | "seen" | "read";

export type MessageFrame = { op: "msg"; message: Message; at?: string; resend?: boolean };
export type WelcomeFrame = {
  op: "welcome";
  session: string;
  cursor: string;
  heartbeat: number;
  replayed: number;
  missing: null | "later" | "inbox";
};
export type OkFrame = { op: "ok"; refused?: string[] } & { [mark in Mark]?: string[] };
export type StateFrame = { op: "state"; ids: string[]; set: string; unread?: number };

/** What a server sends; a client ignores what it does not know. */
export type ServerFrame =
  | MessageFrame
  | WelcomeFrame
  | OkFrame
  | StateFrame
  | { op: "pos"; cursor: string }
  | { op: "drain"; after: [number, number] }
  | { op: "error"; code: string; detail: string; close?: number };

export type MarkFrame = { op: Mark; ids: string[] };

export interface Hello {
  op: "hello";
  token: string;
  content: readonly string[];
  ack: boolean;
  cursor?: string;
  at?: string[];
}

/**
 * How it stands: `connecting`, `open`, `waiting` (for the next attempt), or `closed` for good: by
 * `close()`, or by the server with `code` 4400-4499. `detail` is for people.
 */
export interface Status {
  state: "connecting" | "open" | "waiting" | "closed";
  detail: string;
  code?: number;
}

/** Where place and unconfirmed acks are kept; `localStorage` is one. Both may be asynchronous. */
export interface Store {
  getItem(key: string): string | null | Promise<string | null>;
  setItem(key: string, value: string): unknown;
}

/** What is needed of a `WebSocket`: that of browsers, of Node from 22 on, or of the package `ws`. */
export interface Socket {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

export interface Options {
  /** `wss://push.example/v1/push`; with `https:` or relative to the page it will do as well. */
  url: string | URL;
  /** A token, or a function that is asked for one at each connect. */
  token: string | (() => string | Promise<string>);
  /**
   * Names the user on this device. With it the place is kept across reloads, and the tabs of the user
   * share one connection; without it neither.
   */
  user?: string;
  /** Default: `localStorage` where there is one. `null`: keep nothing across reloads. */
  storage?: Store | null;
  /** `false`: this tab has a connection of its own. */
  share?: boolean;
  /** Content versions to read; default `["1"]`, any 1.x. */
  content?: readonly string[];
  /**
   * `true` (the default): a message is acknowledged when `onMessage` has returned, and its promise is
   * fulfilled. `"manual"`: by `ack()`. `false`: never; to write it to the socket ends its delivery.
   */
  ack?: boolean | "manual";
  /** Default: WebSocket, and server-sent events where that never gets through. */
  transport?: "websocket" | "sse";
  /** For Node before 22: the class of the package `ws`. */
  WebSocket?: new (url: string, protocols: string[]) => Socket;
  /** Default: the global one. */
  fetch?: typeof globalThis.fetch;

  /** A message, once each. What throws or rejects is not acknowledged, and may come again. */
  onMessage?: (message: Message, frame: MessageFrame) => unknown;
  /** Messages that became `seen` or `read` on another device or tab; `unread` where known. */
  onState?: (ids: string[], set: string, unread?: number) => void;
  /**
   * The server cannot say what was missed: read the inbox. The place is moved when this has returned,
   * and its promise is fulfilled; after a failure it is called again at the next connection.
   */
  onGap?: (welcome: WelcomeFrame) => unknown;
  onStatus?: (status: Status) => void;
}
