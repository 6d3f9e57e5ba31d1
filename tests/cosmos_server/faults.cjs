// Faults that a test asks for, so that they meet a request of its choice over a real connection.
"use strict";

/**
 * @typedef {object} Fault
 * @property {string} [match] part of the request's path, such as "/docs"
 * @property {string} [method] such as "PUT"
 * @property {number} [skip] how many requests that it fits go through first
 * @property {number} [count] how many it then meets; 1 if not said
 * @property {boolean} [after] it happens when the work is done and only the answer is missing; else before
 * @property {number} [delay] how long the request waits, in milliseconds. The work is done after it, whoever still
 *   listens
 * @property {boolean} [drop] the connection is cut; before the work, that is never done
 * @property {number} [status] what is answered instead; before the work, that is never done
 * @property {object} [headers] of that answer, such as {"x-ms-retry-after-ms": "5"}
 * @property {number} met how many requests it has met so far, set here
 * @property {number} over for how many of them the server has done all that it will do, set here
 */

class Faults {
  /** @type {Fault[]} */
  list = [];

  add(fault) {
    this.list.push({ skip: 0, count: 1, ...fault, met: 0, over: 0 });
  }

  clear() {
    this.list = [];
  }

  /** The fault that this request meets, or undefined. Each that fits counts it. */
  meet(request) {
    let found;
    for (const fault of this.list) {
      const fits = request.url.includes(fault.match || "") && (!fault.method || fault.method === request.method);
      if (!fits || fault.count === 0) continue;
      if (fault.skip > 0) fault.skip -= 1;
      else if (!found) {
        fault.count -= 1;
        found = fault;
      }
    }
    return found;
  }
}

/** Let it happen; true if the request is at an end with it. */
async function happen(fault, request, answer) {
  fault.met += 1;
  if (fault.delay) await new Promise((resolve) => setTimeout(resolve, fault.delay));
  if (fault.drop) request.socket.destroy();
  else if (fault.status) answer(fault.status, { code: "Injected", message: "A test asked for this" }, fault.headers);
  return Boolean(fault.drop || fault.status);
}

module.exports = { Faults, happen };
