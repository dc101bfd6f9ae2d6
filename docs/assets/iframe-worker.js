// Browsers refuse workers to pages that are files, so there the search runs in a hidden frame instead. The file's name
// tells mkdocs-material's plugin `offline` that it needs no such script from another server.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const own = new URL(url, location.href);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const load = (place) =>
        new Promise((done, failed) => {
          const script = inside.document.createElement("script");
          script.src = new URL(place, own).href;
          script.onload = done;
          script.onerror = failed;
          inside.document.body.append(script);
        });
      inside.importScripts = (...places) => places.reduce((before, place) => before.then(() => load(place)), Promise.resolve());
      this.ready = load(own);
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
