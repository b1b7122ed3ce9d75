// Search in a site that is opened as files. Browsers refuse a Worker from a file, so its script runs in a hidden frame.
"use strict";

if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #inside; // the window that the script takes for its worker's
    #loaded;

    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.#inside = frame.contentWindow;
      const page = this.#inside.document;
      page.open(); // an empty page that no later one replaces
      page.write("<!DOCTYPE html><body>");
      page.close();
      this.#inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.#loaded = new Promise((done) => {
        const script = page.createElement("script");
        script.onload = done;
        script.src = new URL(url, document.baseURI);
        page.body.append(script);
      });
    }

    postMessage(data) {
      this.#loaded.then(() => this.#inside.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
