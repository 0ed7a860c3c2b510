// The page: shows what its URL says. The API is documented at /docs.

import { call, hasToken, useToken } from "./api.js";
import { current, go, link, ofCourses } from "./address.js";
import { onCourseState, openCourse, prepareCourse } from "./course.js";
import { loadCourses, markCourses, prepareCourses } from "./courses.js";
import { button, chip, element, get, showError } from "./dom.js";
import { openFiles, prepareFiles } from "./files.js";
import { prepareSearch, searchAgain, showSearch } from "./search.js";
import { localise, t } from "./texts.js";

localise(document);
prepareCourses();
prepareCourse();
prepareSearch();
prepareFiles();
prepareToken();
prepareNewCourse();
link(get("home"), () => ({ ...ofCourses(current(), []), question: "" }));
link(get("view-search"), () => ({ ...current(), view: "search" }));
link(get("view-files"), () => ({ ...current(), view: "files" }));
get("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment of the URL is the question
  (get("token-view").hidden ? get("main") : get("token")).focus();
});
onCourseState((state, before) => {
  if (before?.status !== state.status) showWelcome(state.course_id, state);
  if (before && before.status !== "done" && state.status === "done") searchAgain();
});
window.addEventListener("popstate", () => show());
window.addEventListener("show", ({ detail }) => show(detail));
let isEmpty = false; // whether there is no course at all
start();

async function start() {
  try {
    const hasCourses = await loadCourses();
    get("token-view").hidden = true;
    get("layout").hidden = false;
    isEmpty = !hasCourses;
    show();
  } catch (error) {
    get("layout").hidden = error.status === 401;
    showError(error.status === 401 ? null : error);
    showError(error.status === 401 && hasToken() ? error : null, get("token-error"));
  }
}

/** Shows what the URL says. */
function show({ focus = false } = {}) {
  const shown = current();
  const { courses, view, question } = shown;
  const id = courses.length === 1 ? courses[0] : null;
  const scope = id ?? (courses.length ? t("courses.several", courses.length) : t("courses.all"));
  document.title = [question, scope, t("brand")].filter(Boolean).join(" – ");
  get("scope").textContent = scope;
  document.body.classList.remove("shows-courses");
  get("show-courses").ariaExpanded = false;
  markCourses();
  showError(null);
  showChosen(shown);
  get("views").hidden = id === null;
  for (const name of ["search", "files"]) {
    if (view === name) get(`view-${name}`).setAttribute("aria-current", "page");
    else get(`view-${name}`).removeAttribute("aria-current");
  }
  get("welcome").hidden = Boolean(question.trim());
  showWelcome(id);
  openCourse(id);
  get("search-view").hidden = view !== "search";
  openFiles(view === "files" ? id : null);
  if (view === "search") showSearch(shown);
  if (focus) get("scope").focus();
}

/** Shows which of several courses are searched. */
function showChosen(shown) {
  const { courses } = shown;
  get("chosen-courses").hidden = courses.length < 2;
  const chips = courses.map((id) =>
    chip(id, t("remove", id), () => {
      go(ofCourses(shown, courses.filter((other) => other !== id)));
      get("scope").focus();
    }),
  );
  get("chosen-courses").replaceChildren(...(courses.length < 2 ? [] : chips));
}

/** What stands in the place of an answer. */
function showWelcome(id, state = null) {
  const hint = (name) => element("p", {}, t(name));
  const texts = [hint(id === null ? "welcome" : "welcome.course")];
  if (isEmpty && id === null) {
    const create = button(t("course.new"), () => get("new-course").click(), "primary");
    const load = element("p", { className: "hint" }, t("welcome.load"));
    texts.splice(0, 1, element("h2", {}, t("welcome.empty")), hint("welcome.create"), create);
    texts.push(load, element("pre", {}, "course-search load FILE"));
  } else if (state?.status === "not_started") {
    const files = element("a", { className: "button primary" }, t("welcome.addFiles"));
    link(files, () => ({ ...current(), view: "files" }));
    texts.splice(0, 1, hint("welcome.nothing"), files);
  }
  get("welcome").replaceChildren(...texts);
}

function prepareToken() {
  window.addEventListener("unauthorized", () => {
    get("layout").hidden = true;
    get("token-view").hidden = false;
    get("token").select();
    get("token").focus();
  });
  get("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useToken(get("token").value);
    start();
  });
}

function prepareNewCourse() {
  const dialog = get("create");
  get("new-course").addEventListener("click", () => {
    get("create-id").value = "";
    showError(null, get("create-error"));
    dialog.showModal();
  });
  get("create-cancel").addEventListener("click", () => dialog.close());
  dialog.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const id = get("create-id").value.trim();
    try {
      await call("courses", { body: { course_id: id } });
    } catch (error) {
      showError(error, get("create-error"));
      return;
    }
    dialog.close();
    isEmpty = !(await loadCourses().catch(() => true));
    go(ofCourses({ ...current(), question: "" }, [id], "files"), { focus: true });
  });
}
