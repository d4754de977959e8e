// What is fetched: the wanted first, a few at a time, and nothing that is no longer wanted.

const AT_ONCE = 6;

export class Loader {
  // `ask(question, signal)` gives a Uint8Array; `arrived` is called after each one.
  constructor(ask, arrived) {
    Object.assign(this, { ask, arrived, waiting: [], flying: new Map() });
  }

  // Each wanted has a `question`, and `take(bytes)` and `fail(error)` for what comes of it.
  want(wanted) {
    const questions = new Set(wanted.map((each) => each.question));
    for (const [question, control] of this.flying) if (!questions.has(question)) control.abort();
    this.waiting = wanted.filter((each) => !this.flying.has(each.question));
    this.pump();
  }

  get busy() {
    return this.flying.size + this.waiting.length;
  }

  pump() {
    while (this.flying.size < AT_ONCE && this.waiting.length) this.fetch(this.waiting.shift());
  }

  async fetch(wanted) {
    const control = new AbortController();
    this.flying.set(wanted.question, control);
    try {
      await wanted.take(await this.ask(wanted.question, control.signal));
    } catch (error) {
      if (!control.signal.aborted) wanted.fail(error);
    } finally {
      this.flying.delete(wanted.question);
    }
    this.arrived();
    this.pump();
  }
}
