// The search page. The URL contains the form's values, so that a link can open a course and run a search. Course texts
// are inserted as text, never as markup. The API is documented at /docs.

const POLL_MILLISECONDS = 1000;
const FINAL_STATUSES = ["done", "failed"];
const FILTERS = ["section_id", "lecture_id", "source_type"];
const STATUS_NAMES = {
  not_started: "Not embedded yet",
  pending: "Waiting to be embedded",
  running: "Being embedded",
  done: "Ready to search",
  failed: "Embedding failed",
};

const element = (id) => document.getElementById(id);
const form = element("search-form");
const course = element("course");

let polling = new AbortController();
let searching = new AbortController();

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

/** Writes the form's values to the URL and shows the result. */
async function submit() {
  history.pushState(null, "", address([...new FormData(form)].filter(([, value]) => value !== "")));
  await show();
}

/** The URL with the form's values. The question is in the fragment, which is not sent to the server: so no log has it. */
function address(values) {
  const { q, ...others } = Object.fromEntries(values);
  return `?${new URLSearchParams(others)}${q ? `#${new URLSearchParams({ q })}` : ""}`;
}

/** Fills in the form from the URL and shows the course and the search results. */
async function show() {
  const sent = new URLSearchParams(location.search);
  const parameters = new URLSearchParams([...sent, ...new URLSearchParams(location.hash.slice(1))]);
  if (sent.has("q")) history.replaceState(null, "", address(parameters)); // a link may have the question there
  const id = parameters.get("course") ?? "";
  if (![...course.options].some((option) => option.value === id)) course.add(new Option(id, id));
  for (const field of form.elements) if (field.name) field.value = parameters.get(field.name) ?? "";
  if (["top_k", "method", ...FILTERS].some((name) => parameters.has(name))) element("options").open = true;
  document.title = [parameters.get("q"), id, "Course search"].filter(Boolean).join(" – ");
  showError(null);
  showResults(null);
  element("embedding").hidden = true;
  polling.abort();
  searching.abort();
  if (id) await Promise.all([pollStatus(), search()]);
}

async function search() {
  const query = element("query").value;
  if (!query.trim()) return;
  const filters = Object.fromEntries(FILTERS.map((name) => [name, form.elements[name].value || null]));
  const topK = form.elements.top_k.value;
  searching.abort();
  const { signal } = (searching = new AbortController());
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
    if (!signal.aborted) element("search").disabled = false;
  }
}

/** Polls and shows the status of the course until it is done or failed. Searches again if it becomes ready. */
async function pollStatus() {
  polling.abort();
  const { signal } = (polling = new AbortController());
  let wasUnfinished = false;
  try {
    for (;;) {
      const state = await call(`courses/${encodeURIComponent(course.value)}/embedding_status`, { signal });
      showState(state);
      if (FINAL_STATUSES.includes(state.status)) {
        if (wasUnfinished && state.status === "done") await search();
        return;
      }
      wasUnfinished = true;
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
  await pollStatus();
}

/** Calls the API and returns the response body. Throws an Error with a message for the user. */
async function call(path, { body, signal, method = body ? "POST" : "GET" } = {}) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  const token = sessionStorage.getItem("token");
  // The app compares the UTF-8 bytes of the token; fetch() accepts one character per byte in a header.
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
  throw new Error(answer?.error?.message ?? `Unexpected response (HTTP ${response.status}).`);
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
  const isFinal = FINAL_STATUSES.includes(status);
  element("embedding").hidden = false;
  element("status").textContent = STATUS_NAMES[status] ?? status;
  element("status").dataset.status = status;
  element("progress").hidden = element("percent").hidden = isFinal || status === "not_started";
  element("progress").value = progress;
  element("percent").textContent = percent(progress);
  element("embed").textContent = isFinal ? "Embed again" : "Embed";
  element("embed").disabled = ["pending", "running"].includes(status);
  element("embedding-error").textContent = error ?? "";
  const option = courseOption({ course_id, embedding_status: status, embedding_progress: progress });
  course.selectedOptions[0].textContent = option.textContent;
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
  const count = `${results.length} ${results.length === 1 ? "result" : "results"} in ${Math.round(milliseconds)} ms, best first`;
  const notes = [
    results.length ? count : "Nothing found. No chunk of the course matches, or the filters exclude all of them.",
    answer?.answerable === false && "The course does not seem to cover this question.",
    answer?.unknown_terms.length && `Words that the course never uses: ${answer.unknown_terms.join(", ")}.`,
    answer?.stale && "The course is not up to date; these results are from its last published version.",
    answer?.query_cut && "The question is long; only its beginning was searched.",
    answer?.degraded && `Limited results: ${answer.degraded}.`,
  ];
  element("summary").textContent = answer ? notes.filter(Boolean).join("\n") : "";
  element("results").replaceChildren(...results.map(resultElement));
}

/** Splits the text into plain strings and <mark> elements. Matches are start and end in code points. */
function highlighted(text, matches) {
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

function resultElement({ text, score, relevance, metadata, matches, copy_count, near_copy_count }) {
  const item = element("result").content.cloneNode(true);
  const part = (selector) => item.querySelector(selector);
  const titles = [metadata.lecture_title ?? metadata.lecture_id, metadata.section_title ?? metadata.section_id];
  part("h2").textContent = titles.filter((title) => title != null && title !== "").join(" › ");
  part(".score").textContent = relevance === null ? score.toFixed(3) : `${percent(relevance)} relevant`;
  part(".score").title = `Score ${score.toFixed(3)}`;
  part(".text").replaceChildren(...highlighted(text, matches));
  part(".text").lang = metadata.language ?? "";
  const copies = copy_count + near_copy_count;
  const details = copies ? { ...metadata, "also in the course": `${copies} ${copies === 1 ? "copy" : "copies"}` } : metadata;
  for (const [name, value] of Object.entries(details)) {
    const [term, description] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    description.textContent = value !== null && typeof value === "object" ? JSON.stringify(value) : value;
    part("dl").append(term, description);
  }
  return item;
}
