/** Marks every `.edges` whose box goes on beyond its left or right edge, for scroll_edges.css. */
function markEdges() {
  for (const edges of document.querySelectorAll(".edges")) {
    const { scrollLeft, scrollWidth, clientWidth } = edges.querySelector(".scroll");
    edges.classList.toggle("more-left", scrollLeft > 1);
    edges.classList.toggle("more-right", scrollWidth - clientWidth - scrollLeft > 1);
  }
}
addEventListener("scroll", markEdges, { capture: true, passive: true });
addEventListener("resize", markEdges);
