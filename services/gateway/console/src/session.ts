/** The session: the key of the user, kept in this browser, and what it may do. */

import { useEffect, useState } from "preact/hooks";
import { observable } from "./observable";

const STORED_KEY = "reelhaul.key";

const LEVELS = ["PUBLIC", "READ_ONLY", "DOWNLOAD", "ADMIN", "FULL_ACCESS"] as const;
export type Level = (typeof LEVELS)[number];

export interface Session {
  /** Whether the user has to enter a key. */
  state: "unknown" | "signed-out" | "signed-in";
  level: Level;
  /** Name of the key for people; empty without authentication. */
  name: string;
  /** Whether the server asks for keys at all. */
  authenticated: boolean;
  /** Why the user is signed out, if there is something to say. */
  notice: string;
}

const NOBODY: Session = { state: "unknown", level: "PUBLIC", name: "", authenticated: true, notice: "" };

const session = observable<Session>(NOBODY);
let key = sessionStorage.getItem(STORED_KEY) ?? localStorage.getItem(STORED_KEY) ?? "";

/** Return the key of the session; empty without one. */
export function currentKey(): string {
  return key;
}

/** Begin the session of *newKey*, which the server has accepted; empty if it asks for none. */
export function beginSession(newKey: string, remember: boolean, fields: Pick<Session, "level" | "name">): void {
  key = newKey;
  if (newKey) (remember ? localStorage : sessionStorage).setItem(STORED_KEY, newKey);
  session.set({ ...NOBODY, ...fields, state: "signed-in", authenticated: Boolean(newKey) });
}

/** Forget the key, here and in the browser. */
export function endSession(notice = ""): void {
  key = "";
  sessionStorage.removeItem(STORED_KEY);
  localStorage.removeItem(STORED_KEY);
  session.set({ ...NOBODY, state: "signed-out", notice });
}

/** Use *candidate* for the calls that check it, before a session begins. */
export function tryKey(candidate: string): void {
  key = candidate;
}

/** Return whether the session was remembered beyond the tab. */
export function isRemembered(): boolean {
  return localStorage.getItem(STORED_KEY) !== null;
}

/** Return the present session; the component is shown again when it changes. */
export function useSession(): Session {
  const [value, setValue] = useState(session.get());
  useEffect(() => session.subscribe(setValue), []);
  return value;
}

/** Return whether the session's level is at least *level*. */
export function allows(level: Level): boolean {
  return LEVELS.indexOf(session.get().level) >= LEVELS.indexOf(level);
}

/** Return the level in a name of PermissionLevel. */
export function toLevel(permission: string | undefined): Level {
  const name = permission?.replace("PERMISSION_LEVEL_", "") as Level | undefined;
  return name && LEVELS.includes(name) ? name : "READ_ONLY";
}
