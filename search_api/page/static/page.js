// The search page. Its address holds the form, so that a link opens a course and searches it; texts of courses go
// into the page as text, never as markup. What every call answers is described at /docs.

const POLL_MILLISECONDS = 1000;
const SETTLED = ["done", "failed"];
const FILTERS = ["section_id", "lecture_id", "source_type"];
const STATUS_NAMES = {
  not_started: "Not embedded yet",
  pending: "Waits to be embedded",
  running: "Is being embedded",
  done: "Ready to search",
  failed: "Embedding failed",
};

const element = (id) => document.getElementById(id);
const form = element("search-form");
const course = element("course");

let followed = new AbortController();
let searched = new AbortController();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
course.addEventListener("change", submit);
element("embed").addEventListener("click", embed);
element("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", element("token").value);
  start();
});
window.addEventListener("popstate", show);
start();

async function start() {
  try {
    const { courses } = await call("courses");
    element("token-form").hidden = true;
    form.hidden = false;
    course.replaceChildren(new Option("Choose a course", ""), ...courses.map(courseOption));
    if (courses.length === 0) throw new Error("There is no course yet. Load one: course-search load FILE");
    await show();
  } catch (error) {
    showError(error);
  }
}

/** Puts the form into the address, then shows what it asks for. */
async function submit() {
  const address = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  history.pushState(null, "", `?${address}`);
  await show();
}

/** Shows what the address asks for. */
async function show() {
  const address = new URLSearchParams(location.search);
  const id = address.get("course") ?? "";
  if (![...course.options].some((option) => option.value === id)) course.add(new Option(id, id));
  for (const field of form.elements) if (field.name) field.value = address.get(field.name) ?? "";
  if (["top_k", "method", ...FILTERS].some((name) => address.has(name))) element("options").open = true;
  document.title = [address.get("q"), id, "Course search"].filter(Boolean).join(" – ");
  showError(null);
  showResults(null);
  element("embedding").hidden = true;
  followed.abort();
  searched.abort();
  if (id) await Promise.all([follow(), search()]);
}

async function search() {
  const query = element("query").value;
  if (!query.trim()) return;
  const filters = Object.fromEntries(FILTERS.map((name) => [name, form.elements[name].value || null]));
  const topK = form.elements.top_k.value;
  const { signal } = (searched = new AbortController());
  const started = performance.now();
  element("search").disabled = true;
  try {
    const method = form.elements.method.value;
    const body = { query, filters, ...(topK && { top_k: Number(topK) }), ...(method && { method }) };
    const answer = await call(`courses/${encodeURIComponent(course.value)}/search`, { body, signal });
    showError(null);
    showResults(answer, performance.now() - started);
  } catch (error) {
    if (!signal.aborted) showError(error);
  } finally {
    element("search").disabled = false;
  }
}

/** Shows the state of the course until it is settled, and searches again when it has become ready. */
async function follow() {
  followed.abort();
  const { signal } = (followed = new AbortController());
  let waited = false;
  try {
    for (;;) {
      const state = await call(`courses/${encodeURIComponent(course.value)}/embedding_status`, { signal });
      showState(state);
      if (SETTLED.includes(state.status)) {
        if (waited && state.status === "done") await search();
        return;
      }
      waited = true;
      await new Promise((resolve) => setTimeout(resolve, POLL_MILLISECONDS));
      if (signal.aborted) return;
    }
  } catch (error) {
    if (!signal.aborted) showError(error);
  }
}

async function embed() {
  element("embed").disabled = true;
  try {
    await call(`courses/${encodeURIComponent(course.value)}/embed`, { method: "POST" });
    showError(null);
    showResults(null);
  } catch (error) {
    showError(error);
  }
  await follow();
}

/** The answer's body; what went wrong is thrown as an Error whose message is for people. */
async function call(path, { body, signal, method = body ? "POST" : "GET" } = {}) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  const token = sessionStorage.getItem("token");
  // A header holds bytes: those of the token in UTF-8, as the app compares them.
  if (token) headers["X-Internal-Token"] = String.fromCharCode(...new TextEncoder().encode(token));
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    throw signal?.aborted ? error : new Error("The search app does not answer.");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  if (response.status === 401) askForToken();
  if (response.status === 401 && !token) throw new Error("");
  throw new Error(answer?.error?.message ?? `The answer cannot be read (HTTP ${response.status}).`);
}

function askForToken() {
  form.hidden = true;
  element("token-form").hidden = false;
  element("token").select();
  element("token").focus();
}

function showError(error) {
  element("error").textContent = error?.message ?? "";
}

function showState({ course_id, status, progress, error }) {
  const settled = SETTLED.includes(status);
  element("embedding").hidden = false;
  element("status").textContent = STATUS_NAMES[status] ?? status;
  element("status").dataset.status = status;
  element("progress").hidden = element("percent").hidden = settled || status === "not_started";
  element("progress").value = progress;
  element("percent").textContent = percent(progress);
  element("embed").textContent = settled ? "Embed again" : "Embed";
  element("embed").disabled = ["pending", "running"].includes(status);
  element("embedding-error").textContent = error ?? "";
  const shown = courseOption({ course_id, embedding_status: status, embedding_progress: progress });
  course.selectedOptions[0].textContent = shown.textContent;
}

function courseOption({ course_id, embedding_status, embedding_progress }) {
  const running = embedding_status === "running" ? ` ${percent(embedding_progress)}` : "";
  const state = embedding_status === "done" ? "" : ` (${embedding_status.replace("_", " ")}${running})`;
  return new Option(`${course_id}${state}`, course_id);
}

function percent(progress) {
  return `${Math.floor(progress * 100)} %`;
}

function showResults(answer, milliseconds) {
  const results = answer?.results ?? [];
  const found = `${results.length} ${results.length === 1 ? "result" : "results"} in ${Math.round(milliseconds)} ms, best first`;
  const notes = [
    results.length ? found : "Nothing found in the course, or in what the filters leave of it.",
    answer?.stale && "The course is being embedded anew; this is what it was before.",
    answer?.degraded && `Not as good as it could be: ${answer.degraded}.`,
  ];
  element("summary").textContent = answer ? notes.filter(Boolean).join("\n") : "";
  element("results").replaceChildren(...results.map(resultElement));
}

/** The text in pieces, those that hold words of the question marked. Places are counted in code points. */
function marked(text, matches) {
  const characters = [...text];
  const pieces = [];
  let end = 0;
  for (const [start, next] of matches) {
    const mark = document.createElement("mark");
    mark.textContent = characters.slice(start, next).join("");
    pieces.push(characters.slice(end, start).join(""), mark);
    end = next;
  }
  return [...pieces, characters.slice(end).join("")];
}

function resultElement({ text, score, metadata, matches }) {
  const item = element("result").content.cloneNode(true);
  const part = (selector) => item.querySelector(selector);
  const titles = [metadata.lecture_title ?? metadata.lecture_id, metadata.section_title ?? metadata.section_id];
  part("h2").textContent = titles.filter((title) => title != null && title !== "").join(" › ");
  part(".score").textContent = score.toFixed(3);
  part(".text").replaceChildren(...marked(text, matches));
  part(".text").lang = metadata.language ?? "";
  for (const [name, value] of Object.entries(metadata)) {
    const [term, description] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    description.textContent = value !== null && typeof value === "object" ? JSON.stringify(value) : value;
    part("dl").append(term, description);
  }
  return item;
}
