/** Short messages: shown for some seconds, and read out by screen readers. */

import { useEffect, useState } from "preact/hooks";
import { observable } from "./observable";

interface Announcement {
  text: string;
  isError: boolean;
}

const SHOWN_MS = 6000;

const announcement = observable<Announcement | null>(null);

/** Show *text*; one that is shown already is replaced. */
export function announce(text: string, isError = false): void {
  announcement.set({ text, isError });
}

/** Run *action* and show its failure. Returns whether it succeeded. */
export async function attempt(action: () => Promise<unknown>, success?: string): Promise<boolean> {
  try {
    await action();
  } catch (error) {
    announce(error instanceof Error ? error.message : String(error), true);
    return false;
  }
  if (success) announce(success);
  return true;
}

export function Announcer() {
  const [shown, setShown] = useState<Announcement | null>(announcement.get());
  useEffect(() => announcement.subscribe(setShown), []);
  useEffect(() => {
    if (!shown) return;
    const timer = setTimeout(() => announcement.set(null), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [shown]);
  return (
    <div class="announcer">
      <div role="status" aria-live="polite">
        {shown && !shown.isError && <p class="toast">{shown.text}</p>}
      </div>
      <div role="alert">{shown?.isError && <p class="toast toast-error">{shown.text}</p>}</div>
    </div>
  );
}
