// What the parts of the page have in common.

import { Refusal } from "./attachments.js";

export const find = (selector, within = document) => within.querySelector(selector);

/** Show a message, and nothing if it is empty. */
export function say(text, isError = false) {
  const message = find("#message");
  message.textContent = text;
  message.classList.toggle("error", isError);
}

/** Show an error of this page in the browser's console, and go on. */
export function logError(error) {
  if (!(error instanceof Refusal)) reportError(error);
}
