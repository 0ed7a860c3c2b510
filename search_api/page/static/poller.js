// Asks again and again while something is unfinished: soon after a change, and less often the longer nothing changes.

const FIRST_MILLISECONDS = 1000;
const LAST_MILLISECONDS = 5000;
const GROWTH = 1.5;

export class Poller {
  #refresh;
  #timer;
  #pause = FIRST_MILLISECONDS;
  #seen;
  #runs = 0; // a run ends when a later one has started

  /**
   * `refresh` shows the newest state, and returns a text that changes with it, or null if there is nothing left to
   * wait for. If it throws, it is called again later.
   */
  constructor(refresh) {
    this.#refresh = refresh;
    document.addEventListener("visibilitychange", () => {
      if (this.#timer !== undefined && !document.hidden) this.wake();
    });
  }

  /** Asks now, and starts again with short pauses. */
  wake() {
    this.stop();
    this.#pause = FIRST_MILLISECONDS;
    return this.#ask(this.#runs);
  }

  /** Asks after a pause, if it does not ask already. */
  watch() {
    if (this.#timer === undefined) this.#wait(this.#runs);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#runs += 1;
  }

  async #ask(run) {
    let state = this.#seen;
    try {
      state = await this.#refresh();
    } catch {
      // shown by others, or over by the next time
    }
    if (run !== this.#runs) return;
    this.#timer = undefined;
    if (state === null) return;
    this.#pause = state === this.#seen ? Math.min(this.#pause * GROWTH, LAST_MILLISECONDS) : FIRST_MILLISECONDS;
    this.#seen = state;
    this.#wait(run);
  }

  #wait(run) {
    this.#timer = setTimeout(() => {
      if (!document.hidden) this.#ask(run); // else `visibilitychange` wakes it
    }, this.#pause);
  }
}
