// The open course: its state, embedding it again, and its place in Dagster.

import { call, coursePath } from "./api.js";
import { isFinal, summaryOf, updateCourse } from "./courses.js";
import { announce, confirmed, get, safeUrl, showError } from "./dom.js";
import { Poller } from "./poller.js";
import { percent, t } from "./texts.js";

let opened = null; // its id
let state = null;
let opening = new AbortController();
const listeners = [];
let isAwaited = () => false;
const poller = new Poller(refresh);

export function prepareCourse() {
  get("embed").addEventListener("click", embed);
}

/** Calls this with each new state of the open course and the one before, which is null for the first. */
export function onCourseState(listener) {
  listeners.push(listener);
}

/** Asks for the state, even of a course that is done, as long as this says so. */
export function watchCourseWhile(condition) {
  isAwaited = condition;
}

/** Shows a course and its state as long as it is open; null shows none. */
export function openCourse(id) {
  if (id === opened) return;
  opening.abort();
  opening = new AbortController();
  [opened, state] = [id, null];
  poller.stop();
  get("course").hidden = true;
  get("dagster").hidden = true;
  if (id === null) return;
  poller.wake();
  showDagster(id, opening.signal);
}

/** Asks for the state of the open course now, because something was done that changes it. */
export function courseChanged() {
  if (opened !== null) poller.wake();
}

async function refresh() {
  const { signal } = opening;
  let newest;
  try {
    newest = await call(coursePath(opened, "/embedding_status"), { signal });
  } catch (error) {
    if (signal.aborted) return null;
    if (state === null) showError(error);
    if (error.status >= 400 && error.status < 500) return null;
    throw error;
  }
  if (signal.aborted) return null;
  const before = state;
  state = newest;
  show();
  for (const listener of listeners) listener(state, before);
  return isFinal(state.status) && !isAwaited() ? null : JSON.stringify(state);
}

function show() {
  const { course_id, status, progress, error } = state;
  const isRunning = status === "running";
  const text = t(`status.${status}`);
  get("course").hidden = false;
  if (get("status").textContent !== text) get("status").textContent = text;
  get("status").dataset.status = status;
  get("progress").hidden = get("percent").hidden = !isRunning;
  get("progress").value = progress;
  get("percent").textContent = percent(progress);
  get("embed").textContent = isFinal(status) ? t("embed.again") : t("embed");
  get("embed").disabled = status === "pending" || isRunning;
  get("embedding-error").textContent = error ?? "";
  updateCourse({ course_id, embedding_status: status, embedding_progress: progress });
}

async function showDagster(id, signal) {
  const summary = await summaryOf(id, signal).catch(() => null);
  const url = safeUrl(summary?.dagster_url);
  if (signal.aborted || !url) return;
  get("dagster").href = url;
  get("dagster").hidden = false;
}

async function embed() {
  const id = opened;
  const name = isFinal(state.status) ? "embed.title" : "embed.first";
  const text = isFinal(state.status) ? "embed.text" : "embed.firstText";
  if (!(await confirmed({ title: t(name, id), text: t(text), action: get("embed").textContent }))) return;
  try {
    await call(coursePath(id, "/embed"), { method: "POST" });
    showError(null);
    announce(t("embed.requested"));
  } catch (error) {
    showError(error);
  }
  courseChanged();
}
