// Tables that are wider than the page scroll; a keyboard scrolls only what it can reach.
document$.subscribe(() => {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .wide")) if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
});
