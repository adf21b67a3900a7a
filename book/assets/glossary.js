// The definition of a term beside its link, for pointer and keyboard, until Escape. Without scripts it is the
// link's title; a finger on a screen follows the link to the glossary.
(() => {
  const links = document.querySelectorAll("a[title]:has(> .std-term)");
  if (!links.length || !("popover" in HTMLElement.prototype)) return;

  const note = document.body.appendChild(document.createElement("div"));
  Object.assign(note, { id: "definition", className: "vae-definition", popover: "manual", role: "tooltip" });
  let leaving;
  const stay = () => clearTimeout(leaving);
  const hide = () => { stay(); if (note.matches(":popover-open")) note.hidePopover(); };
  const leave = () => { stay(); leaving = setTimeout(hide, 200); };  // time to get from the link to the note

  const show = (link) => {
    stay();
    note.textContent = link.dataset.definition;
    note.showPopover();
    const place = link.getClientRects()[0], gap = 4, edge = 8;
    const below = place.bottom + gap + note.offsetHeight <= innerHeight;
    note.style.top = `${below ? place.bottom + gap : place.top - gap - note.offsetHeight}px`;
    note.style.left = `${Math.max(edge, Math.min(place.left, innerWidth - note.offsetWidth - edge))}px`;
  };

  for (const link of links) {
    link.dataset.definition = link.title;
    link.removeAttribute("title");  // or it would show twice
    link.setAttribute("aria-description", link.dataset.definition);
    link.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(link); });
    link.addEventListener("pointerleave", leave);
    link.addEventListener("focus", () => { if (link.matches(":focus-visible")) show(link); });
    link.addEventListener("blur", hide);
  }
  note.addEventListener("pointerenter", stay);
  note.addEventListener("pointerleave", leave);
  addEventListener("scroll", hide, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
})();
