// What the page shows is in its URL, so that links and the back button work. The question is in the fragment, which
// browsers don't send: so no log of a server has it.

export const FILTERS = ["section_id", "lecture_id", "source_type"];
export const METHODS = ["vector", "keyword"];

/** What the URL says: courses (none: all), view, question, filters and options of the search. */
export function current() {
  const sent = new URLSearchParams(location.search);
  const parameters = new URLSearchParams([...sent, ...new URLSearchParams(location.hash.slice(1))]);
  const one = (name) => parameters.get(name) ?? "";
  const several = (name) => [...new Set(parameters.getAll(name))].filter(Boolean);
  const share = Number.parseInt(one("weight"), 10);
  const shown = {
    courses: several("course"),
    view: one("view") === "files" ? "files" : "search",
    question: one("q"),
    filters: Object.fromEntries(FILTERS.map((name) => [name, several(name)])),
    method: METHODS.includes(one("method")) ? one("method") : "",
    weight: share >= 0 && share <= 100 ? share : null, // of the vectors in a hybrid search, in percent
    topK: one("top_k"),
    rerank: one("rerank") === "model",
  };
  if (shown.courses.length !== 1) shown.view = "search";
  if (sent.has("q")) history.replaceState(null, "", href(shown)); // a link may have the question in its query
  return shown;
}

/** What the page shows after a change of the courses: the same question, without what belongs to the old courses. */
export function ofCourses(shown, courses, view = "search") {
  return { ...shown, courses, view, filters: Object.fromEntries(FILTERS.map((name) => [name, []])) };
}

/** The URL of what `current` returns, relative to the page. */
export function href({ courses, view, question, filters, method, weight, topK, rerank }) {
  const parameters = new URLSearchParams(courses.map((id) => ["course", id]));
  if (view !== "search") parameters.append("view", view);
  for (const name of FILTERS) for (const value of filters[name]) parameters.append(name, value);
  if (method) parameters.append("method", method);
  else if (weight !== null) parameters.append("weight", weight);
  if (topK) parameters.append("top_k", topK);
  if (rerank) parameters.append("rerank", "model");
  const query = parameters.size ? `?${parameters}` : location.pathname;
  return `${query}${question ? `#${new URLSearchParams({ q: question })}` : ""}`;
}

/** Shows something else: a new entry of the history. `focus` moves the keyboard to the heading. */
export function go(shown, { focus = false } = {}) {
  const target = href(shown);
  if (new URL(target, location).href !== location.href) history.pushState(null, "", target);
  window.dispatchEvent(new CustomEvent("show", { detail: { focus } }));
}

/** Makes a link that opens `shown()` here, and in a new tab like every link. */
export function link(anchor, shown) {
  anchor.href = href(shown());
  anchor.addEventListener("click", (event) => {
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(shown(), { focus: true });
  });
}
