// Copies a figure's BibTeX entry, or the address of its place, for whoever presses the buttons below it.
(() => {
  "use strict";

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {  // no clipboard for this page: the older way
      const field = document.createElement("textarea");
      field.value = text;
      field.className = "figcard-clipboard";
      document.body.append(field);
      field.select();
      const done = document.execCommand("copy");
      field.remove();
      return done;
    }
  }

  function attach(box) {
    const [entry, link] = box.querySelectorAll("button");
    const said = box.querySelector("[role=status]");
    const here = () => {
      const address = new URL(location.href);
      address.hash = box.closest("figure").id;
      return address.href;
    };
    const answer = (button, text, what) => button.addEventListener("click", async () => {
      said.textContent = "";  // said again when it is pressed again
      const done = await copy(text());
      button.focus();
      said.textContent = done ? `${what} copied` : `${what} could not be copied: this browser does not allow it`;
    });
    answer(entry, () => entry.dataset.bibtex, "BibTeX");
    answer(link, here, "Link");
    box.hidden = false;
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".figcard-copy").forEach(attach);
  });
})();
