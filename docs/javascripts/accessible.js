// What the theme leaves out for those who do not use a mouse or do not see the page.
addEventListener("load", () => {
  const search = document.querySelector(".md-search");
  search.setAttribute("aria-label", search.querySelector("input").getAttribute("aria-label"));
  // A table or code that is wider than a phone scrolls; with the keyboard it has to be reached first.
  for (const scroller of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
    if (scroller.scrollWidth > scroller.clientWidth) scroller.tabIndex = 0;
  }
});
