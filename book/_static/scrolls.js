// Tables and formulas that are wider than the page scroll in their own box: a box that does can be reached by keyboard
// and shows at its edge that there is more (prunelib.css).
(() => {
  "use strict";
  const boxes = ".pst-scrollable-table-container, div.cell_output .output, mjx-container";

  function look(box) {
    const line = box.matches("mjx-container:not([display])");  // as wide as its formula, whatever the page has
    const wide = line
      ? box.firstElementChild.getBoundingClientRect().width > box.closest("p, li, dd, td, figcaption, div").clientWidth
      : box.scrollWidth > box.clientWidth + 1;
    box.classList.toggle("scrolls", wide);
    if (wide) {
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", box.matches("mjx-container") ? "Formula, scrolls sideways" : "Table, scrolls sideways");
    } else if (box.classList.contains("scrolls") || box.getAttribute("role") === "group") {
      box.removeAttribute("tabindex");
      box.removeAttribute("role");
      box.removeAttribute("aria-label");
    }
  }

  const all = () => document.querySelectorAll(boxes).forEach(look);
  addEventListener("load", async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    all();
  });
  addEventListener("resize", all);
})();
