/** Routes: the page is in the fragment of the URL, which is not sent to the server. */

import { useEffect, useState } from "preact/hooks";

export interface Route {
  /** First segment: jobs, schedules, … */
  page: string;
  /** Second segment: the id of a resource; empty for a list. */
  id: string;
  /** Parameters after the question mark: filters. */
  query: URLSearchParams;
  /** Number of this visit, so that a page begins anew when its link is followed again. */
  visit: number;
}

let navigations = 0;
addEventListener("hashchange", () => (navigations += 1));

/** Return whether the user has gone from one page to another since the console was loaded. */
export function hasNavigated(): boolean {
  return navigations > 0;
}

/** Return the route in the URL of the page; the component is shown again when it changes. */
export function useRoute(): Route {
  const [route, setRoute] = useState(readRoute);
  useEffect(() => {
    const onChange = () => setRoute(readRoute());
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  return route;
}

/** Go to *path*, e.g. `jobs/018f…`. */
export function goTo(path: string): void {
  location.hash = `#/${path}`;
}

/** Replace the parameters of the present page, without a new entry of the history. */
export function replaceQuery(query: URLSearchParams): void {
  const path = location.hash.split("?")[0] || "#/jobs";
  const text = query.toString();
  history.replaceState(null, "", text ? `${path}?${text}` : path);
}

function readRoute(): Route {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "", id = ""] = path.split("/").map(decode);
  return { page: page || "jobs", id, query: new URLSearchParams(query), visit: navigations };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
