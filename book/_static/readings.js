// Values of a figure's curves for whoever points at it, taps it, or moves along it with the arrow keys.
// They stand in the page (report/readings.py took them from the drawing), so this works from a file too.
(() => {
  "use strict";

  function attach(box) {
    const known = JSON.parse(box.querySelector(".figcard-readings").textContent);
    const drawing = document.createElement("div");
    drawing.className = "figcard-readable";
    drawing.tabIndex = 0;
    drawing.setAttribute("role", "group");
    drawing.setAttribute("aria-label", "Values of the curves: arrow keys move along the axis, up and down between panels");
    drawing.append(...box.querySelectorAll("picture"));
    const line = document.createElement("div");
    line.className = "figcard-at";
    line.hidden = true;
    drawing.append(line);
    const said = document.createElement("p");
    said.className = "figcard-values";
    said.setAttribute("role", "status");
    said.textContent = "Point at the figure, tap it, or use the arrow keys to read its values.";
    box.prepend(drawing, said);

    let panel = 0;
    let place = -1;
    const narrow = matchMedia(known.narrowWhen);
    const panels = () => (narrow.matches ? known.narrow : known.wide);
    narrow.addEventListener("change", () => { panel = 0; place = -1; line.hidden = true; });

    function image() {
      const frame = drawing.getBoundingClientRect();
      const shown = [...drawing.querySelectorAll("img")].find(one => one.offsetWidth > 0);
      const at = shown.getBoundingClientRect();
      return { left: at.left - frame.left, top: at.top - frame.top, width: at.width, height: at.height, at };
    }

    function show() {
      const { title, x, box: [, bottom, , top], places } = panels()[panel];
      const [across, text, values] = places[place];
      const { left, top: above, width, height } = image();
      line.hidden = false;
      line.style.left = `${left + across * width}px`;
      line.style.top = `${above + (1 - top) * height}px`;
      line.style.height = `${(top - bottom) * height}px`;
      const head = document.createElement("b");
      head.textContent = [title, `${x} ${text}`].filter(Boolean).join(" · ");
      said.replaceChildren(head, " ", values.map(([name, value]) => `${name}: ${value}`).join("; "));
    }

    function point(event) {
      const { width, height, at } = image();
      const across = (event.clientX - at.left) / width;
      const up = 1 - (event.clientY - at.top) / height;
      const found = panels().findIndex(({ box: [left, bottom, right, top] }) =>
        left - 0.02 <= across && across <= right + 0.02 && bottom <= up && up <= top);
      if (found < 0) return;
      const far = panels()[found].places.map(([place]) => Math.abs(place - across));
      panel = found;
      place = far.indexOf(Math.min(...far));
      show();
    }

    function key(event) {
      const places = panels()[panel].places.length;
      if (event.key === "ArrowRight") place = Math.min(places - 1, place + 1);
      else if (event.key === "ArrowLeft") place = Math.max(0, place - 1);
      else if (event.key === "ArrowDown") panel = (panel + 1) % panels().length;
      else if (event.key === "ArrowUp") panel = (panel + panels().length - 1) % panels().length;
      else return;
      event.preventDefault();
      event.stopPropagation();  // the theme turns pages with arrow keys
      place = Math.max(0, Math.min(place, panels()[panel].places.length - 1));
      show();
    }

    drawing.addEventListener("pointermove", point);
    drawing.addEventListener("pointerdown", point);
    drawing.addEventListener("keydown", key);
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".figcard-images:has(.figcard-readings)").forEach(attach);
  });
})();
