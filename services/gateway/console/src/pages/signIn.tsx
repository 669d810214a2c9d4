/** Sign-in: the key is entered once. */

import { useState } from "preact/hooks";
import { ApiError, api, call } from "../api";
import { beginSession, endSession, toLevel, tryKey, useSession } from "../session";
import { Button, Checkbox, ErrorBox, TextField } from "../ui";

export function SignInPage() {
  const { notice } = useSession();
  const [key, setKey] = useState("");
  const [remember, setRemember] = useState(false);
  const [error, setError] = useState<Error>();
  const [busy, setBusy] = useState(false);
  const submit = async () => {
    if (busy || !key.trim()) return;
    setBusy(true);
    setError(undefined);
    try {
      await signIn(key.trim(), remember);
    } catch (failure) {
      endSession();
      setError(toMessage(failure as Error));
    }
    setBusy(false);
  };
  return (
    <main class="sign-in">
      <h1>Reelhaul</h1>
      <form
        class="card"
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        {notice && !error && <p class="notice-box">{notice}</p>}
        <TextField
          label="API key"
          type="password"
          name="key"
          value={key}
          autocomplete="off"
          spellcheck={false}
          hint="reelhaul up prints it at its first start, and keeps it in run/api-key of its data folder."
          onChange={setKey}
        />
        <Checkbox label="Remember it in this browser" checked={remember} onChange={setRemember} />
        {error && <ErrorBox error={error} />}
        <Button kind="primary" type="submit" busy={busy}>
          Sign in
        </Button>
      </form>
    </main>
  );
}

/** Begin the session of *key*, after the server has said whose it is. Throws ApiError. */
export async function signIn(key: string, remember: boolean): Promise<void> {
  tryKey(key);
  const path = { api_key: "me" };
  const apiKey = await call(api.GET("/v1/apiKeys/{api_key}", { params: { path } }));
  beginSession(key, remember, { level: toLevel(apiKey.permission), name: apiKey.displayName || apiKey.keyPrefix || "" });
}

function toMessage(error: Error): Error {
  if (!(error instanceof ApiError) || error.status !== 401) return error;
  return new ApiError(401, error.reason, "The server does not know this key. Look for missing characters, or a key that has expired.");
}
