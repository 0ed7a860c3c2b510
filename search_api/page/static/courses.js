// The list of courses. It loads a page at a time, and asks for news only of what is visible and unfinished.

import { call, coursePath } from "./api.js";
import { current, go, link, ofCourses } from "./address.js";
import { fromTemplate, get, showError } from "./dom.js";
import { Poller } from "./poller.js";
import { percent, t } from "./texts.js";

const PAGE = 50;
const SEARCH_MILLISECONDS = 250;
const STATUSES = ["not_started", "pending", "running", "done", "failed"];

const rows = new Map(); // course id → its element, its state, and the cursor of its page; that of the first is null
let next = null;
let loading = new AbortController();

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) target.dataset.visible = isIntersecting;
  if (unfinished().length) poller.watch();
});
const poller = new Poller(refresh);

export const isFinal = (status) => status === "done" || status === "failed";

/** Prepares the list; `loadCourses` fills it. */
export function prepareCourses() {
  get("course-status").append(
    new Option(t("courses.any"), ""),
    ...STATUSES.map((status) => new Option(t(`status.${status}`), status)),
  );
  let typed;
  get("course-search").addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(reload, SEARCH_MILLISECONDS);
  });
  get("course-status").addEventListener("change", reload);
  get("course-filter").addEventListener("submit", (event) => {
    event.preventDefault();
    reload();
  });
  get("more-courses").addEventListener("click", () => more().catch(showError));
  get("show-courses").addEventListener("click", () => {
    const isShown = document.body.classList.toggle("shows-courses");
    get("show-courses").ariaExpanded = isShown;
  });
  link(get("all-courses"), () => ofCourses(current(), []));
}

/** Loads the first page of the list. Returns whether there is any course. Throws what `call` throws. */
export async function loadCourses() {
  loading.abort();
  const { signal } = (loading = new AbortController());
  const answer = await page(null, signal);
  seen.disconnect();
  rows.clear();
  get("course-list").replaceChildren();
  add(null, answer);
  const isFiltered = get("course-search").value || get("course-status").value;
  return answer.courses.length > 0 || Boolean(isFiltered);
}

function reload() {
  loadCourses().catch(showError);
}

async function more() {
  const { signal } = loading;
  const cursor = next;
  const answer = await page(cursor, signal);
  const before = rows.size;
  add(cursor, answer);
  [...rows.values()][before]?.item.querySelector("a").focus();
}

function page(cursor, signal) {
  const parameters = new URLSearchParams({ limit: PAGE });
  const wanted = { search: get("course-search").value.trim(), status: get("course-status").value, cursor };
  for (const [name, value] of Object.entries(wanted)) if (value) parameters.set(name, value);
  return call(`courses?${parameters}`, { signal });
}

function add(cursor, { courses, next_cursor, total }) {
  next = next_cursor;
  for (const course of courses) if (!rows.has(course.course_id)) get("course-list").append(newRow(course, cursor));
  get("more-courses").hidden = next === null;
  get("courses-count").textContent = total ? t("courses.several", total) : t("courses.none");
  markCourses();
}

function newRow(course, cursor) {
  const item = fromTemplate("course-row");
  const id = course.course_id;
  item.querySelector(".name").textContent = id;
  link(item.querySelector("a"), () => ofCourses(current(), [id]));
  item.querySelector(".pick span").textContent = t("courses.choose", id);
  item.querySelector("input").addEventListener("change", ({ target }) => {
    const others = current().courses.filter((other) => other !== id);
    go(ofCourses(current(), target.checked ? [...others, id] : others));
  });
  rows.set(id, { item, course, cursor });
  showRow(id);
  seen.observe(item);
  return item;
}

function showRow(id) {
  const { item, course } = rows.get(id);
  const [state, bar] = [item.querySelector(".state"), item.querySelector("progress")];
  const isRunning = course.embedding_status === "running";
  state.textContent = t(`status.${course.embedding_status}`) + (isRunning ? ` ${percent(course.embedding_progress)}` : "");
  state.dataset.status = course.embedding_status;
  bar.hidden = !isRunning;
  bar.value = course.embedding_progress;
  bar.ariaLabel = t("course.progress");
}

/** Marks the courses that are shown or searched. */
export function markCourses() {
  const { courses } = current();
  const mark = (anchor, isCurrent) => (isCurrent ? anchor.setAttribute("aria-current", "page") : anchor.removeAttribute("aria-current"));
  mark(get("all-courses"), courses.length === 0);
  for (const [id, { item }] of rows) {
    item.querySelector("input").checked = courses.includes(id);
    mark(item.querySelector("a"), courses.length === 1 && courses[0] === id);
  }
}

/** Shows a newer state of a course in the list. */
export function updateCourse(course) {
  const row = rows.get(course.course_id);
  if (!row) return;
  row.course = { ...row.course, ...course };
  showRow(course.course_id);
}

/** What the API says of a course that is not in the list; null if it cannot be found. */
export async function summaryOf(id, signal) {
  const known = rows.get(id);
  if (known) return known.course;
  const { courses } = await call(`courses?${new URLSearchParams({ search: id, limit: PAGE })}`, { signal });
  return courses.find(({ course_id }) => course_id === id) ?? null;
}

function unfinished() {
  return [...rows.values()].filter(({ item, course }) => item.dataset.visible === "true" && !isFinal(course.embedding_status));
}

/** Shows the newest state of a course that its page no longer has, because of its new state or others before it. */
async function refreshAlone(id, signal) {
  try {
    const { status, progress } = await call(coursePath(id, "/embedding_status"), { signal });
    updateCourse({ course_id: id, embedding_status: status, embedding_progress: progress });
  } catch (error) {
    if (error.status !== 404) throw error;
    rows.get(id)?.item.remove();
    rows.delete(id);
  }
}

/** Loads the pages with visible unfinished courses again. */
async function refresh() {
  const { signal } = loading;
  const cursors = new Set(unfinished().map(({ cursor }) => cursor));
  const before = new Set(unfinished().map(({ course }) => course.course_id));
  for (const cursor of cursors) {
    for (const course of (await page(cursor, signal)).courses) {
      updateCourse(course);
      before.delete(course.course_id);
    }
  }
  for (const id of before) await refreshAlone(id, signal);
  return unfinished().length ? JSON.stringify(unfinished().map(({ course }) => course)) : null;
}
