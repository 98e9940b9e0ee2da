// How the search orders what it finds: pages for users come before those on design and before the changelog.
// The numbers are Sphinx's own, which asks for all of them where one is given.
var Scorer = {
  score: ([page, title, anchor, description, score]) => {
    if (page.startsWith("design/") || page === "changelog") return score - 20;
    return page === "reference/options" || page.startsWith("coming-from/") ? score + 1 : score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
