// The viewer in a browser's page: questions go to the server the page is from, with the token.
import { mount } from "./viewer.js";

const token = new URLSearchParams(location.hash.slice(1)).get("t") ?? "";

async function ask(question, signal) {
  const response = await fetch(`/ask/${question}`, { signal, headers: { "X-Viewer-Token": token } });
  if (!response.ok) throw new Error(await response.text());
  return new Uint8Array(await response.arrayBuffer());
}

const root = document.querySelector("main");
try {
  const viewer = await mount(root, ask, { link: true });
  root.focus();
  window.viewer = viewer;
} catch (error) {
  root.textContent = error.message;
}
