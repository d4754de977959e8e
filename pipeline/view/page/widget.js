// The viewer in a notebook: questions go over the notebook's own connection to its kernel.
export default {
  async render({ model, el }) {
    const waiting = new Map();
    let count = 0;
    const told = ({ number, error }, buffers) => {
      const reply = waiting.get(number);
      if (!reply) return;
      waiting.delete(number);
      if (error) reply.reject(new Error(error));
      else reply.resolve(new Uint8Array(buffers[0].buffer, buffers[0].byteOffset, buffers[0].byteLength));
    };
    model.on("msg:custom", told);
    const ask = (question, signal) => new Promise((resolve, reject) => {
      const number = `${model.model_id ?? ""}${Math.random()}-${count++}`;
      waiting.set(number, { resolve, reject });
      signal?.addEventListener("abort", () => {
        waiting.delete(number);
        reject(new Error("no longer wanted"));
      });
      model.send({ number, question });
    });
    const root = document.createElement("div");
    root.style.height = `${model.get("height")}px`;
    el.append(root);
    const viewer = await mount(root, ask, { embedded: true });
    return () => {
      viewer.end();
      model.off("msg:custom", told);
    };
  },
};
