// The API of the app, which /docs documents.

/** An answer that is not a success. `code` is one of the API's, "network" or "http". */
export class ApiError extends Error {
  constructor(code, message, status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/** The path of a course; ids may contain anything. */
export function coursePath(id, rest = "") {
  return `courses/${encodeURIComponent(id)}${rest}`;
}

/** Calls the API and returns the body of its answer. Throws an ApiError, or an AbortError if `signal` was aborted. */
export async function call(path, { body, signal, method = body ? "POST" : "GET" } = {}) {
  const headers = { ...tokenHeader(), ...(body && { "Content-Type": "application/json" }) };
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    throw signal?.aborted ? error : new ApiError("network", "");
  }
  return checked(response.status, await response.text().catch(() => ""));
}

/** Sends a file to a course and returns its resource. `onProgress` gets the part that was sent, 0 to 1. */
export function sendFile(courseId, file, name, { onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch() tells no progress
    const form = new FormData();
    form.append("course_id", courseId);
    form.append("file", file, name);
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(total ? loaded / total : 0));
    request.addEventListener("error", () => reject(new ApiError("network", "")));
    request.addEventListener("abort", () => reject(signal.reason));
    request.addEventListener("load", () => {
      try {
        resolve(checked(request.status, request.responseText));
      } catch (error) {
        reject(error);
      }
    });
    signal.addEventListener("abort", () => request.abort());
    request.open("POST", "resources");
    for (const [header, value] of Object.entries(tokenHeader())) request.setRequestHeader(header, value);
    request.send(form);
  });
}

function checked(status, text) {
  let answer = null;
  try {
    answer = JSON.parse(text);
  } catch {
    // a proxy may answer with something else
  }
  if (status >= 200 && status < 300 && answer) return answer;
  if (status === 401) window.dispatchEvent(new Event("unauthorized"));
  throw new ApiError(answer?.error?.code ?? "http", answer?.error?.message ?? `HTTP ${status}`, status);
}

export function hasToken() {
  return sessionStorage.getItem("token") !== null;
}

/** Sends this token from now on, until the tab is closed. */
export function useToken(token) {
  sessionStorage.setItem("token", token);
}

function tokenHeader() {
  const token = sessionStorage.getItem("token");
  // The app compares the UTF-8 bytes of the token; a header has one character per byte.
  return token ? { "X-Internal-Token": String.fromCharCode(...new TextEncoder().encode(token)) } : {};
}
