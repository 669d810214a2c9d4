/** Whether the streams of this page are connected. */

import { useEffect, useState } from "preact/hooks";
import { observable } from "./observable";

export type Connection = "connected" | "reconnecting" | "restored";

const RESTORED_MS = 4000;

const connection = observable<Connection>("connected");
const broken = new Set<symbol>();
let timer: ReturnType<typeof setTimeout> | undefined;

/** Report that the stream *id* is connected, or not. */
export function reportConnection(id: symbol, connected: boolean): void {
  if (connected) broken.delete(id);
  else broken.add(id);
  if (broken.size) {
    clearTimeout(timer);
    if (connection.get() !== "reconnecting") connection.set("reconnecting");
  } else if (connection.get() === "reconnecting") {
    connection.set("restored");
    timer = setTimeout(() => connection.set("connected"), RESTORED_MS);
  }
}

export function useConnection(): Connection {
  const [value, setValue] = useState(connection.get());
  useEffect(() => connection.subscribe(setValue), []);
  return value;
}
