// Active time of a person: the sum of the pauses between inputs, without long ones.

const LONGEST_PAUSE = 30; // seconds; a longer one counts as away

export class Clock {
  seconds = 0;
  last = null;

  constructor(now = () => performance.now() / 1000) {
    this.now = now;
  }

  start(seconds) {
    this.seconds = seconds;
    this.last = null;
  }

  /** Note an input of the person. */
  input() {
    const now = this.now();
    if (this.last !== null && now - this.last <= LONGEST_PAUSE) this.seconds += now - this.last;
    this.last = now;
  }
}
