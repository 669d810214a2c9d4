/** Parts that every page uses: icons, buttons, fields, errors, dialogs, and loading by a call. */

import type { ComponentChildren, InputHTMLAttributes, JSX } from "preact";
import { useCallback, useEffect, useId, useRef, useState } from "preact/hooks";
import { ApiError } from "./api";
import { formatTime } from "./format";
import { hasNavigated } from "./router";
import { remedyOf, type Tone } from "./words";

const ICONS = {
  pause: "M7 4v12M13 4v12",
  play: "M6 4l10 6-10 6z",
  stop: "M5 5h10v10H5z",
  cancel: "M5 5l10 10M15 5L5 15",
  retry: "M15.5 8A6 6 0 1 0 16 11M16 4v4h-4",
  delete: "M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6",
  save: "M10 3v9M6 9l4 4 4-4M4 16h12",
  copy: "M7 7h9v9H7zM4 13V4h9",
  list: "M4 5h12M4 10h12M4 15h12",
} as const;

export type IconName = keyof typeof ICONS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={ICONS[name]} />
    </svg>
  );
}

interface ActionProps {
  icon: IconName;
  /** Name for screen readers and the tooltip, e.g. "Cancel A moving picture". */
  label: string;
  onClick: () => unknown;
}

/** A small button with an icon. While its action runs it takes no other click. */
export function IconButton({ icon, label, onClick }: ActionProps) {
  const [busy, run] = useBusy(onClick);
  return (
    <button type="button" class="icon-button" aria-label={label} title={label} aria-disabled={busy} onClick={run}>
      <Icon name={icon} />
    </button>
  );
}

interface ButtonProps {
  children: ComponentChildren;
  onClick?: () => unknown;
  kind?: "primary" | "danger" | "plain";
  type?: "button" | "submit";
  busy?: boolean;
}

export function Button({ children, onClick, kind = "plain", type = "button", busy = false }: ButtonProps) {
  const [running, run] = useBusy(onClick ?? (() => undefined));
  return (
    <button type={type} class={`button button-${kind}`} aria-disabled={busy || running} onClick={onClick && run}>
      {children}
    </button>
  );
}

function useBusy(action: () => unknown): [boolean, () => void] {
  const [busy, setBusy] = useState(false);
  const run = async () => {
    if (busy) return;
    setBusy(true);
    try {
      await action();
    } finally {
      setBusy(false);
    }
  };
  return [busy, () => void run()];
}

interface FieldProps {
  label: string;
  hint?: string;
  /** Why the value is not accepted. */
  error?: string | undefined;
  children: (attributes: { id: string; "aria-describedby": string | undefined; "aria-invalid": boolean }) => JSX.Element;
}

/** A labelled control, with its hint or what is wrong with it. */
export function Field({ label, hint, error, children }: FieldProps) {
  const id = useId();
  const described = hint || error ? `${id}-hint` : undefined;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children({ id, "aria-describedby": described, "aria-invalid": Boolean(error) })}
      {(hint || error) && (
        <p id={described} class={error ? "field-error" : "hint"}>
          {error || hint}
        </p>
      )}
    </div>
  );
}

interface SelectProps<T extends string> {
  label: string;
  value: T;
  options: readonly (readonly [T, string])[];
  onChange: (value: T) => void;
  hint?: string;
  error?: string | undefined;
}

export function Select<T extends string>({ label, value, options, onChange, hint, error }: SelectProps<T>) {
  return (
    <Field label={label} {...(hint ? { hint } : {})} error={error}>
      {(attributes) => (
        <select {...attributes} value={value} onChange={(event) => onChange(event.currentTarget.value as T)}>
          {options.map(([option, text]) => (
            <option key={option} value={option}>
              {text}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
}

interface TextProps {
  label: string;
  value: string;
  onChange: (value: string) => void;
  hint?: string;
  error?: string | undefined;
  type?: "text" | "search" | "password" | "url" | "number" | "datetime-local";
  name?: string;
  placeholder?: string;
  /** Id of a datalist with suggestions. */
  list?: string;
  required?: boolean;
  maxLength?: number;
  min?: number;
  max?: number;
  autocomplete?: "on" | "off";
  spellcheck?: boolean;
}

export function TextField({ label, value, onChange, hint, error, ...others }: TextProps) {
  // The types of preact join each type of input with its own attributes.
  const rest = others as InputHTMLAttributes<HTMLInputElement>;
  return (
    <Field label={label} {...(hint ? { hint } : {})} error={error}>
      {(attributes) => (
        <input {...rest} {...attributes} value={value} onInput={(event) => onChange(event.currentTarget.value)} />
      )}
    </Field>
  );
}

interface CheckboxProps {
  label: string;
  checked: boolean;
  onChange: (checked: boolean) => void;
}

export function Checkbox({ label, checked, onChange }: CheckboxProps) {
  return (
    <label class="checkbox">
      <input type="checkbox" checked={checked} onChange={(event) => onChange(event.currentTarget.checked)} />
      {label}
    </label>
  );
}

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`badge badge-${tone}`}>{children}</span>;
}

interface MeterProps {
  label: string;
  /** 0..100; undefined if it is unknown, which is shown as unknown. */
  percent: number | undefined;
  tone?: Tone;
  text?: string;
}

export function ProgressBar({ label, percent, tone = "running", text }: MeterProps) {
  const known = percent !== undefined;
  const values = known ? { "aria-valuenow": Math.round(percent), "aria-valuemin": 0, "aria-valuemax": 100 } : {};
  return (
    <div
      class={`progress progress-${tone} ${known ? "" : "progress-unknown"}`}
      role="progressbar"
      aria-label={label}
      aria-valuetext={text ?? (known ? `${Math.round(percent)} percent` : "unknown")}
      {...values}
    >
      <span style={{ width: `${known ? percent : 100}%` }} />
    </div>
  );
}

/** What failed, and what to do about it. */
export function ErrorBox({ error, onRetry }: { error: Error; onRetry?: () => unknown }) {
  const reason = error instanceof ApiError ? error.reason : "";
  const fields = error instanceof ApiError ? error.fields : [];
  const remedy = remedyOf(reason);
  return (
    <div class="error-box" role="alert">
      <p>
        {error.message} {reason && <code>{reason}</code>}
      </p>
      {fields.length > 1 && (
        <ul>
          {fields.map(({ field, description }) => (
            <li key={field}>
              {field}: {description}
            </li>
          ))}
        </ul>
      )}
      {remedy && <p>{remedy}</p>}
      {onRetry && <Button onClick={onRetry}>Try again</Button>}
    </div>
  );
}

export function Time({ value }: { value: string | undefined }) {
  return value ? <time dateTime={value}>{formatTime(value)}</time> : <span>–</span>;
}

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

/** A modal dialog, which Escape closes. */
export function Dialog({ title, onClose, children }: DialogProps) {
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog ref={ref} aria-labelledby={id} onCancel={onClose} onClose={onClose}>
      <h2 id={id}>{title}</h2>
      {children}
    </dialog>
  );
}

interface ConfirmProps {
  icon?: IconName;
  label: string;
  question: string;
  confirm: string;
  onConfirm: () => unknown;
}

/** A button whose action cannot be undone: it asks first. */
export function ConfirmButton({ icon, label, question, confirm, onConfirm }: ConfirmProps) {
  const [asking, setAsking] = useState(false);
  const ask = () => setAsking(true);
  return (
    <>
      {icon ? <IconButton icon={icon} label={label} onClick={ask} /> : <Button onClick={ask}>{label}</Button>}
      {asking && (
        <Dialog title={question} onClose={() => setAsking(false)}>
          <div class="row row-end">
            <Button onClick={() => setAsking(false)}>Keep</Button>
            <Button
              kind="danger"
              onClick={async () => {
                await onConfirm();
                setAsking(false);
              }}
            >
              {confirm}
            </Button>
          </div>
        </Dialog>
      )}
    </>
  );
}

/** A secret that is shown once. */
export function SecretDialog({ title, secret, onClose }: { title: string; secret: string; onClose: () => void }) {
  return (
    <Dialog title={title} onClose={onClose}>
      <p>Copy it now: it is not shown again.</p>
      <p>
        <code class="secret">{secret}</code>
      </p>
      <div class="row row-end">
        <CopyButton text={() => secret} />
        <Button kind="primary" onClick={onClose}>
          Done
        </Button>
      </div>
    </Dialog>
  );
}

export function CopyButton({ text, label = "Copy" }: { text: () => string; label?: string }) {
  const [copied, setCopied] = useState(false);
  return (
    <Button
      onClick={async () => {
        await copyText(text());
        setCopied(true);
      }}
    >
      {copied ? "Copied" : label}
    </Button>
  );
}

async function copyText(text: string): Promise<void> {
  // Pages of plain HTTP have no clipboard, except on localhost.
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export interface Loaded<T> {
  value: T | undefined;
  error: Error | undefined;
  reload: () => Promise<void>;
}

/** Load a value by *load*, again whenever *dependencies* change, and every *seconds* if they are given. */
export function useLoaded<T>(load: () => Promise<T>, dependencies: readonly unknown[], seconds = 0): Loaded<T> {
  const [state, setState] = useState<{ value?: T; error?: Error }>({});
  const turn = useRef(0);
  const reload = useCallback(async () => {
    const mine = ++turn.current;
    try {
      const value = await load();
      if (mine === turn.current) setState({ value });
    } catch (error) {
      // What was loaded before stays visible.
      if (mine === turn.current) setState((old) => ({ ...old, error: error as Error }));
    }
  }, dependencies);
  useEffect(() => {
    void reload();
    const timer = seconds ? setInterval(() => document.hidden || void reload(), seconds * 1000) : undefined;
    return () => {
      clearInterval(timer);
      turn.current += 1;
    };
  }, [reload]);
  return { value: state.value, error: state.error, reload };
}

/** A page: its heading gets the focus when the page is opened, so that screen readers say where the user is. */
export function Page({ title, children, actions }: { title: string; children: ComponentChildren; actions?: ComponentChildren }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    if (hasNavigated()) heading.current?.focus();
  }, []);
  useEffect(() => {
    document.title = `${title} – Reelhaul`;
  }, [title]);
  return (
    <>
      <div class="page-head">
        <h1 ref={heading} tabIndex={-1}>
          {title}
        </h1>
        {actions}
      </div>
      {children}
    </>
  );
}
