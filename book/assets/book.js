// Runs in <head>, before anything is painted.
(() => {
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");

  // First visit: the theme has no mode yet, calls that an error, and would paint once without colours.
  // Without scripts the page has no data-theme at all, which the theme shows as light.
  if (!["auto", "light", "dark"].includes(root.dataset.mode)) root.dataset.mode = "auto";
  if (root.dataset.mode === "auto") root.dataset.theme = prefersDark.matches ? "dark" : "light";

  // Figures far below wait until the page is there. Then they follow, since not every browser fetches them to print them,
  // and a reader may lose the network. Those of the other theme are not needed.
  const fetchFigures = () => document.querySelectorAll(`img:not(.only-${root.dataset.theme === "dark" ? "light" : "dark"})`)
    .forEach((image) => { image.loading = "eager"; });
  addEventListener("load", () => {
    if (!navigator.connection?.saveData) (window.requestIdleCallback ?? setTimeout)(fetchFigures);
  });

  // Paper is white.
  let shown;
  addEventListener("beforeprint", () => { shown = root.dataset.theme; root.dataset.theme = "light"; fetchFigures(); });
  addEventListener("afterprint", () => { root.dataset.theme = shown; });

  // A wide formula or figure scrolls in its box; let the keyboard reach it there.
  const reach = () => document.querySelectorAll('mjx-container[display="true"], .light-or-dark').forEach((box) => {
    box.toggleAttribute("tabindex", box.scrollWidth > box.clientWidth);
    if (box.hasAttribute("tabindex")) box.tabIndex = 0;
  });
  addEventListener("load", () => { window.MathJax?.startup?.promise.then(reach); });
  addEventListener("resize", reach);

  // Excerpts of search results are plain text: a formula is shown without its markup.
  const SIGNS = {
    alpha: "α", beta: "β", cdot: "·", cos: "cos", exp: "exp", ge: "≥", kappa: "κ", lambda: "λ", le: "≤", ln: "ln", log: "log",
    mid: "|", mu: "μ", nabla: "∇", partial: "∂", phi: "φ", pm: "±", psi: "ψ", sigma: "σ", sim: "~", sin: "sin", sqrt: "√",
    sum: "Σ", tau: "τ", theta: "θ", times: "×", to: "→", varepsilon: "ε",
  };
  const plain = (tex) => tex.replaceAll("}{", "/").replace(/\\([a-zA-Z]+|.)/g, (_, name) => SIGNS[name] ?? "").replace(/[{}^_&]/g, "");
  document.addEventListener("DOMContentLoaded", () => {
    if (typeof Search === "undefined") return;
    const toText = Search.htmlToText;
    Search.htmlToText = (page, anchor) => {
      const parsed = new DOMParser().parseFromString(page, "text/html");
      parsed.querySelectorAll("article :is(pre, .cell_output table, .vae-provenance)").forEach((part) => part.remove());  // no prose
      const article = parsed.querySelector("article");
      if (article) parsed.querySelector('[role="main"]')?.replaceChildren(article);  // without the buttons above
      parsed.querySelectorAll(".math").forEach((formula) => { formula.textContent = plain(formula.textContent); });
      // The name of a module has dots, which in a selector would begin classes.
      return toText(parsed.documentElement.outerHTML, anchor && `#${CSS.escape(anchor.slice(1))}`);
    };
  });

  // Opened as a file, a page may not fetch the others for excerpts: list the results without them.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
})();
